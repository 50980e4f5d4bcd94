"""TFRecord files of tf.train.Example, written without TensorFlow.

A worker process that only cuts tiles would pay about five seconds for importing TensorFlow, so the two formats are
written here: the record's frame (length, masked CRC-32C, payload, masked CRC-32C) and the protocol buffer message
Example. TensorFlow reads the files; it checks both checksums of every record.
"""

import functools
import os
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np

from melano_tf.errors import InputError

Feature = bytes | str | int | float

POLYNOMIAL = 0x82F63B78  # Castagnoli, bits reversed
BLOCK = 1024
HEAD_BYTES = 12  # a record's length (8) and that length's checksum (4) stand before its payload


@functools.cache
def _byte_table() -> np.ndarray:
    """CRC of each single byte, uint32 (256,)."""
    table = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = np.where(table & 1, (table >> 1) ^ np.uint32(POLYNOMIAL), table >> 1).astype(np.uint32)
    return table


@functools.cache
def _block_table() -> np.ndarray:
    """What byte b at place i of a block adds to the block's CRC, uint32 (BLOCK, 256)."""
    table = np.empty((BLOCK, 256), np.uint32)
    table[-1] = row = _byte_table()
    for place in range(BLOCK - 2, -1, -1):
        row = (row >> 8) ^ _byte_table()[row & 0xFF]
        table[place] = row
    return table


@functools.cache
def _shift_tables() -> list[list[int]]:
    """For each of a CRC's four bytes: what it becomes after a block of zeros has passed."""
    # A CRC that meets zeros behaves like its bytes standing at the start of that block.
    return [[int(value) for value in _block_table()[byte]] for byte in range(4)]


def crc32c(data: bytes) -> int:
    """CRC-32C (Castagnoli) of `data`.

    The checksum is linear over bits: each byte's part is looked up by its place in a block of 1024 bytes, the parts
    are combined by exclusive or, and the blocks are chained; about 100 MB/s where a loop over bytes has 5.
    """
    if len(data) < 4:
        crc = 0xFFFFFFFF
        for byte in data:
            crc = (crc >> 8) ^ int(_byte_table()[(crc ^ byte) & 0xFF])
        return crc ^ 0xFFFFFFFF
    blocks = -(-len(data) // BLOCK)
    padded = np.zeros(blocks * BLOCK, np.uint8)
    start = len(padded) - len(data)  # zeros before the data leave a CRC of zero as it is
    padded[start:] = np.frombuffer(data, np.uint8)
    padded[start : start + 4] ^= 0xFF  # the start value 0xFFFFFFFF
    parts = np.bitwise_xor.reduce(_block_table()[np.arange(BLOCK), padded.reshape(blocks, BLOCK)], axis=1)
    zero, one, two, three = _shift_tables()
    crc = 0
    for part in parts.tolist():
        crc = part ^ zero[crc & 0xFF] ^ one[crc >> 8 & 0xFF] ^ two[crc >> 16 & 0xFF] ^ three[crc >> 24]
    return crc ^ 0xFFFFFFFF


def masked_crc(data: bytes) -> bytes:
    """The checksum as TFRecord stores it: rotated by 15 bits, a constant added, little endian."""
    crc = crc32c(data)
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


def append_image(file: BinaryIO, features: Mapping[str, Feature], name: str, image: bytes) -> tuple[int, int]:
    """Append one Example whose last feature is an encoded image.

    Args:
        file: open for binary writing.
        features: the other features.
        name: the image's feature name.
        image: its encoded bytes.

    Returns:
        (offset, length) of the image's bytes in the file, so that it can be read without its record.
    """
    payload = example({**features, name: image})
    head = struct.pack("<Q", len(payload))
    start = file.tell()
    file.write(head + masked_crc(head) + payload + masked_crc(payload))
    # The last feature's bytes end the message.
    return start + HEAD_BYTES + len(payload) - len(image), len(image)


def slide_files(folder: Path, slide_id: str) -> tuple[Path, Path, Path]:
    """A slide's record file, table and outcome in a store."""
    folder = Path(folder)
    return folder / f"{slide_id}.tfrecord", folder / f"{slide_id}.tiles.parquet", folder / f"{slide_id}.json"


def read_jpegs(folder: Path, slide_id: str, offsets: Sequence[int], lengths: Sequence[int]) -> list[bytes]:
    """Some of a slide's JPEGs by their places in its record file.

    Raises:
        InputError: the record file is missing, or shorter than its table says.
    """
    path = slide_files(folder, slide_id)[0]
    try:
        handle = os.open(path, os.O_RDONLY)
    except OSError as error:
        raise InputError(f"{path}: {os.strerror(error.errno or 0)}; run the tiling step again") from None
    try:
        jpegs = [os.pread(handle, length, offset) for offset, length in zip(offsets, lengths, strict=True)]
    finally:
        os.close(handle)
    if any(len(jpeg) != length for jpeg, length in zip(jpegs, lengths, strict=True)):
        raise InputError(f"{path}: shorter than its table says; run the tiling step again")
    return jpegs
