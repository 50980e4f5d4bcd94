"""The inner hold-out: properties of any draw, shares, and what cannot be drawn."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from melano_tf.errors import InputError
from melano_tf.splits.inner_holdout import HoldOut, inner_holdout

NAMES = ["MEL", "NV", "BCC", "DF"]
LONE = (("0 patients", "mel"), ("1 patient", "not mel"))


@st.composite
def cohorts(draw: st.DrawFn) -> tuple[list[str], list[str]]:
    """At least two patients of one class each, and more with one to three images of any classes."""
    classes = draw(st.integers(2, 4))
    kinds = [[NAMES[k]] for k in range(classes) for _ in range(2)]
    kinds += draw(st.lists(st.lists(st.sampled_from(NAMES[:classes]), min_size=1, max_size=3), max_size=30))
    rows = [(f"p{i:03}", label) for i, labels in enumerate(kinds) for label in labels]
    rows = draw(st.permutations(rows))
    return [patient for patient, _ in rows], [label for _, label in rows]


@settings(max_examples=200, deadline=None)
@given(cohorts(), st.floats(0.02, 0.98), st.integers(0, 2**32 - 1), st.sampled_from([None, "MEL"]))
def test_properties_of_any_draw(
    cohort: tuple[list[str], list[str]], share: float, seed: int, positive: str | None
) -> None:
    patients, labels = cohort
    found = inner_holdout(patients, labels, share, seed, positive)
    assert not set(found.training) & set(found.held_out)
    assert sorted(found.training + found.held_out) == sorted(set(patients))
    classes = [label if positive is None else label == positive for label in labels]
    for side in (found.training, found.held_out):
        assert {c for c, patient in zip(classes, patients, strict=True) if patient in side} == set(classes)
    # deterministic, whatever the order of the rows
    assert inner_holdout(patients[::-1], labels[::-1], share, seed, positive) == found
    mask = found.mask(patients)
    assert {p for p, out in zip(patients, mask, strict=True) if out} == set(found.held_out)


def test_shares_are_kept_in_every_stratum() -> None:
    patients = [f"p{i:03}" for i in range(200)]
    labels = ["MEL"] * 20 + ["NV"] * 150 + ["BCC"] * 30
    found = inner_holdout(patients, labels, 0.2, seed=1)
    held = [labels[int(p[1:])] for p in found.held_out]
    assert [held.count(name) for name in ("MEL", "NV", "BCC")] == [4, 30, 6]
    assert found != inner_holdout(patients, labels, 0.2, seed=2)
    assert inner_holdout(patients, labels) == inner_holdout(patients, labels, 0.2, 0, None)
    # a tenth of 19 and of 11 is 3 in all, of which the larger remainder (1.9) gets the second one
    found_tenth = inner_holdout(patients[:30], ["a"] * 11 + ["b"] * 19, 0.1)
    assert [sum(int(p[1:]) < 11 for p in found_tenth.held_out), len(found_tenth.held_out)] == [1, 3]
    # images of one patient stay together, however many there are
    rows = np.repeat(np.arange(200), np.random.default_rng(0).integers(1, 9, 200))
    assert inner_holdout([patients[i] for i in rows], [labels[i] for i in rows], 0.2, seed=1) == found


def test_rare_classes_reach_both_sides() -> None:
    # Two patients with MEL among 100, and a share that would leave both on one side.
    labels = ["MEL"] * 2 + ["NV"] * 98
    for seed in range(20):
        found = inner_holdout([f"p{i:02}" for i in range(100)], labels, 0.1, seed, "MEL")
        assert len({"p00", "p01"} & set(found.held_out)) == 1
        assert abs(len(found.held_out) - 10) <= 1


def test_every_patient_is_held_out_under_some_seed() -> None:
    patients = [f"p{i}" for i in range(12)]
    held = {p for seed in range(60) for p in inner_holdout(patients, ["a", "b"] * 6, 0.25, seed).held_out}
    assert held == set(patients)


def test_what_cannot_be_drawn_is_said() -> None:
    for patients, labels, positive, said in (
        ("aabc", ["MEL", "MEL", "NV", "NV"], "MEL", ["1 patient of class 'MEL'; 2 are needed"]),
        ("ab", ["MEL", "MEL"], "MEL", ["0 patients of class 'not MEL'; 2 are needed"]),
        ("ab", ["MEL", "MEL"], "mel", ["0 patients of class 'mel'; 2 are needed"]),
        ("a", ["MEL"], "mel", [f"{n} of class '{of}'; 2 are needed" for n, of in LONE]),
        ("abc", ["NV"] * 3, None, ["1 class; 2 are needed"]),
        ("a", ["NV"], None, ["1 patient of class 'NV'; 2 are needed", "1 class; 2 are needed"]),
        ("", [], None, ["0 classes; 2 are needed"]),
    ):
        with pytest.raises(InputError) as caught:
            inner_holdout(list(patients), labels, positive=positive)
        headline = "too few patients for an inner hold-out that holds every class on both sides:"
        assert str(caught.value) == "\n  - ".join([headline, *said])
    for share in (0.0, 1.0, -1.0):
        with pytest.raises(InputError) as caught:
            inner_holdout(["a", "b"], ["x", "y"], share)
        assert str(caught.value) == f"the hold-out's share {share} must lie between 0 and 1"
    for labels in (["x"], ["x", "y", "x"]):
        with pytest.raises(ValueError) as wrong:
            inner_holdout(["a", "b"], labels)
        assert str(wrong.value) == f"2 patients but {len(labels)} labels: one of each a row"


def test_classes_that_no_draw_has_on_both_sides_are_named() -> None:
    """Three classes of two patients each, every two patients sharing one; a fourth class can be on both sides."""
    with pytest.raises(InputError) as caught:
        inner_holdout([*"aabbccdefg"], ["1", "2", "1", "3", "2", "3", "4", "4", "4", "4"], 0.5)
    said = (
        "no inner hold-out found with every class on both sides ({} is missing from one): too few patients have these "
        "classes, or they have several at once; add patients"
    )
    assert str(caught.value) in [said.format(name) for name in "123"]
    with pytest.raises(InputError) as caught:
        inner_holdout([*"aabbccddeeff"], ["1", "2", "1", "3", "2", "3", "4", "5", "4", "6", "5", "6"])
    named = str(caught.value).split("(")[1].split(" is missing")[0].split(", ")
    assert str(caught.value) == said.format(", ".join(named)) and len(named) == 2 and set(named) <= {*"123456"}


def test_words_and_mask() -> None:
    found = HoldOut(("a", "b", "c"), ("d",), 0.2, 7)
    assert found.words() == "an inner hold-out of 1 of 4 training patients (share 0.2, seed 7)"
    assert "training lesions" in found.words("lesions")
    assert found.mask(["d", "a", "d"]).tolist() == [True, False, True]
    for unknown, named in ((["z"], "z"), ([f"u{n}" for n in range(11)], "u0, u1, u10, u2, u3, u4, u5, u6, u7, u8")):
        with pytest.raises(ValueError) as caught:
            found.mask(["a", *unknown, *unknown])
        assert str(caught.value) == f"patients on neither side of the hold-out: {named}"
