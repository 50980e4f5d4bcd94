"""Folds of images: by group and stratified, plain, and what leaks."""

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import settings as limits
from hypothesis import strategies as st

from melano_tf.errors import InputError
from melano_tf.splits.folds import grouped_folds, plain_folds
from melano_tf.splits.leaks import Leak, image_leaks, leak_lines
from melano_tf.splits.undivided_groups import joined_groups, owner_groups, pair_places

PLAIN = [3, 0, 0, 1, 0, 3, 2, 2, 2, 1, 1, 2, 0, 1, 0, 1, 3, 2, 1, 2, 0, 3, 3, 0, 3, 2, 1, 3]
GROUPED = [1, 1, 2, 2, 1, 1, 1, 1, 0, 0, 1, 1, 2, 2, 2, 2, 0, 0, 1, 1, 2, 2, 0, 0, 2, 2, 0, 0]


def drawn(seed: int, patients: int = 60, rare: float = 0.15) -> tuple[list[str], list[str]]:
    rng = np.random.default_rng(seed)
    groups = np.repeat(np.arange(patients), rng.integers(1, 12, patients))
    positive = rng.uniform(size=patients)[groups] < 2 * rare
    labels = np.where(positive & (rng.uniform(size=len(groups)) < 0.5), "melanoma", "benign")
    labels[[np.flatnonzero(groups == patient)[0] for patient in range(8)]] = "melanoma"
    return [f"P{group}" for group in groups], labels.tolist()


@limits(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 6))
def test_whole_groups_every_class_and_an_even_spread(seed: int, folds: int) -> None:
    groups, labels = drawn(seed)
    fold = grouped_folds(groups, labels, folds, seed)
    frame = pd.DataFrame({"group": groups, "label": labels, "fold": fold})
    assert frame.groupby("group")["fold"].nunique().max() == 1
    counts = pd.crosstab(frame["fold"], frame["label"])
    assert counts.shape == (folds, 2) and (counts > 0).all().all()
    most = frame[frame["label"] == "melanoma"].groupby("group").size().max()
    assert counts["melanoma"].max() - counts["melanoma"].min() <= most
    largest = frame.groupby("group").size().max()
    assert counts.sum(axis=1).max() - counts.sum(axis=1).min() <= 2 * largest


def test_the_same_seed_gives_the_same_folds_and_another_one_others() -> None:
    groups, labels = drawn(1)
    first = grouped_folds(groups, labels, 4, seed=5)
    np.testing.assert_array_equal(first, grouped_folds(groups, labels, 4, seed=5))
    assert (first != grouped_folds(groups, labels, 4, seed=6)).any()


def test_folds_are_those_of_every_version_and_their_seed() -> None:
    """Another split would judge other patients: what stands here may change with a new version alone."""
    labels = ["b"] * 17 + ["m"] * 6 + ["b"] * 5
    plain = plain_folds(labels, 4)
    assert plain.dtype == np.int64 and plain.tolist() == PLAIN
    assert (plain == plain_folds(labels, 4, seed=0)).all() and (plain != plain_folds(labels, 4, seed=1)).any()
    grouped = grouped_folds([f"P{place // 2}" for place in range(28)], labels, 3)
    assert grouped.dtype == np.int64 and grouped.tolist() == GROUPED


def test_lists_of_two_lengths_are_refused() -> None:
    for groups, labels in ((["a", "b", "c"], ["x", "y"]), (["a", "b"], ["x", "y", "y"])):
        with pytest.raises(ValueError) as caught:
            grouped_folds(groups, labels, 2)
        assert str(caught.value) == f"{len(groups)} groups but {len(labels)} labels: one of each an image"
    for owners, ids in ((["P1", None], ["a"]), (["P1"], ["a", "b"])):
        with pytest.raises(ValueError, match=r"zip\(\) argument 2 is"):
            owner_groups(owners, ids)


def test_a_hand_made_case() -> None:
    """Two groups hold both melanomas; the other two even out the sizes."""
    groups = ["A"] * 5 + ["B"] * 2 + ["C"] * 4 + ["D"]
    labels = ["melanoma"] + ["benign"] * 4 + ["melanoma", "benign"] + ["benign"] * 5
    fold = dict(zip(groups, grouped_folds(groups, labels, 2).tolist(), strict=True))
    assert fold["A"] != fold["B"]
    assert fold["C"] == fold["B"] and fold["D"] == fold["A"]  # 5 + 1 and 2 + 4


@pytest.mark.parametrize("folds", [2, 3, 7])
def test_plain_folds_differ_by_one_image_at_most(folds: int) -> None:
    labels = ["melanoma"] * 23 + ["benign"] * 90
    fold = plain_folds(labels, folds, seed=2)
    for part in (fold, fold[:23], fold[23:]):
        sizes = np.bincount(part, minlength=folds)
        assert sizes.max() - sizes.min() <= 1
    assert (plain_folds(labels, folds, seed=3) != fold).any()


def test_copies_join_their_groups_also_in_chains() -> None:
    assert joined_groups(["A", "B", "C", "D", "A"], [(0, 1), (1, 2)]) == ["A", "A", "A", "D", "A"]
    assert joined_groups(["A", "B"], []) == ["A", "B"]
    assert joined_groups(["A", "B"], [(0, 1), (1, 0), (0, 1)]) == ["A", "A"]  # told in both orders
    # Two chains, and then their last ones: all are called as the first one's first.
    assert joined_groups(list("ABCDEF"), [(0, 1), (1, 2), (3, 4), (4, 5), (2, 5)]) == ["A"] * 6


def test_unknown_owners_and_pairs_by_place() -> None:
    assert owner_groups(["P1", None, "P1", math.nan], list("abcd")) == ["P1", "image b", "P1", "image d"]
    pairs = pd.DataFrame({"image_1": ["c", "a"], "image_2": ["a", "b"], "kind": ["near", "exact"]})
    places = pair_places(pairs, ["a", "b", "c"])
    assert list(places.items()) == [("near", [(2, 0)]), ("exact", [(0, 1)])]


def test_leaks_are_named_by_kind() -> None:
    fold = np.array([0, 1, 0, 1, 1])
    owners = {"patient": ["P1", "P1", "P2", None, None], "lesion": ["L1", "L2", "L3", "L4", "L4"]}
    copies = {"exact": [(0, 3), (3, 4)], "near": [(2, 4)]}
    found = image_leaks(fold, owners, copies, list("abcde"))
    assert found == [
        Leak("patient", "P1", (0, 1)),
        Leak("exact", "a = d", (0, 1)),
        Leak("near", "c = e", (0, 1)),
    ]
    assert leak_lines(found)[0] == "1 patients on two sides: P1"
    assert "1 pairs of near copies on two sides: c = e" in leak_lines(found)
    assert image_leaks(np.zeros(5, int), owners, copies, list("abcde")) == []
    # In the order of the folds, whichever image comes first; an owner called by a number, or by nothing.
    found = image_leaks(np.array([9, 1]), {"patient": [0, 0], "lesion": ["", ""]}, {"near": [(0, 1)]}, list("ab"))
    assert [(leak.name, leak.folds) for leak in found] == [("0", (1, 9)), ("", (1, 9)), ("a = b", (1, 9))]


def test_so_many_leaks_are_named() -> None:
    leaks = [Leak("lesion", f"L{n}", (0, 1)) for n in range(6)]
    assert leak_lines(leaks) == ["6 lesions on two sides: L0, L1, L2, L3, L4, …"]
    assert leak_lines(leaks[:5]) == ["5 lesions on two sides: L0, L1, L2, L3, L4"]
    assert leak_lines(leaks, shown=0) == ["6 lesions on two sides"]


@pytest.mark.parametrize(
    ("groups", "labels", "folds", "said"),
    [
        ("AABCDE", "mmbbbn", 2, ["class 'm': 1 patients or lesions", "class 'n': 1 patients or lesions"]),
        (None, "mmbbb", 3, ["class 'm': 2 images"]),
        (None, "a" * 9, 3, ["1 class; at least 2 are needed"]),
        ("", "", 3, ["0 classes; at least 2 are needed"]),
        (None, "aabb", 1, None),
        ("ABCD", "aabb", -1, None),
    ],
)
def test_too_few_groups_are_said_by_class(groups: str | None, labels: str, folds: int, said: list[str] | None) -> None:
    with pytest.raises(InputError) as caught:
        plain_folds(list(labels), folds) if groups is None else grouped_folds(list(groups), list(labels), folds)
    headline = f"too few images for {folds} folds that all hold every class; ask for fewer folds:"
    wanted = "\n  - ".join([headline, *said]) if said else f"{folds} folds: at least 2 are needed"
    assert str(caught.value) == wanted


def test_the_official_table_has_the_papers_folds(real_data) -> None:
    table = pd.read_csv(real_data / "isic2020" / "ISIC_2020_Training_GroundTruth.csv")
    fold = grouped_folds(table["patient_id"].tolist(), table["target"].astype(str).tolist(), 10)
    assert np.bincount(fold).min() >= 3310 and np.bincount(fold).max() <= 3316
    malignant = np.bincount(fold, weights=table["target"])
    assert malignant.min() == 58 and malignant.max() <= 60
    assert image_leaks(fold, {"patient": table["patient_id"].tolist()}, {}, table["image_name"].tolist()) == []
