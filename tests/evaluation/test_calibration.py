"""Calibration: the temperature that was planted is found, bins as scikit-learn's, the sidecar's round trip."""

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit, softmax
from sklearn import metrics as reference
from sklearn.calibration import calibration_curve

from melano_tf.errors import InputError
from melano_tf.evaluation.binary_metrics import roc_auc
from melano_tf.evaluation.calibration import (
    Calibration,
    expected_calibration_error,
    fit_calibration,
    log_loss,
    logits_of,
    reliability,
    top_label,
)
from melano_tf.evaluation.wilson_delong import mean_share

pytestmark = pytest.mark.filterwarnings("error::RuntimeWarning")  # what is undefined is told by NaN alone


def mean_log_loss(y: np.ndarray, logits: np.ndarray) -> float:
    """Mean negative log likelihood of logits (n,)."""
    return float(np.logaddexp(0, np.where(y == 1, -logits, logits)).mean())


def planted(n: int, temperature: float, seed: int = 0, classes: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Labels drawn from true logits, and the overconfident (T > 1) or timid logits that a model would give."""
    rng = np.random.default_rng(seed)
    if classes == 1:
        true = rng.normal(-1, 2, n)
        return (rng.random(n) < expit(true)).astype(int), true * temperature
    true = rng.normal(0, 2, (n, classes))
    return np.array([rng.choice(classes, p=row) for row in softmax(true, axis=1)]), true * temperature


@pytest.mark.parametrize("classes", [1, 4])
@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_a_planted_temperature_is_found(temperature: float, classes: int) -> None:
    y, z = planted(20_000, temperature, classes=classes)
    found = fit_calibration(y, z, np.arange(len(y)), hold_out="a hold-out", logits=True)
    assert found.temperature == pytest.approx(temperature, rel=0.05)
    assert found.log_loss_after <= found.log_loss_before
    assert found.ece_after < 0.015 and not found.at_limit
    if temperature != 1:
        assert found.ece_before > 3 * found.ece_after
    # from probabilities: the same, as far as they resolve their logits
    p = expit(z) if classes == 1 else softmax(z, axis=1)
    other = fit_calibration(y, p, np.arange(len(y)), hold_out="a hold-out")
    assert other.temperature == pytest.approx(found.temperature, rel=0.02)
    np.testing.assert_allclose(other.apply(p).mean(axis=0), found.apply_logits(z).mean(axis=0), atol=0.01)


def test_the_minimum_is_the_minimum() -> None:
    y, z = planted(300, 2.5, seed=3)
    found = fit_calibration(y, z, np.arange(300), hold_out="x", logits=True)
    grid = [mean_log_loss(y, z / t) for t in np.geomspace(0.06, 19, 3000)]
    assert found.log_loss_after <= min(grid) + 1e-9
    assert found.log_loss_after == pytest.approx(mean_log_loss(y, z / found.temperature))
    assert found.log_loss_before == pytest.approx(reference.log_loss(y, expit(z)))
    near = fit_calibration(y, 4 * z, np.arange(300), hold_out="x", logits=True)
    assert 9 < near.temperature < 13 and not near.at_limit


def test_log_loss_as_scikit_learn() -> None:
    for classes in (1, 4):
        y, z = planted(60, 1.5, seed=2, classes=classes)
        p = expit(z) if classes == 1 else softmax(z, axis=1)
        assert log_loss(y, z) == pytest.approx(reference.log_loss(y, p))
    # Logits that no probability in double precision could tell from 0 and 1.
    assert log_loss([1, 0], [-800.0, -800.0]) == pytest.approx(400)


def test_by_hand() -> None:
    # Two samples of probability 0.8: one right, one wrong: their logits, log 4, ought to be 0; at the limit, 20.
    found = fit_calibration([1, 0], [0.8, 0.8], ["a", "a"], hold_out="x")
    assert found.at_limit and found.temperature == pytest.approx(20, rel=1e-2)
    assert (found.samples, found.groups, found.outputs) == (2, 1, 1)
    # Three of four are right at 0.9: the logit log 9 becomes log 3, so T = log 9/log 3 = 2.
    found = fit_calibration([1, 1, 1, 0], [0.9] * 4, list("abcd"), hold_out="x")
    assert found.temperature == pytest.approx(2, rel=1e-4)
    assert found.apply([0.9, 0.5, 0.1]) == pytest.approx([0.75, 0.5, 0.25], rel=1e-4)
    assert float(found.apply(0.9)) == pytest.approx(0.75, rel=1e-4)
    assert found.ece_before == pytest.approx(0.15) and found.ece_after == pytest.approx(0, abs=1e-4)
    # Of three classes, the first at 0.8 with 0.1 each beside it: T 2 gives 1/(1 + 2 sqrt(1/8)).
    three = Calibration(2.0, 3, "x", 1, 1, 0, 0, 0, 0, 15, False)
    assert three.apply([[0.8, 0.1, 0.1]])[0, 0] == pytest.approx(1 / (1 + 2 * math.sqrt(1 / 8)))


def test_what_is_calibrated_already_stays_as_it_is() -> None:
    """Three of four at 0.75: the search ends a little beside the temperature 1."""
    found = fit_calibration([1, 1, 1, 0], [0.75] * 4, list("abcd"), hold_out="x")
    assert found.temperature == 1.0 and found.log_loss_after == found.log_loss_before and not found.at_limit


def test_the_record_counts_by_the_bins_that_were_asked_for() -> None:
    y, z = planted(300, 2.5, seed=5, classes=3)
    found = fit_calibration(y, z, np.arange(300) // 2, hold_out="x", logits=True, bins=4)
    assert (found.bins, found.outputs, found.samples, found.groups, found.hold_out) == (4, 3, 300, 150, "x")
    before, after = (expected_calibration_error(y, softmax(z / t, axis=1), 4) for t in (1, found.temperature))
    assert (found.ece_before, found.ece_after) == pytest.approx((before, after))
    assert fit_calibration(y, z, np.arange(300), hold_out="x", logits=True).bins == 15


def calibration(temperature: float, outputs: int) -> Calibration:
    return Calibration(temperature, outputs, "x", 10, 5, 0.5, 0.4, 0.2, 0.1, 15, False)


@settings(max_examples=100, deadline=None)
@given(st.floats(0.05, 20), st.lists(st.floats(0, 1), min_size=2, max_size=30), st.integers(0, 2**32 - 1))
def test_properties_of_scaling(temperature: float, p: list[float], seed: int) -> None:
    scaled = calibration(temperature, 1).apply(p)
    assert ((scaled >= 0) & (scaled <= 1)).all()
    order = np.argsort(p)
    assert (np.diff(scaled[order]) >= 0).all()
    # sides of 0.5 are kept, and two outputs are as one
    assert ((scaled > 0.5) <= (np.array(p) >= 0.5)).all()
    two = calibration(temperature, 2).apply(np.c_[1 - np.array(p), p])
    np.testing.assert_allclose(two[:, 1], scaled, atol=1e-5)
    rows = np.random.default_rng(seed).dirichlet(np.ones(5), 20)
    several = calibration(temperature, 5).apply(rows)
    np.testing.assert_allclose(several.sum(axis=1), 1)
    assert (several.argmax(axis=1) == rows.argmax(axis=1)).all()
    np.testing.assert_allclose(calibration(1.0, 5).apply(rows), rows, atol=1e-6)


def test_ranking_stays_and_saturated_probabilities_soften() -> None:
    y, z = planted(500, 3.0, seed=1)
    p = expit(z)
    found = fit_calibration(y, p, np.arange(500), hold_out="x")
    assert roc_auc(y, found.apply(p)) == pytest.approx(roc_auc(y, p), abs=1e-6)
    saturated = calibration(4.0, 1).apply(np.array([0.0, 1.0], np.float32))
    assert saturated == pytest.approx([0.0175, 0.9825], abs=1e-3)
    assert np.isfinite(logits_of([0, 1], 1)).all() and np.isfinite(logits_of([[0, 1, 0]], 3)).all()


def test_reliability_by_hand() -> None:
    y = [0, 1, 0, 1, 1, 1]
    p = [0.0, 0.1, 0.25, 0.5, 0.75, 1.0]
    found = reliability(y, p, bins=4)
    # bins (0, 0.25], (0.25, 0.5], ...: 0 belongs to the first one
    assert found.count.tolist() == [3, 1, 1, 1]
    assert found.predicted == pytest.approx([0.35 / 3, 0.5, 0.75, 1.0])
    assert found.observed == pytest.approx([1 / 3, 1, 1, 1])
    assert found.low_edge.tolist() == [0, 0.25, 0.5, 0.75]
    assert found.expected_error == pytest.approx((3 * (1 / 3 - 0.35 / 3) + 0.5 + 0.25 + 0) / 6)
    assert np.abs(found.observed - found.predicted).max() == pytest.approx(0.5)
    assert np.isnan(found.low).all()
    assert expected_calibration_error(y, p, 4) == pytest.approx(found.expected_error)
    # several classes: confidences 0.6 (right), 0.6 (wrong), tied 0.4 (wrong): all but the last in (0.5, 1]
    rows = [[0.6, 0.3, 0.1], [0.6, 0.3, 0.1], [0.4, 0.4, 0.2]]
    right, confidence = top_label([0, 1, 0], rows)
    assert right.tolist() == [True, False, False] and confidence.tolist() == [0.6, 0.6, 0.4]
    assert expected_calibration_error([0, 1, 0], rows, 2) == pytest.approx((2 * 0.1 + 0.4) / 3)
    for nothing in (reliability([], []), reliability([], [], [], by="mass"), reliability([], [], [])):
        assert math.isnan(nothing.expected_error) and len(nothing.low) == len(nothing.count) == 0
    fine = np.linspace(0, 1, 97)
    assert expected_calibration_error(fine > 0.7, fine) == reliability(fine > 0.7, fine, bins=15).expected_error
    assert len(reliability(fine > 0.7, fine).count) == 15


@settings(max_examples=80, deadline=None)
@given(st.integers(3, 200), st.integers(0, 2**32 - 1), st.integers(1, 20))
def test_bins_as_scikit_learn(n: int, seed: int, bins: int) -> None:
    rng = np.random.default_rng(seed)
    y, p = np.r_[0, 1, rng.integers(0, 2, n - 2)], rng.random(n) ** 3
    found = reliability(y, p, bins=bins)
    observed, predicted = calibration_curve(y, p, n_bins=bins, strategy="uniform")
    np.testing.assert_allclose(found.observed, observed)
    np.testing.assert_allclose(found.predicted, predicted)
    assert found.count.sum() == n and (found.count > 0).all()
    mass = reliability(y, p, bins=bins, by="mass")
    parts = np.split(np.argsort(p), np.cumsum(mass.count)[:-1])
    assert len(mass.count) == min(n, bins) and np.ptp(mass.count) <= 1
    np.testing.assert_allclose(mass.observed, [y[part].mean() for part in parts])
    np.testing.assert_allclose(mass.predicted, [p[part].mean() for part in parts])
    np.testing.assert_array_equal(mass.high_edge, [p[part].max() for part in parts])
    np.testing.assert_array_equal(mass.low_edge, np.r_[p.min(), mass.high_edge[:-1]])


def test_bins_of_equal_mass_and_of_one_value() -> None:
    p = np.linspace(0, 0.02, 100)
    assert reliability(np.zeros(100), p, by="mass", bins=10).count.tolist() == [10] * 10
    same = reliability([0, 1, 1], [0.3, 0.3, 0.3], by="mass", bins=5)
    assert same.count.tolist() == [3] and same.observed == pytest.approx([2 / 3])
    # ties stay together
    assert reliability([0] * 6, [0.1, 0.1, 0.1, 0.2, 0.2, 0.3], by="mass", bins=3).count.tolist() == [3, 2, 1]


def test_intervals_of_bins_are_by_group() -> None:
    rng = np.random.default_rng(0)
    y, p, groups = rng.integers(0, 2, 80), rng.random(80), rng.integers(0, 9, 80)
    found = reliability(y, p, groups, bins=3, level=0.9)
    for i, (low, high) in enumerate(zip(found.low_edge, found.high_edge, strict=True)):
        inside = (p > low) & (p <= high)
        hits, sizes = (np.bincount(groups[inside], weights=w, minlength=9) for w in (y[inside], np.ones(inside.sum())))
        share = mean_share(hits[None], sizes[None], 0.9)
        assert (found.low[i], found.high[i]) == pytest.approx((share.low, share.high))
    assert found.level == 0.9 and reliability(y, p, groups).level == 0.95
    never = reliability(np.zeros(6), np.full(6, 0.1), list("aabbcc"), bins=1)
    assert never.low[0] == 0 and never.high[0] > 0.3, "three patients of whom it never happened"


def test_to_the_sidecar_and_back() -> None:
    y, z = planted(200, 2.0)
    found = fit_calibration(y, z, np.arange(200), hold_out="20 of 100 training patients", logits=True)
    stored = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert stored["method"] == "temperature"
    assert Calibration.from_json(stored) == found
    for key, value in (
        *(("temperature", t) for t in (-1.0, 0.0, math.nan, math.inf, "warm", None)),
        *(("outputs", n) for n in (0, "x")),
    ):
        damaged = stored | {key: value}
        with pytest.raises(InputError) as caught:
            Calibration.from_json(damaged)
        assert str(caught.value) == (
            f"calibration: temperature {damaged['temperature']!r} must be a number above 0 and outputs "
            f"{damaged['outputs']!r} at least 1; train the model again"
        )
    for temperature, outputs in ((20, 3), (0.5, 1)):
        assert Calibration.from_json(stored | {"temperature": temperature, "outputs": outputs}).outputs == outputs
    with pytest.raises(InputError) as caught:
        Calibration.from_json(stored | {"method": "isotonic"})
    assert str(caught.value) == "calibration by method 'isotonic' is not known here; known is 'temperature'"
    with pytest.raises(InputError, match=r"^calibration by method None is not known here"):
        Calibration.from_json({})
    del stored["outputs"]
    with pytest.raises(InputError) as caught:
        Calibration.from_json(stored | {"colour": 1})
    assert str(caught.value) == ("calibration: entries missing or unknown: colour, outputs; train the model again")


def test_bad_input_is_refused() -> None:
    with pytest.raises(InputError) as caught:
        fit_calibration([1, 1], [0.2, 0.9], ["a", "b"], hold_out="these")
    assert str(caught.value) == (
        "calibration on these: 2 samples of 1 class(es); at least two classes are needed, hold out more patients"
    )
    last, off = "the last axis must be 3 classes", "1 probabilities lie outside 0..1 or are not finite"
    for call, said in (
        (lambda: fit_calibration([0, 1], [0.2, 0.9], ["a"], hold_out="x"), "1 groups for 2 samples"),
        (lambda: fit_calibration([0, 1], [0.2, 1.9], ["a", "b"], hold_out="x"), off),
        (lambda: calibration(1.0, 3).apply([0.2, 0.8]), f"probabilities of shape (2,); {last}"),
        (lambda: calibration(1.0, 3).apply(0.2), f"probabilities of shape (); {last}"),
        (lambda: calibration(1.0, 1).apply([math.nan]), off),
        (lambda: calibration(1.0, 1).apply([-0.1, 0.0, 1.0]), off),
        (lambda: reliability([0], [1.5]), off),
        (lambda: reliability([0], [0.5], bins=0), "0 bins: at least one is needed"),
        (lambda: reliability([0], [0.5], ["a", "b"]), "2 groups for 1 samples"),
        (lambda: reliability([], [], ["a"]), "1 groups for 0 samples"),
    ):
        with pytest.raises(ValueError) as wrong:
            call()
        assert str(wrong.value) == said


def test_perfect_separation_is_flagged() -> None:
    found = fit_calibration([0, 0, 1, 1], [0.3, 0.4, 0.6, 0.7], list("abcd"), hold_out="x")
    assert found.at_limit and found.temperature < 0.06
