"""Random crops: where they lie, what they hold, and that only seed, epoch and image decide them."""

from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from melano_tf.pipelines.augment import AugmentSettings, sample_seeds
from melano_tf.pipelines.image_batches import ImageBatches
from melano_tf.pipelines.image_cache import ImageCache, cache_images
from melano_tf.pipelines.image_crops import CroppedBatches, random_crops
from melano_tf.pipelines.image_settings import ImageCacheSettings


def seeds(count: int, epoch: int = 0) -> tf.Tensor:
    return sample_seeds(7, tf.constant(epoch, tf.int64), tf.range(count, dtype=tf.int64))


def ramps(count: int, px: int) -> np.ndarray:
    """Red grows by 4 a column, green by 4 a row."""
    row, column = np.mgrid[:px, :px]
    return np.tile(np.stack([4 * column, 4 * row, 0 * row], axis=-1).astype(np.uint8), (count, 1, 1, 1))


def test_the_whole_image_at_its_own_size_is_the_image() -> None:
    images = np.random.default_rng(0).integers(0, 256, (3, 24, 24, 3), np.uint8)
    np.testing.assert_array_equal(random_crops(images, seeds(3), 24, 1.0), images)


def test_crops_lie_anywhere_within_the_image_and_keep_the_scale() -> None:
    px, output = 40, 20
    found = random_crops(ramps(200, px), seeds(200), output, 0.5).numpy().astype(float)
    # Pixel i of a crop from `left` (px) with `side` shows the place left + (i + 0.5) side / output - 0.5.
    step = (found[:, 10, -1, 0] - found[:, 10, 0, 0]) / 4 / (output - 1)
    side = step * output
    left = found[:, 10, 0, 0] / 4 + 0.5 - step / 2
    top = found[:, 0, 10, 1] / 4 + 0.5 - step / 2
    assert side.min() > 0.5 * px - 1 and side.max() <= px + 0.5 and side.std() > 4
    np.testing.assert_allclose((found[:, -1, 10, 1] - found[:, 0, 10, 1]) / 4 / (output - 1), step, atol=0.05)
    for start in (left, top):
        assert start.min() > -0.6 and (start + side).max() < px + 0.6
        place = start / np.maximum(px - side, 1)  # uniform from one end to the other
        assert place.min() < 0.1 and place[side < 0.9 * px].max() > 0.9
    assert abs(np.corrcoef(left / (px - side + 1e-3), top / (px - side + 1e-3))[0, 1]) < 0.25


def test_a_crop_follows_from_seed_epoch_and_image_alone() -> None:
    images = ramps(6, 32)
    together = random_crops(images, seeds(6), 16, 0.6).numpy()
    np.testing.assert_array_equal(random_crops(images[4:5], seeds(6)[4:5], 16, 0.6)[0], together[4])
    assert (random_crops(images, seeds(6, epoch=1), 16, 0.6).numpy() != together).any(axis=(1, 2, 3)).all()
    assert len(np.unique(together.reshape(6, -1), axis=0)) == 6


@pytest.fixture
def cache(tmp_path: Path) -> ImageCache:
    files = {}
    for number in range(7):
        pixels = np.random.default_rng(number).integers(0, 256, (30, 30, 3), np.uint8)
        files[f"i{number}"] = tmp_path / f"i{number}.png"
        Image.fromarray(pixels).save(files[f"i{number}"])
    return cache_images(files, {name: name for name in files}, ImageCacheSettings(stored_px=24), tmp_path / "cache", 1)


def batches(cache: ImageCache, smallest: float, changes: AugmentSettings, px: int = 24) -> CroppedBatches:
    names = list(cache.image_ids)
    return CroppedBatches(ImageBatches(cache, names, np.arange(7), 24, 3, 5), px, smallest, changes, 5)


def test_without_any_change_batches_hold_the_stored_images(cache) -> None:
    batch = next(iter(batches(cache, 1.0, AugmentSettings()).from_step(0)))
    np.testing.assert_array_equal(batch["x"]["image"], cache.pixels(batch["row"].numpy()))


def test_batches_can_start_at_any_step(cache) -> None:
    made = batches(cache, 0.7, AugmentSettings(flip=True, brightness=0.2, hue=10.0), px=16)
    assert made.steps_per_epoch == 3
    first = [batch for batch, _ in zip(made.from_step(0), range(8), strict=False)]
    later = next(iter(made.from_step(5)))
    assert later["x"]["image"].shape == (1, 16, 16, 3), "the last batch of the second epoch"
    np.testing.assert_array_equal(later["x"]["image"], first[5]["x"]["image"])
    np.testing.assert_array_equal(later["id"], first[5]["id"])
    # The same image is cropped anew in the next epoch.
    seen = {bytes(n): im for b in first[:3] for n, im in zip(b["id"].numpy(), b["x"]["image"].numpy(), strict=True)}
    again = {bytes(n): im for b in first[3:6] for n, im in zip(b["id"].numpy(), b["x"]["image"].numpy(), strict=True)}
    assert set(seen) == set(again) and all((seen[name] != again[name]).any() for name in seen)
