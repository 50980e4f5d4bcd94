"""Caches in which some images are replaced: what is read, what stays, and what is cropped."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from melano_tf.pipelines.image_cache import ImageCache, cache_images
from melano_tf.pipelines.image_settings import ImageCacheSettings
from melano_tf.pipelines.replaced_images import EditedCache, even, stored, write_cropped


@pytest.fixture
def cache(tmp_path: Path) -> ImageCache:
    files = {}
    for number in range(4):
        image = np.full((32, 48, 3), 10 * number, np.uint8)
        image[8:24, 12:36] = 200
        files[f"i{number}"] = tmp_path / f"i{number}.png"
        cv2.imwrite(str(files[f"i{number}"]), image)
    sums = {name: name for name in files}
    return cache_images(files, sums, ImageCacheSettings(stored_px=16), tmp_path / "cache")


def test_only_the_replaced_images_change(cache: ImageCache, tmp_path: Path) -> None:
    new = np.full((1, 16, 16, 3), 77, np.uint8)
    np.save(tmp_path / "new.npy", new)
    edited = EditedCache(cache, [2], tmp_path / "new.npy", [0.5])
    before, after = cache.pixels(np.arange(4)), edited.pixels(np.array([3, 2, 0, 1]))
    np.testing.assert_array_equal(after[1], new[0])
    np.testing.assert_array_equal(np.stack([edited.image(row) for row in (3, 2, 0, 1)]), after)
    np.testing.assert_array_equal(after[[0, 2, 3]], before[[3, 0, 1]])
    assert edited.aspects.tolist() == [1.5, 1.5, 0.5, 1.5] and cache.aspects.tolist() == [1.5] * 4
    assert edited.rows(["i2"]).tolist() == [2] and edited.stored_px == 16
    with pytest.raises(KeyError):
        edited.rows(["elsewhere"])


def test_a_replaced_image_is_known_by_its_own_pixels_and_aspect(cache: ImageCache, tmp_path: Path) -> None:
    rows = np.array([3, 2, 0])
    known = []
    for level, aspect in ((77, 0.5), (77, 0.5), (78, 0.5), (77, 0.6)):
        path = tmp_path / f"new{len(known)}.npy"
        np.save(path, np.full((1, 16, 16, 3), level, np.uint8))
        known.append(EditedCache(cache, [2], path, [aspect]).identity(rows))
    base = cache.identity(rows)
    assert all([one[0], one[2]] == [base[0], base[2]] for one in known)
    assert known[0] == known[1] and len({base[1], *(one[1] for one in known)}) == 4


def test_pixels_of_another_number_are_refused(cache: ImageCache, tmp_path: Path) -> None:
    np.save(tmp_path / "new.npy", np.zeros((1, 16, 16, 3), np.uint8))
    with pytest.raises(ValueError, match="2 images to replace"):
        EditedCache(cache, [0, 1], tmp_path / "new.npy", [1.0, 1.0])


def test_a_crop_fills_the_picture_and_keeps_its_true_shape(cache: ImageCache, tmp_path: Path) -> None:
    # In the stored picture (16 x 16 of 48 x 32) the bright part spans a quarter to three quarters of both sides.
    path, aspects = write_cropped(cache, {1: (4, 4, 12, 12), 3: (0, 4, 16, 12)}, tmp_path / "crops.npy")
    pixels = np.load(path)
    assert pixels.shape == (2, 16, 16, 3) and pixels[0].min() > 150
    assert aspects == pytest.approx([1.5, 3.0])
    assert pixels[1][:, 0].max() < 60 < 150 < pixels[1][8, 8].min()
    empty, none = write_cropped(cache, {}, tmp_path / "none.npy")
    assert np.load(empty).shape == (0, 16, 16, 3) and none == []
    np.testing.assert_array_equal(EditedCache(cache, [], empty, []).pixels(np.array([1])), cache.pixels(np.array([1])))


def test_stored_gives_every_row_once_in_order(cache: ImageCache) -> None:
    rows = np.array([3, 0, 2])
    parts = list(stored(cache, rows, chunk=2))
    assert [len(part) for part, _ in parts] == [2, 1]
    np.testing.assert_array_equal(np.concatenate([pixels for _, pixels in parts]), cache.pixels(rows))


@pytest.mark.parametrize("level, speck, expected", [(0, 0, True), (128, 4, True), (0, 40, False)])
def test_an_image_of_one_colour_shows_nothing(level: int, speck: int, expected: bool) -> None:
    image = np.full((20, 20, 3), level, np.uint8)
    image[:5] += np.uint8(speck)
    assert even(image) is expected
    image[0, 0] = 255  # a single speck of dust
    assert even(image) is expected
