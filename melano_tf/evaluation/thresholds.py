"""Decision thresholds, and a fitted decision: calibration and threshold, both from one hold-out.

A threshold is never chosen on the samples that a table reports: Youden's index or a wanted sensitivity is sought on an
inner hold-out of training patients (`splits.inner_holdout`), on calibrated probabilities, and what it reached there is
kept with it. That record is a little optimistic, because the same samples chose the threshold.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from melano_tf.errors import InputError, line_of
from melano_tf.evaluation.binary_intervals import binary_intervals
from melano_tf.evaluation.binary_metrics import format_value
from melano_tf.evaluation.calibration import Calibration, fit_calibration, logits_of
from melano_tf.evaluation.curves import counts_by_threshold
from melano_tf.evaluation.interval import Interval

Rule = Literal["youden", "sensitivity", "fixed"]


@dataclass(frozen=True)
class ThresholdSettings:
    """How a threshold is found.

    Attributes:
        rule: "youden": the highest sensitivity + specificity; "sensitivity": the highest threshold that reaches the
            wanted sensitivity; "fixed": the given value.
        sensitivity: wanted by the rule of that name, 0..1.
        value: of the rule "fixed", 0..1.
        level: coverage of the intervals on the hold-out.
    """

    rule: Rule = "youden"
    sensitivity: float = 0.9
    value: float = 0.5
    level: float = 0.95


@dataclass(frozen=True)
class Threshold:
    """A decision threshold and where it comes from; positive where p >= value.

    Attributes:
        value: on the (calibrated) probability of the positive class.
        rule: how it was found, in words.
        hold_out: on which samples, in words; None where it was fixed beforehand and measured nowhere.
        samples, positives: numbers on the hold-out.
        sensitivity, specificity: there, with their intervals by patient; None without a hold-out.
    """

    value: float
    rule: str
    hold_out: str | None = None
    samples: int = 0
    positives: int = 0
    sensitivity: Interval | None = None
    specificity: Interval | None = None

    def apply(self, p: ArrayLike) -> NDArray[np.bool_]:
        """The decision: whether p >= value, of p's shape."""
        return np.asarray(np.asarray(p, dtype=np.float64) >= self.value)

    def words(self) -> str:
        """One line for a sidecar or a table: the rule, the hold-out, and what was reached there."""
        if self.hold_out is None:
            return self.rule
        reached = ", ".join(
            f"{name} {format_value(found.value)} ({found.ends()})"
            for name, found in (("sensitivity", self.sensitivity), ("specificity", self.specificity))
            if found is not None
        )
        verb = "measured on" if self.rule.startswith("fixed") else "chosen on"
        return f"{self.rule}; {verb} {self.hold_out}: {reached}"

    def to_json(self) -> dict[str, Any]:
        """The record as JSON can hold it; an undefined number is None."""
        record = dataclasses.asdict(self)
        for name in ("sensitivity", "specificity"):
            if record[name] is not None:
                record[name] = {k: None if v != v else v for k, v in record[name].items()}
        return record

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "Threshold":
        """The threshold of a record.

        Raises:
            InputError: entries are missing or unknown, or the value is no number between 0 and 1.
        """
        entries = dict(content)
        try:
            for name in ("sensitivity", "specificity"):
                if entries.get(name) is not None:
                    numbers: dict[str, Any] = {k: math.nan if v is None else v for k, v in entries[name].items()}
                    entries[name] = Interval(**numbers)
            found = cls(**entries)
            usable = 0 <= found.value <= 1
        except (TypeError, AttributeError) as error:
            raise InputError(f"threshold: not a threshold's record ({line_of(error)}); train the model again") from None
        if not usable:
            raise InputError(f"threshold {found.value!r} must lie between 0 and 1; train the model again")
        return found


def youden_threshold(y: ArrayLike, p: ArrayLike) -> float:
    """The threshold with the highest sensitivity + specificity; of several equal ones the most sensitive.

    It is set half-way between the lowest score called positive and the next one below, so that a score which comes out
    in another batch with its last digits changed is still decided alike. 0 where everything is called.

    Raises:
        InputError: one class is missing.
    """
    counts = counts_by_threshold(y, p)
    _check_both(counts.positives, counts.negatives)
    # Integers, so that equal indices are equal: (SN + SPC - 1) P N = TP N - FP P.
    gain = counts.tp * counts.negatives - counts.fp * counts.positives
    return _between(counts.threshold, int(len(gain) - 1 - np.argmax(gain[::-1])))


def sensitivity_threshold(y: ArrayLike, p: ArrayLike, sensitivity: float) -> float:
    """The highest threshold that reaches a sensitivity, set half-way to the next score below.

    Raises:
        InputError: the sensitivity is not above 0 and at most 1, or one class is missing.
    """
    if not 0 < sensitivity <= 1:
        raise InputError(f"wanted sensitivity {sensitivity} must be above 0 and at most 1")
    counts = counts_by_threshold(y, p)
    _check_both(counts.positives, counts.negatives)
    # 0.9 x 10 positives is 9 of them, whatever 0.9 is in binary.
    needed = math.ceil(sensitivity * counts.positives - 1e-9)
    return _between(counts.threshold, int(np.searchsorted(counts.tp, max(needed, 1), side="left")))


def _check_both(positives: int, negatives: int) -> None:
    if not positives or not negatives:
        raise InputError(
            f"a threshold cannot be chosen on {positives} positive and {negatives} negative samples; "
            "hold out more patients, or fix the threshold"
        )


def _between(thresholds: NDArray[np.float64], index: int) -> float:
    """Half-way from the score at `index` (descending, not 0) to the next one; never as low as that one."""
    if index + 1 == len(thresholds):
        return 0.0
    upper, lower = float(thresholds[index]), float(thresholds[index + 1])
    middle = lower + (upper - lower) / 2
    return middle if middle > lower else upper


def choose_threshold(
    y: ArrayLike,
    p: ArrayLike,
    groups: Sequence[str] | NDArray[np.generic],
    settings: ThresholdSettings,
    *,
    hold_out: str,
) -> Threshold:
    """The threshold of a hold-out by the settings' rule, with sensitivity and specificity there.

    Args:
        y: labels, (n,) of 0 and 1.
        p: (calibrated) probabilities, (n,), 0..1.
        groups: the patient of each sample, (n,).
        settings: see there.
        hold_out: which samples these are, in words.

    Raises:
        InputError: a setting is out of range, or one class is missing and the rule needs both.
        ValueError: inputs of different lengths, or probabilities outside 0..1.
    """
    scores = np.asarray(p)
    if not ((scores >= 0) & (scores <= 1)).all():
        raise ValueError("probabilities lie outside 0..1 or are not finite")
    if settings.rule == "youden":
        value, words = youden_threshold(y, scores), "Youden's index"
    elif settings.rule == "sensitivity":
        value = sensitivity_threshold(y, scores, settings.sensitivity)
        words = f"sensitivity of at least {settings.sensitivity:g}"
    else:
        value, words = fixed_threshold(settings.value).value, f"fixed at {settings.value:g}"
    found = binary_intervals(
        y,
        scores,
        groups,
        ("SN", "SPC"),
        threshold=value,
        level=settings.level,
    )
    return Threshold(
        value=value,
        rule=words,
        hold_out=hold_out,
        samples=len(scores),
        positives=int(np.asarray(y).sum()),
        sensitivity=found["SN"],
        specificity=found["SPC"],
    )


def fixed_threshold(value: float = 0.5) -> Threshold:
    """A threshold fixed beforehand.

    Raises:
        InputError: it does not lie between 0 and 1.
    """
    if not 0 <= value <= 1:
        raise InputError(f"threshold {value} must lie between 0 and 1")
    return Threshold(value=value, rule="fixed beforehand")


@dataclass(frozen=True)
class DecisionSettings:
    """How a binary classifier's probabilities become decisions.

    Attributes:
        calibrate: whether a temperature is fitted first.
        threshold: how the threshold is found, on the calibrated probabilities.
    """

    calibrate: bool = True
    threshold: ThresholdSettings = field(default_factory=ThresholdSettings)


@dataclass(frozen=True)
class Decision:
    """Calibration (or None) and threshold of one binary classifier, as its sidecar keeps them."""

    calibration: Calibration | None
    threshold: Threshold

    def probability(self, p: ArrayLike) -> NDArray[np.float64]:
        """Calibrated probabilities of the model's own, of the same shape."""
        return np.asarray(p, dtype=np.float64) if self.calibration is None else self.calibration.apply(p)

    def log_odds(self, p: ArrayLike) -> NDArray[np.float64]:
        """Log-odds of the calibrated probabilities, of p's shape; finite, also where these round to 0 or 1."""
        return logits_of(p, 1) / (1.0 if self.calibration is None else self.calibration.temperature)

    def apply(self, p: ArrayLike) -> NDArray[np.bool_]:
        """The decisions on the model's own (uncalibrated) probabilities, of the same shape."""
        return self.threshold.apply(self.probability(p))

    def sidecar_fields(self) -> dict[str, Any]:
        """`threshold`, `threshold_from`, `threshold_measured` and `calibration` of a `runs.sidecar.Sidecar`."""
        return {
            "threshold": self.threshold.value,
            "threshold_from": self.threshold.words(),
            "threshold_measured": None if self.threshold.sensitivity is None else self.threshold.to_json(),
            "calibration": None if self.calibration is None else self.calibration.to_json(),
        }

    @classmethod
    def from_sidecar(cls, threshold: float, threshold_from: str, calibration: Mapping[str, Any] | None) -> "Decision":
        """The decision of a sidecar's three fields; the threshold's own intervals stay in its words.

        Raises:
            InputError: the fields are damaged.
        """
        fitted = None if calibration is None else Calibration.from_json(calibration)
        return cls(fitted, Threshold.from_json({"value": threshold, "rule": threshold_from}))


def fit_decision(
    y: ArrayLike,
    p: ArrayLike,
    groups: Sequence[str] | NDArray[np.generic],
    settings: DecisionSettings,
    *,
    hold_out: str,
) -> Decision:
    """Calibration and then threshold of a binary classifier, both from one hold-out.

    One temperature, fitted on the same samples, moves no sample past another, so that it cannot spoil the choice.

    Args:
        y: labels, (n,) of 0 and 1.
        p: the model's own probabilities, (n,), 0..1.
        groups: the patient of each sample, (n,).
        settings: see there.
        hold_out: which samples these are, in words; see `splits.inner_holdout.HoldOut.words`.

    Raises:
        InputError, ValueError: see `fit_calibration` and `choose_threshold`.
    """
    calibration = fit_calibration(y, p, groups, hold_out=hold_out) if settings.calibrate else None
    calibrated = p if calibration is None else calibration.apply(p)
    chosen = choose_threshold(y, calibrated, groups, settings.threshold, hold_out=hold_out)
    return Decision(calibration, chosen)
