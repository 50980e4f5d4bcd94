"""What became of a slide that was to be cut: a JSON file beside its tiles, written last, believed if all is whole."""

import errno
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from melano_tf.errors import InputError
from melano_tf.pipelines.tfrecords import slide_files
from melano_tf.pipelines.tile_store_settings import Grid, StoreSettings, slide_key
from melano_tf.pipelines.wanted_tiles import Wanted, wanted_too
from melano_tf.runs.atomic_files import read_json, write_json
from melano_tf.runs.file_integrity import read_frame
from melano_tf.slides.annotations import AS_DRAWN, AnnotationSettings


@dataclass(frozen=True)
class SlideOutcome:
    """What became of one slide: a row of `slides.csv`.

    Attributes:
        slide_id: the slide.
        status: "done"; "empty" where no tile holds enough tissue; "failed" where none could be stored.
        reason: why it is empty or failed, else "".
        attempts: how often it was tried, each time with a new handle.
        grid_positions: positions of the grid before the tissue filter.
        tiles: tiles stored.
        bytes: size of the record file.
        seconds: time that the last attempt took.
        notes: what a person should know of it: a doubtful mpp, what was passed over in its annotation; else "".
        outlines: count and area of the outlines of each class, else "".
        reader: what decoded its pixels (`Slide.reader`); "" where it was not opened.
    """

    slide_id: str
    status: Literal["done", "empty", "failed"]
    reason: str = ""
    attempts: int = 1
    grid_positions: int = 0
    tiles: int = 0
    bytes: int = 0
    seconds: float = 0.0
    notes: str = ""
    outlines: str = ""
    reader: str = ""


def finished(
    row: Mapping[str, Any],
    grid: Grid,
    store: StoreSettings,
    folder: Path,
    annotation: AnnotationSettings = AS_DRAWN,
) -> SlideOutcome | None:
    """The outcome of a slide of which all that is wanted stands under the same key, its files whole; else None.

    A failed slide counts as unfinished, so that the next command tries it again.
    """
    found = standing(row, grid, store, folder, annotation)
    if found is None:
        return None
    outcome, stored = found
    return outcome if wanted_too(row.get("wanted"), stored) == stored else None


def standing(
    row: Mapping[str, Any], grid: Grid, store: StoreSettings, folder: Path, annotation: AnnotationSettings
) -> tuple[SlideOutcome, Wanted | None] | None:
    """The outcome of a slide that stands under the same key, its files whole, and what was wanted of it; else None."""
    record, table, state = slide_files(folder, str(row["slide_id"]))
    try:
        content = read_json(state)
        key, stored = content.pop("key"), content.pop("wanted", None)
        outcome = SlideOutcome(**content)
        whole = table.is_file() and record.stat().st_size == outcome.bytes
        fits = whole and outcome.status != "failed" and (stored is None) == (row.get("wanted") is None)
        if not fits or key != slide_key(row, grid, store, annotation):
            return None
        read_frame(table)  # a damaged one costs its slide
        return outcome, stored
    except (OSError, ValueError, TypeError, KeyError, InputError):
        return None


def failure(slide_id: str, reason: str, attempts: int, seconds: float) -> SlideOutcome:
    """The outcome of a slide of which nothing is stored."""
    return SlideOutcome(slide_id, "failed", reason, attempts, seconds=round(seconds, 3))


def raise_if_store_unwritable(error: Exception, folder: Path) -> None:
    """Tell a fault of the store, which no slide would escape, from one of the slide.

    Raises:
        InputError: the disk is full or read-only.
    """
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
        raise InputError(
            f"{folder}: tiles cannot be written ({os.strerror(error.errno)}); make room or choose another --out and "
            "give the same command again: finished slides are kept"
        ) from error


def write_outcome(path: Path, key: str, outcome: SlideOutcome, wanted: Wanted | None = None) -> None:
    """Write what became of a slide, under which key ("": not finished), and which of its tiles were wanted."""
    try:
        write_json(path, {"key": key, **asdict(outcome), "wanted": wanted})
    except OSError as error:
        raise_if_store_unwritable(error, path.parent)
        raise
