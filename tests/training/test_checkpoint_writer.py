"""Checkpoints beside the training: of the moment they were asked for, seldom, the last two kept, faults said."""

import threading
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from melano_tf.errors import InputError
from melano_tf.training import checkpoint_writer
from melano_tf.training.checkpoint import before, load_checkpoint, write_snapshot
from melano_tf.training.checkpoint_writer import CheckpointWriter


@pytest.fixture
def variable() -> keras.Variable:
    return keras.Variable(np.zeros(3, np.float32), name="weights")


def test_what_is_written_is_the_state_when_it_was_asked_for(
    variable: keras.Variable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go, order, path = threading.Event(), [], tmp_path / "c.npz"

    def slow(*given: Any) -> None:
        assert go.wait(20)
        write_snapshot(*given)

    monkeypatch.setattr(checkpoint_writer, "write_snapshot", slow)
    writer = CheckpointWriter(path, [variable], seconds=1e-6)
    state = {"step": 1, "history": []}
    writer.save(state, lambda: order.append("written"))
    variable.assign(np.ones(3, np.float32))  # the training goes on
    state["history"].append({"epoch": 0})
    writer.collect()
    assert not writer.due and not path.exists() and not order
    go.set()
    writer.close()
    assert order == ["written"]
    assert load_checkpoint(path, [variable]) == {"step": 1, "history": []}
    assert np.asarray(variable).tolist() == [0, 0, 0]


def test_the_last_two_are_kept_and_a_damaged_one_gives_way(variable: keras.Variable, tmp_path: Path) -> None:
    path, writer = tmp_path / "c.npz", CheckpointWriter(tmp_path / "c.npz", [variable], seconds=0)
    for step in (1, 2, 3):
        variable.assign(np.full(3, step, np.float32))
        writer.save({"step": step}, lambda: None)
    writer.close()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["c.before.npz", "c.npz"]
    assert load_checkpoint(path, [variable]) == {"step": 3}
    path.write_bytes(path.read_bytes()[:100])
    with pytest.warns(UserWarning, match=r"c\.npz: damaged checkpoint .*the one before"):
        assert load_checkpoint(path, [variable]) == {"step": 2}
    assert np.asarray(variable).tolist() == [2, 2, 2]
    path.unlink()  # killed between the two renames
    assert load_checkpoint(path, [variable]) == {"step": 2}
    before(path).write_bytes(b"no file")
    with pytest.raises(InputError, match="damaged checkpoint"):
        load_checkpoint(path, [variable])


def test_each_checkpoint_covers_what_it_was_asked_to(
    variable: keras.Variable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second is asked for while the first is still being written."""
    go, covered = threading.Event(), []

    def slow(*given: Any) -> None:
        assert go.wait(20)
        write_snapshot(*given)

    monkeypatch.setattr(checkpoint_writer, "write_snapshot", slow)
    writer = CheckpointWriter(tmp_path / "c.npz", [variable], seconds=1e-6)
    writer.save({"step": 1}, lambda: covered.append(1))
    threading.Timer(0.2, go.set).start()
    writer.save({"step": 2}, lambda: covered.append(2))
    writer.close()
    assert covered == [1, 2] and load_checkpoint(tmp_path / "c.npz", [variable]) == {"step": 2}


def test_they_take_a_hundredth_of_the_time_at_most(
    variable: keras.Variable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [0.0]
    monkeypatch.setattr(checkpoint_writer.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(checkpoint_writer, "_written", lambda path, snapshot: 2.0)

    def copied(variables: Any, state: Any) -> None:
        clock[0] += 3.0

    monkeypatch.setattr(checkpoint_writer.Snapshot, "of", copied)
    writer = CheckpointWriter(tmp_path / "c.npz", [variable], seconds=30.0)
    waits = []
    for _ in range(3):
        begun = clock[0]
        while not writer.due:
            clock[0] += 1
        waits.append(clock[0] - begun)
        writer.save({}, lambda: None)
        writer.collect(wait=True)
    writer.close()
    assert waits == [30, 497, 497]  # 500 s after the copying began, which counts as the writing does


def test_a_full_disk_is_said(variable: keras.Variable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint_writer, "write_snapshot", full)
    writer, covered = CheckpointWriter(tmp_path / "c.npz", [variable], seconds=1.0), []
    writer.save({}, lambda: covered.append(1))
    with pytest.raises(OSError, match="No space left"):
        writer.close()
    assert not covered
