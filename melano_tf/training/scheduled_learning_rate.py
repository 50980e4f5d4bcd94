"""A learning rate that is set from outside the compiled step, so that trainings of other lengths share one trace."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from melano_tf.errors import InputError
from melano_tf.training.steps import Batch, Progress, Step


class ScheduledStep:
    """A step before which the optimiser's learning rate is set: a pure function of the global step.

    The first step of a smaller rate is `ceil(fraction * steps)`, counted from 0. A schedule of Keras would be a part of
    the compiled step, and with it the number of the training's steps; here the rate is a variable.

    Args:
        step: the step that trains.
        optimizer: its Keras optimiser, made with a number as its learning rate.
        learning_rate: the rate of the first step.
        fractions: ascending shares of the training, between 0 and 1, at which the rate is multiplied by `factor`.
        factor: see there.

    Raises:
        InputError: the fractions are not ascending within 0..1, or the rate is not a positive number.
    """

    def __init__(
        self, step: Step, optimizer: Any, learning_rate: float, fractions: Sequence[float], factor: float
    ) -> None:
        if list(fractions) != sorted(set(fractions)) or not all(0 < fraction < 1 for fraction in fractions):
            raise InputError(f"fractions: {tuple(fractions)} are not ascending numbers between 0 and 1")
        if not (learning_rate > 0 and math.isfinite(learning_rate) and factor > 0):
            raise InputError(f"learning rate {learning_rate} and factor {factor}: must be above 0")
        self.step, self.optimizer = step, optimizer
        self.learning_rate, self.fractions, self.factor = learning_rate, tuple(fractions), factor

    def rate(self, step: int, steps: int) -> float:
        """The rate at a global step (from 0) of a training of so many."""
        passed = sum(step >= math.ceil(fraction * steps) for fraction in self.fractions)
        return self.learning_rate * self.factor**passed

    def __call__(self, batch: Batch, progress: Progress) -> Mapping[str, Any]:
        """Set the rate, then train on the batch."""
        self.optimizer.learning_rate.assign(self.rate(int(progress.step), int(progress.steps)))
        return self.step(batch, progress)
