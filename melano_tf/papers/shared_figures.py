"""What the figures of several recipes have in common: where they lie, and how curves are headed."""

from collections.abc import Mapping
from pathlib import Path

from matplotlib.figure import Figure

from melano_tf.papers.shell import Work
from melano_tf.reports.curve_figures import Drawn, pr_figure, roc_figure
from melano_tf.reports.figures import save_figure


def saved(work: Work, name: str, figure: Figure) -> list[Path]:
    """Write a figure of the run; returns its file."""
    return [save_figure(work.run.folder / "figures" / f"{name}.png", figure)]


def curves_figure(name: str, panels: Mapping[str, Mapping[str, Drawn]], data: str) -> Figure:
    """Curves of `binary_curve`, {panel: {model: curve}}; data: "PHANTOM images, " and such, or nothing."""
    draw, words = {"roc": (roc_figure, "ROC"), "pr": (pr_figure, "Precision and recall")}[name]
    return draw(panels, pooled_title(words, data))


def pooled_title(what: str, data: str) -> str:
    """The title of a figure of all folds."""
    return f"{what} ({data}all folds pooled; the tables give means over folds)"
