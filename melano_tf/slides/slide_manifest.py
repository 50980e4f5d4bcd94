"""A cohort's manifest: a CSV with one row a slide, validated against the data set's description in `data_specs/`.

The description (a dict as `melano_tf.specs.load_spec` gives it) has `manifest: columns:`, of each column its `dtype`
("text", "file" or "number") and optionally `required`, `unique`, `file_name`, `allowed` (a list, or the name of a list
or mapping of the description), `minimum`, `maximum` and `unit`; `labels` (label: index) and `positive` (a label). No
column or label is known to this module.
"""

import difflib
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from melano_tf.csv_rows import read_rows
from melano_tf.errors import InputError
from melano_tf.runs.atomic_files import file_sha256

DTYPES = ("text", "file", "number")
LONGEST_NAME = 200  # bytes; file systems allow 255, and suffixes are added
FORBIDDEN = '/\\:*?"<>|'


@dataclass(frozen=True)
class _Rule:
    """One check of a column's cells: whether a cell (text, never empty) holds, and what to say where it does not."""

    name: str
    holds: Callable[[str], bool]
    words: Callable[[str], str]


def label_index(spec: Mapping[str, Any]) -> dict[str, int]:
    """Index of each label, in the order of a model's outputs.

    Raises:
        InputError: the description has no labels, or their indices are not 0 to n - 1.
    """
    labels = {str(label): index for label, index in (spec.get("labels") or {}).items()}
    if not labels or sorted(labels.values()) != list(range(len(labels))):
        raise InputError(f"data_specs/{spec.get('name')}.yaml: `labels` must map each label to an index 0, 1, 2, …")
    return dict(sorted(labels.items(), key=lambda item: item[1]))


def read_manifest(path: Path | str, spec: Mapping[str, Any]) -> pd.DataFrame:
    """The slides of a cohort, checked.

    Args:
        path: a CSV in UTF-8 as `csv_rows.read_rows` reads it, its header in row 1.
        spec: description of the data set.

    Returns:
        One row a slide in the file's order, index 0 to n - 1, with the description's columns in its order: text as str;
        files as absolute paths (str; relative ones count from the CSV's folder; links are not followed), numbers as
        float64. A cell that may be empty and is so is None (text, files) or NaN (numbers). Columns that the description
        does not know are left out and listed in `.attrs["ignored_columns"]`.

    Raises:
        InputError: all faults at once, each with its row as a spreadsheet counts (the header is row 1).
    """
    path = Path(path).absolute()
    columns = _columns(spec)
    header, cells = read_rows(path)
    faults = _header_faults(header, columns)
    frame, row_faults = _frame(header, cells)
    present = {name: column for name, column in columns.items() if name in frame}
    found = row_faults + _cell_faults(frame, present, spec, path.parent)
    faults += [words for _, words in sorted(found, key=lambda fault: fault[0])]
    if not len(frame):
        faults.append("no slides: the file has no rows below the header; write one row a slide")
    if faults:
        count = "one fault" if len(faults) == 1 else f"{len(faults)} faults"
        raise InputError.of(f"{path}: {count} (rows as a spreadsheet counts them, the header is row 1)", faults)
    result = pd.DataFrame(
        {name: _typed(frame.get(name), column, path.parent, len(frame)) for name, column in columns.items()}
    )
    result.attrs["ignored_columns"] = [name for name in header if name and name not in columns]
    return result


def _columns(spec: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    columns = dict((spec.get("manifest") or {}).get("columns") or {})
    wrong = [f"{name}: {column.get('dtype')}" for name, column in columns.items() if column.get("dtype") not in DTYPES]
    if wrong or not columns:
        raise InputError(
            f"data_specs/{spec.get('name')}.yaml: `manifest: columns:` is missing or has a dtype that is none of "
            f"{', '.join(DTYPES)} ({', '.join(wrong) or 'no columns'})"
        )
    return columns


def _header_faults(header: list[str], columns: Mapping[str, Mapping[str, Any]]) -> list[str]:
    twice = sorted({name for name in header if name in columns and header.count(name) > 1})
    faults = [f"column {name!r} stands {header.count(name)} times in the header" for name in twice]
    strange = {name.casefold(): name for name in header if name and name not in columns}
    for name, column in columns.items():
        if name in header:
            continue
        # A misspelt optional column would otherwise be ignored without a word.
        close = difflib.get_close_matches(name, strange, n=1, cutoff=0.8)
        if close:
            faults.append(f"column {name!r} is missing; is {strange[close[0]]!r} meant? Then rename it to {name!r}")
        elif column.get("required"):
            faults.append(f"column {name!r} is missing (found: {', '.join(filter(None, header))})")
    return faults


def _frame(header: list[str], cells: list[tuple[int, list[str]]]) -> tuple[pd.DataFrame, list[tuple[int, str]]]:
    """All cells as text, indexed by row number; of a column that stands twice the first."""
    faults = []
    width = len(header)
    for number, row in cells:
        if any(row[width:]):
            faults.append(
                (
                    number,
                    f"row {number}: {len(row)} cells under {width} columns; put a cell with a separator in quotes",
                )
            )
    columns: dict[str, list[str]] = {}
    for i, name in enumerate(header):
        if name and name not in columns:
            columns[name] = [row[i] if i < len(row) else "" for _, row in cells]
    return pd.DataFrame(columns, index=[number for number, _ in cells], dtype="str"), faults


def _cell_faults(
    frame: pd.DataFrame, columns: Mapping[str, Mapping[str, Any]], spec: Mapping[str, Any], folder: Path
) -> list[tuple[int, str]]:
    """What is wrong with the cells: (row number, words), found by a pandera schema made from the description."""
    import pandera.pandas as pa

    rules = {name: _rules(column, spec, folder) for name, column in columns.items()}
    schema = pa.DataFrameSchema({name: _schema_column(columns[name], rules[name]) for name in columns})
    try:
        schema.validate(frame, lazy=True)
    except pa.errors.SchemaErrors as error:
        cases = error.failure_cases
    else:
        return []
    faults = []
    for case in cases.to_dict("records"):
        number, name, cell = int(case["index"]), str(case["column"]), str(case["failure_case"])
        if case["check"] == "required":
            words = f"{name} is empty"
        elif case["check"] == "unique":
            same = frame[name].str.casefold() == cell.casefold()
            words = f"{name} {cell!r} stands in row {frame.index[same][0]} already (capitals do not count)"
        else:
            words = next(rule for rule in rules[name] if rule.name == case["check"]).words(cell)
            words = f"{name} {cell!r} {words}"
        faults.append((number, f"row {number}: {words}"))
    return faults


def _schema_column(column: Mapping[str, Any], rules: Iterable[_Rule]) -> Any:
    import pandera.pandas as pa

    checks = [pa.Check(_unless_empty(rule.holds), element_wise=True, error=rule.name) for rule in rules]
    if column.get("required"):
        checks.append(pa.Check(bool, element_wise=True, error="required"))
    if column.get("unique"):
        # Without regard to case, because some file systems have none.
        checks.append(pa.Check(lambda cells: ~cells.str.casefold().duplicated() | (cells == ""), error="unique"))
    return pa.Column(checks=checks)


def _unless_empty(holds: Callable[[str], bool]) -> Callable[[str], bool]:
    return lambda cell: not cell or holds(cell)


def _rules(column: Mapping[str, Any], spec: Mapping[str, Any], folder: Path) -> list[_Rule]:
    """The rules that one column of the description asks for."""
    rules = []
    if column["dtype"] == "number":
        low, high = float(column.get("minimum", -math.inf)), float(column.get("maximum", math.inf))
        unit = f" {column['unit']}" if "unit" in column else ""
        rules += [
            _Rule(
                "number", lambda cell: _float(cell) is not None, lambda _: "is not a number (write 0.25, with a point)"
            ),
            _Rule(
                "range",
                lambda cell: (value := _float(cell)) is None or low <= value <= high,
                lambda _: f"lies outside of {low:g} to {high:g}{unit}",
            ),
        ]
    if column["dtype"] == "file":
        rules.append(_Rule("file", lambda cell: _is_file(folder / cell), lambda cell: f"is no file ({folder / cell})"))
    if column.get("file_name"):
        rules.append(_Rule("file_name", lambda cell: not _name_fault(cell), _name_fault))
    if "allowed" in column:
        named = column["allowed"]
        allowed = [str(value) for value in (spec[named] if isinstance(named, str) else named)]
        rules.append(_Rule("allowed", lambda cell: cell in allowed, lambda cell: _allowed_words(cell, allowed)))
    return rules


def _float(cell: str) -> float | None:
    try:
        value = float(cell)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def _name_fault(cell: str) -> str:
    """Why a cell cannot name a file, or an empty text."""
    bad = sorted({letter for letter in cell if letter in FORBIDDEN or not letter.isprintable()})
    if bad:
        return (
            f"cannot name a file: without {' '.join(letter if letter in FORBIDDEN else repr(letter) for letter in bad)}"
        )
    if cell.startswith(".") or cell.endswith("."):
        return "cannot name a file: it must not start or end with a point"
    if len(cell.encode()) > LONGEST_NAME:
        return f"cannot name a file: {len(cell.encode())} bytes, at most {LONGEST_NAME}"
    return ""


def _allowed_words(cell: str, allowed: list[str]) -> str:
    folded = {value.casefold(): value for value in allowed}
    close = difflib.get_close_matches(cell.casefold(), folded, n=1, cutoff=0.8)
    return f"is none of {', '.join(allowed)}" + (f"; write {folded[close[0]]!r}" if close else "")


def _typed(cells: pd.Series | None, column: Mapping[str, Any], folder: Path, count: int) -> pd.Series:
    """One column of the result; `cells` are valid, or None where an optional column is missing."""
    values = [""] * count if cells is None else cells.tolist()
    if column["dtype"] == "number":
        return pd.Series([float(value) if value else math.nan for value in values], dtype="float64")
    if column["dtype"] == "file":
        # Not resolved: formats of several files are found by the link's own folder and name.
        values = [str(folder / value) if value else None for value in values]
    else:
        values = [value or None for value in values]
    return pd.Series(values, dtype="str" if column.get("required") else "object")


def same_file_groups(manifest: pd.DataFrame) -> list[list[str]]:
    """Slides that are one file under several names: links to it, or copies of it (equal size and SHA-256).

    Args:
        manifest: with the columns slide_id and path, as `read_manifest` gives it.

    Returns:
        One list of slide_ids for each such file, of two or more, all in the manifest's order.

    Raises:
        InputError: a file cannot be read.
    """
    by_file: dict[Path, list[str]] = {}
    for slide_id, path in zip(manifest["slide_id"], manifest["path"], strict=True):
        by_file.setdefault(Path(path).resolve(), []).append(slide_id)
    groups: dict[tuple[int, str], list[str]] = {}
    try:
        sizes = {path: path.stat().st_size for path in by_file}
        counts = pd.Series(sizes.values(), dtype="int64").value_counts()
        for path, slide_ids in by_file.items():
            # Only files of equal size can be copies; the others need not be read.
            content = file_sha256(path) if counts[sizes[path]] > 1 else str(path)
            groups.setdefault((sizes[path], content), []).extend(slide_ids)
    except OSError as error:
        raise InputError(f"{error.filename}: cannot be read ({error.strerror})") from None
    order = {slide_id: i for i, slide_id in enumerate(manifest["slide_id"])}
    return [sorted(slide_ids, key=order.__getitem__) for slide_ids in groups.values() if len(slide_ids) > 1]
