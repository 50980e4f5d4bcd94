"""Intervals by group: each resample against scikit-learn on repeated samples, coverage, grouping, speed."""

import math
import time

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from melano_tf.evaluation import bootstrap
from melano_tf.evaluation.binary_intervals import binary_intervals
from melano_tf.evaluation.binary_metrics import METRICS, binary_metrics
from melano_tf.evaluation.bootstrap import group_draws, mean_interval, percentile_interval, resampled_auc
from melano_tf.evaluation.interval import Interval, ends_text, wider_interval
from melano_tf.evaluation.wilson_delong import EDGE, Estimate

pytestmark = pytest.mark.filterwarnings("error::RuntimeWarning")  # what is undefined is told by NaN alone


def sample(n: int, groups: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 2, n)
    return y, np.clip(np.round(0.5 + 0.2 * (y - 0.5) + 0.2 * rng.normal(size=n), 2), 0, 1), rng.integers(0, groups, n)


@pytest.mark.parametrize("chunk", [1, 100, 10**6])
def test_auc_of_every_resample_as_scikit_learn(monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    monkeypatch.setattr(bootstrap, "CHUNK_CELLS", chunk)
    y, p, groups = sample(60, 7)
    draws = np.random.default_rng(1).multinomial(7, np.full(7, 1 / 7), size=25)
    expected = [roc_auc_score(np.repeat(y, d[groups]), np.repeat(p, d[groups])) for d in draws]
    np.testing.assert_allclose(resampled_auc(y.astype(bool), p, groups, draws), expected, rtol=1e-12)


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
    """Of one positive and one negative; without one of them there is no area, and no warning."""
    monkeypatch.setattr(bootstrap, "CHUNK_CELLS", cells)
    draws = Seen(np.array([[1, 1], [2, 0], [0, 2], [1, 1], [2, 0]]))
    found = resampled_auc(np.array([True, False]), np.array([0.7, 0.2]), np.arange(2), draws)
    np.testing.assert_array_equal(found, [1, math.nan, math.nan, 1, math.nan])
    assert draws.rows == rows


def test_draws_of_nobody() -> None:
    index, draws = group_draws([], 5, 0)
    assert len(index) == 0 and draws.shape == (5, 0) and draws.dtype == np.int64


def test_intervals_as_a_naive_loop() -> None:
    y, p, groups = sample(40, 6, seed=4)
    repeats = 120
    found = binary_intervals(y, p, [f"patient {g}" for g in groups], repeats=repeats, level=0.9, seed=11)
    draws = np.random.default_rng(11).multinomial(6, np.full(6, 1 / 6), size=repeats)
    loop = [binary_metrics(np.repeat(y, d[groups]), np.repeat(p, d[groups])) for d in draws]
    assert tuple(found) == METRICS
    for name, interval in found.items():
        values = np.array([one[name] for one in loop])
        low, high = np.nanquantile(values, [0.05, 0.95])
        assert interval.low <= interval.value <= interval.high
        assert (interval.groups, interval.level) == (6, 0.9)
        assert interval.value == pytest.approx(binary_metrics(y, p)[name])
        if name in ("F1S", "BACC"):
            assert interval.low <= low + 1e-12 and high - 1e-12 <= interval.high
            assert (interval.method, interval.undefined, interval.repeats) == ("wider", np.isnan(values).sum(), repeats)
        else:
            method = "DeLong" if name == "AUC" else "Wilson"
            assert (interval.method, interval.undefined, interval.repeats) == (method, 0, 0)


def test_undefined_resamples_are_counted() -> None:
    # Three patients, one positive: a resample misses the positive with chance (2/3)^3 = 0.296, and the negatives
    # with chance (1/3)^3 = 0.037.
    found = binary_intervals([1, 0, 0], [0.9, 0.2, 0.6], ["a", "b", "c"], repeats=4000)
    assert found["BACC"].undefined / 4000 == pytest.approx(0.333, abs=0.03)
    assert found["BACC"].method == "wider", "one positive tile is enough for it"
    assert found["AUC"].high == 1 and 0 < found["AUC"].low < 0.5, "one positive patient says little"
    one_class = binary_intervals([0, 0], [0.9, 0.2], ["a", "b"], repeats=10)["AUC"]
    assert one_class.method == "none" and one_class.ends() == "not estimable"
    assert math.isnan(one_class.value) and math.isnan(one_class.low) and math.isnan(one_class.high)
    assert math.isnan(binary_intervals([], [], [], repeats=10)["ACC"].low)


def test_order_does_not_matter_and_groups_do() -> None:
    y, p, groups = sample(300, 10, seed=2)
    found = binary_intervals(y, p, groups, repeats=200)
    for name, turned in binary_intervals(y[::-1], p[::-1], groups[::-1], repeats=200).items():
        wanted = found[name]
        assert (turned.value, turned.low, turned.high) == pytest.approx((wanted.value, wanted.low, wanted.high))
    # ten copies of thirty tiles: their interval by tile is too narrow, by group it stays that of thirty
    few, repeated = slice(0, 30), np.tile(np.arange(30), 10)
    honest = binary_intervals(y[few], p[few], np.arange(30))["ACC"]
    grouped = binary_intervals(y[repeated], p[repeated], repeated)["ACC"]
    by_tile = binary_intervals(y[repeated], p[repeated], np.arange(300))["ACC"]
    assert (grouped.low, grouped.high) == pytest.approx((honest.low, honest.high))
    assert by_tile.high - by_tile.low < 0.5 * (grouped.high - grouped.low)


def test_an_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    covered = 0
    for seed in range(200):
        called = rng.random(60) < 0.8
        found = binary_intervals(np.ones(60), called.astype(float), np.arange(60), ["SN"], seed=seed)["SN"]
        covered += found.low <= 0.8 <= found.high
    assert 0.93 <= covered / 200 <= 0.995


def test_bad_input_is_refused() -> None:
    known = "known are ['SN', 'SPC', 'PPV', 'NPV', 'F1S', 'ACC', 'BACC', 'AUC']"
    with pytest.raises(ValueError) as caught:
        binary_intervals([0, 1], [0, 1], ["a", "b"], ["MCC", "SN", "DOR"])
    assert str(caught.value) == f"unknown metrics ['DOR', 'MCC']; {known}"
    with pytest.raises(ValueError, match=r"^1 groups for 2 samples$"):
        binary_intervals([0, 1], [0, 1], ["a"])


def test_two_thousand_resamples_of_ten_thousand_tiles_take_seconds() -> None:
    y, p, groups = sample(10_000, 15)
    started = time.process_time()
    binary_intervals(y, p, groups, repeats=2000)
    assert time.process_time() - started < 10


@pytest.mark.parametrize("patients", [1, 2, 3, 12])
@pytest.mark.parametrize("right", [True, False])
def test_a_perfect_score_has_an_interval_with_room(patients: int, right: bool) -> None:
    """A percentile bootstrap said 1.0000 to 1.0000."""
    y = np.tile([1, 0, 1], patients)
    p = (y if right else 1 - y).astype(float)
    found = binary_intervals(y, p, np.repeat(np.arange(patients), 3))
    for name, one in found.items():
        assert one.value == float(right)
        assert one.high - one.low > 0.1 and one.low <= one.value <= one.high, name
    assert found["SN"].high - found["SN"].low > {1: 0.7, 2: 0.6, 3: 0.5, 12: 0.2}[patients]


def test_resamples_that_agree_are_no_interval() -> None:
    found = percentile_interval(0.3, np.full(50, 0.3), 0.95, 9)
    assert math.isnan(found.low) and found.method == "none" and found.ends() == "not estimable"
    assert percentile_interval(0.0, np.array([0.0, EDGE]), 1.0, 2).method == "none"
    assert percentile_interval(0.0, np.array([0.0, 1.01 * EDGE]), 1.0, 2).method == "bootstrap"
    assert ends_text(1.0, 1.0) == "not estimable" and ends_text(0.5, 1.0) == "0.5000 to 1.0000"
    values, draws = np.full(6, 0.7), group_draws(list("aabbcc"), 50, 0)
    kept = mean_interval(values, *draws, 0.95, share=False)
    assert kept.low < 0.7 < kept.high and kept.high - kept.low > 0.4


def test_the_wider_of_two_intervals_lies_in_0_to_1_and_one_alone_is_kept() -> None:
    none = np.zeros(0)
    one = Interval(0.8, 0.7, 0.9, 3, 50, 9, 0.9)
    found = wider_interval(Estimate(0.5, 0.45, 0.9, none), one)
    assert (found.low, found.high, found.method) == (0.7, 1.0, "wider")
    assert (found.value, found.undefined, found.repeats, found.groups, found.level) == (0.8, 3, 50, 9, 0.9)
    assert wider_interval(Estimate(0.9, 0.05, 0.95, none), one).low == 0.0
    assert wider_interval(Estimate(math.nan, math.nan, math.nan, none), one) is one
    undefined = percentile_interval(math.nan, np.full(4, math.nan), 0.9, 9)
    assert wider_interval(Estimate(0.5, 0.4, 0.6, none), undefined) is undefined
