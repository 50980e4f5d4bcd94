"""What every test may use. TensorFlow is silenced, and its threads are set, before anything imports it."""

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

from tests import forked

# What Python compiles, and pytest rewrites, is kept whatever the environment says: every process of the tests needs it.
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# One process of tests a core, each with one thread: with one a core in each, they wait for each other most of the time.
for threads in ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(threads, "1")

# {recipe: the fixture of the whole session that trains it}; several files of tests use each.
SHARED_RUNS = {
    "spitzoid": "tiny_run",
    "multimag": "multimag_run",
    "zoome": "tiny_zoome",
    "weighting": "tiny_weighting",
    "similarity": "tiny_similarity",
    "bags": "tiny_bags",
}
PRESETS = ("ham10000",)  # that have a shared run of their own beside their recipe's
FOLDERS = ("tests/dermoscopy/", "tests/serving/")  # whose files share drawn data sets, or models and their exports
MEMORY, ROOM = Path("/dev/shm"), 6 * 2**30  # bytes: more than twice what the whole suite writes


def pytest_configure(config: pytest.Config) -> None:
    """Temporary files lie in memory where it has room and nothing else was asked for: a run flushes every file that it
    writes, and on a slow disk both workers wait for it longer than they work."""
    asked = config.option.basetemp or {"TMPDIR", "PYTEST_DEBUG_TEMPROOT"} & os.environ.keys()
    if not asked and MEMORY.is_dir() and shutil.disk_usage(MEMORY).free >= ROOM:
        os.environ["PYTEST_DEBUG_TEMPROOT"] = str(MEMORY)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--real-data", type=Path, default=None, help="folder of real data; tests that need it are skipped")


def group_of(nodeid: str) -> str:
    """What shares an expensive run stays on one worker: tests of a recipe or preset, by its name in theirs; those of a
    folder of `FOLDERS`; else a file's."""
    path = nodeid.partition("::")[0]
    if path.startswith("tests/papers/"):
        named = [one for one in (*PRESETS, *SHARED_RUNS) if one in nodeid]
    else:
        named = [one for one in FOLDERS if path.startswith(one)]
    return named[0] if named else path


class ByRecipe(LoadScopeScheduling):
    """Hands whole groups to the workers. xdist's own groups (marks) are not seen by pytest 9.2 with xdist 3.8."""

    def _split_scope(self, nodeid: str) -> str:
        return group_of(nodeid)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> ByRecipe:
    """How tests are dealt to the workers."""
    return ByRecipe(config, log)


@pytest.fixture(scope="session", autouse=True)
def quick_flushes() -> Iterator[None]:
    """No test loses power: `os.fsync` waits for no disk here; who looks at flushes sees the calls all the same."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", forked.quick_fsync)
        yield


@pytest.fixture(scope="session", autouse=True)
def no_quota() -> Iterator[None]:
    """Tests that give this process other cores have them in a container with a quota too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("melano_tf.environment.OWN_GROUPS", Path("none"))
        yield


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Chromium for the tests of the atlas, started once a worker; skipped where there is none."""
    pytest.importorskip("bokeh", reason="needs Bokeh: pip install 'melano_tf[view]'")
    from tests.view.browser import Browser

    opened = Browser(tmp_path_factory.mktemp("chromium"))
    yield opened
    opened.quit()


@pytest.fixture(scope="session")
def real_data(request: pytest.FixtureRequest) -> Path:
    """The folder given by --real-data; the test is skipped where none was given."""
    folder = request.config.getoption("--real-data")
    if folder is None:
        pytest.skip("needs real data: pytest --real-data=PATH")
    if not folder.is_dir():
        pytest.fail(f"--real-data {folder}: no such folder")
    return folder
