"""Loss (10) against naive loops; nothing from off the path; the same as the flat loss where there is one level."""

import math

import keras
import numpy as np
import pytest
import tensorflow as tf

from melano_tf.training.hierarchy_loss import path_focal, path_focal_loss
from melano_tf.training.losses import categorical_focal
from melano_tf.training.sample_weights import Strategy, curriculum
from melano_tf.training.steps import GradientStep, Progress

# Two classes of depth 2, one of depth 3, one of depth 1: decisions 0..6.
PATHS = np.array([[1, 0, 1, 0, 0, 0, 0], [1, 0, 0, 1, 1, 0, 0], [1, 0, 0, 1, 0, 1, 0], [0, 1, 0, 0, 0, 0, 0]])
CHILDREN = (2, 2, 2, 1)  # decisions of each node: the root's, then those of its first decision, …
P = np.array(
    [
        [0.75, 0.25, 0.5, 0.5, 0.125, 0.875, 0.3],
        [0.5, 0.5, 0.9, 0.1, 0.25, 0.75, 0.3],
        [0.2, 0.8, 0.6, 0.4, 1.0, 0.0, 0.3],
        [0.9, 0.1, 0.3, 0.7, 0.4, 0.6, 0.3],
    ],
    "float32",
)
Y = np.array([0, 1, 3, 2])


Z = np.log(np.maximum(P, 1e-30)) + np.repeat([[0.5, -2.0, 3.0, 7.0]], CHILDREN, axis=1)  # shifts change nothing


def conditional(scores: object) -> np.ndarray:
    """Each decision's softmax among those of its node, float64 (B, D), one node at a time."""
    powers = np.exp(np.asarray(scores, np.float64))
    parts = np.split(powers, np.cumsum(CHILDREN)[:-1], axis=1)
    return np.concatenate([part / part.sum(axis=1, keepdims=True) for part in parts], axis=1)


def naive(y: np.ndarray, p: np.ndarray, gamma: float) -> list[float]:
    """Equations 6 and 10, one level at a time."""
    losses = []
    for sample, label in enumerate(y):
        total = 0.0
        for level in np.flatnonzero(PATHS[label]):
            right = float(p[sample, level])
            total += -((1 - right) ** gamma) * math.log(right)
        losses.append(total)
    return losses


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0, 5.0])
def test_equals_loops(gamma: float) -> None:
    for given in (gamma, tf.constant(gamma), tf.fill([4], gamma)):
        np.testing.assert_allclose(path_focal(Y, Z, PATHS, CHILDREN, given), naive(Y, P, gamma), rtol=1e-5)


def test_by_hand() -> None:
    # -log 0.75 - log 0.5; with gamma 1: 0.25 log(4/3) + 0.5 log 2
    assert float(path_focal(Y, Z, PATHS, CHILDREN, 0)[0]) == pytest.approx(0.980829, rel=1e-5)
    assert float(path_focal(Y, Z, PATHS, CHILDREN, 1)[0]) == pytest.approx(0.071921 + 0.346574, rel=1e-5)


def test_without_gamma_it_is_minus_the_logarithm_of_the_leaf() -> None:
    leaves = [np.prod([P[i, d] for d in np.flatnonzero(PATHS[y])]) for i, y in enumerate(Y)]
    np.testing.assert_allclose(path_focal(Y, Z, PATHS, CHILDREN, 0.0), -np.log(leaves), rtol=1e-5)


def test_a_tree_of_one_level_is_the_flat_loss() -> None:
    z = np.random.default_rng(0).normal(0, 3, (6, 4)).astype("float32")
    y = np.array([0, 1, 2, 3, 3, 0])
    for gamma in (0.0, 0.5, 2.0):
        flat = np.asarray(categorical_focal(y, z, gamma))
        np.testing.assert_allclose(path_focal(y, z, np.eye(4), [4], gamma), flat, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0])
def test_what_lies_off_the_path_does_not_count_and_extremes_stay_finite(gamma: float) -> None:
    z = tf.Variable(np.where(PATHS[Y] == 1, [[200.0], [-200.0], [0.5], [0.25]], 0.0).astype("float32"))
    with tf.GradientTape() as tape:
        losses = path_focal(Y, z, PATHS, CHILDREN, tf.constant(gamma))
    gradient = np.asarray(tf.convert_to_tensor(tape.gradient(losses, z)))
    assert np.all(np.isfinite(losses)) and np.all(np.isfinite(gradient))
    node = np.repeat(np.arange(4), CHILDREN)
    decided = np.stack([np.isin(node, node[PATHS[label] == 1]) for label in Y])  # decisions of nodes on the path
    assert np.all(gradient[~decided] == 0) and not decided.all()
    changed = np.where(decided, z.numpy(), 0.123)
    np.testing.assert_array_equal(path_focal(Y, changed, PATHS, CHILDREN, gamma), losses)
    assert float(losses[0]) == pytest.approx(0, abs=1e-6) and float(losses[1]) == pytest.approx(600, rel=1e-5)
    if gamma == 0:  # wrong by 200 logits at three levels: minus one for each right decision, plus one for its sibling
        np.testing.assert_allclose(gradient[1], [-1, 1, 1, -1, -1, 1, 0], atol=1e-6)


def test_a_value_that_is_no_number_is_seen() -> None:
    wrong = Z.copy()
    wrong[0, 0] = np.nan
    assert np.isnan(np.asarray(path_focal(Y, wrong, PATHS, CHILDREN, 1.0))).tolist() == [True, False, False, False]


def test_half_precision_and_what_does_not_fit() -> None:
    scores = tf.constant(np.round(4 * Z) / 4, tf.float16)  # exact in half precision
    half = path_focal(Y, scores, PATHS, CHILDREN, 1.0)
    assert half.dtype == tf.float32
    np.testing.assert_allclose(half, naive(Y, conditional(scores), 1.0), rtol=1e-5)
    for y, z, children in ((Y[:, None], Z, CHILDREN), (Y, Z[0], CHILDREN), (Y, Z[:, :5], CHILDREN), (Y, Z, (2, 2, 2))):
        with pytest.raises(ValueError, match="do not fit"):
            path_focal(y, z, PATHS, children)


def test_one_trace_serves_every_gamma_and_curriculum() -> None:
    """The losses that the step returns are loss (10) with the strategy's gamma, and the curriculum ranks those sums."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((3,))
    model = keras.Model(inputs, keras.layers.Dense(7)(inputs))
    traces = []
    loss = path_focal_loss(PATHS, CHILDREN)

    def counted(batch, outputs):
        traces.append(1)
        return loss(batch, outputs)

    step = GradientStep(model, keras.optimizers.SGD(0.5), counted, weights_fn=curriculum)
    x = np.random.default_rng(1).normal(size=(4, 3)).astype("float32")
    base = {"x": tf.constant(x), "y": tf.constant(Y, tf.int32), "id": tf.constant(list("abcd"))}
    progress = Progress(*(tf.constant(number, tf.int64) for number in (0, 0, 10, 10)))
    for strategy in (Strategy(), Strategy(gamma=2.0), Strategy(gamma=0.5, curriculum="ohem")):
        expected = naive(Y, conditional(model(x)), strategy.gamma)
        result = step({**base, "strategy": strategy.tensors(Y)}, progress)
        np.testing.assert_allclose(result["loss_per_sample"], expected, rtol=1e-4)
        taken = sorted(expected)[2:] if strategy.curriculum == "ohem" else expected  # m = M / 2 in the first epoch
        assert float(result["loss"]) == pytest.approx(sum(taken) / 4, rel=1e-4)
    assert len(traces) == 1
