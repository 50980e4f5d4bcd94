"""Cells of the phantom, drawn once as small patches of stain and then stamped many times.

A sprite holds what it leaves of the canvas under it and what it adds, both per stain (haematoxylin, eosin, melanin), in
the concentration steps of `phantom_textures.UNIT`.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from melano_tf.phantoms.slides.slide_appearance import BODY_SHARE
from melano_tf.phantoms.slides.textures import KERATIN, PAPILLARY, RETICULAR, fibre_texture, grain_texture, smooth_noise

MPP = 0.25
"""Resolution at which sprites are drawn and slides are written, µm/px."""
NUCLEUS_UM = np.arange(5.0, 19.0)  # diameters of the melanocytes' nuclei that are drawn
VARIANTS = 6

Float = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Sprite:
    """A patch of stain.

    Attributes:
        keep: what is left of the canvas, uint8 (h, w, 3), 255 = all.
        add: what is added to it, uint8 (h, w, 3).
    """

    keep: NDArray[np.uint8]
    add: NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class Library:
    """Everything drawn once: textures and pools of sprites.

    Attributes:
        reticular: coarse collagen; square uint8 array, like the next two at 0.5 µm/px and without a seam when repeated.
        papillary: fine collagen.
        keratin: horny flakes.
        grain: factors around 128, uint8 (GRAIN_PX, GRAIN_PX, 3).
        bodies: bodies of melanocytes by the diameter of their nucleus (`NUCLEUS_UM`), then variant.
        ordered: their nuclei, smooth and round, likewise.
        wild: their nuclei, irregular and of uneven chromatin, likewise.
        pools: other sprites by name.
    """

    reticular: NDArray[np.uint8]
    papillary: NDArray[np.uint8]
    keratin: NDArray[np.uint8]
    grain: NDArray[np.uint8]
    bodies: tuple[tuple[Sprite, ...], ...]
    ordered: tuple[tuple[Sprite, ...], ...]
    wild: tuple[tuple[Sprite, ...], ...]
    pools: dict[str, tuple[Sprite, ...]]


def stamp(canvas: NDArray[np.uint8], sprite: Sprite, x: int, y: int) -> None:
    """Stamp a sprite centred on a pixel of the canvas (h, w, 3), in place; what falls outside is cut off."""
    height, width = sprite.add.shape[:2]
    left, top = x - width // 2, y - height // 2
    right, bottom = min(left + width, canvas.shape[1]), min(top + height, canvas.shape[0])
    cut_left, cut_top = max(0, -left), max(0, -top)
    left, top = left + cut_left, top + cut_top
    if right <= left or bottom <= top:
        return
    inside = np.s_[cut_top : cut_top + bottom - top, cut_left : cut_left + right - left]
    view = canvas[top:bottom, left:right]
    cv2.multiply(view, sprite.keep[inside], dst=view, scale=1 / 255)
    cv2.add(view, sprite.add[inside], dst=view)


def blob(
    rng: np.random.Generator,
    half: int,
    radii: tuple[float, float],
    angle: float = 0.0,
    rough: float = 0.0,
    centre: tuple[float, float] = (0.0, 0.0),
) -> tuple[Float, Float]:
    """A round or ragged body on a square of 2 half + 1 px.

    Args:
        radii: its two half-axes, px.
        rough: relative size of its bulges; 0 is an ellipse.
        centre: offset from the middle, px.

    Returns:
        Cover 0..1 with an edge about a pixel soft, and relative radius (0 centre, 1 edge); float32 each.
    """
    axis = np.arange(-half, half + 1, dtype=np.float32)
    x, y = np.meshgrid(axis - centre[0], axis - centre[1])
    u = (x * math.cos(angle) + y * math.sin(angle)) / radii[0]
    v = (-x * math.sin(angle) + y * math.cos(angle)) / radii[1]
    theta = np.arctan2(v, u)
    edge = np.ones_like(theta)
    for k in range(2, 7):
        edge += rough * rng.normal(0, 1.4 / k) * np.cos(k * theta + rng.uniform(0, 6.3))
    relative = np.hypot(u, v) / np.maximum(edge, 0.35)
    cover = np.clip((1 - relative) * min(radii) / 1.3 + 0.5, 0, 1)
    return cover.astype(np.float32), relative.astype(np.float32)


def _layers(half: int) -> tuple[Float, Float]:
    side = 2 * half + 1
    return np.ones((side, side), np.float32), np.zeros((side, side, 3), np.float32)


def _paint(keep: Float, add: Float, cover: Float, stain: Sequence[float | Float]) -> None:
    """Put a body of given haematoxylin, eosin and melanin (in steps) over what is already on the patch."""
    keep *= 1 - cover
    for channel, level in enumerate(stain):
        add[..., channel] = add[..., channel] * (1 - cover) + cover * level


def _sprite(keep: Float, add: Float) -> Sprite:
    shares = np.repeat(np.round(keep * 255)[..., None], 3, axis=2)
    return Sprite(shares.astype(np.uint8), np.clip(np.round(add), 0, 255).astype(np.uint8))


def nucleus_stain(
    rng: np.random.Generator, relative: Float, level: float, vesicular: float, clumps: float, nucleoli: int
) -> Float:
    """Haematoxylin of a nucleus, in steps: membrane, clumped chromatin, nucleoli; on average `level`."""
    inside = relative < 1
    shape = (relative.shape[0], relative.shape[1])
    field = 1 + clumps * smooth_noise(rng, shape, 4.0) + vesicular * (np.clip(relative, 0, 1) ** 3 - 0.4)
    spots = np.argwhere(relative < 0.6)
    for _ in range(nucleoli):
        y, x = spots[rng.integers(len(spots))]
        cv2.circle(field, (int(x), int(y)), max(1, round(math.sqrt(inside.sum()) * 0.07)), 1.45, -1)
    field = cv2.GaussianBlur(field, (0, 0), 0.8)
    return np.asarray(level * field / field[inside].mean(), dtype=np.float32)


def melanocyte_body(rng: np.random.Generator, diameter: float) -> Sprite:
    """The pale lilac body of a melanocyte whose nucleus has the given diameter (µm), with a faint border."""
    radius = diameter / 2 / MPP / math.sqrt(BODY_SHARE)
    half = math.ceil(radius * 1.35) + 2
    keep, add = _layers(half)
    squeeze = rng.uniform(1.0, 1.18)
    cover, relative = blob(rng, half, (radius * squeeze, radius / squeeze), rng.uniform(0, 3.2), 0.08)
    grains = smooth_noise(rng, (2 * half + 1, 2 * half + 1), 3.0)
    edge = np.clip((relative - 0.84) * 6, 0, 1)
    tone = rng.normal(1, 0.12)
    _paint(keep, add, cover, (tone * (20 + 3 * grains + 9 * edge), tone * (33 + 4 * grains + 9 * edge), 0))
    return _sprite(keep, add)


def melanocyte_nucleus(rng: np.random.Generator, diameter: float, wild: bool) -> Sprite:
    """A melanocyte's nucleus (diameter in µm). Wild ones differ in shape, chromatin and place, not in mean stain."""
    r = diameter / 2 / MPP
    half = math.ceil(r * 1.7) + 4
    keep, add = _layers(half)
    stretch = rng.uniform(1.05, 1.6) if wild else rng.uniform(1.0, 1.18)
    aside = rng.normal(0, (0.12 if wild else 0.05) * r, 2)
    radii = (r * math.sqrt(stretch), r / math.sqrt(stretch))
    centre = (float(aside[0]), float(aside[1]))
    cover, relative = blob(rng, half, radii, rng.uniform(0, 3.2), 0.1 if wild else 0.025, centre)
    nucleoli = int(rng.integers(1, 4)) if wild else 1
    stain = nucleus_stain(rng, relative, 150, 0.55, 0.15 if wild else 0.07, nucleoli)
    _paint(keep, add, cover, (stain, 38, 0))
    return _sprite(keep, add)


def mitosis(rng: np.random.Generator) -> Sprite:
    """A dividing cell: clear body, no nuclear membrane, a dark ragged plate or two parting ones."""
    half = 40
    keep, add = _layers(half)
    cover, _ = blob(rng, half, (33, 31), 0, 0.05)
    _paint(keep, add, cover, (12, 24, 0))
    angle, parted = rng.uniform(0, 3.2), rng.random() < 0.4
    for side in (-1, 1) if parted else (0,):
        centre = (-math.sin(angle) * 8 * side, math.cos(angle) * 8 * side)
        plate, _ = blob(rng, half, (15, 4.5 if parted else 6), angle, 0.3, centre)
        _paint(keep, add, plate, (235, 40, 0))
    return _sprite(keep, add)


def keratinocyte(rng: np.random.Generator, basal: bool) -> Sprite:
    """An epidermal cell: spinous with a pale border between cells, basal upright and darker."""
    half = 30
    keep, add = _layers(half)
    if not basal:
        cover, relative = blob(rng, half, (25, 20), rng.normal(0, 0.3), 0.06)
        edge = np.clip((relative - 0.82) * 6, 0, 1)
        _paint(keep, add, cover * 0.8, (24 - 7 * edge, 50 - 14 * edge, 0))
    radii = (rng.uniform(8.5, 11), rng.uniform(13, 17)) if basal else (rng.uniform(14, 18), rng.uniform(11, 14.5))
    angle = rng.normal(0, 0.25)
    halo, _ = blob(rng, half, (radii[0] + 2.5, radii[1] + 2.5), angle)
    _paint(keep, add, halo * 0.5, (12, 28, 0))
    cover, relative = blob(rng, half, radii, angle, 0.03)
    stain = nucleus_stain(rng, relative, 165 if basal else 128, 0.35, 0.09, 1)
    _paint(keep, add, cover, (stain, 35, 0))
    return _sprite(keep, add)


def lymphocyte(rng: np.random.Generator) -> Sprite:
    """A small round dark nucleus in a rim of cytoplasm."""
    half = 17
    keep, add = _layers(half)
    r = rng.uniform(10.5, 13.5)
    rim, _ = blob(rng, half, (r + 2.5, r + 2), 0, 0.04)
    _paint(keep, add, rim * 0.7, (18, 22, 0))
    cover, relative = blob(rng, half, (r, r * rng.uniform(0.88, 1)), rng.uniform(0, 3.2), 0.04)
    _paint(keep, add, cover, (nucleus_stain(rng, relative, 205, 0.05, 0.15, 0), 35, 0))
    return _sprite(keep, add)


def fibroblast(rng: np.random.Generator) -> Sprite:
    """A thin spindle, lying along the collagen."""
    half = 34
    keep, add = _layers(half)
    cover, relative = blob(rng, half, (rng.uniform(13, 30), rng.uniform(2.6, 5.6)), rng.normal(0, 0.5), 0.1)
    level = rng.uniform(105, 165)
    _paint(keep, add, cover * 0.9, (nucleus_stain(rng, relative, level, 0.1, 0.12, 0), 42, 0))
    return _sprite(keep, add)


def vessel(rng: np.random.Generator) -> Sprite:
    """A small vessel cut across: lumen with red cells, a pink wall, endothelial nuclei."""
    r = rng.uniform(18, 52)
    half = math.ceil(r * 1.7 + 30)
    keep, add = _layers(half)
    angle, squeeze = rng.uniform(0, 3.2), rng.uniform(1.0, 1.45)
    radii = (r * squeeze, r / squeeze)
    for grow, stain, cover_share in ((17, (14, 52, 0), 0.9), (4, (18, 62, 0), 1.0), (0, (1, 3, 0), 1.0)):
        cover, relative = blob(rng, half, (radii[0] + grow, radii[1] + grow), angle, 0.03)
        _paint(keep, add, cover * cover_share, stain)
    for _ in range(int(rng.integers(0, 2) * r / 5)):
        spots = np.argwhere(relative < 0.75)
        y, x = spots[rng.integers(len(spots))] - half
        cell, _ = blob(rng, half, (12, 11), 0, 0.05, (float(x), float(y)))
        _paint(keep, add, cell, (4, 120, 0))
    for theta in np.arange(0, 6.28, 6.28 / max(4, int(r / 4))) + rng.uniform(0, 1):
        u, v = (radii[0] + 5) * math.cos(theta), (radii[1] + 5) * math.sin(theta)
        x, y = u * math.cos(angle) - v * math.sin(angle), u * math.sin(angle) + v * math.cos(angle)
        lie = angle + math.atan2(radii[1] * math.cos(theta), -radii[0] * math.sin(theta))
        cell, relative_cell = blob(rng, half, (rng.uniform(10, 15), rng.uniform(3.5, 5)), lie, 0.05, (x, y))
        _paint(keep, add, cell, (nucleus_stain(rng, relative_cell, 165, 0.1, 0.1, 0), 40, 0))
    return _sprite(keep, add)


def tubule(rng: np.random.Generator) -> Sprite:
    """A sweat gland's tubule cut across: a ring of even nuclei around a small lumen."""
    r = rng.uniform(56, 84)
    half = math.ceil(r * 1.35) + 14
    keep, add = _layers(half)
    angle, squeeze = rng.uniform(0, 3.2), rng.uniform(1.0, 1.25)
    for share, stain in ((1.1, (5, 20, 0)), (1.03, (16, 55, 0)), (1.0, (24, 42, 0)), (0.3, (3, 10, 0))):
        cover, _ = blob(rng, half, (r * share * squeeze, r * share / squeeze), angle, 0.04)
        _paint(keep, add, cover, stain)
    for ring, count in ((0.8, int(r / 4.6)), (0.53, int(r / 8))):
        for theta in np.linspace(0, 2 * math.pi, count, endpoint=False) + rng.uniform(0, 1):
            u, v = ring * r * squeeze * math.cos(theta), ring * r / squeeze * math.sin(theta)
            x, y = u * math.cos(angle) - v * math.sin(angle), u * math.sin(angle) + v * math.cos(angle)
            x, y = x + rng.normal(0, 2), y + rng.normal(0, 2)
            cell, relative = blob(rng, half, (rng.uniform(9.5, 12), rng.uniform(9, 11)), theta, 0.03, (x, y))
            _paint(keep, add, cell, (nucleus_stain(rng, relative, 140, 0.3, 0.08, 0), 36, 0))
    return _sprite(keep, add)


def adipocyte(rng: np.random.Generator) -> Sprite:
    """A fat cell: empty, with a thin wall."""
    r = rng.uniform(85, 150)
    half = math.ceil(r * 1.35) + 4
    keep, add = _layers(half)
    cover, relative = blob(rng, half, (r * rng.uniform(1, 1.15), r), rng.uniform(0, 3.2), 0.05)
    wall = np.clip(1 - np.abs(relative - 0.985) * r / 3.5, 0, 1)
    _paint(keep, add, cover, (1 + 9 * wall, 2 + 50 * wall, 0))
    return _sprite(keep, add)


def pigment(rng: np.random.Generator) -> Sprite:
    """Melanin: a heap of brown granules that lets what is under it show through."""
    half = 26
    keep, add = _layers(half)
    grains = np.zeros((2 * half + 1, 2 * half + 1), np.float32)
    spread = rng.uniform(5, 10)
    for x, y in rng.normal(half, spread, (int(rng.uniform(25, 110)), 2)):
        cv2.circle(grains, (round(x), round(y)), int(rng.integers(1, 3)), float(rng.uniform(70, 190)), -1)
    add[..., 2] = cv2.GaussianBlur(grains, (0, 0), 0.8)
    return _sprite(keep, add)


def _pool(rng: np.random.Generator, draw: Callable[..., Sprite], count: int, *arguments: object) -> tuple[Sprite, ...]:
    return tuple(draw(rng, *arguments) for _ in range(count))


@lru_cache(maxsize=2)
def library(seed: int) -> Library:
    """All textures and sprites of one cohort; the same for the same seed, kept for the next slide of this process."""
    parts = np.random.SeedSequence(seed, spawn_key=(0,)).spawn(4)
    textures, melanocytes, others, grain = (np.random.default_rng(part) for part in parts)
    return Library(
        reticular=fibre_texture(textures, RETICULAR, 2048),
        papillary=fibre_texture(textures, PAPILLARY, 1024),
        keratin=fibre_texture(textures, KERATIN, 1024),
        grain=grain_texture(grain),
        bodies=tuple(_pool(melanocytes, melanocyte_body, VARIANTS, size) for size in NUCLEUS_UM),
        ordered=tuple(_pool(melanocytes, melanocyte_nucleus, VARIANTS, size, False) for size in NUCLEUS_UM),
        wild=tuple(_pool(melanocytes, melanocyte_nucleus, VARIANTS, size, True) for size in NUCLEUS_UM),
        pools={
            "mitosis": _pool(others, mitosis, 8),
            "spinous": _pool(others, keratinocyte, 16, False),
            "basal": _pool(others, keratinocyte, 16, True),
            "lymphocyte": _pool(others, lymphocyte, 16),
            "fibroblast": _pool(others, fibroblast, 24),
            "vessel": _pool(others, vessel, 12),
            "tubule": _pool(others, tubule, 10),
            "adipocyte": _pool(others, adipocyte, 12),
            "pigment": _pool(others, pigment, 16),
        },
    )
