"""How the embeddings of a bag become one vector: maximum, mean, or learned attention (spitzoid, section 4.2).

Each layer takes embeddings (B, N, C) and optionally a mask (B, N), true where an instance is real and not padding, and
returns (bag embedding (B, C), attention (B, N)). Attention is 0 or more and sums to one over a bag's real instances;
masked ones get exactly 0. A bag without any real instance gives zeros, never NaN.
"""

from typing import Any

import keras
from keras import ops

Shape = tuple[int | None, ...]


class BagAggregation(keras.layers.Layer):
    """What the three aggregations share: shapes, and that a mask ends here."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.supports_masking = True

    def build(self, input_shape: Shape) -> None:
        self.built = True

    def compute_mask(self, inputs: Any, previous_mask: Any) -> None:
        return None

    def compute_output_shape(self, input_shape: Shape) -> tuple[Shape, Shape]:
        batch, instances, channels = input_shape
        return (batch, channels), (batch, instances)


@keras.saving.register_keras_serializable("melano_tf")
class BagMean(BagAggregation):
    """BGAP: the mean of the instances. Attention is uniform: 1 / number of real instances."""

    def call(self, inputs: Any, mask: Any = None) -> tuple[Any, Any]:
        inputs, real = real_instances(inputs, mask)
        # Counted in float32: float16 ends at 65,504 instances, and bfloat16 tells no 257 from 256.
        real = ops.cast(real, "float32")
        attention = real / ops.maximum(ops.sum(real, axis=1, keepdims=True), 1.0)
        return _weighted(inputs, attention), ops.cast(attention, inputs.dtype)


@keras.saving.register_keras_serializable("melano_tf")
class BagMax(BagAggregation):
    """BGMP: the maximum of each channel over the instances.

    The maximum has no weights; attention is the share of the C channels that an instance wins, where instances that
    tie for a channel divide it equally (so the order of the instances does not matter).
    """

    def call(self, inputs: Any, mask: Any = None) -> tuple[Any, Any]:
        inputs, real = real_instances(inputs, mask)
        real = real[:, :, None]
        lowest = ops.cast(-1e30 if ops.dtype(inputs) != "float16" else -6e4, inputs.dtype)
        masked = ops.where(real > 0, inputs, lowest)
        highest = ops.max(masked, axis=1)
        embedding = ops.where(ops.any(real > 0, axis=1), highest, ops.zeros_like(highest))
        # Which instances win is counted, not differentiated.
        winners = ops.stop_gradient(ops.cast(masked == highest[:, None, :], "float32") * ops.cast(real, "float32"))
        shares = winners / ops.maximum(ops.sum(winners, axis=1, keepdims=True), 1.0)
        return embedding, ops.cast(ops.mean(shares, axis=2), inputs.dtype)


@keras.saving.register_keras_serializable("melano_tf")
class BagAttention(BagAggregation):
    """BGAS: a_i = softmax_i(w^T tanh(V h_i)), Z = sum_i a_i h_i (equation 2), with V (L, C) and w (L,).

    Args:
        units: L, the width of the hidden layer (not given in the paper; 128).
    """

    def __init__(self, units: int = 128, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if units < 1:
            raise ValueError(f"units {units}: expected at least 1")
        self.units = units

    def build(self, input_shape: Shape) -> None:
        self.v = self.add_weight(name="v", shape=(self.units, input_shape[-1]), initializer="glorot_uniform")
        self.w = self.add_weight(name="w", shape=(self.units,), initializer="glorot_uniform")
        self.built = True

    def call(self, inputs: Any, mask: Any = None) -> tuple[Any, Any]:
        inputs, real = real_instances(inputs, mask)
        hidden = ops.tanh(ops.matmul(inputs, ops.transpose(self.v)))
        attention = masked_softmax(ops.sum(hidden * self.w, axis=-1), real)
        return _weighted(inputs, attention), ops.cast(attention, inputs.dtype)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "units": self.units}


def real_instances(inputs: Any, mask: Any) -> tuple[Any, Any]:
    """The instances with padding set to 0 (it may be anything, even NaN), and (B, N): 1 where an instance is real."""
    if mask is None:
        return inputs, ops.ones_like(inputs[:, :, 0])
    mask = ops.cast(mask, "bool")
    return ops.where(mask[:, :, None], inputs, ops.zeros_like(inputs)), ops.cast(mask, inputs.dtype)


def _weighted(inputs: Any, attention: Any) -> Any:
    """sum_i a_i h_i of attention in float32, in the inputs' dtype; added up in half precision, small parts are lost."""
    return ops.cast(ops.sum(ops.cast(inputs, "float32") * attention[:, :, None], axis=1), inputs.dtype)


def masked_softmax(scores: Any, real: Any) -> Any:
    """Softmax over the last axis among real instances, float32 under any precision policy; a bag without any: zeros.

    Args:
        scores: (..., N).
        real: (..., N), above 0 where an instance is real; broadcast to the scores.
    """
    real = ops.cast(real, "float32")
    scores = ops.where(real > 0, ops.cast(scores, "float32"), -1e30)
    scores = scores - ops.stop_gradient(ops.max(scores, axis=-1, keepdims=True))
    parts = ops.exp(scores) * real
    total = ops.sum(parts, axis=-1, keepdims=True)
    # A bag with a real instance has a total of at least exp(0) = 1.
    return parts / ops.maximum(total, 1.0)
