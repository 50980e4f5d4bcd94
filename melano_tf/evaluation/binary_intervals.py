"""Intervals of binary metrics by group: a patient's many alike slides or tiles are not counted as independent.

Shares (sensitivity, precision, accuracy, ...) and ROC AUCs have intervals in closed form (`wilson_delong`), because a
percentile bootstrap closes on a perfect score and is too narrow with few patients. F1 and balanced accuracy have both
(`bootstrap`), the wider at each end.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from melano_tf.evaluation.binary_metrics import METRICS, Confusion, binary_metrics, check_pairs, metrics_of_counts
from melano_tf.evaluation.bootstrap import group_draws, percentile_interval
from melano_tf.evaluation.interval import DELONG, WILSON, Interval, closed_interval, wider_interval
from melano_tf.evaluation.wilson_delong import Estimate, area, mean_area, mean_f1, mean_share, mover

SHARES = ("SN", "SPC", "PPV", "NPV", "ACC")


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
        groups: the group (patient) of each sample, (n,); of one name in several cohorts, it is one group.
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
    """Intervals of metrics' means over validation cohorts; see `binary_intervals`.

    Each cohort keeps its own model and threshold; one that leaves a metric undefined, itself or in a resample, is left
    out of that mean. A group (patient) that several cohorts judge counts once, whichever of its samples they hold. The
    interval says what other patients would change, not what another training would.

    Raises:
        ValueError: see `binary_intervals`; no cohorts.
    """
    if not cohorts:
        raise ValueError("no cohorts")
    needed = repeats if set(names) - {*SHARES, "AUC"} else 0
    places, draws = _drawn([one.groups for one in cohorts], needed, seed)
    total = draws.shape[1]
    counted = [_Counted.of(one, names, index, total) for one, index in zip(cohorts, places, strict=True)]
    cells = np.stack([one.cells for one in counted], axis=1)
    result = {}
    for name in names:
        if name == "AUC":
            areas = [area(one.labels, one.scores, one.index, total) for one in counted]
            result[name] = closed_interval(mean_area(areas, level), level, total, DELONG)
        elif name in SHARES:
            result[name] = closed_interval(binary_share(cells, name, level), level, total, WILSON)
        else:
            mean = float(_mean(np.array([one.values[name] for one in counted])[None])[0])
            sample = _mean(np.stack([one.resampled(name, draws) for one in counted], axis=1))
            found = binary_share(cells, name, level) if name == "F1S" else balanced(cells, level)
            result[name] = wider_interval(found, percentile_interval(mean, sample, level, total))
    return result


def _drawn(
    cohorts: Sequence[Sequence[str] | NDArray[np.generic]], repeats: int, seed: int
) -> tuple[list[NDArray[np.intp]], NDArray[np.int64]]:
    """The group of each sample, cohort by cohort, numbered over all of them; how often each resample drew each group.

    Cohorts that share no groups are drawn one by one, so that each keeps its number of them; others all together.
    """
    ends = np.cumsum([len(groups) for groups in cohorts])[:-1]
    joined = np.concatenate([np.asarray(groups) for groups in cohorts])
    own = [group_draws(groups, repeats, seed + number) for number, groups in enumerate(cohorts)]
    counts = [draws.shape[1] for _, draws in own]
    if len(np.unique(joined)) < sum(counts):
        index, draws = group_draws(joined, repeats, seed)
        return np.split(index, ends), draws
    starts = np.cumsum([0, *counts[:-1]])
    places = [index + start for (index, _), start in zip(own, starts, strict=True)]
    return places, np.hstack([draws for _, draws in own])


@dataclass(frozen=True)
class _Counted:
    """One cohort, its samples counted by the groups of all cohorts: cells (4, groups) of TP, FP, TN, FN."""

    labels: NDArray[np.bool_]
    scores: NDArray[np.float64]
    index: NDArray[np.intp]
    cells: NDArray[np.float64]
    values: dict[str, float]

    @classmethod
    def of(cls, one: Judged, names: Sequence[str], index: NDArray[np.intp], groups: int) -> "_Counted":
        labels, scores = check_pairs(one.y, one.p)
        _check(labels, one.groups, names)
        cells = cells_by_group(labels, scores >= one.threshold, index, groups)
        return cls(labels, scores, index, cells, binary_metrics(labels, scores, one.threshold))

    def resampled(self, name: str, draws: NDArray[np.int64]) -> NDArray[np.float64]:
        """A metric of counts in each resample, (repeats,)."""
        return metrics_of_counts(Confusion(*(draws @ counts for counts in self.cells)))[name]


def cells_by_group(
    labels: NDArray[np.bool_], called: NDArray[np.bool_], index: NDArray[np.intp], groups: int
) -> NDArray[np.float64]:
    """TP, FP, TN and FN of each group, (4, groups); labels, called and index (n,)."""
    cells = (called & labels, called & ~labels, ~called & ~labels, ~called & labels)
    return np.stack([np.bincount(index, weights=cell, minlength=groups) for cell in cells])


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
