"""The same picture by another camera, in several strengths: how a model holds up is measured on these."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import cv2
import numpy as np

from melano_tf.phantoms.skin.photograph import draw_hairs

Picture = np.ndarray  # uint8 (h, w, 3), RGB


@dataclass(frozen=True)
class CameraChange:
    """One way in which another camera's picture differs.

    Attributes:
        words: what it is, and what its strength counts.
        strengths: that are tried, from the mildest.
        unit: behind a strength.
        change: (picture, strength, generator) -> the changed picture; the generator draws what a strength leaves open,
            the same for all strengths of a picture.
    """

    words: str
    strengths: tuple[float, ...]
    unit: str
    change: Callable[[Picture, float, np.random.Generator], Picture]

    def named(self, strength: float) -> str:
        """The change at a strength, as a table calls it."""
        return f"{self.words} {strength:g}{self.unit}"


def blurred(picture: Picture, strength: float, rng: np.random.Generator) -> Picture:
    """Out of focus: a Gaussian whose standard deviation is this share of the shorter side, in percent."""
    return cv2.GaussianBlur(picture, (0, 0), strength / 100 * min(picture.shape[:2]), borderType=cv2.BORDER_REFLECT)


def compressed(picture: Picture, strength: float, rng: np.random.Generator) -> Picture:
    """Saved as JPEG of this quality, 1 to 100, with halved colour, and read again."""
    _, coded = cv2.imencode(".jpg", picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, round(strength)])
    return np.asarray(cv2.imdecode(coded, cv2.IMREAD_COLOR))[..., ::-1]


def cast(picture: Picture, strength: float, rng: np.random.Generator) -> Picture:
    """Another white balance: red gains so many percent and blue loses them, or the other way round, by lot."""
    share = strength / 100 * rng.choice((-1.0, 1.0))
    return _pixels(picture * np.array([1 + share, 1, 1 - share]))


def vignetted(picture: Picture, strength: float, rng: np.random.Generator) -> Picture:
    """Darker away from the centre, by so many percent in the corners, with the square of the distance."""
    height, width = picture.shape[:2]
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    return _pixels(picture * (1 - strength / 100 * (x**2 + y**2) / 2)[..., None])


def hairy(picture: Picture, strength: float, rng: np.random.Generator) -> Picture:
    """So many hairs across it, drawn as over the phantoms."""
    return _pixels(draw_hairs(picture.astype(np.float32), round(strength), rng))


def _pixels(values: np.ndarray) -> Picture:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


CHANGES: Mapping[str, CameraChange] = {
    "blur": CameraChange("blur,", (0.5, 1.0, 2.0), " % of the side", blurred),
    "jpeg": CameraChange("JPEG, quality", (50.0, 20.0, 10.0), "", compressed),
    "cast": CameraChange("white balance off by", (10.0, 20.0, 30.0), " %", cast),
    "vignette": CameraChange("corners darker by", (25.0, 50.0, 75.0), " %", vignetted),
    "hair": CameraChange("hairs:", (5.0, 12.0, 25.0), "", hairy),
}


def changed(picture: Picture, name: str, strength: float, seed: tuple[int, ...]) -> Picture:
    """A picture as another camera would show it.

    Args:
        picture: uint8 (h, w, 3), RGB.
        name: of `CHANGES`.
        strength: as that one counts it.
        seed: of what the strength leaves open: one a picture.

    Returns:
        uint8 (h, w, 3).
    """
    return np.ascontiguousarray(CHANGES[name].change(picture, strength, np.random.default_rng(seed)))


def drawn_change(picture: Picture, seed: tuple[int, ...], share: float) -> Picture:
    """A picture for training: with probability `share` changed by one camera, of any strength between its own.

    Args:
        picture: uint8 (h, w, 3), RGB.
        seed: of all that is drawn.
        share: in 0..1.
    """
    rng = np.random.default_rng(seed)
    if rng.uniform() >= share:
        return picture
    one = list(CHANGES.values())[int(rng.integers(len(CHANGES)))]
    strength = rng.uniform(min(one.strengths), max(one.strengths))
    return np.ascontiguousarray(one.change(picture, strength, rng))
