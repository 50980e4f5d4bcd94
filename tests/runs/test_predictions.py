"""The one form of predictions: what is written is of it, and what is not is refused in one line."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from melano_tf.errors import InputError, RunError
from melano_tf.runs.file_integrity import faults
from melano_tf.runs.files_of_plan import Standing
from melano_tf.runs.judgements import read_record
from melano_tf.runs.predictions import (
    decided,
    predictions,
    probabilities,
    read_predictions,
    scores,
    write_predictions,
)
from melano_tf.runs.restated_models import restate
from melano_tf.runs.run_folder import Run
from melano_tf.runs.sidecar import Sidecar

ROWS = pd.DataFrame(
    {
        "slide_id": ["NA", "007", "x"],
        "target": [1, -1, 0],
        "case": ["NA", "007", "x"],
        "part": ["test", "test", "training"],
        "group": ["P1", "01", "P2"],
    }
)
P = np.array([0.25, 0.75, 0.5])


def test_two_classes_go_to_a_file_and_back(tmp_path: Path) -> None:
    for name in ("a.parquet", "a.csv"):
        table = predictions(ROWS, P, threshold=0.6)
        assert list(table) == ["case", "group", "part", "target", "probability", "called", "slide_id"]
        found = read_predictions(write_predictions(tmp_path / name, table))
        pd.testing.assert_frame_equal(found, table, check_dtype=False)
        assert found["case"].tolist() == ["NA", "007", "x"] and found["group"].tolist() == ["P1", "01", "P2"]
        assert found["called"].tolist() == [0, 1, 0] and scores(found).tolist() == P.tolist()
        np.testing.assert_allclose(probabilities(found), np.column_stack([1 - P, P]))


def test_calibrated_probabilities_are_what_counts() -> None:
    table = predictions(ROWS, P, calibrated=P / 5, called=np.array([1, 0, 1]))
    assert scores(table).tolist() == (P / 5).tolist() and table["called"].tolist() == [1, 0, 1]
    assert table["probability"].tolist() == P.tolist()


def test_several_classes_have_a_column_each_and_the_most_probable_is_called(tmp_path: Path) -> None:
    answers = np.array([[0.2, 0.5, 0.3], [0.6, 0.1, 0.3], [0.1, 0.1, 0.8]])
    table = predictions(ROWS, answers, ("MEL", "NV", "BCC"))
    assert list(table)[4:8] == ["p_MEL", "p_NV", "p_BCC", "called"] and table["called"].tolist() == [1, 0, 2]
    np.testing.assert_array_equal(scores(read_predictions(write_predictions(tmp_path / "a.parquet", table))), answers)
    two = predictions(ROWS, answers[:, :2] / answers[:, :2].sum(axis=1, keepdims=True), ("nevus", "MM"), threshold=0.7)
    assert scores(two).shape == (3,) and two["called"].tolist() == [1, 0, 0]
    assert decided(two, 0.4).tolist() == [1, 0, 1]


def test_nobody_judged_is_a_table_too(tmp_path: Path) -> None:
    table = predictions(ROWS.iloc[:0], P[:0], calibrated=P[:0], called=P[:0])
    for name in ("a.parquet", "a.csv"):
        assert read_predictions(write_predictions(tmp_path / name, table)).empty


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"group": None}, "the columns group are missing"),
        ({"probability": None}, "the columns probability are missing"),
        ({"case": ["a", "a", "b"]}, "case 'a' stands in it twice"),
        ({"case": [1, 2, 3]}, "case is not of text"),
        ({"group": ["a", "", "b"]}, "group is not of text, or empty somewhere"),
        ({"target": [0, 1, 2]}, "target holds other numbers"),
        ({"target": [0.0, 1.0, np.nan]}, "target is not of integers"),
        ({"called": [0, -1, 1]}, "called holds other numbers"),
        ({"probability": [0.1, np.nan, 0.2]}, "probability holds what is no probability"),
        ({"probability": [0.1, 1.5, 0.2]}, "probability holds what is no probability"),
        ({"calibrated": [0.1, 1.5, 0.2]}, "calibrated holds what is no probability"),
        ({"p_MEL": [0.1, 0.5, 0.2]}, "p_MEL are not the probabilities of two classes"),
        ({"probability": None, "p_A": [0.5, 0.5, 0.5], "p_B": [0.5, 0.4, 0.5]}, "p_A, p_B do not add up to 1"),
    ],
)
def test_what_is_not_of_the_form_is_not_written_and_not_read(tmp_path: Path, change: dict, words: str) -> None:
    table = predictions(ROWS, P)
    for name, values in change.items():
        table = table.drop(columns=name) if values is None else table.assign(**{name: values})
    path = tmp_path / "a.parquet"
    with pytest.raises(RunError, match=words):
        write_predictions(path, table)
    assert not path.exists()
    table.to_parquet(path)
    with pytest.raises(InputError, match=f"a.parquet: not of the form of predictions.*{words}"):
        read_predictions(path)


def test_a_damaged_file_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(b"torn")
    with pytest.raises(InputError, match="cannot be read") as error:
        read_predictions(tmp_path / "a.parquet")
    assert "\n" not in str(error.value)


@contextmanager
def killed_after(writes: int, folder: Path) -> Iterator[None]:
    """The process is ended when it has written so many files; `folder`.killed is `folder` as a SIGKILL leaves it then,
    while this one still closes its run."""
    left, replace = iter(range(writes)), Path.replace

    def write(self: Path, target: Path) -> Path:
        if next(left, None) is None:
            shutil.copytree(folder, folder.with_suffix(".killed"))
            raise KeyboardInterrupt
        return replace(self, target)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "replace", write)
        yield


def restating(folder: Path, threshold: float, writes: int | None = None) -> tuple[list[int], list[str]]:
    """A session that trains unless that is done, and wants this threshold: what is called, and what was done anew.

    Args:
        folder: of the run.
        threshold: of the model's sidecar.
        writes: after which the process is killed; None: it is not.
    """
    model = folder / "models" / "m.keras"
    with Run(folder, "spitzoid", {"threshold": threshold}, 1, print) as run:

        def train(_: Path) -> list[Path]:
            run.path("models", "m.keras").write_bytes(b"weights")
            card = Sidecar("k", ("benign", "malignant"), 8, {}, 0.5, "fixed", {})
            table = run.path("predictions", "m.csv")
            return [model, card.write(model), write_predictions(table, predictions(ROWS, P, threshold=0.5))]

        run.step("train", {}, train)
        with nullcontext() if writes is None else killed_after(writes, folder):
            restate(run, "train", model, lambda card: Sidecar(**{**vars(card), "threshold": threshold}))
        assert run.finished("train", run.key("train", {}))
        return read_predictions(run.folder / "predictions" / "m.csv")["called"].tolist(), run.repeated


def test_another_threshold_decides_the_predictions_anew_and_repeats_nothing(tmp_path: Path) -> None:
    assert restating(tmp_path / "run", 0.5) == ([0, 1, 1], ["train"])
    assert restating(tmp_path / "run", 0.2) == ([1, 1, 1], [])
    assert restating(tmp_path / "run", 0.9) == ([0, 0, 0], [])


# Files written: made.json without them, the mark, the predictions, the sidecar, the step's state, made.json.
WRITES = range(6)


@pytest.mark.parametrize("wanted, called", [(0.2, [1, 1, 1]), (0.5, [0, 1, 1]), (0.9, [0, 0, 0])])
@pytest.mark.parametrize("writes", WRITES)
def test_a_restating_that_was_killed_costs_no_training_and_is_done_by_the_next_session(
    tmp_path: Path, writes: int, wanted: float, called: list[int]
) -> None:
    folder = tmp_path / "run"
    restating(folder, 0.5)
    with pytest.raises(KeyboardInterrupt):
        restating(folder, 0.2, writes)
    begun = {why.partition(" when")[0] for _, why in faults(folder)}
    assert begun == ({"was being written anew"} if writes in (3, 4) else set()), "doctor takes it for no damage"
    assert restating(folder, wanted) == (called, []), "the training stands"
    assert Sidecar.read(folder / "models" / "m.keras").threshold == wanted
    assert faults(folder) == [] and "restating" not in (folder / "steps" / "train.json").read_text()
    assert shown(folder, wanted) == (called, wanted)


def test_a_session_that_ends_before_it_restated_what_it_kept_shows_nothing_of_it(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    restating(folder, 0.5)

    def interrupted(card: Sidecar) -> Sidecar:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), Run(folder, "spitzoid", {"threshold": 0.2}, 1, print) as run:
        assert run.stands("train", run.key("train", {}))
        restate(run, "train", folder / "models" / "m.keras", interrupted)
    assert shown(folder, 0.2) == (None, None) and shown(folder, 0.5) == ([0, 1, 1], 0.5)
    assert restating(folder, 0.2) == ([1, 1, 1], []) and shown(folder, 0.2) == ([1, 1, 1], 0.2)


def shown(folder: Path, threshold: float) -> tuple[list[int] | None, float | None]:
    """What a session of this threshold that asks for something else leaves to be shown: decisions, the sidecar's
    threshold; None where none is."""
    with Run(folder, "spitzoid", {"threshold": threshold}, 1, print):
        pass
    standing, model = Standing(folder, read_record(folder)), folder / "models" / "m.keras"
    table = folder / "predictions" / "m.csv"
    called = read_predictions(table)["called"].tolist() if standing.holds(table) else None
    return called, Sidecar.read(model).threshold if standing.holds(Sidecar.path(model)) else None


@pytest.mark.parametrize("kind", ["", ".killed"])  # by Ctrl-C, by SIGKILL
@pytest.mark.parametrize("writes", WRITES)
def test_decisions_of_one_threshold_are_not_shown_under_another_after_a_kill(
    tmp_path: Path, writes: int, kind: str
) -> None:
    restating(tmp_path / "run", 0.5)
    assert shown(tmp_path / "run", 0.5) == ([0, 1, 1], 0.5)
    with pytest.raises(KeyboardInterrupt):
        restating(tmp_path / "run", 0.2, writes)
    folder = tmp_path / f"run{kind}"
    for threshold, called in ((0.5, [0, 1, 1]), (0.2, [1, 1, 1]), (0.5, [0, 1, 1])):
        found = shown(folder, threshold)
        assert found[0] in (None, called) and found[1] in (None, threshold), threshold
    assert restating(folder, 0.5) == ([0, 1, 1], []) and shown(folder, 0.5) == ([0, 1, 1], 0.5)


def test_what_was_being_restated_must_be_there(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    restating(folder, 0.5)
    with pytest.raises(KeyboardInterrupt):
        restating(folder, 0.2, writes=2)
    (folder / "predictions" / "m.csv").unlink()
    assert restating(folder, 0.2) == ([1, 1, 1], ["train"])
