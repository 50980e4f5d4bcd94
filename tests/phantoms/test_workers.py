"""A process that is killed while it draws ends the command with one line."""

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest

from melano_tf.errors import InputError
from melano_tf.phantoms.skin import isic_data_sets as data_sets
from melano_tf.phantoms.slides import slide_drawing as drawing
from melano_tf.phantoms.workers import one_line_if_killed


def killed(*task: Any) -> None:
    """In the place of drawing."""
    os.kill(os.getpid(), signal.SIGKILL)


def marks_its_process(*task: Any) -> None:
    """In the place of drawing: a file of the process in the folder that is its first argument; until there are two."""
    import cv2

    (Path(task[0]) / str(os.getpid())).write_text(str(cv2.getNumThreads()))
    while len(list(Path(task[0]).iterdir())) < 2:
        time.sleep(0.02)


DRAWS = """
import sys, time
from pathlib import Path
from tests.phantoms import test_workers as tests
from melano_tf.phantoms.skin import isic_data_sets as data_sets
from melano_tf.phantoms.slides import slide_drawing as drawing

folder = Path(sys.argv[2])
if sys.argv[1] == "skin":
    data_sets._draw_task = tests.marks_its_process
    drawn = data_sets._spread([folder] * 32, 2)
else:
    drawing.draw_slide = tests.marks_its_process
    plans = [drawing.Plan(f"P0{place}-1", f"P0{place}", "benign", place, 0) for place in range(2)]
    drawn = drawing._draw_all(folder, plans, drawing.PhantomSettings(), 1, {"benign": None}, 2)
next(drawn)
time.sleep(60)
"""


def takes_long(*task: Any) -> None:
    """In the place of drawing: so many seconds."""
    time.sleep(task[-1])


def test_a_killed_process_is_one_line() -> None:
    pool = ProcessPoolExecutor(1, mp_context=get_context("spawn"))
    with pytest.raises(InputError, match=r"was killed.*fewer --workers") as caught, one_line_if_killed(), pool:
        pool.submit(killed).result()
    assert "\n" not in str(caught.value)


def test_both_kinds_of_phantoms_say_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(data_sets, "_draw_task", killed)
    with pytest.raises(InputError, match="was killed"):
        list(data_sets._spread([None, None], 2))  # type: ignore[list-item]
    monkeypatch.setattr(drawing, "draw_slide", killed)
    plans = [drawing.Plan(f"P0{place}-1", f"P0{place}", "benign", place, 0) for place in (1, 2)]
    with pytest.raises(InputError, match="was killed"):
        list(drawing._draw_all(tmp_path, plans, drawing.PhantomSettings(), 1, {"benign": None}, 2))  # type: ignore[dict-item]


@pytest.mark.parametrize("kind", ["skin", "slides"])
def test_an_interrupted_command_waits_for_no_drawing(
    kind: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(data_sets, "_draw_task", takes_long)
    monkeypatch.setattr(drawing, "draw_slide", takes_long)
    if kind == "skin":  # a process takes 16 images at a time
        drawn: Any = data_sets._spread([0.0] * 16 + [4.0] * 16, 2)  # type: ignore[list-item]
    else:
        labels: Any = {"benign": 0.0, "malignant": 64.0}
        plans = [drawing.Plan(f"P0{place}-1", f"P0{place}", label, place, 0) for place, label in enumerate(labels)]
        drawn = drawing._draw_all(tmp_path, plans, drawing.PhantomSettings(), 1, labels, 2)
    next(drawn)
    began = time.monotonic()
    drawn.close()  # as where the command is interrupted
    assert time.monotonic() - began < 30


@pytest.mark.parametrize("kind", ["skin", "slides"])
def test_what_draws_has_one_thread_and_ends_with_a_command_that_is_killed(kind: str, tmp_path: Path) -> None:
    line = [sys.executable, "-c", DRAWS, kind, str(tmp_path)]
    command = subprocess.Popen(line, cwd=Path(__file__).parents[2])
    deadline = time.monotonic() + 60
    try:
        while len(threads := [path.read_text() for path in tmp_path.iterdir()]) < 2 or "" in threads:
            assert time.monotonic() < deadline and command.poll() is None, "nothing was drawn"
            time.sleep(0.05)
    finally:
        command.kill()
        command.wait()
    assert threads == ["1", "1"]
    drawing_ones = [Path("/proc", path.name, "status") for path in tmp_path.iterdir()]
    deadline = time.monotonic() + 15
    while any(status.exists() and "\nState:\tZ" not in status.read_text() for status in drawing_ones):
        assert time.monotonic() < deadline, "a process that draws outlived the command"
        time.sleep(0.05)
