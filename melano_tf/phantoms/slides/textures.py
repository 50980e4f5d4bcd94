"""Noise and fibres that the phantom's tissue is made of: arrays only, each a pure function of a generator.

Concentrations are uint8 with `UNIT` = 100 steps for a stain's optical density of 1.0 (natural logarithm), so that 255
stands for 2.55.
"""

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

UNIT = 100
GRAIN_PX = 512


def smooth_noise(rng: np.random.Generator, shape: tuple[int, int], scale: float) -> NDArray[np.float32]:
    """Smooth noise of mean about 0 and standard deviation 1, with features `scale` px wide; float32 (h, w)."""
    height, width = shape
    rows, columns = math.ceil(height / scale) + 3, math.ceil(width / scale) + 3
    coarse = rng.standard_normal((rows, columns)).astype(np.float32)
    # Cubic interpolation of white noise averages a little; 1.35 brings the deviation back to about 1.
    whole = cv2.resize(coarse, (math.ceil(columns * scale), math.ceil(rows * scale)), interpolation=cv2.INTER_CUBIC)
    top, left = (int(rng.uniform(0.5, 1.5) * scale) for _ in range(2))
    return np.asarray(whole[top : top + height, left : left + width] * np.float32(1.35))


def smooth_line(rng: np.random.Generator, size: int, scale: float) -> NDArray[np.float32]:
    """Smooth noise along a line, float32 (size,), as `smooth_noise`."""
    coarse = rng.standard_normal(math.ceil(size / scale) + 4)
    knots = np.arange(len(coarse), dtype=np.float64)
    place = np.arange(size) / scale + 1 + rng.uniform(0, 1)
    left = np.minimum(place.astype(np.int64), len(coarse) - 3)
    t = place - left
    # Catmull-Rom: smooth, and through the knots.
    p0, p1, p2, p3 = (coarse[np.clip(left + k, 0, len(knots) - 1)] for k in (-1, 0, 1, 2))
    line = p1 + 0.5 * t * (p2 - p0 + t * (2 * p0 - 5 * p1 + 4 * p2 - p3 + t * (3 * (p1 - p2) + p3 - p0)))
    return np.asarray(line, dtype=np.float32)


@dataclass(frozen=True)
class Fibres:
    """Bundles of fibres: how many (area that they would cover side by side), how long, thick, wavy (px)."""

    cover: float
    length: tuple[float, float]
    thickness: tuple[float, float]
    wave: tuple[float, float]
    wavelength: tuple[float, float]
    angle: float
    level: float
    level_spread: float
    gap: float


# Lengths in px of 0.5 µm; levels in concentration steps.
RETICULAR = Fibres(2.1, (110, 340), (7, 26), (4, 14), (90, 200), 0.42, 78, 15, 8)
PAPILLARY = Fibres(2.2, (50, 150), (2, 8), (2, 7), (40, 110), 0.8, 50, 12, 16)
KERATIN = Fibres(1.15, (120, 420), (2, 6), (2, 9), (90, 220), 0.07, 88, 22, 0)


def fibre_texture(rng: np.random.Generator, fibres: Fibres, size: int) -> NDArray[np.uint8]:
    """Eosin of overlapping wavy bundles with pale clefts between them; uint8 (size, size), repeats without a seam."""
    canvas = np.full((size, size), fibres.gap, np.uint8)
    mean_area = np.mean(fibres.length) * np.mean(fibres.thickness)
    for _ in range(int(fibres.cover * size * size / mean_area)):
        length, thickness = rng.uniform(*fibres.length), rng.uniform(*fibres.thickness)
        t = np.linspace(-0.5, 0.5, 15) * length
        aside = rng.uniform(*fibres.wave) * np.sin(
            2 * np.pi * t / rng.uniform(*fibres.wavelength) + rng.uniform(0, 6.3)
        )
        angle = rng.normal(0, fibres.angle)
        along, across = np.array([np.cos(angle), np.sin(angle)]), np.array([-np.sin(angle), np.cos(angle)])
        middle = rng.uniform(0, size, 2) + t[:, None] * along
        level = rng.normal(fibres.level, fibres.level_spread)
        strokes = [(aside, thickness + 2.2, fibres.gap + 0.3 * level), (aside, thickness, level)]
        for _ in range(int(thickness // 5)):
            shift = rng.uniform(-0.4, 0.4) * thickness
            strokes.append((aside + shift, 1.0, level * rng.uniform(0.72, 1.2)))
        for offset, width, value in strokes:
            _stroke(canvas, middle + offset[:, None] * across, max(1, round(width)), float(np.clip(value, 0, 255)))
    return np.asarray(cv2.GaussianBlur(canvas, (0, 0), 0.7, borderType=cv2.BORDER_REFLECT_101))


def _stroke(canvas: NDArray[np.uint8], points: NDArray[np.float64], width: int, value: float) -> None:
    """Draw one line, again on the other side where it leaves the texture."""
    size = canvas.shape[0]
    low, high = points.min(axis=0) - width, points.max(axis=0) + width
    for x in _wraps(low[0], high[0], size):
        for y in _wraps(low[1], high[1], size):
            fixed = np.round((points + np.array([x, y])) * 8).astype(np.int32)
            cv2.polylines(canvas, [fixed], False, value, width, cv2.LINE_AA, 3)


def _wraps(low: float, high: float, size: int) -> list[int]:
    return [0] + ([size] if low < 0 else []) + ([-size] if high >= size else [])


def grain_texture(rng: np.random.Generator) -> NDArray[np.uint8]:
    """Fine unevenness of stain, as factors around 128; uint8 (GRAIN_PX, GRAIN_PX, 3)."""
    noise = rng.standard_normal((GRAIN_PX, GRAIN_PX, 3)).astype(np.float32)
    fine = cv2.GaussianBlur(noise, (0, 0), 0.9, borderType=cv2.BORDER_REFLECT_101)
    coarse = cv2.GaussianBlur(noise, (0, 0), 3.5, borderType=cv2.BORDER_REFLECT_101)
    grain = 128 * (1 + 0.07 * fine / fine.std() + 0.05 * coarse / coarse.std())
    return np.asarray(np.clip(grain, 60, 200), dtype=np.uint8)
