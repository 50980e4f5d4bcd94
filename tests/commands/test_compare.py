"""Several runs in one table: paired differences, and what cannot be compared."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import accuracy_score, balanced_accuracy_score, roc_auc_score

from melano_tf import run
from melano_tf.commands.compare import CompareSettings, compare, shared_groups
from melano_tf.errors import InputError
from melano_tf.evaluation.bootstrap import group_draws
from melano_tf.evaluation.paired_differences import Answer, paired_intervals
from melano_tf.reports.run_contents import counts
from melano_tf.runs.files_of_plan import Standing
from melano_tf.runs.input_checksums import file_checksums
from melano_tf.runs.judgements import JudgedModel, read_record
from melano_tf.runs.predictions import predictions as in_form
from melano_tf.runs.predictions import write_predictions
from melano_tf.runs.settings_digest import plain
from tests.reports.made_run import MODEL, bare_run, made_run, of_its_plan, predictions, write_json

CASES = [f"ISIC_{number:03}" for number in range(40)]


def two_runs(folder: Path, second: pd.DataFrame, **more: object) -> tuple[Path, Path]:
    """Runs a and b; a is of all `CASES`."""
    made_run(folder / "a", predictions(CASES))
    made_run(folder / "b", second, **more)
    return folder / "a", folder / "b"


def naive(y: np.ndarray, values: list[np.ndarray], groups: list[str], measure, repeats: int, seed: int) -> list[tuple]:
    """(value, difference, its 95 % interval) of each model, by drawing the groups' samples one after the other."""
    index, draws = group_draws(groups, repeats, seed)
    samples: list[list[float]] = [[] for _ in values]
    for draw in draws:
        rows = np.concatenate([np.repeat(np.flatnonzero(index == g), count) for g, count in enumerate(draw)]).astype(
            int
        )
        whole = len(np.unique(y[rows])) == len(np.unique(y))
        for sample, value in zip(samples, values, strict=True):
            sample.append(measure(y[rows], value[rows]) if whole else np.nan)
    found = []
    for sample, value in zip(samples, values, strict=True):
        gaps = np.array(sample) - np.array(samples[0])
        low, high = np.nanquantile(gaps, [0.025, 0.975])
        found.append((measure(y, value), measure(y, value) - measure(y, values[0]), low, high))
    return found


def test_binary_differences_equal_a_naive_paired_bootstrap() -> None:
    rng = np.random.default_rng(3)
    y = rng.integers(0, 2, 60)
    scores = [np.round(0.3 * y + 0.7 * rng.random(60), 2) for _ in range(3)]
    groups = [f"P{number}" for number in rng.integers(0, 15, 60)]
    thresholds = (0.5, 0.4, 0.6)
    called = [(p >= t).astype(int) for p, t in zip(scores, thresholds, strict=True)]
    answers = [Answer(p, c) for p, c in zip(scores, called, strict=True)]
    found = paired_intervals(y, answers, groups, repeats=200, seed=5)
    for name, values, measure in (("AUC", scores, roc_auc_score), ("BACC", called, balanced_accuracy_score)):
        for one, wanted in zip(found, naive(y, values, groups, measure, 200, 5), strict=True):
            assert one.own[name].value == pytest.approx(wanted[0])
            if one.differences is None:
                assert wanted[1] == 0
                continue
            gap = one.differences[name]
            assert (gap.value, gap.low, gap.high) == pytest.approx(wanted[1:])
    assert found[0].differences is None and all(one.differences for one in found[1:])


def test_differences_of_several_classes_equal_a_naive_paired_bootstrap() -> None:
    rng = np.random.default_rng(4)
    y = np.arange(45) % 3
    scores = [np.eye(3)[y] * skill + rng.random((45, 3)) for skill in (0.3, 0.6)]
    called = [p.argmax(axis=1) for p in scores]
    groups = [f"L{number}" for number in rng.integers(0, 12, 45)]
    found = paired_intervals(y, [Answer(p) for p in scores], groups, repeats=150, seed=1)
    [_, wanted] = naive(y, called, groups, balanced_accuracy_score, 150, 1)
    gap = found[1].differences["BACC"]
    assert (found[1].own["BACC"].value, gap.value, gap.low, gap.high) == pytest.approx(wanted)
    gap, right = found[1].differences["ACC"], accuracy_score(y, called[1]) - accuracy_score(y, called[0])
    assert gap.value == pytest.approx(right) and gap.low <= right <= gap.high


def test_pairing_narrows_the_difference() -> None:
    rng = np.random.default_rng(0)
    y = np.arange(80) % 2
    first = 0.4 * y + rng.random(80)
    second = first + 0.05 * rng.random(80)
    found = paired_intervals(y, [Answer(first, y), Answer(second, y)], [str(n) for n in range(80)], repeats=300)
    gap, own = found[1].differences["AUC"], found[1].own["AUC"]
    assert gap.high - gap.low < (own.high - own.low) / 3
    same = found[1].differences["BACC"]
    assert same.value == 0 and 0.05 < same.high == -same.low < 0.2, "none of 40 patients of a class is judged otherwise"


def test_bad_input_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one"):
        paired_intervals([], [], [])
    with pytest.raises(ValueError, match="2 groups for 3 samples"):
        paired_intervals([0, 1, 1], [Answer([0.1, 0.2, 0.3])], ["a", "b"])
    with pytest.raises(ValueError, match="of several"):
        paired_intervals([0, 1], [Answer([0.1, 0.2]), Answer(np.eye(2))], ["a", "b"])


def test_two_runs_by_hand(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """b ranks every melanoma last; a every one first: the difference of ROC AUC is -1 in every resample.

    How well it is known, ten patients a class tell."""
    right = predictions(CASES)
    right = right.assign(calibrated=0.2 + 0.6 * right["target"], called=right["target"])
    wrong = right.assign(calibrated=1 - right["calibrated"], called=1 - right["target"])
    made_run(tmp_path / "a", right)
    made_run(tmp_path / "b", wrong.sample(frac=1, random_state=1), training={"epochs": 7})
    code = run.main(
        ["compare", str(tmp_path / "a"), str(tmp_path / "b"), "--out", str(tmp_path / "c"), "--repeats", "50"]
    )
    shown = capsys.readouterr().out
    assert code == 0 and "-1.0000 (-1.0000 to -0." in shown and "WARNING" not in shown
    assert "| training.epochs |" in shown and "40 images, 20 groups" in shown
    frame = pd.read_csv(tmp_path / "c" / "comparison.csv")
    auc = frame[frame["metric"] == "AUC"].set_index("run")
    assert auc.loc["a", "value"] == 1 and auc.loc["b", "value"] == 0 and auc.loc["b", "difference"] == -1
    assert pd.isna(auc.loc["a", "difference"]) and set(frame["metric"]) == {"AUC", "BACC"}
    assert (tmp_path / "c" / "comparison.md").read_text(encoding="utf-8").strip() in shown


def test_other_cases_are_warned_of_and_left_out(tmp_path: Path) -> None:
    cases = [*CASES[10:], "ISIC_900", "ISIC_901"]
    second = predictions(CASES).iloc[10:].reset_index(drop=True)
    second = pd.concat([second, predictions(cases[-2:]).assign(group="P90")])
    shown: list[str] = []
    first, other = two_runs(tmp_path, second)
    frame = compare(CompareSettings((first, other), repeats=50), shown.append)
    assert set(frame["cases"]) == {30} and set(frame["groups"]) == {15}
    [line] = [line for line in "\n".join(shown).splitlines() if "WARNING" in line]
    assert "a 40, b 32" in line and "on the 30 that all of them tested" in line
    own = predictions(CASES).iloc[10:]
    found = frame[(frame["run"] == "a") & (frame["metric"] == "AUC")]["value"].item()
    assert found == pytest.approx(roc_auc_score(own["target"], own["calibrated"]))


def test_cases_of_one_name_and_another_file_are_not_the_same(tmp_path: Path) -> None:
    first, other = two_runs(tmp_path, predictions(CASES, seed=1))
    files = {f"/else/{name}.jpg": {"bytes": 1, "modified_ns": 0, "sha256": "0" * 64} for name in CASES[:4]}
    files |= {f"/else/{name}.jpg": {"bytes": 1, "modified_ns": 0, "sha256": f"{name:0>64}"} for name in CASES[4:]}
    write_json(other / "inputs.json", files)
    shown: list[str] = []
    frame = compare(CompareSettings((first, other), repeats=20), shown.append)
    assert set(frame["cases"]) == {36} and "4 of the same name are other files" in "\n".join(shown)


def test_images_that_a_run_read_in_an_earlier_session_make_no_case_the_same(tmp_path: Path) -> None:
    """a read raw images, and then, given again, cropped ones of the same names; b reads the raw ones."""
    first, other = two_runs(tmp_path, predictions(CASES, seed=1))
    for kind in ("raw", "cropped"):
        (tmp_path / kind).mkdir()
        for place, name in enumerate(CASES):
            (tmp_path / kind / f"{name}.jpg").write_text(kind if place < 4 else name)
    for run_folder, kinds in ((first, ("raw", "cropped")), (other, ("raw",))):
        (run_folder / "inputs.json").unlink()
        for kind in kinds:
            file_checksums(run_folder, sorted((tmp_path / kind).iterdir()))
    shown: list[str] = []
    frame = compare(CompareSettings((first, other), repeats=20), shown.append)
    assert set(frame["cases"]) == {36} and "4 of the same name are other files" in "\n".join(shown)
    found = dict(counts(Standing(first, read_record(first)), read_record(first), {}, []))
    assert found["input files"].startswith("40, ")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("cases", "tested on no common images"),
        ("classes", "the classes differ"),
        ("truth", "give 40 cases another truth, for example ISIC_000"),
        ("recipe", "no model is in all runs"),
        ("empty", "holds no test predictions"),
        ("earlier", "a run of an earlier version"),
        ("form", "the columns case, part are missing"),
        ("nothing", "no run is recorded there"),
        ("torn", "cannot be read"),
        ("same", "name at least two runs"),
    ],
)
def test_what_cannot_be_compared_is_one_line(
    tmp_path: Path, change: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    second = predictions([f"X{n}" for n in range(40)] if change == "cases" else CASES)
    if change == "truth":
        second["target"] = 1 - second["target"]
    first, other = two_runs(tmp_path, second)
    if change == "classes":
        content = {"classes": ["nevus", "melanoma"], "threshold": 0.5}
        write_json(other / "models" / f"{MODEL}-fold-1.json", content)
    if change == "recipe":
        other = bare_run(tmp_path / "c", "spitzoid", evaluation={"threshold": 0.5})
        rows = pd.DataFrame({"case": ["S1"], "group": ["P1"], "part": ["test"], "target": [1]})
        write_predictions(other / "predictions" / "target.csv", in_form(rows, np.array([0.7])))
        judged = plain([JudgedModel("target model", ("target.csv",), ("benign", "malignant"), "biopsies")])
        write_json(other / "run.json", {"recipe": "spitzoid", "settings": {}, "judged": judged})
        of_its_plan(other)
    if change == "empty":
        other = bare_run(tmp_path / "c")
    if change == "earlier":
        record = json.loads((other / "run.json").read_text())
        write_json(other / "run.json", {name: value for name, value in record.items() if name != "judged"})
    if change == "form":
        second.drop(columns=["case", "part"]).to_parquet(other / "predictions" / f"{MODEL}-fold-1.parquet")
    if change == "nothing":
        other = tmp_path / "nowhere"
    if change == "torn":
        (other / "predictions" / f"{MODEL}-fold-1.parquet").write_bytes(b"torn")
    if change == "same":
        other = first
    assert run.main(["compare", str(first), str(other)]) == 2
    error = capsys.readouterr().err
    assert words in error and len(error.strip().splitlines()) == 1


def test_groups_of_all_runs_hold_together() -> None:
    assert shared_groups([["a", "b", "c", "c"], ["x", "x", "y", "z"]]) == ["a", "a", "c", "c"]
    assert shared_groups([["a", "b", "c"]]) == ["a", "b", "c"]


def test_settings_are_checked(tmp_path: Path) -> None:
    settings = CompareSettings(two_runs(tmp_path, predictions(CASES)))
    for wrong in ({"repeats": 0}, {"level": 1.0}, {"seed": -1}, {"runs": settings.runs[:1]}):
        with pytest.raises(InputError, match="compare: "):
            compare(dataclasses.replace(settings, **wrong), print)
