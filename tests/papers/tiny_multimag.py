"""One tiny run of the multimag paper on phantom slides, shared by all tests of the session."""

from pathlib import Path

import pytest

from tests.papers.tiny import Finished, TinyRun, command

# Everything that the paper's four tables and two figures need, as small as it goes; 4x is 3 µm/px here, so that small
# slides have tiles of it.
TINY = (
    *("--jobs", "1", "--threads", "1"),
    *("--phantom.patients", "12", "--phantom.second-slide-share", "0.1"),
    *("--phantom.width-um", "1300", "1350", "--phantom.height-um", "900", "950"),
    *("--grid.mpp", "3", "1", "0.5", "0.275", "--store.stored-px", "48", "--model.input-px", "48"),
    *("--model.epochs", "2", "--model.least-steps", "0", "--evaluation.repeats", "100", "--evaluation.top", "3"),
    *("--caps.separate", "40", "60", "80", "120", "--caps.mixed", "60", "40", "40", "40"),
    *("--caps.melanoma", "60", "--caps.nevus", "60", "--caps.nevi", "40"),
    *("--show.measured", "8", "--show.steps", "4", "--show.tiles", "1", "--workers", "1"),
)
EVERYTHING = ("--tables", "1,2,3,4", "--figures", "1,2")


def multimag(out: Path, *arguments: str) -> Finished:
    """The tiny run, or part of it, in `out`; later arguments win."""
    return command("multimag", "--out", str(out), *TINY, *arguments)


@pytest.fixture(scope="session")
def multimag_run(tmp_path_factory: pytest.TempPathFactory) -> TinyRun:
    """All tables and figures of the multimag paper on twelve tiny phantom patients."""
    folder = tmp_path_factory.mktemp("multimag") / "run"
    first = multimag(folder, *EVERYTHING)
    assert first.code == 0, first.errors
    return TinyRun(folder, first)
