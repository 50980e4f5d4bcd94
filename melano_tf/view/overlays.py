"""What lies over a slide: maps of tiles' values that end where the tissue ends, outlines, tissue mask, tile grid."""

import threading
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from melano_tf.errors import InputError
from melano_tf.explain.heat_maps import tile_map, within_bag
from melano_tf.pipelines.tfrecords import slide_files
from melano_tf.runs.file_integrity import read_frame
from melano_tf.slides.annotation_formats import Fault, read_outlines
from melano_tf.slides.slide import Slide
from melano_tf.slides.tissue import HEADROOM, TissueMask, tissue_mask
from melano_tf.view.lattice import Lattice
from melano_tf.view.model_predictions import TileModel, read_attention, read_tiles
from melano_tf.view.run_cases import Seen

MASK_PX = 1024  # longer side of a tissue mask, at most
KEPT_MASKS = 4


@dataclass(frozen=True, eq=False)
class Overlay:
    """One value of a slide's tiles that can be drawn over it; read when it is first wanted.

    Attributes:
        name: as the page calls it.
        words: of the legend.
        read: reads `tiles`.
        threshold: from which on a tile is called, or None.
        model: whose it is.
        class_index: of the class whose probability it is, or None.
    """

    name: str
    words: str
    read: Callable[[], pd.DataFrame]
    threshold: float | None
    model: str
    class_index: int | None

    @cached_property
    def tiles(self) -> pd.DataFrame:
        """One row a tile: tile, magnification, x, y, w0, h0 (level-0 px), tissue, value (0 to 1, as drawn), raw."""
        return self.read()


def slide_tiles(run: Seen, slide_id: str) -> pd.DataFrame:
    """The slide's tiles: tile, magnification, x, y, w0, h0 (level-0 px), tissue; none where it was not cut."""
    path = slide_files(run.folder / "tiles", slide_id)[1]
    columns = ["tile", "magnification", "x", "y", "w0", "h0", "tissue"]
    if not path.is_file():
        return pd.DataFrame(columns=columns)
    frame = read_frame(path)
    if "magnification" not in frame:
        frame = frame.assign(magnification="")
    return frame[columns].reset_index(drop=True)


def overlays_of(run: Seen, slide_id: str) -> dict[str, Overlay]:
    """All values that the run's models gave this slide's tiles, by name; none is read yet."""
    if not slide_files(run.folder / "tiles", slide_id)[1].is_file():
        return {}
    found: list[Overlay] = []
    for name, stem_of in run.attention.items():
        if stem := stem_of.get(slide_id):
            read = partial(_attention, run, slide_id, stem)
            found.append(Overlay(f"attention ({name})", "attention, 0 to 1 within the bag", read, None, name, None))
    for name, model in run.tile_models.items():
        several, at = len(model.classes) > 2, model.magnifications.get(slide_id, ())
        for place in range(len(model.classes)) if several else (1,):
            what, threshold = model.classes[place], None if several else model.threshold
            for magnification in at:
                label = f"{what} ({name})" + (f" at {magnification}" if len(at) > 1 else "")
                read = partial(_probability, run, slide_id, model, place, magnification)
                found.append(
                    Overlay(label, f"probability of {what}{model.stood(slide_id)}", read, threshold, name, place)
                )
    return {one.name: one for one in found}


def _attention(run: Seen, slide_id: str, stem: str) -> pd.DataFrame:
    own = slide_tiles(run, slide_id).merge(read_attention(run.standing, stem, slide_id), on="tile")
    return own.assign(value=within_bag(own["attention"]), raw=own["attention"]).drop(columns="attention")


def _probability(run: Seen, slide_id: str, model: TileModel, place: int, magnification: str) -> pd.DataFrame:
    tiles = slide_tiles(run, slide_id)
    judged = read_tiles(run.standing, model, slide_id)
    own = tiles.merge(judged[judged["magnification"] == magnification], on=["tile", "magnification"])
    values = own.assign(value=own[f"p{place}"], raw=own[f"p{place}"])
    return values[[*tiles.columns, "value", "raw"]]


def overlay_map(
    overlay: Overlay, size: tuple[int, int], mpp: tuple[float, float], tissue: TissueMask, on: Lattice
) -> NDArray[np.uint8]:
    """The values as a map, uint8 of the lattice's shape: 0 where no tile or no tissue lies, 1 to 255 is 0 to 1.

    Args:
        overlay: what is drawn.
        size, mpp: of the slide, level-0 px and their µm.
        tissue: of the slide.
        on: the map's pixels.
    """
    rows, inside = overlay.tiles, mask_map(tissue, size, mpp, on) > 0
    boxes = (rows["x"] - on.x, rows["y"] - on.y, rows["w0"], rows["h0"])
    found = tile_map(*boxes, rows["value"], on.size, on.shape, tissue=inside)
    return np.where(np.isnan(found), 0, 1 + np.rint(254 * np.nan_to_num(found))).astype(np.uint8)


def mask_map(tissue: TissueMask, size: tuple[int, int], mpp: tuple[float, float], on: Lattice) -> NDArray[np.uint8]:
    """The tissue as a map, uint8 of the lattice's shape: 1 inside, 0 outside and beyond the slide; as `overlay_map`."""
    start, step = ((on.x * mpp[0], on.y * mpp[1]), (on.step * mpp[0], on.step * mpp[1]))
    return (tissue.sampled(on.shape, step, start) & on.within(size)).astype(np.uint8)


class Masks:
    """Tissue masks of the slides that were looked at last, as the run's settings find them; for several threads."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[Any, ...], TissueMask] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, run: Seen, slide: Slide) -> TissueMask:
        """The mask of an open slide.

        Raises:
            SlideReadError: a decode error.
        """
        store = run.record["settings"].get("store") or {}
        headroom = store.get("mask_headroom", HEADROOM)
        longest = max(length * own for length, own in zip(slide.size, slide.mpp, strict=True))
        mpp = max(float(store.get("mask_mpp", 8.0)), longest / MASK_PX)
        key = (str(slide.path), slide.mpp, mpp, headroom)  # two runs may say other resolutions of one file
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        found = tissue_mask(slide, mpp, headroom)
        with self._lock:
            self._kept[key] = found
            while len(self._kept) > KEPT_MASKS:
                self._kept.popitem(last=False)
        return found


@dataclass(frozen=True)
class Outlines:
    """Annotation outlines of a slide by class, in level-0 px, or why there are none.

    Attributes:
        rings: {class: one entry a polygon: [outer ring, holes …], each (n, 2)}.
        fault: what was wrong with the file, or "".
    """

    rings: Mapping[str, list[list[NDArray[np.float64]]]]
    fault: str = ""


def outlines_of(path: Any, origin: tuple[float, float]) -> Outlines:
    """The outlines of an annotation file by class, as drawn; what cannot be read is said."""
    if not isinstance(path, str) or not path:
        return Outlines({})
    rings: dict[str, list[list[NDArray[np.float64]]]] = {}
    try:
        for outline in read_outlines(Path(path), Counter(), [], origin):
            name = "hole" if outline.hole else outline.name or "outline"
            if len(outline.shell) >= 3:
                parts = [np.asarray(ring, np.float64) for ring in (outline.shell, *outline.inner) if len(ring) >= 3]
                rings.setdefault(name, []).append(parts)
    except (Fault, InputError, OSError) as error:
        return Outlines({}, f"annotation {Path(path).name}: {error}")
    return Outlines(rings)


def tiles_in(frame: pd.DataFrame, x0: float, y0: float, x1: float, y1: float) -> pd.DataFrame:
    """The tiles that meet a window, level-0 px."""
    keep = (frame["x"] < x1) & (frame["y"] < y1)
    keep &= (frame["x"] + frame["w0"] > x0) & (frame["y"] + frame["h0"] > y0)
    return frame[keep]
