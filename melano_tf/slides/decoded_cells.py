"""Decoded pixels of a level, in cells of whole file tiles: each is decoded once, however many regions touch it."""

import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]
Colour = tuple[int, int, int]


@dataclass(frozen=True, eq=False)
class Cell:
    """A rectangle of a level.

    Attributes:
        rgb: uint8 (h, w, 3).
        scanned: bool (h, w), False where the file says that nothing was scanned; None: all of it was.
    """

    rgb: Image
    scanned: NDArray[np.bool_] | None = None

    @property
    def bytes(self) -> int:
        """Memory that it takes."""
        return self.rgb.nbytes + (0 if self.scanned is None else self.scanned.nbytes)


@dataclass(frozen=True)
class Layout:
    """How a level is divided into cells.

    Attributes:
        level: its number.
        size: (w, h) of the level in its pixels.
        cell: (w, h) of a cell; those at the right and lower edge are cut off by the level's size.
    """

    level: int
    size: tuple[int, int]
    cell: tuple[int, int]

    def box(self, column: int, row: int) -> tuple[int, int, int, int]:
        """(left, top, right, bottom) of a cell in the level's pixels."""
        left, top = column * self.cell[0], row * self.cell[1]
        return left, top, min(left + self.cell[0], self.size[0]), min(top + self.cell[1], self.size[1])


class Cells:
    """The cells of a slide that were used last, for several threads at once.

    Args:
        decode: (layout, column, row) -> the cell; what it raises is raised by `read`, and is not remembered.
        capacity: bytes that may be held; what was not used for longest goes first.
    """

    def __init__(self, decode: Callable[[Layout, int, int], Cell], capacity: int) -> None:
        self._decode, self._capacity = decode, capacity
        self._lock = threading.Lock()
        self._held: OrderedDict[tuple[int, int, int], Future[Cell]] = OrderedDict()
        self._bytes = 0

    def read(
        self, layout: Layout, corner: tuple[int, int], size: tuple[int, int], background: Colour
    ) -> tuple[Image, NDArray[np.bool_]]:
        """A region of a level: RGB uint8 (h, w, 3), and which of it was scanned, bool (h, w).

        Args:
            layout: of the level.
            corner: (x, y) of the region in the level's pixels; it may reach beyond the level.
            size: (w, h) of the region.
            background: colour of what lies beyond the level.
        """
        (x, y), (width, height) = corner, size
        rgb, scanned = np.empty((height, width, 3), np.uint8), np.ones((height, width), bool)
        inside = x >= 0 and y >= 0 and x + width <= layout.size[0] and y + height <= layout.size[1]
        if not inside:
            rgb[:], scanned[:] = background, False
        left, top = max(x, 0), max(y, 0)
        right, bottom = min(x + width, layout.size[0]), min(y + height, layout.size[1])
        if left >= right or top >= bottom:
            return rgb, scanned
        for row in range(top // layout.cell[1], (bottom - 1) // layout.cell[1] + 1):
            for column in range(left // layout.cell[0], (right - 1) // layout.cell[0] + 1):
                cell = self._cell(layout, column, row)
                a, b, c, d = layout.box(column, row)
                part = (slice(max(top, b) - b, min(bottom, d) - b), slice(max(left, a) - a, min(right, c) - a))
                place = (slice(max(top, b) - y, min(bottom, d) - y), slice(max(left, a) - x, min(right, c) - x))
                rgb[place] = cell.rgb[part]
                if cell.scanned is not None or not inside:
                    scanned[place] = True if cell.scanned is None else cell.scanned[part]
        return rgb, scanned

    def _cell(self, layout: Layout, column: int, row: int) -> Cell:
        """A cell, decoded by the first thread that asks for it; the others wait for that."""
        key = (layout.level, column, row)
        with self._lock:
            future = self._held.get(key)
            first = future is None
            if future is None:
                future = self._held[key] = Future()
            else:
                self._held.move_to_end(key)
        if first:
            try:
                cell = self._decode(layout, column, row)
            except BaseException as error:
                with self._lock:
                    del self._held[key]
                future.set_exception(error)
            else:
                future.set_result(cell)
                self._count(cell.bytes)
        return future.result()

    def _count(self, more: int) -> None:
        """Account for a cell, and let go of those that were not used for longest."""
        with self._lock:
            self._bytes += more
            for key in list(self._held) if self._bytes > self._capacity else ():
                if self._bytes <= self._capacity:
                    break
                if self._held[key].done():
                    self._bytes -= self._held.pop(key).result().bytes
