"""Phantom cohorts: files that OpenSlide and the readers accept, the same bytes however they are drawn, exact truth."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import openslide
import pandas as pd
import pytest
import shapely

from melano_tf.errors import InputError
from melano_tf.phantoms.slides.slide_drawing import PhantomSettings, draw_cohort, plan_cohort, read_truth, truth_shares
from melano_tf.runs.atomic_files import file_sha256
from melano_tf.slides.annotations import slide_outlines
from melano_tf.slides.slide import Slide
from melano_tf.slides.slide_manifest import read_manifest
from melano_tf.slides.tissue import tissue_mask
from melano_tf.specs import load_spec

SMALL = PhantomSettings(
    patients=4, malignant_share=0.5, second_slide_share=0.25, width_um=(700.0, 800.0), height_um=(560.0, 640.0)
)
SEED = 3


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("phantoms")
    calls: list[tuple[int, int]] = []
    manifest = draw_cohort(folder, SMALL, SEED, workers=1, progress=lambda done, total: calls.append((done, total)))
    assert calls == [(done, 5) for done in range(6)]
    return manifest


def _hashes(folder: Path) -> dict[str, str]:
    return {path.name: file_sha256(path) for path in sorted(folder.iterdir())}


def test_counts_are_exact() -> None:
    plans = plan_cohort(PhantomSettings(patients=51, second_slide_share=0.1), seed=5)
    labels = {plan.patient_id: plan.label for plan in plans}
    assert len(labels) == 51
    assert sum(label == "malignant" for label in labels.values()) == 21
    assert len(plans) == 51 + 5
    assert len({plan.slide_id for plan in plans}) == len(plans)
    assert [plan.label for plan in plans] != [plan.label for plan in plan_cohort(PhantomSettings(patients=51), seed=6)]


def test_a_manifest_that_the_cohort_reader_accepts(cohort: Path) -> None:
    manifest = read_manifest(cohort, load_spec("spitzoid"))
    assert len(manifest) == 5
    assert manifest["patient_id"].nunique() == 4
    assert manifest.groupby("patient_id")["label"].first().value_counts().to_dict() == {"benign": 2, "malignant": 2}


def test_openslide_opens_it_with_its_resolution_and_levels(cohort: Path) -> None:
    for name in pd.read_csv(cohort)["path"]:
        with openslide.OpenSlide(cohort.parent / name) as slide:
            assert slide.properties["openslide.vendor"] == "generic-tiff"
            assert float(slide.properties["openslide.mpp-x"]) == pytest.approx(0.25, rel=1e-6)
            assert float(slide.properties["openslide.mpp-y"]) == pytest.approx(0.25, rel=1e-6)
            assert slide.level_downsamples == (1.0, 4.0, 16.0)
            width, height = slide.dimensions
            assert 698 <= width * 0.25 <= 802
            assert 558 <= height * 0.25 <= 642
            whole = np.array(slide.read_region((0, 0), 0, slide.dimensions).convert("RGB"))
            for level in (1, 2):
                size = slide.level_dimensions[level]
                coarse = np.array(slide.read_region((0, 0), level, size).convert("RGB")).astype(float)
                expected = cv2.resize(whole, size, interpolation=cv2.INTER_AREA).astype(float)
                error = np.abs(coarse - expected).mean()  # JPEG, each level on its own
                assert error < 4
                assert error < 0.5 * np.abs(coarse[1:] - expected[:-1]).mean()
                assert error < 0.5 * np.abs(coarse[:, 1:] - expected[:, :-1]).mean()


def test_there_is_glass_all_around_the_tissue(cohort: Path) -> None:
    for name in pd.read_csv(cohort)["path"]:
        with Slide(cohort.parent / name) as slide:
            mask = tissue_mask(slide)
            assert 0.35 < mask.mask.mean() < 0.9
            edges = (slide.read(0, 0, (40, 600), 0.25), slide.read(slide.size[0] - 40, 0, (40, 600), 0.25))
            assert min(edge.min() for edge in edges) > 215


def test_any_number_of_processes_gives_the_same_bytes(cohort: Path, tmp_path: Path) -> None:
    draw_cohort(tmp_path, SMALL, SEED, workers=2)
    assert _hashes(tmp_path) == _hashes(cohort.parent)
    kept = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir() if path.suffix in (".tiff", ".npz")}
    lost = tmp_path / "P02-1.geojson"
    lost.unlink()  # as a kill between two files would leave it
    calls: list[tuple[int, int]] = []
    draw_cohort(tmp_path, SMALL, SEED, workers=1, progress=lambda done, total: calls.append((done, total)))
    assert calls == [(4, 5), (5, 5)]
    assert _hashes(tmp_path) == _hashes(cohort.parent)
    drawn = {name for name, time in kept.items() if (tmp_path / name).stat().st_mtime_ns != time}
    assert drawn == {"P02-1.tiff", "P02-1.truth.npz"}


def test_another_cohort_is_refused_in_the_same_folder(cohort: Path) -> None:
    before = _hashes(cohort.parent)
    with pytest.raises(InputError, match="another seed or other settings"):
        draw_cohort(cohort.parent, SMALL, SEED + 1)
    with pytest.raises(InputError, match="another seed or other settings"):
        draw_cohort(cohort.parent, replace(SMALL, jpeg_quality=70), SEED)
    assert _hashes(cohort.parent) == before


def test_all_faults_of_the_settings_at_once(tmp_path: Path) -> None:
    wrong = PhantomSettings(patients=0, malignant_share=1.2, width_um=(900, 800), height_um=(10, 500), jpeg_quality=0)
    with pytest.raises(InputError) as caught:
        draw_cohort(tmp_path / "new", wrong, 1)
    for word in ("patients 0", "malignant_share 1.2", "width_um", "height_um", "jpeg_quality 0"):
        assert word in str(caught.value)
    assert not (tmp_path / "new").exists()


def test_the_outline_is_coarse_but_holds_the_lesion(cohort: Path) -> None:
    for row in pd.read_csv(cohort).itertuples():
        path = cohort.parent / str(row.annotation)
        with Slide(cohort.parent / str(row.path)) as slide:
            outline = slide_outlines(slide, path).geometry
        truth = read_truth(cohort.parent / f"{row.slide_id}.truth.npz")
        inside = shapely.contains_xy(outline, truth.cells[:, 0], truth.cells[:, 1])
        assert inside.mean() > 0.9
        lesion = truth.mask.sum() * truth.mask_px**2
        assert 1.2 * lesion < outline.area < 6 * lesion  # generous: it covers the gaps between nests
        assert sum(len(polygon.exterior.coords) for polygon in outline.geoms) < 200


def test_truth_shares_count_the_mask(cohort: Path) -> None:
    slide = cohort.parent / pd.read_csv(cohort)["path"][0]
    truth = read_truth(slide.with_name(f"{slide.stem}.truth.npz"))
    step = int(truth.mask_px)
    fine = np.kron(truth.mask, np.ones((step, step), bool))
    rng = np.random.default_rng(0)
    boxes = np.column_stack([rng.integers(-300, 2500, (60, 2)), rng.integers(40, 900, (60, 2))])
    expected = []
    for x, y, w, h in boxes:
        part = fine[max(y, 0) : max(y + h, 0), max(x, 0) : max(x + w, 0)]
        expected.append(part.sum() / (w * h))
    assert max(expected) > 0.3
    np.testing.assert_allclose(truth_shares(slide, boxes), expected, atol=1e-9)


def test_a_missing_truth_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.truth\.npz"):
        truth_shares(tmp_path / "none.tiff", [[0, 0, 1, 1]])


def test_workers_bring_no_tensorflow() -> None:
    looked = "sys.exit('tensorflow' in sys.modules or 'keras' in sys.modules)"
    code = f"import sys, melano_tf.phantoms.slides.slide_drawing; {looked}"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2], check=False).returncode == 0
