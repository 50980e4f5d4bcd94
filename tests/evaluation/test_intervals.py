"""Bootstrap intervals: each resample against scikit-learn on repeated samples, coverage, grouping, speed."""

import math
import time

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from melano_tf.evaluation import intervals
from melano_tf.evaluation.intervals import bootstrap_intervals, resampled_auc
from melano_tf.evaluation.metrics import METRICS, binary_metrics


def sample(n: int, groups: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 2, n)
    return y, np.clip(np.round(0.5 + 0.2 * (y - 0.5) + 0.2 * rng.normal(size=n), 2), 0, 1), rng.integers(0, groups, n)


@pytest.mark.parametrize("chunk", [1, 100, 10**6])
def test_auc_of_every_resample_as_scikit_learn(monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    monkeypatch.setattr(intervals, "CHUNK_CELLS", chunk)
    y, p, groups = sample(60, 7)
    draws = np.random.default_rng(1).multinomial(7, np.full(7, 1 / 7), size=25)
    expected = [roc_auc_score(np.repeat(y, d[groups]), np.repeat(p, d[groups])) for d in draws]
    np.testing.assert_allclose(resampled_auc(y.astype(bool), p, groups, draws), expected, rtol=1e-12)


def test_intervals_as_a_naive_loop() -> None:
    y, p, groups = sample(40, 6, seed=4)
    repeats = 120
    found = bootstrap_intervals(y, p, [f"patient {g}" for g in groups], repeats=repeats, level=0.9, seed=11)
    draws = np.random.default_rng(11).multinomial(6, np.full(6, 1 / 6), size=repeats)
    loop = [binary_metrics(np.repeat(y, d[groups]), np.repeat(p, d[groups])) for d in draws]
    assert tuple(found) == METRICS
    for name, interval in found.items():
        values = np.array([one[name] for one in loop])
        low, high = np.nanquantile(values, [0.05, 0.95])
        assert (interval.low, interval.high) == pytest.approx((low, high))
        assert interval.value == pytest.approx(binary_metrics(y, p)[name])
        assert (interval.undefined, interval.repeats, interval.groups) == (np.isnan(values).sum(), repeats, 6)


def test_undefined_resamples_are_counted() -> None:
    # Three patients, one positive: a resample misses the positive with chance (2/3)^3 = 0.296, and the negatives
    # with chance (1/3)^3 = 0.037.
    found = bootstrap_intervals([1, 0, 0], [0.9, 0.2, 0.6], ["a", "b", "c"], repeats=4000)
    assert found["SN"].undefined / 4000 == pytest.approx(0.296, abs=0.03)
    assert found["AUC"].undefined / 4000 == pytest.approx(0.333, abs=0.03)
    assert found["ACC"].undefined == 0
    assert (found["AUC"].low, found["AUC"].high) == (1.0, 1.0)
    one_class = bootstrap_intervals([0, 0], [0.9, 0.2], ["a", "b"], repeats=10)["AUC"]
    assert one_class.undefined == 10
    assert math.isnan(one_class.value) and math.isnan(one_class.low) and math.isnan(one_class.high)
    assert math.isnan(bootstrap_intervals([], [], [], repeats=10)["ACC"].low)


def test_order_does_not_matter_and_groups_do() -> None:
    y, p, groups = sample(300, 10, seed=2)
    found = bootstrap_intervals(y, p, groups, repeats=200)
    assert bootstrap_intervals(y[::-1], p[::-1], groups[::-1], repeats=200) == pytest.approx(found)
    # ten copies of thirty tiles: their interval by tile is too narrow, by group it stays that of thirty
    few, repeated = slice(0, 30), np.tile(np.arange(30), 10)
    honest = bootstrap_intervals(y[few], p[few], np.arange(30))["ACC"]
    grouped = bootstrap_intervals(y[repeated], p[repeated], repeated)["ACC"]
    by_tile = bootstrap_intervals(y[repeated], p[repeated], np.arange(300))["ACC"]
    assert (grouped.low, grouped.high) == pytest.approx((honest.low, honest.high))
    assert by_tile.high - by_tile.low < 0.5 * (grouped.high - grouped.low)


def test_an_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    covered = 0
    for seed in range(200):
        called = rng.random(60) < 0.8
        found = bootstrap_intervals(np.ones(60), called.astype(float), np.arange(60), ["SN"], repeats=300, seed=seed)[
            "SN"
        ]
        covered += found.low <= 0.8 <= found.high
    assert 0.88 <= covered / 200 <= 0.99


def test_bad_input_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown metrics"):
        bootstrap_intervals([0, 1], [0, 1], ["a", "b"], ["MCC"])
    with pytest.raises(ValueError, match="1 groups for 2 samples"):
        bootstrap_intervals([0, 1], [0, 1], ["a"])


def test_two_thousand_resamples_of_ten_thousand_tiles_take_seconds() -> None:
    y, p, groups = sample(10_000, 15)
    started = time.process_time()
    bootstrap_intervals(y, p, groups, repeats=2000)
    assert time.process_time() - started < 10
