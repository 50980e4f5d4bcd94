"""Folds of images: by group (all images of a patient or lesion, and their copies), and plain ones."""

from collections.abc import Sequence

import numpy as np

from melano_tf.errors import InputError
from melano_tf.splits.stratification import class_counts, short_classes


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
    _, classes, counts = class_counts(index, labels)
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
    dealt = shuffled[np.argsort(np.asarray(labels)[shuffled], kind="stable")]
    fold = np.empty(len(labels), np.int64)
    fold[dealt] = np.arange(len(labels)) % folds
    return fold


def _check_folds(labels: Sequence[str], groups: Sequence[str], folds: int, what: str) -> None:
    if folds < 2:
        raise InputError(f"{folds} folds: at least 2 are needed")
    few, classes = short_classes(groups, labels, folds), len(set(labels))
    faults = [f"class {label!r}: {count} {what}" for label, count in few.items()]
    if faults or classes < 2:
        faults = faults or [f"{classes} class{'es' * (classes != 1)}; at least 2 are needed"]
        raise InputError.of(f"too few images for {folds} folds that all hold every class; ask for fewer folds:", faults)
