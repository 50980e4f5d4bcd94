"""The core of this room: a share of the units that no split may divide, and every class on both sides of it.

A unit is a patient, a lesion or a cluster; what it holds is a row of a table of counts. A class is short on a side that
holds too little of it, and is mended by moving units across.
"""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

Names = Sequence[str] | NDArray[np.str_]
Chosen = NDArray[np.bool_]  # (units,): who stands on the side that is drawn


def class_counts(
    units: Names | NDArray[np.integer], labels: Names
) -> tuple[np.ndarray, NDArray[np.str_], NDArray[np.int64]]:
    """Rows of each class in each unit: units and classes, each once and sorted, and int64 (units, classes).

    Args:
        units: name or number of each row's unit, (n,).
        labels: class of each row, (n,).
    """
    names, place = np.unique(np.asarray(units), return_inverse=True)
    classes, which = np.unique(np.asarray(labels, dtype=str), return_inverse=True)
    counts = np.zeros((len(names), len(classes)), np.int64)
    np.add.at(counts, (place, which), 1)
    return names, classes, counts


def short_classes(units: Names, labels: Names, least: int) -> dict[str, int]:
    """Classes that fewer than `least` units hold, sorted, and how many do."""
    _, classes, counts = class_counts(units, labels)
    held = (counts > 0).sum(axis=0).tolist()
    return {str(name): count for name, count in zip(classes, held, strict=True) if count < least}


def share_of_units(stratum: NDArray[np.integer], share: float) -> Chosen:
    """The first units of each stratum, by largest remainders: strata keep their share as nearly as whole units allow.

    Args:
        stratum: number of each unit's stratum, 0-based, (units,), in shuffled order.
        share: of all units.
    """
    sizes = np.bincount(stratum)
    quota = np.floor(sizes * share).astype(int)
    missing = round(share * len(stratum)) - int(quota.sum())
    # Stable sort: of equal remainders the first stratum gets the unit.
    by_remainder = np.argsort(quota - sizes * share, kind="stable")
    quota[by_remainder[:missing]] += 1
    chosen = np.zeros(len(stratum), bool)
    for index, count in enumerate(quota):
        chosen[np.flatnonzero(stratum == index)[:count]] = True
    return chosen


def share_of_rows(counts: np.ndarray, order: NDArray[np.integer], share: float, leave: int) -> Chosen:
    """Draw units until each class, the rarest first, has its share of rows: units differ in how many rows they hold.

    Of every class at least one unit is drawn and at least `leave` are left, as far as there are so many; those that
    hold several classes count for each.

    Args:
        counts: rows of each class in each unit, int (units, classes).
        order: the units' places, shuffled.
        share: of each class's rows.
        leave: units.
    """
    chosen = np.zeros(len(counts), bool)
    left = (counts > 0).sum(axis=0)
    for name in np.argsort(counts.sum(axis=0), kind="stable"):
        wanted, has = share * counts[:, name].sum(), counts[:, name] > 0
        held = counts[chosen, name].sum()
        for unit in order[has[order] & ~chosen[order]]:
            # Nearer to the share without the next unit than with it: enough, once there is one.
            if held and held + counts[unit, name] / 2 > wanted:
                break
            mine = counts[unit] > 0
            if (left[mine] > leave).all():
                chosen[unit] = True
                left[mine] -= 1
                held += counts[unit, name]
    return chosen


def mend(
    chosen: Chosen,
    holds: NDArray[np.bool_],
    short: Callable[[Chosen], NDArray[np.bool_]],
    price: Callable[[int], tuple[int, ...]] | None = None,
    in_turn: bool = False,
) -> tuple[Chosen, list[tuple[int, int]]]:
    """Move units until no class is short on a side, one at a time; of what can be moved, the cheapest, then the first.

    Args:
        chosen: bool (units,), the sides before; True is the side that was drawn.
        holds: which classes each unit has, bool (units, classes).
        short: of the sides, bool (2, classes): the classes that the other side (0) and the drawn side (1) lack.
        price: of moving a unit; None: the fewest classes that are short afterwards, then the fewest that it holds.
        in_turn: two classes take turns where both are short; else the other side's classes come first, in their order.

    Returns:
        The sides, and (unit, class) of each move in turn. A class that no move can help is still short.
    """
    chosen, seen = chosen.copy(), set()
    moves: list[tuple[int, int]] = []

    def fewest(unit: int) -> tuple[int, ...]:
        after = chosen.copy()
        after[unit] = not after[unit]
        return int(short(after).sum()), int(holds[unit].sum())

    while chosen.tobytes() not in seen:
        seen.add(chosen.tobytes())
        lacking = np.argwhere(short(chosen)).tolist()
        if in_turn:
            last = moves[-1][1] if moves else None
            lacking.sort(key=lambda shortage: (shortage[1] == last, shortage[1]))
        for side, name in lacking:
            holders = np.flatnonzero(holds[:, name] & (chosen == (side == 0))).tolist()
            if holders:
                unit = min(holders, key=price or fewest)
                chosen[unit] = side == 1
                moves.append((unit, name))
                break
    return chosen, moves
