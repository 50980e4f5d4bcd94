"""Published results as data: one row a cell, from `data_specs/published/<paper>.csv`."""

import math
from collections.abc import Hashable
from dataclasses import dataclass

import pandas as pd

from melano_tf.errors import InputError
from melano_tf.specs import spec_path

COLUMNS = ("table", "row", "column", "value", "std", "flag", "words")
FLAGS = ("printed", "inferred", "suspect")


@dataclass(frozen=True)
class Cell:
    """One published cell.

    Attributes:
        value: the number; NaN where the text has lost it or the paper has no such cell.
        std: its standard deviation over cohorts; NaN where none is printed.
        flag: "printed", "inferred" (from the running text), "suspect" (printed but implausible), or "" (no such cell).
    """

    value: float = math.nan
    std: float = math.nan
    flag: str = ""


def load_published(name: str) -> pd.DataFrame:
    """The published cells of a paper: columns `COLUMNS`, one row a cell, in the paper's order.

    Raises:
        InputError: no such paper, a missing column, an unknown flag, or a cell listed twice; every fault at once.
    """
    path = spec_path(f"published/{name}.csv")
    frame = pd.read_csv(path, dtype={"row": str, "column": str, "flag": str, "words": str}, encoding="utf-8")
    if missing := [column for column in COLUMNS if column not in frame]:
        raise InputError(f"{path}: columns {missing} are missing; expected {list(COLUMNS)}")
    faults = [
        f"row {position + 2}: flag {flag!r} is none of {', '.join(FLAGS)}"
        for position, flag in enumerate(frame["flag"])
        if flag not in FLAGS
    ]
    twice = frame.duplicated(["table", "row", "column"])
    faults += [
        f"row {position + 2}: the cell is listed before" for position in range(len(frame)) if twice.iloc[position]
    ]
    if faults:
        raise InputError.of(f"{path}:", faults)
    return frame.astype({"table": int, "value": float, "std": float})[list(COLUMNS)]


def table_of(published: pd.DataFrame, table: int) -> dict[Hashable, Cell]:
    """The cells of one table as {(row, column): Cell}, in the paper's order."""
    chosen = published[published["table"] == table]
    return {
        (row, column): Cell(float(value), float(std), str(flag))
        for row, column, value, std, flag in chosen[["row", "column", "value", "std", "flag"]].itertuples(index=False)
    }
