"""Cohen's kappa: printed examples, chance, and an interval that does not take copies for new patients."""

import math

import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score

from melano_tf.evaluation.reader_agreement import cohen_kappa, kappa_interval


def readings(table: list[list[int]]) -> tuple[list[str], list[str]]:
    """Two readings whose table this is."""
    pairs = [(f"{i}", f"{j}") for i, row in enumerate(table) for j, count in enumerate(row) for _ in range(count)]
    return [a for a, _ in pairs], [b for _, b in pairs]


def test_a_table_by_hand() -> None:
    # 20 + 15 of 50 agree: 0.7; by chance 0.5 x 0.6 + 0.5 x 0.4 = 0.5.
    assert cohen_kappa(*readings([[20, 5], [10, 15]])) == pytest.approx(0.4)


def test_against_scikit_learn() -> None:
    rng = np.random.default_rng(3)
    first = rng.choice(["MEL", "NV", "BCC", "unsure"], 200, p=[0.5, 0.3, 0.15, 0.05])
    second = np.where(rng.random(200) < 0.6, first, rng.choice(["MEL", "NV", "BCC"], 200))
    assert cohen_kappa(list(first), list(second)) == pytest.approx(cohen_kappa_score(first, second))


def test_where_it_is_not_defined() -> None:
    assert math.isnan(cohen_kappa([], []))
    assert math.isnan(cohen_kappa(["a", "a"], ["a", "a"]))
    with pytest.raises(ValueError, match="not of the same cases"):
        cohen_kappa(["a"], [])
    with pytest.raises(ValueError, match="groups"):
        kappa_interval(["a"], ["a"], [])


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
