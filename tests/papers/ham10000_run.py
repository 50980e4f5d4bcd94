"""One tiny run of `weighting --preset ham10000` on phantom images, shared by all tests of the session."""

import pytest

from melano_tf import run
from tests.papers.tiny import Finished, TinyRun

PRESET = ("--preset", "ham10000", "--phantom.patients", "40", "--phantom.height-px", "64", "--workers", "1")
HAM10000 = (
    *("--jobs", "1"),
    *(*PRESET, "--threads", "1", "--store.stored-px", "40", "--network.input-px", "48", "--training.flat-epochs", "2"),
    *("--transfer.best-epochs", "1", "--transfer.folds", "2", "--evaluation.repeats", "50"),
    *("--transfer.strategy-folds", "1", "2"),
    *("--transfer.regular.averaging", "0.9", "--transfer.regular.mixup", "0.2", "--transfer.regular.cameras", "0.5"),
    *("--transfer.regular.smoothing", "0.05", "--transfer.regular.adjustment", "0.5"),
    *("--transfer.regular.strategy", "cb", "--transfer.regular.strategy-from", "0.5"),
    *("--transfer.regular.distil", "0.5", "--transfer.teachers", "2"),
)


@pytest.fixture(scope="session")
def tiny_ham10000(tmp_path_factory: pytest.TempPathFactory) -> TinyRun:
    """All tables and figures of the preset on forty tiny phantom patients; done in this process."""
    folder = tmp_path_factory.mktemp("ham10000") / "run"
    with pytest.MonkeyPatch.context() as patch:
        for module in ("training.tensorflow_runtime", "papers.shell"):
            patch.setattr(f"melano_tf.{module}.configure", lambda threads, *_, **__: threads or 1)
        assert run.main(["weighting", "--out", str(folder), *HAM10000]) == 0
    return TinyRun(folder, Finished(0, "", ""))
