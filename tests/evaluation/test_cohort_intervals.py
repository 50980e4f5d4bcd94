"""Intervals of means over validation cohorts: against a loop that resamples patients by hand."""

import math

import numpy as np
import pytest
from scipy.optimize import brentq
from scipy.stats import norm, t

from melano_tf.evaluation import binary_intervals as module
from melano_tf.evaluation.binary_intervals import Judged, balanced, binary_intervals, binary_share, cohort_intervals
from melano_tf.evaluation.binary_metrics import METRICS, binary_metrics
from melano_tf.evaluation.bootstrap import group_draws

pytestmark = pytest.mark.filterwarnings("error::RuntimeWarning")  # what is undefined is told by NaN alone


def cohort(seed: int, patients: int, threshold: float) -> Judged:
    rng = np.random.default_rng(seed)
    groups = np.repeat(np.arange(patients), rng.integers(1, 5, patients))
    y = (rng.uniform(size=len(groups)) < 0.4).astype(int)
    p = np.clip(0.3 * y + rng.uniform(0, 0.7, len(groups)), 0, 1).round(2)
    return Judged(y, p, [f"P{seed}-{group}" for group in groups], threshold)


def test_one_cohort_of_single_samples_by_wilsons_equation() -> None:
    """13 of 20 right, a patient each: |13/20 - x| - 1/(2n) = z sqrt(x (1 - x)/n), n = 19 less what Student's t asks."""
    p = np.r_[np.full(13, 0.45), np.full(7, 0.35)]
    found = cohort_intervals([Judged(np.ones(20, int), p, [f"P{n}" for n in range(20)], 0.4)], ("SN",))["SN"]
    z = norm.ppf(0.975)
    n = 19 * (z / t.ppf(0.975, 19)) ** 2

    def outside(x: float) -> float:
        return abs(13 / 20 - x) - 1 / (2 * n) - z * math.sqrt(x * (1 - x) / n)

    wanted = (13 / 20, brentq(outside, 0.1, 13 / 20), brentq(outside, 13 / 20, 0.95))
    assert (found.value, found.low, found.high) == pytest.approx(wanted)
    assert (found.method, found.groups) == ("Wilson", 20)


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


@pytest.mark.parametrize("level", [0.02, 0.9])
def test_each_end_is_exactly_the_wider_one(level: float) -> None:
    """Cohorts that share nobody are drawn one by one, and each has its own threshold."""
    cohorts = [
        Judged(np.array([1, 0, 0, 1, 1]), np.array([0.9, 0.2, 0.45, 0.3, 0.7]), list("aabcc"), 0.4),
        Judged(np.array([0, 1, 0, 0]), np.array([0.1, 0.6, 0.5, 0.7]), list("deff"), 0.6),
    ]
    found = cohort_intervals(cohorts, ("BACC", "F1S"), repeats=41, level=level, seed=5)
    cells, each = np.zeros((4, 2, 6)), {name: np.zeros((2, 41)) for name in found}
    for number, one in enumerate(cohorts):
        index, draws = group_draws(one.groups, 41, 5 + number)
        for label, score, group in zip(one.y, one.p, index, strict=True):
            called = score >= one.threshold
            cells[(0 if label else 1) if called else (3 if label else 2), number, 3 * number + group] += 1
        for repeat in range(41):
            rows = np.repeat(np.arange(len(index)), draws[repeat][index])
            measured = binary_metrics(one.y[rows], one.p[rows], one.threshold)
            for name in found:
                each[name][number, repeat] = measured[name]
    for name, closed in (("BACC", balanced(cells, level)), ("F1S", binary_share(cells, "F1S", level))):
        defined = ~np.isnan(each[name])
        means = [one[there].mean() for one, there in zip(each[name].T, defined.T, strict=True) if there.any()]
        low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
        value, one = np.mean([binary_metrics(c.y, c.p, c.threshold)[name] for c in cohorts]), found[name]
        below, above = max(0.0, value - (closed.value - closed.low)), min(1.0, value + closed.high - closed.value)
        assert (one.low, one.high) == pytest.approx((min(low, below), max(high, above))), name
        assert (one.value, one.undefined) == (pytest.approx(value), 41 - len(means)), name
    assert found["BACC"].undefined > 0


def test_a_perfect_f1_has_its_own_end() -> None:
    """Nobody wrong of 3 positive patients among 20: F1 is of those who are positive or called so."""
    y = np.arange(20) < 3
    found = binary_intervals(y, y.astype(float), np.arange(20), ("F1S", "BACC"), repeats=30)
    cells = np.stack([y, np.zeros(20), ~y, np.zeros(20)])[:, None].astype(float)
    assert found["F1S"].low == pytest.approx(binary_share(cells, "F1S", 0.95).low)
    assert found["BACC"].low == pytest.approx(balanced(cells, 0.95).low) != pytest.approx(found["F1S"].low)


def test_nothing_is_drawn_for_closed_forms_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def draw(groups: list[str], repeats: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
        asked.append(repeats)
        return group_draws(groups, repeats, seed)

    monkeypatch.setattr(module, "group_draws", draw)
    for names, repeats in ((("SN", "SPC", "PPV", "NPV", "ACC", "AUC"), 0), (("SN", "F1S"), 7), (("BACC",), 7)):
        cohort_intervals([cohort(1, 5, 0.5)], names, repeats=7)
        assert asked == [repeats]
        asked.clear()


def test_a_cohort_that_leaves_a_metric_undefined_is_left_out_of_the_mean() -> None:
    one = cohort(5, 10, 0.5)
    without = Judged(np.zeros(6, int), np.linspace(0, 1, 6), list("abcdef"), 0.5)
    found = cohort_intervals([one, without], ("SN", "SPC"), repeats=100, seed=1)
    assert found["SN"].value == binary_metrics(one.y, one.p, 0.5)["SN"]
    assert not math.isnan(found["SN"].low)
    nothing = cohort_intervals([without], ("SN",), repeats=50)["SN"]
    assert math.isnan(nothing.value) and math.isnan(nothing.low) and nothing.method == "none"


@pytest.mark.parametrize(("label", "share"), [(0, "SN"), (1, "SPC")])
def test_a_cohort_without_a_class_adds_nothing_to_what_needs_both(label: int, share: str) -> None:
    one, without = cohort(5, 10, 0.5), Judged(np.full(6, label), np.linspace(0, 1, 6), list("abcdef"))
    names = (share, "AUC", "BACC")
    alone, found = (cohort_intervals(cohorts, names, repeats=100, seed=1) for cohorts in ([one], [one, without]))
    for name in names:
        own, kept = alone[name], found[name]
        assert (kept.value, kept.low, kept.high) == pytest.approx((own.value, own.low, own.high)), name
        assert (own.groups, kept.groups) == (10, 16)


@pytest.mark.parametrize("level", [0.5, 0.8])
def test_the_level_reaches_every_part_of_an_interval(level: float) -> None:
    """Each interval holds the one of a lower level; F1's and balanced accuracy's parts are wider than the bootstrap."""
    cohorts = [cohort(2, 9, 0.5), cohort(3, 15, 0.35)]
    found, wider = (cohort_intervals(cohorts, repeats=150, level=one) for one in (level, level + 0.1))
    for name in METRICS:
        assert wider[name].low < found[name].low < found[name].high < wider[name].high, name
        assert found[name].level == level


def test_what_is_not_said_is_the_papers_and_a_threshold_itself_is_called() -> None:
    y, p, groups = [1, 0, 1, 0, 1], [0.5, 0.5, 0.9, 0.1, 0.4], list("abcda")
    plain = binary_intervals(y, p, groups)
    assert plain == binary_intervals(y, p, groups, METRICS, threshold=0.5, repeats=2000, level=0.95, seed=0)
    assert plain == cohort_intervals([Judged(y, p, groups)])
    assert plain["BACC"] != binary_intervals(y, p, groups, seed=1)["BACC"]
    for name in ("SN", "SPC", "PPV", "NPV", "ACC", "F1S"):
        assert plain[name].value == pytest.approx(binary_metrics(y, p)[name]), name
    assert binary_intervals(y, p, groups, threshold=0.6)["SPC"].value == 1


def test_two_perfect_cohorts_say_more_than_one() -> None:
    def perfect(patients: int, fold: int) -> Judged:
        y = np.arange(patients) % 2
        return Judged(y, y.astype(float), [f"P{fold}-{n}" for n in range(patients)])

    one, two, whole = (
        cohort_intervals([perfect(n, fold) for fold in range(times)]) for n, times in ((12, 1), (12, 2), (24, 1))
    )
    for name, found in two.items():
        assert found.high == 1 and 0.3 < one[name].low < found.low < 1
        assert found.low == pytest.approx(whole[name].low, abs=0.03), "as many patients in one cohort"


def test_more_patients_make_narrower_intervals() -> None:
    few, many = (cohort_intervals([cohort(6, n, 0.5)], ("AUC",), repeats=400)["AUC"] for n in (10, 160))
    assert many.high - many.low < 0.6 * (few.high - few.low)


def test_no_cohorts_and_unknown_metrics_are_refused() -> None:
    with pytest.raises(ValueError, match=r"^no cohorts$"):
        cohort_intervals([])
    with pytest.raises(ValueError, match="unknown metrics"):
        cohort_intervals([cohort(1, 5, 0.5)], ("SE",))


def plain_folds(seed: int, patients: int = 40, images: int = 20, folds: int = 10, right: bool = False) -> list[Judged]:
    """Images in folds whoever their patient is, as `--folds.by plain --allow-leaks`: nearly all patients in each."""
    rng = np.random.default_rng(seed)
    index = np.repeat(np.arange(patients), images)
    y = (index % 2).astype(int)
    own = rng.normal(0, 0.9, patients)[index] + rng.normal(0, 0.5, len(index))
    p = y.astype(float) if right else np.clip(0.5 + 0.25 * ((2 * y - 1) * 0.8 + own), 0, 1)
    fold = rng.permutation(len(index)) % folds
    return [Judged(y[fold == k], p[fold == k], [f"P{g}" for g in index[fold == k]]) for k in range(folds)]


def test_a_patient_of_several_cohorts_counts_once() -> None:
    """Against a loop that draws patients for all cohorts together: it was "by the 355 patients", a third as wide."""
    cohorts = plain_folds(3)
    found = cohort_intervals(cohorts, repeats=300, seed=5)
    groups = [np.array([int(name[1:]) for name in one.groups]) for one in cohorts]
    draws = np.random.default_rng(9).multinomial(40, np.full(40, 1 / 40), size=60)
    means = {name: np.zeros(60) for name in METRICS}
    for repeat, times in enumerate(draws):
        for one, group in zip(cohorts, groups, strict=True):
            rows = np.repeat(np.arange(len(group)), times[group])
            measured = binary_metrics(one.y[rows], one.p[rows], one.threshold)
            for name in METRICS:
                means[name][repeat] += measured[name] / len(cohorts)
    for name, one in found.items():
        width = np.diff(np.quantile(means[name], [0.025, 0.975]))[0]
        assert 0.85 * width < one.high - one.low < 1.6 * width, name
        assert one.groups == 40
        assert one.low < one.value < one.high


def test_perfect_folds_of_the_same_patients_say_what_their_patients_do() -> None:
    cohorts = plain_folds(4, right=True)
    joined = [np.concatenate([getattr(one, name) for one in cohorts]) for name in ("y", "p", "groups")]
    whole, found = binary_intervals(*joined, repeats=100), cohort_intervals(cohorts, repeats=100)
    for name, one in found.items():
        assert one.high == 1 and one.low == pytest.approx(whole[name].low, abs=0.03), name


@pytest.mark.parametrize("seed", [1, 2, 7])
def test_judging_the_same_patients_twice_is_no_more_evidence(seed: int) -> None:
    one = cohort(seed, 14, 0.45)
    once, twice = (cohort_intervals([one] * times, repeats=200, seed=3) for times in (1, 2))
    for name in METRICS:
        wanted = once[name]
        assert (twice[name].value, twice[name].low, twice[name].high) == pytest.approx(
            (wanted.value, wanted.low, wanted.high)
        ), name
        assert twice[name].groups == wanted.groups


@pytest.mark.parametrize("seed", range(8))
def test_ends_lie_in_0_to_1_around_the_value(seed: int) -> None:
    """F1 of rare positives was -0.0212 to 0.7687."""
    rng = np.random.default_rng(seed)
    cohorts = []
    for number in range(int(rng.integers(1, 4))):
        size = int(rng.integers(4, 13))
        y, p = (rng.random(size) < rng.choice([0.15, 0.5])).astype(int), rng.random(size)
        cohorts.append(Judged(y, p, [f"P{number}-{n}" for n in rng.integers(0, 6, size)], rng.choice([0.1, 0.5, 0.9])))
    for name, one in cohort_intervals(cohorts, repeats=100, seed=seed).items():
        assert math.isnan(one.low) or 0 <= one.low <= one.value <= one.high <= 1, (name, one)
