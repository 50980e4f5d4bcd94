"""What is written and said of a biopsy's slide beside its JSON: both maps, and the tiles for QuPath."""

from pathlib import Path
from typing import Any

import numpy as np

from melano_tf.pipelines.slide_apart import SlideApart
from melano_tf.pipelines.tile_store import StoreSettings
from melano_tf.reports.slide_maps import tumour_maps, write_slide_maps
from melano_tf.runs.sidecar import Sidecar
from melano_tf.serving.model_interface import Answer, Card
from melano_tf.slides.annotations import write_tiles_geojson
from melano_tf.slides.slide import Slide
from melano_tf.slides.tissue import TissueMask, tissue_mask


def cut_tissue(slide: Slide, sidecar: Sidecar) -> TissueMask:
    """The slide's tissue, by the settings under which the model's tiles are cut."""
    store = StoreSettings.recorded(sidecar.preprocessing["store"])
    return tissue_mask(slide, store.mask_mpp, store.mask_headroom)


def pictures(slide_id: str, card: Card) -> list[str]:
    """The files that `write_pictures` writes."""
    return [*(f"{slide_id}-{name}.png" for name in ("tumour", "attention")), "tiles.geojson"]


def write_pictures(answer: Answer, sidecar: Sidecar, out: Path, thumbnail_mpp: float | None) -> list[Path]:
    """Write `<slide_id>-tumour.png`, `<slide_id>-attention.png` and `tiles.geojson`; returns their paths."""
    assert answer.probabilities is not None and answer.tiles is not None
    case, tiles = answer.case, answer.tiles
    title = f"{case.path.stem}: probability of {sidecar.classes[1]} {answer.probabilities[1]:.3f}"
    with SlideApart(case.path, slide_id=case.path.stem, mpp=case.mpp) as slide:
        maps, tissue = tumour_maps(tiles, title), cut_tissue(slide, sidecar)
        written = write_slide_maps(out, slide, maps, None, thumbnail_mpp, tissue)
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


def words(answer: Answer, record: dict[str, Any], sidecar: Sidecar) -> list[str]:
    """The decision, and what it stands on."""
    assert answer.probabilities is not None
    evidence, positive = record["evidence"], sidecar.classes[1]
    decision = record["decision"] or "withheld"
    fallback = " (none was called tumour: the most probable ones)" if evidence["no_tile_called_tumour"] else ""
    return [
        f"{answer.case.path.stem}: {positive} {answer.probabilities[1]:.3f}, decision {decision} "
        f"at {sidecar.threshold:g}",
        f"  from {evidence['judged_tiles']} tiles{fallback or ' called tumour'} of {evidence['tissue_tiles']} "
        "with tissue",
        *([f"  note: {answer.notes}"] if answer.notes else []),
    ]


def last_words(answer: Answer) -> list[str]:
    """Nothing more."""
    return []
