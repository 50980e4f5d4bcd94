"""From a level's pixels to the pixels that were asked for: which of them are needed, and how they are weighed."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy import sparse

Image = NDArray[np.uint8]

# Pixels of a level, along one side, that are held at once; what needs much more is read in blocks.
BLOCK_PX = 2048
# Pixels of the level by which a plain crop may miss the wanted place; beyond it the region is resampled.
PHASE_TOLERANCE = 1 / 16


@dataclass(frozen=True)
class Run:
    """A run of a level's pixels: where OpenSlide is asked for it, the level's coordinate of its edge, its length."""

    location: int
    first: float
    count: int


@dataclass(frozen=True)
class Axis:
    """Output pixels along one axis: `count` of them, each `step` level pixels wide, from level coordinate `start`."""

    start: float
    step: float
    count: int

    def moved(self, origin: float) -> "Axis":
        return Axis(self.start - origin, self.step, self.count)

    @property
    def factor(self) -> int | None:
        """The whole number of level pixels to an output pixel, if it is one and the grids meet; else None."""
        factor = round(self.step)
        miss = abs(self.start - round(self.start)) + abs(self.step - factor) * self.count
        return factor if factor >= 1 and miss <= PHASE_TOLERANCE else None

    def run(self, reported: float | None) -> Run:
        """The level's pixels that these output pixels need, from the nearest place where the reader can begin.

        OpenSlide takes whole level-0 pixels. Where its downsample is no whole number it begins a little off the grid
        (it interpolates there), by at most half a level-0 pixel; that remainder is in `first`.

        Args:
            reported: OpenSlide's downsample; None for a reader that can begin at every pixel of the level.
        """
        if self.factor is not None:
            begin = round(self.start)
            end = begin + self.factor * self.count
        elif self.step >= 1:
            begin, end = math.floor(self.start), math.ceil(self.start + self.count * self.step - 1e-6)
        else:
            begin = math.floor(self.start + self.step / 2 - 0.5)
            end = math.floor(self.start + (self.count - 0.5) * self.step - 0.5) + 2
        if reported is None:
            return Run(begin, float(begin), end - begin)
        location = round(begin * reported)
        if abs(location - begin * reported) > 1e-6 * reported:
            location = round((begin - 1) * reported)
            end += 1
        first = location / reported
        return Run(location, first, end - math.floor(first + 0.5))

    def weights(self, length: int) -> sparse.csr_array:
        """The matrix (count, length) float32 that turns `length` level pixels, from 0 on, into the output pixels."""
        if self.step >= 1:
            edges = self.start + self.step * np.arange(self.count + 1)
            index = np.floor(edges[:-1, None]) + np.arange(math.ceil(self.step) + 1)
            overlap = np.minimum(edges[1:, None], index + 1) - np.maximum(edges[:-1, None], index)
            weight = np.clip(overlap, 0, None) / self.step
        else:
            centres = self.start + self.step * (np.arange(self.count) + 0.5) - 0.5
            index = np.floor(centres[:, None]) + np.arange(2)
            weight = 1 - np.abs(centres[:, None] - index)
        columns = np.clip(index, 0, length - 1).astype(np.int32)
        rows = np.arange(self.count + 1, dtype=np.int32) * columns.shape[1]
        entries = (weight.astype(np.float32).ravel(), columns.ravel(), rows)
        return sparse.csr_array(entries, shape=(self.count, length))


def resample(image: Image, across: Axis, down: Axis) -> Image:
    """An image (h, w, 3) brought to the pixels of two axes that count from its upper left."""
    if across.factor is not None and down.factor is not None:
        left, top = round(across.start), round(down.start)
        part = image[top : top + down.factor * down.count, left : left + across.factor * across.count]
        if across.factor == down.factor == 1:
            return part
        return np.asarray(cv2.resize(part, (across.count, down.count), interpolation=cv2.INTER_AREA), dtype=np.uint8)
    height, width, channels = image.shape
    rows = down.weights(height) @ image.reshape(height, width * channels).astype(np.float32)
    rows = rows.reshape(down.count, width, channels).transpose(1, 0, 2).reshape(width, down.count * channels)
    columns = across.weights(width) @ rows
    pixels = columns.reshape(across.count, down.count, channels).transpose(1, 0, 2)
    return np.clip(np.rint(pixels), 0, 255).astype(np.uint8)


def blocks(count: int, step: float) -> Iterator[slice]:
    """Output pixels in equal runs that need about BLOCK_PX level pixels each (half as many again for a single run)."""
    pieces = min(count, max(1, math.ceil(count * step / BLOCK_PX - 0.5)))
    edges = [count * piece // pieces for piece in range(pieces + 1)]
    yield from (slice(begin, end) for begin, end in pairwise(edges))
