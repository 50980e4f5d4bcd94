"""Pictures that a report draws itself from a run's predictions and histories: one panel a picture."""

import io
import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from melano_tf.evaluation.calibration import reliability, top_label
from melano_tf.evaluation.curves import precision_recall, roc
from melano_tf.reports.curve_figures import COLOURS, Drawn, binary_curve, pr_figure, reliability_figure, roc_figure
from melano_tf.reports.embedded_pictures import Source
from melano_tf.reports.figures import DPI, blank_figure
from melano_tf.reports.kept_pictures import KeptPictures
from melano_tf.runs.judgements import Judgement

CELLS = 20_000_000  # samples x resamples behind a band: some seconds
RESAMPLES = (100, 1000)
MOST = 12  # models whose curves are drawn
PARTS = re.compile(r"-(?:fold|cohort)-(\d+)$")
LEVEL = 0.95
WORDS = {
    "ROC": "Sensitivity against false alarms, at every threshold.",
    "precision and recall": "Which share of those called are so, against which share of those that are so is called.",
    "calibration": "Of the cases given a probability, how many were so?",
}


def judged_pictures(
    judgements: Sequence[Judgement], seed: int, kept: KeptPictures
) -> tuple[list[Source], list[tuple[str, str]]]:
    """ROC, precision-recall and reliability of each model on its test cases; and (what is not drawn, why)."""
    found: list[Source] = []
    left_out: list[tuple[str, str]] = []
    for place, one in enumerate(judgements):
        if one.frame["target"].nunique() < 2:
            left_out.append((f"{one.name}: ROC, precision and recall, calibration", "its cases are all of one class"))
            continue
        if place >= MOST:
            left_out.append((f"{one.name}: ROC, precision and recall, calibration", f"only the first {MOST} are drawn"))
            continue
        for what, words in WORDS.items():
            of = [what, one.name, one.unit, one.classes, one.frame, seed]
            found.append(Source(f"{one.name}: {what}", words, kept.png(of, partial(_judged_png, what, one, seed))))
    return found, left_out


def _judged_png(what: str, one: Judgement, seed: int) -> bytes:
    text = f"{one.name}: {len(one.frame):,} {one.unit}"
    if what == "calibration":
        return png(_calibration(one, text))
    curves = _curves(one, seed, rising=what == "ROC")
    figure = roc_figure({text: curves}, "") if what == "ROC" else pr_figure({text: curves}, "")
    if what != "ROC" and one.scores.ndim == 2:  # a line of the legend for each class's share says less than it hides
        _without_chance(figure)
    return png(figure)


def _without_chance(figure: Figure) -> None:
    """Leave the shares of the classes out of the legend."""
    [axis] = figure.axes
    kept = [(line, text) for line, text in zip(*axis.get_legend_handles_labels(), strict=True) if "chance" not in text]
    axis.legend(*zip(*kept, strict=True), fontsize=7.5, loc="best")


def _resamples(one: Judgement) -> int:
    least, most = RESAMPLES
    return max(least, min(most, CELLS // max(1, len(one.frame))))


def _curves(one: Judgement, seed: int, rising: bool) -> dict[str, Drawn]:
    """One curve, or one of each class against the rest."""
    truth, scores, groups = one.frame["target"].to_numpy(), one.scores, one.frame["group"].tolist()
    kept: dict[str, Any] = {"repeats": _resamples(one), "level": LEVEL, "seed": seed}
    if scores.ndim == 2:
        names = one.classes or tuple(f"class {k}" for k in range(scores.shape[1]))
        pairs = [(name, truth == k, scores[:, k]) for k, name in enumerate(names)]
        return {name: Drawn(roc(y, p) if rising else precision_recall(y, p)) for name, y, p in pairs}
    name, called = one.classes[1] if one.classes else "positive", one.frame["called"].to_numpy(float)
    return {name: binary_curve("roc" if rising else "pr", truth, scores, called, groups, **kept)}


def _calibration(one: Judgement, text: str) -> Figure:
    truth, scores = one.frame["target"].to_numpy(), one.scores
    happened, p = top_label(truth, scores) if scores.ndim == 2 else (truth, scores)
    stage = "the most probable class" if scores.ndim == 2 else "as given"
    bins = reliability(happened, np.clip(p, 0, 1), one.frame["group"].tolist(), bins=10, by="mass", level=LEVEL)
    return reliability_figure({text: {stage: bins}}, "")


def training_pictures(files: Sequence[Path], kept: KeptPictures) -> list[Source]:
    """Losses by epoch of every training's history, one picture for the folds or cohorts of one network."""
    trainings: dict[str, dict[str, pd.DataFrame]] = {}
    for path in files:
        try:
            frame = pd.read_csv(path)
        except (OSError, ValueError):
            continue
        if "epoch" not in frame or not _losses(frame):
            continue
        part = PARTS.search(path.stem)
        name = path.stem[: part.start()] if part else path.stem
        trainings.setdefault(name, {})[f"{part[0].strip('-').replace('-', ' ')}" if part else ""] = frame
    return [
        Source(f"Loss by epoch: {name}", "", kept.png(["losses", name, parts], partial(_training_png, name, parts)))
        for name, parts in trainings.items()
    ]


def _training_png(name: str, parts: dict[str, pd.DataFrame]) -> bytes:
    return png(_training_figure(name, parts))


def _losses(frame: pd.DataFrame) -> list[str]:
    return [str(name) for name in frame if "loss" in str(name) and pd.api.types.is_numeric_dtype(frame[name])]


def _training_figure(name: str, parts: dict[str, pd.DataFrame]) -> Figure:
    figure = blank_figure(4.3, 3.2)
    axis = figure.subplots()
    for place, (part, frame) in enumerate(parts.items()):
        colour = COLOURS[place % len(COLOURS)]
        for column, style in zip(_losses(frame), ("-", "--", ":", "-."), strict=False):
            label = " ".join(word for word in (part, column.replace("_", " ")) if word)
            marker = "." if len(frame) < 30 else ""
            axis.plot(frame["epoch"] + 1, frame[column], style, color=colour, marker=marker, label=label)
        if "kept" in frame and len(best := frame[frame["kept"] == 1]):
            axis.axvline(float(best["epoch"].iloc[0]) + 1, color=colour, linewidth=0.8, alpha=0.5, label="kept epoch")
    axis.set_xlabel("epoch")
    axis.set_ylabel("loss")
    axis.grid(alpha=0.3)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    if len(axis.get_legend_handles_labels()[0]) > 1:
        axis.legend(fontsize=6.5)
    axis.set_title(name, fontsize=9)
    return figure


def png(figure: Figure) -> bytes:
    """A figure's PNG; the same figure gives the same bytes."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI, metadata={"Software": None})
    return buffer.getvalue()
