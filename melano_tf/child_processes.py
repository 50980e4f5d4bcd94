"""Processes of our own, begun from whatever script or notebook uses the package."""

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
import types
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from typing import Any

_ONE = threading.Lock()


@contextlib.contextmanager
def without_script() -> Iterator[None]:
    """Processes that are begun meanwhile do not run the program's script again.

    `multiprocessing` imports it into each new process, for functions that stand in it; ours stand in modules. A script
    without `if __name__ == "__main__"` would else do its work there once more, and each of its processes again.
    """
    with _ONE:
        script = sys.modules["__main__"]
        sys.modules["__main__"] = types.ModuleType("__main__")
        try:
            yield
        finally:
            sys.modules["__main__"] = script


@contextlib.contextmanager
def ended_with(pool: ProcessPoolExecutor) -> Iterator[ProcessPoolExecutor]:
    """A pool whose processes end with this block: with what they are at, or at once where it is interrupted (Ctrl-C, a
    signal to this process alone) or where nobody asks any more for what a generator gives."""
    try:
        yield pool
    except (KeyboardInterrupt, GeneratorExit):
        _end_now(pool)
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _end_now(pool: ProcessPoolExecutor) -> None:
    """As Python 3.14's `terminate_workers`: what waits is given up first, or the pool takes its end for a crash."""
    processes = list((pool._processes or {}).values())
    pool.shutdown(wait=False, cancel_futures=True)
    for process in processes:
        process.terminate()
    for process in processes:
        process.join()


def leave_with_parent() -> None:
    """In a new worker: one thread for OpenCV, and no life after the parent's (it may be killed at any time). Ctrl-C,
    which a terminal sends to all, is the parent's, who ends it."""
    import cv2

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    cv2.setNumThreads(1)
    parent = multiprocessing.parent_process()

    def leave() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=leave, daemon=True, name="leave-with-parent").start()


@contextlib.contextmanager
def interrupts_later() -> Iterator[None]:
    """Ctrl-C and SIGTERM that come meanwhile are heard at the end of this block, for what is begun in part could not be
    ended; a second one is heard at once."""
    heard: list[int] = []

    def later(number: int, frame: object) -> None:
        heard.append(number)
        signal.signal(number, before[number])

    here = threading.current_thread() is threading.main_thread()  # no other may say what a signal does
    known: dict[int, Any] = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM) if here}
    before = {number: does for number, does in known.items() if callable(does)}  # others end the process, or do nothing
    for number in before:
        signal.signal(number, later)
    try:
        yield
    finally:
        for number, does in before.items():
            signal.signal(number, does)
        if heard:
            before[heard[0]](heard[0], None)
