"""Cohen's kappa: printed examples, chance, and an interval that does not take copies for new patients."""

import math

import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score

from melano_tf.evaluation.bootstrap import group_draws
from melano_tf.evaluation.reader_agreement import cohen_kappa, kappa_interval

pytestmark = pytest.mark.filterwarnings("error::RuntimeWarning")  # what is undefined is told by NaN alone


def readings(table: list[list[int]]) -> tuple[list[str], list[str]]:
    """Two readings whose table this is."""
    pairs = [(f"{i}", f"{j}") for i, row in enumerate(table) for j, count in enumerate(row) for _ in range(count)]
    return [a for a, _ in pairs], [b for _, b in pairs]


def test_a_table_by_hand() -> None:
    # 20 + 15 of 50 agree: 0.7; by chance 0.5 x 0.6 + 0.5 x 0.4 = 0.5.
    assert cohen_kappa(*readings([[20, 5], [10, 15]])) == pytest.approx(0.4)
    # 98 of 100 agree, and 0.99^2 + 0.01^2 = 0.9802 by chance: of one rare class each sees another case.
    assert cohen_kappa(*readings([[98, 1], [1, 0]])) == pytest.approx(-0.0002 / 0.0198)


def test_against_scikit_learn() -> None:
    rng = np.random.default_rng(3)
    first = rng.choice(["MEL", "NV", "BCC", "unsure"], 200, p=[0.5, 0.3, 0.15, 0.05])
    second = np.where(rng.random(200) < 0.6, first, rng.choice(["MEL", "NV", "BCC"], 200))
    assert cohen_kappa(list(first), list(second)) == pytest.approx(cohen_kappa_score(first, second))


def test_where_it_is_not_defined() -> None:
    assert math.isnan(cohen_kappa([], []))
    assert math.isnan(cohen_kappa(["a", "a"], ["a", "a"]))
    assert cohen_kappa(["a"], ["b"]) == 0, "one case is enough"
    for first, second in ((["a"], []), ([], ["a"])):
        said = f"^{len(first)} and {len(second)} readings are not of the same cases$"
        with pytest.raises(ValueError, match=said):
            cohen_kappa(first, second)
    for groups in ([], ["p", "q"]):
        with pytest.raises(ValueError, match=f"^{len(groups)} groups for 1 cases$"):
            kappa_interval(["a"], ["a"], groups)


def test_the_interval_holds_the_value_and_goes_by_patient() -> None:
    rng = np.random.default_rng(5)
    first = rng.choice(["benign", "malignant"], 60)
    second = np.where(rng.random(60) < 0.8, first, rng.choice(["benign", "malignant"], 60))
    alone = kappa_interval(list(first), list(second), [str(n) for n in range(60)], seed=1)
    assert alone.low < alone.value < alone.high
    # Every case twice, of the same patient: nothing is known better.
    twice = kappa_interval([*first, *first], [*second, *second], [str(n) for n in (*range(60), *range(60))], seed=1)
    assert (twice.value, twice.low, twice.high) == pytest.approx((alone.value, alone.low, alone.high))
    assert twice.groups == 60


def test_each_resample_as_scikit_learn() -> None:
    rng = np.random.default_rng(8)
    first, groups = rng.choice(list("abc"), 25, p=[0.6, 0.3, 0.1]), rng.integers(0, 5, 25)
    second = np.where(rng.random(25) < 0.6, first, rng.choice(list("abc"), 25))
    first[groups == 2] = second[groups == 2] = "a"  # of this patient alone there is no kappa
    found = kappa_interval(list(first), list(second), [f"p{g}" for g in groups], repeats=100, level=0.8, seed=6)
    samples = []
    for draw in group_draws(groups, 100, 6)[1]:
        one, other = np.repeat(first, draw[groups]), np.repeat(second, draw[groups])
        alike = len({*one, *other}) == 1
        samples.append(math.nan if alike else cohen_kappa_score(one, other))
    assert (found.low, found.high) == pytest.approx(tuple(np.nanquantile(samples, [0.1, 0.9])))
    assert (found.undefined, found.repeats, found.level) == (np.isnan(samples).sum(), 100, 0.8)
    given = list(first), list(second), [f"p{g}" for g in groups]
    assert kappa_interval(*given) == kappa_interval(*given, repeats=2000, level=0.95, seed=0)
