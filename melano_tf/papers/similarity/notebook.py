"""What the notebooks in experiments/ share: what is missing in a run's folder, made with that run's settings."""

import functools
from pathlib import Path

import pandas as pd

from melano_tf.papers import notebook
from melano_tf.papers.shell import reproduce
from melano_tf.papers.similarity.settings import RECIPE

__all__ = ["finished", "run_folder", "table_of_run"]


def run_folder(default: str = "runs/similarity") -> Path:
    """The folder given by --run, or the default; what a notebook server puts on the command line is ignored."""
    return notebook.run_folder(default)


def finished(run: Path, tables: str = "none", figures: str = "none") -> None:
    """Make these tables and figures in the run's folder: at once where the run has made what they stand on.

    A folder without a run gets the demo on phantom images.
    """
    notebook.complete(
        run,
        RECIPE.preset("demo"),
        functools.partial(reproduce, RECIPE),
        tables=tables,
        figures=figures,
        steps="tables,figures",
    )


def table_of_run(run: Path, number: int) -> pd.DataFrame:
    """One table of the paper from a run's folder, shown as text; returns it, one row a cell (see `reports.tables`)."""
    finished(run, tables=str(number))
    return pd.read_csv(run / "tables" / f"table{number}.csv")
