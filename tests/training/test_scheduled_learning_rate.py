import math

import keras
import numpy as np
import pytest
import tensorflow as tf

from melano_tf.errors import InputError
from melano_tf.training.optimizers import make_optimizer
from melano_tf.training.scheduled_learning_rate import ScheduledStep
from melano_tf.training.steps import Progress


def progress(step: int, steps: int) -> Progress:
    return Progress(*(tf.constant(number, tf.int64) for number in (step, 0, steps, 1)))


@pytest.mark.parametrize("steps", [1, 7, 40, 41])
def test_the_rate_is_the_schedules(steps: int) -> None:
    optimizer = make_optimizer("sgd", 0.5)
    seen: list[float] = []
    step = ScheduledStep(
        lambda batch, now: seen.append(float(optimizer.learning_rate)) or {"loss": 0.0},
        optimizer,
        0.5,
        (0.5, 0.75),
        0.1,
    )
    for at in range(steps):
        step({}, progress(at, steps))
    # Keras keeps values[i] while step <= boundaries[i]; the change belongs to the step after the boundary.
    boundaries = [math.ceil(fraction * steps) - 1 for fraction in (0.5, 0.75)]
    schedule = keras.optimizers.schedules.PiecewiseConstantDecay(boundaries, [0.5, 0.05, 0.005])
    expected = [float(schedule(at)) for at in range(steps)]
    np.testing.assert_allclose(seen, expected, rtol=1e-6)


def test_another_length_is_another_rate_without_a_new_step() -> None:
    optimizer = make_optimizer("adam", 1.0)
    step = ScheduledStep(lambda batch, now: {"loss": 0.0}, optimizer, 1.0, (0.5,), 0.1)
    step({}, progress(6, 10))
    assert float(optimizer.learning_rate) == pytest.approx(0.1)
    step({}, progress(6, 100))
    assert float(optimizer.learning_rate) == 1.0


@pytest.mark.parametrize(
    ("fractions", "rate", "factor"),
    [
        ((0.7, 0.5), 0.1, 0.1),
        ((0.5, 0.5), 0.1, 0.1),
        ((0.0,), 0.1, 0.1),
        ((1.0,), 0.1, 0.1),
        ((0.5,), 0.0, 0.1),
        ((0.5,), math.inf, 0.1),
        ((0.5,), 0.1, 0.0),
    ],
)
def test_what_is_no_schedule_is_refused(fractions: tuple[float, ...], rate: float, factor: float) -> None:
    with pytest.raises(InputError):
        ScheduledStep(lambda batch, now: {}, make_optimizer("sgd", 1.0), rate, fractions, factor)
