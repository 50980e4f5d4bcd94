"""The bootstrap by group: patients drawn with replacement, each with all of its slides or tiles."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from melano_tf.evaluation.interval import BOOTSTRAP, NONE, WILSON, Interval, closed_interval, wider_interval
from melano_tf.evaluation.wilson_delong import EDGE, mean_share

# Cells of the largest temporary array (repeats in a chunk x samples): 16 MB of float64.
CHUNK_CELLS = 2_000_000


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
    if share or math.isnan(found.low):  # of nothing, for example
        return closed_interval(found, level, draws.shape[1], WILSON)
    weights = draws @ counts
    sample = np.divide(draws @ sums, weights, out=np.full(len(draws), np.nan), where=weights > 0)
    return wider_interval(found, percentile_interval(float(values[defined].mean()), sample, level, draws.shape[1]))


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
