"""Small stores for the tests: tiles that can be told apart, written without a slide."""

from pathlib import Path

import cv2
import numpy as np
import pandas as pd

from melano_tf.pipelines.tfrecords import PLACE, append_image


def tile_image(slide: int, tile: int, px: int) -> np.ndarray:
    """A smooth image that no other tile shares, uint8 (px, px, 3)."""
    noise = np.random.default_rng([slide, tile]).integers(0, 256, (px // 4, px // 4, 3), dtype=np.uint8)
    return cv2.resize(noise, (px, px), interpolation=cv2.INTER_CUBIC)


def make_store(folder: Path, slides: int = 3, tiles: int = 7, px: int = 16) -> pd.DataFrame:
    """Record files of several slides, and the table of all their tiles (a third of them tumour)."""
    rows = []
    for slide in range(slides):
        with (folder / f"s{slide}.tfrecord").open("wb") as file:
            for tile in range(tiles):
                image = tile_image(slide, tile, px)
                jpeg = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes()
                place = append_image(file, {"slide_id": f"s{slide}", "x": tile}, "jpeg", jpeg)
                tumour = float((slide + tile) % 3 == 0)
                rows.append((f"s{slide}", f"p{slide}", tile, tumour, *place))
    columns = ["slide_id", "patient_id", "tile", "tumour", *PLACE]
    return pd.DataFrame(rows, columns=columns)


def decoded(folder: Path, row: pd.Series) -> np.ndarray:
    """OpenCV's decoding of a tile, RGB."""
    with (folder / f"{row['slide_id']}.tfrecord").open("rb") as file:
        file.seek(row["offset"])
        content = np.frombuffer(file.read(row["length"]), np.uint8)
    return cv2.imdecode(content, cv2.IMREAD_COLOR)[..., ::-1]
