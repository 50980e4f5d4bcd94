"""How much each sample counts: class weights and curricula of the sample-weighting paper, section 3.

The weight of a sample is class weight x curriculum weight, and the update divides by the number of samples M (equation
3), whatever the weights sum to. `Strategy` names a combination. It enters the compiled training step as tensors of the
batch, so that one traced step serves every strategy:

    step = GradientStep(model, optimizer, focal_loss, weights_fn=curriculum)
    for strategy in strategies:                                   # model and optimizer set back in between
        train(step, StrategyBatches(batches, strategy, counts), settings, folder / strategy.name, model, optimizer)

The functions below it are pure and use Keras operations only.
"""

import copy
import csv
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from keras import ops

from melano_tf.errors import InputError
from melano_tf.runs.atomic_files import atomic
from melano_tf.training.hosts import Share, shared_out
from melano_tf.training.loop import Batches
from melano_tf.training.losses import categorical_focal, prior_loss
from melano_tf.training.steps import Batch, Progress, Step

ClassWeights = Literal["none", "cb", "es"]
Scale = Literal["cui", "as_printed", "mean_one"]
Curriculum = Literal["none", "spl", "ohem", "ohem_per_class"]
STRATEGY = "strategy"
BLENDED = "blended_weight"  # of batches whose samples are blended: each one's own weight, for its part of the targets


# === Class weights ===


def class_balanced(counts: Any) -> Any:
    """CB weights, w_c = N / N_c (equation 7).

    Args:
        counts: (C,) images of each class in the whole training set, any numeric dtype.

    Returns:
        (C,) float32; infinite for a class without an image.
    """
    counts = ops.cast(counts, "float32")
    return ops.sum(counts) / counts


def effective_number(counts: Any) -> Any:
    """ES weights, w_c = (1 - beta) / (1 - beta^N_c) with beta = (N - 1) / N (equation 8), as printed.

    Their mean over a training set's samples is of the order of C / N (80 % of ISIC 2018: 9.4e-4), with which SGD at the
    paper's learning rate hardly moves a weight: see `sum_to_classes`.

    Args:
        counts: (C,) images of each class in the whole training set, any numeric dtype.

    Returns:
        (C,) float32, between 1/N and 1; infinite for a class without an image.
    """
    counts = ops.cast(counts, "float32")
    total = ops.sum(counts)
    # 1 - beta^n = -expm1(n log(1 - 1/N)): float32 would lose 1 - beta to rounding at thousands of images.
    return (1.0 / total) / -ops.expm1(counts * ops.log1p(-1.0 / total))


def sum_to_classes(weights: Any) -> Any:
    """Class weights (C,) rescaled so that they sum to C, as Cui et al. (2019, the paper's reference 9) do with (8)."""
    return weights * ops.cast(ops.shape(weights)[0], weights.dtype) / ops.sum(weights)


def mean_one(weights: Any, counts: Any) -> Any:
    """Class weights (C,) rescaled so that their mean over the training set's samples is one."""
    counts = ops.cast(counts, weights.dtype)
    return weights * ops.sum(counts) / ops.sum(counts * weights)


# === Curricula ===


def pace(epoch: Any, epochs: Any, size: Any, full_from: Any = 0.5) -> Any:
    """The share exp(a e) / (1 + exp(a e)) of a batch that takes part in epoch e (equation 9), before rounding.

    a is the smallest for which every sample takes part from `full_from` of the training on: log(2M - 1) / (full_from
    x epochs). The share is 1/2 in epoch 0 and 1 once all take part; in between it grows.

    Args:
        epoch: from 0; a number or a tensor of any shape that the others broadcast with.
        epochs: epochs of the whole training.
        size: M, the samples of the batch at hand.
        full_from: share of the epochs, 0 < full_from <= 1.

    Returns:
        float32 in [0.5, 1].
    """
    epoch, epochs, size, full_from = (ops.cast(value, "float32") for value in (epoch, epochs, size, full_from))
    full = full_from * epochs
    share = ops.sigmoid(ops.log(2.0 * size - 1.0) * epoch / full)
    return ops.where(epoch >= full, ops.ones_like(share), share)


def taking_part(size: Any, share: Any) -> Any:
    """m = round(M x share), float32; halves are rounded up, so that a lone sample is never left out."""
    return ops.floor(ops.cast(size, "float32") * share + 0.5)


def spl(losses: Any, epoch: Any, epochs: Any, full_from: Any = 0.5) -> Any:
    """Self-paced learning: 1 for the m samples of lowest loss, else 0; ties by index.

    Args:
        losses: (B,) float.
        epoch, epochs, full_from: as in `pace`.

    Returns:
        (B,) float32 of 0 and 1.
    """
    return _curriculum(losses, ops.zeros_like(losses), 1.0, epoch, epochs, full_from)


def ohem(losses: Any, epoch: Any, epochs: Any, full_from: Any = 0.5) -> Any:
    """Online hard example mining: as `spl`, for the m samples of highest loss."""
    return _curriculum(losses, ops.zeros_like(losses), -1.0, epoch, epochs, full_from)


def ohem_per_class(losses: Any, classes: Any, epoch: Any, epochs: Any, full_from: Any = 0.5) -> Any:
    """OHEM within each class of the batch, which the paper names as future work.

    Of a class with M_c samples in the batch the round(M_c x share) of highest loss take part, the share being the
    batch's (`pace` of M). Every class of the batch therefore keeps at least one sample, whatever the others' losses.

    Args:
        losses: (B,) float.
        classes: (B,) integer classes.
        epoch, epochs, full_from: as in `pace`.

    Returns:
        (B,) float32 of 0 and 1.
    """
    return _curriculum(losses, classes, -1.0, epoch, epochs, full_from)


def _curriculum(losses: Any, groups: Any, direction: Any, epoch: Any, epochs: Any, full_from: Any) -> Any:
    """1 for the samples that take part, within each group, by direction x loss from the lowest; else 0.

    All comparisons of pairs, (B, B) bools, instead of a sort: ties by index, and a loss that is not a number keeps
    weight 1, so that the loop sees it.
    """
    key = direction * ops.cast(losses, "float32")
    groups = ops.cast(groups, "int32")
    index = ops.arange(ops.shape(key)[0])
    tie = ops.logical_and(key[None, :] == key[:, None], index[None, :] < index[:, None])
    before = ops.logical_or(key[None, :] < key[:, None], tie)
    same = groups[None, :] == groups[:, None]
    rank = ops.sum(ops.cast(ops.logical_and(before, same), "float32"), axis=1)
    size = ops.sum(ops.cast(same, "float32"), axis=1)
    share = pace(epoch, epochs, ops.shape(key)[0], full_from)
    return ops.cast(rank < taking_part(size, share), "float32")


# === A strategy as data ===


@dataclass(frozen=True)
class Strategy:
    """One combination of loss and weights: any class weights with any curriculum and any gamma.

    Attributes:
        class_weights: "none", "cb" (equation 7), "es" (8).
        curriculum: "none", "spl", "ohem" (9), "ohem_per_class".
        gamma: of the focal loss (6); 0 is cross-entropy (5).
        full_from: share of the epochs from which on every sample takes part (section 3.3: the second half).
        scale: of the class weights. "cui": ES sums to the number of classes, as in Cui et al., whom the paper follows,
            and CB is as printed; "as_printed": both as equations 7 and 8 stand; "mean_one": both rescaled to mean 1
            over the training set's samples (not in the paper).

    Raises:
        InputError: a value outside its range.
    """

    class_weights: ClassWeights = "none"
    curriculum: Curriculum = "none"
    gamma: float = 0.0
    full_from: float = 0.5
    scale: Scale = "cui"

    def __post_init__(self) -> None:
        faults = []
        if self.class_weights not in get_args(ClassWeights):
            faults.append(f"class_weights is {self.class_weights!r}; known: {', '.join(get_args(ClassWeights))}")
        if self.curriculum not in get_args(Curriculum):
            faults.append(f"curriculum is {self.curriculum!r}; known: {', '.join(get_args(Curriculum))}")
        if self.scale not in get_args(Scale):
            faults.append(f"scale is {self.scale!r}; known: {', '.join(get_args(Scale))}")
        if not (math.isfinite(self.gamma) and self.gamma >= 0):
            faults.append(f"gamma is {self.gamma}, and must be 0 (cross-entropy) or more")
        if not 0 < self.full_from <= 1:
            faults.append(f"full_from is {self.full_from}, and must lie above 0 and at most at 1")
        if faults:
            raise InputError.of("weighting strategy:", faults)

    @property
    def name(self) -> str:
        """A name for tables and folders, for example "fl1-cb-ohem"; two different strategies never share one."""
        parts = ["cel" if self.gamma == 0 else f"fl{self.gamma:g}"]
        parts += [part for part in (self.class_weights, self.curriculum) if part != "none"]
        parts += [self.scale] if self.scale != "cui" else []
        parts += [f"from{self.full_from:g}"] if self.full_from != 0.5 else []
        return "-".join(parts)

    def weights_of_classes(self, counts: Any, names: Sequence[str] | None = None) -> np.ndarray:
        """The class weights, float32 (C,).

        Args:
            counts: (C,) images of each class in the training set.
            names: (C,) names of the classes, for the message.

        Raises:
            InputError: a class without a single training image, and class weights were asked for.
        """
        counts = np.asarray(counts)
        if self.class_weights == "none":
            return np.ones(len(counts), np.float32)
        if (counts <= 0).any():
            empty = [str(names[int(index)] if names else index) for index in np.flatnonzero(counts <= 0)]
            raise InputError(
                f"class weights {self.class_weights!r}: no training image of class {', '.join(empty)}; "
                "leave the class out, or split the data so that every class is in the training set"
            )
        weights = (class_balanced if self.class_weights == "cb" else effective_number)(counts)
        if self.scale == "mean_one":
            weights = mean_one(weights, counts)
        elif self.scale == "cui" and self.class_weights == "es":
            weights = sum_to_classes(weights)
        return np.asarray(ops.convert_to_numpy(weights))

    def mean_weight(self, counts: Any, epochs: int, batch: int) -> float:
        """Mean sample weight over the training: by it the gradient, and so the step of SGD, is smaller or larger.

        The class weights' mean over the training set times the share of a batch that takes part (equation 9, before
        rounding), averaged over epochs; with class weights and a curriculum the two are taken for independent.

        Args:
            counts: (C,) images of each class in the training set.
            epochs: of the training.
            batch: M, images a batch.
        """
        counts = np.asarray(counts, np.float64)
        mean = float(counts @ self.weights_of_classes(counts) / counts.sum())
        if self.curriculum == "none":
            return mean
        return mean * float(ops.mean(pace(np.arange(epochs), epochs, batch, self.full_from)))

    def tensors(self, classes: Any) -> dict[str, Any]:
        """The strategy as (B,) tensors for a batch whose samples have these classes (B,)."""
        classes = ops.cast(classes, "int32")
        direction = {"none": 0.0, "spl": 1.0, "ohem": -1.0, "ohem_per_class": -1.0}[self.curriculum]
        numbers = {
            "gamma": self.gamma,
            "direction": direction,
            "per_class": float(self.curriculum == "ohem_per_class"),
            "full_from": self.full_from,
        }
        size = ops.shape(classes)[0]
        return {"class": classes} | {name: ops.full((size,), value, "float32") for name, value in numbers.items()}


def curriculum(losses: Any, batch: Batch, progress: Progress) -> Any:
    """The curriculum's weights (B,), float32: the `weights_fn` of a `GradientStep` for batches with a strategy.

    One graph for all curricula: which one is chosen stands in the batch.
    """
    data = batch[STRATEGY]
    groups = data["class"] * ops.cast(data["per_class"], "int32")
    kept = _curriculum(losses, groups, data["direction"], progress.epoch, progress.epochs, data["full_from"])
    return ops.where(data["direction"] == 0, ops.ones_like(kept), kept)


def focal_loss(batch: Batch, outputs: Any) -> Any:
    """Equation 6 with the strategy's gamma: the `loss_fn` of a `GradientStep` for a model that gives logits (B, C)."""
    return categorical_focal(batch["y"], outputs, batch[STRATEGY]["gamma"])


def strategy_prior(strategy: Strategy, counts: Any) -> float:
    """The loss of the best constant answer (`prior_loss`) under a strategy's class weights, whatever the image.

    A curriculum's own weights do not enter. Of a hierarchy it is the loss of the leaf, exact for cross-entropy.

    Args:
        strategy: whose class weights and gamma.
        counts: (C,) images of each class in the training set.
    """
    return prior_loss(
        counts, strategy.weights_of_classes(counts), lambda y, logits: categorical_focal(y, logits, strategy.gamma)
    )


def _indices(batch: Batch) -> Any:
    y = ops.convert_to_tensor(batch["y"])
    return ops.argmax(y, axis=-1) if len(y.shape) == 2 else y


class StrategyBatches:
    """Batches with a strategy: "weight" (or `BLENDED`) times the class weight, and its tensors under `STRATEGY`.

    Args:
        batches: the batches without it.
        strategy: the strategy.
        counts: (C,) images of each class in the training set.
        names: (C,) names of the classes, for messages.
        classes: batch -> (B,) integer classes that the weights count (a hierarchy's leaves); default: "y", as indices
            or one-hot.

    Raises:
        InputError: as `Strategy.weights_of_classes`; later, a sample's class that `counts` does not have.
    """

    def __init__(
        self,
        batches: Batches,
        strategy: Strategy,
        counts: Any,
        names: Sequence[str] | None = None,
        classes: Callable[[Batch], Any] = _indices,
    ) -> None:
        self.batches, self.strategy, self.classes = batches, strategy, classes
        self.class_weights = strategy.weights_of_classes(counts, names)

    @property
    def steps_per_epoch(self) -> int:
        """Batches of one epoch."""
        return self.batches.steps_per_epoch

    def shared(self, share: Share) -> "StrategyBatches":
        """The same, of whose pictures one host reads its part (`training.hosts.shared_out`)."""
        part = copy.copy(self)
        part.batches = shared_out(self.batches, share)
        return part

    def from_step(self, step: int) -> Iterator[Batch]:
        """The batches from the global step `step` on."""
        for batch in self.batches.from_step(step):
            yield self._with_strategy(batch)

    def _with_strategy(self, batch: Batch) -> Batch:
        classes = np.asarray(ops.convert_to_numpy(self.classes(batch)), np.int64)
        if classes.min(initial=0) < 0 or classes.max(initial=0) >= len(self.class_weights):
            raise InputError(
                f"a sample's class is {classes.min()} or {classes.max()}, but the training set was counted for "
                f"classes 0 to {len(self.class_weights) - 1}"
            )
        name = BLENDED if BLENDED in batch else "weight"
        weight = ops.convert_to_tensor(self.class_weights[classes])
        if name in batch:
            weight = weight * ops.cast(batch[name], "float32")
        return {**batch, name: weight, STRATEGY: self.strategy.tensors(classes)}


class WeightLog:
    """A step that also writes each batch's weights: `folder/step_<global step>.csv`, one row a sample.

    Columns: id, class, loss, weight (of the sample's class, with any weight that the batch came with), curriculum (0
    or 1). The curriculum is computed again from the losses that the step returns, with the same function. One file a
    step, written atomically: a resumed training writes the same files again.

    Args:
        step: the step that trains, on batches with a strategy.
        folder: made if missing.
        every: global steps between two files.
    """

    def __init__(self, step: Step, folder: Path, every: int = 1) -> None:
        if every < 1:
            raise InputError(f"every: {every} is not a positive number of steps")
        self.step, self.folder, self.every = step, Path(folder), every

    def __call__(self, batch: Batch, progress: Progress) -> Mapping[str, Any]:
        """Train on the batch, then write its weights."""
        result = self.step(batch, progress)
        if int(progress.step) % self.every == 0:
            self._write(batch, progress, result["loss_per_sample"])
        return result

    def _write(self, batch: Batch, progress: Progress, losses: Any) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        ids = [bytes(name).decode() for name in np.asarray(batch["id"]).ravel()]
        columns = (batch[STRATEGY]["class"], losses, batch["weight"], curriculum(losses, batch, progress))
        rows = zip(ids, *(ops.convert_to_numpy(column).tolist() for column in columns), strict=True)
        path = self.folder / f"step_{int(progress.step):08d}.csv"
        with atomic(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(("id", "class", "loss", "weight", "curriculum"))
            writer.writerows(rows)
