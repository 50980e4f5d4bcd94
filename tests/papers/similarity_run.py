"""One tiny run of the similarity paper on phantom images, shared by all tests of the session."""

from pathlib import Path

import pytest

from tests.papers.tiny import Finished, TinyRun, command

# Every step, table and figure, as small as it goes.
SIMILARITY = (
    *("--jobs", "1"),
    *("--phantom.patients", "60", "--phantom.height-px", "64", "--phantom.sources", "HAM", "BCN"),
    *(
        "--store.stored-px",
        "40",
        "--network.input-px",
        "32",
        "--transfer.combinations",
        "1,4",
        "--transfer.epochs",
        "1",
    ),
    *("--cluster.clusters", "4", "--cluster.per-batch", "4", "--partition.test-clusters", "2", "--cluster.epochs", "2"),
    *("--evaluation.repeats", "100", "--workers", "1", "--threads", "1"),
)


def similarity(out: Path, *arguments: str) -> Finished:
    """The tiny run, or part of it, in `out`, in a process of its own; later arguments win."""
    return command("similarity", "--out", str(out), *SIMILARITY, *arguments)


@pytest.fixture(scope="session")
def tiny_similarity(tmp_path_factory: pytest.TempPathFactory) -> TinyRun:
    """All tables and figures of the similarity paper on sixty tiny phantom patients."""
    folder = tmp_path_factory.mktemp("similarity") / "run"
    first = similarity(folder)
    assert first.code == 0, first.errors
    return TinyRun(folder, first)
