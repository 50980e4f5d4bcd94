"""Groups of images that no split may part: those of a patient or lesion, and those that are copies of each other."""

import unicodedata
from collections.abc import Iterable, Mapping, Sequence

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


def case_groups(cases: pd.DataFrame, pairs: Iterable[tuple[str, str]] = ()) -> dict[str, str]:
    """{case: its group}: cases of one patient, of one lesion, of one content, and those that a pair joins.

    Args:
        cases: one row a slide or image: case, patient and lesion (None where it is not known), content (a checksum).
        pairs: further pairs of cases that are copies of each other; of cases that are not there nothing is said.
    """
    names = cases["case"].astype(str).tolist()
    first: dict[tuple[str, str], str] = {}
    joined = [(a, b) for a, b in pairs]
    for column in ("patient", "lesion", "content"):
        for name, value in zip(names, cases[column].tolist(), strict=True):
            if isinstance(value, str) and value:
                joined.append((first.setdefault((column, value), name), name))
    place = {name: at for at, name in enumerate(names)}
    found = joined_groups(names, [(place[a], place[b]) for a, b in joined if a in place and b in place])
    whose: dict[str, str] = {}  # a group is called by a patient or lesion in it, whom a reader knows
    for owners in (cases["patient"].tolist(), cases["lesion"].tolist(), names):
        for group, owner in zip(found, owners, strict=True):
            if isinstance(owner, str) and owner:
                whose.setdefault(group, owner)
    taken: dict[str, str] = {}
    for group, called in whose.items():  # no two groups of one name
        whose[group] = called if taken.setdefault(called, group) == group else f"{called} ({group})"
    return {name: whose[group] for name, group in zip(names, found, strict=True)}


def alike(names: Iterable[str | None]) -> list[list[str]]:
    """Names that differ in nothing but capitals and spaces, which may be one patient's: lists of two or more."""
    found: dict[str, set[str]] = {}
    for name in names:
        if isinstance(name, str):
            plain = "".join(unicodedata.normalize("NFKC", name).casefold().split())
            found.setdefault(plain, set()).add(name)
    return sorted(sorted(same) for same in found.values() if len(same) > 1)


def alike_lines(owners: Mapping[str, Iterable[str | None]], shown: int = 5) -> list[str]:
    """One line for each kind of owner ("patient", "lesion") of whom some names are alike."""
    lines = []
    for kind, names in owners.items():
        if same := alike(names):
            listed = "; ".join(" = ".join(map(repr, one)) for one in same[:shown]) + "; …" * (len(same) > shown)
            lines.append(f"{len(same):,} {kind}s may be two names of one (capitals or spaces alone differ): {listed}")
    return lines
