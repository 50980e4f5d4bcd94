"""Batch normalisation of a network on several devices and hosts, and of one whose weights are a mean."""

import functools
from collections.abc import Iterable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

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


def estimate_statistics(model: keras.Model, batches: Iterable[Any]) -> int:
    """Give batch normalisation the statistics of a network whose weights were set, and not trained: a mean of others.

    What it kept while it was trained belongs to other weights (Izmailov et al., Averaging weights leads to wider
    optima, UAI 2018, section 3.2). Each layer's become the mean over these batches of the batch's own.

    Args:
        model: with the weights that it is to answer by; layers that are not trained keep theirs.
        batches: what it takes, one after the other, as a training gives them.

    Returns:
        How many layers there are.
    """
    layers = [
        layer
        for layer in model._flatten_layers(include_self=False)
        if isinstance(layer, keras.layers.BatchNormalization) and layer.trainable
    ]
    if not layers:
        return 0
    kept, count = [layer.momentum for layer in layers], 0
    sums: list[np.ndarray] = []
    variables = [each for layer in layers for each in (layer.moving_mean, layer.moving_variance)]
    try:
        for layer in layers:
            layer.momentum = 0.0  # what it keeps is then the last batch's
        forward = tf.function(functools.partial(model, training=True), reduce_retracing=True, autograph=False)
        for batch in batches:
            forward(batch)
            seen = [np.asarray(variable.value, np.float64) for variable in variables]
            sums = seen if not count else [total + one for total, one in zip(sums, seen, strict=True)]
            count += 1
    finally:
        for layer, momentum in zip(layers, kept, strict=True):
            layer.momentum = momentum
    if not count:
        raise ValueError("no batch to take statistics of")
    for variable, total in zip(variables, sums, strict=True):
        variable.assign(total / count)
    return len(layers)
