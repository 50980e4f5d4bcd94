"""Groups of images that no split may part: those of a patient or lesion, and those that are copies of each other."""

from collections.abc import Iterable, Sequence

import pandas as pd


def owner_groups(owners: Sequence[str | None], image_ids: Sequence[str]) -> list[str]:
    """The patient (or lesion) of each image as its group; an image whose owner is not known stands for itself."""
    return [
        owner if isinstance(owner, str) else f"image {image}" for owner, image in zip(owners, image_ids, strict=True)
    ]


def pair_places(pairs: pd.DataFrame, image_ids: Sequence[str]) -> dict[str, list[tuple[int, int]]]:
    """Pairs of images as pairs of places, by kind.

    Args:
        pairs: columns image_1, image_2 and kind, as `dermoscopy.duplicates` gives them.
        image_ids: names of the images, (n,).
    """
    place = {name: row for row, name in enumerate(image_ids)}
    return {
        str(kind): [(place[a], place[b]) for a, b in zip(part["image_1"], part["image_2"], strict=True)]
        for kind, part in pairs.groupby("kind", sort=False)
    }


def joined_groups(groups: Sequence[str], pairs: Iterable[tuple[int, int]] = ()) -> list[str]:
    """The group of each image once copies hang together: groups that a pair joins get the first one's name.

    Args:
        groups: group (patient, lesion) of each image, (n,).
        pairs: places of two images that must not be divided, for example copies of each other.
    """
    root: dict[str, str] = {name: name for name in groups}

    def find(name: str) -> str:
        while root[name] != name:
            root[name] = root[root[name]]
            name = root[name]
        return name

    for first, second in pairs:
        root[find(groups[second])] = find(groups[first])
    return [find(name) for name in groups]
