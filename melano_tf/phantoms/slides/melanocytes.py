"""Lesions of melanocytes: a frozen description, and how it is grown into nests and cells.

Two lesions of one `Look` have the same territory, the same area of cells, of nuclei and of clefts; only the
arrangement, sizes and shapes differ.
"""

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from melano_tf.phantoms.slides.slide_appearance import BODY_SHARE, Look
from melano_tf.phantoms.slides.textures import smooth_noise
from melano_tf.phantoms.slides.tissue_ground import GRID_UM, Field, Skin, signed_distance

KINDS = ("nest", "sheet", "single", "pagetoid", "mitosis")
"""What a cell of a lesion is: in a nest, in a ragged cluster or sheet, alone, in the upper epidermis, dividing."""
SMALLEST_NEST_UM = 15.0
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Lesion:
    """How a kind of lesion is built.

    Attributes:
        nested: whether its cells lie in round nests with borders, or in ragged clusters and sheets.
        epidermal: range of the share of its cells that lie in the epidermis and at the junction; (1, 1) is a
            junctional, (0, 0) an intradermal lesion.
        nest_um: range of the nests' radii.
        maturation: how much smaller nuclei are at the base than at the top, 0 to 1.
        nucleus_um: median diameter of the nuclei at the top.
        nucleus_spread: standard deviation of the diameters' logarithm.
        single: share of the dermal cells that lie alone.
        pagetoid: share of the epidermal cells that have climbed into the upper epidermis.
        wild: share of cells with irregular nuclei.
        mitoses: range of dividing cells per 1,000.
        deep_mitoses: whether cells also divide at depth.
    """

    nested: bool
    epidermal: tuple[float, float]
    nest_um: tuple[float, float]
    maturation: float
    nucleus_um: float
    nucleus_spread: float
    single: float
    pagetoid: float
    wild: float
    mitoses: tuple[float, float]
    deep_mitoses: bool


BENIGN = Lesion(True, (0.07, 0.15), (32, 85), 0.38, 9.4, 0.07, 0.0, 0.0, 0.0, (0, 3), False)
MALIGNANT = Lesion(False, (0.07, 0.15), (0, 0), 0.0, 9.6, 0.3, 0.06, 0.55, 0.85, (8, 25), True)


@dataclass(frozen=True, eq=False)
class Growth:
    """A lesion grown into a skin; all lengths in µm.

    Attributes:
        x, y, nucleus: place and diameter of the nucleus of each cell, float64 (n,).
        kind: index in `KINDS`, int64 (n,).
        wild: whether the nucleus is irregular, bool (n,).
        nests: x, y, radius, depth 0..1; float64 (m, 4).
        bodies: signed distance into nests and sheets, on the grid.
        clefts: signed distance into the clefts around them, on the grid.
        territory: the lesion's dermal territory, bool, on the grid.
    """

    x: NDArray[np.float64]
    y: NDArray[np.float64]
    nucleus: NDArray[np.float64]
    kind: NDArray[np.int64]
    wild: Mask
    nests: NDArray[np.float64]
    bodies: Field
    clefts: Field
    territory: Mask

    @property
    def nuclear_um2(self) -> float:
        """Area of all nuclei, µm²."""
        return float(np.sum(math.pi / 4 * self.nucleus**2))


def grow(lesion: Lesion, skin: Skin, look: Look, rng: np.random.Generator) -> Growth:
    """Grow a lesion into a skin, with the areas that the look asks for."""
    territory = _territory(skin, look, rng)
    area = float(territory.sum()) * GRID_UM**2
    epidermal = lesion.epidermal[0] + look.epidermal * (lesion.epidermal[1] - lesion.epidermal[0])
    amounts = _Amounts(look.nuclear_share * area, look.body_share * area, epidermal)
    build = _nested if lesion.nested else _ragged
    cells, nests, mask = build(lesion, skin, look, territory, amounts, rng)
    cells = _divide(lesion, skin, cells, rng)
    bodies = signed_distance(mask)
    mean, spread = (0.9, 0.45) if lesion.nested else (0.5, 0.8)
    gate = np.clip(mean + spread * smooth_noise(rng, mask.shape, 12), 0.1 if lesion.nested else 0, 1.8)
    clefts = _clefts(bodies, gate, look.cleft_share * amounts.bodies)
    return Growth(cells.x, cells.y, cells.nucleus, cells.kind, cells.wild, nests, bodies, clefts, territory)


@dataclass(frozen=True)
class _Amounts:
    """Areas to reach, µm²: of nuclei, of bodies; and the epidermal share of both."""

    nuclei: float
    bodies: float
    epidermal: float


@dataclass(frozen=True, eq=False)
class _Cells:
    x: NDArray[np.float64]
    y: NDArray[np.float64]
    nucleus: NDArray[np.float64]
    kind: NDArray[np.int64]
    wild: Mask


def _join(parts: list[_Cells]) -> _Cells:
    names = ("x", "y", "nucleus", "kind", "wild")
    return _Cells(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))


def _territory(skin: Skin, look: Look, rng: np.random.Generator) -> Mask:
    """The dermis that the lesion spreads over: a bowl under the junction with an uneven border."""
    uneven = 1 + 0.1 * smooth_noise(rng, skin.across.shape, 60)
    bowl = np.sqrt(np.clip(1 - (skin.across * uneven) ** 2, 0, 1))
    depth = look.depth * skin.dermis_um * uneven
    mask = skin.dermis & (skin.under_junction < depth * bowl) & (skin.edge > 30)
    return np.asarray(mask)


def relative_depth(skin: Skin, look: Look, x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    """Depth of places (µm) in the lesion: 0 at the junction, 1 at its base."""
    depth = skin.at(skin.under_junction, x, y) / (look.depth * skin.dermis_um)
    return np.clip(depth.astype(np.float64), 0, 1)


def _nested(
    lesion: Lesion, skin: Skin, look: Look, territory: Mask, amounts: _Amounts, rng: np.random.Generator
) -> tuple[_Cells, NDArray[np.float64], Mask]:
    """Round nests, at the junction and in the dermis, filled with evenly spaced cells that mature with depth."""
    junction = (np.abs(skin.junction) < 9) & (np.abs(skin.across) < 0.97) & (skin.edge > 30) & (skin.under_surface > 26)
    low, high = lesion.nest_um
    upper_room = np.where(junction, skin.under_surface - 10, 0).astype(np.float32)
    upper = pack(rng, upper_room, amounts.bodies * amounts.epidermal, (20, 38), 14, np.empty((0, 3)))
    lower_room = np.where(territory, np.minimum(skin.junction, skin.edge), 0).astype(np.float32)
    lower = pack(rng, lower_room, amounts.bodies * (1 - amounts.epidermal), (low, high), 13, upper)
    nests = np.concatenate([upper, lower])
    depth = relative_depth(skin, look, nests[:, 0], nests[:, 1])
    mask = np.zeros(territory.shape, np.uint8)
    shapes = [_Shape.draw(rng) for _ in nests]
    for (x, y, radius), shape in zip(nests, shapes, strict=True):
        cv2.fillPoly(mask, [shape.ring(x, y, radius)], 1, cv2.LINE_8, 4)
    sizes = lesion.nucleus_um * look.nucleus * (1 - lesion.maturation * depth)
    wanted = np.array([amounts.nuclei * amounts.epidermal, amounts.nuclei * (1 - amounts.epidermal)])
    covered = np.array([np.sum(math.pi * part[:, 2] ** 2) for part in (upper, lower)])
    share = covered / np.maximum(amounts.bodies * np.array([amounts.epidermal, 1 - amounts.epidermal]), 1)
    wanted *= np.where(share < 0.6, share, 1)  # where there is no room nuclei are fewer, not crowded
    parts = []
    for chosen, target in ((slice(0, len(upper)), wanted[0]), (slice(len(upper), None), wanted[1])):
        if len(nests[chosen]):
            parts.append(_fill(rng, nests[chosen], shapes[chosen], sizes[chosen], lesion.nucleus_spread, target))
    x, y, nucleus = (np.concatenate([part[k] for part in parts]) for k in range(3))
    cells = _Cells(x, y, nucleus, np.full(len(x), KINDS.index("nest")), rng.random(len(x)) < lesion.wild)
    return cells, np.column_stack([nests, depth]), mask.astype(bool)


def pack(
    rng: np.random.Generator,
    room: Field,
    area: float,
    radii: tuple[float, float],
    gap: float,
    taken: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Circles with gaps between them until an area (µm²) is filled; x, y, radius, (n, 3).

    No radius is larger than `room` (µm, on the grid) at its centre, and `taken` circles are avoided. Where no more
    fit, smaller ones and narrower gaps are tried.
    """
    rows, columns = np.nonzero(room >= SMALLEST_NEST_UM)
    circles = np.asarray(taken, dtype=np.float64).reshape(-1, 3)
    first, filled = len(circles), 0.0
    shrink = 1.0
    while filled < area * 0.985 and shrink > 0.3 and len(rows):
        for pick in rng.integers(0, len(rows), 150):
            x, y = (np.array([columns[pick], rows[pick]]) + rng.random(2)) * GRID_UM
            radius = max(SMALLEST_NEST_UM, rng.uniform(*radii) * shrink)
            radius = min(radius, max(SMALLEST_NEST_UM, math.sqrt((area - filled) / math.pi)))
            apart = np.hypot(circles[:, 0] - x, circles[:, 1] - y) - circles[:, 2]
            free = min(float(apart.min(initial=np.inf)) - gap * shrink, float(room[rows[pick], columns[pick]]))
            if free < radius:
                if free < max(SMALLEST_NEST_UM, radii[0] * shrink):
                    continue
                radius = free
            circles = np.vstack([circles, (x, y, radius)])
            filled += math.pi * radius**2
            if filled >= area * 0.985:
                break
        shrink *= 0.93
    return circles[first:]


@dataclass(frozen=True, eq=False)
class _Shape:
    """The outline of a nest: round, with a few gentle bulges; size and phase of each."""

    bulges: tuple[tuple[int, float, float], ...]

    @classmethod
    def draw(cls, rng: np.random.Generator) -> "_Shape":
        return cls(tuple((k, rng.normal(0, 0.13 / k), rng.uniform(0, 6.3)) for k in (2, 3, 4, 5)))

    def edge(self, theta: NDArray[np.float64]) -> NDArray[np.float64]:
        """Radius in a direction; the area is that of a circle of radius 1."""
        line = 1 + sum(size * np.cos(k * theta + phase) for k, size, phase in self.bulges)
        return np.asarray(line / math.sqrt(1 + sum(size**2 for _, size, _ in self.bulges) / 2))

    def ring(self, x: float, y: float, radius: float) -> NDArray[np.int32]:
        """The outline as points in 1/16 of a grid point."""
        theta = np.linspace(0, 2 * np.pi, 48, endpoint=False)
        edge = radius * self.edge(theta)
        points = np.column_stack([x + edge * np.cos(theta), y + edge * np.sin(theta)]) / GRID_UM - 0.5
        return np.asarray(np.round(points * 16), dtype=np.int32)


def _fill(
    rng: np.random.Generator,
    nests: NDArray[np.float64],
    shapes: list[_Shape],
    sizes: NDArray[np.float64],
    spread: float,
    target: float,
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Cells on jittered hexagonal grids in each nest, with nuclei of a given total area; x, y, diameter."""
    factor = 1.6
    for _ in range(6):
        found = [
            nest[:2] + _hexagons(rng, nest[2], shape, size * factor)
            for nest, shape, size in zip(nests, shapes, sizes, strict=True)
        ]
        nucleus = np.repeat(sizes, [len(points) for points in found])
        total = float(np.sum(math.pi / 4 * nucleus**2))
        if abs(total / target - 1) < 0.06:
            break
        factor = max(1.12, factor * (total / target) ** 0.45)
    points = np.concatenate(found)
    nucleus = nucleus * np.exp(rng.normal(0, spread, len(nucleus)))
    # Where nests cannot hold the target, the lesion stays smaller rather than its nuclei getting giant.
    nucleus *= np.clip(math.sqrt(target / float(np.sum(math.pi / 4 * nucleus**2))), 0.85, 1.18)
    return points[:, 0], points[:, 1], nucleus


def _hexagons(rng: np.random.Generator, radius: float, shape: _Shape, spacing: float) -> NDArray[np.float64]:
    """Points of a jittered, turned hexagonal grid inside a shape around the origin; (n, 2), one at least."""
    count = math.ceil(1.5 * radius / spacing) + 2
    i, j = np.meshgrid(np.arange(-count, count + 1), np.arange(-count, count + 1))
    grid = np.column_stack([(i + 0.5 * (j % 2)).ravel(), (j * math.sqrt(0.75)).ravel()]) * spacing
    angle = rng.uniform(0, math.pi)
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    grid = (grid + rng.uniform(-0.5, 0.5, 2) * spacing) @ turn
    room = radius * shape.edge(np.arctan2(grid[:, 1], grid[:, 0])) - np.hypot(grid[:, 0], grid[:, 1])
    kept = grid[room > min(0.36 * spacing, room.max() * 0.999)]
    return np.asarray(kept + rng.normal(0, 0.13 * spacing, kept.shape))


def _ragged(
    lesion: Lesion, skin: Skin, look: Look, territory: Mask, amounts: _Amounts, rng: np.random.Generator
) -> tuple[_Cells, NDArray[np.float64], Mask]:
    """Ragged clusters and sheets without borders, single cells around them, single cells climbing the epidermis."""
    nuclei = amounts.nuclei
    climbing = nuclei * amounts.epidermal * lesion.pagetoid
    basal = nuclei * amounts.epidermal - climbing
    alone = nuclei * (1 - amounts.epidermal) * lesion.single
    in_sheets = nuclei - climbing - basal - alone
    scattered = (nuclei - in_sheets) / BODY_SHARE  # what the bodies of cells outside the sheets take
    shape = territory.shape
    field = smooth_noise(rng, shape, 44) + 0.45 * smooth_noise(rng, shape, 13) + 0.25 * smooth_noise(rng, shape, 5)
    wanted = max(amounts.bodies - scattered, 0.3 * amounts.bodies) / GRID_UM**2
    level = np.quantile(field[territory], max(0.0, 1 - 0.68 * wanted / territory.sum()))
    sheets = territory & (field > level)
    free = territory & ~cv2.dilate(sheets.astype(np.uint8), np.ones((7, 7), np.uint8)).astype(bool)
    around = (np.abs(skin.across) < 1.04) & (skin.edge > 20)
    upper = skin.epidermis & (skin.junction < -13) & (skin.under_surface > 9) & around
    band = (np.abs(skin.junction) < 8) & around & (skin.under_surface > 12)
    parts = []
    for name, where, area, spacing in (
        ("sheet", sheets, in_sheets, 1.12),
        ("single", free, alone, 1.9),
        ("single", band, basal, 1.3),
        ("pagetoid", upper, climbing, 1.9),
    ):
        sizes = _sizes(rng, lesion.nucleus_um * look.nucleus, lesion.nucleus_spread, area)
        x, y, sizes = scatter(rng, where, sizes, spacing)
        kind = np.full(len(x), KINDS.index(name))
        parts.append(_Cells(x, y, sizes, kind, rng.random(len(x)) < lesion.wild))
    cells = _join(parts)
    return cells, np.empty((0, 4)), _around(cells, shape, amounts.bodies)


def _around(cells: _Cells, shape: tuple[int, ...], area: float) -> Mask:
    """Bodies around cells that together have an area (µm²); what lies between close ones belongs to them."""
    low, high = 0.5, 1.7
    for _ in range(9):
        factor = (low + high) / 2
        mask = np.zeros(shape, np.uint8)
        for x, y, size in zip(cells.x, cells.y, cells.nucleus, strict=True):
            middle = np.round(np.array([x, y]) / GRID_UM * 16 - 8).astype(int)
            radius = round(factor * size / 2 / math.sqrt(BODY_SHARE) / GRID_UM * 16)
            cv2.circle(mask, middle.tolist(), radius, 1, -1, cv2.LINE_8, 4)
        mask = cv2.morphologyEx(mask, cv2.MORPH_CLOSE, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (7, 7)))
        low, high = (factor, high) if float(mask.sum()) * GRID_UM**2 < area else (low, factor)
    return mask.astype(bool)


def _sizes(rng: np.random.Generator, median: float, spread: float, area: float) -> NDArray[np.float64]:
    """Diameters of nuclei with a total area, the largest first."""
    drawn = np.clip(median * np.exp(rng.normal(0, spread, math.ceil(area / 20) + 1)), 5.5, 18)
    total = np.cumsum(math.pi / 4 * drawn**2)
    kept = drawn[: int(np.searchsorted(total, area)) + 1]
    kept *= math.sqrt(area / float(np.sum(math.pi / 4 * kept**2)))
    return np.sort(kept)[::-1]


def scatter(
    rng: np.random.Generator, allowed: Mask, sizes: NDArray[np.float64], spacing: float
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Places for bodies of given sizes (µm, largest first) that keep `spacing` mean sizes apart; x, y, sizes.

    Where they do not all fit, the rest moves closer together.
    """
    rows, columns = np.nonzero(allowed)
    placed: list[tuple[float, float, float]] = []
    while len(placed) < len(sizes) and len(rows) and spacing > 0.2:
        for group in np.array_split(sizes[len(placed) :], 5):
            if len(group):
                _scatter_alike(rng, (rows, columns), allowed.shape, group, spacing, placed)
        spacing *= 0.8
    table = np.array(placed, dtype=np.float64).reshape(-1, 3)
    return table[:, 0], table[:, 1], table[:, 2]


def _scatter_alike(
    rng: np.random.Generator,
    pixels: tuple[NDArray[np.int64], NDArray[np.int64]],
    shape: tuple[int, ...],
    sizes: NDArray[np.float64],
    spacing: float,
    placed: list[tuple[float, float, float]],
) -> None:
    """Place bodies of about one size by throwing darts at what is still free; appends to `placed`."""
    own = float(sizes.mean())
    blocked = np.zeros(shape, np.uint8)

    def block(x: float, y: float, size: float) -> None:
        middle = (int(x / GRID_UM), int(y / GRID_UM))
        cv2.circle(blocked, middle, round(spacing * (own + size) / 2 / GRID_UM), 1, -1)

    for body in placed:
        block(*body)
    order = rng.permutation(len(pixels[0]))
    done = 0
    for pick in order:
        if done == len(sizes):
            return
        row, column = int(pixels[0][pick]), int(pixels[1][pick])
        if blocked[row, column]:
            continue
        x, y = (column + rng.random()) * GRID_UM, (row + rng.random()) * GRID_UM
        placed.append((x, y, float(sizes[done])))
        block(*placed[-1])
        done += 1


def _divide(lesion: Lesion, skin: Skin, cells: _Cells, rng: np.random.Generator) -> _Cells:
    """Turn a few cells into mitoses: near the junction, or anywhere."""
    deep = skin.at(skin.under_junction, cells.x, cells.y)
    ready = np.flatnonzero((deep < 150) | lesion.deep_mitoses)
    count = min(len(ready), round(rng.uniform(*lesion.mitoses) * len(cells.x) / 1000))
    kind = cells.kind.copy()
    kind[rng.choice(ready, count, replace=False)] = KINDS.index("mitosis")
    return _Cells(cells.x, cells.y, cells.nucleus, kind, cells.wild)


def _clefts(bodies: Field, gate: Field, area: float) -> Field:
    """Signed distance into clefts around the bodies that together have an area, µm²; they open where `gate` is high."""
    near = (bodies <= 0) & (bodies > -14)
    low, high = 0.0, 12.0
    for _ in range(12):
        width = (low + high) / 2
        found = float(np.count_nonzero((bodies + width * gate > 0)[near])) * GRID_UM**2
        low, high = (width, high) if found < area else (low, width)
    return np.asarray(bodies + width * gate, dtype=np.float32)
