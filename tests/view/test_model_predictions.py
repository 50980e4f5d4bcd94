"""What the atlas says that a run's models said: whose answer, of which fold, calibrated or not, at which threshold."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

pytest.importorskip("bokeh", reason="needs Bokeh: pip install 'melano_tf[view]'")
from melano_tf.pipelines.tfrecords import slide_files
from melano_tf.runs.predictions import TRAINING, predictions, write_predictions
from melano_tf.view.model_predictions import read_tiles
from melano_tf.view.overlays import overlays_of
from melano_tf.view.pages.slides import threshold
from melano_tf.view.pages.tile import asked_first
from melano_tf.view.run_cases import Seen, noted_parts, read_run
from tests.view.made_run import SETTINGS, tiles_of, write_run

TUMOUR = {"classes": ("non-tumour", "tumour"), "threshold": 0.5, "threshold_from": "fixed beforehand"}
SLIDES = {"S1": "development", "S2": "development", "S3": "development", "S9": "test"}


def made(
    folder: Path,
    tables: Mapping[str, pd.DataFrame],
    cards: Mapping[str, Mapping[str, Any]],
    manifest: Sequence[tuple[str, str]] = (),
    noted: Mapping[str, Any] | None = None,
    **settings: Any,
) -> Seen:
    """A run on slides as the atlas reads it.

    Args:
        folder: to be made.
        tables: predictions by the stem of their model; those of tiles are written as Parquet.
        cards: what stands beside each model.
        manifest: (slide, patient) of each slide.
        noted: what else run.json holds.
        settings: beside the usual ones.
    """
    drawn = folder / "phantoms" / "key"
    drawn.mkdir(parents=True)
    lines = [f"{slide},{slide}.tiff,{patient},benign" for slide, patient in manifest]
    (drawn / "manifest.csv").write_text("\n".join(["slide_id,path,patient_id,label", *lines]) + "\n")
    (folder / "predictions").mkdir()
    for stem, table in tables.items():
        suffix = ".parquet" if "tile" in table else ".csv"
        write_predictions(folder / "predictions" / f"{stem}{suffix}", table)
    write_run(folder, "spitzoid", {**SETTINGS, **settings}, cards)
    record = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps({**record, **(noted or {})}))
    return read_run(folder)


def tile_answers(parts: Mapping[str, str], p: float) -> pd.DataFrame:
    """A source model's answers: the same on every tile, each slide in its part."""
    rows = []
    for slide, part in parts.items():
        own = tiles_of()[["tile"]].assign(slide_id=slide, group=f"patient of {slide}", part=part, target=0, region=0)
        rows.append(own.assign(case=slide + "/" + own["tile"].astype(str)))
    whole = pd.concat(rows, ignore_index=True)
    return predictions(whole, np.full(len(whole), p))


@pytest.fixture
def source_run(tmp_path: Path) -> Seen:
    """Three cohorts of one slide each, whose models judged all three, and the final model, which judged the test."""
    tables, development = {}, [name for name, side in SLIDES.items() if side == "development"]
    for number, left_out in enumerate(development, start=1):
        parts = {name: "validation" if name == left_out else TRAINING for name in development}
        tables[f"source-gmp-cohort-{number}"] = tile_answers(parts, number / 10)
    final = {name: "test" if side == "test" else TRAINING for name, side in SLIDES.items()}
    tables["source"] = tile_answers(final, 0.9)
    for name in SLIDES:
        store = slide_files(tmp_path / "run" / "tiles", name)[1]
        store.parent.mkdir(parents=True, exist_ok=True)
        tiles_of().to_parquet(store)
    manifest = [(name, f"patient of {name}") for name in SLIDES]
    return made(tmp_path / "run", tables, dict.fromkeys(tables, TUMOUR), manifest)


def test_the_map_of_a_slide_is_of_the_fold_that_was_not_trained_on_it(source_run: Seen) -> None:
    pooled, final = source_run.tile_models["source-gmp"], source_run.tile_models["source"]
    assert pooled.stem_of == {f"S{number}": f"source-gmp-cohort-{number}" for number in (1, 2, 3)}
    assert set(pooled.part_of.values()) == {"validation"}
    for number in (1, 2, 3):
        tiles = read_tiles(source_run.standing, pooled, f"S{number}")
        assert len(tiles) == 12 and set(tiles["p1"]) == {number / 10}
    assert final.part_of == {"S1": TRAINING, "S2": TRAINING, "S3": TRAINING, "S9": "test"}


def test_a_fold_that_is_not_finished_is_shown_by_no_other(source_run: Seen) -> None:
    (source_run.folder / "predictions" / "source-gmp-cohort-2.parquet").unlink()
    found = read_run(source_run.folder).tile_models["source-gmp"]
    assert found.stem_of == {"S1": "source-gmp-cohort-1", "S3": "source-gmp-cohort-3"}


def test_the_legend_says_where_the_slide_stood(source_run: Seen) -> None:
    words = {name: one.words for name, one in overlays_of(source_run, "S2").items()}
    assert words["tumour (source-gmp)"] == "probability of tumour; the slide is of the model's validation part"
    assert words["tumour (source)"] == "probability of tumour; the slide is of the model's training part"
    [tested] = overlays_of(source_run, "S9").values()
    assert tested.words == "probability of tumour; the slide is of the model's test part"


def test_a_tile_is_first_asked_of_a_model_that_was_not_trained_on_its_slide(source_run: Seen) -> None:
    models = source_run.tile_models
    assert list(models)[-1] == "source"
    assert [asked_first(models, slide) for slide in ("S2", "S9", "S7")] == ["source-gmp", "source", "source"]
    assert asked_first({"source": models["source"]}, "S2") == "source"


def bag_answers(fold: int, classes: Sequence[str], calibrated: bool = True) -> pd.DataFrame:
    """Three slides of a fold, as a bags run writes them: own probabilities beside those that count."""
    rng = np.random.default_rng(fold)
    own = rng.dirichlet(np.ones(len(classes)), 3)
    softer = own**0.5 / (own**0.5).sum(axis=1, keepdims=True)
    cases = [f"S{fold}{number}" for number in range(3)]
    facts = {"case": cases, "group": cases, "part": "validation", "target": [0, 1, 1], "fold": fold}
    rows = pd.DataFrame({**facts, **{f"raw_{name}": own[:, place] for place, name in enumerate(classes)}})
    return predictions(rows, softer if calibrated else own, classes)


def test_bags_say_that_their_probabilities_are_calibrated(tmp_path: Path) -> None:
    card = {"classes": ("benign", "malignant"), "threshold": 0.5, "threshold_from": "fixed at 0.5"}
    cards = {"gated-fold-1": {**card, "calibration": {"temperature": 2.0}}, "mean-fold-1": card}
    tables = {
        "gated-fold-1": bag_answers(1, card["classes"]),
        "mean-fold-1": bag_answers(1, card["classes"], calibrated=False),
        "lost-fold-1": bag_answers(1, card["classes"]),  # whose card is not there
    }
    run = made(tmp_path / "run", tables, cards)
    assert {name: one.calibrated for name, one in run.models.items()} == {"gated": True, "mean": False, "lost": None}
    raw = run.models["gated"].frame["raw"]
    assert raw.tolist() == pytest.approx(tables["gated-fold-1"]["raw_malignant"].tolist())
    assert "gated: calibrated probability of malignant; " in threshold(run, "gated")
    assert "mean: probability (not calibrated) of malignant; " in threshold(run, "mean")
    assert "calibrated" not in threshold(run, "lost")


def test_of_several_classes_too_it_is_said_whether_they_are_calibrated(tmp_path: Path) -> None:
    classes = ("IN", "CN", "JN")
    cards = {"gated-fold-1": {"classes": classes, "threshold": None, "calibration": {"temperature": 2.0}}}
    run = made(tmp_path / "run", {"gated-fold-1": bag_answers(1, classes)}, cards)
    assert run.models["gated"].calibrated is True and "raw" not in run.models["gated"].frame
    assert "calibrated probability of that class" in threshold(run, "gated")


def test_a_column_of_calibrated_probabilities_without_a_calibration_is_not_calibrated(tmp_path: Path) -> None:
    """As zoome writes with --decision.calibrate false; and a served calibration is not one of the file's numbers."""
    rows = pd.DataFrame({"case": ["S1", "S2"], "group": ["P1", "P2"], "part": "validation", "target": [0, 1]})
    p, card = np.array([0.2, 0.7]), {"classes": ("benign", "malignant"), "threshold": 0.5}
    tables = {"plain": predictions(rows, p, calibrated=p), "served": predictions(rows, p)}
    cards = {"plain": {**card, "calibration": None}, "served": {**card, "calibration": {"temperature": 2.0}}}
    run = made(tmp_path / "run", tables, cards)
    assert [run.models[name].calibrated for name in ("plain", "served")] == [False, False]


def fold_cards(cuts: Sequence[float], words: str) -> dict[str, dict[str, Any]]:
    """Cards of a model's folds; the words of each name its hold-out."""
    common = {"classes": ("benign", "malignant"), "calibration": {"temperature": 2.0}}
    return {
        f"gated-fold-{number}": {**common, "threshold": cut, "threshold_from": words.format(20 + number)}
        for number, cut in enumerate(cuts, start=1)
    }


def test_thresholds_that_differ_are_said_of_all_folds_and_not_in_the_first_ones_words(tmp_path: Path) -> None:
    cuts = [0.22, 0.41, 0.25, 0.4, 0.31]
    cards = fold_cards(cuts, "Youden's index; chosen on {} patients: sensitivity 0.9")
    tables = {stem: bag_answers(number, ("benign", "malignant")) for number, stem in enumerate(cards, start=1)}
    tables["gated-fold-2"] = tables["gated-fold-2"].iloc[:1]  # folds count alike, however many cases they have
    tables["gated-fold-4"] = tables["gated-fold-4"].iloc[:1]
    run = made(tmp_path / "run", tables, cards)
    assert run.models["gated"].threshold == 0.31
    assert dict.fromkeys(run.models["gated"].frame["threshold"]) == dict.fromkeys(cuts)
    said = threshold(run, "gated")
    assert "threshold 0.31 (Youden" in said and "patients" not in said and "sensitivity" not in said
    assert "median of 5 folds, 0.22 to 0.41, each chosen on its own hold-out)" in said


def test_the_same_threshold_of_all_folds_is_chosen_on_none(tmp_path: Path) -> None:
    cards = fold_cards([0.5, 0.5], "fixed at 0.5; measured on {} patients: sensitivity 0.9")
    tables = {stem: bag_answers(number, ("benign", "malignant")) for number, stem in enumerate(cards, start=1)}
    run = made(tmp_path / "two", tables, cards)
    assert "threshold 0.5 (fixed at 0.5; the same in all 2 folds)" in threshold(run, "gated")
    one = made(tmp_path / "one", {"gated-fold-1": tables["gated-fold-1"]}, {"gated-fold-1": cards["gated-fold-1"]})
    assert "threshold 0.5 (fixed at 0.5; measured on 21 patients: sensitivity 0.9)" in threshold(one, "gated")


NUMBERED = (("1", "3"), ("2", "7"), ("3", "2"), ("7", "1"))  # slides and patients, each numbered from 1


def test_a_slide_is_in_the_part_of_its_patient_whatever_their_numbers(tmp_path: Path) -> None:
    split = {"split": {"test": ["2"], "folds": [["1", "3"], ["7"]]}}
    found = made(tmp_path / "spitzoid", {}, {}, NUMBERED, split).cases.set_index("case")["part"]
    expected = {"1": "validation cohort 1", "2": "validation cohort 2", "3": "test", "7": "validation cohort 1"}
    assert found.to_dict() == expected
    parts = {"parts": {"training": ["7"], "validation": ["1"], "test": ["2", "3"]}}
    found = made(tmp_path / "multimag", {}, {}, NUMBERED, parts).cases.set_index("case")["part"]
    assert found.to_dict() == {"1": "test", "2": "training", "3": "test", "7": "validation"}


def test_folds_are_of_cases_and_of_patients_where_a_bag_is_one(tmp_path: Path) -> None:
    folds = {"folds": {"1": ["1", "7"], "2": ["2", "3"]}}
    found = made(tmp_path / "slides", {}, {}, NUMBERED, folds, bag="slide").cases.set_index("case")["part"]
    assert found.to_dict() == {"1": "fold 1", "7": "fold 1", "2": "fold 2", "3": "fold 2"}
    found = made(tmp_path / "patients", {}, {}, NUMBERED, folds, bag="patient").cases.set_index("case")["part"]
    assert found.to_dict() == {"1": "fold 2", "2": "fold 1", "3": "fold 2", "7": "fold 1"}
    said = noted_parts({"settings": {}, "split": {"test": [2]}, "folds": {"1": ["2"]}})
    assert (said.of_patient, said.of_case) == ({"2": "test"}, {"2": "fold 1"})


def test_a_slide_that_no_table_names_is_in_the_part_of_the_patient_whom_its_answer_names(tmp_path: Path) -> None:
    rows = pd.DataFrame({"case": ["2"], "group": ["7"], "part": "test", "target": [1]})
    tables = {"target": predictions(rows, np.array([0.8]))}
    split = {"split": {"test": ["7"], "folds": [["2"]]}}
    run = made(tmp_path / "run", tables, {"target": {"classes": ("benign", "malignant")}}, (), split)
    assert run.cases.set_index("case")["part"].to_dict() == {"2": "test"}


def test_a_patients_answer_is_not_that_of_a_slide_of_the_same_name(tmp_path: Path) -> None:
    rows = pd.DataFrame({"case": ["2", "5"], "group": ["2", "5"], "part": "validation", "target": [1, 0]})
    card = {"classes": ("benign", "malignant"), "threshold": 0.5}
    tables = {"gated-fold-1": predictions(rows, np.array([0.8, 0.3]))}
    folds = {"folds": {"1": ["2", "5"], "2": ["7"]}}
    run = made(tmp_path / "run", tables, {"gated-fold-1": card}, NUMBERED, folds, bag="patient")
    bag = run.cases[run.cases["case"] == "2"]
    assert bag["patient"].tolist() == [""] and bag["part"].tolist() == ["fold 1"]
    assert sorted(run.cases["case"]) == ["1", "2", "3", "5", "7"]


def test_a_run_is_shown_on_its_own_slides_wherever_the_atlas_is_begun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same relative --slides names another cohort's file in the folder in which somebody begins the atlas."""
    for place, slide in (("mine", "M1"), ("other", "O1")):
        (tmp_path / place).mkdir()
        lines = ["slide_id,path,patient_id,label", f"{slide},{slide}.tiff,P1,benign"]
        (tmp_path / place / "slides.csv").write_text("\n".join(lines) + "\n")
    folder = tmp_path / "mine" / "runs" / "a"
    (folder / "predictions").mkdir(parents=True)
    write_run(folder, "spitzoid", {**SETTINGS, "slides": "slides.csv", "out": "runs/a"}, {})
    for here in ("other", "mine", "mine/runs"):
        monkeypatch.chdir(tmp_path / here)
        assert read_run(folder).cases["case"].tolist() == ["M1"], here
    monkeypatch.chdir(tmp_path / "other")
    (tmp_path / "mine" / "slides.csv").unlink()  # the run's folder was moved, say: what lies here is all that is known
    assert read_run(folder).cases["case"].tolist() == ["O1"]
    write_run(folder, "spitzoid", {**SETTINGS, "slides": "slides.csv", "out": str(folder)}, {})
    assert read_run(folder).cases["case"].tolist() == ["O1"]
