"""What bag models are made of: gated attention, landmarks, a class token, and what CLAM clusters.

As in `bag_aggregation`: embeddings (B, N, C), and optionally a mask (B, N), true where an instance is real
and not padding. What is masked may hold anything, even NaN, and changes nothing. No layer depends on the order of the
instances. Softmaxes are taken in float32 under any precision policy.
"""

from typing import Any

import keras
from keras import ops

from melano_tf.models.bag_aggregation import BagAggregation, Shape, masked_softmax, real_instances


@keras.saving.register_keras_serializable("melano_tf")
class DropPadding(keras.layers.Layer):
    """Sets what is masked to 0, before a network's first layer can spread it: (B, N, C) -> (B, N, C)."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.supports_masking = True

    def build(self, input_shape: Shape) -> None:
        self.built = True

    def call(self, inputs: Any, mask: Any = None) -> Any:
        return real_instances(inputs, mask)[0]

    def compute_mask(self, inputs: Any, previous_mask: Any) -> None:
        return None

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return input_shape


@keras.saving.register_keras_serializable("melano_tf")
class GatedAttention(BagAggregation):
    """Gated attention: a_i = softmax_i(w^T (tanh(V h_i) * sigmoid(U h_i))), Z = sum_i a_i h_i (Ilse 2018, eq. 9).

    With several branches (CLAM, multi branch) each has a w of its own, and V and U are shared.

    Args:
        units: L, the width of the hidden layers.
        branches: number of attention branches; None: one, without an axis for it.
        bias: biases in the hidden layers, as CLAM has them and the equation has not. (One in the last layer would
            cancel in the softmax.)
        dropout: of both hidden layers (CLAM: 0.25).

    Returns:
        From (B, N, C): ((B, C), (B, N)), or with branches K ((B, K, C), (B, K, N)).
    """

    def __init__(
        self, units: int = 128, branches: int | None = None, bias: bool = False, dropout: float = 0.0, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        if units < 1 or (branches is not None and branches < 1):
            raise ValueError(f"units {units}, branches {branches}: expected at least 1")
        self.units, self.branches, self.bias, self.dropout = units, branches, bias, dropout
        self._drop = keras.layers.Dropout(dropout, dtype=self.dtype_policy)

    def build(self, input_shape: Shape) -> None:
        shape = (input_shape[-1], self.units)
        self.v = self.add_weight(name="v", shape=shape, initializer="glorot_uniform")
        self.u = self.add_weight(name="u", shape=shape, initializer="glorot_uniform")
        self.w = self.add_weight(name="w", shape=(self.units, self.branches or 1), initializer="glorot_uniform")
        if self.bias:
            self.v_bias = self.add_weight(name="v_bias", shape=(self.units,), initializer="zeros")
            self.u_bias = self.add_weight(name="u_bias", shape=(self.units,), initializer="zeros")
        self.built = True

    def call(self, inputs: Any, mask: Any = None, training: bool | None = None) -> tuple[Any, Any]:
        inputs, real = real_instances(inputs, mask)
        tangent, gate = ops.matmul(inputs, self.v), ops.matmul(inputs, self.u)
        if self.bias:
            tangent, gate = tangent + self.v_bias, gate + self.u_bias
        tangent, gate = ops.tanh(tangent), ops.sigmoid(gate)
        hidden = self._drop(tangent, training=training) * self._drop(gate, training=training)
        scores = ops.transpose(ops.matmul(hidden, self.w), (0, 2, 1))
        attention = ops.cast(masked_softmax(scores, real[:, None, :]), inputs.dtype)
        embedding = ops.matmul(attention, inputs)
        return (embedding[:, 0], attention[:, 0]) if self.branches is None else (embedding, attention)

    def compute_output_shape(self, input_shape: Shape) -> tuple[Shape, Shape]:
        batch, instances, channels = input_shape
        between = () if self.branches is None else (self.branches,)
        return (batch, *between, channels), (batch, *between, instances)

    def get_config(self) -> dict[str, Any]:
        own = {"units": self.units, "branches": self.branches, "bias": self.bias, "dropout": self.dropout}
        return {**super().get_config(), **own}


@keras.saving.register_keras_serializable("melano_tf")
class LandmarkAttention(keras.layers.Layer):
    """Self-attention among all instances through M landmarks, in time and memory that grow with N * M, not N * N.

    Learned queries gather M landmarks from the instances (layer-normed first), every instance looks at the landmarks,
    and the result is added to it, as in an induced set attention block (Lee et al. 2019). TransMIL (Shao et al. 2021)
    has Nystrom attention instead: its landmarks are means of consecutive instances, it adds a convolution over them to
    the values and convolutions over the instances laid out as a square, so that its answer depends on their order.
    Here it does not, and coordinates are not used at all.

    Input and output (B, N, C).

    Args:
        landmarks: M.
        heads: attention heads; they divide C.

    Raises:
        ValueError: on building, where the heads do not divide C.
    """

    def __init__(self, landmarks: int = 64, heads: int = 8, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if landmarks < 1 or heads < 1:
            raise ValueError(f"landmarks {landmarks}, heads {heads}: expected at least 1")
        self.landmarks, self.heads = landmarks, heads
        self.supports_masking = True
        self._norm = keras.layers.LayerNormalization(epsilon=1e-5, dtype=self.dtype_policy, name="norm")

    def build(self, input_shape: Shape) -> None:
        width = _width(input_shape, self.heads)
        self._norm.build(input_shape)
        glorot = "glorot_uniform"
        self.queries = self.add_weight(name="queries", shape=(self.landmarks, width), initializer=glorot)
        for name in ("keys", "values", "looking", "seen_keys", "seen_values", "out"):
            setattr(self, name, self.add_weight(name=name, shape=(width, width), initializer=glorot))
        self.built = True

    def call(self, inputs: Any, mask: Any = None) -> Any:
        inputs, real = real_instances(inputs, mask)
        x = self._norm(inputs)
        queries = ops.broadcast_to(self.queries, (ops.shape(x)[0], *self.queries.shape))
        keys, values = ops.matmul(x, self.keys), ops.matmul(x, self.values)
        marks, _ = _attend(queries, keys, values, real, self.heads)
        seen_keys, seen_values = ops.matmul(marks, self.seen_keys), ops.matmul(marks, self.seen_values)
        answer, _ = _attend(
            ops.matmul(x, self.looking), seen_keys, seen_values, ops.ones_like(marks[:, :, 0]), self.heads
        )
        return inputs + ops.matmul(answer, self.out)

    def compute_mask(self, inputs: Any, previous_mask: Any) -> None:
        return None

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return input_shape

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "landmarks": self.landmarks, "heads": self.heads}


@keras.saving.register_keras_serializable("melano_tf")
class ClassToken(BagAggregation):
    """A learned query that looks at all instances with several heads: (B, N, C) -> ((B, C), (B, N)).

    Attention is the mean over the heads.

    Args:
        heads: attention heads; they divide C.
    """

    def __init__(self, heads: int = 8, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if heads < 1:
            raise ValueError(f"heads {heads}: expected at least 1")
        self.heads = heads
        self._norm = keras.layers.LayerNormalization(epsilon=1e-5, dtype=self.dtype_policy, name="norm")

    def build(self, input_shape: Shape) -> None:
        width = _width(input_shape, self.heads)
        self._norm.build(input_shape)
        self.query = self.add_weight(name="query", shape=(1, width), initializer="glorot_uniform")
        for name in ("keys", "values", "out"):
            setattr(self, name, self.add_weight(name=name, shape=(width, width), initializer="glorot_uniform"))
        self.built = True

    def call(self, inputs: Any, mask: Any = None) -> tuple[Any, Any]:
        inputs, real = real_instances(inputs, mask)
        x = self._norm(inputs)
        query = ops.broadcast_to(self.query, (ops.shape(x)[0], *self.query.shape))
        keys, values = ops.matmul(x, self.keys), ops.matmul(x, self.values)
        answer, attention = _attend(query, keys, values, real, self.heads)
        return ops.matmul(answer[:, 0], self.out), ops.cast(ops.mean(attention[:, :, 0], axis=1), inputs.dtype)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "heads": self.heads}


@keras.saving.register_keras_serializable("melano_tf")
class AttendedExtremes(keras.layers.Layer):
    """The instances with the most and the least attention of each branch, for CLAM's instance clustering.

    A bag of n real instances gives min(k, ceil(n / 2)) of the most and min(k, floor(n / 2)) of the least attended, so
    that none is both (CLAM's code takes k of each, and cannot take bags of fewer than k). Which they are is not
    differentiated; their scores are.

    Args:
        k: instances at either end (CLAM: 8).

    Call with scores (B, N, K, S) of the instances and attention (B, J, N), J branches being K or 1.

    Returns:
        (scores (B, K, 2k, S), the most attended first, then the least attended; whether each is there, (B, 2k): 1 or 0
        in the compute dtype).
    """

    def __init__(self, k: int = 8, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if k < 1:
            raise ValueError(f"k {k}: expected at least 1")
        self.k = k
        self.supports_masking = True

    def build(self, scores_shape: Shape, attention_shape: Shape) -> None:
        self.built = True

    def call(self, scores: Any, attention: Any, mask: Any = None) -> tuple[Any, Any]:
        instances, classes = ops.shape(scores)[1], scores.shape[2]
        real = ops.ones_like(attention[:, 0], dtype="float32") if mask is None else ops.cast(mask, "float32")
        attention = ops.stop_gradient(ops.cast(attention, "float32"))
        # k more columns that nobody can win: a bag may hold fewer than k instances.
        most = _widened(ops.where(real[:, None, :] > 0, attention, -1.0), self.k)
        least = _widened(ops.where(real[:, None, :] > 0, -attention, -2.0), self.k)
        places = ops.concatenate([ops.top_k(most, self.k)[1], ops.top_k(least, self.k)[1]], axis=-1)
        places = ops.minimum(places, instances - 1)
        places = ops.broadcast_to(places, (ops.shape(places)[0], classes, 2 * self.k))
        by_class = ops.transpose(scores, (0, 2, 1, 3))
        chosen = ops.take_along_axis(by_class, places[..., None], axis=2)
        count = ops.sum(real, axis=1, keepdims=True)
        rank = ops.arange(self.k, dtype="float32")[None, :]
        there = ops.concatenate([rank < ops.ceil(count / 2), rank < ops.floor(count / 2)], axis=-1)
        return chosen, ops.cast(there, self.compute_dtype)

    def compute_mask(self, scores: Any, previous_mask: Any) -> None:
        return None

    def compute_output_shape(self, scores_shape: Shape, attention_shape: Shape) -> tuple[Shape, Shape]:
        batch, _, classes, width = scores_shape
        return (batch, classes, 2 * self.k, width), (batch, 2 * self.k)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "k": self.k}


@keras.saving.register_keras_serializable("melano_tf")
class BranchLogits(keras.layers.Layer):
    """One linear neuron for each class on the bag embedding of its own branch (CLAM, multi branch).

    Input (B, K, C). Output (B, K) logits of a softmax; of two classes (B, 1), the logit of class 1: the difference of
    both, whose sigmoid is that softmax.
    """

    def build(self, input_shape: Shape) -> None:
        _, classes, channels = input_shape
        self.kernel = self.add_weight(name="kernel", shape=(classes, channels), initializer="glorot_uniform")
        self.bias = self.add_weight(name="bias", shape=(classes,), initializer="zeros")
        self.built = True

    def call(self, inputs: Any) -> Any:
        logits = ops.sum(inputs * self.kernel, axis=-1) + self.bias
        return logits[:, 1:] - logits[:, :1] if logits.shape[1] == 2 else logits

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        batch, classes, _ = input_shape
        return batch, 1 if classes == 2 else classes


def _widened(values: Any, columns: int) -> Any:
    """(B, J, N) with columns of -3 behind."""
    return ops.pad(values, ((0, 0), (0, 0), (0, columns)), constant_values=-3.0)


def _width(shape: Shape, heads: int) -> int:
    width = shape[-1]
    if width is None or width % heads:
        raise ValueError(f"{heads} heads do not divide {width} channels")
    return width


def _attend(queries: Any, keys: Any, values: Any, real: Any, heads: int) -> tuple[Any, Any]:
    """Scaled dot-product attention of (B, Q, C) on real keys (B, N, C): ((B, Q, C), float32 (B, heads, Q, N))."""
    queries, keys, values = (_by_head(x, heads) for x in (queries, keys, values))
    scores = ops.matmul(queries, ops.transpose(keys, (0, 1, 3, 2))) / queries.shape[-1] ** 0.5
    attention = masked_softmax(scores, real[:, None, None, :])
    answer = ops.transpose(ops.matmul(ops.cast(attention, values.dtype), values), (0, 2, 1, 3))
    shape = ops.shape(answer)
    return ops.reshape(answer, (shape[0], shape[1], answer.shape[2] * answer.shape[3])), attention


def _by_head(x: Any, heads: int) -> Any:
    """(B, n, C) -> (B, heads, n, C / heads)."""
    shape = ops.shape(x)
    return ops.transpose(ops.reshape(x, (shape[0], shape[1], heads, x.shape[2] // heads)), (0, 2, 1, 3))
