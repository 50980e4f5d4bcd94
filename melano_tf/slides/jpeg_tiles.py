"""The JPEG tiles of a TIFF or SVS pyramid, decoded one by one without OpenSlide: many threads at once, each tile once.

It stands behind `Slide`, and only where it gives OpenSlide's pixels (`JpegTiles.agreeing` looks at some of each level).
Of damage within a tile libjpeg only warns, which OpenSlide takes for an error and this decoder keeps to itself: tiles
that look damaged are therefore left to OpenSlide (`_looks_whole`).
"""

import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]
Region = Callable[[int, tuple[int, int], tuple[int, int]], tuple[Image, tuple[float, float]]]
JPEG = 7
GREY_LEVELS = 1  # by which a decoder's pixels may differ from OpenSlide's
MARKER = re.compile(rb"\xff[^\x00]")  # within a scan's data 0xFF is followed by 0
SCAN, END = b"\xff\xda", 0xD9
BLOCK = 8  # px that a JPEG's block is wide and high
FILLING, NEAR = 128, 2  # what libjpeg shows in each channel where data are missing, and how near counts as that


class JpegTiles:
    """Every level's tiles by column and row.

    Attributes:
        cells: (w, h) of a tile of each level, in its pixels.
    """

    def __init__(self, path: Path, pages: Sequence[Any]) -> None:
        self._file = os.open(path, os.O_RDONLY)
        self._decode = [page.decode for page in pages]
        self._tables = [page.jpegtables for page in pages]
        self._offsets = [np.asarray(page.dataoffsets, np.int64) for page in pages]
        self._lengths = [np.asarray(page.databytecounts, np.int64) for page in pages]
        self._columns = [-(-page.imagewidth // page.tilewidth) for page in pages]
        self._sizes = [(int(page.imagewidth), int(page.imagelength)) for page in pages]
        self.cells = [(int(page.tilewidth), int(page.tilelength)) for page in pages]

    @classmethod
    def agreeing(cls, path: Path, sizes: Sequence[tuple[int, int]], region: Region) -> "JpegTiles | None":
        """The tiles of a file whose levels have these sizes; None unless they are tiled JPEG that decodes alike.

        Args:
            path: of the slide.
            sizes: (w, h) of each level, as OpenSlide tells them.
            region: (level, (x, y) in the level's pixels, (w, h)) -> OpenSlide's pixels from there, or from a place
                less than a pixel to the right and below, where it interpolates; and how far off, in pixels.
        """
        import tifffile  # forty MiB, which a Slide that holds no pixels does without

        try:
            with tifffile.TiffFile(path) as file:
                pages = [_level_page(file, size) for size in sizes]
                if not pages or any(page is None for page in pages):
                    return None
                tiles = cls(path, pages)
        except (tifffile.TiffFileError, OSError, ValueError, KeyError, IndexError):
            return None
        try:
            alike = all(tiles._alike(level, region) for level in range(len(pages)))
        except BaseException:
            tiles.close()
            raise
        if not alike:
            tiles.close()
        return tiles if alike else None

    def close(self) -> None:
        """Close the file; tiles cannot be read any more."""
        handle, self._file = self._file, -1
        if handle >= 0:
            os.close(handle)

    def read(self, level: int, column: int, row: int) -> Image | None:
        """A tile without what lies beyond the level, RGB uint8 (h, w, 3); None where it is missing or looks damaged."""
        index = row * self._columns[level] + column
        length = int(self._lengths[level][index])
        if length == 0:
            return None
        try:
            data = os.pread(self._file, length, int(self._offsets[level][index]))
            decoded = self._decode[level](data, index, jpegtables=self._tables[level])[0]
        except Exception:  # whatever the codec says: OpenSlide then reads it, or says why it cannot be read
            return None
        (width, height), (cell_width, cell_height) = self._sizes[level], self.cells[level]
        shape = (min(cell_height, height - row * cell_height), min(cell_width, width - column * cell_width))
        if len(data) != length or decoded is None or decoded.dtype != np.uint8 or decoded.shape[3] != 3:
            return None
        return np.asarray(decoded[0, : shape[0], : shape[1]]) if _looks_whole(data, decoded[0]) else None

    def _alike(self, level: int, region: Region) -> bool:
        """Whether three tiles are as OpenSlide reads them: the one with most detail, a middling one, the last."""
        lengths = self._lengths[level]
        there = np.flatnonzero(lengths)
        if not len(there):
            return True
        by_length = there[np.argsort(lengths[there], kind="stable")]
        for index in {int(by_length[-1]), int(by_length[len(by_length) // 2]), int(there[-1])}:
            row, column = divmod(index, self._columns[level])
            found = self.read(level, column, row)
            if found is None:
                return False
            corner = (column * self.cells[level][0], row * self.cells[level][1])
            wanted, shift = region(level, corner, (found.shape[1], found.shape[0]))
            moved = _shifted(found, shift)
            if np.abs(moved - wanted[: moved.shape[0], : moved.shape[1]]).max(initial=0) > GREY_LEVELS:
                return False
        return True


def _looks_whole(data: bytes, pixels: Image) -> bool:
    """Whether a JPEG's one scan goes on to its end marker, and its picture to the last block.

    What ends too early (a half that is lost, zeros, another file's bytes) nearly always shows so. Not seen are a few
    changed bytes after which the codes fall into step again, of which OpenSlide sees some; and codes of another picture
    that happen to last, which OpenSlide does not see either. Several scans and restart markers count as damage, because
    a picture that has them may end early anywhere.

    Args:
        data: the file.
        pixels: all of it, uint8 (h, w, 3), with what lies beyond the level.
    """
    header = data.find(SCAN) + len(SCAN)
    marker = MARKER.search(data, header + int.from_bytes(data[header : header + 2], "big"))
    if marker is None or marker.group()[1] != END:
        return False
    if abs(int(pixels[-1, -1, 0]) - FILLING) > NEAR:  # nearly every tile, in a tenth of the time
        return True
    return bool(np.abs(pixels[-BLOCK:, -BLOCK:].astype(np.int16) - FILLING).max() > NEAR)


def _shifted(image: Image, shift: tuple[float, float]) -> NDArray[np.float32]:
    """An image seen from (x, y), 0 to below 1 px, further on, bilinearly; without its last column or row if need be."""
    pixels, (x, y) = image.astype(np.float32), shift
    if x > 1e-6:
        pixels = (1 - x) * pixels[:, :-1] + x * pixels[:, 1:]
    if y > 1e-6:
        pixels = (1 - y) * pixels[:-1] + y * pixels[1:]
    return pixels


def _level_page(file: Any, size: tuple[int, int]) -> Any:
    """The directory of a level in a TiffFile: tiled RGB JPEG of this size; None where there is none."""
    from tifffile import TiffPage

    for page in file.pages:
        if not isinstance(page, TiffPage) or (page.imagewidth, page.imagelength) != tuple(size):
            continue
        plain = page.bitspersample == 8 and page.samplesperpixel == 3 and page.planarconfig == 1
        if page.is_tiled and page.compression == JPEG and plain:
            return page
    return None
