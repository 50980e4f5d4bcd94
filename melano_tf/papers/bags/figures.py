"""ROC and precision-recall curves and calibration of all models, and maps of attention."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from melano_tf.errors import InputError
from melano_tf.evaluation.calibration import Reliability, reliability, top_label
from melano_tf.papers.bags.models import raw_probabilities
from melano_tf.papers.bags.settings import BASELINE
from melano_tf.papers.bags.tables import folds_of, pooled
from melano_tf.papers.settings_values import resampled
from melano_tf.papers.shared_figures import curves_figure, pooled_title, saved
from melano_tf.papers.shell import Work
from melano_tf.reports.attention_maps import attention_map, within_bag
from melano_tf.reports.curve_figures import Drawn, binary_curve, reliability_figure
from melano_tf.reports.figures import save_figure
from melano_tf.runs.predictions import probabilities


def draw_curves(work: Work, name: str) -> list[Path]:
    """ROC or precision-recall curves ("roc", "pr") of all models: a panel a class, of two classes the second one."""
    classes = work.value("folds").classes
    shown = [1] if len(classes) == 2 else list(range(len(classes)))
    panels = {
        f"{classes[place]} against the rest" if len(classes) > 2 else classes[place]: {
            kind: _curve(name, work, pooled(folds_of(work, kind)), place) for kind in work.settings.chosen_models()
        }
        for place in shown
    }
    return saved(work, name, curves_figure(name, panels, _data(work)))


def draw_calibration(work: Work) -> list[Path]:
    """Reliability of every model on all folds, before and after each fold's temperature; a panel a model."""
    panels: dict[str, Mapping[str, Reliability]] = {}
    for kind in work.settings.chosen_models():
        rows = pooled(folds_of(work, kind))
        stages = {"before": raw_probabilities(rows, work.value("folds").classes), "calibrated": probabilities(rows)}
        if not work.settings.decision.calibrate:
            stages = {"not calibrated": probabilities(rows)}
        panels[kind] = {stage: _bins(work, rows, p) for stage, p in stages.items()}
    return saved(work, "reliability", reliability_figure(panels, pooled_title("Calibration", _data(work))))


def _bins(work: Work, rows: pd.DataFrame, p: np.ndarray) -> Reliability:
    kept = work.settings.evaluation
    y, score = (rows["target"].to_numpy(), p[:, 1]) if p.shape[1] == 2 else top_label(rows["target"], p)
    return reliability(y, score, rows["group"].tolist(), bins=kept.bins, by="mass", level=kept.level)


def _data(work: Work) -> str:
    return "PHANTOM features, " if work.settings.features is None else ""


def _curve(name: str, work: Work, rows: pd.DataFrame, place: int) -> Drawn:
    """One class against the rest."""
    y, called = ((rows[column] == place).to_numpy(float) for column in ("target", "called"))
    p, bands = probabilities(rows)[:, place], resampled(work.settings, "bands")
    return binary_curve(name, y, p, called, rows["group"].tolist(), **bands)


def mapped_model(work: Work) -> str | None:
    """The model whose attention is mapped: the one for use if it was judged, else the first that attends."""
    able = [kind for kind in work.settings.chosen_models() if kind not in (BASELINE, "bgap")]
    return work.settings.final if work.settings.final in able else next(iter(able), None)


def mapped_bags(work: Work) -> list[str]:
    """Bags to be mapped: the first of each class in the table's order, in turn."""
    bags = work.value("folds").bags
    rows = pd.DataFrame({"case": list(bags.ids), "label": bags.labels})
    rows["turn"] = rows.groupby("label").cumcount()
    return rows.sort_values(["turn", "label"], kind="stable")["case"].tolist()[: work.settings.evaluation.maps]


def draw_maps(work: Work) -> list[Path]:
    """Attention of the judged bags over their slides, or over the tiles' own lattice where no slide is given."""
    kind, written = mapped_model(work), []
    if kind is None:
        work.say("maps are not drawn: none of the models attends to instances")
        return []
    found, chosen = work.value("read"), mapped_bags(work)
    slides, files = found.slides, {file.slide_id: file for file in found.cohort.files}
    for one in folds_of(work, kind):
        targets = dict(zip(one.predictions["case"], zip(one.truth, one.calibrated, strict=True), strict=True))
        for case, own in one.attention[one.attention["case"].isin(chosen)].groupby("case", sort=False):
            values = within_bag(own["attention"])
            for slide, places in own.reset_index(drop=True).groupby("slide_id", sort=False).groups.items():
                target, p = targets[str(case)]
                given = f"given {p[target]:.2f} by {kind}, which did not see the patient"
                title = f"{slide}: {one.card.classes[target]} in the table, {given}"
                try:
                    figure = attention_map(files[str(slide)], values[places], slides, title)
                except InputError as error:
                    work.say(f"  no map of {slide}: {error}")
                    continue
                written.append(save_figure(work.run.folder / "maps" / f"{slide}-attention.png", figure))
    return written
