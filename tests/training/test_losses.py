"""Losses of logits against naive loops, where probabilities still can be told apart and far beyond."""

import math

import numpy as np
import pytest
import tensorflow as tf
from keras import ops

from melano_tf.training.losses import (
    binary_crossentropy,
    binary_focal,
    categorical_crossentropy,
    categorical_focal,
    prior_loss,
)


def logit(p: object) -> np.ndarray:
    p = np.asarray(p, np.float64)
    return np.log(p) - np.log1p(-p)


def test_binary_crossentropy_is_the_naive_sum() -> None:
    y, p = [0, 1, 1, 0, 1], [0.2, 0.9, 0.5, 0.99, 0.01]
    expected = [-math.log(q) if label else -math.log(1 - q) for label, q in zip(y, p, strict=True)]
    found = binary_crossentropy(np.array(y), logit(p))
    np.testing.assert_allclose(ops.convert_to_numpy(found), expected, rtol=1e-9)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_far_from_zero_the_gradient_is_the_analytic_one(dtype: str) -> None:
    """Wrong by 40 logits: the loss is 40 and the gradient -1 or +1; by clipped probabilities it was 16.1 and 0."""
    z = tf.constant([-40.0, 40.0, 40.0, -40.0], dtype)
    pair = tf.constant([[20.0, -20.0], [-20.0, 20.0], [-20.0, 20.0], [20.0, -20.0]], dtype)
    y = np.array([1, 0, 1, 0])
    with tf.GradientTape(persistent=True) as tape:
        tape.watch([z, pair])
        binary, of_pair = binary_crossentropy(y, z), categorical_crossentropy(y, pair)
    np.testing.assert_allclose(binary, [40, 40, math.exp(-40), math.exp(-40)], rtol=1e-6)
    np.testing.assert_allclose(of_pair, [40, 40, 0, 0], atol=1e-6)
    assert np.asarray(tf.cast(tape.gradient(binary, z), tf.float32)).tolist()[:2] == [-1.0, 1.0]
    gradient = np.asarray(tf.cast(tape.gradient(of_pair, pair), tf.float32))
    np.testing.assert_allclose(gradient, [[1, -1], [-1, 1], [0, 0], [0, 0]], atol=1e-6)


@pytest.mark.parametrize(
    ("dtype", "expected"), [("float16", "float32"), ("bfloat16", "float32"), ("float64", "float64")]
)
def test_half_precision_is_computed_in_float32(dtype: str, expected: str) -> None:
    z = ops.convert_to_tensor([9.0, -7.5, 0.375], dtype)  # exact in every dtype; the loss at 9 is not in half precision
    y = np.array([1, 1, 0])
    found = [binary_crossentropy(y, z), categorical_crossentropy(y, ops.stack([ops.zeros_like(z), z], axis=1))]
    for losses in found:
        assert losses.dtype == expected
        np.testing.assert_allclose(losses, [math.log1p(math.exp(value)) for value in (-9.0, 7.5, 0.375)], rtol=1e-3)
    np.testing.assert_allclose(found[0][0], 1.2340220e-4, rtol=1e-6)


def test_a_value_that_is_not_finite_comes_through() -> None:
    found = ops.convert_to_numpy(binary_crossentropy(np.array([0, 1]), np.array([np.nan, 0.5], np.float32)))
    assert np.isnan(found[0]) and np.isfinite(found[1])
    logits = np.array([[np.nan, 0.5], [0.5, 0.5]], np.float32)
    found = ops.convert_to_numpy(categorical_crossentropy(np.array([0, 1]), logits))
    assert np.isnan(found[0]) and np.isfinite(found[1])


def test_categorical_crossentropy_takes_indices_and_one_hot() -> None:
    z = np.log([[0.7, 0.2, 0.1], [0.1, 0.1, 0.8]]).astype(np.float32) + 3.0  # a shift of a row changes nothing
    by_index = ops.convert_to_numpy(categorical_crossentropy(np.array([1, 2]), z))
    np.testing.assert_allclose(by_index, [-math.log(0.2), -math.log(0.8)], rtol=1e-5)
    by_one_hot = ops.convert_to_numpy(categorical_crossentropy(np.eye(3)[[1, 2]], z))
    np.testing.assert_allclose(by_one_hot, by_index)
    soft = ops.convert_to_numpy(categorical_crossentropy(np.array([[0.5, 0.5, 0.0], [0, 0, 1.0]]), z))
    np.testing.assert_allclose(soft[0], -0.5 * math.log(0.7) - 0.5 * math.log(0.2), rtol=1e-5)


def test_two_classes_agree_with_the_binary_loss() -> None:
    z = np.array([-0.847, 0.405], np.float32)
    pair = np.stack([np.zeros(2, np.float32), z], axis=1)
    a = ops.convert_to_numpy(binary_crossentropy(np.array([1, 0]), z))
    b = ops.convert_to_numpy(categorical_crossentropy(np.array([1, 0]), pair))
    np.testing.assert_allclose(a, b, rtol=1e-6)


def test_wrong_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="logits: expected 1"):
        binary_crossentropy(np.zeros(4), np.zeros((4, 1), np.float32))
    with pytest.raises(ValueError, match="logits: expected 2"):
        categorical_crossentropy(np.zeros(4), np.zeros(4, np.float32))
    with pytest.raises(ValueError, match="2 classes"):
        categorical_crossentropy(np.zeros((4, 2)), np.zeros((4, 3), np.float32))


def test_the_loss_of_the_best_constant_answer() -> None:
    assert prior_loss([30, 10]) == pytest.approx(-(0.75 * math.log(0.75) + 0.25 * math.log(0.25)), rel=1e-6)
    assert prior_loss([7, 0, 7]) == pytest.approx(math.log(2), rel=1e-6), "a class that is not there does not count"
    # Weights 1 and 3 make both classes alike: the answer is 1/2, and the mean weight 60 / 40.
    assert prior_loss([30, 10], [1.0, 3.0]) == pytest.approx(1.5 * math.log(2), rel=1e-6)
    assert prior_loss([3, 1, 1e-4], [1.0, 2.5, 9.0]) == pytest.approx(
        -sum(part * math.log(part / 5.5009) for part in (3, 2.5, 9e-4)) / 4.0001, rel=1e-9
    )
    assert prior_loss([0, 5], loss=lambda y, z: binary_focal(y, z[:, 1] - z[:, 0])) == 0
    with pytest.raises(ValueError, match="no class"):
        prior_loss([0, 0])


@pytest.mark.parametrize(
    ("negative", "positive", "alpha", "gamma", "p", "least"),
    [
        (32_532, 594, 0.25, 2.0, 0.131, 0.00866),  # ZooME's images; always the shares: 0.01739
        (30, 10, 0.25, 2.0, None, None),
        (2, 990, 0.9, 0.5, None, None),
        (7, 3, 0.5, 5.0, None, None),
    ],
)
def test_of_a_focal_loss_the_class_shares_are_not_the_best_answer(
    negative: int, positive: int, alpha: float, gamma: float, p: float | None, least: float | None
) -> None:
    ticks = np.linspace(0, 1, 1_000_001)[1:-1]
    share = positive / (negative + positive)
    of_positive = share * alpha * (1 - ticks) ** gamma * -np.log(ticks)
    losses = of_positive + (1 - share) * (1 - alpha) * ticks**gamma * -np.log1p(-ticks)
    found = prior_loss([negative, positive], loss=lambda y, z: binary_focal(y, z[:, 1] - z[:, 0], alpha, gamma))
    assert found == pytest.approx(losses.min(), rel=1e-6)
    assert found < 0.99 * losses[np.searchsorted(ticks, share)]
    if p is not None:
        assert found == pytest.approx(least, abs=5e-6) and ticks[losses.argmin()] == pytest.approx(p, abs=5e-4)


def test_no_constant_answer_of_many_is_better_than_the_best_one() -> None:
    """Focal loss of the classes of HAM10000, where always the shares costs 0.8845."""
    counts = np.array([1113, 6705, 514, 327, 1099, 115, 142])
    found = prior_loss(counts, loss=lambda y, z: categorical_focal(y, z, 1.0))
    answers = np.random.default_rng(6).dirichlet(30 * (counts / counts.sum()) ** 0.8, 200_000)
    losses = -((1 - answers) * np.log(np.maximum(answers, 1e-30))) @ (counts / counts.sum())
    assert found == pytest.approx(0.8601, abs=5e-5) and found <= losses.min() < 1.01 * found
