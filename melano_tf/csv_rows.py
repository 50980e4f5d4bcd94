"""A user's table as rows of text: one way to read a CSV, and to find what separates its columns."""

import csv
import io
from pathlib import Path
from typing import Any

from melano_tf.errors import InputError, line_of

DELIMITERS = ",;\t|"
FORMULA = ("=", "+", "-", "@", "\t", "\r")  # a spreadsheet calculates what begins so, whoever wrote it


def harmless(cell: Any) -> Any:
    """A cell of a table that people open in a spreadsheet: text that would be taken for a formula begins with '."""
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(FORMULA) else cell


def delimiter_of(text: str) -> str:
    """What separates the columns of a CSV: of comma, semicolon, tab and bar the one that parts its header most often.

    Signs inside quotes do not count; a header of one column, or a tie, goes to the first in that order.
    """

    def columns(delimiter: str) -> int:
        try:
            return len(next(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True), []))
        except csv.Error:
            return 0

    return max(DELIMITERS, key=columns)


def read_rows(path: Path) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """The header of a CSV in UTF-8 (a byte order mark is accepted), and each row that is not blank with its number.

    Returns:
        The header's cells, and (row as a spreadsheet counts: the header is row 1, cells); all cells stripped.

    Raises:
        InputError: it cannot be read, is no UTF-8 text or no CSV, or its first row is empty.
    """
    try:
        content = Path(path).read_bytes()
        text = content.decode("utf-8-sig")
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from None
    except UnicodeDecodeError as error:
        hint = "an Excel file, not UTF-8 text" if content.startswith(b"PK") else "not UTF-8 text"
        raise InputError(
            f"{path}: {hint}: save it as 'CSV UTF-8 (comma separated)' (byte {error.start} cannot be read)"
        ) from None
    try:
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter_of(text), strict=True)
        rows = [[cell.strip() for cell in row] for row in reader]
    except csv.Error as error:
        raise InputError(f"{path}: not a CSV file ({line_of(error)}); look for a quote that is not closed") from None
    if not rows or not any(rows[0]):
        raise InputError(f"{path}: the first row is empty; it must name the columns")
    return rows[0], [(number, row) for number, row in enumerate(rows[1:], start=2) if any(row)]
