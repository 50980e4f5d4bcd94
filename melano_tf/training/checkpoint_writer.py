"""Checkpoints written beside the training, from a copy of its state, and seldom enough to cost next to nothing."""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from melano_tf.training.checkpoint import Snapshot, write_snapshot

MOST_OF_THE_TIME = 0.01


class CheckpointWriter:
    """Writes a training's checkpoints one at a time in a thread of its own.

    Args:
        path: of the newest checkpoint; the one before stays beside it.
        variables: see `checkpoint.training_variables`.
        seconds: least time between two checkpoints; more where they would take over `MOST_OF_THE_TIME`. 0: after every
            step, each written before the next step.
    """

    def __init__(self, path: Path, variables: Sequence[Any], seconds: float) -> None:
        self._path, self._variables, self._seconds = path, variables, seconds
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._running: Future[float] | None = None
        self._then: Callable[[], None] = lambda: None
        self._begun = time.monotonic()
        self._copying = self._cost = 0.0

    @property
    def due(self) -> bool:
        """Whether it is time for the next one."""
        if self._seconds == 0:
            return True
        if self._running is not None:
            return False
        return time.monotonic() - self._begun >= max(self._seconds, self._cost / MOST_OF_THE_TIME)

    def save(self, state: dict[str, Any], then: Callable[[], None], wait: bool = False) -> None:
        """Copy the variables now and write them, after the one that is being written.

        Args:
            state: see `checkpoint.Snapshot.of`; as it is now.
            then: called, by the thread that calls `save` and `collect`, once the file is on disk.
            wait: until it is.

        Raises:
            OSError: this one, or the one before, could not be written.
        """
        self.collect(wait=True)
        self._begun = time.monotonic()
        snapshot = Snapshot.of(self._variables, state)
        self._copying = time.monotonic() - self._begun
        self._running, self._then = self._pool.submit(_written, self._path, snapshot), then
        if wait or self._seconds == 0:
            self.collect(wait=True)

    def collect(self, wait: bool = False) -> None:
        """Take note of a checkpoint that was written meanwhile.

        Raises:
            OSError: it could not be.
        """
        if self._running is None or not (wait or self._running.done()):
            return
        running, self._running = self._running, None
        self._cost = self._copying + running.result()
        self._then()

    def close(self) -> None:
        """Wait for what is being written, and end the thread."""
        try:
            self.collect(wait=True)
        finally:
            self._pool.shutdown()


def _written(path: Path, snapshot: Snapshot) -> float:
    """Write a checkpoint; the seconds of processor time that it took from the training."""
    started = time.thread_time()
    write_snapshot(path, snapshot)
    return time.thread_time() - started
