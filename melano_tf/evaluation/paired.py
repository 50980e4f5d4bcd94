"""Paired differences between models judged on the same samples: every resample of the groups judges all of them.

What makes a group of patients easy or hard is the same for every model, so a paired difference is known better than two
separate intervals suggest; overlapping intervals do not mean that there is no difference.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from melano_tf.evaluation.intervals import Interval, group_draws, percentile_interval, resampled_auc
from melano_tf.evaluation.metrics import Confusion, check_pairs, confusion, metrics_of_counts, roc_auc
from melano_tf.evaluation.multiclass import check_classes, confusion_matrix, decide, metrics_of_matrix

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
    """Percentile bootstrap intervals of each model's metrics and of their differences from the first model's.

    All models are judged by the same resamples of whole groups (patients, lesions).

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
    found = [judge(y, answer, index, draws) for judge, answer in zip(judged, answers, strict=True)]
    first_values, first_samples = found[0]
    result = []
    for place, (values, samples) in enumerate(found):
        own = {name: percentile_interval(values[name], samples[name], level, draws.shape[1]) for name in values}
        gaps = {
            name: percentile_interval(
                values[name] - first_values[name], samples[name] - first_samples[name], level, draws.shape[1]
            )
            for name in values
        }
        result.append(Paired(own, gaps if place else None))
    return result


Values = tuple[dict[str, float], dict[str, NDArray[np.float64]]]


def _binary(y: ArrayLike, answer: Answer, index: NDArray[np.intp], draws: NDArray[np.int64]) -> Values:
    """Each metric of `BINARY` on the sample, and in each resample (repeats,)."""
    labels, scores = check_pairs(y, answer.scores)
    called = np.asarray(answer.called if answer.called is not None else scores >= 0.5).astype(bool)
    cells = (called & labels, called & ~labels, ~called & ~labels, ~called & labels)
    counts = Confusion(*(draws @ np.bincount(index, weights=cell, minlength=draws.shape[1]) for cell in cells))
    values = {
        "AUC": roc_auc(labels, scores),
        "BACC": float(metrics_of_counts(confusion(labels, called.astype(float)))["BACC"]),
    }
    return values, {"AUC": resampled_auc(labels, scores, index, draws), "BACC": metrics_of_counts(counts)["BACC"]}


def _several(y: ArrayLike, answer: Answer, index: NDArray[np.intp], draws: NDArray[np.int64]) -> Values:
    """Each metric of `SEVERAL` on the sample, and in each resample; NaN where a class of the sample is missing."""
    classes, scores = check_classes(y, answer.scores)
    width = scores.shape[1]
    by_group = np.zeros((draws.shape[1], width, width + 1))
    np.add.at(by_group, (index, classes, decide(scores)), 1)
    matrices = (draws @ by_group.reshape(draws.shape[1], -1)).reshape(len(draws), width, width + 1)
    whole = metrics_of_matrix(confusion_matrix(classes, scores))
    resampled = metrics_of_matrix(matrices, np.isin(np.arange(width), classes))
    names = {"BACC": "BAcc", "ACC": "Acc"}
    return {own: float(whole[name]) for own, name in names.items()}, {own: resampled[n] for own, n in names.items()}
