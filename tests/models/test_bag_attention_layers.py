"""Gated attention, landmarks, class token and CLAM's extremes against naive loops; masks, order, bags of one."""

from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from melano_tf.models.bag_attention_layers import (
    AttendedExtremes,
    BranchLogits,
    ClassToken,
    DropPadding,
    GatedAttention,
    LandmarkAttention,
)
from tests.models.layer_checks import check_layer

BAGS = np.random.default_rng(0).normal(size=(3, 7, 4)).astype("float32")
BAGS_OF = {  # a layer that makes a bag embedding -> its outputs' shapes and trainable tensors
    "gated": (lambda: GatedAttention(5), [(3, 4), (3, 7)], 3),
    "biased": (lambda: GatedAttention(5, bias=True), [(3, 4), (3, 7)], 5),
    "branches": (lambda: GatedAttention(5, branches=2), [(3, 2, 4), (3, 2, 7)], 3),
    "token": (lambda: ClassToken(2), [(3, 4), (3, 7)], 6),
}


@pytest.mark.parametrize("name", BAGS_OF)
def test_is_a_layer(name: str, tmp_path: Path) -> None:
    make, shapes, tensors = BAGS_OF[name]
    check_layer(make, BAGS, shapes, tmp_path, trainable_tensors=tensors)


def test_others_are_layers(tmp_path: Path) -> None:
    check_layer(lambda: LandmarkAttention(3, 2), BAGS, (3, 7, 4), tmp_path, trainable_tensors=9)
    check_layer(DropPadding, BAGS, (3, 7, 4), tmp_path)
    check_layer(BranchLogits, BAGS, (3, 7), tmp_path, trainable_tensors=2, parameters=7 * 4 + 7)
    check_layer(BranchLogits, BAGS[:, :2], (3, 1), tmp_path, trainable_tensors=2, parameters=2 * 4 + 2)


def test_gated_attention_equals_loops() -> None:
    layer = GatedAttention(5)
    embedding, attention = (np.asarray(output) for output in layer(BAGS))
    v, u, w = layer.get_weights()
    for b in range(3):
        powers = []
        for h in BAGS[b]:
            gates = [1 / (1 + np.exp(-sum(u[c, unit] * h[c] for c in range(4)))) for unit in range(5)]
            hidden = [np.tanh(sum(v[c, unit] * h[c] for c in range(4))) * gates[unit] for unit in range(5)]
            powers.append(np.exp(sum(w[unit, 0] * hidden[unit] for unit in range(5))))
        expected = np.array(powers) / sum(powers)
        np.testing.assert_allclose(attention[b], expected, rtol=1e-5)
        np.testing.assert_allclose(embedding[b], expected @ BAGS[b], rtol=1e-4, atol=1e-6)


def test_class_token_equals_plain_attention() -> None:
    layer = ClassToken(2)
    embedding, attention = (np.asarray(output) for output in layer(BAGS))
    gamma, beta, query, keys, values, out = layer.get_weights() if layer.weights[0].shape == (4,) else _named(layer)
    x = (BAGS - BAGS.mean(-1, keepdims=True)) / np.sqrt(BAGS.var(-1, keepdims=True) + 1e-5) * gamma + beta
    for b in range(3):
        answer, weights = [], []
        for head in (slice(0, 2), slice(2, 4)):
            powers = np.exp((x[b] @ keys)[:, head] @ query[0, head] / np.sqrt(2))
            weights.append(powers / powers.sum())
            answer.append(weights[-1] @ (x[b] @ values)[:, head])
        np.testing.assert_allclose(attention[b], np.mean(weights, axis=0), rtol=1e-4)
        np.testing.assert_allclose(embedding[b], np.concatenate(answer) @ out, rtol=1e-4, atol=1e-5)


def _named(layer: ClassToken) -> list[np.ndarray]:
    norm = [np.asarray(weight) for weight in layer._norm.weights]
    return [*norm, *(np.asarray(getattr(layer, name)) for name in ("query", "keys", "values", "out"))]


@pytest.mark.parametrize("name", [*BAGS_OF, "landmarks"])
@pytest.mark.parametrize("padding", [0.0, 1e6, np.nan])
def test_neither_padding_nor_order_matters(name: str, padding: float) -> None:
    layer = LandmarkAttention(3, 2) if name == "landmarks" else BAGS_OF[name][0]()
    order = np.random.default_rng(2).permutation(7)
    padded = np.concatenate([BAGS[:, order], np.full((3, 4, 4), padding, "float32")], axis=1)
    mask = np.arange(11)[None, :] < np.full((3, 1), 7)
    plain = tf.nest.flatten(layer(BAGS))
    with tf.GradientTape() as tape:
        moved = tf.nest.flatten(layer(padded, mask=mask))
        loss = tf.reduce_sum((moved[0][:, :7] if name == "landmarks" else moved[0]) ** 2)
    back = np.argsort(order)
    if name == "landmarks":
        np.testing.assert_allclose(np.asarray(moved[0])[:, :7][:, back], plain[0], rtol=1e-4, atol=1e-5)
    else:
        np.testing.assert_allclose(moved[0], plain[0], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(np.asarray(moved[1])[..., :7][..., back], plain[1], rtol=1e-4, atol=1e-6)
        assert np.all(np.asarray(moved[1])[..., 7:] == 0)
    for gradient in tape.gradient(loss, [variable.value for variable in layer.trainable_weights]):
        assert np.all(np.isfinite(gradient))


@pytest.mark.parametrize("name", ["gated", "branches", "token"])
def test_bag_that_is_all_padding_gives_zeros(name: str) -> None:
    mask = np.ones((3, 7), bool)
    mask[1] = False
    embedding, attention = BAGS_OF[name][0]()(BAGS, mask=mask)
    assert np.all(np.asarray(embedding)[1] == 0) and np.all(np.asarray(attention)[1] == 0)
    assert np.all(np.isfinite(embedding)) and np.any(np.asarray(embedding)[0] != 0)


def test_landmarks_let_instances_see_each_other() -> None:
    layer = LandmarkAttention(3, 2)
    before = np.asarray(layer(BAGS))
    changed = BAGS.copy()
    changed[:, 6, 0] += 2  # not a shift of all channels, which the layer norm would take out
    after = np.asarray(layer(changed))
    assert np.abs(after[:, :6] - before[:, :6]).max() > 1e-4


def test_heads_must_divide_the_width() -> None:
    for layer in (ClassToken(3), LandmarkAttention(3, 3)):
        with pytest.raises(ValueError, match="3 heads do not divide 4"):
            layer(BAGS)


def test_extremes_are_the_ends_of_the_attention() -> None:
    attention = np.array([[[0.1, 0.5, 0.2, 0.05, 0.15]], [[0.6, 0.4, 0.0, 0.0, 0.0]], [[1.0, 0, 0, 0, 0]]], "float32")
    mask = np.arange(5)[None] < np.array([[5], [2], [1]])
    scores = np.arange(3 * 5 * 2 * 2, dtype="float32").reshape(3, 5, 2, 2)
    chosen, there = (np.asarray(output) for output in AttendedExtremes(2)(scores, attention, mask=mask))
    assert chosen.shape == (3, 2, 4, 2)
    np.testing.assert_array_equal(there, [[1, 1, 1, 1], [1, 0, 1, 0], [1, 0, 0, 0]])
    for branch in range(2):
        np.testing.assert_array_equal(chosen[0, branch], scores[0, [1, 2, 3, 0], branch])
        np.testing.assert_array_equal(chosen[1, branch, [0, 2]], scores[1, [0, 1], branch])
        np.testing.assert_array_equal(chosen[2, branch, 0], scores[2, 0, branch])


def test_extremes_take_each_branch_by_its_own_attention_and_a_longer_k_than_the_bag() -> None:
    attention = np.array([[[0.1, 0.7, 0.2], [0.5, 0.2, 0.3]]], "float32")
    scores = np.arange(12, dtype="float32").reshape(1, 3, 2, 2)
    layer = AttendedExtremes(8)
    chosen, there = (np.asarray(output) for output in layer(scores, attention))
    np.testing.assert_array_equal(there[0], [1, 1, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0])
    np.testing.assert_array_equal(chosen[0, 0, [0, 1, 8]], scores[0, [1, 2, 0], 0])
    np.testing.assert_array_equal(chosen[0, 1, [0, 1, 8]], scores[0, [0, 2, 1], 1])
    assert AttendedExtremes.from_config(layer.get_config()).k == 8
