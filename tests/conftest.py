"""What every test may use. TensorFlow's start-up chatter is silenced before anything imports it."""

import os
from pathlib import Path

import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

# Fixtures of the whole session that train something; several files of tests use each.
SHARED_RUNS = ("tiny_run", "multimag_run", "tiny_zoome", "tiny_weighting", "tiny_similarity", "tiny_bags")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--real-data", type=Path, default=None, help="folder of real data; tests that need it are skipped")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep what shares an expensive run on one worker: tests by the recipe's run that they use, else by their file."""
    for item in items:
        runs = [name for name in getattr(item, "fixturenames", ()) if name in SHARED_RUNS]
        item.add_marker(pytest.mark.xdist_group(runs[0] if runs else str(item.path)))


@pytest.fixture(scope="session")
def real_data(request: pytest.FixtureRequest) -> Path:
    """The folder given by --real-data; the test is skipped where none was given."""
    folder = request.config.getoption("--real-data")
    if folder is None:
        pytest.skip("needs real data: pytest --real-data=PATH")
    if not folder.is_dir():
        pytest.fail(f"--real-data {folder}: no such folder")
    return folder
