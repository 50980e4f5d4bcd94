"""Figures of ZooME: ROC and precision-recall curves, calibration, and what each value of the metadata does."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from melano_tf.evaluation.calibration import reliability
from melano_tf.metadata_fields import BY_NAME, NumberField
from melano_tf.papers.settings_values import resampled
from melano_tf.papers.shared_figures import curves_figure, pooled_title, saved
from melano_tf.papers.shell import Work
from melano_tf.papers.zoome.models import FoldTraining
from melano_tf.papers.zoome.networks import proposed
from melano_tf.papers.zoome.settings import ZoomeSettings
from melano_tf.papers.zoome.tables import NETWORKS, folds_of, pooled, value_table
from melano_tf.reports.curve_figures import Drawn, binary_curve, reliability_figure
from melano_tf.reports.figures import blank_figure


def draw_curves(work: Work, name: str, tables: Sequence[int]) -> list[Path]:
    """ROC or precision-recall curves ("roc", "pr") of the networks of these tables, a panel each."""
    settings = work.settings
    panels = {
        f"Table {'I' * number}": {
            row: _curve(name, pooled(folds_of(work, which)), settings)
            for row, which in NETWORKS[number](settings).items()
        }
        for number in tables
    }
    return saved(work, name, curves_figure(name, panels, _data(settings)))


def draw_calibration(work: Work) -> list[Path]:
    """Reliability of ZooME."""
    return saved(work, "reliability", calibration_figure(folds_of(work, proposed(work.settings)), work.settings))


def draw_values(work: Work) -> list[Path]:
    """What each value of the metadata does."""
    values = value_table(folds_of(work, proposed(work.settings)))
    return saved(
        work, "metadata", values_figure(values, pooled_title("What a patient's metadata add", _data(work.settings)))
    )


def _data(settings: ZoomeSettings) -> str:
    return "PHANTOM images, " if not settings.table else ""


def _curve(name: str, rows: pd.DataFrame, settings: ZoomeSettings) -> Drawn:
    """All folds' calibrated probabilities in one curve; the band and the area's interval by patient."""
    y, p, called = (rows[column].to_numpy(float) for column in ("target", "calibrated", "called"))
    return binary_curve(name, y, p, called, rows["group"].tolist(), **resampled(settings, "bands"))


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
    return reliability_figure({"ZooME": bins}, pooled_title("Calibration", _data(settings)))


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
