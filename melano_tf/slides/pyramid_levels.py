"""The levels of a slide's pyramid: their sizes and scales, and the tiles of the file that hold them."""

import math
from dataclasses import dataclass
from typing import Any

from melano_tf.slides.slide_properties import positive

LARGEST_TILE = 2**27  # px; OpenSlide ends the whole process where it cannot have the memory for a tile of the file
# Side of the cells that OpenSlide is asked for, px of the level: whole tiles of the file, about this much.
CELL_PX = 512


@dataclass(frozen=True)
class Level:
    """One level of the pyramid.

    Attributes:
        index: OpenSlide's number of it.
        size: (w, h) in its pixels.
        reported: OpenSlide's own downsample, by which it turns a location into this level's pixels.
        scale: (x, y) level-0 pixels to one pixel of this level.
    """

    index: int
    size: tuple[int, int]
    reported: float
    scale: tuple[float, float]


def levels_of(sizes: tuple[tuple[int, int], ...], reported: tuple[float, ...]) -> tuple[Level, ...]:
    """The levels, finest first, from their sizes (w, h) and OpenSlide's downsamples."""
    return tuple(Level(i, sizes[i], r, scale_of(sizes[0], sizes[i], r)) for i, r in enumerate(reported))


def scale_of(full: tuple[int, int], level: tuple[int, int], reported: float) -> tuple[float, float]:
    """(x, y) level-0 pixels to a pixel of a level.

    OpenSlide's value is the vendor's, or else the mean of the two ratios of the sizes. In the second case a power of
    two that leaves out the incomplete last pixel (32914 / 4 = 8228) is the true factor; all else is each axis's ratio.
    """
    ratios = (full[0] / level[0], full[1] / level[1])
    if not math.isclose(reported, (ratios[0] + ratios[1]) / 2, rel_tol=1e-9):
        return reported, reported
    whole = 2 ** round(math.log2(reported))
    if all(a // whole == b for a, b in zip(full, level, strict=True)):
        return float(whole), float(whole)
    return ratios


def cell_size(properties: Any, level: int) -> tuple[int, int]:
    """(w, h) of a cell that OpenSlide is asked for: whole tiles of the file, about `CELL_PX`."""
    sides = []
    for name in ("width", "height"):
        tile = round(positive(properties.get(f"openslide.level[{level}].tile-{name}")) or CELL_PX)
        sides.append(tile * max(1, CELL_PX // tile) if tile <= 4 * CELL_PX else CELL_PX)
    return sides[0], sides[1]


def too_large(properties: Any, levels: int) -> tuple[int, int] | None:
    """(w, h) of a tile of the file that is not decoded, however it is asked for; None: there is none."""
    for level in range(levels):
        sides = [positive(properties.get(f"openslide.level[{level}].tile-{name}")) or 0 for name in ("width", "height")]
        if sides[0] * sides[1] > LARGEST_TILE:
            return round(sides[0]), round(sides[1])
    return None
