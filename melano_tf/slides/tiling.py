"""Where a slide's tiles lie, how much tissue and tumour each holds, and which are kept."""

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import pandas as pd
from shapely.geometry.base import BaseGeometry

from melano_tf.errors import InputError
from melano_tf.slides.annotations import tumour_shares

MPP_RANGE = (0.05, 20.0)
MOST_ENLARGEMENT = 0.1  # share by which a slide's pixels may be enlarged (our reading)


class SizedSlide(Protocol):
    """What tiling asks of a slide: its name, its size in level-0 px, its µm/px along x and y."""

    @property
    def slide_id(self) -> str: ...
    @property
    def size(self) -> tuple[int, int]: ...
    @property
    def mpp(self) -> tuple[float, float]: ...


class Tissue(Protocol):
    """What tiling asks of a tissue mask: the share of tissue in boxes (n, 4) of x, y, width, height in µm."""

    def shares(self, boxes_um: np.ndarray) -> np.ndarray: ...


@dataclass(frozen=True)
class TileGrid:
    """How a slide is cut into tiles; the defaults are those of the spitzoid paper (section 3).

    Raises:
        InputError: a value outside its range.
    """

    tile_px: int = 512
    """Side of a tile in pixels at `mpp` (section 3: 512)."""
    mpp: float = 1.0
    """Resolution of a tile in µm/px (section 3: 10x; our reading: 1.0 µm/px as measured)."""
    overlap: float = 0.5
    """Share of a tile's side that the next tile repeats, from 0 to below 1 (section 3: 50 %)."""
    min_tissue: float = 0.2
    """Least share of tissue of a tile that is kept, 0 to 1 (section 3: under 20 % is dropped)."""
    tumour_share: float = 0.5
    """Share of a tile that outlines must cover to call it tumour, above 0 to 1 (not given; our reading: half)."""

    def __post_init__(self) -> None:
        low, high = MPP_RANGE
        rules = {
            "tile_px": (self.tile_px >= 1, "1 or more"),
            "mpp": (low <= self.mpp <= high, f"from {low} to {high} µm/px"),
            "overlap": (0 <= self.overlap < 1, "from 0 to below 1"),
            "min_tissue": (0 <= self.min_tissue <= 1, "from 0 to 1"),
            "tumour_share": (0 < self.tumour_share <= 1, "above 0, to 1"),
        }
        faults = [
            f"{name} = {getattr(self, name)} must be {words}" for name, (good, words) in rules.items() if not good
        ]
        if faults:
            raise InputError("grid: " + "; ".join(faults))


def refusal(slide_mpp: tuple[float, float], mpp: float, most: float | None = MOST_ENLARGEMENT) -> str:
    """Why a slide is too coarse for tiles: enlarged pixels would pass for detail that nobody has seen. "": it is not.

    Args:
        slide_mpp: µm/px along x and y; the coarser axis counts.
        mpp: of the tiles, µm/px.
        most: share by which pixels may be enlarged; None: any.
    """
    times = max(slide_mpp) / mpp
    if most is None or times <= 1 + most + 1e-9:
        return ""
    return f"its {max(slide_mpp):.3g} µm/px would be enlarged {times:.2f} times to {mpp:g} µm/px"


FINER = "scan it finer, or correct its mpp if that is wrong"


def check_fine_enough(slide: SizedSlide, grid: TileGrid) -> None:
    """Refuse a slide that is too coarse for the tiles of a grid.

    Raises:
        InputError: as `refusal` says.
    """
    if why := refusal(slide.mpp, grid.mpp):
        # Who asks a trained model cannot choose its tiles.
        hint = "a recipe and `features` can cut all slides into tiles of more µm/px (--grid.mpp)"
        raise InputError(f"slide {slide.slide_id}: {why}; {FINER}; {hint}")


def tile_extent(slide_mpp: tuple[float, float], grid: TileGrid) -> tuple[float, float]:
    """Width and height of a tile in level-0 px; they differ where the slide's pixels are not square."""
    return grid.tile_px * grid.mpp / slide_mpp[0], grid.tile_px * grid.mpp / slide_mpp[1]


def _starts(length: int, extent: float, overlap: float) -> np.ndarray:
    """Starts along one axis, such that tiles of this extent reach the end and none but the last runs over it."""
    stride = extent * (1.0 - overlap)
    if stride < 1.0:
        raise InputError(
            f"grid: tiles would start {stride:.3g} level-0 pixels apart; take a larger tile_px or mpp, or less overlap"
        )
    # The slack keeps a tile that is flush with the edge from bringing another one by rounding.
    count = 1 + max(0, math.ceil((length - extent) / stride - 1e-9))
    return np.rint(np.arange(count) * stride).astype(np.int64)


def grid_origins(slide_size: tuple[int, int], slide_mpp: tuple[float, float], grid: TileGrid) -> np.ndarray:
    """Upper-left corners of all tiles of a slide.

    Tiles start at the slide's own corner. The last column and row reach the right and bottom edges, or run over them
    (what lies outside is padded when it is read); a slide smaller than a tile has one tile.

    Args:
        slide_size: (width, height), level-0 px.
        slide_mpp: µm/px along x and y.
        grid: the tiles.

    Returns:
        (n, 2) int64 of x, y in level-0 px, row by row.

    Raises:
        InputError: the tiles would start less than a pixel apart.
    """
    w0, h0 = tile_extent(slide_mpp, grid)
    xs = _starts(slide_size[0], w0, grid.overlap)
    ys = _starts(slide_size[1], h0, grid.overlap)
    return np.stack([np.tile(xs, len(ys)), np.repeat(ys, len(xs))], axis=1)


def tile_table(
    slide: SizedSlide,
    mask: Tissue,
    annotation: BaseGeometry | None,
    grid: TileGrid,
    patient_id: str,
    label: str,
) -> tuple[pd.DataFrame, int]:
    """The tiles of a slide that hold enough tissue.

    Args:
        slide: its `slide_id`, `size` (level-0 px) and `mpp`.
        mask: the slide's tissue.
        annotation: outlined tumour in level-0 px, or None where nobody outlined any.
        grid: the tiles.
        patient_id: of the slide.
        label: the slide's diagnosis.

    Returns:
        The table, row by row over the slide, possibly without rows, with the columns slide_id, patient_id, label
        (text), tile (int64, 0 to n - 1), x, y (int64, level-0 px), w0, h0 (float64, extent in level-0 px), tissue
        (float64, 0 to 1) and tumour (float64, 0 to 1, NaN without annotation); and the count of all positions of the
        grid, before tiles without enough tissue were dropped.
    """
    origins = grid_origins(slide.size, slide.mpp, grid)
    extent = tile_extent(slide.mpp, grid)
    boxes = np.concatenate([origins.astype(np.float64), np.broadcast_to(extent, origins.shape)], axis=1)
    mpp_x, mpp_y = slide.mpp
    tissue = np.asarray(mask.shares(boxes * [mpp_x, mpp_y, mpp_x, mpp_y]), dtype=np.float64)
    # Shares are ratios of areas: the slack keeps a tile with exactly the least share.
    kept = tissue >= grid.min_tissue - 1e-9
    boxes, tissue = boxes[kept], tissue[kept]
    count = len(boxes)
    tumour = np.full(count, np.nan) if annotation is None else tumour_shares(annotation, boxes)
    table = pd.DataFrame(
        {
            "slide_id": pd.Series([slide.slide_id] * count, dtype="str"),
            "patient_id": pd.Series([patient_id] * count, dtype="str"),
            "label": pd.Series([label] * count, dtype="str"),
            "tile": np.arange(count, dtype=np.int64),
            "x": origins[kept, 0],
            "y": origins[kept, 1],
            "w0": boxes[:, 2],
            "h0": boxes[:, 3],
            "tissue": tissue,
            "tumour": tumour,
        }
    )
    return table, len(origins)
