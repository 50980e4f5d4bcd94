"""What is wrong with a run's files, as `doctor --run` says it."""

from pathlib import Path

from melano_tf.runs.file_integrity import faults
from tests.runs.test_run_folder import open_run, write


def do_a_step(folder: Path) -> None:
    """A session of one step, which is done or stands."""
    with open_run(folder) as opened:
        opened.step("a", {}, lambda scratch: write(opened, "one", "1"))


def test_a_run_with_steps_that_does_not_know_its_files_is_named(tmp_path: Path) -> None:
    with open_run(tmp_path):
        pass
    assert not (tmp_path / "made.json").exists() and faults(tmp_path) == []  # nothing was done yet
    do_a_step(tmp_path)
    assert faults(tmp_path) == []
    (tmp_path / "made.json").unlink()
    [(name, why)] = faults(tmp_path)
    assert name == "made.json" and why.startswith("is missing")
    do_a_step(tmp_path)
    assert faults(tmp_path) == []
