"""Fill the generated blocks of the pages: published cells beside those that runs have measured.

    python docs/make_tables.py                                # published cells anew; what runs have filled stays
    python docs/make_tables.py runs/spitzoid runs/zoome …     # the same, and the tables of these finished runs

A block stands between `<!-- generated: spitzoid table5 -->` and `<!-- end generated -->`. Without a run it holds the
published cells from `data_specs/published/`; of a run of that recipe it holds `tables/table5.md`, published beside
ours, with its notes. `<!-- generated: spitzoid run -->` holds the run's commands, versions and time. No number
inside a block is written by hand.
"""

import argparse
import csv
import json
import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parent
PUBLISHED = DOCS.parent / "data_specs" / "published"
BLOCK = re.compile(r"<!-- generated: (\w+) ([\w-]+) -->\n(.*?)<!-- end generated -->", re.DOTALL)
MEASURED = "Measured"  # how a block that a run has filled begins
MARKS = {"suspect": " †", "inferred": " ‡"}
LOST = "–"


@dataclass(frozen=True)
class MeasuredRun:
    """A finished run's folder.

    Attributes:
        folder: where it is.
        recipe: the paper's name in this project.
        record: its run.json.
    """

    folder: Path
    recipe: str
    record: Mapping[str, Any]

    @classmethod
    def read(cls, folder: Path) -> "MeasuredRun":
        """Raises SystemExit, in one line, where the folder is no run."""
        try:
            record = json.loads((folder / "run.json").read_text(encoding="utf-8"))
            return cls(folder, record["recipe"], record)
        except (OSError, ValueError, KeyError) as error:
            raise SystemExit(f"{folder}: no run that can be read ({error})") from None

    def table(self, name: str) -> str | None:
        """`tables/<name>.md` without its heading and padding; None where the run has none."""
        path = self.folder / "tables" / f"{name}.md"
        if not path.is_file():
            return None
        lines = path.read_text(encoding="utf-8").strip().split("\n")
        title = lines.pop(0).lstrip("# ") if lines[0].startswith("#") else name
        narrow = [re.sub(r"(?<=\|) +| +(?=\|)", " ", line) if line.startswith("|") else line for line in lines]
        narrow = [re.sub(r"-{3,}", "---", line) if re.fullmatch(r"[|:\- ]+", line) else line for line in narrow]
        return f"**{title}**\n\n" + "\n".join(narrow).strip() + "\n"

    def words(self) -> str:
        """One line: the commands, when, with what, and how long its kept steps took."""
        first = self.record["sessions"][0]
        commands = dict.fromkeys(command_line(session["command"]) for session in self.record["sessions"])
        environment = first.get("environment", {})
        packages = environment.get("packages", {})
        settings = self.record.get("settings", {})
        seconds = round(sum(self.record.get("durations", {}).values()))
        facts = [
            ", then ".join(f"`{command}`" for command in commands),
            f"preset {settings.get('preset', '?')}, seed {settings.get('seed', '?')}",
            f"{first['started'][:10]}",
            f"melano_tf {environment.get('melano_tf', '?')}, Python {environment.get('python', '?')}, "
            f"TensorFlow {packages.get('tensorflow', '?')}, Keras {packages.get('keras', '?')}",
            f"the steps took {seconds // 60} min {seconds % 60:02d} s, one after another",
        ]
        return f"{MEASURED}: " + "; ".join(facts) + ".\n"


def command_line(arguments: Sequence[str]) -> str:
    """The command as a user gives it: the program by its name, folders by their last two parts."""

    def shown(word: str) -> str:
        return "/".join(Path(word).parts[-2:]) if word.startswith("/") else word

    return "python -m melano_tf.run " + shlex.join(shown(word) for word in arguments[1:])


def published_table(recipe: str, table: str) -> str:
    """The published cells of `table` ("table5") as Markdown; rows and columns that are wholly lost are counted."""
    with (PUBLISHED / f"{recipe}.csv").open(encoding="utf-8", newline="") as file:
        cells = [row for row in csv.DictReader(file) if f"table{row['table']}" == table]
    if not cells:
        raise SystemExit(f"{recipe} {table}: no published cell in {PUBLISHED / recipe}.csv")
    there = [cell for cell in cells if cell["value"]]
    lost = len(cells) - len(there)
    if not there:
        return f"Published: all {lost} cells are lost from the text that we have.\n"
    columns = list(dict.fromkeys(cell["column"] for cell in there))
    rows = list(dict.fromkeys(cell["row"] for cell in there))
    at = {(cell["row"], cell["column"]): _cell(cell) for cell in there}
    lines = ["| published | " + " | ".join(columns) + " |", "|---|" + "---|" * len(columns)]
    lines += [f"| {row} | " + " | ".join(at.get((row, column), LOST) for column in columns) + " |" for row in rows]
    flags = {cell["flag"] for cell in there}
    notes = [f"{lost} of {len(cells)} published cells are lost from the text that we have."] if lost else []
    notes += ["† Printed, but implausible."] if "suspect" in flags else []
    notes += ["‡ From the running text."] if "inferred" in flags else []
    return "\n".join(lines) + "\n" + "".join(f"\n{note}\n" for note in notes)


def _cell(cell: Mapping[str, str]) -> str:
    std = f" ± {cell['std']}" if cell["std"] else ""
    return cell["value"] + std + MARKS.get(cell["flag"], "")


def refreshed(text: str, runs: Mapping[str, MeasuredRun]) -> str:
    """A page with its blocks filled: from the run of the block's recipe, else as they are if a run filled them before,
    else with the published cells."""

    def fill(match: re.Match[str]) -> str:
        recipe, name, before = match.groups()
        content = _measured(runs[recipe], name) if recipe in runs else None
        if content is None:
            content = before if before.startswith(MEASURED) else _unmeasured(recipe, name)
        return f"<!-- generated: {recipe} {name} -->\n{content}<!-- end generated -->"

    return BLOCK.sub(fill, text)


def _measured(run: MeasuredRun, name: str) -> str | None:
    if name == "run":
        return run.words()
    table = run.table(name)
    return None if table is None else f"{MEASURED} by the run named on this page.\n\n{table}"


def _unmeasured(recipe: str, name: str) -> str:
    if re.fullmatch(r"table\d+", name):
        return published_table(recipe, name)
    return "Not filled from a run yet.\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Fill the blocks of all pages; says which run filled what. Returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="*", type=Path, metavar="RUN", help="folders of finished runs")
    given = [MeasuredRun.read(folder) for folder in parser.parse_args(arguments).runs]
    runs = {run.recipe: run for run in given}
    if len(runs) < len(given):
        raise SystemExit("two runs of one recipe: a block can be filled from one only")
    for path in sorted(DOCS.rglob("*.md")):
        text = path.read_text(encoding="utf-8")
        new = refreshed(text, runs)
        if new != text:
            path.write_text(new, encoding="utf-8")
            sys.stdout.write(f"{path.relative_to(DOCS.parent)}: changed\n")
    for recipe, run in runs.items():
        names = {
            name
            for path in DOCS.rglob("*.md")
            for of, name, _ in BLOCK.findall(path.read_text("utf-8"))
            if of == recipe
        }
        missing = sorted(name for name in names - {"run"} if run.table(name) is None)
        if missing:
            sys.stdout.write(f"{run.folder}: has no {', '.join(missing)}; those blocks stay as they were\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
