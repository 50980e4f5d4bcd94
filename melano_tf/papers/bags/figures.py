"""ROC and precision-recall curves and calibration of all models, and maps of attention."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from melano_tf.errors import InputError
from melano_tf.evaluation.binary_intervals import binary_intervals
from melano_tf.evaluation.binary_metrics import confusion, metrics_of_counts
from melano_tf.evaluation.calibration import Reliability, reliability, top_label
from melano_tf.evaluation.curves import average_precision_interval, pr_band, precision_recall, roc, roc_band
from melano_tf.papers.bags.models import raw_probabilities
from melano_tf.papers.bags.settings import BASELINE
from melano_tf.papers.bags.tables import folds_of, pooled
from melano_tf.papers.shell import Work
from melano_tf.reports.attention_maps import attention_map, within_bag
from melano_tf.reports.curve_figures import Drawn, pr_figure, reliability_figure, roc_figure
from melano_tf.reports.figures import save_figure
from melano_tf.runs.predictions import probabilities
from melano_tf.runs.settings_digest import seed_for
from melano_tf.slides.slide import SlideReadError


def draw_curves(work: Work, name: str) -> list[Path]:
    """ROC or precision-recall curves ("roc", "pr") of all models: a panel a class, of two classes the second one."""
    classes = work.value("folds").classes
    shown = [1] if len(classes) == 2 else list(range(len(classes)))
    curve = {"roc": _roc, "pr": _pr}[name]
    panels = {
        f"{classes[place]} against the rest" if len(classes) > 2 else classes[place]: {
            kind: curve(work, pooled(folds_of(work, kind)), place) for kind in work.settings.chosen_models()
        }
        for place in shown
    }
    title = _title("ROC" if name == "roc" else "Precision and recall", work)
    return _saved(work, name, (roc_figure if name == "roc" else pr_figure)(panels, title))


def draw_calibration(work: Work) -> list[Path]:
    """Reliability of every model on all folds, before and after each fold's temperature; a panel a model."""
    panels: dict[str, Mapping[str, Reliability]] = {}
    for kind in work.settings.chosen_models():
        rows = pooled(folds_of(work, kind))
        stages = {"before": raw_probabilities(rows, work.value("folds").classes), "calibrated": probabilities(rows)}
        panels[kind] = {stage: _bins(work, rows, p) for stage, p in stages.items()}
    return _saved(work, "reliability", reliability_figure(panels, _title("Calibration", work)))


def _bins(work: Work, rows: pd.DataFrame, p: np.ndarray) -> Reliability:
    kept = work.settings.evaluation
    y, score = (rows["target"].to_numpy(), p[:, 1]) if p.shape[1] == 2 else top_label(rows["target"], p)
    return reliability(y, score, rows["group"].tolist(), bins=kept.bins, by="mass", level=kept.level)


def _title(what: str, work: Work) -> str:
    features = "PHANTOM features, " if work.settings.features is None else ""
    return f"{what} ({features}all folds pooled; the tables give means over folds)"


def _saved(work: Work, name: str, figure: Figure) -> list[Path]:
    return [save_figure(work.run.folder / "figures" / f"{name}.png", figure)]


def _against(work: Work, rows: pd.DataFrame, place: int) -> tuple[np.ndarray, np.ndarray, list[str], dict, int]:
    """Truth and probability of one class against the rest, groups, and how bands are drawn."""
    kept = {"repeats": work.settings.evaluation.repeats, "level": work.settings.evaluation.level}
    y, p = (rows["target"] == place).to_numpy(), probabilities(rows)[:, place]
    return y, p, rows["group"].tolist(), kept, seed_for(work.settings.seed, "bands")


def _roc(work: Work, rows: pd.DataFrame, place: int) -> Drawn:
    y, p, groups, kept, seed = _against(work, rows, place)
    area = binary_intervals(y, p, groups, ("AUC",), seed=seed, **kept)["AUC"]
    found = metrics_of_counts(confusion(y, (rows["called"] == place).to_numpy(float)))
    band = roc_band(y, p, groups, seed=seed, **kept)
    return Drawn(roc(y, p), band, area, (1 - float(found["SPC"]), float(found["SN"])))


def _pr(work: Work, rows: pd.DataFrame, place: int) -> Drawn:
    y, p, groups, kept, seed = _against(work, rows, place)
    area = average_precision_interval(y, p, groups, seed=seed, **kept)
    found = metrics_of_counts(confusion(y, (rows["called"] == place).to_numpy(float)))
    operating = (float(found["SN"]), float(found["PPV"]))
    usable = None if np.isnan(operating).any() else operating
    return Drawn(precision_recall(y, p), pr_band(y, p, groups, seed=seed, **kept), area, usable)


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
                except (InputError, SlideReadError) as error:
                    work.say(f"  no map of {slide}: {error}")
                    continue
                written.append(save_figure(work.run.folder / "maps" / f"{slide}-attention.png", figure))
    return written
