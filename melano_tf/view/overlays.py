"""What lies over a slide: maps of tiles' values that end where the tissue ends, outlines, tissue mask, tile grid."""

import threading
from collections import Counter, OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from melano_tf.errors import InputError
from melano_tf.explain.heat_maps import tile_map, within_bag
from melano_tf.pipelines.tfrecords import slide_files
from melano_tf.slides.annotation_formats import Fault, read_outlines
from melano_tf.slides.slide import Slide
from melano_tf.slides.tissue import HEADROOM, TissueMask, tissue_mask
from melano_tf.view.model_predictions import read_attention, read_tiles
from melano_tf.view.run_cases import Seen

MAP_PX = 1024  # longer side of a map, at most; between its pixels the browser draws squares
COARSEST_MASK_PX = 4096  # longer side of the tissue mask, at most
KEPT_MASKS = 4


@dataclass(frozen=True, eq=False)
class Overlay:
    """One value of a slide's tiles that can be drawn over it.

    Attributes:
        name: as the page calls it.
        words: of the legend.
        tiles: one row a tile: tile, magnification, x, y, w0, h0 (level-0 px), value (0 to 1, as drawn), raw.
        threshold: from which on a tile is called, or None.
        model: whose it is.
    """

    name: str
    words: str
    tiles: pd.DataFrame
    threshold: float | None
    model: str


def slide_tiles(run: Seen, slide_id: str) -> pd.DataFrame:
    """The slide's tiles: tile, magnification, x, y, w0, h0 (level-0 px), tissue; none where it was not cut."""
    path = slide_files(run.folder / "tiles", slide_id)[1]
    columns = ["tile", "magnification", "x", "y", "w0", "h0", "tissue"]
    if not path.is_file():
        return pd.DataFrame(columns=columns)
    frame = pd.read_parquet(path)
    if "magnification" not in frame:
        frame = frame.assign(magnification="")
    return frame[columns].reset_index(drop=True)


def overlays_of(run: Seen, slide_id: str) -> dict[str, Overlay]:
    """All values that the run's models gave this slide's tiles, by name."""
    tiles = slide_tiles(run, slide_id)
    found: dict[str, Overlay] = {}
    if not len(tiles):
        return found
    for name, frame in read_attention(run.standing, slide_id).items():
        own = tiles.merge(frame, on="tile")
        own = own.assign(value=within_bag(own["attention"]), raw=own["attention"]).drop(columns="attention")
        found[f"attention ({name})"] = Overlay(
            f"attention ({name})", "attention, 0 to 1 within the bag", own, None, name
        )
    for name, model in run.tile_models.items():
        judged = read_tiles(run.standing, model, slide_id)
        own = tiles.merge(judged, on=["tile", "magnification"])
        if not len(own):
            continue
        several, magnifications = len(model.classes) > 2, len(own["magnification"].unique())
        for place in range(len(model.classes)) if several else (1,):
            what = model.classes[place]
            for magnification, part in own.groupby("magnification", sort=False):
                label = f"{what} ({name})" + (f" at {magnification}" if magnifications > 1 else "")
                values = part.assign(value=part[f"p{place}"], raw=part[f"p{place}"])
                threshold = None if several else model.threshold
                kept = values[[*tiles.columns, "value", "raw"]].reset_index(drop=True)
                found[label] = Overlay(label, f"probability of {what}", kept, threshold, name)
    return found


def map_shape(size: tuple[int, int], longest: int = MAP_PX) -> tuple[int, int]:
    """(h, w) of a map of a slide of (w, h) level-0 px."""
    ratio = min(1.0, longest / max(size))
    return max(1, round(size[1] * ratio)), max(1, round(size[0] * ratio))


def overlay_map(
    overlay: Overlay, size: tuple[int, int], mpp: tuple[float, float], tissue: TissueMask
) -> NDArray[np.float32]:
    """The values as a map over the whole slide, float32 (h, w), NaN where no tile or no tissue lies."""
    shape, rows = map_shape(size), overlay.tiles
    inside = tissue.sampled(shape, (size[0] * mpp[0] / shape[1], size[1] * mpp[1] / shape[0]))
    return tile_map(rows["x"], rows["y"], rows["w0"], rows["h0"], rows["value"], size, shape, tissue=inside)


class Masks:
    """Tissue masks of the slides that were looked at last, as the run's settings find them; for several threads."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[str, float, float | None], TissueMask] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, run: Seen, slide: Slide) -> TissueMask:
        """The mask of an open slide.

        Raises:
            SlideReadError: a decode error.
        """
        store = run.record["settings"].get("store") or {}
        headroom = store.get("mask_headroom", HEADROOM)
        longest = max(length * own for length, own in zip(slide.size, slide.mpp, strict=True))
        mpp = max(float(store.get("mask_mpp", 8.0)), longest / COARSEST_MASK_PX)
        key = (str(slide.path), mpp, headroom)
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


def mask_map(tissue: TissueMask, size: tuple[int, int], mpp: tuple[float, float]) -> NDArray[np.float32]:
    """The tissue as a map, 1 inside and NaN outside; (w, h) in level-0 px and their µm."""
    shape = map_shape(size)
    inside = tissue.sampled(shape, (size[0] * mpp[0] / shape[1], size[1] * mpp[1] / shape[0]))
    return np.where(inside, np.float32(1), np.float32(np.nan))


def tiles_in(frame: pd.DataFrame, x0: float, y0: float, x1: float, y1: float) -> pd.DataFrame:
    """The tiles that meet a window, level-0 px."""
    keep = (frame["x"] < x1) & (frame["y"] < y1)
    keep &= (frame["x"] + frame["w0"] > x0) & (frame["y"] + frame["h0"] > y0)
    return frame[keep]
