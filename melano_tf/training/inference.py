"""A trained model over many batches, in the order given and in bounded memory."""

from collections.abc import Iterable
from typing import Any

import keras
import numpy as np
import tensorflow as tf


def predict(model: keras.Model, batches: Iterable[dict[str, Any]]) -> Any:
    """The model's outputs, float32 (n, …), for batches of dicts whose "x" is the model's input; (0,) for none.

    Of a model with several outputs the same structure of arrays.

    The model runs in inference mode. Keras's own `predict` would shuffle nothing either, but rebuilds its data
    pipeline and callbacks at each call, which costs more than a small network itself.
    """
    forward = tf.function(lambda x: model(x, training=False), reduce_retracing=True)
    parts = [keras.tree.map_structure(np.asarray, forward(batch["x"])) for batch in batches]
    if not parts:
        return np.zeros((0,), np.float32)
    return keras.tree.map_structure(lambda *own: np.concatenate(own), *parts)
