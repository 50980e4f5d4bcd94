"""The core of the splits: shares, mending, and the draws of the recipes, which a seed must give for ever."""

import hashlib
from collections.abc import Callable

import numpy as np
import pytest

from melano_tf.errors import InputError
from melano_tf.splits.clusters import Partition, cluster_partition, grouped_partition
from melano_tf.splits.folds import grouped_folds
from melano_tf.splits.inner_holdout import inner_holdout
from melano_tf.splits.stratification import class_counts, mend, share_of_rows, share_of_units, short_classes
from melano_tf.splits.training_validation_test import split_parts
from melano_tf.splits.validation_cohorts import split_patients


def test_counts_and_short_classes() -> None:
    names, classes, counts = class_counts(["b", "a", "b", "c"], ["x", "y", "y", "y"])
    assert (names.tolist(), classes.tolist()) == (["a", "b", "c"], ["x", "y"])
    assert counts.tolist() == [[0, 1], [1, 1], [0, 1]]
    assert class_counts(np.array([10, 9, 10]), ["x", "x", "x"])[0].tolist() == [9, 10]  # numbers, not their text
    assert short_classes(["b", "a", "b", "c"], ["x", "y", "y", "y"], 3) == {"x": 1}


def test_strata_keep_their_share_by_largest_remainders() -> None:
    # a fifth of 11, 6 and 3 units: 2.2, 1.2 and 0.6, four in all, the fourth from the largest remainder
    stratum = np.array([0] * 11 + [1] * 6 + [2] * 3)
    assert np.bincount(stratum[share_of_units(stratum, 0.2)], minlength=3).tolist() == [2, 1, 1]


def test_a_share_of_rows_leaves_units_of_every_class() -> None:
    counts = np.array([[5, 0], [5, 0], [1, 0], [0, 1], [0, 1]])
    assert share_of_rows(counts, np.arange(5), 0.5, leave=1).tolist() == [True, False, False, True, False]
    assert not share_of_rows(counts, np.arange(5), 0.5, leave=2)[3:].any()  # two units of it: neither can be spared


def test_of_equally_rare_classes_the_first_is_drawn_first() -> None:
    """Forty in a ring: unit k holds classes k and k + 1, and whose turn is first says which half of them is drawn. Each
    second class stands beside a commoner one in the table, which a sort that is not stable would not see past."""
    counts = np.zeros((60, 60), int)
    ring = np.flatnonzero(np.arange(60) % 3 != 1)
    counts[np.ix_(np.arange(40), ring)] = np.eye(40, dtype=int) + np.roll(np.eye(40, dtype=int), 1, axis=1)
    counts[np.arange(40, 60), np.flatnonzero(np.arange(60) % 3 == 1)] = 5
    found = share_of_rows(counts, np.arange(60)[::-1], 0.5, leave=1)
    assert found.tolist() == [False, True] * 20 + [False] * 20


def test_the_cheapest_unit_is_moved_and_said() -> None:
    holds = np.array([[1, 0], [1, 1], [0, 1], [1, 0]], bool)
    before = np.array([False, False, False, False])

    def short(drawn: np.ndarray) -> np.ndarray:
        return np.stack([~holds[~drawn].any(axis=0), ~holds[drawn].any(axis=0)])

    after, moves = mend(before, holds, short)
    assert (after.tolist(), moves) == ([False, True, False, False], [(1, 0)])  # one move mends both classes
    after, moves = mend(before, holds, short, price=lambda unit: (-unit,))
    assert (after.tolist(), moves) == ([False, False, True, True], [(3, 0), (2, 1)])
    assert not before.any()
    apart, turned = np.array([[1, 0], [1, 0], [0, 1], [0, 1]], bool), np.array([False, False, True, True])

    def lacks(drawn: np.ndarray) -> np.ndarray:
        return np.stack([~apart[~drawn].any(axis=0), ~apart[drawn].any(axis=0)])

    # The second class, which the other side lacks, comes before the first one, which the drawn side lacks.
    assert mend(turned, apart, lacks)[1] == [(2, 1), (0, 0)]
    assert mend(turned, apart, lacks, in_turn=True)[1] == [(0, 0), (2, 1)]
    alone = np.array([[True, False]])
    drawn, moves = mend(np.array([True]), alone, lambda drawn: np.stack([~alone[~drawn].any(axis=0), [False, False]]))
    assert (drawn.tolist(), moves) == ([False], [(0, 0)])  # nobody has the other class: it stays short


def _cohort(seed: int) -> tuple[list[str], list[str], list[str], np.ndarray, float]:
    """Few patients of two to five classes: owners, labels, sources and clusters of their images, and a share."""
    rng = np.random.default_rng(seed)
    patients, classes = int(rng.integers(5, 40)), int(rng.integers(2, 6))
    weights = rng.dirichlet(np.full(classes, rng.choice([0.5, 2.0])))
    who = np.concatenate([np.arange(patients), rng.integers(0, patients, patients)])
    other = rng.random(len(who)) < rng.choice([0, 0.3])
    label = np.where(other, rng.choice(classes, len(who), p=weights), rng.choice(classes, patients, p=weights)[who])
    owners, labels = [f"p{i:02}" for i in who], [f"c{i}" for i in label]
    sources = np.array(["HAM", "BCN"])[rng.integers(0, 2, len(who))].tolist()
    clusters = (label * 3 + rng.integers(0, 3, len(who))) % 12
    return owners, labels, sources, clusters, float(rng.choice([0.1, 0.2, 0.3, 0.5]))


def _just_enough(seed: int) -> tuple[list[str], list[str], int]:
    """Patients of which many have both classes, and folds that they just suffice for: the draw must be mended."""
    rng = np.random.default_rng(seed)
    folds, both = int(rng.integers(2, 5)), int(rng.integers(0, 7))
    first, other = rng.integers(max(0, folds + 1 - both), 9, 2).tolist()
    kinds = [["c0"]] * first + [["c0", "c1"], ["c0", "c2"]] * both + [["c1"], ["c2", "c1"]] * other
    rows = [(f"p{i:02}", label) for i, labels in enumerate(kinds) for label in labels]
    return [owner for owner, _ in rows], [label for _, label in rows], folds


def _patients(seed: int) -> object:
    *cohort, folds = _just_enough(seed)
    share = float(np.random.default_rng(seed).uniform(0.02, 0.98))
    return split_patients(*cohort, positive="c0", test_share=share, folds=folds, seed=seed)


def _plain(part: Partition) -> tuple[object, ...]:
    return part.side.tolist(), sorted(part.test_clusters.items()), part.repairs, part.untested


DRAWS: dict[str, tuple[Callable[[int], object], str]] = {
    "hold-out": (lambda s: inner_holdout(*_cohort(s)[:2], _cohort(s)[4], s), "0359640f400a48da"),
    "hold-out of one class": (lambda s: inner_holdout(*_cohort(s)[:2], _cohort(s)[4], s, "c0"), "21b730d7ce8a2e74"),
    "patients": (_patients, "2dc44056a44e076e"),
    "parts": (lambda s: split_parts(*_cohort(s)[:2], 0.2, 0.15, seed=s), "c17b2d9f73fc20a8"),
    "folds": (lambda s: grouped_folds(*_cohort(s)[:2], 2 + s % 3, s).tolist(), "9aa214d9af5a53f4"),
    "clusters": (
        lambda s: _plain(
            cluster_partition(
                *(_cohort(s)[2], _cohort(s)[3], _cohort(s)[1], _cohort(s)[0]),
                test_images={"HAM": 15, "BCN": 10},
                test_clusters=3,
                seed=s,
            )
        ),
        "b7ab1af95decb22c",
    ),
    "lesions": (
        lambda s: _plain(
            grouped_partition(_cohort(s)[2], _cohort(s)[1], _cohort(s)[0], test_images={"HAM": 15, "BCN": 10}, seed=s)
        ),
        "8692621cf474ea66",
    ),
}


@pytest.mark.parametrize("kind", DRAWS)
def test_a_seed_gives_the_same_draw_and_the_same_words_for_ever(kind: str) -> None:
    draw, wanted = DRAWS[kind]
    found, drawn = hashlib.sha256(), 0
    for seed in range(150):
        try:
            result, drawn = repr(draw(seed)), drawn + 1
        except InputError as fault:
            result = str(fault)
        found.update(result.encode())
    assert drawn > 20
    assert found.hexdigest()[:16] == wanted
