"""ROC and precision-recall curves, areas under them, and bands by group bootstrap.

Between two thresholds the counts (TP, FP) go along a straight line. That is a straight line in the ROC plane, but a
hyperbola in the PR plane (Davis & Goadrich, 2006): drawing straight lines there, or the trapezoids under them,
overstates precision. Average precision is the step sum over the thresholds, without interpolation.
"""

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from melano_tf.evaluation import bootstrap
from melano_tf.evaluation.binary_metrics import check_pairs
from melano_tf.evaluation.bootstrap import group_draws, percentile_interval
from melano_tf.evaluation.interval import NONE, WILSON, Interval
from melano_tf.evaluation.wilson_delong import EDGE, wilson

GRID = 201


@dataclass(frozen=True)
class Counts:
    """True and false positives at every threshold, from "nothing is called" to "all is called".

    Attributes:
        threshold: descending, (m + 1,): inf, then every distinct score; called where p >= threshold.
        tp, fp: counts there, (m + 1,); both begin at 0.
    """

    threshold: NDArray[np.float64]
    tp: NDArray[np.int64]
    fp: NDArray[np.int64]

    @property
    def positives(self) -> int:
        """Number of positives."""
        return int(self.tp[-1])

    @property
    def negatives(self) -> int:
        """Number of negatives."""
        return int(self.fp[-1])


def counts_by_threshold(y: ArrayLike, p: ArrayLike) -> Counts:
    """Counts at every threshold, of labels (n,) of 0 and 1 and scores (n,); ties change the counts together."""
    labels, scores = check_pairs(y, p)
    order, last = _descending(scores)
    tp, called = np.cumsum(labels[order])[last], last + 1
    return Counts(
        threshold=np.r_[np.inf, scores[order][last]],
        tp=np.r_[0, tp].astype(np.int64),
        fp=np.r_[0, called - tp].astype(np.int64),
    )


def _descending(scores: NDArray[np.float64]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Order of descending scores, and the last place of each run of ties in it."""
    order = np.argsort(-scores, kind="stable")
    return order, np.flatnonzero(np.r_[np.diff(scores[order]) < 0, np.ones(min(len(order), 1), bool)])


@dataclass(frozen=True)
class RocCurve:
    """A ROC curve; straight lines between its points are right.

    Attributes:
        fpr: 1 - specificity, (m + 1,), ascending from 0 to 1; NaN without negatives.
        tpr: sensitivity, (m + 1,), ascending from 0 to 1; NaN without positives.
        threshold: see `Counts`.
        area: under the curve; NaN where one class is missing.
    """

    fpr: NDArray[np.float64]
    tpr: NDArray[np.float64]
    threshold: NDArray[np.float64]
    area: float


def roc(y: ArrayLike, p: ArrayLike) -> RocCurve:
    """The ROC curve of labels (n,) of 0 and 1 and scores (n,), with every threshold kept."""
    counts = counts_by_threshold(y, p)
    fpr, tpr = (c / c[-1] if c[-1] else np.full(len(c), np.nan) for c in (counts.fp, counts.tp))
    return RocCurve(fpr, tpr, counts.threshold, float(np.trapezoid(tpr, fpr)))


@dataclass(frozen=True)
class PrCurve:
    """A precision-recall curve.

    Attributes:
        recall, precision: at each threshold at which anything is called, (m,); recall is NaN without positives.
        threshold: descending, (m,).
        prevalence: share of positives, the precision of chance.
        average_precision: sum of precision x step of recall over the thresholds; NaN without positives.
        area: under the curve interpolated after Davis & Goadrich, exactly; NaN without positives.
        counts: what `precision_at` interpolates.
    """

    recall: NDArray[np.float64]
    precision: NDArray[np.float64]
    threshold: NDArray[np.float64]
    prevalence: float
    average_precision: float
    area: float
    counts: Counts

    def precision_at(self, recall: ArrayLike) -> NDArray[np.float64]:
        """The interpolated precision at recalls 0..1; see `interpolated_precision`."""
        return interpolated_precision(self.counts.tp, self.counts.fp, recall)

    def line(self, points: int = 1001) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Recall and precision of the curve as it is to be drawn, vertical drops included.

        Where a threshold adds false positives only, precision drops at one recall: both ends are there.

        Args:
            points: of the even grid of recalls that the curve's own points are set among.
        """
        if not self.counts.positives:
            return np.empty(0), np.empty(0)
        grid = np.linspace(0, 1, points)[1:]
        recall = np.r_[0.0, grid, self.recall[self.recall > 0]]
        precision = np.r_[self.precision_at(np.r_[0.0, grid]), self.precision[self.recall > 0]]
        # Of several points at one recall the most precise comes first: the curve goes down from there.
        order = np.lexsort((-precision, recall))
        return recall[order], precision[order]


def precision_recall(y: ArrayLike, p: ArrayLike) -> PrCurve:
    """The precision-recall curve of labels (n,) of 0 and 1 and scores (n,), with every threshold kept."""
    counts = counts_by_threshold(y, p)
    tp, fp = counts.tp[1:], counts.fp[1:]
    total = counts.positives + counts.negatives
    return PrCurve(
        recall=tp / counts.positives if counts.positives else np.full(len(tp), np.nan),
        precision=tp / (tp + fp),
        threshold=counts.threshold[1:],
        prevalence=counts.positives / total if total else math.nan,
        average_precision=average_precision(y, p),
        area=_area(counts),
        counts=counts,
    )


def interpolated_precision(tp: ArrayLike, fp: ArrayLike, recall: ArrayLike) -> NDArray[np.float64]:
    """Precision at given recalls on the curve after Davis & Goadrich.

    For t = recall x positives true positives, between the thresholds a and b that enclose t,
    FP(t) = FP_a + (FP_b - FP_a)/(TP_b - TP_a) (t - TP_a) and precision = t/(t + FP(t)). At a recall that several
    thresholds have, the most precise of them counts; at recall 0, the limit from above.

    Args:
        tp, fp: cumulative counts (or weights), (m + 1,), from 0 and 0 on; see `Counts`.
        recall: 0..1, any shape.

    Returns:
        Precision of the shape of `recall`; NaN without positives.
    """
    hits, misses = np.asarray(tp, dtype=np.float64), np.asarray(fp, dtype=np.float64)
    wanted = np.asarray(recall, dtype=np.float64)
    if not len(hits) or hits[-1] == 0:
        return np.full(wanted.shape, np.nan)
    target = np.clip(wanted, 0, 1) * hits[-1]
    # k/n x n is not always k; a hair above it would fall into the next stretch.
    target = np.where(np.abs(target - np.rint(target)) < 1e-9 * hits[-1], np.rint(target), target)
    # b: the first threshold with at least (at recall 0: more than) the wanted true positives; a: the one before it.
    b = np.maximum(np.searchsorted(hits, target, side="left"), np.searchsorted(hits, 0, side="right"))
    a = b - 1
    step = (misses[b] - misses[a]) / (hits[b] - hits[a])
    called = target + misses[a] + step * (target - hits[a])
    # 0/0 at recall 0, where nothing was called wrongly before: the slope of the first stretch gives the limit.
    return np.divide(target, called, out=np.asarray(1 / (1 + step)), where=called > 0)


def _area(counts: Counts) -> float:
    """Area under the interpolated curve: of each stretch the integral of t/(t + FP(t)) dt, in closed form.

    With t + FP(t) = g t + c on a stretch from TP_a to TP_b, it is
    (TP_b - TP_a)/g - c/g^2 ln((g TP_b + c)/(g TP_a + c)).
    """
    if not counts.positives:
        return math.nan
    rising = np.flatnonzero(np.diff(counts.tp) > 0)
    tp, fp = counts.tp.astype(np.float64), counts.fp.astype(np.float64)
    start, end = tp[rising], tp[rising + 1]
    slope = (fp[rising + 1] - fp[rising]) / (end - start)
    g, c = 1 + slope, fp[rising] - slope * start
    # A stretch from (0, 0) has c = 0 and constant precision; its logarithm, of infinity, is left out.
    ratio = np.divide(g * end + c, g * start + c, out=np.ones(len(g)), where=start + fp[rising] > 0)
    return float(((end - start) / g - c / g**2 * np.log(ratio)).sum() / counts.positives)


def average_precision(y: ArrayLike, p: ArrayLike) -> float:
    """Sum over thresholds of precision x step of recall; NaN without positives."""
    counts = counts_by_threshold(y, p)
    if not counts.positives:
        return math.nan
    precision = counts.tp[1:] / (counts.tp[1:] + counts.fp[1:])
    return float(np.diff(counts.tp) @ precision / counts.positives)


def resampled_average_precision(
    labels: NDArray[np.bool_], scores: NDArray[np.float64], index: NDArray[np.intp], draws: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Average precision of each resample, (repeats,); NaN where it holds no positive.

    Args:
        labels: (n,) bool.
        scores: (n,).
        index: group of each sample, (n,), 0-based.
        draws: how often each resample drew each group, (repeats, groups).
    """
    result = np.full(len(draws), np.nan)
    for rows, tp, fp in _resampled_counts(labels, scores, index, draws):
        steps = np.diff(tp, axis=1)
        precision = (tp / np.maximum(tp + fp, 1.0))[:, 1:]  # where nobody is called, nobody is right
        total = tp[:, -1]
        np.divide((steps * precision).sum(axis=1), total, out=result[rows], where=total > 0)
    return result


def average_precision_interval(
    y: ArrayLike,
    p: ArrayLike,
    groups: Sequence[str] | NDArray[np.generic],
    *,
    repeats: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Average precision with its percentile bootstrap interval, resampling whole groups; see `perfect_precision`."""
    labels, scores, index, draws = _grouped(y, p, groups, repeats, seed)
    sample = resampled_average_precision(labels, scores, index, draws)
    found = percentile_interval(average_precision(labels, scores), sample, level, draws.shape[1])
    return perfect_precision(labels, index, found)


def perfect_precision(labels: NDArray[np.bool_], index: NDArray[np.intp], found: Interval) -> Interval:
    """A bootstrap's interval of an average precision; where all resamples agree, Wilson's on the positive groups.

    Boyd et al. (2013) take an average precision for a share of as many trials as there are positives; here a group
    counts as one.

    Args:
        labels: (n,).
        index: group of each sample, (n,).
        found: see `percentile_interval`.
    """
    if found.method != NONE or math.isnan(found.value):
        return found
    low, high = wilson(found.value, len(np.unique(index[labels])), found.level)
    return dataclasses.replace(found, low=low, high=high, method=WILSON)


@dataclass(frozen=True)
class Band:
    """A pointwise bootstrap band around a curve: at each place on its own, the curve lies in it at that coverage.

    Attributes:
        x: places, (grid,): false positive rates of a ROC band, recalls of a PR band.
        low, high: ends of the band there; NaN where no resample defines the curve, or all draw the same one.
        undefined: resamples without one of the classes, left out.
        repeats: resamples drawn.
        groups: number of groups (patients) that were resampled.
        level: coverage.
    """

    x: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    undefined: int
    repeats: int
    groups: int
    level: float


def roc_band(
    y: ArrayLike,
    p: ArrayLike,
    groups: Sequence[str] | NDArray[np.generic],
    *,
    grid: int = GRID,
    repeats: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> Band:
    """Band of the sensitivity at each false positive rate, whole groups (patients) resampled."""

    def sensitivity(tp: NDArray[np.float64], fp: NDArray[np.float64], x: NDArray[np.float64]) -> NDArray[np.float64]:
        if tp[-1] == 0 or fp[-1] == 0:
            return np.full(len(x), np.nan)
        # Of several points at one rate np.interp takes the last one: the most sensitive.
        return np.asarray(np.interp(x, fp / fp[-1], tp / tp[-1]))

    return _band(_grouped(y, p, groups, repeats, seed), sensitivity, grid, level)


def pr_band(
    y: ArrayLike,
    p: ArrayLike,
    groups: Sequence[str] | NDArray[np.generic],
    *,
    grid: int = GRID,
    repeats: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> Band:
    """Band of the interpolated precision at each recall, whole groups (patients) resampled."""
    return _band(_grouped(y, p, groups, repeats, seed), interpolated_precision, grid, level)


_Grouped = tuple[NDArray[np.bool_], NDArray[np.float64], NDArray[np.intp], NDArray[np.int64]]


def _grouped(
    y: ArrayLike, p: ArrayLike, groups: Sequence[str] | NDArray[np.generic], repeats: int, seed: int
) -> _Grouped:
    labels, scores = check_pairs(y, p)
    if len(groups) != len(labels):
        raise ValueError(f"{len(groups)} groups for {len(labels)} samples")
    return labels, scores, *group_draws(groups, repeats, seed)


def _band(sample: _Grouped, curve: Callable[..., NDArray[np.float64]], grid: int, level: float) -> Band:
    draws, x = sample[3], np.linspace(0, 1, grid)
    curves = np.full((len(draws), grid), np.nan)
    for rows, tp, fp in _resampled_counts(*sample):
        curves[rows] = [curve(*one, x) for one in zip(tp, fp, strict=True)]
    defined = curves[~np.isnan(curves).any(axis=1)]
    low, high = np.full((2, grid), np.nan)
    if len(defined):
        low, high = np.quantile(defined, [(1 - level) / 2, (1 + level) / 2], axis=0)
    if not (high - low > EDGE).any():
        low, high = np.full((2, grid), np.nan)
    return Band(x, low, high, len(draws) - len(defined), len(draws), draws.shape[1], level)


def _resampled_counts(
    labels: NDArray[np.bool_], scores: NDArray[np.float64], index: NDArray[np.intp], draws: NDArray[np.int64]
) -> Iterator[tuple[slice, NDArray[np.float64], NDArray[np.float64]]]:
    """Counts at every threshold in each resample, some resamples at a time: their rows, tp and fp (rows, m + 1)."""
    order, last = _descending(scores)
    labels, index = labels[order], index[order]
    step = max(1, bootstrap.CHUNK_CELLS // max(len(labels), 1))
    for start in range(0, len(draws), step):
        weights = draws[start : start + step, index].astype(np.float64)
        tp, fp = (np.cumsum(weights * side, axis=1)[:, last] for side in (labels, ~labels))
        none = np.zeros((len(weights), 1))
        rows = slice(start, start + len(weights))
        yield rows, np.concatenate([none, tp], axis=1), np.concatenate([none, fp], axis=1)
