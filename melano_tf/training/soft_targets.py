"""Targets that are no single class, what teachers say of an image, class shares in the loss, and weights that begin
late."""

import copy
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from keras import ops

from melano_tf.errors import InputError
from melano_tf.training.hosts import Share, shared_out
from melano_tf.training.loop import Batches
from melano_tf.training.losses import categorical_focal, prior_loss
from melano_tf.training.sample_weights import BLENDED, STRATEGY, Strategy
from melano_tf.training.steps import Batch

TAUGHT = "taught"  # of batches: what teachers say of each sample


@dataclass(frozen=True)
class Taught:
    """What teachers say of the training samples.

    Attributes:
        probabilities: (n, C), rows summing to one, by the samples' "row".
        trust: the share of each target that is theirs, in 0..1.
    """

    probabilities: np.ndarray
    trust: float


def soft_targets(
    y: Any,
    classes: int,
    smoothing: float = 0.0,
    share: Any = None,
    weight: Any = None,
    taught: Any = None,
    trust: float = 0.0,
) -> Any:
    """Targets (B, C) float32, rows summing to one, or to the blended weights.

    Label smoothing (Szegedy et al., CVPR 2016): (1 - smoothing) of the class and smoothing / C of each. Distillation
    (Hinton et al., 2015, at temperature 1): (1 - trust) of that, and trust of what teachers say. Mixup (Zhang et al.,
    ICLR 2018): a sample's own share of all that, and the rest of the next one's of the batch, as
    `melano_tf.models.mixup_layer.Mixup` blends their pictures. A loss that is linear in its targets is with weights
    share w_own L_own + (1 - share) w_next L_next.

    Args:
        y: class indices (B,).
        classes: C.
        smoothing: in 0..1, 1 excluded.
        share: (B,) in 0..1, or None for no mixup.
        weight: (B,) of each sample before it is blended, or None for ones.
        taught: (B, C), rows summing to one, or None for no teachers.
        trust: in 0..1, of the teachers.
    """
    targets = (1.0 - smoothing) * ops.one_hot(ops.cast(y, "int32"), classes, dtype="float32") + smoothing / classes
    if taught is not None:
        targets = (1.0 - trust) * targets + trust * ops.cast(taught, "float32")
    if weight is not None:
        targets = ops.cast(weight, "float32")[:, None] * targets
    if share is None:
        return targets
    own = ops.cast(share, "float32")[:, None]
    return own * targets + (1 - own) * ops.roll(targets, -1, axis=0)


def log_shares(counts: Any, strength: float) -> np.ndarray:
    """What logit adjustment adds to the logits of a training: strength log(N_c / N), float32 (C,).

    Menon et al., Long-tail learning via logit adjustment (ICLR 2021), equation 10: the network then answers, without
    the addition, as if all classes were equally frequent (strength 1).

    Raises:
        InputError: a class without a training image.
    """
    counts = np.asarray(counts, np.float64)
    if (counts <= 0).any():
        raise InputError(
            f"classes {np.flatnonzero(counts <= 0).tolist()} have no training image: no share to adjust by"
        )
    return np.asarray(strength * np.log(counts / counts.sum()), np.float32)


def soft_focal_loss(smoothing: float, added: np.ndarray, trust: float = 0.0) -> Callable[[Batch, Any], Any]:
    """The `loss_fn` of a `GradientStep` for batches with a strategy: equation 6 of soft targets and shifted logits.

    Args:
        smoothing: of the labels.
        added: to the logits, (C,), `log_shares`.
        trust: of teachers, whose answers the batches then hold (`TaughtBatches`).
    """

    def loss(batch: Batch, logits: Any) -> Any:
        share, blended, taught = batch["x"].get("share"), batch.get(BLENDED), batch.get(TAUGHT)
        targets = soft_targets(batch["y"], len(added), smoothing, share, blended, taught, trust)
        return categorical_focal(targets, logits + added, batch[STRATEGY]["gamma"])

    return loss


def soft_prior(counts: Any, strategy: Strategy, smoothing: float) -> float:
    """As `sample_weights.strategy_prior`, of smoothed targets; mixup and logit adjustment do not change it, and
    teachers hardly, whose answers have the class shares on average."""

    def loss(y: Any, logits: Any) -> Any:
        return categorical_focal(soft_targets(y, len(counts), smoothing), logits, strategy.gamma)

    return prior_loss(counts, strategy.weights_of_classes(counts), loss)


class MixedBatches:
    """Batches whose "x" also holds "share" (B,) float32: a sample's own part of a blended picture.

    A share is drawn from Beta(alpha, alpha), by seed and global step. Each of the two that are blended has a weight of
    its own: it goes from "weight", which is then 1, to `BLENDED`, with which `soft_focal_loss` weighs the targets. The
    losses are weighted by that before a curriculum sees them: class weights and a curriculum do not go with it both.

    Args:
        batches: of images.
        alpha: above 0.
        seed: of the shares.
    """

    def __init__(self, batches: Batches, alpha: float, seed: int) -> None:
        self.batches, self.alpha, self.seed = batches, alpha, seed
        self.steps_per_epoch = batches.steps_per_epoch

    def shared(self, share: Share) -> "MixedBatches":
        """As of `ImageBatches`: one host reads its part of the pictures, and blends within that."""
        part = copy.copy(self)
        part.batches = shared_out(self.batches, share)
        return part

    def from_step(self, step: int) -> Iterator[Batch]:
        """The batches from a global step on."""
        for number, batch in zip(itertools.count(step), self.batches.from_step(step), strict=False):
            own = np.random.default_rng([self.seed, number]).beta(self.alpha, self.alpha, len(batch["id"]))
            # Of a host's part: behind the batch's end the last sample stands again.
            places = int(batch.get("x_from", 0)) + np.arange(len(batch["x"]["image"]))
            held = own[np.minimum(places, len(own) - 1)].astype(np.float32)
            ones = np.ones(len(own), np.float32)
            apart = {"weight": ones, BLENDED: batch.get("weight", ones)}
            yield {**batch, **apart, "x": {**batch["x"], "share": held}}


class TaughtBatches:
    """Batches with what teachers say of each sample, float32 (B, C), under `TAUGHT`.

    Args:
        batches: with "row", a sample's place among those trained on.
        probabilities: of `Taught`.
    """

    def __init__(self, batches: Batches, probabilities: np.ndarray) -> None:
        self.batches, self.probabilities = batches, np.asarray(probabilities, np.float32)
        self.steps_per_epoch = batches.steps_per_epoch

    def shared(self, share: Share) -> "TaughtBatches":
        """The same, of whose pictures one host reads its part."""
        return TaughtBatches(shared_out(self.batches, share), self.probabilities)

    def from_step(self, step: int) -> Iterator[Batch]:
        """The batches from a global step on."""
        for batch in self.batches.from_step(step):
            yield {**batch, TAUGHT: self.probabilities[np.asarray(batch["row"])]}


class DeferredBatches:
    """Batches that change at a step: deferred re-weighting (Cao et al., NeurIPS 2019), where both weigh differently.

    Args:
        first, then: the batches before and from step `at` on; of equally many steps an epoch.
        at: global step.
    """

    def __init__(self, first: Batches, then: Batches, at: int) -> None:
        if first.steps_per_epoch != then.steps_per_epoch:
            raise ValueError(f"{first.steps_per_epoch} and {then.steps_per_epoch} steps an epoch")
        self.first, self.then, self.at = first, then, at
        self.steps_per_epoch = first.steps_per_epoch

    def shared(self, share: Share) -> "DeferredBatches":
        """Both so."""
        return DeferredBatches(shared_out(self.first, share), shared_out(self.then, share), self.at)

    def from_step(self, step: int) -> Iterator[Batch]:
        """The batches from a global step on."""
        if step < self.at:
            yield from itertools.islice(self.first.from_step(step), self.at - step)
        yield from self.then.from_step(max(step, self.at))
