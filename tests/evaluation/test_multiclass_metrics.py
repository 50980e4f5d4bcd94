"""Several classes: by hand, as scikit-learn, as the ISIC challenge's scorer, intervals as naive loops."""

import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as reference

from melano_tf.evaluation.multiclass_metrics import (
    CLASS_METRICS,
    MULTICLASS_METRICS,
    check_classes,
    class_estimates,
    class_metrics,
    confusion_matrix,
    counts_by_group,
    decide,
    is_right,
    metrics_of_matrix,
    multiclass_intervals,
    multiclass_metrics,
)
from melano_tf.evaluation.wilson_delong import area, mean_area, mover, wilson

pytestmark = pytest.mark.filterwarnings("error::RuntimeWarning")  # what is undefined is told by NaN alone

NAMES = ["MEL", "NV", "BCC", "AKIEC", "BKL", "DF", "VASC"]


def sample(n: int, seed: int, classes: int = 7, ties: bool = False) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    y = rng.permutation(np.r_[np.arange(classes), rng.integers(0, classes, n - classes)])
    logits = rng.normal(size=(n, classes)) + 1.5 * np.eye(classes)[y]
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return y, np.round(p, 1) if ties else p


def test_by_hand() -> None:
    y = [0, 0, 0, 1, 1, 2]
    p = [
        [0.7, 0.2, 0.1],  # right
        [0.3, 0.6, 0.1],  # 0 taken for 1
        [0.4, 0.4, 0.2],  # undecided: wrong, and nobody's call
        [0.1, 0.8, 0.1],  # right
        [0.6, 0.3, 0.1],  # 1 taken for 0
        [0.2, 0.5, 0.3],  # 2 taken for 1
    ]
    assert decide(p).tolist() == [0, 1, -1, 1, 0, 1]
    assert confusion_matrix(y, p).tolist() == [[1, 1, 0, 1], [1, 1, 0, 0], [0, 1, 0, 0]]
    assert is_right(np.array(y), np.array(p)).tolist() == [True, False, False, True, False, False]
    assert confusion_matrix(y, p).dtype == np.int64
    by_group = counts_by_group(np.array(y), np.array(p), np.array([0, 0, 2, 2, 2, 0]), 4)
    assert by_group.sum(axis=(1, 2)).tolist() == [3, 0, 3, 0]
    assert by_group.sum(axis=0).tolist() == confusion_matrix(y, p).tolist()
    classes, scores = check_classes(y, np.rint(p).astype(int))
    assert (classes.dtype, scores.dtype) == (np.intp, np.float64)
    found = class_metrics(y, p, ["a", "b", "c"])
    assert [found[c]["RE"] for c in "abc"] == pytest.approx([1 / 3, 1 / 2, 0])
    assert found["a"]["PR"] == pytest.approx(1 / 2) and found["b"]["PR"] == pytest.approx(1 / 3)
    assert math.isnan(found["c"]["PR"])  # never decided for
    assert [found[c]["F1"] for c in "abc"] == pytest.approx([2 / 5, 2 / 5, 0])
    # c against the rest: 0.3 beats all but nobody else's: 0.1, 0.1, 0.2, 0.1, 0.1
    assert (found["c"]["AUC"], found["c"]["AP"]) == (1.0, 1.0)
    means = multiclass_metrics(y, p)
    assert means["Acc"] == pytest.approx(2 / 6)
    assert means["BAcc"] == pytest.approx((1 / 3 + 1 / 2) / 3)
    assert means["mPR"] == pytest.approx((1 / 2 + 1 / 3 + 0) / 3)  # 0 for the class that is given up
    assert means["mF1"] == pytest.approx((2 / 5 + 2 / 5) / 3)
    assert means["mAUC"] == pytest.approx(np.mean([found[c]["AUC"] for c in "abc"]))
    assert tuple(means) == MULTICLASS_METRICS and tuple(found["a"]) == CLASS_METRICS


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 7), st.integers(0, 80), st.integers(0, 2**32 - 1))
def test_as_scikit_learn(classes: int, more: int, seed: int) -> None:
    y, p = sample(classes + more, seed, classes)
    called = p.argmax(axis=1)
    found = multiclass_metrics(y, p)
    assert found["Acc"] == pytest.approx(reference.accuracy_score(y, called))
    assert found["BAcc"] == pytest.approx(reference.balanced_accuracy_score(y, called))
    assert found["mPR"] == pytest.approx(reference.precision_score(y, called, average="macro", zero_division=0))
    assert found["mF1"] == pytest.approx(reference.f1_score(y, called, average="macro"))
    by_class = class_metrics(y, p, NAMES[:classes])
    recalls = reference.recall_score(y, called, average=None)
    precisions = reference.precision_score(y, called, average=None, zero_division=np.nan)
    np.testing.assert_allclose([by_class[c]["RE"] for c in NAMES[:classes]], recalls)
    np.testing.assert_allclose([by_class[c]["PR"] for c in NAMES[:classes]], precisions)
    for k, name in enumerate(NAMES[:classes]):
        assert by_class[name]["AUC"] == pytest.approx(reference.roc_auc_score(y == k, p[:, k]))
        assert by_class[name]["AP"] == pytest.approx(reference.average_precision_score(y == k, p[:, k]))


@pytest.fixture
def scorer() -> Any:
    """The ISIC challenge's own scorer."""
    return pytest.importorskip("isic_challenge_scoring", reason="needs the ISIC challenge's isic-challenge-scoring")


def challenge_tables(y: np.ndarray, p: np.ndarray) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    images = [f"ISIC_{i:07}" for i in range(len(y))]
    truth = pd.DataFrame(np.eye(7)[y], columns=NAMES, index=images)
    weights = pd.DataFrame({"score_weight": 1.0, "validation_weight": 1.0}, index=images)
    return truth, pd.DataFrame(p, columns=NAMES, index=images), weights


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_as_the_isic_challenges_scorer(scorer: Any, seed: int, ties: bool) -> None:
    y, p = sample(150, seed, ties=ties)
    assert (decide(p) < 0).any() == ties
    metric = scorer.ClassificationMetric.BALANCED_ACCURACY
    theirs = scorer.ClassificationScore(*challenge_tables(y, p), metric)
    ours, by_class = multiclass_metrics(y, p), class_metrics(y, p, NAMES)
    assert ours["BAcc"] == pytest.approx(theirs.overall)
    assert ours["mAUC"] == pytest.approx(theirs.macro_average["auc"])
    for k, name in enumerate(NAMES):
        assert by_class[name]["AUC"] == pytest.approx(theirs.per_category["auc"].iloc[k])
        assert by_class[name]["AP"] == pytest.approx(theirs.per_category["ap"].iloc[k])
    # Its other scores are of p > 0.5 class by class; of decisions as 0 and 1 (undecided: all 0) they are ours.
    hard = np.eye(8)[decide(p)][:, :7]
    theirs = scorer.ClassificationScore(*challenge_tables(y, hard), metric).per_category
    for k, name in enumerate(NAMES):
        assert by_class[name]["RE"] == pytest.approx(theirs["sensitivity"].iloc[k])
        assert by_class[name]["F1"] == pytest.approx(theirs["dice"].iloc[k])
        assert by_class[name]["PR"] == pytest.approx(theirs["ppv"].iloc[k])  # every class is called here
    assert (np.bincount(decide(p)[decide(p) >= 0], minlength=7) > 0).all()


def test_an_absent_class_is_left_out_as_in_the_scorer(scorer: Any) -> None:
    y, p = sample(60, 5)
    kept = y != 3
    y, p = y[kept], p[kept]
    found = multiclass_metrics(y, p)
    called = p.argmax(axis=1)
    assert (called == 3).any()
    recalls = [(called[y == k] == k).mean() for k in range(7) if k != 3]
    assert found["BAcc"] == pytest.approx(np.mean(recalls))
    assert math.isnan(class_metrics(y, p, NAMES)["AKIEC"]["RE"])
    truth, predicted, weights = challenge_tables(y, p)
    theirs = scorer.metrics.balanced_multiclass_accuracy(truth, predicted, weights["score_weight"])
    assert found["BAcc"] == pytest.approx(theirs)


def test_undefined() -> None:
    nothing = multiclass_metrics(np.empty(0, int), np.empty((0, 3)))
    assert all(math.isnan(value) for value in nothing.values())
    one = multiclass_metrics([1, 1], [[0.2, 0.8], [0.7, 0.3]])
    assert (one["Acc"], one["BAcc"], one["mPR"]) == (0.5, 0.5, 1.0) and math.isnan(one["mAUC"])
    found = multiclass_intervals(np.empty(0, int), np.empty((0, 2)), [], ["a", "b"], repeats=5)
    assert found.overall["Acc"].method == "none" and found.by_class["a"]["AP"].undefined == 5


def test_intervals_as_naive_loops() -> None:
    y, p = sample(60, 8, classes=3)
    groups = np.random.default_rng(0).integers(0, 8, 60)
    found = multiclass_intervals(y, p, [f"p{g}" for g in groups], list("abc"), repeats=80, level=0.9, seed=4)
    draws = np.random.default_rng(4).multinomial(8, np.full(8, 1 / 8), size=80)
    overall, by_class = [], []
    for d in draws:
        rows = np.repeat(np.arange(60), d[groups])
        whole = len(np.unique(y[rows])) == 3
        values = multiclass_metrics(y[rows], p[rows])
        overall.append({m: v if whole or m == "Acc" else math.nan for m, v in values.items()})
        by_class.append(class_metrics(y[rows], p[rows], list("abc")))
    for metric in MULTICLASS_METRICS:
        values = np.array([one[metric] for one in overall])
        interval = found.overall[metric]
        low, high = np.nanquantile(values, [0.05, 0.95])
        if metric == "Acc":
            assert interval.method == "Wilson" and interval.low < interval.value < interval.high
        else:
            assert low - 0.2 < interval.low <= low + 1e-12 and high - 1e-12 <= interval.high < high + 0.2
            assert interval.undefined == np.isnan(values).sum()
        assert interval.groups == 8
        assert interval.value == pytest.approx(multiclass_metrics(y, p)[metric])
    for name in "abc":
        for metric in CLASS_METRICS:
            values = np.array([one[name][metric] for one in by_class])
            interval = found.by_class[name][metric]
            assert (interval.groups, interval.level) == (8, 0.9)
            low, high = np.nanquantile(values, [0.05, 0.95])
            if metric == "AP":
                assert (interval.low, interval.high) == pytest.approx((low, high))
            elif metric == "F1":
                assert interval.low <= low + 1e-12 and high - 1e-12 <= interval.high
            else:
                assert interval.low < by_value(y, p, name, metric) < interval.high
                assert interval.method == ("DeLong" if metric == "AUC" else "Wilson")


def by_value(y: np.ndarray, p: np.ndarray, name: str, metric: str) -> float:
    return class_metrics(y, p, list("abc"))[name][metric]


def test_means_are_over_the_classes_that_are_judged() -> None:
    """Truth a a a b b b, called a a c b b b: c is called without being there."""
    matrix = [[2, 0, 1, 0], [0, 3, 0, 0], [0, 0, 0, 0]]
    found = metrics_of_matrix(matrix)
    assert [found[m] for m in ("Acc", "BAcc", "mPR", "mF1")] == pytest.approx([5 / 6, 5 / 6, 1, (4 / 5 + 1) / 2])
    assert found["F1"].tolist() == pytest.approx([4 / 5, 1, 0]) and math.isnan(found["RE"][2])
    every = metrics_of_matrix([matrix, matrix], np.array([True, True, True]))
    assert every["Acc"] == pytest.approx([5 / 6] * 2)
    assert all(np.isnan(every[m]).all() for m in ("BAcc", "mPR", "mF1")), "it would be a mean over other classes"


def test_a_class_that_nobody_has_changes_no_interval_of_the_others() -> None:
    y, p = sample(50, 9, classes=3)
    groups = np.random.default_rng(1).integers(0, 9, 50)
    with_it = np.c_[p[:, :1], np.full(50, -1.0), p[:, 1:]]  # never called, nobody's
    found, wanted = (
        multiclass_intervals(truth, scores, groups, list(names), repeats=60, level=0.9)
        for truth, scores, names in ((y + (y > 0), with_it, "axbc"), (y, p, "abc"))
    )
    assert found.overall == wanted.overall
    for name in "abc":
        assert found.by_class[name] == wanted.by_class[name]
    assert all(math.isnan(one.value) and one.method == "none" for one in found.by_class["x"].values())


def test_a_class_that_is_never_called_leaves_the_mean_precision_room() -> None:
    """Its precision counts 0, of two patients: Wilson's end of 0 of 2, a third of it, could be missing."""
    y, p = np.r_[np.arange(40) % 2, 2, 2], np.eye(3)[np.r_[np.arange(40) % 2, 0, 1]]
    found = multiclass_intervals(y, p, np.arange(42), list("abc"), repeats=100).overall["mPR"]
    assert found.value == pytest.approx(2 * 20 / 21 / 3)
    assert found.high >= found.value + wilson(0.0, 2, 0.95)[1] / 3 > 0.85


def test_a_class_that_one_split_never_calls_counts_0_there() -> None:
    """Its precision is 2/3 in the first split, and none in the second one, which holds it."""
    counts = np.array([[[[4, 1, 0], [0, 2, 0]]], [[[3, 0, 0], [2, 0, 0]]]], float)
    found = class_estimates(counts, np.array([True, True]), 0.9)
    assert found["mPR"].value == pytest.approx(((1 + 2 / 3) / 2 + (3 / 5 + 0) / 2) / 2)
    assert found["BAcc"].value == pytest.approx(((4 / 5 + 1) / 2 + (1 + 0) / 2) / 2)
    assert found["mF1"].value == pytest.approx((found["F1 0"].value + found["F1 1"].value) / 2)


def test_perfect_areas_have_ends_of_their_own() -> None:
    """Of 2, 3 and 7 patients, all right: no resample differs."""
    y = np.repeat([0, 1, 2], [2, 3, 7])
    found = multiclass_intervals(y, np.eye(3)[y], np.arange(12), list("abc"), repeats=40)
    areas = [mean_area([area(y == k, np.eye(3)[y][:, k], np.arange(12), 12)], 0.95) for k in range(3)]
    assert found.overall["mAUC"].low == pytest.approx(mover(areas).low) != pytest.approx(found.overall["BAcc"].low)
    for name, count in zip("abc", (2, 3, 7), strict=True):
        assert found.by_class[name]["AP"].low == pytest.approx(wilson(1.0, count, 0.95)[0])


def test_the_level_reaches_every_interval_and_what_is_not_said() -> None:
    y, p = sample(80, 12, classes=3)
    groups = np.random.default_rng(2).integers(0, 25, 80)

    def every(**given: Any) -> dict[tuple[str, str], Any]:
        found = multiclass_intervals(y, p, groups, list("abc"), **given)
        return {("", m): one for m, one in found.overall.items()} | {
            (name, m): one for name, own in found.by_class.items() for m, one in own.items()
        }

    found, wider = every(level=0.5, repeats=200), every(level=0.6, repeats=200)
    for key, one in found.items():
        assert wider[key].low < one.low < one.high < wider[key].high, key
        assert one.level == 0.5
        assert one.method == {"Acc": "Wilson", "RE": "Wilson", "PR": "Wilson", "AUC": "DeLong", "AP": "bootstrap"}.get(
            key[1], "wider"
        )
    assert every() == every(level=0.95, repeats=2000, seed=0)


def test_resamples_without_a_class_are_counted() -> None:
    # Class 2 is one patient's of four: (3/4)^4 of the resamples lack it.
    y, p = [0, 0, 1, 2], np.eye(3)[[0, 0, 1, 2]]
    found = multiclass_intervals(y, p, list("abcd"), list("xyz"), repeats=4000)
    assert found.by_class["z"]["AP"].undefined / 4000 == pytest.approx((3 / 4) ** 4, abs=0.03)
    assert found.overall["BAcc"].undefined > found.by_class["z"]["AP"].undefined
    every = [*found.overall.values(), *(one for own in found.by_class.values() for one in own.values())]
    assert all(one.value == 1 == one.high and 0 <= one.low < 0.7 for one in every), "all perfect, of four patients"


def test_bad_input_is_refused() -> None:
    p = np.full((2, 3), 1 / 3)
    for y, scores, said in (
        ([0, 3], p, "class indices must lie in 0..2"),
        ([-1, 0], p, "class indices must lie in 0..2"),
        ([0.0, 1.0], p, "class indices must be integers, not float64"),
        ([0], p, "class indices (1,) and scores (2, 3) must be (n,) and (n, K), K >= 2"),
        ([0, 1], [0.1, 0.2], "class indices (2,) and scores (2,) must be (n,) and (n, K), K >= 2"),
        ([0, 0], [[0.1], [0.2]], "class indices (2,) and scores (2, 1) must be (n,) and (n, K), K >= 2"),
        ([0, 1], [[math.nan, 1, 0], [0, math.inf, 0]], "2 scores are not finite"),
    ):
        with pytest.raises(ValueError) as caught:
            multiclass_metrics(y, scores)
        assert str(caught.value) == said
    assert math.isnan(multiclass_metrics([], np.empty((0, 3)))["Acc"])
    assert multiclass_metrics(np.array([0, 1], np.uint8), np.eye(2))["Acc"] == 1
    for names in (["a", "b", "a"], ["a", "b"]):
        for of in (class_metrics, lambda y, p, names: multiclass_intervals(y, p, ["x", "y"], names)):
            with pytest.raises(ValueError) as caught:
                of([0, 1], p, names)
            assert str(caught.value) == f"{len(names)} names {names} for 3 classes; each needs one of its own"
    with pytest.raises(ValueError, match=r"^1 groups for 2 samples$"):
        multiclass_intervals([0, 1], p, ["x"], list("abc"))
