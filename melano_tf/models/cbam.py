"""CBAM, the convolutional block attention module (Woo et al. 2018), static and conditioned on a recurrent state.

The sample-weighting paper, section 4.1, puts it after the last pooling layer; in the hierarchical network "the channel
and spatial attention are dynamic, changing according to the hierarchic decision level". How is not printed; our
reading is in the layers' words. A state of zeros, which is where a recurrent network starts, leaves the static module.

The layers take features F (B, H, W, C), or [F, state (B, U)].
"""

from typing import Any

import keras
from keras import ops

Shape = tuple[int | None, ...]


@keras.saving.register_keras_serializable("melano_tf")
class ChannelAttention(keras.layers.Layer):
    """How much each channel counts: sigmoid(MLP(average over places) + MLP(maximum over places)), (B, C) in 0..1.

    MLP(x) = W2 relu(W1 x + b1 + V state) + b2, W1 to C / ratio; V only where there is a state.

    Args:
        ratio: reduction (16). The bottleneck has at least one unit.
    """

    def __init__(self, ratio: int = 16, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if ratio < 1:
            raise ValueError(f"ratio {ratio}: expected at least 1")
        self.ratio = ratio

    def build(self, input_shape: Any) -> None:
        (*_, channels), units = split_shape(input_shape)
        hidden = max(1, channels // self.ratio)
        self.w1 = self.add_weight(name="w1", shape=(channels, hidden), initializer="he_uniform")
        self.b1 = self.add_weight(name="b1", shape=(hidden,), initializer="zeros")
        self.w2 = self.add_weight(name="w2", shape=(hidden, channels), initializer="glorot_uniform")
        self.b2 = self.add_weight(name="b2", shape=(channels,), initializer="zeros")
        self.v = None
        if units is not None:
            self.v = self.add_weight(name="v", shape=(units, hidden), initializer="glorot_uniform")
        self.built = True

    def call(self, inputs: Any) -> Any:
        features, state = split(inputs)
        offset = self.b1 if self.v is None else self.b1 + ops.matmul(state, self.v)
        pooled = (ops.mean(features, axis=(1, 2)), ops.max(features, axis=(1, 2)))
        answers = [ops.matmul(ops.relu(ops.matmul(x, self.w1) + offset), self.w2) + self.b2 for x in pooled]
        return ops.sigmoid(answers[0] + answers[1])

    def compute_output_shape(self, input_shape: Any) -> Shape:
        features, _ = split_shape(input_shape)
        return (features[0], features[-1])

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "ratio": self.ratio}


@keras.saving.register_keras_serializable("melano_tf")
class SpatialAttention(keras.layers.Layer):
    """How much each place counts: sigmoid(convolution of [average, maximum] over channels), (B, H, W) in 0..1.

    With a state the convolution sees a third plane, mean over channels of F_c (V state)_c: what the state asks for.
    Added to the convolution's output instead, a projection would be the same at every place and could not move it.

    Args:
        kernel: side of the convolution (7).
    """

    def __init__(self, kernel: int = 7, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if kernel < 1:
            raise ValueError(f"kernel {kernel}: expected at least 1")
        self.kernel = kernel

    def build(self, input_shape: Any) -> None:
        (*_, channels), units = split_shape(input_shape)
        planes = 2 if units is None else 3
        self.w = self.add_weight(name="w", shape=(self.kernel, self.kernel, planes, 1), initializer="glorot_uniform")
        self.b = self.add_weight(name="b", shape=(1,), initializer="zeros")
        self.v = None
        if units is not None:
            self.v = self.add_weight(name="v", shape=(units, channels), initializer="glorot_uniform")
        self.built = True

    def call(self, inputs: Any) -> Any:
        features, state = split(inputs)
        planes = [ops.mean(features, axis=-1), ops.max(features, axis=-1)]
        if self.v is not None:
            asked = ops.matmul(state, self.v)
            planes.append(ops.mean(features * asked[:, None, None, :], axis=-1))
        score = ops.conv(ops.stack(planes, axis=-1), self.w, padding="same", data_format="channels_last")
        return ops.sigmoid(score + self.b)[..., 0]

    def compute_output_shape(self, input_shape: Any) -> Shape:
        features, _ = split_shape(input_shape)
        return tuple(features[:-1])

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "kernel": self.kernel}


@keras.saving.register_keras_serializable("melano_tf")
class Cbam(keras.layers.Layer):
    """Channel attention, then spatial attention of what it leaves.

    Output: (attended features (B, H, W, C), channel attention (B, C), spatial attention (B, H, W)).

    Args:
        ratio: of `ChannelAttention`.
        kernel: of `SpatialAttention`.
    """

    def __init__(self, ratio: int = 16, kernel: int = 7, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.ratio, self.kernel = ratio, kernel
        self.channel = ChannelAttention(ratio, name="channel", dtype=self.dtype_policy)
        self.spatial = SpatialAttention(kernel, name="spatial", dtype=self.dtype_policy)

    def build(self, input_shape: Any) -> None:
        self.channel.build(input_shape)
        self.spatial.build(input_shape)
        self.built = True

    def call(self, inputs: Any) -> tuple[Any, Any, Any]:
        features, state = split(inputs)
        channel = self.channel(inputs)
        features = features * channel[:, None, None, :]
        spatial = self.spatial(features if state is None else [features, state])
        return features * spatial[..., None], channel, spatial

    def compute_output_shape(self, input_shape: Any) -> tuple[Shape, Shape, Shape]:
        features, _ = split_shape(input_shape)
        shapes = (self.channel.compute_output_shape(input_shape), self.spatial.compute_output_shape(input_shape))
        return (tuple(features), *shapes)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "ratio": self.ratio, "kernel": self.kernel}


def split(inputs: Any) -> tuple[Any, Any]:
    """(features, state or None) of features alone or [features, state]."""
    return (inputs[0], inputs[1]) if isinstance(inputs, list | tuple) else (inputs, None)


def split_shape(shape: Any) -> tuple[Any, int | None]:
    """(shape of the features, width of the state or None)."""
    if isinstance(shape[0], list | tuple):
        features, state = shape
        return tuple(features), int(state[-1])
    return tuple(shape), None
