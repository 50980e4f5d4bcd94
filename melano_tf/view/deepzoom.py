"""Deep-zoom tiles, cut from a slide when they are asked for, and a cache for them with a limit in bytes.

The world is a square of `TILE_PX` * 2^levels level-0 pixels that holds the slide in its upper left corner; at zoom z
one pixel of a tile is 2^(levels - z) level-0 pixels wide, so that the world is one tile at zoom 0.
"""

import math
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from melano_tf.slides.slide import Slide

TILE_PX = 256
QUALITY = 85
FINER = 2  # zooms beyond level 0: a pixel of the slide as a square of four by four
OPEN_SLIDES = 2
HELD_MIB = 16.0  # decoded pixels of each open slide, which neighbouring tiles share
OPENSLIDE_BYTES = 4 << 20


@dataclass(frozen=True)
class Pyramid:
    """Where a slide's tiles lie.

    Attributes:
        size: (w, h) of the slide, level-0 px.
    """

    size: tuple[int, int]

    @property
    def levels(self) -> int:
        """The zoom at which a tile's pixel is a level-0 pixel."""
        return max(0, math.ceil(math.log2(max(self.size) / TILE_PX)))

    @property
    def world(self) -> float:
        """Side of the world in level-0 px."""
        return float(TILE_PX * 2**self.levels)

    def step(self, zoom: int) -> float:
        """Level-0 pixels to a tile's pixel."""
        return float(2.0 ** (self.levels - zoom))

    def place(self, zoom: int, column: int, row: int) -> tuple[float, float] | None:
        """Upper-left corner of a tile in level-0 px; None where it holds nothing of the slide, or is none."""
        if not 0 <= zoom <= self.levels + FINER:
            return None
        side = TILE_PX * self.step(zoom)
        x, y = column * side, row * side
        inside = column >= 0 and row >= 0 and x < self.size[0] and y < self.size[1]
        return (x, y) if inside else None

    def inside(self, zoom: int, place: tuple[float, float]) -> tuple[int, int]:
        """(w, h) of what a tile holds of the slide, px of the tile."""
        wide, high = (
            min(TILE_PX, math.ceil((length - start) / self.step(zoom)))
            for length, start in zip(self.size, place, strict=True)
        )
        return wide, high

    def shown(self, left: float, top: float, width: float, height: float, px: float) -> list[tuple[int, int, int]]:
        """The tiles (zoom, column, row) that the browser asks for to show a window, level-0 px, at `px` px of width.

        It takes the finest zoom that is not finer than the screen.
        """
        zoom = min(max(0, math.floor(self.levels - math.log2(width / px))), self.levels + FINER)
        side = TILE_PX * self.step(zoom)
        columns, rows = (
            range(max(0, math.floor(start / side)), math.ceil(min(start + length, whole) / side))
            for start, length, whole in zip((left, top), (width, height), self.size, strict=True)
        )
        return [(zoom, column, row) for row in rows for column in columns]


def cut(slide: Slide, zoom: int, column: int, row: int) -> bytes | None:
    """A tile of 256 x 256 px, as `encoded_tile` makes it, or None where there is none.

    Where the slide's pixels are not square the tile's are not either: its sides are level-0 pixels.

    Raises:
        SlideReadError: a decode error.
    """
    pyramid = Pyramid(slide.size)
    place = pyramid.place(zoom, column, row)
    if place is None:
        return None
    across, down = (own * pyramid.step(zoom) for own in slide.mpp)
    mpp, inside = min(across, down), pyramid.inside(zoom, place)
    size = (max(1, round(inside[0] * across / mpp)), max(1, round(inside[1] * down / mpp)))
    tile = slide.read(*place, size, mpp)
    if size != inside:
        tile = np.asarray(cv2.resize(tile, inside, interpolation=cv2.INTER_AREA), np.uint8)
    return encoded_tile(tile)


def encoded(rgb: NDArray[np.uint8], quality: int = QUALITY) -> bytes:
    """A picture as JPEG."""
    done, content = cv2.imencode(".jpg", rgb[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not done:
        raise ValueError(f"a picture of {rgb.shape} cannot be encoded")
    return content.tobytes()


def encoded_tile(rgb: NDArray[np.uint8]) -> bytes:
    """A tile as JPEG, or one that hangs over the slide's edge (it is smaller) as PNG, transparent beyond it."""
    high, wide = rgb.shape[:2]
    if (wide, high) == (TILE_PX, TILE_PX):
        return encoded(rgb)
    picture = np.zeros((TILE_PX, TILE_PX, 4), np.uint8)
    picture[:high, :wide] = np.dstack([rgb[:, :, ::-1], np.full((high, wide), 255, np.uint8)])
    done, content = cv2.imencode(".png", picture, [cv2.IMWRITE_PNG_COMPRESSION, 1])
    if not done:
        raise ValueError(f"a picture of {rgb.shape} cannot be encoded")
    return content.tobytes()


def told(words: str, size: tuple[int, int] = (TILE_PX, TILE_PX)) -> bytes:
    """A grey picture that says in place why there is none, as JPEG; words in ASCII, lines apart by a newline."""
    picture = np.full((size[1], size[0], 3), 214, np.uint8)
    for number, line in enumerate(words.split("\n")):
        place = (8, 24 + 18 * number)
        cv2.putText(picture, line, place, cv2.FONT_HERSHEY_SIMPLEX, 0.42, (60, 20, 20), 1, cv2.LINE_AA)
    return encoded(picture)


class ByteCache:
    """The pictures that were asked for last, as many as fit into a number of bytes; for several threads.

    Args:
        limit: bytes of all of them.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.bytes = 0
        self._kept: OrderedDict[Hashable, bytes] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, key: Hashable) -> bytes | None:
        """What stands under a key, or None."""
        with self._lock:
            if key not in self._kept:
                return None
            self._kept.move_to_end(key)
            return self._kept[key]

    def put(self, key: Hashable, content: bytes) -> None:
        """Keep a picture, and forget those that were not asked for the longest; one above the limit is not kept."""
        if len(content) > self.limit:
            return
        with self._lock:
            self.bytes += len(content) - len(self._kept.pop(key, b""))
            self._kept[key] = content
            while self.bytes > self.limit:
                _, gone = self._kept.popitem(last=False)
                self.bytes -= len(gone)

    def made(self, key: Hashable, make: Callable[[], bytes]) -> bytes:
        """What stands under a key, made now where nothing does."""
        found = self.get(key)
        if found is None:
            found = make()
            self.put(key, found)
        return found


class OpenSlides:
    """The slides that were asked for last, open, a few of them; for several threads, each with its own handle."""

    def __init__(self) -> None:
        self._open: OrderedDict[tuple[str, float | None], Slide] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, path: Path, mpp: float | None) -> Slide:
        """The open slide. One that is forgotten closes when nobody reads it any more.

        Raises:
            InputError: it is not there any more, or not a slide.
        """
        key = (str(path), mpp)
        with self._lock:
            slide = self._open.pop(key, None)
            if slide is not None and path.exists():
                self._open[key] = slide
                return slide
        slide = Slide(path, mpp=mpp, held_mib=HELD_MIB, cache_bytes=OPENSLIDE_BYTES)
        with self._lock:
            self._open[key] = slide
            while len(self._open) > OPEN_SLIDES:
                self._open.popitem(last=False)
        return slide
