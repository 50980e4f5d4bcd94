"""Tables 1 to 5 of the paper, each beside the published numbers."""

from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from melano_tf.evaluation.binary_intervals import binary_intervals
from melano_tf.evaluation.binary_metrics import binary_metrics
from melano_tf.papers.settings_values import resampled
from melano_tf.papers.shared_tables import differing, in_place_of, show, whose
from melano_tf.papers.shell import Work
from melano_tf.papers.spitzoid.cohort import SpitzoidSlides
from melano_tf.papers.spitzoid.settings import AGGREGATIONS, RECIPE, SpitzoidSettings
from melano_tf.papers.spitzoid.source_model import SourceModel, chosen, judged, table_2, table_3
from melano_tf.papers.spitzoid.target_model import target_of
from melano_tf.reports.published_numbers import load_published
from melano_tf.reports.tables import (
    AUC_IS_BALANCED_ACCURACY,
    Headline,
    Table,
    count_table,
    interval_table,
    metric_table,
    split_note,
)

TITLES = {  # and what each shows, for a reader who was not there
    1: ("Table 1: the database", "Who was studied."),
    2: (
        "Table 2: backbones of the source model, without and with SeaNet (tiles, validation)",
        "Is a tile tumour? Backbones without and with the paper's attention (SeaNet), on patients that no training "
        "saw.",
    ),
    3: (
        "Table 3: projection heads of the source model (tiles, validation)",
        "The same with three ways from a feature map to a decision.",
    ),
    4: (
        "Table 4: aggregation functions of the target model (biopsies, validation)",
        "Is a biopsy malignant? Three ways from many tiles to one answer.",
    ),
    5: (
        "Table 5: the chosen source (tiles) and target model (biopsies) on the test patients",
        "The test: patients that were used for nothing else. SM is the source model (tiles), TM the target model "
        "(biopsies).",
    ),
}
FIRST = (  # the accuracies are what the paper's abstract gives
    Headline("ACC", "TM", "malignant biopsies (target model), test patients: accuracy"),
    Headline("ACC", "SM", "tumour tiles (source model), test patients: accuracy"),
    Headline("AUC", "TM", "malignant biopsies, ROC AUC"),
    Headline("AUC", "SM", "tumour tiles, ROC AUC"),
)


def table(work: Work, number: int) -> list[Path]:
    """Make and show a table; returns the files written."""
    settings, cohort = work.settings, work.value("split")
    makers = {
        1: lambda: table1(cohort),
        2: lambda: source_table(work, 2, columns_of_table_2(settings)),
        3: lambda: source_table(work, 3, columns_of_table_3(settings)),
        4: lambda: table4(work),
        5: lambda: table5(work),
    }
    title, words = TITLES[number]
    first = FIRST if number == 5 else ()
    notes = tuple(notes_on(number, settings, cohort))
    return show(work, f"table{number}", Table(title, makers[number](), notes, words, headlines=first, part="test"))


def notes_on(number: int, settings: SpitzoidSettings, cohort: SpitzoidSlides) -> list[str]:
    """What a reader must know of the data and settings behind a table."""
    notes = [whose(RECIPE, settings)]
    if number == 1:
        notes.append(
            "The paper counts 53 biopsies, 51 patients and 51 slides; the printed table is reproduced as it is."
        )
        return notes
    notes.append(split_note(cohort.split))
    used = {"VGG16": settings.source.backbone, "RESNET": settings.source.rival}
    paper = {"VGG16": "vgg16", "RESNET": "resnet50"}
    shown = ("VGG16", "RESNET") if number == 2 else ("VGG16",)
    notes += in_place_of((name, paper[name], used[name]) for name in shown)
    return [*notes, *differing(RECIPE, settings)]


def columns_of_table_2(settings: SpitzoidSettings) -> dict[str, SourceModel]:
    """Published column of each model of Table 2; extra backbones go by their own names."""
    names = {settings.source.rival: "RESNET", settings.source.backbone: "VGG16"}
    labels = {}
    for which in table_2(settings):
        name = names.get(which.backbone, which.backbone)
        labels[f"SeaNet (with {name})" if which.seanet else name] = which
    return labels


def columns_of_table_3(settings: SpitzoidSettings) -> dict[str, SourceModel]:
    """Published column of each model of Table 3."""
    return {f"SeaNet+{which.head.upper()}": which for which in table_3(settings)}


def table1(cohort: SpitzoidSlides) -> pd.DataFrame:
    """Slides and tiles by diagnosis."""
    counts = {}
    for diagnosis, name in ((0, "Benign"), (1, "Malignant")):
        slides = cohort.manifest[cohort.manifest["malignant"] == diagnosis]
        region = cohort.tiles[cohort.tiles["slide_id"].isin(slides["slide_id"])]["region"]
        counts[name] = {
            "# WSI": len(slides),
            "# Tumor patches": int((region == 1).sum()),
            "# Non tumor patches": int((region == 0).sum()),
            "patients": int(slides["patient_id"].nunique()),
        }
        if (region < 0).any():
            counts[name]["patches of unknown region"] = int((region < 0).sum())
    return count_table(counts, load_published("spitzoid"), 1)


def source_table(work: Work, number: int, columns: Mapping[str, SourceModel]) -> pd.DataFrame:
    """Mean ± std over the validation cohorts of several source models."""
    settings, models = work.settings, {}
    for name, which in columns.items():
        cohorts = []
        for fold in range(1, settings.split.folds + 1):
            rows = judged(work, which, fold)
            cohorts.append(binary_metrics(rows["region"], rows["probability"], settings.target.tile_threshold))
        models[name] = cohorts
    return metric_table(models, load_published("spitzoid"), number, published_as=AUC_IS_BALANCED_ACCURACY)


def table4(work: Work) -> pd.DataFrame:
    """Mean ± std over the validation cohorts of each aggregation function."""
    settings, models = work.settings, {}
    for aggregation in AGGREGATIONS:
        cohorts = []
        for fold in range(1, settings.split.folds + 1):
            rows = target_of(work, aggregation, fold).predictions
            cohorts.append(binary_metrics(rows["malignant"], rows["probability"], settings.evaluation.threshold))
        models[aggregation.upper()] = cohorts
    return metric_table(models, load_published("spitzoid"), 4, published_as=AUC_IS_BALANCED_ACCURACY)


def table5(work: Work) -> pd.DataFrame:
    """The test: one value each, with intervals by patient."""
    settings, models = work.settings, {}
    tiles = judged(work, chosen(settings), None).assign(truth=lambda frame: frame["region"])
    biopsies = target_of(work, settings.target.aggregation, None).predictions
    biopsies = biopsies.assign(truth=biopsies["malignant"])
    thresholds = {"SM": settings.target.tile_threshold, "TM": settings.evaluation.threshold}
    for name, rows in (("SM", tiles), ("TM", biopsies)):
        models[name] = binary_intervals(
            rows["truth"],
            rows["probability"],
            rows["patient_id"].tolist(),
            threshold=thresholds[name],
            **resampled(settings),
        )
    return interval_table(models, load_published("spitzoid"), 5, published_as=AUC_IS_BALANCED_ACCURACY)
