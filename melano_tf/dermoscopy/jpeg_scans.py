"""What libjpeg forgives and a reader of lesions must not: a JPEG whose picture ends before its end marker.

A file that was cut short and then closed by an end marker is decoded without an error, its missing rows in grey (or,
where it is progressive, its last scans missing): libjpeg only warns, and neither Pillow nor TensorFlow passes the
warning on. So the scans are counted and read here, and where the data could have ended early the file is decoded once
more with other data in front of its end marker: a whole picture has no use for them and stays what it is.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

MAX_SCANS = 50  # a progressive photograph has some ten; each costs a pass over the whole picture, however short it is
PROGRESSIVE = frozenset({0xC2, 0xC6, 0xCA, 0xCE})
SOF = frozenset({0xC0, 0xC1, 0xC2, 0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF})
# Any codes but 0xFF, which would begin a marker, and all restart markers, for which a file that has them would wait.
_CODES = bytes((1 + 97 * k * k + 31 * k) % 255 for k in range(256))
FILLER = _CODES + b"".join(bytes((0xFF, 0xD0 + k)) + _CODES for k in range(8))
GREY, NEAR_GREY = 128, 8  # what libjpeg shows where data are missing, and how near a corner must be to be looked at
ENDS_EARLY = "cut off: its data end before its last row, though an end marker follows"


class UnreadableImageError(Exception):
    """An image file that cannot be used; the message is the reason, without the path."""


@dataclass(frozen=True)
class Scans:
    """Where the picture of a JPEG ends.

    Attributes:
        end: place of its end marker; None where there is none, which every decoder refuses.
        doubtful: missing data need not show in the last pixel, as the file has several scans, or inks for colours.
            (Of the other files a cut within their very last block of 8 or 16 px is not looked for.)
    """

    end: int | None
    doubtful: bool


def read_scans(content: bytes) -> Scans:
    """Read the headers of all scans of a JPEG, without decoding it.

    Raises:
        UnreadableImageError: more than MAX_SCANS, or not all that the frame needs; a damaged frame.
    """
    count, progressive, end = 0, False, None
    precision: dict[int, list[int]] = {}  # bits that are still missing of each coefficient, by component
    markers, place = _markers(content), 2
    while (number := int(np.searchsorted(markers, place))) < len(markers):
        body = int(markers[number]) + 2
        marker = content[body - 1]
        if marker == 0xD9:
            end = len(content[: body - 2].rstrip(b"\xff"))
            break
        place = body + max(2, int.from_bytes(content[body : body + 2], "big"))
        segment = content[body + 2 : place]
        if marker in SOF and not precision and len(segment) > 5:
            progressive = marker in PROGRESSIVE
            precision = {component: [99] * 64 for component in segment[6::3][: segment[5]]}
        elif marker == 0xDA and len(segment) >= 4:
            count += 1
            if count > MAX_SCANS:
                raise UnreadableImageError(f"more than {MAX_SCANS} scans, each of which costs a pass over the picture")
            first, last, low = (*segment[-3:-1], segment[-1] & 15) if progressive else (0, 63, 0)
            for component in segment[1:-3:2][:4]:
                if component in precision and first <= last <= 63:
                    precision[component][first : last + 1] = [low] * (last + 1 - first)
    if end is not None and any(missing for coefficients in precision.values() for missing in coefficients):
        raise UnreadableImageError("cut off: scans of its picture are missing, though an end marker follows")
    return Scans(end, count > 1 or progressive or len(precision) > 3)


def _markers(content: bytes) -> np.ndarray:
    """Places of what may be a marker: neither a stuffed 0xFF of a scan's data nor one that stands alone in them."""
    data = np.frombuffer(content, np.uint8)
    places = np.flatnonzero(data[:-1] == 0xFF)
    code = data[places + 1]
    return places[(code > 1) & (code != 0xFF) & ((code < 0xD0) | (code > 0xD8))]


def check_whole(content: bytes, pixels: np.ndarray, decode: Callable[[bytes], np.ndarray]) -> None:
    """Refuse a JPEG whose data end before its picture does.

    Args:
        content: the file.
        pixels: of it, uint8 (h, w, 3), by any decoder.
        decode: decodes a file, here the same one twice; Pillow's keeps libjpeg's warnings of the other data to itself.

    Raises:
        UnreadableImageError: as `read_scans`; also where its data end early.
    """
    scans = read_scans(content)
    # Where data are missing all is grey up to the last pixel (its colour may run in from a block before).
    corner = float(pixels[-1, -1].astype(np.float64) @ np.array([0.299, 0.587, 0.114]))
    if scans.end is None or not (scans.doubtful or abs(corner - GREY) <= NEAR_GREY):
        return
    if not np.array_equal(decode(content[: scans.end] + FILLER + content[scans.end :]), decode(content)):
        raise UnreadableImageError(ENDS_EARLY)
