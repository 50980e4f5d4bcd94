"""Tables of a run beside the published ones, as data: one row a cell (columns `COLUMNS`), and what a reader must know.

How they are laid out to be read stands in `reports.table_layout`, their files in `reports.table_files`.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from melano_tf.evaluation.binary_metrics import METRICS, mean_std
from melano_tf.evaluation.interval import Interval
from melano_tf.reports.published_numbers import Cell, table_of
from melano_tf.splits.validation_cohorts import Split

COLUMNS = (
    *("row", "column", "kind", "published_row", "published", "published_std", "flag"),
    *("ours", "ours_std", "defined", "cohorts"),
    *("low", "high", "level", "patients", "repeats", "undefined", "method"),
)
# For a paper that prints (SN + SPC)/2 under "AUC": our balanced accuracy stands beside it, our ROC AUC alone.
AUC_IS_BALANCED_ACCURACY: Mapping[str, str | None] = {"BACC": "AUC", "AUC": None}


@dataclass(frozen=True)
class Headline:
    """A cell that a reader looks for first: its row and column, and what it is in words."""

    row: str
    column: str
    words: str


@dataclass(frozen=True)
class Table:
    """A table: its cells, and what a reader must know.

    Attributes:
        title: as it is headed.
        frame: from `count_table`, `metric_table` or `interval_table`.
        notes: sentences on the data (phantoms or not, who tests); `notes_of` adds those on the cells themselves.
        words: what it shows, for a reader who was not there.
        models_down: laid out with one line a model, and "paper" and "ours" for each metric.
        unit: what the intervals count as independent: "patients" or "lesions".
        headlines: its cells that stand first in the report, in order; those that the run does not have are passed over.
        part: whose units those are: of the "test", or, of another part or of several, all that were "judged".
    """

    title: str
    frame: pd.DataFrame
    notes: tuple[str, ...] = ()
    words: str = ""
    models_down: bool = False
    unit: str = "patients"
    headlines: tuple[Headline, ...] = ()
    part: str = "judged"


def count_table(
    counts: Mapping[str, Mapping[str, int]], published: pd.DataFrame, table: int = 1, extra_rows: Sequence[str] = ()
) -> pd.DataFrame:
    """Counts beside published ones, as the paper's database description (Table 1).

    Args:
        counts: {column: {row: count}} with the published names of columns and rows; a row or column that the paper
            does not have is set after its own.
        published: from `load_published`.
        table: number of the published table.
        extra_rows: order of rows that the paper does not have (all others of `counts` follow as they come).
    """
    cells = table_of(published, table)
    columns = _ordered([str(c) for _, c in _keys(cells)], counts)
    rows = _ordered(
        [str(r) for r, _ in _keys(cells)], [*extra_rows, *(row for part in counts.values() for row in part)]
    )
    records = []
    for row in rows:
        for column in columns:
            cell = cells.get((row, column), Cell())
            count = counts.get(column, {}).get(row)
            ours = {} if count is None else {"ours": float(count), "defined": 1, "cohorts": 1}
            records.append(_record(row, column, "count", row, cell, **ours))
    return frame_of(records)


def metric_table(
    models: Mapping[str, Sequence[Mapping[str, float]]],
    published: pd.DataFrame,
    table: int,
    *,
    published_as: Mapping[str, str | None],
    metrics: Sequence[str] = METRICS,
    ddof: int = 0,
    intervals: Mapping[str, Mapping[str, Interval]] | None = None,
) -> pd.DataFrame:
    """Mean ± standard deviation over validation cohorts, beside a published table (spitzoid paper: Tables 2 to 4).

    Args:
        models: {model: metrics of each cohort}; a model goes by the published column's name, one that the paper
            does not have is set after its own, and one that was not run is simply not there.
        published: from `load_published`.
        table: number of the published table.
        published_as: the published row that one of our metrics stands beside, where the names differ; None: none.
            See `AUC_IS_BALANCED_ACCURACY`; {} where the paper's names mean what ours do.
        metrics: rows, in order.
        ddof: see `evaluation.binary_metrics.mean_std`.
        intervals: {model: intervals of the means by metric} from `binary_intervals.cohort_intervals`, or none.
    """
    cells = table_of(published, table)
    summaries = {model: mean_std(cohorts, ddof) for model, cohorts in models.items()}
    records = []
    for metric in metrics:
        for model in _ordered([str(c) for _, c in _keys(cells)], models):
            row = published_as.get(metric, metric)
            ours: dict[str, Any] = {}
            if found := summaries.get(model, {}).get(metric):
                ours = {"ours": found.mean, "ours_std": found.std, "defined": found.defined, "cohorts": found.cohorts}
                if around := (intervals or {}).get(model, {}).get(metric):
                    ours |= _interval_cells(around)
            records.append(_record(metric, model, "score", row, cells.get((row, model), Cell()), **ours))
    return frame_of(records)


def interval_table(
    models: Mapping[str, Mapping[str, Interval]],
    published: pd.DataFrame,
    table: int,
    *,
    published_as: Mapping[str, str | None],
    metrics: Sequence[str] = METRICS,
) -> pd.DataFrame:
    """Test results with their intervals, beside a published table (Table 5 of the spitzoid paper).

    Args:
        models: {model: intervals by metric} from `evaluation.binary_intervals.binary_intervals`.
        published, table, published_as, metrics: as for `metric_table`.
    """
    cells = table_of(published, table)
    records = []
    for metric in metrics:
        for model in _ordered([str(c) for _, c in _keys(cells)], models):
            row = published_as.get(metric, metric)
            ours: dict[str, Any] = {}
            if found := models.get(model, {}).get(metric):
                ours = {"ours": found.value, "defined": int(not math.isnan(found.value)), "cohorts": 1}
                ours |= _interval_cells(found)
            records.append(_record(metric, model, "score", row, cells.get((row, model), Cell()), **ours))
    return frame_of(records)


def _interval_cells(found: Interval) -> dict[str, Any]:
    return {
        **{"low": found.low, "high": found.high, "level": found.level},
        **{"patients": found.groups, "repeats": found.repeats, "undefined": found.undefined, "method": found.method},
    }


def _keys(cells: Mapping[Any, Cell]) -> list[tuple[str, str]]:
    return [(str(row), str(column)) for row, column in cells]


def _ordered(first: Sequence[str], then: Any) -> list[str]:
    """Distinct names: the published ones in the paper's order, then ours."""
    return list(dict.fromkeys([*first, *then]))


def _record(row: str, column: str, kind: str, published_row: str | None, cell: Cell, **ours: Any) -> dict[str, Any]:
    found = published_row if cell.flag else ""
    published = {"published": cell.value, "published_std": cell.std, "flag": cell.flag, "published_row": found}
    return {"row": row, "column": column, "kind": kind} | published | ours


def records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """The cells, one mapping each."""
    return [{str(name): value for name, value in record.items()} for record in frame.to_dict("records")]


def frame_of(cells: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """The frame of these cells, columns `COLUMNS`; what a cell does not say is missing."""
    frame = pd.DataFrame(list(cells), columns=list(COLUMNS))
    counts = dict.fromkeys(("defined", "cohorts", "patients", "repeats", "undefined"), "Int64")
    numbers = dict.fromkeys(("published", "published_std", "ours", "ours_std", "low", "high", "level"), "float64")
    return frame.astype(counts | numbers)


def split_note(split: Split, most: int = 40) -> str:
    """One sentence on who is where, naming the test patients (the first `most` of them)."""
    sizes = ", ".join(str(len(fold)) for fold in split.folds)
    more = f" and {len(split.test) - most} more" if len(split.test) > most else ""
    return (
        f"{len(split.test) + len(split.development)} patients: {len(split.development)} in "
        f"{len(split.folds)} validation cohorts of {sizes}; "
        f"{len(split.test)} test patients: {', '.join(split.test[:most])}{more}."
    )
