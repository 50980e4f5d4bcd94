"""The maps of one slide: tumour probability and attention over its picture (Figures 8 and 9 of the spitzoid paper)."""

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


def write_slide_maps(
    folder: Path,
    slide: Slide,
    tiles: pd.DataFrame,
    outline: BaseGeometry | None,
    mpp: float | None,
    title: str,
    tissue: TissueMask,
) -> list[Path]:
    """Write `<slide_id>-tumour.png`, and `<slide_id>-attention.png` where tiles carry an attention.

    Args:
        folder: where the pictures go.
        slide: the open slide.
        tiles: one row a tile: x, y, w0, h0 (level-0 px), probability (of tumour) and optionally attention (NaN for
            tiles outside the bag).
        outline: the annotation in level-0 px, or None.
        mpp: resolution of the picture in µm/px; None: the longer side gets 1,600 px, if the slide has as many.
        title: first line of the figures.
        tissue: the slide's, as the tiles were cut by; beside it nothing is coloured.
    """
    mpp = mpp or fitting_mpp(slide)
    thumbnail = slide.thumbnail(mpp)
    scale = (mpp / slide.mpp[0], mpp / slide.mpp[1])
    inside = tissue.sampled(thumbnail.shape[:2], (mpp, mpp))

    def draw(rows: pd.DataFrame, values: ArrayLike, label: str, name: str) -> Path:
        boxes = rows["x"], rows["y"], rows["w0"], rows["h0"]
        found = tile_map(*boxes, values, slide.size, thumbnail.shape[:2], scale=scale, tissue=inside)
        figure = slide_map_figure(thumbnail, found, mpp, outline, title, label, scale=scale)
        return save_figure(folder / f"{slide.slide_id}-{name}.png", figure)

    written = [draw(tiles, tiles["probability"], "tumour probability", "tumour")]
    if "attention" in tiles and tiles["attention"].notna().any():
        bag = tiles[tiles["attention"].notna()]
        written.append(draw(bag, within_bag(bag["attention"]), "attention, 0 to 1 within the bag", "attention"))
    return written
