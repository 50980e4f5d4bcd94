"""The target model: is the biopsy malignant? (sections 4.2 and 5.3)"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd

from melano_tf.models.mil import build_target, split_target
from melano_tf.papers.spitzoid.cohort import Cohort
from melano_tf.papers.spitzoid.settings import Aggregation, SpitzoidSettings, TargetSettings
from melano_tf.papers.spitzoid.source import Trained, fold_name, provenance, tile_preprocessing
from melano_tf.pipelines.bags import Bag, BagBatches, bag_chunks
from melano_tf.pipelines.selection import select_tumour_tiles
from melano_tf.training.bags import BagPredictor, BagStep
from melano_tf.training.checkpoint import weights_sha256
from melano_tf.training.loop import LoopSettings, Watch, train
from melano_tf.training.losses import binary_crossentropy, prior_loss
from melano_tf.training.optimizers import make_optimizer
from melano_tf.training.progress import bar_over_epochs
from melano_tf.workspace import Run, Sidecar, atomic, plain, seed_for

DIAGNOSES = ("benign", "malignant")


def make_bags(cohort: Cohort, selected: pd.DataFrame, patients: set[str]) -> list[Bag]:
    """One bag a slide of these patients, of the tiles that the source model selected, in the order of the manifest."""
    tiles = cohort.tiles.merge(selected[["slide_id", "tile"]], on=["slide_id", "tile"], how="inner")
    by_slide = dict(iter(tiles.groupby("slide_id", sort=False)))
    slides = cohort.rows(cohort.manifest, patients)
    return [
        Bag(row["slide_id"], row["patient_id"], int(row["malignant"]), by_slide[row["slide_id"]].reset_index(drop=True))
        for row in slides.to_dict("records")
    ]


def train_target(
    run: Run, settings: SpitzoidSettings, cohort: Cohort, source: Trained, aggregation: Aggregation, fold: int | None
) -> Trained:
    """Retrain the whole source model as a biopsy classifier (section 5.3), then judge the patients left out.

    Returns:
        The trained model; predictions have one row a judged biopsy: slide_id, patient_id, malignant, probability,
        tiles, fallback. The tiles' attention lies beside, as `…-attention.parquet`.
    """
    # The refitted model's files have one name whatever its configuration, so they are one step.
    name = "target/final" if fold is None else f"target/{aggregation}/{fold_name(fold)}"
    stem = "target" if fold is None else f"target-{aggregation}-{fold_name(fold)}"
    model_path, table = run.path("models", f"{stem}.keras"), run.path("predictions", f"{stem}.csv")
    attention_path = run.path("predictions", f"{stem}-attention.parquet")
    used = replace(settings.target, aggregation=aggregation)
    selected = select_tumour_tiles(source.predictions, used.tile_threshold, used.fallback_tiles)

    def work(scratch: Path) -> list[Path]:
        bags = make_bags(cohort, selected, cohort.patients("train", fold))
        model = fit_target(run, settings, cohort, used, source, bags, seed_for(settings.seed, name), scratch, stem)
        judged = make_bags(cohort, selected, cohort.patients("judge", fold))
        biopsies, attention = judge_bags(model, judged, cohort, settings.source.input_px, used.chunk)
        fallback = selected.groupby("slide_id")["fallback"].first()
        with atomic(table) as temporary:
            biopsies.assign(fallback=biopsies["slide_id"].map(fallback)).to_csv(temporary, index=False)
        with atomic(attention_path) as temporary:
            attention.to_parquet(temporary)
        with atomic(model_path) as temporary:
            model.save(temporary)
        sidecar = target_sidecar(run, settings, used, source, fold, weights_sha256(model)).write(model_path)
        return [model_path, sidecar, table, attention_path, run.folder / "history" / f"{stem}.csv"]

    inputs = {
        "source": source.key,
        "patients": sorted(cohort.patients("train", fold)),
        "judged": sorted(cohort.patients("judge", fold)),
        "target": replace(used, chunk=0),
        "augment": settings.augment,
        "seed": settings.seed,
    }
    key = run.step(name, {key: plain(value) for key, value in inputs.items()}, work)
    run.restate(name, model_path, lambda card: replace(card, threshold=settings.evaluation.threshold))
    types = {"slide_id": str, "patient_id": str}
    return Trained(key, model_path, pd.read_csv(table, dtype=types))


def fit_target(
    run: Run,
    settings: SpitzoidSettings,
    cohort: Cohort,
    used: TargetSettings,
    source: Trained,
    bags: list[Bag],
    seed: int,
    scratch: Path,
    stem: str,
) -> keras.Model:
    """Build a target model from a trained source model and train all of it, one slide a batch."""
    keras.utils.set_random_seed(seed)
    model = build_target(
        keras.saving.load_model(source.model), used.aggregation, attention_units=used.attention_units, seed=seed
    )
    optimizer = make_optimizer(used.optimizer, used.learning_rate, used.momentum, epsilon=used.adam_epsilon)
    batches = BagBatches(
        bags,
        cohort.folder,
        settings.source.input_px,
        max_tiles=used.max_tiles,
        seed=seed,
        augment=settings.augment,
        images=cohort.images,
    )
    step = BagStep(*split_target(model), optimizer, diagnosis_loss, chunk=used.chunk)
    prior = prior_loss(np.bincount([bag.label for bag in bags], minlength=len(DIAGNOSES)))
    loop = LoopSettings(epochs=used.epochs, watch=Watch(stem, prior, run.say))
    with bar_over_epochs(stem, used.epochs, batches.steps_per_epoch) as progress:
        history = train(step, batches, loop, scratch, model, optimizer, progress=progress)
    history.write(run.path("history", f"{stem}.csv"))
    run.keep_logs(scratch, stem)
    return model


def diagnosis_loss(batch: Mapping[str, Any], outputs: Any) -> Any:
    """Binary cross-entropy of each biopsy (section 5.3)."""
    return binary_crossentropy(batch["y"], outputs["logit"][:, 0])


def judge_bags(
    model: keras.Model, bags: list[Bag], cohort: Cohort, input_px: int, chunk: int
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Probability of each biopsy from all its selected tiles, and the attention of each tile.

    Returns:
        (biopsies: slide_id, patient_id, malignant, probability, tiles; attention: slide_id, tile, attention).
    """
    predictor = BagPredictor(*split_target(model))
    biopsies, attentions = [], []
    for bag in bags:
        answer = predictor(bag_chunks(bag, cohort.folder, input_px, chunk, cohort.images))
        biopsies.append((bag.slide_id, bag.patient_id, bag.label, answer.probability, len(bag.tiles)))
        attentions.append(bag.tiles[["slide_id", "tile"]].assign(attention=np.asarray(answer.attention)))
    columns = ["slide_id", "patient_id", "malignant", "probability", "tiles"]
    return pd.DataFrame(biopsies, columns=columns), pd.concat(attentions, ignore_index=True)


def target_sidecar(
    run: Run, settings: SpitzoidSettings, used: TargetSettings, source: Trained, fold: int | None, weights: str
) -> Sidecar:
    """What predict needs to know of a target model, and which source model selects its tiles."""
    return Sidecar(
        kind="spitzoid-target",
        classes=DIAGNOSES,
        input_px=settings.source.input_px,
        preprocessing=tile_preprocessing(settings) | {"fallback_tiles": used.fallback_tiles},
        threshold=settings.evaluation.threshold,
        threshold_from="fixed beforehand (the paper gives none)",
        run={"aggregation": used.aggregation, "trained_on": fold_name(fold), "weights_sha256": weights}
        | provenance(run),
        companions={"source": source.model.name},
    )
