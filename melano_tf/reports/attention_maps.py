"""Attention over the tiles of a file of features: over the slide if it is at hand, else over the tiles' own lattice."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from melano_tf.explain.heat_maps import tile_map, within_bag
from melano_tf.features.feature_file import FeatureFile
from melano_tf.pipelines.feature_tile_positions import own_boxes, tile_boxes, unit_um
from melano_tf.pipelines.slide_apart import SlideApart
from melano_tf.reports.figures import slide_map_figure
from melano_tf.reports.slide_maps import fitting_mpp
from melano_tf.slides.slide_manifest import read_manifest
from melano_tf.specs import load_spec

MAP_PX = 800  # longer side of a map without a slide
LABEL = "attention, 0 to 1 within the bag"


@dataclass(frozen=True)
class Ground:
    """What tiles are drawn on.

    Attributes:
        picture: uint8 (h, w, 3).
        size: (w, h) that it spans, in the unit of the tiles' boxes.
        scale: units of a pixel, (x, y).
        mpp: µm of a pixel; None: unknown.
    """

    picture: np.ndarray
    size: tuple[float, float]
    scale: tuple[float, float]
    mpp: float | None


def read_slides(table: Path | None) -> pd.DataFrame:
    """Slides by name: path and mpp, of a CSV as `data_specs/slides.yaml` describes it; empty without one.

    Raises:
        InputError: as `slides.slide_manifest.read_manifest`.
    """
    if table is None:
        return pd.DataFrame({"path": [], "mpp": []})
    return read_manifest(table, load_spec("slides")).set_index("slide_id")


def attention_map(file: FeatureFile, attention: ArrayLike, slides: pd.DataFrame, title: str) -> Figure:
    """One file's attention as a map.

    Args:
        file: of the features.
        attention: of its tiles, (n,), scaled as it is to be shown.
        slides: from `read_slides`; the file's slide may be among them.
        title: of the figure.

    Raises:
        InputError: the coordinates cannot be laid over the slide, or it cannot be read.
    """
    if file.slide_id in slides.index:
        path, own = str(slides["path"].loc[file.slide_id]), float(slides["mpp"].loc[file.slide_id])
        with SlideApart(path, slide_id=file.slide_id, mpp=None if np.isnan(own) else own) as slide:
            mpp = fitting_mpp(slide)
            scale = (mpp / slide.mpp[0], mpp / slide.mpp[1])
            ground = Ground(slide.thumbnail(mpp), slide.size, scale, mpp)
            return _drawn(ground, tile_boxes(file, slide), attention, title)
    boxes, (width, height) = own_boxes(file)
    step, um = max(width, height) / MAP_PX, unit_um(file)
    picture = np.full((int(np.ceil(height / step)), int(np.ceil(width / step)), 3), 255, np.uint8)
    ground = Ground(picture, (width, height), (step, step), None if um is None else step * um)
    return _drawn(ground, boxes, attention, title)


def _drawn(ground: Ground, boxes: pd.DataFrame, values: ArrayLike, title: str) -> Figure:
    shape = ground.picture.shape[:2]
    found = tile_map(
        *(boxes["x"], boxes["y"], boxes["w0"], boxes["h0"], values), ground.size, shape, scale=ground.scale
    )
    return slide_map_figure(ground.picture, found, ground.mpp, None, title, LABEL, scale=ground.scale)


__all__ = ["attention_map", "read_slides", "within_bag"]
