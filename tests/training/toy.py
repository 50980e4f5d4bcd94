"""A small training that uses all that a checkpoint must hold; also run as a script by the tests that kill it.

Script: `toy.py MODE FOLDER` with MODE
    train    train in FOLDER, printing "step N" after each step; from the second on a checkpoint lies there
    check    finish FOLDER, train the same elsewhere without a break, and print both digests, and those of trainings
             that are interrupted within and between epochs
"""

import contextlib
import hashlib
import math
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from melano_tf.splits.disjoint_sides import Sides
from melano_tf.training.checkpoint import training_variables
from melano_tf.training.loop import GradientStep, History, LoopSettings, train
from melano_tf.training.losses import categorical_crossentropy
from melano_tf.training.optimizers import make_optimizer

EPOCHS, STEPS = 4, 5


class ToyBatches:
    """Batches of 6 images (the epoch's last: 4) with two classes, a pure function of (seed, step)."""

    def __init__(self, steps_per_epoch: int = STEPS, seed: int = 3, px: int = 8) -> None:
        self.steps_per_epoch, self.seed, self.px = steps_per_epoch, seed, px
        self.asked: list[int] = []

    def batch(self, step: int) -> dict[str, Any]:
        size = 4 if step % self.steps_per_epoch == self.steps_per_epoch - 1 else 6
        draw = np.random.default_rng([self.seed, step])
        y = draw.integers(0, 2, size)
        x = draw.normal(size=(size, self.px, self.px, 3)) + y[:, None, None, None]
        return {
            "x": tf.constant(x, tf.float32),
            "y": tf.constant(y, tf.int32),
            "weight": tf.constant(draw.uniform(0.5, 1.5, size), tf.float32),
            "id": tf.constant([f"s{step}-{index}" for index in range(size)]),
        }

    def from_step(self, step: int) -> Iterator[dict[str, Any]]:
        self.asked.append(step)
        while True:
            yield self.batch(step)
            step += 1


def everyone(epochs: int) -> Sides:
    """Whom `ToyBatches` hold in these epochs."""
    names = [f"s{step}-{index}" for step in range(epochs * STEPS) for index in range(6)]
    return Sides({name: name for name in names}, names)


def toy_model(dropout: float = 0.4, batch_norm: bool = True, px: int = 8) -> keras.Model:
    inputs = keras.Input((px, px, 3))
    x = keras.layers.Conv2D(4, 3, activation="relu")(inputs)
    if batch_norm:
        x = keras.layers.BatchNormalization()(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    x = keras.layers.Dropout(dropout)(x)
    return keras.Model(inputs, keras.layers.Dense(2)(x))


def toy_loss(batch: Any, outputs: Any) -> Any:
    return categorical_crossentropy(batch["y"], outputs)


def toy_optimizer() -> Any:
    boundaries = [math.ceil(fraction * EPOCHS * STEPS) - 1 for fraction in (0.5, 0.75)]
    schedule = keras.optimizers.schedules.PiecewiseConstantDecay(boundaries, [0.1, 0.01, 0.001])
    return make_optimizer("sgd", schedule, momentum=0.9, nesterov=True)


def run_toy(folder: Path, seconds: float = 0.0, **hooks: Any) -> tuple[keras.Model, Any, History]:
    keras.utils.set_random_seed(11)
    model, optimizer = toy_model(), toy_optimizer()
    step = GradientStep(model, optimizer, toy_loss)
    settings = LoopSettings(EPOCHS, checkpoint_seconds=seconds, log_every=2)
    return model, optimizer, train(step, ToyBatches(), settings, folder, model, optimizer, **hooks)


def digest(model: Any, optimizer: Any) -> str:
    """Weights, seed states, statistics and optimizer slots."""
    values = [np.asarray(variable).tobytes() for variable in training_variables(model, optimizer)]
    return hashlib.sha256(b"|".join(values)).hexdigest()


class Interrupted(Exception):
    pass


def _interrupted(folder: Path, at: int, seconds: float) -> str:
    def stop(done: int, loss: float, waiting: float) -> None:
        if done == at:
            raise Interrupted

    with contextlib.suppress(Interrupted):
        run_toy(folder, seconds, progress=stop)
    model, optimizer, _ = run_toy(folder, seconds)
    return digest(model, optimizer)


def say(*words: Any) -> None:
    sys.stdout.write(" ".join(map(str, words)) + "\n")
    sys.stdout.flush()


def _step_is_done(folder: Path, done: int) -> None:
    """Say so, not before the first step's checkpoint, which is written beside the training, lies there."""
    until = time.monotonic() + 60
    while done > 1 and not (folder / "checkpoint.npz").exists():
        if time.monotonic() > until:
            raise TimeoutError("no checkpoint within a minute")
        time.sleep(0.001)
    say("step", done)


def main(mode: str, folder: Path) -> None:
    tf.config.experimental.enable_op_determinism()
    if mode == "train":
        run_toy(folder, progress=lambda done, loss, waiting: _step_is_done(folder, done))
        return
    model, optimizer, history = run_toy(folder)
    say("resumed", digest(model, optimizer), [record["loss"] for record in history])
    model, optimizer, history = run_toy(folder.with_name("unbroken"))
    say("unbroken", digest(model, optimizer), [record["loss"] for record in history])
    for at in (1, STEPS - 1, STEPS, STEPS + 2):
        say("interrupted", at, _interrupted(folder.with_name(f"at{at}"), at, 0.0))
    say("nothing saved", 7, _interrupted(folder.with_name("unsaved"), 7, 1e9))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
