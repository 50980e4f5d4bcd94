"""Dermoscopy image files: found by name, judged by their header before anything is decoded, read as RGB.

A file is what its first bytes say, not what its name says. EXIF orientation is reported and never applied, in training
and serving alike.
"""

import contextlib
import os
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from melano_tf.dermoscopy.isic_tables import SUFFIXES
from melano_tf.dermoscopy.jpeg_scans import SOF, check_whole, read_scans
from melano_tf.dermoscopy.jpeg_scans import UnreadableImageError as UnreadableImageError  # files are read from here
from melano_tf.errors import InputError

if TYPE_CHECKING:
    from PIL.Image import Image

MAX_PIXELS = 50_000_000  # the largest image of the ISIC challenges has 24 million
HIGHEST_MAX_PIXELS = 89_478_485  # above it Pillow, which decodes, raises its own alarm
DOWNSAMPLED = "_downsampled"
PNG = b"\x89PNG\r\n\x1a\n"
PNG_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
EXIF_ORIENTATION = 274


@dataclass(frozen=True)
class ImageSettings:
    """How image files are judged.

    Attributes:
        check: "header" reads the first bytes of every file and refuses what is no JPEG or PNG or too large; "none"
            trusts the names.
        max_pixels: width x height above this is refused before decoding.
        threads: files read at once.
    """

    check: str = "header"
    max_pixels: int = MAX_PIXELS
    threads: int = 4

    def __post_init__(self) -> None:
        if self.check not in ("header", "none"):
            raise InputError(f"check {self.check!r}: 'header' or 'none'")
        if not 1 <= self.max_pixels <= HIGHEST_MAX_PIXELS:
            raise InputError(f"max_pixels {self.max_pixels:,}: 1 to {HIGHEST_MAX_PIXELS:,}")
        if self.threads < 1:
            raise InputError(f"threads {self.threads}: at least 1")


@dataclass(frozen=True)
class ImageHeader:
    """What a file says of itself: kind ("jpeg" or "png"), size in pixels, channels, bits a channel, EXIF orientation.

    An orientation of 1 means upright, or that nothing is said.
    """

    kind: str
    width: int
    height: int
    channels: int
    bits: int
    orientation: int = 1


def read_header(path: Path | str, max_pixels: int = MAX_PIXELS) -> ImageHeader:
    """The header of a JPEG or PNG file, without decoding it.

    Args:
        path: the file.
        max_pixels: width x height above this is refused, so that a small file cannot fill the memory.

    Raises:
        UnreadableImageError: not a JPEG or PNG file, cut off within its header, or too large.
    """
    try:
        with Path(path).open("rb") as file:
            start = file.read(len(PNG))
            if not start:
                raise UnreadableImageError("the file is empty")
            if start.startswith(PNG):
                header = _png_header(file)
            elif start.startswith(b"\xff\xd8"):
                file.seek(2)
                header = _jpeg_header(file)
            else:
                raise UnreadableImageError(f"neither a JPEG nor a PNG file (it starts with {start!r})")
    except OSError as error:
        raise UnreadableImageError(f"cannot be read ({error.strerror or error})") from None
    except (struct.error, IndexError):
        raise UnreadableImageError("cut off within its header") from None
    if header.width < 1 or header.height < 1:
        raise UnreadableImageError(f"its header says {header.width} x {header.height} px")
    if header.width * header.height > max_pixels:
        raise UnreadableImageError(
            f"{header.width} x {header.height} px are more than the limit of {max_pixels:,} px (max_pixels)"
        )
    return header


def read_image(path: Path | str, max_pixels: int = MAX_PIXELS, shrink_to: int | None = None) -> np.ndarray:
    """An image as RGB: greyscale is repeated, CMYK converted, 16 bits scaled to 8, transparency dropped.

    Args:
        path: a JPEG or PNG file.
        max_pixels: see `read_header`; at most HIGHEST_MAX_PIXELS.
        shrink_to: the result may be smaller than the file, but its shorter side is no shorter than this where the
            file's is not; saves time in decoding a JPEG.

    Returns:
        uint8 (height, width, 3).

    Raises:
        UnreadableImageError: see `read_header`; also where the pixels are damaged or cut off, or in too many scans.
    """
    from PIL import UnidentifiedImageError

    if max_pixels > HIGHEST_MAX_PIXELS:
        raise InputError(f"max_pixels {max_pixels:,}: at most {HIGHEST_MAX_PIXELS:,}")
    header = read_header(path, max_pixels)
    try:
        content = Path(path).read_bytes()
        if header.kind == "png":
            return pillow_pixels(content, shrink_to)
        read_scans(content)  # before anything is decoded
        pixels = pillow_pixels(content, shrink_to)
        check_whole(content, pixels, lambda other: pillow_pixels(other, shrink_to))
        return pixels
    except (OSError, UnidentifiedImageError) as error:
        raise UnreadableImageError(f"its pixels cannot be decoded ({_first_line(error)})") from None
    except (ValueError, SyntaxError, EOFError, struct.error, MemoryError) as error:
        raise UnreadableImageError(f"damaged ({_first_line(error)})") from None


def pillow_pixels(content: bytes, shrink_to: int | None) -> np.ndarray:
    """A JPEG's or PNG's pixels, uint8 (h, w, 3), by Pillow; a JPEG as small as libjpeg's own scales allow.

    Args:
        content: the file.
        shrink_to: pixels that each side keeps at least; None: as they are.
    """
    from PIL import Image

    # From memory, so that what was judged is what is decoded.
    with Image.open(BytesIO(content), formats=("JPEG", "PNG")) as image:
        if shrink_to is not None:
            image.draft(None, (shrink_to, shrink_to))
        image.load()
        return _rgb(image)


def _first_line(error: BaseException) -> str:
    lines = str(error).splitlines()
    return lines[0] if lines else type(error).__name__


def _rgb(image: "Image") -> np.ndarray:
    if image.mode.startswith("I"):  # 16-bit greyscale: Pillow's convert("RGB") would clip it to white
        grey = np.asarray(image).astype(np.float64) / 257.0
        return np.repeat(np.rint(grey).clip(0, 255).astype(np.uint8)[..., None], 3, axis=-1)
    return np.array(image.convert("RGB"))


def _png_header(file: BinaryIO) -> ImageHeader:
    read, seek = file.read, file.seek
    length, kind = struct.unpack(">I4s", read(8))
    if kind != b"IHDR" or length != 13:
        raise UnreadableImageError("damaged: its first chunk is not a PNG header")
    width, height, bits, colour = struct.unpack(">IIBB", read(13)[:10])
    seek(4, os.SEEK_CUR)
    orientation = 1
    while len(head := read(8)) == 8:
        length, kind = struct.unpack(">I4s", head)
        if kind in (b"IDAT", b"IEND"):
            break
        if kind == b"eXIf" and length < 1 << 16:
            orientation = _orientation(b"Exif\x00\x00" + read(length))
            length = 0
        seek(length + 4, os.SEEK_CUR)
    return ImageHeader("png", width, height, PNG_CHANNELS.get(colour, 0), bits, orientation)


def _jpeg_header(file: BinaryIO) -> ImageHeader:
    read, seek = file.read, file.seek
    orientation = 1
    while True:
        byte = read(1)[0]
        if byte != 0xFF:
            raise UnreadableImageError("damaged: no JPEG marker where one must be")
        while byte == 0xFF:
            byte = read(1)[0]
        if byte in (0x01, *range(0xD0, 0xD9)):  # markers without content
            continue
        (length,) = struct.unpack(">H", read(2))
        if byte in SOF:
            bits, height, width, channels = struct.unpack(">BHHB", read(6))
            return ImageHeader("jpeg", width, height, channels, bits, orientation)
        if byte in (0xD9, 0xDA) or length < 2:
            raise UnreadableImageError("damaged: a JPEG without a frame header")
        if byte == 0xE1 and orientation == 1:
            orientation = _orientation(read(length - 2))
        else:
            seek(length - 2, os.SEEK_CUR)


def _orientation(content: bytes) -> int:
    if not content.startswith(b"Exif\x00\x00"):
        return 1
    from PIL import Image

    exif = Image.Exif()
    with contextlib.suppress(Exception):  # a broken EXIF block says nothing; the pixels are not concerned
        exif.load(content)
        value = exif.get(EXIF_ORIENTATION, 1)
        return int(value) if value in range(1, 9) else 1
    return 1


def find_images(folders: Sequence[Path | str]) -> dict[str, Path]:
    """All image files of some folders by their name without suffix; subfolders are not entered.

    Raises:
        InputError: a folder is missing or holds no image, or two files have one name; all at once.
    """
    found: dict[str, Path] = {}
    faults = []
    for folder in dict.fromkeys(Path(folder) for folder in folders):
        if not folder.is_dir():
            faults.append(f"{folder}: no such folder")
            continue
        paths = (path for path in folder.iterdir() if _is_image_name(path) and path.is_file())
        files = sorted(paths, key=lambda path: path.name)  # in one folder that is their order, and found at once
        if not files:
            faults.append(f"{folder}: no .jpg, .jpeg or .png file in it{_where_images_are(folder)}")
        for path in files:
            if path.stem in found:
                faults.append(f"{path.stem}: two files, {found[path.stem]} and {path}; remove one")
            found.setdefault(path.stem, path)
    if faults:
        raise InputError.of("the images cannot be used:", faults)
    return found


def _is_image_name(path: Path) -> bool:
    return path.suffix.casefold() in SUFFIXES and not path.name.startswith(".")


def _where_images_are(folder: Path) -> str:
    # glob passes over a folder that may not be looked into.
    below = sorted(path for path in folder.iterdir() if path.is_dir() and any(map(_is_image_name, path.glob("*"))))
    names = ", ".join(path.name for path in below[:4])
    return f"; its folder{'s' * (len(below) > 1)} {names} would do: name each" if below else ""


def match_images(image_ids: Sequence[str], files: Mapping[str, Path]) -> Iterator[Path | None]:
    """The file of each image, or None. Copies of ISIC 2019 lack the ending `_downsampled` of the table, or have it."""
    known = set(image_ids)
    for image in image_ids:
        other = image.removesuffix(DOWNSAMPLED) if image.endswith(DOWNSAMPLED) else image + DOWNSAMPLED
        yield files.get(image) or (files.get(other) if other not in known else None)


def attach_images(
    image_ids: Sequence[str], named: Iterable[str], folders: Sequence[Path], settings: ImageSettings
) -> tuple[list[str | None], dict[str, Any]]:
    """The file of each image, and what was found in the folders.

    Args:
        image_ids: images that are wanted.
        named: all images that the tables name; other files are unlisted.
        folders: where the files are.
        settings: how they are judged.

    Returns:
        (path of each image, None where it is missing or unreadable; the fields of `isic_records.Findings` about files).

    Raises:
        InputError: see `find_images`; also where not one image has a file.
    """
    files = find_images(folders)
    paths = list(match_images(image_ids, files))
    used = set(match_images(sorted(named), files))
    findings: dict[str, Any] = {
        "images": len(files),
        "missing": tuple(image for image, path in zip(image_ids, paths, strict=True) if path is None),
        "unlisted": tuple(str(path) for path in files.values() if path not in used),
    }
    if image_ids and len(findings["missing"]) == len(image_ids):
        raise InputError(
            f"none of the {len(image_ids):,} images of the table is in {', '.join(map(str, folders))}; the table names "
            f"for example {image_ids[0]}, the folder holds for example {next(iter(files.values())).name}"
        )
    if settings.check == "none":
        return [None if path is None else str(path) for path in paths], findings
    headers, unreadable = _check_headers(
        {image: path for image, path in zip(image_ids, paths, strict=True) if path is not None}, settings
    )
    findings |= {
        "unreadable": tuple((str(path), why) for path, why in unreadable.values()),
        "headers": headers,
        "oriented": tuple(
            (str(path), headers[image].orientation)
            for image, path in zip(image_ids, paths, strict=True)
            if image in headers and headers[image].orientation != 1
        ),
    }
    return [str(path) if image in headers else None for image, path in zip(image_ids, paths, strict=True)], findings


def _check_headers(
    files: Mapping[str, Path], settings: ImageSettings
) -> tuple[dict[str, ImageHeader], dict[str, tuple[Path, str]]]:
    """Headers of readable files, and (file, why) of the others, by image."""

    def judge(path: Path) -> ImageHeader | str:
        try:
            return read_header(path, settings.max_pixels)
        except UnreadableImageError as error:
            return str(error)

    judged = dict(zip(files, map_threads(judge, list(files.values()), settings.threads), strict=True))
    headers = {image: result for image, result in judged.items() if isinstance(result, ImageHeader)}
    unreadable = {image: (files[image], result) for image, result in judged.items() if isinstance(result, str)}
    return headers, unreadable


def map_threads(function: Callable[[Any], Any], items: Sequence[Any], threads: int) -> list[Any]:
    """`function` of each item, in their order, several at once."""
    if threads == 1:
        return [function(item) for item in items]
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(function, items))


def images_at(path: Path) -> list[Path]:
    """The image, or the images of a folder by name.

    Raises:
        InputError: there is no such file, or no image in the folder.
    """
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise InputError(f"{path}: no such image or folder")
    found = sorted(file for file in path.iterdir() if _is_image_name(file))
    if not found:
        raise InputError(f"{path}: no .jpg, .jpeg or .png file in it{_where_images_are(path)}")
    return found


def passed_over(folder: Path, known: Sequence[Path] = ()) -> str:
    """What `images_at` leaves out of a folder, hidden files apart: "3 files (.bmp, .tif) and 1 folder", or "".

    Args:
        folder: of images.
        known: files and folders that are not counted.
    """
    place = folder.resolve()
    own = {path.name for path in known if path.parent.resolve() == place}
    left = [
        path for path in folder.iterdir() if not (_is_image_name(path) or path.name.startswith(".") or path.name in own)
    ]
    files = [path for path in left if not path.is_dir()]
    kinds = sorted({path.suffix.casefold() or "no ending" for path in files})
    parts = [
        f"{count} {noun}{'s' * (count > 1)}{more}"
        for count, noun, more in (
            (len(files), "file", f" ({', '.join(kinds[:5])}{', …' * (len(kinds) > 5)})"),
            (len(left) - len(files), "folder", ""),
        )
        if count
    ]
    return " and ".join(parts)
