"""Maps of tile values over a slide: arrays in, arrays out.

Section 6 of the spitzoid paper: "for each pixel, the predicted probabilities for the ROI are estimated by bilinearly
interpolating the predicted probabilities of the closest patches in terms of euclidean distance to the center of the
patches".
"""

import functools
import math

import numpy as np
from matplotlib import colormaps
from matplotlib.colors import Colormap, LinearSegmentedColormap
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]


def tile_map(
    x: ArrayLike,
    y: ArrayLike,
    w0: ArrayLike,
    h0: ArrayLike,
    values: ArrayLike,
    slide_size: tuple[float, float],
    out_shape: tuple[int, int],
    scale: tuple[float, float] | None = None,
    tissue: NDArray[np.bool_] | None = None,
) -> NDArray[np.float32]:
    """Values of tiles as a map, bilinear between the tiles' centres, NaN where no tile lies, and beside the tissue.

    Tiles stand on a lattice of which some are missing (no tissue). A missing one takes the mean of its neighbours, the
    closest first, so that the map is continuous over all that tiles cover; beyond the outermost centres it is constant.

    Args:
        x, y: upper-left corner of each tile, level-0 pixels, (n,).
        w0, h0: extent of each tile, level-0 pixels, (n,) or scalars.
        values: finite values, (n,).
        slide_size: (w, h) of the slide, level-0 pixels.
        out_shape: (h, w) of the map, that of the thumbnail.
        scale: level-0 pixels per map pixel, (x, y). By default the map spans the slide exactly; where a
            thumbnail's last row or column reaches beyond the slide, give its true scale.
        tissue: where the tissue is, of `out_shape`; a tile that hangs over its edge colours no glass. None: all of it.

    Returns:
        float32 map of `out_shape`.

    Raises:
        ValueError: lengths differ, a value is not finite, or the tissue has another shape.
    """
    if tissue is not None and tissue.shape != out_shape:
        raise ValueError(f"tissue {tissue.shape} and map {out_shape} must have one height and width")
    found = np.asarray(values, dtype=np.float64)
    if found.ndim != 1:
        raise ValueError(f"values have shape {found.shape}; one value a tile is expected")
    left, top, width, height = (
        np.broadcast_to(np.asarray(part, dtype=np.float64), found.shape) for part in (x, y, w0, h0)
    )
    if not np.isfinite(found).all():
        raise ValueError(f"{(~np.isfinite(found)).sum()} values of tiles are not finite")
    step_x, step_y = scale or (slide_size[0] / out_shape[1], slide_size[1] / out_shape[0])
    result = np.full(out_shape, np.nan, dtype=np.float32)
    if not len(found):
        return result
    centre_x, centre_y = left + width / 2, top + height / 2
    lattice_x, column = _lattice(centre_x, float(np.median(width)))
    lattice_y, row = _lattice(centre_y, float(np.median(height)))
    number, total = np.zeros((2, len(lattice_y), len(lattice_x)))
    np.add.at(number, (row, column), 1.0)
    np.add.at(total, (row, column), found)
    # A covered pixel lies at most half a tile from a centre, and so do the lattice corners around it, rounded up.
    reach = max(_steps(lattice_x, float(width.max())), _steps(lattice_y, float(height.max())))
    mean = _filled(np.divide(total, number, out=np.zeros_like(total), where=number > 0), number > 0, reach)
    along_x = _bilinear((np.arange(out_shape[1]) + 0.5) * step_x, lattice_x)
    along_y = _bilinear((np.arange(out_shape[0]) + 0.5) * step_y, lattice_y)
    covered = _covered(left / step_x, top / step_y, (left + width) / step_x, (top + height) / step_y, out_shape)
    if tissue is not None:
        covered &= tissue
    result[covered] = (along_y @ mean @ along_x.T)[covered]
    return result


def _lattice(centres: Floats, extent: float) -> tuple[Floats, NDArray[np.intp]]:
    """Lattice lines along one axis, those without any tile filled in; and the line of each tile.

    Centres closer than a tenth of a tile are one line (origins are rounded to whole pixels).
    """
    unique, inverse = np.unique(centres, return_inverse=True)
    group = np.cumsum(np.r_[0, np.diff(unique) > 0.1 * extent])
    lines = np.bincount(group, weights=unique) / np.bincount(group)
    if len(lines) == 1:
        return lines, np.zeros(len(centres), dtype=np.intp)
    gaps = np.diff(lines)
    stride = min(float(gaps.min()), extent)
    # A gap of several strides holds lines of which every tile is missing.
    parts = np.maximum(np.rint(gaps / stride).astype(int), 1)
    starts = np.r_[0, np.cumsum(parts)]
    filled = np.interp(np.arange(starts[-1] + 1), starts, lines)
    return filled, starts[group[inverse]].astype(np.intp)


def _steps(lines: Floats, extent: float) -> int:
    """How many lattice lines half a tile reaches over."""
    return 0 if len(lines) == 1 else math.ceil(extent / 2 / float(np.diff(lines).min()))


def _filled(values: Floats, known: NDArray[np.bool_], rings: int) -> Floats:
    """Missing lattice values from their known neighbours, ring by ring; diagonal neighbours count half."""
    values, known = np.where(known, values, 0.0), known.copy()
    for _ in range(rings):
        if known.all():
            break
        total, weight = np.zeros((2, *values.shape))
        value, number = np.pad(values, 1), np.pad(known.astype(np.float64), 1)
        for down in range(3):
            for right in range(3):
                share = (0.5, 1.0, 0.0)[(down == 1) + (right == 1)]
                window = np.s_[down : down + values.shape[0], right : right + values.shape[1]]
                total += share * (value * number)[window]
                weight += share * number[window]
        reached = ~known & (weight > 0)
        values[reached] = total[reached] / weight[reached]
        known |= reached
    return values


def _bilinear(positions: NDArray[np.floating], lines: Floats) -> Floats:
    """Weights of each lattice line at each position, (positions, lines); constant beyond the outermost lines."""
    weights = np.zeros((len(positions), len(lines)))
    every = np.arange(len(positions))
    if len(lines) == 1:
        weights[:, 0] = 1.0
        return weights
    right = np.clip(np.searchsorted(lines, positions), 1, len(lines) - 1)
    share = np.clip((positions - lines[right - 1]) / (lines[right] - lines[right - 1]), 0.0, 1.0)
    weights[every, right - 1] = 1.0 - share
    weights[every, right] = share
    return weights


def _covered(left: Floats, top: Floats, right: Floats, bottom: Floats, shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Pixels whose centre lies in at least one rectangle (map pixels), by a two-dimensional difference array."""
    columns = [np.clip(np.ceil(edge - 0.5), 0, shape[1]).astype(int) for edge in (left, right)]
    rows = [np.clip(np.ceil(edge - 0.5), 0, shape[0]).astype(int) for edge in (top, bottom)]
    change = np.zeros((shape[0] + 1, shape[1] + 1), dtype=np.int64)
    for i, row in enumerate(rows):
        for j, column in enumerate(columns):
            np.add.at(change, (row, column), 1 if i == j else -1)
    return np.asarray(change.cumsum(axis=0).cumsum(axis=1)[:-1, :-1] > 0)


def within_bag(attention: ArrayLike) -> Floats:
    """Attention scaled to 0..1 within its bag, as the paper's Figure 9; (n,) -> (n,).

    Where all are equal (a bag of one, or a mean), each is 1: every tile contributes as much as the most important one.
    """
    values = np.asarray(attention, dtype=np.float64)
    if not len(values):
        return values
    spread = values.max() - values.min()
    return (values - values.min()) / spread if spread > 0 else np.ones_like(values)


@functools.cache
def heat() -> Colormap:
    """Blue to red: matplotlib's turbo without its two dark ends, which on tissue look like stain."""
    return LinearSegmentedColormap.from_list("heat", colormaps["turbo"](np.linspace(0.1, 0.95, 256)))


def overlay(
    thumbnail: NDArray[np.uint8],
    values: NDArray[np.floating],
    *,
    low: float = 0.0,
    high: float = 1.0,
    colours: str | None = None,
    opacity: float = 0.5,
) -> NDArray[np.uint8]:
    """A map laid over a thumbnail; where the map is NaN the thumbnail shows unchanged.

    Args:
        thumbnail: uint8 (h, w, 3).
        values: (h, w), NaN where there is nothing.
        low, high: values at the ends of the colour scale; beyond them the end colours are used.
        colours: name of a matplotlib colour map; None: `heat()`.
        opacity: of the map, 0..1.

    Returns:
        uint8 (h, w, 3).

    Raises:
        ValueError: the shapes differ.
    """
    if thumbnail.shape != (*values.shape, 3):
        raise ValueError(f"thumbnail {thumbnail.shape} and map {values.shape} must have one height and width")
    shown = np.isfinite(values)
    position = np.clip((values[shown] - low) / (high - low), 0.0, 1.0)
    colour = (heat() if colours is None else colormaps[colours])(position)[:, :3] * 255
    result = thumbnail.copy()
    result[shown] = np.rint((1 - opacity) * thumbnail[shown] + opacity * colour).astype(np.uint8)
    return result
