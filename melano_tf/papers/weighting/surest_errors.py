"""The best cell's surest errors on judged images of `--preset ham10000`: what misled it."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from melano_tf.evaluation.multiclass_metrics import decide
from melano_tf.models.tta_and_prior_shift import shifted
from melano_tf.papers.shared_figures import saved
from melano_tf.papers.shell import Work
from melano_tf.papers.weighting.best_cell import BestTraining
from melano_tf.papers.weighting.best_cell_tables import best_folds
from melano_tf.papers.weighting.cohort import WeightingImages
from melano_tf.reports.figures import blank_figure
from melano_tf.runs.predictions import probabilities

EACH = 4  # errors shown of a true class


def draw_errors(work: Work) -> list[Path]:
    """Of each true class the images that the saved decision is surest of, and wrong."""
    folds, cohort = best_folds(work), work.value("cohort")
    errors = surest_errors(folds)
    if errors.empty:
        work.say("no figure of errors: the best cell made none" if folds else "no figure of errors: no best cell")
        return []
    numbers = ", ".join(str(one.fold) for one in folds)
    data = "PHANTOM images" if not work.settings.table else f"fold{'s' * (len(folds) != 1)} {numbers}"
    return saved(work, "best-errors", errors_sheet(errors, cohort, f"The best cell's surest errors ({data})"))


def surest_errors(folds: Sequence[BestTraining], each: int = EACH) -> pd.DataFrame:
    """Wrongly called judged images: of each true class the `each` with the most probable wrong class, one a lesion.

    Returns:
        image_id, group, target, called (class indices; -1 where two are the most probable, which is wrong as in the
        tables), probability (of the called class), surest first in each class.
    """
    frames = []
    for one in folds:
        said = shifted(probabilities(one.mirrored), one.factors["both"])
        own = one.mirrored[["image_id", "group", "target"]].assign(called=decide(said), probability=said.max(axis=1))
        frames.append(own[own["called"] != own["target"]])
    wrong = pd.concat(frames) if frames else pd.DataFrame(columns=["image_id", "group", "target", "called"])
    if wrong.empty:
        return wrong
    ordered = wrong.sort_values(["target", "probability", "image_id"], ascending=[True, False, True])
    return ordered.drop_duplicates("group").groupby("target").head(each).reset_index(drop=True)


def errors_sheet(errors: pd.DataFrame, cohort: WeightingImages, title: str) -> Figure:
    """A row a true class, stored images with what they were called.

    Args:
        errors: from `surest_errors`, not empty.
        cohort: whose images they are.
        title: of the figure.
    """
    shown = [(target, errors[errors["target"] == target]) for target in sorted(set(errors["target"].tolist()))]
    figure = blank_figure(1.75 * EACH + 0.6, 1.95 * len(shown) + 0.6)
    axes = figure.subplots(len(shown), EACH, squeeze=False)
    for axis in axes.ravel():
        axis.set_xticks([])
        axis.set_yticks([])
        axis.set_frame_on(False)
    for row, (target, own) in zip(axes, shown, strict=True):
        row[0].set_ylabel(cohort.classes[target], fontsize=10)
        pictures = cohort.cache.pixels(cohort.cache.rows(own["image_id"].tolist()))
        facts = zip(pictures, own["called"], own["probability"], own["image_id"], strict=True)
        for axis, (picture, called, probability, image) in zip(row, facts, strict=False):
            axis.imshow(np.asarray(picture))
            words = "undecided" if called < 0 else f"called {cohort.classes[int(called)]}"
            axis.set_title(f"{words}, {probability:.2f}\n{image}", fontsize=7)
    figure.suptitle(title, fontsize=11)
    figure.supxlabel(
        "rows: the true class; at most one image a lesion; probabilities as the saved model shifts them", fontsize=7
    )
    return figure
