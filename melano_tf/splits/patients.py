"""Splits by patient: a test part and validation folds, stratified.

Section 5.1 of the spitzoid paper: 30 % of the patients test the models, the rest trains them with four validation
cohorts. A patient is the unit, never a slide or a tile, because slides of one patient look alike.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from melano_tf.errors import InputError


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
    strata = _strata(patients, labels)
    _check_enough(strata, positive, folds)
    rng = np.random.default_rng(seed)
    shuffled = [sorted(strata)[i] for i in rng.permutation(len(strata))]
    # Positive-only strata, then mixed ones, then negative-only: dealing in this order spreads every stratum, and also
    # "has a positive slide" and "has a negative slide" (each a contiguous run), evenly over the sides.
    ordered = sorted(shuffled, key=lambda patient: (_rank(strata[patient], positive), sorted(strata[patient])))
    test = _draw_test([strata[p] for p in ordered], positive, test_share, folds)
    rest = [patient for patient, chosen in zip(ordered, test, strict=True) if not chosen]
    dealt = [tuple(sorted(rest[start::folds])) for start in range(folds)]
    return Split(
        test=tuple(sorted(patient for patient, chosen in zip(ordered, test, strict=True) if chosen)),
        folds=tuple(dealt[i] for i in rng.permutation(folds)),
    )


def _strata(patients: Sequence[str], labels: Sequence[str]) -> dict[str, frozenset[str]]:
    """The set of labels of each patient's slides."""
    sets: dict[str, set[str]] = {}
    for patient, label in zip(patients, labels, strict=True):
        sets.setdefault(str(patient), set()).add(str(label))
    return {patient: frozenset(found) for patient, found in sets.items()}


def _has_positive(labels: frozenset[str], positive: str) -> bool:
    return positive in labels


def _has_negative(labels: frozenset[str], positive: str) -> bool:
    return bool(labels - {positive})


def _rank(labels: frozenset[str], positive: str) -> int:
    """0: only positive slides, 1: both, 2: only negative ones."""
    return 2 if not _has_positive(labels, positive) else int(_has_negative(labels, positive))


def _check_enough(strata: dict[str, frozenset[str]], positive: str, folds: int) -> None:
    needed = folds + 1
    faults = []
    for words, has in ((f"with a {positive!r} slide", _has_positive), ("with a slide of another label", _has_negative)):
        found = sum(has(labels, positive) for labels in strata.values())
        if found < needed:
            faults.append(f"{found} patient{'s' * (found != 1)} {words}; {needed} are needed")
    if faults:
        headline = (
            f"too few patients for a test part and {folds} validation cohorts, each with both classes "
            f"({len(strata)} patients in all); add patients, or ask for fewer folds:"
        )
        raise InputError.of(headline, faults)


def _draw_test(strata: Sequence[frozenset[str]], positive: str, share: float, folds: int) -> np.ndarray:
    """Which of the (already shuffled and ordered) patients test: largest remainders by stratum, then mended.

    Mending moves the fewest patients so that the test holds both classes and leaves `folds` patients of each class.
    """
    ranks = np.array([_rank(labels, positive) for labels in strata])
    stratum = np.unique(["|".join(sorted(labels)) for labels in strata], return_inverse=True)[1]
    sizes = np.bincount(stratum)
    quota = np.floor(sizes * share).astype(int)
    missing = round(share * len(strata)) - int(quota.sum())
    # Stable sort: equal remainders go to the first stratum by name.
    by_remainder = np.argsort(-(sizes * share - quota), kind="stable")
    quota[by_remainder[: max(missing, 0)]] += 1
    chosen = np.zeros(len(strata), bool)
    for index, count in enumerate(quota):
        chosen[np.flatnonzero(stratum == index)[:count]] = True
    classes = ((0, ranks <= 1), (2, ranks >= 1))  # (rank of the patients of that class only, who has the class)
    changed = True
    while changed:
        changed = False
        for pure, member in classes:
            # Patients of one class only are moved first: that leaves the other class's counts as they are.
            preferred = np.argsort(ranks != pure, kind="stable")
            if (member & ~chosen).sum() < folds:
                chosen[next(i for i in preferred if member[i] and chosen[i])] = False
                changed = True
            elif not (member & chosen).any():
                chosen[next(i for i in preferred if member[i] and not chosen[i])] = True
                changed = True
    return chosen
