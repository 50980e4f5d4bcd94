"""One tiny run of the sample-weighting paper on phantom images, shared by all tests of the session."""

from pathlib import Path

import pytest

from tests.papers.tiny import Finished, TinyRun, command

# Tables 1 to 3 and all figures, as small as they go.
WEIGHTING = (
    *("--jobs", "1", "--threads", "1"),
    *("--phantom.patients", "28", "--phantom.height-px", "48", "--store.stored-px", "40", "--network.input-px", "32"),
    *("--network.lstm-units", "8", "--network.embedding", "4", "--evaluation.repeats", "100", "--workers", "1"),
    *(
        "--training.flat-epochs",
        "2",
        "--training.hierarchical-epochs",
        "2",
        "--training.warm-epochs",
        "1",
        "--strategies",
        "none,cb,es+ohem",
    ),
    *("--splits.count", "2", "--log-weights", "1", "--show.rows", "CEL,CEL-CB,FL-ES+OHEM"),
)


def weighting(out: Path, *arguments: str) -> Finished:
    """The tiny run, or part of it, in `out`, in a process of its own; later arguments win."""
    return command("weighting", "--out", str(out), *WEIGHTING, *arguments)


@pytest.fixture(scope="session")
def tiny_weighting(tmp_path_factory: pytest.TempPathFactory) -> TinyRun:
    """Tables 1 to 3 and all figures on 28 tiny phantom patients, every sample weight logged."""
    folder = tmp_path_factory.mktemp("weighting") / "run"
    first = weighting(folder)
    assert first.code == 0, first.errors
    return TinyRun(folder, first)
