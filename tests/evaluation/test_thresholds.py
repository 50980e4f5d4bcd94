"""Thresholds: by hand, against every possible one, and a decision's way through a sidecar."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit

from melano_tf.errors import InputError
from melano_tf.evaluation.binary_intervals import binary_intervals
from melano_tf.evaluation.binary_metrics import binary_metrics
from melano_tf.evaluation.thresholds import (
    Decision,
    DecisionSettings,
    Threshold,
    ThresholdSettings,
    choose_threshold,
    fit_decision,
    fixed_threshold,
    sensitivity_threshold,
    youden_threshold,
)
from melano_tf.runs.sidecar import Sidecar

pytestmark = pytest.mark.filterwarnings("error::RuntimeWarning")  # what is undefined is told by NaN alone

Y = [0, 0, 0, 1, 0, 1, 1]
P = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8]


def test_by_hand() -> None:
    # From 0.6 on: SN 2/3, SPC 1; from 0.4 on: SN 1, SPC 3/4, which is 1.75 against 1.667.
    assert youden_threshold(Y, P) == pytest.approx(0.35)
    # Half of three positives is two of them: from 0.6 on, half-way to 0.5.
    assert sensitivity_threshold(Y, P, 0.5) == pytest.approx(0.55)
    assert sensitivity_threshold(Y, P, 2 / 3) == pytest.approx(0.55)
    assert sensitivity_threshold(Y, P, 0.67) == pytest.approx(0.35)
    assert sensitivity_threshold(Y, P, 1.0) == pytest.approx(0.35)
    assert sensitivity_threshold([1] * 10 + [0], np.r_[np.arange(1, 11) / 10, 0.0], 0.9) == pytest.approx(0.15)
    # 0.28 x 25 is 7.000000000000001 in floating point, and 7 positives all the same: 0.76 to 1.
    assert sensitivity_threshold([1] * 25 + [0], np.r_[np.arange(1, 26) / 25, 0.0], 0.28) == pytest.approx(0.74)
    # However little is wanted, one positive is called.
    assert sensitivity_threshold(Y, P, 1e-12) == pytest.approx(0.7)
    # Equal indices: the more sensitive one.
    assert youden_threshold([1, 0, 1, 0], [0.8, 0.6, 0.4, 0.2]) == pytest.approx(0.3)
    # No index above chance: everything is called.
    assert youden_threshold([0, 1], [0.9, 0.1]) == 0.0


@settings(max_examples=150, deadline=None)
@given(st.integers(2, 40), st.integers(0, 2**32 - 1), st.integers(1, 10), st.floats(0.01, 1))
def test_no_threshold_is_better(n: int, seed: int, steps: int, wanted: float) -> None:
    rng = np.random.default_rng(seed)
    y = rng.permutation(np.r_[0, 1, rng.integers(0, 2, n - 2)])
    p = rng.integers(0, steps + 1, n) / steps
    every = {t: binary_metrics(y, p, t) for t in [*np.unique(p), 1.1]}
    found = binary_metrics(y, p, youden_threshold(y, p))
    best = max(m["BACC"] for m in every.values())
    assert found["BACC"] == pytest.approx(best)
    assert found["SN"] == max(m["SN"] for m in every.values() if m["BACC"] == pytest.approx(best, abs=1e-12))
    reached = binary_metrics(y, p, sensitivity_threshold(y, p, wanted))
    assert reached["SN"] >= wanted - 1e-9
    assert reached["SPC"] == max(m["SPC"] for m in every.values() if m["SN"] >= wanted - 1e-9)


def test_a_threshold_bears_the_last_digits() -> None:
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, 200)
    p = np.clip(0.3 * y + 0.6 * rng.random(200), 0, 1)
    value = youden_threshold(y, p)
    assert np.abs(p - value).min() > 1e-7
    np.testing.assert_array_equal(p >= value, p.astype(np.float32) >= value)
    # neighbours in floating point: never as low as the lower one
    close = [0.5, math.nextafter(0.5, 1)]
    assert (np.array(close) >= youden_threshold([0, 1], close)).tolist() == [False, True]


def test_choice_with_its_record() -> None:
    groups = ["a", "a", "b", "b", "c", "c", "d"]
    found = choose_threshold(Y, P, groups, ThresholdSettings(), hold_out="4 patients")
    assert found.value == pytest.approx(0.35), "see test_by_hand: all 3 positives, 3 of 4 negatives"
    expected = binary_intervals(Y, P, groups, ["SN", "SPC"], threshold=0.35)
    assert (found.sensitivity, found.specificity) == (expected["SN"], expected["SPC"])
    assert (expected["SN"].value, expected["SPC"].value) == (1.0, 0.75)
    assert (found.samples, found.positives, found.hold_out) == (7, 3, "4 patients")
    assert found.apply(P).tolist() == [False] * 3 + [True] * 4
    sn, spc = expected["SN"].ends(), expected["SPC"].ends()
    reached = f"sensitivity 1.0000 ({sn}), specificity 0.7500 ({spc})"
    assert found.words() == f"Youden's index; chosen on 4 patients: {reached}"
    assert found.sensitivity.high == 1 and 0 < found.sensitivity.low < 0.4, "three patients"
    loose = choose_threshold(Y, P, groups, ThresholdSettings(level=0.5), hold_out="x")
    assert loose.specificity == binary_intervals(Y, P, groups, ["SPC"], threshold=0.35, level=0.5)["SPC"]
    assert found.specificity.low < loose.specificity.low < 0.75 < loose.specificity.high
    whole = choose_threshold([0, 1, 1], [0.0, 1.0, 1.0], list("abc"), ThresholdSettings(), hold_out="x")
    assert (whole.value, whole.apply([0.5, 0.4999]).tolist()) == (0.5, [True, False])
    wanted = ThresholdSettings(rule="sensitivity", sensitivity=0.5)
    found = choose_threshold(Y, P, groups, wanted, hold_out="x")
    assert found.words().startswith("sensitivity of at least 0.5; chosen on x: sensitivity 0.6667 (")
    fixed = choose_threshold(Y, P, groups, ThresholdSettings(rule="fixed", value=0.5), hold_out="x")
    assert fixed.value == 0.5 and fixed.words().startswith("fixed at 0.5; measured on x: sensitivity 0.6667 (")
    assert fixed_threshold().words() == "fixed beforehand"


def test_record_to_json_and_back() -> None:
    found = choose_threshold(Y, P, list("abcdefg"), ThresholdSettings(), hold_out="x")
    assert Threshold.from_json(json.loads(json.dumps(found.to_json(), allow_nan=False))) == found
    for value in (0, 0.3, 1):
        assert Threshold.from_json(fixed_threshold(value).to_json()) == fixed_threshold(value)
    assert found == choose_threshold(Y, P, list("abcdefg"), ThresholdSettings("youden", 0.9, 0.5, 0.95), hold_out="x")
    assert (fixed_threshold().value, fixed_threshold().samples, fixed_threshold().positives) == (0.5, 0, 0)
    # an undefined interval stays undefined
    undefined = choose_threshold([0, 0], [0.1, 0.2], ["a", "b"], ThresholdSettings(rule="fixed"), hold_out="x")
    back = Threshold.from_json(json.loads(json.dumps(undefined.to_json(), allow_nan=False)))
    assert back.sensitivity is not None and math.isnan(back.sensitivity.value)
    assert "sensitivity n/a (not estimable)" in back.words()
    for damaged in (
        {"rule": "x"},
        {"value": "x", "rule": "x"},
        {"value": 1, "colour": 2},
        {"value": 1, "rule": "x", "sensitivity": 0.5},
    ):
        with pytest.raises(InputError) as caught:
            Threshold.from_json(damaged)
        said = str(caught.value)
        assert said.startswith("threshold: not a threshold's record (") and said.endswith("); train the model again")
        assert len(said) > 75, "what is wrong with it"
    for value in (2.0, -0.5, math.nan):
        with pytest.raises(InputError) as caught:
            Threshold.from_json({"value": value, "rule": "x"})
        assert str(caught.value) == f"threshold {value} must lie between 0 and 1; train the model again"


def test_bad_input_is_refused() -> None:
    for positives, choose in ((0, youden_threshold), (2, lambda y, p: sensitivity_threshold(y, p, 0.5))):
        with pytest.raises(InputError) as caught:
            choose([int(positives > 0)] * 2, [0.1, 0.2])
        assert str(caught.value) == (
            f"a threshold cannot be chosen on {positives} positive and {2 - positives} negative samples; hold out more "
            "patients, or fix the threshold"
        )
    for wanted in (0, 1.1, math.nan):
        with pytest.raises(InputError) as caught:
            sensitivity_threshold(Y, P, wanted)
        assert str(caught.value) == f"wanted sensitivity {wanted} must be above 0 and at most 1"
    for value in (-0.1, 1.5, math.nan):
        with pytest.raises(InputError) as caught:
            fixed_threshold(value)
        assert str(caught.value) == f"threshold {value} must lie between 0 and 1"
    for p in (1.2, -0.1, math.nan):
        with pytest.raises(ValueError) as wrong:
            choose_threshold([0, 1], [0.1, p], ["a", "b"], ThresholdSettings(), hold_out="x")
        assert str(wrong.value) == "probabilities lie outside 0..1 or are not finite"


def fitted(calibrate: bool = True) -> tuple[Decision, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    true = rng.normal(-1.5, 2, 400)
    y = (rng.random(400) < expit(true)).astype(int)
    p = expit(3 * true)
    settings = DecisionSettings(calibrate, ThresholdSettings())
    return fit_decision(y, p, np.arange(400) // 4, settings, hold_out="100 patients"), y, p


def test_a_decision_goes_through_a_sidecar(tmp_path: Path) -> None:
    decision, _, p = fitted()
    assert decision.calibration is not None and decision.calibration.temperature == pytest.approx(3, rel=0.25)
    (tmp_path / "m.keras").write_bytes(b"")
    Sidecar("k", ("benign", "malignant"), 96, {}, run={}, **decision.sidecar_fields()).write(tmp_path / "m.keras")
    side = Sidecar.read(tmp_path / "m.keras")
    back = Decision.from_sidecar(side.threshold, side.threshold_from, side.calibration)
    np.testing.assert_array_equal(back.probability(p), decision.probability(p))
    np.testing.assert_array_equal(back.apply(p), decision.apply(p))
    assert "100 patients" in side.threshold_from
    assert back.threshold.words() == side.threshold_from


def test_calibration_moves_the_threshold_not_the_decisions() -> None:
    decision, y, p = fitted()
    plain, _, _ = fitted(calibrate=False)
    assert plain.calibration is None and plain.sidecar_fields()["calibration"] is None
    np.testing.assert_array_equal(plain.probability(p), p)
    np.testing.assert_array_equal(plain.apply(p), decision.apply(p))
    assert plain.threshold.value != decision.threshold.value
    found = binary_metrics(y, decision.probability(p), decision.threshold.value)
    assert decision.threshold.sensitivity is not None
    assert found["SN"] == decision.threshold.sensitivity.value


def test_a_sidecar_holds_what_was_decided_and_measured() -> None:
    decision, _, _ = fitted()
    assert decision.calibration is not None and decision.calibration.hold_out == "100 patients"
    assert decision.sidecar_fields() == {
        "threshold": decision.threshold.value,
        "threshold_from": decision.threshold.words(),
        "threshold_measured": decision.threshold.to_json(),
        "calibration": decision.calibration.to_json(),
    }
    plain = Decision.from_sidecar(0.3, "fixed beforehand", None)
    assert plain == Decision(None, Threshold(0.3, "fixed beforehand"))
    assert plain.sidecar_fields() == {
        "threshold": 0.3,
        "threshold_from": "fixed beforehand",
        "threshold_measured": None,
        "calibration": None,
    }


def test_a_probability_in_single_precision_meets_its_threshold_in_double() -> None:
    p = np.array([0.3], np.float32)  # 0.300000012
    decision = Decision(None, Threshold(float(p[0]) + 1e-9, "x"))
    assert not decision.threshold.apply(p).any() and not decision.apply(p).any() and decision.apply(p + 0.1).all()
    assert decision.probability(p).dtype == np.float64


def test_log_odds_are_finite_where_a_calibrated_probability_rounds_to_1() -> None:
    decision, _, p = fitted()
    assert decision.calibration is not None
    inner = p[(p > 1e-6) & (p < 1 - 1e-6)]
    calibrated = decision.probability(inner)
    np.testing.assert_allclose(decision.log_odds(inner), np.log(calibrated / (1 - calibrated)), rtol=1e-6)
    sharp = Decision(replace(decision.calibration, temperature=0.05), decision.threshold)
    assert sharp.probability(np.array([0.9999]))[0] == 1.0
    assert sharp.log_odds([0.9999])[0] == pytest.approx(math.log(9999) / 0.05)
    plain = Decision(None, decision.threshold)
    assert plain.log_odds([0.5, 0.8]) == pytest.approx([0, math.log(4)])
    assert np.isfinite(plain.log_odds([0.0, 1.0])).all() and plain.log_odds([0.0, 1.0]).shape == (2,)
