"""Layers that several models share: input preprocessing, squeeze-and-excitation, fixed batch normalisation."""

from typing import Any, Literal, get_args

import keras
from keras import ops

PreprocessMode = Literal["caffe", "tf", "torch", "unit", "efficientnet", "none"]

# ImageNet statistics of keras.applications: means in BGR order of 0..255; means and deviations in RGB order of 0..1.
CAFFE_MEAN_BGR = (103.939, 116.779, 123.68)
TORCH_MEAN = (0.485, 0.456, 0.406)
TORCH_STD = (0.229, 0.224, 0.225)


@keras.saving.register_keras_serializable("melano_tf")
class Preprocess(keras.layers.Layer):
    """RGB images 0..255 as a backbone's weights expect them, so that it is part of the saved model.

    Input (B, H, W, 3), any number dtype; output the same shape in the layer's compute dtype. Grey levels are subtracted
    in float32 under any precision policy: bfloat16 knows none between 128 and 129.

    Args:
        mode: "caffe": BGR minus ImageNet's mean (VGG, ResNet); "tf": -1..1; "torch": 0..1, ImageNet's mean and
            deviation; "unit": 0..1; "none": 0..255, for networks that rescale inside; "efficientnet": for
            EfficientNet B0 to B7, whose graph divides by ImageNet's variance: what is left to do for their
            ImageNet weights is another division by the deviation's root.

    Raises:
        ValueError: unknown mode.
    """

    def __init__(self, mode: PreprocessMode, **kwargs: Any) -> None:
        super().__init__(autocast=False, **kwargs)
        if mode not in get_args(PreprocessMode):
            raise ValueError(f"mode {mode!r}: expected one of {', '.join(get_args(PreprocessMode))}")
        self.mode = mode

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        self.built = True

    def call(self, inputs: Any) -> Any:
        exact = "float64" if self.compute_dtype == "float64" else "float32"
        return ops.cast(self._expected(ops.cast(inputs, exact)), self.compute_dtype)

    def _expected(self, x: Any) -> Any:
        if self.mode == "caffe":
            return ops.flip(x, axis=-1) - ops.convert_to_tensor(CAFFE_MEAN_BGR, dtype=x.dtype)
        if self.mode == "tf":
            return x / 127.5 - 1.0
        if self.mode == "unit":
            return x / 255.0
        mean = 255.0 * ops.convert_to_tensor(TORCH_MEAN, dtype=x.dtype)
        std = ops.convert_to_tensor(TORCH_STD, dtype=x.dtype)
        if self.mode == "torch":
            return (x - mean) / (255.0 * std)
        if self.mode == "efficientnet":
            return mean + (x - mean) / ops.sqrt(std)
        return x

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        return input_shape

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "mode": self.mode}


@keras.saving.register_keras_serializable("melano_tf")
class SqueezeExcite(keras.layers.Layer):
    """Squeeze-and-excitation of section 4.1 of the spitzoid paper: s = GAP(G), G_se = sigmoid(W2 relu(W1 s)) * G.

    Input and output (B, H, W, R) float. W1 is (R, R/r) and W2 (R/r, R) as kernels, without biases, as printed.

    Args:
        ratio: r, the reduction (paper: 4). The bottleneck has at least one unit.
    """

    def __init__(self, ratio: int = 4, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if ratio < 1:
            raise ValueError(f"ratio {ratio}: expected at least 1")
        self.ratio = ratio

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        channels = input_shape[-1]
        if channels is None:
            raise ValueError("the number of channels must be known")
        hidden = max(1, channels // self.ratio)
        self.w1 = self.add_weight(name="w1", shape=(channels, hidden), initializer="he_uniform")
        self.w2 = self.add_weight(name="w2", shape=(hidden, channels), initializer="glorot_uniform")
        self.built = True

    def call(self, inputs: Any) -> Any:
        squeezed = ops.mean(inputs, axis=(1, 2))
        scale = ops.sigmoid(ops.matmul(ops.relu(ops.matmul(squeezed, self.w1)), self.w2))
        return inputs * scale[:, None, None, :]

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        return input_shape

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "ratio": self.ratio}


@keras.saving.register_keras_serializable("melano_tf")
class FixedBatchNormalization(keras.layers.BatchNormalization):
    """Batch normalisation that always uses its stored statistics and never updates them; gamma and beta still train.

    An image's output then does not depend on the others of its batch, which training on bags in chunks needs.
    """

    def call(self, inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
        return super().call(inputs, training=False, mask=mask)


@keras.saving.register_keras_serializable("melano_tf")
class AsBag(keras.layers.Layer):
    """All rows of a batch as one bag: (N, C) -> (1, N, C)."""

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        self.built = True

    def call(self, inputs: Any) -> Any:
        return ops.expand_dims(inputs, axis=0)

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        return (1, *input_shape)
