"""The maps of one slide: what was found of its tiles, over its picture."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from numpy.typing import ArrayLike
from shapely.geometry.base import BaseGeometry

from melano_tf.explain.heat_maps import tile_map, within_bag
from melano_tf.reports.figures import save_figure, slide_map_figure
from melano_tf.slides.slide import Slide
from melano_tf.slides.tissue import TissueMask

LONGER_SIDE_PX = 1600


def fitting_mpp(slide: Slide) -> float:
    """The resolution in µm/px at which the slide's longer side has `LONGER_SIDE_PX`, but no finer than the slide's."""
    longer = max(length * own for length, own in zip(slide.size, slide.mpp, strict=True))
    return max(longer / LONGER_SIDE_PX, *slide.mpp)


@dataclass(frozen=True)
class TileValues:
    """What a map shows of a slide's tiles.

    Attributes:
        name: of the map's file, behind the slide's.
        tiles: one row a tile: x, y, w0, h0 (level-0 px).
        values: of each tile, (n,).
        label: of the colour scale.
        title: first line of the figure.
    """

    name: str
    tiles: pd.DataFrame
    values: ArrayLike
    label: str
    title: str


def tumour_maps(tiles: pd.DataFrame, title: str) -> list[TileValues]:
    """Figures 8 and 9 of the spitzoid paper: probability of tumour, and attention where tiles carry one (else NaN)."""
    maps = [TileValues("tumour", tiles, tiles["probability"], "tumour probability", title)]
    if "attention" in tiles and tiles["attention"].notna().any():
        bag = tiles[tiles["attention"].notna()]
        maps.append(
            TileValues("attention", bag, within_bag(bag["attention"]), "attention, 0 to 1 within the bag", title)
        )
    return maps


def magnification_maps(tiles: pd.DataFrame, positive: str, title: str) -> list[TileValues]:
    """The probability of a class at each magnification."""
    label = f"probability of {positive}"
    return [
        TileValues(str(name), rows, rows["probability"], label, f"{title}, {name} ({len(rows)} tiles)")
        for name, rows in tiles.groupby("magnification", sort=False)
    ]


def write_slide_maps(
    folder: Path,
    slide: Slide,
    maps: Sequence[TileValues],
    outline: BaseGeometry | None,
    mpp: float | None,
    tissue: TissueMask,
) -> list[Path]:
    """Write `<slide_id>-<name>.png` for each of the maps.

    Args:
        folder: where the pictures go.
        slide: the open slide.
        maps: what is shown.
        outline: the annotation in level-0 px, or None.
        mpp: resolution of the pictures in µm/px; None: the longer side gets 1,600 px, if the slide has as many.
        tissue: the slide's, as the tiles were cut by; beside it nothing is coloured.
    """
    mpp = mpp or fitting_mpp(slide)
    thumbnail = slide.thumbnail(mpp)
    scale = (mpp / slide.mpp[0], mpp / slide.mpp[1])
    inside = tissue.sampled(thumbnail.shape[:2], (mpp, mpp))
    written = []
    for one in maps:
        boxes = one.tiles["x"], one.tiles["y"], one.tiles["w0"], one.tiles["h0"]
        found = tile_map(*boxes, one.values, slide.size, thumbnail.shape[:2], scale=scale, tissue=inside)
        figure = slide_map_figure(thumbnail, found, mpp, outline, one.title, one.label, scale=scale)
        written.append(save_figure(folder / f"{slide.slide_id}-{one.name}.png", figure))
    return written
