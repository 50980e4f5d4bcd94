"""Several magnifications of one slide: a grid of tiles for each, all cut in one pass.

A magnification is a resolution in µm/px, whatever a slide's levels are called. A slide that was scanned too coarsely
for one is left out there, because enlarged pixels would pass for detail that nobody has seen.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from shapely.geometry.base import BaseGeometry

from melano_tf.errors import InputError
from melano_tf.slides.tiling import FINER, MOST_ENLARGEMENT, SizedSlide, TileGrid, Tissue, refusal, tile_table

BLOCK_PX = 2048
"""Tiles are read block by block of this side (level-0 px), all magnifications of a block together: what they share of
the slide is then decoded once (the block fits into the slide's cache)."""


@dataclass(frozen=True)
class TileGrids:
    """How a slide is cut into tiles at several magnifications; the defaults are the multimag paper's (section 2).

    Raises:
        InputError: a value outside its range, or names and resolutions that do not go together.
    """

    names: tuple[str, ...] = ("4x", "10x", "20x", "40x")
    """Names of the magnifications (section 2: 4X, 10X, 20X, 40X)."""
    mpp: tuple[float, ...] = (5.0, 1.0, 0.5, 0.275)
    """Their resolutions in µm/px as measured, in the order of `names` (section 2; 5 is odd for 4X, but printed)."""
    tile_px: int = 256
    """Side of a tile in pixels at its own resolution (section 2: 256)."""
    overlap: float = 0.0
    """Share of a tile's side that the next tile repeats (Figure 3: nonoverlapping)."""
    min_tissue: float = 0.6
    """Least share of tissue of a tile that is kept (Figure 3: over 40 % background is omitted)."""
    outlined: float = 0.25
    """Where a slide has an annotation: least share of the tile, or of all outlines where these are smaller, that a kept
    tile holds of them (not given; our reading: a quarter, which one tile of a coarse grid always reaches)."""
    most_enlargement: float | None = MOST_ENLARGEMENT
    """A slide is left out of a magnification for which its pixels would be enlarged by more than this share (not given;
    our reading: 10 %); None: any enlargement is allowed."""
    fullest: bool = False
    """Keep the one tile with most tissue at a magnification where none has `min_tissue` (not in the paper, which omits
    them all; `predict` does it and says so, because a small piece of tissue wants an answer too)."""

    def __post_init__(self) -> None:
        faults = []
        if not self.names or len(self.names) != len(self.mpp):
            faults.append(f"names {self.names} and mpp {self.mpp} must be as many, one at least")
        if len(set(self.names)) != len(self.names):
            faults.append(f"names {self.names} must differ")
        if not 0 < self.outlined <= 1:
            faults.append(f"outlined = {self.outlined} must be above 0, to 1")
        if self.most_enlargement is not None and self.most_enlargement < 0:
            faults.append(f"most_enlargement = {self.most_enlargement} must be 0 or more")
        if faults:
            raise InputError("grid: " + "; ".join(faults))
        for name in self.names:
            self.at(name)

    def at(self, name: str) -> TileGrid:
        """The grid of one magnification."""
        mpp = self.mpp[self.names.index(name)]
        return TileGrid(self.tile_px, mpp, self.overlap, self.min_tissue)

    def refusals(self, slide_mpp: tuple[float, float]) -> dict[str, str]:
        """{magnification: why} of those that a slide of this resolution (µm/px along x and y) is too coarse for."""
        pairs = zip(self.names, self.mpp, strict=True)
        return {name: why for name, mpp in pairs if (why := refusal(slide_mpp, mpp, self.most_enlargement))}


def magnified_table(
    slide: SizedSlide,
    mask: Tissue,
    annotation: BaseGeometry | None,
    grids: TileGrids,
    patient_id: str,
    label: str,
    everywhere: bool = False,
) -> tuple[pd.DataFrame, int, list[str]]:
    """The tiles of a slide at every magnification that it is fine enough for.

    Args:
        slide, mask, patient_id, label: as for `tile_table`.
        annotation: outlined tissue in level-0 px, outside of which no tile is kept; None: the whole slide counts.
        grids: the magnifications.
        everywhere: keep tiles outside the outlines too; the column outlined (bool) then says which are inside.

    Returns:
        The table of `tile_table` with the column magnification (text), one magnification after the other, `tile`
        counting through all of them; the count of all grids' positions; and a line for each magnification without
        tiles, saying why, or with the fullest one only.

    Raises:
        InputError: the slide is too coarse for every magnification.
    """
    refused = grids.refusals(slide.mpp)
    if len(refused) == len(grids.names):
        raise InputError(f"slide {slide.slide_id}: no magnification is possible: {_lines(refused)[0]}; {HINT}")
    parts, positions, empty = [], 0, {}
    notes: list[str] = []
    for name in grids.names:
        if name in refused:
            continue
        grid = grids.at(name)
        table, count = tile_table(slide, mask, annotation, grid, patient_id, label)
        positions += count
        whole, table = table, _outlined(table, annotation, grids.outlined)
        if not len(table):
            where = "" if annotation is None else " inside the outlines"
            few = f"no tile{where} with at least {grids.min_tissue:.0%} tissue"
            if grids.fullest:
                every, _ = tile_table(slide, mask, annotation, replace(grid, min_tissue=0.0), patient_id, label)
                table = _fullest(_outlined(every, annotation, grids.outlined))
            if len(table):
                notes.append(f"at {name}: {few}; the one with most, {table['tissue'].iloc[0]:.0%}, was kept")
            else:
                empty[name] = few
        if everywhere:
            table = whole.assign(outlined=whole.index.isin(table.index))
        parts.append(table.assign(magnification=pd.Series([name] * len(table), index=table.index, dtype="str")))
    found = pd.concat(parts, ignore_index=True)
    return found.assign(tile=np.arange(len(found), dtype=np.int64)), positions, _lines(refused) + _lines(empty) + notes


HINT = f"{FINER}; a run of multimag can enlarge it (--allow-upsampling)"


def _lines(reasons: dict[str, str]) -> list[str]:
    """Each reason once, with the magnifications that it holds for."""
    return [f"not at {name}: {why}" for name, why in reasons.items()]


def _outlined(table: pd.DataFrame, annotation: BaseGeometry | None, least: float) -> pd.DataFrame:
    """The tiles that hold enough of the outlines; all of them where there are none."""
    return table if annotation is None else table.loc[_within(table, annotation.area, least)]


def _fullest(table: pd.DataFrame) -> pd.DataFrame:
    """The tile with most tissue, the first of equals; no row where no tile holds any."""
    return table[table["tissue"] > 0].nlargest(1, "tissue", keep="first")


def _within(table: pd.DataFrame, outlined_area: float, least: float) -> np.ndarray:
    """Which tiles hold enough of the outlines, by their share of the tile or of the outlines, whichever is smaller."""
    tile_area = (table["w0"] * table["h0"]).to_numpy()
    share = table["tumour"].to_numpy() * tile_area / np.minimum(tile_area, outlined_area)
    return np.asarray(share >= least - 1e-9)


def reading_order(table: pd.DataFrame, names: Sequence[str], block_px: int = BLOCK_PX) -> np.ndarray:
    """The order in which tiles are read, int64 (n,): block by block of the slide, in it by magnification and place."""
    rank = table["magnification"].map({name: place for place, name in enumerate(names)})
    x, y = table["x"].to_numpy(), table["y"].to_numpy()
    return np.lexsort((x, y, rank.to_numpy(np.int64), x // block_px, y // block_px)).astype(np.int64)
