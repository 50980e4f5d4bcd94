"""Checksums of what a run reads, remembered in its inputs.json."""

import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from melano_tf.errors import InputError
from melano_tf.runs.atomic_files import file_sha256, write_json
from melano_tf.runs.file_integrity import mapping


def file_checksums(
    folder: Path, files: Iterable[Path], progress: Callable[[int], object] = lambda done: None
) -> dict[str, str]:
    """SHA-256 of each input file, by path; remembered in inputs.json while a file's size and time stay the same.

    That file holds these files alone: others of an earlier session are none of what the run now stands on.

    Args:
        folder: the run's.
        files: the input files.
        progress: called with the number of bytes of each file when it is done.

    Raises:
        InputError: a file could not be read to its end.
    """
    path = folder / "inputs.json"
    files = list(files)
    before, asked = mapping(path), frozenset(map(str, files))
    known = {file: facts for file, facts in before.items() if file in asked}
    written, unsaved = time.monotonic(), len(known) < len(before)
    try:
        for file in files:
            facts = Path(file).stat()
            state = {"bytes": facts.st_size, "modified_ns": facts.st_mtime_ns}
            if not _remembered(known.get(str(file)), state):
                known[str(file)] = {**state, "sha256": _checksum(file)}
                unsaved = True
            # Not at each file: there may be tens of thousands.
            if unsaved and time.monotonic() - written > 5:
                write_json(path, known)
                written, unsaved = time.monotonic(), False
            progress(facts.st_size)
    finally:
        if unsaved:
            write_json(path, known)
    return {str(file): known[str(file)]["sha256"] for file in files}


def _checksum(file: Path) -> str:
    """A file's SHA-256. Raises InputError: a bad disk, or a share that went away, while it was read."""
    try:
        return file_sha256(file)
    except OSError as error:
        raise InputError(
            f"{file}: {error.strerror or error} while it was read for its checksum; give the same command again once "
            "the file can be read, or leave it out of the table"
        ) from error


def _remembered(facts: Any, state: Mapping[str, int]) -> bool:
    """Whether a file's checksum is known, in the state in which it is; what is no whole entry tells nothing."""
    return isinstance(facts, dict) and isinstance(facts.get("sha256"), str) and state.items() <= facts.items()
