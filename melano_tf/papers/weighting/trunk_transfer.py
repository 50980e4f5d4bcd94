"""The strategies on real images: one frozen trunk, whose features are kept on disk, and the same rest trained with
each (--preset ham10000)."""

import functools
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd
from tqdm import tqdm

from melano_tf.errors import InputError
from melano_tf.models.backbone_graphs import BackboneReport, build_backbone
from melano_tf.models.backbone_registry import check_backbone
from melano_tf.models.classifier_head import classify, logits_of
from melano_tf.models.frozen_trunk import Halves, split_at
from melano_tf.models.fused_batch_norm import FusedBatchNormalization, fuse_batch_norm
from melano_tf.models.tta_and_prior_shift import answering
from melano_tf.models.zoome_network import MetadataEmbedding
from melano_tf.papers.plan import Extent, Load
from melano_tf.papers.shell import Work
from melano_tf.papers.weighting.cell_answers import answers_frame
from melano_tf.papers.weighting.cohort import CODE, TABLES, split_name
from melano_tf.papers.weighting.loads import passes_in, without_weights
from melano_tf.papers.weighting.models import (
    decayed,
    fit_cell,
    gamma_of,
    rate_of,
    shared_network,
    sides_of,
)
from melano_tf.papers.weighting.settings import WeightingSettings
from melano_tf.papers.weighting.training_grid import Cell, cells_of
from melano_tf.papers.weighting.trunk_transfer_settings import TransferSettings
from melano_tf.pipelines.image_batches import shown_images
from melano_tf.pipelines.trunk_features import FLIPS, FeatureBatches, FeatureCache, cache_features, predict_features
from melano_tf.runs import journal
from melano_tf.runs.atomic_files import write_json
from melano_tf.runs.settings_digest import flat, plain, seed_for
from melano_tf.seeding import seeded
from melano_tf.training.checkpoint import weights_sha256
from melano_tf.training.fit import Network, Training, by_gradient
from melano_tf.training.inference import predict
from melano_tf.training.optimizers import make_optimizer
from melano_tf.training.sample_weights import StrategyBatches, curriculum, focal_loss, strategy_prior
from melano_tf.training.tensorflow_runtime import computing_in

FEATURES = "features"  # name of the step
NORM = FusedBatchNormalization.__name__  # how every network of the preset normalises
_NO_CBAM, _NO_TREE, _NO_SGD = "whose network has no CBAM", "which has no hierarchical network", "which trains with Adam"
# Settings of the paper's trainings, and why the preset has no use for them.
UNUSED = {
    "augment": "whose best cell has --transfer.augment, .brightness and .hue",
    "splits.count": "which has --transfer.folds",
    "splits.share": "which has --transfer.folds",
    "network.ratio": _NO_CBAM,
    "network.kernel": _NO_CBAM,
    "network.lstm_units": _NO_TREE,
    "network.embedding": _NO_TREE,
    "training.hierarchical_epochs": _NO_TREE,
    "training.sgd_rate": _NO_SGD,
    "training.momentum": _NO_SGD,
}


def transfer_of(settings: WeightingSettings) -> TransferSettings:
    """The settings of the preset, which its plan is made with."""
    assert settings.transfer is not None
    return settings.transfer


def build_halves(
    settings: WeightingSettings, cut: str, seed: int, classes: int, metadata: bool = False
) -> tuple[Halves, BackboneReport]:
    """The backbone with a dense softmax on the mean of its last map, frozen up to a layer.

    Args:
        cut: the last frozen layer.
        seed: of the initial weights.
        classes: of the softmax.
        metadata: its last map is weighted by ZooME's metadata embedding, of a second input "metadata".

    Raises:
        InputError: weights that do not fit, or no such layer.
    """
    chosen = settings.network
    picture, features, report = build_backbone(
        chosen.backbone, chosen.input_px, weights=chosen.weights, seed=seed, input_name="image"
    )
    picture, features = fuse_batch_norm(picture, features)
    inputs: Any = {"image": picture}
    if metadata:
        told = keras.Input((CODE.width,), name="metadata")
        inputs, features = [picture, told], MetadataEmbedding(name="metadata_embedding")([features, told])
    x = keras.layers.GlobalAveragePooling2D(name="mean")(features)
    x = keras.layers.Dropout(chosen.dropout, name="dropout")(x)
    x = classify(x, classes, "softmax", "classes")
    return split_at(keras.Model(inputs, x, name=chosen.backbone), cut), report


def check_cuts(settings: WeightingSettings) -> None:
    """The network can be cut where the settings say.

    Raises:
        InputError: there is no such network or layer, or another path leads around it.
    """
    check_backbone(settings.network.backbone, settings.network.weights, settings.network.input_px)
    without = without_weights(settings)
    for cut in (transfer_of(settings).cut, transfer_of(settings).best_cut):
        build_halves(without, cut, 0, 2, transfer_of(settings).metadata)


def check_used(settings: WeightingSettings) -> None:
    """No setting was changed that the preset has no use for.

    Raises:
        InputError: one was; all are named.
    """
    here, paper = flat(plain(settings)), flat(plain(WeightingSettings()))
    faults = [
        f"--{name.replace('_', '-')}: not with --preset ham10000, {why}"
        for beginning, why in UNUSED.items()
        for name in paper
        if (name == beginning or name.startswith(f"{beginning}.")) and here[name] != paper[name]
    ]
    if faults:
        raise InputError.of("settings that would change nothing:", faults)


def extent(settings: WeightingSettings) -> Extent:
    """How many images there are, and what they take on disk; of the preset also the features that its strategies train
    on. Raises InputError as `PaperTables.check`."""
    found = TABLES.extent(settings)
    if settings.transfer is None or not cells_of(settings, settings.chosen_tables()):
        return found
    halves, _ = build_halves(without_weights(settings), settings.transfer.cut, 0, 2)
    each = np.dtype(np.float16).itemsize * len(FLIPS) * math.prod(halves.trunk.outputs[0].shape[1:])
    return replace(found, disk={**found.disk, "features": found.counts["images"] * each})


def network_seed(settings: WeightingSettings) -> int:
    """Seed of the network's initial weights, the same for features and strategies."""
    return seed_for(settings.seed, "network", "flat")


def features_depend_on(settings: WeightingSettings) -> dict[str, Any]:
    """All that the kept features depend on, beside images and the content of the initial weights."""
    chosen, cut = settings.network, transfer_of(settings).cut
    return {"network": [chosen.backbone, NORM, chosen.input_px], "cut": cut, "views": FLIPS, "seed": settings.seed}


def strategy_depends_on(settings: WeightingSettings, cell: Cell) -> dict[str, Any]:
    """All that a strategy's training depends on, beside the features and its gamma."""
    training = settings.training
    return {
        "network": [settings.network.backbone, NORM, transfer_of(settings).cut, settings.network.dropout],
        "optimizer": ["adam", rate_of(settings, cell), training.adam_epsilon],
        "schedule": [training.flat_epochs, list(training.decay_at), training.decay],
        "strategy": cell.strategy(settings, settings.chosen_gamma() or 1.0),
        "batch": training.batch,
        "seed": settings.seed,
    }


def keep_features(work: Work) -> list[Path]:
    """Run the trunk over every image; what an earlier trunk left in the run's folder is removed."""
    kept, folder = features_of(work), work.run.folder / FEATURES
    table = work.path("features.json")
    write_json(table, {"shape": kept.shape, "views": kept.views, "shards": [path.name for path in kept.paths]})
    stand = {path.resolve() for path in kept.paths}
    for path in journal.recorded(folder):
        if path.suffix in (".npy", ".json") and path.with_suffix(".npy").resolve() not in stand:
            journal.remove(path)
    return [table]


def features_of(work: Work) -> FeatureCache:
    """The trunk's features of every image; what is not there yet, or no more, is made."""
    return work.alone("features", work.identity("cohort"), lambda: _features_of(work))


def _features_of(work: Work) -> FeatureCache:
    settings, cohort = work.settings, work.value("cohort")
    names = cohort.names(np.arange(len(cohort.records)))
    with seeded(network_seed(settings)), computing_in(settings.precision):
        halves, report = build_halves(settings, transfer_of(settings).cut, network_seed(settings), len(cohort.classes))
    if report.tensors_loaded:
        work.say(f"features: {report.tensors_loaded} tensors from {report.weights}")
    folder = (work.settings.cache or work.run.folder) / FEATURES
    digest = weights_sha256(halves.trunk)
    with tqdm(total=len(names), desc="features", unit="image", leave=False) as bar:
        found = cache_features(halves.trunk, digest, cohort.cache, names, folder, FLIPS, bar.update)
    work.say(f"features  {found.shape} of {len(names):,} images in {len(FLIPS)} views")
    return found


def train_strategy(work: Work, cell: Cell) -> list[Path]:
    """Train the rest with one strategy, and judge its fold: upright images alone."""
    settings, cohort, split = work.settings, work.value("cohort"), work.value(split_name(cell.split))
    kept, batch = features_of(work), settings.training.batch
    strategy, counts = cell.strategy(settings, gamma_of(work, cell)), cohort.counts(split.train)
    seed = seed_for(settings.seed, "batches", str(cell.split))  # the same for all strategies
    batches = FeatureBatches(kept, cohort.names(split.train), cohort.targets(split.train), batch, seed)
    sides = sides_of(work, split.train, judged=split.judge)
    training = Training(
        stem=cell.name,
        seed=network_seed(settings),
        epochs=settings.training.flat_epochs,
        build=functools.partial(build_strategy, settings, len(cohort.classes)),
        batches=StrategyBatches(batches, strategy, counts, cohort.classes),
        sides=sides,
        step=by_gradient(focal_loss, weights_fn=curriculum),
        prior=strategy_prior(strategy, counts),
        around=functools.partial(decayed, settings, cell),
        shown=shown_images(cohort.cache, cohort.names(split.train), settings.store.stored_px, batch),
    )
    shared = shared_network(work, cell, training)

    def ask() -> pd.DataFrame:
        shown = predict_features(kept, cohort.names(split.judge), 4 * batch)
        logits = predict(shared.network.forward, shown).astype(np.float64)
        found = np.exp(logits - logits.max(axis=1, keepdims=True))
        return answers_frame(cohort, split.judge, found / found.sum(axis=1, keepdims=True))

    return fit_cell(work, cell, training, shared, ask)


def strategy_load(settings: WeightingSettings, classes: int) -> Load:
    """What a strategy's training on features costs."""
    used, transfer = settings.training, transfer_of(settings)
    name = f"{settings.network.backbone} behind {transfer.cut}, on features"
    build = functools.partial(build_strategy, without_weights(settings), classes)
    share, passes = 1 - 1 / transfer.folds, passes_in(settings)
    return Load(name, build, used.flat_epochs, used.batch, "images", share, passes=passes)


def build_strategy(settings: WeightingSettings, classes: int) -> Network:
    """The rest as it is trained on features, and the whole network as it is saved: for squares of any size."""
    training = settings.training
    halves, _ = build_halves(settings, transfer_of(settings).cut, network_seed(settings), classes)
    optimizer = make_optimizer("adam", training.adam_rate, epsilon=training.adam_epsilon)
    return Network(logits_of(halves.rest), optimizer, answering(halves.whole, settings.store.stored_px, views=1))
