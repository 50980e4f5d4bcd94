"""One tiny run of the ZooME paper on phantom images, shared by all tests of the session."""

from pathlib import Path

import pytest

from tests.papers.tiny import Finished, TinyRun, command

# Everything that both tables and all figures need, as small as it goes.
ZOOME = (
    *("--jobs", "1", "--threads", "1"),
    *("--phantom.patients", "40", "--phantom.height-px", "64", "--store.stored-px", "40", "--network.input-px", "32"),
    *("--folds.count", "2", "--training.epochs", "1", "--evaluation.repeats", "100", "--evaluation.permutations", "2"),
    *("--workers", "1"),
)
ALL_OF_ZOOME = ("--tables", "1,2", "--comparators")


def zoome(out: Path, *arguments: str) -> Finished:
    """The tiny run, or part of it, in `out`, in a process of its own; later arguments win."""
    return command("zoome", "--out", str(out), *ZOOME, *arguments)


@pytest.fixture(scope="session")
def tiny_zoome(tmp_path_factory: pytest.TempPathFactory) -> TinyRun:
    """Both tables and all figures of the ZooME paper on forty tiny phantom patients."""
    folder = tmp_path_factory.mktemp("zoome") / "run"
    first = zoome(folder, *ALL_OF_ZOOME)
    assert first.code == 0, first.errors
    return TinyRun(folder, first)
