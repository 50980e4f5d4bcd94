"""Colour constancy: images as they would look under one neutral light (sample weighting, section 4.2, its reference 1).

The light of channel c is estimated from the image alone, e_c = (mean over pixels of I_c^p)^(1/p), and made of length
one; the image is divided by sqrt(3) e_c, so that a grey light changes nothing (Finlayson and Trezzi, Shades of Gray).
`melano_tf.models.colour_constancy_layer` does the same inside a network.
"""

import math
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from melano_tf.errors import InputError

Method = Literal["shades_of_gray", "grey_world", "max_rgb"]
LARGEST_P = 64.0


@dataclass(frozen=True)
class ColourConstancy:
    """How the light's colour is estimated.

    Raises:
        InputError: a value outside its range.
    """

    method: Method = "shades_of_gray"
    """Shades of Gray with `p`, grey world (p = 1) or max-RGB (p = infinity)."""
    p: float = 6.0
    """Minkowski exponent of Shades of Gray (not given; our reading: 6)."""
    mask_saturated: bool = False
    """Leave saturated pixels out of the estimate, for their true colour is not known (not in the paper)."""
    saturated: int = 255
    """A pixel is saturated where one of its channels is this high."""

    def __post_init__(self) -> None:
        faults = []
        if self.method not in get_args(Method):
            faults.append(f"method is {self.method!r}; known: {', '.join(get_args(Method))}")
        if not 1 <= self.p <= LARGEST_P:
            faults.append(f"p must lie between 1 and {LARGEST_P:g}, and is {self.p:g}; max_rgb is its limit")
        if not 1 <= self.saturated <= 255:
            faults.append(f"saturated must lie between 1 and 255, and is {self.saturated}")
        if faults:
            raise InputError.of("colour:", faults)

    @property
    def exponent(self) -> float:
        """The Minkowski exponent that the method stands for."""
        return {"shades_of_gray": float(self.p), "grey_world": 1.0, "max_rgb": math.inf}[self.method]


def gains(image: np.ndarray, settings: ColourConstancy) -> np.ndarray:
    """What each channel is multiplied by, float64 (3,): 1 / (sqrt(3) e_c).

    1 for a channel that is black everywhere, and for all three of an image without any pixel to judge by.

    Args:
        image: uint8 (H, W, 3) RGB.
    """
    pixels = image.reshape(-1, 3)
    if settings.mask_saturated:
        pixels = pixels[(pixels < settings.saturated).all(axis=1)]
    if not len(pixels):
        return np.ones(3)
    # 256 values: powers are taken of values, not of pixels. In units of 255, so that no power overflows.
    counts = np.stack([np.bincount(pixels[:, channel], minlength=256) for channel in range(3)])
    values = np.arange(256) / 255.0
    if settings.exponent == math.inf:
        light = np.array([values[np.flatnonzero(row)[-1]] for row in counts])
    else:
        light = (counts @ values**settings.exponent / len(pixels)) ** (1.0 / settings.exponent)
    length = math.sqrt(float(np.sum(light**2)))
    return np.where(light > 0, length / (math.sqrt(3.0) * np.where(light > 0, light, 1.0)), 1.0)


def normalise(image: np.ndarray, settings: ColourConstancy) -> np.ndarray:
    """An image under neutral light.

    Args:
        image: uint8 (H, W, 3) RGB.
        settings: how the light is estimated.

    Returns:
        uint8 (H, W, 3): computed in float64, rounded half to even, and clipped at 255, never wrapped around.

    Raises:
        ValueError: not uint8 (H, W, 3).
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"expected uint8 (H, W, 3), got {image.dtype} {image.shape}")
    table = np.clip(np.rint(np.arange(256)[:, None] * gains(image, settings)), 0, 255).astype(np.uint8)
    return np.stack([table[image[:, :, channel], channel] for channel in range(3)], axis=-1)
