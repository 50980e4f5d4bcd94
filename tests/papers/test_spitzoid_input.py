"""Bad input to the commands: one clear line each, exit code 2, nothing lost, no traceback."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from melano_tf.phantoms.slides.slide_drawing import PhantomSettings, draw_cohort
from tests.papers.tiny import TINY, Finished

SETTINGS = PhantomSettings(patients=2, malignant_share=0.5, width_um=(600, 700), height_um=(500, 600))


@pytest.fixture(scope="session")
def slides(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two phantom slides with their manifest."""
    return draw_cohort(tmp_path_factory.mktemp("slides"), SETTINGS, seed=3, workers=1).parent


def manifest(slides: Path, folder: Path, change=None) -> Path:
    """A copy of the manifest with absolute paths, changed."""
    frame = pd.read_csv(slides / "manifest.csv")
    for column in ("path", "annotation"):
        frame[column] = [str(slides / name) for name in frame[column]]
    frame = frame if change is None else change(frame)
    path = folder / "slides.csv"
    frame.to_csv(path, index=False)
    return path


def refused(done: Finished, *words: str) -> None:
    assert done.code == 2, done.errors
    shown = done.errors + done.shown
    assert "Traceback" not in shown
    for word in words:
        assert word in shown, shown


@pytest.fixture
def run(inside):
    """The tiny demo on a manifest."""

    def call(path: Path, out: Path, *arguments: str) -> Finished:
        return inside(
            *("spitzoid", "--slides", str(path), "--preset", "demo", "--out", str(out), "--workers", "1"),
            *TINY,
            *arguments,
        )

    return call


def set_cell(row: int, column: str, value: object):
    def change(frame: pd.DataFrame) -> pd.DataFrame:
        frame = frame.astype({column: object})
        frame.loc[row, column] = value
        return frame

    return change


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda frame: frame.drop(columns="patient_id"), ("patient_id", "column")),
        (set_cell(1, "slide_id", "P01-1"), ("row 3", "P01-1")),
        (set_cell(0, "label", "naevus"), ("row 2", "naevus", "benign")),
        (set_cell(0, "path", "nowhere.svs"), ("row 2", "nowhere.svs")),
        (lambda frame: frame.assign(mpp=300.0), ("row 2", "row 3", "mpp")),
    ],
)
def test_faults_of_the_manifest_name_their_row(slides, tmp_path, change, words, run):
    refused(run(manifest(slides, tmp_path, change), tmp_path / "out"), "slides.csv", *words)


def test_all_faults_are_listed_at_once(slides, tmp_path, run):
    def change(frame: pd.DataFrame) -> pd.DataFrame:
        return set_cell(1, "label", "?")(set_cell(0, "path", "nowhere.svs")(frame))

    refused(run(manifest(slides, tmp_path, change), tmp_path / "out"), "nowhere.svs", "row 3")


def test_a_missing_manifest(tmp_path, run):
    refused(run(tmp_path / "no.csv", tmp_path / "out"), "no.csv")


def broken(slides: Path, tmp_path: Path, kind: str) -> tuple[Path, str]:
    """A manifest whose first slide or annotation is broken, and a word of the reason expected."""
    source = pd.read_csv(slides / "manifest.csv").iloc[0]
    if kind == "text":
        path = tmp_path / "text.svs"
        path.write_text("this is no slide\n" * 1000)
        return manifest(slides, tmp_path, set_cell(0, "path", str(path))), "not a slide"
    if kind == "truncated":
        path = tmp_path / "cut.tiff"
        whole = (slides / source["path"]).read_bytes()
        path.write_bytes(whole[: len(whole) // 2])
        return manifest(slides, tmp_path, set_cell(0, "path", str(path))), "cut.tiff"
    outline = tmp_path / "outline.geojson"
    rings = {
        "outside": [[90000, 90000], [91000, 90000], [91000, 91000], [90000, 90000]],
        "crossing": [[0, 0], [1000, 1000], [1000, 0], [0, 1000], [0, 0]],
    }
    outline.write_text(json.dumps({"type": "Polygon", "coordinates": [rings[kind]]}))
    return manifest(slides, tmp_path, set_cell(0, "annotation", str(outline))), "outline.geojson"


@pytest.mark.parametrize("kind", ["text", "truncated", "outside", "crossing"])
def test_a_broken_slide_or_outline_is_left_out_with_its_reason(slides, tmp_path, kind, run):
    path, word = broken(slides, tmp_path, kind)
    done = run(path, tmp_path / "out", "--steps", "tiles")
    # One patient is left, which is too few to be divided: that comes after the slide's reason.
    refused(done, "left out: P0", word, "patient")


def test_too_few_patients_for_the_folds_are_known_before_a_tile_is_cut(slides, tmp_path, run):
    refused(run(manifest(slides, tmp_path), tmp_path / "out"), "patients", "folds")
    assert not (tmp_path / "out" / "tiles").exists()


def test_one_class_only(slides, tmp_path, run):
    path = manifest(slides, tmp_path, lambda frame: frame.assign(label="benign"))
    refused(run(path, tmp_path / "out"), "malignant")


def test_no_annotation_at_all(slides, tmp_path, run):
    def change(frame: pd.DataFrame) -> pd.DataFrame:
        many = pd.concat([frame.assign(slide_id=frame["slide_id"] + str(n)) for n in range(7)], ignore_index=True)
        return many.assign(patient_id=many["slide_id"]).drop(columns="annotation")

    # Copies of a slide under many names would be a leak; but what comes first is that nothing is annotated.
    refused(run(manifest(slides, tmp_path, change), tmp_path / "out"), "no slide has an annotation")
    assert not (tmp_path / "out").exists()  # known before the first tile


def test_tiles_alone_need_no_annotation(slides, tmp_path, run):
    def change(frame: pd.DataFrame) -> pd.DataFrame:
        return frame.assign(annotation="")

    done = run(manifest(slides, tmp_path, change), tmp_path / "out", "--steps", "slides")
    assert done.code == 0, done.errors


def test_a_folder_of_the_users_own_is_refused(slides, tmp_path, run):
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "a.json").write_text("mine")
    refused(run(manifest(slides, tmp_path), mine, "--steps", "tiles"), "is not empty and holds no run", "another --out")
    assert [path.name for path in mine.iterdir()] == ["a.json"]
    refused(run(manifest(slides, tmp_path), tmp_path), "is the folder of --slides")
    refused(run(manifest(slides, tmp_path), slides), "the slides' folder")


def test_an_out_that_is_a_file(slides, tmp_path, run):
    (tmp_path / "out").write_text("mine")
    refused(run(manifest(slides, tmp_path), tmp_path / "out", "--steps", "tiles"), "choose another --out")
    assert (tmp_path / "out").read_text() == "mine"


@pytest.mark.parametrize(
    "arguments, words",
    [
        (("--tables", "7"), ("--tables 7",)),
        (("--steps", "dance"), ("dance",)),
        (("--figures", "1"), ("--figures 1",)),
        (("--source.backbone", "vgg61"), ("vgg61",)),
        (("--phantom.patients", "0"), ("patients 0",)),
        (("--source.input-px", "200"), ("96 px",)),
        (("--maps.thumbnail-mpp", "-4"), ("maps.thumbnail_mpp is -4.0",)),
    ],
)
def test_settings_that_cannot_be(tmp_path, arguments, words, inside):
    done = inside("spitzoid", "--out", str(tmp_path / "out"), *TINY, "--phantom.patients", "14", *arguments)
    refused(done, *words)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to mount a small disk")
def test_a_full_disk_keeps_what_is_finished(tmp_path, inside):
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(disk)], capture_output=True)
    if mounted.returncode:
        pytest.skip("a small disk cannot be mounted here")
    try:
        done = inside("spitzoid", "--out", str(disk / "out"), *TINY, "--workers", "2")
        refused(done, "disk is full")
        assert not list((disk / "out").rglob("*.partial*"))
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_predict_refuses_what_it_cannot_judge(tmp_path, slides, inside):
    out = ("--out", str(tmp_path / "answer"))
    slide = str(slides / "P01-1.tiff")
    refused(inside("predict", "--model", str(tmp_path / "no.keras"), "--input", slide, *out), "no.keras")


def test_doctor_finds_what_is_wrong_with_a_manifest(slides, tmp_path, inside):
    path, _ = broken(slides, tmp_path, "text")
    done = inside("doctor", "--slides", str(path), "--out", str(tmp_path))
    assert done.code == 2
    assert "text.svs" in done.shown
    assert "1 fault" in done.shown
    good = inside("doctor", "--slides", str(manifest(slides, tmp_path)), "--out", str(tmp_path))
    assert "2 slides of 2 patients, as spitzoid wants them" in good.shown
    assert good.shown.count("outlines: ") == 2 and " tumour (" in good.shown
    assert "Traceback" not in good.errors + done.errors


def test_doctor_counts_the_faults_of_a_manifest(slides, tmp_path, inside):
    path = manifest(
        slides, tmp_path, lambda frame: set_cell(1, "label", "?")(set_cell(0, "path", "nowhere.svs")(frame))
    )
    done = inside("doctor", "--paper", "spitzoid", "--slides", str(path), "--out", str(tmp_path))
    assert done.code == 2 and done.shown.count("WRONG") == 2 and "2 fault(s)" in done.shown
    assert "WRONG  row 2" in done.shown and "WRONG  row 3" in done.shown and "slides.csv" in done.shown


def test_doctor_says_which_slide_a_run_would_refuse_as_too_coarse(slides, tmp_path, inside):
    path = manifest(slides, tmp_path, lambda frame: frame.assign(mpp=[1.2, 1.1]))
    done = inside("doctor", "--paper", "spitzoid", "--slides", str(path), "--out", str(tmp_path))
    assert done.code == 2 and "1 fault" in done.shown
    assert ": its 1.2 µm/px would be enlarged 1.20 times to 1 µm/px; scan it finer, or correct its mpp" in done.shown


def test_doctor_reads_outlines_as_a_run_would(slides, tmp_path, inside):
    box = [[0, 0], [900, 0], [0, 900], [900, 900], [0, 0]]  # crosses itself
    names = {"Tumor": box, "Tissue": [[0, 0], [900, 0], [900, 900], [0, 0]]}
    features = [
        {
            "type": "Feature",
            "properties": {"classification": {"name": name}},
            "geometry": {"type": "Polygon", "coordinates": [line]},
        }
        for name, line in names.items()
    ]
    (tmp_path / "two.geojson").write_text(json.dumps(features))
    path = manifest(slides, tmp_path, lambda frame: frame.assign(annotation=str(tmp_path / "two.geojson"), mpp=0.4))
    command = ("doctor", "--slides", str(path), "--out", str(tmp_path))
    refused(inside(*command), "polygon 1 (Tumor) crosses itself", "--annotation.mend")
    mended = inside(*command, "--annotation.mend")
    assert mended.shown.count("2 classes count as tumour: 1 Tumor (0.0648 mm²), 1 Tissue (0.0648 mm²)") == 2
    assert mended.shown.count("the given 0.4 µm/px contradicts the file's own 0.25 µm/px") == 2
    named = inside(*command, "--annotation.mend", "--annotation.tumour-classes", "TUMOR")
    assert "count as tumour" not in named.shown
    assert named.shown.count("1 Tissue (0.0648 mm², not tumour)") == 2


def test_importing_recipes_does_no_work():
    code = "import sys, melano_tf.papers.spitzoid.settings; sys.exit('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
