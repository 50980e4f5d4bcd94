"""How a table is laid out, as text and as HTML: as the paper does it, with two columns a model, "paper" and "ours", and
below it what a reader could mistake."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from melano_tf.evaluation.binary_metrics import format_mean_std
from melano_tf.evaluation.interval import METHODS, ends_text
from melano_tf.reports.tables import Table, records

LABELS = {"AUC": "ROC AUC"}
# Published names that say what ours does, so that no more need be said.
SYNONYMS = {("ACC", "Accuracy"), ("SN", "Sensitivity"), ("AUC", "ROC_AUC")}
NOTHING = "–"
MARKS = {"suspect": " †", "inferred": " ‡"}


@dataclass(frozen=True)
class Shown:
    """A cell to be read: its text, what stands with it in brackets (an interval), and of a head "paper" or "ours"."""

    text: str
    below: str = ""
    side: str = ""


def layout(table: Table) -> tuple[list[Shown], list[list[Shown]]]:
    """Header and rows to be read: one line a metric with "paper" and "ours" for each model, or the other way round.

    A table that the paper does not have has no "paper" side.
    """
    frame = table.frame
    cells = {(str(record["row"]), str(record["column"])): record for record in records(frame)}
    columns = list(dict.fromkeys(frame["column"]))
    labels = {row: _row_label([cells[row, column] for column in columns]) for row in dict.fromkeys(frame["row"])}
    sides = ("",) if (frame["flag"] == "").all() else ("paper", "ours")

    def shown(row: str, column: str) -> list[Shown]:
        ours = _ours(cells[row, column])
        return [ours] if len(sides) == 1 else [Shown(_paper_text(cells[row, column])), ours]

    if table.models_down:
        heads = list(labels.values())
        body = [[Shown(column), *(one for row in labels for one in shown(row, column))] for column in columns]
    else:
        heads = columns
        body = [
            [Shown(label), *(one for column in columns for one in shown(row, column))] for row, label in labels.items()
        ]
    return [Shown(""), *(Shown(head, side=side) for head in heads for side in sides)], body


def notes_of(table: Table) -> list[str]:
    """All that stands below a table but its footnotes: on the data, then on what its own content makes worth saying."""
    return [*table.notes, *_notes(table.frame, table.unit, table.part)]


def markdown(table: Table) -> str:
    """The table to be read as text: title, cells, notes, footnotes."""
    header, body = layout(table)
    lines = [f"# {table.title}", "", *aligned(_heads(header), [_texts(row) for row in body])]
    if explained := notes_of(table):
        lines += ["", *(f"- {note}" for note in explained)]
    if footnotes := footnotes_of(table.frame):
        lines += ["", "\n\n".join(footnotes)]
    return "\n".join(lines) + "\n"


def _heads(header: Sequence[Shown]) -> list[str]:
    return [f"{one.text}, {one.side}" if one.side else one.text for one in header]


def _texts(row: Sequence[Shown]) -> list[str]:
    return [f"{one.text} ({one.below})" if one.below else one.text for one in row]


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


def _ours(record: Mapping[str, Any]) -> Shown:
    if pd.isna(record["cohorts"]):
        return Shown(NOTHING)
    if record["kind"] == "count":
        return Shown(f"{record['ours']:,.0f}")
    below = []
    if not pd.isna(record["level"]) and not math.isnan(record["ours"]):
        below.append(ends_text(record["low"], record["high"]))
    if 0 < record["defined"] < record["cohorts"]:
        below.append(f"{record['defined']} of {record['cohorts']}")
    return Shown(format_mean_std(record["ours"], record["ours_std"]), ", ".join(below))


def _notes(frame: pd.DataFrame, unit: str, judged: str) -> list[str]:
    """What the table's own content makes worth saying."""
    ran = frame[frame["cohorts"].notna()]
    scores = ran[ran["kind"] == "score"]
    return [
        *_how_many(scores, unit, judged),
        *_printed_auc(frame),
        *(["n/a: undefined (nothing to divide by)."] if scores["ours"].isna().any() else []),
        *(
            [f"{NOTHING}: no published value, or not run."]
            if len(ran) < len(frame) or ((frame["flag"] == "").any() and not (frame["flag"] == "").all())
            else []
        ),
    ]


def _how_many(scores: pd.DataFrame, unit: str, judged: str) -> list[str]:
    several = scores["cohorts"] > 1
    at_once, validated = scores[scores["level"].notna() & ~several], scores[scores["level"].isna() | several]
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
    for (patients, level), part in at_once.groupby(["patients", "level"], sort=False):
        of_whom = "" if len(set(at_once["patients"])) == 1 else f" ({', '.join(dict.fromkeys(part['column']))})"
        notes.append(f"Ours{of_whom}: value (and {level:.0%} interval by the {patients} {judged} {unit}).")
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


def footnotes_of(frame: pd.DataFrame) -> list[str]:
    """What the marks beside published cells mean."""
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
