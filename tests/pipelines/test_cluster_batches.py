"""Batches by cluster from the image cache: the right pictures, the same from any step, every copy augmented anew."""

import numpy as np
import pytest
from PIL import Image

from melano_tf.pipelines.cluster_batches import ClusterImageBatches
from melano_tf.pipelines.image_batches import predict_image_batches
from melano_tf.pipelines.image_cache import ImageCache, cache_images
from melano_tf.pipelines.image_settings import ImageAugmentSettings, ImageCacheSettings
from melano_tf.training.clustering import PKSampler, PKSettings

LABELS = np.array([0, 1, 0, 1, 2, 0, 1, 3, 0, 2, 0])
AUGMENT = ImageAugmentSettings(smallest_crop=0.5, rotation=90.0)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> ImageCache:
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    files = {}
    for number in range(len(LABELS)):
        path = folder / f"i{number}.png"
        small = Image.fromarray(rng.integers(0, 255, (4, 4, 3), dtype=np.uint8))
        small.resize((24, 24), Image.Resampling.BICUBIC).save(path)
        files[path.stem] = path
    return cache_images(files, dict.fromkeys(files, "x"), ImageCacheSettings(stored_px=24), folder / "cache")


def _batches(cache: ImageCache, augment: ImageAugmentSettings | None, seed: int = 4) -> ClusterImageBatches:
    # In the reverse order of the cache, and not its first image.
    ids = [f"i{number}" for number in range(len(LABELS) - 1, 0, -1)]
    labels = LABELS[:0:-1]
    sampler = PKSampler(lambda epoch: labels, len(ids), PKSettings(3, 3), seed=1)
    return ClusterImageBatches(cache, ids, 16, sampler, seed, augment)


def test_pictures_names_and_clusters_belong_together(cache: ImageCache) -> None:
    batches = _batches(cache, None)
    assert batches.steps_per_epoch == 2
    whole = {}
    for part in predict_image_batches(cache, cache.image_ids, 16, 4):
        whole |= {cache.image_ids[row]: image for row, image in zip(part["row"], part["x"], strict=True)}
    found = list(batches.from_step(2))
    assert len(found) == 2, "to the end of the epoch"
    for step, batch in enumerate(found, start=2):
        rows, labels = batches.sampler.draw(step)
        np.testing.assert_array_equal(batch["row"], rows)
        np.testing.assert_array_equal(batch["y"], labels)
        names = [name.decode() for name in batch["id"].numpy()]
        assert [LABELS[int(name[1:])] for name in names] == labels.tolist()
        for name, image in zip(names, batch["x"]["image"].numpy(), strict=True):
            np.testing.assert_array_equal(image, whole[name])


def test_any_step_can_be_the_first_and_copies_differ(cache: ImageCache) -> None:
    batches = _batches(cache, AUGMENT)
    first = list(batches.from_step(4))
    again = list(_batches(cache, AUGMENT).from_step(5))
    np.testing.assert_array_equal(first[1]["x"]["image"], again[0]["x"]["image"])
    other = list(_batches(cache, AUGMENT, seed=5).from_step(5))
    assert not np.array_equal(again[0]["x"]["image"], other[0]["x"]["image"])
    for batch in first:
        names, images = batch["id"].numpy(), batch["x"]["image"].numpy()
        copies = [images[names == name] for name in set(names) if (names == name).sum() > 1]
        assert copies, "a cluster of two images fills three places"
        assert all(not np.array_equal(same[0], same[1]) for same in copies)


def test_the_sampler_must_count_the_images(cache: ImageCache) -> None:
    sampler = PKSampler(lambda epoch: LABELS, len(LABELS), PKSettings(3, 3), seed=1)
    with pytest.raises(ValueError, match="2 images, but the sampler counts 11"):
        ClusterImageBatches(cache, ["i1", "i2"], 16, sampler, 0)
