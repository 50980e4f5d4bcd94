"""What cutting refuses or notes of a slide, and what it does not store: the rest of it is in test_tile_store."""

from pathlib import Path
from typing import Any

import openslide
import pandas as pd
import pytest

from melano_tf.pipelines.slide_cutting import write_slide
from melano_tf.pipelines.tile_store_settings import StoreSettings
from melano_tf.slides.tiling import TileGrid
from tests.pipelines.small_slides import MPP, write_slide_file

STORE = StoreSettings(stored_px=32, mask_mpp=4.0)


@pytest.fixture(scope="module")
def row(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    path = write_slide_file(tmp_path_factory.mktemp("slides") / "s.tiff", 1)
    return {"slide_id": "s", "path": str(path), "patient_id": "p", "label": "benign", "annotation": None, "mpp": None}


@pytest.mark.parametrize(("mpp", "refused"), [(MPP, False), (MPP / 1.09, False), (MPP / 1.11, True), (MPP / 4, True)])
def test_a_slide_too_coarse_for_the_grid_is_left_out_with_its_reason(
    row: dict[str, Any], tmp_path: Path, mpp: float, refused: bool
) -> None:
    outcome = write_slide(row, TileGrid(tile_px=64, mpp=mpp, overlap=0.0), STORE, tmp_path)
    if not refused:
        assert outcome.status == "done" and outcome.tiles == len(pd.read_parquet(tmp_path / "s.tiles.parquet"))
        return
    assert outcome.status == "failed" and outcome.tiles == 0
    assert f"slide s: its 0.5 µm/px would be enlarged {0.5 / mpp:.2f} times to {mpp:g} µm/px" in outcome.reason
    assert [path.suffix for path in tmp_path.iterdir()] == [".json"]


def test_a_resolution_that_contradicts_itself_is_noted(
    row: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    properties = openslide.OpenSlide.properties.fget
    doubtful = {"openslide.mpp-x": "0.5", "openslide.mpp-y": "0.7"}
    monkeypatch.setattr(openslide.OpenSlide, "properties", property(lambda slide: {**properties(slide), **doubtful}))
    outcome = write_slide(row, TileGrid(tile_px=64, mpp=1.0, overlap=0.0), STORE, tmp_path)
    assert outcome.status == "done" and "the file tells 0.5 x 0.7 µm/px" in outcome.notes
