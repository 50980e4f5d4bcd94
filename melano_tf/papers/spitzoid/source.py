"""The source model: which tiles are tumour? (sections 4.1 and 5.2)"""

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd

from melano_tf.models.logits import logits_of
from melano_tf.models.seanet import build_source
from melano_tf.papers.checks import weights_key
from melano_tf.papers.spitzoid.cohort import Cohort
from melano_tf.papers.spitzoid.settings import Head, SourceSettings, SpitzoidSettings
from melano_tf.pipelines.tiles import TileBatches, predict_batches
from melano_tf.training.checkpoint import weights_sha256
from melano_tf.training.inference import predict
from melano_tf.training.loop import GradientStep, LoopSettings, Watch, train
from melano_tf.training.losses import categorical_crossentropy, prior_loss
from melano_tf.training.optimizers import make_optimizer
from melano_tf.training.progress import bar_over_epochs
from melano_tf.training.runtime import strategy
from melano_tf.workspace import Run, Sidecar, atomic, plain, seed_for

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
class Trained:
    """A finished model: the key of its step, its file, and its predictions, one row a tile or a biopsy."""

    key: str
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


def train_source(run: Run, settings: SpitzoidSettings, cohort: Cohort, which: SourceModel, fold: int | None) -> Trained:
    """Train one configuration on all training patients but those of one validation cohort, and predict every tile.

    Args:
        fold: the validation cohort left out (1, 2, …), or None: trained on all of them, for the test.

    Returns:
        The trained model; predictions have the columns slide_id, patient_id, tile, region, probability (of tumour).
    """
    # The refitted model's files have one name whatever its configuration, so they are one step.
    name = "source/final" if fold is None else f"source/{which.name}/{fold_name(fold)}"
    stem = "source" if fold is None else f"source-{which.name}-{fold_name(fold)}"
    model_path, table = run.path("models", f"{stem}.keras"), run.path("predictions", f"{stem}.parquet")
    learned = cohort.tiles[cohort.tiles["region"] >= 0]
    training = cohort.rows(learned, cohort.patients("train", fold))
    shown = cohort.tiles if fold is None else cohort.rows(cohort.tiles, cohort.training_patients())
    # Only what this model uses, so that another choice of chosen model, head or rival re-trains nothing.
    used = replace(
        settings.source,
        backbone=which.backbone,
        head=which.head,
        weights=initial_weights(settings, which),
        rival="",
        extra_backbones=(),
    )

    def work(scratch: Path) -> list[Path]:
        seed = seed_for(settings.seed, name)
        model = fit_source(run, settings, cohort, used, which, training, seed, scratch, stem)
        probability = predict(model, predict_batches(shown, cohort.folder, used.input_px, used.batch, cohort.images))[
            :, 1
        ]
        with atomic(table) as temporary:
            shown[["slide_id", "patient_id", "tile", "region"]].assign(probability=probability).to_parquet(temporary)
        with atomic(model_path) as temporary:
            model.save(temporary)
        sidecar = source_sidecar(run, settings, used.input_px, which, fold, weights_sha256(model)).write(model_path)
        return [model_path, sidecar, table, run.folder / "history" / f"{stem}.csv"]

    inputs = {
        "cohort": cohort.key,
        "patients": sorted(cohort.patients("train", fold)),
        "source": replace(used, weights=""),
        "weights": weights_key(which.backbone, used.weights),
        "seanet": which.seanet,
        "augment": settings.augment,
        "tumour_share": settings.grid.tumour_share,
        "seed": settings.seed,
    }
    key = run.step(name, {key: plain(value) for key, value in inputs.items()}, work)
    run.restate(name, model_path, lambda card: replace(card, threshold=settings.target.tile_threshold))
    return Trained(key, model_path, pd.read_parquet(table))


def fit_source(
    run: Run,
    settings: SpitzoidSettings,
    cohort: Cohort,
    used: SourceSettings,
    which: SourceModel,
    training: pd.DataFrame,
    seed: int,
    scratch: Path,
    stem: str,
) -> keras.Model:
    """Build and train one source model; a killed training goes on from its checkpoint in `scratch`."""
    keras.utils.set_random_seed(seed)
    devices = strategy(settings.mirror)
    with devices.scope() if devices else contextlib.nullcontext():
        model = build_source(
            used.backbone,
            used.input_px,
            seanet=which.seanet,
            head=used.head,
            weights=used.weights,
            freeze=used.freeze,
            dropout=used.dropout,
            seed=seed,
        )
        optimizer = make_optimizer(used.optimizer, used.learning_rate, used.momentum, epsilon=used.adam_epsilon)
    batches = TileBatches(
        training,
        cohort.folder,
        used.input_px,
        batch=used.batch,
        seed=seed,
        labels=training["region"].to_numpy(),
        instance_dropout=used.instance_dropout,
        augment=settings.augment,
        images=cohort.images,
    )
    step = GradientStep(logits_of(model), optimizer, region_loss, strategy=devices)
    shown = np.bincount(training["region"].to_numpy()[batches.order(0)], minlength=len(REGIONS))
    loop = LoopSettings(epochs=used.epochs, watch=Watch(stem, prior_loss(shown), run.say))
    with bar_over_epochs(stem, used.epochs, batches.steps_per_epoch) as progress:
        history = train(step, batches, loop, scratch, model, optimizer, progress=progress)
    history.write(run.path("history", f"{stem}.csv"))
    run.keep_logs(scratch, stem)
    return model


def region_loss(batch: Mapping[str, Any], outputs: Any) -> Any:
    """Cross-entropy of (non-tumour, tumour) for each tile: the BCE of section 5.2 on two classes' logits."""
    return categorical_crossentropy(batch["y"], outputs)


def source_sidecar(
    run: Run, settings: SpitzoidSettings, input_px: int, which: SourceModel, fold: int | None, weights: str
) -> Sidecar:
    """What predict needs to know of a source model."""
    return Sidecar(
        kind="spitzoid-source",
        classes=REGIONS,
        input_px=input_px,
        preprocessing=tile_preprocessing(settings),
        threshold=settings.target.tile_threshold,
        threshold_from="fixed beforehand (the paper gives none)",
        run={"configuration": which.name, "trained_on": fold_name(fold), "weights_sha256": weights} | provenance(run),
    )


def tile_preprocessing(settings: SpitzoidSettings) -> dict[str, Any]:
    """How the tiles of a slide were made, for whoever makes them again."""
    return {"grid": plain(settings.grid), "store": plain(settings.store), "colour": "RGB, 0 to 255"}


def provenance(run: Run) -> dict[str, Any]:
    """Recipe, preset and seed of the run that a model came from."""
    names = ("preset", "seed", "slides")
    return {"recipe": run.recipe, "folder": str(run.folder), **{name: run.settings[name] for name in names}}


def judged(trained: Trained, cohort: Cohort, fold: int | None) -> pd.DataFrame:
    """Predictions of the judged patients' tiles whose region is known."""
    rows = cohort.rows(trained.predictions, cohort.patients("judge", fold))
    return rows[rows["region"] >= 0].reset_index(drop=True)
