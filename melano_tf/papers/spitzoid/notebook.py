"""What the notebooks in experiments/ share: a run's folder, and what is missing there made with that run's settings."""

import argparse
import dataclasses
import sys
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd

from melano_tf.papers.spitzoid.recipe import reproduce
from melano_tf.papers.spitzoid.settings import preset
from melano_tf.workspace import read_json

Settings = TypeVar("Settings")


def run_folder(default: str = "runs/spitzoid") -> Path:
    """The folder given by --run, or the default; what a notebook server puts on the command line is ignored."""
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--run", type=Path, default=Path(default), help="a spitzoid run's folder")
    return Path(parser.parse_known_args()[0].run)


def restored(default: Settings, content: dict[str, Any]) -> Settings:
    """Settings as a run recorded them, over a default instance of the same dataclass.

    Names that the dataclass does not know (of another version) are refused by `dataclasses.replace`.
    """
    values: dict[str, Any] = {}
    for name, value in content.items():
        known = getattr(default, name, None)
        if dataclasses.is_dataclass(known) and not isinstance(known, type):
            values[name] = restored(known, value)
        elif isinstance(value, list):
            values[name] = tuple(value)
        elif isinstance(known, Path) or (name == "slides" and value is not None):
            values[name] = Path(value)
        else:
            values[name] = value
    return dataclasses.replace(default, **values)  # type: ignore[type-var]


def finished(run: Path, tables: str = "none", figures: str = "none") -> None:
    """Make these tables and figures in the run's folder: at once where the run has made what they stand on.

    A folder without a run gets the demo on phantom slides.
    """
    settings = preset("demo")
    if (run / "run.json").exists():
        settings = restored(settings, read_json(run / "run.json")["settings"])
    reproduce(dataclasses.replace(settings, out=run, tables=tables, figures=figures, steps="all"), _say)


def table_of_run(run: Path, number: int) -> pd.DataFrame:
    """One table of the paper from a run's folder, shown as text; returns it, one row a cell (see `reports.tables`)."""
    finished(run, tables=str(number))
    return pd.read_csv(run / "tables" / f"table{number}.csv")


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
