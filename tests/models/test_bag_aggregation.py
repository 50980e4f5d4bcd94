"""The three aggregations against naive loops; masks, order, bags of one."""

from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from melano_tf.models.bag_aggregation import BagAttention, BagMax, BagMean
from tests.models.layer_checks import check_layer

AGGREGATIONS = [BagMean, BagMax, lambda: BagAttention(5)]
BAGS = np.random.default_rng(0).normal(size=(3, 7, 4)).astype("float32")


@pytest.mark.parametrize("make", AGGREGATIONS)
def test_is_a_layer(make, tmp_path: Path) -> None:
    tensors = 2 if isinstance(make(), BagAttention) else 0
    check_layer(make, BAGS, [(3, 4), (3, 7)], tmp_path, trainable_tensors=tensors)


def test_attention_has_the_papers_shapes() -> None:
    layer = BagAttention()
    layer.build((None, None, 512))
    assert tuple(layer.v.shape) == (128, 512)
    assert tuple(layer.w.shape) == (128,)
    assert layer.count_params() == 128 * 512 + 128 == 65_664


def test_attention_equals_loops() -> None:
    layer = BagAttention(5)
    embedding, attention = (np.asarray(output) for output in layer(BAGS))
    v, w = layer.get_weights()
    for b in range(3):
        powers = []
        for i in range(7):
            hidden = [np.tanh(sum(v[unit, c] * BAGS[b, i, c] for c in range(4))) for unit in range(5)]
            powers.append(np.exp(sum(w[unit] * hidden[unit] for unit in range(5))))
        for i in range(7):
            assert attention[b, i] == pytest.approx(powers[i] / sum(powers), rel=1e-5)
        for c in range(4):
            z = sum(powers[i] / sum(powers) * BAGS[b, i, c] for i in range(7))
            assert embedding[b, c] == pytest.approx(z, rel=1e-4, abs=1e-6)


def test_mean_equals_loops() -> None:
    embedding, attention = BagMean()(BAGS)
    np.testing.assert_allclose(embedding, [[sum(bag[:, c]) / 7 for c in range(4)] for bag in BAGS], rtol=1e-5)
    np.testing.assert_allclose(attention, np.full((3, 7), 1 / 7), rtol=1e-6)


def test_max_counts_the_channels_won() -> None:
    bag = np.array([[[5, 0, 2, -3], [1, 0, 9, -3], [0, 0, 9, -7]]], "float32")
    embedding, attention = BagMax()(bag)
    np.testing.assert_array_equal(embedding, [[5, 0, 9, -3]])
    # Channel 0 to the first; channel 1 in three; channel 2 in two; channel 3 in two.
    expected = np.array([[1 + 1 / 3 + 0 + 1 / 2, 1 / 3 + 1 / 2 + 1 / 2, 1 / 3 + 1 / 2]]) / 4
    np.testing.assert_allclose(attention, expected, rtol=1e-6)


@pytest.mark.parametrize("make", AGGREGATIONS)
@pytest.mark.parametrize("masked", [False, True])
def test_attention_sums_to_one(make, masked: bool) -> None:
    mask = np.random.default_rng(1).random((3, 7)) < 0.5
    mask[:, 2] = True
    _, attention = make()(BAGS, mask=mask if masked else None)
    np.testing.assert_allclose(np.sum(attention, axis=1), 1, rtol=1e-5)
    assert np.min(attention) >= 0
    if masked:
        assert np.all(np.asarray(attention)[~mask] == 0)


@pytest.mark.parametrize("make", AGGREGATIONS)
def test_order_does_not_matter(make) -> None:
    layer, order = make(), np.random.default_rng(2).permutation(7)
    embedding, attention = layer(BAGS)
    other_embedding, other_attention = layer(BAGS[:, order])
    np.testing.assert_allclose(other_embedding, embedding, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(other_attention, np.asarray(attention)[:, order], rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("make", AGGREGATIONS)
@pytest.mark.parametrize("padding", [0.0, 1e6, np.nan])
def test_padding_changes_nothing(make, padding: float) -> None:
    layer = make()
    embedding, attention = layer(BAGS)
    padded = np.concatenate([BAGS, np.full((3, 4, 4), padding, "float32")], axis=1)
    mask = np.arange(11)[None, :] < np.full((3, 1), 7)
    with tf.GradientTape() as tape:
        padded_embedding, padded_attention = layer(padded, mask=mask)
        loss = tf.reduce_sum(padded_embedding**2)
    np.testing.assert_allclose(padded_embedding, embedding, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(np.asarray(padded_attention)[:, :7], attention, rtol=1e-5, atol=1e-7)
    for gradient in tape.gradient(loss, [variable.value for variable in layer.trainable_weights]):
        assert np.all(np.isfinite(gradient))


@pytest.mark.parametrize("make", AGGREGATIONS)
def test_bag_of_one(make) -> None:
    embedding, attention = make()(BAGS[:, :1])
    np.testing.assert_allclose(embedding, BAGS[:, 0], rtol=1e-6)
    np.testing.assert_allclose(attention, np.ones((3, 1)), rtol=1e-6)


@pytest.mark.parametrize("make", AGGREGATIONS)
def test_bag_that_is_all_padding_gives_zeros(make) -> None:
    layer, bags = make(), tf.constant(BAGS)
    layer(bags)
    mask = np.ones((3, 7), bool)
    mask[1] = False
    with tf.GradientTape() as tape:
        tape.watch(bags)
        embedding, attention = layer(bags, mask=mask)
        loss = tf.reduce_sum(embedding**2)
    assert np.all(np.asarray(embedding)[1] == 0)
    assert np.all(np.asarray(attention)[1] == 0)
    assert np.all(np.isfinite(embedding))
    gradients = tape.gradient(loss, [bags, *(variable.value for variable in layer.trainable_weights)])
    assert all(np.all(np.isfinite(gradient)) for gradient in gradients)


@pytest.mark.parametrize("make", AGGREGATIONS)
def test_large_values_do_not_overflow(make) -> None:
    embedding, attention = make()(BAGS * 1e4)
    assert np.all(np.isfinite(embedding))
    np.testing.assert_allclose(np.sum(attention, axis=1), 1, rtol=1e-5)


def test_masked_attention_works_in_a_functional_model() -> None:
    bags, mask = keras.Input((None, 4)), keras.Input((None,), dtype="bool")
    layer = BagAttention(5)
    model = keras.Model([bags, mask], layer(bags, mask=mask))
    real = np.arange(7)[None, :] < np.array([[7], [3], [1]])
    for got, expected in zip(model([BAGS, real]), layer(BAGS, mask=real), strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-6)


@pytest.mark.parametrize("make", [BagMean, BagAttention])
@pytest.mark.parametrize("precision", ["float16", "bfloat16"])
def test_a_bag_of_many_instances_in_half_precision(make, precision: str) -> None:
    """More than float16 counts to; each of them adds less than half precision tells from the sum so far."""
    real, padding = 70_000, 3
    bag = np.random.default_rng(4).choice([1.0, 2.5, 3.0], (1, real + padding, 2), p=[0.6, 0.3, 0.1])
    bag[:, real:] = np.nan
    mask = np.arange(real + padding)[None, :] < real
    layer = make(dtype=f"mixed_{precision}")
    layer.build(bag.shape)
    layer.set_weights([np.zeros(weight.shape) for weight in layer.weights])  # attention is uniform
    embedding, attention = (tf.cast(output, tf.float32) for output in layer(bag.astype("float32"), mask=mask))
    np.testing.assert_allclose(embedding[0], bag[0, :real].mean(axis=0), rtol=4e-3)
    np.testing.assert_allclose(attention[0, :real], np.full(real, 1 / real), rtol=4e-3)
    np.testing.assert_array_equal(attention[0, real:], np.zeros(padding))
