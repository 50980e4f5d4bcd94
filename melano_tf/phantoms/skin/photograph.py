"""A phantom photograph: a lesion on skin, under one dermatoscope's light, with hair, ruler, corners or field of view.

Nothing here looks at the lesion's class.
"""

from dataclasses import dataclass

import cv2
import numpy as np

from melano_tf.phantoms.skin.lesion import CANVAS, REACH, Lesion

Array = np.ndarray
# Skin from light to dark, RGB.
TONES = np.array([[238, 198, 188], [226, 176, 155], [199, 144, 115], [150, 101, 77], [98, 66, 52]], np.float32)
# Absorption (optical density) of pigment by channel: brown, red-brown, grey-brown; and what hue adds.
PIGMENTS = np.array([[0.55, 0.95, 1.15], [0.30, 0.95, 0.95], [0.75, 0.90, 0.85]], np.float32)
HUE_RED = np.array([-0.22, 0.10, 0.16], np.float32)
HUE_BLUE = np.array([0.22, 0.02, -0.26], np.float32)


@dataclass(frozen=True)
class SourceStyle:
    """How one source's pictures look.

    Attributes:
        aspect: width / height.
        height: relative to the settings' height.
        lesion: smallest and largest radius of a lesion, as a share of the height.
        off_centre: how far a lesion may lie off the centre, as a share of the height.
        light: gain of R, G and B.
        blur: sigma in px.
        disc_share: share of pictures with a dark circular field of view that lies within the picture.
        corner_share: share of the others whose corners are dark.
    """

    aspect: float
    height: float
    lesion: tuple[float, float]
    off_centre: float
    light: tuple[float, float, float]
    blur: tuple[float, float]
    disc_share: float
    corner_share: float


STYLES = {
    "HAM": SourceStyle(4 / 3, 1.0, (0.22, 0.34), 0.05, (1.03, 0.94, 0.94), (0.3, 0.7), 0.0, 0.25),
    "MSK": SourceStyle(4 / 3, 1.2, (0.20, 0.32), 0.06, (1.0, 1.0, 1.0), (0.4, 0.9), 0.0, 0.1),
    "unnamed": SourceStyle(4 / 3, 1.1, (0.18, 0.34), 0.08, (1.02, 0.98, 0.97), (0.3, 1.1), 0.1, 0.2),
    "BCN": SourceStyle(1.0, 4 / 3, (0.15, 0.23), 0.06, (0.95, 0.97, 0.90), (0.5, 1.0), 0.7, 0.2),
}


@dataclass(frozen=True)
class View:
    """One photograph: RGB uint8 (h, w, 3), the lesion's mask (h, w) bool, and the field of view.

    `field` is (centre x, centre y, radius) in px of a dark-rimmed disc within the picture, or None.
    """

    rgb: Array
    mask: Array
    field: tuple[float, float, float] | None


@dataclass(frozen=True)
class Skin:
    """Of one patient: tone 0 (light) to 1 (dark), redness -1 to 1, hairs a picture (mean)."""

    tone: float
    redness: float
    hairs: float

    @classmethod
    def draw(cls, rng: np.random.Generator) -> "Skin":
        """Mostly light, as in the archives, and some of every tone."""
        return cls(float(rng.beta(1.1, 2.2)), float(rng.uniform(-1, 1)), float(rng.gamma(1.0, 7.0)))


@dataclass(frozen=True)
class Inks:
    """Colours of one lesion, drawn without its class: absorption of pigment, its strength, and the reach of hue."""

    absorption: tuple[float, float, float]
    strength: float
    hue: float

    @classmethod
    def draw(cls, rng: np.random.Generator) -> "Inks":
        """A mixture of the three pigments."""
        r, g, b = rng.dirichlet([1.2, 1.0, 0.7]) @ PIGMENTS
        return cls((float(r), float(g), float(b)), float(rng.uniform(0.9, 1.9)), float(rng.uniform(0.3, 1.0)))


def draw_view(
    lesion: Lesion,
    skin: Skin,
    inks: Inks,
    style: SourceStyle,
    height_px: int,
    rng: np.random.Generator,
    ruler_share: float = 0.15,
    hair_share: float = 0.35,
) -> View:
    """Photograph a lesion: turned, scaled and lit anew at each call.

    Args:
        lesion: what is photographed.
        skin: of the patient.
        inks: of the lesion.
        style: of the source.
        height_px: height of a picture of relative height 1.
        rng: source of all that is random.
        ruler_share: share of pictures with ruler marks.
        hair_share: share of pictures with hair.
    """
    height = round(height_px * style.height)
    width = round(height * style.aspect)
    radius = rng.uniform(*style.lesion) * height
    matrix = _placement(radius, style.off_centre * height, width, height, rng)

    def place(field: Array, how: int = cv2.INTER_LINEAR) -> Array:
        return cv2.warpAffine(field, matrix, (width, height), flags=how)

    density = place(lesion.pigment)[..., None]
    hue = inks.hue * place(lesion.hue)[..., None]
    tint = np.asarray(inks.absorption, np.float32) + np.maximum(hue, 0) * HUE_RED + np.maximum(-hue, 0) * HUE_BLUE
    image = _skin(skin, width, height, rng) * np.exp(-inks.strength * density * tint)
    if rng.uniform() < hair_share:
        image = draw_hairs(image, 1 + int(rng.poisson(skin.hairs)), rng)
    if rng.uniform() < ruler_share:
        image = _ruler(image, rng)
    image = image * _light(style, width, height, rng)
    field = _field_of_view(style, width, height, rng)
    if field is not None:
        image = _darken(image, field, rng)
    image = cv2.GaussianBlur(image, (0, 0), rng.uniform(*style.blur))
    image = image + rng.normal(0, 2.0, (height, width, 1)).astype(np.float32)
    seen = field if field is not None and field[2] < min(width, height) / 2 else None
    mask = place(lesion.mask.astype(np.uint8), cv2.INTER_NEAREST) > 0
    return View(np.clip(np.rint(image), 0, 255).astype(np.uint8), mask, seen)


def _placement(radius: float, off_centre: float, width: int, height: int, rng: np.random.Generator) -> Array:
    """The affine matrix from a lesion's own picture to the photograph; half of them mirrored."""
    scale = radius * 2 * REACH / CANVAS
    turn, mirror = rng.uniform(0, 2 * np.pi), rng.choice([-1.0, 1.0])
    cosine, sine = scale * np.cos(turn), scale * np.sin(turn)
    linear = np.array([[mirror * cosine, -sine], [mirror * sine, cosine]])
    target = np.array([width, height]) / 2 + rng.normal(0, off_centre, 2).clip(-2 * off_centre, 2 * off_centre)
    return np.hstack([linear, (target - linear @ np.full(2, CANVAS / 2))[:, None]])


def _cloud(width: int, height: int, cells: int, rng: np.random.Generator) -> Array:
    grid = rng.normal(size=(cells + 2, cells + 2)).astype(np.float32)
    return cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC)


def _skin(skin: Skin, width: int, height: int, rng: np.random.Generator) -> Array:
    place = skin.tone * (len(TONES) - 1)
    colour = np.array([np.interp(place, np.arange(len(TONES)), TONES[:, channel]) for channel in range(3)], np.float32)
    colour *= 1 + skin.redness * np.array([0.02, -0.05, -0.03], np.float32)
    mottle = 0.035 * _cloud(width, height, 6, rng) + 0.02 * _cloud(width, height, 24, rng)
    turn = rng.uniform(0, np.pi)
    # Skin lines: noise that is smooth along one direction.
    lines = cv2.warpAffine(
        rng.normal(size=(height, width)).astype(np.float32),
        cv2.getRotationMatrix2D((width / 2, height / 2), np.degrees(turn), 1.0) * np.array([[1, 1, 1], [4, 4, 4]]),
        (width, height),
        borderMode=cv2.BORDER_REFLECT,
    )
    shade = 1 + mottle + 0.012 * cv2.GaussianBlur(lines, (0, 0), 1.0)
    red = 0.03 * _cloud(width, height, 8, rng)
    return colour * np.stack([shade, shade - np.maximum(red, 0), shade - np.maximum(red, 0)], axis=-1)


def draw_hairs(image: Array, count: int, rng: np.random.Generator) -> Array:
    """Curved hairs of one colour, dark or light, that cross the picture; at most 25.

    Args:
        image: float32 (h, w, 3), 0 to 255.
        count: of hairs.
        rng: source of all that is random.
    """
    height, width = image.shape[:2]
    layer = np.zeros((height, width), np.float32)
    main = rng.uniform(0, np.pi)
    for _ in range(min(count, 25)):
        start = rng.uniform(0, 1, 2) * (width, height)
        headings = main + rng.normal(0, 0.5) + np.linspace(0, rng.normal(0, 1.2), 20)
        steps = np.stack([np.cos(headings), np.sin(headings)], axis=1) * rng.uniform(0.2, 0.9) * height / 20
        points = np.rint((start + np.cumsum(steps, axis=0)) * 16).astype(np.int32)
        cv2.polylines(layer, [points.reshape(-1, 1, 2)], False, float(rng.uniform(0.5, 0.95)), 1, cv2.LINE_AA, shift=4)
    colour = np.array([52, 36, 30] if rng.uniform() < 0.8 else [225, 205, 170], np.float32)
    return image * (1 - layer[..., None]) + colour * layer[..., None]


def _ruler(image: Array, rng: np.random.Generator) -> Array:
    """Ticks along one edge, every fifth longer."""
    height, width = image.shape[:2]
    layer = np.zeros((height, width), np.float32)
    step = rng.uniform(0.05, 0.08) * height
    near = int(rng.uniform(0.03, 0.08) * height)
    for i in range(int(width / step) + 1):
        x = round(i * step)
        cv2.line(layer, (x, near), (x, near + int(height * (0.055 if i % 5 == 0 else 0.03))), 1.0, 1, cv2.LINE_AA)
    if rng.uniform() < 0.5:
        layer = layer[::-1]
    if rng.uniform() < 0.5:
        layer = cv2.resize(np.ascontiguousarray(layer.T), (width, height))
    return image * (1 - 0.75 * layer[..., None]) + 30.0 * 0.75 * layer[..., None]


def _light(style: SourceStyle, width: int, height: int, rng: np.random.Generator) -> Array:
    """Gain by pixel and channel: the source's colour cast and its variation, and an uneven lamp."""
    gain = np.asarray(style.light) * rng.normal(1, 0.03, 3) * rng.uniform(0.9, 1.08)
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j].astype(np.float32)
    tilt = 1 + rng.normal(0, 0.04) * x + rng.normal(0, 0.04) * y - rng.uniform(0, 0.08) * (x**2 + y**2)
    return tilt[..., None] * gain.astype(np.float32)


def _field_of_view(
    style: SourceStyle, width: int, height: int, rng: np.random.Generator
) -> tuple[float, float, float] | None:
    """(x, y, radius) of a disc within the picture, of one that leaves only the corners dark, or None."""
    draw = rng.uniform(0, 1, 2)
    centre = np.array([width, height]) / 2 + rng.normal(0, 0.01, 2) * height
    if draw[0] < style.disc_share:
        return float(centre[0]), float(centre[1]), float(rng.uniform(0.41, 0.485) * min(width, height))
    if draw[1] < style.corner_share:
        diagonal = float(np.hypot(width, height)) / 2
        return float(centre[0]), float(centre[1]), float(rng.uniform(0.82, 0.93) * diagonal)
    return None


def _darken(image: Array, field: tuple[float, float, float], rng: np.random.Generator) -> Array:
    height, width = image.shape[:2]
    y, x = np.ogrid[:height, :width]
    distance = np.hypot(x - field[0], y - field[1]).astype(np.float32)
    inside = 1 / (1 + np.exp(np.clip((distance - field[2]) / rng.uniform(0.8, 2.5), -30, 30)))
    return image * inside[..., None] + rng.uniform(2, 14) * (1 - inside[..., None])
