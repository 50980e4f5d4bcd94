"""Parts by cluster: whole clusters of alike images test, the rest trains and validates; and parts by lesion beside it.

The similarity paper, "Data partitioning": of each source's 16 clusters 8 are for the test, the others for training and
validation (20 %), with all classes in both. Clusters know nothing of lesions: those that stand on two sides are counted
(`partition_leaks`), and `grouped_partition` draws parts of the same sizes from whole lesions.
"""

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from melano_tf.errors import InputError
from melano_tf.splits.leaks import Leak, image_leaks
from melano_tf.splits.stratification import class_counts, mend, share_of_rows

TRAINING, VALIDATION, TEST = SIDES = ("training", "validation", "test")
# Table 5: test images, of the source's images in ISIC 2019.
PAPER_TEST_SHARES = {"HAM": 3844 / 10015, "BCN": 6375 / 12413}
MOST_CHOICES = 200_000  # of clusters; beyond that so many are drawn at random


@dataclass(frozen=True)
class Partition:
    """On which side each image stands.

    Attributes:
        side: object (n,) of "training", "validation", "test".
        test_clusters: {source: clusters that test}; empty for a partition by lesion.
        repairs: what had to be moved so that every class is on both sides of training and validation, in words.
        untested: "source: class" of classes that a source holds and its test does not.
    """

    side: NDArray[np.object_]
    test_clusters: Mapping[str, tuple[int, ...]]
    repairs: tuple[str, ...]
    untested: tuple[str, ...]

    def rows(self, side: str) -> NDArray[np.intp]:
        """Places of the images of one side."""
        return np.flatnonzero(self.side == side)


def cluster_partition(
    sources: Sequence[str],
    clusters: NDArray[np.integer],
    labels: Sequence[str],
    groups: Sequence[str],
    *,
    test_images: Mapping[str, int],
    test_clusters: int = 8,
    validation_share: float = 0.2,
    seed: int = 0,
    tolerance: float = 0.01,
    unit: str = "lesion",
) -> Partition:
    """Choose the clusters that test, of each source apart, then draw the validation part from the rest.

    The choices that leave every class of the source outside the test (twice, where there are two: for training and for
    validation) come first, those that leave the most classes where none leaves all; of these, the ones nearest to the
    wanted size: within `tolerance` of the source's images, or the nearest alone. The seed draws one. A class that is
    then missing outside the test over all sources is brought back: the smallest test cluster that holds it is moved.

    Args:
        sources: source of each image, (n,).
        clusters: int (n,), cluster of each image among those of its source.
        labels: class of each image, (n,).
        groups: lesion of each image, (n,), which is not divided between training and validation; the images' names for
            a plain draw, as the paper's may have been.
        test_images: {source: wanted number of test images}.
        test_clusters: clusters of a source that test; the rest must be at least one.
        validation_share: of the images outside the test, 0 < share < 1.
        seed: of the draws.
        tolerance: share of the source's images.
        unit: what one of the groups is, for the messages.

    Raises:
        InputError: a source has too few clusters; or a class cannot stand in both training and validation: each is
            named, with what there is of it.
    """
    source, cluster, label = np.asarray(sources, dtype=str), np.asarray(clusters), np.asarray(labels, dtype=str)
    _check(source, cluster, label, groups, test_images, validation_share)
    rng = np.random.default_rng(seed)
    chosen = {
        name: _choice(
            name, cluster[source == name], label[source == name], test_images[name], test_clusters, tolerance, rng
        )
        for name in sorted(set(source.tolist()))
    }
    lesions = np.asarray(groups, dtype=str)
    repairs = _repair(chosen, source, cluster, label, lesions, unit)
    test = _in_clusters(chosen, source, cluster)
    return Partition(
        _sides(test, label, lesions, validation_share, rng, unit),
        {name: tuple(sorted(members)) for name, members in chosen.items()},
        tuple(repairs),
        _untested(test, source, label),
    )


def grouped_partition(
    sources: Sequence[str],
    labels: Sequence[str],
    groups: Sequence[str],
    *,
    test_images: Mapping[str, int],
    validation_share: float = 0.2,
    seed: int = 0,
) -> Partition:
    """Parts of whole groups (lesions), stratified by class, of the same sizes as a partition by cluster.

    Args:
        sources, labels, groups, test_images, validation_share, seed: as for `cluster_partition`.

    Raises:
        InputError: as `cluster_partition`.
    """
    source, label, lesion = (np.asarray(values, dtype=str) for values in (sources, labels, groups))
    _check(source, np.zeros(len(source), int), label, groups, test_images, validation_share)
    rng = np.random.default_rng(seed)
    test = np.zeros(len(source), bool)
    for name in sorted(set(source)):
        rows = np.flatnonzero(source == name)
        share = test_images[name] / len(rows)
        test[rows] = _whole_lesions(label[rows], lesion[rows], share, leave=2, rng=rng)
    test = np.isin(lesion, lesion[test])  # a lesion of two sources would else be divided
    side = _sides(test, label, lesion, validation_share, rng, "lesion")
    return Partition(side, {}, (), _untested(test, source, label))


def partition_leaks(
    partition: Partition,
    owners: Mapping[str, Sequence[str | None]],
    copies: Mapping[str, Iterable[tuple[int, int]]],
    image_ids: Sequence[str],
) -> list[Leak]:
    """Lesions, and images that are copies of each other, on two sides; `Leak.folds` are places in SIDES.

    Args:
        owners: {"lesion": of each image, …}; None where it is not known.
        copies: {kind of copy: pairs of places}.
        image_ids: names of the images, (n,).
    """
    codes = np.array([SIDES.index(side) for side in partition.side], np.int64)
    return image_leaks(codes, owners, copies, image_ids)


def _check(
    source: NDArray[np.str_],
    cluster: NDArray[np.integer],
    label: NDArray[np.str_],
    groups: Sequence[str],
    test_images: Mapping[str, int],
    validation_share: float,
) -> None:
    if not len(source) == len(cluster) == len(label) == len(groups):
        raise ValueError("sources, clusters, labels and groups must be of one length: one of each an image")
    if not len(source):
        raise InputError("partition: there are no images")
    if missing := sorted(set(source) - set(test_images)):
        raise InputError(f"partition: how many images of {', '.join(missing)} test is not given")
    if not 0 < validation_share < 1:
        raise InputError(f"partition: validation share {validation_share:g} must lie between 0 and 1")


def _choice(
    name: str,
    cluster: NDArray[np.integer],
    label: NDArray[np.str_],
    wanted: int,
    test_clusters: int,
    tolerance: float,
    rng: np.random.Generator,
) -> set[int]:
    """The clusters of one source that test."""
    names, _, counts = class_counts(cluster, label)
    if not 1 <= test_clusters < len(names):
        raise InputError(
            f"partition: {name} has {len(names)} clusters, and {test_clusters} are to test: at least one must be left"
        )
    choices = _choices(len(names), test_clusters, rng)
    members = np.zeros((len(choices), len(names)), np.int64)
    members[np.arange(len(choices))[:, None], choices] = 1
    left = counts.sum(axis=0) - members @ counts
    # A class of one image cannot stand in training and in validation.
    short = (left < np.minimum(counts.sum(axis=0), 2)).sum(axis=1)
    off = np.abs(members @ counts.sum(axis=1) - wanted)
    best = np.flatnonzero(short == short.min())
    limit = max(tolerance * len(cluster), off[best].min())
    picked = rng.choice(best[off[best] <= limit])
    return {int(names[i]) for i in choices[picked]}


def _choices(clusters: int, chosen: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Choices of `chosen` of the clusters, (choices, chosen): all of them where that is possible."""
    if math.comb(clusters, chosen) <= MOST_CHOICES:
        return np.array(list(itertools.combinations(range(clusters), chosen)), np.int64)
    drawn = rng.random((MOST_CHOICES // 10, clusters)).argsort(axis=1)[:, :chosen]
    return np.unique(np.sort(drawn), axis=0)


def _in_clusters(
    chosen: Mapping[str, set[int]], source: NDArray[np.str_], cluster: NDArray[np.integer]
) -> NDArray[np.bool_]:
    test = np.zeros(len(source), bool)
    for name, members in chosen.items():
        test |= (source == name) & np.isin(cluster, sorted(members))
    return test


def _repair(
    chosen: dict[str, set[int]],
    source: NDArray[np.str_],
    cluster: NDArray[np.integer],
    label: NDArray[np.str_],
    lesion: NDArray[np.str_],
    unit: str,
) -> list[str]:
    """Move test clusters back until two lesions of every class are outside the test; changes `chosen`, says what."""
    pairs = list(zip(source.tolist(), cluster.tolist(), strict=True))
    blocks = sorted(set(pairs))
    numbers = {block: number for number, block in enumerate(blocks)}
    place = np.array([numbers[pair] for pair in pairs])
    _, classes, counts = class_counts(place, label)
    sizes = counts.sum(axis=1).tolist()

    def lesions_outside(test: NDArray[np.bool_]) -> list[int]:
        outside = ~test[place]
        return [len(set(lesion[outside & (label == name)])) for name in classes]

    def short(test: NDArray[np.bool_]) -> NDArray[np.bool_]:
        return np.stack([np.array(lesions_outside(test)) < 2, np.zeros(len(classes), bool)])

    test = np.array([number in chosen[name] for name, number in blocks])
    said = []
    for block, which in mend(test, counts > 0, short, price=lambda block: (sizes[block], block))[1]:
        held, (name, number) = lesions_outside(test)[which], blocks[block]
        test[block] = False
        chosen[name].discard(number)
        said.append(
            f"class {classes[which]}: {held} {unit}{'s' * (held != 1)} outside the test; cluster {number} of {name} "
            f"({sizes[block]} images) was moved out of the test"
        )
    return said


def _sides(
    test: NDArray[np.bool_],
    label: NDArray[np.str_],
    lesion: NDArray[np.str_],
    share: float,
    rng: np.random.Generator,
    unit: str,
) -> NDArray[np.object_]:
    """The side of each image: validation is drawn from what does not test; every class on both sides."""
    rest = np.flatnonzero(~test)
    faults = []
    for name in sorted(set(label)):
        held = len(set(lesion[rest[label[rest] == name]]))
        if held < 2:
            of_all = len(set(lesion[label == name]))
            faults.append(f"class {name}: {held} {unit}{'s' * (held != 1)} outside the test, of {of_all} in all")
    if faults:
        raise InputError.of(
            f"partition: training and validation need {'an' if unit[0] in 'aeiou' else 'a'} {unit} each of every "
            "class; give more images, or leave it out:",
            faults,
        )
    side = np.full(len(test), TRAINING, dtype=object)
    side[test] = TEST
    side[rest[_whole_lesions(label[rest], lesion[rest], share, leave=1, rng=rng)]] = VALIDATION
    return side


def _whole_lesions(
    label: NDArray[np.str_], lesion: NDArray[np.str_], share: float, leave: int, rng: np.random.Generator
) -> NDArray[np.bool_]:
    """Which images are drawn, bool (n,): whole lesions, a share of each class's images."""
    names, _, counts = class_counts(lesion, label)
    return np.isin(lesion, names[share_of_rows(counts, rng.permutation(len(names)), share, leave)])


def _untested(test: NDArray[np.bool_], source: NDArray[np.str_], label: NDArray[np.str_]) -> tuple[str, ...]:
    there = set(zip(source.tolist(), label.tolist(), strict=True))
    tested = set(zip(source[test].tolist(), label[test].tolist(), strict=True))
    return tuple(f"{place}: {name}" for place, name in sorted(there - tested))
