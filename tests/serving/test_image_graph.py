"""The exported graph against the training's own reader: the same pixels, whatever the file; bad files cost nothing."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from melano_tf.dermoscopy.colour_constancy import ColourConstancy
from melano_tf.dermoscopy.image_files import UnreadableImageError, read_image
from melano_tf.evaluation.calibration import Calibration
from melano_tf.metadata_fields import AGE, SEX, SITE
from melano_tf.models.metadata_layer import MetadataCode
from melano_tf.pipelines.image_cache import decode_image
from melano_tf.pipelines.image_settings import ImageCacheSettings
from melano_tf.pipelines.tile_batches import decode
from melano_tf.pipelines.tumour_tile_selection import select_tumour_tiles
from melano_tf.runs.settings_digest import plain
from melano_tf.runs.sidecar import Sidecar
from melano_tf.serving.encoded_image_checks import GOOD, LARGE_FILE, PIXELS, judge_image
from melano_tf.serving.image_graph import (
    UNDECIDED,
    Limits,
    answers,
    calibrate,
    checked_metadata,
    colour_layer,
    decode_images,
    decoder,
    encode_metadata,
)
from melano_tf.serving.tile_graph import checked_tiles, select_tiles
from tests.serving.pictures import FILES, bad_files, encoded, picture

LIMITS = Limits(max_pixels=400_000)


@pytest.mark.parametrize(
    ("size", "settings"), [(40, {}), (97, {"crop": "centre"}), (64, {"colour": ColourConstancy(mask_saturated=True)})]
)
def test_mixed_files_give_the_pixels_of_training(pictures: Path, settings: dict, size: int) -> None:
    store = ImageCacheSettings(stored_px=size, **settings)
    files = sorted(pictures.iterdir())
    contents = tf.constant([file.read_bytes() for file in files])
    pixels, aspects = decoder(size, LIMITS, crop=store.crop)(contents)
    layer = colour_layer(plain(store))
    pixels = pixels if layer is None else layer(pixels)
    for place, file in enumerate(files):
        expected = decode_image(file, store)
        np.testing.assert_array_equal(pixels[place], expected.pixels, err_msg=file.name)
        assert aspects[place] == np.float32(expected.aspect)


def test_real_photographs_give_the_pixels_of_training(real_data: Path) -> None:
    folders = [real_data / "isic2018" / "train_200x150", real_data / "isic2020" / "images_256"]
    files = [file for folder in folders for file in sorted(folder.glob("*.jpg"))[:20]]
    files += sorted((real_data / "isic2018" / "masks_200x150").glob("*.png"))[:10]
    contents = tf.constant([file.read_bytes() for file in files])
    pixels, _ = decoder(112, Limits())(contents)  # as a graph: its loops are slow one operation at a time
    for place, file in enumerate(files):
        np.testing.assert_array_equal(pixels[place], decode_image(file, ImageCacheSettings(112)).pixels, file.name)


def test_a_jpeg_is_shrunk_in_decoding_from_the_same_size_on_as_in_training(
    tmp_path: Path, reader: Callable[[tf.Tensor], tf.Tensor]
) -> None:
    """By 2, 4 and 8 from a shorter side of 64, 128 and 256 pixels on, for 16 stored ones."""
    files = []
    for place, shorter in enumerate((63, 64, 65, 127, 128, 255, 256)):
        width, height = (shorter, shorter + 9) if place % 2 else (shorter + 9, shorter)
        files.append(tmp_path / f"{place}.jpg")
        files[-1].write_bytes(encoded(picture(width, height, place), "JPEG"))
    pixels = reader(tf.constant([file.read_bytes() for file in files]))
    for found, file in zip(pixels, files, strict=True):
        expected = decode_image(file, ImageCacheSettings(16)).pixels
        np.testing.assert_array_equal(found, expected, err_msg=file.name)


def test_what_is_as_large_as_a_limit_is_taken_and_not_a_pixel_or_a_byte_more() -> None:
    for name in ("tiny.jpg", "grey.png"):
        content = FILES[name]()
        pixels, size = {"tiny.jpg": 17 * 31, "grey.png": 33 * 44}[name], len(content)
        codes = [judge_image(tf.constant(content), *most).code for most in ((pixels, size), (pixels - 1, size))]
        assert [int(code) for code in codes] == [GOOD, PIXELS]
        assert int(judge_image(tf.constant(content), pixels, size - 1).code) == LARGE_FILE
    most = Limits(max_pixels=12, max_images=2)
    assert checked_tiles(tf.zeros([2, 3, 4, 3], tf.uint8), 5, most).shape == (2, 5, 5, 3)
    for shape in ([1, 13, 1, 3], [3, 3, 4, 3], [1, 0, 4, 3], [1, 3, 0, 3]):
        with pytest.raises(tf.errors.InvalidArgumentError):
            checked_tiles(tf.zeros(shape, tf.uint8), 5, most)


def test_tiles_give_the_pixels_of_training() -> None:
    for px in (20, 56, 64):
        jpegs = tf.constant([encoded(picture(56, 56, seed), "JPEG") for seed in range(3)])
        np.testing.assert_array_equal(decode_images(jpegs, px, LIMITS, shrink=False)[0], decode(jpegs, tf.constant(px)))


@pytest.fixture(scope="module")
def reader() -> Callable[[tf.Tensor], tf.Tensor]:
    """One traced reader for all bad files."""
    return lambda contents: decoder(16, LIMITS)(contents)[0]


@pytest.mark.parametrize("name", list(bad_files()))
def test_a_bad_file_is_refused_by_its_index(name: str, reader: Callable[[tf.Tensor], tf.Tensor]) -> None:
    content, reason = bad_files()[name]
    good = FILES["photo.jpg"]()
    with pytest.raises(tf.errors.InvalidArgumentError) as refused:
        reader(tf.constant([good, content, good]))
    assert "image 1 " in refused.value.message and reason in refused.value.message
    assert "image 0" not in refused.value.message and "image 2" not in refused.value.message


@pytest.mark.parametrize("name", list(bad_files()))
def test_the_training_reader_refuses_what_the_graph_refuses(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(bad_files()[name][0])
    if name in ("long", "comments.jpg"):
        pytest.skip("limits of bytes and of segments are the server's alone")
    with pytest.raises(UnreadableImageError):
        decode_image(path, ImageCacheSettings(16, max_pixels=400_000))
    with pytest.raises(UnreadableImageError):
        read_image(path, 400_000)


def test_all_bad_files_of_a_request_are_named(reader: Callable[[tf.Tensor], tf.Tensor]) -> None:
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"image 0 is empty; image 2 is neither"):
        reader(tf.constant([b"", FILES["rgb.png"](), b"text"]))


def test_damaged_pixels_are_refused(reader: Callable[[tf.Tensor], tf.Tensor]) -> None:
    content = bytearray(FILES["rgb.png"]())
    content[60:200] = bytes(140)
    with pytest.raises(tf.errors.InvalidArgumentError):
        reader(tf.constant([bytes(content)]))


def test_too_many_images_and_none() -> None:
    few = Limits(max_images=2)
    with pytest.raises(tf.errors.InvalidArgumentError, match="3 images in one request; at most 2"):
        decode_images(tf.constant([FILES["tiny.jpg"]()] * 3), 16, few)
    assert decode_images(tf.zeros([0], tf.string), 16, few)[0].shape == (0, 16, 16, 3)


CODE = MetadataCode((AGE, SEX, replace(SITE, words=("head/neck", "torso", "unknown"))))


def told_of(age: Any, sex: Any, site: Any) -> dict[str, Any]:
    return {"age": age, "sex": sex, "site": site}


def test_metadata_are_coded_as_in_training() -> None:
    ages, sexes, sites = (
        [55.0, np.nan, 0.0, 120.0],
        ["female", "", "MALE ", "unknown"],
        ["torso", "unknown", "", "head/neck"],
    )
    told = told_of(tf.constant(ages, tf.float32), tf.constant(sexes), tf.constant(sites))
    words = ["female", "unknown", "male", "unknown"], ["torso", "unknown", "unknown", "head/neck"]
    np.testing.assert_array_equal(
        encode_metadata(checked_metadata(told, CODE), CODE), CODE.encode(told_of(ages, *words))
    )
    minus = {**told, "age": tf.constant([-1.0] * 4)}
    expected = CODE.encode(told_of([np.nan] * 4, *words))
    np.testing.assert_array_equal(encode_metadata(checked_metadata(minus, CODE), CODE), expected)


@pytest.mark.parametrize(
    ("age", "sex", "site", "reason"),
    [
        (-2.0, "", "", "metadata 1: age -2 lies outside of 0 to 120"),
        (121.0, "", "", "metadata 1: age 121 lies"),
        (np.inf, "", "", "metadata 1: age inf lies"),
        (50.0, "woman", "", "metadata 1: sex 'woman'; expected female, male, unknown"),
        (50.0, "", "elbow", "metadata 1: site 'elbow'; expected head/neck, torso, unknown"),
    ],
)
def test_metadata_out_of_range_are_refused(age: float, sex: str, site: str, reason: str) -> None:
    told = told_of(tf.constant([40.0, age]), tf.constant(["male", sex]), tf.constant(["torso", site]))
    with pytest.raises(tf.errors.InvalidArgumentError) as refused:
        checked_metadata(told, CODE)
    assert reason in refused.value.message and "metadata 0" not in refused.value.message


def test_tiles_are_selected_as_in_predict() -> None:
    import pandas as pd

    generator = np.random.default_rng(0)
    for threshold in (0.3, 0.8, 0.99):
        p = generator.choice([0.1, 0.2, 0.5, 0.9], 12).astype(np.float32)
        table = pd.DataFrame({"slide_id": "a", "tile": np.arange(12), "probability": p})
        expected = np.isin(np.arange(12), select_tumour_tiles(table, threshold, 3)["tile"])
        # Two tiles of padding, which no rule may take.
        padded = tf.constant(np.r_[p, 0, 0][None])
        there = tf.constant((np.arange(14) < 12)[None])
        np.testing.assert_array_equal(select_tiles(padded, there, threshold, 3)[0, :12], expected)
        assert not select_tiles(padded, there, threshold, 20)[0, 12:].numpy().any()


def fitted(outputs: int, temperature: float) -> dict[str, Any]:
    return Calibration(temperature, outputs, "a hold-out", 9, 9, 1.0, 0.9, 0.1, 0.1, 15, False).to_json()


@pytest.mark.parametrize("outputs", [1, 3])
def test_probabilities_are_calibrated_as_in_training(outputs: int) -> None:
    drawn = np.random.default_rng(outputs).dirichlet([0.3] * max(outputs, 2), 20)
    sure = np.concatenate([drawn, np.eye(drawn.shape[1])])  # and such as no temperature may make anything but a number
    for temperature in (0.4, 2.3):
        written = fitted(outputs, temperature)
        expected = Calibration.from_json(written).apply(sure[:, 1] if outputs == 1 else sure)
        expected = np.stack([1 - expected, expected], axis=1) if outputs == 1 else expected
        np.testing.assert_allclose(calibrate(tf.constant(sure), written), expected, rtol=1e-9, atol=1e-12)
    np.testing.assert_array_equal(calibrate(tf.constant(sure), None), sure)


def decisions(outputs: list[list[float]], classes: str, threshold: float | None, **more: Any) -> list[str]:
    """What the graph calls float32 probabilities."""
    sidecar = Sidecar("weighting", tuple(classes), 40, {}, threshold, "", {}, **more)
    return [name.decode() for name in answers(tf.constant(outputs), sidecar)["decision"].numpy()]


def test_a_decision_at_the_threshold_and_between_equals() -> None:
    assert decisions([[0.5], [0.49999997], [0.9]], "nm", 0.5) == ["m", "n", "m"]
    assert decisions([[0.7], [0.71]], "nm", 0.7) == ["n", "m"]  # in float32 0.7 is 0.69999999
    rows = [[0.4, 0.4, 0.2], [0.2, 0.4, 0.4], [0.2, 0.3, 0.5], [1 / 3, 1 / 3, 1 / 3]]
    for more in ({}, {"calibration": fitted(3, 1.7)}):
        assert decisions(rows, "ABC", None, **more) == [UNDECIDED, UNDECIDED, "C", UNDECIDED]


def test_a_decision_is_withheld_past_the_limit_of_what_is_like_the_training() -> None:
    sidecar = Sidecar("weighting", ("n", "m"), 40, {}, 0.5, "", {})
    far = tf.constant([0.2, 1.0, 1.001, np.nan])
    found = answers(tf.constant([[0.9], [0.1], [0.9], [0.9]]), sidecar, far)
    assert found["decision"].numpy().tolist() == [b"m", b"n", b"m", b"m"]
    assert found["called"].numpy().tolist() == [b"m", b"n", b"", b""]
