import math

import numpy as np
import pytest
from keras import ops

from melano_tf.training.losses import EPSILON, binary_crossentropy, categorical_crossentropy


def test_binary_crossentropy_is_the_naive_sum() -> None:
    y, p = [0, 1, 1, 0, 1], [0.2, 0.9, 0.5, 0.99, 0.01]
    expected = [-math.log(q) if label else -math.log(1 - q) for label, q in zip(y, p, strict=True)]
    found = binary_crossentropy(np.array(y), np.array(p, np.float64))
    np.testing.assert_allclose(ops.convert_to_numpy(found), expected, rtol=1e-6)


def test_binary_crossentropy_is_finite_at_the_ends() -> None:
    found = ops.convert_to_numpy(binary_crossentropy(np.array([0, 1, 0, 1]), np.array([1, 0, 0, 1], np.float32)))
    assert np.isfinite(found).all()
    np.testing.assert_allclose(found[:2], -math.log(EPSILON), rtol=0.02)  # float32 near 1
    np.testing.assert_allclose(found[2:], 0, atol=1e-6)


def test_a_value_that_is_not_finite_comes_through() -> None:
    found = ops.convert_to_numpy(binary_crossentropy(np.array([0, 1]), np.array([np.nan, 0.5], np.float32)))
    assert np.isnan(found[0]) and np.isfinite(found[1])
    probabilities = np.array([[np.nan, 0.5], [0.5, 0.5]], np.float32)
    found = ops.convert_to_numpy(categorical_crossentropy(np.array([0, 1]), probabilities))
    assert np.isnan(found[0]) and np.isfinite(found[1])


def test_categorical_crossentropy_takes_indices_and_one_hot() -> None:
    p = np.array([[0.7, 0.2, 0.1], [0.1, 0.1, 0.8]], np.float32)
    by_index = ops.convert_to_numpy(categorical_crossentropy(np.array([1, 2]), p))
    np.testing.assert_allclose(by_index, [-math.log(0.2), -math.log(0.8)], rtol=1e-6)
    by_one_hot = ops.convert_to_numpy(categorical_crossentropy(np.eye(3)[[1, 2]], p))
    np.testing.assert_allclose(by_one_hot, by_index)
    soft = ops.convert_to_numpy(categorical_crossentropy(np.array([[0.5, 0.5, 0.0], [0, 0, 1.0]]), p))
    np.testing.assert_allclose(soft[0], -0.5 * math.log(0.7) - 0.5 * math.log(0.2), rtol=1e-6)


def test_two_classes_agree_with_the_binary_loss() -> None:
    p = np.array([0.3, 0.6], np.float32)
    pair = np.stack([1 - p, p], axis=1)
    a = ops.convert_to_numpy(binary_crossentropy(np.array([1, 0]), p))
    b = ops.convert_to_numpy(categorical_crossentropy(np.array([1, 0]), pair))
    np.testing.assert_allclose(a, b, rtol=1e-6)


def test_wrong_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="p: expected 1"):
        binary_crossentropy(np.zeros(4), np.zeros((4, 1), np.float32))
    with pytest.raises(ValueError, match="probabilities: expected 2"):
        categorical_crossentropy(np.zeros(4), np.zeros(4, np.float32))
    with pytest.raises(ValueError, match="2 classes"):
        categorical_crossentropy(np.zeros((4, 2)), np.zeros((4, 3), np.float32))
