"""Paired differences: own intervals as everywhere, and what is known where no resample differs."""

import math

import numpy as np
import pytest

from melano_tf.evaluation.binary_intervals import binary_intervals
from melano_tf.evaluation.multiclass_metrics import multiclass_intervals
from melano_tf.evaluation.paired_differences import Answer, paired_intervals
from melano_tf.evaluation.wilson_delong import wilson

pytestmark = pytest.mark.filterwarnings("error::RuntimeWarning")  # what is undefined is told by NaN alone


@pytest.mark.parametrize("level", [0.8, 0.95])
def test_a_models_own_intervals_are_those_of_everywhere(level: float) -> None:
    rng = np.random.default_rng(6)
    y, groups = (rng.random(70) < 0.3).astype(int), rng.integers(0, 18, 70)
    p = np.round(0.3 * y + 0.7 * rng.random(70), 1)  # 0.5 itself is called
    given = {"repeats": 150, "level": level, "seed": 3}
    [found] = paired_intervals(y, [Answer(p)], groups, **given)
    assert found.own == binary_intervals(y, p, groups, ("AUC", "BACC"), **given) and found.differences is None
    [found] = paired_intervals(y, [Answer(p, p >= 0.4)], groups, **given)
    assert found.own == binary_intervals(y, p, groups, ("AUC", "BACC"), threshold=0.4, **given)
    scores = np.eye(3)[y + (y > 0) * (groups > 12)] * 0.5 + rng.random((70, 3))
    classes = y + y * (groups > 9)
    [found] = paired_intervals(classes, [Answer(scores)], groups, **given)
    wanted = multiclass_intervals(classes, scores, groups, list("abc"), **given).overall
    assert found.own == {"BACC": wanted["BAcc"], "ACC": wanted["Acc"]}


def test_what_is_not_said() -> None:
    y, p = [0, 1, 0, 1, 1], [Answer([0.1, 0.9, 0.6, 0.7, 0.4]), Answer([0.2, 0.8, 0.3, 0.7, 0.6])]
    assert paired_intervals(y, p, list("abcde")) == paired_intervals(
        y, p, list("abcde"), repeats=2000, level=0.95, seed=0
    )


def test_where_no_resample_differs_the_groups_of_the_rarer_class_limit_the_difference() -> None:
    """One of 3 patients of class c, or of 3 + 5 + 9 for the accuracy, could be judged otherwise."""
    y = np.repeat([0, 1, 2], [9, 5, 3])
    scores = np.eye(3)[np.where(np.arange(17) % 4 == 0, (y + 1) % 3, y)]
    _, same = paired_intervals(y, [Answer(scores), Answer(scores * 2)], np.arange(17), repeats=100, level=0.8)
    for name, groups in (("BACC", 3), ("ACC", 17)):
        one, most = same.differences[name], wilson(0.0, groups, 0.8)[1]
        assert (one.value, one.low, one.high, one.method) == (0, pytest.approx(-most), pytest.approx(most), "Wilson")
        assert (one.groups, one.repeats, one.level) == (17, 100, 0.8)


def test_a_model_right_and_one_wrong_of_all() -> None:
    """Every resample says 1: the ends are wide by one side, and no further than a difference can be."""
    y = np.arange(12) % 2
    wrong, right = Answer(1.0 - y), Answer(y.astype(float))
    for answers, value in (([wrong, right], 1.0), ([right, wrong], -1.0)):
        one = paired_intervals(y, answers, np.arange(12), repeats=60)[1].differences["BACC"]
        most = wilson(0.0, 6, 0.95)[1]
        assert one.value == value and sorted((abs(one.low), abs(one.high))) == pytest.approx([1 - most, 1.0])
        assert one.low < one.high
    [alone, other] = paired_intervals(np.ones(4), [Answer(np.ones(4)), Answer(np.zeros(4))], list("abcd"), repeats=20)
    assert math.isnan(other.differences["AUC"].value) and other.differences["AUC"].method == "none"
    assert math.isnan(alone.own["BACC"].low)


def test_models_and_samples_must_fit() -> None:
    for y, answers, groups in (([1], [], ["a"]), ([], [Answer([])], [])):
        with pytest.raises(ValueError, match=r"^paired intervals need at least one model and one sample$"):
            paired_intervals(y, answers, groups)
    for y in ([1], [1, 0, 1]):
        with pytest.raises(ValueError, match=f"^2 groups for {len(y)} samples$"):
            paired_intervals(y, [Answer([0.1, 0.2])], ["a", "b"])
    with pytest.raises(ValueError, match=r"^models of two classes and of several cannot be compared$"):
        paired_intervals([0, 1], [Answer([0.1, 0.2]), Answer(np.eye(2))], ["a", "b"])
