"""Image files of every sort that a user may send, small, drawn from seeds."""

import io
import struct
import zlib
from collections.abc import Callable

import cv2
import numpy as np
from PIL import Image


def picture(width: int, height: int, seed: int = 0) -> np.ndarray:
    """A smooth coloured noise, uint8 (height, width, 3) RGB."""
    noise = np.random.default_rng(seed).normal(0, 60, (height, width, 3)).astype(np.float32)
    smooth = cv2.GaussianBlur(noise, (0, 0), 2) * 4 + np.array([190, 130, 110], np.float32)
    return np.clip(smooth, 0, 255).astype(np.uint8)


def encoded(image: np.ndarray, kind: str, mode: str | None = None, **options: object) -> bytes:
    """A file of an image."""
    made = Image.fromarray(image)
    if mode is not None:
        made = made.convert(mode)
    buffer = io.BytesIO()
    made.save(buffer, kind, **options)
    return buffer.getvalue()


def grey16(width: int, height: int) -> bytes:
    """A PNG of 16-bit greys."""
    values = (picture(width, height, 7)[..., 0].astype(np.uint32) * 257 + 97).clip(0, 65535).astype(np.uint16)
    return cv2.imencode(".png", values)[1].tobytes()


def upside_down() -> bytes:
    """A JPEG whose EXIF says that it lies on its head; training ignores that."""
    exif = Image.Exif()
    exif[274] = 3
    return encoded(picture(90, 60, 5), "JPEG", exif=exif)


FILES: dict[str, Callable[[], bytes]] = {
    "photo.jpg": lambda: encoded(picture(200, 150, 1), "JPEG", quality=90),
    "large.jpg": lambda: encoded(picture(701, 523, 2), "JPEG", quality=85),
    "tiny.jpg": lambda: encoded(picture(17, 31, 3), "JPEG"),
    "grey.jpg": lambda: encoded(picture(120, 90, 4), "JPEG", "L"),
    "exif.jpg": upside_down,
    "progressive.jpg": lambda: encoded(picture(130, 95, 6), "JPEG", progressive=True),
    "trailing.jpg": lambda: encoded(picture(64, 64, 8), "JPEG") + b"\x00" * 50,
    "cmyk.jpg": lambda: encoded(picture(60, 60, 9), "JPEG", "CMYK"),
    "restarting.jpg": lambda: encoded(picture(90, 70, 16), "JPEG", restart_marker_rows=1),
    "grey corner.jpg": lambda: encoded(np.full((50, 70, 3), 128, np.uint8), "JPEG"),
    "rgb.png": lambda: encoded(picture(150, 110, 10), "PNG"),
    "rgba.png": lambda: encoded(picture(70, 50, 11), "PNG", "RGBA"),
    "palette.png": lambda: encoded(picture(70, 50, 12), "PNG", "P"),
    "grey.png": lambda: encoded(picture(33, 44, 13), "PNG", "L"),
    "grey_alpha.png": lambda: encoded(picture(33, 44, 14), "PNG", "LA"),
    "bits.png": lambda: encoded(picture(40, 40, 15), "PNG", "1"),
    "grey16.png": lambda: grey16(50, 61),
}


def bomb_png(width: int = 60_000, height: int = 60_000) -> bytes:
    """A PNG of a few kilobytes whose header claims more pixels than any memory holds."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = zlib.compress(b"\0" * 100_000)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def bomb_jpeg() -> bytes:
    """A JPEG whose frame header claims 65,535 x 65,535 pixels."""
    content = bytearray(encoded(picture(32, 32), "JPEG"))
    place = content.index(b"\xff\xc0")
    content[place + 5 : place + 9] = b"\xff\xff\xff\xff"
    return bytes(content)


def bad_files() -> dict[str, tuple[bytes, str]]:
    """What must be refused before it is decoded, and a word of the reason."""
    photo, png, progressive = FILES["photo.jpg"](), FILES["rgb.png"](), FILES["progressive.jpg"]()
    restarting = encoded(picture(100, 80, 22), "JPEG", restart_marker_rows=1)
    return {
        "empty": (b"", "is empty"),
        "text": (b"hello, this is no image", "neither a JPEG nor a PNG"),
        "gif": (b"GIF89a" + bytes(50), "neither a JPEG nor a PNG"),
        "cut.jpg": (photo[: len(photo) // 2], "end marker"),
        "cut.png": (png[: len(png) // 2], "end marker"),
        "head.jpg": (photo[:12], "cut-off header"),
        "head.png": (png[:20], "cut-off header"),
        "endless.jpg": (b"\xff\xd8" + b"\xff" * 50_000, "header"),
        "comments.jpg": (b"\xff\xd8" + b"\xff\xfe\x00\x02" * 40_000 + photo[2:], "header"),
        "no frame.jpg": (b"\xff\xd8\xff\xda\x00\x02\xff\xd9", "header"),
        "flat.png": (bomb_png(0, 10), "no pixels"),
        "negative.png": (bomb_png(2**32 - 1, 10), "no pixels"),
        "bomb.png": (bomb_png(), "more pixels"),
        "bomb.jpg": (bomb_jpeg(), "more pixels"),
        "closed early.jpg": (closed_early(photo, 0.6), "data end before its last row"),
        "nearly whole.jpg": (closed_early(photo, 0.97), "data end before its last row"),
        "restarting.jpg": (closed_early(restarting, 0.5), "data end before its last row"),
        "cmyk.jpg": (closed_early(FILES["cmyk.jpg"](), 0.7), "data end before its last row"),
        "progressive.jpg": (closed_early(progressive, 0.4), "data end before its last row"),
        "first scans.jpg": (without_last_scans(progressive, 4), "scans of its picture are missing"),
        "many scans.jpg": (many_scans(60), "more than 50 scans"),
        "long": (b"\xff\xd8" + bytes(33 * 2**20), "larger than"),
    }


def closed_early(content: bytes, share: float) -> bytes:
    """A JPEG cut short within its last scan and closed by an end marker."""
    start = content.rindex(b"\xff\xda") + 14
    return content[: start + int(share * (len(content) - 2 - start))].rstrip(b"\xff") + b"\xff\xd9"


def without_last_scans(content: bytes, kept: int) -> bytes:
    """A progressive JPEG of which some scans are left, closed by an end marker."""
    place = 0
    for _ in range(kept + 1):
        place = content.index(b"\xff\xda", place + 1)
    return content[:place] + b"\xff\xd9"


def many_scans(count: int) -> bytes:
    """A progressive JPEG whose last scan stands there many times: each costs a pass over the whole picture."""
    content = encoded(picture(90, 60, 21), "JPEG", progressive=True)
    last = content.rindex(b"\xff\xda")
    return content[:-2] + content[last:-2] * count + b"\xff\xd9"
