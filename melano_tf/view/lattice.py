"""The pixels of pictures that lie over a slide: coarse all over it, and where the window is as fine as the screen, so
that edges lie within half a screen pixel of where level-0 coordinates put them."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

COARSE_PX = 1024  # longer side of the coarse picture, at most
MOST_PX = 1 << 22  # pixels of the fine one, at most
Window = tuple[float, float, float, float]
"""Left, top, right and bottom of what the screen shows, level-0 px."""


@dataclass(frozen=True)
class Lattice:
    """The pixels of a picture over a slide.

    Attributes:
        x, y: its upper left corner, level-0 px.
        shape: (h, w) of the picture.
        step: level-0 px to a pixel of it.
    """

    x: int
    y: int
    shape: tuple[int, int]
    step: float

    @property
    def size(self) -> tuple[float, float]:
        """Its (w, h), level-0 px."""
        return self.shape[1] * self.step, self.shape[0] * self.step

    def within(self, size: tuple[int, int]) -> NDArray[np.bool_]:
        """Whether the centre of each pixel lies on the slide of (w, h) level-0 px, bool of `shape`."""
        across, down = (
            start + (np.arange(count) + 0.5) * self.step < length
            for start, count, length in zip((self.x, self.y), self.shape[::-1], size, strict=True)
        )
        return np.asarray(down[:, None] & across)

    def holds(self, other: "Lattice") -> bool:
        """Whether it shows all of another one, as fine."""
        ends = ((one.x + one.size[0], one.y + one.size[1]) for one in (self, other))
        (right, bottom), (their_right, their_bottom) = ends
        around = self.x <= other.x and self.y <= other.y and right >= their_right and bottom >= their_bottom
        return around and self.step <= other.step


def cell(size: tuple[int, int]) -> int:
    """Side of a pixel of the coarse picture, whole level-0 px."""
    return max(1, math.ceil(max(size) / COARSE_PX))


def coarse(size: tuple[int, int]) -> Lattice:
    """All of a slide of (w, h) level-0 px; the last row and column may reach beyond it."""
    side = cell(size)
    return Lattice(0, 0, (math.ceil(size[1] / side), math.ceil(size[0] / side)), float(side))


def fine(size: tuple[int, int], window: Window, step: float) -> Lattice | None:
    """The coarse pixels that a window meets, cut so finely that one part is at most `step` level-0 px; None where the
    coarse ones are as fine, or the window shows nothing of the slide."""
    side = cell(size)
    if not (step > 0 and all(map(math.isfinite, window))):
        return None
    lines = [
        (max(0, math.floor(start / side)), min(math.ceil(length / side), math.ceil(end / side)))
        for start, end, length in zip(window[:2], window[2:], size, strict=True)
    ]
    (left, right), (top, bottom) = lines
    if step >= side or right <= left or bottom <= top:
        return None
    parts = min(math.ceil(side / step), math.isqrt(MOST_PX // ((right - left) * (bottom - top))))
    if parts < 2:
        return None
    return Lattice(left * side, top * side, ((bottom - top) * parts, (right - left) * parts), side / parts)
