"""Tables 1 to 5 of the paper beside the published numbers, and recall, precision and F1-score of each class."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from melano_tf.evaluation.interval import Interval
from melano_tf.evaluation.repeated_split_intervals import OVERALL, JudgedSplit, split_intervals, split_metrics
from melano_tf.models.taxonomy import Taxonomy
from melano_tf.papers.settings_values import resampled
from melano_tf.papers.shared_tables import differing, in_place_of, show, whose
from melano_tf.papers.shell import Work
from melano_tf.papers.weighting.cohort import WeightingImages, split_name, splits_of
from melano_tf.papers.weighting.models import GridTraining, epochs_of, step_name, trained
from melano_tf.papers.weighting.settings import RECIPE, WeightingSettings
from melano_tf.papers.weighting.training_grid import TABLES, Cell, cells_of
from melano_tf.reports.published_numbers import load_published
from melano_tf.reports.tables import Headline, Table, count_table, metric_table

OPTIMIZERS = {"adam": "Adam", "sgd": "SGD"}
COUNTED = "# Training Samples"
# As Table 1 calls the classes, in its order.
PRINTED_CLASSES = {
    "NV": "Nevus",
    "MEL": "Melanoma",
    "DF": "Dermatofibroma",
    "AKIEC": "Actinic keratosis",
    "BKL": "Benign keratosis",
    "BCC": "Basal cell carcinoma",
    "VASC": "Vascular",
}
CLASS_TABLES = {"RE": "recall", "PR": "precision", "F1": "f1"}
SCALES = {
    "cui": "ES weights sum to the number of classes (Cui et al.), CB as printed",
    "as_printed": "ES and CB weights as printed",
    "mean_one": "ES and CB weights rescaled to mean 1",
}
NO_CELLS = 0  # number of a table that the paper does not have


def count_images(work: Work) -> list[Path]:
    """Table 1."""
    counts = work.value("cohort").records["label"].value_counts()
    found = {COUNTED: {words: int(counts.get(name, 0)) for name, words in PRINTED_CLASSES.items()}}
    gap = "The printed counts add up to 10,068, while the paper's text says 10,015; the official files hold 10,015."
    table = Table(
        "Table 1: images of each class",
        count_table(found, load_published("weighting"), 1),
        (whose(RECIPE, work.settings), gap),
        "What there is to learn from: training images of each class.",
        unit="lesions",
    )
    return show(work, "table1", table)


def write_results(work: Work, number: int) -> list[Path]:
    """Table 2, 3, 4 or 5. A cell of which not every split was trained stays empty.

    Recall, precision and F1-score of each class are written (table2-recall and so on), not shown.
    """
    settings, cohort = work.settings, work.value("cohort")
    rows = rows_of(work, number)
    there = {row: trained for row, trained in rows.items() if trained}
    metrics = {row: [metrics_of(one, cohort) for one in trained] for row, trained in there.items()}
    around = {row: intervals_of(trained, cohort, settings) for row, trained in there.items()}
    frame = metric_table(
        {row: metrics.get(row, []) for row in rows},
        load_published("weighting"),
        number,
        published_as={},
        metrics=OVERALL,
        intervals=around,
    )
    facts: dict[str, Any] = {"models_down": True, "unit": "lesions", "part": "test"}
    (network, optimizer), ours = TABLES[number], whose(RECIPE, settings)
    table = Table(
        title_of(number),
        frame,
        tuple(notes_on(work, number, rows)),
        f"The {network} network with {OPTIMIZERS[optimizer]}: each loss with each weighting.",
        headlines=headlines(number, metrics),
        **facts,
    )
    written = show(work, f"table{number}", table)
    if network == "hierarchical" and there:
        title = f"Table {number}: called by the greedy path, the most probable child at each node"
        notes = (ours, f"`table{number}` calls the most probable leaf.")
        greedy = Table(title, greedy_table(there, cohort, settings), notes, **facts)
        written += show(work, f"table{number}-greedy", greedy, aloud=False)
    for metric, words in CLASS_TABLES.items() if there else ():
        title = f"{title_of(number).partition(':')[0]}: {words} of each class"
        by_class = Table(title, class_table(metric, metrics, around, cohort.classes), (ours,), **facts)
        written += show(work, f"table{number}-{words}", by_class, aloud=False)
    return written


def headlines(number: int, metrics: Mapping[str, Sequence[Mapping[str, float]]]) -> tuple[Headline, ...]:
    """The plain loss, and the row of highest mean balanced accuracy."""
    network, optimizer = TABLES[number]
    found = {row: float(np.mean([one["BAcc"] for one in many])) for row, many in metrics.items()}
    what, defined = f"{network} network, {OPTIMIZERS[optimizer]}", {k: v for k, v in found.items() if not np.isnan(v)}
    if not defined:
        return ()
    best = max(defined, key=lambda row: defined[row])
    return (
        Headline("BAcc", "CEL", f"{what}, plain cross-entropy: balanced accuracy"),
        Headline("BAcc", best, f"{what}, {best}: the highest of {len(defined)}, so too good for a new set"),
    )


def rows_of(work: Work, number: int) -> dict[str, list[GridTraining]]:
    """{row of a table: its trainings, one a split}; an empty list where one of them is missing."""
    rows: dict[str, list[Cell]] = {}
    for cell in cells_of(work.settings, [number]):
        rows.setdefault(cell.row, []).append(cell)
    return {
        row: [trained(work, cell) for cell in cells] if all(work.has(step_name(cell)) for cell in cells) else []
        for row, cells in rows.items()
    }


def judged(trained: GridTraining, greedy: Taxonomy | None = None) -> JudgedSplit:
    """One training's predictions for `split_intervals`; with a taxonomy the greedy path's call is all that is kept."""
    rows, probabilities = trained.predictions, trained.probabilities
    if greedy is not None:
        probabilities = np.eye(len(greedy.classes))[greedy.greedy_of(probabilities)]
    return JudgedSplit(rows["target"].to_numpy(), probabilities, rows["group"].tolist())


def metrics_of(trained: GridTraining, cohort: WeightingImages, greedy: Taxonomy | None = None) -> dict[str, float]:
    """One training's metrics on the images of its split."""
    return split_metrics(judged(trained, greedy), cohort.classes)


def greedy_table(
    rows: Mapping[str, Sequence[GridTraining]], cohort: WeightingImages, settings: WeightingSettings
) -> pd.DataFrame:
    """A hierarchical table's metrics where the greedy path calls the class; the paper prints none of these."""
    metrics = {row: [metrics_of(one, cohort, cohort.taxonomy) for one in trained] for row, trained in rows.items()}
    around = {row: intervals_of(trained, cohort, settings, cohort.taxonomy) for row, trained in rows.items()}
    published = load_published("weighting")
    return metric_table(metrics, published, NO_CELLS, published_as={}, metrics=OVERALL, intervals=around)


def intervals_of(
    trained: Sequence[GridTraining],
    cohort: WeightingImages,
    settings: WeightingSettings,
    greedy: Taxonomy | None = None,
) -> dict[str, Interval]:
    """Intervals of the means over splits, by lesion."""
    return split_intervals(
        [judged(one, greedy) for one in trained],
        cohort.classes,
        **resampled(settings),
    )


def class_table(
    metric: str,
    metrics: Mapping[str, Sequence[Mapping[str, float]]],
    around: Mapping[str, Mapping[str, Interval]],
    classes: Sequence[str],
) -> pd.DataFrame:
    """One figure of merit of each class, a column a class; the paper prints none of these."""
    models = {
        row: [{name: one[f"{metric} {name}"] for name in classes} for one in many] for row, many in metrics.items()
    }
    intervals = {row: {name: found[f"{metric} {name}"] for name in classes} for row, found in around.items()}
    published = load_published("weighting")
    return metric_table(models, published, NO_CELLS, published_as={}, metrics=classes, intervals=intervals)


def title_of(number: int) -> str:
    """A table's title."""
    network, optimizer = TABLES[number]
    return f"Table {number}: {network} classification model, {OPTIMIZERS[optimizer]} (judged images of the splits)"


def notes_on(work: Work, number: int, rows: Mapping[str, Sequence[GridTraining]]) -> list[str]:
    """What a reader must know of the data and settings behind a table."""
    settings, cohort = work.settings, work.value("cohort")
    judge = [division.judge for division in splits_of(work)]
    sizes = ", ".join(f"{len(places):,}" for places in judge)
    notes = [
        whose(RECIPE, settings),
        f"{len(cohort.records):,} images of {cohort.records['group'].nunique():,} lesions; "
        + split_words(settings, f"with {sizes} judged images"),
        "The paper prints percent; here they are shares. A class that is never called counts 0 in mPR. Judged at the "
        "last epoch.",
    ]
    notes.append(weights_note(work, number))
    gammas = sorted({one.gamma for trained in rows.values() for one in trained if one.cell.loss == "fl"})
    if gammas:
        how = "chosen on inner hold-outs" if settings.chosen_gamma() is None else "fixed beforehand"
        notes.append(f"FL: gamma {', '.join(f'{gamma:g}' for gamma in gammas)}, {how}.")
    if empty := [row for row, trained in rows.items() if not trained]:
        notes.append(f"Not trained on every split, so empty: {', '.join(empty)}.")
    paper = WeightingSettings().network.backbone
    notes += in_place_of([(repr(paper), paper, settings.network.backbone)])
    if number == 2:
        notes.append("As printed, FL-CB repeats BAcc, mPR and mF1 of CEL-CB.")
    return [*notes, *differing(RECIPE, settings)]


def split_words(settings: WeightingSettings, sizes: str) -> str:
    """How the images were divided."""
    numbers, transfer = settings.split_numbers(), settings.transfer
    if transfer is not None:
        which = ", ".join(map(str, numbers))
        return (
            f"fold{'s' * (len(numbers) != 1)} {which} of {transfer.folds} by lesion {sizes}. All layers up to "
            f"{transfer.cut} are frozen."
        )
    return (
        f"{len(numbers)} random split{'s' * (len(numbers) != 1)} by lesion {sizes}. A lesion that several splits judge "
        "is drawn once for all of them."
    )


def weights_note(work: Work, number: int) -> str:
    """The mean sample weight of each row, over the splits' training parts: by it SGD's steps are smaller or larger."""
    settings, cohort = work.settings, work.value("cohort")
    means: dict[str, list[float]] = {}
    for cell in cells_of(settings, [number]):
        if cell.loss == "cel":
            counts = cohort.counts(work.value(split_name(cell.split)).train)
            strategy, epochs = cell.strategy(settings, 0.0), epochs_of(settings, cell)
            means.setdefault(cell.row, []).append(strategy.mean_weight(counts, epochs, settings.training.batch))
    shown = [f"{row} {np.mean(found):.3g}" for row, found in means.items()]
    return (
        f"Mean sample weight over the training, the same with FL: {', '.join(shown)}. "
        f"{SCALES[settings.rules.scale]} (--rules.scale)."
    )
