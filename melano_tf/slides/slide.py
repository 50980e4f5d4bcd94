"""Reading a whole slide by physical resolution, through OpenSlide.

A region is asked for in micrometres per pixel, never by a level's number. It is read from the best level, on that
level's own pixel grid, and brought to the exact size; the part of a pixel by which the grid misses the wanted place
goes into the resampling, so that one place looks the same whichever level it was read from.
"""

import contextlib
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import openslide
from numpy.typing import NDArray
from scipy import sparse

from melano_tf.errors import InputError
from melano_tf.slides.slide_properties import bounds, colour, positive, resolution

CACHE_BYTES = 64 << 20
# Pixels of a level, along one side, that are held at once; what needs much more is read in blocks.
BLOCK_PX = 2048
# A level this much coarser than wanted still counts as fine enough: 0.2503 µm/px x 4 is meant to be 1 µm/px.
LEVEL_TOLERANCE = 0.02
# Pixels of the level by which a plain crop may miss the wanted place; beyond it the region is resampled.
PHASE_TOLERANCE = 1 / 16

Image = NDArray[np.uint8]


class SlideReadError(Exception):
    """The slide's pixels could not be decoded; the handle was closed and the next read opens a new one."""


@dataclass(frozen=True, eq=False)
class Overview:
    """A whole slide as one picture, with what of it is no picture.

    Attributes:
        rgb: uint8 (h, w, 3), all that was not scanned in the background's colour.
        scanned: share of each pixel that was scanned, float32 (h, w), by the file's alpha and bounds.
        blank: share of each pixel that has exactly the background's colour, float32 (h, w); not scanned, or by chance.
        background: (r, g, b).
    """

    rgb: Image
    scanned: NDArray[np.float32]
    blank: NDArray[np.float32]
    background: tuple[int, int, int]


@dataclass(frozen=True)
class Level:
    """One level of the pyramid.

    Attributes:
        index: OpenSlide's number of it.
        reported: OpenSlide's own downsample, by which it turns a location into this level's pixels.
        scale: (x, y) level-0 pixels to one pixel of this level.
    """

    index: int
    reported: float
    scale: tuple[float, float]


class Slide:
    """A whole-slide image; a context manager, and picklable for worker processes.

    The file is looked at once, on construction. The OpenSlide handle is closed by `close`, by a decode error and by
    pickling, and the next read opens a new one. One Slide belongs to one thread.

    Args:
        path: any file that OpenSlide reads.
        slide_id: name of the slide in messages and tables; the file's stem by default.
        mpp: µm per pixel at level 0, the manifest's column; overrides the file's metadata. NaN is as None.
        cache_bytes: most memory for decoded pixels of the file.

    Attributes:
        slide_id: name of the slide.
        path: the file.
        size: (w, h) of the slide's bounds in level-0 pixels. All coordinates count from the bounds' upper left.
        origin: (x, y) of the bounds' upper left in the level-0 pixels of the file itself.
        mpp: (x, y) µm per level-0 pixel.
        mpp_note: a line where the given `mpp` contradicts the file's own by more than 15 %, else "".
        levels: the pyramid, finest first.
        objective_power: nominal magnification of the scan, or None where the file does not tell.
        background: (r, g, b) of what was not scanned.

    Raises:
        InputError: missing file, not a slide, or a resolution that is missing or outside 0.05 to 20 µm/px.
    """

    def __init__(
        self,
        path: Path | str,
        slide_id: str | None = None,
        mpp: float | None = None,
        cache_bytes: int = CACHE_BYTES,
    ) -> None:
        self.path = Path(path)
        self._cache_bytes = cache_bytes
        self.slide_id = self.path.stem if slide_id is None else slide_id
        self._handle: Any = None
        self._process = os.getpid()
        if not self.path.exists():
            raise InputError(f"slide {self.slide_id}: {self.path}: no such file; correct the manifest's `path` column")
        try:
            handle = self._open()
            properties = dict(handle.properties)
            self.levels = _levels(handle.level_dimensions, handle.level_downsamples)
            self.origin, self.size = bounds(properties, handle.dimensions)
        except (openslide.OpenSlideError, OSError) as error:
            self.close()
            raise InputError(
                f"slide {self.slide_id}: {self.path}: not a slide that OpenSlide can read ({error}); "
                "the file may be damaged, cut short or of another format"
            ) from None
        self.objective_power = positive(properties.get("openslide.objective-power"))
        self.background = colour(properties.get("openslide.background-color"))
        try:
            self.mpp, self.mpp_note = resolution(f"slide {self.slide_id} ({self.path})", properties, mpp)
        except InputError:
            self.close()
            raise

    def __enter__(self) -> "Slide":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_handle": None}

    def __repr__(self) -> str:
        return f"Slide({str(self.path)!r}, slide_id={self.slide_id!r}, mpp={self.mpp})"

    def close(self) -> None:
        """Close the OpenSlide handle, if one is open; a later read opens a new one."""
        handle, self._handle = self._handle, None
        if handle is not None:
            handle.close()

    def _open(self) -> Any:
        # A forked process must not share its parent's file positions.
        if self._handle is None or self._process != os.getpid():
            self._handle = openslide.OpenSlide(str(self.path))
            self._handle.set_cache(openslide.OpenSlideCache(self._cache_bytes))
            self._process = os.getpid()
        return self._handle

    @property
    def level_downsamples(self) -> tuple[float, ...]:
        """Level-0 pixels to one pixel of each level, as floats, the mean of both axes."""
        return tuple((level.scale[0] + level.scale[1]) / 2 for level in self.levels)

    def best_level(self, mpp: float) -> Level:
        """The coarsest level that is not coarser than `mpp` µm/px on either axis; level 0 where all are."""
        limit = mpp * (1 + LEVEL_TOLERANCE)
        fine = [
            level for level in self.levels if all(s * m <= limit for s, m in zip(level.scale, self.mpp, strict=True))
        ]
        return max(fine, key=lambda level: level.scale[0] * level.scale[1], default=self.levels[0])

    def read(self, x: float, y: float, size: int | tuple[int, int], mpp: float) -> Image:
        """A region at a physical resolution.

        Args:
            x: left edge in level-0 pixels from the bounds' upper left; fractions and places outside are allowed.
            y: upper edge.
            size: output pixels, one number or (w, h); the region is size * mpp µm large.
            mpp: µm per output pixel, for example 1.0 for "10x".

        Returns:
            RGB uint8 (h, w, 3), always of that size; what lies outside the slide has the background's colour.
            Averaged by area where it shrinks, bilinear where it is finer than level 0.

        Raises:
            SlideReadError: a decode error; the same Slide may be read again.
        """
        width, height = (size, size) if isinstance(size, int | np.integer) else (int(size[0]), int(size[1]))
        if not (width > 0 and height > 0 and mpp > 0 and math.isfinite(x + y + mpp)):
            raise ValueError(f"slide {self.slide_id}: cannot read {width}x{height} px at {mpp} µm/px from ({x}, {y})")
        image = np.empty((height, width, 3), np.uint8)
        for rows, columns, patch, _, axes in self._patches(x, y, (width, height), mpp):
            image[rows, columns] = _resample(patch, *axes)
        return image

    def thumbnail(self, mpp: float) -> Image:
        """The whole slide at `mpp` µm/px, RGB uint8 of ceil(size * slide mpp / mpp) pixels, read in blocks.

        Raises:
            SlideReadError: a decode error.
        """
        return self.read(0, 0, self._whole(mpp), mpp)

    def overview(self, mpp: float) -> Overview:
        """The whole slide as by `thumbnail`, and of each pixel how much was not scanned or looks so.

        Raises:
            SlideReadError: a decode error.
        """
        width, height = self._whole(mpp)
        rgb, shares = np.empty((height, width, 3), np.uint8), np.empty((height, width, 3), np.uint8)
        for rows, columns, patch, scanned, axes in self._patches(0, 0, (width, height), mpp):
            patch[~scanned] = self.background
            blank = (patch == self.background).all(axis=2)
            flags = np.stack([scanned, blank, blank], axis=2).astype(np.uint8) * 255
            rgb[rows, columns], shares[rows, columns] = _resample(patch, *axes), _resample(flags, *axes)
        scanned_share, blank_share, _ = np.moveaxis(np.asarray(shares / np.float32(255), np.float32), 2, 0)
        return Overview(rgb, scanned_share, blank_share, self.background)

    def _whole(self, mpp: float) -> tuple[int, int]:
        """(w, h) of the whole slide's picture at `mpp` µm/px."""
        width, height = (
            max(1, math.ceil(round(length * own / mpp, 6))) for length, own in zip(self.size, self.mpp, strict=True)
        )
        return width, height

    def _patches(
        self, x: float, y: float, size: tuple[int, int], mpp: float
    ) -> Iterator[tuple[slice, slice, Image, NDArray[np.bool_], tuple["_Axis", "_Axis"]]]:
        """The level's pixels behind a region, block by block.

        Yields:
            (rows, columns) of the region, the level's pixels RGB uint8 (h, w, 3), which of them were scanned, bool
            (h, w), and the output's axes across and down in these pixels.
        """
        level = self.best_level(mpp)
        step_x, step_y = (mpp / (m * s) for m, s in zip(self.mpp, level.scale, strict=True))
        # Rounded to a millionth of a pixel: 3.9999999999 must not draw in one more row of JPEG tiles.
        left = round((self.origin[0] + x) / level.scale[0], 6)
        top = round((self.origin[1] + y) / level.scale[1], 6)
        for rows in _blocks(size[1], step_y):
            for columns in _blocks(size[0], step_x):
                across = _Axis(left + columns.start * step_x, step_x, columns.stop - columns.start)
                down = _Axis(top + rows.start * step_y, step_y, rows.stop - rows.start)
                grids = [axis.grid(level.reported) for axis in (across, down)]
                patch, scanned = self._patch(level, grids[0], grids[1])
                yield rows, columns, patch, scanned, (across.moved(grids[0].first), down.moved(grids[1].first))

    def _patch(self, level: Level, across: "_Grid", down: "_Grid") -> tuple[Image, NDArray[np.bool_]]:
        """The pixels of two grids of a level, and which of them were scanned; outside the slide: background."""
        grids = (across, down)
        outside = [_outside(grid, level.scale[i], self.origin[i], self.size[i]) for i, grid in enumerate(grids)]
        if outside[0].all() or outside[1].all():
            shape = (down.count, across.count)
            return np.full((*shape, 3), self.background, np.uint8), np.zeros(shape, bool)
        patch, scanned = self._read_level(level, (across.location, down.location), (across.count, down.count))
        for pixels, value in ((patch, self.background), (scanned, False)):
            pixels[:, outside[0]] = value
            pixels[outside[1]] = value
        return patch, scanned

    def _read_level(
        self, level: Level, location: tuple[int, int], size: tuple[int, int]
    ) -> tuple[Image, NDArray[np.bool_]]:
        """RGB uint8 pixels of one level, the transparent laid over the background's colour; which are not so."""
        try:
            rgba = np.asarray(self._open().read_region(location, level.index, size))
        except (openslide.OpenSlideError, OSError) as error:
            with contextlib.suppress(openslide.OpenSlideError):
                self.close()
            raise SlideReadError(
                f"slide {self.slide_id} ({self.path}): cannot read {size[0]}x{size[1]} px of level {level.index} "
                f"at {location}: {error}"
            ) from error
        rgb = np.asarray(cv2.cvtColor(rgba, cv2.COLOR_RGBA2RGB), dtype=np.uint8)
        thin = rgba[:, :, 3] < 255
        if thin.any():
            alpha = rgba[thin][:, 3:].astype(np.float32) / 255
            rgb[thin] = np.rint(rgb[thin] * alpha + np.array(self.background, np.float32) * (1 - alpha))
        return rgb, ~thin


@dataclass(frozen=True)
class _Grid:
    """A run of a level's pixels: where OpenSlide is asked for it, the level's coordinate of its edge, its length."""

    location: int
    first: float
    count: int


@dataclass(frozen=True)
class _Axis:
    """Output pixels along one axis: `count` of them, each `step` level pixels wide, from level coordinate `start`."""

    start: float
    step: float
    count: int

    def moved(self, origin: float) -> "_Axis":
        return _Axis(self.start - origin, self.step, self.count)

    @property
    def factor(self) -> int | None:
        """The whole number of level pixels to an output pixel, if it is one and the grids meet; else None."""
        factor = round(self.step)
        miss = abs(self.start - round(self.start)) + abs(self.step - factor) * self.count
        return factor if factor >= 1 and miss <= PHASE_TOLERANCE else None

    def grid(self, reported: float) -> _Grid:
        """The level's pixels that these output pixels need, from the nearest place where OpenSlide can begin.

        OpenSlide takes whole level-0 pixels. Where its downsample is no whole number it begins a little off the grid
        (it interpolates there), by at most half a level-0 pixel; that remainder is in `first`.
        """
        if self.factor is not None:
            begin = round(self.start)
            end = begin + self.factor * self.count
        elif self.step >= 1:
            begin, end = math.floor(self.start), math.ceil(self.start + self.count * self.step - 1e-6)
        else:
            begin = math.floor(self.start + self.step / 2 - 0.5)
            end = math.floor(self.start + (self.count - 0.5) * self.step - 0.5) + 2
        location = round(begin * reported)
        if abs(location - begin * reported) > 1e-6 * reported:
            location = round((begin - 1) * reported)
            end += 1
        first = location / reported
        return _Grid(location, first, end - math.floor(first + 0.5))

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


def _resample(image: Image, across: _Axis, down: _Axis) -> Image:
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


def _blocks(count: int, step: float) -> Iterator[slice]:
    """Output pixels in equal runs that need about BLOCK_PX level pixels each (half as many again for a single run)."""
    pieces = min(count, max(1, math.ceil(count * step / BLOCK_PX - 0.5)))
    edges = [count * piece // pieces for piece in range(pieces + 1)]
    yield from (slice(begin, end) for begin, end in pairwise(edges))


def _outside(grid: _Grid, scale: float, origin: int, size: int) -> NDArray[np.bool_]:
    """Which of the grid's pixels have their centre outside the slide's bounds, (count,)."""
    centres = (grid.first + np.arange(grid.count) + 0.5) * scale - origin
    return (centres < 0) | (centres > size)


def _levels(sizes: tuple[tuple[int, int], ...], reported: tuple[float, ...]) -> tuple[Level, ...]:
    return tuple(Level(i, r, _scale(sizes[0], sizes[i], r)) for i, r in enumerate(reported))


def _scale(full: tuple[int, int], level: tuple[int, int], reported: float) -> tuple[float, float]:
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
