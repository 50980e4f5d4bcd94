"""Intervals by group: a patient's many alike slides or tiles are not counted as independent.

Shares (sensitivity, precision, accuracy, ...) and ROC AUCs have intervals in closed form (`evaluation.closed_form`),
because a percentile bootstrap closes on a perfect score and is too narrow with few patients. Elsewhere patients are
drawn with replacement, each with all of its slides or tiles; F1 and balanced accuracy have both, the wider at each end.
"""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from melano_tf.evaluation.closed_form import EDGE, Estimate, area, mean_area, mean_f1, mean_share, mover
from melano_tf.evaluation.metrics import (
    METRICS,
    Confusion,
    binary_metrics,
    check_pairs,
    format_value,
    metrics_of_counts,
)

# Cells of the largest temporary array (repeats in a chunk x samples): 16 MB of float64.
CHUNK_CELLS = 2_000_000
WILSON, DELONG, BOOTSTRAP, WIDER, NONE = "Wilson", "DeLong", "bootstrap", "wider", "none"
# For the notes under a table.
METHODS = {
    WILSON: "Wilson's score interval with continuity correction on the effective number of them",
    DELONG: "DeLong's with clusters (Obuchowski 1997) on the logit or Newcombe's score interval, the wider at each end",
    WIDER: "percentile bootstrap or Wilson's (of a mean: MOVER of its parts' intervals), the wider at each end",
    BOOTSTRAP: "percentile bootstrap",
    NONE: "not estimable, because all resamples agree or there is nothing to judge",
}
SHARES = ("SN", "SPC", "PPV", "NPV", "ACC")


@dataclass(frozen=True)
class Interval:
    """A metric with its interval.

    Attributes:
        value: on the sample itself; NaN where undefined.
        low, high: ends of the interval; NaN where it is not estimable: never of no width.
        undefined: resamples left out because the metric is undefined in them (one class only, for example).
        repeats: resamples drawn; 0 where none were needed.
        groups: number of groups (patients) that were judged.
        level: coverage, for example 0.95.
        method: "Wilson", "DeLong" (both in closed form, see `closed_form`), "bootstrap" (percentiles of resamples of
            groups), "wider" (of bootstrap and closed form, at each end), or "none": not estimable.
    """

    value: float
    low: float
    high: float
    undefined: int
    repeats: int
    groups: int
    level: float
    method: str = BOOTSTRAP

    def ends(self, digits: int = 4) -> str:
        """The interval as text: "0.7351 to 0.9012", or that there is none."""
        return ends_text(self.low, self.high, digits)


def ends_text(low: float, high: float, digits: int = 4) -> str:
    """An interval's ends as text; NaN, or of no width as in records of old runs: not estimable."""
    if not high > low:
        return "not estimable"
    return f"{format_value(low, digits)} to {format_value(high, digits)}"


def closed_interval(found: Estimate, level: float, groups: int, method: str) -> Interval:
    """The interval of an estimate in closed form."""
    method = NONE if math.isnan(found.low) else method
    return Interval(found.value, found.low, found.high, 0, 0, groups, level, method)


def wider_interval(found: Estimate, resampled: Interval) -> Interval:
    """Of an interval in closed form and a bootstrap's, the wider at each end, around the bootstrap's value."""
    if math.isnan(found.low) or math.isnan(resampled.value):
        return resampled
    low = np.fmin(resampled.value - (found.value - found.low), resampled.low)
    high = np.fmax(resampled.value + (found.high - found.value), resampled.high)
    return dataclasses.replace(resampled, low=float(low), high=float(high), method=WIDER)


def binary_intervals(
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
    """Intervals of metrics by whole groups: in closed form, and for F1S and BACC bootstrapped too.

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
    return cohort_intervals([Judged(y, p, groups, threshold)], names, repeats=repeats, level=level, seed=seed)


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
    """Intervals of metrics' means over validation cohorts that share no groups; see `binary_intervals`.

    Each cohort keeps its own model and threshold; one that leaves a metric undefined, itself or in a resample, is left
    out of that mean. The interval says what other patients would change, not what another training would.

    Raises:
        ValueError: see `binary_intervals`; no cohorts.
    """
    if not cohorts:
        raise ValueError("no cohorts")
    needed = repeats if set(names) - {*SHARES, "AUC"} else 0
    drawn = [_Drawn.of(one, names, needed, seed + number) for number, one in enumerate(cohorts)]
    total = sum(one.draws.shape[1] for one in drawn)
    cells = _side_by_side([one.cells for one in drawn])
    result = {}
    for name in names:
        if name == "AUC":
            areas = [area(one.labels, one.scores, one.index, one.draws.shape[1]) for one in drawn]
            result[name] = closed_interval(mean_area(areas, level), level, total, DELONG)
        elif name in SHARES:
            result[name] = closed_interval(binary_share(cells, name, level), level, total, WILSON)
        else:
            mean = float(_mean(np.array([one.values[name] for one in drawn])[None])[0])
            sample = _mean(np.stack([one.resampled(name) for one in drawn], axis=1))
            found = binary_share(cells, name, level) if name == "F1S" else balanced(cells, level)
            result[name] = wider_interval(found, percentile_interval(mean, sample, level, total))
    return result


@dataclass(frozen=True)
class _Drawn:
    """One cohort with its groups counted: cells (4, groups) of TP, FP, TN, FN."""

    labels: NDArray[np.bool_]
    scores: NDArray[np.float64]
    index: NDArray[np.intp]
    draws: NDArray[np.int64]
    cells: NDArray[np.float64]
    values: dict[str, float]

    @classmethod
    def of(cls, one: Judged, names: Sequence[str], repeats: int, seed: int) -> "_Drawn":
        labels, scores = check_pairs(one.y, one.p)
        _check(labels, one.groups, names)
        index, draws = group_draws(one.groups, repeats, seed)
        cells = cells_by_group(labels, scores >= one.threshold, index, draws.shape[1])
        return cls(labels, scores, index, draws, cells, binary_metrics(labels, scores, one.threshold))

    def resampled(self, name: str) -> NDArray[np.float64]:
        """A metric of counts in each resample, (repeats,)."""
        return metrics_of_counts(Confusion(*(self.draws @ counts for counts in self.cells)))[name]


def cells_by_group(
    labels: NDArray[np.bool_], called: NDArray[np.bool_], index: NDArray[np.intp], groups: int
) -> NDArray[np.float64]:
    """TP, FP, TN and FN of each group, (4, groups); labels, called and index (n,)."""
    cells = (called & labels, called & ~labels, ~called & ~labels, ~called & labels)
    return np.stack([np.bincount(index, weights=cell, minlength=groups) for cell in cells])


def _side_by_side(cohorts: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    """Cells of cohorts, each (4, its groups), as (4, cohorts, all groups): each cohort has groups of its own."""
    result = np.zeros((4, len(cohorts), sum(cells.shape[1] for cells in cohorts)))
    start = 0
    for number, cells in enumerate(cohorts):
        result[:, number, start : start + cells.shape[1]] = cells
        start += cells.shape[1]
    return result


def binary_share(cells: NDArray[np.float64], name: str, level: float) -> Estimate:
    """One of `SHARES` or F1S = 2 TP/(2 TP + FP + FN), mean over cohorts; cells (4, cohorts, groups)."""
    tp, fp, tn, fn = cells
    if name == "F1S":
        return mean_f1(tp, fp + fn, level)
    hits, sizes = {
        "SN": (tp, tp + fn),
        "SPC": (tn, tn + fp),
        "PPV": (tp, tp + fp),
        "NPV": (tn, tn + fn),
        "ACC": (tp + tn, tp + fp + tn + fn),
    }[name]
    return mean_share(hits, sizes, level)


def balanced(cells: NDArray[np.float64], level: float) -> Estimate:
    """Balanced accuracy, mean over the cohorts that hold both classes, from sensitivity and specificity."""
    tp, fp, tn, fn = cells
    both = ((tp + fn).sum(axis=-1) > 0) & ((tn + fp).sum(axis=-1) > 0)
    return mover([binary_share(cells[:, both], name, level) for name in ("SN", "SPC")])


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
    """The interval of a metric from its value in each resample, (repeats,); NaN there is left out and counted.

    Where all resamples agree they say nothing of other patients: not estimable (NaN), rather than of no width.
    """
    defined = sample[~np.isnan(sample)]
    low, high = np.quantile(defined, [(1 - level) / 2, (1 + level) / 2]) if len(defined) else (math.nan, math.nan)
    method = BOOTSTRAP
    if not high - low > EDGE:
        low, high, method = math.nan, math.nan, NONE
    return Interval(value, float(low), float(high), len(sample) - len(defined), len(sample), groups, level, method)


def mean_interval(
    values: NDArray[np.float64], index: NDArray[np.intp], draws: NDArray[np.int64], level: float, *, share: bool
) -> Interval:
    """The mean of numbers between 0 and 1 where they are defined, with its interval by group.

    Args:
        values: (n,), 0..1; NaN where undefined.
        index, draws: from `group_draws`.
        level: coverage.
        share: the numbers are 0 or 1: Wilson's interval; else the wider, at each end, of that and a percentile
            bootstrap (a mean of numbers between 0 and 1 varies no more than a share).
    """
    defined = np.isfinite(values)
    sums = np.bincount(index, weights=np.where(defined, values, 0.0), minlength=draws.shape[1]).astype(float)
    counts = np.bincount(index, weights=defined, minlength=draws.shape[1]).astype(float)
    found = mean_share(sums[None], counts[None], level)
    if share or math.isnan(found.low):
        return closed_interval(found, level, draws.shape[1], WILSON)
    weights = draws @ counts
    sample = np.divide(draws @ sums, weights, out=np.full(len(draws), np.nan), where=weights > 0)
    mean = float(values[defined].mean()) if defined.any() else math.nan
    return wider_interval(found, percentile_interval(mean, sample, level, draws.shape[1]))


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
