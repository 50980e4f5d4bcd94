"""Losses of bags against naive sums, their gradients far from the answer, and CLAM's clustering by hand."""

import math

import keras
import numpy as np
import pytest
import tensorflow as tf

from melano_tf.training.bag_losses import bag_crossentropy, bag_loss, clam_loss, with_weight_decay


def test_crossentropy_is_the_naive_sum() -> None:
    logits, y = np.array([[0.3], [-2.0], [1.5]]), [1, 1, 0]
    p = 1 / (1 + np.exp(-logits[:, 0]))
    np.testing.assert_allclose(bag_crossentropy(y, logits), -np.log([p[0], p[1], 1 - p[2]]), rtol=1e-6)
    logits = np.random.default_rng(0).normal(size=(4, 3))
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    y = [2, 0, 1, 1]
    np.testing.assert_allclose(bag_crossentropy(y, logits), -np.log(p[np.arange(4), y]), rtol=1e-6)


def test_gradient_does_not_die_far_from_the_answer() -> None:
    logits = tf.constant([[-60.0], [60.0], [60.0], [0.0]])
    with tf.GradientTape() as tape:
        tape.watch(logits)
        losses = bag_crossentropy([1, 0, 1, 1], logits)
    np.testing.assert_allclose(losses, [60, 60, 0, math.log(2)], atol=1e-6)
    np.testing.assert_allclose(tape.gradient(losses, logits)[:, 0], [-1, 1, 0, -0.5], atol=1e-6)


def test_wrong_ranks_are_refused() -> None:
    with pytest.raises(ValueError, match=r"y \(B,\)"):
        bag_crossentropy([[1], [0]], np.zeros((2, 1)))
    with pytest.raises(ValueError, match=r"logits \(B, K\)"):
        bag_crossentropy([1, 0], np.zeros(2))


def clam_by_hand(logits: np.ndarray, there: np.ndarray, y: list[int], subtyping: bool) -> list[float]:
    """The instance clustering loss of each bag by loops; logits (B, K, 2k, 2)."""
    losses = []
    for b, label in enumerate(y):
        total, k = 0.0, logits.shape[2] // 2
        for c in range(logits.shape[1]):
            inside = [(i, int(i < k)) for i in range(2 * k) if there[b, i]]
            outside = [(i, 0) for i in range(k) if there[b, i]]
            wanted = inside if c == label else outside if subtyping else []
            terms = [math.log(sum(np.exp(logits[b, c, i]))) - logits[b, c, i, target] for i, target in wanted]
            total += sum(terms) / len(terms) if terms else 0.0
        losses.append(total / logits.shape[1] if subtyping else total)
    return losses


@pytest.mark.parametrize("subtyping", [False, True])
def test_clam_equals_loops(subtyping: bool) -> None:
    rng = np.random.default_rng(1)
    there = np.array([[1, 1, 0, 1, 1, 0], [1, 0, 0, 0, 0, 0]], "float32")
    outputs = {
        "logits": rng.normal(size=(2, 3)).astype("float32"),
        "instance_logits": rng.normal(size=(2, 3, 6, 2)).astype("float32"),
        "instance_there": there,
    }
    y = [2, 0]
    expected = 0.6 * np.asarray(bag_crossentropy(y, outputs["logits"]))
    expected += 0.4 * np.array(clam_by_hand(outputs["instance_logits"], there, y, subtyping))
    got = clam_loss(0.6, subtyping)({"y": tf.constant(y)}, outputs)
    np.testing.assert_allclose(got, expected, rtol=1e-5)


def test_weight_decay_adds_decay_times_the_weight_to_the_gradient() -> None:
    layer = keras.layers.Dense(1, kernel_initializer="ones", bias_initializer=keras.initializers.Constant(2.0))
    model = keras.Sequential([keras.Input((2,)), layer])
    x, y = tf.constant([[1.0, -2.0], [0.5, 3.0]]), tf.constant([1, 0])
    gradients = []
    for decay in (0.0, 0.3):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(with_weight_decay(bag_loss, model, decay)({"y": y}, {"logits": model(x)}))
        gradients.append(tape.gradient(loss, [variable.value for variable in model.trainable_variables]))
    for before, after, decay in zip(*gradients, (np.full((2, 1), 0.3), [0.6]), strict=True):
        np.testing.assert_allclose(after - before, decay, rtol=1e-5)
