"""Phantom skin lesions: one lesion in its own coordinates, with a structure that depends on its class and nothing else.

What a dermatologist looks at (network, globules, vessels, cysts, symmetry, border) tells the classes apart. How much
pigment there is and which colours does not: every lesion's pigment and hue are re-assigned by rank to distributions
that are drawn without looking at the class, so that colour histograms agree and only the arrangement differs.
"""

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

CANVAS = 144  # px; side of a lesion's own picture
REACH = 1.8  # the picture spans -REACH to REACH lesion radii
FRINGE = 0.22  # lesion radii beyond the border within which pigment fades
HUE_BINS = 10

Array = np.ndarray


@dataclass(frozen=True)
class Lesion:
    """One lesion in its own coordinates (CANVAS x CANVAS px, float32).

    Attributes:
        pigment: 0 (skin) to 1 (darkest).
        hue: -1 (blue-grey) to 1 (reddish); its distribution does not depend on pigment.
        mask: bool; inside the border.
    """

    pigment: Array
    hue: Array
    mask: Array


@dataclass(frozen=True)
class _Plane:
    """Coordinates in lesion radii, and polar ones."""

    x: Array
    y: Array
    radius: Array
    angle: Array


def _plane() -> _Plane:
    axis = np.linspace(-REACH, REACH, CANVAS, dtype=np.float32)
    x, y = np.meshgrid(axis, axis)
    return _Plane(x, y, np.hypot(x, y), np.arctan2(y, x))


def draw_lesion(kind: str, clarity: float, rng: np.random.Generator) -> Lesion:
    """Draw a lesion.

    Args:
        kind: a class of ISIC 2018 or 2019 (MEL, NV, BCC, AK, AKIEC, BKL, DF, VASC, SCC).
        clarity: 1: nothing but the class's structure; 0: none of it, in border and texture alike.
        rng: source of all that is random.
    """
    plane = _plane()
    border = _border(kind, clarity, rng, plane)
    depth = border - plane.radius  # lesion radii inside the border; negative outside
    edge = rng.uniform(0.05, 0.16)
    alpha = 1.0 / (1.0 + np.exp(-np.clip(depth / edge, -30, 30)))
    structure, colour = STRUCTURES[kind](rng, plane, border)
    rest = float(np.sqrt(1.0 - clarity**2))
    texture = clarity * _standard(structure, depth > 0) + rest * _standard(_cloud(rng, (4, 9, 22)), depth > 0)
    shade = clarity * _standard(colour, depth > 0) + rest * _standard(_cloud(rng, (3, 6)), depth > 0)
    support = depth > -FRINGE
    pigment = np.zeros((CANVAS, CANVAS), np.float32)
    rank = _ranks((alpha * (0.6 + 0.4 * np.tanh(0.8 * texture)))[support], rng)
    pigment[support] = rank ** rng.uniform(0.8, 1.3)
    hue = np.zeros_like(pigment)
    hue[support] = 2.0 * _ranks_within(rank, shade[support], rng) - 1.0
    return Lesion(pigment, hue, depth > 0)


def _border(kind: str, clarity: float, rng: np.random.Generator, plane: _Plane) -> Array:
    """The border's radius in each direction, scaled so that border and fringe cover the same area for every class."""
    low, high, notch = BORDERS[kind]
    low, high, notch = (clarity * value + (1 - clarity) * 0.06 for value in (low, high, notch))
    angle = np.linspace(-np.pi, np.pi, 361)
    radius = 1.0 + rng.uniform(0.0, 0.22) * np.cos(2 * (angle - rng.uniform(0, np.pi)))
    for harmonics, amplitude in ((range(1, 4), low), (range(4, 9), high), (range(11, 18), notch)):
        weights = rng.normal(size=(len(harmonics), 2))
        weights *= amplitude / max(float(np.sqrt((weights**2).sum() / 2)), 1e-6)
        for k, (a, b) in zip(harmonics, weights, strict=True):
            radius = radius + a * np.cos(k * angle) + b * np.sin(k * angle)
    radius = np.clip(radius, 0.35, 1.9) + FRINGE
    radius *= (1.0 + FRINGE) / np.sqrt(np.mean(radius[:-1] ** 2))
    return np.interp(plane.angle, angle, np.minimum(radius, REACH * 0.98) - FRINGE).astype(np.float32)


def _ranks(values: Array, rng: np.random.Generator) -> Array:
    """Ranks as (0, 1), ties in random order."""
    order = np.argsort(values + rng.uniform(0, 1e-5, values.shape))
    ranks = np.empty(len(values), np.float32)
    ranks[order] = (np.arange(len(values), dtype=np.float32) + 0.5) / len(values)
    return ranks


def _ranks_within(level: Array, values: Array, rng: np.random.Generator) -> Array:
    """Ranks of `values` as (0, 1) among pixels of like `level` (0 to 1): the two become independent."""
    bins = np.minimum((level * HUE_BINS).astype(int), HUE_BINS - 1)
    order = np.lexsort((values + rng.uniform(0, 1e-5, values.shape), bins))
    counts = np.bincount(bins, minlength=HUE_BINS)
    place = np.arange(len(values)) - np.repeat(np.cumsum(counts) - counts, counts)
    ranks = np.empty(len(values), np.float32)
    ranks[order] = (place + 0.5) / np.repeat(counts, counts)
    return ranks


def _standard(values: Array, where: Array) -> Array:
    inside = values[where]
    return (values - inside.mean()) / max(float(inside.std()), 1e-6)


def _cloud(rng: np.random.Generator, cells: tuple[int, ...]) -> Array:
    """Smooth noise: random grids of so many cells a side, enlarged; coarse ones weigh most."""
    total = np.zeros((CANVAS, CANVAS), np.float32)
    for count in cells:
        grid = rng.normal(size=(count + 3, count + 3)).astype(np.float32)
        total += cv2.resize(grid, (CANVAS, CANVAS), interpolation=cv2.INTER_CUBIC) / np.sqrt(count)
    return total


def _honeycomb(rng: np.random.Generator, plane: _Plane, period: float, warp: float) -> Array:
    """Dark lines around light holes, `period` lesion radii apart, bent by noise of `warp` radii."""
    turn = rng.uniform(0, np.pi)
    x = plane.x + warp * _cloud(rng, (5,)) * 2.0
    y = plane.y + warp * _cloud(rng, (5,)) * 2.0
    angles = turn + np.array([0.0, 1.0, 2.0]) * np.pi / 3
    waves = sum(np.cos(2 * np.pi / period * (x * np.cos(a) + y * np.sin(a))) for a in angles)
    return -np.asarray(waves, np.float32) / 3.0


def _spots(centres: Array, radii: Array, softness: float = 0.35) -> Array:
    """Round spots (1 inside, 0 outside) at centres (n, 2) in lesion radii."""
    canvas = np.zeros((CANVAS, CANVAS), np.float32)
    scale = CANVAS / (2 * REACH)
    for (x, y), radius in zip(centres, radii, strict=True):
        place = (round(float((x + REACH) * scale * 16)), round(float((y + REACH) * scale * 16)))
        cv2.circle(canvas, place, max(round(float(radius * scale * 16)), 12), 1.0, -1, cv2.LINE_AA, shift=4)
    return cv2.GaussianBlur(canvas, (0, 0), max(softness * float(np.mean(radii)) * scale, 0.4))


def _scatter(rng: np.random.Generator, count: int, reach: float = 0.9) -> Array:
    """Points spread over a disc, kept apart: of some random places the one farthest from the earlier points."""
    points = np.zeros((count, 2))
    for i in range(count):
        angle, radius = rng.uniform(0, 2 * np.pi, 8), reach * np.sqrt(rng.uniform(0, 1, 8))
        places = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)
        gaps = np.linalg.norm(places[:, None] - points[None, :i], axis=2).min(axis=1, initial=np.inf)
        points[i] = places[int(np.argmax(gaps))]
    return points


def _lines(paths: list[Array], widths: list[int], softness: float = 0.6) -> Array:
    """Curves through points in lesion radii, of so many px."""
    canvas = np.zeros((CANVAS, CANVAS), np.float32)
    scale = CANVAS / (2 * REACH)
    for points, width in zip(paths, widths, strict=True):
        pixels = np.rint((points + REACH) * scale * 16).astype(np.int32)
        cv2.polylines(canvas, [pixels.reshape(-1, 1, 2)], False, 1.0, width, cv2.LINE_AA, shift=4)
    return cv2.GaussianBlur(canvas, (0, 0), softness)


def _nevus(rng: np.random.Generator, plane: _Plane, border: Array) -> tuple[Array, Array]:
    """A regular network (or regular globules) that thins out to the border; colours in rings."""
    inside = plane.radius / border
    net = _honeycomb(rng, plane, rng.uniform(0.24, 0.32), 0.01)
    if rng.uniform() < 0.3:
        net = -net  # round dark globules on a lattice
    return net * np.clip(1.25 - 0.6 * inside, 0.2, 1) + 0.5 * (1 - inside), inside + 0.2 * _cloud(rng, (6,))


def _melanoma(rng: np.random.Generator, plane: _Plane, border: Array) -> tuple[Array, Array]:
    """An uneven network on one side, globules on the other, a blotch, streaks on an arc; colours in patches."""
    turn = rng.uniform(0, 2 * np.pi)
    side = plane.x * np.cos(turn) + plane.y * np.sin(turn)
    inside = plane.radius / border
    net = _honeycomb(rng, plane, rng.uniform(0.30, 0.44), 0.09) * np.clip(0.5 + 1.5 * side, 0, 1)
    away = np.array([[np.cos(turn), np.sin(turn)]])
    count = int(rng.integers(8, 15))
    centres = -0.55 * away + rng.normal(0, 0.33, (count, 2))
    globules = _spots(centres, rng.uniform(0.04, 0.13, count))
    blotch = np.exp(-(((plane.x - 0.35 * np.sin(turn)) ** 2 + (plane.y + 0.35 * np.cos(turn)) ** 2) / 0.16))
    arc = np.cos(plane.angle - turn - rng.uniform(0.8, 1.6))
    streaks = np.cos(rng.integers(20, 30) * plane.angle) * np.clip(arc - 0.2, 0, 1) * np.clip(4 * inside - 2.6, 0, 1)
    return net + 1.5 * globules + 1.3 * blotch + 0.7 * streaks - 0.4 * side, _cloud(rng, (2, 4)) + 0.5 * side


def _basal(rng: np.random.Generator, plane: _Plane, border: Array) -> tuple[Array, Array]:
    """Arborising vessels that branch from the border inwards, and a few large ovoid nests."""
    paths: list[Array] = []
    widths: list[int] = []

    def grow(start: Array, heading: float, length: float, width: int) -> None:
        turns = heading + np.cumsum(rng.normal(0, 0.16, 9))
        steps = np.stack([np.cos(turns), np.sin(turns)], axis=1) * length / 9
        points = start + np.concatenate([np.zeros((1, 2)), np.cumsum(steps, axis=0)])
        paths.append(points)
        widths.append(width)
        if length > 0.3:
            for where, bend in ((5, 0.7), (9, -0.6), (7, -0.9), (9, 0.5))[: 2 + int(rng.integers(0, 3))]:
                grow(points[where], turns[where - 1] + bend * rng.uniform(0.7, 1.3), length * 0.58, max(width - 1, 1))

    for angle in rng.uniform(0, 2 * np.pi) + np.arange(3) * 2.1 + rng.normal(0, 0.3, 3):
        grow(0.95 * np.array([np.cos(angle), np.sin(angle)]), angle + np.pi + rng.normal(0, 0.4), 0.9, 3)
    count = int(rng.integers(2, 5))
    nests = _spots(_scatter(rng, count, 0.65), rng.uniform(0.14, 0.24, count), 0.25)
    return 1.6 * _lines(paths, widths) + 1.3 * nests + 0.12 * _cloud(rng, (5,)), nests - _lines(paths, widths)


def _actinic(rng: np.random.Generator, plane: _Plane, border: Array) -> tuple[Array, Array]:
    """A strawberry: light rings with a dark dot in each (follicles) on an even ground, and light scale."""
    centres = _scatter(rng, int(rng.integers(20, 28)), 1.05)
    radius = rng.uniform(0.10, 0.13)
    rings = _spots(centres, np.full(len(centres), radius), 0.2)
    dots = _spots(centres, np.full(len(centres), radius * 0.42), 0.3)
    flakes = _spots(_scatter(rng, 4, 0.8), rng.uniform(0.08, 0.16, 4), 0.2)
    return -1.6 * rings + 2.2 * dots - 0.8 * flakes, rings + 0.2 * _cloud(rng, (4,))


def _keratosis(rng: np.random.Generator, plane: _Plane, border: Array) -> tuple[Array, Array]:
    """Brain-like fissures and ridges, light cysts and dark plugs; a notched border."""
    noise = rng.normal(size=(CANVAS, CANVAS)).astype(np.float32)
    fine, coarse = cv2.GaussianBlur(noise, (0, 0), 2.6), cv2.GaussianBlur(noise, (0, 0), 4.4)
    ridges = np.tanh(2.5 * (fine - coarse) / max(float((fine - coarse).std()), 1e-6))
    cysts = _spots(_scatter(rng, 9, 0.85), rng.uniform(0.045, 0.07, 9), 0.25)
    plugs = _spots(_scatter(rng, 6, 0.8), rng.uniform(0.06, 0.10, 6), 0.25)
    return 0.9 * ridges - 3.0 * cysts + 2.0 * plugs, -ridges + 0.3 * _cloud(rng, (4,))


def _fibroma(rng: np.random.Generator, plane: _Plane, border: Array) -> tuple[Array, Array]:
    """A light scar in the centre, drawn out into points, and a fine network around it."""
    points = rng.integers(5, 9)
    star = 0.42 + 0.08 * np.cos(points * plane.angle + rng.uniform(0, 6)) + 0.05 * _cloud(rng, (6,))
    scar = 1.0 / (1.0 + np.exp((plane.radius - star) / 0.05))
    net = _honeycomb(rng, plane, rng.uniform(0.15, 0.18), 0.01)
    return -2.6 * scar + 0.7 * net * (1 - scar), -scar + 0.15 * _cloud(rng, (5,))


def _vascular(rng: np.random.Generator, plane: _Plane, border: Array) -> tuple[Array, Array]:
    """Lacunae: packed clods, evenly dark, with light septa between them."""
    points = _scatter(rng, int(rng.integers(11, 17)), 1.0).astype(np.float32)
    distance = np.hypot(plane.x[None] - points[:, 0, None, None], plane.y[None] - points[:, 1, None, None])
    nearest = np.partition(distance, 1, axis=0)[:2]
    gap = nearest[1] - nearest[0]
    clods = np.tanh(gap / 0.07)
    shade = rng.normal(size=len(points))[distance.argmin(axis=0)].astype(np.float32)
    return 1.5 * clods + 0.35 * shade * clods, shade


def _squamous(rng: np.random.Generator, plane: _Plane, border: Array) -> tuple[Array, Array]:
    """A light mass of keratin in the centre with a dark core, and hairpin vessels that radiate from it."""
    core = np.exp(-((plane.radius / 0.16) ** 2))
    mass = 1.0 / (1.0 + np.exp((plane.radius - 0.45 - 0.05 * _cloud(rng, (5,))) / 0.06))
    paths = []
    for angle in rng.uniform(0, 6) + np.arange(16) * 2 * np.pi / 16 + rng.normal(0, 0.06, 16):
        out, across = np.array([np.cos(angle), np.sin(angle)]), np.array([-np.sin(angle), np.cos(angle)])
        near, far, half = rng.uniform(0.5, 0.58), rng.uniform(0.8, 0.98), 0.05
        corners = ((near, -half), (far, -half), (far, half), (near, half))
        paths.append(np.array([along * out + beside * across for along, beside in corners]))
    return -1.8 * mass + 3.0 * core + 1.4 * _lines(paths, [1] * len(paths)), core - mass + 0.2 * _cloud(rng, (4,))


STRUCTURES: dict[str, Callable[[np.random.Generator, _Plane, Array], tuple[Array, Array]]] = {
    "MEL": _melanoma,
    "NV": _nevus,
    "BCC": _basal,
    "AK": _actinic,
    "AKIEC": _actinic,
    "BKL": _keratosis,
    "DF": _fibroma,
    "VASC": _vascular,
    "SCC": _squamous,
}
# Of a border: how far (root mean square, lesion radii) waves 1 to 3, 4 to 8 and 11 to 17 around it move it.
BORDERS: dict[str, tuple[float, float, float]] = {
    "MEL": (0.15, 0.10, 0.02),
    "NV": (0.04, 0.02, 0.01),
    "BCC": (0.07, 0.04, 0.02),
    "AK": (0.09, 0.06, 0.03),
    "AKIEC": (0.09, 0.06, 0.03),
    "BKL": (0.06, 0.05, 0.07),
    "DF": (0.04, 0.02, 0.01),
    "VASC": (0.05, 0.03, 0.01),
    "SCC": (0.07, 0.05, 0.02),
}
