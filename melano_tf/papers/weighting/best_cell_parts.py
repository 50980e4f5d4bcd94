"""The parts of a best cell's training: whose images they are, the training itself, and what its network then says."""

import itertools
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from melano_tf.papers.shell import Work
from melano_tf.papers.weighting.cell_answers import with_metadata
from melano_tf.papers.weighting.cohort import split_name
from melano_tf.papers.weighting.trunk_transfer import transfer_of
from melano_tf.pipelines.image_batches import predict_image_batches
from melano_tf.pipelines.trunk_features import FLIPS, dihedral
from melano_tf.runs.settings_digest import seed_for
from melano_tf.splits.inner_holdout import inner_holdout
from melano_tf.training.batch_norm import estimate_statistics
from melano_tf.training.fed_cases import Noted, record_path, unnoted
from melano_tf.training.fit import Network, Training, optimise
from melano_tf.training.inference import predict
from melano_tf.training.optimizers import take_average

FINAL = "ham10000"  # stem of the model for use
AVERAGE_BATCHES = 100  # of which batch normalisation takes its statistics for a running mean of the weights
UPRIGHT, MIRRORED = "upright", "mirrored"


@dataclass(frozen=True)
class Part:
    """Who trains the best cell, and who judges it.

    Attributes:
        training, held, judged: places of the images that train it, that choose its decision, and that judge it.
        held_words: the lesions held out, in words.
        trained_on: the same of those that train it.
    """

    training: np.ndarray
    held: np.ndarray
    judged: np.ndarray
    held_words: str
    trained_on: str


def best_name(fold: int | None) -> str:
    """Name of the step that trains the best cell; None: on all images, for use."""
    return "model/final" if fold is None else f"train/best-fold-{fold}"


def best_stem(fold: int | None) -> str:
    """As its files are called."""
    return FINAL if fold is None else f"best-fold-{fold}"


def part_of(work: Work, fold: int | None) -> Part:
    """A fold's training part without the lesions held out; None: all images, nobody held out or judged."""
    settings, cohort = work.settings, work.value("cohort")
    if fold is None:
        none = np.zeros(0, np.int64)
        words = "the lesions held out for the folds' models"
        return Part(np.arange(len(cohort.records)), none, none, words, "all images")
    split = work.value(split_name(fold))
    rows = cohort.records.iloc[split.train]
    groups, seed = rows["group"].tolist(), seed_for(settings.seed, "hold-out", best_stem(fold))
    hold_out = inner_holdout(groups, rows["label"].tolist(), settings.splits.hold_out, seed)
    held, words = hold_out.mask(groups), hold_out.words("lesions")
    trained_on = f"all folds but {fold}, without {words}"
    return Part(split.train[~held], split.train[held], split.judge, words, trained_on)


def trained(work: Work, training: Training) -> tuple[Network, list[Path]]:
    """The trained network, with the running mean of its weights where that is asked for; and its history and record."""
    network, history = optimise(work.run, training, work.scratch)
    if take_average(network.optimizer, network.trained.trainable_variables):
        some = itertools.islice(training.batches.from_step(0), AVERAGE_BATCHES)
        estimate_statistics(network.trained, (batch["x"] for batch in some))
    work.run.keep_logs(work.scratch, training.stem)
    return network, [
        history.write(work.path("history", f"{training.stem}.csv")),
        record_path(work.run, training.stem),
    ]


def answers(work: Work, network: Network, places: np.ndarray, noted: Noted = unnoted) -> dict[str, np.ndarray]:
    """Probabilities (n, C) of upright images, and their mean over the images' mirror images.

    Args:
        work: the run.
        network: that is asked.
        places: of the images.
        noted: what their batches go through, for example `training.fed_cases.Fed.chose`.
    """
    settings, cohort = work.settings, work.value("cohort")
    px, batch = settings.network.input_px, settings.training.batch
    told = cohort.told(places) if transfer_of(settings).metadata else None
    shown = list(noted(predict_image_batches(cohort.cache, cohort.names(places), px, batch)))
    views = [
        predict(
            network.answer,
            ({"x": with_metadata(dihedral(one["x"], view), told, one["row"])} for one in shown),
        ).astype(np.float64)
        for view in FLIPS
    ]
    return {UPRIGHT: views[0], MIRRORED: np.mean(views, axis=0)}
