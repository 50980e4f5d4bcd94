"""Target models: copied weights, flat graphs, halves that share variables, and models that load in a fresh process."""

import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from melano_tf.errors import InputError
from melano_tf.models.biopsy_classifier import build_target, split_target
from melano_tf.models.layers import FixedBatchNormalization
from melano_tf.models.seanet import build_source
from tests.models.layer_checks import nested_models

AGGREGATIONS = ["bgmp", "bgap", "bgas"]
TILES = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3)).astype("uint8")


@pytest.fixture(scope="module")
def source() -> keras.Model:
    return build_source("standin", 32, seanet=True, head="gmp", freeze="first_block", dropout=0.5, seed=0)


def embeddings_of(source: keras.Model) -> np.ndarray:
    return np.asarray(keras.Model(source.inputs[0], source.get_layer("embedding").output)(TILES))


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_target_model(source: keras.Model, aggregation: str) -> None:
    target = build_target(source, aggregation, seed=1)
    assert nested_models(target) == []
    outputs = target(TILES)
    assert tuple(outputs["probability"].shape) == (1, 1) and tuple(outputs["attention"].shape) == (1, 5)
    assert float(np.sum(outputs["attention"])) == pytest.approx(1, rel=1e-5)
    attention = 128 * 96 + 128 if aggregation == "bgas" else 0
    assert target.count_params() == source.count_params() - (96 * 2 + 2) + attention + 96 + 1
    # By hand from the source's embeddings.
    h = embeddings_of(source)
    if aggregation == "bgas":
        v, w = target.get_layer("aggregation").get_weights()
        powers = np.exp(np.tanh(h @ v.T) @ w)
        z = (powers / powers.sum()) @ h
    else:
        z = h.mean(axis=0) if aggregation == "bgap" else h.max(axis=0)
    kernel, bias = target.get_layer("probability_logits").get_weights()
    assert float(outputs["probability"][0, 0]) == pytest.approx(1 / (1 + np.exp(-(z @ kernel + bias)[0])), rel=1e-4)


def test_weights_are_copied_and_freezing_is_kept(source: keras.Model) -> None:
    target = build_target(source, "bgas", seed=1)
    assert [v.path for v in target.non_trainable_variables] == ["block1_conv/kernel", "block1_conv/bias"]
    before = source.get_weights()
    assert not {id(v) for v in source.variables} & {id(v) for v in target.variables}
    for variable in target.trainable_variables:
        variable.assign_add(tf.ones(variable.shape))
    for own, was in zip(source.get_weights(), before, strict=True):
        np.testing.assert_array_equal(own, was)
    assert all(not isinstance(layer, keras.layers.Dropout) for layer in target.layers)


def test_seed(source: keras.Model) -> None:
    first, second, other = (build_target(source, "bgas", seed=seed) for seed in (1, 1, 2))
    assert all(np.array_equal(a, b) for a, b in zip(first.get_weights(), second.get_weights(), strict=True))
    assert not np.array_equal(
        first.get_layer("aggregation").get_weights()[0], other.get_layer("aggregation").get_weights()[0]
    )


def test_attention_units_and_errors(source: keras.Model) -> None:
    target = build_target(source, "bgas", attention_units=7)
    assert tuple(target.get_layer("aggregation").v.shape) == (7, 96)
    with pytest.raises(InputError, match=r"mean.*bgmp, bgap or bgas"):
        build_target(source, "mean")
    with pytest.raises(ValueError, match="embedding"):
        build_target(keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)]), "bgap")


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_halves_share_the_variables(source: keras.Model, aggregation: str) -> None:
    target = build_target(source, aggregation, seed=1)
    embedder, aggregator = split_target(target)
    halves = [*embedder.trainable_variables, *aggregator.trainable_variables]
    assert [id(v) for v in halves] == [id(v) for v in target.trainable_variables]
    for variable in halves:
        variable.assign_add(0.01 * tf.ones(variable.shape))
    whole = target(TILES)
    parts = [embedder(TILES[start : start + 2]) for start in (0, 2, 4)]
    outputs = aggregator(tf.concat(parts, axis=0)[None])
    for name in ("probability", "attention"):
        np.testing.assert_allclose(outputs[name], whole[name], rtol=1e-4, atol=1e-6)


def test_aggregator_takes_padded_bags(source: keras.Model) -> None:
    _, aggregator = split_target(build_target(source, "bgas", seed=1))
    bags = np.random.default_rng(1).normal(size=(2, 4, 96)).astype("float32")
    mask = np.array([[True, True, True, True], [True, True, False, False]])
    outputs = aggregator(bags, mask=mask, training=False)
    assert tuple(outputs["probability"].shape) == (2, 1) and tuple(outputs["attention"].shape) == (2, 4)
    alone = aggregator(bags[1:, :2])
    np.testing.assert_allclose(outputs["probability"][1:], alone["probability"], rtol=1e-5)
    np.testing.assert_allclose(outputs["attention"][1:, :2], alone["attention"], rtol=1e-5)
    again = type(aggregator).from_config(aggregator.get_config())
    assert tuple(again(bags)["probability"].shape) == (2, 1)


def test_a_training_step_on_a_bag_reaches_every_trainable_variable(source: keras.Model) -> None:
    target = build_target(source, "bgas", seed=1)
    before = target.get_weights()
    with tf.GradientTape() as tape:
        loss = -tf.math.log(target(TILES, training=True)["probability"][0, 0])
    gradients = tape.gradient(loss, [variable.value for variable in target.trainable_variables])
    assert all(np.any(np.asarray(gradient) != 0) for gradient in gradients)
    keras.optimizers.SGD(0.01).apply(gradients, target.trainable_variables)
    assert float(-tf.math.log(target(TILES)["probability"][0, 0])) < float(loss)
    trainable = {id(v) for v in target.trainable_variables}
    for variable, was in zip(target.weights, before, strict=True):
        assert np.array_equal(variable, was) == (id(variable) not in trainable)


def source_with_batch_norm() -> keras.Model:
    tiles = keras.Input((8, 8, 3), name="tiles")
    x = keras.layers.Conv2D(4, 3, name="conv")(tiles)
    x = keras.layers.BatchNormalization(name="bn")(x)
    embedding = keras.layers.GlobalAveragePooling2D(name="embedding")(x)
    model = keras.Model(tiles, keras.layers.Dense(2, activation="softmax", name="region")(embedding))
    model.get_layer("bn").set_weights([np.full(4, value, "float32") for value in (1.2, 0.3, 2.0, 4.0)])
    return model


def test_batch_norm_runs_in_inference_mode(tmp_path: Path) -> None:
    source = source_with_batch_norm()
    target = build_target(source, "bgap", seed=1)
    bn = target.get_layer("bn")
    assert isinstance(bn, FixedBatchNormalization)
    assert [v.path for v in target.non_trainable_variables] == ["bn/moving_mean", "bn/moving_variance"]
    tiles = np.random.default_rng(1).normal(size=(6, 8, 8, 3)).astype("float32")
    embedder, _ = split_target(target)
    whole = np.asarray(embedder(tiles, training=True))
    expected = keras.Model(source.inputs[0], source.get_layer("embedding").output)(tiles, training=False)
    np.testing.assert_allclose(whole, expected, rtol=1e-5)
    chunks = np.concatenate([embedder(tiles[i : i + 1], training=True) for i in range(6)])
    np.testing.assert_allclose(chunks, whole, rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(bn.moving_mean, np.full(4, 2.0))
    target.save(tmp_path / "target.keras")
    assert isinstance(keras.saving.load_model(tmp_path / "target.keras").get_layer("bn"), FixedBatchNormalization)


FRESH = """
import sys
from pathlib import Path
import numpy as np
import keras
import melano_tf.models.biopsy_classifier
from melano_tf.models.biopsy_classifier import split_target

folder = Path(sys.argv[1])
tiles = np.load(folder / "tiles.npy")
results = {}
for path in sorted(folder.glob("*.keras")):
    model = keras.saving.load_model(path)
    if path.stem == "source":
        results["source"] = model(tiles)
        continue
    assert [v.path for v in model.non_trainable_variables] == ["block1_conv/kernel", "block1_conv/bias"], path
    outputs = model(tiles)
    embedder, aggregator = split_target(model)
    halves = aggregator(embedder(tiles)[None])
    for name in ("probability", "attention"):
        results[f"{path.stem} {name}"] = outputs[name]
        results[f"{path.stem} {name} halves"] = halves[name]
np.savez(folder / "results.npz", **{name: np.asarray(value) for name, value in results.items()})
"""


def test_models_load_in_a_fresh_process(source: keras.Model, tmp_path: Path) -> None:
    np.save(tmp_path / "tiles.npy", TILES)
    source.save(tmp_path / "source.keras")
    expected = {"source": np.asarray(source(TILES))}
    for aggregation in AGGREGATIONS:
        target = build_target(source, aggregation, seed=1)
        target.save(tmp_path / f"{aggregation}.keras")
        outputs = target(TILES)
        for name in ("probability", "attention"):
            expected[f"{aggregation} {name}"] = np.asarray(outputs[name])
            expected[f"{aggregation} {name} halves"] = np.asarray(outputs[name])
    subprocess.run([sys.executable, "-c", FRESH, str(tmp_path)], check=True, timeout=120)
    results = np.load(tmp_path / "results.npz")
    assert set(results) == set(expected)
    for name, value in expected.items():
        np.testing.assert_allclose(results[name], value, rtol=1e-5, atol=1e-7, err_msg=name)


def test_target_of_a_loaded_source(source: keras.Model, tmp_path: Path) -> None:
    source.save(tmp_path / "source.keras")
    loaded = keras.saving.load_model(tmp_path / "source.keras")
    first, second = (build_target(model, "bgas", seed=1)(TILES)["probability"] for model in (source, loaded))
    np.testing.assert_allclose(first, second, rtol=1e-6)
