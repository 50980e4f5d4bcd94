"""Intervals of means over validation cohorts: against a loop that resamples patients by hand."""

import math

import numpy as np
import pytest

from melano_tf.evaluation.binary_intervals import Judged, binary_intervals, cohort_intervals
from melano_tf.evaluation.binary_metrics import binary_metrics
from melano_tf.evaluation.bootstrap import group_draws


def cohort(seed: int, patients: int, threshold: float) -> Judged:
    rng = np.random.default_rng(seed)
    groups = np.repeat(np.arange(patients), rng.integers(1, 5, patients))
    y = (rng.uniform(size=len(groups)) < 0.4).astype(int)
    p = np.clip(0.3 * y + rng.uniform(0, 0.7, len(groups)), 0, 1).round(2)
    return Judged(y, p, [f"P{group}" for group in groups], threshold)


def test_one_cohort_is_the_plain_bootstrap() -> None:
    one = cohort(1, 12, 0.4)
    ours = cohort_intervals([one], repeats=300, seed=7)
    assert ours == binary_intervals(one.y, one.p, one.groups, threshold=0.4, repeats=300, seed=7)


def test_two_cohorts_against_a_loop() -> None:
    cohorts = [cohort(2, 9, 0.5), cohort(3, 15, 0.35)]
    found = cohort_intervals(cohorts, ("BACC", "F1S"), repeats=200, level=0.9, seed=4)
    for name in ("BACC", "F1S"):
        means = np.zeros(200)
        for number, one in enumerate(cohorts):
            index, draws = group_draws(one.groups, 200, 4 + number)
            for repeat in range(200):
                rows = np.repeat(np.arange(len(index)), draws[repeat][index])
                means[repeat] += binary_metrics(one.y[rows], one.p[rows], one.threshold)[name] / 2
        low, high = np.nanquantile(means, [0.05, 0.95])
        # Never narrower than the bootstrap, and not far from it with two dozen patients.
        assert low - 0.12 < found[name].low <= low + 1e-12 and high - 1e-12 <= found[name].high < high + 0.12
        assert found[name].method == "wider"
        value = np.mean([binary_metrics(one.y, one.p, one.threshold)[name] for one in cohorts])
        assert found[name].value == pytest.approx(value)
        assert (found[name].groups, found[name].repeats, found[name].level) == (24, 200, 0.9)


def test_a_cohort_that_leaves_a_metric_undefined_is_left_out_of_the_mean() -> None:
    one = cohort(5, 10, 0.5)
    without = Judged(np.zeros(6, int), np.linspace(0, 1, 6), list("abcdef"), 0.5)
    found = cohort_intervals([one, without], ("SN", "SPC"), repeats=100, seed=1)
    assert found["SN"].value == binary_metrics(one.y, one.p, 0.5)["SN"]
    assert not math.isnan(found["SN"].low)
    nothing = cohort_intervals([without], ("SN",), repeats=50)["SN"]
    assert math.isnan(nothing.value) and math.isnan(nothing.low) and nothing.method == "none"


def test_two_perfect_cohorts_say_more_than_one() -> None:
    def perfect(patients: int) -> Judged:
        y = np.arange(patients) % 2
        return Judged(y, y.astype(float), [f"P{n}" for n in range(patients)])

    one, two, whole = (cohort_intervals([perfect(n)] * times) for n, times in ((12, 1), (12, 2), (24, 1)))
    for name, found in two.items():
        assert found.high == 1 and 0.3 < one[name].low < found.low < 1
        assert found.low == pytest.approx(whole[name].low, abs=0.03), "as many patients in one cohort"


def test_more_patients_make_narrower_intervals() -> None:
    few, many = (cohort_intervals([cohort(6, n, 0.5)], ("AUC",), repeats=400)["AUC"] for n in (10, 160))
    assert many.high - many.low < 0.6 * (few.high - few.low)


def test_no_cohorts_and_unknown_metrics_are_refused() -> None:
    with pytest.raises(ValueError, match="no cohorts"):
        cohort_intervals([])
    with pytest.raises(ValueError, match="unknown metrics"):
        cohort_intervals([cohort(1, 5, 0.5)], ("SE",))
