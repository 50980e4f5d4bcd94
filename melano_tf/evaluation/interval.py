"""A number with its interval, by which method, and how both are written."""

import dataclasses
import math
from dataclasses import dataclass

import numpy as np

from melano_tf.evaluation.binary_metrics import format_value
from melano_tf.evaluation.wilson_delong import Estimate

WILSON, DELONG, BOOTSTRAP, WIDER, NONE = "Wilson", "DeLong", "bootstrap", "wider", "none"
# For the notes under a table.
METHODS = {
    WILSON: "Wilson's score interval with continuity correction on the effective number of them",
    DELONG: "DeLong's with clusters (Obuchowski 1997) on the logit or Newcombe's score interval, the wider at each end",
    WIDER: "percentile bootstrap or Wilson's (of a mean: MOVER of its parts' intervals), the wider at each end",
    BOOTSTRAP: "percentile bootstrap",
    NONE: "not estimable, because all resamples agree or there is nothing to judge",
}


@dataclass(frozen=True)
class Interval:
    """A metric with its interval.

    Attributes:
        value: on the sample itself; NaN where undefined.
        low, high: ends of the interval; NaN where it is not estimable: never of no width.
        undefined: resamples left out because the metric is undefined in them (one class only, for example).
        repeats: resamples drawn; 0 where none were needed.
        groups: number of groups (patients) that were judged.
        level: coverage, for example 0.95.
        method: "Wilson", "DeLong" (both in closed form, see `wilson_delong`), "bootstrap" (percentiles of resamples of
            groups), "wider" (of bootstrap and closed form, at each end), or "none": not estimable.
    """

    value: float
    low: float
    high: float
    undefined: int
    repeats: int
    groups: int
    level: float
    method: str = BOOTSTRAP

    def ends(self) -> str:
        """The interval as text: "0.7351 to 0.9012", or that there is none."""
        return ends_text(self.low, self.high)


def ends_text(low: float, high: float) -> str:
    """An interval's ends as text; NaN, or of no width as in records of old runs: not estimable."""
    if not high > low:
        return "not estimable"
    return f"{format_value(low)} to {format_value(high)}"


def closed_interval(found: Estimate, level: float, groups: int, method: str) -> Interval:
    """The interval of an estimate in closed form."""
    method = NONE if math.isnan(found.low) else method
    return Interval(found.value, found.low, found.high, 0, 0, groups, level, method)


def wider_interval(found: Estimate, resampled: Interval) -> Interval:
    """Of a metric's interval in closed form and a bootstrap's, the wider at each end, around the bootstrap's value.

    The metric lies in 0..1, and so do the ends.
    """
    if math.isnan(found.low) or math.isnan(resampled.value):
        return resampled
    low = np.fmin(resampled.value - (found.value - found.low), resampled.low)
    high = np.fmax(resampled.value + (found.high - found.value), resampled.high)
    # The two values differ where F1 is a mean over splits (here of F1, there of its share): an end may leave 0..1.
    return dataclasses.replace(resampled, low=max(0.0, float(low)), high=min(1.0, float(high)), method=WIDER)
