"""The one training loop of this project: order, resume, checkpoints, logging, and the watch for non-finite values.

What happens with a batch belongs to a `Step`; which batch comes at which global step belongs to `Batches`. Both are
pure functions of (seed, global step) and of the variables in the checkpoint. Therefore a training that is killed at
any moment and run again ends with the same bits as one that was not, provided that the step's arithmetic is
deterministic (`tf.config.experimental.enable_op_determinism()`, the same thread count and devices).
"""

import contextlib
import csv
import functools
import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import tensorflow as tf

from melano_tf.errors import InputError
from melano_tf.runs.atomic_files import atomic
from melano_tf.runs.journal import watched
from melano_tf.training.batch_norm import reduce_batch_norm
from melano_tf.training.checkpoint import load_checkpoint, training_variables
from melano_tf.training.checkpoint_writer import CheckpointWriter
from melano_tf.training.hosts import Hosts
from melano_tf.training.not_finite import not_finite_line
from melano_tf.training.steps import (
    Batch,
    GradientStep,
    Progress,
    Step,
    TrainingError,
)
from melano_tf.training.stuck_training import Watch

__all__ = [
    "Batch",
    "Batches",
    "GradientStep",
    "History",
    "LoopSettings",
    "Progress",
    "Step",
    "TrainingError",
    "Watch",
    "train",
]

CHECKPOINT = "checkpoint.npz"
READ_STEPS, READ_SECONDS = 20, 0.5
"""After so many steps, or so long, the scalars of the steps are read; until then nothing waits for the device."""
ProgressBar = Callable[[int, float, float], None]


class History(list[dict[str, float]]):
    """One record an epoch: "epoch" (from 0), "loss" and the step's other scalars (means over samples), "seconds", and
    "waiting": the share of these in which the training waited for its next batch."""

    def write(self, path: Path) -> Path:
        """Write the records as CSV, one row an epoch, atomically; returns the path."""
        names = list(dict.fromkeys(name for record in self for name in record))
        with atomic(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, names)
            writer.writeheader()
            writer.writerows(self)
        return Path(path)


@dataclass(frozen=True)
class LoopSettings:
    """How long to train, and how often to save and log.

    Attributes:
        epochs: number of epochs; the model is judged at the last one.
        checkpoint_seconds: least time between checkpoints in seconds; they are written beside the training, and less
            often where they would take more than a hundredth of its time. 0: after every step, before the next.
        log_every: global steps between two points in TensorBoard.
        watch: says when a training stands still above the class prior's loss; None: nothing is said.
    """

    epochs: int
    checkpoint_seconds: float = 30.0
    log_every: int = 50
    watch: Watch | None = None

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.log_every < 1 or self.checkpoint_seconds < 0:
            raise InputError(f"{self}: epochs and log_every must be at least 1, checkpoint_seconds at least 0")


class Batches(Protocol):
    """Batches as a pure function of the global step.

    A batch is a dict of tensors with a common first dimension B: "x" (a tensor, or a dict of tensors for a model with
    several inputs), "y", "id" (B,) strings, usually "weight" (B,); the rest is free. `from_step(step)` gives the
    batches from that global step on, without replaying the earlier ones; it may run over any number of epochs, but
    ends, if it ends, with an epoch.
    """

    @property
    def steps_per_epoch(self) -> int:
        """Batches of one epoch, the same for every epoch."""
        ...

    def from_step(self, step: int) -> Iterable[Batch]:
        """The batches from the global step `step` (from 0) on."""
        ...


def train(
    step: Step,
    batches: Batches,
    settings: LoopSettings,
    folder: Path,
    model: Any,
    optimizer: Any,
    progress: ProgressBar | None = None,
    epoch_end: Callable[[int, Mapping[str, float]], bool | None] | None = None,
    epoch_start: Callable[[int], None] | None = None,
    extra_variables: Sequence[Any] = (),
) -> History:
    """Train to the last epoch, from the folder's checkpoint where there is one.

    A finished folder only restores the variables; neither step nor batches are called. The checkpoint holds variables,
    not settings: whoever changes a setting chooses another folder.

    Of a model that lies on several hosts (`training.hosts`) all of them call this. The chief alone reads and writes the
    folder and says where the training stands, and whether it ends early.

    TensorBoard's files are in `folder/logs`: `batch/*` at every `log_every`-th global step, `epoch/*` at each epoch's
    end (step = epochs done). Points are held back until the checkpoint that covers them is on disk, and each session
    writes a new file, so that no step appears twice after a kill (in the worst case the points of one checkpoint
    interval are missing).

    Args:
        step: what is done with one batch; its scalars are averaged over the epoch's samples.
        batches: the batches by global step.
        settings: epochs and intervals.
        folder: holds checkpoint and logs; made if missing.
        model: the Keras model; all its variables are saved (also seed generators and BatchNorm statistics).
        optimizer: its Keras optimizer; built on `model.trainable_variables` if not yet built.
        progress: called for each step, once its loss was read, with (steps done since the training's start, the
            loss, the share of the present epoch's time in which it waited for a batch).
        epoch_end: called with (epoch from 0, its record) once BatchNorm statistics are reduced. After a kill it may be
            called again for the same epoch, with the same weights. Where it returns True the training ends there
            (early stopping), for good: a later call finds the folder finished.
        epoch_start: called with the epoch (from 0) before its first step, not when resuming in its middle; what it
            makes must lie in `extra_variables` or files. Batches are then asked for anew each epoch.
        extra_variables: variables beside those of model and optimizer that belong to the state.

    Returns:
        One record an epoch, also of the epochs before a resume.

    Raises:
        TrainingError: a scalar of the step is not finite (nothing is saved after it), or the batches end too early.
        InputError: the checkpoint is damaged or of another training.
    """
    if not optimizer.built:
        optimizer.build(model.trainable_variables)
    session = _Session(step, batches, settings, Path(folder), model, optimizer, extra_variables)
    session.restore()
    if session.done < session.total and not session.stopped:
        session.run(progress, epoch_start, epoch_end)
    return session.history


class _Unread(NamedTuple):
    """A step that was done: its number from 0, its samples, and what it gave, perhaps still at work on the device."""

    step: int
    samples: int
    result: Mapping[str, Any]


class _Session:
    """The state of one call of `train`."""

    def __init__(
        self,
        step: Step,
        batches: Batches,
        settings: LoopSettings,
        folder: Path,
        model: Any,
        optimizer: Any,
        extra: Sequence[Any],
    ) -> None:
        if batches.steps_per_epoch < 1:
            raise InputError("there is nothing to train on: an epoch has no batches")
        self.step, self.batches, self.settings, self.folder = step, batches, settings, folder
        self.model, self.optimizer = model, optimizer
        self.variables = training_variables(model, optimizer, extra)
        self.hosts = Hosts.of_model(model)
        self.writes = self.hosts is None or self.hosts.chief
        self.total = settings.epochs * batches.steps_per_epoch
        self.done = 0
        self.stopped = False  # by `epoch_end`, before the last epoch
        self.history = History()
        self.sums: dict[str, float] = {}  # of the epoch at hand; "samples" is the divisor
        self.seconds = self.waited = 0.0  # of the epoch at hand; in the second the batch was not there yet
        self.unread: list[_Unread] = []  # steps whose scalars are still on the device
        self.last_read = time.monotonic()
        self.losses: list[tuple[int, float]] = []  # (steps done, loss), read and not shown yet
        self.points: list[tuple[str, float, int]] = []  # for TensorBoard, not yet written
        self.writer: Any = None
        self.iterator: Iterator[Batch] | None = None
        self.last_batch: tuple[int, Batch] = (-1, {})
        self.last_scalars: dict[str, float] = {}

    def restore(self) -> None:
        """Take up the folder's checkpoint, if there is one."""
        path = self.folder / CHECKPOINT
        state = load_checkpoint(path, self.variables) if self.writes else None
        if self.hosts is not None:
            state = json.loads(self.hosts.told(json.dumps(state)))
            self.hosts.take_chiefs(self.variables)
        if state is None:
            return
        if state["steps_per_epoch"] != self.batches.steps_per_epoch or state["step"] > self.total:
            raise InputError(
                f"{path}: stands at step {state['step']} of epochs with {state['steps_per_epoch']} batches, which does "
                f"not fit {self.settings.epochs} epochs with {self.batches.steps_per_epoch}; choose another folder"
            )
        self.done, self.history = state["step"], History(state["history"])
        self.stopped = bool(state.get("stopped", False))
        self.sums, self.seconds, self.waited = state["sums"], state["seconds"], state.get("waited", 0.0)

    def save(self, writer: CheckpointWriter, wait: bool) -> None:
        """Have the checkpoint written, then the points that it covers."""
        state = {
            "step": self.done,
            "steps_per_epoch": self.batches.steps_per_epoch,
            "history": self.history,
            "sums": self.sums,
            "seconds": self.seconds,
            "waited": self.waited,
            "stopped": self.stopped,
        }
        points, self.points = self.points, []
        writer.save(state, functools.partial(self._write_points, points), wait)

    def _write_points(self, points: Sequence[tuple[str, float, int]]) -> None:
        with self.writer.as_default():
            for tag, value, at in points:
                tf.summary.scalar(tag, value, step=at)
        self.writer.flush()

    def run(
        self,
        progress: ProgressBar | None,
        epoch_start: Callable[[int], None] | None,
        epoch_end: Callable[[int, Mapping[str, float]], bool | None] | None,
    ) -> None:
        """Train from the present step to the last."""
        with self._checkpoints() as checkpoints:
            while self.done < self.total and not self.stopped:
                self._step_and_epoch(epoch_start, epoch_end)
                ended = self.stopped or self.done == self.total
                if checkpoints is not None:
                    checkpoints.collect()
                    if ended or checkpoints.due:
                        self._read()
                        self.save(checkpoints, wait=ended)
                self._show(progress)

    @contextlib.contextmanager
    def _checkpoints(self) -> Iterator[CheckpointWriter | None]:
        """What writes the folder's checkpoints and logs meanwhile; None where another host does."""
        if not self.writes:
            yield None
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        with watched(self.folder / "logs"):  # TensorBoard names its files itself
            self.writer = tf.summary.create_file_writer(str(self.folder / "logs"))
            self.writer.flush()
        checkpoints = CheckpointWriter(
            self.folder / CHECKPOINT, self.variables, float(self.settings.checkpoint_seconds)
        )
        try:
            yield checkpoints
        finally:
            try:
                checkpoints.close()
            finally:
                self.writer.close()

    def _step_and_epoch(
        self,
        epoch_start: Callable[[int], None] | None,
        epoch_end: Callable[[int, Mapping[str, float]], bool | None] | None,
    ) -> None:
        """One step, and what belongs to an epoch's beginning and end."""
        if self.done % self.batches.steps_per_epoch == 0 and epoch_start is not None:
            epoch_start(self.done // self.batches.steps_per_epoch)
            self.iterator = None
        began = time.monotonic()
        batch = self._next()
        self.waited += time.monotonic() - began
        self._one_step(batch)
        if len(self.unread) >= READ_STEPS or time.monotonic() - self.last_read >= READ_SECONDS:
            self._read()
        ended = self.done % self.batches.steps_per_epoch == 0
        if ended:
            self._read()
        self.seconds += time.monotonic() - began
        if ended:
            self._end_epoch(epoch_end)

    def _show(self, progress: ProgressBar | None) -> None:
        losses, self.losses = self.losses, []
        # Just after an epoch's end there is nothing of the next one yet.
        waiting = self.waited / self.seconds if self.seconds else self.history[-1]["waiting"] if self.history else 0.0
        if progress is not None:
            for done, loss in losses:
                progress(done, loss, waiting)

    def _next(self) -> Batch:
        if self.iterator is not None:
            batch = next(self.iterator, None)
            if batch is not None:
                return batch
            if self.done % self.batches.steps_per_epoch:
                raise TrainingError(
                    f"the batches ended before global step {self.done}, in the middle of an epoch of "
                    f"{self.batches.steps_per_epoch} steps"
                )
        self.iterator = iter(self.batches.from_step(self.done))
        batch = next(self.iterator, None)
        if batch is None:
            raise TrainingError(f"there are no batches from global step {self.done} on; {self.total} are expected")
        return batch

    def _one_step(self, batch: Batch) -> None:
        """Do a step; its scalars are read later."""
        epoch = self.done // self.batches.steps_per_epoch
        numbers = (self.done, epoch, self.total, self.settings.epochs)
        result = self.step(batch, Progress(*(tf.constant(number, tf.int64) for number in numbers)))
        self.unread.append(_Unread(self.done, len(batch["id"]), result))
        self.last_batch = (self.done, batch)
        self.done += 1
        if self.done % self.settings.log_every == 0:
            self._read()
            rate = float(np.asarray(self.optimizer.learning_rate))
            self._point("batch", {**self.last_scalars, "learning_rate": rate}, self.done)

    def _read(self) -> None:
        """Read the scalars of the steps since the last time, and take them into the epoch's sums.

        Raises:
            TrainingError: one is not finite; the first such step is named.
        """
        for step, samples, result in self.unread:
            scalars = {name: float(value) for name, value in result.items() if len(np.shape(value)) == 0}
            epoch, within = divmod(step, self.batches.steps_per_epoch)
            if not all(np.isfinite(value) for value in scalars.values()):
                raise TrainingError(not_finite_line(step, epoch, self._batch_of(step), result, scalars))
            if within == 0:
                self.sums = {}
            for name, value in {**scalars, "samples": 1.0}.items():
                self.sums[name] = self.sums.get(name, 0.0) + value * samples
            self.losses.append((step + 1, scalars["loss"]))
            self.last_scalars = scalars
        self.unread.clear()
        self.last_read = time.monotonic()

    def _batch_of(self, step: int) -> Batch:
        """A step's batch: the last one, or made again, for it is a function of the step."""
        if self.last_batch[0] == step:
            return self.last_batch[1]
        return next(iter(self.batches.from_step(step)))

    def _end_epoch(self, epoch_end: Callable[[int, Mapping[str, float]], bool | None] | None) -> None:
        reduce_batch_norm(self.model)
        epoch = len(self.history)
        samples = self.sums.pop("samples")
        record = {"epoch": epoch, **{name: value / samples for name, value in self.sums.items()}}
        record["seconds"] = round(self.seconds, 3)
        record["waiting"] = round(self.waited / max(self.seconds, 1e-9), 4)
        self.history.append(record)
        self.seconds = self.waited = 0.0
        self._point("epoch", {name: value for name, value in record.items() if name != "epoch"}, epoch + 1)
        if self.settings.watch is not None:
            self.settings.watch.look([each["loss"] for each in self.history])
        if epoch_end is not None:
            self.stopped = bool(epoch_end(epoch, dict(record)))
            if self.hosts is not None:  # which may differ in a last digit
                self.stopped = bool(self.hosts.told("ends" if self.stopped else ""))

    def _point(self, prefix: str, values: Mapping[str, float], at: int) -> None:
        if self.writes:
            self.points.extend((f"{prefix}/{name}", value, at) for name, value in values.items())
