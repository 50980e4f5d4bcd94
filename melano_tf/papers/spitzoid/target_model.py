"""The target model: is the biopsy malignant? (sections 4.2 and 5.3)"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd

from melano_tf.models.biopsy_classifier import build_target, split_target
from melano_tf.papers.alike_trainings import train
from melano_tf.papers.plan import Load
from melano_tf.papers.shell import Work
from melano_tf.papers.slide_steps import slide_groups
from melano_tf.papers.spitzoid.cohort import SpitzoidSlides
from melano_tf.papers.spitzoid.settings import Aggregation, SpitzoidSettings
from melano_tf.papers.spitzoid.source_model import (
    SourceTraining,
    chosen,
    fold_name,
    judged_part,
    learned_share,
    source_of,
    tile_preprocessing,
)
from melano_tf.papers.spitzoid.source_model import (
    build as build_untrained,
)
from melano_tf.pipelines.slide_bags import Bag, BagBatches, bag_chunks
from melano_tf.pipelines.tile_batches import shown_tiles
from melano_tf.pipelines.tumour_tile_selection import select_tumour_tiles
from melano_tf.runs.predictions import predictions, read_predictions
from melano_tf.runs.restated_models import restate
from melano_tf.runs.settings_digest import seed_for
from melano_tf.runs.sidecar import Sidecar
from melano_tf.splits.disjoint_sides import Sides
from melano_tf.training.exact_bags import BagPredictor, BagStep
from melano_tf.training.fit import Frames, Network, Training
from melano_tf.training.losses import binary_crossentropy, prior_loss
from melano_tf.training.optimizers import make_optimizer

DIAGNOSES = ("benign", "malignant")


def make_bags(cohort: SpitzoidSlides, selected: pd.DataFrame, patients: set[str]) -> list[Bag]:
    """One bag a slide of these patients, of the tiles that the source model selected, in the order of the manifest."""
    tiles = cohort.tiles.merge(selected[["slide_id", "tile"]], on=["slide_id", "tile"], how="inner")
    by_slide = dict(iter(tiles.groupby("slide_id", sort=False)))
    slides = cohort.rows(cohort.manifest, patients)
    return [
        Bag(row["slide_id"], row["patient_id"], int(row["malignant"]), by_slide[row["slide_id"]].reset_index(drop=True))
        for row in slides.to_dict("records")
    ]


def target_name(aggregation: Aggregation, fold: int | None) -> str:
    """Name of a training's step; the refitted model's files have one name whatever its configuration: one step."""
    return "target/final" if fold is None else f"target/{aggregation}/{fold_name(fold)}"


def target_stem(aggregation: Aggregation, fold: int | None) -> str:
    """As a training's files are called."""
    return "target" if fold is None else f"target-{aggregation}-{fold_name(fold)}"


def target_depends(settings: SpitzoidSettings, aggregation: Aggregation, fold: int | None) -> dict[str, Any]:
    """All that a training's result depends on, beside the split and the source model that it starts from."""
    used = replace(settings.target, aggregation=aggregation, chunk=0)
    return {"fold": fold, "target": used, "augment": settings.augment, "seed": settings.seed}


def train_target(work: Work, aggregation: Aggregation, fold: int | None) -> list[Path]:
    """Retrain the whole source model as a biopsy classifier (section 5.3), then judge the patients left out.

    It starts from the source model of the same validation cohort, which also selects the bags' tiles.

    Args:
        aggregation: how a bag's embeddings become one.
        fold: the validation cohort left out (1, 2, …), or None: trained on all of them, for the test.
    """
    settings, cohort = work.settings, work.value("split")
    used, stem = settings.target, target_stem(aggregation, fold)
    seed, source = seed_for(settings.seed, target_name(aggregation, fold)), source_of(work, chosen(settings), fold)
    selected = select_tumour_tiles(source.predictions, used.tile_threshold, used.fallback_tiles)
    bags = make_bags(cohort, selected, cohort.patients("train", fold))

    def judge(network: Network) -> tuple[Frames, Sidecar]:
        judged = make_bags(cohort, selected, cohort.patients("judge", fold))
        biopsies, attention = judge_bags(network.predictor, judged, cohort, settings.source.input_px, used.chunk)
        fallback = selected.groupby("slide_id")["fallback"].first()
        biopsies = biopsies.assign(
            case=biopsies["slide_id"],
            group=biopsies["patient_id"],
            part=judged_part(fold),
            target=biopsies["malignant"],
            fallback=biopsies["slide_id"].map(fallback),
        )
        rows, probability = biopsies.drop(columns="probability"), biopsies["probability"].to_numpy()
        table = predictions(rows, probability, threshold=settings.evaluation.threshold)
        frames = {f"{stem}.csv": table, f"{stem}-attention.parquet": attention}
        return frames, target_sidecar(settings, aggregation, source, fold)

    tiles = pd.concat([bag.tiles for bag in bags], ignore_index=True)
    groups, after = slide_groups(work), {source.model.stem: ""}  # from which it starts, and which selects the tiles
    training = Training(
        stem=stem,
        seed=seed,
        epochs=used.epochs,
        build=lambda: build(settings, aggregation, source, seed),
        batches=bag_batches(settings, cohort, bags, seed),
        sides=Sides(groups, cohort.slides("train", fold), judged=cohort.slides("judge", fold), after=after),
        step=lambda network, _: BagStep(
            *split_target(network.saved), network.optimizer, diagnosis_loss, chunk=used.chunk
        ),
        judge=judge,
        prior=prior_loss(np.bincount([bag.label for bag in bags], minlength=len(DIAGNOSES))),
        spread=False,
        alike=("target", aggregation),
        shown=shown_tiles(tiles, cohort.folder, settings.source.input_px, settings.source.batch, cohort.images),
    )
    return train(work, training)


def restate_target(work: Work, aggregation: Aggregation, fold: int | None) -> None:
    """The threshold on biopsies as it is set now, which the training does not depend on."""
    model = work.path("models", f"{target_stem(aggregation, fold)}.keras")
    threshold = work.settings.evaluation.threshold
    restate(work.run, target_name(aggregation, fold), model, lambda card: replace(card, threshold=threshold))


def target_of(work: Work, aggregation: Aggregation, fold: int | None) -> SourceTraining:
    """A finished model; predictions have one row a judged biopsy and add slide_id, patient_id, malignant, tiles,
    fallback. The tiles' attention lies beside (`attention_of`)."""
    stem = target_stem(aggregation, fold)
    model, table = work.path("models", f"{stem}.keras"), work.path("predictions", f"{stem}.csv")
    return work.once(target_name(aggregation, fold), lambda: SourceTraining(model, read_predictions(table)))


def attention_of(work: Work, aggregation: Aggregation, fold: int | None) -> pd.DataFrame:
    """Attention of each tile of the judged biopsies: slide_id, tile, attention."""
    return pd.read_parquet(work.path("predictions", f"{target_stem(aggregation, fold)}-attention.parquet"))


def build(settings: SpitzoidSettings, aggregation: Aggregation, source: SourceTraining, seed: int) -> Network:
    """A target model that starts from a trained source model, and its optimiser."""
    used = settings.target
    start = keras.saving.load_model(source.model)
    model = build_target(start, aggregation, attention_units=used.attention_units, seed=seed)
    return Network(model, optimizer_of(settings), model, predictor=BagPredictor(*split_target(model)))


def target_load(settings: SpitzoidSettings, aggregation: Aggregation, fold: int | None) -> Load:
    """What a training costs, of bags with as many tiles as are taken at most."""
    used, blank = settings.target, replace(settings, source=replace(settings.source, weights="none"))

    def untrained() -> Network:
        source = build_untrained(blank, chosen(settings), 0).saved
        model = build_target(source, aggregation, attention_units=used.attention_units, seed=0)
        return Network(model, optimizer_of(settings), model)

    def step(network: Network) -> BagStep:
        return BagStep(*split_target(network.saved), network.optimizer, diagnosis_loss, chunk=used.chunk)

    name, share = f"{chosen(settings).name}-{aggregation}", learned_share(settings, fold)
    return Load(name, untrained, used.epochs, 1, "slides", share, bag=used.max_tiles, held=used.chunk, step=step)


def optimizer_of(settings: SpitzoidSettings) -> keras.optimizers.Optimizer:
    """The target models' optimiser."""
    used = settings.target
    return make_optimizer(used.optimizer, used.learning_rate, used.momentum, epsilon=used.adam_epsilon)


def bag_batches(settings: SpitzoidSettings, cohort: SpitzoidSlides, bags: list[Bag], seed: int) -> BagBatches:
    """These bags, one slide a batch, augmented."""
    return BagBatches(
        bags,
        cohort.folder,
        settings.source.input_px,
        max_tiles=settings.target.max_tiles,
        seed=seed,
        augment=settings.augment,
        images=cohort.images,
    )


def diagnosis_loss(batch: Mapping[str, Any], outputs: Any) -> Any:
    """Binary cross-entropy of each biopsy (section 5.3)."""
    return binary_crossentropy(batch["y"], outputs["logit"][:, 0])


def judge_bags(
    predictor: BagPredictor, bags: list[Bag], cohort: SpitzoidSlides, input_px: int, chunk: int
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Probability of each biopsy from all its selected tiles, and the attention of each tile.

    Returns:
        (biopsies: slide_id, patient_id, malignant, probability, tiles; attention: slide_id, tile, attention).
    """
    biopsies, attentions = [], []
    for bag in bags:
        answer = predictor(bag_chunks(bag, cohort.folder, input_px, chunk, cohort.images))
        biopsies.append((bag.slide_id, bag.patient_id, bag.label, answer.probability, len(bag.tiles)))
        attentions.append(bag.tiles[["slide_id", "tile"]].assign(attention=np.asarray(answer.attention)))
    columns = ["slide_id", "patient_id", "malignant", "probability", "tiles"]
    return pd.DataFrame(biopsies, columns=columns), pd.concat(attentions, ignore_index=True)


def target_sidecar(
    settings: SpitzoidSettings, aggregation: Aggregation, source: SourceTraining, fold: int | None
) -> Sidecar:
    """What predict needs to know of a target model, and which source model selects its tiles."""
    return Sidecar(
        kind="spitzoid-target",
        classes=DIAGNOSES,
        input_px=settings.source.input_px,
        preprocessing=tile_preprocessing(settings) | {"fallback_tiles": settings.target.fallback_tiles},
        threshold=settings.evaluation.threshold,
        threshold_from="fixed beforehand (the paper gives none)",
        run={"aggregation": aggregation, "trained_on": fold_name(fold)},
        companions={"source": source.model.name},
        companion_weights={"source": Sidecar.read(source.model).run["weights_sha256"]},
    )
