"""What the notebooks in experiments/ stand on: a paper's finished run, its tables and its pictures."""

import argparse
import dataclasses
import importlib
import sys
import typing
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd

from melano_tf.papers import PAPERS
from melano_tf.runs.atomic_files import read_json

Settings = TypeVar("Settings")


def run_folder(default: str) -> Path:
    """The folder given by --run, or the default; what a notebook server puts on the command line is ignored."""
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--run", type=Path, default=Path(default), help="a finished run's folder")
    return Path(parser.parse_known_args()[0].run)


def restored(default: Settings, content: dict[str, Any]) -> Settings:
    """Settings as a run recorded them, over a default instance of the same dataclass.

    Names that the dataclass does not know (of another version) are refused by `dataclasses.replace`.
    """
    values: dict[str, Any] = {}
    types = typing.get_type_hints(type(default), include_extras=True)
    for name, value in content.items():
        known = getattr(default, name, None)
        optional: list[Any] = [one for one in typing.get_args(types.get(name)) if dataclasses.is_dataclass(one)]
        if known is None and optional and isinstance(value, dict):  # a group of settings that the default has not
            known = optional[0]()
        if dataclasses.is_dataclass(known) and not isinstance(known, type):
            values[name] = restored(known, value)
        elif isinstance(known, tuple) and isinstance(value, str):  # as runs recorded lists when they were text
            values[name] = next(spec for spec in types[name].__metadata__).instance_from_str([value])
        elif isinstance(value, list):
            values[name] = tuple(Path(item) if Path in typing.get_args(types.get(name)) else item for item in value)
        elif value is not None and Path in (types.get(name), *typing.get_args(types.get(name))):
            values[name] = Path(value)
        else:
            values[name] = value
    return dataclasses.replace(default, **values)  # type: ignore[type-var]


def finished(paper: str) -> Path:
    """A paper's run, finished: the folder given by `--run`, or runs/<paper>.

    What a run was asked for is made again from what it holds, with its own settings: at once, and nothing is trained,
    where it is finished; where it was stopped it goes on. A folder without a run gets the demo on phantoms. Every table
    is shown; what a notebook server puts on the command line is ignored.

    Args:
        paper: its command, for example "zoome".
    """
    from melano_tf.papers.shell import reproduce  # brings TensorFlow

    folder, recipe = run_folder(f"runs/{paper}"), importlib.import_module(f"{PAPERS[paper][0]}.settings").RECIPE
    settings = recipe.preset("demo")
    if (folder / "run.json").exists():
        settings = restored(settings, read_json(folder / "run.json")["settings"])
    return reproduce(recipe, dataclasses.replace(settings, out=folder, plan=False), say)


def table(run: Path, name: str) -> pd.DataFrame | None:
    """A table of a run, one row a cell (see `reports.tables`); None, and said, where the run was not asked for it.

    Args:
        run: its folder.
        name: of the file in tables/, for example "table2" or "metadata".
    """
    path = run / "tables" / f"{name}.csv"
    if path.is_file():
        return pd.read_csv(path)
    say(f"{name}: this run was not asked for it")
    return None


def pictures(run: Path) -> None:
    """Name every figure and map of a run; in Jupyter, show them."""
    paths = [path for folder in ("figures", "maps") for path in sorted((run / folder).glob("*.png"))]
    for path in paths:
        say(str(path))
    try:
        from IPython import get_ipython
        from IPython.display import Image, display
    except ImportError:
        return
    if get_ipython() is not None:
        for path in paths:
            display(Image(filename=str(path)))


def say(line: str) -> None:
    """Show a line to whoever runs the notebook."""
    sys.stdout.write(line + "\n")
