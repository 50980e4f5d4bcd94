"""Bag models on features: order, padding, bags of one, classes, precision, save and load, a training step."""

from pathlib import Path
from typing import Any, get_args

import keras
import numpy as np
import pytest
import tensorflow as tf

from melano_tf.errors import InputError
from melano_tf.models.bag_models import build_bag_model
from melano_tf.models.bag_settings import BagKind, BagModelSettings
from melano_tf.training.bag_losses import bag_loss, clam_loss
from melano_tf.training.loop import GradientStep
from melano_tf.training.steps import Progress
from tests.models.layer_checks import nested_models

KINDS = get_args(BagKind)
FEATURES = np.random.default_rng(0).normal(size=(2, 9, 6)).astype("float32")
MASK = np.arange(9)[None, :] < np.array([[9], [4]])
NOW = Progress(*(tf.constant(number, tf.int64) for number in (0, 0, 10, 2)))


def built(kind: str, classes: int = 3, dtype: str = "float32") -> keras.Model:
    settings = BagModelSettings(kind, hidden=(8,), attention_units=5, extremes=2, landmarks=3, heads=2)
    return build_bag_model(6, classes, settings, dtype, seed=1)


def answer(model: keras.Model, features: np.ndarray, mask: np.ndarray) -> dict[str, np.ndarray]:
    outputs = model({"features": features, "mask": mask}, training=False)
    return {name: np.asarray(value) for name, value in outputs.items()}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("classes", [2, 3])
def test_answers(kind: str, classes: int) -> None:
    model = built(kind, classes)
    assert nested_models(model) == []
    outputs = answer(model, FEATURES, MASK)
    width = 1 if classes == 2 else 3
    assert outputs["logits"].shape == outputs["probability"].shape == (2, width)
    assert {value.dtype.name for value in outputs.values()} == {"float32"}
    if classes == 2:
        np.testing.assert_allclose(outputs["probability"], 1 / (1 + np.exp(-outputs["logits"])), rtol=1e-5)
    else:
        powers = np.exp(outputs["logits"])
        np.testing.assert_allclose(outputs["probability"], powers / powers.sum(1, keepdims=True), rtol=1e-5)
    assert outputs["attention"].shape == (2, 9)
    np.testing.assert_allclose(outputs["attention"].sum(axis=1), 1, rtol=1e-5)
    assert np.all(outputs["attention"][~MASK] == 0) and outputs["attention"].min() >= 0


@pytest.mark.parametrize("kind", KINDS)
def test_neither_order_nor_padding_matters(kind: str) -> None:
    model = built(kind)
    outputs = answer(model, FEATURES, MASK)
    order = np.concatenate([np.random.default_rng(1).permutation(4), np.arange(4, 9)])  # keeps padding behind
    padded = np.concatenate([FEATURES[:, order], np.full((2, 3, 6), np.nan, "float32")], axis=1)
    padded[1, 4:] = np.nan
    moved = answer(model, padded, np.concatenate([MASK, np.zeros((2, 3), bool)], axis=1))
    for name in ("logits", "probability"):
        np.testing.assert_allclose(moved[name], outputs[name], rtol=1e-4, atol=1e-5)
    back = np.argsort(order)
    np.testing.assert_allclose(moved["attention"][:, :9][:, back], outputs["attention"], rtol=1e-4, atol=1e-6)
    alone = answer(model, FEATURES[1:, :4], MASK[1:, :4])
    np.testing.assert_allclose(alone["logits"], outputs["logits"][1:], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_bag_of_one(kind: str) -> None:
    outputs = answer(built(kind), FEATURES[:, :1], MASK[:, :1])
    np.testing.assert_allclose(outputs["attention"], 1, rtol=1e-6)
    assert all(np.all(np.isfinite(value)) for value in outputs.values())


@pytest.mark.parametrize("kind", KINDS)
def test_save_and_load(kind: str, tmp_path: Path) -> None:
    for classes in (2, 3):
        model = built(kind, classes)
        model.save(tmp_path / "bag.keras")
        loaded = answer(keras.saving.load_model(tmp_path / "bag.keras"), FEATURES, MASK)
        for name, value in answer(model, FEATURES, MASK).items():
            np.testing.assert_array_equal(loaded[name], value)


@pytest.mark.parametrize("kind", KINDS)
def test_bfloat16_is_near_and_its_answers_are_float32(kind: str) -> None:
    full, half = (answer(built(kind, dtype=dtype), FEATURES, MASK) for dtype in ("float32", "mixed_bfloat16"))
    assert {value.dtype.name for value in half.values()} == {"float32"}
    np.testing.assert_allclose(half["probability"], full["probability"], atol=0.03)


@pytest.mark.parametrize("kind", KINDS)
def test_steps_reach_every_variable_and_learn(kind: str) -> None:
    model = built(kind, 2)
    before = [np.asarray(variable) for variable in model.trainable_variables]
    loss = clam_loss(subtyping=True) if kind.startswith("clam") else bag_loss
    step = GradientStep(model, keras.optimizers.Adam(0.01), loss, open_axes=2)
    losses = []
    for cut in (9, 8, 9, 7, 9, 9, 9, 9):  # bags of other lengths go through one trace
        x = {"features": tf.constant(FEATURES[:, :cut]), "mask": tf.constant(MASK[:, :cut])}
        batch: dict[str, Any] = {"x": x, "y": tf.constant([0, 1]), "id": tf.constant(["a", "b"])}
        losses.append(float(step(batch, NOW)["loss"]))
    assert losses[-1] < losses[0]
    for variable, was in zip(model.trainable_variables, before, strict=True):
        assert np.any(np.asarray(variable) != was), variable.path


def test_seed() -> None:
    first, second = (built("transformer").get_weights() for _ in range(2))
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


def test_maximum_over_instances_never_falls_with_one_more() -> None:
    model = built("instance_max", 2)
    fewer = answer(model, FEATURES, np.arange(9)[None] < np.array([[5], [3]]))["logits"]
    more = answer(model, FEATURES, np.arange(9)[None] < np.array([[6], [9]]))["logits"]
    assert np.all(more >= fewer)


def test_two_branches_give_the_softmax_of_both() -> None:
    model = built("clam_multi", 2)
    layer = model.get_layer("logits")
    bag = keras.Model(model.inputs, model.get_layer("aggregation").output[0])({"features": FEATURES, "mask": MASK})
    kernel, bias = layer.get_weights()
    both = np.einsum("bkc,kc->bk", np.asarray(bag), kernel) + bias
    expected = np.exp(both[:, 1]) / np.exp(both).sum(axis=1)
    np.testing.assert_allclose(answer(model, FEATURES, MASK)["probability"][:, 0], expected, rtol=1e-5)


def test_errors() -> None:
    with pytest.raises(InputError, match=r"kind 'mean'.*bgmp.*dropout = 1.*extremes = 0"):
        BagModelSettings("mean", dropout=1.0, extremes=0)
    with pytest.raises(InputError, match="8 heads do not divide the last width of hidden, 12"):
        BagModelSettings("transformer", hidden=(12,))
    with pytest.raises(InputError, match="width 6"):
        build_bag_model(6, 2, BagModelSettings("transformer", hidden=()))
    with pytest.raises(InputError, match="at least two"):
        build_bag_model(6, 1, BagModelSettings())
