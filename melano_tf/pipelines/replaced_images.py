"""An image cache in which some images are replaced: what is read is the new picture, and the old files stay."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np

from melano_tf.pipelines.image_cache import ImageCache
from melano_tf.pipelines.npy_rows import NpyRows
from melano_tf.runs.atomic_files import atomic

EVEN = 8  # largest difference of grey levels in an image of one colour
Box = tuple[int, int, int, int]  # left, top, right, bottom in px of the stored image, half-open


class EditedCache(ImageCache):
    """A cache with other pixels, and another aspect, for some of its images.

    Args:
        base: the cache; its shards are shared.
        rows: places in it of the images that are replaced, (m,).
        pixels: file of theirs, uint8 (m, px, px, 3), as `write_cropped` writes it.
        aspects: width / height of the new pictures, (m,).
    """

    def __init__(self, base: ImageCache, rows: Sequence[int], pixels: Path, aspects: Sequence[float]) -> None:
        self.__dict__.update(base.__dict__)
        self._new = NpyRows(pixels, "it")
        if self._new.shape != (len(rows), base.stored_px, base.stored_px, 3) or len(aspects) != len(rows):
            raise ValueError(f"{len(rows)} images to replace, but pixels {self._new.shape} and {len(aspects)} aspects")
        self._place = {int(row): place for place, row in enumerate(rows)}
        self.aspects = base.aspects.copy()
        self.aspects[np.asarray(rows, np.int64)] = np.asarray(aspects, np.float32)

    def _read(self, row: int, into: np.ndarray) -> None:
        if (new := self._place.get(int(row))) is None:
            super()._read(row, into)
        else:
            self._new.read(new, into)

    def identity(self, rows: np.ndarray) -> list[tuple[str, int]]:
        """As the cache's, but of a replaced image: (SHA-256 of its new pixels and aspect, 0)."""
        found = super().identity(rows)
        for place, row in enumerate(map(int, rows)):
            if row in self._place:
                content = self.image(row).tobytes() + self.aspects[row].tobytes()
                found[place] = (hashlib.sha256(content).hexdigest(), 0)
        return found


def even(pixels: np.ndarray) -> bool:
    """Whether an image uint8 (h, w, 3) is of one colour, black for example, and shows nothing."""
    low, high = np.percentile(pixels, [1, 99])
    return bool(high - low <= EVEN)


def stored(cache: ImageCache, rows: np.ndarray, chunk: int = 256) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Rows of a cache and their pixels, some at a time."""
    for start in range(0, len(rows), chunk):
        part = rows[start : start + chunk]
        yield part, cache.pixels(part)


def write_cropped(cache: ImageCache, boxes: Mapping[int, Box], path: Path) -> tuple[Path, list[float]]:
    """Crop stored images and bring them back to the stored size, image by image, into one `.npy`.

    Args:
        cache: holds them.
        boxes: what is kept of each row.
        path: of the file, atomically written.

    Returns:
        (path, aspects of the cropped pictures).
    """
    px = cache.stored_px
    aspects = []
    with atomic(path) as temporary:
        out = np.lib.format.open_memmap(temporary, "w+", np.uint8, (len(boxes), px, px, 3))
        for place, (row, (left, top, right, bottom)) in enumerate(boxes.items()):
            crop = cache.pixels(np.array([row]))[0, top:bottom, left:right]
            out[place] = cv2.resize(crop, (px, px), interpolation=cv2.INTER_LINEAR)
            aspects.append(float(cache.aspects[row]) * (right - left) / (bottom - top))
        out.flush()
        del out
    return path, aspects
