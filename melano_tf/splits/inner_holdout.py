"""The inner hold-out: some training patients set aside for calibration, threshold and early stopping.

It is drawn inside the training part of a cohort, so that the cohort's own validation part, which the tables report, has
no say in any choice. A patient is the unit, as in `melano_tf.splits`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from melano_tf.errors import InputError
from melano_tf.splits.stratification import class_counts, mend, share_of_units, short_classes


@dataclass(frozen=True)
class HoldOut:
    """Who trains and who is held out: identifiers of patients (or lesions), each tuple sorted.

    Attributes:
        training: they train the model.
        held_out: the model never trains on them.
        share: that was asked for.
        seed: of the draw.
    """

    training: tuple[str, ...]
    held_out: tuple[str, ...]
    share: float
    seed: int

    def mask(self, patients: Sequence[str]) -> NDArray[np.bool_]:
        """Which rows are held out, (n,), by the patient of each row.

        Raises:
            ValueError: a patient is on neither side.
        """
        rows = np.asarray(patients, dtype=str)
        if unknown := sorted(set(rows.tolist()) - set(self.training) - set(self.held_out)):
            raise ValueError(f"patients on neither side of the hold-out: {', '.join(unknown[:10])}")
        return np.isin(rows, self.held_out)

    def words(self, unit: str = "patients") -> str:
        """The hold-out in words, for the records of what was fitted on it."""
        return (
            f"an inner hold-out of {len(self.held_out)} of {len(self.training) + len(self.held_out)} training {unit} "
            f"(share {self.share:g}, seed {self.seed})"
        )


def inner_holdout(
    patients: Sequence[str],
    labels: Sequence[str],
    share: float = 0.2,
    seed: int = 0,
    positive: str | None = None,
) -> HoldOut:
    """Draw a hold-out by patient, stratified by each patient's set of classes, every class on both sides.

    The order of the rows does not matter. Strata keep their share as nearly as whole patients allow (largest
    remainders); then the fewest patients are moved so that both sides hold every class.

    Args:
        patients: patient (or lesion) of each row, (n,).
        labels: label of each row, (n,).
        share: share of patients to hold out, 0 < share < 1.
        seed: of the draw.
        positive: the label of the positive class, all others being negative; None: each label is a class.

    Raises:
        InputError: a class has fewer than two patients, there are fewer than two classes, or patients with several
            classes leave no way to have them all on both sides; the message names the classes.
    """
    if len(patients) != len(labels):
        raise ValueError(f"{len(patients)} patients but {len(labels)} labels: one of each a row")
    if not 0 < share < 1:
        raise InputError(f"the hold-out's share {share} must lie between 0 and 1")
    if positive is not None:
        labels = [positive if label == positive else f"not {positive}" for label in labels]
    _check_enough(patients, labels, positive)
    units, classes, counts = class_counts(patients, labels)
    order = np.random.default_rng(seed).permutation(len(units))
    units, holds = units[order], counts[order] > 0

    def short(held_out: NDArray[np.bool_]) -> NDArray[np.bool_]:
        return np.stack([~holds[~held_out].any(axis=0), ~holds[held_out].any(axis=0)])

    stratum = np.unique(holds, axis=0, return_inverse=True)[1].reshape(-1)
    held_out, _ = mend(share_of_units(stratum, share), holds, short)
    if (lacking := short(held_out)).any():
        raise InputError(
            f"no inner hold-out found with every class on both sides ({', '.join(classes[lacking.any(axis=0)])} is "
            "missing from one): too few patients have these classes, or they have several at once; add patients"
        )
    training, out = (tuple(sorted(units[side].tolist())) for side in (~held_out, held_out))
    return HoldOut(training, out, share, seed)


def _check_enough(patients: Sequence[str], labels: Sequence[str], positive: str | None) -> None:
    few = short_classes(patients, labels, 2)
    if positive is not None:  # a class that nobody has
        few = {name: few.get(name, 0) for name in (positive, f"not {positive}") if name in few or name not in labels}
    faults = [f"{count} patient{'s' * (count != 1)} of class {name!r}; 2 are needed" for name, count in few.items()]
    if positive is None and len(set(labels)) < 2:
        faults.append(f"{len(set(labels))} class{'es' * (len(set(labels)) != 1)}; 2 are needed")
    if faults:
        raise InputError.of("too few patients for an inner hold-out that holds every class on both sides:", faults)
