"""Rows of `.npy` files, read one at a time; shards of a cache, of which each row that is read is compared.

A file that is mapped into memory counts as this process's memory with all that was ever read of it: of a cache of
33,000 images 7 GiB after one epoch.

Beside a shard lies a JSON file, written last, with its size, the CRC-32C of each row and a digest of itself. Without
it, or where it or the shard's size is not what was written, the shard counts as unfinished. Of two runs that make the
same shard at once the first one's stands: a trunk's features differ in their last bits from one machine to another, and
one's file would not be what the other's JSON says.
"""

import contextlib
import fcntl
import functools
import math
import os
import re
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from tokenize import TokenError
from typing import Any

import google_crc32c
import numpy as np

from melano_tf.errors import InputError, line_of
from melano_tf.runs import journal
from melano_tf.runs.atomic_files import atomic, write_json
from melano_tf.runs.file_integrity import mapping
from melano_tf.runs.settings_digest import digest

SHARD_NAME = re.compile(r"[0-9a-f]{16}\.npy")
LOCK = ".shards.lock"
OPEN_FILES = 128
"""Of one cache at a time; a process may open some hundreds."""


class NpyRows:
    """A `.npy` file that is open; for several threads.

    Args:
        path: the file.
        remedy: what whoever finds it damaged should remove.
        crc: CRC-32C of each row, with which what is read is compared; None: nothing is.

    Attributes:
        shape: of the whole array.
        dtype: of its numbers.

    Raises:
        InputError: it is missing or damaged.
    """

    def __init__(self, path: Path, remedy: str, crc: Sequence[int] | None = None) -> None:
        self.path, self.remedy, self.crc = Path(path), remedy, crc
        try:
            array = np.load(path, mmap_mode="r")  # its head, and whether the file is as long as that says
            self.shape, self.dtype, self._start = array.shape, array.dtype, int(array.offset)
            self._file = self.path.open("rb", buffering=0)
        except (OSError, ValueError, EOFError, TokenError) as error:  # the last of a head that NumPy parses as Python
            raise self._fault(f"cannot be read ({line_of(error)})") from None

    def read(self, place: int, into: np.ndarray) -> None:
        """Read the numbers from `place` times the length of `into` on: row `place`, where that is one row.

        Raises:
            InputError: the file does not reach so far any more, or the row is not what was written.
        """
        try:
            count = os.preadv(self._file.fileno(), [into.data], self._start + place * into.nbytes)
        except OSError as error:
            raise self._fault(f"cannot be read ({line_of(error)})") from None
        if count < into.nbytes:
            raise self._fault("cannot be read (it was cut off)")
        if self.crc is not None and google_crc32c.value(into) != self.crc[place]:
            raise self._fault(f"row {place} is not what was written (bit rot?)")

    def _fault(self, why: str) -> InputError:
        return InputError(f"{self.path}: {why}; remove {self.remedy}, and give the command again")


def write_shard(path: Path, array: np.ndarray, facts: Mapping[str, Any], axes: int = 1) -> dict[str, Any]:
    """Write an array as `.npy`, and beside it what its readers check, unless another run did meanwhile; returns what
    `shard_facts` then gives.

    Args:
        path: of the file, "<name>.npy"; "<name>.json" stands beside it.
        array: C-contiguous.
        facts: what else is known of it, as JSON holds it.
        axes: of so many first axes each place is a row.
    """
    with _one_writer(path):
        if (found := shard_facts(path)) is not None:
            return found
        with atomic(path) as temporary, temporary.open("wb") as file:
            np.save(file, array)
        rows = array.reshape(-1, *array.shape[axes:])
        kept = {**facts, "shape": list(array.shape), "bytes": path.stat().st_size}
        kept["crc"] = [google_crc32c.value(row) for row in rows]
        write_json(path.with_suffix(".json"), {**kept, "digest": digest(kept)})
        return kept


@contextlib.contextmanager
def _one_writer(path: Path) -> Iterator[None]:
    """No other process writes this shard meanwhile: the kernel's lock of a byte of a file beside it, which ends with
    its process. Where a file system has no locks, two that write it at once are not kept apart."""
    place = path.parent / LOCK
    journal.claim(place)
    with place.open("ab") as file:
        with contextlib.suppress(OSError):
            fcntl.lockf(file, fcntl.LOCK_EX, 1, zlib.crc32(path.name.encode()))
        yield


def shard_facts(path: Path) -> dict[str, Any] | None:
    """What stands beside a shard: the facts that were given, `shape`, `bytes`, and `crc` of each row.

    None where the shard is not finished: a file is missing, or plainly not as it was written. Its rows are not read.
    """
    facts = mapping(path.with_suffix(".json"))
    told = facts.pop("digest", None)
    try:
        whole = told == digest(facts) and path.stat().st_size == facts.get("bytes")
    except OSError:
        return None
    return facts if whole else None


def without_checksums(path: Path) -> bool:
    """Whether a shard is an earlier version's, which kept none: it is made anew by whoever asks for it next."""
    facts = mapping(path.with_suffix(".json"))
    return bool(facts) and "digest" not in facts


def open_shards(paths: Sequence[Path], facts: Sequence[Mapping[str, Any]]) -> Callable[[int], NpyRows]:
    """(number of a shard) -> its rows, which are compared when they are read; `OPEN_FILES` of them open at a time."""
    crcs = [one["crc"] for one in facts]
    return functools.lru_cache(maxsize=OPEN_FILES)(lambda number: NpyRows(paths[number], "it", crcs[number]))


def shard_fault(path: Path) -> str:
    """What is wrong with a shard, of which all is read; "" where nothing is."""
    facts = shard_facts(path)
    if facts is None:
        return "is missing, or it or its .json is not as it was written; the run's next session makes it anew"
    try:
        rows = NpyRows(path, "it", facts["crc"])
        size = math.prod(facts["shape"]) * rows.dtype.itemsize
        into = np.empty(size // max(1, len(facts["crc"])), np.uint8)
        for place in range(len(facts["crc"])):
            rows.read(place, into)
    except InputError as error:
        return str(error).removeprefix(f"{path}: ")
    return ""
