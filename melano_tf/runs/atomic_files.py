"""Atomic files: whole under their name or not there, flushed before they are renamed."""

import contextlib
import errno
import hashlib
import json
import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from melano_tf.csv_rows import harmless
from melano_tf.runs import journal

if TYPE_CHECKING:
    import pandas as pd


@contextlib.contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; flush and rename it there when the block ends well.

    A file under its final name is therefore always whole. On an exception the temporary file is removed.

    Raises:
        InputError: in one of this program's folders stands a file of that name which it did not make.
    """
    path = Path(path)
    journal.check_replaceable(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # The suffix stays last, because writers (OpenCV, Keras) choose the format by it. Processes of two containers, or
    # hosts, that share a folder may have one number.
    temporary = path.with_name(f".{path.stem}.{uuid.uuid4().hex[:8]}{journal.HALF}{path.suffix}")
    journal.claim(temporary, *([] if path.exists() else [path]))
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
        sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Have a folder's names on the disk: a rename is lost with the machine's power where only the file was flushed."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # file systems that know no such thing
            raise
    finally:
        os.close(handle)


def write_json(path: Path, content: Any) -> None:
    """Write `content` as indented JSON, atomically."""
    text = json.dumps(content, indent=2, ensure_ascii=False, default=str) + "\n"
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_csv(path: Path, frame: "pd.DataFrame", index: bool = False, float_format: str | None = None) -> None:
    """Write a table that people open in a spreadsheet, atomically: text that would be calculated there begins with ',
    in cells, names of columns and the index; numbers are numbers, with as many digits as `float_format` says. What a
    program reads back is not written so."""
    shown = frame.reset_index() if index else frame
    with atomic(path) as temporary:
        shown.map(harmless).rename(columns=harmless).to_csv(
            temporary, index=False, lineterminator="\n", encoding="utf-8", float_format=float_format
        )


def read_json(path: Path) -> Any:
    """The content of a JSON file."""
    return json.loads(Path(path).read_text(encoding="utf-8"))


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal, read in pieces."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
