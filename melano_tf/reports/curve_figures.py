"""Figures of curves: ROC, precision-recall, reliability; several panels, several models in each."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from melano_tf.evaluation.binary_intervals import binary_intervals
from melano_tf.evaluation.binary_metrics import confusion, format_value, metrics_of_counts
from melano_tf.evaluation.calibration import Reliability
from melano_tf.evaluation.curves import (
    Band,
    PrCurve,
    RocCurve,
    average_precision_interval,
    pr_band,
    precision_recall,
    roc,
    roc_band,
)
from melano_tf.evaluation.interval import Interval
from melano_tf.reports.figures import blank_figure

COLUMNS = 3
# Colours that the colour-blind tell apart (Wong, 2011), black first; his yellow is hard to see on white: a dark purple.
COLOURS = ("#000000", "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#5b2a86")
CHANCE: dict[str, Any] = {"color": "0.6", "linewidth": 1.0, "linestyle": (0, (4, 3)), "zorder": 1}


@dataclass(frozen=True)
class Drawn:
    """One curve of a panel.

    Attributes:
        curve: a ROC or a PR curve.
        band: its bootstrap band, or None.
        area: the interval of the area (or average precision) in the legend; None: the curve's own value alone.
        operating: (x, y) of the decision in use: (1 - specificity, sensitivity) or (recall, precision); or None.
    """

    curve: RocCurve | PrCurve
    band: Band | None = None
    area: Interval | None = None
    operating: tuple[float, float] | None = None


def binary_curve(
    name: str, y: NDArray[Any], p: NDArray[Any], called: NDArray[Any], groups: Sequence[str], **bands: Any
) -> Drawn:
    """A ROC or precision-recall curve ("roc", "pr") with its band, its area's interval and the point of the decisions.

    Args:
        name: which.
        y, p, called: labels of 0 and 1, probabilities, and decisions of 0 and 1, (n,) each.
        groups: the patient of each, (n,).
        bands: repeats, level and seed of `roc_band`.
    """
    found = metrics_of_counts(confusion(y, called))
    sensitivity, specificity, precision = (float(found[name]) for name in ("SN", "SPC", "PPV"))
    if name == "roc":
        area = binary_intervals(y, p, groups, ("AUC",), **bands)["AUC"]
        return Drawn(roc(y, p), roc_band(y, p, groups, **bands), area, (1 - specificity, sensitivity))
    area = average_precision_interval(y, p, groups, **bands)
    point = None if math.isnan(sensitivity + precision) else (sensitivity, precision)
    return Drawn(precision_recall(y, p), pr_band(y, p, groups, **bands), area, point)


def roc_figure(panels: Mapping[str, Mapping[str, Drawn]], title: str) -> Figure:
    """ROC curves; each legend line has the area under its curve.

    Args:
        panels: {panel: {model: curve}}; up to three panels a line.
        title: of the figure.

    Raises:
        ValueError: there is no panel.
    """

    def draw(axis: Axes, models: Mapping[str, Drawn]) -> None:
        axis.plot([0, 1], [0, 1], label="chance", **CHANCE)
        for (name, drawn), colour in zip(models.items(), _colours(models), strict=True):
            if not isinstance(drawn.curve, RocCurve):
                raise ValueError(f"{name}: a ROC figure needs a RocCurve")
            label = f"{name}: AUC {_area(drawn.curve.area, drawn.area)}"
            if math.isnan(drawn.curve.area):
                axis.plot([], [], color=colour, label=label)
                continue
            axis.plot(drawn.curve.fpr, drawn.curve.tpr, color=colour, linewidth=1.5, label=label, zorder=3)
            _extras(axis, drawn, colour)
        axis.set_xlabel("1 - specificity")
        axis.set_ylabel("sensitivity")
        _square(axis)
        axis.legend(fontsize=7.5, loc="lower right")

    return _panels(panels, title, draw, _note([d for models in panels.values() for d in models.values()]))


def pr_figure(panels: Mapping[str, Mapping[str, Drawn]], title: str) -> Figure:
    """Precision-recall curves, interpolated after Davis & Goadrich; each legend line has the average precision.

    Args:
        panels: {panel, for example a class: {model: curve}}; up to three panels a line.
        title: of the figure.

    Raises:
        ValueError: there is no panel.
    """

    def draw(axis: Axes, models: Mapping[str, Drawn]) -> None:
        shares = []
        for (name, drawn), colour in zip(models.items(), _colours(models), strict=True):
            if not isinstance(drawn.curve, PrCurve):
                raise ValueError(f"{name}: a PR figure needs a PrCurve")
            axis.plot(
                *drawn.curve.line(),
                color=colour,
                linewidth=1.5,
                label=f"{name}: AP {_area(drawn.curve.average_precision, drawn.area)}",
                zorder=3,
            )
            if not math.isnan(drawn.curve.average_precision):
                shares.append(round(drawn.curve.prevalence, 6))
                _extras(axis, drawn, colour)
        for share in sorted(set(shares)):
            axis.axhline(share, label=f"chance: {share:.3g}", **CHANCE)
        axis.set_xlabel("recall (sensitivity)")
        axis.set_ylabel("precision (positive predictive value)")
        _square(axis)
        axis.legend(fontsize=7.5, loc="best")

    return _panels(panels, title, draw, _note([d for models in panels.values() for d in models.values()]))


def reliability_figure(panels: Mapping[str, Mapping[str, Reliability]], title: str) -> Figure:
    """Reliability diagrams: observed share against predicted probability, and how many samples lie where.

    Args:
        panels: {panel: {stage, for example "before", "after temperature scaling": bins}}; one column a panel.
        title: of the figure.

    Raises:
        ValueError: there is no panel.
    """
    if not panels:
        raise ValueError("a reliability figure needs at least one panel")
    limit = _limit([bins for stages in panels.values() for bins in stages.values()])
    figure = blank_figure(4.6 * len(panels) + 0.3, 6.6)
    grid = figure.subplots(2, len(panels), squeeze=False, height_ratios=(4, 1))
    for (name, stages), upper, lower in zip(panels.items(), *grid, strict=True):
        upper.plot([0, limit], [0, limit], label="perfect", **CHANCE)
        for (stage, bins), colour in zip(stages.items(), _colours(stages), strict=True):
            # Tables have another ECE: in 15 bins of equal width, and the mean over folds.
            label = f"{stage}: ECE of these {len(bins.count)} bins {format_value(bins.expected_error)}"
            upper.plot(bins.predicted, bins.observed, "o-", color=colour, markersize=4, linewidth=1.2, label=label)
            known = ~np.isnan(bins.low)
            upper.vlines(bins.predicted[known], bins.low[known], bins.high[known], color=colour, alpha=0.5)
            _histogram(lower, bins, colour)
        upper.set_title(name, fontsize=10)
        upper.set_ylabel("observed share")
        upper.set_ylim(0, limit)
        upper.legend(fontsize=7.5, loc="upper left")
        lower.set_xlabel("predicted probability")
        lower.set_ylabel("samples")
        most = max((int(bins.count.max()) for bins in stages.values() if len(bins.count)), default=1)
        lower.set_yscale("symlog", linthresh=1)
        lower.set_ylim(0, 3 * most)
        # Both of one width: the same probability stands at the same place.
        for axis, aspect in ((upper, 1.0), (lower, 0.22)):
            axis.set_box_aspect(aspect)
            axis.set_xlim(0, limit)
            axis.grid(alpha=0.3)
    figure.suptitle(title, fontsize=11)
    levels = {f"{b.level:.0%}" for stages in panels.values() for b in stages.values() if not np.isnan(b.low).all()}
    if levels:
        figure.supxlabel(f"lines: {' and '.join(sorted(levels))} Wilson intervals by group, each bin's own", fontsize=8)
    return figure


def _histogram(axis: Axes, bins: Reliability, colour: str) -> None:
    """Outline of the bins' counts; empty bins, which are not in `bins`, count 0."""
    heights: list[int] = []
    edges: list[float] = []
    for low, high, count in zip(bins.low_edge, bins.high_edge, bins.count, strict=True):
        if edges and edges[-1] == low:
            heights.append(int(count))
            edges.append(high)
        else:
            heights += [0, int(count)] if edges else [int(count)]
            edges += [low, high]
    if edges:
        axis.stairs(heights, edges, color=colour, linewidth=1.2)


def _limit(bins: list[Reliability]) -> float:
    """End of both axes: 1, or a tenth that holds all points where every one of them lies far below."""
    values = [v for one in bins for v in (*one.predicted, *one.observed, *one.high) if not math.isnan(v)]
    return min(1.0, math.ceil(max(values, default=1.0) * 10 + 0.2) / 10)


def _panels(
    panels: Mapping[str, Mapping[str, Drawn]], title: str, draw: Callable[[Axes, Mapping[str, Drawn]], None], note: str
) -> Figure:
    if not panels:
        raise ValueError("a figure of curves needs at least one panel")
    columns = min(COLUMNS, len(panels))
    rows = math.ceil(len(panels) / columns)
    figure = blank_figure(4.3 * columns + 0.3, 4.3 * rows + 0.7)
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for axis, (name, models) in zip(axes, panels.items(), strict=False):
        draw(axis, models)
        axis.set_title(name, fontsize=10)
    for axis in axes[len(panels) :]:
        axis.set_axis_off()
    figure.suptitle(title, fontsize=11)
    if note:
        figure.supxlabel(note, fontsize=8)
    return figure


def _colours(names: Mapping[str, object]) -> list[str]:
    return [COLOURS[i % len(COLOURS)] for i in range(len(names))]


def _area(value: float, interval: Interval | None) -> str:
    text = format_value(value, 3)
    if interval is None or not interval.high > interval.low:
        return text
    return f"{text} ({format_value(interval.low, 3)} to {format_value(interval.high, 3)})"


def _extras(axis: Axes, drawn: Drawn, colour: str) -> None:
    if drawn.band is not None:
        axis.fill_between(
            drawn.band.x, drawn.band.low, drawn.band.high, color=colour, alpha=0.13, linewidth=0, zorder=2
        )
    if drawn.operating is not None:
        axis.plot(*drawn.operating, "o", color=colour, markersize=7, markerfacecolor="white", zorder=4)


def _square(axis: Axes) -> None:
    axis.set_xlim(-0.01, 1.01)
    axis.set_ylim(-0.01, 1.01)
    axis.set_aspect("equal")
    axis.grid(alpha=0.3)
    for side in (axis.xaxis, axis.yaxis):
        side.set_major_locator(MaxNLocator(5))


def _note(drawn: list[Drawn]) -> str:
    """What the marks mean, as far as they are drawn."""
    bands = [one.band for one in drawn if one.band is not None]
    parts = []
    if bands:
        levels = " and ".join(sorted({f"{band.level:.0%}" for band in bands}))
        groups = " and ".join(str(count) for count in sorted({band.groups for band in bands}))
        parts.append(f"bands: pointwise {levels} bootstrap of {groups} groups")
    if any(one.operating is not None for one in drawn):
        parts.append("circles: the threshold in use")
    return "; ".join(parts)
