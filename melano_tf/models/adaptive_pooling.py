"""Adaptive pooling with PyTorch's bins, also where the size does not divide.

Bin i of n over a side of length L covers floor(i L / n) up to, not including, ceil((i + 1) L / n): neighbouring bins
overlap where n does not divide L, and repeat places where n is larger than L.
"""

import math
from typing import Any, Literal

import keras
from keras import ops

Pooling = Literal["max", "mean"]
Bins = list[tuple[int, int]]


def adaptive_bins(length: int, bins: int) -> Bins:
    """(start, stop) of each bin along one side.

    Raises:
        ValueError: `length` or `bins` is not positive.
    """
    if length < 1 or bins < 1:
        raise ValueError(f"{bins} bins over a length of {length}: both must be at least 1")
    return [(i * length // bins, -(-(i + 1) * length // bins)) for i in range(bins)]


def adaptive_pool(x: Any, size: int, pooling: Pooling) -> Any:
    """(B, H, W, C) -> (B, size, size, C): maximum or mean over PyTorch's bins. H and W must be known.

    A rectangle's maximum is the maximum over its columns of the maxima over its rows, and so is its mean: the sides are
    pooled one after the other. Where the bins are windows at a regular stride, the backend's pooling does it, which
    trains many times faster than slices: with four bins that is every side of four and more.

    Raises:
        ValueError: H or W is not known.
    """
    height, width = x.shape[1], x.shape[2]
    if height is None or width is None:
        raise ValueError("adaptive pooling needs maps of a known height and width")
    if height == width and height % size == 0:
        return _pool(x, (height // size, width // size), (height // size, width // size), "valid", pooling)
    channels = x.shape[-1]
    # The bins repeat after a part of the side: its parts become separate maps, by reshaping alone.
    parts = math.gcd(height, size)
    rows = _pool_rows(ops.reshape(x, (-1, height // parts, width, channels)), size // parts, pooling)
    rows = ops.reshape(rows, (-1, size, width, channels))
    parts = math.gcd(width, size)
    lines = ops.reshape(rows, (-1, width // parts, 1, channels))
    return ops.reshape(_pool_rows(lines, size // parts, pooling), (-1, size, size, channels))


def regular_window(length: int, bins: int) -> tuple[int, int, Literal["valid", "same"]] | None:
    """(size, stride, padding) of a pooling with exactly the adaptive bins, or None where they are not regular."""
    wanted = adaptive_bins(length, bins)
    for padding in ("valid", "same"):
        size = max(stop - start for start, stop in wanted)
        stride = wanted[-1][0] - wanted[-2][0] if bins > 1 else length
        if stride > 0 and _windows(length, size, stride, padding == "same") == wanted:
            return size, stride, "same" if padding == "same" else "valid"
    return None


def _windows(length: int, size: int, stride: int, same: bool) -> Bins:
    """What each window of a pooling covers; "same" pads both sides, the far one more where that is odd."""
    if not same:
        return [(start, start + size) for start in range(0, length - size + 1, stride)]
    count = -(-length // stride)
    before = max(0, (count - 1) * stride + size - length) // 2
    starts = [i * stride - before for i in range(count)]
    return [(max(0, start), min(length, start + size)) for start in starts]


def _pool_rows(x: Any, bins: int, pooling: Pooling) -> Any:
    """(B, L, W, C) -> (B, bins, W, C)."""
    window = regular_window(x.shape[1], bins)
    # Backends differ in whether padding counts in a mean.
    if window is not None and (pooling == "max" or window[2] == "valid"):
        size, stride, padding = window
        return _pool(x, (size, 1), (stride, 1), padding, pooling)
    reduce = ops.max if pooling == "max" else ops.mean
    return ops.stack([reduce(x[:, start:stop], axis=1) for start, stop in adaptive_bins(x.shape[1], bins)], axis=1)


def _pool(x: Any, window: tuple[int, int], strides: tuple[int, int], padding: str, pooling: Pooling) -> Any:
    pool = ops.max_pool if pooling == "max" else ops.average_pool
    return pool(x, window, strides, padding, data_format="channels_last")


@keras.saving.register_keras_serializable("melano_tf")
class AdaptiveAveragePooling(keras.layers.Layer):
    """`adaptive_pool` by means as a layer: (B, H, W, C) -> (B, size, size, C).

    Args:
        size: bins along each side.
    """

    def __init__(self, size: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if size < 1:
            raise ValueError(f"size {size}: expected at least 1")
        self.size = size

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        self.built = True

    def call(self, inputs: Any) -> Any:
        return adaptive_pool(inputs, self.size, "mean")

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        return (input_shape[0], self.size, self.size, input_shape[-1])

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "size": self.size}
