"""Figures of merit of a binary decision, with NaN (printed "n/a") wherever one is undefined.

Names as in the spitzoid paper's section 5.2: sensitivity (SN), specificity (SPC), positive and negative predictive
value (PPV, NPV), F1-score (F1S), accuracy (ACC); and balanced accuracy (BACC = (SN + SPC)/2) and the area under the ROC
curve (AUC), of which that paper prints the former under the latter's name.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

METRICS = ("SN", "SPC", "PPV", "NPV", "F1S", "ACC", "BACC", "AUC")


class Confusion(NamedTuple):
    """Counts of a binary decision; scalars, or arrays of one shape."""

    tp: ArrayLike
    fp: ArrayLike
    tn: ArrayLike
    fn: ArrayLike


def check_pairs(y: ArrayLike, p: ArrayLike) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """Labels as bool (n,) and probabilities as float64 (n,).

    Raises:
        ValueError: shapes differ, labels other than 0 and 1, or a probability that is not finite.
    """
    labels, scores = np.asarray(y), np.asarray(p, dtype=np.float64)
    if labels.shape != scores.shape or labels.ndim != 1:
        raise ValueError(f"labels {labels.shape} and probabilities {scores.shape} must be two vectors of one length")
    if not np.isin(labels, (0, 1)).all():
        raise ValueError("labels must be 0 or 1")
    if not np.isfinite(scores).all():
        raise ValueError(f"{(~np.isfinite(scores)).sum()} probabilities are not finite")
    return labels.astype(bool), scores


def confusion(y: ArrayLike, p: ArrayLike, threshold: float = 0.5) -> Confusion:
    """Counts of the decision "positive where p >= threshold"; `y` (n,) of 0 and 1, `p` (n,)."""
    labels, scores = check_pairs(y, p)
    called = scores >= threshold
    return Confusion(
        tp=int((called & labels).sum()),
        fp=int((called & ~labels).sum()),
        tn=int((~called & ~labels).sum()),
        fn=int((~called & labels).sum()),
    )


def metrics_of_counts(counts: Confusion) -> dict[str, NDArray[np.float64]]:
    """SN, SPC, PPV, NPV, F1S, ACC and BACC of counts of any shape, elementwise; NaN where a divisor is zero."""
    tp, fp, tn, fn = (np.asarray(count) for count in counts)
    sensitivity, specificity = _ratio(tp, tp + fn), _ratio(tn, tn + fp)
    return {
        "SN": sensitivity,
        "SPC": specificity,
        "PPV": _ratio(tp, tp + fp),
        "NPV": _ratio(tn, tn + fn),
        "F1S": _ratio(2 * tp, 2 * tp + fp + fn),
        "ACC": _ratio(tp + tn, tp + fp + tn + fn),
        "BACC": (sensitivity + specificity) / 2,
    }


def _ratio(numerator: NDArray[np.float64], divisor: NDArray[np.float64]) -> NDArray[np.float64]:
    result = np.full(np.shape(divisor), np.nan)
    return np.divide(numerator, divisor, out=result, where=divisor > 0)


def roc_auc(y: ArrayLike, p: ArrayLike) -> float:
    """Area under the ROC curve: the chance that a positive is scored above a negative, ties counting half.

    NaN where one class is missing.
    """
    labels, scores = check_pairs(y, p)
    if labels.all() or not labels.any():
        return math.nan
    from sklearn.metrics import roc_auc_score  # 65 MiB that who only shows numbers does without

    return float(roc_auc_score(labels, scores))


def binary_metrics(y: ArrayLike, p: ArrayLike, threshold: float = 0.5) -> dict[str, float]:
    """Every one of `METRICS` for labels `y` (n,) of 0 and 1 and probabilities `p` (n,).

    Undefined ones are NaN: SN, BACC and AUC without positives; SPC, BACC and AUC without negatives; PPV where nothing
    is called positive, NPV where nothing is called negative; F1S where there are neither positives nor calls.
    """
    values = {name: float(value) for name, value in metrics_of_counts(confusion(y, p, threshold)).items()}
    return values | {"AUC": roc_auc(y, p)}


@dataclass(frozen=True)
class Summary:
    """One metric over cohorts.

    Attributes:
        mean: over the cohorts in which the metric is defined; NaN where it is in none.
        std: standard deviation over the same; NaN with fewer than two of them.
        defined: number of cohorts in which it is defined.
        cohorts: number of cohorts.
    """

    mean: float
    std: float
    defined: int
    cohorts: int


def mean_std(cohorts: Sequence[Mapping[str, float]], ddof: int = 0) -> dict[str, Summary]:
    """Mean and standard deviation of each metric over cohorts, undefined values left out and counted.

    Args:
        cohorts: the metrics of each cohort; the first one names them.
        ddof: the divisor is n - ddof. The default 0 (numpy's) is the spitzoid paper's: with four cohorts, its BGAP
            specificity 0.8500 ± 0.1658 is {0.6, 0.8, 1, 1} with divisor 4, and nothing that divisor 3 could give.
    """
    if not cohorts:
        return {}
    result = {}
    for name in cohorts[0]:
        values = np.array([cohort[name] for cohort in cohorts], dtype=np.float64)
        values = values[~np.isnan(values)]
        mean = float(values.mean()) if len(values) else math.nan
        std = float(values.std(ddof=ddof)) if len(values) > 1 else math.nan
        result[name] = Summary(mean, std, len(values), len(cohorts))
    return result


def format_value(value: float, digits: int = 4) -> str:
    """A metric as the paper prints it, 0.8752; "n/a" where it is undefined."""
    return "n/a" if math.isnan(value) else f"{value:.{digits}f}"


def format_mean_std(mean: float, std: float) -> str:
    """Mean ± standard deviation, 0.8752 ± 0.0357; without ± where only one cohort has the metric."""
    return format_value(mean) if math.isnan(mean) or math.isnan(std) else f"{format_value(mean)} ± {format_value(std)}"
