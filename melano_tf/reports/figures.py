"""Figures of a run: maps over slides, activation maps of tiles, training curves.

Drawn with matplotlib's objects, never with pyplot, which keeps global state. Every text is drawn as it stands.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import PathPatch, Rectangle
from matplotlib.path import Path as Outline
from matplotlib.patheffects import withStroke
from matplotlib.text import Text
from matplotlib.ticker import LogFormatter, ScalarFormatter
from numpy.typing import NDArray
from shapely.geometry.base import BaseGeometry

from melano_tf.explain.heat_maps import heat, overlay
from melano_tf.runs.atomic_files import atomic

DPI = 110
OUTLINE = "#00a651"
ROUND_LENGTHS = (1, 2, 5)


@dataclass(frozen=True)
class CamRow:
    """One line of a sheet of class activation maps.

    Attributes:
        title: what the tile is, for example "tumour, both right".
        tile: uint8 (h, w, 3).
        maps: {model: map (h, w), 0..1}, in the order of the columns.
        captions: {model: line under its map}, for example the probability that it gave.
    """

    title: str
    tile: NDArray[np.uint8]
    maps: Mapping[str, NDArray[np.floating]]
    captions: Mapping[str, str] = field(default_factory=dict)


def save_figure(path: Path, figure: Figure) -> Path:
    """Write a figure as PNG, atomically; returns the path."""
    with atomic(path) as temporary:
        figure.savefig(temporary, format="png", dpi=DPI)
    return Path(path)


class PlainTextFigure(Figure):
    """A figure whose text is no maths, however many "$" stand in a file's or a patient's name."""

    def draw(self, renderer: Any) -> None:
        """Draw it; the numbers at an axis, whose powers of ten matplotlib itself writes as maths, stay so."""
        for text in self.findobj(Text):
            text.set_parse_math(False)
        for axis in self.findobj(Axis):
            numbers = isinstance(axis.get_major_formatter(), ScalarFormatter | LogFormatter)
            for label in (*axis.get_majorticklabels(), *axis.get_minorticklabels(), axis.get_offset_text()):
                label.set_parse_math(numbers)
        super().draw(renderer)


def blank_figure(width: float, height: float) -> Figure:
    """An empty figure of a size in inches, outside pyplot, that draws text as it stands."""
    figure = PlainTextFigure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def shared_columns(rows: Sequence[Mapping[str, object]]) -> list[str]:
    """The columns of a sheet: the names of the first row's maps.

    Raises:
        ValueError: no rows, or rows with other maps than the first.
    """
    if not rows:
        raise ValueError("a sheet of maps needs at least one image")
    if any(list(row) != list(rows[0]) for row in rows):
        raise ValueError(f"every row needs the maps of {list(rows[0])}")
    return list(rows[0])


def sheet_grid(
    size: tuple[float, float], rows: int, columns: int, widths: Sequence[float] | None = None
) -> tuple[Figure, NDArray[Any]]:
    """A figure of a size in inches, and its axes without ticks, (rows, columns); widths: of the columns."""
    figure = blank_figure(*size)
    grid = figure.subplots(rows, columns, squeeze=False, width_ratios=widths)
    for axis in grid.flat:
        axis.set_xticks([])
        axis.set_yticks([])
    return figure, grid


def entitled(figure: Figure, title: str, note: str, label: str = "") -> Figure:
    """A sheet with its title, a line under it (how its images were chosen), and the colour scale of its maps."""
    if label:
        mappable = ScalarMappable(Normalize(0, 1), heat())
        figure.colorbar(mappable, ax=figure.axes, label=label, shrink=0.8, aspect=40)
    figure.suptitle(title, fontsize=11)
    if note:
        figure.supxlabel(note, fontsize=8)
    return figure


def slide_map_figure(
    thumbnail: NDArray[np.uint8],
    values: NDArray[np.floating],
    mpp: float | tuple[float, float] | None,
    outline: BaseGeometry | None,
    title: str,
    label: str,
    *,
    scale: tuple[float, float] = (1.0, 1.0),
    low: float = 0.0,
    high: float = 1.0,
) -> Figure:
    """A slide with its annotation beside a map over it, as the paper's Figures 8 and 9.

    Args:
        thumbnail: uint8 (h, w, 3).
        values: map (h, w), NaN where no tile lies.
        mpp: µm per pixel of the thumbnail, one number or (x, y); the scale bar is made from it. None: unknown, no bar.
        outline: annotation (polygons) in level-0 pixels, or None.
        title: of the figure.
        label: of the colour bar, for example "tumour probability".
        scale: level-0 pixels per pixel of the thumbnail, (x, y).
        low, high: ends of the colour scale.
    """
    mpp_x, mpp_y = mpp if isinstance(mpp, tuple) else (mpp or 1.0, mpp or 1.0)
    height, width = values.shape
    ratio = height * mpp_y / (width * mpp_x)
    # Panels side by side for upright slides, one above the other for long flat ones.
    flat = ratio < 0.5
    side = 9.0 if flat else min(5.5, 7.0 / ratio)
    size = (side + 1.6, 2 * side * ratio + 1.1) if flat else (max(2 * side + 1.2, 6.0), side * ratio + 0.9)
    figure = blank_figure(*size)
    axes = figure.subplots(2, 1) if flat else figure.subplots(1, 2)
    panels = (thumbnail, overlay(thumbnail, values, low=low, high=high))
    for axis, image, words in zip(axes, panels, ("annotation" if outline is not None else "slide", label), strict=True):
        axis.imshow(image, aspect=mpp_y / mpp_x, interpolation="antialiased")
        axis.set_title(words, fontsize=10)
        axis.set_axis_off()
        if outline is not None:
            _draw_outline(axis, outline, scale)
        if mpp is not None:
            _scale_bar(axis, mpp_x, width, height)
    mappable = ScalarMappable(Normalize(low, high), heat())
    figure.colorbar(mappable, ax=axes, label=label, shrink=0.85, aspect=30)
    figure.suptitle(title, fontsize=11)
    return figure


def _draw_outline(axis: Axes, outline: BaseGeometry, scale: tuple[float, float]) -> None:
    """Polygons as drawn by the annotator, holes included. Level-0 edge 0 is the image's edge, at -0.5 in imshow."""
    rings = [
        np.asarray(ring.coords)[:, :2] / scale - 0.5
        for part in getattr(outline, "geoms", [outline])
        if not part.is_empty and part.geom_type == "Polygon"
        for ring in (part.exterior, *part.interiors)
    ]
    if not rings:
        return
    path = Outline.make_compound_path(*(Outline(ring, closed=True) for ring in rings))
    stroke = [withStroke(linewidth=3.0, foreground="white")]
    axis.add_patch(PathPatch(path, fill=False, edgecolor=OUTLINE, linewidth=1.5, path_effects=stroke))


def bar_length(width_um: float) -> float:
    """A round length (1, 2 or 5 times a power of ten, µm) of at most a quarter of a width."""
    most = width_um / 4
    decade = 10.0 ** np.floor(np.log10(most))
    return float(max(factor * decade for factor in ROUND_LENGTHS if factor * decade <= most * (1 + 1e-9)))


def _scale_bar(axis: Axes, mpp: float, width: int, height: int) -> None:
    length = bar_length(width * mpp)
    pixels = length / mpp
    thick, margin = min(height, width) * 0.012, min(height, width) * 0.04
    left, top = width - margin - pixels - 0.5, height - margin - thick - 0.5
    axis.add_patch(Rectangle((left, top), pixels, thick, facecolor="black", edgecolor="white", linewidth=1.0))
    words = f"{length / 1000:g} mm" if length >= 1000 else f"{length:g} µm"
    place = (left + pixels / 2, top - margin * 0.3)
    stroke = [withStroke(linewidth=2.5, foreground="white")]
    axis.text(*place, words, ha="center", va="bottom", fontsize=8, color="black", path_effects=stroke)


def cam_sheet(rows: Sequence[CamRow], title: str, note: str = "") -> Figure:
    """Tiles (first column) with the class activation maps of each model, as the paper's Figures 6 and 7.

    Args:
        rows: at least one; the first one's models are the columns.
        title: of the figure.
        note: a line under it, for example how the tiles were chosen.

    Raises:
        ValueError: no rows, or rows with other models than the first.
    """
    models = shared_columns([row.maps for row in rows])
    figure, grid = sheet_grid((2.5 * (len(models) + 1) + 0.9, 2.75 * len(rows) + 0.9), len(rows), len(models) + 1)
    for line, row in zip(grid, rows, strict=True):
        line[0].imshow(row.tile)
        line[0].set_title(row.title, fontsize=9)
        for axis, model in zip(line[1:], models, strict=True):
            axis.imshow(overlay(row.tile, row.maps[model], opacity=0.45))
            axis.set_title(model, fontsize=9)
            axis.set_xlabel(row.captions.get(model, ""), fontsize=8)
    return entitled(figure, title, note, "class activation, of its maximum")
