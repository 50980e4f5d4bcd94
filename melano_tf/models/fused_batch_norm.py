"""Batch normalisation as one operation of TensorFlow: a small network trains sooner on a CPU.

`keras.layers.BatchNormalization` is computed from means, differences and products, each of which goes through all of a
layer's maps again, forwards and backwards; `FusedBatchNormV3` does it in one pass.
"""

from typing import Any

import keras


@keras.saving.register_keras_serializable("melano_tf")
class FusedBatchNormalization(keras.layers.BatchNormalization):
    """A `keras.layers.BatchNormalization` with the same arguments, weights and results, up to rounding.

    Fused are float32 maps (B, H, W, C), normalised by channel, with gamma and beta, without a mask and without batch
    renormalisation, on the TensorFlow backend. Everything else is computed by the plain layer.
    """

    def call(self, inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
        if mask is not None or not self._fuses(inputs):
            return super().call(inputs, training=training, mask=mask)
        import tensorflow as tf

        learns = bool(training) and self.trainable
        none = tf.zeros([0], tf.float32)
        y, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
            x=inputs,
            scale=self.gamma,
            offset=self.beta,
            mean=none if learns else self.moving_mean,
            variance=none if learns else self.moving_variance,
            epsilon=self.epsilon,
            is_training=learns,
        )
        if learns:
            # The operation gives the unbiased variance, Keras keeps the biased one.
            count = tf.cast(tf.size(inputs) // tf.shape(inputs)[-1], tf.float32)
            biased = variance * tf.maximum(count - 1, 1) / count
            self.moving_mean.assign(self.moving_mean * self.momentum + mean * (1 - self.momentum))
            self.moving_variance.assign(self.moving_variance * self.momentum + biased * (1 - self.momentum))
        return y

    def _fuses(self, inputs: Any) -> bool:
        maps = len(inputs.shape) == 4 and self.axis in (-1, 3)
        plain = self.scale and self.center and not self.synchronized and not getattr(self, "renorm", False)
        return bool(maps and plain and self.compute_dtype == "float32" and keras.config.backend() == "tensorflow")


def fuse_batch_norm(inputs: Any, outputs: Any) -> tuple[Any, Any]:
    """The same graph with fused batch normalisation: (inputs, outputs) of a copy with its own variables, of equal
    values.

    Args:
        inputs, outputs: of a functional graph, of Keras's own layers or registered ones.
    """

    def copy(layer: Any) -> Any:
        plain = type(layer) is keras.layers.BatchNormalization
        return (FusedBatchNormalization if plain else type(layer)).from_config(layer.get_config())

    model = keras.Model(inputs, outputs)
    result = keras.models.clone_model(model, clone_function=copy)
    result.set_weights(model.get_weights())
    return result.inputs[0], result.outputs[0]
