"""What readers wrote about a run's cases: notes/<reader>.csv, one line a note, appended and flushed at once.

A file is only ever appended to: a note that was changed is a further line, and the last one counts. Each line is one
short write at the end of the file under a lock, so that several processes, and a kill, lose none that was confirmed.
What a full disk left of a line is taken back; what a loss of power left of one is closed before the next.

A note names its case, and what was in that case's file: in a run's folder other slides or images may take the former
ones' names.
"""

import csv
import fcntl
import io
import os
import re
import time
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import pandas as pd

from melano_tf.errors import InputError
from melano_tf.runs.atomic_files import sync_folder
from melano_tf.runs.file_integrity import read_frame

FOLDER = "notes"
OPEN, BLIND = "open", "blind"
VERDICTS = ("agree", "disagree", "unsure")
READER = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._-]{0,39}")
MOST_TEXT = 4000


@dataclass(frozen=True)
class Note:
    """One line of a reader's file.

    Attributes:
        time: when it was written, ISO 8601 with the zone.
        reader: who.
        mode: "open" (saw the model's answer and the label) or "blind".
        case: slide or image.
        verdict: open: agree, disagree, unsure or ""; blind: the class that the reader called, or unsure.
        text: free words.
        model: open: the model whose answer was shown, else "".
        called: open: what that model called, else "".
        seed: blind: of the order in which cases were given, else "".
        content: the beginning of the checksum of the case's file, "" where that is not known; `append` writes it.
    """

    time: str
    reader: str
    mode: str
    case: str
    verdict: str
    text: str = ""
    model: str = ""
    called: str = ""
    seed: str = ""
    content: str = ""


COLUMNS = tuple(field.name for field in fields(Note))
HEADER = f"{','.join(COLUMNS)}\n".encode()


def checked_reader(name: str) -> str:
    """A reader's name as it can name a file.

    Raises:
        InputError: it cannot.
    """
    name = " ".join(name.split())
    if not READER.fullmatch(name) or name.endswith("."):
        raise InputError(
            "a reader's name has 1 to 40 letters, digits, spaces, dots, dashes, and begins with a letter or digit"
        )
    return name


def notes_file(folder: Path, reader: str) -> Path:
    """Where a reader's notes on a run lie.

    Raises:
        InputError: the name cannot name a file.
    """
    return Path(folder) / FOLDER / f"{checked_reader(reader)}.csv"


def now() -> str:
    """The time as notes give it."""
    return time.strftime("%Y-%m-%dT%H:%M:%S%z")


def append(folder: Path, note: Note) -> Path:
    """Append a note to its reader's file; when this returns it is on the disk.

    Raises:
        InputError: the reader's name cannot name a file, or the file cannot be written.
    """
    path = notes_file(folder, note.reader)
    cells = {**asdict(note), "reader": checked_reader(note.reader), "text": note.text[:MOST_TEXT]}
    cells["content"] = note.content or case_contents(folder).get(note.case, "")
    try:
        path.parent.mkdir(exist_ok=True)
        handle = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror or error}); the note was not kept") from None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        found = os.pread(handle, os.fstat(handle).st_size, 0)
        if HEADER.startswith(found):  # a new file, or one in whose first line a machine lost its power
            os.ftruncate(handle, 0)
            found = b""
        line = io.StringIO()
        csv.DictWriter(line, COLUMNS, lineterminator="\r\n").writerow(cells)  # so that a lone "\r" is quoted, too
        own = line.getvalue().removesuffix("\r\n").encode() + b"\n"
        try:
            _write(handle, (_closing(found) if found else HEADER) + own)
            if not found:
                sync_folder(path.parent)
                sync_folder(path.parent.parent)
        except OSError:
            os.ftruncate(handle, len(found))  # half a line would take those after it into its text
            raise
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror or error}); the note was not kept") from None
    finally:
        os.close(handle)
    return path


def _write(handle: int, content: bytes) -> None:
    """Have this at the end of a file, and on the disk."""
    while content:
        content = content[os.write(handle, content) :]
    os.fsync(handle)


def _closing(content: bytes) -> bytes:
    """What ends the last line of a file, where a machine lost its power within it; b"" where it is whole."""
    # One more line is a row of its own, unless a text that was begun takes it in.
    *_, last = csv.reader(io.StringIO(content.decode("utf-8", "replace") + "\nend", newline=""))
    if last != ["end"]:
        return b'"\n'
    return b"" if content.endswith(b"\n") else b"\n"


def read_notes(folder: Path) -> pd.DataFrame:
    """All notes on a run, of all readers, in the order of their files and lines; lines that are no notes are left out.

    Returns:
        Columns as `Note`, all text; what an earlier version wrote has no `content`.
    """
    rows: list[dict[str, str]] = []
    for path in sorted((Path(folder) / FOLDER).glob("*.csv")):
        try:
            content = path.read_bytes().decode("utf-8", "replace")  # line ends inside a text stay what they are
        except OSError:
            continue
        lines = list(csv.reader(io.StringIO(content, newline="")))
        head = lines[0] if lines else []
        # Of a file that an earlier version began the later lines are longer than its head.
        names = COLUMNS if tuple(head) == COLUMNS[: len(head)] else head
        for cells in lines[1:]:
            row = dict(zip(names, cells, strict=False))
            if row.get("case") and row.get("mode") in (OPEN, BLIND):
                rows.append({name: row.get(name) or "" for name in COLUMNS} | {"reader": path.stem})
    return pd.DataFrame(rows, columns=list(COLUMNS))


def last_notes(notes: pd.DataFrame) -> pd.DataFrame:
    """The last note of each reader, mode and case: what counts."""
    return notes.drop_duplicates(["reader", "mode", "case"], keep="last").reset_index(drop=True)


def case_contents(folder: Path) -> dict[str, str]:
    """{case: the beginning of its file's checksum}, of the run's present cohort; {} of a run that keeps none."""
    table = Path(folder) / "audit" / "cases.parquet"
    if not table.is_file():
        return {}
    try:
        cases = read_frame(table)
        return dict(zip(cases["case"].astype(str), cases["content"].astype(str).str[:16], strict=True))
    except (InputError, KeyError):
        return {}


def of_cohort(folder: Path, notes: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The notes on the run's present cohort, and those on another one's cases; what does not say counts as the run's.

    Args:
        folder: the run's.
        notes: as `read_notes` gives them.
    """
    known = case_contents(folder)
    other = (notes["content"] != "") & (notes["case"].map(known).fillna("") != notes["content"]) & bool(known)
    return notes[~other].reset_index(drop=True), notes[other].reset_index(drop=True)
