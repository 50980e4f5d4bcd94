"""A trained model over many batches, in the order given and in bounded memory."""

import functools
from collections.abc import Callable, Iterable
from typing import Any

import keras
import numpy as np

from melano_tf.training.steps import traced


def predict(model: keras.Model | Callable[[Any], Any], batches: Iterable[dict[str, Any]]) -> np.ndarray:
    """The model's outputs, float32 (n, …), for batches of dicts whose "x" is the model's input; (0,) for none.

    The model runs in inference mode. Keras's own `predict` would shuffle nothing either, but rebuilds its data
    pipeline and callbacks at each call, which costs more than a small network itself.

    Args:
        model: a model, traced for this call; or its forward pass that is traced already (`training.fit.Network`).
        batches: its inputs.
    """
    forward = traced(functools.partial(model, training=False)) if isinstance(model, keras.Model) else model
    parts = [np.asarray(forward(batch["x"]), np.float32) for batch in batches]  # whatever the model computes in
    return np.concatenate(parts) if parts else np.zeros((0,), np.float32)
