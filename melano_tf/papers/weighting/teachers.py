"""Teachers of the best cell (--transfer.regular.distil): networks that were each trained without a part of its lesions,
whose mean answer it learns beside the labels, so that one network is served in the place of their average."""

from pathlib import Path

import numpy as np
import pandas as pd

from melano_tf.papers.shell import Work
from melano_tf.papers.weighting.best_cell_parts import MIRRORED, Part, answers, best_stem, part_of, trained
from melano_tf.papers.weighting.best_cell_training import training_of_best
from melano_tf.papers.weighting.cell_answers import answers_frame
from melano_tf.papers.weighting.models import sides_of
from melano_tf.papers.weighting.settings import WeightingSettings
from melano_tf.papers.weighting.trunk_transfer import transfer_of
from melano_tf.runs.predictions import probabilities
from melano_tf.runs.settings_digest import seed_for
from melano_tf.splits.folds import grouped_folds
from melano_tf.training.fit import Network, write_frame
from melano_tf.training.soft_targets import Taught


def teacher_name(fold: int, number: int) -> str:
    """Name of the step that trains a teacher of a fold's best cell; both from 1."""
    return f"train/{teacher_stem(fold, number)}"


def teacher_stem(fold: int, number: int) -> str:
    """As its files are called."""
    return f"{best_stem(fold)}-teacher-{number}"


def teacher_numbers(settings: WeightingSettings) -> range:
    """The teachers of a fold's best cell, from 1; none where it has none."""
    transfer = transfer_of(settings)
    return range(1, 1 + (transfer.teachers if transfer.regular.distil else 0))


def teachers_of(work: Work, fold: int | None) -> list[str]:
    """Stems of a best cell's teachers; None: of the model for use, which learns of the folds' best cells."""
    if fold is not None:
        return [teacher_stem(fold, number) for number in teacher_numbers(work.settings)]
    transfer = transfer_of(work.settings)
    return [best_stem(each) for each in transfer.folds_of_best()] if transfer.regular.distil else []


def train_teacher(work: Work, fold: int, number: int) -> list[Path]:
    """Train a teacher on a fold's training part without the part of that number, and ask it about all of them.

    Raises:
        InputError: a class has fewer training lesions than there are teachers.
    """
    part, cohort, seed, stem = part_of(work, fold), work.value("cohort"), work.settings.seed, teacher_stem(fold, number)
    rows, count = cohort.records.iloc[part.training], transfer_of(work.settings).teachers
    parts = grouped_folds(
        rows["group"].tolist(), rows["label"].tolist(), count, seed_for(seed, "teachers", best_stem(fold))
    )
    own = part.training[parts != number - 1]
    training = training_of_best(work, stem, seed_for(seed, stem), own, sides_of(work, own))
    network, files = trained(work, training)
    return [*files, write_taught(work, stem, part.training, network)]


def write_taught(work: Work, stem: str, places: np.ndarray, network: Network) -> Path:
    """Write what a teacher says of the images at these places, as the mean over mirror images."""
    said = answers(work, network, places)[MIRRORED]
    return write_frame(_file(work, stem), answers_frame(work.value("cohort"), places, said))


def taught_by(work: Work, fold: int | None, part: Part) -> Taught | None:
    """What the teachers say, on average, of those that train a fold's best cell; None: it has none."""
    names = work.value("cohort").names(part.training)
    said = [
        probabilities(pd.read_parquet(_file(work, stem)).set_index("image_id").loc[names].reset_index())
        for stem in teachers_of(work, fold)
    ]
    return Taught(np.mean(said, axis=0), transfer_of(work.settings).regular.distil) if said else None


def _file(work: Work, stem: str) -> Path:
    return work.path("teachers", f"{stem}.parquet")
