"""Tables 1 to 5 of the paper beside the published numbers, and recall, precision and F1-score of each class."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from melano_tf.evaluation.intervals import Interval
from melano_tf.evaluation.split_intervals import BY_CLASS, OVERALL, JudgedSplit, split_intervals, split_metrics
from melano_tf.models.taxonomy import Taxonomy
from melano_tf.papers.weighting.cohort import Cohort
from melano_tf.papers.weighting.grid import LOSSES, TABLES, Cell
from melano_tf.papers.weighting.models import Trained, epochs_of
from melano_tf.papers.weighting.settings import WeightingSettings, changes
from melano_tf.reports.published import load_published
from melano_tf.reports.tables import count_table, markdown, metric_table, write_table
from melano_tf.workspace import Run, seed_for

Results = Mapping[Cell, Trained]
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


def make_tables(
    run: Run,
    settings: WeightingSettings,
    cohort: Cohort,
    results: Results,
    tables: tuple[int, ...],
    say: Callable[[str], None],
) -> list[Path]:
    """Make and show the tables asked for; returns the files written, a CSV and a Markdown file each.

    A cell of which not every split was trained stays empty. Recall, precision and F1-score of each class are written
    (table2-recall and so on), not shown.
    """
    written: list[Path] = []
    published = load_published("weighting")

    def show(name: str, frame: pd.DataFrame, title: str, notes: Sequence[str], shown: bool = True) -> None:
        if shown:
            say("")
            say(markdown(frame, title, notes, models_down=name != "table1", unit="lesions"))
        written.extend(
            write_table(run.folder / "tables", name, frame, title, notes, models_down=name != "table1", unit="lesions")
        )

    if 1 in tables:
        counts = cohort.records["label"].value_counts()
        found = {COUNTED: {words: int(counts.get(name, 0)) for name, words in PRINTED_CLASSES.items()}}
        notes = [
            data_words(settings),
            "The printed counts add up to 10,068, while the paper's text says 10,015; the official files hold 10,015.",
        ]
        show("table1", count_table(found, published, 1), "Table 1: images of each class", notes)
    for number in [number for number in tables if number in TABLES]:
        rows = rows_of(settings, results, number)
        metrics = {row: [metrics_of(one, cohort) for one in trained] for row, trained in rows.items() if trained}
        around = {row: intervals_of(trained, cohort, settings) for row, trained in rows.items() if trained}
        frame = metric_table(
            {row: metrics.get(row, []) for row in rows},
            published,
            number,
            published_as={},
            metrics=OVERALL,
            intervals=around,
        )
        show(f"table{number}", frame, title_of(number), notes_on(number, settings, cohort, rows))
        if TABLES[number][0] == "hierarchical" and metrics:
            show(
                f"table{number}-greedy",
                greedy_table({row: trained for row, trained in rows.items() if trained}, cohort, settings),
                f"Table {number}: called by the greedy path, the most probable child at each node",
                [data_words(settings), f"`table{number}` calls the most probable leaf."],
                shown=False,
            )
        for metric in BY_CLASS if metrics else ():
            show(
                f"table{number}-{CLASS_TABLES[metric]}",
                class_table(metric, metrics, around, cohort.classes),
                f"{title_of(number).partition(':')[0]}: {CLASS_TABLES[metric]} of each class",
                [data_words(settings)],
                shown=False,
            )
    return written


def rows_of(settings: WeightingSettings, results: Results, number: int) -> dict[str, list[Trained]]:
    """{row of a table: its trainings, one a split}; an empty list where one of them is missing."""
    rows: dict[str, list[Trained]] = {}
    for loss in LOSSES:
        for weights in settings.chosen_strategies():
            cells = [Cell(*TABLES[number], loss, weights, split) for split in range(1, settings.splits.count + 1)]
            there = [results[cell] for cell in cells if cell in results]
            rows[cells[0].row] = there if len(there) == len(cells) else []
    return rows


def judged(trained: Trained, greedy: Taxonomy | None = None) -> JudgedSplit:
    """One training's predictions for `split_intervals`; with a taxonomy the greedy path's call is all that is kept."""
    rows, probabilities = trained.predictions, trained.probabilities
    if greedy is not None:
        probabilities = np.eye(len(greedy.classes))[greedy.greedy_of(probabilities)]
    return JudgedSplit(rows["target"].to_numpy(), probabilities, rows["group"].tolist())


def metrics_of(trained: Trained, cohort: Cohort, greedy: Taxonomy | None = None) -> dict[str, float]:
    """One training's metrics on the images of its split."""
    return split_metrics(judged(trained, greedy), cohort.classes)


def greedy_table(rows: Mapping[str, Sequence[Trained]], cohort: Cohort, settings: WeightingSettings) -> pd.DataFrame:
    """A hierarchical table's metrics where the greedy path calls the class; the paper prints none of these."""
    metrics = {row: [metrics_of(one, cohort, cohort.taxonomy) for one in trained] for row, trained in rows.items()}
    around = {row: intervals_of(trained, cohort, settings, cohort.taxonomy) for row, trained in rows.items()}
    published = load_published("weighting")
    return metric_table(metrics, published, NO_CELLS, published_as={}, metrics=OVERALL, intervals=around)


def intervals_of(
    trained: Sequence[Trained], cohort: Cohort, settings: WeightingSettings, greedy: Taxonomy | None = None
) -> dict[str, Interval]:
    """Intervals of the means over splits, by lesion."""
    return split_intervals(
        [judged(one, greedy) for one in trained],
        cohort.classes,
        repeats=settings.evaluation.repeats,
        level=settings.evaluation.level,
        seed=seed_for(settings.seed, "intervals"),
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


def data_words(settings: WeightingSettings) -> str:
    """Whose numbers ours are."""
    if not settings.table:
        return "Ours: PHANTOM images drawn by this program; their numbers say nothing of real skin."
    return f"Ours: {', '.join(map(str, settings.table))}."


def notes_on(
    number: int, settings: WeightingSettings, cohort: Cohort, rows: Mapping[str, Sequence[Trained]]
) -> list[str]:
    """What a reader must know of the data and settings behind a table."""
    judge = [division.judge for division in cohort.divisions]
    sizes = ", ".join(f"{len(places):,}" for places in judge)
    notes = [
        data_words(settings),
        f"{len(cohort.records):,} images of {cohort.records['group'].nunique():,} lesions; {len(judge)} random "
        f"split{'s' * (len(judge) != 1)} by lesion with {sizes} judged images. A lesion that several splits judge is "
        "drawn once for all of them.",
        "The paper prints percent; here they are shares. A class that is never called counts 0 in mPR. Judged at the "
        "last epoch.",
    ]
    notes.append(weights_note(number, settings, cohort))
    gammas = sorted({one.gamma for trained in rows.values() for one in trained if one.cell.loss == "fl"})
    if gammas:
        how = "chosen on inner hold-outs" if settings.chosen_gamma() is None else "fixed beforehand"
        notes.append(f"FL: gamma {', '.join(f'{gamma:g}' for gamma in gammas)}, {how}.")
    if empty := [row for row, trained in rows.items() if not trained]:
        notes.append(f"Not trained on every split, so empty: {', '.join(empty)}.")
    paper = WeightingSettings().network.backbone
    if settings.network.backbone != paper:
        notes.append(f"In the place of the paper's {paper!r} stands {settings.network.backbone!r}.")
    if number == 2:
        notes.append("As printed, FL-CB repeats BAcc, mPR and mF1 of CEL-CB.")
    if differing := len(changes(settings)):
        notes.append(f"{differing} settings differ from the paper's; run.json and the start of the run list them.")
    return notes


def weights_note(number: int, settings: WeightingSettings, cohort: Cohort) -> str:
    """The mean sample weight of each row, over the splits' training parts: by it SGD's steps are smaller or larger."""
    means = []
    for weights in settings.chosen_strategies():
        cells = [Cell(*TABLES[number], "cel", weights, split) for split in range(1, settings.splits.count + 1)]
        found = [
            cell.strategy(settings, 0.0).mean_weight(
                cohort.counts(division.train), epochs_of(settings, cell), settings.training.batch
            )
            for cell, division in zip(cells, cohort.divisions, strict=True)
        ]
        means.append(f"{cells[0].row} {np.mean(found):.3g}")
    return (
        f"Mean sample weight over the training, the same with FL: {', '.join(means)}. "
        f"{SCALES[settings.rules.scale]} (--rules.scale)."
    )


def best_row(
    settings: WeightingSettings, cohort: Cohort, results: Results, tables: Sequence[int]
) -> tuple[int, str, Interval] | None:
    """Table and row of the highest mean balanced accuracy, with its interval; None where nothing was trained."""
    found = [
        (number, row, intervals_of(trained, cohort, settings)["BAcc"])
        for number in tables
        if number in TABLES
        for row, trained in rows_of(settings, results, number).items()
        if trained
    ]
    defined = [one for one in found if not np.isnan(one[2].value)]
    return max(defined, key=lambda one: one[2].value) if defined else None
