"""Small tables and image files, written by hand, for the tests of this folder."""

import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

HEADER_2020 = "image_name,patient_id,sex,age_approx,anatom_site_general_challenge,diagnosis,benign_malignant,target"
ROWS_2020 = (
    "ISIC_0000001,IP_1,male,45.0,head/neck,unknown,benign,0",
    "ISIC_0000002,IP_1,male,45.0,torso,melanoma,malignant,1",
    "ISIC_0000003,IP_2,,,,nevus,benign,0",
)


def write(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def table_2020(folder: Path, *rows: str, header: str = HEADER_2020) -> Path:
    return write(folder / "train.csv", header, *(rows or ROWS_2020))


def photo(seed: int = 0, size: tuple[int, int] = (60, 80)) -> np.ndarray:
    """A smooth random picture, uint8 (h, w, 3)."""
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    return np.array(Image.fromarray(coarse).resize(size[::-1], Image.Resampling.BICUBIC))


def save(path: Path, picture: np.ndarray | None = None, **options: object) -> Path:
    Image.fromarray(photo() if picture is None else picture).save(path, **options)
    return path


def png_claiming(path: Path, width: int, height: int) -> Path:
    """A tiny PNG whose header claims a size; its pixels are a valid stream of zeros of one row."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = zlib.compress(b"\x00" * (1 + 3 * min(width, 100)))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", pixels) + chunk(b"IEND", b""))
    return path
