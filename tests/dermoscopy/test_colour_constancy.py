"""Colour constancy against numbers worked out by hand, naive loops, and what must never happen to a pixel."""

import math

import numpy as np
import pytest

from melano_tf.dermoscopy.colour_constancy import ColourConstancy, gains, normalise
from melano_tf.errors import InputError

RNG = np.random.default_rng(0)
METHODS = [ColourConstancy(), ColourConstancy("grey_world"), ColourConstancy("max_rgb"), ColourConstancy(p=2.5)]
# Squares' means 500, 400, 800 (together 1700); maxima 30, 20, 40 (squares together 2900); means 20, 20, 20.
BY_HAND = np.array([[[10, 20, 40], [30, 20, 0]]], np.uint8)


@pytest.mark.parametrize(
    "settings, expected, pixels",
    [
        # sqrt(1700 / 1500), sqrt(1700 / 1200), sqrt(1700 / 2400)
        (ColourConstancy(p=2), (1.064581, 1.190238, 0.841625), [[11, 24, 34], [32, 24, 0]]),
        (ColourConstancy("grey_world"), (1, 1, 1), [[10, 20, 40], [30, 20, 0]]),
        # sqrt(2900 / 2700), sqrt(2900 / 1200), sqrt(2900 / 4800)
        (ColourConstancy("max_rgb"), (1.036375, 1.554563, 0.777282), [[10, 31, 31], [31, 31, 0]]),
    ],
)
def test_by_hand(settings: ColourConstancy, expected: tuple[float, ...], pixels: list) -> None:
    np.testing.assert_allclose(gains(BY_HAND, settings), expected, rtol=1e-6)
    result = normalise(BY_HAND, settings)
    assert result.dtype == np.uint8
    np.testing.assert_array_equal(result, [pixels])


def naive(image: np.ndarray, p: float, saturated: int | None) -> np.ndarray:
    """One pixel and channel at a time."""
    height, width, _ = image.shape
    light = []
    for channel in range(3):
        values = [
            float(image[row, column, channel])
            for row in range(height)
            for column in range(width)
            if saturated is None or max(image[row, column]) < saturated
        ]
        light.append(max(values) if p == math.inf else (sum(v**p for v in values) / len(values)) ** (1 / p))
    length = math.sqrt(sum(value**2 for value in light))
    result = np.zeros(image.shape)
    for row in range(height):
        for column in range(width):
            for channel in range(3):
                neutral = image[row, column, channel] / (math.sqrt(3) * light[channel] / length)
                result[row, column, channel] = min(255, round(neutral))
    return result


@pytest.mark.parametrize("mask", [False, True])
@pytest.mark.parametrize("settings", METHODS)
def test_equals_loops(settings: ColourConstancy, mask: bool) -> None:
    image = RNG.integers(0, 256, (9, 7, 3), dtype=np.uint8)
    chosen = ColourConstancy(settings.method, settings.p, mask, saturated=240)
    before = image.copy()
    np.testing.assert_array_equal(normalise(image, chosen), naive(image, chosen.exponent, 240 if mask else None))
    np.testing.assert_array_equal(image, before)


@pytest.mark.parametrize("settings", METHODS)
def test_what_has_no_colour_stays(settings: ColourConstancy) -> None:
    grey = np.repeat(RNG.integers(0, 256, (5, 6, 1), dtype=np.uint8), 3, axis=2)
    for image in (grey, np.zeros((4, 4, 3), np.uint8), np.full((4, 4, 3), 255, np.uint8)):
        np.testing.assert_array_equal(normalise(image, settings), image)


@pytest.mark.parametrize("settings", METHODS)
def test_a_black_channel_stays_black_and_the_others_are_balanced(settings: ColourConstancy) -> None:
    image = np.zeros((2, 2, 3), np.uint8)
    image[..., 0], image[..., 1] = 40, 80  # e = (40, 80, 0): sqrt(8000 / 3) for both
    np.testing.assert_array_equal(normalise(image, settings), np.full((2, 2, 3), (52, 52, 0)))


@pytest.mark.parametrize("settings", METHODS)
def test_bright_pixels_are_clipped_and_never_wrap(settings: ColourConstancy) -> None:
    image = np.zeros((16, 16, 3), np.uint8)
    image[..., 0] = np.arange(256).reshape(16, 16)
    image[..., 1] = image[..., 0] // 4
    image[..., 2] = image[..., 0] // 8
    assert gains(image, settings)[2] > 2
    image[0, 0] = 255
    result = normalise(image, settings)
    assert result[0, 0, 2] == 255
    for channel in range(3):
        order = np.argsort(image[..., channel], axis=None, kind="stable")
        assert np.all(np.diff(result[..., channel].ravel()[order].astype(int)) >= 0)


@pytest.mark.parametrize("settings", METHODS)
def test_a_tint_is_taken_away(settings: ColourConstancy) -> None:
    image = RNG.integers(60, 220, (40, 40, 3), dtype=np.uint8)
    tinted = np.rint(image * np.array([1.1, 0.8, 0.6])).astype(np.uint8)
    found, plain = (normalise(one, settings).astype(int) for one in (tinted, image))
    scale = found.sum() / plain.sum()  # the brightness changes with the tint, the colours do not
    assert np.abs(found - plain * scale).max() < 4
    assert np.abs(tinted * (plain.sum() / tinted.sum()) - plain).max() > 25


def test_saturated_pixels_do_not_count_where_they_are_masked() -> None:
    image = RNG.integers(0, 200, (8, 8, 3), dtype=np.uint8)
    glare = image.copy()
    glare[:2] = (255, 180, 90)
    masked = ColourConstancy(mask_saturated=True)
    np.testing.assert_allclose(gains(glare, masked), gains(image[2:], masked), rtol=1e-12)
    assert np.abs(gains(glare, ColourConstancy()) - gains(image[2:], masked)).max() > 0.1
    everything = np.full((3, 3, 3), (255, 10, 20), np.uint8)
    np.testing.assert_array_equal(normalise(everything, masked), everything)


def test_a_higher_p_comes_nearer_to_the_maximum() -> None:
    image = RNG.integers(0, 256, (30, 30, 3), dtype=np.uint8) // np.array([1, 2, 3], np.uint8)
    image[0, 0] = (100, 250, 100)
    limit = gains(image, ColourConstancy("max_rgb"))
    away = [np.abs(gains(image, ColourConstancy(p=p)) - limit).max() for p in (1, 6, 32, 64)]
    assert away == sorted(away, reverse=True) and away[-1] < 0.1 < away[0]
    np.testing.assert_array_equal(gains(image, ColourConstancy(p=1)), gains(image, ColourConstancy("grey_world", p=9)))


def test_refused() -> None:
    with pytest.raises(InputError, match=r"(?s)method is 'retinex'.*p must lie.*saturated must lie"):
        ColourConstancy("retinex", p=0.5, saturated=0)
    with pytest.raises(InputError, match="max_rgb is its limit"):
        ColourConstancy(p=math.inf)
    with pytest.raises(InputError, match="p must lie"):
        ColourConstancy(p=math.nan)
    for wrong in (np.zeros((2, 2, 3), np.float32), np.zeros((2, 2), np.uint8), np.zeros((2, 2, 4), np.uint8)):
        with pytest.raises(ValueError, match="expected uint8"):
            normalise(wrong, ColourConstancy())
