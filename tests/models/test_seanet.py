"""SeaNet against naive numpy, the source model's parts by number and name, and that it learns from scratch."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from melano_tf.errors import InputError
from melano_tf.models.seanet import build_source, refine
from tests.models.layer_checks import nested_models

RNG = np.random.default_rng(0)


def refinement(channels: int, size: int = 3) -> keras.Model:
    features = keras.Input((size, size, channels))
    return keras.Model(features, refine(features))


def naive_refine(features: np.ndarray, weights: dict[str, list[np.ndarray]]) -> np.ndarray:
    """Position by position, channel by channel, as section 4.1 says it."""

    def convolve(x: np.ndarray, kernel: np.ndarray, bias: np.ndarray) -> np.ndarray:
        result = np.zeros((*x.shape[:2], kernel.shape[3]))
        for i in range(x.shape[0]):
            for j in range(x.shape[1]):
                for out in range(kernel.shape[3]):
                    result[i, j, out] = sum(x[i, j, c] * kernel[0, 0, c, out] for c in range(x.shape[2])) + bias[out]
        return result

    def sigmoid(x: np.ndarray) -> np.ndarray:
        return 1 / (1 + np.exp(-x))

    refined = np.zeros(features.shape)
    for n, image in enumerate(features.astype("float64")):
        x = image
        for number in (1, 2, 3):
            x = np.maximum(0, convolve(x, *weights[f"seanet_reduce{number}"]))
            w1, w2 = weights[f"seanet_excite{number}"]
            squeezed = np.array([np.mean(x[:, :, c]) for c in range(x.shape[2])])
            x = x * sigmoid(w2.T @ np.maximum(0, w1.T @ squeezed))
        gate = sigmoid(convolve(x, *weights["seanet_gate"]))
        (expand,) = weights["seanet_expand"]
        refined[n] = image * convolve(gate, expand, np.zeros(expand.shape[3]))
    return refined


def test_refinement_equals_naive_numpy() -> None:
    model = refinement(12)
    for weight in model.weights:  # nothing is left at its initial zeros or ones
        weight.assign(RNG.normal(0, 0.5, weight.shape))
    features = RNG.normal(size=(2, 3, 3, 12)).astype("float32")
    weights = {layer.name: layer.get_weights() for layer in model.layers}
    np.testing.assert_allclose(model(features), naive_refine(features, weights), rtol=1e-4, atol=1e-5)


def test_refinement_has_its_parameters() -> None:
    convolutions = (512 * 64 + 64) + (64 * 16 + 16) + (16 * 8 + 8)
    excitations = 2 * 64 * 16 + 2 * 16 * 4 + 2 * 8 * 2
    gate, expand = 8 + 1, 512
    assert refinement(512).count_params() == convolutions + excitations + gate + expand == 36_737


def test_refinement_starts_alike_in_all_channels() -> None:
    model = refinement(6)
    np.testing.assert_array_equal(model.get_layer("seanet_expand").get_weights()[0], np.ones((1, 1, 1, 6)))
    features = RNG.uniform(1, 2, size=(2, 3, 3, 6)).astype("float32")
    ratio = np.asarray(model(features)) / features
    np.testing.assert_allclose(ratio, np.repeat(ratio[..., :1], 6, axis=-1), rtol=1e-5)
    assert ratio.min() > 0 and ratio.max() < 1
    assert all(layer.trainable for layer in model.layers)


@pytest.mark.parametrize(
    ("seanet", "head", "units", "extra"),
    [(True, "gmp", 96, 0), (True, "gap", 96, 0), (False, "gap", 96, 0), (True, "mlp", 128, 3 * 3 * 96 * 128 + 128)],
)
def test_source_model(seanet: bool, head: str, units: int, extra: int) -> None:
    model = build_source("standin", 48, seanet, head, seed=0)
    assert nested_models(model) == []
    refiner = (96 * 64 + 64) + 2048 + (64 * 16 + 16) + 128 + (16 * 8 + 8) + 32 + 9 + 96
    backbone = (75 * 16 + 16) + (9 * 16 * 32 + 32) + (9 * 32 * 64 + 64) + (9 * 64 * 96 + 96)
    assert model.count_params() == backbone + seanet * refiner + extra + units * 2 + 2
    for name, shape in {
        "features": (None, 3, 3, 96),
        "refined": (None, 3, 3, 96),
        "embedding": (None, units),
        "region": (None, 2),
    }.items():
        assert tuple(model.get_layer(name).output.shape) == shape
    tiles = RNG.integers(0, 256, (4, 48, 48, 3)).astype("uint8")
    probabilities = np.asarray(model(tiles))
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)
    refined = keras.Model(model.inputs[0], [model.get_layer("refined").output, model.get_layer("embedding").output])
    maps, embedding = (np.asarray(part) for part in refined(tiles))
    if head != "mlp":
        pooled = maps.mean(axis=(1, 2)) if head == "gap" else maps.max(axis=(1, 2))
        np.testing.assert_allclose(embedding, pooled, rtol=1e-5)
    logits = embedding @ model.get_layer("region_logits").get_weights()[0]
    np.testing.assert_allclose(probabilities, np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True), rtol=1e-4)


def test_the_papers_model() -> None:
    model = build_source("vgg16", 224, seanet=True, head="gmp", freeze="first_block", seed=0)
    assert model.count_params() == 14_714_688 + 36_737 + 512 * 2 + 2
    assert sum(int(np.prod(w.shape)) for w in model.non_trainable_weights) == 38_720
    assert nested_models(model) == []


def test_dropout_and_seed() -> None:
    tiles = RNG.integers(0, 256, (2, 32, 32, 3)).astype("uint8")
    first, second, other = (build_source("standin", 32, True, "gmp", dropout=0.5, seed=seed) for seed in (1, 1, 2))
    for a, b in zip(first.get_weights(), second.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(first(tiles, training=True), second(tiles, training=True))  # dropout too
    assert np.any(np.asarray(first(tiles, training=True)) != np.asarray(first(tiles, training=True)))
    assert any(np.any(a != b) for a, b in zip(first.get_weights(), other.get_weights(), strict=True))


def test_what_a_user_gets_wrong() -> None:
    with pytest.raises(InputError, match=r"max.*gap, gmp or mlp"):
        build_source("standin", 32, True, "max")
    with pytest.raises(InputError, match="dropout"):
        build_source("standin", 32, True, "gap", dropout=1.0)


@pytest.mark.parametrize("backbone", ["standin", "standin_residual"])
def test_refined_network_learns_from_scratch(backbone: str) -> None:
    """Dark discs of two sizes on a bright ground: the loss falls, and every layer of SeaNet gets a gradient."""
    rng = np.random.default_rng(1)
    rows, columns = np.mgrid[:32, :32]
    labels = np.arange(64) % 2
    tiles = rng.normal(220, 8, (64, 32, 32, 3))
    for tile, label in zip(tiles, labels, strict=True):
        for _ in range(5):
            y, x = rng.uniform(0, 32, 2)
            tile[(rows - y) ** 2 + (columns - x) ** 2 < (4.5 if label else 2) ** 2] = (90, 60, 140)
    tiles = tf.constant(tiles, tf.float32)
    model = build_source(backbone, 32, seanet=True, head="gmp", seed=0)
    optimizer = keras.optimizers.Adam(1e-3)
    optimizer.build(model.trainable_variables)

    @tf.function
    def step():
        with tf.GradientTape() as tape:
            chosen = tf.gather(model(tiles, training=True), labels, batch_dims=1)
            loss = -tf.reduce_mean(tf.math.log(chosen))
        gradients = tape.gradient(loss, [variable.value for variable in model.trainable_variables])
        optimizer.apply(gradients, model.trainable_variables)
        return loss, gradients

    first, gradients = step()
    sea = [g for v, g in zip(model.trainable_variables, gradients, strict=True) if "seanet" in v.path]
    assert len(sea) == 3 * 2 + 3 * 2 + 2 + 1
    assert all(np.any(np.asarray(gradient) != 0) for gradient in sea)
    for _ in range(40):
        last, _ = step()
    assert float(last) < 0.3 < 0.5 < float(first)
