"""Mixup (Zhang et al., ICLR 2018): a sample and the next one of its batch, blended, while a network is trained."""

from typing import Any

import keras
from keras import ops


@keras.saving.register_keras_serializable("melano_tf")
class Mixup(keras.layers.Layer):
    """Blend each sample with the next one of the batch; the last with the first. Only in training.

    Inputs: samples (B, ...) float, and each one's own share (B,) float in 0..1; output as the samples. A sample's
    target is blended by the same shares (`melano_tf.training.soft_targets.soft_targets`).
    """

    blends_samples = True  # what it gives depends on which samples are done together

    def build(self, input_shape: Any) -> None:
        self.built = True

    def call(self, inputs: Any, training: bool = False) -> Any:
        samples, share = inputs
        if not training:
            return samples
        x = ops.cast(samples, self.compute_dtype)
        own = ops.reshape(ops.cast(share, x.dtype), (-1, *(1,) * (len(x.shape) - 1)))
        return own * x + (1 - own) * ops.roll(x, -1, axis=0)

    def compute_output_shape(self, input_shape: Any) -> Any:
        return input_shape[0]


def mixing(network: keras.Model) -> keras.Model:
    """A network that is trained on blended samples: its inputs by name, and "share" (B,) -> what the network gives.

    Args:
        network: of a picture "image", and perhaps "metadata"; its layers are used, not copied.
    """
    inputs = {each.name: keras.Input(each.shape[1:], name=each.name) for each in network.inputs}
    share = keras.Input((), name="share")
    # Blended in float32, whatever the network computes in.
    blended = [Mixup(dtype="float32", name=f"mixup_{name}")([each, share]) for name, each in inputs.items()]
    inner = keras.Model(list(network.inputs), network.outputs[0], name=network.name)
    return keras.Model({**inputs, "share": share}, inner(blended), name=f"{network.name}_mixing")
