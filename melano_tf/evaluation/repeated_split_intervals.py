"""Intervals of multi-class metrics' means over random splits whose judged parts overlap.

Where each split is drawn anew, a lesion may be judged in several of them. Its images are then no independent evidence:
lesions are drawn once for all splits together, each with all of its images in every split that judges it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from melano_tf.evaluation.bootstrap import group_draws, percentile_interval, resampled_auc
from melano_tf.evaluation.calibration import expected_calibration_error, top_label
from melano_tf.evaluation.interval import WILSON, Interval, closed_interval, wider_interval
from melano_tf.evaluation.multiclass_metrics import (
    CLOSED,
    check_classes,
    class_estimates,
    confusion_matrix,
    counts_by_group,
    metrics_of_matrix,
    multiclass_metrics,
)

OVERALL = ("Acc", "BAcc", "mPR", "mF1")
MEAN_AUC = "mAUC"
CALIBRATION = "ECE"
BY_CLASS = ("RE", "PR", "F1")


@dataclass(frozen=True)
class JudgedSplit:
    """What one split's model says of the images that it judges.

    Attributes:
        y: class indices, (n,).
        scores: probabilities, (n, C).
        groups: the lesion of each image, (n,).
    """

    y: ArrayLike
    scores: ArrayLike
    groups: Sequence[str]


def split_metrics(split: JudgedSplit, names: Sequence[str]) -> dict[str, float]:
    """Acc, BAcc, mPR, mF1 of one split, and "RE <class>", "PR <class>", "F1 <class>"; NaN where undefined."""
    found = metrics_of_matrix(confusion_matrix(split.y, split.scores))
    result = {metric: float(found[metric]) for metric in OVERALL}
    return result | {f"{m} {name}": float(found[m][k]) for m in BY_CLASS for k, name in enumerate(names)}


def split_intervals(
    splits: Sequence[JudgedSplit],
    names: Sequence[str],
    *,
    repeats: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> dict[str, Interval]:
    """Intervals of the metrics' means over splits, by the names of `split_metrics`.

    Acc, RE and PR in closed form; the others also by percentile bootstrap, the wider at each end. A split that leaves a
    metric undefined (PR of a class that it never calls) is left out of that mean. A resample in which a split lacks a
    class that it judges leaves that split's means undefined, and is left out of them and counted. The interval says
    what other lesions would change, not what another training would.

    Args:
        splits: at least one, all with the same classes.
        names: of the classes, (C,).
        repeats: number of resamples.
        level: coverage.
        seed: of the draw.

    Raises:
        ValueError: no splits, or as `confusion_matrix`.
    """
    if not splits:
        raise ValueError("no splits")
    places, draws = _drawn(splits, repeats, seed)
    values = [split_metrics(split, names) for split in splits]
    count = draws.shape[1]
    counts = [
        counts_by_group(*check_classes(split.y, split.scores), at, count)
        for split, at in zip(splits, places, strict=True)
    ]
    samples = [_resampled(split, names, by_group, draws) for split, by_group in zip(splits, counts, strict=True)]
    held = np.isin(np.arange(len(names)), np.concatenate([np.asarray(split.y) for split in splits]))
    closed = class_estimates(np.stack(counts), held, level)
    closed |= {f"{metric} {name}": closed[f"{metric} {k}"] for k, name in enumerate(names) for metric in BY_CLASS}
    result = {}
    for metric in values[0]:
        there = [place for place, one in enumerate(values) if not np.isnan(one[metric])]
        if metric.split(" ")[0] in CLOSED or not there:
            result[metric] = closed_interval(closed[metric], level, count, WILSON)
        else:
            value = float(np.mean([values[place][metric] for place in there]))
            sample = np.mean([samples[place][metric] for place in there], axis=0)
            result[metric] = wider_interval(closed[metric], percentile_interval(value, sample, level, count))
    return result


def split_mean_auc(
    splits: Sequence[JudgedSplit], *, repeats: int = 2000, level: float = 0.95, seed: int = 0
) -> Interval:
    """The macro ROC AUC's mean over splits, with its interval: percentile bootstrap over lesions.

    Args:
        splits, repeats, level, seed: as `split_intervals`. A resample that lacks a class leaves it undefined.
    """
    drawn, count = _resampled_auc(splits, repeats, seed)
    return percentile_interval(_mean_auc(splits), drawn, level, count)


def split_calibration_error(
    splits: Sequence[JudgedSplit], *, repeats: int = 2000, level: float = 0.95, seed: int = 0, bins: int = 15
) -> Interval:
    """The expected calibration error's mean over splits, with its interval: percentile bootstrap over lesions.

    A resample's own error is larger on average than that of all lesions, for it adds its noise to each bin: the
    resamples are moved down by the difference, and no lower than 0. The value itself is too large in the same way, by
    less.

    Args:
        splits, repeats, level, seed: as `split_intervals`.
        bins: of equal width, of the most probable class's probability.
    """
    places, draws = _drawn(splits, repeats, seed)
    samples = []
    for split, at in zip(splits, places, strict=True):
        right, confidence = top_label(split.y, split.scores)
        gaps = np.zeros((bins, draws.shape[1]))
        edges = np.linspace(0, 1, bins + 1)
        np.add.at(gaps, (np.searchsorted(edges[1:-1], confidence, side="left"), at), right - confidence)
        drawn = draws @ np.bincount(at, minlength=draws.shape[1])
        samples.append(np.abs(draws @ gaps.T).sum(axis=1) / np.where(drawn > 0, drawn, np.nan))
    value = float(np.mean([expected_calibration_error(split.y, split.scores, bins) for split in splits]))
    resampled = np.mean(samples, axis=0)
    bias = float(np.nanmean(resampled)) - value
    return percentile_interval(value, np.maximum(resampled - bias, 0.0), level, draws.shape[1])


def paired_auc_difference(
    first: Sequence[JudgedSplit],
    other: Sequence[JudgedSplit],
    *,
    repeats: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """The other one's macro ROC AUC minus the first one's, as `paired_differences`.

    Args:
        first, other, repeats, level, seed: as there.

    Raises:
        ValueError: other images.
    """
    _check_pairs(first, other)
    (before, count), (after, _) = (_resampled_auc(splits, repeats, seed) for splits in (first, other))
    return percentile_interval(_mean_auc(other) - _mean_auc(first), after - before, level, count)


def _drawn(splits: Sequence[JudgedSplit], repeats: int, seed: int) -> tuple[list[NDArray[np.intp]], NDArray[np.int64]]:
    """The lesion of each image, split by split, and how often each resample drew each lesion (`group_draws`)."""
    index, draws = group_draws([name for split in splits for name in split.groups], repeats, seed)
    return np.split(index, np.cumsum([len(split.groups) for split in splits])[:-1]), draws


def _mean_auc(splits: Sequence[JudgedSplit]) -> float:
    return float(np.mean([multiclass_metrics(split.y, split.scores)[MEAN_AUC] for split in splits]))


def _resampled_auc(splits: Sequence[JudgedSplit], repeats: int, seed: int) -> tuple[NDArray[np.float64], int]:
    """The macro ROC AUC's mean over splits in each resample, (repeats,), and the number of lesions."""
    places, draws = _drawn(splits, repeats, seed)
    samples = []
    for split, at in zip(splits, places, strict=True):
        y, scores = check_classes(split.y, split.scores)
        samples.append(np.mean([resampled_auc(y == k, scores[:, k], at, draws) for k in np.unique(y)], axis=0))
    return np.mean(samples, axis=0), draws.shape[1]


def _check_pairs(first: Sequence[JudgedSplit], other: Sequence[JudgedSplit]) -> None:
    for one, two in zip(first, other, strict=True):
        if list(one.groups) != list(two.groups) or not np.array_equal(one.y, two.y):
            raise ValueError("paired differences need the same images in the same order")


def paired_differences(
    first: Sequence[JudgedSplit],
    other: Sequence[JudgedSplit],
    names: Sequence[str],
    *,
    repeats: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> dict[str, Interval]:
    """The other one's metrics minus the first one's, means over splits, on the same images: by metric of `OVERALL`.

    Percentile bootstrap; both are judged on the same draws of lesions. The interval says what other lesions would
    change, not what another training would.

    Args:
        first, other: split by split of the same images in the same order.
        names, repeats, level, seed: as `split_intervals`.

    Raises:
        ValueError: other images.
    """
    _check_pairs(first, other)
    places, draws = _drawn(first, repeats, seed)
    values, samples = [], []
    for one, two, at in zip(first, other, places, strict=True):
        before, after = (split_metrics(split, names) for split in (one, two))
        values.append([after[metric] - before[metric] for metric in OVERALL])
        drawn = [
            _resampled(split, names, counts_by_group(*check_classes(split.y, split.scores), at, draws.shape[1]), draws)
            for split in (one, two)
        ]
        samples.append([drawn[1][metric] - drawn[0][metric] for metric in OVERALL])
    value, sample = np.mean(values, axis=0), np.mean(samples, axis=0)
    return {
        metric: percentile_interval(float(value[k]), sample[k], level, draws.shape[1])
        for k, metric in enumerate(OVERALL)
    }


def _resampled(
    split: JudgedSplit, names: Sequence[str], by_group: NDArray[np.float64], draws: NDArray[np.int64]
) -> dict[str, NDArray[np.float64]]:
    """Each metric of one split in each resample, (repeats,); by_group (groups, K, K + 1)."""
    matrices = (draws @ by_group.reshape(draws.shape[1], -1)).reshape(len(draws), *by_group.shape[1:])
    found = metrics_of_matrix(matrices, np.isin(np.arange(by_group.shape[1]), np.asarray(split.y)))
    result = {metric: found[metric] for metric in OVERALL}
    return result | {f"{m} {name}": found[m][:, k] for m in BY_CLASS for k, name in enumerate(names)}
