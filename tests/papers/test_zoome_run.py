"""The ZooME recipe from end to end on phantom images: one tiny run, looked at from all sides."""

import json
import re
import shutil
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from melano_tf.runs.atomic_files import read_json
from melano_tf.runs.judgements import read_judgements, read_record
from melano_tf.runs.sidecar import Sidecar
from tests.papers.tiny import TinyRun, weights_of
from tests.papers.zoome_run import ALL_OF_ZOOME, ZOOME

NETWORKS, FOLDS = 8, 2
STEPS = 2 + 2 * (NETWORKS * FOLDS + 1)  # images, copies; each training and what it says, the final one too
PUBLISHED_CELLS = {1: 24, 2: 12}


@pytest.fixture
def copy(tiny_zoome: TinyRun, tmp_path: Path) -> Path:
    """A copy of the shared run that a test may change."""
    return Path(shutil.copytree(tiny_zoome.folder, tmp_path / "run"))


@pytest.fixture
def phantoms(tiny_zoome: TinyRun) -> Path:
    """The folder of the run's phantom images and their official tables."""
    [truth] = (tiny_zoome.folder / "phantoms").rglob("*GroundTruth*.csv")
    return truth.parent


@pytest.mark.parametrize("number", PUBLISHED_CELLS)
def test_each_table_stands_beside_the_published_one(tiny_zoome, number):
    table = pd.read_csv(tiny_zoome.folder / "tables" / f"table{number}.csv")
    compared = table[table["published"].notna()]
    assert len(compared) == PUBLISHED_CELLS[number]
    assert compared["cohorts"].eq(FOLDS).all() and compared["ours"].notna().all()
    assert (compared["low"] <= compared["ours"] + 1e-9).mean() > 0.9
    text = (tiny_zoome.folder / "tables" / f"table{number}.md").read_text()
    assert text in tiny_zoome.first.shown
    assert "PHANTOM" in text and "resnext" in text if number == 1 else "one network" in text


def test_one_training_fills_both_tables(tiny_zoome):
    first, second = (pd.read_csv(tiny_zoome.folder / "tables" / f"table{n}.csv") for n in (1, 2))
    for metric in ("ACC", "SN", "SPC", "AUC"):
        [maron] = first[(first["row"] == metric) & (first["column"] == "Maron et al.")]["ours"]
        [plain] = second[(second["row"] == metric) & (second["column"] == "ResNet50")]["ours"]
        assert maron == plain
    assert len(weights_of(tiny_zoome.folder)) == NETWORKS * FOLDS + 1


def test_each_image_is_judged_once_by_a_network_that_saw_no_image_of_its_patient(tiny_zoome):
    folder = tiny_zoome.folder
    parts = [
        pd.read_parquet(path) for path in sorted((folder / "predictions").glob("resnext_standin-zoom-fold-*.parquet"))
    ]
    judged = pd.concat(parts)
    folds = read_json(folder / "run.json")["folds"]
    assert sorted(judged["image_id"]) == sorted(image for images in folds.values() for image in images)
    assert judged["image_id"].is_unique
    assert judged.groupby("group")["fold"].nunique().max() == 1
    truth = pd.read_csv(next((folder / "phantoms").rglob("*GroundTruth*.csv"))).set_index("image_name")
    np.testing.assert_array_equal(judged["target"], truth.loc[judged["image_id"], "target"])
    patients = truth.loc[judged["image_id"], "patient_id"].to_numpy()
    assert judged.assign(patient=patients).groupby("patient")["fold"].nunique().max() == 1


def test_copies_stay_in_one_fold(tiny_zoome):
    copies = pd.read_csv(tiny_zoome.folder / "copies.csv")
    record = read_json(tiny_zoome.folder / "run.json")
    fold = {image: number for number, images in record["folds"].items() for image in images}
    assert len(copies) > 0 and record["leaks"] == {}
    assert all(fold[a] == fold[b] for a, b in zip(copies["image_1"], copies["image_2"], strict=True))


def test_every_model_stands_with_its_sidecar(tiny_zoome):
    final = Sidecar.read(tiny_zoome.folder / "models" / "zoome.keras")
    assert (final.kind, final.classes, final.input_px) == ("zoome", ("benign", "melanoma"), 32)
    assert final.run["trained_on"] == "all folds"
    assert "inner hold-out" in final.threshold_from and "Youden" in final.threshold_from
    assert final.calibration is not None and final.calibration["method"] == "temperature"
    assert len(final.preprocessing["metadata"]["sites"]) == 7
    plain = Sidecar.read(tiny_zoome.folder / "models" / "alexnet_standin-fold-1.keras")
    assert plain.preprocessing["metadata"] is None


def test_metadata_are_studied(tiny_zoome):
    found = pd.read_parquet(tiny_zoome.folder / "predictions" / "resnext_standin-zoom-metadata-fold-1.parquet")
    assert {"blanked", "permuted_1", "permuted_2"} <= set(found)
    assert not np.allclose(found["probability"], found["blanked"])
    table = pd.read_csv(tiny_zoome.folder / "tables" / "metadata.csv")
    assert len(set(table["column"])) == 4 and table["ours"].notna().all()
    values = pd.read_csv(tiny_zoome.folder / "tables" / "metadata_values.csv")
    assert values.groupby("field").size().to_dict() == {"age": 6, "sex": 3, "site": 7}
    assert values.loc[values["value"] == "unknown", "against_unknown"].eq(0).all()
    assert values.loc[values["field"] == "sex", "images"].sum() == len(read_json_folds(tiny_zoome.folder))


def read_json_folds(folder: Path) -> list[str]:
    return [image for images in read_json(folder / "run.json")["folds"].values() for image in images]


def test_figures_are_pictures_with_something_in_them(tiny_zoome):
    pictures = sorted((tiny_zoome.folder / "figures").glob("*.png"))
    assert [path.stem for path in pictures] == ["metadata", "pr", "reliability", "roc"]
    for path in pictures:
        image = cv2.imread(str(path))
        assert min(image.shape[:2]) > 200 and image.std() > 15


def test_the_record_is_complete(tiny_zoome):
    record = read_json(tiny_zoome.folder / "run.json")
    assert record["recipe"] == "zoome" and len(record["durations"]) == STEPS
    assert not (tiny_zoome.folder / "work").exists()
    assert list((tiny_zoome.folder / "logs" / "zoome").glob("events*"))
    stored = list((tiny_zoome.folder / "images").glob("*.npy"))
    assert stored and len(pd.read_csv(tiny_zoome.folder / "images.csv")) == len(read_json_folds(tiny_zoome.folder))


def test_how_it_is_judged_trains_nothing_again(copy, inside):
    before = {path.name: path.stat().st_mtime_ns for path in (copy / "models").glob("*.keras")}
    judged = ("--evaluation.permutations", "1", "--evaluation.repeats", "50", "--decision.no-calibrate")
    changed = inside("zoome", "--out", str(copy), *ZOOME, *ALL_OF_ZOOME, *judged)
    assert changed.code == 0, changed.errors
    assert f"did {NETWORKS * FOLDS + 1} steps" in changed.shown  # what each network says, and no training
    assert {path.name: path.stat().st_mtime_ns for path in (copy / "models").glob("*.keras")} == before


def test_another_seed_shows_nothing_of_the_first_and_finds_it_again(copy, inside):
    first = (copy / "report.html").read_text(encoding="utf-8")
    assert "Older files" not in first and read_judgements(copy, read_record(copy))
    numbers = set(re.findall(r"0\.\d{4}", (copy / "tables" / "table1.md").read_text(encoding="utf-8")))
    other = inside("zoome", "--out", str(copy), *ZOOME, "--seed", "1", "--steps", "images")
    assert other.code == 0, other.errors
    page = (copy / "report.html").read_text(encoding="utf-8")
    older = page[page.index("Older files") :]
    assert "tables/table1.md" in older and "figures/roc.png" in older and "predictions/" in older
    assert "<article>" not in page and "Loss by epoch" not in page and "<h2>Models</h2>" not in page
    assert not [number for number in numbers if number in page.partition("<h2>The data</h2>")[0]]
    # Its models were trained on patients that the present folds judge.
    assert read_judgements(copy, read_record(copy)) == []
    assert inside("compare", str(copy), str(copy.parent / "none")).code == 2
    again = inside("zoome", "--out", str(copy), *ZOOME, *ALL_OF_ZOOME, "--steps", "images")
    assert again.code == 0, again.errors
    page = (copy / "report.html").read_text(encoding="utf-8")
    assert "Older files" not in page and page.count("<article>") == first.count("<article>") > 0


def test_removed_images_are_decoded_again(copy, inside):
    shutil.rmtree(copy / "images")
    again = inside("zoome", "--out", str(copy), *ZOOME, "--tables", "1", "--steps", "train", "--figures", "none")
    assert again.code == 0, again.errors
    assert "did 0 steps" in again.shown and list((copy / "images").glob("*.npy"))


def test_leaks_stop_the_run_unless_they_are_allowed(copy, inside):
    plain = ("--folds.by", "plain", "--steps", "images")
    refused = inside("zoome", "--out", str(copy), *ZOOME, *plain)
    assert refused.code == 2
    assert "patients on two sides" in refused.errors and "--allow-leaks" in refused.errors
    allowed = inside("zoome", "--out", str(copy), *ZOOME, *plain, "--allow-leaks")
    assert allowed.code == 0, allowed.errors
    assert "LEAK: " in allowed.shown
    assert read_json(copy / "run.json")["leaks"]["patient"] > 10


def test_predict_gives_the_runs_own_numbers(tiny_zoome, phantoms, tmp_path, inside):
    """The images of a fold, their metadata from the official table, the fold's own network."""
    name = "resnext_standin-zoom-metadata-fold-2"
    judged = pd.read_parquet(tiny_zoome.folder / "predictions" / f"{name}.parquet").set_index("image_id")
    truth = next(phantoms.glob("*GroundTruth*.csv"))
    done = inside(
        *("predict", "--model", str(tiny_zoome.folder / "models" / f"{name}.keras")),
        *("--input", str(phantoms / "images"), "--metadata", str(truth), "--out", str(tmp_path), "--answer-anyway"),
    )
    assert done.code == 0, done.errors
    rows = pd.read_csv(tmp_path / "predictions.csv")
    rows = rows.set_index(rows["input"].map(lambda path: Path(path).stem)).loc[judged.index]
    np.testing.assert_allclose(rows["probability"], judged["probability"], atol=1e-5)
    np.testing.assert_allclose(rows["calibrated_probability"], judged["calibrated"], atol=1e-4)
    assert (rows["decision"].eq("melanoma") == judged["called"].eq(1)).mean() > 0.98
    records = json.loads((tmp_path / "predictions.json").read_text())
    assert {record["schema"] for record in records} == {"melano_tf prediction 1"}
    assert len(records) == len(list((phantoms / "images").iterdir()))


def test_predict_one_image_with_flags_and_without_any_metadata(tiny_zoome, phantoms, tmp_path, inside):
    image = next(iter(sorted((phantoms / "images").iterdir())))
    model = ("predict", "--model", str(tiny_zoome.folder / "models" / "zoome.keras"), "--input", str(image))
    told = inside(*model, "--out", str(tmp_path / "told"), "--age", "70", "--sex", "M", "--site", "face")
    untold = inside(*model, "--out", str(tmp_path / "untold"))
    assert told.code == untold.code == 0, told.errors + untold.errors
    first, second = (json.loads((tmp_path / name / "prediction.json").read_text()) for name in ("told", "untold"))
    assert first["evidence"]["metadata"] == {"age": 70.0, "sex": "male", "site": "head/neck"}
    assert second["evidence"]["metadata"] == {"age": None, "sex": None, "site": None}
    key = "calibrated_probabilities"
    assert second[key]["melanoma"] == pytest.approx(second["evidence"]["probability_without_metadata"], abs=1e-6)
    assert first["evidence"]["probability_without_metadata"] == pytest.approx(second[key]["melanoma"], abs=1e-6)
    assert first[key]["melanoma"] != pytest.approx(second[key]["melanoma"], abs=1e-9)
    assert sum(first["probabilities"].values()) == pytest.approx(1.0)
    assert "not a medical device" in told.shown


@pytest.mark.parametrize(
    "arguments, words",
    [
        (("--age", "-5"), "-5"),
        (("--site", "moon"), "'moon' is none of"),
        (("--sex", "x"), "'x' is none of"),
        (("--mpp", "0.5"), "--mpp: does not belong to a model of kind 'zoome'"),
    ],
)
def test_predict_refuses_what_it_does_not_understand(tiny_zoome, phantoms, tmp_path, inside, arguments, words):
    image = next(iter(sorted((phantoms / "images").iterdir())))
    model = str(tiny_zoome.folder / "models" / "zoome.keras")
    done = inside("predict", "--model", model, "--input", str(image), "--out", str(tmp_path / "out"), *arguments)
    assert done.code == 2 and words in done.errors and "Traceback" not in done.errors


def test_predict_names_what_it_cannot_read_and_judges_the_rest(tiny_zoome, phantoms, tmp_path, inside):
    folder = tmp_path / "images"
    folder.mkdir()
    source = next(iter(sorted((phantoms / "images").iterdir())))
    shutil.copy(source, folder / "good.jpg")
    Image.open(source).convert("CMYK").save(folder / "cmyk.jpg")
    Image.open(source).convert("L").save(folder / "grey.png")
    Image.new("1", (20_000, 20_000)).save(folder / "bomb.png")
    (folder / "text.jpg").write_text("no image")
    (tmp_path / "meta.csv").write_text("image,age,sex\ngood,,\ngrey.png,40,female\nelsewhere,30,male\n")
    model = str(tiny_zoome.folder / "models" / "zoome.keras")
    done = inside(
        *("predict", "--model", model, "--input", str(folder), "--out", str(tmp_path / "out")),
        *("--metadata", str(tmp_path / "meta.csv")),
    )
    assert done.code == 0, done.errors
    rows = pd.read_csv(tmp_path / "out" / "predictions.csv")
    rows.index = rows["input"].map(lambda path: Path(path).name)
    assert set(rows.index[rows["unreadable"].notna()]) == {"bomb.png", "text.jpg"}
    assert rows.loc[["good.jpg", "cmyk.jpg", "grey.png"], "probability"].notna().all()
    assert rows.loc["grey.png", "age"] == 40 and rows.loc["good.jpg", "age"] != rows.loc["good.jpg", "age"]
    assert "2 of 5 images could not be read" in done.shown
    assert "1 rows of it without an image: elsewhere" in done.shown
    assert "3 images without a row in it" in done.shown
    (tmp_path / "meta.csv").write_text("image,age,sex\ngood,-4,\ngood,40,x\n")
    wrong = inside(
        *("predict", "--model", model, "--input", str(folder), "--out", str(tmp_path / "wrong")),
        *("--metadata", str(tmp_path / "meta.csv")),
    )
    assert wrong.code == 2
    assert all(words in wrong.errors for words in ("row 2: age '-4'", "row 3: sex 'x'", "row 3: image 'good' stands"))


def test_predict_refuses_an_image_that_is_none(tiny_zoome, tmp_path, inside):
    (tmp_path / "text.jpg").write_text("no image")
    model = str(tiny_zoome.folder / "models" / "zoome.keras")
    done = inside("predict", "--model", model, "--input", str(tmp_path / "text.jpg"), "--out", str(tmp_path / "out"))
    assert done.code == 2 and "neither a JPEG nor a PNG" in done.errors
    empty = tmp_path / "empty"
    empty.mkdir()
    done = inside("predict", "--model", model, "--input", str(empty), "--out", str(tmp_path / "out"))
    assert done.code == 2 and "no .jpg, .jpeg or .png file" in done.errors


def test_images_of_ones_own_with_bad_files_are_named_and_left_out(phantoms, tmp_path, inside):
    folder = Path(shutil.copytree(phantoms / "images", tmp_path / "images"))
    names = sorted(path.stem for path in folder.iterdir())
    (folder / f"{names[0]}.jpg").write_text("no image")
    (folder / f"{names[1]}.jpg").unlink()
    cut = folder / f"{names[2]}.jpg"
    cut.write_bytes(cut.read_bytes()[:-900])
    truth = next(phantoms.glob("*GroundTruth*.csv"))
    done = inside(
        *("zoome", "--table", str(truth), "--images", str(folder), "--preset", "demo", "--out", str(tmp_path / "run")),
        *(*ZOOME, "--steps", "images"),
    )
    assert done.code == 0, done.errors
    assert f"1 images without a file: {names[1]}" in done.shown
    assert "1 unreadable images" in done.shown and names[0] in done.shown
    assert f"left out: {names[2]}" in done.shown
    assert len(read_json_folds(tmp_path / "run")) == len(names) - 3
    assert read_json(tmp_path / "run" / "run.json")["excluded"]["missing"] == [names[1]]


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda table: table.assign(age_approx=-3), "age_approx '-3' lies outside"),
        (lambda table: table.assign(target=2), "target '2' is neither 0 nor 1"),
        (lambda table: table.assign(anatom_site_general_challenge="moon"), "'moon' is none of"),
        (lambda table: pd.concat([table, table.head(1)]), "stands in row 2 already"),
        (lambda table: table.drop(columns="sex"), "column sex"),
    ],
)
def test_bad_tables_are_refused_with_their_rows(phantoms, tmp_path, inside, change, words):
    truth = next(phantoms.glob("*GroundTruth*.csv"))
    changed = tmp_path / "truth.csv"
    change(pd.read_csv(truth)).to_csv(changed, index=False)
    done = inside(
        *("zoome", "--table", str(changed), "--images", str(phantoms / "images"), "--preset", "demo"),
        *("--out", str(tmp_path / "run"), *ZOOME, "--steps", "images"),
    )
    assert done.code == 2 and words in done.errors and "Traceback" not in done.errors


def test_the_real_subset_goes_through(real_data, tmp_path, inside):
    folder = real_data / "isic2020"
    done = inside(
        *("zoome", "--table", str(folder / "ISIC_2020_Training_GroundTruth.csv")),
        *(str(folder / "ISIC_2020_Training_Duplicates.csv"), "--images", str(folder / "images_256")),
        *("--preset", "demo", "--out", str(tmp_path / "run"), *ZOOME, "--steps", "images", "--folds.count", "3"),
    )
    assert done.code == 0, done.errors
    assert "2,669 of 98 patients, 38 melanoma" in done.shown
    assert "by patient" in done.shown and "30,457 images without a file" in done.shown
