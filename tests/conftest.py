"""What every test may use. TensorFlow's start-up chatter is silenced before anything imports it."""

import os
from pathlib import Path

import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--real-data", type=Path, default=None, help="folder of real data; tests that need it are skipped")


@pytest.fixture(scope="session")
def real_data(request: pytest.FixtureRequest) -> Path:
    """The folder given by --real-data; the test is skipped where none was given."""
    folder = request.config.getoption("--real-data")
    if folder is None:
        pytest.skip("needs real data: pytest --real-data=PATH")
    if not folder.is_dir():
        pytest.fail(f"--real-data {folder}: no such folder")
    return folder
