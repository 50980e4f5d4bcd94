"""Grouped convolution that also trains on a CPU.

`keras.layers.Conv2D(groups=32)` compiles itself with XLA on the TensorFlow backend, which makes its training on a CPU
many times slower than the convolution is. TensorFlow's own `conv2d` has native grouped kernels: cuDNN's on a GPU,
oneDNN's on a CPU. This file and `fused_batch_norm.py` alone of `models` call TensorFlow, and only when such a layer is
called on that backend.
"""

from typing import Any

import keras
from keras import ops


@keras.saving.register_keras_serializable("melano_tf")
class GroupedConv2D(keras.layers.Conv2D):
    """A `keras.layers.Conv2D` with the same arguments, weights and results; only how it is computed differs.

    Input (B, H, W, C), output (B, H', W', filters); kernel (kh, kw, C / groups, filters): output channel o belongs to
    group o // (filters / groups), as in Keras and in PyTorch. On other backends than TensorFlow it is the plain layer.

    Args:
        portable: one convolution a group, on split channels, joined again: slow, but runs anywhere. For a CPU where
            TensorFlow comes without oneDNN (TF_ENABLE_ONEDNN_OPTS=0, Apple silicon) and for exports meant to run there.
    """

    def __init__(self, *args: Any, portable: bool = False, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.portable = portable

    def convolution_op(self, inputs: Any, kernel: Any) -> Any:
        if self.groups == 1:
            return super().convolution_op(inputs, kernel)
        if self.portable:
            axis = -1 if self.data_format == "channels_last" else 1
            parts = zip(ops.split(inputs, self.groups, axis), ops.split(kernel, self.groups, -1), strict=True)
            return ops.concatenate([super(GroupedConv2D, self).convolution_op(*part) for part in parts], axis)
        if keras.config.backend() != "tensorflow":
            return super().convolution_op(inputs, kernel)
        import tensorflow as tf

        return tf.nn.conv2d(
            inputs,
            kernel,
            list(self.strides),
            self.padding.upper(),
            data_format="NHWC" if self.data_format == "channels_last" else "NCHW",
            dilations=list(self.dilation_rate),
        )

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "portable": self.portable}


def make_portable(model: keras.Model) -> keras.Model:
    """A copy of a functional model, with its own variables, whose grouped convolutions are split ones.

    Outputs are the same up to rounding. The copy runs where TensorFlow has no grouped kernels.
    """

    def copy(layer: Any) -> Any:
        config = layer.get_config()
        if isinstance(layer, GroupedConv2D):
            config["portable"] = True
        return type(layer).from_config(config)

    result = keras.models.clone_model(model, clone_function=copy)
    result.set_weights(model.get_weights())
    return result
