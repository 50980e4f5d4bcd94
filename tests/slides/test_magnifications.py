"""Tiles of several magnifications: which are possible, which lie in the outlines, in which order they are read."""

import numpy as np
import pandas as pd
import pytest
import shapely

from melano_tf.errors import InputError
from melano_tf.slides.magnifications import TileGrids, magnified_table, reading_order
from melano_tf.slides.tiling import tile_table


class FakeSlide:
    """A slide's name, size (level-0 px) and resolution."""

    def __init__(self, size: tuple[int, int] = (10_240, 5_120), mpp: float = 0.25) -> None:
        self.slide_id, self.size, self.mpp = "s", size, (mpp, mpp)


class LeftHalf:
    """Tissue left of a line, µm."""

    def __init__(self, edge: float = 1280.0) -> None:
        self.edge = edge

    def shares(self, boxes_um: np.ndarray) -> np.ndarray:
        x, _, w, _ = boxes_um.T
        return np.clip((self.edge - x) / w, 0, 1)


GRIDS = TileGrids()


def test_the_defaults_are_the_papers() -> None:
    assert dict(zip(GRIDS.names, GRIDS.mpp, strict=True)) == {"4x": 5, "10x": 1, "20x": 0.5, "40x": 0.275}
    assert (GRIDS.tile_px, GRIDS.overlap, GRIDS.min_tissue) == (256, 0.0, 0.6)


@pytest.mark.parametrize(
    "mpp, refused",
    [
        (0.25, []),
        (0.3025, []),  # exactly 10 % enlargement
        (0.3026, ["40x"]),
        (0.499, ["40x"]),
        (0.551, ["20x", "40x"]),
        (1.0, ["20x", "40x"]),
        (5.6, ["4x", "10x", "20x", "40x"]),
    ],
)
def test_ten_percent_enlargement_and_no_more(mpp: float, refused: list[str]) -> None:
    assert list(GRIDS.refusals((mpp, mpp))) == refused
    assert list(GRIDS.refusals((mpp, 0.1))) == refused  # the coarser axis counts
    assert TileGrids(most_enlargement=None).refusals((mpp, mpp)) == {}


def test_each_magnification_has_the_tiles_of_its_own_grid() -> None:
    slide, mask = FakeSlide(), LeftHalf()
    table, positions, lines = magnified_table(slide, mask, None, GRIDS, "p", "MM")
    assert lines == []
    assert table["tile"].tolist() == list(range(len(table)))
    alone = 0
    for name in GRIDS.names:
        own, count = tile_table(slide, mask, None, GRIDS.at(name), "p", "MM")
        rows = table[table["magnification"] == name].drop(columns=["magnification", "tile"]).reset_index(drop=True)
        pd.testing.assert_frame_equal(rows, own.drop(columns="tile"))
        alone += count
    assert positions == alone
    assert table["magnification"].value_counts().to_dict() == {"4x": 1, "10x": 25, "20x": 100, "40x": 342}


def test_what_is_left_out_is_said() -> None:
    table, _, lines = magnified_table(FakeSlide(mpp=0.5), LeftHalf(), None, GRIDS, "p", "MM")
    assert set(table["magnification"]) == {"4x", "10x", "20x"}
    assert lines == ["not at 40x: its 0.5 µm/px would be enlarged 1.82 times to 0.275 µm/px"]
    _, _, lines = magnified_table(FakeSlide(), LeftHalf(700), None, GRIDS, "p", "MM")
    assert lines == ["not at 4x: no tile with at least 60% tissue"]
    with pytest.raises(
        InputError, match=r"slide s: no magnification is possible.*correct its mpp.* a run .*--allow-upsampling"
    ):
        magnified_table(FakeSlide(mpp=6.0), LeftHalf(), None, GRIDS, "p", "MM")


def test_the_fullest_tile_where_none_has_enough_tissue_and_only_if_asked() -> None:
    grids = TileGrids(fullest=True)
    table, positions, lines = magnified_table(FakeSlide(), LeftHalf(700), None, grids, "p", "MM")
    assert lines == ["at 4x: no tile with at least 60% tissue; the one with most, 55%, was kept"]
    [coarse] = table[table["magnification"] == "4x"].to_dict("records")
    assert (coarse["x"], coarse["y"]) == (0, 0)  # of two equal ones the first
    assert coarse["tissue"] == pytest.approx(700 / 1280)
    plain, same, _ = magnified_table(FakeSlide(), LeftHalf(700), None, GRIDS, "p", "MM")
    assert positions == same
    finer = table[table["magnification"] != "4x"].drop(columns="tile").reset_index(drop=True)
    pd.testing.assert_frame_equal(finer, plain.drop(columns="tile"))  # the other magnifications are as without
    nothing, _, lines = magnified_table(FakeSlide(), LeftHalf(-1), None, grids, "p", "MM")
    assert len(nothing) == 0
    assert lines == [f"not at {name}: no tile with at least 60% tissue" for name in grids.names]
    away = shapely.MultiPolygon([shapely.box(9000, 0, 9800, 800)])
    table, _, _ = magnified_table(FakeSlide(), LeftHalf(2400), away, grids, "p", "MM")
    assert table[table["magnification"] == "4x"]["x"].tolist() == [5120]  # the fullest is not outlined


def test_outlines_choose_tiles_and_a_coarse_grid_keeps_the_one_that_holds_them() -> None:
    # 200 x 200 µm in the corner of the first 4x tile: 2.4 % of that tile, but all of the outline.
    outline = shapely.MultiPolygon([shapely.box(0, 0, 800, 800)])
    table, _, _ = magnified_table(FakeSlide(), LeftHalf(), outline, GRIDS, "p", "MM")
    counts = table["magnification"].value_counts().to_dict()
    # 10x: the one tile of 256 µm; 20x: 128 µm, the fourth one is covered by 0.5625 squared; 40x: 70.4 µm.
    assert counts == {"4x": 1, "10x": 1, "20x": 4, "40x": 9}


def test_reading_goes_block_by_block_through_all_magnifications() -> None:
    table, _, _ = magnified_table(FakeSlide(), LeftHalf(), None, GRIDS, "p", "MM")
    order = reading_order(table, GRIDS.names, 2048)
    assert order.dtype == np.int64

    def place(row: int) -> tuple[int, ...]:
        tile = table.iloc[row]
        rank = GRIDS.names.index(tile["magnification"])
        return tile["y"] // 2048, tile["x"] // 2048, rank, tile["y"], tile["x"]

    assert order.tolist() == sorted(range(len(table)), key=place)


@pytest.mark.parametrize(
    "wrong, words",
    [
        ({"mpp": (1.0, 2.0)}, "as many"),
        ({"names": ("a", "a", "b", "c")}, "differ"),
        ({"outlined": 0.0}, "outlined"),
        ({"outlined": 1.1}, "outlined"),
        ({"most_enlargement": -0.1}, "most_enlargement"),
        ({"mpp": (5.0, 1.0, 0.5, 0.0)}, "mpp"),
    ],
)
def test_settings_that_cannot_be(wrong: dict, words: str) -> None:
    with pytest.raises(InputError, match=words):
        TileGrids(**wrong)
