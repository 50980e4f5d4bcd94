"""Turns, crops and flips: against numpy's own, against a loop, and in the picture's own proportions."""

import cv2
import numpy as np
import pytest

from melano_tf.pipelines.image_transforms import transformed, turned, views, warped

RNG = np.random.default_rng(5)


def seen(images, output, degrees=0.0, zoom=1.0, mirrored=False, aspect=1.0, fill="constant"):
    count = len(images)
    transforms = views(
        np.full(count, degrees),
        np.full(count, zoom),
        np.full(count, mirrored),
        np.full(count, aspect),
        images.shape[1:3],
        output,
    )
    return np.asarray(transformed(images.astype(np.float32), transforms, output, fill))


def test_a_quarter_turn_is_numpys() -> None:
    images = RNG.uniform(0, 255, (2, 9, 9, 3)).astype(np.float32)
    np.testing.assert_allclose(seen(images, (9, 9), degrees=-90)[1], np.rot90(images[1], -1), atol=1e-2)
    np.testing.assert_allclose(seen(images, (9, 9), degrees=90)[0], np.rot90(images[0]), atol=1e-2)


def test_the_whole_picture_upright_is_itself_and_mirrored_its_mirror_image() -> None:
    images = RNG.uniform(0, 255, (2, 8, 8, 3))
    np.testing.assert_allclose(seen(images, (8, 8)), images, atol=1e-3)
    np.testing.assert_allclose(seen(images, (8, 8), mirrored=True), images[:, :, ::-1], atol=1e-3)


def test_a_crop_from_the_centre_keeps_its_share() -> None:
    images = RNG.uniform(0, 255, (1, 20, 20, 3))
    # 0.8 of 20 pixels are 16, and 16 are wanted: the crop itself, without resampling.
    np.testing.assert_allclose(seen(images, (16, 16), zoom=0.8), images[:, 2:18, 2:18], atol=1e-3)


def test_turning_comes_before_mirroring() -> None:
    images = RNG.uniform(0, 255, (1, 9, 9, 3))
    np.testing.assert_allclose(
        seen(images, (9, 9), degrees=90, mirrored=True)[0], np.rot90(images[0])[:, ::-1], atol=0.1
    )


def test_bilinear_values_are_those_of_a_loop() -> None:
    image = RNG.uniform(0, 255, (7, 7, 1))
    found = seen(image[None], (5, 5), degrees=20, zoom=0.9)[0, ..., 0]
    angle = np.radians(20)
    for row in range(5):
        for column in range(5):
            u, v = 2 * (column + 0.5) / 5 - 1, 2 * (row + 0.5) / 5 - 1
            x = 0.9 * (np.cos(angle) * u - np.sin(angle) * v)
            y = 0.9 * (np.sin(angle) * u + np.cos(angle) * v)
            px, py = (x + 1) * 3.5 - 0.5, (y + 1) * 3.5 - 0.5
            left, top = int(np.floor(px)), int(np.floor(py))
            total = 0.0
            for dy in (0, 1):
                for dx in (0, 1):
                    if 0 <= top + dy < 7 and 0 <= left + dx < 7:
                        weight = (1 - abs(px - left - dx)) * (1 - abs(py - top - dy))
                        total += weight * image[top + dy, left + dx, 0]
            assert found[row, column] == pytest.approx(total, abs=0.05), (row, column)


def test_a_squeezed_picture_turns_in_its_own_proportions() -> None:
    """An upright bar of a 2:1 picture, squeezed to a square and turned by 90 degrees, lies down at its own length."""
    wide = np.zeros((64, 128))
    wide[12:52, 60:68] = 255.0  # 40 px long, 8 px wide
    squeezed = wide.reshape(64, 64, 2).mean(axis=2)[None, ..., None]
    turned = seen(squeezed, (64, 64), degrees=90, aspect=2.0)[0, ..., 0]
    rows, columns = turned.max(axis=1) > 127, turned.max(axis=0) > 127
    assert rows.sum() == pytest.approx(8, abs=1)
    assert columns.sum() == pytest.approx(20, abs=1)  # 40 px of a picture that is squeezed by two
    sheared = seen(squeezed, (64, 64), degrees=90, aspect=1.0)[0, ..., 0]
    assert (sheared.max(axis=0) > 127).sum() == pytest.approx(40, abs=1)


@pytest.mark.parametrize("fill, value", [("constant", 0.0), ("nearest", 200.0), ("reflect", 200.0)])
def test_what_is_outside_is_filled(fill: str, value: float) -> None:
    found = seen(np.full((1, 16, 16, 1), 200.0), (16, 16), degrees=45, fill=fill)
    assert found[0, 0, 0, 0] == pytest.approx(value, abs=0.5)
    assert found[0, 8, 8, 0] == pytest.approx(200.0, abs=0.5)


@pytest.mark.parametrize("fill", ["constant", "nearest", "reflect"])
def test_opencvs_pixels_are_tensorflows_to_a_grey_level(fill: str) -> None:
    """Of pictures of another size than the result, none of them square in what it shows."""
    rng = np.random.default_rng(8)
    noise = [cv2.GaussianBlur(rng.normal(128, 400, (40, 40, 3)), (0, 0), 2) for _ in range(6)]
    images = np.clip(np.stack(noise), 0, 255).astype(np.uint8)
    degrees, zoom, aspect = rng.uniform(-90, 90, 6), rng.uniform(0.7, 1, 6), rng.uniform(0.5, 2, 6)
    transforms = np.asarray(views(degrees, zoom, rng.random(6) < 0.5, aspect, (40, 40), (31, 31)))
    exact = np.clip(np.asarray(transformed(images.astype(np.float32), transforms, (31, 31), fill)), 0, 255)
    found = warped(iter(images), transforms, (31, 31), fill)
    apart = np.abs(found - exact)
    assert apart.mean() < 0.5 and apart.max() < 6  # rounding, and 1/64 px where a picture is steepest
    assert images.std() > 20


def test_opencv_takes_images_that_may_not_be_written_to() -> None:
    image = np.full((9, 9, 3), 7, np.uint8)
    image.flags.writeable = False
    still = np.array([[1, 0, 0, 0, 1, 0, 0, 0]], np.float32)
    np.testing.assert_array_equal(warped([image], still, (9, 9), "constant")[0], image)


def test_lopsided_images_are_mirrored_and_not_turned_by_a_quarter() -> None:
    images, no, yes = RNG.integers(0, 256, (2, 4, 7, 3), np.uint8), np.array([False, False]), np.array([True, False])
    found = turned(images, np.array([0, 2]), yes, no)
    np.testing.assert_array_equal(found, [images[0, ::-1], images[1, ::-1, ::-1]])
    with pytest.raises(ValueError, match="images of 7 x 4 px cannot be turned by a quarter"):
        turned(images, np.array([0, 3]), no, no)
