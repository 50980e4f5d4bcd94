"""Exact and near duplicates among image files.

Exact: equal bytes (SHA-256). Near: perceptual hashes (imagehash's pHash, 16 x 16 = 256 bits) that differ in at most
`max_distance` bits. The usual 8 x 8 hash is too coarse for dermoscopy, where most pictures are one dark blob on light
skin: within four of its 64 bits there are 34 pairs among 2,669 ISIC 2020 images, of which one is a duplicate. Why 24
of 256 bits: saving a JPEG anew moves a hash by 16 bits at most, halving it by 8, a brightness of +10 % by 27, a crop of
2 % by 33 (150 real images); of HAM10000's 86 pairs within 24 bits 85 show one lesion. Turned: near once one of the two
is turned by quarter turns or mirrored (among HAM10000's there is no such pair). Copies that were cropped, framed or
turned by some degrees are not found (docs/trust.md has how many).
"""

import itertools
from collections.abc import Callable, Hashable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from melano_tf.dermoscopy.image_files import MAX_PIXELS, UnreadableImageError, read_image
from melano_tf.errors import InputError
from melano_tf.runs.atomic_files import file_sha256

PAIR_COLUMNS = ("image_1", "image_2", "kind", "distance")
HASHED_PX = 128  # pHash looks at 64 x 64; a JPEG is decoded at a fraction of its size
CROWD = 16  # equal images, of which all pairs are named
BLOCK = 512  # rows of the distance matrix held at once
TURNS = 7  # the other ways in which a picture can lie: by quarter turns, mirrored or not


@dataclass(frozen=True)
class DuplicateSettings:
    """What counts as a near duplicate.

    Attributes:
        hash_side: the hash has hash_side² bits.
        max_distance: bits in which two hashes may differ.
        flat_std: an image whose grey values spread less than this (of 255) has no hash worth comparing.
        threads: files hashed at once.
    """

    hash_side: int = 16
    max_distance: int = 24
    flat_std: float = 1.0
    threads: int = 4

    def __post_init__(self) -> None:
        if self.hash_side < 2 or not 0 <= self.max_distance < self.hash_side**2 / 2 or self.threads < 1:
            raise InputError(
                f"hash_side {self.hash_side} (at least 2), max_distance {self.max_distance} (0 to below half of the "
                f"bits) and threads {self.threads} (at least 1) do not fit"
            )


@dataclass(frozen=True)
class Fingerprints:
    """Of each image that could be read: SHA-256 and packed hash; and what could not.

    Attributes:
        image_ids: n images.
        sha256: of each.
        hashes: uint8 (n, bytes of a hash).
        turned: uint8 (n, TURNS, bytes of a hash): of the picture turned and mirrored.
        flat: bool (n,): without contrast, so without a meaningful hash.
        unreadable: (image, why).
    """

    image_ids: tuple[str, ...]
    sha256: tuple[str, ...]
    hashes: np.ndarray
    turned: np.ndarray
    flat: np.ndarray
    unreadable: tuple[tuple[str, str], ...]


def fingerprints(
    files: Mapping[str, Path | str],
    settings: DuplicateSettings | None = None,
    progress: Callable[[], object] = lambda: None,
    max_pixels: int = MAX_PIXELS,
) -> Fingerprints:
    """Decode every image once, in part, and hash it.

    Args:
        files: file of each image.
        settings: of the hash.
        progress: called once an image.
        max_pixels: larger images are not decoded.
    """
    settings = settings or DuplicateSettings()

    def one(path: Path | str) -> tuple[str, np.ndarray, bool] | str:
        try:
            rgb = read_image(path, max_pixels, shrink_to=HASHED_PX)
            return (
                file_sha256(Path(path)),
                _hashes(rgb, settings.hash_side),
                float(rgb.mean(-1).std()) < settings.flat_std,
            )
        except UnreadableImageError as error:
            return str(error)
        finally:
            progress()

    with ThreadPoolExecutor(settings.threads) as pool:
        results = dict(zip(files, pool.map(one, files.values()), strict=True))
    good = {image: result for image, result in results.items() if not isinstance(result, str)}
    width = (settings.hash_side**2 + 7) // 8
    hashes = np.array([result[1] for result in good.values()], np.uint8).reshape(-1, 1 + TURNS, width)
    return Fingerprints(
        image_ids=tuple(good),
        sha256=tuple(result[0] for result in good.values()),
        hashes=hashes[:, 0],
        turned=hashes[:, 1:],
        flat=np.array([result[2] for result in good.values()], bool),
        unreadable=tuple((image, result) for image, result in results.items() if isinstance(result, str)),
    )


def _hashes(rgb: np.ndarray, side: int) -> np.ndarray:
    """Packed hashes of a picture as it lies, then of it turned and mirrored, uint8 (1 + TURNS, bytes)."""
    import imagehash
    from PIL import Image

    # pHash's own first step, done once for all of them: on a picture of that size it changes nothing.
    small = Image.fromarray(rgb).convert("L").resize((4 * side, 4 * side), Image.Resampling.LANCZOS)
    lying = [small, *(small.transpose(turn) for turn in Image.Transpose)]
    return np.stack([np.packbits(imagehash.phash(image, hash_size=side).hash) for image in lying])


def duplicate_pairs(prints: Fingerprints, settings: DuplicateSettings | None = None) -> pd.DataFrame:
    """All pairs of images that are the same or nearly so, but of a crowd of equal ones.

    Of more than `CROWD` images of one content, or of one hash, the first stands for the others: each of these is paired
    with it, and it alone with what is near. So 6,000 images that are one make 5,999 pairs and not 18 million; whatever
    copies stand on two sides of a split, one of these pairs does too.

    Returns:
        One row a pair, columns PAIR_COLUMNS: image_1, image_2 (in the order of `prints`), kind "exact", "near" or
        "turned" (near once one is turned or mirrored), and distance (int64, bits; 0 where exact).
    """
    settings = settings or DuplicateSettings()
    order = {image: place for place, image in enumerate(prints.image_ids)}
    exact, hidden = equal_pairs(prints.sha256)
    shown = np.setdiff1d(np.flatnonzero(~prints.flat), hidden)
    alike, hidden = equal_pairs([prints.hashes[row].tobytes() for row in shown])
    near = {(int(shown[i]), int(shown[j])): 0 for i, j in alike}
    left = np.delete(shown, hidden)
    first, second, distance = close_pairs(prints.hashes[left], settings.max_distance)
    near |= {(int(left[i]), int(left[j])): int(d) for i, j, d in zip(first, second, distance, strict=True)}
    kinds = dict.fromkeys(near, "near") | dict.fromkeys(exact, "exact")
    for turn in range(TURNS):
        first, second, distance = close_pairs(
            prints.hashes[left], settings.max_distance, others=prints.turned[left, turn]
        )
        for pair, bits in zip(zip(left[first], left[second], strict=True), distance, strict=True):
            if kinds.setdefault((int(pair[0]), int(pair[1])), "turned") == "turned":
                near[pair] = min(int(bits), near.get(pair, settings.max_distance))
    rows = [(prints.image_ids[i], prints.image_ids[j], kind, near.get((i, j), 0)) for (i, j), kind in kinds.items()]
    rows.sort(key=lambda row: (order[row[0]], order[row[1]]))
    return pd.DataFrame(rows, columns=list(PAIR_COLUMNS)).astype({"distance": "int64"})


def equal_pairs(values: Iterable[Hashable]) -> tuple[list[tuple[int, int]], list[int]]:
    """Pairs (i < j) of places with one value; of a crowd with the first alone, and the places of the others of it."""
    places: dict[Hashable, list[int]] = {}
    for place, value in enumerate(values):
        places.setdefault(value, []).append(place)
    pairs: list[tuple[int, int]] = []
    hidden: list[int] = []
    for same in places.values():
        if len(same) <= CROWD:
            pairs += itertools.combinations(same, 2)
        else:
            pairs += [(same[0], other) for other in same[1:]]
            hidden += same[1:]
    return sorted(pairs), sorted(hidden)


def close_pairs(
    hashes: np.ndarray, max_distance: int, usable: np.ndarray | None = None, others: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pairs (i < j) of packed hashes at most `max_distance` bits apart, in blocks that bound the memory.

    Args:
        hashes: uint8 (n, bytes).
        max_distance: in bits.
        usable: bool (n,): rows that are compared; None means all.
        others: uint8 (n, bytes): each hash's distance is that to a later row of these; None: to a later one of its own.

    Returns:
        i, j and the distance of each pair, int64 (pairs,), sorted by i, then j.
    """
    rows = np.arange(len(hashes)) if usable is None else np.flatnonzero(usable)
    words = _words(hashes[rows])
    later_words = words if others is None else _words(others[rows])
    found = []
    for start in range(0, len(rows), BLOCK):
        block = words[start : start + BLOCK]
        distance = np.zeros((len(block), len(rows) - start), np.int16)
        for word in range(words.shape[1]):
            distance += np.bitwise_count(block[:, word, None] ^ later_words[None, start:, word])
        i, j = np.nonzero(distance <= max_distance)
        later = j > i
        found.append(np.stack([rows[i[later] + start], rows[j[later] + start], distance[i[later], j[later]]]))
    first, second, distances = np.concatenate(found, axis=1) if found else np.zeros((3, 0))
    return first.astype(np.int64), second.astype(np.int64), distances.astype(np.int64)


def _words(hashes: np.ndarray) -> np.ndarray:
    """Packed hashes as 64-bit words, filled up with zeros."""
    padded = np.pad(hashes, ((0, 0), (0, -hashes.shape[1] % 8)))
    return np.ascontiguousarray(padded).view(np.uint64)


def listed_pairs(pairs: Iterable[tuple[str, str]], image_ids: Iterable[str]) -> pd.DataFrame:
    """Pairs of an official list, as `duplicate_pairs` gives its own; kind "listed", only images that are in the set."""
    known = set(image_ids)
    rows = [(a, b, "listed", -1) for a, b in pairs if a in known and b in known and a != b]
    return pd.DataFrame(rows, columns=list(PAIR_COLUMNS)).astype({"distance": "int64"})


def same_content(image_ids: Iterable[str], sums: Mapping[str, str]) -> pd.DataFrame:
    """Pairs of images whose files are equal by their SHA-256, as `duplicate_pairs` gives them."""
    names = list(image_ids)
    pairs = [(names[i], names[j], "exact", 0) for i, j in equal_pairs(sums[name] for name in names)[0]]
    return pd.DataFrame(pairs, columns=list(PAIR_COLUMNS)).astype({"distance": "int64"})


def duplicate_groups(pairs: pd.DataFrame) -> list[list[str]]:
    """Images that hang together by pairs, each group in order of appearance; what a split must keep on one side."""
    root: dict[str, str] = {}

    def find(image: str) -> str:
        while root.setdefault(image, image) != image:
            root[image] = root[root[image]]
            image = root[image]
        return image

    for a, b in zip(pairs["image_1"], pairs["image_2"], strict=True):
        root[find(b)] = find(a)
    groups: dict[str, list[str]] = {}
    for image in root:
        groups.setdefault(find(image), []).append(image)
    return list(groups.values())


def paths_of(image_ids: Iterable[str], paths: Iterable[str | None]) -> dict[str, str]:
    """The files of the images that have one."""
    return {image: path for image, path in zip(image_ids, paths, strict=True) if path}
