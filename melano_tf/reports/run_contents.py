"""What a run's folder tells a reader: tables, exclusions, counts, durations, models. Plain values, not yet HTML."""

import re
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from melano_tf.errors import InputError, line_of
from melano_tf.evaluation.binary_metrics import format_mean_std
from melano_tf.evaluation.interval import ends_text
from melano_tf.reports.table_files import read_table
from melano_tf.reports.table_layout import Shown, footnotes_of, layout, notes_of
from melano_tf.reports.tables import Table, records
from melano_tf.runs.atomic_files import read_json
from melano_tf.runs.file_integrity import mapping, read_words
from melano_tf.runs.files_of_plan import Standing
from melano_tf.runs.judgements import Judgement
from melano_tf.runs.settings_digest import digest, flat

GROUPS = "patients or lesions"
LARGEST = 1e18  # bytes or seconds that a record holds
MOST_ROWS = 60  # of a table that only a CSV holds, and of lists; the rest stays in the files, which is said


@dataclass(frozen=True)
class ShownTable:
    """A table to be shown.

    Attributes:
        name: of its file, without suffix.
        title: as the run wrote it.
        words: what it shows, for a reader who was not there.
        header, rows: cells; the first column names the row.
        notes: sentences below it alone.
        shared: numbers, from 1, of the notes that it shares with other tables.
    """

    name: str
    title: str
    words: str
    header: Sequence[Shown]
    rows: Sequence[Sequence[Shown]]
    notes: Sequence[str]
    shared: Sequence[int] = ()


@dataclass(frozen=True)
class First:
    """One number that stands first: what it is, its value, its interval, and the paper's."""

    label: str
    value: str
    interval: str
    paper: str


@dataclass(frozen=True)
class Tables:
    """A run's tables: those to be shown, the notes of several of them, once each, and the numbers that stand first."""

    shown: Sequence[ShownTable]
    notes: Sequence[str]
    first: Sequence[First]


def read_tables(standing: Standing) -> Tables:
    """The tables of a run, the paper's before others: those of a JSON file, and what only a CSV holds."""
    folder = standing.folder / "tables"
    files = {path.stem: path for kind in ("csv", "json") for path in standing.of(sorted(folder.glob(f"*.{kind}")))}
    found: list[ShownTable] = []
    first: list[First] = []
    for name in sorted(files, key=lambda stem: (not stem.startswith("table"), _natural(stem))):
        try:
            if files[name].suffix == ".csv":
                found.append(plain_table(name, read_words(files[name])))
                continue
            table = read_table(files[name])
        except (InputError, OSError, ValueError) as error:
            found.append(ShownTable(name, name, "", [], [], [f"{files[name].name} cannot be read: {error}"]))
            continue
        header, rows = layout(table)
        notes = [*notes_of(table), *footnotes_of(table.frame)]
        found.append(ShownTable(name, table.title, table.words, header, rows, notes))
        first += headlines(table)
    return Tables(*said_once(found), first)


def said_once(tables: Sequence[ShownTable]) -> tuple[list[ShownTable], list[str]]:
    """The tables without the notes that several of them have, and those notes."""
    counted = Counter(note for table in tables for note in dict.fromkeys(table.notes))
    notes = [note for note, count in counted.items() if count > 1]
    kept = [
        replace(
            table,
            notes=[note for note in dict.fromkeys(table.notes) if note not in notes],
            shared=[place for place, note in enumerate(notes, 1) if note in table.notes],
        )
        for table in tables
    ]
    return kept, notes


def _natural(name: str) -> list[Any]:
    return [(0, int(part)) if part.isdigit() else (1, part) for part in re.split(r"(\d+)", name) if part]


def plain_table(name: str, frame: pd.DataFrame) -> ShownTable:
    """A CSV's first rows, numbers rounded to be read."""
    shown = frame.head(MOST_ROWS)
    rows = [[Shown(_rounded(value)) for value in row] for row in shown.itertuples(index=False)]
    more = [f"{len(frame) - len(shown):,} more rows stand in {name}.csv."] if len(frame) > len(shown) else []
    return ShownTable(name, name.replace("_", " "), "", [Shown(str(column)) for column in frame], rows, more)


def _rounded(text: str) -> str:
    return f"{float(text):.4g}" if re.fullmatch(r"-?\d+\.\d+(e-?\d+)?", text) else text


def headlines(table: Table) -> list[First]:
    """The cells of a table that a reader looks for first, as far as the run has them."""
    cells = {(cell["row"], cell["column"]): cell for cell in records(table.frame) if not pd.isna(cell["ours"])}
    found = []
    for one in table.headlines:
        if (cell := cells.get((one.row, one.column))) is None:
            continue
        around = ""
        if not pd.isna(cell["level"]):
            around = f"{cell['level']:.0%} interval {ends_text(cell['low'], cell['high'])}"
            around += f", {cell['patients']} {table.unit}"
        printed = "" if pd.isna(cell["published"]) else format_mean_std(cell["published"], cell["published_std"])
        found.append(First(one.words, format_mean_std(cell["ours"], cell["ours_std"]), around, printed))
    return found


def exclusions(record: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(what, why) of all that the run left out, whatever its recipe wrote."""
    found: list[tuple[str, str]] = []
    for name in ("excluded", "undecodable"):
        found += _excluded(record.get(name) or [], "cannot be decoded" if name == "undecodable" else "left out")
    return list(dict.fromkeys(found))


def _excluded(content: Any, why: str) -> list[tuple[str, str]]:
    reasons = {"missing": "its file is missing", "unlabelled": "has no label", "unreadable": "cannot be read"}
    if isinstance(content, Mapping):
        if "reason" in content:
            name = next((str(content[key]) for key in ("slide_id", "image_id", "name") if key in content), "?")
            return [(name, str(content["reason"]))]
        parts: list[tuple[str, str]] = []
        for key, value in content.items():
            if isinstance(value, list | Mapping):
                parts += _excluded(value, reasons.get(key, str(key)))
            else:
                parts.append((str(key), str(value)))
        return parts
    if isinstance(content, list):
        parts = []
        for item in content:
            if isinstance(item, list) and len(item) == 2:
                parts.append((str(item[0]), str(item[1])))
            elif isinstance(item, Mapping):
                parts += _excluded(item, why)
            else:
                parts.append((str(item), why))
        return parts
    return [(str(content), why)]


def is_phantom(record: Mapping[str, Any], facts: Mapping[str, Any]) -> bool:
    """Whether the run drew its own data: the setting that names the user's is empty."""
    settings = record["settings"]
    names = [facts["data"]] if "data" in facts else ["slides", "table"]
    return not any(settings.get(name) for name in names)


def counts(
    standing: Standing, record: Mapping[str, Any], facts: Mapping[str, Any], judgements: Sequence[Judgement]
) -> list[tuple[str, str]]:
    """(what, how many) of the data: input files, slides or images, who is where, what was judged."""
    found: list[tuple[str, str]] = []
    folder = standing.folder
    inputs = folder / "inputs.json"
    if inputs.is_file():
        files = [one for one in mapping(inputs).values() if isinstance(one, dict)]
        size = sum(_number(facts.get("bytes")) for facts in files) / 1e6
        sums = digest(sorted(str(facts.get("sha256")) for facts in files))
        found.append(
            ("input files", f"{len(files):,}, {size:,.1f} MB (checksums in inputs.json; of all of them {sums})")
        )
    for path, what in ((folder / "tiles" / "slides.csv", "slides"), (folder / "images.csv", "images")):
        found += _counted(path, what) if standing.holds(path) else []
    if isinstance(split := record.get("split"), Mapping) and "test" in split:
        folds = " + ".join(str(len(fold)) for fold in split.get("folds", []))
        found.append(("patients", f"{len(split['test'])} for the test, {folds} in validation cohorts"))
    for name, what in (("parts", "patients"), ("folds", f"{facts.get('case', 'cases')} in each fold")):
        if isinstance(parts := record.get(name), Mapping):
            listed = ", ".join(
                f"{len(members):,} {part}" for part, members in parts.items() if isinstance(members, list)
            )
            if name == "folds":
                listed = ", ".join(f"{len(members):,}" for members in parts.values() if isinstance(members, list))
            found.append((what, listed))
    if copies := record.get("copies"):
        found.append(("pairs of copies", ", ".join(f"{count} {kind}" for kind, count in copies.items())))
    judged: dict[str, list[str]] = {}
    for one in judgements:
        groups, totals = one.frame["group"].nunique(), one.frame["target"].value_counts()
        classes = ", ".join(f"{totals.get(k, 0):,} {name}" for k, name in enumerate(one.classes))
        who = facts.get("groups", GROUPS)
        judged.setdefault(f"{len(one.frame):,} {one.unit} of {groups:,} {who}: {classes}", []).append(one.name)
    return found + [(f"judged: {first_of(names)}", text) for text, names in judged.items()]


def first_of(names: Sequence[str], most: int = 3) -> str:
    """The first of these names, and how many more there are."""
    return ", ".join(names[:most]) + (f" and {len(names) - most:,} more" if len(names) > most else "")


def _counted(path: Path, what: str) -> list[tuple[str, str]]:
    try:
        frame = read_words(path)
    except InputError:
        return []
    if "status" in frame:
        done = frame[frame["status"] == "done"]
        labels = ", ".join(
            f"{count:,} {label}" for label, count in done.get("label", pd.Series()).value_counts().items()
        )
        people = f" of {done['patient_id'].nunique():,} patients" if "patient_id" in done else ""
        tiles = f"; {pd.to_numeric(done['tiles'], errors='coerce').sum():,.0f} tiles" if "tiles" in done else ""
        return [(what, f"{len(done):,} used of {len(frame):,}{people}: {labels}{tiles}")]
    bad = int((frame["unreadable"] != "").sum()) if "unreadable" in frame else 0
    return [(what, f"{len(frame) - bad:,} decoded of {len(frame):,}")]


def durations(
    standing: Standing, record: Mapping[str, Any]
) -> tuple[list[tuple[str, str, str]], list[tuple[str, str]]]:
    """(kind of step, how many, time) and (step, time) of all steps that are finished under the present plan."""
    steps = standing.durations()
    if not (standing.folder / "steps").is_dir():
        steps = {str(name): _number(seconds) for name, seconds in (record.get("durations") or {}).items()}
    kinds: dict[str, list[float]] = {}
    for name, seconds in steps.items():
        kinds.setdefault(name.partition("/")[0], []).append(seconds)
    grouped = [(name, f"{len(times)}", time_text(sum(times))) for name, times in kinds.items()]
    return [*grouped, ("all", f"{len(steps)}", time_text(sum(steps.values())))], [
        (name, time_text(seconds)) for name, seconds in steps.items()
    ]


def _number(value: Any) -> float:
    """A number of a record; 0 of what is none, as in a damaged one."""
    return float(value) if isinstance(value, int | float) and 0 <= value < LARGEST else 0.0


def time_text(seconds: float) -> str:
    """3 h 5 min, 4 min 2 s, or 1.3 s."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def command_text(arguments: Sequence[str]) -> str:
    """A session's command as it would be given again."""
    return "python -m melano_tf.run " + shlex.join(list(map(str, arguments))[1:])


def _fitted(calibration: Mapping[str, Any]) -> str:
    """What a calibration found, to be read; where it was fitted stands with the threshold."""
    return ", ".join(
        f"{name.replace('_', ' ')} {f'{value:.4g}' if isinstance(value, float) else value}"
        for name, value in flat(calibration).items()
        if name != "hold_out"
    )


COLUMNS = ("classes", "input", "trained on", "threshold", "chosen from", "calibration")


def models(standing: Standing) -> tuple[list[dict[str, str]], dict[str, str]]:
    """What stands in each model's sidecar, to be read; and what is the same for all of several models, once."""
    found = []
    files = sorted((standing.folder / "models").glob("*.json"), key=lambda file: _natural(file.stem))
    for path in standing.of(files):
        try:
            card = dict(read_json(path))
            calibration = card.get("calibration")
            values = (
                ", ".join(map(str, card.get("classes", ()))),
                f"{card.get('input_px')} px",
                str((card.get("run") or {}).get("trained_on", "")),
                f"{card['threshold']:.4g}" if isinstance(card.get("threshold"), int | float) else "–",
                str(card.get("threshold_from") or "–"),
                _fitted(calibration) if calibration else "–",
            )
            found.append({"model": f"{path.stem}.keras", **dict(zip(COLUMNS, values, strict=True))})
        except (OSError, ValueError, TypeError, AttributeError) as error:
            found.append({"model": path.name, "classes": f"its sidecar cannot be read ({line_of(error)})"})
    several = len(found) > 1
    same = {name: found[0].get(name, "") for name in COLUMNS if several and len({m.get(name) for m in found}) == 1}
    return [{name: text for name, text in one.items() if name not in same} for one in found], same
