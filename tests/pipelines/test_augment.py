"""Augmentation: each image by its own seed, against numpy."""

import numpy as np
import pytest
import tensorflow as tf

from melano_tf.errors import InputError
from melano_tf.pipelines.augment import DRAWS, STAINS, YIQ, AugmentSettings, augment, sample_seeds
from melano_tf.pipelines.sample_random_numbers import uniform

EVERYTHING = AugmentSettings(flip=True, rotate90=True, brightness=0.2, hue=20, stain=0.2)
IMAGES = np.random.default_rng(0).integers(0, 256, (64, 6, 6, 3), dtype=np.uint8)
SEEDS = sample_seeds(7, tf.constant(3), tf.range(64))


def draws() -> np.ndarray:
    return uniform(SEEDS, DRAWS).numpy()


def test_all_off_is_the_image_itself() -> None:
    assert np.array_equal(augment(IMAGES, SEEDS, AugmentSettings()), IMAGES)


@pytest.mark.parametrize(("flip", "rotate"), [(True, False), (False, True), (True, True)])
def test_flips_and_turns_equal_numpys(flip: bool, rotate: bool) -> None:
    result = augment(IMAGES, SEEDS, AugmentSettings(flip=flip, rotate90=rotate)).numpy()
    kinds = set()
    for image, got, draw in zip(IMAGES, result, draws(), strict=True):
        turns, left_right, up_down = int(draw[2] * 4) * rotate, flip and draw[0] < 0.5, flip and draw[1] < 0.5
        kinds.add((turns, left_right, up_down))
        expected = np.rot90(image, turns)
        expected = expected[:, ::-1] if left_right else expected
        expected = expected[::-1] if up_down else expected
        assert np.array_equal(got, expected)
    assert len(kinds) == (4 if flip else 1) * (4 if rotate else 1)


def test_flips_of_images_that_are_not_square() -> None:
    images = IMAGES[:, :4]
    result = augment(images, SEEDS, AugmentSettings(flip=True)).numpy()
    for image, got, draw in zip(images, result, draws(), strict=True):
        expected = image[:, ::-1] if draw[0] < 0.5 else image
        assert np.array_equal(got, expected[::-1] if draw[1] < 0.5 else expected)


@pytest.mark.parametrize("name", ["brightness", "hue", "stain"])
def test_colours_equal_numpys(name: str) -> None:
    amount = 15.0 if name == "hue" else 0.2
    result = augment(IMAGES, SEEDS, AugmentSettings(**{name: amount})).numpy()
    for image, got, draw in zip(IMAGES.astype(float), result, 2 * draws().astype(float) - 1, strict=True):
        if name == "brightness":
            expected = image * (1 + amount * draw[7])
        elif name == "stain":
            amounts = -np.log((image + 1) / 256) @ np.linalg.inv(np.array(STAINS))
            expected = np.exp(-(amounts * (1 + amount * draw[3:6])) @ np.array(STAINS)) * 256 - 1
        else:
            angle = np.deg2rad(amount * draw[6])
            luma, i, q = np.moveaxis(image @ np.array(YIQ).T, -1, 0)
            turned = [luma, np.cos(angle) * i - np.sin(angle) * q, np.sin(angle) * i + np.cos(angle) * q]
            expected = np.stack(turned, -1) @ np.linalg.inv(np.array(YIQ).T)
        assert np.abs(got - np.clip(expected, 0, 255)).max() <= 0.51
    assert (result != IMAGES).any(axis=(1, 2, 3)).mean() > 0.9


def test_an_image_is_changed_alike_in_any_batch() -> None:
    whole = augment(IMAGES, SEEDS, EVERYTHING).numpy()
    some = [40, 3, 17]
    assert np.array_equal(augment(IMAGES[some], tf.gather(SEEDS, some), EVERYTHING), whole[some])
    assert np.array_equal(augment(IMAGES[9:10], SEEDS[9:10], EVERYTHING), whole[9:10])


def test_seeds_never_meet() -> None:
    seeds = [
        tuple(seed)
        for run in (0, 1, 2**31 - 1)
        for epoch in (0, 1, 119)
        for seed in sample_seeds(run, tf.constant(epoch), tf.range(5, dtype=tf.int64)).numpy().tolist()
    ]
    assert len(set(seeds)) == len(seeds) == 45


def test_settings_out_of_range_are_all_named() -> None:
    with pytest.raises(InputError) as refused:
        AugmentSettings(brightness=-0.1, hue=180.5, stain=3)
    assert str(refused.value).splitlines() == [
        "augment:",
        "  - brightness must lie between 0 and 1, and is -0.1",
        "  - hue must lie between 0 and 180, and is 180.5",
        "  - stain must lie between 0 and 1, and is 3",
    ]
    assert AugmentSettings(brightness=1, hue=180, stain=1).active
