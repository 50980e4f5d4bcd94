"""Splits by patient: a test part and validation folds, stratified.

Section 5.1 of the spitzoid paper: 30 % of the patients test the models, the rest trains them with four validation
cohorts. A patient is the unit, never a slide or a tile, because slides of one patient look alike.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from melano_tf.errors import InputError
from melano_tf.splits.stratification import class_counts, mend, share_of_units


@dataclass(frozen=True)
class Split:
    """Who tests and who validates: patient identifiers, each tuple sorted.

    Attributes:
        test: patients of the test part; no training and no choice ever sees them.
        folds: for each validation cohort, its validation patients. Every patient outside the test is in one of them.
    """

    test: tuple[str, ...]
    folds: tuple[tuple[str, ...], ...]

    @property
    def development(self) -> tuple[str, ...]:
        """All patients outside the test, sorted: the final models are refitted on them."""
        return tuple(sorted(patient for fold in self.folds for patient in fold))

    def training(self, fold: int) -> tuple[str, ...]:
        """Training patients of validation cohort `fold` (0-based): those of the other cohorts, sorted."""
        if not 0 <= fold < len(self.folds):
            raise IndexError(f"fold {fold}: there are {len(self.folds)}, counted from 0")
        return tuple(sorted(p for other, members in enumerate(self.folds) if other != fold for p in members))


def split_patients(
    patients: Sequence[str],
    labels: Sequence[str],
    *,
    positive: str,
    test_share: float = 0.3,
    folds: int = 4,
    seed: int = 0,
) -> Split:
    """Draw a test part and validation cohorts by patient, stratified by each patient's set of labels.

    The order of the slides does not matter: the same patients, labels and seed give the same split. Strata keep their
    share on every side as nearly as whole patients allow, and both classes ("positive" and the rest; a patient with
    slides of both counts for both) are on every side: in the test, and in each cohort's validation and training part.
    scikit-learn's splitters refuse small strata and promise no class to the test, which is why they are not used.

    Args:
        patients: patient of each slide, (n,).
        labels: label of each slide, (n,).
        positive: the label that counts as the positive class; every other one is negative.
        test_share: share of patients in the test part, 0 < share < 1.
        folds: number of validation cohorts, at least 2.
        seed: of the draw.

    Raises:
        InputError: too few patients of a class; the message says how many are needed.
    """
    if len(patients) != len(labels):
        raise ValueError(f"{len(patients)} patients but {len(labels)} labels: one of each a slide")
    if not 0 < test_share < 1 or folds < 2:
        raise InputError(f"test share {test_share} must lie between 0 and 1, and folds {folds} be at least 2")
    units, classes, counts = class_counts(patients, labels)
    is_positive = classes == positive
    holds = np.stack([counts[:, is_positive].any(axis=1), counts[:, ~is_positive].any(axis=1)], axis=1)
    _check_enough(holds, positive, folds)
    rng = np.random.default_rng(seed)
    # Positive-only strata, then mixed ones, then negative-only: dealing in this order spreads every stratum, and also
    # "has a positive slide" and "has a negative slide" (each a contiguous run), evenly over the sides.
    named = [[str(name) for name in classes[own]] for own in counts > 0]
    order = sorted(rng.permutation(len(units)), key=lambda unit: (*~holds[unit, :1], *holds[unit, 1:], named[unit]))
    units, holds = units[order], holds[order]
    stratum = np.unique(["|".join(named[unit]) for unit in order], return_inverse=True)[1]

    def short(test: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """A fold of the rest needs a patient of each class, the test one."""
        return np.stack([holds[~test].sum(axis=0) < folds, ~holds[test].any(axis=0)])

    # Patients of one class are moved before those of both: that leaves the other class's counts as they are. With
    # folds + 1 patients of each class it always ends well: a side that lacks a class is given one who has it, and only
    # the move of one with both classes can leave the rest short of the other, of which the test then has one to spare.
    drawn = share_of_units(stratum, test_share)
    test, _ = mend(drawn, holds, short, price=lambda unit: (int(holds[unit].sum()),), in_turn=True)
    rest = units[~test]
    dealt = [tuple(sorted(rest[start::folds].tolist())) for start in range(folds)]
    return Split(
        test=tuple(sorted(units[test].tolist())),
        folds=tuple(dealt[i] for i in rng.permutation(folds)),
    )


def _check_enough(holds: NDArray[np.bool_], positive: str, folds: int) -> None:
    needed = folds + 1
    faults = [
        f"{found} patient{'s' * (found != 1)} {words}; {needed} are needed"
        for words, found in zip(
            (f"with a {positive!r} slide", "with a slide of another label"), holds.sum(axis=0).tolist(), strict=True
        )
        if found < needed
    ]
    if faults:
        headline = (
            f"too few patients for a test part and {folds} validation cohorts, each with both classes "
            f"({len(holds)} patients in all); add patients, or ask for fewer folds:"
        )
        raise InputError.of(headline, faults)
