"""Figures of explained tiles: samples by diagnosis, and slide, tile, greyscale, heat map, overlay (multimag paper)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke
from numpy.typing import NDArray

from melano_tf.explain.faithfulness import Curve
from melano_tf.explain.heat_maps import heat, overlay
from melano_tf.reports.figures import blank_figure, entitled, shared_columns, sheet_grid
from melano_tf.slides.slide import Slide

MARK = "#e2001a"
SMALLEST_MARK = 0.02  # of the thumbnail's longer side: a tile of 70 µm on a slide of 20 mm must still be found


@dataclass(frozen=True)
class ExplainedTile:
    """One line of Figure 2.

    Attributes:
        title: what the tile is, for example "MM, called MM 0.97".
        slide: thumbnail of its slide, uint8 (h, w, 3).
        box: x, y, width, height of the tile in the thumbnail's pixels.
        tile: uint8 (h, w, 3).
        maps: {method: map (h, w), 0..1}, in the order of the columns.
        captions: {method: line under its map}.
    """

    title: str
    slide: NDArray[np.uint8]
    box: tuple[float, float, float, float]
    tile: NDArray[np.uint8]
    maps: Mapping[str, NDArray[np.floating]]
    captions: Mapping[str, str]


def thumbnail_box(slide: Slide, row: Mapping[Any, Any], mpp: float) -> tuple[float, float, float, float]:
    """A tile's x, y, width and height in the pixels of its slide's thumbnail at `mpp` µm/px."""
    scale_x, scale_y = (own / mpp for own in slide.mpp)
    return row["x"] * scale_x, row["y"] * scale_y, row["w0"] * scale_x, row["h0"] * scale_y


def explained_sheet(rows: Sequence[ExplainedTile], title: str, note: str = "") -> Figure:
    """Slide with the tile marked, tile, greyscale, heat maps, overlays: the paper's Figure 2.

    Args:
        rows: at least one; the first one's methods are the columns.
        title: of the figure.
        note: a line under it: how the tiles were chosen.

    Raises:
        ValueError: no rows, or rows with other methods than the first.
    """
    methods = shared_columns([row.maps for row in rows])
    count = 2 + 2 * len(methods)
    size = (3.4 + 1.9 * count + 0.8, 2.3 * len(rows) + 1.0)
    figure, grid = sheet_grid(size, len(rows), count + 1, widths=[1.8, *[1.0] * count])
    for line, row in zip(grid, rows, strict=True):
        _mark(line[0], row)
        grey = cv2.cvtColor(row.tile, cv2.COLOR_RGB2GRAY)
        line[1].imshow(row.tile)
        line[2].imshow(grey, cmap="gray", vmin=0, vmax=255)
        for place, method in enumerate(methods):
            line[3 + place].imshow(row.maps[method], cmap=heat(), vmin=0, vmax=1)
            line[3 + place].set_xlabel(row.captions.get(method, ""), fontsize=7)
            line[3 + len(methods) + place].imshow(overlay(row.tile, row.maps[method], opacity=0.45))
    heads = ["(b) tile", "(c) greyscale", *(f"(d) {m}" for m in methods), *(f"(e) overlay, {m}" for m in methods)]
    for axis, words in zip(grid[0][1:], heads, strict=True):
        axis.set_title(words, fontsize=9)
    return entitled(figure, title, note, "of the map's maximum")


def _mark(axis: Axes, row: ExplainedTile) -> None:
    """The slide with the tile's square in red, its own size or large enough to be seen."""
    axis.imshow(row.slide, interpolation="antialiased")
    axis.set_title(f"(a) {row.title}", fontsize=8, loc="left")
    x, y, width, height = row.box
    least = SMALLEST_MARK * max(row.slide.shape[:2])
    grow_x, grow_y = max(0.0, least - width) / 2, max(0.0, least - height) / 2
    corner = (x - grow_x - 0.5, y - grow_y - 0.5)
    stroke = [withStroke(linewidth=3.0, foreground="white")]
    axis.add_patch(
        Rectangle(
            corner,
            width + 2 * grow_x,
            height + 2 * grow_y,
            fill=False,
            edgecolor=MARK,
            linewidth=1.5,
            path_effects=stroke,
        )
    )


def sample_sheet(
    samples: Mapping[str, Mapping[str, Sequence[NDArray[np.uint8]]]],
    title: str,
    names: Mapping[str, str],
    note: str = "",
) -> Figure:
    """Sample tiles, the paper's Figure 1: a row a diagnosis, a group of columns a magnification.

    Args:
        samples: {diagnosis: {magnification: tiles uint8 (h, w, 3)}}; a cell with too few tiles stays blank.
        title: of the figure.
        names: long name of each diagnosis.
        note: a line under it: how the tiles were chosen.

    Raises:
        ValueError: there is no tile at all.
    """
    magnifications = list(dict.fromkeys(name for row in samples.values() for name in row))
    wide = max((len(tiles) for row in samples.values() for tiles in row.values()), default=0)
    if not wide:
        raise ValueError("a sheet of sample tiles needs at least one tile")
    count = wide * len(magnifications)
    figure, grid = sheet_grid((1.6 * count + 0.8, 1.75 * len(samples) + 0.9), len(samples), count)
    for number_of_row, (line, (label, row)) in enumerate(zip(grid, samples.items(), strict=True)):
        for place, axis in enumerate(line):
            name, number = magnifications[place // wide], place % wide
            tiles = row.get(name, ())
            if number < len(tiles):
                axis.imshow(tiles[number])
            else:
                axis.set_axis_off()
            if number_of_row == 0:
                axis.set_title(name, fontsize=9)
        line[0].set_ylabel(f"{label}\n{names.get(label, '')}", fontsize=8)
    return entitled(figure, title, note)


def curve_figure(curves: Mapping[str, Mapping[str, Curve]], title: str) -> Figure:
    """Mean deletion and insertion curves, a panel each.

    Args:
        curves: {"deletion" or "insertion": {map: curve}}.
        title: of the figure.
    """
    figure = blank_figure(5.2 * len(curves), 3.8)
    for axis, (kind, lines) in zip(figure.subplots(1, len(curves), squeeze=False)[0], curves.items(), strict=True):
        for name, curve in lines.items():
            mean = curve.probability.mean(axis=0)
            axis.plot(curve.fraction, mean, marker=".", label=f"{name} (area {curve.area.mean():.3f})")
        axis.set_xlabel(f"share of pixels {'blurred away' if kind == 'deletion' else 'given back'}")
        axis.set_ylabel("mean probability of the class")
        axis.set_ylim(0, 1.02)
        axis.set_title(f"{kind} ({'lower' if kind == 'deletion' else 'higher'} is better)", fontsize=10)
        axis.grid(alpha=0.3)
        axis.legend(fontsize=7)
    figure.suptitle(title, fontsize=11)
    return figure
