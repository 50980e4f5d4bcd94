"""What predict writes of a slide beside its JSON: both maps, and the tiles as a GeoJSON that QuPath opens."""

from pathlib import Path

import numpy as np
import pandas as pd

from melano_tf.pipelines.store import StoreSettings
from melano_tf.reports.slide_maps import write_slide_maps
from melano_tf.slides.annotations import write_tiles_geojson
from melano_tf.slides.slide import Slide
from melano_tf.slides.tissue import tissue_mask


def write_slide_files(
    slide_path: Path,
    slide_id: str,
    mpp: float | None,
    thumbnail_mpp: float | None,
    tiles: pd.DataFrame,
    title: str,
    out: Path,
    store: StoreSettings,
) -> list[Path]:
    """Write `<slide_id>-tumour.png`, `<slide_id>-attention.png` and `tiles.geojson`; returns their paths."""
    with Slide(slide_path, slide_id=slide_id, mpp=mpp) as slide:
        tissue = tissue_mask(slide, store.mask_mpp, store.mask_headroom)
        written = write_slide_maps(out, slide, tiles, None, thumbnail_mpp, title, tissue)
    geojson = out / "tiles.geojson"
    write_tiles_geojson(
        geojson,
        tiles[["x", "y", "w0", "h0"]].to_numpy(float),
        {
            "tumour probability": tiles["probability"].to_numpy(),
            "attention": tiles["attention"].to_numpy(),
            "classification": np.where(tiles["selected"], "tumour", "other").astype(object),
        },
    )
    return [*written, geojson]
