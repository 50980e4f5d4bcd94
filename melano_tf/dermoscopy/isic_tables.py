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
from melano_tf.metadata_fields import BY_NAME, MetadataField, choice_parser, finite_number
from melano_tf.specs import load_spec

SPECS = ("isic2018", "isic2019", "isic2020")
EMPTY = frozenset({"", "na", "n/a", "nan", "null", "none"})  # how tools write a cell without a value
SUFFIXES = (".jpg", ".jpeg", ".png")
SHOWN = 20  # rows that are named for one kind of fault


@dataclass
class Table:
    """One table as read.

    Attributes:
        path: the file.
        cells: one row an image, index = row as a spreadsheet counts (the header is row 1), columns by the description's
            names. Text: str or None; number: float64, NaN where empty; choice: its translation, or None ("unknown" of
            metadata) where empty; flag: float64 0, 1 or NaN. Beside each choice stands `<name>_written`, as it stood in
            the file.
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
    """One value of a field of metadata as a person may write it, in the words of the record table.

    Args:
        column: name of the field; see `metadata_fields`.
        written: what was given; empty or None means unknown. Words of the common vocabulary are always understood.
        spec: the description whose spellings are understood as well.

    Returns:
        A number (NaN where unknown), or a word of the field.

    Raises:
        InputError: not a valid value; says what is.
    """
    text = pd.Series(["" if written is None else str(written).strip()], dtype=object)
    values, wrong = _parse(column, text, _field_column(BY_NAME[column]), spec)
    if wrong:
        raise InputError(wrong[0][1])
    return values.iloc[0]


def _names(header: Any) -> str:
    return ", ".join(sorted(filter(None, header))) or "an empty header"


def _columns(description: Mapping[str, Any], spec: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The table's columns, those of its one-hot code included; a table that holds metadata may hold any field."""
    flags = {
        label: {"headers": [label], "dtype": "flag", "required": True, "filled": True}
        for label in spec.get(description.get("one_hot", ""), {})
    }
    columns = {name: dict(column) for name, column in description["columns"].items()}
    if not columns.keys().isdisjoint(BY_NAME):
        columns |= {name: {**_field_column(one), **columns.get(name, {})} for name, one in BY_NAME.items()}
    return {**columns, **flags}


def _field_column(one: MetadataField) -> dict[str, Any]:
    return {"headers": one.headers or (one.name,), "dtype": one.dtype, "field": one}


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
    one: MetadataField | None = column.get("field")
    parsers: dict[str, Callable[[str], Any]] = {"image": _image, "text": str, "flag": _flag}
    if one is not None:
        parse: Callable[[str], Any] = one.parser(spec.get(one.key, {}))
    elif column["dtype"] == "choice":
        parse = choice_parser(spec.get(column["values"], {}))
    else:
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
    numbers = column["dtype"] in ("number", "flag")
    empty = one.missing if one is not None else math.nan if numbers else None
    dtype = "float64" if numbers else object
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


def _flag(cell: str) -> float:
    value = finite_number(cell)
    if value not in (0, 1):
        raise ValueError("is neither 0 nor 1")
    return value


def count_faults(faults: Sequence[str]) -> str:
    """ "one fault", or how many lines of faults there are."""
    return "one fault" if len(faults) == 1 else f"{len(faults)} faults"
