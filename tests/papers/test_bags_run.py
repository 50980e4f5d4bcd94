"""The bags recipe from end to end on phantom features: one tiny run, looked at from all sides."""

import re
import shutil
import time
from pathlib import Path

import cv2
import h5py
import numpy as np
import pandas as pd
import pytest

from melano_tf.runs.atomic_files import read_json
from melano_tf.runs.judgements import read_judgements, read_record
from melano_tf.runs.sidecar import Sidecar
from melano_tf.training import pace
from tests import forked
from tests.papers.bags_run import BAGS
from tests.papers.tiny import CHECKOUT, TinyRun, command

MODELS, FOLDS = ("mean", "gated", "clam"), 2
STEPS = 2 * (len(MODELS) * FOLDS + 1)  # each training and what it says, the final one too


def weights(folder: Path) -> dict[str, str]:
    """What each trained model of a run holds, by the digest of its weights."""
    return {path.name: Sidecar.read(path).run["weights_sha256"] for path in sorted((folder / "models").glob("*.keras"))}


@pytest.fixture
def copy(tiny_bags: TinyRun, tmp_path: Path) -> Path:
    """A copy of the shared run that a test may change."""
    return Path(shutil.copytree(tiny_bags.folder, tmp_path / "run"))


@pytest.fixture
def own(tiny_bags: TinyRun, tmp_path: Path) -> tuple[Path, Path]:
    """The run's phantom features as a user's own: folder, and a table beside it."""
    [table] = (tiny_bags.folder / "phantoms").rglob("cases.csv")
    folder = tmp_path / "features"
    shutil.copytree(table.parent, folder, ignore=shutil.ignore_patterns("*.csv"))
    return folder, Path(shutil.copy(table, tmp_path / "cases.csv"))


def test_it_says_what_it_is_and_what_it_found(tiny_bags: TinyRun) -> None:
    shown = tiny_bags.first.shown
    assert "PHANTOMS: features drawn" in shown and "(default: " in shown and "(paper: " not in shown
    assert "features  40 slides of 24 patients: 20 benign, 20 malignant (phantoms)" in shown
    found = [line for line in shown.splitlines() if line.startswith("folds     ") and "ROC AUC" in line]
    assert [line.split()[1] for line in found] == [f"{kind}:" for kind in MODELS]
    assert "Traceback" not in tiny_bags.first.errors and "WARNING" not in tiny_bags.first.errors


def test_each_bag_is_judged_once_by_models_that_saw_no_slide_of_its_patient(tiny_bags: TinyRun) -> None:
    folder = tiny_bags.folder
    [table] = (folder / "phantoms").rglob("cases.csv")
    cases = pd.read_csv(table).set_index("slide_id")
    for kind in MODELS:
        judged = pd.concat([pd.read_parquet(folder / "predictions" / f"{kind}-fold-{n}.parquet") for n in (1, 2)])
        assert sorted(judged["case"]) == sorted(cases.index)
        owners = cases.loc[judged["case"], "patient_id"].to_numpy()
        assert judged.assign(owner=owners).groupby("owner")["fold"].nunique().max() == 1
        np.testing.assert_array_equal(judged["target"], cases.loc[judged["case"], "label"] == "malignant")
        np.testing.assert_allclose(judged["p_benign"] + judged["p_malignant"], 1)
        attention = pd.concat(
            [pd.read_parquet(folder / "predictions" / f"{kind}-fold-{n}-attention.parquet") for n in (1, 2)]
        )
        np.testing.assert_allclose(attention.groupby("case")["attention"].sum(), 1, atol=1e-4)
    assert read_json(folder / "run.json")["leaks"] == {}


def test_tables_figures_maps_and_report(tiny_bags: TinyRun) -> None:
    folder = tiny_bags.folder
    models = pd.read_csv(folder / "tables" / "models.csv")
    assert set(models["column"]) == set(MODELS) and models["ours"].notna().all() and models["low"].notna().any()
    gaps = pd.read_csv(folder / "tables" / "differences.csv")
    assert set(gaps["column"]) == {"gated", "clam"} and set(gaps["row"]) == {"AUC less mean's", "BACC less mean's"}
    found = pd.read_csv(folder / "tables" / "attention.csv").set_index("column")["ours"]
    assert found["mean"] == pytest.approx(0.5)
    assert {path.stem for path in (folder / "figures").glob("*.png")} == {"roc", "pr", "reliability"}
    maps = sorted((folder / "maps").glob("*-attention.png"))
    assert len(maps) == 2
    for path in (*maps, *(folder / "figures").glob("*.png")):
        image = cv2.imread(str(path))
        assert min(image.shape[:2]) > 200 and image.std() > 10
    names = [one.name for one in read_judgements(folder, read_record(folder))]
    assert names == list(MODELS)
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "bags: a label from features" in page and "gated: ROC AUC, mean over folds" in page


def test_every_model_stands_with_its_sidecar(tiny_bags: TinyRun) -> None:
    final = Sidecar.read(tiny_bags.folder / "models" / "bags.keras")
    assert (final.kind, final.classes) == ("bags", ("benign", "malignant"))
    assert final.preprocessing["features"] == {"width": 12, "encoder": "phantom", "bag": "slide"}
    assert final.run["trained_on"] == "all folds" and final.run["model"] == "gated"
    assert "Youden" in final.threshold_from and "inner hold-out" in final.threshold_from
    assert final.calibration is not None


def test_the_same_command_again_repeats_nothing_and_a_changed_one_what_it_must(copy, inside, monkeypatch) -> None:
    monkeypatch.setattr(pace, "measure", lambda *_: pace.Pace(1.0, 4, 0, 0, 0))  # see test_costs.py
    before = weights(copy)
    again = inside("bags", "--out", str(copy), *BAGS)
    assert again.code == 0, again.errors
    assert f"did 0 steps, kept {STEPS} finished ones" in again.shown and weights(copy) == before
    decided = inside("bags", "--out", str(copy), *BAGS, "--decision.no-calibrate", "--figures", "none")
    assert decided.code == 0 and f"did {STEPS // 2} steps" in decided.shown and weights(copy) == before
    kept = ("--decision.no-calibrate", "--steps", "train", "--plan")
    other = inside("bags", "--out", str(copy), *BAGS, "--training.strength", "0.5", *kept)
    assert "to do: strength changed" in other.shown and f"{2 * FOLDS} steps would be done" in other.shown


def test_a_killed_run_ends_with_the_same_weights(copy: Path) -> None:
    before = weights(copy)
    for step in ("model/final", "train/gated/fold-1"):
        (copy / "steps" / f"{step}.json").unlink()
    arguments = ["bags", "--out", str(copy), *BAGS]
    killed = forked.start(*arguments, cwd=CHECKOUT)
    time.sleep(3)
    killed.process.kill()
    killed.wait()
    last = command(*arguments)
    assert last.code == 0, last.errors
    assert weights(copy) == before


def test_ones_own_features_by_patient_of_three_classes(own: tuple[Path, Path], tmp_path: Path, inside) -> None:
    folder, table = own
    cases = pd.read_csv(table)
    number = cases["patient_id"].str[-3:].astype(int)
    cases["label"] = np.where(number % 4 == 1, "atypical", cases["label"])
    cases[cases["slide_id"] != "slide-001-1"].to_csv(table, index=False)
    done = inside(
        *("bags", "--features", str(folder), "--table", str(table), "--out", str(tmp_path / "run"), *BAGS),
        *("--bag", "patient", "--classes", "benign", "malignant", "atypical", "--models", "mean,gated"),
        *("--training.epochs", "1", "--final", "none"),
    )
    assert done.code == 0, done.errors
    assert "left out, features without a label: 1 (slide-001-1)" in done.shown
    assert "PHANTOM" not in done.shown and "preset default" in done.shown
    judged = pd.read_parquet(tmp_path / "run" / "predictions" / "gated-fold-1.parquet")
    np.testing.assert_allclose(judged[["p_benign", "p_malignant", "p_atypical"]].sum(axis=1), 1, atol=1e-6)
    models = pd.read_csv(tmp_path / "run" / "tables" / "models.csv")
    assert {"BAcc", "mF1"} <= set(models["row"]) and not (tmp_path / "run" / "models" / "bags.keras").exists()
    assert not (tmp_path / "run" / "tables" / "attention.csv").exists()


def test_what_is_wrong_is_said_at_once(own: tuple[Path, Path], tmp_path: Path, inside) -> None:
    folder, table = own
    with h5py.File(folder / "slide-001-1.h5", "r+") as file:
        del file["coords"]
    with h5py.File(folder / "slide-002-1.h5", "r+") as file:
        file["features"][3, 1] = np.nan
    (folder / "slide-003-1.h5").unlink()
    call = ("bags", "--features", str(folder), "--table", str(table), "--out", str(tmp_path / "run"), *BAGS)
    done = inside(*call)
    assert done.code == 2 and "Traceback" not in done.errors
    for words in ("3 faults", "slide-001-1.h5: no `coords`", "slide-002-1.h5: 1 of ", "slide slide-003-1: has a label"):
        assert words in done.errors
    alone = inside("bags", "--features", str(folder), "--out", str(tmp_path / "run"))
    assert alone.code == 2 and "--features without --table" in alone.errors
    unknown = inside("bags", "--models", "gated,best", "--out", str(tmp_path / "run"))
    assert unknown.code == 2 and "no model 'best'" in unknown.errors


def test_copies_stay_in_one_fold_and_leaks_stop_the_run(own: tuple[Path, Path], tmp_path: Path, inside) -> None:
    folder, table = own
    shutil.copy(folder / "slide-001-1.h5", folder / "slide-007-1.h5")  # one slide under two patients' names
    call = ("bags", "--features", str(folder), "--table", str(table), "--out", str(tmp_path / "run"), *BAGS)
    done = inside(*call, "--steps", "features")
    assert done.code == 0, done.errors
    assert "1 pairs of bags hold the same file twice; they stay in one fold" in done.shown
    folds = read_json(tmp_path / "run" / "run.json")["folds"]
    assert any({"slide-001-1", "slide-007-1"} <= set(cases) for cases in folds.values())
    refused = inside(*call, "--steps", "features", "--folds.by", "plain")
    assert refused.code == 2 and "patients on two sides" in refused.errors
    allowed = inside(*call, "--steps", "features", "--folds.by", "plain", "--allow-leaks")
    assert allowed.code == 0 and "LEAK: " in allowed.shown


def test_the_audit_finds_a_file_that_two_patients_share_beside_others(own, tmp_path: Path, inside) -> None:
    """Each has a file of its own, too, so that no two bags are equal as a whole."""
    (folder, table), out = own, tmp_path / "run"
    call = ("bags", "--features", str(folder), "--table", str(table), "--out", str(out), *BAGS, "--bag", "patient")
    call += ("--folds.by", "plain", "--models", "mean", "--final", "none", "--tables", "models", "--figures", "none")
    slides = pd.read_csv(table).groupby("patient_id")["slide_id"].agg(list)
    assert inside(*call, "--steps", "features").code == 0
    assert pd.read_csv(out / "copies.csv").empty and read_json(out / "run.json")["copies"] == {}
    folds = read_json(out / "run.json")["folds"]
    one, other = (next(name for name in folds[number] if len(slides[name]) > 1) for number in ("1", "2"))
    shutil.copy(folder / f"{slides[one][0]}.h5", folder / f"{slides[other][1]}.h5")
    refused = inside(*call)
    assert refused.code == 2 and "1 pairs of identical copies on two sides" in refused.errors
    done = inside(*call, "--allow-leaks")
    assert done.code == 0 and "LEAK: 1 pairs of identical copies on two sides" in done.shown, done.errors
    [[first, second, kind]] = pd.read_csv(out / "copies.csv")[["image_1", "image_2", "kind"]].to_numpy().tolist()
    assert {first, second} == {one, other} and read_json(out / "run.json")["copies"] == {kind: 1}
    found = inside("audit", str(out))
    assert found.code == 1 and "OVERLAP" not in found.shown
    assert re.search(r"mean-fold-\d: .*declared: (trained on|chose) and judged: 1 \(", found.shown), found.shown
    assert inside("audit", str(out), "--accept-declared").code == 0
