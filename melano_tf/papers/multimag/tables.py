"""Tables 1 to 4 of the paper, by tile and by slide, each beside the published numbers; and two tables of our own."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from melano_tf.evaluation.binary_intervals import binary_intervals
from melano_tf.evaluation.interval import Interval
from melano_tf.evaluation.multiclass_metrics import decide
from melano_tf.evaluation.slide_scores import (
    AGGREGATIONS,
    FUSIONS,
    How,
    fuse,
    magnified_slide_scores,
    slide_threshold,
)
from melano_tf.papers.multimag.experiments import left_out, trained_of
from melano_tf.papers.multimag.models import TaskTraining
from melano_tf.papers.multimag.settings import RECIPE, EvaluationSettings, MultimagSettings
from melano_tf.papers.settings_values import resampled
from melano_tf.papers.shared_tables import differing, in_place_of, show, whose
from melano_tf.papers.shell import Work
from melano_tf.reports.published_numbers import load_published
from melano_tf.reports.tables import Headline, Table, interval_table
from melano_tf.runs.predictions import probability_columns

METRICS = ("F1S", "SN", "SPC", "AUC", "PPV")
PRINTED: Mapping[str, str | None] = {"F1S": "F1", "SN": "Sensitivity", "SPC": "Specificity", "PPV": None}
PAPERS = ("ResNet50", "Vgg19")
TITLES = {  # and what each shows, for a reader who was not there
    1: ("Table 1: melanoma against nevi at each magnification", "Melanoma against nevi at each magnification"),
    2: (
        "Table 2: melanoma against nevi, tiles of all magnifications mixed",
        "One network for tiles of all magnifications",
    ),
    3: ("Table 3: melanoma against each nevus at 40x", "Melanoma against one nevus at a time"),
    4: ("Table 4: the three nevi at 40x, each against the other two", "The three nevi, each against the other two"),
}
FIRST = {  # by tile those that the paper's text gives; it does not say whether they are of tiles or of slides
    "": tuple(
        Headline(row, "40x ResNet50", f"melanoma by tile, 40x ResNet50: {words}")
        for row, words in (("AUC", "ROC AUC"), ("F1S", "F1"), ("SN", "sensitivity"), ("SPC", "specificity"))
    ),
    "-slides": tuple(
        Headline("AUC", f"{name} ResNet50", f"melanoma by slide, {name} ResNet50: ROC AUC")
        for name in ("40x", "20x", "10x", "4x")
    ),
}
OF = {"tiles": "tiles of the test part", "slides": "slides of the test part"}
JUDGED = {
    "tiles": "Tiles: those that the experiment's quota left of the test part, inside the slides' outlines.",
    "slides": "A slide is judged as predict does it, by all its tiles with enough tissue, also those beyond the quota "
    "and outside its outlines; of several magnifications each counts alike. One without such a tile at a magnification "
    "is not in that column (predict takes its fullest one).",
}
WORDS = {"mean": "mean probability", "majority": "majority of tiles", "top": "mean of the top tiles"}
FUSED = {"mean": "mean of probabilities", "log-odds": "mean of log-odds"}
Intervals = dict[str, Interval]


def write_paper_tables(work: Work, number: int) -> list[Path]:
    """One table of the paper, by tile and by slide."""
    written: list[Path] = []
    title, words = TITLES[number]
    for unit, of in OF.items():
        behind = "" if unit == "tiles" else "-slides"
        table = Table(
            f"{title} ({of})",
            paper_table(number, trained_of(work, number), work.settings, unit),
            (*notes_on(number, work), how_judged(work.settings, unit), *left_out(work, number)),
            f"{words}, by {unit.removesuffix('s')}.",
            headlines=FIRST[behind] if number == 1 else (),
            part="test",
        )
        written += show(work, f"table{number}{behind}", table)
    return written


def write_aggregation(work: Work, numbers: Sequence[int]) -> list[Path]:
    """Ways from a slide's tiles to its probability, of the models of these tables."""
    compared = [one for number in numbers for one in trained_of(work, number)]
    top = f"Top tiles: the {work.settings.evaluation.top} most probable of a slide."
    table = Table(
        "Slide aggregation: three ways from a slide's tiles to its probability of melanoma",
        aggregation_table(compared, work.settings),
        (*notes_on(0, work), JUDGED["slides"], top),
        "Three ways from a slide's tiles to its probability.",
        part="test",
    )
    return show(work, "aggregation", table)


def write_fusion(work: Work) -> list[Path]:
    """A slide judged by all its magnifications, where there are several."""
    trained = trained_of(work, 1)
    if len(trained) == len(work.settings.model.backbones):
        return []
    lacking = (
        "A slide without tiles at a magnification is judged by the others; the columns of single magnifications "
        "judge only the slides that they have."
    )
    table = Table(
        "Late fusion (beyond the paper): a slide judged by all its magnifications together",
        fusion_table(trained, work.settings),
        (*notes_on(0, work), how_judged(work.settings, "slides"), lacking),
        "A slide judged by all its magnifications together (beyond the paper).",
        part="test",
    )
    return show(work, "fusion", table)


def notes_on(number: int, work: Work) -> list[str]:
    """What a reader must know of the data and settings behind a table (0: one of our own)."""
    settings, split = work.settings, work.value("cohort").split
    notes = [whose(RECIPE, settings)]
    training, validation = split.folds
    notes.append(
        f"{len(training)} training, {len(validation)} validation and {len(split.test)} test patients; "
        f"test: {', '.join(split.test[:40])}{' …' if len(split.test) > 40 else ''}."
    )
    networks = zip(PAPERS, settings.model.backbones, strict=False)
    notes += in_place_of((paper, paper.lower(), used) for paper, used in networks)
    if number:
        notes.append("SN is sensitivity and recall, PPV is precision; the paper prints no precision.")
        notes.append("The paper does not say whether its numbers are of tiles or of slides; they stand beside both.")
    if number == 3:
        notes.append(
            "Every printed AUC of this table lies below (SE + SP)/2: its ROC curve would have to sag below the "
            "straight lines through that point."
        )
    return [*notes, *differing(RECIPE, settings)]


def how_judged(settings: MultimagSettings, unit: str) -> str:
    """By which tiles a table judges, and what these make of a slide where that is not their mean."""
    how = settings.evaluation.aggregation
    if unit == "tiles" or how == "mean":
        return JUDGED[unit]
    return f"{JUDGED[unit]} A magnification's tiles make its {WORDS[how]}, here and in predict."


def network(backbone: str, settings: MultimagSettings) -> str:
    """A backbone's name in the tables: that of the paper's network whose place it takes, or its own."""
    return dict(zip(settings.model.backbones, PAPERS, strict=False)).get(backbone, backbone)


def column(one: TaskTraining, settings: MultimagSettings, label: str = "") -> str:
    """A model's published column; in Table 4 that of one of its classes."""
    return " ".join(part for part in (one.task.title or label, network(one.backbone, settings)) if part)


def paper_table(number: int, trained: Sequence[TaskTraining], settings: MultimagSettings, unit: str) -> pd.DataFrame:
    """One table of the paper, by tile or by slide."""
    models: dict[str, Intervals] = {}
    for one in trained:
        for label, frame in judged(one, settings, unit).items():
            models[column(one, settings, label)] = intervals(frame, settings)
    frame = interval_table(models, load_published("multimag"), number, published_as=PRINTED, metrics=METRICS)
    # Ours come in the paper's order too: of Table 1 only one column is printed.
    order = {name: place for place, name in enumerate(models)}
    metric = {name: place for place, name in enumerate(METRICS)}
    keys = pd.DataFrame({"m": frame["row"].map(metric), "c": frame["column"].map(order).fillna(len(order))})
    return frame.loc[keys.sort_values(["m", "c"], kind="stable").index].reset_index(drop=True)


def judged(one: TaskTraining, settings: MultimagSettings, unit: str) -> dict[str, pd.DataFrame]:
    """What is judged of a model on the test part: for two classes "" (melanoma), for three each class by its name.

    Each frame has patient_id, truth (0 or 1), score, and called (0 or 1): of two classes by the threshold, of three by
    the highest score.
    """
    evaluation = settings.evaluation
    columns = score_columns(one)
    rows = one.tested() if unit == "tiles" else judged_slides(one, evaluation)
    if one.task.binary:
        score = rows[columns[0]].to_numpy()
        limit = evaluation.threshold if unit == "tiles" else slide_limit(evaluation)
        return {"": _frame(rows, rows["target"] == 1, score, score >= limit)}
    decided = decide(rows[columns].to_numpy())
    return {
        name: _frame(rows, rows["target"] == k, rows[columns[k]].to_numpy(), decided == k)
        for k, name in enumerate(one.task.class_names)
    }


def judged_slides(one: TaskTraining, evaluation: EvaluationSettings) -> pd.DataFrame:
    """One row a test slide, its scores from all its tiles: the mean over magnifications, as `predict` fuses them."""
    how = evaluation.aggregation, evaluation.top, evaluation.threshold
    return magnified_slide_scores(one.tested_whole(), score_columns(one), *how)


def slide_limit(evaluation: EvaluationSettings) -> float:
    """From which score on a slide is called melanoma."""
    return slide_threshold(evaluation.aggregation, evaluation.threshold)


def score_columns(one: TaskTraining) -> list[str]:
    """The probability columns that make a slide's score: melanoma's, or all of more than two classes."""
    columns = probability_columns(one.predictions)
    return columns[1:] if one.task.binary else columns


def _frame(rows: pd.DataFrame, truth: pd.Series, score: np.ndarray, called: np.ndarray) -> pd.DataFrame:
    values = {"truth": truth.to_numpy(int), "score": score, "called": called.astype(float)}
    return pd.DataFrame({"patient_id": rows["patient_id"].to_numpy(), **values})


def intervals(frame: pd.DataFrame, settings: MultimagSettings) -> Intervals:
    """Metrics with intervals by patient: the decisions as they were made, the AUC by the scores."""
    patients, common = frame["patient_id"].tolist(), resampled(settings)
    decided = [name for name in METRICS if name != "AUC"]
    found = binary_intervals(frame["truth"], frame["called"], patients, decided, threshold=0.5, **common)
    return found | binary_intervals(frame["truth"], frame["score"], patients, ["AUC"], **common)


def aggregation_table(trained: Sequence[TaskTraining], settings: MultimagSettings) -> pd.DataFrame:
    """ROC AUC and F1 of slides by each way of aggregation, a row a model."""
    models: dict[str, Intervals] = {WORDS[how]: {} for how in AGGREGATIONS}
    for one in trained:
        for how in AGGREGATIONS:
            asked = _with_aggregation(settings, how)
            found = intervals(judged(one, asked, "slides")[""], settings)
            name = f"{network(one.backbone, settings)} at {one.task.title or 'all, mixed'}"
            models[WORDS[how]] |= {f"{name}: ROC AUC": found["AUC"], f"{name}: F1S": found["F1S"]}
    rows = list(dict.fromkeys(row for found in models.values() for row in found))
    return interval_table(models, load_published("multimag"), 0, published_as={}, metrics=rows)


def _with_aggregation(settings: MultimagSettings, how: How) -> MultimagSettings:
    return dataclasses.replace(settings, evaluation=dataclasses.replace(settings.evaluation, aggregation=how))


def fusion_table(trained: Sequence[TaskTraining], settings: MultimagSettings) -> pd.DataFrame:
    """Slides judged at each magnification and by all of them together, a row a backbone and metric."""
    models: dict[str, Intervals] = {}
    for backbone in settings.model.backbones:
        own = [one for one in trained if one.backbone == backbone]
        frames = {one.task.title: judged(one, settings, "slides")[""] for one in own}
        slides = fused_slides(own, settings)
        for how in FUSIONS:
            score = fuse(slides[[one.task.title for one in own]].to_numpy(), how)
            frames[FUSED[how]] = _frame(slides, slides["target"] == 1, score, score >= slide_limit(settings.evaluation))
        name = network(backbone, settings)
        for title, frame in frames.items():
            found = intervals(frame, settings)
            models.setdefault(title, {}).update(
                {f"{name}: {'ROC AUC' if m == 'AUC' else m}": found[m] for m in METRICS}
            )
    rows = list(dict.fromkeys(row for found in models.values() for row in found))
    return interval_table(models, load_published("multimag"), 0, published_as={}, metrics=rows)


def fused_slides(trained: Sequence[TaskTraining], settings: MultimagSettings) -> pd.DataFrame:
    """One row a test slide: slide_id, patient_id, target, and its probability at each magnification (NaN: no tiles)."""
    whole = pd.concat([judged_slides(one, settings.evaluation).assign(title=one.task.title) for one in trained])
    [melanoma] = score_columns(trained[0])
    scores = whole.pivot_table(index=["slide_id", "patient_id", "target"], columns="title", values=melanoma)
    return scores.reindex(columns=[one.task.title for one in trained]).reset_index()
