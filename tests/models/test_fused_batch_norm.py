"""Batch normalisation in one operation: what Keras computes, forwards, backwards and in its statistics."""

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from melano_tf.models.fused_batch_norm import FusedBatchNormalization, fuse_batch_norm

SHAPES = [(3, 5, 7, 4), (1, 1, 1, 3), (2, 1, 6, 1)]


def pair(shape: tuple[int, ...], **options: Any) -> tuple[Any, Any]:
    """A plain layer and a fused one of equal weights, none of which is what it starts with."""
    draw, made = np.random.default_rng(3), []
    values = [draw.uniform(0.5, 2.0, shape[-1]).astype(np.float32) for _ in range(4)]
    for kind in (keras.layers.BatchNormalization, FusedBatchNormalization):
        layer = kind(momentum=0.8, epsilon=1e-4, **options)
        layer.build(shape)
        layer.set_weights(values[: len(layer.weights)])
        made.append(layer)
    return made[0], made[1]


def step(layer: Any, x: np.ndarray, training: bool) -> list[np.ndarray]:
    """Outputs, gradients by input, gamma and beta, and the statistics afterwards."""
    given = tf.constant(x)
    weights = np.random.default_rng(4).normal(size=x.shape).astype(np.float32)
    with tf.GradientTape() as tape:
        tape.watch(given)
        y = layer(given, training=training)
        loss = tf.reduce_sum(tf.cast(y, tf.float32) * weights)
    sources = [given, layer.gamma.value, layer.beta.value]
    return [np.asarray(each) for each in (y, *tape.gradient(loss, sources), *layer.get_weights()[2:])]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("trainable", [True, False])
def test_a_step_is_that_of_keras(shape: tuple[int, ...], training: bool, trainable: bool) -> None:
    plain, fused = pair(shape)
    plain.trainable = fused.trainable = trainable
    x = np.random.default_rng(5).normal(2.0, 3.0, shape).astype(np.float32)
    assert fused._fuses(tf.constant(x))
    before = fused.get_weights()[2:]
    for ours, theirs in zip(step(fused, x, training), step(plain, x, training), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=2e-4, atol=2e-4)
    moved = any(not np.array_equal(a, b) for a, b in zip(before, fused.get_weights()[2:], strict=True))
    assert moved == (training and trainable)


def test_outputs_and_statistics_by_naive_loops() -> None:
    _, fused = pair((4, 3, 5, 2))
    gamma, beta, mean, variance = (each.astype(np.float64) for each in fused.get_weights())
    x = np.random.default_rng(6).normal(-1.0, 2.0, (4, 3, 5, 2)).astype(np.float32)
    found = np.asarray(fused(x, training=True))
    for channel in range(2):
        values = [float(x[b, i, j, channel]) for b in range(4) for i in range(3) for j in range(5)]
        centre = sum(values) / len(values)
        spread = sum((value - centre) ** 2 for value in values) / len(values)
        wanted = gamma[channel] * (x[..., channel] - centre) / np.sqrt(spread + 1e-4) + beta[channel]
        np.testing.assert_allclose(found[..., channel], wanted, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(fused.moving_mean[channel], 0.8 * mean[channel] + 0.2 * centre, rtol=1e-5)
        np.testing.assert_allclose(fused.moving_variance[channel], 0.8 * variance[channel] + 0.2 * spread, rtol=1e-5)


@pytest.mark.parametrize(
    "shape, options",
    [
        ((5, 6), {}),
        ((3, 4, 5, 2), {"axis": 1}),
        ((3, 4, 5, 2), {"dtype": "bfloat16"}),
        ((2, 3, 3, 2), {"scale": False}),
        ((3, 4, 5, 2), {"renorm": True}),
    ],
)
def test_what_is_not_fused_is_the_plain_layers(shape: tuple[int, ...], options: dict[str, Any]) -> None:
    plain, fused = (kind(**options) for kind in (keras.layers.BatchNormalization, FusedBatchNormalization))
    x = np.random.default_rng(7).normal(size=shape).astype(np.float32)
    np.testing.assert_array_equal(*(np.asarray(tf.cast(each(x, training=True), tf.float32)) for each in (plain, fused)))
    assert not fused._fuses(tf.constant(x))


def test_a_graph_is_copied_with_its_weights_and_kept_in_a_file(tmp_path: Path) -> None:
    picture = keras.Input((9, 7, 3), name="image")
    x = keras.layers.Conv2D(4, 3, use_bias=False, name="first")(picture)
    x = keras.layers.ReLU(name="relu")(keras.layers.BatchNormalization(name="norm")(x))
    plain = keras.Model(picture, x)
    plain.set_weights([np.random.default_rng(8).uniform(0.5, 1, w.shape) for w in plain.get_weights()])
    model = keras.Model(*fuse_batch_norm(picture, x))
    assert type(model.get_layer("norm")) is FusedBatchNormalization and model.inputs[0].name == "image"
    shown = np.random.default_rng(9).normal(size=(2, 9, 7, 3)).astype(np.float32)
    np.testing.assert_allclose(model(shown), plain(shown), rtol=1e-5, atol=1e-5)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(again(shown), model(shown))
    before = plain(shown).numpy()
    model.set_weights([np.zeros_like(weight) for weight in model.get_weights()])
    np.testing.assert_array_equal(plain(shown), before)
    model.compile("sgd", "mse")
    assert np.isfinite(model.train_on_batch(shown, np.zeros((2, 7, 5, 4), np.float32)))
