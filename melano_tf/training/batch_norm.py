"""Batch normalisation of a network on several devices and hosts."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from melano_tf.training.hosts import Hosts


def has_batch_statistics(model: Any) -> bool:
    """Whether batch normalisation takes statistics of the batch it is trained on."""
    layers = model._flatten_layers(include_self=False)
    return any(isinstance(layer, keras.layers.BatchNormalization) and layer.trainable for layer in layers)


def synchronise_batch_norm(model: Any) -> None:
    """Let batch normalisation take its statistics over all replicas' samples: the batch that the paper speaks of."""
    for layer in model._flatten_layers(include_self=False):
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.synchronized = True


def reduce_batch_norm(model: Any) -> int:
    """Give each replica the mean of all replicas' moving statistics (BatchNorm), also of those of other hosts, before
    saving or evaluating.

    Keras updates them on each replica apart. On one device nothing is done.

    Returns:
        How many variables were reduced.
    """
    hosts, reduced = Hosts.of_model(model), 0
    for variable in model.non_trainable_variables:
        replicas = getattr(variable.value, "values", ())
        if (len(replicas) < 2 and hosts is None) or not variable.value.dtype.is_floating:
            continue
        values = [replica.numpy() for replica in replicas]
        mean = values[0] if _all_equal(values) else np.mean(values, axis=0)
        mean = mean if hosts is None else hosts.mean(mean)
        if not _all_equal([mean, *values]):
            variable.assign(mean)
            reduced += 1
    return reduced


def _all_equal(values: Sequence[np.ndarray]) -> bool:
    return all(np.array_equal(values[0], value) for value in values[1:])
