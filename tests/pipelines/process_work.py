"""What the tests' worker processes do: a module of its own, which a spawned process can import by name."""

import os
import signal
import time
from pathlib import Path
from typing import Any

from melano_tf.pipelines.slide_cutting import write_slide
from melano_tf.pipelines.slide_outcome import SlideOutcome


def work(item: int) -> tuple[int, int]:
    """Squares its item; 3 kills its process, 99 raises."""
    if item == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    if item == 99:
        raise ValueError("no such item")
    time.sleep(0.02)
    return item * item, os.getpid()


def dies_once(mark: str) -> str:
    """Kills its process unless the file of that name exists."""
    if not Path(mark).exists():
        Path(mark).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return mark


def report_and_wait(folder: str) -> None:
    """Leaves its process id in the folder, then works for a long time."""
    (Path(folder) / str(os.getpid())).touch()
    time.sleep(60)


def nap(seconds: float) -> None:
    """Takes so long."""
    time.sleep(seconds)


def cut_or_die(slide: tuple[Any, int], **how: Any) -> SlideOutcome:
    """`tile_store._cut`, which slide "b" crashes."""
    if slide[0]["slide_id"] == "b":
        os.kill(os.getpid(), signal.SIGABRT)
    return write_slide(slide[0], threads=slide[1], **how)


def write_and_die(*_: Any, **__: Any) -> SlideOutcome:
    """A slide that aborts whoever cuts it."""
    os.kill(os.getpid(), signal.SIGABRT)
    raise AssertionError


def serve_and_die(*_: Any) -> None:
    """A slide that aborts whoever opens it."""
    os.kill(os.getpid(), signal.SIGABRT)


def dies_so_often(item: tuple[str, int]) -> int:
    """How often it was begun, by a file that says so; kills its process the first so many times."""
    path, times = Path(item[0]), item[1]
    with path.open("a") as file:
        file.write("begun\n")
    begun = len(path.read_text().splitlines())
    if begun <= times:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.2)
    return begun
