"""Smoothed and blended targets, class shares in the loss, weights that begin late: against naive loops."""

import itertools
import math
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from melano_tf.errors import InputError
from melano_tf.models.mixup_layer import mixing
from melano_tf.papers.weighting.trunk_transfer_settings import RegularSettings
from melano_tf.training.hosts import Share
from melano_tf.training.loop import GradientStep
from melano_tf.training.losses import prior_loss
from melano_tf.training.optimizers import make_optimizer, take_average
from melano_tf.training.sample_weights import STRATEGY, Strategy, StrategyBatches
from melano_tf.training.soft_targets import (
    TAUGHT,
    DeferredBatches,
    MixedBatches,
    TaughtBatches,
    log_shares,
    soft_focal_loss,
    soft_prior,
    soft_targets,
)
from melano_tf.training.steps import Progress

COUNTS = [40, 7, 1]
HAM10000 = [1113, 6705, 514, 327, 1099, 115, 142]
Y = [2, 0, 0, 1, 2]


def naive_targets(smoothing: float, shares: list[float] | None) -> list[list[float]]:
    plain = [[(1 - smoothing) * (c == y) + smoothing / 3 for c in range(3)] for y in Y]
    if shares is None:
        return plain
    others = [plain[(i + 1) % len(Y)] for i in range(len(Y))]
    return [
        [s * a + (1 - s) * b for a, b in zip(own, other, strict=True)]
        for s, own, other in zip(shares, plain, others, strict=True)
    ]


@pytest.mark.parametrize("smoothing", [0.0, 0.15])
@pytest.mark.parametrize("shares", [None, [0.9, 0.2, 1.0, 0.5, 0.0]])
def test_targets_and_loss_are_those_of_naive_loops(smoothing: float, shares: list[float] | None) -> None:
    wanted = naive_targets(smoothing, shares)
    found = np.asarray(soft_targets(tf.constant(Y), 3, smoothing, None if shares is None else tf.constant(shares)))
    np.testing.assert_allclose(found, wanted, atol=1e-6)
    logits = np.random.default_rng(3).normal(size=(5, 3)).astype(np.float32) * 3
    added = log_shares(COUNTS, 0.7)
    assert added.tolist() == pytest.approx([0.7 * math.log(count / 48) for count in COUNTS], rel=1e-6)
    losses = []
    for row, target in zip(logits.tolist(), wanted, strict=True):
        moved = [z + 0.7 * math.log(count / 48) for z, count in zip(row, COUNTS, strict=True)]
        total = math.log(sum(map(math.exp, moved)))
        losses.append(-sum(t * (z - total) for t, z in zip(target, moved, strict=True)))
    x: dict[str, Any] = {"image": tf.zeros((5, 2, 4, 3))}
    x |= {} if shares is None else {"share": tf.constant(shares)}
    batch = {"x": x, "y": tf.constant(Y), STRATEGY: Strategy().tensors(Y)}
    np.testing.assert_allclose(soft_focal_loss(smoothing, added)(batch, logits), losses, rtol=2e-5)


@pytest.mark.parametrize("shares", [None, [0.9, 0.2, 1.0, 0.5, 0.0]])
def test_taught_targets_are_those_of_naive_loops(shares: list[float] | None) -> None:
    said = np.random.default_rng(8).dirichlet([0.4, 0.3, 0.2], len(Y)).astype(np.float32)
    plain = [
        [0.3 * (0.85 * (c == y) + 0.15 / 3) + 0.7 * float(row[c]) for c in range(3)]
        for y, row in zip(Y, said, strict=True)
    ]
    own = [1.0] * len(Y) if shares is None else shares
    wanted = [[s * plain[i][c] + (1 - s) * plain[(i + 1) % len(Y)][c] for c in range(3)] for i, s in enumerate(own)]
    share = None if shares is None else tf.constant(shares)
    found = soft_targets(tf.constant(Y), 3, 0.15, share, taught=tf.constant(said), trust=0.7)
    np.testing.assert_allclose(found, wanted, atol=1e-6)
    logits = np.random.default_rng(9).normal(size=(5, 3)).astype(np.float32)
    x: dict[str, Any] = {"image": tf.zeros((5, 2, 4, 3))} | ({} if shares is None else {"share": share})
    batch = {"x": x, "y": tf.constant(Y), STRATEGY: Strategy().tensors(Y), TAUGHT: tf.constant(said)}
    losses = -np.sum(np.array(wanted) * np.log(np.asarray(tf.nn.softmax(logits), np.float64)), axis=1)
    loss = soft_focal_loss(0.15, log_shares(COUNTS, 0.0), 0.7)
    np.testing.assert_allclose(loss(batch, logits), losses, rtol=2e-5)


def test_a_batch_holds_what_teachers_say_of_its_own_samples_wherever_it_begins() -> None:
    class Rows:
        steps_per_epoch = 2

        def from_step(self, step: int) -> Iterator[dict[str, Any]]:
            for number in itertools.count(step):
                yield {"row": tf.constant([(3 * number + 1) % 5, (3 * number) % 5], tf.int64), "y": [0, 1]}

    said = np.random.default_rng(10).dirichlet([1, 2, 3], 5)
    batches = TaughtBatches(Rows(), said)
    assert batches.steps_per_epoch == 2
    for number, batch in enumerate(itertools.islice(batches.from_step(4), 3), start=4):
        np.testing.assert_allclose(batch[TAUGHT], said[[(3 * number + 1) % 5, (3 * number) % 5]], rtol=1e-6)
        assert batch[TAUGHT].dtype == np.float32 and batch["y"] == [0, 1]


def test_a_loss_without_any_of_it_is_the_cross_entropy_of_an_independent_reference() -> None:
    logits = np.random.default_rng(4).normal(size=(5, 3)).astype(np.float32)
    batch = {"x": {}, "y": tf.constant(Y), STRATEGY: Strategy().tensors(Y)}
    reference = tf.nn.sparse_softmax_cross_entropy_with_logits(labels=Y, logits=logits)
    np.testing.assert_allclose(soft_focal_loss(0.0, log_shares(COUNTS, 0.0))(batch, logits), reference, rtol=1e-5)


def test_a_class_without_an_image_has_no_share() -> None:
    with pytest.raises(InputError, match=r"classes \[1\] have no training image"):
        log_shares([3, 0, 2], 1.0)


def test_the_prior_of_smoothed_targets_is_above_the_plain_one_and_plain_where_there_are_none() -> None:
    assert soft_prior(COUNTS, Strategy(), 0.0) == pytest.approx(prior_loss(COUNTS), rel=1e-6)
    shares = 0.9 * np.array(COUNTS) / 48 + 0.1 / 3  # the mean target, and therefore the best constant answer
    wanted = -float(shares @ np.log(shares))
    assert soft_prior(COUNTS, Strategy(), 0.1) == pytest.approx(wanted, rel=1e-6) and wanted > prior_loss(COUNTS)
    assert soft_prior(HAM10000, Strategy(), 0.1) == pytest.approx(1.2876, abs=5e-5)  # always the shares: 1.3025


@pytest.mark.parametrize(
    ("given", "smoothing"),
    [(Strategy(gamma=2.0), 0.2), (Strategy("es", gamma=0.5), 0.0), (Strategy("es", scale="mean_one"), 0.1)],
)
def test_no_constant_answer_on_a_grid_is_better_than_the_prior(given: Strategy, smoothing: float) -> None:
    ticks = np.arange(1, 400) / 400
    first, second = (each.ravel() for each in np.meshgrid(ticks, ticks))
    answers = np.stack([first, second, 1 - first - second], axis=1)[first + second < 0.999]
    weights = np.asarray(given.weights_of_classes(COUNTS), np.float64) * COUNTS / 48
    targets = weights @ ((1 - smoothing) * np.eye(3) + smoothing / 3)
    losses = -((1 - answers) ** given.gamma * np.log(answers)) @ targets
    found = soft_prior(COUNTS, given, smoothing)
    assert found <= losses.min() * (1 + 1e-6) and found == pytest.approx(losses.min(), rel=1e-3)


class Counted:
    """Batches of five whose id says their step; the last one of an epoch holds two."""

    steps_per_epoch = 3

    def __init__(self, share: Share | None = None) -> None:
        self.share = share

    def shared(self, share: Share) -> "Counted":
        return Counted(share)

    def from_step(self, step: int) -> Iterator[dict[str, Any]]:
        for number in itertools.count(step):
            size = 2 if number % 3 == 2 else 5
            picture = np.full((size, 4, 6, 3), number, np.float32)
            batch = {"x": {"image": picture}, "y": np.arange(size) % 3, "id": np.array([str(number)] * size)}
            if self.share is not None:
                own = self.share.places(size)
                batch |= {"x": {"image": picture[own]}, "x_from": np.int64(self.share.start(size))}
            yield batch


def test_shares_follow_from_seed_and_step_and_are_those_of_beta() -> None:
    def shares(batches: MixedBatches, step: int, count: int) -> list[np.ndarray]:
        return [one["x"]["share"] for one in itertools.islice(batches.from_step(step), count)]

    batches = MixedBatches(Counted(), 0.4, seed=7)
    assert batches.steps_per_epoch == 3
    all_of_them, later = shares(batches, 0, 9), shares(batches, 5, 4)
    for one, other in zip(all_of_them[5:], later, strict=True):
        np.testing.assert_array_equal(one, other)
    assert [len(one) for one in all_of_them] == [5, 5, 2] * 3
    assert not np.array_equal(all_of_them[0], shares(MixedBatches(Counted(), 0.4, seed=8), 0, 1)[0])
    many = np.concatenate(shares(batches, 0, 900))
    assert many.min() >= 0 and many.max() <= 1 and many.mean() == pytest.approx(0.5, abs=0.02)
    assert many.var() == pytest.approx(1 / (4 * (2 * 0.4 + 1)), rel=0.06)  # of Beta(a, a)


def test_a_host_has_the_shares_of_its_own_part() -> None:
    whole = MixedBatches(Counted(), 1.0, seed=7)
    parts = [whole.shared(Share(host, 2, 1)) for host in (0, 1)]
    one, first, second = (next(iter(each.from_step(4)))["x"]["share"] for each in (whole, *parts))
    np.testing.assert_array_equal(first, one[:3])
    np.testing.assert_array_equal(second, [one[3], one[4], one[4]])  # the last one again, of weight 0


def test_deferred_batches_change_at_their_step_wherever_they_begin() -> None:
    counts = [6, 3, 1]
    first = StrategyBatches(Counted(), Strategy(), counts)
    then = StrategyBatches(Counted(), Strategy(class_weights="cb", scale="mean_one"), counts)
    batches = DeferredBatches(first, then, 4)
    for begin in (0, 3, 4, 6):
        for step, batch in zip(range(begin, 9), batches.from_step(begin), strict=False):
            assert batch["id"][0] == str(step)
            own = np.asarray(batch["weight"])
            assert (own == 1).all() if step < 4 else not (own == 1).any(), step
    with pytest.raises(ValueError, match="steps an epoch"):
        other = Counted()
        other.steps_per_epoch = 4
        DeferredBatches(first, other, 2)


LATE = Strategy(class_weights="cb")


@pytest.mark.parametrize("smoothing", [0.0, 0.15])
@pytest.mark.parametrize(
    "batches",
    [
        MixedBatches(StrategyBatches(Counted(), LATE, [6, 3, 1]), 1.0, seed=7),
        StrategyBatches(MixedBatches(Counted(), 1.0, seed=7), LATE, [6, 3, 1]),
        MixedBatches(
            DeferredBatches(
                StrategyBatches(Counted(), Strategy(), [6, 3, 1]), StrategyBatches(Counted(), LATE, [6, 3, 1]), 1
            ),
            1.0,
            seed=7,
        ),
    ],
    ids=["weighted, then blended", "blended, then weighted", "weighted late"],
)
def test_of_two_that_are_blended_each_has_the_weight_of_its_own_class(batches: Any, smoothing: float) -> None:
    deferred = isinstance(batches.batches, DeferredBatches)
    for step, batch in zip(range(3), batches.from_step(0), strict=False):
        weights = [1.0] * 3 if deferred and step == 0 else [10 / 6, 10 / 3, 10.0]
        y, shares = batch["y"].tolist(), batch["x"]["share"].tolist()
        logits = np.random.default_rng(step).normal(size=(len(y), 3)).astype(np.float32)
        wanted = []
        for i in range(len(y)):
            log_p = [float(z) - math.log(sum(math.exp(float(other)) for other in logits[i])) for z in logits[i]]
            own, following = (
                weights[c] * -((1 - smoothing) * log_p[c] + smoothing / 3 * sum(log_p))
                for c in (y[i], y[(i + 1) % len(y)])
            )
            wanted.append(shares[i] * own + (1 - shares[i]) * following)
        found = soft_focal_loss(smoothing, log_shares(COUNTS, 0.0))(batch, logits)
        np.testing.assert_allclose(np.asarray(batch["weight"]) * np.asarray(found), wanted, rtol=2e-5)


def test_class_weights_and_a_curriculum_are_refused_for_blended_pictures() -> None:
    with pytest.raises(InputError, match=r"mixup 0.2 with strategy cb\+ohem: .* leave out one of the three"):
        RegularSettings(mixup=0.2, strategy="cb+ohem")
    for fine in ({"mixup": 0.2, "strategy": "cb"}, {"mixup": 0.2, "strategy": "ohem"}, {"strategy": "cb+ohem"}):
        RegularSettings(**fine)


def network() -> keras.Model:
    keras.utils.set_random_seed(5)
    image = keras.Input((4, 6, 3), name="image")
    x = keras.layers.Dense(3, name="classes_logits")(keras.layers.Flatten()(image))
    return keras.Model({"image": image}, x, name="small")


def test_pictures_are_blended_with_the_next_one_in_training_alone() -> None:
    pictures = np.random.default_rng(2).uniform(0, 255, (3, 4, 6, 3)).astype(np.float32)
    shares = np.array([0.3, 1.0, 0.25], np.float32)
    plain = network()
    mixed = mixing(plain)
    blended = [shares[i] * pictures[i] + (1 - shares[i]) * pictures[(i + 1) % 3] for i in range(3)]
    asked = {"image": pictures, "share": shares}
    np.testing.assert_allclose(mixed(asked, training=True), plain({"image": np.stack(blended)}), rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(mixed(asked, training=False), plain({"image": pictures}), rtol=1e-5, atol=1e-4)
    again = keras.Model.from_config(mixed.get_config())
    again.set_weights(mixed.get_weights())
    np.testing.assert_allclose(again(asked, training=True), mixed(asked, training=True), rtol=1e-6)


def test_what_is_told_is_blended_as_the_pictures_are() -> None:
    keras.utils.set_random_seed(6)
    picture, told = keras.Input((4, 6, 3), name="image"), keras.Input((2,), name="metadata")
    x = keras.layers.Concatenate()([keras.layers.Flatten()(picture), told])
    plain = keras.Model([picture, told], keras.layers.Dense(3)(x), name="told")
    pictures = np.random.default_rng(2).uniform(0, 1, (3, 4, 6, 3)).astype(np.float32)
    facts = np.array([[1, 0], [0, 5], [2, 2]], np.float32)
    shares = np.array([0.3, 0.6, 0.25], np.float32)
    own = shares[:, None]
    found = mixing(plain)({"image": pictures, "metadata": facts, "share": shares}, training=True)
    blended = own * facts + (1 - own) * facts[[1, 2, 0]]
    seen = own[..., None, None] * pictures + (1 - own[..., None, None]) * pictures[[1, 2, 0]]
    np.testing.assert_allclose(found, plain([seen, blended]), rtol=1e-4, atol=1e-5)


def test_a_step_with_all_of_it_changes_the_networks_own_weights() -> None:
    plain = network()
    before = [np.array(each) for each in plain.get_weights()]
    mixed, optimizer = mixing(plain), make_optimizer("adam", 1e-2, averaging=0.9)
    step = GradientStep(mixed, optimizer, soft_focal_loss(0.1, log_shares(COUNTS, 1.0)))
    batches = StrategyBatches(MixedBatches(Counted(), 0.2, 3), Strategy(), COUNTS)
    averages, now = [np.array(each) for each in before], None
    for number, batch in zip(range(4), batches.from_step(0), strict=False):
        step(batch, Progress(*(tf.constant(each, tf.int64) for each in (number, 0, 4, 2))))
        now = plain.get_weights()
        # Keras's mean begins at the weights behind the first step.
        share = 0.9 if number else 0.0
        averages = [share * old + (1 - share) * new for old, new in zip(averages, now, strict=True)]
    assert now is not None and not np.allclose(now[0], before[0])
    for _ in range(2):  # again is the same
        take_average(optimizer, mixed.trainable_variables)
        for found, wanted in zip(plain.get_weights(), averages, strict=True):
            np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)


def test_without_averaging_the_weights_stay_what_they_are() -> None:
    plain = network()
    optimizer = make_optimizer("adam", 1e-2)
    optimizer.build(plain.trainable_variables)
    before = plain.get_weights()
    take_average(optimizer, plain.trainable_variables)
    for one, other in zip(before, plain.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
