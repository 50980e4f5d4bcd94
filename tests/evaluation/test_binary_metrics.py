"""Metrics against scikit-learn and against values counted by hand."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as reference

from melano_tf.evaluation.binary_metrics import (
    METRICS,
    Confusion,
    binary_metrics,
    confusion,
    format_mean_std,
    format_value,
    mean_std,
    metrics_of_counts,
    roc_auc,
)

pytestmark = pytest.mark.filterwarnings("error::RuntimeWarning")  # what is undefined is told by NaN alone


def test_counted_by_hand() -> None:
    y = [1, 1, 1, 1, 0, 0, 0, 0, 0, 0]
    p = [0.9, 0.8, 0.5, 0.2, 0.6, 0.4, 0.3, 0.1, 0.0, 0.7]
    assert confusion(y, p) == (3, 2, 4, 1)  # 0.5 itself counts as called
    values = binary_metrics(y, p)
    # AUC: pairs won by 0.9: 6, 0.8: 6, 0.5: 4, 0.2: 2 of 24
    expected = {"SN": 3 / 4, "SPC": 4 / 6, "PPV": 3 / 5, "NPV": 4 / 5, "F1S": 6 / 9, "ACC": 7 / 10}
    assert values == pytest.approx(expected | {"BACC": (3 / 4 + 4 / 6) / 2, "AUC": 18 / 24})
    assert tuple(values) == METRICS
    assert confusion(y, p, 0.55) == (2, 2, 4, 2)
    assert binary_metrics(y, p, 0.55)["SN"] == 2 / 4
    # 0.300000012 in single precision is below a threshold between it and the next number there.
    low = np.array([0.3], np.float32)
    assert confusion([1], low, float(low[0]) + 1e-9) == (0, 0, 0, 1)
    several = metrics_of_counts(Confusion(np.array([3, 0]), np.array([2, 0]), np.array([4, 5]), np.array([1, 0])))
    for name, found in several.items():
        alone = [binary_metrics(y, p)[name], binary_metrics([0] * 5, [0.1] * 5)[name]]
        assert found.tolist() == pytest.approx(alone, nan_ok=True)


@settings(max_examples=150, deadline=None)
@given(st.integers(2, 40), st.integers(0, 2**32 - 1), st.floats(0, 1))
def test_as_scikit_learn(n: int, seed: int, threshold: float) -> None:
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 2, n)
    p = rng.integers(0, 5, n) / 4  # many ties
    called = p >= threshold
    values = binary_metrics(y, p, threshold)
    undefined = {"zero_division": np.nan}
    expected = {
        "SN": reference.recall_score(y, called, **undefined),
        "SPC": reference.recall_score(1 - y, ~called, **undefined),
        "PPV": reference.precision_score(y, called, **undefined),
        "NPV": reference.precision_score(1 - y, ~called, **undefined),
        "F1S": reference.f1_score(y, called, **undefined),
        "ACC": reference.accuracy_score(y, called),
    }
    if 0 < y.sum() < n:
        expected |= {
            "BACC": reference.balanced_accuracy_score(y, called),
            "AUC": np.mean([(a > b) + (a == b) / 2 for a in p[y == 1] for b in p[y == 0]]),
        }
    else:
        expected |= {"BACC": math.nan, "AUC": math.nan}
    assert values == pytest.approx(expected, nan_ok=True)


@pytest.mark.filterwarnings("error")
def test_undefined_values_are_nan_and_print_as_n_a() -> None:
    no_positives = binary_metrics([0, 0, 0], [0.1, 0.2, 0.3])
    assert {name for name, value in no_positives.items() if math.isnan(value)} == {"SN", "PPV", "F1S", "BACC", "AUC"}
    all_called = binary_metrics([1, 0], [0.9, 0.8])
    assert {name for name, value in all_called.items() if math.isnan(value)} == {"NPV"}
    assert all(math.isnan(value) for value in binary_metrics([], []).values())
    # positives there, but none called: F1 is a true zero
    assert binary_metrics([1, 0], [0.1, 0.2])["F1S"] == 0
    assert format_value(math.nan) == "n/a"
    assert format_mean_std(math.nan, math.nan) == "n/a"
    assert format_mean_std(0.5, math.nan) == "0.5000"
    assert format_mean_std(0.87524, 0.03566) == "0.8752 ± 0.0357"


def test_bad_input_is_refused() -> None:
    for measure, y, p, said in (
        (binary_metrics, [0, 1, 1], [math.inf, math.nan, 0.5], "2 probabilities are not finite"),
        (roc_auc, [0, 1], [0.1], "labels (2,) and probabilities (1,) must be two vectors of one length"),
        (confusion, [[0, 1]], [[0.1, 0.9]], "labels (1, 2) and probabilities (1, 2) must be two vectors of one length"),
        (confusion, [0, 2], [0.1, 0.2], "labels must be 0 or 1"),
        (confusion, [0, -1], [0.1, 0.2], "labels must be 0 or 1"),
    ):
        with pytest.raises(ValueError) as caught:
            measure(y, p)
        assert str(caught.value) == said


def test_mean_and_deviation_as_the_paper_prints_them() -> None:
    summary = mean_std([{"SPC": value} for value in (1, 0.6, 0.8, 1)])["SPC"]
    assert format_mean_std(summary.mean, summary.std) == "0.8500 ± 0.1658"  # Table 4, BGAP
    assert mean_std([{"SPC": value} for value in (1, 0.6, 0.8, 1)], ddof=1)["SPC"].std == pytest.approx(
        0.19149, abs=1e-5
    )


def test_undefined_cohorts_are_left_out_and_counted() -> None:
    summaries = mean_std(
        [{"PPV": 0.5, "SN": math.nan}, {"PPV": math.nan, "SN": math.nan}, {"PPV": 1.0, "SN": math.nan}]
    )
    assert (summaries["PPV"].mean, summaries["PPV"].std) == (0.75, 0.25)
    assert (summaries["PPV"].defined, summaries["PPV"].cohorts) == (2, 3)
    assert math.isnan(summaries["SN"].mean)
    assert summaries["SN"].defined == 0
    assert math.isnan(mean_std([{"SN": 0.5}])["SN"].std)
    assert mean_std([]) == {}
