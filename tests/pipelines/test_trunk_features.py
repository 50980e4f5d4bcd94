"""Features on disk: those of the trunk, in every view; made once; the same batches from any step."""

import itertools
import multiprocessing
from pathlib import Path

import keras
import numpy as np
import pytest
from PIL import Image

from melano_tf.errors import InputError
from melano_tf.pipelines import trunk_features as module
from melano_tf.pipelines.augment import AugmentSettings
from melano_tf.pipelines.image_batches import ChangedBatches, ImageBatches, coloured, seen
from melano_tf.pipelines.image_cache import ImageCache, cache_images, decode_image
from melano_tf.pipelines.image_settings import ImageAugmentSettings, ImageCacheSettings
from melano_tf.pipelines.npy_rows import NpyRows, shard_fault, write_shard
from melano_tf.pipelines.trunk_features import (
    DIHEDRAL,
    FLIPS,
    FeatureBatches,
    FeatureCache,
    cache_features,
    dihedral,
    epoch_views,
    predict_features,
    structure,
)

COUNT = 7
NAMES = [f"image{number}" for number in range(COUNT)]
LABELS = np.arange(COUNT) % 3


@pytest.fixture
def images(tmp_path: Path) -> ImageCache:
    files = {}
    rng = np.random.default_rng(0)
    for name in NAMES:
        files[name] = tmp_path / f"{name}.png"
        Image.fromarray(rng.integers(0, 255, (16, 16, 3), dtype=np.uint8)).save(files[name])
    return cache_images(files, {name: name for name in NAMES}, ImageCacheSettings(stored_px=16), tmp_path / "images")


@pytest.fixture
def trunk() -> keras.Model:
    keras.utils.set_random_seed(0)
    picture = keras.Input((12, 12, 3), name="image")
    x = keras.layers.Conv2D(4, 3, strides=2, padding="same", activation="relu")(picture)
    return keras.Model(picture, x)


def cached(trunk: keras.Model, images: ImageCache, tmp_path: Path, views=FLIPS, weights: str = "w") -> FeatureCache:
    return cache_features(trunk, weights, images, NAMES, tmp_path / "features", views)


def test_the_eight_views_are_all_there_are_and_the_flips_are_flips() -> None:
    square = np.arange(4).reshape(1, 2, 2, 1)
    views = [dihedral(square, view)[0, :, :, 0].tolist() for view in DIHEDRAL]
    assert len({str(view) for view in views}) == 8
    assert [views[view] for view in FLIPS] == [
        [[0, 1], [2, 3]],
        [[3, 2], [1, 0]],
        [[1, 0], [3, 2]],
        [[2, 3], [0, 1]],
    ]
    with pytest.raises(ValueError, match="view 8"):
        dihedral(square, 8)


def test_the_cache_holds_what_the_trunk_says_of_every_view(images: ImageCache, trunk, tmp_path: Path) -> None:
    cache = cached(trunk, images, tmp_path, DIHEDRAL)
    assert cache.shape == (6, 6, 4)
    rows = images.rows(NAMES)
    pictures = np.asarray(seen(images.pixels(rows), images.aspects[rows], 12))
    for place, view in enumerate(DIHEDRAL):
        wanted = trunk(dihedral(pictures, view).astype(np.float32), training=False)
        np.testing.assert_allclose(cache.features(cache.rows(NAMES), place), wanted, rtol=1e-3, atol=1e-3)
    mixed = cache.features(np.array([4, 1]), np.array([7, 2]))
    np.testing.assert_array_equal(mixed[0], cache.features(np.array([4]), 7)[0])
    np.testing.assert_array_equal(mixed[1], cache.features(np.array([1]), 2)[0])
    parts = list(predict_features(cache, NAMES[::-1], 3, view=5))
    assert [len(part["x"]) for part in parts] == [3, 3, 1] and parts[0]["x"].dtype == np.float32
    np.testing.assert_array_equal(np.concatenate([part["x"] for part in parts])[::-1], cache.features(np.arange(7), 5))


def test_what_is_there_is_not_made_again(images: ImageCache, trunk, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(module, "SHARD", 3)
    written: list[Path] = []

    def counting(path: Path, *rest) -> dict:
        written.append(path)
        return original(path, *rest)

    original = module._write
    monkeypatch.setattr(module, "_write", counting)
    first = cached(trunk, images, tmp_path)
    assert len(written) == 3
    told: list[int] = []
    cache_features(trunk, "w", images, NAMES, tmp_path / "features", FLIPS, told.append)
    assert told == [3, 3, 1] and len(written) == 3
    lost, known = written[1], first.features(np.arange(7), 3)
    damages = (
        Path.unlink,
        lambda path: path.with_suffix(".json").unlink(),  # as a kill leaves it, or an earlier version
        lambda path: path.with_suffix(".json").write_text("{}"),
        lambda path: path.write_bytes(path.read_bytes()[:-1]),
    )
    for damage in damages:
        written.clear()
        damage(lost)
        again = cached(trunk, images, tmp_path)
        assert written == [lost]
        np.testing.assert_array_equal(known, again.features(np.arange(7), 3))
    written.clear()
    cached(trunk, images, tmp_path, weights="others")
    cached(trunk, images, tmp_path, views=(0,))
    assert len(written) == 6


def test_features_that_are_not_as_they_were_stored_are_one_line(images: ImageCache, trunk, tmp_path: Path) -> None:
    known = cached(trunk, images, tmp_path).features(np.arange(COUNT), 0)
    [shard] = (tmp_path / "features").glob("*.npy")
    content = bytearray(shard.read_bytes())
    row = known[0].nbytes  # of one image in one view
    content[len(content) - COUNT * len(FLIPS) * row + (3 * len(FLIPS) + 2) * row + 9] ^= 1  # of image 3 in view 2
    shard.write_bytes(content)
    cache = cached(trunk, images, tmp_path)
    np.testing.assert_array_equal(cache.features(np.arange(COUNT), 0), known)
    assert len(cache.features(np.delete(np.arange(COUNT), 3), 2)) == COUNT - 1
    with pytest.raises(InputError, match=r"\.npy: row 14 is not what was written \(bit rot\?\); remove it, and give"):
        cache.features(np.array([0, 3]), 2)
    with pytest.raises(InputError, match="row 14 is not what was written"):
        list(itertools.islice(FeatureBatches(cache, NAMES, LABELS, batch=3, seed=5).from_step(0), 3 * 20))


def test_of_two_runs_that_make_the_same_features_at_once_the_first_ones_stand(
    images: ImageCache, trunk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another machine's differ in their last bits."""
    others: list[tuple[Path, dict]] = []

    def beaten(path: Path, array: np.ndarray, facts: dict, axes: int) -> dict:
        others.append((path, write_shard(path, array + np.float16(0.25), facts, axes)))
        return write_shard(path, array, facts, axes)

    plain = cached(trunk, images, tmp_path / "alone").features(np.arange(COUNT), 1)
    monkeypatch.setattr(module, "write_shard", beaten)
    ours = cached(trunk, images, tmp_path).features(np.arange(COUNT), 1)
    theirs = FeatureCache(NAMES, *zip(*others, strict=True), FLIPS).features(np.arange(COUNT), 1)
    np.testing.assert_array_equal(ours, theirs)
    np.testing.assert_array_equal(ours, plain + np.float16(0.25))


def write_and_read(folder: Path, seed: int, queue: multiprocessing.Queue) -> None:
    """Shards of one name each, of another content in each process; what was wrong when they were read back."""
    draw, wrong = np.random.default_rng(seed), list[str]()
    for number in range(40):
        path = folder / f"{number:016x}.npy"
        facts = write_shard(path, draw.integers(0, 256, (50, 700), np.uint8), {})
        rows = NpyRows(path, "it", facts["crc"])
        try:
            for place in range(50):
                rows.read(place, np.empty(700, np.uint8))
        except InputError as error:
            wrong.append(str(error))
    queue.put(wrong)


def test_no_shard_is_one_runs_and_what_stands_beside_it_another_ones(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    runs = [context.Process(target=write_and_read, args=(tmp_path, seed, queue)) for seed in (1, 2)]
    for run in runs:
        run.start()
    assert [queue.get(timeout=60) for _ in runs] == [[], []]
    for run in runs:
        run.join()
    assert [shard_fault(path) for path in sorted(tmp_path.glob("*.npy"))] == [""] * 40


def small(activation: str | None = "relu", join: int = 0, dtype: str = "float32") -> keras.Model:
    """A trunk of layers that Keras names, with an operation that is no layer."""
    picture = keras.Input((12, 12, 3), name="image")
    x = keras.layers.Conv2D(4, 3, strides=2, padding="same", dtype=dtype)(picture)
    y = keras.layers.Activation("tanh", dtype=dtype)(x)
    z = keras.ops.subtract([x, y][join], y)
    return keras.Model(picture, z if activation is None else keras.layers.Activation(activation, dtype=dtype)(z))


def test_trunks_of_the_same_weights_that_compute_other_things_are_kept_apart(images, tmp_path: Path) -> None:
    with_relu, without = small(), small(None)
    without.set_weights(with_relu.get_weights())
    one, other = (cached(trunk, images, tmp_path, (0,)) for trunk in (with_relu, without))
    assert set(one.paths).isdisjoint(other.paths)
    behind, before = (cache.features(np.arange(COUNT), 0) for cache in (one, other))
    assert before.min() < 0 and behind.min() == 0
    np.testing.assert_array_equal(behind, np.maximum(before, 0))


def test_a_trunk_that_is_built_again_finds_its_features_whatever_its_layers_are_called(images, tmp_path: Path) -> None:
    keras.backend.clear_session()
    first, second = small(), small()
    second.set_weights(first.get_weights())
    assert [layer.name for layer in first.layers[1:]] != [layer.name for layer in second.layers[1:]]
    assert cached(first, images, tmp_path).paths == cached(second, images, tmp_path).paths
    assert structure(small(join=1)) != structure(first), "the same layers, joined otherwise"
    assert structure(small(dtype="mixed_float16")) != structure(first)
    seeded = keras.layers.Conv2D(4, 3, kernel_initializer=keras.initializers.HeNormal(keras.random.SeedGenerator(3)))
    picture = keras.Input((12, 12, 3))
    assert structure(keras.Model(picture, seeded(picture))) == structure(
        keras.Model(picture, keras.layers.Conv2D(4, 3)(picture))
    )


def test_features_that_do_not_fit_are_refused(images: ImageCache, tmp_path: Path) -> None:
    picture = keras.Input((12, 12, 3))
    large = keras.Model(picture, keras.layers.Rescaling(1e4)(picture))
    with pytest.raises(InputError, match="too large for float16"):
        cached(large, images, tmp_path)
    assert not list((tmp_path / "features").iterdir())
    largest = keras.Model(picture, keras.layers.Rescaling(0.0, offset=65504.0)(picture))
    assert (cached(largest, images, tmp_path).features(np.arange(COUNT), 0) == 65504).all()
    with pytest.raises(InputError, match="no images"):
        cache_features(large, "w", images, [], tmp_path / "features")


def test_batches_follow_from_the_step_and_every_image_comes_once_an_epoch(images, trunk, tmp_path: Path) -> None:
    cache = cached(trunk, images, tmp_path)
    batches = FeatureBatches(cache, NAMES, LABELS, batch=3, seed=5)
    assert batches.steps_per_epoch == 3
    two_epochs = list(itertools.islice(batches.from_step(0), 6))
    for epoch in (0, 1):
        part = two_epochs[3 * epoch : 3 * epoch + 3]
        ids = [bytes(name).decode() for batch in part for name in batch["id"].numpy()]
        assert sorted(ids) == NAMES
        views = epoch_views(COUNT, 4, 5, epoch)
        for batch in part:
            rows = batch["row"].numpy()
            np.testing.assert_array_equal(batch["y"], LABELS[rows])
            np.testing.assert_array_equal(batch["x"], cache.features(rows, views[rows]).astype(np.float32))
    assert (epoch_views(COUNT, 4, 5, 0) != epoch_views(COUNT, 4, 5, 1)).any()
    assert set(epoch_views(100, 4, 5, 0)) == {0, 1, 2, 3}
    later = list(itertools.islice(FeatureBatches(cache, NAMES, LABELS, batch=3, seed=5).from_step(4), 2))
    for one, other in zip(later, two_epochs[4:], strict=True):
        np.testing.assert_array_equal(one["x"], other["x"])
    with pytest.raises(InputError, match="no images to train on"):
        FeatureBatches(cache, [], LABELS[:0], 3, 5)


def test_coloured_batches_change_colours_alone_and_follow_from_the_step(images: ImageCache) -> None:
    still = ImageAugmentSettings(smallest_crop=1.0, rotation=0.0, flip=0.0)
    plain = ImageBatches(images, NAMES, LABELS, 16, 3, seed=5, augment=still)
    shaded = ChangedBatches(plain, coloured(AugmentSettings(brightness=0.2)))
    assert shaded.steps_per_epoch == 3
    shares = []
    for before, after in itertools.islice(zip(plain.from_step(0), shaded.from_step(0), strict=True), 6):
        np.testing.assert_array_equal(before["id"], after["id"])
        dark = before["x"]["image"].numpy() < 200  # brighter ones may be clipped
        for old, new, chosen in zip(before["x"]["image"].numpy(), after["x"]["image"].numpy(), dark, strict=True):
            share = new[chosen].sum() / old[chosen].sum()
            np.testing.assert_allclose(new[chosen], share * old[chosen], atol=1.1)
            shares.append(share)
    assert max(shares) < 1.21 and min(shares) > 0.79 and np.std(shares) > 0.05
    assert len({round(float(share), 3) for share in shares}) > COUNT  # other ones in the second epoch
    one = next(iter(shaded.from_step(4)))
    other = next(itertools.islice(shaded.from_step(0), 4, None))
    np.testing.assert_array_equal(one["x"]["image"], other["x"]["image"])


def test_the_square_at_the_centre_is_what_is_stored(tmp_path: Path) -> None:
    picture = np.random.default_rng(0).integers(0, 255, (20, 31, 3), dtype=np.uint8)
    for pixels, square in (
        (picture, picture[:, 5:25]),
        (picture.transpose(1, 0, 2), picture.transpose(1, 0, 2)[5:25]),
    ):
        Image.fromarray(pixels).save(tmp_path / "x.png")
        stored = decode_image(tmp_path / "x.png", ImageCacheSettings(stored_px=20, crop="centre"))
        np.testing.assert_array_equal(stored.pixels, square)
        assert stored.aspect == 1.0
    with pytest.raises(InputError, match=r"^crop is 'left'; known: whole, centre$"):
        ImageCacheSettings(crop="left")  # type: ignore[arg-type]


def test_settings_of_older_caches_keep_their_names() -> None:
    assert ImageCacheSettings(stored_px=20).identity() == {"stored_px": 20, "max_pixels": 50_000_000}
    assert ImageCacheSettings(stored_px=20, crop="centre").identity()["crop"] == "centre"
