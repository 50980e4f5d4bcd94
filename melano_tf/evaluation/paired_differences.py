"""Paired differences between models judged on the same samples: every resample of the groups judges all of them.

What makes a group of patients easy or hard is the same for every model, so a paired difference is known better than two
separate intervals suggest; overlapping intervals do not mean that there is no difference.
"""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from melano_tf.evaluation.binary_intervals import balanced, cells_by_group
from melano_tf.evaluation.binary_metrics import Confusion, check_pairs, confusion, metrics_of_counts, roc_auc
from melano_tf.evaluation.bootstrap import group_draws, percentile_interval, resampled_auc
from melano_tf.evaluation.interval import DELONG, NONE, WILSON, Interval, closed_interval, wider_interval
from melano_tf.evaluation.multiclass_metrics import (
    check_classes,
    class_estimates,
    confusion_matrix,
    counts_by_group,
    metrics_of_matrix,
)
from melano_tf.evaluation.wilson_delong import Estimate, area, mean_area, wilson

BINARY = ("AUC", "BACC")
SEVERAL = ("BACC", "ACC")


@dataclass(frozen=True)
class Answer:
    """What one model says of the samples.

    Attributes:
        scores: (n,) probability of the positive class, or (n, K) of each class.
        called: (n,) of 0 and 1, its decisions with its own threshold; of several classes None: the most probable one.
    """

    scores: ArrayLike
    called: ArrayLike | None = None


@dataclass(frozen=True)
class Paired:
    """One model beside the first one, by metric.

    Attributes:
        own: of the model itself.
        differences: the model less the first one; None for the first one.
    """

    own: dict[str, Interval]
    differences: dict[str, Interval] | None


def paired_intervals(
    y: ArrayLike,
    answers: Sequence[Answer],
    groups: Sequence[str] | NDArray[np.generic],
    *,
    repeats: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> list[Paired]:
    """Intervals of each model's metrics, and of their differences from the first model's.

    The models' own as everywhere (`binary_intervals`, `multiclass_intervals`). The differences are bootstrapped:
    all models are judged by the same resamples of whole groups (patients, lesions). Where all resamples agree (the
    models decide alike), no group of those of the rarer class has shown a difference: up to Wilson's upper end of 0 of
    so many could, in either direction.

    Args:
        y: labels, (n,): 0 and 1 (metrics `BINARY`), or class indices where scores are (n, K) (metrics `SEVERAL`).
        answers: of each model, on the samples in the same order.
        groups: the group of each sample, (n,).
        repeats: number of resamples.
        level: coverage.
        seed: of the draw; the order of the samples does not matter.

    Raises:
        ValueError: inputs of different lengths or shapes, no sample, no model.
    """
    if not answers or not len(groups):
        raise ValueError("paired intervals need at least one model and one sample")
    if len(np.asarray(y)) != len(groups):
        raise ValueError(f"{len(groups)} groups for {len(np.asarray(y))} samples")
    index, draws = group_draws(groups, repeats, seed)
    judged = [_several if np.ndim(answer.scores) == 2 else _binary for answer in answers]
    if len(set(judged)) > 1:
        raise ValueError("models of two classes and of several cannot be compared")
    found = [judge(y, answer, index, draws, level) for judge, answer in zip(judged, answers, strict=True)]
    first, count = found[0], draws.shape[1]
    fewest = min(len(np.unique(index[np.asarray(y) == label])) for label in np.unique(np.asarray(y)))
    result = []
    for place, one in enumerate(found):
        own, gaps = {}, {}
        for name, value in one.values.items():
            resampled = percentile_interval(value, one.samples[name], level, count)
            closed = closed_interval(one.closed[name], level, count, DELONG if name == "AUC" else WILSON)
            own[name] = wider_interval(one.closed[name], resampled) if name == "BACC" else closed
            apart = one.samples[name] - first.samples[name]
            gap = percentile_interval(value - first.values[name], apart, level, count)
            gaps[name] = _open(gap, count if name == "ACC" else fewest)
        result.append(Paired(own, gaps if place else None))
    return result


def _open(gap: Interval, groups: int) -> Interval:
    """A difference's interval; where all resamples agree, as far as none of so many groups lets it be."""
    if gap.method != NONE or math.isnan(gap.value):
        return gap
    most = wilson(0.0, groups, gap.level)[1]
    low, high = max(-1.0, gap.value - most), min(1.0, gap.value + most)
    return dataclasses.replace(gap, low=low, high=high, method=WILSON)


@dataclass(frozen=True)
class _Found:
    """Each metric's value, its value in each resample (repeats,), and its interval in closed form."""

    values: dict[str, float]
    samples: dict[str, NDArray[np.float64]]
    closed: dict[str, Estimate]


def _binary(y: ArrayLike, answer: Answer, index: NDArray[np.intp], draws: NDArray[np.int64], level: float) -> _Found:
    """Each metric of `BINARY`."""
    labels, scores = check_pairs(y, answer.scores)
    called = np.asarray(answer.called if answer.called is not None else scores >= 0.5).astype(bool)
    cells = cells_by_group(labels, called, index, draws.shape[1])
    counts = Confusion(*(draws @ counted for counted in cells))
    values = {
        "AUC": roc_auc(labels, scores),
        "BACC": float(metrics_of_counts(confusion(labels, called.astype(float)))["BACC"]),
    }
    samples = {"AUC": resampled_auc(labels, scores, index, draws), "BACC": metrics_of_counts(counts)["BACC"]}
    closed = {
        "AUC": mean_area([area(labels, scores, index, draws.shape[1])], level),
        "BACC": balanced(cells[:, None], level),
    }
    return _Found(values, samples, closed)


def _several(y: ArrayLike, answer: Answer, index: NDArray[np.intp], draws: NDArray[np.int64], level: float) -> _Found:
    """Each metric of `SEVERAL`; NaN in a resample that lacks a class of the sample."""
    classes, scores = check_classes(y, answer.scores)
    width = scores.shape[1]
    by_group = counts_by_group(classes, scores, index, draws.shape[1])
    matrices = (draws @ by_group.reshape(draws.shape[1], -1)).reshape(len(draws), width, width + 1)
    whole = metrics_of_matrix(confusion_matrix(classes, scores))
    held = np.isin(np.arange(width), classes)
    resampled, closed = metrics_of_matrix(matrices, held), class_estimates(by_group[None], held, level)
    names = {"BACC": "BAcc", "ACC": "Acc"}
    return _Found(
        {own: float(whole[name]) for own, name in names.items()},
        {own: resampled[name] for own, name in names.items()},
        {own: closed[name] for own, name in names.items()},
    )
