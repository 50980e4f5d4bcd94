"""The best cell on real images: most of a pretrained network trained by cross-entropy, and the imbalance taken out of
its decision (--preset ham10000)."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from melano_tf.evaluation.bootstrap import group_draws
from melano_tf.evaluation.calibration import Calibration, fit_calibration
from melano_tf.evaluation.multiclass_metrics import check_classes, counts_by_group, metrics_of_matrix
from melano_tf.models.tta_and_prior_shift import answering, prior_factors, shifted
from melano_tf.papers.shell import Work
from melano_tf.papers.weighting.best_cell_parts import (
    AVERAGE_BATCHES,
    MIRRORED,
    UPRIGHT,
    answers,
    best_name,
    best_stem,
    part_of,
    trained,
)
from melano_tf.papers.weighting.best_cell_training import training_of_best
from melano_tf.papers.weighting.cell_answers import answers_frame, image_sidecar
from melano_tf.papers.weighting.models import sides_of
from melano_tf.papers.weighting.settings import WeightingSettings
from melano_tf.papers.weighting.teachers import taught_by, teachers_of, write_taught
from melano_tf.papers.weighting.training_grid import strategy_named
from melano_tf.papers.weighting.trunk_transfer import NORM, transfer_of
from melano_tf.pipelines.image_batches import shown_images
from melano_tf.pipelines.trunk_features import FLIPS
from melano_tf.runs.atomic_files import atomic
from melano_tf.runs.settings_digest import seed_for
from melano_tf.runs.sidecar import Sidecar
from melano_tf.training.describe import describe
from melano_tf.training.fed_cases import Fed, record_choice
from melano_tf.training.fit import write_frame, write_judgement

POWER_DRAWS = 1000
POWERS = tuple(round(0.1 * step, 1) for step in range(11))
# What a decision may be in favour of, and the figures of merit whose sum it then makes largest.
FAVOURS = {"both": ("Acc", "BAcc"), "accuracy": ("Acc",), "balanced": ("BAcc",)}


@dataclass(frozen=True)
class BestTraining:
    """A finished best cell of one fold.

    Attributes:
        fold: from 1.
        factors: by which each class's probability is multiplied, by what the decision is in favour of, (C,) each.
        power: of the class shares, of the decision that the model has.
        calibrations: of what is said with each of the factors, fitted on the lesions held out.
        upright, mirrored: what it says of the fold's images before any shift, of one view and as the mean over mirror
            images; columns as `GridTraining.predictions`.
    """

    fold: int
    factors: Mapping[str, np.ndarray]
    power: float
    calibrations: Mapping[str, Calibration]
    upright: pd.DataFrame
    mirrored: pd.DataFrame


def best_depends_on(settings: WeightingSettings) -> dict[str, Any]:
    """All that the best cell depends on, beside images, fold, and the content of the initial weights."""
    transfer, training, chosen = transfer_of(settings), settings.training, settings.network
    return {
        "network": [chosen.backbone, NORM, chosen.input_px, chosen.dropout, transfer.best_cut],
        "stored_px": settings.store.stored_px,
        "optimizer": ["adam", transfer.best_rate, training.adam_epsilon],
        "epochs": transfer.best_epochs,
        "batch": training.batch,
        "metadata": transfer.metadata,
        "augment": [transfer.augment, transfer.brightness, transfer.hue],
        "regular": [AVERAGE_BATCHES, transfer.regular, strategy_named(transfer.regular.strategy, settings)],
        "teachers": transfer.teachers if transfer.regular.distil else None,
        "hold_out": settings.splits.hold_out,
        "powers": [POWERS, POWER_DRAWS],
        "seed": settings.seed,
    }


def train_best(work: Work, fold: int | None) -> list[Path]:
    """Train the best cell on a fold's training part, choose its decision on the lesions held out, and judge the fold.

    Args:
        fold: from 1; None: on all images, with the median of the powers that the folds' models chose.
    """
    stem, part, cohort = best_stem(fold), part_of(work, fold), work.value("cohort")
    after = dict.fromkeys(teachers_of(work, fold), "")
    sides, seed = sides_of(work, part.training, part.held, part.judged, after), seed_for(work.settings.seed, stem)
    network, files = trained(
        work, training_of_best(work, stem, seed, part.training, sides, taught_by(work, fold, part))
    )
    counts, px, frames = cohort.counts(part.training), work.settings.store.stored_px, {}
    if fold is None:
        powers, fitted = median_powers(work), median_calibrations(work)
    else:
        asked = answers(work, network, part.judged)
        choice = Fed(f"{stem}-decision", sides_of(work, part.training[:0], part.held, part.judged, {stem: ""}), None)
        held = answers(work, network, part.held, choice.chose)[MIRRORED]
        truth, lesions = cohort.targets(part.held), cohort.records["group"].to_numpy()[part.held].tolist()
        powers = best_powers(truth, held, counts, lesions)
        files += [write_unshifted(work, stem, kind, part.judged, found) for kind, found in asked.items()]
        files.append(write_unshifted(work, stem, "held-out", part.held, held))
        if transfer_of(work.settings).regular.distil:  # a teacher of the model for use
            files.append(write_taught(work, stem, np.arange(len(cohort.records)), network))
        files.append(record_choice(work.run, choice))
        said = shifted(asked[MIRRORED], prior_factors(counts, powers["both"]))  # as the saved model answers
        frames = {f"{stem}.parquet": answers_frame(cohort, part.judged, said)}
        fitted = {
            name: fit_calibration(truth, shifted(held, prior_factors(counts, power)), lesions, hold_out=part.held_words)
            for name, power in powers.items()
        }
    factors = {name: prior_factors(counts, power) for name, power in powers.items()}
    model = answering(network.saved, px, len(FLIPS), factors["both"].tolist())
    path = work.path("models", f"{stem}.keras")
    with atomic(path) as temporary:
        model.save(temporary)
    both = np.concatenate([part.training, part.held])
    shown = shown_images(cohort.cache, cohort.names(both), px, work.settings.training.batch)
    files += describe(work.run, Fed(stem, sides, work.scratch), model, shown)
    facts: dict[str, Any] = {"configuration": stem, "trained_on": part.trained_on, "views": len(FLIPS)}
    facts |= {"teachers": list(after)} if after else {}
    facts["tables"] = ["best", "cameras"]  # that measure it
    facts |= {"power": powers["both"], "power_from": part.held_words, "factors": factors["both"].tolist()}
    facts["operating_points"] = {
        name: {"power": powers[name], "factors": factors[name].tolist(), "calibration": fitted[name].to_json()}
        for name in FAVOURS
    }
    card = image_sidecar(work, facts, told=transfer_of(work.settings).metadata)
    card = replace(card, calibration=fitted["both"].to_json())
    return [path, *files, *write_judgement(work.run, stem, model, frames, card)]


def write_unshifted(work: Work, stem: str, kind: str, places: np.ndarray, found: np.ndarray) -> Path:
    """Write what the network says before its classes are shifted: of upright images, of mirrored ones, held out."""
    return write_frame(unshifted(work, stem, kind), answers_frame(work.value("cohort"), places, found))


def unshifted(work: Work, stem: str, kind: str) -> Path:
    """The file of `write_unshifted`."""
    return work.path("unshifted", f"{stem}-{kind}.parquet")


def best_powers(
    targets: np.ndarray, probabilities: np.ndarray, counts: np.ndarray, groups: Sequence[str]
) -> dict[str, float]:
    """For each of `FAVOURS` the power of the class shares that is best over resamples of the lesions held out.

    In each resample that power is best with which the figures of merit add up to most (ties: the smallest); the lower
    median of these is taken. The best one on the lesions as they are leaps with single lesions of rare classes.

    Args:
        targets: class indices of the images held out, (n,).
        probabilities: what is said of them, (n, C).
        counts: training images of each class, (C,).
        groups: the lesion of each image held out, (n,).
    """
    index, draws = group_draws(groups, POWER_DRAWS, 0)
    draws = np.concatenate([np.ones((1, draws.shape[1]), np.int64), draws])  # the lesions as they are, where they leap
    held, found = np.isin(np.arange(len(counts)), targets), []
    for power in POWERS:
        called = shifted(probabilities, prior_factors(counts, power))
        by_group = counts_by_group(*check_classes(targets, called), index, draws.shape[1])
        matrices = (draws @ by_group.reshape(len(by_group), -1)).reshape(len(draws), *by_group.shape[1:])
        found.append(metrics_of_matrix(matrices, held))
    chosen = {}
    for name, merits in FAVOURS.items():
        sums = np.round(sum(np.stack([one[merit] for one in found]) for merit in merits), 6)
        defined = sums[:, ~np.isnan(sums).any(axis=0)]  # a resample may lack a class
        chosen[name] = POWERS[statistics.median_low(np.argmax(defined, axis=0).tolist())]
    return chosen


def median_powers(work: Work) -> dict[str, float]:
    """The lower median over folds of the power of each operating point."""
    found = [_points(work, fold) for fold in transfer_of(work.settings).folds_of_best()]
    return {name: statistics.median_low([float(one[name]["power"]) for one in found]) for name in FAVOURS}


def median_calibrations(work: Work) -> dict[str, Calibration]:
    """Of each operating point the calibration of the fold whose temperature is the lower median."""
    points = [_points(work, fold) for fold in transfer_of(work.settings).folds_of_best()]
    found = {name: [Calibration.from_json(one[name]["calibration"]) for one in points] for name in FAVOURS}
    return {name: sorted(each, key=lambda one: one.temperature)[(len(each) - 1) // 2] for name, each in found.items()}


def _points(work: Work, fold: int) -> Mapping[str, Any]:
    card = Sidecar.read(work.path("models", f"{best_stem(fold)}.keras"))
    points: Mapping[str, Any] = card.run["operating_points"]
    return points


def trained_best(work: Work, fold: int) -> BestTraining:
    """A finished best cell of a fold and its predictions, from its files."""

    def read() -> BestTraining:
        points, stem = _points(work, fold), best_stem(fold)
        tables = [pd.read_parquet(unshifted(work, stem, kind)) for kind in (UPRIGHT, MIRRORED)]
        factors = {name: np.array(point["factors"]) for name, point in points.items()}
        calibrations = {name: Calibration.from_json(point["calibration"]) for name, point in points.items()}
        return BestTraining(fold, factors, float(points["both"]["power"]), calibrations, *tables)

    return work.once(best_name(fold), read)
