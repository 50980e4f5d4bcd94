"""Splits by patient: a test part and validation folds, stratified; folds of images; and the check that nothing leaks.

Section 5.1 of the spitzoid paper: 30 % of the patients test the models, the rest trains them with four validation
cohorts. A patient is the unit, never a slide or a tile, because slides of one patient look alike. For images the unit
is a group: all images of a patient or lesion, and those that are copies of each other.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from melano_tf.errors import InputError


class LeakError(InputError):
    """A patient, a lesion, or one slide or image under two names, stands on two sides of a split."""


@dataclass(frozen=True)
class Split:
    """Who tests and who validates: patient identifiers, each tuple sorted.

    Attributes:
        test: patients of the test part; no training and no choice ever sees them.
        folds: for each validation cohort, its validation patients. Every patient outside the test is in one of them.
    """

    test: tuple[str, ...]
    folds: tuple[tuple[str, ...], ...]

    @property
    def development(self) -> tuple[str, ...]:
        """All patients outside the test, sorted: the final models are refitted on them."""
        return tuple(sorted(patient for fold in self.folds for patient in fold))

    def training(self, fold: int) -> tuple[str, ...]:
        """Training patients of validation cohort `fold` (0-based): those of the other cohorts, sorted."""
        if not 0 <= fold < len(self.folds):
            raise IndexError(f"fold {fold}: there are {len(self.folds)}, counted from 0")
        return tuple(sorted(p for other, members in enumerate(self.folds) if other != fold for p in members))


def split_patients(
    patients: Sequence[str],
    labels: Sequence[str],
    *,
    positive: str,
    test_share: float = 0.3,
    folds: int = 4,
    seed: int = 0,
) -> Split:
    """Draw a test part and validation cohorts by patient, stratified by each patient's set of labels.

    The order of the slides does not matter: the same patients, labels and seed give the same split. Strata keep their
    share on every side as nearly as whole patients allow, and both classes ("positive" and the rest; a patient with
    slides of both counts for both) are on every side: in the test, and in each cohort's validation and training part.
    scikit-learn's splitters refuse small strata and promise no class to the test, which is why they are not used.

    Args:
        patients: patient of each slide, (n,).
        labels: label of each slide, (n,).
        positive: the label that counts as the positive class; every other one is negative.
        test_share: share of patients in the test part, 0 < share < 1.
        folds: number of validation cohorts, at least 2.
        seed: of the draw.

    Raises:
        InputError: too few patients of a class; the message says how many are needed.
    """
    if len(patients) != len(labels):
        raise ValueError(f"{len(patients)} patients but {len(labels)} labels: one of each a slide")
    if not 0 < test_share < 1 or folds < 2:
        raise InputError(f"test share {test_share} must lie between 0 and 1, and folds {folds} be at least 2")
    strata = _strata(patients, labels)
    _check_enough(strata, positive, folds)
    rng = np.random.default_rng(seed)
    shuffled = [sorted(strata)[i] for i in rng.permutation(len(strata))]
    # Positive-only strata, then mixed ones, then negative-only: dealing in this order spreads every stratum, and also
    # "has a positive slide" and "has a negative slide" (each a contiguous run), evenly over the sides.
    ordered = sorted(shuffled, key=lambda patient: (_rank(strata[patient], positive), sorted(strata[patient])))
    test = _draw_test([strata[p] for p in ordered], positive, test_share, folds)
    rest = [patient for patient, chosen in zip(ordered, test, strict=True) if not chosen]
    dealt = [tuple(sorted(rest[start::folds])) for start in range(folds)]
    return Split(
        test=tuple(sorted(patient for patient, chosen in zip(ordered, test, strict=True) if chosen)),
        folds=tuple(dealt[i] for i in rng.permutation(folds)),
    )


def _strata(patients: Sequence[str], labels: Sequence[str]) -> dict[str, frozenset[str]]:
    """The set of labels of each patient's slides."""
    sets: dict[str, set[str]] = {}
    for patient, label in zip(patients, labels, strict=True):
        sets.setdefault(str(patient), set()).add(str(label))
    return {patient: frozenset(found) for patient, found in sets.items()}


def _has_positive(labels: frozenset[str], positive: str) -> bool:
    return positive in labels


def _has_negative(labels: frozenset[str], positive: str) -> bool:
    return bool(labels - {positive})


def _rank(labels: frozenset[str], positive: str) -> int:
    """0: only positive slides, 1: both, 2: only negative ones."""
    return 2 if not _has_positive(labels, positive) else int(_has_negative(labels, positive))


def _check_enough(strata: dict[str, frozenset[str]], positive: str, folds: int) -> None:
    needed = folds + 1
    faults = []
    for words, has in ((f"with a {positive!r} slide", _has_positive), ("with a slide of another label", _has_negative)):
        found = sum(has(labels, positive) for labels in strata.values())
        if found < needed:
            faults.append(f"{found} patient{'s' * (found != 1)} {words}; {needed} are needed")
    if faults:
        headline = (
            f"too few patients for a test part and {folds} validation cohorts, each with both classes "
            f"({len(strata)} patients in all); add patients, or ask for fewer folds:"
        )
        raise InputError.of(headline, faults)


def _draw_test(strata: Sequence[frozenset[str]], positive: str, share: float, folds: int) -> np.ndarray:
    """Which of the (already shuffled and ordered) patients test: largest remainders by stratum, then mended.

    Mending moves the fewest patients so that the test holds both classes and leaves `folds` patients of each class.
    """
    ranks = np.array([_rank(labels, positive) for labels in strata])
    stratum = np.unique(["|".join(sorted(labels)) for labels in strata], return_inverse=True)[1]
    sizes = np.bincount(stratum)
    quota = np.floor(sizes * share).astype(int)
    missing = round(share * len(strata)) - int(quota.sum())
    # Stable sort: equal remainders go to the first stratum by name.
    by_remainder = np.argsort(-(sizes * share - quota), kind="stable")
    quota[by_remainder[: max(missing, 0)]] += 1
    chosen = np.zeros(len(strata), bool)
    for index, count in enumerate(quota):
        chosen[np.flatnonzero(stratum == index)[:count]] = True
    classes = ((0, ranks <= 1), (2, ranks >= 1))  # (rank of the patients of that class only, who has the class)
    changed = True
    while changed:
        changed = False
        for pure, member in classes:
            # Patients of one class only are moved first: that leaves the other class's counts as they are.
            preferred = np.argsort(ranks != pure, kind="stable")
            if (member & ~chosen).sum() < folds:
                chosen[next(i for i in preferred if member[i] and chosen[i])] = False
                changed = True
            elif not (member & chosen).any():
                chosen[next(i for i in preferred if member[i] and not chosen[i])] = True
                changed = True
    return chosen


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
        found = {side for slide in group for side in sides.get(owner.get(slide, ""), [])}
        if len(found) > 1:
            names = ", ".join(f"{slide!r} (patient {owner.get(slide)!r})" for slide in group)
            faults.append(
                f"slides {names} are one file on {len(found)} sides ({', '.join(sorted(found))}); "
                "remove the copy or give both rows the same patient_id"
            )
    if faults:
        raise LeakError.of("the split leaks:", faults)


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


def grouped_folds(groups: Sequence[str], labels: Sequence[str], folds: int, seed: int = 0) -> np.ndarray:
    """Deal whole groups into folds, so that each class, the rarest first, and then the images are spread evenly.

    Groups that hold the rarest class come first, those with most of it before the others; each goes to the fold that
    has the fewest of that class and, of those, the fewest images; then the next class, of the groups that are left.
    Ties are broken by the seed.

    Args:
        groups: group of each image, (n,); see `joined_groups`.
        labels: class of each image, (n,).
        folds: how many, at least 2.
        seed: of the draw.

    Returns:
        int64 (n,), the fold of each image, 0-based.

    Raises:
        InputError: a class has fewer groups than there are folds; all of them are named.
    """
    if len(groups) != len(labels):
        raise ValueError(f"{len(groups)} groups but {len(labels)} labels: one of each an image")
    _check_folds(labels, groups, folds, "patients or lesions")
    names, index = np.unique(np.asarray(groups, dtype=str), return_inverse=True)
    classes, which = np.unique(np.asarray(labels, dtype=str), return_inverse=True)
    counts = np.zeros((len(names), len(classes)), np.int64)
    np.add.at(counts, (index, which), 1)
    rng = np.random.default_rng(seed)
    luck, order_of_folds = rng.permutation(len(names)), rng.permutation(folds)
    fold = np.full(len(names), -1, np.int64)
    held = np.zeros((folds, len(classes)), np.int64)
    for name in np.argsort(counts.sum(axis=0), kind="stable"):
        left = np.flatnonzero((fold < 0) & (counts[:, name] > 0))
        # Largest first: small groups then even out what large ones left uneven.
        for group in left[np.lexsort((luck[left], -counts[left].sum(axis=1), -counts[left, name]))]:
            best = np.lexsort((order_of_folds, held.sum(axis=1), held[:, name]))[0]
            fold[group] = best
            held[best] += counts[group]
    return fold[index]


def plain_folds(labels: Sequence[str], folds: int, seed: int = 0) -> np.ndarray:
    """Stratified folds that look at nothing but the class: images of one patient may stand on both sides.

    Returns:
        int64 (n,), the fold of each image, 0-based; folds and classes differ by one image at most.

    Raises:
        InputError: a class has fewer images than there are folds.
    """
    _check_folds(labels, [str(place) for place in range(len(labels))], folds, "images")
    rng = np.random.default_rng(seed)
    shuffled = rng.permutation(len(labels))
    # Sorted by class and dealt in turn: every class is spread evenly, and so is the whole.
    dealt = shuffled[np.argsort(np.asarray(labels, dtype=str)[shuffled], kind="stable")]
    fold = np.empty(len(labels), np.int64)
    fold[dealt] = np.arange(len(labels)) % folds
    return fold


def _check_folds(labels: Sequence[str], groups: Sequence[str], folds: int, what: str) -> None:
    if folds < 2:
        raise InputError(f"{folds} folds: at least 2 are needed")
    members: dict[str, set[str]] = {}
    for label, group in zip(labels, groups, strict=True):
        members.setdefault(str(label), set()).add(str(group))
    faults = [f"class {label!r}: {len(found)} {what}" for label, found in sorted(members.items()) if len(found) < folds]
    if faults or len(members) < 2:
        faults = faults or [f"{len(members)} class{'es' * (len(members) != 1)}; at least 2 are needed"]
        raise InputError.of(f"too few images for {folds} folds that all hold every class; ask for fewer folds:", faults)


@dataclass(frozen=True)
class Leak:
    """One thing that stands on several sides.

    Attributes:
        kind: "patient", "lesion", or of which kind two images are copies ("exact", "near", "listed").
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
