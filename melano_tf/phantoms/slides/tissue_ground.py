"""The skin of a phantom slide: where surface, junction and edges run, and the stains of its ground.

Geometry lies on a grid of `GRID_UM` µm, the ground is composed at `GROUND_UM` µm/px.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from melano_tf.phantoms.slides.cells import Library
from melano_tf.phantoms.slides.slide_appearance import Look
from melano_tf.phantoms.slides.textures import smooth_line, smooth_noise

GRID_UM = 2.0
GROUND_UM = 0.5
STEPS_PER_UM = 8  # signed distances as uint8 around 128 while they are enlarged: 1/8 µm fine, ±16 µm wide

Field = NDArray[np.float32]
Plane = NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class Skin:
    """Signed fields over the slide, float32 (h, w) on the grid; all in µm, positive inside.

    Attributes:
        edge: distance into the tissue from its cut edges and its surface.
        under_surface: depth below the living epidermis' upper side (the horny layer lies above, negative).
        under_junction: depth below the dermo-epidermal junction (negative in the epidermis).
        junction: distance from the junction, the shortest way; negative in the epidermis.
        across: place along the lesion, -1 to 1 within its width.
        dermis_um: thickness of the dermis on average.
    """

    edge: Field
    under_surface: Field
    under_junction: Field
    junction: Field
    across: Field
    dermis_um: float

    def at(self, field: Field, x_um: ArrayLike, y_um: ArrayLike) -> Field:
        """A field's values at places in µm (nearest grid point)."""
        column = np.clip(np.asarray(x_um) / GRID_UM, 0, field.shape[1] - 1).astype(np.int64)
        row = np.clip(np.asarray(y_um) / GRID_UM, 0, field.shape[0] - 1).astype(np.int64)
        return field[row, column]

    @property
    def dermis(self) -> NDArray[np.bool_]:
        """The dermis, a little away from the cut edges."""
        return (self.under_junction > 0) & (self.edge > 8)

    @property
    def epidermis(self) -> NDArray[np.bool_]:
        """The living epidermis."""
        return (self.under_junction <= 0) & (self.under_surface > 0) & (self.edge > 4)


def lay_skin(rng: np.random.Generator, look: Look, size_um: tuple[float, float]) -> Skin:
    """The course of surface, rete ridges and cut edges of one slide of (width, height) µm."""
    width, height = size_um
    shape = (round(height / GRID_UM), round(width / GRID_UM))
    columns = np.arange(shape[1]) * GRID_UM
    x, y = np.meshgrid(columns.astype(np.float32), np.arange(shape[0], dtype=np.float32) * GRID_UM)
    # Bending the coordinates makes ridges lean and edges ragged.
    x = x + 9 * smooth_noise(rng, shape, 45) + 2 * smooth_noise(rng, shape, 12)
    y = y + 7 * smooth_noise(rng, shape, 55) + 1.2 * smooth_noise(rng, shape, 9)
    side, top = look.margin * width, look.margin * height
    line = columns / width - 0.5
    surface = (
        top + 0.02 * height + rng.uniform(-0.07, 0.07) * height * line + rng.uniform(0.05, 0.35) * height * line**2
    )
    surface += 0.008 * height * smooth_line(rng, shape[1], 170) + 4 * smooth_line(rng, shape[1], 30)
    thick = look.epidermis_um * (1 + 0.15 * smooth_line(rng, shape[1], 120)) + _ridges(rng, columns, look.ridge_um)
    base = height - top - 0.03 * height * (1 + smooth_line(rng, shape[1], 150)) - 5 * smooth_line(rng, shape[1], 14)
    base = np.minimum(base - rng.uniform(0.1, 0.6) * height * line**2, height - 12)

    def along(values: NDArray[np.floating]) -> Field:
        place = np.clip(x / GRID_UM, 0, shape[1] - 1.001)
        left = place.astype(np.int64)
        part = place - left
        lined = values.astype(np.float32)
        return np.asarray(lined[left] * (1 - part) + lined[left + 1] * part, dtype=np.float32)

    under_surface = y - along(surface)
    under_junction = under_surface - along(thick)
    left, right = side + 0.02 * width * rng.uniform(0, 1, 2)
    edge = np.minimum(np.minimum(x - left, width - right - x), along(base) - y)
    edge = np.minimum(edge, under_surface + look.keratin_um)
    tissue = width - left - right
    middle = left + look.centre * tissue
    return Skin(
        edge=edge.astype(np.float32),
        under_surface=under_surface.astype(np.float32),
        under_junction=under_junction.astype(np.float32),
        junction=signed_distance(under_junction > 0),
        across=((x - middle) / (look.half_width * tissue)).astype(np.float32),
        dermis_um=float(np.mean(base - surface - thick)),
    )


def _ridges(rng: np.random.Generator, columns: NDArray[np.floating], length: float) -> NDArray[np.float64]:
    """Extra thickness of the epidermis where rete ridges reach down, µm (n,)."""
    extra = np.zeros(len(columns))
    place = rng.uniform(0, 60)
    while place < columns[-1]:
        reach, half = length * rng.uniform(0.45, 1.35), rng.uniform(16, 30)
        bump = reach * np.exp(-(np.abs((columns - place) / half) ** 2.6))
        extra = np.maximum(extra, bump)
        place += rng.uniform(62, 125)
    return extra


def signed_distance(mask: NDArray[np.bool_]) -> Field:
    """Distance in µm from the border of a mask on the grid, positive inside; float32, slightly smoothed."""
    inside = cv2.distanceTransform(mask.astype(np.uint8), cv2.DIST_L2, 5)
    outside = cv2.distanceTransform((~mask).astype(np.uint8), cv2.DIST_L2, 5)
    return np.asarray(cv2.GaussianBlur((inside - outside) * GRID_UM, (0, 0), 1.0), dtype=np.float32)


def cover(distance: Field, shape: tuple[int, int], soft_um: float, strength: float = 1.0) -> Plane:
    """Cover 0..255 of what lies inside a signed distance (µm, on the grid), enlarged to the ground's shape.

    Args:
        distance: float32 on the grid, positive inside.
        shape: rows and columns of the ground.
        soft_um: width of the transition.
        strength: cover well inside.
    """
    steps = np.clip(128 + STEPS_PER_UM * distance, 0, 255).astype(np.uint8)
    whole = cv2.resize(steps, (shape[1], shape[0]), interpolation=cv2.INTER_LINEAR)
    ramp = np.clip((np.arange(256) - 128) / STEPS_PER_UM / soft_um + 0.5, 0, 1)
    return np.asarray(cv2.LUT(whole, np.round(255 * strength * ramp).astype(np.uint8)))


def lay(plane: Plane, share: Plane, level: Plane | int) -> None:
    """Blend a level (a plane or one value) over a plane by a cover 0..255, in place."""
    cv2.multiply(plane, cv2.bitwise_not(share), dst=plane, scale=1 / 255)
    if isinstance(level, int):
        cv2.add(plane, cv2.convertScaleAbs(share, alpha=level / 255), dst=plane)
    else:
        cv2.add(plane, cv2.multiply(level, share, scale=1 / 255), dst=plane)


def enlarge(field: Field, shape: tuple[int, int]) -> Plane:
    """A field of levels 0..255 on the grid as a plane of the ground's shape."""
    levels = np.clip(field, 0, 255).astype(np.uint8)
    return np.asarray(cv2.resize(levels, (shape[1], shape[0]), interpolation=cv2.INTER_LINEAR))


def paint_ground(
    rng: np.random.Generator,
    skin: Skin,
    library: Library,
    lesion: tuple[Field, Field, Field],
    chromatin: float,
) -> NDArray[np.uint8]:
    """The slide without its nuclei: collagen, epidermis, horny layer, the lesion's bodies and the clefts around them.

    Args:
        lesion: signed distances into the lesion's territory, its bodies and the clefts around them, µm on the grid.
        chromatin: factor on the stain of the lesion's bodies.

    Returns:
        Stain concentrations at `GROUND_UM`, uint8 (h, w, 3).
    """
    territory, bodies, clefts = lesion
    rows, columns = skin.edge.shape
    scale = round(GRID_UM / GROUND_UM)
    shape = (rows * scale, columns * scale)
    bend = [12 * smooth_noise(rng, skin.edge.shape, 60) + 5 * smooth_noise(rng, skin.edge.shape, 25) for _ in range(2)]
    shift = rng.uniform(0, 2048, 2)
    x, y = np.meshgrid(np.arange(columns, dtype=np.float32), np.arange(rows, dtype=np.float32))
    maps = []
    for place, bent, offset in zip((x, y), bend, shift, strict=True):
        maps.append(cv2.resize((place * scale + bent * 2 + offset).astype(np.float32), shape[::-1]))
    eosin = cv2.remap(library.reticular, maps[0], maps[1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP)
    fine = cv2.remap(library.papillary, maps[0], maps[1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP)
    # The papillary dermis: fine collagen below the junction, and in the lesion, where coarse bundles are pushed away.
    near = np.maximum(60 + 12 * smooth_noise(rng, skin.edge.shape, 40) - skin.junction, territory)
    lay(eosin, enlarge(128 + 3.0 * near, shape), fine)
    patches = (1 + 0.1 * smooth_noise(rng, skin.edge.shape, 70)) * 128
    eosin = cv2.multiply(eosin, enlarge(patches, shape), scale=1 / 128)
    haematoxylin = cv2.convertScaleAbs(eosin, alpha=0.07, beta=2)

    upper = np.clip(skin.under_surface / np.maximum(skin.under_surface - skin.under_junction, 1), 0, 1)
    living = cover(-skin.under_junction, shape, 1.6)
    cloud = smooth_noise(rng, skin.edge.shape, 10)
    lay(eosin, living, enlarge(50 - 8 * upper + 4 * cloud, shape))
    lay(haematoxylin, living, enlarge(17 + 12 * upper + 2 * cloud, shape))
    granular = cover(9 + 2 * cloud - skin.under_surface, shape, 5.0)
    lay(eosin, granular, 62)
    lay(haematoxylin, granular, 46)
    _horny_layer(skin, library, shape, maps[0], eosin, haematoxylin)

    split = cover(clefts, shape, 1.2, 0.9)
    lay(eosin, split, 4)
    lay(haematoxylin, split, 2)
    body = cover(bodies, shape, 1.4)
    lay(eosin, body, enlarge((33 + 2.5 * cloud) * chromatin, shape))
    lay(haematoxylin, body, enlarge((19 + 2 * cloud) * chromatin, shape))

    tissue = cover(skin.edge, shape, 1.5)
    for plane in (eosin, haematoxylin):
        cv2.multiply(plane, tissue, dst=plane, scale=1 / 255)
    return np.asarray(cv2.merge([haematoxylin, eosin, np.zeros(shape, np.uint8)]))


def _horny_layer(
    skin: Skin, library: Library, shape: tuple[int, int], along: Field, eosin: Plane, haematoxylin: Plane
) -> None:
    """Basket-weave flakes that follow the surface, in place."""
    band = np.flatnonzero((np.abs(skin.under_surface) < 60).any(axis=1))
    scale = shape[0] // skin.edge.shape[0]
    rows = slice(int(band[0]) * scale, (int(band[-1]) + 1) * scale)
    depth = skin.under_surface[band[0] : band[-1] + 1]
    part = (depth.shape[0] * scale, shape[1])
    down = cv2.resize((depth / GROUND_UM + 1000).astype(np.float32), part[::-1])
    flakes = cv2.remap(library.keratin, along[rows], down, cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP)
    horn = cover(-depth, part, 1.5)
    lay(eosin[rows], horn, flakes)
    lay(haematoxylin[rows], horn, cv2.convertScaleAbs(flakes, alpha=0.2))
