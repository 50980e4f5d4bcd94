"""Bootstrap intervals by group: patients are drawn with replacement, each with all of its slides or tiles.

Resampling tiles or slides instead would count a patient's many alike tiles as independent, and the interval would be
too narrow.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from melano_tf.evaluation.metrics import METRICS, Confusion, binary_metrics, check_pairs, metrics_of_counts

# Cells of the largest temporary array (repeats in a chunk x samples): 16 MB of float64.
CHUNK_CELLS = 2_000_000


@dataclass(frozen=True)
class Interval:
    """A metric with its percentile bootstrap interval.

    Attributes:
        value: on the sample itself; NaN where undefined.
        low, high: ends of the interval; NaN where no resample defines the metric.
        undefined: resamples left out because the metric is undefined in them (one class only, for example).
        repeats: resamples drawn.
        groups: number of groups (patients) that were resampled.
        level: coverage, for example 0.95.
    """

    value: float
    low: float
    high: float
    undefined: int
    repeats: int
    groups: int
    level: float


def bootstrap_intervals(
    y: ArrayLike,
    p: ArrayLike,
    groups: Sequence[str] | NDArray[np.generic],
    names: Sequence[str] = METRICS,
    *,
    threshold: float = 0.5,
    repeats: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> dict[str, Interval]:
    """Percentile bootstrap intervals of metrics, resampling whole groups.

    Args:
        y: labels, (n,) of 0 and 1.
        p: probabilities, (n,).
        groups: the group (patient) of each sample, (n,).
        names: which of `METRICS`.
        threshold: of the decision; positive where p >= threshold.
        repeats: number of resamples.
        level: coverage.
        seed: of the draw; the order of the samples does not matter.

    Raises:
        ValueError: unknown metric, or inputs of different lengths.
    """
    labels, scores = check_pairs(y, p)
    _check(labels, groups, names)
    values = binary_metrics(labels, scores, threshold)
    index, draws = group_draws(groups, repeats, seed)
    if not len(index):
        return {name: Interval(math.nan, math.nan, math.nan, repeats, repeats, 0, level) for name in names}
    samples = _resampled(labels, scores, threshold, index, draws, names)
    return {name: percentile_interval(values[name], samples[name], level, draws.shape[1]) for name in names}


@dataclass(frozen=True)
class Judged:
    """What one validation cohort's model says of that cohort.

    Attributes:
        y: labels, (n,) of 0 and 1.
        p: probabilities, (n,).
        groups: the group (patient) of each sample, (n,).
        threshold: of this model's decision.
    """

    y: ArrayLike
    p: ArrayLike
    groups: Sequence[str] | NDArray[np.generic]
    threshold: float = 0.5


def cohort_intervals(
    cohorts: Sequence[Judged],
    names: Sequence[str] = METRICS,
    *,
    repeats: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> dict[str, Interval]:
    """Percentile bootstrap intervals of metrics' means over validation cohorts, whole groups resampled within each.

    Each cohort keeps its own model and threshold; a cohort in which a resample leaves a metric undefined is left out of
    that resample's mean. The interval says what other patients would change, not what another training would.

    Raises:
        ValueError: see `bootstrap_intervals`; no cohorts.
    """
    if not cohorts:
        raise ValueError("no cohorts")
    values: dict[str, list[float]] = {name: [] for name in names}
    samples: dict[str, list[NDArray[np.float64]]] = {name: [] for name in names}
    total = 0
    for number, cohort in enumerate(cohorts):
        labels, scores = check_pairs(cohort.y, cohort.p)
        _check(labels, cohort.groups, names)
        index, draws = group_draws(cohort.groups, repeats, seed + number)
        found = binary_metrics(labels, scores, cohort.threshold)
        resampled = _resampled(labels, scores, cohort.threshold, index, draws, names)
        for name in names:
            values[name].append(found[name])
            samples[name].append(resampled[name])
        total += draws.shape[1]
    return {
        name: percentile_interval(_mean(np.array(values[name])[None])[0], _mean(np.stack(parts, axis=1)), level, total)
        for name, parts in samples.items()
    }


def _mean(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean of each row (n, cohorts), undefined ones left out; NaN where all are."""
    defined = ~np.isnan(values)
    count = defined.sum(axis=1)
    total = np.where(defined, values, 0.0).sum(axis=1)
    return np.divide(total, count, out=np.full(len(values), np.nan), where=count > 0)


def _check(labels: NDArray[np.bool_], groups: Sequence[str] | NDArray[np.generic], names: Sequence[str]) -> None:
    if unknown := set(names) - set(METRICS):
        raise ValueError(f"unknown metrics {sorted(unknown)}; known are {list(METRICS)}")
    if len(groups) != len(labels):
        raise ValueError(f"{len(groups)} groups for {len(labels)} samples")


def _resampled(
    labels: NDArray[np.bool_],
    scores: NDArray[np.float64],
    threshold: float,
    index: NDArray[np.intp],
    draws: NDArray[np.int64],
    names: Sequence[str],
) -> dict[str, NDArray[np.float64]]:
    """Each metric in each resample, (repeats,)."""
    counts = _resampled_counts(labels, scores >= threshold, index, draws)
    samples: dict[str, NDArray[np.float64]] = metrics_of_counts(counts)
    return samples | ({"AUC": resampled_auc(labels, scores, index, draws)} if "AUC" in names else {})


def group_draws(
    groups: Sequence[str] | NDArray[np.generic], repeats: int, seed: int
) -> tuple[NDArray[np.intp], NDArray[np.int64]]:
    """The group of each sample, (n,), 0-based in the order of the names; how often each resample drew each group.

    The second one has shape (repeats, groups), and each of its rows sums to the number of groups.
    """
    unique, index = np.unique(np.asarray(groups), return_inverse=True)
    if not len(unique):
        return index, np.zeros((repeats, 0), np.int64)
    rng = np.random.default_rng(seed)
    return index, rng.multinomial(len(unique), np.full(len(unique), 1 / len(unique)), size=repeats)


def percentile_interval(value: float, sample: NDArray[np.float64], level: float, groups: int) -> Interval:
    """The interval of a metric from its value in each resample, (repeats,); NaN there is left out and counted."""
    defined = sample[~np.isnan(sample)]
    low, high = np.quantile(defined, [(1 - level) / 2, (1 + level) / 2]) if len(defined) else (math.nan, math.nan)
    return Interval(value, float(low), float(high), len(sample) - len(defined), len(sample), groups, level)


def _resampled_counts(
    labels: NDArray[np.bool_], called: NDArray[np.bool_], index: NDArray[np.intp], draws: NDArray[np.int64]
) -> Confusion:
    """Confusion counts of each resample: those of each group, weighted by how often it was drawn."""
    cells = (called & labels, called & ~labels, ~called & ~labels, ~called & labels)
    by_group = [np.bincount(index, weights=cell, minlength=draws.shape[1]) for cell in cells]
    return Confusion(*(draws @ counts for counts in by_group))


def resampled_auc(
    labels: NDArray[np.bool_], scores: NDArray[np.float64], index: NDArray[np.intp], draws: NDArray[np.int64]
) -> NDArray[np.float64]:
    """ROC AUC of each resample, (repeats,), by ranks; NaN where one class is missing.

    The samples are sorted once. With weights w (how often a sample's group was drawn), each positive beats the weight
    of the negatives below it and half of that of its ties: AUC = sum_i w_i (N_below(i) + N_tied(i)/2) / (P N).

    Args:
        labels: (n,) bool.
        scores: (n,).
        index: group of each sample, (n,), 0-based.
        draws: how often each resample drew each group, (repeats, groups).
    """
    order = np.argsort(scores, kind="stable")
    labels, index = labels[order], index[order]
    first_of_tie = np.flatnonzero(np.r_[True, np.diff(scores[order]) > 0])
    result = np.full(len(draws), np.nan)
    rows = max(1, CHUNK_CELLS // max(len(labels), 1))
    for start in range(0, len(draws), rows):
        weights = draws[start : start + rows, index].astype(np.float64)
        positive = np.add.reduceat(weights * labels, first_of_tie, axis=1)
        negative = np.add.reduceat(weights * ~labels, first_of_tie, axis=1)
        beaten = np.cumsum(negative, axis=1) - negative / 2
        pairs = positive.sum(axis=1) * negative.sum(axis=1)
        np.divide((positive * beaten).sum(axis=1), pairs, out=result[start : start + rows], where=pairs > 0)
    return result
