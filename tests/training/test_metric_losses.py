import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops

from melano_tf.training.metric_losses import (
    METRIC_LOSSES,
    contrastive,
    multi_similarity,
    triplet_batch_hard,
    triplet_semi_hard,
)

TOLERANCE = {"float16": 2e-2, "bfloat16": 1e-1, "float32": 1e-4, "float64": 1e-9}
# Points on a circle, of lengths that the cosine must not see: no two angles between them are equal.
ANGLES = [0, 17, 41, 73, 109, 131, 190]
LABELS = [0, 0, 1, 0, 1, 2, 1]
LENGTHS = [1.0, 2.0, 0.5, 1.5, 1.0, 3.0, 0.75]
DISTANCES = ("cosine", "euclidean", "squared_euclidean")


def points(angles: Sequence[float] = ANGLES, lengths: list[float] | None = None, dtype: str = "float64") -> Any:
    lengths = lengths or [1.0] * len(angles)
    pairs = [
        (r * math.cos(math.radians(a)), r * math.sin(math.radians(a))) for a, r in zip(angles, lengths, strict=True)
    ]
    return ops.convert_to_tensor(np.array(pairs), dtype)


def cosine(a: float, b: float) -> float:
    return math.cos(math.radians(a - b))


def naive_distance(kind: str, i: int, j: int) -> float:
    similarity = cosine(ANGLES[i], ANGLES[j])
    if kind == "cosine":
        return 1 - similarity
    squared = LENGTHS[i] ** 2 + LENGTHS[j] ** 2 - 2 * LENGTHS[i] * LENGTHS[j] * similarity  # law of cosines
    return math.sqrt(squared) if kind == "euclidean" else squared


def pairs_of(labels: list[int], anchor: int) -> tuple[list[int], list[int]]:
    positives = [j for j, label in enumerate(labels) if label == labels[anchor] and j != anchor]
    return positives, [j for j, label in enumerate(labels) if label != labels[anchor]]


def check(found: Any, expected: list[float], dtype: str) -> None:
    assert tuple(found.shape) == (len(expected),) and found.dtype == dtype
    found = np.asarray(ops.cast(found, "float64"))
    np.testing.assert_allclose(found, expected, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("threshold", [0.5, -0.2])
def test_contrastive(dtype: str, threshold: float) -> None:
    expected = []
    for i in range(7):
        positives, negatives = pairs_of(LABELS, i)
        total = sum(1 - cosine(ANGLES[i], ANGLES[j]) for j in positives)
        total += sum(max(0.0, cosine(ANGLES[i], ANGLES[j]) - threshold) for j in negatives)
        expected.append(total / 6)
    check(contrastive(points(lengths=LENGTHS, dtype=dtype), np.array(LABELS), threshold), expected, dtype)


def test_contrastive_by_hand() -> None:
    # 0 and 60 degrees share a label (1 - 1/2); 60 and 90 do not (cos 30 - 1/2); 0 and 90 are far enough.
    found = ops.convert_to_numpy(contrastive(points([0, 60, 90]), np.array([0, 0, 1]), 0.5))
    push = math.sqrt(3) / 2 - 0.5
    np.testing.assert_allclose(found, [0.25, (0.5 + push) / 2, push / 2], rtol=1e-9)


def naive_nearest_farther(kind: str, margin: float) -> list[float]:
    count = sum(len(pairs_of(LABELS, i)[0]) for i in range(7))
    losses = []
    for i in range(7):
        positives, negatives = pairs_of(LABELS, i)
        total = 0.0
        for p in positives:
            d_ap = naive_distance(kind, i, p)
            d_an = [naive_distance(kind, i, n) for n in negatives]
            farther = [d for d in d_an if d > d_ap]
            total += max(0.0, margin + d_ap - (min(farther) if farther else max(d_an)))
        losses.append(total * 7 / count)
    return losses


def naive_band(kind: str, margin: float) -> list[float]:
    totals, count = [0.0] * 7, 0
    for i in range(7):
        for p, n in itertools.product(*pairs_of(LABELS, i)):
            gap = naive_distance(kind, i, n) - naive_distance(kind, i, p)
            if 0 < gap < margin:
                totals[i] += margin - gap
                count += 1
    assert count > 2, "the example must hold such triplets"
    return [total * 7 / count for total in totals]


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("kind", DISTANCES)
@pytest.mark.parametrize("margin", [0.2, 1.3])
def test_triplet_semi_hard_nearest_farther(dtype: str, kind: Any, margin: float) -> None:
    found = triplet_semi_hard(points(lengths=LENGTHS, dtype=dtype), np.array(LABELS), margin, kind)
    check(found, naive_nearest_farther(kind, margin), dtype)


@pytest.mark.parametrize("dtype", ["float32", "float64"])  # half precision moves triplets over the band's sharp edges
@pytest.mark.parametrize("kind", DISTANCES)
@pytest.mark.parametrize("margin", [0.7, 1.3])
def test_triplet_semi_hard_band(dtype: str, kind: Any, margin: float) -> None:
    found = triplet_semi_hard(points(lengths=LENGTHS, dtype=dtype), np.array(LABELS), margin, kind, "band")
    check(found, naive_band(kind, margin), dtype)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_the_band_in_half_precision_is_that_of_the_rounded_points(dtype: str) -> None:
    rounded = points(lengths=LENGTHS, dtype=dtype)
    expected = triplet_semi_hard(ops.cast(rounded, "float32"), np.array(LABELS), 1.3, "cosine", "band")
    found = triplet_semi_hard(rounded, np.array(LABELS), 1.3, "cosine", "band")
    assert found.dtype == dtype
    np.testing.assert_allclose(np.asarray(ops.cast(found, "float32")), expected, rtol=1e-2)


def test_the_two_semi_hard_definitions_by_hand() -> None:
    # Anchor 0 at 0 degrees, its positive at 60 (D = 1/2), negatives at 90 (D = 1), 180 (D = 2); margin 0.6.
    # From anchor 60: positive D = 1/2, negatives at 30 degrees (0.134) and 120 (1.5). The negatives are no positives.
    x, labels = points([0, 60, 90, 180]), np.array([0, 0, 1, 2])
    nearest = ops.convert_to_numpy(triplet_semi_hard(x, labels, 0.6))
    np.testing.assert_allclose(nearest, np.array([0.1, 0, 0, 0]) * 4 / 2, rtol=1e-9, atol=1e-12)
    band = ops.convert_to_numpy(triplet_semi_hard(x, labels, 0.6, definition="band"))
    np.testing.assert_allclose(band, np.array([0.1, 0, 0, 0]) * 4 / 1, rtol=1e-9, atol=1e-12)
    # Where every negative is nearer than the positive, the first takes the farthest, the second nothing.
    x, labels = points([0, 90, 10, 350]), np.array([0, 0, 1, 2])
    first = ops.convert_to_numpy(triplet_semi_hard(x, labels, 0.2))
    np.testing.assert_allclose(first[0], (0.2 + 1 - (1 - cosine(0, 10))) * 4 / 2, rtol=1e-9)
    assert ops.convert_to_numpy(triplet_semi_hard(x, labels, 0.2, definition="band"))[0] == 0


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("kind", DISTANCES)
@pytest.mark.parametrize("margin", [0.2, 1.3])
def test_triplet_batch_hard(dtype: str, kind: Any, margin: float) -> None:
    expected = []
    for i in range(7):
        positives, negatives = pairs_of(LABELS, i)
        if not positives:
            expected.append(0.0)
            continue
        farthest = max(naive_distance(kind, i, j) for j in positives)
        nearest = min(naive_distance(kind, i, j) for j in negatives)
        expected.append(max(0.0, margin + farthest - nearest))
    check(triplet_batch_hard(points(lengths=LENGTHS, dtype=dtype), np.array(LABELS), margin, kind), expected, dtype)


def naive_multi_similarity(alpha: float, beta: float, threshold: float, epsilon: float) -> tuple[list[float], int]:
    losses, dropped = [], 0
    for i in range(7):
        positives, negatives = pairs_of(LABELS, i)
        s = {j: cosine(ANGLES[i], ANGLES[j]) for j in range(7)}
        positives = [j for j in positives if s[j] < 1 - 1e-5]
        mined_p = [j for j in positives if s[j] - epsilon < max(s[k] for k in negatives)]
        mined_n = [j for j in negatives if positives and s[j] + epsilon > min(s[k] for k in positives)]
        dropped += len(positives) - len(mined_p) + len(negatives) - len(mined_n)
        if not mined_p or not mined_n:
            losses.append(0.0)
            continue
        pull = math.log(1 + sum(math.exp(-alpha * (s[j] - threshold)) for j in mined_p)) / alpha
        push = math.log(1 + sum(math.exp(beta * (s[j] - threshold)) for j in mined_n)) / beta
        losses.append(pull + push)
    return losses, dropped


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("settings", [(2.0, 50.0, 0.5, 0.1), (2.0, 40.0, 0.5, 0.1), (1.0, 4.0, 0.2, 0.5)])
def test_multi_similarity(dtype: str, settings: tuple[float, float, float, float]) -> None:
    expected, dropped = naive_multi_similarity(*settings)
    assert dropped > 0 and sum(loss > 0 for loss in expected) > 2 and min(expected) == 0
    check(multi_similarity(points(lengths=LENGTHS, dtype=dtype), np.array(LABELS), *settings), expected, dtype)


def test_multi_similarity_mines() -> None:
    # Anchor 0: positive at 30 degrees (0.87), negatives at 45 (0.71) and 90 (0). With epsilon 0.1 neither is mined;
    # with 0.2 the pair and the nearer negative are.
    x, labels = points([0, 30, 45, 90]), np.array([0, 0, 1, 2])
    assert float(multi_similarity(x, labels)[0]) == 0
    pull = math.log(1 + math.exp(-2 * (cosine(0, 30) - 0.5))) / 2
    push = math.log(1 + math.exp(50 * (cosine(0, 45) - 0.5))) / 50
    np.testing.assert_allclose(float(multi_similarity(x, labels, epsilon=0.2)[0]), pull + push, rtol=1e-9)


def test_multi_similarity_takes_identical_points_for_one() -> None:
    x, labels = points([0, 0, 10]), np.array([0, 0, 1])
    np.testing.assert_array_equal(multi_similarity(x, labels), [0, 0, 0])
    assert float(multi_similarity(points([0, 5, 10]), labels)[0]) > 0


def test_large_beta_does_not_overflow() -> None:
    x = points([0, 30, 1, 2], dtype="float32")
    found = ops.convert_to_numpy(multi_similarity(x, np.array([0, 0, 1, 1]), beta=1000.0))
    np.testing.assert_allclose(found[0], math.log1p(math.exp(-2 * (cosine(0, 30) - 0.5))) / 2 + 0.5, atol=2e-3)


LOSSES: dict[str, Callable[..., Any]] = {
    **METRIC_LOSSES,
    "band": lambda x, y: triplet_semi_hard(x, y, definition="band"),
    "semi_hard_euclidean": lambda x, y: triplet_semi_hard(x, y, distance="euclidean"),
    "band_euclidean": lambda x, y: triplet_semi_hard(x, y, distance="euclidean", definition="band"),
    "batch_hard_euclidean": lambda x, y: triplet_batch_hard(x, y, distance="euclidean"),
    "batch_hard_squared": lambda x, y: triplet_batch_hard(x, y, distance="squared_euclidean"),
}
DEGENERATE = {
    "no positive": (np.random.default_rng(1).normal(size=(5, 3)), [0, 1, 2, 3, 4]),
    "no negative": (np.random.default_rng(2).normal(size=(5, 3)), [7, 7, 7, 7, 7]),
    "identical points": (np.ones((6, 3)), [0, 0, 0, 1, 1, 1]),
    "identical points, one label": (np.ones((4, 3)), [0, 0, 0, 0]),
    "zero vectors": (np.zeros((4, 3)), [0, 0, 1, 1]),
    "one zero vector": (np.eye(4)[:, :3], [0, 0, 1, 1]),
    "one sample": (np.ones((1, 3)), [0]),
    "two far points": (np.array([[1e4, 0, 0], [-1e4, 0, 0]]), [0, 1]),
}


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("case", DEGENERATE)
@pytest.mark.parametrize("name", LOSSES)
def test_degenerate_batches_are_finite_with_their_gradient(name: str, case: str, dtype: str) -> None:
    values, labels = DEGENERATE[case]
    x = ops.convert_to_tensor(values, dtype)
    with tf.GradientTape() as tape:
        tape.watch(x)
        losses = LOSSES[name](x, np.array(labels))
        total = tf.reduce_sum(tf.cast(losses, tf.float32))
    gradient = tape.gradient(total, x)
    assert losses.shape == (len(values),) and losses.dtype == dtype
    assert np.isfinite(np.asarray(ops.cast(losses, "float32"))).all()
    assert np.isfinite(np.asarray(ops.cast(gradient, "float32"))).all()
    if name != "contrastive" and case in ("no positive", "no negative", "one sample", "two far points"):
        assert float(total) == 0


def test_no_anchor_is_pushed_from_itself() -> None:
    """A single label pair at one place: nothing to pull, nothing to push."""
    x = points([0, 0])
    for name, loss in LOSSES.items():
        np.testing.assert_allclose(ops.convert_to_numpy(loss(x, np.array([4, 4]))), 0, atol=1e-12, err_msg=name)


@pytest.mark.parametrize("name", LOSSES)
def test_gradient_is_that_of_differences(name: str) -> None:
    labels = np.array(LABELS)
    x = np.asarray(points(lengths=LENGTHS))
    variable = tf.Variable(x)
    with tf.GradientTape() as tape:
        total = tf.reduce_mean(LOSSES[name](variable, labels))
    gradient = tape.gradient(total, variable).numpy()
    assert np.abs(gradient).max() > 1e-3
    for place in [(0, 0), (2, 1), (4, 0), (6, 1)]:
        step = np.zeros_like(x)
        step[place] = 1e-6
        ahead, behind = (float(tf.reduce_mean(LOSSES[name](tf.constant(x + s), labels))) for s in (step, -step))
        np.testing.assert_allclose(gradient[place], (ahead - behind) / 2e-6, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("name", METRIC_LOSSES)
def test_training_pulls_classes_together(name: str) -> None:
    draw = np.random.default_rng(5)
    labels = np.repeat(np.arange(3), 6)
    variable = tf.Variable(draw.normal(size=(18, 4)), dtype=tf.float32)
    optimizer = keras.optimizers.Adam(0.05)
    optimizer.build([variable])

    @tf.function
    def update() -> Any:
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(METRIC_LOSSES[name](variable, labels))
        optimizer.apply_gradients([(tape.gradient(loss, variable), variable)])
        return loss

    losses = [float(update()) for _ in range(150)]
    unit = variable.numpy() / np.linalg.norm(variable.numpy(), axis=1, keepdims=True)
    similarity, same = unit @ unit.T, labels[:, None] == labels
    assert losses[-1] < 0.5 * losses[0]
    assert similarity[same].mean() > similarity[~same].mean() + 0.5


def test_wrong_arguments_are_refused() -> None:
    x, y = np.zeros((4, 2), np.float32), np.zeros(4, np.int32)
    for loss in METRIC_LOSSES.values():
        with pytest.raises(ValueError, match=r"expected embeddings \(B, C\)"):
            loss(x[:, 0], y)
        with pytest.raises(ValueError, match=r"labels \(B,\)"):
            loss(x, y[:, None])
    with pytest.raises(ValueError, match="distance 'manhattan' is unknown"):
        triplet_batch_hard(x, y, distance="manhattan")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="definition 'hard' is unknown"):
        triplet_semi_hard(x, y, definition="hard")  # type: ignore[arg-type]
