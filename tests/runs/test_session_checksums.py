"""How often a session reads a run's files for their checksums, and what a person sees of it."""

import hashlib
from collections import Counter
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from melano_tf.runs import atomic_files, file_integrity, session_checksums
from melano_tf.runs.run_folder import Run
from tests.runs.test_run_folder import open_run


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each file was read whole, by name."""
    counted, real = Counter[str](), hashlib.file_digest

    def file_digest(file: BinaryIO, name: str) -> Any:
        counted[Path(file.name).name] += 1
        return real(file, name)

    monkeypatch.setattr(hashlib, "file_digest", file_digest)
    return counted


def cut(run: Run, *slides: str) -> list[Path]:
    """Slides' tiles; of those that stand nothing is written, as `tile_store.write_cohort` does."""
    files = [run.path("tiles", f"{slide}.tfrecord") for slide in slides]
    for file in files:
        if not file.exists():
            with atomic_files.atomic(file) as temporary:
                temporary.write_text(f"tiles of {file.stem}")
    return files


def session(folder: Path, *slides: str) -> Run:
    with open_run(folder) as run:
        run.step("tiles", {"slides": slides}, lambda scratch: cut(run, *slides))
        run.step("tiles", {"slides": slides}, lambda scratch: cut(run, *slides))  # asked for again
    return run


def test_each_file_is_read_once_a_session(tmp_path: Path, read: Counter[str]) -> None:
    session(tmp_path, "a", "bb")
    assert read == {"a.tfrecord": 1, "bb.tfrecord": 1}
    read.clear()
    assert session(tmp_path, "a", "bb").repeated == []
    assert read == {"a.tfrecord": 1, "bb.tfrecord": 1}, "another session looks again"
    read.clear()
    assert session(tmp_path, "a", "bb", "ccc").repeated == ["tiles"]  # a slide was added
    assert read == {"a.tfrecord": 1, "bb.tfrecord": 1, "ccc.tfrecord": 1}
    read.clear()
    (tmp_path / "tiles" / "bb.tfrecord").write_text("tiles of bX")
    assert session(tmp_path, "a", "bb", "ccc").repeated == ["tiles"]
    assert read == {"a.tfrecord": 1, "bb.tfrecord": 2, "ccc.tfrecord": 1}, "the damaged one, and what took its place"
    assert (tmp_path / "tiles" / "bb.tfrecord").read_text() == "tiles of bb"


def test_a_bar_shows_what_takes_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    session(tmp_path, "a", "bb")
    assert "checksums" not in capsys.readouterr().err, "in a moment"
    monkeypatch.setattr(session_checksums, "SHOWN_AFTER_S", 0.0)
    session(tmp_path, "a", "bb")
    assert "0.00/21.0" in capsys.readouterr().err
    assert file_integrity.faults(tmp_path) == []
    assert "0.00/21.0" in capsys.readouterr().err, "doctor --run too"
