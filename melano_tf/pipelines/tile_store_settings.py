"""How tiles are stored, and what a stored slide is known by."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from melano_tf.errors import InputError
from melano_tf.runs.settings_digest import digest, plain
from melano_tf.slides.annotations import AS_DRAWN, AnnotationSettings
from melano_tf.slides.magnifications import TileGrids
from melano_tf.slides.tiling import TileGrid
from melano_tf.slides.tissue import HEADROOM

FORMAT = 4  # part of every key: change it when the files' content changes
ROW = ("slide_id", "path", "patient_id", "label", "annotation", "mpp")
Grid = TileGrid | TileGrids


@dataclass(frozen=True)
class StoreSettings:
    """How tiles are stored.

    Raises:
        InputError: a value outside its range.
    """

    stored_px: int = 224
    """Side of a stored tile in pixels, at least the model's input (section 4.1: 224)."""
    jpeg_quality: int = 90
    """JPEG quality of stored tiles, 1 to 100 (not in the paper)."""
    mask_mpp: float = 8.0
    """Resolution of the tissue mask in µm/px (our reading)."""
    mask_headroom: float | None = HEADROOM
    """Otsu's threshold sees M = 255 - G only up to this much above the palest hundredth of the scan, so that pale
    dermis stays tissue beside much pigment (our reading; the paper says Otsu only). None: plain Otsu."""

    def __post_init__(self) -> None:
        faults = []
        if self.stored_px < 1:
            faults.append(f"stored_px must be at least 1, and is {self.stored_px}")
        if not 1 <= self.jpeg_quality <= 100:
            faults.append(f"jpeg_quality must lie between 1 and 100, and is {self.jpeg_quality}")
        if not self.mask_mpp > 0:
            faults.append(f"mask_mpp must be above 0, and is {self.mask_mpp}")
        if self.mask_headroom is not None and not 0 < self.mask_headroom <= 255:
            faults.append(f"mask_headroom must lie above 0, to 255 (or be None), and is {self.mask_headroom}")
        if faults:
            raise InputError.of("store:", faults)

    @classmethod
    def recorded(cls, content: Mapping[str, Any]) -> "StoreSettings":
        """From a model's sidecar; older ones also recorded how outlines were mended, which no prediction needs."""
        return cls(**{name: value for name, value in content.items() if name != "mend_outlines"})


def slide_key(
    row: Mapping[str, Any], grid: Grid, store: StoreSettings, annotation: AnnotationSettings = AS_DRAWN
) -> str:
    """The key of a slide's stored tiles: the settings, the manifest's row, size and date of the files it names.

    How outlines are read counts where the slide has any.

    Raises:
        OSError: a file of the row cannot be looked at.
    """
    values = plain_row(row)
    stats = [Path(values[name]).stat() for name in ("path", "annotation") if values[name] is not None]
    dates = [(stat.st_size, stat.st_mtime_ns) for stat in stats]
    drawn = None if values["annotation"] is None else plain(annotation)
    facts = {"format": FORMAT, "grid": plain(grid), "store": plain(store), "annotation": drawn}
    return digest({**facts, "row": values, "files": dates})


def plain_row(row: Mapping[str, Any]) -> dict[str, Any]:
    """The row's values that matter here, missing ones as None."""
    values = {name: row.get(name) for name in ROW}
    return {name: None if pd.isna(value) or value == "" else value for name, value in values.items()}
