"""One tiny run of the bags recipe on phantom features, shared by all tests of the session."""

from pathlib import Path

import pytest

from tests.papers.tiny import Finished, TinyRun, started_anew

BAGS = (
    *("--jobs", "1"),
    *("--phantom.patients", "24", "--phantom.tiles", "20", "--phantom.width", "12", "--phantom.signal", "3"),
    *("--models", "mean,gated,clam", "--network.hidden", "8", "--network.attention-units", "4"),
    *("--folds.count", "2", "--training.epochs", "4", "--evaluation.repeats", "100", "--threads", "1"),
)


def bags(out: Path, *arguments: str) -> Finished:
    """The tiny run, or part of it, in `out`, in a process of its own; later arguments win."""
    return started_anew("bags", "--out", str(out), *BAGS, *arguments)


@pytest.fixture(scope="session")
def tiny_bags(tmp_path_factory: pytest.TempPathFactory) -> TinyRun:
    """All tables and figures of three models on twenty-four phantom patients."""
    folder = tmp_path_factory.mktemp("bags") / "run"
    first = bags(folder)
    assert first.code == 0, first.errors
    return TinyRun(folder, first)
