import math
from itertools import combinations

import numpy as np
import pytest

from melano_tf.errors import InputError
from melano_tf.splits.clusters import (
    MOST_CHOICES,
    PAPER_TEST_SHARES,
    SIDES,
    _choices,
    cluster_partition,
    grouped_partition,
    partition_leaks,
)
from melano_tf.splits.leaks import leak_lines

# Of Table 1: shares of the classes, and one that is rare.
CLASSES = ("MEL", "NV", "BCC", "SCC")


def _images(seed: int = 0, count: int = 1200) -> dict[str, np.ndarray]:
    """Images of two sources in 8 clusters of unequal size; the rare class in a few of them only."""
    rng = np.random.default_rng(seed)
    source = rng.choice(["BCN", "HAM"], count, p=[0.6, 0.4])
    cluster = rng.choice(8, count, p=np.arange(1, 9) / 36)
    label = rng.choice(CLASSES[:3], count, p=[0.2, 0.6, 0.2])
    rare = rng.random(count) < 0.04
    label[rare] = "SCC"
    cluster[rare] = rng.choice([1, 2, 5], rare.sum())
    lesion = np.array([f"{s}_{c}_{rng.integers(0, count // 6)}" for s, c in zip(source, label, strict=True)])
    return {"sources": source, "clusters": cluster, "labels": label, "groups": lesion}


@pytest.fixture(scope="module")
def images() -> dict[str, np.ndarray]:
    return _images()


def _wanted(source: np.ndarray) -> dict[str, int]:
    return {name: round(PAPER_TEST_SHARES[name] * (source == name).sum()) for name in ("HAM", "BCN")}


def test_whole_clusters_test_and_every_class_trains_and_validates(images: dict[str, np.ndarray]) -> None:
    wanted = _wanted(images["sources"])
    found = cluster_partition(**images, test_images=wanted, test_clusters=4, seed=3)
    assert set(found.side) == set(SIDES) and not found.repairs
    for source in ("BCN", "HAM"):
        mine = images["sources"] == source
        assert len(found.test_clusters[source]) == 4
        expected = np.isin(images["clusters"][mine], found.test_clusters[source])
        np.testing.assert_array_equal(found.side[mine] == "test", expected)
        assert abs(expected.sum() - wanted[source]) <= 0.01 * mine.sum()
    for side in ("training", "validation"):
        assert set(images["labels"][found.rows(side)]) == set(CLASSES)
    rest = len(found.rows("training")) + len(found.rows("validation"))
    assert abs(len(found.rows("validation")) / rest - 0.2) < 0.01
    # Lesions are not divided between training and validation.
    assert not set(images["groups"][found.rows("training")]) & set(images["groups"][found.rows("validation")])


def test_the_seed_draws_and_decides(images: dict[str, np.ndarray]) -> None:
    wanted = _wanted(images["sources"])
    found = [cluster_partition(**images, test_images=wanted, test_clusters=4, seed=seed) for seed in (0, 0, 1, 2, 3)]
    np.testing.assert_array_equal(found[0].side, found[1].side)
    assert len({tuple(sorted(part.test_clusters.items())) for part in found}) > 1


def test_the_choice_is_the_nearest_by_a_naive_search(images: dict[str, np.ndarray]) -> None:
    only = {name: values[images["sources"] == "HAM"] for name, values in images.items()}
    wanted = 137
    found = cluster_partition(**only, test_images={"HAM": wanted}, test_clusters=4, tolerance=0.0)
    off = []
    for choice in combinations(range(8), 4):
        test = np.isin(only["clusters"], choice)
        left = only["labels"][~test]
        if all((left == name).sum() >= 2 for name in CLASSES):
            off.append(abs(int(test.sum()) - wanted))
    assert abs(len(found.rows("test")) - wanted) == min(off)


def test_a_class_within_one_cluster_never_tests() -> None:
    images = _images(seed=4)
    images["clusters"][images["labels"] == "SCC"] = 7
    for seed in range(5):
        found = cluster_partition(**images, test_images=_wanted(images["sources"]), test_clusters=4, seed=seed)
        assert 7 not in found.test_clusters["BCN"] and 7 not in found.test_clusters["HAM"]
        assert found.untested == ("BCN: SCC", "HAM: SCC")


def test_the_smallest_cluster_that_holds_a_missing_class_comes_back() -> None:
    # Each image its own lesion, but the two SCC of cluster 0: enough by images, not by lesions.
    clusters = np.repeat([0, 1, 2, 3], [30, 12, 10, 20])
    labels = np.array(["NV"] * 72, dtype=object)
    groups = np.array([f"l{place}" for place in range(72)])
    for place in (0, 1, 31, 43):  # clusters 0, 0, 1, 2
        labels[place] = "SCC"
    groups[1] = "l0"
    sources = np.array(["HAM"] * 72)
    # Only {1, 2} leaves two images of the class and comes near 22.
    found = cluster_partition(sources, clusters, labels, groups, test_images={"HAM": 22}, test_clusters=2, tolerance=0)
    assert found.test_clusters == {"HAM": (1,)}
    assert found.repairs == (
        "class SCC: 1 lesion outside the test; cluster 2 of HAM (10 images) was moved out of the test",
    )
    for side in ("training", "validation"):
        assert "SCC" in labels[found.rows(side)]


def test_what_cannot_be_is_reported_by_class() -> None:
    sources, labels = ["HAM"] * 12, ["NV"] * 10 + ["SCC", "DF"]
    clusters, groups = np.arange(12) % 4, [f"l{place}" for place in range(12)]
    for draw in (
        lambda: cluster_partition(sources, clusters, labels, groups, test_images={"HAM": 6}, test_clusters=2),
        lambda: grouped_partition(sources, labels, groups, test_images={"HAM": 6}),
    ):
        with pytest.raises(InputError) as caught:
            draw()
        assert str(caught.value) == (
            "partition: training and validation need a lesion each of every class; give more images, or leave it out:\n"
            "  - class DF: 1 lesion outside the test, of 1 in all\n"
            "  - class SCC: 1 lesion outside the test, of 1 in all"
        )
    with pytest.raises(InputError, match=r"^partition: there are no images$"):
        grouped_partition([], [], [], test_images={})


def test_messages_name_what_is_drawn() -> None:
    """Groups that are the images' names were called lesions."""
    sources, labels = ["HAM"] * 12, ["NV"] * 10 + ["SCC", "DF"]
    clusters, groups = np.arange(12) % 4, [f"i{place}" for place in range(12)]
    with pytest.raises(InputError) as caught:
        cluster_partition(sources, clusters, labels, groups, test_images={"HAM": 6}, test_clusters=2, unit="image")
    assert "need an image each of every class" in str(caught.value)
    assert "class DF: 1 image outside the test, of 1 in all" in str(caught.value)
    assert "lesion" not in str(caught.value)
    # Each cluster holds a class alone: whichever tests is missed, and comes back.
    labels, clusters = ["NV"] * 8 + ["SCC"] * 2 + ["NV"] * 12 + ["DF"] * 2, np.repeat([0, 1], [10, 14])
    names = [f"i{place}" for place in range(24)]
    found = cluster_partition(
        ["HAM"] * 24, clusters, labels, names, test_images={"HAM": 10}, test_clusters=1, tolerance=0, unit="image"
    )
    assert found.repairs == (
        "class SCC: 0 images outside the test; cluster 0 of HAM (10 images) was moved out of the test",
    )


def test_the_partition_by_lesion_has_the_same_sizes_and_no_leak(images: dict[str, np.ndarray]) -> None:
    wanted = _wanted(images["sources"])
    ids = [f"i{place}" for place in range(len(images["sources"]))]
    by_cluster = cluster_partition(**images, test_images=wanted, test_clusters=4)
    by_lesion = grouped_partition(images["sources"], images["labels"], images["groups"], test_images=wanted)
    for source, number in wanted.items():
        mine = images["sources"] == source
        assert abs((by_lesion.side[mine] == "test").sum() - number) < 0.03 * mine.sum()
        for side in SIDES:
            assert set(images["labels"][mine & (by_lesion.side == side)]) == set(CLASSES)
    owners = {"lesion": images["groups"]}
    assert partition_leaks(by_lesion, owners, {}, ids) == []
    leaks = partition_leaks(by_cluster, owners, {"near": [(0, 1), (1, 2)]}, ids)
    naive = sum(len(set(by_cluster.side[images["groups"] == lesion])) > 1 for lesion in np.unique(images["groups"]))
    assert naive > 50 and sum(leak.kind == "lesion" for leak in leaks) == naive
    pairs = (by_cluster.side[0] != by_cluster.side[1]) + (by_cluster.side[1] != by_cluster.side[2])
    assert sum(leak.kind == "near" for leak in leaks) == pairs
    assert leak_lines(leaks)[0].startswith(f"{naive:,} lesions on two sides")


def test_of_very_many_choices_some_are_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    choices = _choices(40, 8, np.random.default_rng(2))
    assert math.comb(40, 8) > MOST_CHOICES and 0.99 * MOST_CHOICES // 10 < len(choices) <= MOST_CHOICES // 10
    assert choices.dtype == np.int64 and choices.shape[1] == 8
    assert (np.diff(choices, axis=1) > 0).all(), "sorted, and no cluster twice"
    assert set(choices.ravel().tolist()) == set(range(40))
    assert len({tuple(row) for row in choices.tolist()}) == len(choices)
    np.testing.assert_array_equal(choices, _choices(40, 8, np.random.default_rng(2)))
    monkeypatch.setattr("melano_tf.splits.clusters.MOST_CHOICES", 15)  # just as many as there are
    assert _choices(6, 2, np.random.default_rng(0)).tolist() == [list(pair) for pair in combinations(range(6), 2)]


def test_many_clusters_are_divided_as_few_are(images: dict[str, np.ndarray]) -> None:
    fine = {**images, "clusters": images["clusters"] * 5 + np.arange(1200) % 5}
    wanted = _wanted(images["sources"])
    found = [cluster_partition(**fine, test_images=wanted, test_clusters=18, seed=seed) for seed in (4, 4, 5)]
    assert all(len(members) == 18 for part in found for members in part.test_clusters.values())
    for source, number in wanted.items():
        mine = images["sources"] == source
        assert abs(int((found[0].side[mine] == "test").sum()) - number) <= 0.01 * mine.sum()
    np.testing.assert_array_equal(found[0].side, found[1].side)
    assert found[0].test_clusters != found[2].test_clusters


def test_the_tolerance_is_a_share_of_the_sources_images(images: dict[str, np.ndarray]) -> None:
    only = {name: values[images["sources"] == "HAM"] for name, values in images.items()}
    count = len(only["sources"])

    def off(tolerance: float) -> set[int]:
        given = {"test_images": {"HAM": 180}, "test_clusters": 4, "tolerance": tolerance}
        parts = [cluster_partition(**only, **given, seed=seed) for seed in range(12)]
        return {abs(len(part.rows("test")) - 180) for part in parts}

    assert len(off(0.0)) == 1
    wide = off(0.1)
    assert len(wide) > 1 and max(off(0.0)) < max(wide) <= 0.1 * count


@pytest.mark.parametrize(
    "change, error, words",
    [
        *(
            (
                {"test_clusters": number},
                InputError,
                f"partition: BCN has 8 clusters, and {number} are to test: at least one must be left",
            )
            for number in (0, 8)
        ),
        *(
            ({"validation_share": share}, InputError, f"partition: validation share {share:g} must lie between 0 and 1")
            for share in (0.0, 1.0)
        ),
        ({"test_images": {}}, InputError, "partition: how many images of BCN, HAM test is not given"),
        *(
            (
                {name: few},
                ValueError,
                "sources, clusters, labels and groups must be of one length: one of each an image",
            )
            for name, few in (("groups", ["L1"]), ("labels", ["NV"]), ("clusters", np.array([1])), ("sources", ["HAM"]))
        ),
        ({n: [] for n in ("sources", "clusters", "labels", "groups")}, InputError, "partition: there are no images"),
    ],
)
def test_what_does_not_fit_is_refused(images: dict[str, np.ndarray], change: dict, error: type, words: str) -> None:
    given = {**images, "test_images": _wanted(images["sources"]), "test_clusters": 4, **change}
    with pytest.raises(error) as caught:
        cluster_partition(**given)
    assert str(caught.value) == words


def test_what_is_not_said_is_the_papers(images: dict[str, np.ndarray]) -> None:
    """Half of 16 clusters, a fifth validates."""
    fine = {**images, "clusters": images["clusters"] * 2 + np.arange(1200) % 2}
    given = {"test_images": _wanted(images["sources"])}
    found = cluster_partition(**fine, **given)
    wanted = cluster_partition(
        **fine, **given, test_clusters=8, validation_share=0.2, seed=0, tolerance=0.01, unit="lesion"
    )
    assert found.test_clusters == wanted.test_clusters and (found.side == wanted.side).all()
    whole = {name: images[name] for name in ("sources", "labels", "groups")}
    by_lesion = grouped_partition(**whole, **given)
    assert (by_lesion.side == grouped_partition(**whole, **given, validation_share=0.2, seed=0).side).all()
    assert (by_lesion.side != grouped_partition(**whole, **given, seed=1).side).any()


def test_a_source_may_be_wanted_for_the_test_alone(images: dict[str, np.ndarray]) -> None:
    """All but two lesions of each class test; so they do where more images are wanted than there are."""
    whole = {name: images[name][images["sources"] == "HAM"] for name in ("sources", "labels", "groups")}
    found, more = (grouped_partition(**whole, test_images={"HAM": times * len(whole["labels"])}) for times in (1, 3))
    assert (found.side == more.side).all()
    outside = found.side != "test"
    assert all(len(set(whole["groups"][outside & (whole["labels"] == name)])) >= 2 for name in CLASSES)


def test_a_single_cluster_may_test(images: dict[str, np.ndarray]) -> None:
    found = cluster_partition(**images, test_images={"HAM": 60, "BCN": 90}, test_clusters=1)
    assert all(len(members) == 1 for members in found.test_clusters.values())
