"""The inner hold-out: some training patients set aside for calibration, threshold and early stopping.

It is drawn inside the training part of a cohort, so that the cohort's own validation part, which the tables report, has
no say in any choice. A patient is the unit, as in `melano_tf.splits`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from melano_tf.errors import InputError


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
    held = _classes(patients, labels, positive)
    names = sorted({name for found in held.values() for name in found})
    _check_enough(held, names, positive)
    rng = np.random.default_rng(seed)
    ordered = [sorted(held)[i] for i in rng.permutation(len(held))]
    member = np.array([[name in held[patient] for name in names] for patient in ordered])
    chosen = _mend(member, _draw(member, share), names)
    return HoldOut(
        training=tuple(sorted(p for p, out in zip(ordered, chosen, strict=True) if not out)),
        held_out=tuple(sorted(p for p, out in zip(ordered, chosen, strict=True) if out)),
        share=share,
        seed=seed,
    )


def _classes(patients: Sequence[str], labels: Sequence[str], positive: str | None) -> dict[str, set[str]]:
    """The classes of each patient's rows."""
    held: dict[str, set[str]] = {}
    for patient, label in zip(patients, labels, strict=True):
        name = str(label) if positive is None or label == positive else f"not {positive}"
        held.setdefault(str(patient), set()).add(name)
    return held


def _check_enough(held: dict[str, set[str]], names: Sequence[str], positive: str | None) -> None:
    count = {name: sum(name in found for found in held.values()) for name in names}
    wanted = names if positive is None else [positive, f"not {positive}"]
    faults = [
        f"{count.get(name, 0)} patient{'s' * (count.get(name, 0) != 1)} of class {name!r}; 2 are needed"
        for name in wanted
        if count.get(name, 0) < 2
    ]
    if positive is None and len(names) < 2:
        faults.append(f"{len(names)} class{'es' * (len(names) != 1)}; 2 are needed")
    if faults:
        raise InputError.of("too few patients for an inner hold-out that holds every class on both sides:", faults)


def _draw(member: NDArray[np.bool_], share: float) -> NDArray[np.bool_]:
    """Which of the shuffled patients are held out, (patients,), by largest remainders of strata.

    Args:
        member: which classes each patient has, (patients, classes).
        share: to hold out.
    """
    stratum = np.unique(member, axis=0, return_inverse=True)[1].reshape(-1)
    sizes = np.bincount(stratum)
    quota = np.floor(sizes * share).astype(int)
    missing = round(share * len(member)) - int(quota.sum())
    # Stable sort: of equal remainders the first stratum gets the patient.
    by_remainder = np.argsort(quota - sizes * share, kind="stable")
    quota[by_remainder[: max(missing, 0)]] += 1
    chosen = np.zeros(len(member), bool)
    for index, count in enumerate(quota):
        chosen[np.flatnonzero(stratum == index)[:count]] = True
    return chosen


def _mend(member: NDArray[np.bool_], chosen: NDArray[np.bool_], names: Sequence[str]) -> NDArray[np.bool_]:
    """Move patients until both sides hold every class.

    Of the patients who have the missing class, the one is moved whose going leaves the fewest classes missing, then
    the one with the fewest classes.
    """

    def lacking(sides: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Which classes are missing, (2, classes): of the training side, of the held-out side."""
        return np.stack([~member[~sides].any(axis=0), ~member[sides].any(axis=0)])

    def after(moved: int) -> tuple[int, int]:
        sides = chosen.copy()
        sides[moved] = not sides[moved]
        return int(lacking(sides).sum()), int(member[moved].sum())

    chosen, seen = chosen.copy(), set()
    while (missing := lacking(chosen)).any() and chosen.tobytes() not in seen:
        seen.add(chosen.tobytes())
        side, name = np.argwhere(missing)[0]
        # A class that the training side (0) lacks is held by held-out patients only, and the other way round.
        moved = min(np.flatnonzero(member[:, name]).tolist(), key=after)
        chosen[moved] = side == 1
    if missing.any():
        absent = sorted({names[name] for _, name in np.argwhere(missing)})
        raise InputError(
            f"no inner hold-out found with every class on both sides ({', '.join(absent)} is missing from one): "
            "too few patients have these classes, or they have several at once; add patients"
        )
    return chosen
