"""A trained model over many batches, in the order given and in bounded memory."""

from collections.abc import Iterable
from typing import Any

import keras
import numpy as np
import tensorflow as tf


def predict(model: keras.Model, batches: Iterable[dict[str, Any]]) -> np.ndarray:
    """The model's outputs, float32 (n, …), for batches of dicts whose "x" is the model's input; (0,) for none.

    The model runs in inference mode. Keras's own `predict` would shuffle nothing either, but rebuilds its data
    pipeline and callbacks at each call, which costs more than a small network itself.
    """
    forward = tf.function(lambda x: tf.cast(model(x, training=False), tf.float32), reduce_retracing=True)
    parts = [forward(batch["x"]).numpy() for batch in batches]
    return np.concatenate(parts) if parts else np.zeros((0,), np.float32)
