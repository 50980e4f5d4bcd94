"""TFRecord files of tf.train.Example, written without TensorFlow.

A worker process that only cuts tiles would pay about five seconds for importing TensorFlow, so the two formats are
written here: the record's frame (length, masked CRC-32C, payload, masked CRC-32C) and the protocol buffer message
Example. TensorFlow reads the files; it checks both checksums of every record.
"""

import os
import struct
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

import google_crc32c
import numpy as np

from melano_tf.errors import InputError

Feature = bytes | str | int | float

PLACE = ("offset", "length", "crc")  # columns of a table of images: where one stands in its file, its CRC-32C
HEAD_BYTES = 12  # a record's length (8) and that length's checksum (4) stand before its payload


def masked_crc(data: bytes) -> bytes:
    """The checksum as TFRecord stores it: rotated by 15 bits, a constant added, little endian."""
    crc = google_crc32c.value(data)
    return struct.pack("<I", (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF)


def _varint(value: int) -> bytes:
    """A base-128 varint; negative numbers as their 64-bit two's complement."""
    value &= 0xFFFFFFFFFFFFFFFF
    result = bytearray()
    while value >= 0x80:
        result.append(value & 0x7F | 0x80)
        value >>= 7
    result.append(value)
    return bytes(result)


def message_field(number: int, content: bytes) -> bytes:
    """A length-delimited field of a protocol buffer message."""
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _feature(value: Feature) -> bytes:
    """tf.train.Feature with one value: bytes and text (1), floats as float32 (2), whole numbers (3)."""
    if isinstance(value, str | bytes):
        return message_field(1, message_field(1, value.encode() if isinstance(value, str) else value))
    if isinstance(value, bool | int | np.integer):
        return message_field(3, message_field(1, _varint(int(value))))
    return message_field(2, message_field(1, struct.pack("<f", value)))


def example(features: Mapping[str, Feature]) -> bytes:
    """A serialised tf.train.Example with one value a feature, in the order given."""
    entries = (
        message_field(1, message_field(1, name.encode()) + message_field(2, _feature(value)))
        for name, value in features.items()
    )
    return message_field(1, b"".join(entries))


def append_image(file: BinaryIO, features: Mapping[str, Feature], name: str, image: bytes) -> tuple[int, int, int]:
    """Append one Example whose last feature is an encoded image.

    Args:
        file: open for binary writing.
        features: the other features.
        name: the image's feature name.
        image: its encoded bytes.

    Returns:
        `PLACE` of the image's bytes in the file, so that it can be read, and checked, without its record.
    """
    payload = example({**features, name: image})
    head = struct.pack("<Q", len(payload))
    start = file.tell()
    file.write(head + masked_crc(head) + payload + masked_crc(payload))
    # The last feature's bytes end the message.
    return start + HEAD_BYTES + len(payload) - len(image), len(image), google_crc32c.value(image)


def slide_files(folder: Path, slide_id: str) -> tuple[Path, Path, Path]:
    """A slide's record file, table and outcome in a store."""
    folder = Path(folder)
    return folder / f"{slide_id}.tfrecord", folder / f"{slide_id}.tiles.parquet", folder / f"{slide_id}.json"


def read_jpegs(folder: Path, slide_id: str, places: Iterable[Sequence[int]]) -> list[bytes]:
    """Some of a slide's JPEGs by their places (`PLACE`) in its record file.

    Raises:
        InputError: the record file is missing, shorter than its table says, or not what was written.
    """
    path = slide_files(folder, slide_id)[0]
    try:
        handle = os.open(path, os.O_RDONLY)
    except OSError as error:
        raise InputError(f"{path}: {os.strerror(error.errno or 0)}; run the tiling step again") from None
    try:
        return [_read_jpeg(handle, path, *map(int, place)) for place in places]
    finally:
        os.close(handle)


def _read_jpeg(handle: int, path: Path, offset: int, length: int, crc: int) -> bytes:
    jpeg = os.pread(handle, length, offset)
    if len(jpeg) != length:
        raise InputError(f"{path}: shorter than its table says; run the tiling step again")
    if google_crc32c.value(jpeg) != crc:
        raise InputError(
            f"{path}: the tile at byte {offset} is not what was written (bit rot?); remove the file, and give the "
            "same command again"
        )
    return jpeg
