"""Adaptive pooling with PyTorch's bins, also where the size does not divide.

Bin i of n over a side of length L covers floor(i L / n) up to, not including, ceil((i + 1) L / n): neighbouring bins
overlap where n does not divide L, and repeat places where n is larger than L.
"""

from typing import Any, Literal

import keras
from keras import ops

Pooling = Literal["max", "mean"]


def adaptive_bins(length: int, bins: int) -> list[tuple[int, int]]:
    """(start, stop) of each bin along one side.

    Raises:
        ValueError: `length` or `bins` is not positive.
    """
    if length < 1 or bins < 1:
        raise ValueError(f"{bins} bins over a length of {length}: both must be at least 1")
    return [(i * length // bins, -(-(i + 1) * length // bins)) for i in range(bins)]


def adaptive_pool(x: Any, size: int, pooling: Pooling) -> Any:
    """(B, H, W, C) -> (B, size, size, C): maximum or mean over PyTorch's bins. H and W must be known.

    A rectangle's maximum is the maximum over its columns of the maxima over its rows, and so is its mean: two passes.

    Raises:
        ValueError: H or W is not known.
    """
    height, width = x.shape[1], x.shape[2]
    if height is None or width is None:
        raise ValueError("adaptive pooling needs maps of a known height and width")
    if height % size == 0 and width % size == 0:
        pool = ops.max_pool if pooling == "max" else ops.average_pool
        window = (height // size, width // size)
        return pool(x, window, window, "valid", data_format="channels_last")
    reduce = ops.max if pooling == "max" else ops.mean
    rows = ops.stack([reduce(x[:, start:stop], axis=1) for start, stop in adaptive_bins(height, size)], axis=1)
    return ops.stack([reduce(rows[:, :, start:stop], axis=2) for start, stop in adaptive_bins(width, size)], axis=2)


@keras.saving.register_keras_serializable("melano_tf")
class AdaptiveAveragePooling(keras.layers.Layer):
    """`adaptive_pool` by means as a layer: (B, H, W, C) -> (B, size, size, C).

    Args:
        size: bins along each side.
    """

    def __init__(self, size: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.size = size

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        self.built = True

    def call(self, inputs: Any) -> Any:
        return adaptive_pool(inputs, self.size, "mean")

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        return (input_shape[0], self.size, self.size, input_shape[-1])

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "size": self.size}
