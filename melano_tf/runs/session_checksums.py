"""Checksums of a run's files, each read once a session; a bar shows the reading where it takes long."""

import contextlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from tqdm import tqdm

from melano_tf.runs.atomic_files import file_sha256

SHOWN_AFTER_S = 2.0  # seconds; most steps' files are read in less


class SessionChecksums:
    """SHA-256 of files, remembered while a file's size, time and place on the disk stay the same; never on the disk,
    so that each session sees what went bad since the last one."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, int, int, int], str] = {}

    def of(self, file: Path) -> str:
        """A file's checksum, in hexadecimal.

        Raises:
            OSError: it cannot be read.
        """
        state = _state(file)
        if state not in self._known:
            self._known[state] = file_sha256(file)
        return self._known[state]

    @contextlib.contextmanager
    def shown(self, files: Iterable[Path]) -> Iterator[Callable[[Path], str]]:
        """`of`, under a bar over the bytes of those files that are there and were not read yet."""
        there = [file for file in files if file.is_file()]
        unread = {file: file.stat().st_size for file in there if _state(file) not in self._known}
        total, later = sum(unread.values()), SHOWN_AFTER_S
        with tqdm(total=total, desc="checksums", unit="B", unit_scale=True, leave=False, delay=later) as bar:

            def of(file: Path) -> str:
                found = self.of(file)
                bar.update(unread.pop(file, 0))
                return found

            yield of


def _state(file: Path) -> tuple[str, int, int, int]:
    found = file.stat()
    return str(file), found.st_size, found.st_mtime_ns, found.st_ino
