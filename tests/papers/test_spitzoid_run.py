"""The spitzoid recipe from end to end on phantom slides: one tiny run, looked at from all sides."""

import json
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

from melano_tf.runs import journal
from melano_tf.runs.atomic_files import file_sha256, read_json
from melano_tf.runs.sidecar import Sidecar
from melano_tf.slides.slide import Slide
from tests.papers.tiny import TINY, weights_of

PUBLISHED_CELLS = {1: 6, 2: 28, 3: 21, 4: 21, 5: 14}
STEPS = 1 + 6 * 2 + 3 * 2 + 2  # tiles; six source models and three target models on two cohorts; the final ones


@pytest.mark.parametrize("number", PUBLISHED_CELLS)
def test_each_table_stands_beside_the_published_one(tiny_run, number):
    table = pd.read_csv(tiny_run.folder / "tables" / f"table{number}.csv")
    assert table["published"].notna().sum() == PUBLISHED_CELLS[number]
    compared = table[table["published"].notna()]
    assert compared["cohorts"].notna().all()
    text = (tiny_run.folder / "tables" / f"table{number}.md").read_text()
    assert text in tiny_run.first.shown
    assert "PHANTOM" in text


def test_no_patient_stands_on_two_sides(tiny_run):
    record = read_json(tiny_run.folder / "run.json")
    sides = [set(record["split"]["test"]), *map(set, record["split"]["folds"])]
    assert len(sides) == 3
    assert sum(map(len, sides)) == len(set.union(*sides)) == 14
    for fold, patients in enumerate(record["split"]["folds"], start=1):
        judged = pd.read_csv(tiny_run.folder / "predictions" / f"target-bgas-cohort-{fold}.csv", dtype=str)
        assert set(judged["patient_id"]) == set(patients)
    tested = pd.read_csv(tiny_run.folder / "predictions" / "target.csv", dtype=str)
    assert set(tested["patient_id"]) == set(record["split"]["test"])


def test_every_model_stands_with_its_sidecar(tiny_run):
    assert len(weights_of(tiny_run.folder)) == STEPS - 1
    target = Sidecar.read(tiny_run.folder / "models" / "target.keras")
    assert target.kind == "spitzoid-target"
    assert target.classes == ("benign", "malignant")
    assert (tiny_run.folder / "models" / target.companions["source"]).is_file()
    assert target.companion_weights == {"source": weights_of(tiny_run.folder)["source.keras"]}
    assert target.preprocessing["grid"]["mpp"] == 1.0


def test_the_record_is_complete(tiny_run):
    record = read_json(tiny_run.folder / "run.json")
    assert record["recipe"] == "spitzoid"
    assert record["settings"]["seed"] == 0
    assert record["sessions"][0]["environment"]["threads"] >= 1
    assert "spitzoid" in record["sessions"][0]["command"]
    assert len(record["durations"]) == STEPS
    inputs = read_json(tiny_run.folder / "inputs.json")
    slide = next(path for path in inputs if path.endswith(".tiff"))
    assert inputs[slide]["sha256"] == file_sha256(Path(slide))
    assert not (tiny_run.folder / "work").exists()
    assert list((tiny_run.folder / "logs" / "target").glob("events*"))


def test_attention_sums_to_one_in_each_biopsy(tiny_run):
    attention = pd.read_parquet(tiny_run.folder / "predictions" / "target-attention.parquet")
    sums = attention.groupby("slide_id")["attention"].sum()
    assert len(sums) > 0
    np.testing.assert_allclose(sums, 1.0, atol=1e-5)


def test_maps_and_activation_maps_are_pictures_with_something_in_them(tiny_run):
    pictures = [*(tiny_run.folder / "maps").glob("*.png"), tiny_run.folder / "figures" / "figure6.png"]
    assert len(pictures) == 5
    for path in pictures:
        image = cv2.imread(str(path))
        assert min(image.shape[:2]) > 200
        assert image.std() > 20


def test_predict_answers_for_a_slide_without_label(tiny_run, tmp_path, inside):
    slide = next(iter(sorted((tiny_run.folder / "phantoms").rglob("*.tiff"))))
    model = tiny_run.folder / "models" / "target.keras"
    asked = ("--model", str(model), "--input", str(slide), "--out", str(tmp_path / "answer"))
    done = inside("predict", *asked, "--answer-anyway")
    assert done.code == 0, done.errors
    answer = json.loads((tmp_path / "answer" / "prediction.json").read_text())
    assert sum(answer["probabilities"].values()) == pytest.approx(1.0)
    assert answer["decision"] in ("benign", "malignant")
    tiles = pd.read_csv(tmp_path / "answer" / "tiles.csv")
    assert answer["evidence"]["tissue_tiles"] == len(tiles)
    assert tiles.loc[tiles["selected"], "attention"].sum() == pytest.approx(1.0, abs=1e-5)
    assert tiles.loc[~tiles["selected"], "attention"].isna().all()
    outlines = json.loads((tmp_path / "answer" / "tiles.geojson").read_text())
    assert len(outlines["features"]) == len(tiles)
    shown = [path for path in (tmp_path / "answer").iterdir() if path.name != journal.NAME]
    assert {path.suffix for path in shown} == {".json", ".csv", ".geojson", ".png"}


def test_predict_gives_the_runs_own_numbers_for_a_test_slide(tiny_run, tmp_path, inside):
    tested = pd.read_csv(tiny_run.folder / "predictions" / "target.csv").iloc[0]
    [slide] = (tiny_run.folder / "phantoms").rglob(f"{tested['slide_id']}.tiff")
    model = tiny_run.folder / "models" / "target.keras"
    done = inside("predict", "--model", str(model), "--input", str(slide), "--out", str(tmp_path))
    assert done.code == 0, done.errors
    answer = json.loads((tmp_path / "prediction.json").read_text())
    assert answer["probabilities"]["malignant"] == pytest.approx(tested["probability"], abs=1e-5)
    assert answer["evidence"]["judged_tiles"] == tested["tiles"]


def test_predict_on_a_real_slide(tiny_run, tmp_path, real_data, inside):
    slide = real_data / "wsi" / "CMU-1-Small-Region.svs"
    model = tiny_run.folder / "models" / "target.keras"
    done = inside("predict", "--model", str(model), "--input", str(slide), "--out", str(tmp_path))
    assert done.code == 0, done.errors
    tiles = pd.read_csv(tmp_path / "tiles.csv")
    with Slide(slide) as opened:
        assert (tiles["x"] < opened.size[0]).all()
        assert (tiles["y"] < opened.size[1]).all()
    assert 30 < len(tiles) < 88  # of a grid of 8 x 11; the rest is glass
    # 256 px of 1 µm at 0.499 µm/px
    np.testing.assert_allclose(tiles["w0"], 256 / 0.499, rtol=1e-3)


def as_asap(rings: list[list[list[float]]]) -> str:
    outlines = "".join(
        f'<Annotation Name="{n}" Type="Polygon" PartOfGroup="None" Color="#F4FA58"><Coordinates>'
        + "".join(f'<Coordinate Order="{i}" X="{x}" Y="{y}" />' for i, (x, y) in enumerate(ring))
        + "</Coordinates></Annotation>"
        for n, ring in enumerate(rings)
    )
    return f'<?xml version="1.0"?><ASAP_Annotations><Annotations>{outlines}</Annotations></ASAP_Annotations>'


def as_imagescope(rings: list[list[list[float]]]) -> str:
    regions = "".join(
        f'<Region Id="{n}" Type="0" NegativeROA="0"><Vertices>'
        + "".join(f'<Vertex X="{x}" Y="{y}" Z="0" />' for x, y in ring)
        + "</Vertices></Region>"
        for n, ring in enumerate(rings)
    )
    return f'<Annotations><Annotation Id="1"><Regions>{regions}</Regions></Annotation></Annotations>'


def test_slides_of_ones_own_with_three_kinds_of_outlines_give_the_same_tiles(tiny_run, tmp_path, inside):
    [original] = (tiny_run.folder / "phantoms").rglob("manifest.csv")
    frame = pd.read_csv(original)
    frame["path"] = [str(original.parent / name) for name in frame["path"]]
    outlines = []
    for position, name in enumerate(frame["annotation"]):
        source = original.parent / name
        features = json.loads(source.read_text())["features"]
        rings = [feature["geometry"]["coordinates"][0] for feature in features]
        assert all(feature["geometry"]["type"] == "Polygon" for feature in features)
        text = (source.read_text, lambda rings=rings: as_asap(rings), lambda rings=rings: as_imagescope(rings))
        path = tmp_path / f"{Path(name).stem}{('.geojson', '.xml', '.xml')[position % 3]}"
        path.write_text(text[position % 3]())
        outlines.append(str(path))
    frame.assign(annotation=outlines).to_csv(tmp_path / "slides.csv", index=False)
    done = inside(
        *("spitzoid", "--slides", str(tmp_path / "slides.csv"), "--preset", "demo", "--out", str(tmp_path / "run")),
        *(*TINY, "--steps", "tiles"),
    )
    assert done.code == 0, done.errors
    ours, theirs = (
        pd.read_parquet(folder / "tiles" / "tiles.parquet") for folder in (tmp_path / "run", tiny_run.folder)
    )
    columns = ["slide_id", "tile", "x", "y"]
    pd.testing.assert_frame_equal(ours[columns], theirs[columns])
    np.testing.assert_allclose(ours["tumour"], theirs["tumour"], atol=1e-6)
    assert (ours["tumour"] > 0.5).any()
