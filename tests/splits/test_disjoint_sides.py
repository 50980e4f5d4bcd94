"""Who has which part in a training: nobody two, by patient, lesion and copy."""

import math

import pandas as pd
import pytest

from melano_tf.splits.disjoint_sides import Sides, shared_by, words
from melano_tf.splits.leaks import LeakError
from melano_tf.splits.undivided_groups import alike, alike_lines, case_groups

GROUPS = {"a": "P1", "b": "P1", "c": "P2", "d": "P3", "e": "P4"}


@pytest.mark.parametrize(
    "sides, said",
    [
        ({"trains": ["a"], "judged": ["b", "c"]}, "trained on and judged: 1 (P1)"),
        ({"trains": ["c", "d"], "held_out": ["c"], "judged": ["e"]}, "trained on and held out: 1 (P2)"),
        ({"trains": ["c"], "held_out": ["a", "e"], "judged": ["b", "d"]}, "held out and judged: 1 (P1)"),
        (
            {"trains": ["c", "d"], "judged": ["c", "d", "a"], "divided": "as the paper"},
            "trained on and judged: 2 (c, d)",
        ),
    ],
)
def test_an_overlap_is_refused(sides, said) -> None:
    with pytest.raises(LeakError) as refused:
        Sides(GROUPS, **sides)
    assert str(refused.value) == f"nothing is trained, for somebody stands on two sides:\n  - {said}"


def test_a_case_of_nobody_is_refused() -> None:
    with pytest.raises(LeakError) as refused:
        Sides(GROUPS, ["c", "x"], judged=["y", "x"])
    assert str(refused.value) == "2 (x, y): whose they are is not known, and so not whether they leak"


def test_three_sides_apart_and_a_division_that_is_declared_are_taken() -> None:
    Sides(GROUPS, ["a", "b"], ["c"], ["d", "e"])
    declared = Sides(GROUPS, ["a"], judged=["b"], divided="the paper divides by cluster")
    assert declared.case("a") == "a" and declared.case("a/17") == "a" and declared.case("b/c") == "b"


def test_who_is_judged_or_chooses_was_not_seen_before() -> None:
    sides = Sides(GROUPS, ["c"], ["d"], ["a"], after={"teacher": "", "clusters": "of all images"})
    sides.check_after("teacher", ["c", "e"])
    sides.check_after("clusters", ["a", "b", "d"])
    for seen, whom in (("b", "P1"), ("d", "P3")):
        with pytest.raises(LeakError) as refused:
            sides.check_after("teacher", ["c", seen])
        said = "nothing is trained, for teacher, which this stands on, has seen who judges or chooses here: "
        assert str(refused.value) == f"{said}1 ({whom})"
    sides.check_after("teacher", ["c"], chose=["d"])  # the hold-out may choose twice
    with pytest.raises(LeakError, match=r"teacher.*has seen.*P1"):
        sides.check_after("teacher", ["c"], chose=["b"])


def test_a_declared_division_looks_at_cases_and_not_at_whole_groups() -> None:
    sides = Sides(GROUPS, ["a"], ["d"], ["b"], divided="by cluster", after={"teacher": ""})
    sides.check_after("teacher", ["a", "c"])  # "a" is of the patient of "b", who is judged
    with pytest.raises(LeakError, match=r"has seen.*1 \(b\)"):
        sides.check_after("teacher", ["b"])
    other = Sides({**GROUPS, "f": "P3"}, ["f"], ["d"], ["b"], divided="by cluster", after={"teacher": ""})
    other.check_after("teacher", ["f"])  # of the patient of "d", who chooses
    with pytest.raises(LeakError, match=r"has seen.*1 \(d\)"):
        other.check_after("teacher", ["d", "f"])


def test_a_case_may_have_a_slash_in_its_name() -> None:
    assert Sides({"x/y": "P1"}, ["x/y"]).case("x/y/17") == "x/y"


def test_cases_belong_together_by_patient_lesion_content_and_pair() -> None:
    rows = [("1", "P1", None, "x"), ("2", "P1", "L9", "y"), ("3", None, "L9", "z"), ("4", "P2", None, "z")]
    rows += [("5", None, None, "u"), ("6", "P3", None, "v"), ("7", None, None, "w"), ("8", "P1 ", None, "t")]
    groups = case_groups(
        pd.DataFrame(rows, columns=["case", "patient", "lesion", "content"]), [("5", "6"), ("7", "gone")]
    )
    assert len({groups[name] for name in "1234"}) == 1 and groups["1"] == "P1"
    assert groups["5"] == groups["6"] == "P3" and groups["7"] == "7" and groups["8"] == "P1 "
    assert len(set(groups.values())) == 4


def test_cases_whose_owners_are_not_known_stay_apart_and_numbers_are_names() -> None:
    rows = [(1, "", math.nan, "x"), (2, "", math.nan, "y"), (3, math.nan, "", "z"), (4, math.nan, "", "u")]
    groups = case_groups(pd.DataFrame(rows, columns=["case", "patient", "lesion", "content"]), [("gone", "1")])
    assert groups == {"1": "1", "2": "2", "3": "3", "4": "4"}


def test_two_groups_that_would_be_called_the_same_are_told_apart() -> None:
    rows = [("1", None, "L1", "x"), ("2", "L1", None, "y"), ("3", "L1", None, "z")]
    groups = case_groups(pd.DataFrame(rows, columns=["case", "patient", "lesion", "content"]))
    assert groups["2"] == groups["3"] != groups["1"]


def test_names_that_differ_in_capitals_or_spaces_alone_are_reported() -> None:
    names = ["P 01", "p01", "P02", None, "P02", "P0 2 ", "Ｐ03", "P03", "P04"]
    assert alike(names) == [["P 01", "p01"], ["P0 2 ", "P02"], ["P03", "Ｐ03"]]
    assert alike(["Weiß 1", "WEISS1", math.nan]) == [["WEISS1", "Weiß 1"]]
    many = [name for n in range(6) for name in (f"p{n}", f"P{n}")]
    assert [line.count(" = ") for line in alike_lines({"patient": many, "lesion": many[:10]})] == [5, 5]
    [line] = alike_lines({"patient": names, "lesion": ["a", "b"]}, shown=1)
    said = "patients may be two names of one (capitals or spaces alone differ): "
    assert line == f"3 {said}'P 01' = 'p01'; …"
    assert alike_lines({"patient": names}, shown=3) == [f"3 {said}'P 01' = 'p01'; 'P0 2 ' = 'P02'; 'P03' = 'Ｐ03'"]


def test_what_is_shared_is_told_by_group_or_by_case() -> None:
    assert shared_by(GROUPS, ["a", "c"], ["b", "e"]) == ("P1",)
    assert shared_by(GROUPS, ["a", "c"], ["b", "e"], whole=False) == ()
    assert shared_by({}, ["a"], ["a"]) == ("a",)
    assert words([f"n{i}" for i in range(5)]) == "5 (n0, n1, n2, n3, n4)"
    assert words([f"n{i}" for i in range(7)]) == "7 (n0, n1, n2, n3, n4, …)"
    assert (
        shared_by({}, list("dacb"), list("bdxa"))
        == shared_by({}, list("dacb"), list("bdxa"), whole=False)
        == ("a", "b", "d")
    )
