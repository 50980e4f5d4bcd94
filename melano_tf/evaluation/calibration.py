"""Calibration: temperature scaling fitted on a hold-out, reliability bins, expected calibration error.

Temperature scaling (Guo et al., 2017) divides the logits by one number, chosen to minimise the log loss on samples that
the model was not trained on. It changes no ranking, so ROC, PR and the most probable class stay as they are.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import minimize_scalar
from scipy.special import expit, log_softmax, logit, softmax

from melano_tf.errors import InputError
from melano_tf.evaluation.binary_metrics import check_pairs
from melano_tf.evaluation.multiclass_metrics import check_classes, is_right
from melano_tf.evaluation.wilson_delong import mean_share

# Probabilities are read as no nearer to 0 or 1 than this: a sigmoid in float32 cannot tell 1 - 6e-8 from 1, whose
# logit would be infinite, and no temperature could soften it.
RESOLUTION = 1e-7
TEMPERATURES = (0.05, 20.0)


@dataclass(frozen=True)
class Reliability:
    """How often things happened that were given a probability, by bins of it; empty bins are left out.

    Attributes:
        low_edge, high_edge: ends of each bin, (bins,); a bin holds low_edge < p <= high_edge, the first
            one its lower end too.
        count: samples in each bin.
        predicted: mean probability in each bin.
        observed: share of positives (or of right decisions) in each bin.
        low, high: ends of the interval of `observed` (`wilson_delong.mean_share`); NaN where no groups were given.
        level: coverage of that interval, pointwise.
    """

    low_edge: NDArray[np.float64]
    high_edge: NDArray[np.float64]
    count: NDArray[np.int64]
    predicted: NDArray[np.float64]
    observed: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    level: float

    @property
    def expected_error(self) -> float:
        """Expected calibration error: mean |observed - predicted|, weighted by the bins' counts; NaN of no sample."""
        gap = np.abs(self.observed - self.predicted)
        return float(self.count @ gap / self.count.sum()) if len(self.count) else math.nan


def reliability(
    y: ArrayLike,
    p: ArrayLike,
    groups: Sequence[str] | NDArray[np.generic] | None = None,
    *,
    bins: int = 15,
    by: Literal["width", "mass"] = "width",
    level: float = 0.95,
) -> Reliability:
    """Reliability bins of probabilities.

    Args:
        y: whether it happened, (n,) of 0 and 1. Of several classes: `top_label` gives this and the next one.
        p: its probability, (n,), 0..1.
        groups: the group (patient) of each sample, (n,), for the intervals; None: no intervals.
        bins: number of bins.
        by: bins of equal width, or of (nearly) equal count, which a rare class needs: nearly all of its samples
            lie in the first bin of equal width.
        level: coverage of the intervals.

    Raises:
        ValueError: inputs of different lengths, probabilities outside 0..1, no bins.
    """
    labels, scores = check_pairs(y, p)
    _check_range(scores)
    if bins < 1:
        raise ValueError(f"{bins} bins: at least one is needed")
    edges = _equal_mass(scores, bins) if by == "mass" and len(scores) else np.linspace(0, 1, bins + 1)
    index = np.searchsorted(edges[1:-1], scores, side="left")
    count = np.bincount(index, minlength=len(edges) - 1)
    kept = count > 0
    happened, total = (np.bincount(index, weights=values, minlength=len(count))[kept] for values in (labels, scores))
    low, high = np.full((2, int(kept.sum())), np.nan)
    if groups is not None:
        low, high = _bands(labels, index, groups, kept, level)
    return Reliability(
        low_edge=edges[:-1][kept],
        high_edge=edges[1:][kept],
        count=count[kept],
        predicted=total / count[kept],
        observed=happened / count[kept],
        low=low,
        high=high,
        level=level,
    )


def _equal_mass(scores: NDArray[np.float64], bins: int) -> NDArray[np.float64]:
    """Edges of bins that hold as equal counts as ties allow: the lowest score, and the last score of each bin."""
    ordered = np.sort(scores)
    last = [-(-len(ordered) * k // bins) - 1 for k in range(1, bins + 1)]
    return np.r_[ordered[0], np.unique(ordered[last])]


def _bands(
    labels: NDArray[np.bool_],
    index: NDArray[np.intp],
    groups: Sequence[str] | NDArray[np.generic],
    kept: NDArray[np.bool_],
    level: float,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Interval of the observed share of each kept bin."""
    if len(groups) != len(labels):
        raise ValueError(f"{len(groups)} groups for {len(labels)} samples")
    names, group = np.unique(np.asarray(groups), return_inverse=True)
    cells = np.zeros((2, len(kept), len(names)))
    np.add.at(cells[0], (index, group), labels)
    np.add.at(cells[1], (index, group), 1.0)
    found = [mean_share(cells[0, place][None], cells[1, place][None], level) for place in np.flatnonzero(kept)]
    return np.array([one.low for one in found]), np.array([one.high for one in found])


def top_label(y: ArrayLike, probabilities: ArrayLike) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """Whether the most probable class is the true one, and its probability, both (n,): Guo et al.'s confidence.

    Args:
        y: class indices, (n,).
        probabilities: (n, K). A tie for the highest counts as wrong, as everywhere in `evaluation.multiclass_metrics`.
    """
    classes, scores = check_classes(y, probabilities)
    return is_right(classes, scores), scores.max(axis=1)


def expected_calibration_error(y: ArrayLike, p: ArrayLike, bins: int = 15) -> float:
    """ECE by bins of equal width: of p (n,) for y of 0 and 1, or of the most probable class for p (n, K)."""
    happened, scores = (y, p) if np.ndim(p) == 1 else top_label(y, p)
    return reliability(happened, scores, bins=bins).expected_error


def log_loss(y: ArrayLike, logits: ArrayLike) -> float:
    """Mean negative log likelihood (natural logarithm) of logits: (n,) for y of 0 and 1, or (n, K) for indices."""
    truth, values = _check_logits(y, logits)
    return _loss(truth, values)


def _loss(y: NDArray[np.intp], logits: NDArray[np.float64]) -> float:
    if logits.ndim == 1:
        return float(np.logaddexp(0, np.where(y == 1, -logits, logits)).mean())
    return float(-log_softmax(logits, axis=1)[np.arange(len(y)), y].mean())


def logits_of(probabilities: ArrayLike, outputs: int) -> NDArray[np.float64]:
    """Logits of probabilities: log p/(1 - p) where outputs is 1, elementwise; log p (up to a constant) otherwise.

    Raises:
        ValueError: probabilities outside 0..1, or a last axis of another length than `outputs` (if not 1).
    """
    values = np.asarray(probabilities, dtype=np.float64)
    _check_range(values)
    if outputs == 1:
        return np.asarray(logit(np.clip(values, RESOLUTION, 1 - RESOLUTION)))
    if values.ndim == 0 or values.shape[-1] != outputs:
        raise ValueError(f"probabilities of shape {values.shape}; the last axis must be {outputs} classes")
    return np.log(np.maximum(values, RESOLUTION))


@dataclass(frozen=True)
class Calibration:
    """A fitted temperature, and what it did on the hold-out that it was fitted on.

    Attributes:
        temperature: what the logits are divided by; above 1 softens, below 1 sharpens.
        outputs: 1 for the probability of one positive class, else the number of classes.
        hold_out: which samples it was fitted on, in words.
        samples, groups: their number, and that of their patients.
        log_loss_before, log_loss_after: on the hold-out; `after` is never above `before`.
        ece_before, ece_after: expected calibration error there, in `bins` bins of equal width.
        bins: see there.
        at_limit: the best temperature lies at or beyond the limits `TEMPERATURES`: the hold-out is separated without
            an error, or its probabilities say nothing. Such a calibration is not to be trusted.
    """

    temperature: float
    outputs: int
    hold_out: str
    samples: int
    groups: int
    log_loss_before: float
    log_loss_after: float
    ece_before: float
    ece_after: float
    bins: int
    at_limit: bool

    def apply(self, probabilities: ArrayLike) -> NDArray[np.float64]:
        """Calibrated probabilities of the same shape: any shape where outputs is 1, else (..., outputs).

        Raises:
            ValueError: probabilities outside 0..1, or of another number of classes.
        """
        return self.apply_logits(logits_of(probabilities, self.outputs))

    def apply_logits(self, logits: ArrayLike) -> NDArray[np.float64]:
        """Calibrated probabilities of logits, of the same shape."""
        scaled = np.asarray(logits, dtype=np.float64) / self.temperature
        return np.asarray(expit(scaled) if self.outputs == 1 else softmax(scaled, axis=-1))

    def to_json(self) -> dict[str, Any]:
        """What the sidecar of the model keeps under `calibration`."""
        return {"method": "temperature", **dataclasses.asdict(self)}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "Calibration":
        """The calibration of a sidecar.

        Raises:
            InputError: another method, missing or unknown entries, or an impossible temperature.
        """
        entries = dict(content)
        method = entries.pop("method", None)
        if method != "temperature":
            raise InputError(f"calibration by method {method!r} is not known here; known is 'temperature'")
        names = {field.name for field in dataclasses.fields(cls)}
        if faults := sorted(names ^ set(entries)):
            raise InputError(f"calibration: entries missing or unknown: {', '.join(faults)}; train the model again")
        found = cls(**entries)
        try:
            usable = 0 < found.temperature < math.inf and found.outputs >= 1
        except TypeError:
            usable = False
        if not usable:
            raise InputError(
                f"calibration: temperature {found.temperature!r} must be a number above 0 "
                f"and outputs {found.outputs!r} at least 1; train the model again"
            )
        return found


def fit_calibration(
    y: ArrayLike,
    values: ArrayLike,
    groups: Sequence[str] | NDArray[np.generic],
    *,
    hold_out: str,
    logits: bool = False,
    bins: int = 15,
) -> Calibration:
    """The temperature that minimises the log loss on a hold-out, by bounded Brent search over its logarithm.

    The loss is convex in 1/temperature, so that the minimum found is the only one.

    Args:
        y: (n,) of 0 and 1 where values are (n,), class indices where they are (n, K).
        values: probabilities (of the positive class, or of each class), or logits.
        groups: the patient of each sample, (n,); counted for the record.
        hold_out: which samples these are, in words; see `splits.inner_holdout.HoldOut.words`.
        logits: whether `values` are logits.
        bins: of the expected calibration error.

    Raises:
        InputError: fewer than two classes among the samples, which leaves the temperature without a minimum.
        ValueError: inputs of different lengths or out of range.
    """
    if len(groups) != len(np.asarray(y)):
        raise ValueError(f"{len(groups)} groups for {len(np.asarray(y))} samples")
    outputs = 1 if np.ndim(values) == 1 else np.shape(values)[-1]
    truth, raw = _check_logits(y, values if logits else logits_of(values, outputs))
    if len(np.unique(truth)) < 2:
        raise InputError(
            f"calibration on {hold_out}: {len(truth)} samples of {len(np.unique(truth))} class(es); "
            "at least two classes are needed, hold out more patients"
        )
    bounds = np.log(TEMPERATURES)
    found = minimize_scalar(lambda t: _loss(truth, raw / math.exp(t)), bounds=bounds, method="bounded")
    before, after = _loss(truth, raw), float(found.fun)
    # The search ends within a tolerance; where the model is calibrated already, its own temperature is kept.
    temperature = math.exp(found.x) if after < before else 1.0
    fitted = Calibration(
        temperature=temperature,
        outputs=outputs,
        hold_out=hold_out,
        samples=len(truth),
        groups=len(np.unique(np.asarray(groups))),
        log_loss_before=before,
        log_loss_after=min(after, before),
        ece_before=math.nan,
        ece_after=math.nan,
        bins=bins,
        at_limit=bool(np.abs(bounds - found.x).min() < 1e-3),
    )
    plain = dataclasses.replace(fitted, temperature=1.0)
    return dataclasses.replace(
        fitted,
        ece_before=expected_calibration_error(truth, plain.apply_logits(raw), bins),
        ece_after=expected_calibration_error(truth, fitted.apply_logits(raw), bins),
    )


def _check_logits(y: ArrayLike, logits: ArrayLike) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    values = np.asarray(logits, dtype=np.float64)
    if values.ndim == 1:
        labels, values = check_pairs(y, values)
        return labels.astype(np.intp), values
    return check_classes(y, values)


def _check_range(p: NDArray[np.float64]) -> None:
    if not ((p >= 0) & (p <= 1)).all():
        raise ValueError(f"{(~((p >= 0) & (p <= 1))).sum()} probabilities lie outside 0..1 or are not finite")
