"""`weighting --preset ham10000` on phantoms, end to end; and how the best cell's decision is chosen."""

import dataclasses
import json
import runpy
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import keras
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from melano_tf.evaluation.bootstrap import group_draws
from melano_tf.evaluation.calibration import Calibration, expected_calibration_error, fit_calibration
from melano_tf.evaluation.multiclass_metrics import multiclass_metrics
from melano_tf.models.tta_and_prior_shift import prior_factors, shifted
from melano_tf.papers.notebook import restored
from melano_tf.papers.weighting.best_cell import FAVOURS, POWER_DRAWS, BestTraining, best_powers
from melano_tf.papers.weighting.best_cell_parts import Part
from melano_tf.papers.weighting.settings import RECIPE, preset
from melano_tf.papers.weighting.surest_errors import errors_sheet, surest_errors
from melano_tf.papers.weighting.teachers import taught_by
from melano_tf.phantoms.skin.other_cameras import CHANGES
from melano_tf.runs.atomic_files import read_json
from melano_tf.runs.predictions import TEST, probabilities
from melano_tf.runs.predictions import predictions as frame_of
from melano_tf.runs.sidecar import Sidecar
from melano_tf.serving.client import ClientSettings
from melano_tf.serving.model_finding import open_model
from melano_tf.serving.model_interface import Case
from melano_tf.training import pace
from tests.papers.ham10000_run import HAM10000
from tests.papers.tiny import CHECKOUT, Finished, TinyRun

BEST = (*("train/best-fold-1" + end for end in ("", "-teacher-1", "-teacher-2", "-cameras")),)
ROWS = ("CEL", "CEL-CB", "CEL-ES", "CEL-SPL", "CEL-OHEM", "CEL-OHEM per class")


@pytest.fixture
def finished(tiny_ham10000: TinyRun) -> Path:
    """The shared run's folder."""
    return tiny_ham10000.folder


def predictions(folder: Path, name: str, part: str = "predictions") -> pd.DataFrame:
    return pd.read_parquet(folder / part / f"{name}.parquet")


def test_table_2_holds_every_strategy_beside_the_published_ones(finished: Path) -> None:
    table = pd.read_csv(finished / "tables" / "table2.csv")
    ours = table[table["ours"].notna()]
    assert set(ours["column"]) == set(ROWS)
    assert ((ours["low"] <= ours["ours"]) & (ours["ours"] <= ours["high"])).all()
    assert set(table[table["published"].notna()]["column"]) >= {"CEL", "FL-OHEM"}
    by_fold = [predictions(finished, f"flat-adam-cel-split-{fold}") for fold in (1, 2)]
    judge = [multiclass_metrics(one["target"].to_numpy(), probabilities(one)) for one in by_fold]
    cell = table[(table["column"] == "CEL") & (table["row"] == "BAcc")]["ours"]
    assert cell.item() == pytest.approx(np.mean([one["BAcc"] for one in judge]))
    first, second = (set(one["image_id"]) for one in by_fold)
    records = read_json(finished / "run.json")
    assert not first & second and len(first | second) == sum(map(len, records["splits"].values()))


def test_the_best_cells_table_follows_from_its_predictions(finished: Path) -> None:
    table = pd.read_csv(finished / "tables" / "best.csv").set_index(["row", "column"])["ours"]
    sidecar = Sidecar.read(finished / "models" / "best-fold-1.keras")
    mirrored = predictions(finished, "best-fold-1-mirrored", "unshifted")
    targets = mirrored["target"].to_numpy()
    for name, words in (("both", "Acc + BAcc"), ("accuracy", "Acc"), ("balanced", "BAcc")):
        factors = np.array(sidecar.run["operating_points"][name]["factors"])
        judge = multiclass_metrics(targets, shifted(probabilities(mirrored), factors))
        for metric in ("Acc", "BAcc", "mPR", "mF1", "mAUC"):
            assert table[metric, f"shifted for {words}"] == pytest.approx(judge[metric]), (words, metric)
        fitted = Calibration.from_json(sidecar.run["operating_points"][name]["calibration"])
        held = predictions(finished, "best-fold-1-held-out", "unshifted")
        again = fit_calibration(
            held["target"].to_numpy(), shifted(probabilities(held), factors), held["group"].tolist(), hold_out="x"
        )
        assert fitted.temperature == pytest.approx(again.temperature, rel=1e-6) and fitted.samples == len(held)
        sure = fitted.apply(shifted(probabilities(mirrored), factors))
        wanted = expected_calibration_error(targets, sure)
        assert table["ECE", f"shifted for {words}"] == pytest.approx(wanted)
    assert sidecar.calibration == sidecar.run["operating_points"]["both"]["calibration"]
    raw = expected_calibration_error(targets, probabilities(mirrored))
    assert table["ECE", "mean of mirror images"] == pytest.approx(raw)
    said = predictions(finished, "best-fold-1")
    both = shifted(probabilities(mirrored), np.array(sidecar.run["factors"]))
    np.testing.assert_allclose(probabilities(said), both, atol=1e-6)
    confusion = pd.read_csv(finished / "tables" / "best-confusion.csv", index_col="true")
    assert confusion.to_numpy().sum() == len(said)
    assert np.trace(confusion.to_numpy()[:, :-1]) / len(said) == pytest.approx(table["Acc", "shifted for Acc + BAcc"])


def test_changed_pictures_are_judged_by_the_saved_model(finished: Path) -> None:
    said = predictions(finished, "best-fold-1", "cameras")
    plain = said[said["change"] == ""].set_index("image_id")
    whole = predictions(finished, "best-fold-1").set_index("image_id").loc[plain.index]
    np.testing.assert_allclose(probabilities(plain), probabilities(whole), atol=2e-3)  # the same pictures
    kinds = {(name, each) for name, one in CHANGES.items() for each in one.strengths}
    assert set(zip(said["change"], said["strength"], strict=True)) == {("", 0.0), *kinds}
    table = pd.read_csv(finished / "tables" / "cameras.csv").set_index(["row", "column"])
    for name, strength in kinds:
        own = said[(said["change"] == name) & (said["strength"] == strength)]
        assert own["image_id"].tolist() == plain.index.tolist()
        if strength == CHANGES[name].strengths[-1]:  # 40 px hardly see the mildest blur
            assert np.abs(probabilities(own) - probabilities(plain)).max() > 1e-2, name
        judge = multiclass_metrics(own["target"].to_numpy(), probabilities(own))
        cell = table.loc[("BAcc", CHANGES[name].named(strength))]
        assert cell["ours"] == pytest.approx(judge["BAcc"]) and cell["low"] <= cell["ours"] <= cell["high"]
    assert {path.name for path in (finished / "figures").glob("*.png")} >= {"cameras.png", "best-errors.png"}


def test_the_surest_errors_are_wrong_sure_and_one_a_lesion() -> None:
    names, groups = [f"i{place}" for place in range(7)], ["a", "a", "b", "c", "d", "e", "f"]
    said = np.array([[0.4, 0.6], [0.1, 0.9], [0.3, 0.7], [0.2, 0.8], [0.9, 0.1], [0.8, 0.2], [0.45, 0.55]])
    rows = pd.DataFrame(
        {"case": names, "image_id": names, "group": groups, "target": [0, 0, 0, 0, 1, 1, 1], "part": TEST}
    )
    frame = frame_of(rows, said, ("no", "yes"))
    fold = BestTraining(1, {"both": np.array([1.0, 1.0])}, 0.0, {}, frame, frame)
    found = surest_errors([fold], each=2)
    assert found["image_id"].tolist() == ["i1", "i3", "i4", "i5"]  # i0 is of i1's lesion, i2 the third of its class
    assert found["called"].tolist() == [1, 1, 0, 0]
    # Shifted far enough, all are called so: those of the other class are the errors.
    far = BestTraining(1, {"both": np.array([100.0, 1.0])}, 0.0, {}, frame, frame)
    assert surest_errors([far])["target"].unique().tolist() == [1]
    assert surest_errors([]).empty


def test_a_tie_is_an_error_of_the_sheet_as_it_is_one_of_the_tables() -> None:
    names = ["i0", "i1", "i2"]
    rows = pd.DataFrame({"case": names, "image_id": names, "group": names, "target": [0, 0, 1], "part": TEST})
    frame = frame_of(rows, np.array([[0.5, 0.5], [0.9, 0.1], [0.2, 0.8]]), ("no", "yes"))
    fold = BestTraining(1, {"both": np.array([1.0, 1.0])}, 0.0, {}, frame, frame)
    found = surest_errors([fold])
    assert found[["image_id", "called"]].to_numpy().tolist() == [["i0", -1]]
    cache = SimpleNamespace(rows=lambda ids: ids, pixels=lambda ids: np.zeros((len(ids), 4, 4, 3), np.uint8))
    cohort: Any = SimpleNamespace(classes=("no", "yes"), cache=cache)
    sheet = errors_sheet(found, cohort, "errors")
    assert sheet.axes[0].get_title() == "undecided, 0.50\ni0"


def test_the_report_shows_the_presets_tables(finished: Path) -> None:
    report = (finished / "report.html").read_text("utf-8")
    assert "The best cell" in report and "OHEM per class" in report


def test_no_lesion_is_judged_that_trained_or_chose_the_decision(finished: Path) -> None:
    judged = set(predictions(finished, "best-fold-1")["group"])
    held = set(predictions(finished, "best-fold-1-held-out", "unshifted")["group"])
    other = set(predictions(finished, "flat-adam-cel-split-2")["group"])
    assert judged and held and not judged & held and not judged & other
    assert held <= other  # of two folds, what is not judged trains
    points = Sidecar.read(finished / "models" / "best-fold-1.keras").run["operating_points"]
    table = predictions(finished, "best-fold-1-held-out", "unshifted")
    trained = predictions(finished, "flat-adam-cel-split-2")
    trained = trained[~trained["image_id"].isin(set(table["image_id"]))]
    counts = np.bincount(trained["target"], minlength=7)
    chosen = best_powers(table["target"].to_numpy(), probabilities(table), counts, table["group"].tolist())
    assert {name: point["power"] for name, point in points.items()} == chosen
    np.testing.assert_allclose(points["balanced"]["factors"], prior_factors(counts, chosen["balanced"]))


def test_teachers_saw_parts_of_the_training_lesions_alone_and_the_final_model_learns_of_the_folds(
    finished: Path,
) -> None:
    def record(stem: str, role: str) -> set[str]:
        table = pd.read_parquet(finished / "audit" / f"{stem}.parquet")
        return set(table.loc[table["role"] == role, "id"])

    lesions = predictions(finished, "best-fold-1", "teachers").set_index("image_id")["group"]  # of all images
    assert set(predictions(finished, "best-fold-1")["image_id"]) < set(lesions.index) == record("ham10000", "fed")
    stems, whole = [f"best-fold-1-teacher-{number}" for number in (1, 2)], record("best-fold-1", "fed")
    first, other = (record(stem, "fed") for stem in stems)
    assert first and other and first | other == whole
    assert set(lesions[list(whole - first)]).isdisjoint(lesions[list(first)])
    assert not first & other  # of two, each had what the other had not
    said = [predictions(finished, stem, "teachers") for stem in stems]
    assert all(set(one["image_id"]) == whole for one in said)
    assert np.abs(probabilities(said[0]) - probabilities(said[1])).max() > 1e-3
    assert record("best-fold-1", "after") == set(stems)
    assert Sidecar.read(finished / "models" / "best-fold-1.keras").run["teachers"] == stems
    assert record("ham10000", "after") == {"best-fold-1"}


def test_what_is_taught_is_the_mean_of_the_teachers_in_the_order_of_the_images(tmp_path: Path) -> None:
    settings = restored(preset("ham10000"), {"transfer": {"teachers": 2, "regular": {"distil": 0.25}}})
    names, rng = [f"i{place}" for place in range(5)], np.random.default_rng(2)
    said = rng.dirichlet([1.0, 2.0, 0.5], (2, 5))
    for number, one in enumerate(said, start=1):
        order = rng.permutation(5)
        rows = pd.DataFrame({"case": names, "image_id": names, "group": names, "target": [0] * 5, "part": TEST})
        frame = frame_of(rows.iloc[order], one[order], ("a", "b", "c"))
        frame.to_parquet(tmp_path / f"best-fold-1-teacher-{number}.parquet")
    cohort = SimpleNamespace(names=lambda places: [names[place] for place in places])
    work: Any = SimpleNamespace(settings=settings, value=lambda _: cohort, path=lambda _, name: tmp_path / name)
    places = np.array([3, 0, 4])
    taught = taught_by(work, 1, Part(places, places[:0], places[:0], "", ""))
    assert taught is not None and taught.trust == 0.25
    np.testing.assert_allclose(taught.probabilities, said.mean(axis=0)[places], atol=1e-6)
    plain: Any = SimpleNamespace(settings=preset("ham10000"), value=lambda _: cohort)
    assert taught_by(plain, 1, Part(places, places[:0], places[:0], "", "")) is None


def test_the_models_answer_as_the_tables_say(finished: Path) -> None:
    """The best cell, the final one and a strategy's, of the picture as it is and of another size."""
    (phantoms,) = (
        (finished / "phantoms").iterdir()
        if not (finished / "phantoms" / "images").is_dir()
        else [finished / "phantoms"]
    )
    for stem in ("best-fold-1", "flat-adam-cel-cb-split-1"):
        model = finished / "models" / f"{stem}.keras"
        sidecar = Sidecar.read(model)
        assert (sidecar.kind, sidecar.input_px) == ("weighting", 40)
        assert sidecar.preprocessing["store"]["crop"] == "centre" and sidecar.preprocessing["metadata"] is None
        table = predictions(finished, stem).head(8)
        files = [next(phantoms.rglob(f"{name}.jpg")) for name in table["image_id"]]
        answers = open_model(model, None, ClientSettings()).answer([Case(file) for file in files], finished)
        wanted = probabilities(table)
        np.testing.assert_allclose([answer.probabilities for answer in answers], wanted, atol=4e-3, err_msg=stem)
        # A picture of another size is brought to the training's pixels within the saved model, too.
        pixels = np.stack([np.asarray(Image.open(file).convert("RGB"), np.float32)[:, 10:74] for file in files])
        large = np.repeat(np.repeat(pixels, 2, axis=1), 2, axis=2)
        network = keras.saving.load_model(model)
        np.testing.assert_allclose(network({"image": large}), network({"image": pixels}), atol=2e-3)
    final = Sidecar.read(finished / "models" / "ham10000.keras")
    assert final.run["trained_on"] == "all images"
    assert final.calibration == Sidecar.read(finished / "models" / "best-fold-1.keras").calibration
    assert final.run["power"] == Sidecar.read(finished / "models" / "best-fold-1.keras").run["power"]


def test_predict_decides_in_favour_of_what_the_user_says(
    finished: Path, inside: Callable[..., Finished], tmp_path: Path
) -> None:
    model = finished / "models" / "best-fold-1.keras"
    points = Sidecar.read(model).run["operating_points"]
    mirrored = predictions(finished, "best-fold-1-mirrored", "unshifted").set_index("image_id")
    images = tmp_path / "images"
    images.mkdir()
    pictures = {path.stem: path for path in (finished / "phantoms").rglob("*.jpg")}
    names = list(mirrored.index[:3])
    for name in names:
        shutil.copy(pictures[name], images)
    for favour in ("accuracy", "balanced"):
        out = tmp_path / favour
        done = inside("predict", "--model", str(model), "--input", str(images), "--out", str(out), "--favour", favour)
        assert done.code == 0, done.errors
        said = pd.read_csv(out / "predictions.csv").set_index("image").loc[names]
        wanted = shifted(probabilities(mirrored.loc[names]), np.array(points[favour]["factors"]))
        np.testing.assert_allclose(said.to_numpy(), wanted, atol=4e-3)
        record = read_json(out / "predictions.json")[0]
        assert record["evidence"]["in_favour_of"] == favour
        fitted = Calibration.from_json(points[favour]["calibration"])
        sure = fitted.apply(np.array(list(record["probabilities"].values())))
        np.testing.assert_allclose(list(record["calibrated_probabilities"].values()), sure, atol=1e-6)
    strategy = finished / "models" / "flat-adam-cel-split-1.keras"
    asked = ("--input", str(images), "--out", str(tmp_path / "none"), "--favour", "accuracy")
    done = inside("predict", "--model", str(strategy), *asked)
    assert done.code == 2 and "has no such operating point" in done.errors


def test_a_best_cell_that_is_told_age_sex_and_site_answers_with_and_without_them(
    finished: Path, inside: Callable[..., Finished], tmp_path: Path
) -> None:
    out = tmp_path / "told"
    some = ("--tables", "1", "--figures", "none", "--steps", "tables", "--transfer.camera-images", "5")
    done = inside("weighting", "--out", str(out), *HAM10000, "--transfer.metadata", *some)
    assert done.code == 0, done.errors
    assert "it is told age, sex and site" in (out / "tables" / "best.md").read_text("utf-8")
    model = out / "models" / "best-fold-1.keras"
    card = Sidecar.read(model)
    whole = predictions(out, "best-fold-1")
    assert len(whole) > preset("ham10000").training.batch
    table = pd.concat([whole.head(2), whole.tail(2)])  # of two batches
    truth = pd.read_csv(next((out / "phantoms").rglob("HAM10000_metadata.csv"))).set_index("image_id")
    images, facts = tmp_path / "images", tmp_path / "facts.csv"
    images.mkdir()
    for name in table["image_id"]:
        shutil.copy(next((out / "phantoms").rglob(f"{name}.jpg")), images)
    known = truth.loc[table["image_id"], ["age", "sex"]].rename_axis("image_id").reset_index()
    spec_sites = {"trunk": "torso", "abdomen": "torso", "back": "torso", "chest": "torso"}
    sites = truth.loc[table["image_id"], "localization"].map(lambda word: spec_sites.get(word, word))
    known.assign(site=sites.to_numpy()).to_csv(facts, index=False)
    asked = ("predict", "--model", str(model), "--input", str(images), "--answer-anyway")
    done = inside(*asked, "--metadata", str(facts), "--out", str(tmp_path / "with"))
    assert done.code == 0, done.errors
    said = pd.read_csv(tmp_path / "with" / "predictions.csv").set_index("image").loc[table["image_id"]]
    np.testing.assert_allclose(said.to_numpy(), probabilities(table), atol=4e-3)
    done = inside(*asked, "--out", str(tmp_path / "without"), "--favour", "balanced")
    assert done.code == 0, done.errors
    blank = {one["input"]: one for one in read_json(tmp_path / "without" / "predictions.json")}
    told = {Path(one["input"]).name: one for one in read_json(tmp_path / "with" / "predictions.json")}
    own, balanced = (np.array(card.run["operating_points"][name]["factors"]) for name in ("both", "balanced"))
    for path, record in blank.items():
        without = np.array(list(told[Path(path).name]["evidence"]["probabilities_without_metadata"].values()))
        wanted = shifted(without[None], balanced / own)[0]
        np.testing.assert_allclose(list(record["probabilities"].values()), wanted, atol=1e-4)
        np.testing.assert_allclose(
            list(record["evidence"]["probabilities_without_metadata"].values()), wanted, atol=1e-4
        )
    plain = finished / "models" / "best-fold-1.keras"
    done = inside("predict", "--model", str(plain), "--input", str(images), "--out", str(tmp_path / "x"), "--age", "50")
    assert done.code == 2 and "--age: does not belong to a model of kind 'weighting'" in done.errors


def test_the_same_command_again_trains_nothing(finished: Path, inside: Callable[..., Finished]) -> None:
    again = inside("weighting", "--out", str(finished), *HAM10000)
    assert again.code == 0 and "did 0 steps" in again.shown, again.errors


def test_what_is_the_users_among_the_features_stays(
    finished: Path, inside: Callable[..., Finished], tmp_path: Path
) -> None:
    out = tmp_path / "run"
    shutil.copytree(finished, out)
    (out / "features" / "mine.npy").write_text("mine")
    own = {path.name for path in (out / "features").glob("*.npy")}
    changed = ("--transfer.cut", "block1_conv", "--tables", "2", "--strategies", "none", "--transfer.best-folds")
    done = inside("weighting", "--out", str(out), *HAM10000, *changed, "--steps", "tables", "--figures", "none")
    assert done.code == 0, done.errors
    there = {path.name for path in (out / "features").glob("*.npy")}
    assert (out / "features" / "mine.npy").read_text() == "mine"
    assert there & own == {"mine.npy"} and len(there) > 1  # of the trunk before nothing is left


def test_the_report_says_what_this_preset_does(finished: Path) -> None:
    words = read_json(finished / "run.json")["report"]
    assert not any("hierarchical" in line or "Random splits" in line for line in words["method"])
    assert RECIPE.told("paper")["method"] != words["method"] == RECIPE.told("ham10000")["method"]
    assert "divided into folds by lesion" in (finished / "report.html").read_text()


def test_what_a_changed_setting_repeats(
    finished: Path, inside: Callable[..., Finished], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pace, "measure", lambda *_: pace.Pace(1.0, 4, 0, 0, 0))  # see test_costs.py

    def planned(*changed: str) -> set[str]:
        done = inside("weighting", "--out", str(finished), *HAM10000, *changed, "--plan")
        assert done.code == 0, done.errors
        return {line.split()[0] for line in done.shown.splitlines() if line.startswith("  ") and " to do" in line}

    done = inside("weighting", "--out", str(finished / "elsewhere"), *HAM10000, "--plan")
    # Twelve strategies, the best cell of a fold with its two teachers, the one for use.
    assert "; 16 trainings to do, " in done.shown
    assert planned() == set()
    assert planned("--evaluation.repeats", "60") == set()
    assert planned("--transfer.best-epochs", "2") == {*BEST, "model/final"}
    assert planned("--transfer.regular.mixup", "0") == {*BEST, "model/final"}
    assert planned("--splits.hold-out", "0.3") == {*BEST, "model/final"}
    assert planned("--transfer.camera-images", "7") == {"train/best-fold-1-cameras"}
    assert planned("--transfer.camera-images", "0") == set()
    assert planned("--transfer.best-folds", "1", "2") == {
        *(name.replace("fold-1", "fold-2") for name in BEST),
        "model/final",
    }
    strategies = {f"train/flat-adam-cel{weights}-split-{fold}" for fold in (1, 2) for weights in ("", "-cb")}
    changed = planned("--transfer.cut", "block1_conv", "--strategies", "none,cb")
    assert changed == {"features", *strategies}
    changed = planned("--training.adam-epsilon", "1e-8", "--strategies", "none,cb")
    assert changed == {*strategies, *BEST, "model/final"}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--tables", "3"), "give numbers from 1 to 2"),
        (("--gamma", "auto"), "--gamma auto: not with --preset ham10000"),
        (("--transfer.best-folds", "1", "6"), "best_folds (1, 6): numbers from 1 to 5"),
        (("--transfer.camera-images", "-3"), "camera_images -3: a number of images"),
        (("--transfer.regular.averaging", "1"), "averaging 1: at least 0, and below 1"),
        (("--transfer.regular.mixup", "nan"), "mixup nan: 0 or more, and finite"),
        (("--transfer.regular.cameras", "1.2"), "cameras 1.2: between 0 and 1"),
        (("--transfer.regular.strategy", "cb+es"), "--transfer.regular.strategy cb+es: give none, or one of cb, es"),
        (("--transfer.cut", "conv_pw_11_relu"), "standin has no layer 'conv_pw_11_relu'"),
        (("--transfer.best-cut", "gone"), "standin has no layer 'gone'"),
        (("--network.weights", "imagenet"), "standin: has no ImageNet weights"),
        (("--losses", "mse"), "no loss 'mse'"),
        (("--training.warm-epochs", "3"), "--training.warm-epochs: not with --preset ham10000"),
        (
            ("--augment.brightness", "0.4", "--training.sgd-rate", "0.1"),
            "--augment.brightness: not with --preset ham10000, whose best cell has --transfer.augment",
        ),
        (("--splits.count", "5"), "--splits.count: not with --preset ham10000, which has --transfer.folds"),
        (("--network.lstm-units", "9"), "--network.lstm-units: not with --preset ham10000"),
    ],
)
def test_what_is_refused_before_anything_is_drawn(
    inside: Callable[..., Finished], tmp_path: Path, arguments: tuple[str, ...], words: str
) -> None:
    done = inside("weighting", "--out", str(tmp_path / "out"), "--preset", "ham10000", *arguments)
    assert done.code == 2 and words in done.errors
    assert not (tmp_path / "out").exists()


def test_with_data_the_preset_is_mobilenet_with_imagenet_weights() -> None:
    real, drawn = RECIPE.default("ham10000", True), RECIPE.default("ham10000", False)
    assert (real.network.backbone, real.network.weights, real.network.input_px) == ("mobilenet", "imagenet", 128)
    assert (real.store.stored_px, real.store.crop, real.store.colour) == (150, "centre", "none")
    assert (drawn.network.backbone, drawn.network.weights) == ("standin", "none")
    assert real.transfer is not None and drawn.transfer is not None
    assert real.transfer.folds_of_best() == (1, 2, 3, 4, 5) and drawn.transfer.folds_of_best() == (1,)
    assert dataclasses.replace(real.transfer, folds=3).folds_of_best() == (1, 2, 3)
    assert dataclasses.replace(real.transfer, best_folds=()).folds_of_best() == ()
    assert RECIPE.default(None, True) == preset("paper") and RECIPE.default(None, False) == preset("demo")
    chosen = {"training": {"warm_epochs": 0}, "transfer": {"best_folds": [1, 2], "augment": {"flip": 0.25}}}
    kept = json.loads(json.dumps(chosen))
    again = restored(preset("demo"), kept)  # a notebook starts from the demo's settings, which have none
    assert again.transfer.best_folds == (1, 2) and again.transfer.augment.flip == 0.25
    assert again.transfer.augment.rotation == 180.0


def test_the_notebook_trains_nothing_again(
    finished: Path, inside: Callable[..., Finished], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["weighting_ham10000.py", "--run", str(finished)])
    runpy.run_path(str(CHECKOUT / "experiments" / "weighting_ham10000.py"), run_name="__main__")
    assert "did 0 steps" in capsys.readouterr().out


@pytest.mark.parametrize("asked", [(), ("--preset", "ham10000")])
def test_copies_of_an_image_stay_on_one_side(
    finished: Path, inside: Callable[..., Finished], tmp_path: Path, asked: tuple[str, ...]
) -> None:
    """One image under two lesions' names: joined, or refused where they are not to be; of the paper's splits too."""
    folder = tmp_path / "data"
    (root,) = {path.parent.parent for path in (finished / "phantoms").rglob("*.jpg")}
    shutil.copytree(root, folder)
    tables = sorted(str(path) for path in folder.glob("*.csv") if path.name != "truth.csv")
    judged = [predictions(finished, f"flat-adam-cel-split-{fold}") for fold in (1, 2)]
    one, other = (frame[frame["target"] == 1].iloc[0]["image_id"] for frame in judged)
    pictures = {path.stem: path for path in folder.rglob("*.jpg")}
    shutil.copy(pictures[one], pictures[other])
    where = ("--table", *tables, "--images", str(pictures[one].parent), "--workers", "1", "--jobs", "1")
    where += ("--steps", "images", "--network.weights", "none")
    sizes: tuple[str, ...] = ("--store.stored-px", "40", "--network.input-px", "32")
    if asked:  # none is trained; but the network is built to look its cuts up
        sizes += ("--transfer.folds", "2", "--network.backbone", "standin")
        sizes += ("--transfer.cut", "block2_pool", "--transfer.best-cut", "block1_conv")
    out = tmp_path / "out"
    done = inside("weighting", "--out", str(out), *asked, *where, *sizes)
    assert done.code == 0, done.errors
    record = read_json(out / "run.json")
    assert record["copies"]["exact"] >= 1
    for members in record["splits"].values():
        assert (one in members) == (other in members)
    parts = ("--splits.no-join-copies", "--splits.no-near-copies")
    seeds = [
        inside("weighting", "--out", str(tmp_path / f"s{seed}"), *asked, *where, *sizes, *parts, "--seed", str(seed))
        for seed in range(3)
    ]
    refused = [done for done in seeds if done.code == 2]
    assert refused and all("1 pairs of exact copies on two sides" in done.errors for done in refused)


def naive_powers(
    targets: list[int], said: np.ndarray, counts: list[int], groups: list[str], draws: np.ndarray
) -> dict[str, float]:
    """The lower median over draws of lesions of the power that is best there, image by image."""
    names, picked = sorted(set(groups)), {name: [] for name in FAVOURS}
    for times in [np.ones(len(names), int), *draws]:
        rows = [i for i, g in enumerate(groups) for _ in range(times[names.index(g)])]
        accuracy_alone = {targets[i] for i in rows} != set(targets)
        sums: dict[str, list[float]] = {name: [] for name in FAVOURS}
        for power in [k / 10 for k in range(11)]:
            called = [int(np.argmax(said[i] * (np.array(counts) / sum(counts)) ** -power)) for i in rows]
            right = [c == targets[i] for c, i in zip(called, rows, strict=True)]
            recalls = [np.mean([r for r, i in zip(right, rows, strict=True) if targets[i] == k] or [0]) for k in (0, 1)]
            acc, balanced = float(np.mean(right)), float(np.mean(recalls))
            for name, value in (("both", acc + balanced), ("accuracy", acc), ("balanced", balanced)):
                sums[name].append(round(value, 6))
        for name, values in sums.items():
            if name == "accuracy" or not accuracy_alone:
                picked[name].append(values.index(max(values)))
    return {name: sorted(each)[(len(each) - 1) // 2] / 10 for name, each in picked.items()}


def test_the_powers_are_those_that_are_best_over_draws_of_lesions() -> None:
    counts = [80, 20]
    # The rare class is called once its probability is multiplied by more than 0.55 / 0.45 or 0.8 / 0.2, which needs
    # (80 / 20)^power: 0.2 for the one, a power above 1 for the other; a common one is lost from 0.6 / 0.4: 0.3.
    rare, common = [[0.55, 0.45], [0.82, 0.18]], [[0.6, 0.4]] + [[0.95, 0.05]] * 7
    trade = [[0.6, 0.4]] * 3 + [[0.95, 0.05]] * 5 + [[0.55, 0.45], [0.7, 0.3]]
    alone, shared = [f"l{k}" for k in range(10)], ["a", "a", "b", "c", "c", "c", "d", "e", "f", "g"]
    seen = set()
    for said in (common + rare, trade):
        for groups in (alone, shared):
            targets = [0] * 8 + [1] * 2
            _, draws = group_draws(groups, POWER_DRAWS, 0)
            wanted = naive_powers(targets, np.array(said), counts, groups, draws)
            assert best_powers(np.array(targets), np.array(said), np.array(counts), groups) == wanted
            seen.add(tuple(wanted.values()))
    assert len(seen) > 1
    nothing = np.array(common + [[0.3, 0.7]] * 2)  # nothing to gain: the least
    assert best_powers(np.array(targets), nothing, np.array(counts), alone) == dict.fromkeys(FAVOURS, 0.0)
    # Where the two rare ones are one lesion, draws without it lack the class and say nothing of its recall.
    best = best_powers(np.array(targets), np.array(trade), np.array(counts), [*alone[:8], "r", "r"])
    assert best["balanced"] == 0.7
