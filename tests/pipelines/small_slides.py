"""Small pyramidal TIFFs that OpenSlide opens with their resolution, and annotations on them."""

import json
from pathlib import Path

import cv2
import numpy as np
import tifffile

MPP = 0.5
SIZE = (1024, 768)  # level-0 pixels: 512 x 384 µm
TILE = 256


def picture(seed: int, tissue: bool = True) -> np.ndarray:
    """A blot of uneven pink on white, uint8 RGB."""
    width, height = SIZE
    generator = np.random.default_rng(seed)
    image = np.full((height, width, 3), 245, np.uint8)
    if tissue:
        noise = cv2.GaussianBlur(generator.normal(0, 90, (height, width)).astype(np.float32), (0, 0), 3)
        stain = np.clip(np.stack([190 + 3 * noise, 90 + 5 * noise, 160 + 4 * noise], -1), 20, 230).astype(np.uint8)
        blot = cv2.ellipse(np.zeros((height, width), np.uint8), (480, 400), (400, 300), 20, 0, 360, 1, -1)
        image[blot > 0] = stain[blot > 0]
    return image


def write_slide_file(path: Path, seed: int, tissue: bool = True) -> Path:
    """A slide of two levels, tiled."""
    fine = picture(seed, tissue)
    with tifffile.TiffWriter(path) as file:
        for level in range(2):
            image = fine if level == 0 else cv2.resize(fine, None, fx=0.25, fy=0.25, interpolation=cv2.INTER_AREA)
            resolution = 1e4 / (MPP * 4**level)
            file.write(
                image,
                tile=(TILE, TILE),
                compression="zlib",
                photometric="rgb",
                resolution=(resolution, resolution),
                resolutionunit="centimeter",
                subfiletype=int(level > 0),
                metadata=None,
            )
    return path


def write_annotation(path: Path, points: list[tuple[float, float]]) -> Path:
    """A QuPath GeoJSON with one polygon and one point."""
    shapes = [("Polygon", [[*points, points[0]]]), ("Point", list(points[0]))]
    features = [
        {"type": "Feature", "properties": {}, "geometry": {"type": kind, "coordinates": coordinates}}
        for kind, coordinates in shapes
    ]
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    return path
