"""Curves: the published example of PR interpolation, scikit-learn's points and areas, bands against naive loops."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from sklearn import metrics as reference

from melano_tf.evaluation import bootstrap
from melano_tf.evaluation.curves import (
    average_precision,
    average_precision_interval,
    counts_by_threshold,
    interpolated_precision,
    pr_band,
    precision_recall,
    resampled_average_precision,
    roc,
    roc_band,
)
from melano_tf.evaluation.wilson_delong import wilson

pytestmark = pytest.mark.filterwarnings("error::RuntimeWarning")  # what is undefined is told by NaN alone


def sample(n: int, seed: int, steps: int = 8) -> tuple[np.ndarray, np.ndarray]:
    """Labels of both classes and scores with many ties."""
    rng = np.random.default_rng(seed)
    y = rng.permutation(np.r_[0, 1, rng.integers(0, 2, n - 2)])
    return y, rng.integers(0, steps + 1, n) / steps


def naive_precision(y: np.ndarray, p: np.ndarray, recall: float) -> float:
    """Davis & Goadrich by walking along the counts: the best precision at exactly recall x positives hits."""
    points = [(0.0, 0.0)] + [
        (float((y[p >= t] == 1).sum()), float((y[p >= t] == 0).sum())) for t in sorted(set(p), reverse=True)
    ]
    wanted = recall * (y == 1).sum()
    best = -1.0
    for (tp_a, fp_a), (tp_b, fp_b) in itertools.pairwise(points):
        if tp_a <= wanted + 1e-9 and wanted <= tp_b + 1e-9 and tp_b > tp_a:
            fp = fp_a + (fp_b - fp_a) / (tp_b - tp_a) * (wanted - tp_a)
            if wanted + fp > 0:
                best = max(best, wanted / (wanted + fp))
    return best


def test_counted_by_hand() -> None:
    # descending: 0.9 +, 0.7 - and + tied, 0.4 -, 0.2 +
    y, p = [0, 1, 1, 0, 1], [0.7, 0.9, 0.7, 0.4, 0.2]
    counts = counts_by_threshold(y, p)
    assert counts.threshold.tolist() == [np.inf, 0.9, 0.7, 0.4, 0.2]
    assert counts.tp.tolist() == [0, 1, 2, 2, 3]
    assert counts.fp.tolist() == [0, 0, 1, 2, 2]
    assert (counts.tp.dtype, counts.fp.dtype) == (np.int64, np.int64)
    curve = roc(y, p)
    assert curve.threshold.tolist() == [np.inf, 0.9, 0.7, 0.4, 0.2]
    assert curve.fpr.tolist() == [0, 0, 0.5, 1, 1]
    assert curve.tpr == pytest.approx([0, 1 / 3, 2 / 3, 2 / 3, 1])
    assert curve.area == pytest.approx(0.5 * (1 / 3 + 2 / 3) / 2 + 0.5 * 2 / 3)
    found = precision_recall(y, p)
    assert found.recall == pytest.approx([1 / 3, 2 / 3, 2 / 3, 1])
    assert found.precision == pytest.approx([1, 2 / 3, 2 / 4, 3 / 5])
    assert found.threshold.tolist() == [0.9, 0.7, 0.4, 0.2]
    assert found.prevalence == 3 / 5
    assert found.average_precision == pytest.approx((1 + 2 / 3 + 3 / 5) / 3)
    # from (1, 0) to (2, 1): FP = t - 1; from (2, 2) to (3, 2): FP = 2; at recall 2/3 the better one counts
    assert found.precision_at([0, 1 / 3, 0.5, 2 / 3, 2.5 / 3, 1]) == pytest.approx(
        [1, 1, 1.5 / 2, 2 / 3, 2.5 / 4.5, 3 / 5]
    )
    first = 1 + quad(lambda t: t / (t + t - 1), 1, 2)[0]
    assert found.area == pytest.approx((first + quad(lambda t: t / (t + 2), 2, 3)[0]) / 3)


def test_the_example_of_davis_and_goadrich() -> None:
    # Their table 1: 20 positives; A has TP 5, FP 5; B has TP 10, FP 30.
    tp, fp = [0, 5, 10, 20], [0, 5, 30, 2000]
    found = interpolated_precision(tp, fp, [0.25, 0.3, 0.35, 0.4, 0.45, 0.5])
    assert np.round(found, 3).tolist() == [0.5, 0.375, 0.318, 0.286, 0.265, 0.25]


@settings(max_examples=120, deadline=None)
@given(st.integers(2, 60), st.integers(0, 2**32 - 1), st.integers(1, 12))
def test_as_scikit_learn(n: int, seed: int, steps: int) -> None:
    y, p = sample(n, seed, steps)
    curve = roc(y, p)
    fpr, tpr, threshold = reference.roc_curve(y, p, drop_intermediate=False)
    np.testing.assert_allclose(curve.fpr, fpr)
    np.testing.assert_allclose(curve.tpr, tpr)
    np.testing.assert_array_equal(curve.threshold, threshold)
    assert curve.area == pytest.approx(reference.roc_auc_score(y, p))
    found = precision_recall(y, p)
    precision, recall, threshold = reference.precision_recall_curve(y, p)
    np.testing.assert_allclose(found.precision[::-1], precision[:-1])
    np.testing.assert_allclose(found.recall[::-1], recall[:-1])
    np.testing.assert_array_equal(found.threshold[::-1], threshold)
    assert found.average_precision == pytest.approx(reference.average_precision_score(y, p))


@settings(max_examples=120, deadline=None)
@given(st.integers(2, 40), st.integers(0, 2**32 - 1), st.integers(1, 12))
def test_interpolation(n: int, seed: int, steps: int) -> None:
    y, p = sample(n, seed, steps)
    found = precision_recall(y, p)
    recalls = np.r_[np.linspace(0.01, 1, 37), np.arange(1, y.sum() + 1) / y.sum()]
    naive = [naive_precision(y, p, r) for r in recalls]
    np.testing.assert_allclose(found.precision_at(recalls), naive, rtol=1e-9)
    # the curve as drawn passes through every threshold's point, goes right, and its area is the closed form's
    x, line = found.line(20_001)
    assert (np.diff(x) >= 0).all() and x[0] == 0 and x[-1] == 1 and (line >= 0).all() and (line <= 1).all()
    drawn = set(zip(x.tolist(), line.tolist(), strict=True))
    assert {(r, q) for r, q in zip(found.recall.tolist(), found.precision.tolist(), strict=True) if r > 0} <= drawn
    assert found.area == pytest.approx(np.trapezoid(line, x), abs=2e-4)
    # a convex stretch lies below its chord, a concave one starts at precision 0 or rises: never above 1
    assert 0 < found.area <= 1


def test_precision_at_recall_0_is_the_first_stretchs() -> None:
    """One wrong call beside each two right ones from the start; then three wrong before the next."""
    tp, fp = [0, 2, 2, 4], [0, 1, 4, 4]
    assert interpolated_precision(tp, fp, [0, 0.25, 0.5, 1]) == pytest.approx([2 / 3, 2 / 3, 2 / 3, 1 / 2])
    assert interpolated_precision([0, 0, 1], [0, 3, 3], 0).tolist() == 0.0, "wrong calls alone come first"
    assert interpolated_precision(tp, fp, [-0.1, 1.1]) == pytest.approx([2 / 3, 1 / 2])
    assert interpolated_precision([0, 0, 1], [0, 3, 3], -0.1).tolist() == 0.0
    assert interpolated_precision([0, 0, 1], [0, 0.5, 0.5], [0.25]) == pytest.approx([1 / 3])
    # 2.8e-9 above the second positive is still the second one; the slack is a billionth of all four.
    assert interpolated_precision(tp, fp, [0.5 + 7e-10, 0.5 + 1.3e-9]) == pytest.approx([2 / 3, 1 / 3])
    y, p = [1, 1, 0, 0, 0, 0, 1, 1], [0.9, 0.9, 0.9, 0.5, 0.5, 0.5, 0.2, 0.2]
    x, line = precision_recall(y, p).line(5)
    # The grid, and every threshold's point again; at recall 0.5 precision drops from 2/3 to 2/6.
    assert x.tolist() == [0, 0.25, 0.5, 0.5, 0.5, 0.75, 1, 1]
    assert line == pytest.approx([2 / 3, 2 / 3, 2 / 3, 2 / 3, 2 / 6, 3 / 7, 1 / 2, 1 / 2])


def test_ties_at_the_end_and_a_wrong_call_at_the_start() -> None:
    curve = roc([1, 0, 0], [0.9, 0.2, 0.2])
    assert (curve.fpr.tolist(), curve.tpr.tolist(), curve.area) == ([0, 0, 1], [0, 1, 1], 1)
    assert precision_recall([1, 1, 0], [0.5] * 3).area == pytest.approx(2 / 3)
    x, line = precision_recall([0, 1], [0.9, 0.1]).line(3)
    assert x.tolist() == [0, 0.5, 1, 1] and line == pytest.approx([0, 1 / 3, 1 / 2, 1 / 2])


def test_straight_lines_would_overstate_precision() -> None:
    y = np.r_[1, np.zeros(99, int), np.ones(99, int), 0]
    p = np.r_[1.0, np.full(198, 0.5), 0.1]
    found = precision_recall(y, p)
    straight = reference.auc(np.r_[0, found.recall], np.r_[1, found.precision])
    # The one right call, then all the rest in one lump: 0.5 nearly everywhere.
    assert found.area < 0.55 < 0.7 < straight


def test_undefined_where_a_class_is_missing() -> None:
    assert math.isnan(roc([0, 0], [0.1, 0.2]).area) and math.isnan(roc([1, 1], [0.1, 0.2]).area)
    none = precision_recall([0, 0], [0.1, 0.2])
    assert math.isnan(none.average_precision) and math.isnan(none.area) and np.isnan(none.recall).all()
    assert [len(one) for one in none.line()] == [0, 0]
    assert np.isnan(none.precision_at([0.1, 0.5])).all()
    only = precision_recall([1, 1], [0.1, 0.2])
    assert (only.average_precision, only.area) == (1.0, 1.0)
    assert math.isnan(average_precision([], [])) and math.isnan(precision_recall([], []).prevalence)


@pytest.mark.parametrize("chunk", [1, 100, 10**6])
def test_resampled_average_precision_as_scikit_learn(monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    monkeypatch.setattr(bootstrap, "CHUNK_CELLS", chunk)
    y, p = sample(60, 3)
    groups = np.random.default_rng(0).integers(0, 7, 60)
    draws = np.random.default_rng(1).multinomial(7, np.full(7, 1 / 7), size=25)
    expected = [reference.average_precision_score(np.repeat(y, d[groups]), np.repeat(p, d[groups])) for d in draws]
    np.testing.assert_allclose(resampled_average_precision(y.astype(bool), p, groups, draws), expected, rtol=1e-12)


class Seen:
    """Draws that note how many of them are asked for at a time."""

    def __init__(self, draws: np.ndarray) -> None:
        self.draws, self.rows = draws, []

    def __len__(self) -> int:
        return len(self.draws)

    def __getitem__(self, key: tuple) -> np.ndarray:
        self.rows.append(len(self.draws[key[0]]))
        return self.draws[key]


@pytest.mark.parametrize(("cells", "rows"), [(1, [1] * 5), (7, [3, 2]), (10, [5])])
def test_so_many_resamples_at_a_time_as_the_limit_lets(
    monkeypatch: pytest.MonkeyPatch, cells: int, rows: list[int]
) -> None:
    """Of a positive below a negative: one positive is enough, and none leaves nothing to say."""
    monkeypatch.setattr(bootstrap, "CHUNK_CELLS", cells)
    draws = Seen(np.array([[1, 1], [2, 0], [0, 2], [1, 1], [1, 0]]))
    found = resampled_average_precision(np.array([True, False]), np.array([0.2, 0.7]), np.arange(2), draws)
    np.testing.assert_array_equal(found, [0.5, 1, math.nan, 0.5, 1])
    assert draws.rows == rows


def test_bands_as_naive_loops() -> None:
    y, p = sample(50, 5)
    groups = np.random.default_rng(2).integers(0, 6, 50)
    repeats, x = 60, np.linspace(0, 1, 11)
    draws = np.random.default_rng(9).multinomial(6, np.full(6, 1 / 6), size=repeats)
    tprs, precisions = [], []
    for d in draws:
        labels, scores = np.repeat(y, d[groups]), np.repeat(p, d[groups])
        fpr, tpr, _ = reference.roc_curve(labels, scores, drop_intermediate=False)
        tprs.append([max(tpr[fpr == r]) if (fpr == r).any() else np.interp(r, fpr, tpr) for r in x])
        precisions.append([naive_precision(labels, scores, r) for r in x[1:]])
    band = roc_band(y, p, groups, grid=11, repeats=repeats, seed=9, level=0.8)
    np.testing.assert_allclose([band.low, band.high], np.quantile(tprs, [0.1, 0.9], axis=0))
    assert (band.undefined, band.repeats, band.groups, band.level) == (0, repeats, 6, 0.8)
    band = pr_band(y, p, groups, grid=11, repeats=repeats, seed=9, level=0.8)
    np.testing.assert_allclose([band.low[1:], band.high[1:]], np.quantile(precisions, [0.1, 0.9], axis=0))


def test_bands_hold_the_curve_and_count_the_undefined() -> None:
    y, p = sample(400, 1, steps=50)
    groups = np.arange(400) // 4
    band = roc_band(y, p, groups, repeats=300)
    middle = np.interp(band.x, *(roc(y, p).fpr, roc(y, p).tpr))
    assert (band.low <= middle + 1e-9).mean() > 0.97 and (band.high >= middle - 1e-9).mean() > 0.97
    # Three patients, one positive: a resample misses it with chance (2/3)^3, the negatives with (1/3)^3.
    found = pr_band([1, 0, 0], [0.9, 0.2, 0.6], ["a", "b", "c"], repeats=3000)
    assert found.undefined / 3000 == pytest.approx(8 / 27, abs=0.03)
    assert roc_band([1, 0, 0], [0.9, 0.2, 0.6], ["a", "b", "c"], repeats=3000).undefined > found.undefined
    assert roc_band([0, 0, 1], [0.9, 0.8, 0.1], list("abc"), repeats=50).undefined < 50, "all wrong is defined"
    nothing = roc_band([], [], [], repeats=5)
    assert nothing.undefined == 5 and np.isnan(nothing.low).all()
    with pytest.raises(ValueError, match=r"^1 groups for 2 samples$"):
        pr_band([0, 1], [0.1, 0.2], ["a"])


def test_average_precision_interval() -> None:
    y, p = sample(200, 4)
    found = average_precision_interval(y, p, np.arange(200), repeats=300)
    assert found.value == average_precision(y, p)
    assert found.low < found.value < found.high
    assert found.groups == 200


def test_an_average_precision_of_each_resample_as_scikit_learn() -> None:
    y, p = sample(30, 6)
    groups = np.random.default_rng(1).integers(0, 5, 30)
    y[groups == 3] = 1
    found = average_precision_interval(y, p, groups, repeats=200, level=0.7, seed=8)
    draws = np.random.default_rng(8).multinomial(5, np.full(5, 1 / 5), size=200)
    values = [reference.average_precision_score(np.repeat(y, d[groups]), np.repeat(p, d[groups])) for d in draws]
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(values, [0.15, 0.85])))
    assert (found.level, found.repeats, found.method) == (0.7, 200, "bootstrap")


def test_where_all_resamples_agree_positive_patients_count() -> None:
    """Two patients of three images each, and five without a positive: Wilson's of 2 of 2, and no band."""
    y = np.r_[np.ones(6, int), np.zeros(5, int)]
    groups = np.r_[0, 0, 0, 1, 1, 1, 2, 3, 4, 5, 6]
    found = average_precision_interval(y, y.astype(float), groups, repeats=50, level=0.8)
    assert (found.value, found.method) == (1, "Wilson")
    assert (found.low, found.high) == pytest.approx(wilson(1.0, 2, 0.8))
    for band in (roc_band(y, y.astype(float), groups, repeats=50), pr_band(y, y.astype(float), groups, repeats=50)):
        assert np.isnan(band.low).all() and np.isnan(band.high).all() and band.undefined < 50
    none = average_precision_interval([0, 0], [0.1, 0.2], ["a", "b"], repeats=9)
    assert math.isnan(none.value) and none.method == "none" and none.undefined == 9


def test_what_is_not_said() -> None:
    y, p = sample(12, 2)
    plain = {"repeats": 2000, "level": 0.95, "seed": 0}
    assert average_precision_interval(y, p, np.arange(12)) == average_precision_interval(y, p, np.arange(12), **plain)
    for of in (roc_band, pr_band):
        found, wanted = (
            of(y, p, np.arange(12), repeats=200),
            of(y, p, np.arange(12), grid=201, **{**plain, "repeats": 200}),
        )
        np.testing.assert_array_equal([found.x, found.low, found.high], [wanted.x, wanted.low, wanted.high])
        assert of(y, p, np.arange(12), grid=3).repeats == 2000
    assert len(precision_recall(y, p).line()[0]) == len(precision_recall(y, p).line(1001)[0])
