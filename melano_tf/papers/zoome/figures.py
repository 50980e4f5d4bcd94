"""Figures of ZooME: ROC and precision-recall curves, calibration, and what each value of the metadata does."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from melano_tf.evaluation.binary_intervals import binary_intervals
from melano_tf.evaluation.binary_metrics import confusion, metrics_of_counts
from melano_tf.evaluation.calibration import reliability
from melano_tf.evaluation.curves import (
    average_precision_interval,
    pr_band,
    precision_recall,
    roc,
    roc_band,
)
from melano_tf.metadata_fields import BY_NAME, NumberField
from melano_tf.papers.shell import Work
from melano_tf.papers.zoome.models import FoldTraining, proposed
from melano_tf.papers.zoome.settings import ZoomeSettings
from melano_tf.papers.zoome.tables import NETWORKS, folds_of, pooled, value_table
from melano_tf.reports.curve_figures import Drawn, pr_figure, reliability_figure, roc_figure
from melano_tf.reports.figures import blank_figure, save_figure
from melano_tf.runs.settings_digest import seed_for


def draw_curves(work: Work, name: str, tables: Sequence[int]) -> list[Path]:
    """ROC or precision-recall curves ("roc", "pr") of the networks of these tables, a panel each."""
    settings = work.settings
    kept = {"repeats": settings.evaluation.repeats, "level": settings.evaluation.level}
    seed, curve = seed_for(settings.seed, "bands"), {"roc": _roc, "pr": _pr}[name]
    panels = {
        f"Table {'I' * number}": {
            row: curve(pooled(folds_of(work, which)), kept, seed) for row, which in NETWORKS[number](settings).items()
        }
        for number in tables
    }
    if name == "roc":
        return saved(work, name, roc_figure(panels, _title("ROC", settings)))
    return saved(work, name, pr_figure(panels, _title("Precision and recall", settings)))


def draw_calibration(work: Work) -> list[Path]:
    """Reliability of ZooME."""
    return saved(work, "reliability", calibration_figure(folds_of(work, proposed(work.settings)), work.settings))


def draw_values(work: Work) -> list[Path]:
    """What each value of the metadata does."""
    values = value_table(folds_of(work, proposed(work.settings)))
    return saved(work, "metadata", values_figure(values, _title("What a patient's metadata add", work.settings)))


def saved(work: Work, name: str, figure: Figure) -> list[Path]:
    """Write a figure; returns its file."""
    return [save_figure(work.run.folder / "figures" / f"{name}.png", figure)]


def _title(what: str, settings: ZoomeSettings) -> str:
    images = "PHANTOM images, " if not settings.table else ""
    return f"{what} ({images}all folds pooled; the tables give means over folds)"


def _roc(rows: pd.DataFrame, kept: dict, seed: int) -> Drawn:
    """All folds' calibrated probabilities in one curve; the band and the area's interval by patient."""
    y, p, groups = rows["target"].to_numpy(), rows["calibrated"].to_numpy(), rows["group"].tolist()
    area = binary_intervals(y, p, groups, ("AUC",), seed=seed, **kept)["AUC"]
    found = metrics_of_counts(confusion(y, rows["called"].to_numpy(float)))
    return Drawn(
        roc(y, p), roc_band(y, p, groups, seed=seed, **kept), area, (1 - float(found["SPC"]), float(found["SN"]))
    )


def _pr(rows: pd.DataFrame, kept: dict, seed: int) -> Drawn:
    y, p, groups = rows["target"].to_numpy(), rows["calibrated"].to_numpy(), rows["group"].tolist()
    area = average_precision_interval(y, p, groups, seed=seed, **kept)
    found = metrics_of_counts(confusion(y, rows["called"].to_numpy(float)))
    operating = (float(found["SN"]), float(found["PPV"]))
    usable = None if np.isnan(operating).any() else operating
    return Drawn(precision_recall(y, p), pr_band(y, p, groups, seed=seed, **kept), area, usable)


def calibration_figure(folds: Sequence[FoldTraining], settings: ZoomeSettings) -> Figure:
    """ZooME's reliability on all folds, before and after the temperature of each fold's inner hold-out."""
    rows = pooled(folds)
    stages = {"before": "probability", "after temperature scaling": "calibrated"}
    if not settings.decision.calibrate:
        stages = {"not calibrated": "probability"}
    bins = {
        stage: reliability(
            rows["target"],
            rows[column],
            rows["group"].tolist(),
            bins=settings.evaluation.bins,
            by="mass",
            level=settings.evaluation.level,
        )
        for stage, column in stages.items()
    }
    return reliability_figure({"ZooME": bins}, _title("Calibration", settings))


def values_figure(values: pd.DataFrame, title: str) -> Figure:
    """Change of the log-odds of melanoma if everybody had a value, against "unknown"; one panel a field.

    Args:
        values: from `tables.value_table`.
        title: of the figure.
    """
    fields = list(dict.fromkeys(values["field"]))
    tallest = max(int((values["field"] == field).sum()) for field in fields)
    figure = blank_figure(5.0 * len(fields), 0.42 * tallest + 1.6)
    for axis, field in zip(figure.subplots(1, len(fields), squeeze=False)[0], fields, strict=True):
        part = values[(values["field"] == field) & (values["value"] != "unknown")].reset_index(drop=True)
        places = np.arange(len(part))[::-1]
        axis.axvline(0, color="0.6", linewidth=1.0)
        axis.hlines(places, part["lowest"], part["highest"], color="#0072b2", linewidth=2, alpha=0.6)
        axis.plot(part["against_unknown"], places, "o", color="#0072b2")
        names = [
            f"{value}{_unit(field)} ({images} images)"
            for value, images in zip(part["value"], part["images"], strict=True)
        ]
        axis.set_yticks(places, names, fontsize=8)
        axis.set_ylim(-0.7, len(part) - 0.3)
        axis.locator_params(axis="x", nbins=6)
        axis.set_xlabel('change of log-odds against "unknown"')
        axis.set_title(field, fontsize=10)
        axis.grid(axis="x", alpha=0.3)
    figure.suptitle(title, fontsize=11)
    figure.supxlabel("points: all judged images given this value; lines: lowest to highest fold", fontsize=8)
    return figure


def _unit(field: str) -> str:
    one = BY_NAME[field]
    return f" {one.unit}" if isinstance(one, NumberField) else ""
