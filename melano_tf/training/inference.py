"""A trained model over many batches, in the order given and in bounded memory."""

import functools
from collections.abc import Callable, Iterable
from typing import Any

import keras
import numpy as np

from melano_tf.training.steps import traced


def predict(model: keras.Model | Callable[[Any], Any], batches: Iterable[dict[str, Any]]) -> Any:
    """The model's outputs, float32 (n, …), for batches of dicts whose "x" is the model's input; (0,) for none.

    Of a model with several outputs the same structure of arrays.

    The model runs in inference mode. Keras's own `predict` would shuffle nothing either, but rebuilds its data
    pipeline and callbacks at each call, which costs more than a small network itself.

    Args:
        model: a model, traced for this call; or its forward pass that is traced already (`training.fit.Network`).
        batches: its inputs.
    """
    forward = traced(functools.partial(model, training=False)) if isinstance(model, keras.Model) else model
    parts = [keras.tree.map_structure(_numbers, forward(batch["x"])) for batch in batches]
    if not parts:
        return np.zeros((0,), np.float32)
    return keras.tree.map_structure(lambda *own: np.concatenate(own), *parts)


def _numbers(values: Any) -> np.ndarray:
    return np.asarray(values, np.float32)  # whatever the model computes in
