from dataclasses import dataclass

import numpy as np
import pandas as pd
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from melano_tf.errors import InputError
from melano_tf.slides.tiling import TileGrid, check_fine_enough, grid_origins, refusal, tile_extent, tile_table


@dataclass
class FakeSlide:
    slide_id: str = "S1"
    size: tuple[int, int] = (4096, 2048)
    mpp: tuple[float, float] = (0.25, 0.25)


class LeftHalf:
    """Tissue in the left `edge` µm of the slide."""

    def __init__(self, edge: float) -> None:
        self.edge = edge

    def shares(self, boxes_um: np.ndarray) -> np.ndarray:
        return np.array([max(0.0, min(self.edge, x + w) - x) / w for x, _, w, _ in boxes_um])


def test_defaults_are_the_papers() -> None:
    assert TileGrid() == TileGrid(tile_px=512, mpp=1.0, overlap=0.5, min_tissue=0.2, tumour_share=0.5)


def test_grid_by_hand() -> None:
    # 512 px of 1 µm are 2048 level-0 px of 0.25 µm; half of it is the stride.
    origins = grid_origins((4096, 2048), (0.25, 0.25), TileGrid())
    assert origins.dtype == np.int64
    assert origins.tolist() == [[0, 0], [1024, 0], [2048, 0]]
    # One pixel more in each direction brings one more column and row.
    origins = grid_origins((4097, 2049), (0.25, 0.25), TileGrid())
    assert origins.tolist() == [[x, y] for y in (0, 1024) for x in (0, 1024, 2048, 3072)]


@pytest.mark.parametrize(
    ("mpp", "overlap", "length", "count"), [(0.23, 0.5, 5000, 22), (0.23, 0.0, 10000, 23), (0.7, 0.9, 200, 5)]
)
def test_flush_with_the_edge_brings_no_other_tile_by_rounding(
    mpp: float, overlap: float, length: int, count: int
) -> None:
    # 5000 px of 0.23 µm are 1150 µm: tiles of 100 µm every 50 µm, the 22nd ends there exactly; likewise the others.
    assert len(grid_origins((length, 1), (mpp, mpp), TileGrid(tile_px=100, overlap=overlap))) == count


def test_small_slide_has_one_tile_and_no_overlap_tiles_once() -> None:
    assert grid_origins((10, 3000), (1.0, 1.0), TileGrid(overlap=0.0)).tolist() == [[0, 512 * i] for i in range(6)]
    assert grid_origins((10, 10), (1.0, 1.0), TileGrid()).tolist() == [[0, 0]]


def test_pixels_that_are_not_square() -> None:
    grid = TileGrid(tile_px=100, overlap=0.0)
    assert tile_extent((0.5, 0.25), grid) == (200.0, 400.0)
    assert grid_origins((400, 800), (0.5, 0.25), grid).tolist() == [[0, 0], [200, 0], [0, 400], [200, 400]]


@settings(max_examples=300, deadline=None)
@given(
    width=st.integers(1, 5000),
    height=st.integers(1, 5000),
    mpp=st.sampled_from([0.23, 0.25, 0.2527, 0.499, 0.5, 1 / 3]),
    tile_px=st.integers(40, 600),
    overlap=st.sampled_from([0.0, 0.25, 1 / 3, 0.5, 0.75, 0.9]),
)
def test_every_pixel_is_covered_and_no_tile_is_useless(
    width: int, height: int, mpp: float, tile_px: int, overlap: float
) -> None:
    grid = TileGrid(tile_px=tile_px, overlap=overlap)
    origins = grid_origins((width, height), (mpp, mpp), grid)
    extent = tile_extent((mpp, mpp), grid)[0]
    assert len(np.unique(origins, axis=0)) == len(origins)
    assert origins.tolist() == sorted(origins.tolist(), key=lambda at: (at[1], at[0]))
    for axis, length in enumerate((width, height)):
        starts = np.unique(origins[:, axis])
        assert starts[0] == 0
        assert np.all(np.diff(starts) <= np.ceil(extent))
        # Origins are whole pixels, so the last one may stand half a pixel early.
        assert starts[-1] + extent >= length - 0.5 - 1e-6
        # Without the last tile the edge would not be reached.
        assert len(starts) == 1 or starts[-2] + extent < length + 0.5 + 1e-6
    assert len(origins) == len(np.unique(origins[:, 0])) * len(np.unique(origins[:, 1]))


def test_starts_do_not_drift() -> None:
    # 512 / 0.499 / 2 = 513.026… px: a stride cut to whole pixels would be 20 px off at the end.
    origins = grid_origins((400_000, 100), (0.499, 0.499), TileGrid())
    assert origins[-1, 0] == round((len(origins) - 1) * 512 / 0.499 / 2)


def test_table_keeps_enough_tissue_and_measures_tumour() -> None:
    # Tiles of 400 px (100 µm) without overlap: 4 columns, 2 rows. Tissue up to x = 220 µm: shares 1, 1, 0.2, 0.
    slide = FakeSlide(size=(1600, 800))
    grid = TileGrid(tile_px=100, overlap=0.0)
    outline = shapely.MultiPolygon([shapely.box(200, 0, 500, 400)])
    table, positions = tile_table(slide, LeftHalf(220.0), outline, grid, "P1", "benign")
    assert positions == 8
    assert table["x"].tolist() == [0, 400, 800, 0, 400, 800]
    assert table["y"].tolist() == [0, 0, 0, 400, 400, 400]
    assert table["tile"].tolist() == [0, 1, 2, 3, 4, 5]
    assert table["tissue"].tolist() == pytest.approx([1, 1, 0.2, 1, 1, 0.2])
    assert table["tumour"].tolist() == pytest.approx([0.5, 0.25, 0, 0, 0, 0])
    assert set(table["w0"]) == set(table["h0"]) == {400.0}
    assert set(table["slide_id"]) == {"S1"}
    assert set(table["patient_id"]) == {"P1"}
    assert set(table["label"]) == {"benign"}
    assert (table["tumour"] >= grid.tumour_share).tolist() == [True] + [False] * 5


def test_exactly_the_least_tissue_is_kept() -> None:
    class Mask:
        def shares(self, boxes_um: np.ndarray) -> np.ndarray:
            return np.array([np.nextafter(0.2, 0.0), 0.2, 0.1999])

    assert len(tile_table(FakeSlide(), Mask(), None, TileGrid(), "P", "benign")[0]) == 2


def test_tissue_is_asked_in_micrometres_of_both_axes() -> None:
    asked = []

    class Record:
        def shares(self, boxes_um: np.ndarray) -> np.ndarray:
            asked.append(boxes_um)
            return np.ones(len(boxes_um))

    slide = FakeSlide(size=(400, 800), mpp=(0.5, 0.25))
    table, _ = tile_table(slide, Record(), None, TileGrid(tile_px=100, overlap=0.5), "P", "b")
    assert set(table["w0"]) == {200.0} and set(table["h0"]) == {400.0}
    expected = [[x, y, 100, 100] for y in (0, 50, 100) for x in (0, 50, 100)]
    np.testing.assert_allclose(asked[0], expected)


def test_no_tiles_keep_their_types() -> None:
    full, _ = tile_table(FakeSlide(), LeftHalf(1000.0), None, TileGrid(), "P1", "benign")
    empty, positions = tile_table(FakeSlide(), LeftHalf(0.0), shapely.MultiPolygon(), TileGrid(), "P1", "benign")
    assert (len(full), len(empty), positions) == (3, 0, 3)
    assert full["tumour"].isna().all()
    assert empty.dtypes.to_dict() == full.dtypes.to_dict()
    assert pd.concat([empty, full]).dtypes.to_dict() == full.dtypes.to_dict()
    assert full.dtypes.astype(str)[["tile", "x", "y", "w0", "tissue"]].tolist() == ["int64"] * 3 + ["float64"] * 2


def test_shares_in_single_precision_are_kept_as_the_columns_promise() -> None:
    class Mask:
        def shares(self, boxes_um: np.ndarray) -> np.ndarray:
            return np.full(len(boxes_um), 0.75, np.float32)

    assert tile_table(FakeSlide(), Mask(), None, TileGrid(), "P", "benign")[0]["tissue"].dtype == np.float64


def test_without_tissue_filter_every_position_is_kept() -> None:
    table, positions = tile_table(FakeSlide(), LeftHalf(0.0), None, TileGrid(min_tissue=0.0), "P1", "benign")
    assert len(table) == positions == 3


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"tile_px": 0}, "tile_px = 0 must be 1 or more"),
        ({"mpp": 0.0}, "mpp = 0.0 must be from 0.05 to 20.0 µm/px"),
        ({"mpp": 20.1}, "mpp = 20.1 must be from 0.05 to 20.0 µm/px"),
        ({"mpp": float("nan")}, "mpp = nan must be from 0.05 to 20.0 µm/px"),
        ({"overlap": 1.0}, "overlap = 1.0 must be from 0 to below 1"),
        ({"overlap": -0.1}, "overlap = -0.1 must be from 0 to below 1"),
        ({"min_tissue": 1.1}, "min_tissue = 1.1 must be from 0 to 1"),
        ({"min_tissue": -0.1}, "min_tissue = -0.1 must be from 0 to 1"),
        ({"tumour_share": 0.0}, "tumour_share = 0.0 must be above 0, to 1"),
        ({"tumour_share": 1.1}, "tumour_share = 1.1 must be above 0, to 1"),
        ({"tile_px": 0, "overlap": 1.0}, "tile_px = 0 must be 1 or more; overlap = 1.0 must be from 0 to below 1"),
    ],
)
def test_settings_out_of_range(change: dict[str, float], words: str) -> None:
    with pytest.raises(InputError) as refused:
        TileGrid(**change)
    assert str(refused.value) == f"grid: {words}"


def test_settings_at_the_ends_of_their_ranges() -> None:
    for mpp in (0.05, 20.0):
        assert TileGrid(tile_px=1, mpp=mpp, overlap=0, min_tissue=1, tumour_share=1).mpp == mpp


def test_tiles_a_pixel_apart_and_less() -> None:
    assert grid_origins((4, 2), (1.0, 1.0), TileGrid(tile_px=2, overlap=0.5)).tolist() == [[0, 0], [1, 0], [2, 0]]
    with pytest.raises(InputError, match=r"0\.128 level-0 pixels apart"):
        grid_origins((100, 100), (4.0, 4.0), TileGrid(overlap=0.999))


@pytest.mark.parametrize(
    ("own", "most", "refused"),
    [
        ((1.1, 0.5), 0.1, False),  # exactly 10 % enlargement
        ((0.5, 1.11), 0.1, True),  # the coarser axis counts
        ((0.5, 1.11), 0.2, False),
        ((2.0, 2.0), 0.1, True),
        ((2.0, 2.0), None, False),
    ],
)
def test_a_slide_too_coarse_for_its_tiles(own: tuple[float, float], most: float | None, refused: bool) -> None:
    why = refusal(own, 1.0, most)
    assert bool(why) == refused
    if refused:
        assert f"its {max(own):g} µm/px would be enlarged {max(own):.2f} times to 1 µm/px" in why


def test_enlargement_is_counted_in_pixels_of_the_tiles() -> None:
    assert refusal((0.25, 0.54), 0.5) == ""
    assert refusal((0.25, 0.6), 0.5) == "its 0.6 µm/px would be enlarged 1.20 times to 0.5 µm/px"


def test_exactly_the_allowed_enlargement_is_none_too_much_by_rounding() -> None:
    assert 0.342 / 0.285 > 1.2
    assert refusal((0.342, 0.342), 0.285, 0.2) == ""


def test_it_is_said_of_which_slide() -> None:
    check_fine_enough(FakeSlide(mpp=(1.1, 1.1)), TileGrid())
    words = r"slide S1: its 1\.2 µm/px would be enlarged 1\.20 times to 1 .*correct its mpp.* a recipe .*--grid\.mpp"
    with pytest.raises(InputError, match=words):
        check_fine_enough(FakeSlide(mpp=(1.0, 1.2)), TileGrid())
