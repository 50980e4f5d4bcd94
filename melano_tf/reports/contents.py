"""What a run's folder tells a reader: tables, exclusions, counts, durations, models. Plain values, not yet HTML."""

import fnmatch
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from melano_tf.evaluation.intervals import ends_text
from melano_tf.evaluation.metrics import format_mean_std
from melano_tf.runs.files import read_json
from melano_tf.runs.judgements import Judgement
from melano_tf.runs.plain import digest, flat
from melano_tf.runs.standing import Standing

RECIPES = Path(__file__).with_name("recipes.yaml")
GROUPS = "patients or lesions"
MOST_ROWS = 60  # of a table that only a CSV holds, and of lists; the rest stays in the files, which is said
INTERVAL = re.compile(r"^(.*?\d.*?) \((\S+ (?:to|of) \S+)\)(.*)$")
CELL = re.compile(r"(?<!\\)\|")


def recipe_facts(recipe: str) -> dict[str, Any]:
    """What the report knows of a recipe beforehand: `recipes.yaml`; {} for one that it does not know."""
    content = yaml.safe_load(RECIPES.read_text(encoding="utf-8"))
    return dict(content["recipes"].get(recipe) or {})


@dataclass(frozen=True)
class Cell:
    """A cell to be shown: its text, and below it what stood in brackets (an interval)."""

    text: str
    below: str = ""
    side: str = ""


@dataclass(frozen=True)
class Table:
    """A table to be shown.

    Attributes:
        name: of its file, without suffix.
        title: as the run wrote it.
        words: what it shows, for a reader who was not there.
        header, rows: cells; the first column names the row.
        notes: sentences below it.
    """

    name: str
    title: str
    words: str
    header: Sequence[Cell]
    rows: Sequence[Sequence[Cell]]
    notes: Sequence[str]


def words_for(name: str, rules: Sequence[Mapping[str, str]]) -> tuple[int, str]:
    """Place in the recipe's order, and words, of a file by its name; behind all others without words."""
    for place, rule in enumerate(rules):
        if fnmatch.fnmatchcase(name, rule["match"]):
            return place, rule["words"]
    return len(rules), ""


def read_tables(standing: Standing, facts: Mapping[str, Any]) -> list[Table]:
    """The tables of a run in the recipe's order: those written to be read, and the numbers that only a CSV holds."""
    rules, folder = facts.get("tables", []), standing.folder / "tables"
    files = {path.stem: path for path in standing.of(sorted(folder.glob("*.csv")))}
    files |= {path.stem: path for path in standing.of(sorted(folder.glob("*.md")))}
    found = []
    for name in sorted(files, key=lambda stem: (words_for(stem, rules)[0], _natural(stem))):
        words, path = words_for(name, rules)[1], files[name]
        try:
            if path.suffix == ".md":
                found.append(parse_markdown(name, path.read_text(encoding="utf-8"), words))
            else:
                found.append(plain_table(name, pd.read_csv(path, dtype=str, keep_default_na=False), words))
        except (OSError, ValueError) as error:
            found.append(Table(name, name, words, [], [], [f"{path.name} cannot be read: {error}"]))
    return found


def _natural(name: str) -> list[Any]:
    return [(0, int(part)) if part.isdigit() else (1, part) for part in re.split(r"(\d+)", name) if part]


def parse_markdown(name: str, text: str, words: str = "") -> Table:
    """A table as `reports.tables.markdown` writes it; what is neither title nor table becomes a note."""
    title = name
    header: list[Cell] = []
    rows: list[list[Cell]] = []
    notes: list[str] = []
    for line in text.splitlines():
        stripped = line.strip()
        if stripped.startswith("|"):
            cells = [cell.strip().replace("\\|", "|") for cell in CELL.split(stripped)[1:-1]]
            if all(re.fullmatch(r":?-+:?", cell) for cell in cells):
                continue
            if header:
                rows.append([cell_of(cell) for cell in cells])
            else:
                header = [_head(cell) for cell in cells]
        elif stripped.startswith("# ") and title == name:
            title = stripped[2:]
        elif stripped:
            notes.append(stripped.removeprefix("- "))
    return Table(name, title, words, header, rows, notes)


def cell_of(text: str) -> Cell:
    """ "0.81 ± 0.02 (0.77 to 0.85)" with its interval on a line of its own."""
    if found := INTERVAL.match(text):
        return Cell(found[1] + found[3], found[2])
    return Cell(text)


def _head(text: str) -> Cell:
    label, _, side = text.rpartition(", ")
    return Cell(label, side, side) if side in ("paper", "ours") and label else Cell(text)


def plain_table(name: str, frame: pd.DataFrame, words: str = "") -> Table:
    """A CSV's first rows, numbers rounded to be read."""
    shown = frame.head(MOST_ROWS)
    rows = [[Cell(_rounded(value)) for value in row] for row in shown.itertuples(index=False)]
    more = [f"{len(frame) - len(shown):,} more rows stand in {name}.csv."] if len(frame) > len(shown) else []
    return Table(name, name.replace("_", " "), words, [Cell(str(column)) for column in frame], rows, more)


def _rounded(text: str) -> str:
    return f"{float(text):.4g}" if re.fullmatch(r"-?\d+\.\d+(e-?\d+)?", text) else text


@dataclass(frozen=True)
class Headline:
    """One number that stands first: what it is, its value, its interval, and the paper's."""

    label: str
    value: str
    interval: str
    paper: str


def headlines(standing: Standing, facts: Mapping[str, Any]) -> list[Headline]:
    """The numbers that a reader looks for first, as far as the run has them."""
    people = facts.get("groups", GROUPS)
    found = []
    for rule in facts.get("headline", []):
        path = standing.folder / "tables" / f"{rule['table']}.csv"
        if not standing.holds(path):
            continue
        try:
            frame = pd.read_csv(path)
            frame = frame[(frame["row"] == rule["row"]) & frame["ours"].notna()]
        except (OSError, KeyError, ValueError):
            continue
        count, columns = len(frame), rule.get("columns", {})
        if "highest" in rule and count:
            frame = frame.loc[[frame["ours"].idxmax()]]
            columns = {"*": rule["highest"]}
        for row in frame.to_dict("records"):
            label = columns.get(row["column"], columns.get("*"))
            if label is None:
                continue
            label = label.replace("{column}", str(row["column"])).replace("{count}", f"{count}")
            around = ""
            if pd.notna(row["low"]):
                around = f"{row['level']:.0%} interval {ends_text(row['low'], row['high'])}"
                around += f", {row['patients']:.0f} {people}"
            printed = "" if pd.isna(row["published"]) else format_mean_std(row["published"], row["published_std"])
            value = format_mean_std(row["ours"], row["ours_std"])
            found.append(Headline(label, value, around, printed))
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
        files = read_json(inputs)
        size = sum(facts["bytes"] for facts in files.values()) / 1e6
        sums = digest(sorted(facts["sha256"] for facts in files.values()))
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
        found.append(("copies of images", ", ".join(f"{count} {kind}" for kind, count in copies.items())))
    for one in judgements:
        groups, totals = one.frame["group"].nunique(), one.frame["target"].value_counts()
        classes = ", ".join(f"{totals.get(k, 0):,} {name}" for k, name in enumerate(one.classes))
        found.append(
            (
                f"judged: {one.name}",
                f"{len(one.frame):,} {one.unit} of {groups:,} {facts.get('groups', GROUPS)}: {classes}",
            )
        )
    return found


def _counted(path: Path, what: str) -> list[tuple[str, str]]:
    try:
        frame = pd.read_csv(path, dtype=str, keep_default_na=False)
    except (OSError, ValueError):
        return []
    if "status" in frame:
        done = frame[frame["status"] == "done"]
        labels = ", ".join(
            f"{count:,} {label}" for label, count in done.get("label", pd.Series()).value_counts().items()
        )
        people = f" of {done['patient_id'].nunique():,} patients" if "patient_id" in done else ""
        tiles = f"; {pd.to_numeric(done['tiles']).sum():,.0f} tiles" if "tiles" in done else ""
        return [(what, f"{len(done):,} used of {len(frame):,}{people}: {labels}{tiles}")]
    bad = int((frame["unreadable"] != "").sum()) if "unreadable" in frame else 0
    return [(what, f"{len(frame) - bad:,} decoded of {len(frame):,}")]


def durations(record: Mapping[str, Any], folder: Path) -> tuple[list[tuple[str, str, str]], list[tuple[str, str]]]:
    """(kind of step, how many, time) and (step, time) of all finished steps."""
    steps = {
        str(path.relative_to(folder / "steps").with_suffix("")): float(read_json(path).get("seconds", 0))
        for path in sorted((folder / "steps").rglob("*.json"))
    } or {str(name): float(seconds) for name, seconds in (record.get("durations") or {}).items()}
    kinds: dict[str, list[float]] = {}
    for name, seconds in steps.items():
        kinds.setdefault(name.partition("/")[0], []).append(seconds)
    grouped = [(name, f"{len(times)}", time_text(sum(times))) for name, times in kinds.items()]
    return [*grouped, ("all", f"{len(steps)}", time_text(sum(steps.values())))], [
        (name, time_text(seconds)) for name, seconds in steps.items()
    ]


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


def models(standing: Standing) -> list[dict[str, str]]:
    """What stands in each model's sidecar, to be read."""
    found = []
    files = sorted((standing.folder / "models").glob("*.json"), key=lambda file: _natural(file.stem))
    for path in standing.of(files):
        try:
            card = dict(read_json(path))
            calibration = card.get("calibration")
            found.append(
                {
                    "model": f"{path.stem}.keras",
                    "classes": ", ".join(map(str, card.get("classes", ()))),
                    "input": f"{card.get('input_px')} px",
                    "trained on": str((card.get("run") or {}).get("trained_on", "")),
                    "threshold": f"{card['threshold']:.4g}" if isinstance(card.get("threshold"), int | float) else "–",
                    "chosen from": str(card.get("threshold_from") or "–"),
                    "calibration": _fitted(calibration) if calibration else "–",
                }
            )
        except (OSError, ValueError, TypeError, AttributeError) as error:
            found.append({"model": path.name, "classes": f"its sidecar cannot be read ({error})"})
    return found
