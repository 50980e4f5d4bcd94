"""Annotation and exact truth of a phantom slide."""

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import cv2
import numpy as np
import shapely
from numpy.typing import ArrayLike, NDArray

from melano_tf.errors import InputError, line_of
from melano_tf.runs.atomic_files import atomic


def outline(mask: NDArray[np.bool_], mask_mpp: float, mpp: float, rng: np.random.Generator) -> shapely.MultiPolygon:
    """A coarse outline of a lesion as a pathologist draws it: smooth, generous, over the gaps.

    Args:
        mask: the true lesion, bool (h, w).
        mask_mpp: µm per pixel of the mask.
        mpp: µm per pixel of level 0.
        rng: makes the hand's wobble.

    Returns:
        Polygons in level-0 px, without holes; the smaller ones of far-off cells are left out.
    """
    scale = 8.0 / mask_mpp  # drawn at 8 µm/px
    small = cv2.resize(mask.astype(np.float32), None, fx=1 / scale, fy=1 / scale, interpolation=cv2.INTER_AREA)
    dense = cv2.GaussianBlur(small, (0, 0), 5.0, borderType=cv2.BORDER_CONSTANT)
    # A frame of glass, wider than what the closing reaches over, keeps the outline's shape at the slide's edge.
    frame = 20
    hull = cv2.copyMakeBorder((dense > 0.12).astype(np.uint8), frame, frame, frame, frame, cv2.BORDER_CONSTANT)
    hull = cv2.morphologyEx(hull, cv2.MORPH_CLOSE, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (31, 31)))
    hull = cv2.dilate(hull, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (5, 5)))[frame:-frame, frame:-frame]
    wobble = cv2.GaussianBlur(rng.standard_normal(hull.shape).astype(np.float32), (0, 0), 7.0)
    smooth = cv2.GaussianBlur(hull.astype(np.float32), (0, 0), 3.0) + 0.12 * wobble / max(wobble.std(), 1e-6)
    contours, _ = cv2.findContours((smooth > 0.45).astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    polygons: list[shapely.Polygon] = []
    for contour in contours:
        points = (contour[:, 0].astype(np.float64) + 0.5) * 8.0 / mpp
        if len(points) >= 12:
            shape = shapely.Polygon(points).simplify(6.0 / mpp).buffer(0)
            polygons += [shapely.Polygon(part.exterior) for part in shapely.get_parts(shape)]
    polygons.sort(key=lambda polygon: -polygon.area)
    return shapely.MultiPolygon([polygon for polygon in polygons if polygon.area > 0.1 * polygons[0].area])


def write_annotation(path: Path, outlines: shapely.MultiPolygon) -> None:
    """Write outlines (level-0 px) as QuPath writes them: a FeatureCollection of classified annotations; atomically."""
    features = [
        {
            "type": "Feature",
            "id": f"00000000-0000-4000-8000-{number:012d}",
            "geometry": {
                "type": "Polygon",
                "coordinates": [[[round(x, 1), round(y, 1)] for x, y in polygon.exterior.coords]],
            },
            "properties": {
                "objectType": "annotation",
                "name": "tumour",
                "classification": {"name": "tumour", "color": [200, 0, 0]},
            },
        }
        for number, polygon in enumerate(outlines.geoms, start=1)
    ]
    with atomic(path) as temporary:
        temporary.write_text(json.dumps({"type": "FeatureCollection", "features": features}) + "\n", encoding="utf-8")


@dataclass(frozen=True, eq=False)
class Truth:
    """Where the lesion of a phantom slide really is.

    Attributes:
        cells: x, y (level-0 px), diameter of the nucleus (µm); float32 (n, 3), the lesion's cells only.
        kinds: index of each cell's kind in `melanocytes.KINDS`; uint8 (n,).
        nests: x, y, radius (level-0 px), depth (0 junction, 1 base); float32 (m, 4); none in a disordered lesion.
        mask: the lesion's bodies of cells, bool (h, w) at `mask_px` level-0 px per pixel.
        mask_px: level-0 px per pixel of the mask.
        areas: µm² of the lesion's territory, of its nuclei, of its cells, of its clefts; float64 (4,).
    """

    cells: NDArray[np.float32]
    kinds: NDArray[np.uint8]
    nests: NDArray[np.float32]
    mask: NDArray[np.bool_]
    mask_px: float
    areas: NDArray[np.float64]

    @cached_property
    def _integral(self) -> NDArray[np.float64]:
        return np.asarray(cv2.integral(self.mask.astype(np.uint8), sdepth=cv2.CV_64F))

    def shares(self, boxes: ArrayLike) -> NDArray[np.float64]:
        """Share of each box (n, 4: x, y, w, h in level-0 px) that the lesion's cells cover; float64 (n,)."""
        x, y, w, h = np.asarray(boxes, dtype=np.float64).reshape(-1, 4).T
        left, right, top, bottom = (edge / self.mask_px for edge in (x, x + w, y, y + h))
        covered = self._until(right, bottom) - self._until(left, bottom)
        covered += self._until(left, top) - self._until(right, top)
        return np.asarray(np.clip(covered * self.mask_px**2 / (w * h), 0, 1))

    def _until(self, x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
        """Covered mask pixels above and left of a point; bilinear between the corners."""
        height, width = self.mask.shape
        x, y = np.clip(x, 0, width), np.clip(y, 0, height)
        i, j = np.minimum(x.astype(np.int64), width - 1), np.minimum(y.astype(np.int64), height - 1)
        u, v, whole = x - i, y - j, self._integral
        upper = whole[j, i] * (1 - u) + whole[j, i + 1] * u
        lower = whole[j + 1, i] * (1 - u) + whole[j + 1, i + 1] * u
        return np.asarray(upper * (1 - v) + lower * v)


def write_truth(path: Path, truth: Truth) -> None:
    """Write the truth as .npz, atomically."""
    with atomic(path) as temporary:
        np.savez(
            temporary,
            cells=truth.cells,
            kinds=truth.kinds,
            nests=truth.nests,
            mask=np.packbits(truth.mask, axis=1),
            mask_shape=np.array(truth.mask.shape),
            mask_px=np.array(truth.mask_px),
            areas=truth.areas,
        )


def read_truth(path: Path) -> Truth:
    """Read a phantom slide's truth.

    Raises:
        InputError: the file is missing or is no such truth.
    """
    try:
        with np.load(path) as file:
            mask = np.unpackbits(file["mask"], axis=1, count=int(file["mask_shape"][1])).astype(bool)
            return Truth(file["cells"], file["kinds"], file["nests"], mask, float(file["mask_px"]), file["areas"])
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"{path}: not the truth of a phantom slide ({line_of(error)}); draw the slide again") from None


def truth_shares(path: Path, boxes: ArrayLike) -> NDArray[np.float64]:
    """Share of each box (n, 4: x, y, w, h in level-0 px) that the true lesion covers; float64 (n,).

    The lesion is its nests and cells, not the coarse outline around them.

    Args:
        path: <slide_id>.truth.npz, or the slide itself.

    Raises:
        InputError: the file is missing or is no such truth.
    """
    path = Path(path)
    if path.suffix != ".npz":
        path = path.with_name(f"{path.stem}.truth.npz")
    return read_truth(path).shares(boxes)
