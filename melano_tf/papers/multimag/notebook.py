"""What the notebooks in experiments/ share: a run's folder, and what is missing there made with that run's settings."""

import functools
from pathlib import Path

import pandas as pd

from melano_tf.papers import notebook
from melano_tf.papers.multimag.settings import RECIPE
from melano_tf.papers.shell import reproduce

__all__ = ["finished", "run_folder", "table_of_run"]


def run_folder(default: str = "runs/multimag") -> Path:
    """The folder given by --run, or the default; what a notebook server puts on the command line is ignored."""
    return notebook.run_folder(default)


def finished(run: Path, tables: str = "none", figures: str = "none", steps: str = "tables") -> None:
    """Make these tables and figures in the run's folder: at once where the run has made what they stand on.

    A folder without a run gets the demo on phantom slides.
    """
    again = functools.partial(reproduce, RECIPE)
    notebook.complete(run, RECIPE.preset("demo"), again, tables=tables, figures=figures, steps=steps)


def table_of_run(run: Path, number: int, unit: str = "tiles") -> pd.DataFrame:
    """One table of the paper from a run's folder, shown as text; returns it, one row a cell (see `reports.tables`).

    Args:
        unit: "tiles" or "slides".
    """
    finished(run, tables=str(number))
    return pd.read_csv(run / "tables" / f"table{number}{'' if unit == 'tiles' else '-slides'}.csv")
