"""Grouped convolution against naive loops and Keras' own layer, its split form, and where TensorFlow has no kernels."""

import inspect
import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from melano_tf.models.grouped_convolution import GroupedConv2D, make_portable
from tests.models.layer_checks import check_layer

X = np.random.default_rng(0).normal(size=(2, 5, 7, 6)).astype("float32")


def naive(x: np.ndarray, kernel: np.ndarray, groups: int, strides: int) -> np.ndarray:
    """Convolution without padding, one output number at a time."""
    size, _, per_group, filters = kernel.shape
    height, width = ((x.shape[axis] - size) // strides + 1 for axis in (1, 2))
    result = np.zeros((len(x), height, width, filters))
    for b, i, j, o in np.ndindex(*result.shape):
        start = o // (filters // groups) * per_group
        patch = x[b, i * strides : i * strides + size, j * strides : j * strides + size, start : start + per_group]
        result[b, i, j, o] = np.sum(patch * kernel[..., o])
    return result


@pytest.mark.parametrize("portable", [False, True])
@pytest.mark.parametrize(("groups", "strides"), [(1, 1), (2, 1), (3, 2), (6, 1)])
def test_equals_naive_loops(groups: int, strides: int, portable: bool) -> None:
    layer = GroupedConv2D(12, 3, strides=strides, groups=groups, bias_initializer="ones", portable=portable)
    result = layer(X)
    expected = naive(X, np.asarray(layer.kernel), groups, strides) + 1
    np.testing.assert_allclose(result, expected, rtol=1e-4, atol=1e-5)
    assert layer.kernel.shape == (3, 3, 6 // groups, 12)


def test_equals_the_plain_layer_and_takes_its_weights() -> None:
    plain = keras.layers.Conv2D(8, 3, strides=2, padding="same", groups=2, activation="relu")
    expected = plain(X)
    config = {**plain.get_config(), "name": "ours"}
    ours = GroupedConv2D.from_config(config)
    ours.build(X.shape)
    ours.set_weights(plain.get_weights())
    np.testing.assert_allclose(ours(X), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("portable", [False, True])
def test_is_a_layer(portable: bool, tmp_path: Path) -> None:
    check_layer(
        lambda: GroupedConv2D(4, 3, groups=2, padding="same", portable=portable),
        X,
        (2, 5, 7, 4),
        tmp_path,
        trainable_tensors=2,
        parameters=3 * 3 * 3 * 4 + 4,
    )


def gradients(layer: GroupedConv2D) -> list[np.ndarray]:
    x = tf.constant(X)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = layer(x)
        loss = tf.reduce_sum(y * tf.random.stateless_normal(y.shape, seed=(1, 2)))
    return [np.asarray(g) for g in tape.gradient(loss, [x, *(v.value for v in layer.trainable_weights)])]


def test_split_form_has_the_same_gradients() -> None:
    native = GroupedConv2D(6, 3, groups=3, strides=2)
    native.build(X.shape)
    split = GroupedConv2D.from_config({**native.get_config(), "portable": True})
    split.build(X.shape)
    split.set_weights(native.get_weights())
    for ours, theirs in zip(gradients(native), gradients(split), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


def test_make_portable_copies_a_model() -> None:
    inputs = keras.Input((5, 7, 6))
    x = GroupedConv2D(6, 3, groups=3, name="grouped")(inputs)
    model = keras.Model(inputs, keras.layers.BatchNormalization()(keras.layers.Conv2D(2, 1)(x)))
    copy = make_portable(model)
    assert copy.get_layer("grouped").portable and not model.get_layer("grouped").portable
    before = np.asarray(model(X))
    np.testing.assert_allclose(copy(X), before, rtol=1e-4, atol=1e-5)
    copy.set_weights([np.zeros_like(weight) for weight in copy.get_weights()])
    np.testing.assert_array_equal(model(X), before)


def native_gradients() -> bool:
    """Whether TensorFlow has gradients of grouped convolutions here: of one tiny convolution."""
    x, kernel = tf.ones((1, 3, 3, 4)), tf.ones((3, 3, 2, 4))
    try:
        with tf.GradientTape() as tape:
            tape.watch([x, kernel])
            y = tf.reduce_sum(tf.nn.conv2d(x, kernel, 1, "SAME"))
        tape.gradient(y, [x, kernel])
    except (tf.errors.UnimplementedError, tf.errors.InvalidArgumentError):
        return False
    return True


def test_trains_here() -> None:
    assert native_gradients()


def test_without_kernels_the_split_form_trains() -> None:
    """Started without oneDNN, TensorFlow's CPU has no gradients of grouped convolutions."""
    program = (
        "import numpy as np, tensorflow as tf\n"
        "from melano_tf.models.grouped_convolution import GroupedConv2D\n"
        f"{inspect.getsource(native_gradients)}"
        "assert not native_gradients()\n"
        "layer = GroupedConv2D(4, 3, groups=2, portable=True)\n"
        "x = np.ones((1, 4, 4, 4), 'float32')\n"
        "layer.build(x.shape)\n"
        "with tf.GradientTape() as tape:\n"
        "    y = tf.reduce_sum(layer(x))\n"
        "gradient = tape.gradient(y, layer.trainable_weights[0].value)\n"
        "assert np.allclose(gradient, 4.0), gradient\n"
    )
    environment = {**os.environ, "TF_ENABLE_ONEDNN_OPTS": "0", "CUDA_VISIBLE_DEVICES": "-1"}
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, cwd=root, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr[-2000:]
