"""Damage done to real files and records by a seeded generator."""

import contextlib
import copy
import io
import json
import random
import struct
import zipfile
from pathlib import Path
from typing import Any

import tifffile

ODD: tuple[Any, ...] = (
    None,
    0,
    -1,
    1e308,
    float("nan"),
    "",
    "=1+1",
    "x" * 300,
    [],
    {},
    [[]],
    {"a": None},
    True,
    [1, "a"],
)


def torn(content: bytes, draw: random.Random) -> bytes:
    """The same file cut short, with bits turned, a piece doubled or zeroed, or other bytes at its start."""
    data, at = bytearray(content), draw.randrange(max(1, len(content)))
    kind = draw.randrange(5)
    if kind == 0:
        return bytes(data[:at])
    if kind == 1:
        for _ in range(draw.randint(1, 8)):
            place = draw.randrange(max(1, len(data)))
            data[place : place + 1] = bytes([draw.randrange(256)])
    elif kind == 2:
        data[at:at] = data[at : at + draw.randint(1, 200)]
    elif kind == 3:
        size = draw.randint(1, 64)
        data[at : at + size] = bytes(len(data[at : at + size]))
    else:
        data[:4] = draw.randbytes(4)
    return bytes(data)


def bent(content: Any, draw: random.Random) -> Any:
    """The same JSON with one node, somewhere, replaced by something else, or one name gone."""
    whole = copy.deepcopy(content)
    places: list[tuple[Any, Any]] = []

    def walk(node: Any) -> None:
        for key in list(node) if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ():
            places.append((node, key))
            walk(node[key])

    walk(whole)
    if not places or draw.random() < 0.05:
        return copy.deepcopy(draw.choice(ODD))
    node, key = draw.choice(places)
    if isinstance(node, dict) and draw.random() < 0.3:
        del node[key]
    else:
        node[key] = copy.deepcopy(draw.choice(ODD))
    return whole


def damaged_json(content: bytes, draw: random.Random) -> bytes:
    """A damaged JSON file: torn, or whole and of another shape."""
    if draw.random() < 0.4:
        return torn(content, draw)
    return json.dumps(bent(json.loads(content), draw)).encode()


ODD_CELLS = (
    *("", " ", "nan", "inf", "-1", "0", "1e400", "=1+1", "é" * 50, '"', "a\nb", "../../x", "x" * 5000, "１２", "true"),
    *("\x00", "\ufeff", "‮abc", "NULL", "1,5", "/", "~", "P1 ", "p1"),
)


def odd_table(content: bytes, draw: random.Random) -> bytes:
    """A damaged CSV: torn, or with a cell, a row, a column or its writing changed."""
    kind = draw.randrange(8)
    if kind < 3:
        return torn(content, draw)
    lines = content.decode().splitlines()
    row = draw.randrange(len(lines))
    if kind == 3:
        lines.insert(draw.randrange(len(lines) + 1), lines[row])
    elif kind == 4:
        del lines[row]
    elif kind == 5:
        return "\n".join(lines).replace(",", draw.choice(";\t|")).encode(draw.choice(("utf-8", "utf-16", "latin-1")))
    else:
        cells = lines[row].split(",")
        cells[draw.randrange(len(cells))] = draw.choice(ODD_CELLS)
        lines[row] = ",".join(cells)
    return ("\n".join(lines) + "\n").encode("utf-8", "surrogatepass")


ODD_WORDS = (b"", b"nan", b"inf", b"-1", b"1e308", b"1e999", b"<", b"&x;", b"0x10", b"9" * 400, b"Polygon", b'"')


def odd_text(content: bytes, draw: random.Random) -> bytes:
    """A damaged text with quoted values: torn, or with one of the values replaced."""
    parts = content.split(b'"')
    if draw.random() < 0.4 or len(parts) < 3:
        return torn(content, draw)
    parts[draw.randrange(1, len(parts), 2)] = draw.choice(ODD_WORDS)
    return b'"'.join(parts)


ODD_SIZES = (0, 1, 7, 255, 65_535)


def odd_picture(content: bytes, draw: random.Random) -> bytes:
    """A damaged JPEG or PNG: torn once or twice, with another size in its header, or with a piece of it many times."""
    kind, data = draw.randrange(6), bytearray(content)
    if kind < 3:
        return torn(content, draw)
    if kind == 3:
        return torn(torn(content, draw), draw)
    if kind == 4:
        frame = max(data.find(b"\xff\xc0"), data.find(b"\xff\xc2"))
        for place in (16, 20) if data[:4] == b"\x89PNG" else (frame + 5, frame + 7):
            if draw.random() < 0.7:
                data[place : place + 2] = draw.choice(ODD_SIZES).to_bytes(2, "big")
        return bytes(data)
    at = max(data.rfind(b"\xff\xda"), data.rfind(b"IDAT") - 4, 0)
    end = len(data) - (12 if data[:4] == b"\x89PNG" else 2)
    return bytes(data[:at] + data[at:end] * draw.choice((2, 60, 2000)) + data[end:])


TAGS = (
    *("ImageWidth", "ImageLength", "TileWidth", "TileLength", "BitsPerSample", "Compression", "SamplesPerPixel"),
    *(
        "PhotometricInterpretation",
        "PlanarConfiguration",
        "TileOffsets",
        "TileByteCounts",
        "XResolution",
        "YResolution",
    ),
    *("ResolutionUnit", "NewSubfileType", "JPEGTables", "SampleFormat"),
)
ODD_TAGS = (0, 1, 2, 3, 5, 7, 8, 16, 255, 33_003, 33_005, 65_535, 400_000, 2**27, 2**31 - 1)


def odd_tiff(path: Path, draw: random.Random) -> None:
    """Damage a tiled TIFF: torn, or with one to three tags of another value."""
    if draw.random() < 0.4:
        path.write_bytes(torn(path.read_bytes(), draw))
        return
    with tifffile.TiffFile(path, mode="r+") as file:
        pages = list(file.pages)
        for _ in range(draw.randint(1, 3)):
            tags = draw.choice(pages).tags
            name = draw.choice([name for name in TAGS if name in tags])
            tag, value = tags[name], draw.choice(ODD_TAGS)
            with contextlib.suppress(ValueError, struct.error, OverflowError, TypeError):
                if isinstance(tag.value, bytes):
                    tag.overwrite(torn(tag.value, draw))
                elif isinstance(tag.value, tuple):
                    values = list(tag.value)
                    values[draw.randrange(len(values))] = value
                    tag.overwrite(tuple(values))
                else:
                    tag.overwrite(value)


def odd_archive(content: bytes, draw: random.Random) -> bytes:
    """A damaged zip (a `.keras` or `.npz` file): torn, or one of its files torn or, if it is JSON, bent."""
    if draw.random() < 0.4:
        return torn(content, draw)
    with zipfile.ZipFile(io.BytesIO(content)) as whole:
        files = {name: whole.read(name) for name in whole.namelist()}
    name = draw.choice(sorted(files))
    files[name] = (damaged_json if name.endswith(".json") else torn)(files[name], draw)
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as other:
        for one, held in files.items():
            if one != name or draw.random() < 0.9:
                other.writestr(one, held)
    return made.getvalue()
