"""How the best cell of `--preset ham10000` is trained: its batches, its loss, its optimiser."""

import functools
from typing import Any

import keras
import numpy as np

from melano_tf.models.classifier_head import logits_of
from melano_tf.models.mixup_layer import mixing
from melano_tf.papers.plan import Load
from melano_tf.papers.shell import Work
from melano_tf.papers.weighting.cohort import WeightingImages
from melano_tf.papers.weighting.loads import passes_in, without_weights
from melano_tf.papers.weighting.settings import WeightingSettings
from melano_tf.papers.weighting.training_grid import strategy_named
from melano_tf.papers.weighting.trunk_transfer import build_halves, transfer_of
from melano_tf.papers.weighting.trunk_transfer_settings import TransferSettings
from melano_tf.phantoms.skin.other_cameras import drawn_change
from melano_tf.pipelines.augment import AugmentSettings
from melano_tf.pipelines.image_batches import ChangedBatches, ImageBatches, coloured
from melano_tf.pipelines.tile_batches import python_call
from melano_tf.splits.disjoint_sides import Sides
from melano_tf.training.fit import Network, Training, by_gradient
from melano_tf.training.loop import Batches
from melano_tf.training.optimizers import cosine_schedule, make_optimizer
from melano_tf.training.sample_weights import Strategy, StrategyBatches, curriculum
from melano_tf.training.soft_targets import (
    DeferredBatches,
    MixedBatches,
    Taught,
    TaughtBatches,
    log_shares,
    soft_focal_loss,
    soft_prior,
)


def training_of_best(
    work: Work, stem: str, seed: int, training: np.ndarray, sides: Sides, taught: Taught | None = None
) -> Training:
    """The best cell's training: cross-entropy, newly augmented images in every epoch, half a cosine.

    Args:
        work: the run.
        stem: of its files.
        seed: of weights, batches and all that is drawn for them.
        training: places of the images that train it.
        sides: who trains, is held out, and is judged.
        taught: what teachers say of those that train it.
    """
    settings, cohort = work.settings, work.value("cohort")
    transfer, counts = transfer_of(settings), cohort.counts(training)
    batches = batches_of(settings, cohort, training, seed, taught)
    steps = transfer.best_epochs * batches.steps_per_epoch
    regular, strategy = transfer.regular, strategy_named(transfer.regular.strategy, settings)
    trust = taught.trust if taught else 0.0
    loss = soft_focal_loss(regular.smoothing, log_shares(counts, regular.adjustment), trust)
    return Training(
        stem=stem,
        seed=seed,
        epochs=transfer.best_epochs,
        build=functools.partial(build_best, settings, seed, steps, len(cohort.classes)),
        batches=batches,
        sides=sides,
        step=by_gradient(loss, weights_fn=curriculum),
        prior=soft_prior(counts, strategy, regular.smoothing),
    )


def batches_of(
    settings: WeightingSettings, cohort: WeightingImages, places: np.ndarray, seed: int, taught: Taught | None = None
) -> Batches:
    """Its batches: cropped, turned, coloured; changed by cameras, taught, weighted and blended where that is asked
    for."""
    transfer, counts = transfer_of(settings), cohort.counts(places)
    regular, px, batch = transfer.regular, settings.network.input_px, settings.training.batch
    pictures = ImageBatches(
        cohort.cache,
        cohort.names(places),
        cohort.targets(places),
        px,
        batch,
        seed,
        metadata=cohort.told(places) if transfer.metadata else None,
        augment=transfer.augment,
    )
    changed = ChangedBatches(pictures, Changes(transfer))
    batches: Batches = StrategyBatches(changed, strategy_named(regular.strategy, settings), counts, cohort.classes)
    if at := round(regular.strategy_from * transfer.best_epochs * batches.steps_per_epoch):
        batches = DeferredBatches(StrategyBatches(changed, Strategy(), counts, cohort.classes), batches, at)
    if taught:
        batches = TaughtBatches(batches, taught.probabilities)
    return MixedBatches(batches, regular.mixup, seed) if regular.mixup else batches


class Changes:
    """What happens to the pixels of its pictures, for `ChangedBatches`."""

    def __init__(self, transfer: TransferSettings) -> None:
        self.share = transfer.regular.cameras
        self._colours = coloured(AugmentSettings(brightness=transfer.brightness, hue=transfer.hue))

    def __call__(self, images: Any, seeds: Any) -> Any:
        """Images uint8 (B, px, px, 3) -> the same shape; seeds int64 (B, 2)."""
        images = self._colours(images, seeds)
        if not self.share:
            return images
        shape, images = images.shape, python_call(self.by_cameras, [images, seeds], images.dtype)
        images.set_shape(shape)
        return images

    def by_cameras(self, images: np.ndarray, seeds: np.ndarray) -> np.ndarray:
        """The same in numpy, of cameras alone."""
        each = zip(images, seeds.tolist(), strict=True)
        return np.stack([drawn_change(picture, (CAMERAS, *seed), self.share) for picture, seed in each])


CAMERAS = 1  # before a picture's own seed: what is drawn here says nothing of its crop


def best_load(settings: WeightingSettings, fold: int | None, classes: int, part: float = 1.0) -> Load:
    """What the training of a fold's best cell costs; None: of that on all images; on a part of them alone."""
    transfer, batch = transfer_of(settings), settings.training.batch
    name = f"{settings.network.backbone} behind {transfer.best_cut}"
    build = functools.partial(build_best, without_weights(settings), 0, 1, classes)
    share = 1.0 if fold is None else (1 - 1 / transfer.folds) * (1 - settings.splits.hold_out)
    return Load(name, build, transfer.best_epochs, batch, "images", share * part, passes=passes_in(settings))


def build_best(settings: WeightingSettings, seed: int, steps: int, classes: int) -> Network:
    """The network, all of it behind the cut trained, and its optimiser."""
    transfer = transfer_of(settings)
    halves, report = build_halves(settings, transfer.best_cut, seed, classes, transfer.metadata)
    rate, averaging = cosine_schedule(transfer.best_rate, steps), transfer.regular.averaging
    optimizer = make_optimizer("adam", rate, epsilon=settings.training.adam_epsilon, averaging=averaging)
    said = f"{report.tensors_loaded} tensors from {report.weights}" if report.tensors_loaded else ""
    trained: keras.Model = logits_of(halves.whole)
    return Network(mixing(trained) if transfer.regular.mixup else trained, optimizer, halves.whole, said)
