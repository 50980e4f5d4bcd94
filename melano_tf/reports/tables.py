"""Tables of a run beside the published ones: a tidy frame of numbers, written as CSV and as Markdown to be read.

The frame has one row a cell (columns `COLUMNS`), so that a script can use it; `markdown` lays it out as the paper does,
with two columns a model, "paper" and "ours", and explains under the table what a reader could mistake.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from melano_tf.evaluation.intervals import METHODS, Interval, ends_text
from melano_tf.evaluation.metrics import METRICS, format_mean_std, mean_std
from melano_tf.reports.published import Cell, table_of
from melano_tf.runs.files import atomic
from melano_tf.splits.patients import Split

COLUMNS = (
    *("row", "column", "kind", "published_row", "published", "published_std", "flag"),
    *("ours", "ours_std", "defined", "cohorts"),
    *("low", "high", "level", "patients", "repeats", "undefined", "method"),
)
# For a paper that prints (SN + SPC)/2 under "AUC": our balanced accuracy stands beside it, our ROC AUC alone.
AUC_IS_BALANCED_ACCURACY: Mapping[str, str | None] = {"BACC": "AUC", "AUC": None}
LABELS = {"AUC": "ROC AUC"}
# Published names that say what ours does, so that no more need be said.
SYNONYMS = {("ACC", "Accuracy"), ("SN", "Sensitivity"), ("AUC", "ROC_AUC")}
NOTHING = "–"
MARKS = {"suspect": " †", "inferred": " ‡"}


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
    return _frame(records)


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
        ddof: see `evaluation.metrics.mean_std`.
        intervals: {model: intervals of the means by metric} from `evaluation.intervals.cohort_intervals`, or none.
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
    return _frame(records)


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
        models: {model: intervals by metric} from `evaluation.intervals.binary_intervals`.
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
    return _frame(records)


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


def _frame(records: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    frame = pd.DataFrame(list(records), columns=list(COLUMNS))
    counts = dict.fromkeys(("defined", "cohorts", "patients", "repeats", "undefined"), "Int64")
    numbers = dict.fromkeys(("published", "published_std", "ours", "ours_std", "low", "high", "level"), "float64")
    return frame.astype(counts | numbers)


def write_table(
    folder: Path,
    name: str,
    frame: pd.DataFrame,
    title: str,
    notes: Sequence[str] = (),
    *,
    models_down: bool = False,
    unit: str = "patients",
) -> tuple[Path, Path]:
    """Write `<name>.csv` (one row a cell, NaN empty) and `<name>.md`, each atomically; returns both paths."""
    paths = (Path(folder) / f"{name}.csv", Path(folder) / f"{name}.md")
    with atomic(paths[0]) as temporary:
        frame.to_csv(temporary, index=False, lineterminator="\n", encoding="utf-8")
    with atomic(paths[1]) as temporary:
        temporary.write_text(markdown(frame, title, notes, models_down=models_down, unit=unit), encoding="utf-8")
    return paths


def markdown(
    frame: pd.DataFrame,
    title: str,
    notes: Sequence[str] = (),
    *,
    models_down: bool = False,
    unit: str = "patients",
) -> str:
    """The table to be read: title, one line a metric with "paper" and "ours" for each model, notes, footnotes.

    A table that the paper does not have has no "paper" side.

    Args:
        frame: from `count_table`, `metric_table` or `interval_table`.
        title: without the leading #.
        notes: sentences on the data (phantoms or not, who tests); those on the table itself are added here.
        models_down: one line a model, with "paper" and "ours" for each metric.
        unit: what the intervals count as independent: "patients" or "lesions".
    """
    cells: dict[tuple[str, str], dict[str, Any]] = {
        (str(record["row"]), str(record["column"])): {str(name): value for name, value in record.items()}
        for record in frame.to_dict("records")
    }
    columns = list(dict.fromkeys(frame["column"]))
    labels = {row: _row_label([cells[row, column] for column in columns]) for row in dict.fromkeys(frame["row"])}
    alone = bool((frame["flag"] == "").all())
    sides = ("",) if alone else (", paper", ", ours")

    def texts(record: Mapping[str, Any]) -> tuple[str, ...]:
        return (_our_text(record),) if alone else (_paper_text(record), _our_text(record))

    if models_down:
        header = ["", *(f"{label}{side}" for label in labels.values() for side in sides)]
        body = [[column, *(text for row in labels for text in texts(cells[row, column]))] for column in columns]
    else:
        header = ["", *(f"{column}{side}" for column in columns for side in sides)]
        body = [
            [label, *(text for column in columns for text in texts(cells[row, column]))]
            for row, label in labels.items()
        ]
    lines = [f"# {title}", "", *aligned(header, body)]
    explained = [*notes, *_notes(frame, unit)]
    if explained:
        lines += ["", *(f"- {note}" for note in explained)]
    if footnotes := _footnotes(frame):
        lines += ["", "\n\n".join(footnotes)]
    return "\n".join(lines) + "\n"


def aligned(header: Sequence[str], body: Sequence[Sequence[str]]) -> list[str]:
    """A Markdown table whose columns line up in plain text too; the first column left, the others right."""
    grid = [[cell.replace("|", "\\|") for cell in line] for line in [header, *body]]
    widths = [max(3, *(len(line[i]) for line in grid)) for i in range(len(header))]
    first, *rest = [
        "| "
        + " | ".join(c.rjust(w) if i else c.ljust(w) for i, (c, w) in enumerate(zip(line, widths, strict=True)))
        + " |"
        for line in grid
    ]
    rule = "| " + " | ".join("-" * (w - 1) + ":" if i else "-" * w for i, w in enumerate(widths)) + " |"
    return [first, rule, *rest]


def _row_label(records: Sequence[Mapping[str, Any]]) -> str:
    name = str(records[0]["row"])
    label = LABELS.get(name, name) if records[0]["kind"] == "score" else name
    printed = {str(record["published_row"]) for record in records if record["flag"]} - {name}
    printed -= {other for ours, other in SYNONYMS if ours == name}
    return f'{label} (printed as "{printed.pop()}")' if printed else label


def _paper_text(record: Mapping[str, Any]) -> str:
    if math.isnan(record["published"]):
        return NOTHING
    if record["kind"] == "count":
        text = f"{record['published']:,.0f}"
    else:
        text = format_mean_std(record["published"], record["published_std"])
    return text + MARKS.get(record["flag"], "")


def _our_text(record: Mapping[str, Any]) -> str:
    if pd.isna(record["cohorts"]):
        return NOTHING
    if record["kind"] == "count":
        return f"{record['ours']:,.0f}"
    text = format_mean_std(record["ours"], record["ours_std"])
    if not pd.isna(record["level"]) and not math.isnan(record["ours"]):
        return f"{text} ({ends_text(record['low'], record['high'])})"
    partly = 0 < record["defined"] < record["cohorts"]
    return f"{text} ({record['defined']} of {record['cohorts']})" if partly else text


def _notes(frame: pd.DataFrame, unit: str = "patients") -> list[str]:
    """What the table's own content makes worth saying."""
    ran = frame[frame["cohorts"].notna()]
    scores = ran[ran["kind"] == "score"]
    return [
        *_how_many(scores, unit),
        *_printed_auc(frame),
        *(["n/a: undefined (nothing to divide by)."] if scores["ours"].isna().any() else []),
        *(
            [f"{NOTHING}: no published value, or not run."]
            if len(ran) < len(frame) or ((frame["flag"] == "").any() and not (frame["flag"] == "").all())
            else []
        ),
    ]


def _how_many(scores: pd.DataFrame, unit: str = "patients") -> list[str]:
    several = scores["cohorts"] > 1
    tested, validated = scores[scores["level"].notna() & ~several], scores[scores["level"].isna() | several]
    notes = []
    for cohorts in sorted(set(validated["cohorts"])):
        models = list(dict.fromkeys(validated.loc[validated["cohorts"] == cohorts, "column"]))
        of_whom = "" if len(set(validated["cohorts"])) == 1 else f" ({', '.join(models)})"
        many = (
            f"mean ± standard deviation over {cohorts} validation cohorts" if cohorts > 1 else "one validation cohort"
        )
        notes.append(f"Ours{of_whom}: {many}.")
    around = validated[validated["level"].notna()]
    for (patients, level), part in around.groupby(["patients", "level"], sort=False):
        notes.append(
            f"In brackets: {level:.0%} interval of the mean by the {patients} {unit} within their cohorts; what other "
            f"{unit} would change, not another training."
        )
        notes += _methods(part)
    partly = validated[(validated["defined"] < validated["cohorts"]) & (validated["defined"] > 0)]
    if len(partly):
        notes.append("(k of n): undefined in the other cohorts, which are left out of that mean.")
    for (patients, level), part in tested.groupby(["patients", "level"], sort=False):
        of_whom = "" if len(set(tested["patients"])) == 1 else f" ({', '.join(dict.fromkeys(part['column']))})"
        notes.append(f"Ours{of_whom}: value (and {level:.0%} interval by the {patients} test {unit}).")
        notes += _methods(part)
    return notes


def _methods(part: pd.DataFrame) -> list[str]:
    """How the intervals of these cells were made, a sentence a method."""
    notes = []
    for method, own in part.dropna(subset=["ours"]).groupby("method", sort=False):
        worst, most = own.sort_values("undefined").iloc[-1], int(own["repeats"].max())
        drawn = f"; {most:,} resamples" if most else ""
        if worst["undefined"]:
            drawn += f", up to {worst['undefined']} of which ({worst['row']}) leave it undefined and are not counted"
        rows, columns = (list(dict.fromkeys(own[name])) for name in ("row", "column"))
        whole = len(own) == len(part)
        which = "All of them" if whole else ", ".join(LABELS.get(str(row), str(row)) for row in rows)
        if not whole and len(own) < len(part[part["row"].isin(rows)]):
            which += f" ({', '.join(map(str, columns))})"
        notes.append(f"{which}: {METHODS[str(method)]}{drawn}.")
    return notes


def _printed_auc(frame: pd.DataFrame) -> list[str]:
    """Why the printed AUC stands beside our balanced accuracy, with how far it is from one in this very table."""
    if not ((frame["row"] == "BACC") & (frame["published_row"] == "AUC")).any():
        return []
    wide = frame.pivot_table(index="column", columns="row", values="published")
    gap = (wide["BACC"] - (wide["SN"] + wide["SPC"]) / 2).abs().max() if {"SN", "SPC"} <= set(wide) else math.nan
    exact = "" if math.isnan(gap) else f" (in this table to within {math.ceil(gap * 1e4 - 1e-6) / 1e4:.4f})"
    return [
        f'The paper\'s "AUC" is (SN + SPC)/2{exact}, a balanced accuracy, so it stands beside our BACC; '
        "our ROC AUC has no published counterpart."
    ]


def _footnotes(frame: pd.DataFrame) -> list[str]:
    suspect = frame[frame["flag"] == "suspect"]
    notes = [f"† Suspect, printed but implausible: {'; '.join(_why(r, frame) for _, r in suspect.iterrows())}."]
    notes = notes if len(suspect) else []
    return notes + (["‡ Inferred from the paper's running text."] if (frame["flag"] == "inferred").any() else [])


def _why(record: pd.Series, frame: pd.DataFrame) -> str:
    """What speaks against a suspect cell, as far as its numbers show it."""
    if record["kind"] == "count":
        return f"{record['row']} {record['published']:,.0f}"
    text = (
        f"{record['column']} {record['published_row']} {format_mean_std(record['published'], record['published_std'])}"
    )
    # Values between 0 and 1 with mean m have a standard deviation of at most sqrt(m (1 - m)).
    most = math.sqrt(max(0.0, record["published"] * (1 - record["published"])))
    if record["published_std"] > most:
        return f"{text} (values between 0 and 1 with this mean spread by {most:.4f} at most)"
    wide = frame[frame["column"] == record["column"]].set_index("row")["published"]
    if record["row"] == "ACC" and {"SN", "SPC"} <= set(wide.index):
        ends = sorted((wide["SN"], wide["SPC"]))
        if not ends[0] <= record["published"] <= ends[1]:
            return f"{text} (an accuracy lies between sensitivity and specificity, {ends[0]:.4f} to {ends[1]:.4f})"
    beside = frame[(frame["row"] == record["row"]) & (frame["column"] != record["column"])]["published_std"].max()
    if record["published_std"] > beside:
        return f"{text} ({record['published_std'] / beside:.1f} times the widest spread beside it)"
    return text


def split_note(split: Split, most: int = 40) -> str:
    """One sentence on who is where, naming the test patients (the first `most` of them)."""
    sizes = ", ".join(str(len(fold)) for fold in split.folds)
    more = f" and {len(split.test) - most} more" if len(split.test) > most else ""
    return (
        f"{len(split.test) + len(split.development)} patients: {len(split.development)} in "
        f"{len(split.folds)} validation cohorts of {sizes}; "
        f"{len(split.test)} test patients: {', '.join(split.test[:most])}{more}."
    )
