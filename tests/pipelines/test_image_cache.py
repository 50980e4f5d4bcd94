"""The image cache and its batches: the right pixels, each image alone, the same from any step."""

import errno
import itertools
import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from melano_tf.dermoscopy import image_files
from melano_tf.dermoscopy.image_files import UnreadableImageError, read_image
from melano_tf.errors import InputError
from melano_tf.pipelines import image_cache as module
from melano_tf.pipelines.augment import AugmentSettings
from melano_tf.pipelines.image_batches import (
    CachedImages,
    ChangedBatches,
    ImageBatches,
    coloured,
    predict_image_batches,
    shown_images,
)
from melano_tf.pipelines.image_cache import ImageCache, cache_images, decode_image, decode_jpeg, prune_cache
from melano_tf.pipelines.image_crops import CroppedBatches
from melano_tf.pipelines.image_settings import ImageAugmentSettings, ImageCacheSettings
from melano_tf.pipelines.npy_rows import shard_fault, write_shard
from melano_tf.runs import journal
from melano_tf.training.hosts import Share

SETTINGS = ImageCacheSettings(stored_px=24)
COUNT = 11


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """Eleven smooth images of different sizes, JPEG and PNG."""
    rng = np.random.default_rng(0)
    found = {}
    for number in range(COUNT):
        small = rng.integers(0, 255, (4, 6, 3), dtype=np.uint8)
        image = Image.fromarray(small).resize((60 + number, 40 + 2 * number), Image.Resampling.BICUBIC)
        path = tmp_path / "files" / f"image{number}.{'png' if number % 4 == 3 else 'jpg'}"
        path.parent.mkdir(exist_ok=True)
        image.save(path, **({} if path.suffix == ".png" else {"quality": 95}))
        found[path.stem] = path
    return found


def cached(
    files: dict[str, Path], folder: Path, settings: ImageCacheSettings = SETTINGS, threads: int = 1
) -> ImageCache:
    return cache_images(
        files, {name: str(path.stat().st_size) for name, path in files.items()}, settings, folder, threads
    )


@pytest.fixture
def cache(files: dict[str, Path], tmp_path: Path) -> ImageCache:
    return cached(files, tmp_path / "cache")


def area_mean(image: np.ndarray, size: int) -> np.ndarray:
    """Mean of the exact area that each output pixel covers, by loops over weights."""
    result = np.zeros((size, size, 3))
    for row, column in itertools.product(range(size), repeat=2):
        weights = []
        for place, length in ((row, image.shape[0]), (column, image.shape[1])):
            start, end = place * length / size, (place + 1) * length / size
            pixels = np.arange(length)
            weights.append(np.clip(np.minimum(pixels + 1, end) - np.maximum(pixels, start), 0, None))
        total = np.einsum("h,w,hwc->c", weights[0], weights[1], image)
        result[row, column] = total / (weights[0].sum() * weights[1].sum())
    return result


def test_stored_pixels_are_the_files_area_means(files: dict[str, Path]) -> None:
    for name in ("image0", "image3", "image10"):
        stored = decode_image(files[name], SETTINGS)
        original = read_image(files[name])
        assert stored.pixels.shape == (24, 24, 3) and stored.pixels.dtype == np.uint8
        assert stored.aspect == original.shape[1] / original.shape[0]
        np.testing.assert_allclose(stored.pixels, area_mean(original, 24), atol=1.6)  # rounding, and JPEG's decoders


def test_a_large_jpeg_is_decoded_smaller_and_looks_the_same(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    small = Image.fromarray(rng.integers(70, 190, (5, 7, 3), dtype=np.uint8))
    image = small.resize((700, 500), Image.Resampling.BICUBIC)
    image.save(tmp_path / "large.jpg", quality=95)
    stored = decode_image(tmp_path / "large.jpg", SETTINGS)
    whole = area_mean(read_image(tmp_path / "large.jpg"), 24)
    assert np.abs(stored.pixels - whole).mean() < 1.5
    sizes = [decode_jpeg((tmp_path / "large.jpg").read_bytes(), ratio).shape for ratio in (1, 2, 4, 8)]
    assert sizes == [(500, 700, 3), (250, 350, 3), (125, 175, 3), (63, 88, 3)]


def test_a_small_image_is_enlarged(tmp_path: Path) -> None:
    Image.new("RGB", (10, 50), (10, 20, 30)).save(tmp_path / "small.png")
    np.testing.assert_array_equal(
        decode_image(tmp_path / "small.png", SETTINGS).pixels, np.full((24, 24, 3), (10, 20, 30))
    )


@pytest.mark.parametrize(
    "suffix, mode",
    [("jpg", "L"), ("jpg", "CMYK"), ("png", "L"), ("png", "P"), ("png", "RGBA"), ("png", "I;16")],
)
def test_every_kind_of_pixel_becomes_the_same_rgb(tmp_path: Path, suffix: str, mode: str) -> None:
    grey = np.tile(np.linspace(20, 220, 64).astype(np.uint8), (48, 1))
    if mode == "I;16":
        Image.fromarray(grey.astype(np.uint16) * 257).save(tmp_path / "x.png")
    else:
        Image.fromarray(grey).convert("RGB").convert(mode).save(tmp_path / f"x.{suffix}")
    stored = decode_image(tmp_path / f"x.{suffix}", SETTINGS).pixels
    np.testing.assert_allclose(stored, area_mean(read_image(tmp_path / f"x.{suffix}"), 24), atol=2)
    assert stored[0, -1].mean() - stored[0, 0].mean() > 150


def test_what_cannot_be_read_is_named_with_its_reason(files: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "files" / "text.jpg").write_text("not an image")
    content = files["image0"].read_bytes()
    (tmp_path / "files" / "cut.jpg").write_bytes(content[: len(content) // 2])
    bomb = tmp_path / "files" / "bomb.png"
    Image.new("1", (20_000, 20_000)).save(bomb)
    wrong = {
        name: tmp_path / "files" / f"{name}.{end}" for name, end in (("text", "jpg"), ("cut", "jpg"), ("bomb", "png"))
    }
    cache = cached(files | wrong, tmp_path / "cache")
    assert set(cache.unreadable) == set(wrong)
    assert "neither a JPEG nor a PNG" in cache.unreadable["text"]
    assert "20000 x 20000" in cache.unreadable["bomb"]
    assert cache.rows(list(files)).tolist() == list(range(COUNT))
    with pytest.raises(KeyError, match="cut"):
        cache.rows(["cut"])
    with pytest.raises(UnreadableImageError, match="decoded"):
        decode_image(wrong["cut"], SETTINGS)


@pytest.mark.parametrize("name", ["image0", "image3"])  # JPEG and PNG
@pytest.mark.parametrize("fault", ["header", "content", "memory"])
def test_a_fault_that_may_pass_is_raised_and_not_kept(
    files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, fault: str
) -> None:
    for place in range(20):
        files[f"more{place}"] = files["image1"]

    def failing(function, kind: type[Exception] = OSError, words: tuple = (errno.EIO, os.strerror(errno.EIO))):
        def call(*given, **more):
            if given[0] in (files[name], content):
                raise kind(*words)  # as reading an open file fails: without its name
            return function(*given, **more)

        return call

    content = files[name].read_bytes()
    with monkeypatch.context() as broken:
        if fault == "header":
            broken.setattr(Path, "open", failing(Path.open))
        if fault == "content":
            broken.setattr(Path, "read_bytes", failing(Path.read_bytes))
        if fault == "memory":
            place, called = (module, "decode_jpeg") if name == "image0" else (image_files, "pillow_pixels")
            broken.setattr(place, called, failing(getattr(place, called), MemoryError, ()))
        with pytest.raises(MemoryError if fault == "memory" else OSError) as raised:
            cached(files, tmp_path / "cache", threads=2)
        if fault != "memory":
            assert str(raised.value) == f"[Errno {errno.EIO}] Input/output error: '{files[name]}'"
    assert not list((tmp_path / "cache").iterdir())
    again = cached(files, tmp_path / "cache")
    assert not again.unreadable
    np.testing.assert_array_equal(again.image(int(again.rows([name])[0])), decode_image(files[name], SETTINGS).pixels)


def test_looking_for_an_early_end_says_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    grey = np.full((41, 66, 3), 128, np.uint8)  # as grey as where data are missing: it is decoded once more
    grey[:9] = 200
    Image.fromarray(grey).save(tmp_path / "grey.jpg", quality=90)
    stored = decode_image(tmp_path / "grey.jpg", ImageCacheSettings(stored_px=16))
    assert stored.pixels.shape == (16, 16, 3)
    assert capfd.readouterr().err == ""


def test_one_thread_and_three_store_the_same(files: dict[str, Path], tmp_path: Path) -> None:
    one, three = (cached(files, tmp_path / str(threads), threads=threads) for threads in (1, 3))
    np.testing.assert_array_equal(one.pixels(np.arange(COUNT)), three.pixels(np.arange(COUNT)))


def test_what_is_cached_is_not_decoded_again_and_a_changed_setting_or_file_is(
    files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SHARD", 4)
    decoded: list[Path] = []

    def counting(path: Path, settings: ImageCacheSettings):
        decoded.append(path)
        return decode_image(path, settings)

    monkeypatch.setattr(module, "decode_image", counting)
    (tmp_path / "cache").mkdir()
    foreign = tmp_path / "cache" / "mine.npy"
    foreign.write_bytes(b"of somebody else")
    journal.begin(tmp_path / "cache")
    first = cached(files, tmp_path / "cache")
    assert len(decoded) == COUNT
    decoded.clear()
    again = cached(files, tmp_path / "cache")
    assert decoded == []
    np.testing.assert_array_equal(first.pixels(np.arange(COUNT)), again.pixels(np.arange(COUNT)))
    cached(files, tmp_path / "cache", ImageCacheSettings(stored_px=16))
    assert len(decoded) == COUNT
    decoded.clear()
    Image.new("RGB", (50, 50), (1, 2, 3)).save(files["image5"])
    changed = cached(files, tmp_path / "cache")
    assert set(decoded) == {files[f"image{n}"] for n in range(4, 8)}  # its shard
    np.testing.assert_allclose(changed.pixels(np.array([5]))[0, 12, 12], (1, 2, 3), atol=3)
    # A kill leaves shards: the rest is decoded, and no more.
    decoded.clear()
    sorted((tmp_path / "cache").glob("*.json"))[0].unlink()
    prune_cache(tmp_path / "cache", cached(files, tmp_path / "cache"))
    assert len(decoded) <= 4
    assert len(set((tmp_path / "cache").glob("*.npy")) - {foreign}) == 3
    assert foreign.read_bytes() == b"of somebody else"


def batches(cache: ImageCache, augment: ImageAugmentSettings | None, batch: int = 4, **more) -> ImageBatches:
    labels = np.arange(COUNT) % 2
    return ImageBatches(cache, list(cache.image_ids), labels, 16, batch, 7, augment=augment, **more)


def taken(source: ImageBatches, start: int, count: int) -> list[dict]:
    return [tf.nest.map_structure(np.asarray, one) for one in itertools.islice(source.from_step(start), count)]


def test_each_epoch_holds_every_image_once_with_its_own_facts(cache: ImageCache) -> None:
    metadata = np.arange(COUNT * 2, dtype=np.float32).reshape(COUNT, 2)
    source = batches(cache, None, metadata=metadata, weights=np.arange(COUNT) + 1.0)
    orders = []
    for epoch in range(2):
        parts = taken(source, epoch * source.steps_per_epoch, source.steps_per_epoch)
        assert [len(part["id"]) for part in parts] == [4, 4, 3]
        rows = np.concatenate([part["row"] for part in parts])
        assert sorted(rows) == list(range(COUNT))
        orders.append(rows.tolist())
        for part in parts:
            assert part["x"]["image"].shape[1:] == (16, 16, 3) and part["x"]["image"].dtype == np.uint8
            np.testing.assert_array_equal(part["x"]["metadata"], metadata[part["row"]])
            assert [name.decode() for name in part["id"]] == [f"image{row}" for row in part["row"]]
            np.testing.assert_array_equal(part["y"], part["row"] % 2)
            np.testing.assert_array_equal(part["weight"], part["row"] + 1)
    assert orders[0] != orders[1]


def test_any_step_can_be_first(cache: ImageCache) -> None:
    straight = taken(batches(cache, ImageAugmentSettings()), 0, 7)
    for start in (1, 4, 6):
        later = taken(batches(cache, ImageAugmentSettings()), start, 7 - start)
        for ours, theirs in zip(later, straight[start:], strict=True):
            tf.nest.map_structure(np.testing.assert_array_equal, ours, theirs)


def test_each_host_reads_its_part_of_each_batch(cache: ImageCache) -> None:
    """Augmented, coloured and with metadata; the epoch's last batch, of three, does not divide by two."""
    colour = AugmentSettings(flip=True, brightness=0.2)
    source = batches(cache, ImageAugmentSettings(), metadata=np.arange(COUNT, dtype=np.float32)[:, None])
    for whole in (source, ChangedBatches(source, coloured(colour)), CroppedBatches(source, 16, 0.7, colour, 3)):
        hosts = [taken(whole.shared(Share(host, 2, 1)), 1, 2) for host in range(2)]
        for batch, *parts in zip(taken(whole, 1, 2), *hosts, strict=True):
            size = len(batch["id"])
            assert [int(part["x_from"]) for part in parts] == [0, 2] and size in (3, 4)
            for name in ("id", "y", "weight", "row"):
                np.testing.assert_array_equal(parts[0][name], batch[name])
                np.testing.assert_array_equal(parts[1][name], batch[name])
            for name, values in batch["x"].items():
                np.testing.assert_array_equal(np.concatenate([part["x"][name] for part in parts])[:size], values)


def test_an_augmented_image_depends_on_seed_epoch_and_image_and_not_on_its_batch(cache: ImageCache) -> None:
    by_row = []
    for size in (4, 3):
        source = batches(cache, ImageAugmentSettings(), batch=size)
        parts = taken(source, 0, source.steps_per_epoch)
        by_row.append(
            {row: image for part in parts for row, image in zip(part["row"], part["x"]["image"], strict=True)}
        )
    for row in range(COUNT):
        np.testing.assert_array_equal(by_row[0][row], by_row[1][row])
    source = batches(cache, ImageAugmentSettings())
    later = taken(source, source.steps_per_epoch, 1)[0]
    assert any(np.any(image != by_row[0][row]) for row, image in zip(later["row"], later["x"]["image"], strict=True))


def augmented(pixels: np.ndarray, settings: ImageAugmentSettings, seeds: np.ndarray) -> np.ndarray:
    """Square pictures (n, px, px, 3), each once, as a training sees them."""
    cache: Any = SimpleNamespace(stored_px=pixels.shape[1], image=lambda row: pixels[row])
    images = CachedImages(cache, pixels.shape[1], settings)
    found = images.tensor(np.arange(len(pixels)), np.ones(len(pixels), np.float32), seeds)
    return np.asarray(found)


def test_augmentation_stays_within_its_settings() -> None:
    """A picture whose red says the column and whose green says the row shows where each pixel came from."""
    px, count = 64, 200
    ramp = np.linspace(2, 250, px)
    picture = np.stack([np.tile(ramp, (px, 1)), np.tile(ramp[:, None], (1, px)), np.full((px, px), 200.0)], axis=-1)
    pixels = np.repeat(np.rint(picture).astype(np.uint8)[None], count, axis=0)
    seeds = np.stack([np.full(count, 3), np.arange(count)], axis=1).astype(np.int64)
    settings = ImageAugmentSettings()
    found = augmented(pixels, settings, seeds).astype(float)
    across = found[:, 32, 42] - found[:, 32, 22]  # change of (column, row, blue) over 20 output pixels
    step = (250 - 2) / (px - 1) * 20
    zoom = np.hypot(across[:, 0], across[:, 1]) / step
    degrees = np.degrees(np.arctan2(across[:, 1], np.abs(across[:, 0])))
    assert 0.78 < zoom.min() < 0.84 and 0.96 < zoom.max() < 1.03
    assert 25 < np.abs(degrees).max() < 32
    flipped = (across[:, 0] < 0).mean()
    assert 0.4 < flipped < 0.6
    none = ImageAugmentSettings(smallest_crop=1.0, rotation=0.0, flip=0.0)
    np.testing.assert_array_equal(augmented(pixels[:3], none, seeds[:3]), pixels[:3])


def test_images_are_shown_whole_under_their_names(cache: ImageCache) -> None:
    shown = shown_images(cache, ["image7", "image2", "image9", "image0"], 24, 2)
    assert shown.ids == ["image7", "image2", "image9", "image0"]
    found = list(shown.batches(np.array([0, 2, 3])))
    assert [batch["id"].tolist() for batch in found] == [["image7", "image9"], ["image0"]]
    pixels = np.concatenate([batch["x"]["image"] for batch in found])
    np.testing.assert_array_equal(pixels, cache.pixels(np.array([7, 9, 0])))


def test_prediction_sees_whole_images_in_order(cache: ImageCache) -> None:
    names = ["image7", "image1", "image10"]
    parts = list(predict_image_batches(cache, names, 24, 2))
    assert [part["row"].tolist() for part in parts] == [[0, 1], [2]]
    assert [part["id"].tolist() for part in parts] == [["image7", "image1"], ["image10"]]
    np.testing.assert_array_equal(np.concatenate([p["x"] for p in parts]), cache.pixels(cache.rows(names)))
    assert list(predict_image_batches(cache, [], 24, 2)) == []


def files_in_memory() -> int:
    """Bytes of files that count as this process's memory."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("RssFile"))


def test_what_was_read_does_not_stay_in_memory(tmp_path: Path) -> None:
    """As mapped files do: of this one 12 MiB."""
    images = np.random.default_rng(3).integers(0, 256, (256, 128, 128, 3), np.uint8)
    names = [str(number) for number in range(256)]
    facts = write_shard(tmp_path / "shard.npy", images, {"aspects": [1.0] * 256, "unreadable": {}})
    found = ImageCache(names, [tmp_path / "shard.npy"], [facts], 128)
    found.pixels(np.array([0]))
    before = files_in_memory()
    for start in range(0, 256, 32):
        rows = np.arange(start, start + 32)[::-1]
        np.testing.assert_array_equal(found.pixels(rows), images[rows])
    assert files_in_memory() - before < 2**20


def test_a_shard_that_was_cut_off_is_one_line(cache: ImageCache) -> None:
    cache.pixels(np.array([0]))
    with cache._shards[0].open("r+b") as file:
        file.truncate(2000)
    with pytest.raises(InputError, match=r"\.npy: cannot be read \(it was cut off\); remove it, and give"):
        cache.pixels(np.array([10]))
    facts = {"aspects": [1.0] * COUNT, "unreadable": {}, "crc": [0] * COUNT}
    with pytest.raises(InputError, match=r"\.npy: cannot be read \(.*\); remove it, and give"):
        ImageCache(cache.image_ids, cache._shards, [facts], 24).pixels(np.array([0]))


def test_a_shard_that_is_plainly_damaged_is_decoded_again(
    files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SHARD", 4)
    first, every = cached(files, tmp_path / "cache"), np.arange(COUNT)
    decoded: list[Path] = []

    def counting(path: Path, settings: ImageCacheSettings):
        decoded.append(path)
        return decode_image(path, settings)

    monkeypatch.setattr(module, "decode_image", counting)
    shard = first._shards[1]
    table, known = shard.with_suffix(".json"), first.pixels(every)
    content, told = shard.read_bytes(), json.loads(table.read_text())
    assert sorted(told) == ["aspects", "bytes", "crc", "digest", "shape", "unreadable"]
    older = {name: told[name] for name in ("aspects", "unreadable")}  # as a version without checksums wrote it
    bent = [{**told, "aspects": [2.0, *told["aspects"][1:]]}, {**told, "unreadable": {"image4": "gone"}}, older]
    for damage in (b"", b"[1, 2", b"null", b"[]", b"\xff\xfe", *(json.dumps(one).encode() for one in bent)):
        table.write_bytes(damage)
        again = cached(files, tmp_path / "cache")
        assert sorted(decoded) == [files[f"image{n}"] for n in range(4, 8)], damage
        np.testing.assert_array_equal(again.pixels(every), known)
        assert again.aspects.tolist() == first.aspects.tolist() and not again.unreadable
        assert shard.read_bytes() == content and json.loads(table.read_text()) == told
        decoded.clear()
    for short in (b"", content[:-1], content + b"x"):
        shard.write_bytes(short)
        np.testing.assert_array_equal(cached(files, tmp_path / "cache").pixels(every), known)
        assert len(decoded) == 4 and shard.read_bytes() == content
        decoded.clear()


def turned(path: Path, at: int) -> None:
    """Turn one bit of a file."""
    content = bytearray(path.read_bytes())
    content[at] ^= 4
    path.write_bytes(content)


def test_an_image_that_is_not_as_it_was_stored_is_one_line_and_the_others_are_read(
    files: dict[str, Path], tmp_path: Path
) -> None:
    known = cached(files, tmp_path / "cache").pixels(np.arange(COUNT))
    [shard] = (tmp_path / "cache").glob("*.npy")
    start = shard.stat().st_size - known.nbytes
    turned(shard, start + 7 * known[0].nbytes + 5)
    cache = cached(files, tmp_path / "cache")  # of the size that was written
    rest = np.delete(np.arange(COUNT), 7)
    np.testing.assert_array_equal(cache.pixels(rest), known[rest])
    words = r"\.npy: row 7 is not what was written \(bit rot\?\); remove it, and give the command again$"
    for read in (
        lambda: cache.pixels(np.array([2, 7])),
        lambda: cache.image(7),
        lambda: list(predict_image_batches(cache, ["image7"], 24, 2)),
        lambda: taken(batches(cache, ImageAugmentSettings()), 0, 3),
        lambda: taken(batches(cache, None), 0, 3),
    ):
        with pytest.raises(InputError, match=words) as error:
            read()
        assert str(error.value).startswith(str(shard)) and "\n" not in str(error.value)
    words = "row 7 is not what was written (bit rot?); remove it, and give the command again"
    assert shard_fault(shard) == words
    shard.unlink()
    again = cached(files, tmp_path / "cache")
    np.testing.assert_array_equal(again.pixels(np.arange(COUNT)), known)
    assert shard_fault(shard) == ""
    turned(shard, 3)  # in the file's head
    assert shard_fault(shard).startswith("cannot be read (")
    shard.with_suffix(".json").write_text("{}")
    assert shard_fault(shard).startswith("is missing, or it or its .json is not as it was written")


def test_any_bit_that_turned_in_a_shards_head_is_one_line_or_changes_no_pixel(tmp_path: Path) -> None:
    images = np.random.default_rng(5).integers(0, 256, (3, 4, 4, 3), np.uint8)
    path = tmp_path / "shard.npy"
    facts = write_shard(path, images, {"aspects": [1.0] * 3, "unreadable": {}})
    content, told = path.read_bytes(), 0
    for at, bit in itertools.product(range(len(content) - images.nbytes), range(8)):
        path.write_bytes(content[:at] + bytes([content[at] ^ 1 << bit]) + content[at + 1 :])
        try:
            found = ImageCache(["a", "b", "c"], [path], [facts], 4).pixels(np.arange(3))
        except InputError as error:
            told += str(error).startswith(f"{path}: ") and "\n" not in str(error)
        else:
            told += np.array_equal(found, images)
    assert told == 8 * (len(content) - images.nbytes)


def test_settings_and_empty_sets_are_refused(cache: ImageCache) -> None:
    with pytest.raises(InputError) as refused:
        ImageAugmentSettings(smallest_crop=0.0, rotation=400, flip=-0.5)
    assert str(refused.value).splitlines() == [
        "augment:",
        "  - smallest_crop must lie between 0.05 and 1, and is 0",
        "  - rotation must lie between 0 and 180, and is 400",
        "  - flip must lie between 0 and 1, and is -0.5",
    ]
    assert ImageAugmentSettings(0.05, 0.0, 0.0).flip == 0 and ImageAugmentSettings(1.0, 180.0, 1.0).flip == 1
    for side in (7, 4097):
        with pytest.raises(InputError, match=f"^stored_px {side}: 8 to 4096$"):
            ImageCacheSettings(stored_px=side)
    assert [ImageCacheSettings(stored_px=side).stored_px for side in (8, 4096)] == [8, 4096]
    with pytest.raises(InputError, match=r"^no images to train on$"):
        ImageBatches(cache, [], np.zeros(0), 16, 4, 7)
