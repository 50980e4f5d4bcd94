import math
from collections.abc import Callable

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, f1_score, precision_score, recall_score

from melano_tf.evaluation.binary_metrics import roc_auc
from melano_tf.evaluation.bootstrap import group_draws
from melano_tf.evaluation.multiclass_metrics import multiclass_intervals
from melano_tf.evaluation.repeated_split_intervals import (
    JudgedSplit,
    paired_auc_difference,
    paired_differences,
    split_calibration_error,
    split_intervals,
    split_mean_auc,
    split_metrics,
)

pytestmark = pytest.mark.filterwarnings("error::RuntimeWarning")  # what is undefined is told by NaN alone

NAMES = ("a", "b", "c")


def drawn(seed: int, count: int, lesions: list[str]) -> JudgedSplit:
    draw = np.random.default_rng(seed)
    y = np.r_[0, 1, 2, draw.integers(0, 3, count - 3)]
    scores = draw.dirichlet(np.ones(3), count)
    scores[np.arange(count), y] += draw.uniform(0, 0.6, count)
    return JudgedSplit(y, scores, [lesions[n] for n in draw.integers(0, len(lesions), count)])


def test_metrics_by_hand() -> None:
    """Truth a a b b c; called a b b b a: recalls 1/2, 1, 0, precisions 1/2, 2/3 and none."""
    scores = np.eye(3)[[0, 1, 1, 1, 0]]
    found = split_metrics(JudgedSplit([0, 0, 1, 1, 2], scores, list("vwxyz")), NAMES)
    assert found["Acc"] == pytest.approx(3 / 5) and found["BAcc"] == pytest.approx(0.5)
    assert found["mPR"] == pytest.approx((1 / 2 + 2 / 3 + 0) / 3)
    assert found["mF1"] == pytest.approx((1 / 2 + 4 / 5 + 0) / 3)
    assert (found["RE a"], found["RE b"], found["RE c"]) == (0.5, 1.0, 0.0)
    assert math.isnan(found["PR c"]) and found["F1 c"] == 0


def test_lesions_are_drawn_once_for_all_splits() -> None:
    """Against a naive loop: the same lesions, repeated as often, in every split that judges them."""
    lesions = [f"L{n}" for n in range(9)]
    splits = [drawn(1, 40, lesions[:6]), drawn(2, 30, lesions[3:])]
    found = split_intervals(splits, NAMES, repeats=60, seed=5)
    held = sorted({name for split in splits for name in split.groups})
    times = np.random.default_rng(5).multinomial(len(held), np.full(len(held), 1 / len(held)), size=60)
    samples = []
    for drawn_times in times:
        values = []
        for split in splits:
            rows = [i for i, name in enumerate(split.groups) for _ in range(drawn_times[held.index(name)])]
            part = JudgedSplit(np.asarray(split.y)[rows], np.asarray(split.scores)[rows], ["x"] * len(rows))
            whole = set(np.unique(split.y)) == set(np.unique(part.y))
            values.append(split_metrics(part, NAMES)["BAcc"] if whole else math.nan)
        samples.append(np.mean(values))
    defined = np.array(samples)[~np.isnan(samples)]
    low, high = np.quantile(defined, [0.025, 0.975])
    assert low - 0.15 < found["BAcc"].low <= low + 1e-12 and high - 1e-12 <= found["BAcc"].high < high + 0.15
    assert found["BAcc"].undefined == 60 - len(defined) and found["BAcc"].groups == len(held)
    assert found["BAcc"].value == pytest.approx(np.mean([split_metrics(split, NAMES)["BAcc"] for split in splits]))


def test_judging_the_same_lesions_twice_is_no_more_evidence() -> None:
    split = drawn(3, 60, [f"L{n}" for n in range(20)])
    once = split_intervals([split], NAMES, repeats=400, seed=1)["Acc"]
    twice = split_intervals([split, split], NAMES, repeats=400, seed=1)["Acc"]
    assert (once.low, once.high) == (twice.low, twice.high)
    other = JudgedSplit(split.y, split.scores, [f"{name}'" for name in split.groups])
    more = split_intervals([split, other], NAMES, repeats=400, seed=1)["Acc"]
    assert more.high - more.low < 0.85 * (once.high - once.low), "other lesions are"


def test_a_class_that_a_split_never_calls_is_judged_on_the_others() -> None:
    """It was "not estimable", as if all resamples agreed."""
    first = drawn(4, 50, [f"L{n}" for n in range(15)])
    scores = np.asarray(drawn(5, 40, ["x"]).scores).copy()
    scores[:, 2] = -1.0
    truth = np.r_[0, 1, np.random.default_rng(5).integers(0, 2, 38)]
    silent = JudgedSplit(truth, scores, [f"M{n}" for n in range(40)])
    found, alone = (split_intervals(splits, NAMES, repeats=200) for splits in ([first, silent], [first]))
    assert math.isnan(split_metrics(silent, NAMES)["PR c"]) and math.isnan(split_metrics(silent, NAMES)["F1 c"])
    for metric in ("PR c", "RE c", "F1 c"):
        one, wanted = found[metric], alone[metric]
        assert one.value == pytest.approx(wanted.value) and one.method == wanted.method
        assert 0 < one.low < one.value < one.high < 1
    assert found["F1 c"].undefined < 100, "resamples are judged on the others as well"
    for metric in ("PR c", "RE c"):
        assert (found[metric].low, found[metric].high) == pytest.approx((alone[metric].low, alone[metric].high))
    nowhere = split_intervals([silent, silent], NAMES, repeats=50)
    for metric in ("PR c", "F1 c"):
        assert math.isnan(nowhere[metric].value) and nowhere[metric].method == "none"
    without = split_intervals([JudgedSplit(truth, scores[:, :2], silent.groups)] * 2, NAMES[:2], repeats=50)
    assert all(nowhere[metric] == one for metric, one in without.items()), "a class that nobody has changes nothing"


@pytest.mark.parametrize("seed", range(8))
def test_ends_lie_in_0_to_1_around_the_value(seed: int) -> None:
    """A class's F1 of few lesions was -0.0212 to 0.7687."""
    rng = np.random.default_rng(seed)
    splits = []
    for _ in range(int(rng.integers(1, 4))):
        y = np.r_[0, 1, 2, rng.choice(3, int(rng.integers(6, 25)), p=[0.8, 0.15, 0.05])]
        splits.append(JudgedSplit(y, rng.dirichlet(np.ones(3), len(y)), [f"L{n}" for n in rng.integers(0, 9, len(y))]))
    for metric, one in split_intervals(splits, NAMES, repeats=100, seed=seed).items():
        assert math.isnan(one.low) or 0 <= one.low <= one.value <= one.high <= 1, (metric, one)


def test_no_splits_are_refused() -> None:
    with pytest.raises(ValueError, match=r"^no splits$"):
        split_intervals([], NAMES)


def naive_samples(splits: list[JudgedSplit], measure: Callable, repeats: int, seed: int) -> np.ndarray:
    """Means over splits of a measure of each resample's images, (repeats, …); NaN where a split lacks a class."""
    held = sorted({name for split in splits for name in split.groups})
    found = []
    for times in group_draws(held, repeats, seed)[1]:
        count = dict(zip(held, times.tolist(), strict=True))
        each = []
        for split in splits:
            y, scores = np.asarray(split.y), np.asarray(split.scores)
            rows = np.repeat(np.arange(len(y)), [count[name] for name in split.groups])
            whole = set(y[rows].tolist()) == set(y.tolist())
            each.append(np.asarray(measure(y[rows], scores[rows])) if whole else math.nan * measure(y, scores))
        found.append(np.mean(each, axis=0))
    return np.array(found)


def macro_auc(y: np.ndarray, scores: np.ndarray) -> float:
    """Pair by pair: the share of each class's images that are scored above the others', ties half."""
    apart = [scores[y == k, k][:, None] - scores[y != k, k][None, :] for k in np.unique(y)]
    return float(np.mean([(np.sign(one) / 2 + 0.5).mean() for one in apart]))


def overall(y: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Acc, BAcc, mPR and mF1, by scikit-learn."""
    called, undefined = scores.argmax(axis=1), {"average": "macro", "zero_division": 0, "labels": np.unique(y)}
    return np.array(
        [
            accuracy_score(y, called),
            recall_score(y, called, **undefined),
            precision_score(y, called, **undefined),
            f1_score(y, called, **undefined),
        ]
    )


def two_models() -> tuple[list[JudgedSplit], list[JudgedSplit]]:
    """Of two splits, class c of two lesions in the first one and of none in the second; the other model sees less."""
    first = []
    for one in (drawn(7, 30, [f"l{n}" for n in range(8)]), drawn(8, 26, [f"l{n}" for n in range(5, 12)])):
        y = np.where(np.isin(one.groups, ["l0", "l1"]), 2, np.asarray(one.y) % 2)
        first.append(JudgedSplit(y, one.scores, one.groups))
    blurred = [JudgedSplit(s.y, 0.6 * np.asarray(s.scores) + 0.4 * np.asarray(s.scores)[::-1], s.groups) for s in first]
    return first, blurred


def test_the_mean_auc_of_each_resample_and_its_difference_as_naive_loops() -> None:
    models = two_models()
    samples = [naive_samples(splits, macro_auc, 60, 6) for splits in models]
    gaps, values = samples[1] - samples[0], [np.mean([macro_auc(s.y, s.scores) for s in one]) for one in models]
    found = split_mean_auc(models[0], repeats=60, level=0.8, seed=6)
    assert (found.value, found.undefined) == (pytest.approx(values[0]), np.isnan(samples[0]).sum())
    assert 0 < found.undefined < 60 and found.level == 0.8
    assert (found.low, found.high) == pytest.approx(tuple(np.nanquantile(samples[0], [0.1, 0.9])))
    apart = paired_auc_difference(*models, repeats=60, level=0.8, seed=6)
    assert apart.value == pytest.approx(values[1] - values[0])
    assert (apart.low, apart.high) == pytest.approx(tuple(np.nanquantile(gaps, [0.1, 0.9])))
    assert apart.groups == found.groups == 12


def test_paired_differences_as_naive_loops() -> None:
    models = two_models()
    found = paired_differences(*models, NAMES, repeats=60, level=0.8, seed=6)
    samples = [naive_samples(splits, overall, 60, 6) for splits in models]
    values = [np.mean([overall(s.y, s.scores) for s in one], axis=0) for one in models]
    assert list(found) == ["Acc", "BAcc", "mPR", "mF1"]
    for k, (metric, one) in enumerate(found.items()):
        assert one.value == pytest.approx(values[1][k] - values[0][k])
        if metric != "Acc":  # which a resample without a class has as well
            wanted = np.nanquantile(samples[1][:, k] - samples[0][:, k], [0.1, 0.9])
            assert (one.low, one.high) == pytest.approx(tuple(wanted)), metric
            assert one.undefined == np.isnan(samples[0][:, k]).sum() > 0
        assert (one.groups, one.level) == (12, 0.8)


def test_a_resample_without_a_splits_lesions_leaves_its_calibration_error_undefined() -> None:
    first, lone = normalised(drawn(5, 40, [f"l{n}" for n in range(3)])), normalised(drawn(6, 5, ["m"]))
    found = split_calibration_error([first, lone], repeats=500, seed=2)
    # Of four lesions one is missed by (3/4)^4 of the resamples, all three others by (1/4)^4.
    assert found.undefined / 500 == pytest.approx((3 / 4) ** 4 + (1 / 4) ** 4, abs=0.05)
    assert 0 <= found.low < found.value < found.high
    assert found == split_calibration_error([first, lone], repeats=500, seed=2, bins=15, level=0.95)


def test_the_level_and_what_is_not_said() -> None:
    splits = [drawn(1, 40, [f"L{n}" for n in range(12)]), drawn(2, 30, [f"L{n}" for n in range(6, 18)])]
    found, wider = (split_intervals(splits, NAMES, repeats=150, level=level) for level in (0.5, 0.6))
    for metric, one in found.items():
        assert wider[metric].low < one.low < one.high < wider[metric].high, metric
        assert one.level == 0.5
    other = [JudgedSplit(one.y, np.asarray(one.scores)[:, [0, 2, 1]], one.groups) for one in splits]
    for of in (
        lambda **more: split_intervals(splits, NAMES, **more),
        lambda **more: split_mean_auc(splits, **more),
        lambda **more: split_calibration_error([normalised(one) for one in splits], **more),
        lambda **more: paired_auc_difference(splits, other, **more),
        lambda **more: paired_differences(splits, other, NAMES, **more),
    ):
        assert of() == of(repeats=2000, level=0.95, seed=0)


def test_one_split_has_the_intervals_of_everywhere() -> None:
    split, given = drawn(1, 40, [f"L{n}" for n in range(12)]), {"repeats": 80, "level": 0.8, "seed": 3}
    wanted = multiclass_intervals(split.y, split.scores, split.groups, NAMES, **given)
    for metric, one in split_intervals([split], NAMES, **given).items():
        kind, *name = metric.split(" ")
        assert one == (wanted.by_class[name[0]][kind] if name else wanted.overall[kind]), metric


def test_the_bins_of_a_calibration_error_and_a_single_image() -> None:
    """0.4 sure and wrong, 0.9 sure and right: gaps of two bins, which one bin would set against each other."""
    two = JudgedSplit([1, 0], [[0.4, 0.3, 0.3], [0.9, 0.1, 0.0]], ["a", "b"])
    found = split_calibration_error([two], bins=2)
    assert (found.value, found.low, found.high) == (0.25, pytest.approx(0.1, abs=0.01), pytest.approx(0.4, abs=0.01))
    lone = JudgedSplit([0], [[0.7, 0.2, 0.1]], ["c"])
    draws = group_draws(list("abc"), 50, 2)[1]
    gone = (draws[:, 2] == 0) | (draws[:, 0] + draws[:, 1] == 0)
    assert split_calibration_error([two, lone], repeats=50, seed=2).undefined == gone.sum()


def test_differences_are_paired() -> None:
    """By hand: two lesions of each class; the other one is right where the first is, and once more."""
    sure, groups = np.eye(2), list("abcd")
    first = JudgedSplit([0, 0, 1, 1], sure[[0, 0, 1, 0]], groups)
    other = JudgedSplit([0, 0, 1, 1], sure[[0, 0, 1, 1]], groups)
    found = paired_differences([first], [other], ("a", "b"), repeats=400)
    assert found["Acc"].value == 0.25 and found["BAcc"].value == 0.25
    assert found["Acc"].low == 0.0 and 0.25 < found["Acc"].high <= 1.0  # never worse, whichever lesions are drawn
    swapped = paired_differences([other], [first], ("a", "b"), repeats=400)
    assert (swapped["Acc"].value, swapped["Acc"].high) == (-0.25, 0.0)
    two = paired_differences([first, other], [other, other], ("a", "b"), repeats=400)
    assert two["Acc"].value == pytest.approx(0.125) and two["Acc"].high < found["Acc"].high
    for unlike in (JudgedSplit([0, 1, 0, 1], other.scores, groups), JudgedSplit(other.y, other.scores, list("abce"))):
        with pytest.raises(ValueError, match=r"^paired differences need the same images in the same order$"):
            paired_differences([first], [unlike], ("a", "b"))
    with pytest.raises(ValueError):
        paired_differences([first, other], [other], ("a", "b"))
    with pytest.raises(ValueError):
        paired_auc_difference([first, other], [other])


def test_the_mean_auc_of_splits() -> None:
    lesions = [f"l{n}" for n in range(40)]
    splits = [drawn(1, 60, lesions), drawn(2, 90, lesions)]
    found = split_mean_auc(splits, repeats=300)
    by_hand = [np.mean([roc_auc(np.asarray(s.y) == k, np.asarray(s.scores)[:, k]) for k in range(3)]) for s in splits]
    assert found.value == pytest.approx(np.mean(by_hand))
    assert found.low < found.value < found.high
    assert found.groups == len({*splits[0].groups, *splits[1].groups})


def normalised(split: JudgedSplit) -> JudgedSplit:
    scores = np.asarray(split.scores)
    return JudgedSplit(split.y, scores / scores.sum(axis=1, keepdims=True), split.groups)


def naive_error(y: list[int], scores: list[list[float]], bins: int) -> float:
    """Weighted gaps between how sure and how often right, by bins of the highest probability."""
    total = 0.0
    for k in range(bins):
        inside = [i for i, row in enumerate(scores) if k / bins < max(row) <= (k + 1) / bins]
        right = sum(scores[i][y[i]] == max(scores[i]) for i in inside)
        total += abs(right - sum(max(scores[i]) for i in inside))
    return total / len(y)


def test_the_calibration_error_of_each_resample_is_that_of_a_naive_loop() -> None:
    lesions = [f"l{n}" for n in range(14)]
    splits = [normalised(drawn(5, 60, lesions)), normalised(drawn(6, 45, lesions))]
    found = split_calibration_error(splits, repeats=200, seed=3, bins=7)
    lists = [(list(map(int, s.y)), np.asarray(s.scores).tolist(), list(s.groups)) for s in splits]
    assert found.value == pytest.approx(np.mean([naive_error(y, p, 7) for y, p, _ in lists]))
    _, draws = group_draws([name for s in splits for name in s.groups], 200, 3)
    names = sorted({name for s in splits for name in s.groups})
    resampled = []
    for times in draws:
        count = dict(zip(names, times.tolist(), strict=True))
        rows = [[i for i, g in enumerate(groups) for _ in range(count[g])] for _, _, groups in lists]
        each = [naive_error([y[i] for i in r], [p[i] for i in r], 7) for (y, p, _), r in zip(lists, rows, strict=True)]
        resampled.append(np.mean(each))
    bias = np.mean(resampled) - found.value
    assert bias > 0.01  # uncentred, the interval would not always hold the value
    low, high = np.quantile([max(one - bias, 0) for one in resampled], [0.025, 0.975])
    assert (found.low, found.high) == (pytest.approx(low), pytest.approx(high))
    assert found.low < found.value < found.high and found.groups == len(names)


def test_a_paired_difference_of_auc_is_that_of_the_same_draws() -> None:
    lesions = [f"l{n}" for n in range(30)]
    first = [drawn(7, 80, lesions), drawn(8, 70, lesions)]
    blurred = [JudgedSplit(s.y, 0.5 * np.asarray(s.scores) + 0.5 * np.asarray(s.scores)[::-1], s.groups) for s in first]
    found = paired_auc_difference(first, blurred, repeats=300, seed=2)
    one, other = (split_mean_auc(splits, repeats=300, seed=2) for splits in (first, blurred))
    assert found.value == pytest.approx(other.value - one.value) and found.value < 0
    assert found.high - found.low < (one.high - one.low) + (other.high - other.low)
    same = paired_auc_difference(first, first, repeats=50)
    assert same.value == 0 and math.isnan(same.low)  # no width is no interval
    with pytest.raises(ValueError, match="the same images in the same order"):
        paired_auc_difference(first, [blurred[0], drawn(9, 70, lesions)])
