"""Pyramidal tiled JPEG TIFF, the format that OpenSlide calls generic-tiff.

Written here because the JPEG tiles come from OpenCV: TIFF 6.0 with the JPEG of Technical Note 2, each tile a complete
JPEG stream (YCbCr 4:2:0), the resolution in the resolution tags.
"""

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from melano_tf.runs.atomic_files import atomic

TILE_PX = 256
STEP = 4
"""Each level of the pyramid is this much coarser than the one before."""
LEVELS = 3
Strip = Callable[[int, int], NDArray[np.uint8]]


def write_pyramid(path: Path, size: tuple[int, int], strip: Strip, mpp: float, quality: int) -> None:
    """Write a tiled JPEG TIFF with levels 1, 4 and 16 and its resolution in the TIFF's tags, atomically.

    Args:
        size: width and height, px; multiples of 16 make the levels' downsamples whole.
        strip: gives rows [top, bottom) of the slide in BGR, uint8 (bottom - top, width, 3).
        mpp: µm per pixel of level 0.
        quality: JPEG quality of level 0, 1 to 100; the smaller levels, all detail, are written with 12 more.
    """
    width, height = size
    tiles: list[list[bytes]] = [[] for _ in range(LEVELS)]
    encode, encode_small = _Encoder(quality), _Encoder(min(100, quality + 12))
    # A strip of TILE_PX * STEP rows makes exactly one row of the next level's tiles.
    coarser = []
    for top in range(0, height, TILE_PX * STEP):
        rows = strip(top, min(height, top + TILE_PX * STEP))
        tiles[0] += encode.rows(rows)
        coarser.append(_shrink(rows))
    for level in range(1, LEVELS):
        picture = np.concatenate(coarser)
        tiles[level] += encode_small.rows(picture)
        coarser = [_shrink(picture)]
    levels = []
    for level, encoded in enumerate(tiles):
        scale = STEP**level
        levels.append(_Level((-(-width // scale), -(-height // scale)), mpp * scale, encoded, level > 0))
    with atomic(path) as temporary, temporary.open("wb") as file:
        file.write(tiff_bytes(levels))


@dataclass(frozen=True)
class _Level:
    """One level: width and height (px), µm per pixel, its tiles' JPEG row by row, whether it is a smaller copy."""

    size: tuple[int, int]
    mpp: float
    tiles: list[bytes]
    reduced: bool


SHORT, LONG, RATIONAL, ASCII = 3, 4, 5, 2
_LETTERS = {SHORT: "H", LONG: "I", ASCII: "B"}


def tiff_bytes(levels: list[_Level]) -> bytes:
    """A little-endian classic TIFF of the levels, one directory each."""
    content = bytearray(b"II*\0\0\0\0\0")
    pointer = 4  # where the place of the next directory is to be written
    for level in levels:
        offsets = []
        for tile in level.tiles:
            content += b"\0" * (len(content) % 2)
            offsets.append(len(content))
            content += tile
        content += b"\0" * (len(content) % 2)
        pixels_per_cm = (round(1e4 / level.mpp * 10_000), 10_000)
        tags: list[tuple[int, int, tuple[int, ...]]] = [
            (254, LONG, (int(level.reduced),)),  # a reduced copy or the full picture
            (256, LONG, (level.size[0],)),
            (257, LONG, (level.size[1],)),
            (258, SHORT, (8, 8, 8)),
            (259, SHORT, (7,)),  # JPEG
            (262, SHORT, (6,)),  # YCbCr
            (277, SHORT, (3,)),
            (282, RATIONAL, pixels_per_cm),
            (283, RATIONAL, pixels_per_cm),
            (284, SHORT, (1,)),
            (296, SHORT, (3,)),  # per centimetre
            (305, ASCII, tuple(b"melano_tf phantom\0")),
            (322, SHORT, (TILE_PX,)),
            (323, SHORT, (TILE_PX,)),
            (324, LONG, tuple(offsets)),
            (325, LONG, tuple(len(tile) for tile in level.tiles)),
            (530, SHORT, (2, 2)),  # chroma at half the resolution
        ]
        pointer = _directory(content, pointer, tags)
    return bytes(content)


def _directory(content: bytearray, pointer: int, tags: list[tuple[int, int, tuple[int, ...]]]) -> int:
    """Append a directory, link it at `pointer`, and return where its successor is to be linked."""
    entries = []
    for tag, kind, values in tags:
        packed = struct.pack(f"<{len(values)}{_LETTERS.get(kind, 'I')}", *values)
        count = 1 if kind == RATIONAL else len(values)
        if len(packed) > 4:
            place = len(content)
            content += packed + b"\0" * (len(packed) % 2)
            packed = struct.pack("<I", place)
        entries.append(struct.pack("<HHI", tag, kind, count) + packed.ljust(4, b"\0"))
    struct.pack_into("<I", content, pointer, len(content))
    content += struct.pack("<H", len(entries)) + b"".join(entries) + b"\0\0\0\0"
    return len(content) - 4


def _shrink(rows: NDArray[np.uint8]) -> NDArray[np.uint8]:
    height, width = rows.shape[:2]
    padded = cv2.copyMakeBorder(rows, 0, -height % STEP, 0, -width % STEP, cv2.BORDER_REPLICATE)
    size = (padded.shape[1] // STEP, padded.shape[0] // STEP)
    return np.asarray(cv2.resize(padded, size, interpolation=cv2.INTER_AREA))


class _Encoder:
    """JPEG of tiles; tiles of one colour, which is to say glass, are encoded once."""

    def __init__(self, quality: int) -> None:
        self._options = [
            cv2.IMWRITE_JPEG_QUALITY,
            quality,
            cv2.IMWRITE_JPEG_SAMPLING_FACTOR,
            cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420,
        ]
        self._plain: dict[bytes, bytes] = {}

    def rows(self, picture: NDArray[np.uint8]) -> Iterator[bytes]:
        """The tiles of a picture in BGR, row by row; the last ones padded by repetition."""
        height, width = picture.shape[:2]
        for top in range(0, height, TILE_PX):
            for left in range(0, width, TILE_PX):
                tile = picture[top : top + TILE_PX, left : left + TILE_PX]
                down, right = TILE_PX - tile.shape[0], TILE_PX - tile.shape[1]
                if down or right:
                    tile = cv2.copyMakeBorder(tile, 0, down, 0, right, cv2.BORDER_REPLICATE)
                yield self._tile(tile)

    def _tile(self, tile: NDArray[np.uint8]) -> bytes:
        corner = tile[0, 0].tobytes()
        if (tile[::32] != tile[0, 0]).any() or (tile != tile[0, 0]).any():
            return self._jpeg(tile)
        if corner not in self._plain:
            self._plain[corner] = self._jpeg(tile)
        return self._plain[corner]

    def _jpeg(self, tile: NDArray[np.uint8]) -> bytes:
        return bytes(cv2.imencode(".jpg", tile, self._options)[1])
