"""One check for every layer: shapes, dtypes, serialisation, saving, gradients. For the tests of any model."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf


def check_layer(
    make: Callable[[], keras.layers.Layer],
    inputs: np.ndarray,
    expected_shape: Any,
    folder: Path,
    expected_dtype: str = "float32",
    trainable_tensors: int = 0,
    parameters: int | None = None,
    policies: tuple[str, ...] = ("float32", "mixed_float16"),
    differentiable: bool = True,
    logits: int = 0,
) -> keras.layers.Layer:
    """Assert what every layer must do; returns a built layer.

    Args:
        make: makes the layer.
        inputs: a batch (B, ...) with B > 1.
        expected_shape: of the output(s) for these inputs: a shape, or a list of shapes (None: the input's batch axis is
            not kept and shapes are only compared eagerly).
        folder: scratch, for the saved model.
        expected_dtype: of every output under the float32 policy.
        trainable_tensors: how many trainable tensors the layer must have; each must get a gradient that is not zero.
        parameters: number of scalars in the layer's weights.
        policies: dtype policies under which the output must be finite.
        differentiable: False for a layer that rounds, which has no gradient to check.
        logits: so many of the outputs, the first ones, are logits: float32 under every policy.
    """
    layer = make()
    outputs = tf.nest.flatten(layer(inputs))
    shapes = expected_shape if isinstance(expected_shape, list) else [expected_shape]
    assert [tuple(output.shape) for output in outputs] == [tuple(shape) for shape in shapes]
    assert {keras.backend.standardize_dtype(output.dtype) for output in outputs} == {expected_dtype}
    assert len(layer.trainable_weights) == trainable_tensors
    if parameters is not None:
        assert layer.count_params() == parameters
    computed = layer.compute_output_shape(inputs.shape)
    computed = computed if isinstance(expected_shape, list) else [computed]
    assert [tuple(shape) for shape in computed] == [tuple(shape) for shape in shapes]
    _check_config(layer, inputs, outputs)
    _check_saving(make, inputs, folder)
    if differentiable:
        _check_gradients(layer, inputs)
    for policy in policies:
        _check_policy(layer, inputs, policy, logits)
    return layer


def _check_config(layer: keras.layers.Layer, inputs: np.ndarray, outputs: list[Any]) -> None:
    config = json.loads(json.dumps(layer.get_config()))
    again = type(layer).from_config(config)
    assert again.get_config() == layer.get_config()
    again(inputs)
    again.set_weights(layer.get_weights())
    for first, second in zip(outputs, tf.nest.flatten(again(inputs)), strict=True):
        np.testing.assert_array_equal(first, second)


def _check_saving(make: Callable[[], keras.layers.Layer], inputs: np.ndarray, folder: Path) -> None:
    symbolic = keras.Input(batch_shape=inputs.shape, dtype=str(inputs.dtype))
    model = keras.Model(symbolic, make()(symbolic))
    path = folder / "layer.keras"
    model.save(path)
    loaded = keras.saving.load_model(path)
    for first, second in zip(tf.nest.flatten(model(inputs)), tf.nest.flatten(loaded(inputs)), strict=True):
        np.testing.assert_array_equal(first, second)


def _check_gradients(layer: keras.layers.Layer, inputs: np.ndarray) -> None:
    x = tf.convert_to_tensor(inputs.astype("float32"))
    with tf.GradientTape() as tape:
        tape.watch(x)
        first = tf.nest.flatten(layer(x, training=True))[0]
        weights = tf.random.stateless_normal(first.shape, seed=(1, 2))
        loss = tf.reduce_sum(tf.cast(first, tf.float32) * weights)
    gradients = tape.gradient(loss, [x, *(variable.value for variable in layer.trainable_weights)])
    for gradient in gradients:
        assert gradient is not None
        assert np.all(np.isfinite(gradient))
        assert np.any(np.asarray(gradient) != 0)


def _check_policy(layer: keras.layers.Layer, inputs: np.ndarray, policy: str, logits: int) -> None:
    config = {**layer.get_config(), "dtype": policy}
    for place, output in enumerate(tf.nest.flatten(type(layer).from_config(config)(inputs))):
        expected = "float32" if place < logits else keras.DTypePolicy(policy).compute_dtype
        assert keras.backend.standardize_dtype(output.dtype) == expected
        assert np.all(np.isfinite(np.asarray(output, dtype=np.float32)))


def nested_models(model: keras.Model) -> list[str]:
    """Names of layers that are models themselves; a flat graph has none."""
    return [layer.name for layer in model.layers if isinstance(layer, keras.Model)]
