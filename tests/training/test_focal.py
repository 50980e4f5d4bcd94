import math
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from keras import ops

from melano_tf.training.losses import (
    binary_crossentropy,
    binary_focal,
    categorical_crossentropy,
    categorical_focal,
)

TOLERANCE = {"float16": 1e-5, "bfloat16": 1e-5, "float32": 1e-5, "float64": 1e-9}
Y = [0, 1, 1, 0, 1]
Z = [-1.25, 2.0, 0.0, 2.75, -2.75]  # exact in every float dtype, as ROWS
ROWS = [[0.5, -0.25, 1.25], [-2.125, 0.125, 1.75], [0.0625, 2.875, -1.0], [0.25, -1.5, 0.25]]
CLASSES = [1, 2, 0, 1]


def softmax(row: Any) -> list[float]:
    powers = [math.exp(value) for value in row]
    return [power / sum(powers) for power in powers]


def reference(z: np.ndarray, gamma: float) -> tuple[np.ndarray, np.ndarray]:
    """(1 - p)^gamma (-log p) of positives, and its derivative by the logit, float64: with q = 1 - p,
    d/dz = gamma q^gamma p log p - q^(gamma + 1).
    """
    log_p, log_q = -np.logaddexp(0, -z), -np.logaddexp(0, z)
    p, q = np.exp(log_p), np.exp(log_q)
    return -(q**gamma) * log_p, gamma * q**gamma * p * log_p - q ** (gamma + 1)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_focal_and_its_gradient_from_minus_60_to_60(gamma: float) -> None:
    z = np.linspace(-60, 60, 241)
    x = tf.constant(z, tf.float32)
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(x)
        positive = binary_focal(np.ones(241), x, alpha=None, gamma=gamma)
        negative = binary_focal(np.zeros(241), -x, alpha=None, gamma=gamma)
        first = categorical_focal(
            np.zeros(241, int), tf.stack([x, tf.zeros(241), tf.fill([241], -90.0)], axis=1), gamma
        )
    value, slope = reference(z, gamma)
    for losses in (positive, negative, first):
        np.testing.assert_allclose(losses, value, rtol=2e-5, atol=1e-7)
        np.testing.assert_allclose(tape.gradient(losses, x), slope, rtol=2e-5, atol=1e-7)


def test_far_out_nothing_is_lost() -> None:
    """Wrong by 1000 logits, right by 1000: the analytic gradient, also of gammas whose power has no slope at 0."""
    x = tf.constant([-1000.0, 1000.0])
    for gamma in (0.0, 0.5, 2.0):
        with tf.GradientTape(persistent=True) as tape:
            tape.watch(x)
            losses = binary_focal(np.ones(2), x, alpha=None, gamma=gamma)
            pair = categorical_focal(np.zeros(2, int), tf.stack([x, tf.zeros(2)], axis=1), gamma)
        for found in (losses, pair):
            np.testing.assert_allclose(found, [1000.0, 0.0], rtol=1e-6)
            np.testing.assert_allclose(tape.gradient(found, x), [-1.0, 0.0], rtol=1e-6)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize(("alpha", "gamma"), [(0.25, 2.0), (0.75, 0.5), (None, 1.0), (0.25, 0.0)])
def test_binary_focal_is_the_naive_loop(dtype: str, alpha: float | None, gamma: float) -> None:
    expected = []
    for y, z in zip(Y, Z, strict=True):
        p = 1 / (1 + math.exp(-z))
        p_t = p if y else 1 - p
        alpha_t = 1.0 if alpha is None else (alpha if y else 1 - alpha)
        expected.append(-alpha_t * (1 - p_t) ** gamma * math.log(p_t))
    found = binary_focal(np.array(Y), ops.convert_to_tensor(Z, dtype), alpha, gamma)
    assert ops.shape(found) == (5,) and found.dtype == ("float64" if dtype == "float64" else "float32")
    np.testing.assert_allclose(np.asarray(ops.cast(found, "float64")), expected, rtol=TOLERANCE[dtype])


def test_binary_focal_by_hand() -> None:
    # A positive at p = 1/2: 0.25 x (1/2)^2 x ln 2; a negative at p = 1/2: 0.75 x (1/2)^2 x ln 2.
    found = ops.convert_to_numpy(binary_focal(np.array([1, 0]), np.zeros(2, np.float64)))
    np.testing.assert_allclose(found, [math.log(2) / 16, 3 * math.log(2) / 16], rtol=1e-9)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0, 5.0])
def test_categorical_focal_is_the_naive_loop(dtype: str, gamma: float) -> None:
    chosen = [softmax(row)[c] for row, c in zip(ROWS, CLASSES, strict=True)]
    expected = [-((1 - p) ** gamma) * math.log(p) for p in chosen]
    rows = ops.convert_to_tensor(ROWS, dtype)
    found = categorical_focal(np.array(CLASSES), rows, gamma)
    assert ops.shape(found) == (4,) and found.dtype == ("float64" if dtype == "float64" else "float32")
    np.testing.assert_allclose(np.asarray(ops.cast(found, "float64")), expected, rtol=TOLERANCE[dtype])
    by_one_hot = categorical_focal(np.eye(3)[CLASSES], rows, gamma)
    np.testing.assert_array_equal(np.asarray(by_one_hot), np.asarray(found))


def test_soft_targets() -> None:
    found = categorical_focal(np.array([[0.5, 0.5, 0.0]]), np.log([[0.5, 0.25, 0.25]]), 2.0)
    expected = -0.5 * 0.5**2 * math.log(0.5) - 0.5 * 0.75**2 * math.log(0.25)
    np.testing.assert_allclose(ops.convert_to_numpy(found), [expected], rtol=1e-9)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_gamma_zero_is_cross_entropy_to_the_bit_with_its_gradient(dtype: type) -> None:
    draw = np.random.default_rng(2)
    rows: Any = draw.normal(0, 4, (40, 5)).astype(dtype)
    rows[0] = [120, 0, 0, 0, 0]
    y = draw.integers(0, 5, 40)
    y[0] = 0
    z, x = tf.constant(rows[:, 0]), tf.constant(rows)
    binary = (y == 0).astype(int)
    with tf.GradientTape(persistent=True) as tape:
        tape.watch([z, x])
        focal, plain = categorical_focal(y, x, tf.zeros([40])), categorical_crossentropy(y, x)
        binary_pair = binary_focal(binary, z, alpha=None, gamma=0.0), binary_crossentropy(binary, z)
    np.testing.assert_array_equal(focal, plain)
    np.testing.assert_array_equal(*binary_pair)
    np.testing.assert_array_equal(tape.gradient(focal, x), tape.gradient(plain, x))
    np.testing.assert_array_equal(tape.gradient(binary_pair[0], z), tape.gradient(binary_pair[1], z))


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0])
def test_finite_at_certainty(dtype: str, gamma: float) -> None:
    z = ops.convert_to_tensor([-60.0, 60.0, -60.0, 60.0], dtype)
    rows = ops.stack([-z, z], axis=1)
    with tf.GradientTape(persistent=True) as tape:
        tape.watch([z, rows])
        losses = binary_focal(np.array([0, 1, 1, 0]), z, gamma=gamma)
        of_rows = categorical_focal(np.array([0, 1, 1, 0]), rows, gamma)
    values = [losses, of_rows, tape.gradient(losses, z), tape.gradient(of_rows, rows)]
    assert all(np.isfinite(np.asarray(ops.cast(value, "float32"))).all() for value in values)
    assert (np.asarray(ops.cast(losses, "float32"))[2:] > 3).all(), "a certain mistake costs much"
    np.testing.assert_allclose(np.asarray(ops.cast(losses, "float32"))[:2], 0, atol=1e-6)


def test_gamma_as_data_is_traced_once() -> None:
    function = tf.function(lambda z, gamma: categorical_focal(np.array(CLASSES), z, gamma))
    rows: Any = tf.constant(ROWS, tf.float32)
    for gamma in (0.0, 1.0, 2.0):
        expected = categorical_focal(np.array(CLASSES), rows, gamma)
        np.testing.assert_allclose(function(rows, tf.constant(gamma)), expected, rtol=1e-6)
    assert function.experimental_get_tracing_count() == 1
    each = categorical_focal(np.array(CLASSES), rows, tf.constant([0.0, 1.0, 2.0, 5.0]))
    chosen = [softmax(row)[c] for row, c in zip(ROWS, CLASSES, strict=True)]
    naive = [-((1 - p) ** g) * math.log(p) for p, g in zip(chosen, (0, 1, 2, 5), strict=True)]
    np.testing.assert_allclose(each, naive, rtol=1e-5)


def test_a_value_that_is_not_finite_comes_through() -> None:
    found = ops.convert_to_numpy(binary_focal(np.array([0, 1]), np.array([np.nan, 0.5], np.float32)))
    assert np.isnan(found[0]) and np.isfinite(found[1])
    rows = np.array([[np.nan, 0.5], [0.5, 0.5]], np.float32)
    found = ops.convert_to_numpy(categorical_focal(np.array([0, 1]), rows))
    assert np.isnan(found[0]) and np.isfinite(found[1])


def test_wrong_arguments_are_refused() -> None:
    p, rows = np.array([0.5, 0.5], np.float32), np.array([[0.5, 0.25, 0.25]] * 2, np.float32)
    with pytest.raises(ValueError, match=r"gamma must lie .* is -1"):
        binary_focal(np.array([0, 1]), p, gamma=-1.0)
    with pytest.raises(ValueError, match=r"gamma must lie .* is -0\.5"):
        categorical_focal(np.array([0, 1]), rows, -0.5)
    with pytest.raises(ValueError, match=r"alpha must lie between 0 and 1"):
        binary_focal(np.array([0, 1]), p, alpha=2)
    with pytest.raises(ValueError, match=r"alpha must lie between 0 and 1"):
        binary_focal(np.array([0, 1]), p, alpha=-0.1)
    with pytest.raises(ValueError, match="logits: expected 1"):
        binary_focal(np.array([0, 1]), rows)
    with pytest.raises(ValueError, match="y_true: expected 1"):
        binary_focal(np.zeros((2, 1)), p)
    with pytest.raises(ValueError, match="4 classes, logits have 3"):
        categorical_focal(np.zeros((2, 4)), rows)
