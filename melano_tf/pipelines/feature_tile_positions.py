"""Where the tiles of a file of features lie on their slide, for maps of a bag model's attention."""

import numpy as np
import pandas as pd

from melano_tf.errors import InputError
from melano_tf.features.feature_file import FeatureFile
from melano_tf.slides.slide import Slide


def tile_boxes(file: FeatureFile, slide: Slide) -> pd.DataFrame:
    """Tiles in level-0 pixels from the slide bounds' upper left, as `explain.heat_maps.tile_map` takes them.

    Coordinates in µm (STAMP) are divided by the slide's µm/px. Where the file does not say how large its tiles are
    (CLAM's files of features), they are taken to lie side by side: the smallest step between two of them is their side.

    Returns:
        One row an instance, in the file's order: x, y, w0, h0, float64.

    Raises:
        InputError: no coordinates, coordinates of an unknown unit, a tile size that cannot be told, or tiles that lie
            outside the slide, so that it must be another one.
    """
    corners, sides = _corners(file)
    scale = np.array(slide.mpp if file.unit == "um" else (1.0, 1.0))
    corners, sides = corners / scale - slide.origin, sides / scale
    outside = (corners + sides <= 0).any(axis=1) | (corners >= slide.size).any(axis=1)
    if outside.any():
        width, height = slide.size
        raise InputError(
            f"{file.path}: {int(outside.sum())} of {file.instances} tiles lie outside of the slide {slide.path} "
            f"({width}x{height} px at {slide.mpp[0]:g} µm/px); it must be another slide, or its µm/px is wrong"
        )
    return _frame(corners, sides)


def own_boxes(file: FeatureFile, moved: bool = True) -> tuple[pd.DataFrame, tuple[float, float]]:
    """Tiles without their slide: boxes in the coordinates' own unit, and the extent of them all.

    Args:
        file: the file.
        moved: so that the upper left of all tiles lies at 0, 0.

    Raises:
        InputError: no coordinates, or a tile size that cannot be told.
    """
    corners, sides = _corners(file)
    first = corners.min(axis=0)
    width, height = (float(end) for end in (corners + sides).max(axis=0) - first)
    if moved:
        corners = corners - first
    return _frame(corners, sides), (width, height)


def unit_um(file: FeatureFile) -> float | None:
    """µm of one unit of the coordinates, None where the file does not say."""
    if file.unit == "um":
        return 1.0
    if file.mpp is None or file.tile_px is None or file.tile_extent is None:
        return None
    return file.mpp * file.tile_px / file.tile_extent[0]


def _corners(file: FeatureFile) -> tuple[np.ndarray, np.ndarray]:
    """Upper left corners (n, 2) and sides (2,) of the tiles in the coordinates' unit."""
    corners = file.coordinates()
    if corners is None or file.unit == "unknown":
        why = "holds no coordinates" if corners is None else "does not say in which unit its coordinates are (STAMP 1)"
        raise InputError(f"{file.path}: {why}; its tiles cannot be laid over a slide")
    return corners, np.array(file.tile_extent or (_step(corners, file),) * 2)


def _frame(corners: np.ndarray, sides: np.ndarray) -> pd.DataFrame:
    return pd.DataFrame({"x": corners[:, 0], "y": corners[:, 1], "w0": sides[0], "h0": sides[1]})


def _step(corners: np.ndarray, file: FeatureFile) -> float:
    """The smallest distance between tiles of one row or column."""
    steps = np.concatenate([np.diff(np.unique(corners[:, axis])) for axis in (0, 1)])
    if not len(steps):
        raise InputError(f"{file.path}: does not say how large its tiles are, and holds one only")
    return float(steps.min())
