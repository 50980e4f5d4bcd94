"""Intervals in closed form: against scipy, naive formulas and loops, and the share of trials that they cover."""

import importlib.util
import math
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from scipy.optimize import brentq
from scipy.stats import binomtest, norm, t
from sklearn.metrics import roc_auc_score

from melano_tf.evaluation.wilson_delong import (
    LEAST_MIXED,
    Estimate,
    area,
    hanley_mcneil,
    mean_area,
    mean_f1,
    mean_share,
    mover,
    wilson,
)

pytestmark = pytest.mark.filterwarnings("error::RuntimeWarning")  # what is undefined is told by NaN alone

BENCHMARK = Path(__file__).resolve().parents[2] / "experiments" / "benchmarks" / "coverage.py"


@pytest.mark.parametrize(("right", "n"), [(0, 5), (1, 12), (7, 12), (11, 12), (12, 12), (97, 100), (1, 1)])
@pytest.mark.parametrize("level", [0.8, 0.95])
def test_wilson_as_scipy(right: int, n: int, level: float) -> None:
    wanted = binomtest(right, n).proportion_ci(level, method="wilsoncc")
    assert wilson(right / n, n, level) == pytest.approx((wanted.low, wanted.high), abs=1e-12)
    plain = binomtest(right, n).proportion_ci(level, method="wilson")
    low, high = wilson(right / n, n, level)
    assert low <= plain.low + 1e-12 and plain.high - 1e-12 <= high


def test_wilson_holds_a_share_of_few_effective_trials() -> None:
    # Less than one trial is wrong: the correction reaches past 1, and the end is 1, not below the value.
    assert wilson(0.99, 6.0, 0.95)[1] == 1.0 and wilson(0.01, 6.0, 0.95)[0] == 0.0


def test_a_share_by_hand() -> None:
    """Six patients, all mixed: the ratio estimator's variance by a loop, Student's t, Wilson's ends."""
    hits, sizes = np.array([1.0, 2, 1, 3, 2, 1]), np.array([2.0, 3, 4, 4, 3, 2])
    p = 10 / 18
    variance = 6 / 5 * sum((h - p * m) ** 2 for h, m in zip(hits, sizes, strict=True)) / 18**2
    n = min(p * (1 - p) / variance, 18) * (norm.ppf(0.975) / t.ppf(0.975, 5)) ** 2
    found = mean_share(hits[None], sizes[None], 0.95)
    assert (found.value, found.low, found.high) == pytest.approx((p, *wilson(p, n, 0.95)))
    assert found.influence.sum() == pytest.approx(0) and LEAST_MIXED <= 6


def naive_share(hits: np.ndarray, sizes: np.ndarray, level: float) -> tuple[float, float, float]:
    """The docstring's formulas, part by part and group by group."""
    parts, held = range(len(hits)), [g for g in range(hits.shape[1]) if any(part[g] for part in sizes)]
    totals = [sum(part) for part in sizes]
    shares = [sum(part) / total for part, total in zip(hits, totals, strict=True)]
    value = sum(shares) / len(shares)
    errors = [sum((hits[k][g] - shares[k] * sizes[k][g]) / totals[k] for k in parts) / len(hits) for g in held]
    weights = {g: sum(sizes[k][g] / totals[k] for k in parts) / len(hits) for g in held}
    alone = 1 / sum(weight**2 for weight in weights.values())
    variance = len(held) / (len(held) - 1) * sum(error**2 for error in errors)
    independent = sum(p * (1 - p) / total for p, total in zip(shares, totals, strict=True)) / len(hits) ** 2
    units = len(hits) ** 2 / sum(1 / total for total in totals)
    judged = sum(weight * sum(bool(part[g]) for part in sizes) for g, weight in weights.items())
    n = min(units * independent / variance, units / judged)
    n *= (norm.ppf((1 + level) / 2) / t.ppf((1 + level) / 2, len(held) - 1)) ** 2
    right = sum(any(part[g] for part in hits) for g in held)
    wrong = sum(any(h[g] < m[g] for h, m in zip(hits, sizes, strict=True)) for g in held)
    return value, *wilson(value, min(n, alone) if min(right, wrong) < 5 else n, level)


@pytest.mark.parametrize("level", [0.8, 0.95])
@pytest.mark.parametrize(
    "hits, sizes",
    [
        ([[3, 1]], [[4, 3]]),  # two patients
        ([[1, 2, 1, 3, 2, 0]], [[20, 21, 19, 22, 20, 0]]),  # just enough who are partly right, and one of nothing
        ([[3, 4, 1, 6, 0, 0]], [[9, 5, 2, 8, 7, 0]]),  # four who are right, and one who is not there
        ([[9, 5, 2, 8, 6, 6]], [[9, 5, 2, 8, 7, 9]]),  # two who are wrong
        ([[999_999] * 6 + [10**6] * 6], [[10**6] * 12]),  # six who are, in a millionth of theirs
        # Patients of one split, of another, and of both.
        ([[1, 2, 1, 3, 2, 4, 0, 0], [0, 0, 0, 2, 1, 0, 1, 2]], [[2, 3, 4, 4, 3, 4, 0, 0], [0, 0, 0, 2, 4, 1, 2, 2]]),
    ],
)
def test_a_share_as_by_loops(hits: list[list[float]], sizes: list[list[float]], level: float) -> None:
    h, m = np.array(hits, float), np.array(sizes, float)
    found = mean_share(h, m, level)
    assert (found.value, found.low, found.high) == pytest.approx(naive_share(h, m, level))
    # What is wrong is right upside down.
    turned = mean_share(m - h, m, level)
    assert (1 - turned.value, 1 - turned.high, 1 - turned.low) == pytest.approx((found.value, found.low, found.high))


def test_influence_is_what_a_groups_weight_changes() -> None:
    """The infinitesimal jackknife: of a group counted 1 + h times, the value's change divided by h."""
    hits = np.array([[1.0, 2, 1, 3, 0, 0], [0, 0, 4, 2, 1, 1]])
    sizes = np.array([[2.0, 3, 4, 4, 1, 0], [0, 1, 5, 2, 4, 2]])
    y, p, index = mixed_sample(7, 6)
    cohorts = [(y[::2], p[::2], index[::2]), (y[1::2], p[1::2], index[1::2])]
    areas = [area(*one, 6) for one in cohorts]

    def values(w: np.ndarray) -> tuple[float, float, float, float]:
        aucs = [roc_auc_score(labels, scores, sample_weight=w[at]) for labels, scores, at in cohorts]
        share, f1 = mean_share(hits * w, sizes * w, 0.95).value, mean_f1(hits * w, (sizes - hits) * w, 0.95).value
        return share, f1, float(np.mean(aucs)), (share + float(np.mean(aucs))) / 2

    share, f1, auc = mean_share(hits, sizes, 0.95), mean_f1(hits, sizes - hits, 0.95), mean_area(areas, 0.95)
    found = [one.influence for one in (share, f1, auc, mover([share, auc]))]
    h = 1e-6
    for g in range(6):
        more, less = (values(1 + side * h * (np.arange(6) == g)) for side in (1, -1))
        changes = [(a - b) / (2 * h) for a, b in zip(more, less, strict=True)]
        assert [one[g] for one in found] == pytest.approx(changes, abs=1e-7)


def test_perfect_patients_count_once_each() -> None:
    sizes = np.array([1.0, 1, 4, 2])
    found = mean_share(sizes[None], sizes[None], 0.95)
    assert (found.low, found.high) == pytest.approx(wilson(1.0, 64 / 22, 0.95)) and found.high == 1
    single = mean_share(np.array([[1.0]]), np.array([[1.0]]), 0.95)
    assert (single.value, single.low, single.high) == pytest.approx((1.0, *wilson(1.0, 1, 0.95)))
    one = mean_share(np.array([[7.0]]), np.array([[9.0]]), 0.95)
    assert (one.low, one.high) == pytest.approx(wilson(7 / 9, 1, 0.95)), "one patient is one trial"
    # One patient of twelve with wrong tiles tells no design effect: twelve trials at most, however many the tiles.
    hits, many = np.r_[150.0, np.full(11, 200)], np.full(12, 200.0)
    few = mean_share(hits[None], many[None], 0.95)
    assert (few.low, few.high) == pytest.approx(wilson(hits.sum() / 2400, 12, 0.95))
    nothing = mean_share(np.zeros((1, 3)), np.zeros((1, 3)), 0.95)
    assert all(map(math.isnan, (nothing.value, nothing.low, nothing.high))) and nothing.influence.tolist() == [0, 0, 0]


def test_copies_of_a_part_are_no_more_evidence() -> None:
    rng = np.random.default_rng(2)
    sizes = rng.integers(1, 5, 30).astype(float)
    hits = np.floor(sizes * rng.random(30) + 0.5)
    once, twice = (mean_share(np.tile(hits, (k, 1)), np.tile(sizes, (k, 1)), 0.95) for k in (1, 2))
    assert (once.low, once.high) == pytest.approx((twice.low, twice.high))


def test_f1_as_the_share_that_it_grows_with() -> None:
    tp, wrong = np.array([[2.0, 1, 0, 3, 1]]), np.array([[0.0, 1, 1, 0, 2]])
    share, found = mean_share(tp, tp + wrong, 0.9), mean_f1(tp, wrong, 0.9)
    assert found.value == pytest.approx(2 * 7 / (2 * 7 + 4))
    assert (found.low, found.high) == pytest.approx(tuple(2 * x / (1 + x) for x in (share.low, share.high)))


def mixed_sample(seed: int, groups: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    index = rng.permutation(np.r_[np.arange(groups), rng.integers(0, groups, 2 * groups)])
    y = rng.random(len(index)) < 0.4
    return y, np.round(rng.random(len(index)) + 0.4 * y + 0.3 * rng.normal(size=groups)[index], 1), index


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_area_as_obuchowski_by_loops(seed: int) -> None:
    """Her formulas of 1997, pair by pair, with patients who have both classes and ties."""
    y, p, index = mixed_sample(seed, 9)
    positive, negative = np.flatnonzero(y), np.flatnonzero(~y)

    def psi(i: int, j: int) -> float:
        return 1.0 if p[i] > p[j] else 0.5 if p[i] == p[j] else 0.0

    v10 = {i: sum(psi(i, j) for j in negative) / len(negative) for i in positive}
    v01 = {j: sum(psi(i, j) for i in positive) / len(positive) for j in negative}
    value = sum(v10.values()) / len(positive)
    s10 = s01 = s11 = 0.0
    with_positive = with_negative = 0
    for g in range(9):
        of_positive, of_negative = ([k for k in side if index[k] == g] for side in (positive, negative))
        a = sum(v10[i] for i in of_positive) - len(of_positive) * value
        b = sum(v01[j] for j in of_negative) - len(of_negative) * value
        with_positive, with_negative = with_positive + bool(of_positive), with_negative + bool(of_negative)
        s10, s01, s11 = s10 + a * a, s01 + b * b, s11 + a * b
    s10 *= with_positive / ((with_positive - 1) * len(positive))
    s01 *= with_negative / ((with_negative - 1) * len(negative))
    s11 *= 9 / 8
    m, n = len(positive), len(negative)
    found = area(y, p, index, 9)
    assert found.value == pytest.approx(value) == pytest.approx(roc_auc_score(y, p))
    assert found.variance == pytest.approx(s10 / m + s01 / n + 2 * s11 / (m * n))
    assert area(y, p, index + 2, 15).variance == pytest.approx(found.variance), "six patients of other cohorts"
    assert found.groups == min(with_positive, with_negative)


def test_area_without_clusters_as_delong() -> None:
    """Every sample a group of its own: DeLong's variance, S10/m + S01/n, from the matrix of pairs."""
    y, p, _ = mixed_sample(5, 12)
    two = np.r_[np.flatnonzero(y)[:2], np.flatnonzero(~y)]  # positives: as few as have a variance
    for labels, scores in ((y, p), (y[two], p[two]), (~y[two], p[two])):
        pairs = np.sign(scores[labels][:, None] - scores[~labels][None, :]) / 2 + 0.5
        delong = pairs.mean(axis=1).var(ddof=1) / labels.sum() + pairs.mean(axis=0).var(ddof=1) / (~labels).sum()
        found = area(labels, scores, np.arange(len(labels)), len(labels))
        assert found.variance == pytest.approx(delong) and found.variance > 0


def test_ends_of_an_area() -> None:
    y, p, index = mixed_sample(3, 30)
    one = area(y, p, index, 30)
    found = mean_area([one], 0.95)
    assert (one.influence**2).sum() ** 2 > LEAST_MIXED * (one.influence**4).sum(), "its error rests on many patients"
    assert 0 < found.low < one.value < found.high < 1
    c = t.ppf(0.975, one.groups - 1)
    effect = max(1.0, one.variance / hanley_mcneil(one.value, *one.samples))
    on_scale = [math.log(x / (1 - x)) for x in (found.low, one.value, found.high)]
    reach = c * math.sqrt(one.variance) / (one.value * (1 - one.value))
    for end, logit_end, side in ((found.low, on_scale[0], -1), (found.high, on_scale[2], 1)):
        by_score = c * math.sqrt(effect * hanley_mcneil(end, *one.samples)) == pytest.approx(abs(one.value - end))
        assert by_score or logit_end == pytest.approx(on_scale[1] + side * reach)
        assert side * (logit_end - on_scale[1]) >= reach - 1e-9, "no narrower than the logit's"
    turned = mean_area([area(~y, p, index, 30)], 0.95)
    assert (1 - turned.high, 1 - turned.low) == pytest.approx((found.low, found.high))


def test_an_areas_variance_as_hanley_and_mcneil_print_it() -> None:
    """Their formula of 1982; Newcombe's method 5 is its mean over both orders of the classes."""

    def theirs(a: float, m: int, n: int) -> float:
        q1, q2 = a / (2 - a), 2 * a * a / (1 + a)
        return (a * (1 - a) + (m - 1) * (q1 - a * a) + (n - 1) * (q2 - a * a)) / (m * n)

    for a, m, n in ((0.6, 3, 17), (0.93, 40, 8), (0.2, 5, 5), (0.85, 1, 4)):
        assert hanley_mcneil(a, m, n) == pytest.approx((theirs(a, m, n) + theirs(a, n, m)) / 2)


@pytest.mark.parametrize("images", [1, 5])
def test_ends_of_a_mean_of_areas_of_other_patients(images: int) -> None:
    """Variances of cohorts without a patient in common add up, and so do their degrees of freedom."""
    samples = [mixed_sample(seed, groups) for seed, groups in ((1, 30), (2, 21))]
    areas, start = [], 0
    for y, p, index in samples:
        repeated = (np.repeat(values, images) for values in (y, p, start + index))
        areas.append(area(*repeated, 51))
        start += 30
    found, value = mean_area(areas, 0.9), (areas[0].value + areas[1].value) / 2
    assert found.value == pytest.approx(value)
    c, clustered = t.ppf(0.95, sum(one.groups - 1 for one in areas)), sum(one.variance for one in areas)
    effect = clustered / sum(hanley_mcneil(one.value, *one.samples) for one in areas)
    assert (effect > 1) == (images > 1)  # alike images, and independent ones

    def outside(a: float) -> float:
        spread = sum(hanley_mcneil(a, *one.samples) for one in areas) / 4
        return (value - a) ** 2 - c**2 * max(1, effect) * spread

    reach = c * math.sqrt(clustered) / 2 / (value * (1 - value))
    by_logit = [1 / (1 + (1 / value - 1) * math.exp(-side * reach)) for side in (-1, 1)]
    assert found.low == pytest.approx(min(by_logit[0], brentq(outside, 1e-9, value)))
    assert found.high == pytest.approx(max(by_logit[1], brentq(outside, value, 1 - 1e-9)))


@pytest.mark.parametrize("turned", [False, True])
def test_cohorts_that_share_the_patients_of_one_class(turned: bool) -> None:
    """Three cohorts with other positives and the same negatives (or turned) are no more than one in those."""
    rng = np.random.default_rng(4)
    labels = np.r_[np.ones(12, bool), np.zeros(20, bool)]
    areas = []
    for fold in range(3):
        index = np.r_[12 * fold + np.arange(12), 36 + np.arange(20)]
        areas.append(area(labels != turned, (-1) ** turned * labels + rng.normal(0, 0.7, 32), index, 56))
    found = mean_area(areas, 0.95)
    c = t.ppf(0.975, sum(one.groups - 1 for one in areas) / 3)
    for end in (found.low, found.high):
        spread = 3 * sum(hanley_mcneil(end, *one.samples) for one in areas) / 9
        assert abs(found.value - end) >= c * math.sqrt(spread) - 1e-9


@pytest.mark.parametrize("patients", [1, 2, 6, 40])
def test_a_perfect_area_has_room(patients: int) -> None:
    """At A = 1 the score equation holds at its lower end, each patient taken once."""
    index = np.repeat(np.arange(2 * patients), 3)
    y = index < patients
    for labels, end in ((y, 0), (~y, 1)):
        one = area(labels, y.astype(float), index, 2 * patients)
        found = mean_area([one], 0.95)
        assert one.value == 1 - end
        inner = (found.low, found.high)[end]
        assert (found.high, found.low)[end] == one.value and 0 < inner < 1
        spread = hanley_mcneil(inner, patients, patients)
        assert (one.value - inner) ** 2 == pytest.approx(norm.ppf(0.975) ** 2 * spread)
        assert found.value == one.value and found.influence.tolist() == [0] * 2 * patients
        twice = mean_area([one, one], 0.95)
        assert (twice.low, twice.high) == pytest.approx((found.low, found.high)), "the same patients twice"


def test_an_area_of_one_class_says_nothing_of_anybody() -> None:
    for labels in (np.ones(3, bool), np.zeros(3, bool)):
        one = area(labels, np.arange(3.0), np.arange(3), 3)
        assert (
            math.isnan(one.variance)
            and one.influence.tolist() == [0, 0, 0]
            and one.samples
            == (
                labels.sum(),
                3 - labels.sum(),
            )
        )
        found = mean_area([one], 0.95)
        assert all(map(math.isnan, (found.value, found.low, found.high))) and found.influence.tolist() == [0, 0, 0]


def test_one_pair_of_very_many_in_the_wrong_order_is_an_error_all_the_same() -> None:
    """300 patients of each class: the variance is some 1e-10, and Student's t counts their degrees of freedom."""
    labels, scores = np.arange(600) < 300, np.r_[np.arange(600, 300, -1), np.arange(300)].astype(float)
    scores[299], scores[599] = scores[599], scores[299]
    found = mean_area([area(labels, scores, np.arange(600), 600)], 0.95)
    assert found.value == pytest.approx(1 - 1 / 90_000)
    assert (found.value - found.low) ** 2 == pytest.approx(
        t.ppf(0.975, 299) ** 2 * hanley_mcneil(found.low, 300, 300), rel=1e-4
    )


def test_an_area_whose_error_rests_on_few_patients_counts_patients() -> None:
    """One patient of thirty is wrong: many tiles tell no design effect, so no end is nearer than patients' own."""
    index = np.repeat(np.arange(30), 50)
    labels = index < 9
    scores = labels + np.linspace(0, 0.5, 50)[np.arange(1500) % 50]
    scores[index == 0] -= 0.8
    one = area(labels, scores, index, 30)
    found, most = mean_area([one], 0.95), norm.ppf(0.975)
    assert 0.9 < one.value < 1 and one.alone == pytest.approx((9, 21))
    for end in (found.low, found.high):
        assert (one.value - end) ** 2 >= most**2 * hanley_mcneil(end, 9, 21) - 1e-9
    assert found.low < 0.81


def test_mover_by_hand() -> None:
    alike = np.array([0.1, -0.1, 0.0, 0.0])
    apart = np.array([0.0, 0.0, 0.2, -0.2])
    a, b = Estimate(0.8, 0.6, 0.9, alike), Estimate(1.0, 0.7, 1.0, apart)
    found = mover([a, b])
    assert found.value == pytest.approx(0.9)
    assert found.low == pytest.approx(0.9 - math.hypot(0.2, 0.3) / 2) and found.high == pytest.approx(0.95)
    together = mover([a, Estimate(1.0, 0.7, 1.0, 3 * alike)])
    assert together.low == pytest.approx(0.9 - (0.2 + 0.3) / 2), "what the same patients make low adds up"
    undefined = mover([a, Estimate(math.nan, math.nan, math.nan, apart)])
    assert all(map(math.isnan, (undefined.value, undefined.low, undefined.high)))
    perfect = mover([a, Estimate(1.0, 0.7, 1.0, np.zeros(4))])
    assert perfect.low == pytest.approx(0.9 - math.hypot(0.2, 0.3) / 2), "nothing is known of what it shares with a"
    # Sums that are 0 or 1 but for their last digit.
    for values in ((0.41, 0.18, 0.01), (0.14, 0.23)):
        found = mover([Estimate(x, 0.0, 1.0, alike) for x in values])
        assert 0 <= found.low < 1e-9 and 1 - 1e-9 < found.high <= 1


def test_what_cancels_out_is_certain() -> None:
    """What two estimates add to the mean is 0, but for rounding, which is below 0 for a fifth of these draws."""
    for seed in range(40):
        apart = np.random.default_rng(seed).normal(size=5).round(2)
        apart -= apart.mean()
        found = mover([Estimate(0.5, 0.4, 0.6, apart), Estimate(0.7, 0.6, 0.8, -apart)])
        assert (found.value, found.low, found.high) == pytest.approx((0.6, 0.6, 0.6), abs=1e-6)


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    spec = importlib.util.spec_from_file_location("coverage_benchmark", BENCHMARK)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_area_of_tiles_covers(benchmark: ModuleType) -> None:
    """157 of these 200 trials did where a patient's many tiles always told a design effect."""
    found = benchmark.covered(benchmark.tile_auc_trials(0.99, 30, 0.9, 200, 11), 0.99)["ours"]
    assert found[0] >= 0.93 and found[2] == 0


@pytest.mark.parametrize("subject", ["share_trials", "auc_trials", "balanced_trials", "f1_trials"])
@pytest.mark.parametrize(("truth", "patients", "alike"), [(0.8, 30, 0.5), (0.95, 12, 0.9), (0.99, 12, 0.2)])
def test_intervals_cover(benchmark: ModuleType, subject: str, truth: float, patients: int, alike: float) -> None:
    """A small version of `docs/coverage.md`, seeded."""
    found = benchmark.covered(getattr(benchmark, subject)(truth, patients, alike, 200, 11), truth)
    held, _, closed = found["ours"]
    assert held >= 0.93 and closed == 0
    assert truth < 0.95 or found["bootstrap"][0] < 0.9, "what the percentile bootstrap did"
