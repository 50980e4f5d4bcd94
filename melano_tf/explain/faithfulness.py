"""How faithful a map is to what a network looks at: measured, beside maps that know nothing of the network.

Two kinds of measure. Where the truth is known (phantoms): how much of a map lies on the planted cells, and whether its
highest place does (pointing game, Zhang et al. 2018). Without any truth: deletion and insertion curves (Petsiuk et al.
2018), which ask the network itself. A map that scores no better than a random map, a centre-biased one or the plain
tissue mask shows nothing; one that scores as well once the network's weights are randomised (Adebayo et al. 2018)
shows the picture, not the network.
"""

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import keras
import numpy as np
from numpy.typing import ArrayLike, NDArray

Maps = NDArray[np.float32]
Predict = Callable[[NDArray[np.float32]], NDArray[np.floating]]
BLUR = 0.15  # of the tile's side: standard deviation of the blur that stands for "nothing there"


def energy_share(maps: ArrayLike, truth: ArrayLike) -> NDArray[np.float64]:
    """Share of each map's sum that lies inside the truth, (n,); NaN for a map that is zero everywhere.

    Args:
        maps: (n, h, w), not negative.
        truth: bool (n, h, w).

    Raises:
        ValueError: shapes differ, or a map has negative values.
    """
    values, inside = _checked(maps, truth)
    total = values.sum(axis=(1, 2))
    part = (values * inside).sum(axis=(1, 2))
    return np.asarray(np.divide(part, total, out=np.full(len(total), np.nan), where=total > 0))


def pointing_hits(maps: ArrayLike, truth: ArrayLike, tolerance_px: float = 0.0) -> NDArray[np.float64]:
    """Pointing game: 1 where a map's highest place lies inside the truth or within a tolerance of it, else 0; (n,).

    NaN for a map that is zero everywhere. Where several places are highest, it is the share of them that hit: a flat
    map is given no luck.

    Args:
        maps, truth: as for `energy_share`.
        tolerance_px: distance from the truth that still counts.
    """
    values, inside = _checked(maps, truth)
    hits = np.full(len(values), np.nan)
    for place, (one, mask) in enumerate(zip(values, inside, strict=True)):
        if one.max() <= 0:
            continue
        if tolerance_px > 0:
            distance = cv2.distanceTransform((~mask).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
            mask = distance <= tolerance_px
        hits[place] = mask[one >= one.max()].mean()
    return hits


def _checked(maps: ArrayLike, truth: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    values, inside = np.asarray(maps, dtype=np.float64), np.asarray(truth, dtype=bool)
    if values.ndim != 3 or values.shape != inside.shape:
        raise ValueError(f"maps {values.shape} and truth {inside.shape} must both be (n, h, w)")
    if not (np.isfinite(values).all() and (values >= 0).all()):
        raise ValueError("maps must be finite and not negative")
    return values, inside


def random_maps(count: int, size: tuple[int, int], grid: tuple[int, int], seed: int) -> Maps:
    """Random maps as coarse as an activation map, (count, h, w) in 0..1.

    Args:
        count: how many.
        size: (h, w) of the tiles.
        grid: (h, w) of the feature map whose coarseness they take.
        seed: of the draw.
    """
    values = np.random.default_rng(seed).random((count, *grid), dtype=np.float32)
    return np.stack([cv2.resize(one, size[::-1], interpolation=cv2.INTER_LINEAR) for one in values])


def centre_maps(count: int, size: tuple[int, int]) -> Maps:
    """A hill in the middle of every tile, (count, h, w) in 0..1: what a map would score for pointing at the centre."""
    y, x = (np.linspace(-1, 1, side, dtype=np.float32) for side in size)
    hill = np.exp(-(y[:, None] ** 2 + x[None, :] ** 2) / (2 * 0.4**2))
    return np.repeat(hill[None], count, axis=0).astype(np.float32)


def tissue_maps(tiles: NDArray[np.generic]) -> Maps:
    """1 where a tile is stained, 0 on glass and in gaps, (n, h, w), for RGB 0..255 (n, h, w, 3).

    By saturation, with Otsu's threshold over all tiles together.
    """
    saturation = np.stack(
        [cv2.cvtColor(np.asarray(tile).astype(np.uint8), cv2.COLOR_RGB2HSV)[..., 1] for tile in tiles]
    )
    flat = np.ascontiguousarray(saturation.reshape(1, -1))
    threshold, _ = cv2.threshold(flat, 0, 255, cv2.THRESH_BINARY + cv2.THRESH_OTSU)
    return (saturation > threshold).astype(np.float32)


def randomised(model: keras.Model, seed: int) -> keras.Model:
    """A copy of a model whose weights are each shuffled in place: every tensor keeps its values, not their order.

    Means and variances of batch normalisation are shuffled too (a variance stays one). Biases and scales of one value
    cannot change.
    """
    copy = keras.models.clone_model(model)
    rng = np.random.default_rng(seed)
    copy.set_weights([rng.permutation(np.asarray(w).ravel()).reshape(np.shape(w)) for w in model.get_weights()])
    return copy


@dataclass(frozen=True)
class Curve:
    """What a network says of tiles while they are taken apart or put together.

    Attributes:
        fraction: share of the pixels deleted or inserted, (steps + 1,) from 0 to 1.
        probability: of the explained class, (n, steps + 1).
    """

    fraction: NDArray[np.float64]
    probability: NDArray[np.float64]

    @property
    def area(self) -> NDArray[np.float64]:
        """Area under each tile's curve, (n,), by trapezia: low is good for deletion, high for insertion."""
        return np.asarray(np.trapezoid(self.probability, self.fraction, axis=1))


def deletion_curve(predict: Predict, tiles: ArrayLike, maps: ArrayLike, steps: int = 10) -> Curve:
    """Probability while the pixels that a map calls most important are blurred away, the highest first.

    Args:
        predict: gives the explained class's probability, (n,), of tiles (n, h, w, 3).
        tiles: RGB 0..255, (n, h, w, 3).
        maps: (n, h, w); of equal values the first in reading order goes first.
        steps: equal shares of the pixels.
    """
    values = np.asarray(tiles, dtype=np.float32)
    return _curve(predict, values, _blurred(values), maps, steps)


def insertion_curve(predict: Predict, tiles: ArrayLike, maps: ArrayLike, steps: int = 10) -> Curve:
    """Probability while a blurred tile gets its pixels back, those first that a map calls most important.

    Args:
        predict, tiles, maps, steps: as for `deletion_curve`.
    """
    values = np.asarray(tiles, dtype=np.float32)
    return _curve(predict, _blurred(values), values, maps, steps)


def _blurred(tiles: Maps) -> Maps:
    sigma = BLUR * tiles.shape[1]
    return np.stack([cv2.GaussianBlur(tile, (0, 0), sigma, borderType=cv2.BORDER_REFLECT) for tile in tiles])


def _curve(predict: Predict, start: Maps, end: Maps, maps: ArrayLike, steps: int) -> Curve:
    """From `start` to `end`, pixel by pixel in the order of the maps."""
    values = np.asarray(maps, dtype=np.float64)
    if values.shape != start.shape[:3] or steps < 1:
        raise ValueError(f"maps {values.shape} for tiles {start.shape}; steps {steps}")
    pixels = values[0].size
    # Rank 0 is the highest value; a stable sort keeps reading order among equal ones.
    order = np.argsort(-values.reshape(len(values), -1), axis=1, kind="stable")
    rank = np.empty_like(order)
    np.put_along_axis(rank, order, np.arange(pixels)[None].repeat(len(values), axis=0), axis=1)
    rank = rank.reshape(values.shape)
    fraction = np.linspace(0, 1, steps + 1)
    found = [
        np.asarray(predict(np.where((rank < round(share * pixels))[..., None], end, start)), dtype=np.float64)
        for share in fraction
    ]
    return Curve(fraction, np.stack(found, axis=1))


def truth_in_tile(
    mask: NDArray[np.bool_], mask_px: float, box: tuple[float, float, float, float], size: tuple[int, int]
) -> NDArray[np.bool_]:
    """The part of a slide's true mask that a tile shows, at the tile's own pixels.

    Args:
        mask: bool (h, w) over the slide from its origin.
        mask_px: level-0 px per pixel of the mask.
        box: x, y, width, height of the tile in level-0 px.
        size: (h, w) of the tile in its own pixels.

    Returns:
        bool of `size`; False outside the mask.
    """
    x, y, width, height = box
    columns = np.floor((x + (np.arange(size[1]) + 0.5) * width / size[1]) / mask_px).astype(int)
    rows = np.floor((y + (np.arange(size[0]) + 0.5) * height / size[0]) / mask_px).astype(int)
    inside = ((rows >= 0) & (rows < mask.shape[0]))[:, None] & ((columns >= 0) & (columns < mask.shape[1]))[None]
    picked = mask[np.clip(rows, 0, mask.shape[0] - 1)[:, None], np.clip(columns, 0, mask.shape[1] - 1)[None]]
    return np.asarray(picked & inside)
