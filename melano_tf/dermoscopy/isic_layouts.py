"""ISIC's tables as files: recognised by their headers, read and checked against `data_specs/isic20??.yaml`.

Nothing here knows a year: which headers a column may have, what may stand in it and what that means comes from the
description. Faults are collected, not raised, so that all tables of a set are reported in one error.
"""

import difflib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from melano_tf.csv_rows import read_rows
from melano_tf.errors import InputError
from melano_tf.specs import load_spec

SPECS = ("isic2018", "isic2019", "isic2020")
# One vocabulary for all three years, in the order of a one-hot code.
SITES = (
    "head/neck",
    "torso",
    "upper extremity",
    "lower extremity",
    "palms/soles",
    "oral/genital",
    "unknown",
)
SEXES = ("female", "male", "unknown")
VOCABULARIES = {"site": "sites", "sex": "sexes"}
OLDEST = 120.0  # years
EMPTY = frozenset({"", "na", "n/a", "nan", "null", "none"})  # how tools write a cell without a value
SUFFIXES = (".jpg", ".jpeg", ".png")
SHOWN = 20  # rows that are named for one kind of fault


@dataclass
class Table:
    """One table as read.

    Attributes:
        path: the file.
        cells: one row an image, index = row as a spreadsheet counts (the header is row 1), columns by the description's
            names. Text: str or None; age: float64, NaN where empty; choice: its translation, "unknown" or None where
            empty; flag: float64 0, 1 or NaN. Beside each choice stands `<name>_written`, as it stood in the file.
        one_hot: flags by label, or None where the table has none.
        ignored: headers that the description does not know.
        faults: all that is wrong, one line each.
    """

    path: Path
    cells: pd.DataFrame
    one_hot: pd.DataFrame | None = None
    ignored: tuple[str, ...] = ()
    faults: list[str] = field(default_factory=list)


def recognise(path: Path | str) -> tuple[str, str]:
    """Which official table a file is, by its header: (name of the description, name of the table).

    Raises:
        InputError: it cannot be read, or no description has a table with such columns; the nearest is named.
    """
    header = {name.casefold() for name in read_rows(Path(path))[0]}
    found = []
    for name in SPECS:
        spec = load_spec(name)
        for table, description in spec["tables"].items():
            columns = _columns(description, spec)
            present = [not header.isdisjoint(_headers(column, key)) for key, column in columns.items()]
            needed = [here for here, column in zip(present, columns.values(), strict=True) if column.get("required")]
            found.append((all(needed), sum(present), -sum(not here for here in needed), name, table))
    complete, known, _, name, table = max(found)
    if complete:
        return name, table
    _, known, _, name, table = max(found, key=lambda entry: entry[1:3])
    spec = load_spec(name)
    missing = [
        "/".join(_headers(column, key, folded=False))
        for key, column in _columns(spec["tables"][table], spec).items()
        if column.get("required") and header.isdisjoint(_headers(column, key))
    ]
    if not known:
        raise InputError(f"{path}: none of the ISIC 2018, 2019 or 2020 tables has such columns ({_names(header)})")
    raise InputError(
        f"{path}: nearest to the {table} table of {name}, but without its column{'s' * (len(missing) > 1)} "
        f"{', '.join(missing)} (found: {_names(header)})"
    )


def read_table(path: Path | str, spec: Mapping[str, Any], table: str) -> Table:
    """Read one table of a data set's description.

    What separates the columns is found as in every table: `csv_rows.delimiter_of`.

    Args:
        path: the file, UTF-8, header in row 1.
        spec: the description, as `load_spec` gives it.
        table: name of the table in it.

    Raises:
        InputError: the file cannot be read as a table at all. Everything else is in `Table.faults`.
    """
    path = Path(path)
    header, rows = read_rows(path)
    description = spec["tables"][table]
    columns = _columns(description, spec)
    found, faults = _find_columns(header, columns)
    known = set(found.values())
    result = Table(path, pd.DataFrame(index=pd.Index([], dtype="int64")), faults=[f"{path.name}: {f}" for f in faults])
    result.ignored = tuple(name for i, name in enumerate(header) if name and i not in known)
    if not rows:
        result.faults.append(f"{path.name}: no rows below the header")
    wide = [number for number, row in rows if any(row[len(header) :])]
    result.faults += _shorten(path, [(n, f"more cells than the header's {len(header)} columns") for n in wide])
    numbers = pd.Index([number for number, _ in rows], dtype="int64")
    cells: dict[str, pd.Series] = {}
    for name, position in found.items():
        text = pd.Series([row[position] if position < len(row) else "" for _, row in rows], index=numbers, dtype=object)
        values, wrong = _parse(header[position], text, columns[name], spec)
        cells[name] = values
        if columns[name]["dtype"] == "choice":
            cells[f"{name}_written"] = text.map(lambda cell: None if _empty(cell) else cell).astype(object)
        result.faults += _shorten(path, wrong)
    result.cells = pd.DataFrame(cells, index=numbers)
    if "one_hot" in description:
        labels = [label for label in spec[description["one_hot"]] if label in result.cells]
        result.one_hot = result.cells[labels].astype("float64")
        result.cells = result.cells.drop(columns=labels)
        several = result.one_hot.index[(result.one_hot.sum(axis=1) > 1)]
        result.faults += _shorten(path, [(n, "more than one class is set; exactly one must be 1") for n in several])
    return result


def parse_value(column: str, written: str | float | None, spec: Mapping[str, Any]) -> Any:
    """One value of `age`, `sex` or `site` as a person may write it, in the words of the record table.

    Args:
        column: "age", "sex" or "site".
        written: what was given; empty or None means unknown. Words of the common vocabulary are always understood.
        spec: the description whose spellings are understood as well.

    Returns:
        Age in years (NaN where unknown), or a word of SEXES or SITES.

    Raises:
        InputError: not a valid value; says what is.
    """
    dtype = "age" if column == "age" else "choice"
    text = pd.Series(["" if written is None else str(written).strip()], dtype=object)
    values, wrong = _parse(column, text, {"dtype": dtype, "values": VOCABULARIES.get(column, "")}, spec)
    if wrong:
        raise InputError(wrong[0][1])
    return values.iloc[0]


def _names(header: Any) -> str:
    return ", ".join(sorted(filter(None, header))) or "an empty header"


def _columns(description: Mapping[str, Any], spec: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The table's columns, those of its one-hot code included."""
    flags = {
        label: {"headers": [label], "dtype": "flag", "required": True, "filled": True}
        for label in spec.get(description.get("one_hot", ""), {})
    }
    return {**description["columns"], **flags}


def _headers(column: Mapping[str, Any], name: str, folded: bool = True) -> list[str]:
    headers = [str(header) for header in column.get("headers", [name])]
    return [header.casefold() for header in headers] if folded else headers


def _find_columns(header: Sequence[str], columns: Mapping[str, Mapping[str, Any]]) -> tuple[dict[str, int], list[str]]:
    """Position of each column that is there, and what is wrong with the header."""
    folded = [name.casefold() for name in header]
    found: dict[str, int] = {}
    faults = []
    for name, column in columns.items():
        headers = _headers(column, name)
        positions = [i for i, text in enumerate(folded) if text in headers]
        words = " or ".join(repr(text) for text in _headers(column, name, folded=False))
        if positions:
            found[name] = positions[0]
        if len(positions) > 1:
            faults.append(f"column {words} stands {len(positions)} times in the header")
        elif not positions and column.get("required"):
            close = difflib.get_close_matches(headers[0], folded, n=1, cutoff=0.75)
            hint = f"; is {header[folded.index(close[0])]!r} meant? Then rename it" if close else ""
            faults.append(f"column {words} is missing (found: {', '.join(filter(None, header))}){hint}")
    return found, faults


def _empty(cell: str) -> bool:
    return cell.casefold() in EMPTY


def _shorten(path: Path, faults: Sequence[tuple[int, str]]) -> list[str]:
    """Lines with rows; of one table and kind the first SHOWN rows, and how many more there are."""
    lines = [f"{path.name}, row {number}: {words}" for number, words in faults[:SHOWN]]
    more = len(faults) - SHOWN
    return [*lines, f"{path.name}: {more} more rows with such a fault"] if more > 0 else lines


def _parse(
    header: str, text: pd.Series, column: Mapping[str, Any], spec: Mapping[str, Any]
) -> tuple[pd.Series, list[tuple[int, str]]]:
    """A column's values and its faults (row, words). A cell with a fault has no value."""
    parsers: dict[str, Callable[[str], Any]] = {
        "image": _image,
        "text": str,
        "age": _age,
        "flag": _flag,
        "choice": _choice(spec.get(column.get("values", ""), {}), column.get("values", "")),
    }
    parse = parsers[column["dtype"]]
    parsed: dict[str, Any] = {}
    wrong: dict[str, str] = {}
    # Each distinct cell once: there are 33,126 rows and eight sites.
    for cell in dict.fromkeys(text):
        if _empty(cell):
            continue
        try:
            parsed[cell] = parse(cell)
        except ValueError as error:
            wrong[cell] = f"{header} {cell!r} {error}"
    empty_word = "unknown" if column.get("values") in VOCABULARIES.values() else None
    empty = math.nan if column["dtype"] in ("age", "flag") else empty_word
    dtype = "float64" if column["dtype"] in ("age", "flag") else object
    values = pd.Series([parsed.get(cell, empty) for cell in text], index=text.index, dtype=dtype)
    numbered = list(zip(text.index.tolist(), text.tolist(), values.tolist(), strict=True))
    faults = [(number, wrong[cell]) for number, cell, _ in numbered if cell in wrong]
    if column.get("filled"):
        faults += [(number, f"{header} is empty") for number, cell, _ in numbered if _empty(cell)]
    if column.get("unique"):
        rows: dict[Any, int] = {}
        for number, _, value in numbered:
            if value is not None and rows.setdefault(value, number) != number:
                faults.append((number, f"{header} {value!r} stands in row {rows[value]} already; one row an image"))
    return values, sorted(faults)


def _image(cell: str) -> str:
    name = cell[: -len(Path(cell).suffix)] if Path(cell).suffix.casefold() in SUFFIXES else cell
    if "/" in name or "\\" in name or not name.isprintable() or name.startswith("."):
        raise ValueError("is not the name of an image (ISIC_0000000, without a folder)")
    return name


def _number(cell: str) -> float:
    try:
        value = float(cell)
    except ValueError:
        raise ValueError("is not a number") from None
    if not math.isfinite(value):
        raise ValueError("is not a finite number")
    return value


def _age(cell: str) -> float:
    if cell.casefold() == "unknown":
        return math.nan
    value = _number(cell)
    if not 0 <= value <= OLDEST:
        raise ValueError(f"lies outside of 0 to {OLDEST:g} years; leave it empty where it is not known")
    return value


def _flag(cell: str) -> float:
    value = _number(cell)
    if value not in (0, 1):
        raise ValueError("is neither 0 nor 1")
    return value


def _choice(allowed: Mapping[str, str], vocabulary: str) -> Callable[[str], str]:
    folded = {str(word).casefold(): str(meaning) for word, meaning in allowed.items()}
    if vocabulary == "sites":
        folded = {**{site: site for site in SITES}, **folded}

    def parse(cell: str) -> str:
        key = " ".join(cell.casefold().split())
        if key in folded:
            return folded[key]
        close = difflib.get_close_matches(key, folded, n=1, cutoff=0.7)
        hint = f"; is {close[0]!r} meant?" if close else ""
        raise ValueError(f"is none of {', '.join(folded)}{hint}")

    return parse


def count_faults(faults: Sequence[str]) -> str:
    """ "one fault", or how many lines of faults there are."""
    return "one fault" if len(faults) == 1 else f"{len(faults)} faults"
