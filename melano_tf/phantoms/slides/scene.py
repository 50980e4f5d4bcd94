"""A whole phantom slide as stain concentrations: ground, then all cells stamped on it."""

from collections.abc import Iterable
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from melano_tf.phantoms.slides.cells import MPP, NUCLEUS_UM, Library, Sprite, stamp
from melano_tf.phantoms.slides.melanocytes import KINDS, Growth, Lesion, grow, scatter
from melano_tf.phantoms.slides.slide_appearance import Look
from melano_tf.phantoms.slides.textures import GRAIN_PX, smooth_noise
from melano_tf.phantoms.slides.tissue_ground import GRID_UM, Skin, lay_skin, paint_ground, signed_distance
from melano_tf.phantoms.slides.truth import Truth

BLOCK_PX = 16
"""Slides are a multiple of this wide and high, so that every level's downsample is a whole number."""


@dataclass(frozen=True, eq=False)
class Scene:
    """One slide before it is coloured.

    Attributes:
        canvas: concentrations of haematoxylin, eosin, melanin at level 0, uint8 (h, w, 3).
        grain: factors around 128 that make stain uneven.
        growth: the lesion.
        skin: the skin around it.
    """

    canvas: NDArray[np.uint8]
    grain: NDArray[np.uint8]
    growth: Growth
    skin: Skin

    def rows(self, top: int, bottom: int) -> NDArray[np.uint8]:
        """Rows of the canvas with grain, uint8 (bottom - top, width, 3)."""
        part = self.canvas[top:bottom]
        down, across = (-(-size // GRAIN_PX) for size in part.shape[:2])
        grain = np.tile(self.grain, (down, across, 1))[: part.shape[0], : part.shape[1]]
        return np.asarray(cv2.multiply(part, grain, scale=1 / 128))

    def truth(self) -> Truth:
        """What the lesion really is."""
        growth = self.growth
        territory = float(growth.territory.sum()) * GRID_UM**2
        mask = growth.bodies > 0
        clefts = (growth.clefts > 0) & ~mask
        areas = [territory, growth.nuclear_um2, float(mask.sum()) * GRID_UM**2, float(clefts.sum()) * GRID_UM**2]
        nests = growth.nests / (MPP, MPP, MPP, 1.0)
        return Truth(
            cells=np.column_stack([growth.x / MPP, growth.y / MPP, growth.nucleus]).astype(np.float32),
            kinds=growth.kind.astype(np.uint8),
            nests=nests.astype(np.float32),
            mask=mask,
            mask_px=GRID_UM / MPP,
            areas=np.array(areas),
        )


def compose(look: Look, lesion: Lesion, library: Library, seed: np.random.SeedSequence) -> Scene:
    """Compose a slide; two lesions of one look and seed lie in the very same skin."""
    skin_rng, lesion_rng, ground_rng, cell_rng = (np.random.default_rng(part) for part in seed.spawn(4))
    width, height = (round(um / MPP / BLOCK_PX) * BLOCK_PX for um in (look.width_um, look.height_um))
    skin = lay_skin(skin_rng, look, (width * MPP, height * MPP))
    growth = grow(lesion, skin, look, lesion_rng)
    fields = (signed_distance(growth.territory), growth.bodies, growth.clefts)
    ground = paint_ground(ground_rng, skin, library, fields, look.chromatin)
    canvas = np.asarray(cv2.resize(ground, (width, height), interpolation=cv2.INTER_LINEAR))
    firm = _stamp_skin(canvas, skin, growth, look, library, cell_rng)
    _stamp_lesion(canvas, growth, look, library, cell_rng)
    _stamp_guests(canvas, skin, firm, look, library, cell_rng)
    return Scene(canvas, library.grain, growth, skin)


def _stamp_all(
    canvas: NDArray[np.uint8], rng: np.random.Generator, pool: tuple[Sprite, ...], x_um: ArrayLike, y_um: ArrayLike
) -> None:
    """Stamp one sprite of a pool, drawn at random, at each place."""
    x, y = (np.round(np.asarray(place) / MPP).astype(int) for place in (x_um, y_um))
    for column, row, pick in zip(x.tolist(), y.tolist(), rng.integers(0, len(pool), len(x)).tolist(), strict=True):
        stamp(canvas, pool[pick], column, row)


def _places(
    rng: np.random.Generator, allowed: NDArray[np.bool_], per_mm2: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Random places (µm) in a mask on the grid."""
    rows, columns = np.nonzero(allowed)
    count = rng.poisson(per_mm2 * len(rows) * GRID_UM**2 / 1e6) if len(rows) else 0
    picks = rng.integers(0, max(len(rows), 1), count)
    return (columns[picks] + rng.random(count)) * GRID_UM, (rows[picks] + rng.random(count)) * GRID_UM


def _stamp_skin(
    canvas: NDArray[np.uint8], skin: Skin, growth: Growth, look: Look, library: Library, rng: np.random.Generator
) -> NDArray[np.bool_]:
    """Fat, vessels, fibroblasts, glands, keratinocytes and their pigment; returns the free dermis without fat."""
    pools = library.pools
    away = growth.bodies < -1
    roomy = skin.dermis & (growth.bodies < -24) & (skin.edge > 35) & (skin.junction > 25)
    firm = skin.dermis & away & ~_stamp_fat(canvas, skin, growth, look, library, rng)
    roomy &= firm
    _stamp_all(canvas, rng, pools["vessel"], *_places(rng, roomy, look.vessels))
    _stamp_all(canvas, rng, pools["fibroblast"], *_places(rng, firm, look.fibroblasts))
    coils = _places(rng, roomy & (skin.under_junction > 180) & (growth.bodies < -150) & (skin.edge > 120), look.glands)
    for x, y in zip(*coils, strict=True):
        count = int(rng.integers(4, 10))
        _stamp_all(canvas, rng, pools["tubule"], rng.normal(x, 50, count), rng.normal(y, 38, count))
    rows, columns = np.arange(0, skin.edge.shape[0] * GRID_UM, 9.5), np.arange(0, skin.edge.shape[1] * GRID_UM, 11.5)
    x, y = np.meshgrid(columns, rows)
    x = (x + (np.arange(len(rows)) % 2)[:, None] * 5.7 + rng.normal(0, 1.6, x.shape)).ravel()
    y = (y + rng.normal(0, 1.4, y.shape)).ravel()
    spinous = skin.epidermis & (skin.junction < -10) & (skin.under_surface > 7) & (growth.bodies < 0)
    chosen = skin.at(spinous.astype(np.float32), x, y) > 0
    _stamp_all(canvas, rng, pools["spinous"], x[chosen], y[chosen])
    lowest = skin.epidermis & (skin.junction < -2) & (skin.junction > -8) & away
    x, y, _ = scatter(rng, lowest, np.full(round(float(lowest.sum()) * GRID_UM**2 / 38), 6.6), 1.0)
    _stamp_all(canvas, rng, pools["basal"], x, y)
    capped = rng.random(len(x)) < look.basal_melanin
    _stamp_all(canvas, rng, pools["pigment"], x[capped], y[capped] - 3)
    return np.asarray(firm)


def _stamp_fat(
    canvas: NDArray[np.uint8], skin: Skin, growth: Growth, look: Look, library: Library, rng: np.random.Generator
) -> NDArray[np.bool_]:
    """Fat cells side by side at the bottom of the section; returns where they may lie, bool on the grid."""
    uneven = 60 * smooth_noise(rng, skin.edge.shape, 110)
    deep = skin.under_junction + uneven > look.fat * skin.dermis_um
    lobules = smooth_noise(rng, skin.edge.shape, 90) > -0.9
    fat = np.asarray(skin.dermis & deep & lobules & (growth.bodies < -60))
    allowed = fat & (skin.edge > 26)
    x, y, _ = scatter(rng, allowed, np.full(round(float(allowed.sum()) * GRID_UM**2 / 2300), 54.0), 0.98)
    _stamp_all(canvas, rng, library.pools["adipocyte"], x, y)
    return cv2.dilate(fat.astype(np.uint8), np.ones((25, 25), np.uint8)).astype(bool)


def _stamp_lesion(
    canvas: NDArray[np.uint8], growth: Growth, look: Look, library: Library, rng: np.random.Generator
) -> None:
    """The lesion's cells, from the base up, and their melanin."""
    bodies = _dyed(library.bodies, look.chromatin)
    ordered, wild = _dyed(library.ordered, look.chromatin), _dyed(library.wild, look.chromatin)
    size = np.clip(np.round(growth.nucleus - NUCLEUS_UM[0]), 0, len(NUCLEUS_UM) - 1).astype(int)
    x, y = (np.round(place / MPP).astype(int) for place in (growth.x, growth.y))
    picks = rng.integers(0, 1 << 16, len(x))
    dividing = KINDS.index("mitosis")
    mitoses = library.pools["mitosis"]
    for i in np.argsort(-growth.y, kind="stable").tolist():
        body = bodies[size[i]]
        stamp(canvas, body[int(picks[i]) % len(body)], int(x[i]), int(y[i]))
    for i in range(len(x)):
        pool = mitoses if growth.kind[i] == dividing else (wild if growth.wild[i] else ordered)[size[i]]
        stamp(canvas, pool[int(picks[i]) % len(pool)], int(x[i]), int(y[i]))
    heaps = round(look.melanin * float(growth.territory.sum()) * GRID_UM**2 / 1e6)
    # Pigment is kept by the upper cells, as in any naevus.
    weight = np.exp(-2.5 * (growth.y - growth.y.min()) / np.ptp(growth.y))
    bearers = rng.choice(len(x), heaps, p=weight / weight.sum())
    beside = rng.normal(0, 4.0, (2, heaps))
    _stamp_all(canvas, rng, library.pools["pigment"], growth.x[bearers] + beside[0], growth.y[bearers] + beside[1])


def _dyed(pools: tuple[tuple[Sprite, ...], ...], factor: float) -> list[tuple[Sprite, ...]]:
    scales = np.diag([factor, 1.0, 1.0]).astype(np.float32)
    return [tuple(Sprite(sprite.keep, cv2.transform(sprite.add, scales)) for sprite in pool) for pool in pools]


def _stamp_guests(
    canvas: NDArray[np.uint8],
    skin: Skin,
    firm: NDArray[np.bool_],
    look: Look,
    library: Library,
    rng: np.random.Generator,
) -> None:
    """Lymphocytes: scattered over the free dermis, and in clusters."""
    allowed = firm.astype(np.float32)
    groups = [_places(rng, firm, look.lymphocytes)]
    centres = _places(rng, firm, look.clusters)
    for x, y in zip(*centres, strict=True):
        count, spread = int(rng.uniform(12, 70)), rng.uniform(10, 24)
        groups.append((rng.normal(x, spread * 1.4, count), rng.normal(y, spread, count)))
    x, y = (np.concatenate(part) for part in _columns(groups))
    inside = skin.at(allowed, x, y) > 0
    _stamp_all(canvas, rng, library.pools["lymphocyte"], x[inside], y[inside])


def _columns(groups: Iterable[tuple[NDArray[np.float64], NDArray[np.float64]]]) -> tuple[list[NDArray], list[NDArray]]:
    x, y = zip(*groups, strict=True)
    return list(x), list(y)
