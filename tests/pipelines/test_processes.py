"""Items spread over processes: all come back, whichever of them kills its process."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import process_work
import pytest

from melano_tf.pipelines.processes import WorkerDied, spread

HERE = Path(__file__).parent


def test_no_worker_is_this_process() -> None:
    assert dict(spread(process_work.work, [1, 2], 0)) == {0: (1, os.getpid()), 1: (4, os.getpid())}


def test_one_worker_is_another_process_and_may_die() -> None:
    results = dict(spread(process_work.work, [2, 3, 4], 1))
    assert results.pop(1) == WorkerDied()
    assert {index: result[0] for index, result in results.items()} == {0: 4, 2: 16}
    assert os.getpid() not in {result[1] for result in results.values()}


def test_no_items() -> None:
    assert list(spread(process_work.work, [], 4)) == []


def test_a_dead_worker_costs_only_its_item() -> None:
    items = [0, 1, 2, 3, 4, 5, 6]
    results = dict(spread(process_work.work, items, 2))
    assert results.pop(3) == WorkerDied()
    assert {index: result[0] for index, result in results.items()} == {i: i * i for i in items if i != 3}
    assert os.getpid() not in {result[1] for result in results.values()}


def test_an_item_that_dies_once_is_repeated(tmp_path: Path) -> None:
    marks = [str(tmp_path / "a"), str(tmp_path / "b")]
    assert dict(spread(process_work.dies_once, marks, 2)) == dict(enumerate(marks))


def test_what_the_function_raises_is_raised() -> None:
    with pytest.raises(ValueError, match="no such item"):
        list(spread(process_work.work, [1, 99, 2], 2))


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_workers_do_not_outlive_a_parent_that_ends(tmp_path: Path, number: signal.Signals) -> None:
    """Killed, or interrupted: it alone is told, as by `docker stop`, and they are in the middle of a long slide."""
    code = (
        f"import signal, sys; sys.path.insert(0, {str(HERE)!r})\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # whatever the tests' own shell turned off
        "from melano_tf.pipelines.processes import spread\nimport process_work\n"
        f"list(spread(process_work.report_and_wait, [{str(tmp_path)!r}] * 2, 2))"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], cwd=HERE.parents[1], stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while len(list(tmp_path.iterdir())) < 2:
        assert time.monotonic() < deadline, "the workers did not start"
        time.sleep(0.05)
    parent.send_signal(number)
    try:
        _, errors = parent.communicate(timeout=30)
    finally:
        parent.kill()
    assert parent.returncode == -number and errors.count("Traceback") == (number == signal.SIGINT), errors
    workers = [Path("/proc") / path.name for path in tmp_path.iterdir()]
    while any(worker.exists() and "\nState:\tZ" not in (worker / "status").read_text() for worker in workers):
        assert time.monotonic() < deadline, "a worker outlived its parent"
        time.sleep(0.05)


def test_work_that_nobody_asks_for_any_more_ends_at_once() -> None:
    results = spread(process_work.nap, [0, 60], 2)
    assert next(results) == (0, None)
    began = time.monotonic()
    results.close()  # type: ignore[attr-defined]
    assert time.monotonic() - began < 30
