"""What the notebooks of all papers share: the run's folder from the command line, and a run's settings read back."""

import argparse
import dataclasses
import sys
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from melano_tf.runs.files import read_json

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
    types = typing.get_type_hints(type(default))
    for name, value in content.items():
        known = getattr(default, name, None)
        optional: list[Any] = [one for one in typing.get_args(types.get(name)) if dataclasses.is_dataclass(one)]
        if known is None and optional and isinstance(value, dict):  # a group of settings that the default has not
            known = optional[0]()
        if dataclasses.is_dataclass(known) and not isinstance(known, type):
            values[name] = restored(known, value)
        elif isinstance(value, list):
            values[name] = tuple(Path(item) if Path in typing.get_args(types.get(name)) else item for item in value)
        elif value is not None and Path in (types.get(name), *typing.get_args(types.get(name))):
            values[name] = Path(value)
        else:
            values[name] = value
    return dataclasses.replace(default, **values)  # type: ignore[type-var]


def complete(run: Path, demo: Any, reproduce: Callable[[Any, Callable[[str], None]], Path], **chosen: Any) -> None:
    """Make what is asked for in a run's folder, with that run's settings: at once where what it stands on is there.

    Args:
        run: the folder; one without a run gets the demo on phantoms.
        demo: the recipe's demo settings.
        reproduce: the recipe.
        chosen: settings to change, for example tables="2".
    """
    settings = demo
    if (run / "run.json").exists():
        settings = restored(settings, read_json(run / "run.json")["settings"])
    reproduce(dataclasses.replace(settings, out=run, **chosen), say)


def say(line: str) -> None:
    """Show a line to whoever runs the notebook."""
    sys.stdout.write(line + "\n")
