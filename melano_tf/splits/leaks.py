"""The check that nothing leaks: who stands on two sides of a split, under one name or two."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from melano_tf.errors import InputError
from melano_tf.splits.validation_cohorts import Split


class LeakError(InputError):
    """A patient, a lesion, or one slide or image under two names, stands on two sides of a split."""


def assert_no_leaks(split: Split, manifest: pd.DataFrame, same_file_groups: Sequence[Sequence[str]] = ()) -> None:
    """Assert at run time that no patient and no slide file is on two sides, and that nobody is left out.

    Args:
        split: the split to check.
        manifest: one row a slide, with columns slide_id and patient_id.
        same_file_groups: lists of slide_ids that are one file under several names.

    Raises:
        LeakError: names every patient and slide concerned.
    """
    sides: dict[str, list[str]] = {}
    for name, members in [("test", split.test), *((f"cohort {i + 1}", fold) for i, fold in enumerate(split.folds))]:
        for patient in members:
            sides.setdefault(patient, []).append(name)
    faults = [f"patient {p!r} is in {' and in '.join(found)}" for p, found in sides.items() if len(found) > 1]
    owner = dict(zip(manifest["slide_id"].astype(str), manifest["patient_id"].astype(str), strict=True))
    known = set(owner.values())
    faults += [f"patient {p!r} of the manifest is on no side" for p in sorted(known - set(sides))]
    faults += [f"patient {p!r} of the split is not in the manifest" for p in sorted(set(sides) - known)]
    for group in same_file_groups:
        found = {side for slide in group if slide in owner for side in sides.get(owner[slide], [])}
        if len(found) > 1:
            names = ", ".join(f"{slide!r} (patient {owner.get(slide)!r})" for slide in group)
            faults.append(
                f"slides {names} are one file on {len(found)} sides ({', '.join(sorted(found))}); "
                "remove the copy or give both rows the same patient_id"
            )
    if faults:
        raise LeakError.of("the split leaks:", faults)


@dataclass(frozen=True)
class Leak:
    """One thing that stands on several sides.

    Attributes:
        kind: "patient", "lesion", or of which kind two images are copies ("exact", "near", "turned", "listed").
        name: the patient or lesion, or both images.
        folds: where it stands, 0-based, sorted.
    """

    kind: str
    name: str
    folds: tuple[int, ...]


def image_leaks(
    fold: np.ndarray,
    owners: Mapping[str, Sequence[str | None]],
    copies: Mapping[str, Iterable[tuple[int, int]]],
    image_ids: Sequence[str],
) -> list[Leak]:
    """What stands on both sides of some fold's split: patients, lesions, and images that are copies of each other.

    Args:
        fold: of each image, (n,).
        owners: {"patient": of each image, …}; None where it is not known.
        copies: {kind of copy: pairs of places}.
        image_ids: names of the images, (n,).
    """
    found = []
    for kind, names in owners.items():
        places: dict[str, set[int]] = {}
        for name, side in zip(names, fold.tolist(), strict=True):
            if name is not None:
                places.setdefault(str(name), set()).add(side)
        found += [Leak(kind, name, tuple(sorted(sides))) for name, sides in places.items() if len(sides) > 1]
    for kind, pairs in copies.items():
        found += [
            Leak(kind, f"{image_ids[a]} = {image_ids[b]}", tuple(sorted((int(fold[a]), int(fold[b])))))
            for a, b in pairs
            if fold[a] != fold[b]
        ]
    return found


def leak_lines(leaks: Sequence[Leak], shown: int = 5) -> list[str]:
    """One line for each kind of leak: how many there are, and the first names."""
    lines = []
    for kind in dict.fromkeys(leak.kind for leak in leaks):
        names = [leak.name for leak in leaks if leak.kind == kind]
        what = f"{kind}s" if kind in ("patient", "lesion") else f"pairs of {kind} copies"
        first = f": {', '.join(names[:shown])}{', …' * (len(names) > shown)}" if shown else ""
        lines.append(f"{len(names):,} {what} on two sides{first}")
    return lines
