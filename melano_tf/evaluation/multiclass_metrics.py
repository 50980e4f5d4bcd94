"""Figures of merit of a decision among several classes, with intervals by group.

Names as in the sample-weighting paper's section 4: accuracy (Acc), balanced accuracy (BAcc, the mean recall), mean
precision (mPR) and mean F1-score (mF1); of each class recall (RE), precision (PR) and F1-score (F1); and beside them
the area under the ROC curve (AUC, mAUC) and the average precision (AP) of each class against the rest.

The decision is the most probable class. A tie for the highest probability is undecided and counts as wrong, as in the
ISIC challenge's scorer; to break it by index would favour the classes that stand first.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from melano_tf.evaluation.binary_metrics import roc_auc
from melano_tf.evaluation.bootstrap import group_draws, percentile_interval, resampled_auc
from melano_tf.evaluation.curves import average_precision, perfect_precision, resampled_average_precision
from melano_tf.evaluation.interval import DELONG, WILSON, Interval, closed_interval, wider_interval
from melano_tf.evaluation.wilson_delong import Estimate, area, mean_area, mean_f1, mean_share, mover

MULTICLASS_METRICS = ("Acc", "BAcc", "mPR", "mF1", "mAUC")
CLASS_METRICS = ("RE", "PR", "F1", "AUC", "AP")
CLOSED = ("Acc", "RE", "PR", "AUC")  # intervals in closed form alone
UNDECIDED = -1


def check_classes(y: ArrayLike, scores: ArrayLike) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """Class indices as intp (n,) and scores (probabilities or logits) as float64 (n, K).

    Raises:
        ValueError: shapes do not fit, fewer than two classes, an index outside 0..K-1, a score that is not finite.
    """
    classes, values = np.asarray(y), np.asarray(scores, dtype=np.float64)
    if values.ndim != 2 or classes.shape != values.shape[:1] or values.shape[1] < 2:
        raise ValueError(f"class indices {classes.shape} and scores {values.shape} must be (n,) and (n, K), K >= 2")
    if len(classes) and classes.dtype.kind not in "iu":
        raise ValueError(f"class indices must be integers, not {classes.dtype}")
    if ((classes < 0) | (classes >= values.shape[1])).any():
        raise ValueError(f"class indices must lie in 0..{values.shape[1] - 1}")
    if not np.isfinite(values).all():
        raise ValueError(f"{(~np.isfinite(values)).sum()} scores are not finite")
    return classes.astype(np.intp), values


def decide(scores: ArrayLike) -> NDArray[np.intp]:
    """The index of the most probable class of each row of (n, K), (n,); `UNDECIDED` (-1) where two are the highest."""
    values = np.asarray(scores, dtype=np.float64)
    tied = (values == values.max(axis=1, keepdims=True)).sum(axis=1) > 1
    return np.where(tied, UNDECIDED, values.argmax(axis=1))


def is_right(y: NDArray[np.intp], scores: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Whether each row's decision is its true class, (n,)."""
    return np.asarray(decide(scores) == y)


def confusion_matrix(y: ArrayLike, scores: ArrayLike) -> NDArray[np.int64]:
    """Counts (K, K + 1): rows are true classes, columns decided ones; the last column counts the undecided."""
    classes, values = check_classes(y, scores)
    matrix = np.zeros((values.shape[1], values.shape[1] + 1), np.int64)
    np.add.at(matrix, (classes, decide(values)), 1)  # UNDECIDED, -1, is the last column
    return matrix


def metrics_of_matrix(matrix: ArrayLike, judged: NDArray[np.bool_] | None = None) -> dict[str, NDArray[np.float64]]:
    """Acc, BAcc, mPR, mF1 (...,) and RE, PR, F1 (..., K) of confusion matrices (..., K, K + 1).

    A class that the truth does not hold cannot be judged: it is left out of the means, as in the ISIC challenge's
    scorer. A class that is never decided for has no precision (PR is NaN); in the mean mPR it counts 0, because to
    leave it out would reward a model for giving a class up.

    Args:
        matrix: counts, last column undecided.
        judged: which classes the means are over, (K,); None: those that the (single) matrix holds. A mean is NaN
            where one of them is missing.
    """
    counts = np.asarray(matrix, dtype=np.float64)
    true, called = counts.sum(axis=-1), counts[..., :-1].sum(axis=-2)
    hits = np.diagonal(counts, axis1=-2, axis2=-1)
    among = true > 0 if judged is None else judged
    by_class = {"RE": _ratio(hits, true), "PR": _ratio(hits, called), "F1": _ratio(2 * hits, true + called)}
    # NaN where the truth lacks the class, so that a mean over it is undefined too; 0 where it was never called.
    there = np.where(true > 0, 1.0, np.nan)
    precision = np.where(called > 0, by_class["PR"], 0.0)
    return {
        "Acc": _ratio(hits.sum(axis=-1), true.sum(axis=-1)),
        "BAcc": _mean(by_class["RE"], among),
        "mPR": _mean(precision * there, among),
        "mF1": _mean(by_class["F1"] * there, among),
    } | by_class


def _ratio(numerator: NDArray[np.float64], divisor: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.divide(numerator, divisor, out=np.full(np.shape(divisor), np.nan), where=divisor > 0)


def _mean(values: NDArray[np.float64], among: NDArray[np.bool_]) -> NDArray[np.float64]:
    chosen = values[..., among]
    return chosen.mean(axis=-1) if chosen.shape[-1] else np.full(chosen.shape[:-1], np.nan)


def multiclass_metrics(y: ArrayLike, scores: ArrayLike) -> dict[str, float]:
    """Every one of `MULTICLASS_METRICS` for class indices `y` (n,) and probabilities `scores` (n, K).

    Undefined ones are NaN: all without samples, mAUC also where the truth holds one class only. The means are over the
    classes that the truth holds; see `metrics_of_matrix`.
    """
    classes, values = check_classes(y, scores)
    found = metrics_of_matrix(confusion_matrix(classes, values))
    held = np.unique(classes)
    mean_auc = np.mean([roc_auc(classes == k, values[:, k]) for k in held]) if len(held) else math.nan
    return {name: float(found[name]) for name in MULTICLASS_METRICS[:-1]} | {"mAUC": float(mean_auc)}


def class_metrics(y: ArrayLike, scores: ArrayLike, names: Sequence[str]) -> dict[str, dict[str, float]]:
    """{class: {metric: value}} with every one of `CLASS_METRICS`; NaN where undefined.

    Args:
        y: class indices, (n,).
        scores: probabilities, (n, K).
        names: of the classes, K of them.
    """
    classes, values = check_classes(y, scores)
    _check_names(names, values)
    found = metrics_of_matrix(confusion_matrix(classes, values))
    result = {}
    for k, name in enumerate(names):
        result[name] = {metric: float(found[metric][k]) for metric in ("RE", "PR", "F1")}
        result[name]["AUC"] = roc_auc(classes == k, values[:, k])
        result[name]["AP"] = average_precision(classes == k, values[:, k])
    return result


@dataclass(frozen=True)
class MulticlassIntervals:
    """Intervals of several classes.

    Attributes:
        overall: by metric of `MULTICLASS_METRICS`. Resamples that lack a class which the sample holds leave the means
            undefined: they would be means over other classes.
        by_class: {class: {metric of `CLASS_METRICS`: interval}}.
    """

    overall: dict[str, Interval]
    by_class: dict[str, dict[str, Interval]]


def multiclass_intervals(
    y: ArrayLike,
    scores: ArrayLike,
    groups: Sequence[str] | NDArray[np.generic],
    names: Sequence[str],
    *,
    repeats: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> MulticlassIntervals:
    """Intervals of all metrics by whole groups (patients, lesions).

    Acc, RE, PR and AUC in closed form; the means and F1 from those of the classes and by percentile bootstrap, the
    wider at each end; AP by percentile bootstrap (see `perfect_precision` for a perfect one).

    Args:
        y: class indices, (n,).
        scores: probabilities, (n, K).
        groups: the group of each sample, (n,).
        names: of the classes, K of them.
        repeats: number of resamples.
        level: coverage.
        seed: of the draw.

    Raises:
        ValueError: inputs of different lengths.
    """
    classes, values = check_classes(y, scores)
    _check_names(names, values)
    if len(groups) != len(classes):
        raise ValueError(f"{len(groups)} groups for {len(classes)} samples")
    overall, by_class = multiclass_metrics(classes, values), class_metrics(classes, values, names)
    index, draws = group_draws(groups, repeats, seed)
    samples = _resampled(classes, values, index, draws)
    held = np.isin(np.arange(len(names)), classes)
    samples["mAUC"] = _mean(samples["AUC"], held)
    count = draws.shape[1]
    closed = class_estimates(counts_by_group(classes, values, index, count)[None], held, level)
    areas = [area(classes == k, values[:, k], index, count) for k in range(len(names))]
    closed |= {f"AUC {k}": mean_area([one], level) for k, one in enumerate(areas)}
    closed["mAUC"] = mover([closed[f"AUC {k}"] for k in np.flatnonzero(held)]) if held.any() else closed["BAcc"]

    def interval(metric: str, value: float, sample: NDArray[np.float64], k: int | None = None) -> Interval:
        resampled = percentile_interval(value, sample, level, count)
        if metric == "AP":
            return perfect_precision(classes == k, index, resampled)
        found = closed[metric if k is None else f"{metric} {k}"]
        if metric in CLOSED:
            return closed_interval(found, level, count, DELONG if metric == "AUC" else WILSON)
        return wider_interval(found, resampled)

    return MulticlassIntervals(
        overall={metric: interval(metric, overall[metric], samples[metric]) for metric in MULTICLASS_METRICS},
        by_class={
            name: {m: interval(m, by_class[name][m], samples[m][:, k], k) for m in CLASS_METRICS}
            for k, name in enumerate(names)
        },
    )


def counts_by_group(
    classes: NDArray[np.intp], values: NDArray[np.float64], index: NDArray[np.intp], groups: int
) -> NDArray[np.float64]:
    """The confusion matrix of each group, (groups, K, K + 1)."""
    count = values.shape[1]
    result = np.zeros((groups, count, count + 1))
    if len(classes):
        np.add.at(result, (index, classes, decide(values)), 1)
    return result


def class_estimates(counts: NDArray[np.float64], held: NDArray[np.bool_], level: float) -> dict[str, Estimate]:
    """Acc, BAcc, mPR, mF1 and "RE k", "PR k", "F1 k" in closed form, means over splits.

    A class without any call has no precision, and counts 0 in mPR as in `metrics_of_matrix`; what it could have had is
    then read from the groups that hold it.

    Args:
        counts: of each split and group, (S, G, K, K + 1).
        held: the classes that the means are over, (K,).
        level: coverage.
    """
    hits = np.moveaxis(np.diagonal(counts, axis1=2, axis2=3), -1, 0)
    true, called = np.moveaxis(counts.sum(axis=3), -1, 0), np.moveaxis(counts.sum(axis=2), -1, 0)[:-1]
    result = {"Acc": mean_share(hits.sum(axis=0), true.sum(axis=0), level)}
    precisions = []
    for k in range(len(held)):
        result[f"RE {k}"] = mean_share(hits[k], true[k], level)
        result[f"PR {k}"] = mean_share(hits[k], called[k], level)
        result[f"F1 {k}"] = mean_f1(hits[k], true[k] + called[k] - 2 * hits[k], level)
        never = called[k].sum(axis=1, keepdims=True) == 0
        precisions.append(mean_share(hits[k], np.where(never, true[k], called[k]), level))
    for name, part in (("BAcc", "RE"), ("mF1", "F1")):
        result[name] = _over([result[f"{part} {k}"] for k in np.flatnonzero(held)], result["Acc"])
    result["mPR"] = _over([precisions[k] for k in np.flatnonzero(held)], result["Acc"])
    return result


def _over(parts: Sequence[Estimate], empty: Estimate) -> Estimate:
    """Their mean; without any, what is undefined without samples too."""
    return mover(parts) if parts else empty


def _resampled(
    classes: NDArray[np.intp], values: NDArray[np.float64], index: NDArray[np.intp], draws: NDArray[np.int64]
) -> dict[str, NDArray[np.float64]]:
    """Each metric in each resample: (repeats,), or (repeats, K) for those by class."""
    count, (repeats, groups) = values.shape[1], draws.shape
    if not len(classes):
        whole: dict[str, tuple[int, ...]] = dict.fromkeys(MULTICLASS_METRICS, (repeats,))
        return {
            n: np.full(shape, np.nan) for n, shape in (whole | dict.fromkeys(CLASS_METRICS, (repeats, count))).items()
        }
    by_group = counts_by_group(classes, values, index, groups)
    matrices = (draws @ by_group.reshape(groups, -1)).reshape(repeats, count, count + 1)
    samples = metrics_of_matrix(matrices, np.isin(np.arange(count), classes))
    against = [(classes == k, values[:, k], index, draws) for k in range(count)]
    samples["AUC"] = np.stack([resampled_auc(*one) for one in against], axis=1)
    samples["AP"] = np.stack([resampled_average_precision(*one) for one in against], axis=1)
    return samples


def _check_names(names: Sequence[str], values: NDArray[np.float64]) -> None:
    if len(names) != values.shape[1] or len(set(names)) != len(names):
        raise ValueError(f"{len(names)} names {list(names)} for {values.shape[1]} classes; each needs one of its own")
