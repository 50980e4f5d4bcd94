"""One tiny run of the spitzoid paper on phantom slides, shared by all tests of the session."""

import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from melano_tf import run
from melano_tf.runs.sidecar import Sidecar
from tests import forked

CHECKOUT = Path(__file__).parents[2]
# Everything that the paper's five tables and four figures need, as small as it goes.
TINY = (
    *("--jobs", "1", "--threads", "1", "--workers", "1"),
    *("--phantom.patients", "14", "--phantom.malignant-share", "0.5", "--phantom.second-slide-share", "0.1"),
    *("--phantom.width-um", "800", "900", "--phantom.height-um", "600", "700"),
    *("--store.stored-px", "96", "--source.input-px", "48", "--source.epochs", "2", "--target.epochs", "1"),
    *(
        "--split.folds",
        "2",
        "--target.max-tiles",
        "6",
        "--evaluation.repeats",
        "200",
        "--maps.slides",
        "2",
        "--maps.thumbnail-mpp",
        "4",
    ),
)
EVERYTHING = ("--tables", "1,2,3,4,5", "--figures", "6,7,8,9")


@dataclass(frozen=True)
class Finished:
    """A command that has run."""

    code: int
    shown: str
    errors: str


def command(*arguments: str, cwd: Path = CHECKOUT) -> Finished:
    """`python -m melano_tf.run …` as a user gives it, in a process of its own (see `tests.forked`)."""
    return Finished(*forked.start(*arguments, cwd=cwd).wait())


def started_anew(*arguments: str) -> Finished:
    """The same in a process that imports TensorFlow itself, as a user's does."""
    line = [sys.executable, "-m", "melano_tf.run", *arguments]
    done = subprocess.run(line, capture_output=True, text=True, cwd=CHECKOUT, check=False)
    return Finished(done.returncode, done.stdout, done.stderr)


@pytest.fixture
def inside(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Finished]:
    """The same commands in this process, which has TensorFlow at hand already: seconds faster each.

    Threads and determinism cannot be set once TensorFlow is at work, so what trains and is compared by its weights
    runs in a process of its own.
    """
    monkeypatch.setattr("melano_tf.training.tensorflow_runtime.configure", lambda threads, *_, **__: threads or 1)
    monkeypatch.setattr("melano_tf.papers.shell.configure", lambda threads, *_, **__: threads or 1)

    def call(*arguments: str) -> Finished:
        try:
            code = run.main(arguments)
        except SystemExit as stop:  # from the parser
            code = int(stop.code or 0)
        shown = capsys.readouterr()
        return Finished(code, shown.out, shown.err)

    return call


def spitzoid(out: Path, *arguments: str) -> Finished:
    """The tiny run, or part of it, in `out`; later arguments win."""
    return command("spitzoid", "--out", str(out), *TINY, *arguments)


def weights_of(folder: Path) -> dict[str, str]:
    """What each trained model of a run holds, by the digest of its weights."""
    return {path.name: Sidecar.read(path).run["weights_sha256"] for path in sorted((folder / "models").glob("*.keras"))}


@dataclass(frozen=True)
class TinyRun:
    """The shared run's folder, and what it showed. Tests that change it work on a copy."""

    folder: Path
    first: Finished


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> TinyRun:
    """All tables and figures of the spitzoid paper on fourteen tiny phantom patients."""
    folder = tmp_path_factory.mktemp("spitzoid") / "run"
    first = spitzoid(folder, *EVERYTHING)
    assert first.code == 0, first.errors
    return TinyRun(folder, first)
