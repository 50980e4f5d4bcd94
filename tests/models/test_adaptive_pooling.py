"""Adaptive pooling against PyTorch's rule, by naive bins, for every size that a model may meet."""

import math
from pathlib import Path

import keras
import numpy as np
import pytest

from melano_tf.models.adaptive_pooling import AdaptiveAveragePooling, adaptive_bins, adaptive_pool, regular_window
from tests.models.layer_checks import check_layer


def naive(x: np.ndarray, size: int, function: object) -> np.ndarray:
    """One bin at a time, by PyTorch's rule in floating point."""
    result = np.zeros((len(x), size, size, x.shape[-1]), x.dtype)
    for i, j in np.ndindex(size, size):
        top, bottom = math.floor(i * x.shape[1] / size), math.ceil((i + 1) * x.shape[1] / size)
        left, right = math.floor(j * x.shape[2] / size), math.ceil((j + 1) * x.shape[2] / size)
        result[:, i, j] = function(x[:, top:bottom, left:right], axis=(1, 2))  # type: ignore[operator]
    return result


def test_bins_of_the_sizes_of_zoome() -> None:
    assert adaptive_bins(56, 4) == [(0, 14), (14, 28), (28, 42), (42, 56)]
    assert adaptive_bins(28, 4) == [(0, 7), (7, 14), (14, 21), (21, 28)]
    assert adaptive_bins(14, 4) == [(0, 4), (3, 7), (7, 11), (10, 14)]
    assert adaptive_bins(7, 4) == [(0, 2), (1, 4), (3, 6), (5, 7)]
    assert adaptive_bins(2, 4) == [(0, 1), (0, 1), (1, 2), (1, 2)]
    with pytest.raises(ValueError, match="at least 1"):
        adaptive_bins(0, 4)


@pytest.mark.parametrize("length", [56, 28, 14, 7])
def test_maximum_at_the_sizes_of_zoome(length: int) -> None:
    # All negative: padding with zeros would show.
    x = np.random.default_rng(length).uniform(-2, -1, (2, length, length, 3)).astype("float32")
    np.testing.assert_array_equal(adaptive_pool(x, 4, "max"), naive(x, 4, np.max))


@pytest.mark.parametrize("size", [1, 3, 4, 6])
def test_every_length(size: int) -> None:
    rng = np.random.default_rng(size)
    for length in range(1, 33):
        x = rng.normal(size=(2, length, 33 - length, 2)).astype("float32") - 3
        np.testing.assert_array_equal(adaptive_pool(x, size, "max"), naive(x, size, np.max))
        np.testing.assert_allclose(adaptive_pool(x, size, "mean"), naive(x, size, np.mean), rtol=1e-5, atol=1e-5)


def test_four_bins_are_regular_windows() -> None:
    """What makes Zoom-SE cheap: no slices from a side of four places on."""
    for length in range(4, 120):
        parts = math.gcd(length, 4)
        assert regular_window(length // parts, 4 // parts) is not None
    assert regular_window(7, 4) == (3, 2, "same")
    assert regular_window(3, 4) is None


def test_unknown_size() -> None:
    with pytest.raises(ValueError, match="known"):
        adaptive_pool(keras.Input((None, 8, 3)), 4, "max")


def test_average_layer(tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(2, 5, 4, 3)).astype("float32")
    layer = check_layer(lambda: AdaptiveAveragePooling(3), x, (2, 3, 3, 3), tmp_path)
    np.testing.assert_allclose(layer(x), naive(x, 3, np.mean), rtol=1e-5, atol=1e-6)
