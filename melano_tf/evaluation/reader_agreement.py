"""Agreement of two readers, or of a reader and a model, beyond chance: Cohen's kappa with its interval."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from melano_tf.evaluation.bootstrap import group_draws, percentile_interval
from melano_tf.evaluation.interval import Interval


def cohen_kappa(first: Sequence[str], second: Sequence[str]) -> float:
    """Cohen's kappa (1960) of two readings of the same cases: (p_o - p_e) / (1 - p_e).

    p_o is the share of cases on which both agree, p_e the share that would by chance, if each gave its classes as often
    as it did, but without looking. NaN where there is no case, or both gave one and the same class to all.

    Args:
        first, second: the class of each case, (n,).

    Raises:
        ValueError: different lengths.
    """
    return float(_kappa(_table(first, second))[()])


def kappa_interval(
    first: Sequence[str],
    second: Sequence[str],
    groups: Sequence[str],
    *,
    repeats: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Cohen's kappa with a percentile interval from a bootstrap of whole groups.

    Args:
        first, second: the class of each case, (n,).
        groups: the patient (or lesion) of each case, (n,).
        repeats: resamples.
        level: coverage.
        seed: of the draw.

    Raises:
        ValueError: different lengths.
    """
    if len(groups) != len(first):
        raise ValueError(f"{len(groups)} groups for {len(first)} cases")
    cells = _cells(first, second)
    index, draws = group_draws(list(groups), repeats, seed)
    by_group = np.zeros((draws.shape[1], *cells.shape[1:]))
    np.add.at(by_group, index, cells)
    sample = _kappa(np.tensordot(draws.astype(np.float64), by_group, axes=1))
    return percentile_interval(cohen_kappa(first, second), sample, level, draws.shape[1])


def _cells(first: Sequence[str], second: Sequence[str]) -> NDArray[np.float64]:
    """Each case's one cell of the table of both readings, (n, K, K)."""
    if len(first) != len(second):
        raise ValueError(f"{len(first)} and {len(second)} readings are not of the same cases")
    names = sorted({*first, *second})
    place = {name: number for number, name in enumerate(names)}
    cells = np.zeros((len(first), len(names), len(names)))
    for row, (one, other) in enumerate(zip(first, second, strict=True)):
        cells[row, place[one], place[other]] = 1
    return cells


def _table(first: Sequence[str], second: Sequence[str]) -> NDArray[np.float64]:
    return np.asarray(_cells(first, second).sum(axis=0))


def _kappa(tables: NDArray[np.float64]) -> NDArray[np.float64]:
    """Kappa of tables (..., K, K)."""
    total = tables.sum(axis=(-2, -1))
    safe = np.where(total > 0, total, 1.0)
    observed = np.trace(tables, axis1=-2, axis2=-1) / safe
    expected = (tables.sum(axis=-1) * tables.sum(axis=-2)).sum(axis=-1) / safe**2
    defined = (total > 0) & (1 - expected > 1e-12)
    return np.where(defined, (observed - expected) / np.where(defined, 1 - expected, 1.0), math.nan)
