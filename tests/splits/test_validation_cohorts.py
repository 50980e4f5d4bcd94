"""Splits by patient: properties that hold for any cohort, and the leak check."""

import itertools

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.model_selection import StratifiedKFold

from melano_tf.errors import InputError
from melano_tf.splits.leaks import LeakError, assert_no_leaks
from melano_tf.splits.validation_cohorts import Split, split_patients


@st.composite
def cohorts(draw: st.DrawFn) -> tuple[list[str], list[str], int]:
    """Patients with one to three slides; positive-only, negative-only (two labels) and mixed ones; just enough."""
    folds = draw(st.integers(2, 5))
    mixed = draw(st.integers(0, 8))
    positives = draw(st.integers(max(0, folds + 1 - mixed), 20))
    negatives = draw(st.integers(max(0, folds + 1 - mixed), 20))
    kinds = (
        [["mm"]] * positives
        + [["mm", draw(st.sampled_from(["nevus", "blue"]))] for _ in range(mixed)]
        + [draw(st.sampled_from([["nevus"], ["blue"], ["blue", "nevus"], ["nevus"] * 3])) for _ in range(negatives)]
    )
    rows = [(f"p{i:03}", label) for i, labels in enumerate(kinds) for label in labels]
    rows = draw(st.permutations(rows))
    return [patient for patient, _ in rows], [label for _, label in rows], folds


def classes_of(members: tuple[str, ...], patients: list[str], labels: list[str]) -> set[bool]:
    return {label == "mm" for patient, label in zip(patients, labels, strict=True) if patient in members}


@settings(max_examples=150, deadline=None)
@given(cohorts(), st.integers(0, 2**32 - 1), st.floats(0.05, 0.9))
def test_properties_of_any_split(cohort: tuple[list[str], list[str], int], seed: int, share: float) -> None:
    patients, labels, folds = cohort
    split = split_patients(patients, labels, positive="mm", test_share=share, folds=folds, seed=seed)
    sides = [split.test, *split.folds]
    assert len(split.folds) == folds
    for one, other in itertools.combinations(sides, 2):
        assert not set(one) & set(other)
    # every training patient is validated exactly once; nobody is lost
    assert sorted(p for side in sides for p in side) == sorted(set(patients))
    assert sorted(p for fold in split.folds for p in fold) == list(split.development)
    for side in sides:
        assert classes_of(side, patients, labels) == {True, False}
    for fold in range(folds):
        assert classes_of(split.training(fold), patients, labels) == {True, False}
        assert set(split.training(fold)) == set(split.development) - set(split.folds[fold])
    # deterministic, whatever the order of the rows
    back = split_patients(patients[::-1], labels[::-1], positive="mm", test_share=share, folds=folds, seed=seed)
    assert back == split


def test_the_papers_cohort() -> None:
    patients = [f"p{i}" for i in range(51)]
    labels = ["malignant"] * 21 + ["benign"] * 30
    split = split_patients(patients, labels, positive="malignant", seed=3)
    assert len(split.test) == 15
    assert sum(int(p[1:]) < 21 for p in split.test) == 6
    assert sorted(len(fold) for fold in split.folds) == [9, 9, 9, 9]
    assert sorted(sum(int(p[1:]) < 21 for p in fold) for fold in split.folds) == [3, 4, 4, 4]
    assert split != split_patients(patients, labels, positive="malignant", seed=4)


@pytest.mark.parametrize(("positives", "negatives"), [(21, 30), (17, 5), (40, 41)])
def test_folds_are_as_even_as_scikit_learns(positives: int, negatives: int) -> None:
    labels = ["mm"] * positives + ["n"] * negatives
    split = split_patients([str(i) for i in range(len(labels))], labels, positive="mm", test_share=0.2)
    development = [int(p) for p in split.development]
    y = [labels[i] for i in sorted(development)]
    reference = sorted(tuple(sorted(y[i] for i in validation)) for _, validation in StratifiedKFold(4).split(y, y))
    assert sorted(tuple(sorted(labels[int(p)] for p in fold)) for fold in split.folds) == reference


def test_mixed_patients_alone_are_enough() -> None:
    patients = [f"p{i}" for i in range(5) for _ in range(2)]
    split = split_patients(patients, ["mm", "n"] * 5, positive="mm", folds=4)
    assert [len(split.test), *map(len, split.folds)] == [1] * 5


def test_of_equal_remainders_the_stratum_that_comes_first_by_name_has_one_more() -> None:
    """Half of five patients of "ab" and of five of both "a" and "c"; "ab" sorts before "a|c"."""
    rows = [(f"p{n}", label) for n in range(10) for label in (["ab"] if n < 5 else ["a", "c"])]
    patients, labels = zip(*rows, strict=True)
    split = split_patients(patients, labels, positive="ab", test_share=0.5, folds=2)
    assert [int(name[1:]) < 5 for name in split.test].count(True) == 3 and len(split.test) == 5


def test_every_patient_tests_under_some_seed() -> None:
    patients = [f"p{i}" for i in range(12)]
    labels = ["mm", "n"] * 6
    tested = {p for seed in range(60) for p in split_patients(patients, labels, positive="mm", seed=seed).test}
    assert tested == set(patients)


def test_too_few_patients_says_how_many_are_needed() -> None:
    patients = [f"p{i}" for i in range(10)] + ["p0"]
    labels = ["mm"] * 4 + ["n"] * 6 + ["mm"]
    for of_slides, folds, said in (
        (labels, 4, ["4 patients with a 'mm' slide; 5 are needed"]),
        (["mm"] * 11, 2, ["0 patients with a slide of another label; 3 are needed"]),
        (["mm"] + ["n"] * 9 + ["mm"], 3, ["1 patient with a 'mm' slide; 4 are needed"]),
    ):
        with pytest.raises(InputError) as caught:
            split_patients(patients, of_slides, positive="mm", folds=folds)
        headline = (
            f"too few patients for a test part and {folds} validation cohorts, each with both classes (10 patients in "
            "all); add patients, or ask for fewer folds:"
        )
        assert str(caught.value) == "\n  - ".join([headline, *said])


def test_what_does_not_fit_is_refused() -> None:
    patients, labels = [f"p{i}" for i in range(12)], ["mm", "n"] * 6
    for share, folds in ((0.0, 4), (1.0, 4), (0.3, 1)):
        with pytest.raises(InputError) as caught:
            split_patients(patients, labels, positive="mm", test_share=share, folds=folds)
        assert str(caught.value) == f"test share {share} must lie between 0 and 1, and folds {folds} be at least 2"
    for more in (patients[:-1], [*patients, "p12"]):
        with pytest.raises(ValueError) as wrong:
            split_patients(more, labels, positive="mm")
        assert str(wrong.value) == f"{len(more)} patients but 12 labels: one of each a slide"
    split = split_patients(patients, labels, positive="mm", folds=2)
    assert len(split.folds) == 2
    for fold in (-1, 2):
        with pytest.raises(IndexError) as outside:
            split.training(fold)
        assert str(outside.value) == f"fold {fold}: there are 2, counted from 0"
    papers = split_patients(patients, labels, positive="mm")
    assert papers == split_patients(patients, labels, positive="mm", test_share=0.3, folds=4, seed=0)


MANIFEST = pd.DataFrame({"slide_id": ["a", "b", "c", "d"], "patient_id": ["1", "2", "3", "1"]})


def test_no_leak_passes() -> None:
    split = Split(("1",), (("2",), ("3",)))
    assert_no_leaks(split, MANIFEST, [["a", "d"]])
    assert_no_leaks(split, MANIFEST, [["a", "gone"]])  # a copy that is not of the cohort stands on no side
    assert_no_leaks(split, MANIFEST)
    # Names that are numbers, as pandas reads them.
    numbers = pd.DataFrame({"slide_id": [7, 8, 9, 10], "patient_id": [1, 2, 3, 1]})
    assert_no_leaks(split, numbers, [["7", "10"]])
    with pytest.raises(LeakError, match="on 2 sides"):
        assert_no_leaks(split, numbers, [["7", "8"]])


@pytest.mark.parametrize(
    ("split", "groups", "said"),
    [
        (Split(("1",), (("2", "1"), ("3",))), [], ["patient '1' is in test and in cohort 1"]),
        (Split(("1",), (("2",), ("3", "2"))), [], ["patient '2' is in cohort 1 and in cohort 2"]),
        (
            Split((), (("1",),)),
            [["a", "b"]],
            ["patient '2' of the manifest is on no side", "patient '3' of the manifest is on no side"],
        ),
        (Split(("1",), (("2",), ("3", "9"))), [], ["patient '9' of the split is not in the manifest"]),
        (
            Split(("1",), (("2",), ("3",))),
            [["a", "d"], ["a", "b"], ["b", "c", "gone"]],
            [
                "slides 'a' (patient '1'), 'b' (patient '2') are one file on 2 sides (cohort 1, test); "
                "remove the copy or give both rows the same patient_id",
                "slides 'b' (patient '2'), 'c' (patient '3'), 'gone' (patient None) are one file on 2 sides "
                "(cohort 1, cohort 2); remove the copy or give both rows the same patient_id",
            ],
        ),
        # A patient that is nobody's name says nothing of a slide that the manifest lacks.
        (Split(("",), (("1", "2"), ("3",))), [["a", "gone"]], ["patient '' of the split is not in the manifest"]),
    ],
)
def test_leaks_are_named(split: Split, groups: list[list[str]], said: list[str]) -> None:
    with pytest.raises(LeakError) as caught:
        assert_no_leaks(split, MANIFEST, groups)
    assert str(caught.value) == "\n  - ".join(["the split leaks:", *said])
