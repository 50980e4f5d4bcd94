"""Maps land on the right pixels, are bilinear between centres, and cover what tiles cover and nothing else."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.interpolate import RegularGridInterpolator

from melano_tf.explain.heat_maps import overlay, tile_map, within_bag


def lattice(size: tuple[int, int], stride: tuple[float, float]) -> tuple[np.ndarray, np.ndarray]:
    """Origins of a full grid, rounded to whole pixels as the tiler rounds them."""
    x, y = (np.rint(np.arange(0, extent, step)).astype(int) for extent, step in zip(size, stride, strict=True))
    xs, ys = np.meshgrid(x, y)
    return xs.ravel(), ys.ravel()


def centroid(values: np.ndarray) -> tuple[float, float]:
    """Centre of mass in pixel coordinates, in which the first pixel's centre is 0.5."""
    weight = np.nan_to_num(values)
    rows, columns = np.indices(values.shape) + 0.5
    return float((weight * columns).sum() / weight.sum()), float((weight * rows).sum() / weight.sum())


@pytest.mark.parametrize(
    ("size", "tile", "out_shape"),
    [
        ((20_000, 16_000), (2048.0, 2048.0), (500, 625)),  # 0.25 µm/px, thumbnail of 8 µm/px, whole numbers
        ((20_011, 15_987), (2048.0, 2048.0), (500, 626)),  # the thumbnail is rounded up
        ((9_999, 20_001), (1026.05, 1024.0), (333, 197)),  # other scales along x and y, 0.499 µm/px
        ((8_000, 8_000), (2226.1, 1024.0), (400, 150)),  # anisotropic pixels
    ],
)
@pytest.mark.parametrize("overlap", [0.5, 0.0, 0.75])
def test_one_hot_tile_lands_on_the_right_pixels(size, tile, out_shape, overlap) -> None:
    x, y = lattice(size, (tile[0] * (1 - overlap), tile[1] * (1 - overlap)))
    inside = np.flatnonzero((x > tile[0]) & (y > tile[1]) & (x < size[0] - 2 * tile[0]) & (y < size[1] - 2 * tile[1]))
    for hot in inside[:: max(1, len(inside) // 5)]:
        values = np.zeros(len(x))
        values[hot] = 1.0
        found = tile_map(x, y, *tile, values, size, out_shape)
        expected_x = (x[hot] + tile[0] / 2) / size[0] * out_shape[1]
        expected_y = (y[hot] + tile[1] / 2) / size[1] * out_shape[0]
        assert centroid(found) == pytest.approx((expected_x, expected_y), abs=0.5)
        row, column = np.unravel_index(np.nanargmax(found), found.shape)
        assert (column + 0.5, row + 0.5) == pytest.approx((expected_x, expected_y), abs=0.5 + 1e-6)
        assert found.max() <= 1 + 1e-6


def test_a_tile_alone_fills_its_own_pixels() -> None:
    found = tile_map([30], [50], 20, 10, [0.7], (100, 100), (100, 50))
    expected = np.full((100, 50), np.nan)
    expected[50:60, 15:25] = 0.7
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_a_tile_that_hangs_over_the_tissue_colours_no_glass() -> None:
    tissue = np.zeros((10, 20), bool)
    tissue[2:7, 3:11] = True
    found = tile_map([0], [0], 100, 100, [0.7], (200, 100), (10, 20), tissue=tissue)
    expected = np.full((10, 20), np.nan)
    expected[2:7, 3:10] = 0.7  # the tile ends at pixel 10, the tissue at 11
    np.testing.assert_allclose(found, expected, atol=1e-6)
    with pytest.raises(ValueError, match="tissue"):
        tile_map([0], [0], 100, 100, [0.7], (200, 100), (10, 20), tissue=tissue[1:])


def test_two_tiles_far_apart_do_not_mix() -> None:
    found = tile_map([0, 80], [0, 0], 20, 20, [0.0, 1.0], (100, 20), (20, 100))
    assert (found[:, :20] == 0).all() and (found[:, 80:] == 1).all() and np.isnan(found[:, 20:80]).all()


def test_bilinear_between_centres_as_scipy() -> None:
    size, out_shape = (1000, 700), (137, 211)
    x, y = lattice(size, (50, 50))
    values = np.random.default_rng(0).random(len(x))
    found = tile_map(x, y, 100, 100, values, size, out_shape)
    shape = (len(np.unique(y)), len(np.unique(x)))
    reference = RegularGridInterpolator((np.unique(y) + 50, np.unique(x) + 50), values.reshape(shape))
    rows = np.clip((np.arange(137) + 0.5) * 700 / 137, 50, None)
    columns = np.clip((np.arange(211) + 0.5) * 1000 / 211, 50, None)
    np.testing.assert_allclose(found, reference(tuple(np.meshgrid(rows, columns, indexing="ij"))), atol=1e-6)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([0.25, 0.5, 0.7, 1.0]), st.floats(0.02, 1))
def test_any_subset_of_tiles(seed: int, step: float, share: float) -> None:
    rng = np.random.default_rng(seed)
    size, tile, out_shape = (1000, 800), (160.0, 120.0), (91, 123)
    x, y = lattice(size, (160 * step, 120 * step))
    kept = rng.random(len(x)) < share
    kept[rng.integers(len(x))] = True
    x, y = x[kept], y[kept]
    covered = np.zeros(out_shape, bool)
    columns, rows = (np.arange(123) + 0.5) * 1000 / 123, (np.arange(91) + 0.5) * 800 / 91
    for left, top in zip(x, y, strict=True):
        covered |= np.outer((rows >= top) & (rows < top + 120), (columns >= left) & (columns < left + 160))
    # a constant stays that constant on every covered pixel, and no other pixel has a value
    constant = tile_map(x, y, *tile, np.full(len(x), 0.3), size, out_shape)
    np.testing.assert_array_equal(np.isfinite(constant), covered)
    np.testing.assert_allclose(constant[covered], 0.3, rtol=1e-6)
    values = rng.random(len(x))
    found = tile_map(x, y, *tile, values, size, out_shape)[covered]
    assert found.min() >= values.min() - 1e-6
    assert found.max() <= values.max() + 1e-6


def test_scale_of_a_thumbnail_that_reaches_beyond_the_slide() -> None:
    # 1001 px at 1/100: eleven pixels, of which the last is nearly all padding
    exact = tile_map([900], [0], 100, 100, [1.0], (1001, 100), (1, 11), scale=(100.0, 100.0))
    assert np.flatnonzero(np.isfinite(exact[0])).tolist() == [9]


def test_no_tiles_and_bad_values() -> None:
    assert np.isnan(tile_map([], [], [], [], [], (10, 10), (5, 5))).all()
    with pytest.raises(ValueError, match="1 values of tiles are not finite"):
        tile_map([0, 5], [0, 0], 5, 5, [0.5, np.nan], (10, 10), (5, 5))


def test_attention_within_its_bag() -> None:
    np.testing.assert_allclose(within_bag([0.1, 0.2, 0.5]), [0, 0.25, 1])
    np.testing.assert_array_equal(within_bag([0.25] * 4), np.ones(4))
    assert within_bag([]).shape == (0,)


def test_overlay_leaves_the_thumbnail_where_there_is_no_tile() -> None:
    thumbnail = np.random.default_rng(0).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    values = np.full((4, 6), np.nan)
    values[1, 2], values[1, 3] = 0.0, 5.0
    before = thumbnail.copy()
    shown = overlay(thumbnail, values, opacity=1.0, colours="gray")
    np.testing.assert_array_equal(thumbnail, before)
    assert shown[1, 2].tolist() == [0, 0, 0] and shown[1, 3].tolist() == [255, 255, 255]
    shown[1, 2:4] = before[1, 2:4]
    np.testing.assert_array_equal(shown, before)
    with pytest.raises(ValueError, match="one height and width"):
        overlay(thumbnail, values[:3])
