"""The source model: which tiles are tumour? (sections 4.1 and 5.2)"""

import functools
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from melano_tf.models.classifier_head import logits_of
from melano_tf.models.seanet import build_source
from melano_tf.papers.alike_trainings import train
from melano_tf.papers.plan import Load
from melano_tf.papers.shell import Work
from melano_tf.papers.slide_steps import slide_groups
from melano_tf.papers.spitzoid.cohort import SpitzoidSlides, check_regions
from melano_tf.papers.spitzoid.settings import Head, SourceSettings, SpitzoidSettings
from melano_tf.pipelines.tile_batches import TileBatches, predict_batches, shown_tiles
from melano_tf.runs.predictions import TEST, TRAINING, VALIDATION, predictions, read_predictions
from melano_tf.runs.restated_models import restate
from melano_tf.runs.settings_digest import plain, seed_for
from melano_tf.runs.sidecar import Sidecar
from melano_tf.splits.disjoint_sides import Sides
from melano_tf.training.fit import Frames, Network, Training, by_gradient
from melano_tf.training.inference import predict
from melano_tf.training.losses import categorical_crossentropy, prior_loss
from melano_tf.training.optimizers import make_optimizer

REGIONS = ("non-tumour", "tumour")


@dataclass(frozen=True)
class SourceModel:
    """One configuration of Tables 2 and 3."""

    backbone: str
    seanet: bool
    head: Head

    @property
    def name(self) -> str:
        """As files and tables call it, for example "seanet-vgg16-gmp"."""
        return f"{'seanet-' if self.seanet else ''}{self.backbone}-{self.head}"


@dataclass(frozen=True)
class SourceTraining:
    """A finished model: its file, and its predictions (`runs.predictions`), one row a tile or a biopsy."""

    model: Path
    predictions: pd.DataFrame


def chosen(settings: SpitzoidSettings) -> SourceModel:
    """The configuration that selects tiles and initialises the target model (section 5.2: SeaNet-VGG16 with GMP)."""
    return SourceModel(settings.source.backbone, True, settings.source.head)


def table_2(settings: SpitzoidSettings) -> list[SourceModel]:
    """The rows of Table 2: each backbone without and with SeaNet, GAP head."""
    names = (settings.source.backbone, settings.source.rival, *settings.source.extra_backbones)
    return [SourceModel(name, seanet, "gap") for name in names for seanet in (False, True)]


def table_3(settings: SpitzoidSettings) -> list[SourceModel]:
    """The rows of Table 3: SeaNet with the chosen backbone and each projection head."""
    heads: tuple[Head, ...] = ("mlp", "gmp", "gap")
    return [SourceModel(settings.source.backbone, True, head) for head in heads]


def initial_weights(settings: SpitzoidSettings, which: SourceModel) -> str:
    """Initial weights of a configuration; a path given is the chosen backbone's, the others then take ImageNet's."""
    weights = settings.source.weights
    of_all = which.backbone == settings.source.backbone or weights in ("imagenet", "none")
    return weights if of_all else "imagenet"


def fold_name(fold: int | None) -> str:
    """As files and steps call a validation cohort; None is the refit on all training patients."""
    return "all" if fold is None else f"cohort-{fold}"


def source_name(which: SourceModel, fold: int | None) -> str:
    """Name of a training's step; the refitted model's files have one name whatever its configuration: one step."""
    return "source/final" if fold is None else f"source/{which.name}/{fold_name(fold)}"


def source_stem(which: SourceModel, fold: int | None) -> str:
    """As a training's files are called."""
    return "source" if fold is None else f"source-{which.name}-{fold_name(fold)}"


def source_settings(settings: SpitzoidSettings, which: SourceModel) -> SourceSettings:
    """What one configuration uses, so that another choice of chosen model, head or rival re-trains nothing."""
    return replace(settings.source, backbone=which.backbone, head=which.head, weights="", rival="", extra_backbones=())


def source_depends(settings: SpitzoidSettings, which: SourceModel, fold: int | None) -> dict[str, Any]:
    """All that a training's result depends on, beside the split and the content of the initial weights."""
    return {
        "fold": fold,
        "source": source_settings(settings, which),
        "seanet": which.seanet,
        "augment": settings.augment,
        "tumour_share": settings.grid.tumour_share,
        "seed": settings.seed,
    }


def train_source(work: Work, which: SourceModel, fold: int | None) -> list[Path]:
    """Train one configuration on all training patients but those of one validation cohort, and predict every tile.

    Args:
        which: the configuration.
        fold: the validation cohort left out (1, 2, …), or None: trained on all of them, for the test.
    """
    settings, cohort = work.settings, work.value("split")
    check_regions(cohort)
    seed, stem = seed_for(settings.seed, source_name(which, fold)), source_stem(which, fold)
    learned = cohort.rows(cohort.tiles[cohort.tiles["region"] >= 0], cohort.patients("train", fold))
    batches = region_batches(settings, cohort, learned, seed)
    shown = learned["region"].to_numpy()[batches.order(0)]

    def judge(network: Network) -> tuple[Frames, Sidecar]:
        found = judge_tiles(settings, cohort, network, fold)
        return {f"{stem}.parquet": found}, source_sidecar(settings, which, fold)

    training = Training(
        stem=stem,
        seed=seed,
        epochs=settings.source.epochs,
        build=lambda: build(settings, which, seed),
        batches=batches,
        sides=Sides(slide_groups(work), cohort.slides("train", fold), judged=cohort.slides("judge", fold)),
        step=by_gradient(region_loss),
        judge=judge,
        prior=prior_loss(np.bincount(shown, minlength=len(REGIONS))),
        alike=("source", which),
        shown=shown_tiles(learned, cohort.folder, settings.source.input_px, settings.source.batch, cohort.images),
    )
    return train(work, training)


def judge_tiles(settings: SpitzoidSettings, cohort: SpitzoidSlides, network: Network, fold: int | None) -> pd.DataFrame:
    """Probability of tumour of every tile, also of those trained on; in the validation of those outside the test."""
    tiles = cohort.tiles if fold is None else cohort.rows(cohort.tiles, cohort.training_patients())
    batches = predict_batches(tiles, cohort.folder, settings.source.input_px, settings.source.batch, cohort.images)
    rows = tiles[["slide_id", "patient_id", "tile", "region"]]
    rows = rows.assign(
        case=tiles["slide_id"] + "/" + tiles["tile"].astype(str),
        group=tiles["patient_id"],
        part=np.where(tiles["patient_id"].isin(cohort.patients("judge", fold)), judged_part(fold), TRAINING),
        target=tiles["region"],
    )
    return predictions(rows, predict(network.answer, batches)[:, 1], threshold=settings.target.tile_threshold)


def judged_part(fold: int | None) -> str:
    """What the patients are who judge a training."""
    return TEST if fold is None else VALIDATION


def restate_source(work: Work, which: SourceModel, fold: int | None) -> None:
    """The threshold on tiles as it is set now, which the training does not depend on."""
    model = work.path("models", f"{source_stem(which, fold)}.keras")
    threshold = work.settings.target.tile_threshold
    restate(work.run, source_name(which, fold), model, lambda card: replace(card, threshold=threshold))


def source_of(work: Work, which: SourceModel, fold: int | None) -> SourceTraining:
    """A finished model; predictions add slide_id, patient_id, tile, region (1 tumour, 0 not, -1 unknown)."""
    stem = source_stem(which, fold)
    model, table = work.path("models", f"{stem}.keras"), work.path("predictions", f"{stem}.parquet")
    return work.once(source_name(which, fold), lambda: SourceTraining(model, read_predictions(table)))


def build(settings: SpitzoidSettings, which: SourceModel, seed: int) -> Network:
    """One source model with its initial weights, and its optimiser."""
    used = settings.source
    model = build_source(
        which.backbone,
        used.input_px,
        seanet=which.seanet,
        head=which.head,
        weights=initial_weights(settings, which),
        freeze=used.freeze,
        dropout=used.dropout,
        seed=seed,
    )
    optimizer = make_optimizer(used.optimizer, used.learning_rate, used.momentum, epsilon=used.adam_epsilon)
    return Network(logits_of(model), optimizer, model)


def learned_share(settings: SpitzoidSettings, fold: int | None) -> float:
    """Share of the patients that a training learns from."""
    return (1 - settings.split.test_share) * (1.0 if fold is None else 1 - 1 / settings.split.folds)


def source_load(settings: SpitzoidSettings, which: SourceModel, fold: int | None) -> Load:
    """What a training costs; of random weights, for nothing is fetched to know it."""
    used, blank = settings.source, replace(settings, source=replace(settings.source, weights="none"))
    share = learned_share(settings, fold)
    return Load(which.name, functools.partial(build, blank, which, 0), used.epochs, used.batch, "tiles", share)


def region_batches(
    settings: SpitzoidSettings, cohort: SpitzoidSlides, training: pd.DataFrame, seed: int
) -> TileBatches:
    """Batches of these tiles, whose region is known, with instance dropout and augmentation."""
    return TileBatches(
        training,
        cohort.folder,
        settings.source.input_px,
        batch=settings.source.batch,
        seed=seed,
        labels=training["region"].to_numpy(),
        instance_dropout=settings.source.instance_dropout,
        augment=settings.augment,
        images=cohort.images,
    )


def region_loss(batch: Mapping[str, Any], outputs: Any) -> Any:
    """Cross-entropy of (non-tumour, tumour) for each tile: the BCE of section 5.2 on two classes' logits."""
    return categorical_crossentropy(batch["y"], outputs)


def source_sidecar(settings: SpitzoidSettings, which: SourceModel, fold: int | None) -> Sidecar:
    """What predict needs to know of a source model."""
    return Sidecar(
        kind="spitzoid-source",
        classes=REGIONS,
        input_px=settings.source.input_px,
        preprocessing=tile_preprocessing(settings),
        threshold=settings.target.tile_threshold,
        threshold_from="fixed beforehand (the paper gives none)",
        run={"configuration": which.name, "trained_on": fold_name(fold)},
    )


def tile_preprocessing(settings: SpitzoidSettings) -> dict[str, Any]:
    """How the tiles of a slide were made, for whoever makes them again."""
    return {"grid": plain(settings.grid), "store": plain(settings.store), "colour": "RGB, 0 to 255"}


def judged(work: Work, which: SourceModel, fold: int | None) -> pd.DataFrame:
    """Predictions of the judged patients' tiles whose region is known."""
    cohort = work.value("split")
    rows = cohort.rows(source_of(work, which, fold).predictions, cohort.patients("judge", fold))
    return rows[rows["region"] >= 0].reset_index(drop=True)
