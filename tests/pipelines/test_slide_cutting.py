"""What cutting refuses or notes of a slide, and what it does not store: the rest of it is in test_tile_store."""

import itertools
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import openslide
import pandas as pd
import pytest

from melano_tf.pipelines.slide_cutting import cutting_order, write_slide
from melano_tf.pipelines.tile_store_settings import StoreSettings
from melano_tf.slides.pyramid_levels import CELL_PX
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


@pytest.mark.parametrize("held_mib", [0.0, 10.0, 1000.0])
def test_tiles_are_cut_row_by_row_in_columns_of_what_is_held(held_mib: float) -> None:
    """Two rows of tiles, RGB, with the file's own tiles that both cut through; no column is narrower than those."""
    scale, mpp, grid = (2.0, 3.0), (0.5, 0.4), TileGrid(tile_px=100, mpp=2.4, overlap=0.0)
    rows = 2 * 200 + 2 * CELL_PX  # a tile's 240 µm are 200 px of a level with 1.2 µm/px
    width = max(held_mib * 2**20 / 3 / rows, CELL_PX) * 2  # in level 0
    steps = [0, 1, width - 1, width, width + 1, 2 * width - 1, 2 * width, 5 * width]
    places = list(itertools.product((7, 3, 900), [int(step) for step in steps]))  # (y, x)
    table = pd.DataFrame(np.random.default_rng(2).permutation(places), columns=["y", "x"])
    slide: Any = SimpleNamespace(mpp=mpp, held_mib=held_mib, best_level=lambda asked: {2.4: level}[asked])
    level = SimpleNamespace(scale=scale)
    found = table.iloc[cutting_order(slide, table, grid)]
    expected = sorted(places, key=lambda place: (place[1] // width, *place))
    assert [(y, x) for y, x in found.to_numpy().tolist()] == expected
