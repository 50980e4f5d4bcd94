"""The weighting recipe from end to end on phantom images: one tiny run, looked at from all sides."""

import json
import re
import shutil
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

from melano_tf.runs.atomic_files import read_json
from melano_tf.runs.sidecar import Sidecar
from tests.papers.tiny import TinyRun, weights_of
from tests.papers.weighting_run import WEIGHTING

SPLITS = 2
ROWS = ["CEL", "CEL-CB", "CEL-ES+OHEM", "FL", "FL-CB", "FL-ES+OHEM"]
CELLS = 2 * len(ROWS) * SPLITS
CLASSES = ["MEL", "NV", "BCC", "AKIEC", "BKL", "DF", "VASC"]


@pytest.fixture
def copy(tiny_weighting: TinyRun, tmp_path: Path) -> Path:
    """A copy of the shared run that a test may change."""
    return Path(shutil.copytree(tiny_weighting.folder, tmp_path / "run"))


@pytest.fixture
def phantoms(tiny_weighting: TinyRun) -> Path:
    """The folder of the run's phantom images and their official tables."""
    [truth] = (tiny_weighting.folder / "phantoms").rglob("*GroundTruth*.csv")
    return truth.parent


@pytest.mark.parametrize("number", [2, 3])
def test_each_table_stands_beside_the_published_one(tiny_weighting, number):
    folder = tiny_weighting.folder / "tables"
    table = pd.read_csv(folder / f"table{number}.csv")
    assert table["published"].notna().sum() == 40
    ours = table[table["ours"].notna()]
    assert set(ours["column"]) == set(ROWS) and len(ours) == 4 * len(ROWS)
    assert ours["cohorts"].eq(SPLITS).all()
    assert (ours["low"] <= ours["ours"] + 1e-9).mean() > 0.9
    text = (folder / f"table{number}.md").read_text()
    assert text in tiny_weighting.first.shown
    assert "PHANTOM" in text and "lesions within" in text and "patients" not in text
    assert "percentile bootstrap or Wilson's" in text
    assert re.search(r"CEL 1, CEL-CB 7, CEL-ES\+OHEM 0\.\d+\. ES weights sum to the number of classes", text)
    for name in ("recall", "precision", "f1"):
        by_class = pd.read_csv(folder / f"table{number}-{name}.csv")
        assert sorted(set(by_class["row"])) == sorted(CLASSES) and set(by_class["column"]) == set(ROWS)
    recall = pd.read_csv(folder / f"table{number}-recall.csv")
    mean = recall.groupby("column")["ours"].mean()
    balanced = ours[ours["row"] == "BAcc"].set_index("column")["ours"]
    np.testing.assert_allclose(mean[balanced.index], balanced, atol=1e-9)


def test_table_1_counts_the_images(tiny_weighting, phantoms):
    table = pd.read_csv(tiny_weighting.folder / "tables" / "table1.csv").set_index("row")
    truth = pd.read_csv(next(phantoms.glob("*GroundTruth*.csv")))
    assert table["published"].sum() == 10_068 and table["ours"].sum() == len(truth)
    assert table.loc["Vascular", "ours"] == truth["VASC"].sum()


def test_strategies_end_in_different_weights_and_splits_share_no_lesion(tiny_weighting):
    found = weights_of(tiny_weighting.folder)
    assert len(found) == CELLS == len(set(found.values()))
    parts = {
        cell: pd.read_parquet(tiny_weighting.folder / "predictions" / f"flat-adam-{cell}.parquet")
        for cell in ("cel-split-1", "fl-split-1", "cel-split-2")
    }
    np.testing.assert_array_equal(parts["cel-split-1"]["image_id"], parts["fl-split-1"]["image_id"])
    record = read_json(tiny_weighting.folder / "run.json")
    assert sorted(parts["cel-split-2"]["image_id"]) == sorted(record["splits"]["2"])
    assert set(record["splits"]["1"]) != set(record["splits"]["2"])
    p = parts["cel-split-1"][[f"p_{name}" for name in CLASSES]].to_numpy()
    np.testing.assert_allclose(p.sum(axis=1), 1, atol=1e-5)


def test_the_judged_lesions_trained_nothing(tiny_weighting, phantoms):
    groups = pd.read_csv(next(phantoms.glob("*Groupings*.csv"))).set_index("image")["lesion_id"]
    for number in (1, 2):
        logged = tiny_weighting.folder / "weights" / f"flat-adam-cel-split-{number}"
        trained = {name for path in logged.glob("*.csv") for name in pd.read_csv(path)["id"]}
        judged = read_json(tiny_weighting.folder / "run.json")["splits"][str(number)]
        assert len(trained) + len(judged) == len(groups)
        assert not set(groups[list(trained)]) & set(groups[judged])


def test_the_logged_weights_are_those_of_the_equations(tiny_weighting):
    """CB, ES and OHEM of real batches, from the counts of the training part and the losses that were logged."""
    folder = tiny_weighting.folder / "weights"
    for network in ("flat", "hierarchical"):
        first_epoch = folder / f"{network}-adam-fl-cb-split-1"
        plain = folder / f"{network}-adam-fl-split-1"
        files = sorted(first_epoch.glob("step_*.csv"))
        epoch = pd.concat(map(pd.read_csv, files[: len(files) // 2]))
        counts = epoch["class"].value_counts()
        assert epoch["id"].is_unique and len(counts) == 7
        np.testing.assert_allclose(epoch["weight"], len(epoch) / counts[epoch["class"]].to_numpy(), rtol=1e-5)
        assert epoch["curriculum"].eq(1).all()
        assert pd.concat(map(pd.read_csv, sorted(plain.glob("*.csv"))))["weight"].eq(1).all()
        mined = sorted((folder / f"{network}-adam-fl-es-ohem-split-1").glob("step_*.csv"))
        beta = (len(epoch) - 1) / len(epoch)
        printed = (1 - beta) / (1 - beta**counts)
        for place, path in enumerate(mined):
            batch = pd.read_csv(path)
            own = 7 * printed[batch["class"]].to_numpy() / printed.sum()
            np.testing.assert_allclose(batch["weight"], own, rtol=1e-4)
            kept = int(batch["curriculum"].sum())
            # Two epochs: half of the batch (halves up) in the first, all of it in the second.
            assert kept == ((len(batch) + 1) // 2 if place < len(mined) // 2 else len(batch))
            losses = batch["loss"].to_numpy()
            if kept < len(batch):
                assert losses[batch["curriculum"] == 1].min() >= losses[batch["curriculum"] == 0].max()


def test_figures_are_pictures_with_something_in_them(tiny_weighting):
    pictures = sorted((tiny_weighting.folder / "figures").glob("*.png"))
    assert [path.stem for path in pictures] == ["figure1", "figure2", "figure3", "figure4", "pace"]
    for path in pictures:
        image = cv2.imread(str(path))
        assert min(image.shape[:2]) > 200 and image.std() > 15


def test_models_stand_with_their_sidecars(tiny_weighting):
    folder = tiny_weighting.folder / "models"
    flat, tree = (Sidecar.read(folder / f"{name}-adam-fl-cb-split-1.keras") for name in ("flat", "hierarchical"))
    assert flat.kind == tree.kind == "weighting" and list(flat.classes) == CLASSES and flat.input_px == 32
    assert flat.preprocessing["store"]["colour"]["method"] == "shades_of_gray"
    assert flat.run["strategy"] == {
        **{"class_weights": "cb", "curriculum": "none", "gamma": 1.0},
        **{"full_from": 0.5, "scale": "cui"},
    }
    assert flat.threshold is None is tree.threshold
    assert flat.taxonomy is None and tree.taxonomy["non-melanocytic"]["malignant"] == {"BCC": "BCC", "AKIEC": "AKIEC"}


def test_a_failed_training_stops_no_other_and_leaves_its_cells_empty(copy, inside):
    """A learning rate of SGD at which nothing stays finite; then the same with another one."""
    arguments = ("--tables", "2,4", "--strategies", "none", "--figures", "none", "--log-weights", "0")
    done = inside("weighting", "--out", str(copy), *WEIGHTING, *arguments, "--training.sgd-rate", "1e30")
    assert done.code == 1, done.errors
    assert "4 of 8 trainings failed (flat-sgd-cel-split-1" in done.errors and "Traceback" not in done.errors
    assert done.shown.count("FAILED    flat-sgd-") == 4 and "training stopped at step" in done.shown
    assert "TrainingError" in (copy / "failed" / "flat-sgd-cel-split-1.txt").read_text()
    good, bad = (pd.read_csv(copy / "tables" / f"table{n}.csv") for n in (2, 4))
    assert good["ours"].notna().sum() == 8 and bad["ours"].notna().sum() == 0
    picked = ("--cells", "flat-sgd-*-split-1", "--splits.count", "1", "--tables", "2,4")
    again = inside("weighting", "--out", str(copy), *WEIGHTING, *arguments, *picked)
    assert again.code == 0, again.errors
    assert "did 2 steps" in again.shown  # SGD's; Adam's stood finished, and stand in Table 2 though not picked
    left = {path.stem for path in (copy / "failed").glob("*.txt")}
    assert left == {"flat-sgd-cel-split-2", "flat-sgd-fl-split-2"}, "those that were not tried again"
    for number in (2, 4):
        assert pd.read_csv(copy / "tables" / f"table{number}.csv")["ours"].notna().sum() == 8


@pytest.mark.parametrize("network", ["flat", "hierarchical"])
def test_predict_writes_the_challenges_table(tiny_weighting, phantoms, tmp_path, inside, network):
    """The run's own numbers again, in the challenge's columns; what cannot be read has no row, and is named."""
    name = f"{network}-adam-cel-cb-split-1"
    judged = pd.read_parquet(tiny_weighting.folder / "predictions" / f"{name}.parquet").set_index("image_id")
    folder = tmp_path / "images"
    folder.mkdir()
    for image in judged.index[:9]:
        shutil.copy(phantoms / "images" / f"{image}.jpg", folder)
    (folder / "text.jpg").write_text("no image")
    model = str(tiny_weighting.folder / "models" / f"{name}.keras")
    done = inside(
        "predict", "--model", model, "--input", str(folder), "--out", str(tmp_path / "out"), "--answer-anyway"
    )
    assert done.code == 0, done.errors
    assert "1 of 10 images could not be read" in done.shown and "text.jpg: unreadable (neither a JPEG" in done.shown
    table = pd.read_csv(tmp_path / "out" / "predictions.csv")
    assert list(table) == ["image", *CLASSES] and list(table["image"]) == sorted(judged.index[:9])
    found = table.set_index("image").loc[judged.index[:9]].to_numpy()
    np.testing.assert_allclose(found, judged.iloc[:9][[f"p_{name}" for name in CLASSES]].to_numpy(), atol=1e-4)
    np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-8)
    records = {Path(one["input"]).stem: one for one in json.loads((tmp_path / "out" / "predictions.json").read_text())}
    assert records["text"]["probabilities"] is None and "neither a JPEG" in records["text"]["unreadable"]
    best = table.set_index("image").idxmax(axis=1)
    assert all(records[image]["decision"] == best[image] for image in best.index)


def test_predict_takes_one_image_and_refuses_what_does_not_belong(tiny_weighting, phantoms, tmp_path, inside):
    image = next(iter(sorted((phantoms / "images").iterdir())))
    model = ("predict", "--model", str(tiny_weighting.folder / "models" / "flat-adam-cel-split-1.keras"))
    one = inside(*model, "--input", str(image), "--out", str(tmp_path / "one"))
    assert one.code == 0, one.errors
    assert len(pd.read_csv(tmp_path / "one" / "predictions.csv")) == 1
    assert set(json.loads((tmp_path / "one" / "prediction.json").read_text())["probabilities"]) == set(CLASSES)
    told = inside(*model, "--input", str(image), "--out", str(tmp_path / "told"), "--age", "70")
    assert told.code == 2 and "--age: does not belong to a model of kind 'weighting'" in told.errors
    folder = tmp_path / "twice"
    folder.mkdir()
    for suffix in (".jpg", ".jpeg"):
        shutil.copy(image, folder / f"same{suffix}")
    twice = inside(*model, "--input", str(folder), "--out", str(tmp_path / "twice-out"))
    assert twice.code == 2 and "same: same.jpeg, same.jpg" in twice.errors


def test_a_class_without_an_image_is_one_clear_line(phantoms, tmp_path, inside):
    truth = pd.read_csv(next(phantoms.glob("*GroundTruth*.csv")))
    few = tmp_path / "truth.csv"
    truth[truth["VASC"] == 0].to_csv(few, index=False)
    groups = str(next(phantoms.glob("*Groupings*.csv")))
    data = ("--table", str(few), groups, "--images", str(phantoms / "images"), "--preset", "demo")
    done = inside("weighting", *data, "--out", str(tmp_path / "run"), *WEIGHTING)
    assert done.code == 2 and "class VASC: no image" in done.errors and "Traceback" not in done.errors
    assert not (tmp_path / "run" / "inputs.json").exists(), "known before the files' checksums are taken"
    no_groups = inside("weighting", "--table", str(few), *data[3:], "--out", str(tmp_path / "run"), *WEIGHTING)
    assert no_groups.code == 2 and "names no lesions" in no_groups.errors


def test_a_network_that_cannot_be_built_is_bad_input(copy, inside):
    done = inside("weighting", "--out", str(copy), *WEIGHTING, "--network.input-px", "8", "--log-weights", "0")
    assert done.code == 2 and "not 8" in done.errors and "FAILED" not in done.shown


def test_gamma_is_chosen_on_an_inner_hold_out(copy, inside):
    cells = ("--cells", "flat-adam-fl-split-1", "--splits.count", "1", "--strategies", "none", "--log-weights", "0")
    done = inside("weighting", "--out", str(copy), *WEIGHTING, *cells, "--gamma", "auto", "--tables", "2")
    assert done.code == 0, done.errors
    chosen = read_json(copy / "gamma" / "flat-adam-split-1.json")
    assert set(chosen["BAcc"]) == {"0.5", "1", "2", "5"} and "inner hold-out" in chosen["chosen_on"]
    assert chosen["BAcc"][f"{chosen['gamma']:g}"] == max(chosen["BAcc"].values())
    sidecar = Sidecar.read(copy / "models" / "flat-adam-fl-split-1.keras")
    assert sidecar.run["strategy"]["gamma"] == chosen["gamma"]
