"""Reading a whole slide by physical resolution, through OpenSlide.

A region is asked for in micrometres per pixel, never by a level's number. It is read from the best level, on that
level's own pixel grid, and brought to the exact size; the part of a pixel by which the grid misses the wanted place
goes into the resampling, so that one place looks the same whichever level it was read from.
"""

import contextlib
import math
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import openslide
from numpy.typing import NDArray

from melano_tf.errors import InputError, line_of
from melano_tf.slides.decoded_cells import Cell, Cells, Layout
from melano_tf.slides.jpeg_tiles import JpegTiles
from melano_tf.slides.pixel_resampling import Axis, Image, Run, blocks, resample
from melano_tf.slides.pyramid_levels import LARGEST_TILE, Level, cell_size, levels_of, too_large
from melano_tf.slides.slide_blocks import Block, each_block, is_of, outside_bounds
from melano_tf.slides.slide_properties import bounds, colour, positive, resolution

CACHE_BYTES = 64 << 20
# A level this much coarser than wanted still counts as fine enough: 0.2503 µm/px x 4 is meant to be 1 µm/px.
LEVEL_TOLERANCE = 0.02
LARGEST_PICTURE = 2**26  # px of a whole slide seen at once; at the tissue mask's 8 µm/px a slide of 65 x 65 mm


class SlideReadError(InputError):
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


class Slide:
    """A whole-slide image; a context manager, and picklable for worker processes.

    The file is looked at once, on construction. Each thread has an OpenSlide handle of its own, closed by `close` (when
    no thread reads), by a decode error and by pickling; the next read opens a new one.

    With `held_mib` decoded pixels stay for the next reads, so that regions that overlap decode them once. They then
    come from the file's JPEG tiles without OpenSlide, where these give OpenSlide's pixels to one grey level (looked at
    once). The result is that of a Slide without `held_mib`, but for levels whose downsample is no whole number: those
    OpenSlide can only read interpolated, and their JPEG tiles as they are.

    Args:
        path: any file that OpenSlide reads.
        slide_id: name of the slide in messages and tables; the file's stem by default.
        mpp: µm per pixel at level 0, the manifest's column; overrides the file's metadata. NaN is as None.
        held_mib: memory for decoded pixels that stay, MiB; 0: none do.
        threads: that `overview` uses.
        cache_bytes: most memory of OpenSlide's own cache.

    Attributes:
        slide_id: name of the slide.
        path: the file.
        size: (w, h) of the slide's bounds in level-0 pixels. All coordinates count from the bounds' upper left.
        origin: (x, y) of the bounds' upper left in the level-0 pixels of the file itself.
        mpp: (x, y) µm per level-0 pixel.
        mpp_note: where the given `mpp` is more than 15 % off the file's, or the file contradicts itself; else "".
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
        held_mib: float = 0.0,
        threads: int = 1,
        cache_bytes: int = CACHE_BYTES,
    ) -> None:
        self.path = Path(path)
        self.slide_id = self.path.stem if slide_id is None else slide_id
        self.held_mib, self.threads, self.cache_bytes = held_mib, threads, cache_bytes
        self._forget()
        if not self.path.exists():
            raise InputError(f"slide {self.slide_id}: {self.path}: no such file; correct the manifest's `path` column")
        try:
            handle = self._open()
            properties = dict(handle.properties)
            self.levels = levels_of(handle.level_dimensions, handle.level_downsamples)
            self.origin, self.size = bounds(properties, handle.dimensions)
            self._cell_sizes = [cell_size(properties, level.index) for level in self.levels]
        except (openslide.OpenSlideError, OSError) as error:
            self.close()
            raise InputError(
                f"slide {self.slide_id}: {self.path}: not a slide that OpenSlide can read ({line_of(error)}); "
                "the file may be damaged, cut short or of another format"
            ) from None
        if largest := too_large(properties, len(self.levels)):
            self.close()
            raise InputError(
                f"slide {self.slide_id}: {self.path}: a single tile of the file is {largest[0]:,} x {largest[1]:,} px, "
                f"and at most {LARGEST_TILE:,} px are decoded at once; the file is damaged, or must be tiled anew"
            )
        self.objective_power = positive(properties.get("openslide.objective-power"))
        self.background = colour(properties.get("openslide.background-color"))
        try:
            self.mpp, self.mpp_note = resolution(f"slide {self.slide_id} ({self.path})", properties, mpp)
        except InputError:
            self.close()
            raise
        if held_mib:
            self._hold()

    def __enter__(self) -> "Slide":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in OPENED}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._forget()
        if self.held_mib:
            self._hold()

    def __repr__(self) -> str:
        return f"Slide({str(self.path)!r}, slide_id={self.slide_id!r}, mpp={self.mpp})"

    def _forget(self) -> None:
        """Nothing is open: see `OPENED`."""
        self._handles: dict[tuple[int, int], Any] = {}
        self._cache: Any = None
        self._tiles: JpegTiles | None = None
        self._cells: Cells | None = None

    def _hold(self) -> None:
        """Let decoded pixels stay, from the file's JPEG tiles where they are as OpenSlide's."""
        sizes = [level.size for level in self.levels]
        with contextlib.suppress(SlideReadError):  # what cannot be read is said when it is wanted
            self._tiles = JpegTiles.agreeing(self.path, sizes, self._nearest)
        self._cells = Cells(self._decoded, int(self.held_mib * 2**20))

    @property
    def reader(self) -> str:
        """What decodes its pixels: "OpenSlide", or "tifffile" for JPEG tiles that are decoded without it."""
        return "OpenSlide" if self._tiles is None else "tifffile"

    def close(self) -> None:
        """Close what is open, and let go of the pixels that were held; a later read opens a new handle."""
        handles, tiles = list(self._handles.values()), self._tiles
        self._forget()
        if tiles is not None:
            tiles.close()
        for handle in handles:
            handle.close()

    @property
    def _handle(self) -> Any:
        """This thread's OpenSlide handle, if one is open."""
        return self._handles.get(_whose())

    def _open(self) -> Any:
        # A forked process must not share its parent's file positions.
        handle = self._handle
        if handle is None:
            handle = self._handles[_whose()] = openslide.OpenSlide(str(self.path))
            self._cache = self._cache or openslide.OpenSlideCache(self.cache_bytes)
            handle.set_cache(self._cache)
        return handle

    def _drop_handle(self) -> None:
        """Close this thread's handle."""
        handle = self._handles.pop(_whose(), None)
        if handle is not None:
            handle.close()

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
        parts = list(self._blocks(x, y, (width, height), mpp))
        if len(parts) == 1:  # a tile: nothing to put together
            return np.ascontiguousarray(resample(self._patch(parts[0])[0], *parts[0].axes))
        image = np.empty((height, width, 3), np.uint8)
        for block in parts:
            patch, _ = self._patch(block)
            image[block.rows, block.columns] = resample(patch, *block.axes)
        return image

    def thumbnail(self, mpp: float) -> Image:
        """The whole slide at `mpp` µm/px, RGB uint8 of ceil(size * slide mpp / mpp) pixels, read in blocks.

        Raises:
            SlideReadError: a decode error, or more than `LARGEST_PICTURE` pixels.
        """
        return self.read(0, 0, self._whole(mpp), mpp)

    def overview(self, mpp: float) -> Overview:
        """The whole slide as by `thumbnail`, and of each pixel how much was not scanned or looks so.

        Raises:
            SlideReadError: a decode error, or more than `LARGEST_PICTURE` pixels.
        """
        width, height = self._whole(mpp)
        rgb, shares = np.empty((height, width, 3), np.uint8), np.empty((height, width, 3), np.uint8)

        def fill(block: Block) -> None:
            patch, scanned = self._patch(block)
            if not scanned.all():
                patch[~scanned] = self.background
            blank = is_of(patch, self.background)
            place = (block.rows, block.columns)
            rgb[place] = resample(patch, *block.axes)
            if scanned.all() and not blank.any():
                shares[place] = (255, 0, 0)
            else:
                flags = np.stack([scanned, blank, blank], axis=2).astype(np.uint8) * 255
                shares[place] = resample(flags, *block.axes)

        each_block(fill, self._blocks(0, 0, (width, height), mpp), self.threads)
        scanned_share, blank_share, _ = np.moveaxis(np.asarray(shares / np.float32(255), np.float32), 2, 0)
        return Overview(rgb, scanned_share, blank_share, self.background)

    def _whole(self, mpp: float) -> tuple[int, int]:
        """(w, h) of the whole slide's picture at `mpp` µm/px."""
        width, height = (
            max(1, math.ceil(round(length * own / mpp, 6))) for length, own in zip(self.size, self.mpp, strict=True)
        )
        if width * height > LARGEST_PICTURE:
            raise SlideReadError(
                f"slide {self.slide_id} ({self.path}): at {mpp:g} µm/px all of it has {width:,} x {height:,} px, more "
                f"than the {LARGEST_PICTURE:,} px of one picture; choose more µm/px, if the file's size is right"
            )
        return width, height

    def _blocks(self, x: float, y: float, size: tuple[int, int], mpp: float) -> Iterator[Block]:
        """The parts in which a region is read, and the level's pixels behind each."""
        level = self.best_level(mpp)
        step_x, step_y = (mpp / (m * s) for m, s in zip(self.mpp, level.scale, strict=True))
        # Rounded to a millionth of a pixel: 3.9999999999 must not draw in one more row of JPEG tiles.
        left = round((self.origin[0] + x) / level.scale[0], 6)
        top = round((self.origin[1] + y) / level.scale[1], 6)
        reported = level.reported if self._tiles is None else None
        for rows in blocks(size[1], step_y):
            for columns in blocks(size[0], step_x):
                across = Axis(left + columns.start * step_x, step_x, columns.stop - columns.start)
                down = Axis(top + rows.start * step_y, step_y, rows.stop - rows.start)
                runs = (across.run(reported), down.run(reported))
                axes = (across.moved(runs[0].first), down.moved(runs[1].first))
                yield Block(level, rows, columns, runs, axes)

    def _patch(self, block: Block) -> tuple[Image, NDArray[np.bool_]]:
        """The level's pixels of a block, and which of them were scanned; outside the slide: background."""
        level, (across, down) = block.level, block.runs
        outside = [
            outside_bounds(run, level.scale[i], self.origin[i], self.size[i]) for i, run in enumerate(block.runs)
        ]
        if outside[0].all() or outside[1].all():
            shape = (down.count, across.count)
            return np.full((*shape, 3), self.background, np.uint8), np.zeros(shape, bool)
        patch, scanned = self._read_level(level, across, down)
        for pixels, value in ((patch, self.background), (scanned, False)):
            if outside[0].any():
                pixels[:, outside[0]] = value
            if outside[1].any():
                pixels[outside[1]] = value
        return patch, scanned

    def _read_level(self, level: Level, across: Run, down: Run) -> tuple[Image, NDArray[np.bool_]]:
        """The pixels of two runs of a level: from those that are held where they begin at whole pixels, or read now."""
        size = (across.count, down.count)
        if self._cells is None or not (self._tiles is not None or float(level.reported).is_integer()):
            return self._region(level, (across.location, down.location), size)
        cell = self._cell_sizes[level.index] if self._tiles is None else self._tiles.cells[level.index]
        layout = Layout(level.index, level.size, cell)
        return self._cells.read(layout, (round(across.first), round(down.first)), size, self.background)

    def _decoded(self, layout: Layout, column: int, row: int) -> Cell:
        """A cell of a level, for `Cells`."""
        rgb = None if self._tiles is None else self._tiles.read(layout.level, column, row)
        if rgb is not None:
            return Cell(rgb)
        left, top, right, bottom = layout.box(column, row)
        level = self.levels[layout.level]
        location = (round(left * level.reported), round(top * level.reported))
        pixels, scanned = self._region(level, location, (right - left, bottom - top))
        return Cell(pixels, None if scanned.all() else scanned)

    def _nearest(self, index: int, corner: tuple[int, int], size: tuple[int, int]) -> tuple[Image, tuple[float, float]]:
        """OpenSlide's pixels of a level from the first place at or after a pixel where it can begin; how far after."""
        level = self.levels[index]
        x, y = (math.ceil(place * level.reported - 1e-6) for place in corner)
        shift = (x / level.reported - corner[0], y / level.reported - corner[1])
        return self._region(level, (x, y), size)[0], shift

    def _region(
        self, level: Level, location: tuple[int, int], size: tuple[int, int]
    ) -> tuple[Image, NDArray[np.bool_]]:
        """RGB uint8 pixels of one level, the transparent laid over the background's colour; which are not so."""
        try:
            rgba = np.asarray(self._open().read_region(location, level.index, size))
        except (openslide.OpenSlideError, OSError) as error:
            with contextlib.suppress(openslide.OpenSlideError):
                self._drop_handle()
            raise SlideReadError(
                f"slide {self.slide_id} ({self.path}): cannot read {size[0]}x{size[1]} px of level {level.index} "
                f"at {location}: {line_of(error)}"
            ) from error
        rgb = np.asarray(cv2.cvtColor(rgba, cv2.COLOR_RGBA2RGB), dtype=np.uint8)
        thin = rgba[:, :, 3] < 255
        if thin.any():
            alpha = rgba[thin][:, 3:].astype(np.float32) / 255
            rgb[thin] = np.rint(rgb[thin] * alpha + np.array(self.background, np.float32) * (1 - alpha))
        return rgb, ~thin


OPENED = ("_handles", "_cache", "_tiles", "_cells")
"""Attributes of a Slide that another process cannot take over."""


def _whose() -> tuple[int, int]:
    return os.getpid(), threading.get_ident()
