"""Tables 1 to 3 and 5 to 11 of the paper beside the published numbers, and retrieval by the embedding."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from melano_tf.evaluation.binary_metrics import format_value
from melano_tf.evaluation.interval import Interval
from melano_tf.evaluation.multiclass_metrics import MulticlassIntervals, decide, multiclass_intervals
from melano_tf.evaluation.retrieval import retrieval_intervals
from melano_tf.papers.settings_values import resampled
from melano_tf.papers.shared_tables import differing, show, whose
from melano_tf.papers.shell import Work
from melano_tf.papers.similarity import data_set_counts
from melano_tf.papers.similarity.clusters import clusters_of
from melano_tf.papers.similarity.cohort import SimilarityImages
from melano_tf.papers.similarity.partition import BEHIND, WORDS, Parts, count_kinds, parts_of
from melano_tf.papers.similarity.settings import BASELINE, JUDGED, RECIPE, SimilaritySettings
from melano_tf.papers.similarity.students import Judged, Student, results_of
from melano_tf.reports.published_numbers import load_published
from melano_tf.reports.tables import Headline, Table, interval_table
from melano_tf.runs.predictions import probabilities

Results = Mapping[Student, Judged]
HIGHEST = "highest"
OPTIMISTIC = "highest here (optimistic)"
COUNTED = "The data: classes, sources, sites, sizes."
F1_WORDS = "F1-score of each class there."
TITLES = {  # and what each shows, for a reader who was not there
    6: ("Table 6: accuracy, validation", "Accuracy on the validation part, which chose the combination of layers."),
    7: ("Table 7: F1 of each class, validation", F1_WORDS),
    8: ("Table 8: accuracy, test of HAM", "Accuracy on the test of one source."),
    9: ("Table 9: F1 of each class, test of HAM", F1_WORDS),
    10: ("Table 10: accuracy, test of BCN", "Accuracy on the test of the other source."),
    11: ("Table 11: F1 of each class, test of BCN", F1_WORDS),
}
RETRIEVAL = "Retrieval by the teacher's embedding"
NO_CELLS = 0  # number of a table that the paper does not have


def counted_table(work: Work, number: int) -> list[Path]:
    """Table 1, 2 or 3, from the tables (and the files' headers) alone."""
    cohort = work.value("cohort")
    if number == 3:
        frame = data_set_counts.resolution_table(cohort.everything, cohort.headers)
        of = f"Of the {len(cohort.headers):,} files that are there; the paper's table is lost in our text."
    else:
        make = {1: data_set_counts.source_table, 2: data_set_counts.site_table}[number]
        frame = make(cohort.everything, cohort.classes)
        of = f"All {len(cohort.everything):,} labelled rows of the table, with or without an image file."
    notes = (whose(RECIPE, work.settings), of)
    return show(work, f"table{number}", Table(data_set_counts.TITLES[number], frame, notes, COUNTED, unit="lesions"))


def partition_table(work: Work) -> list[Path]:
    """Table 5: both partitions, and what leaks."""
    settings, parts = work.settings, parts_of(work)
    sides = {BEHIND[split]: parts.part(split) for split in settings.chosen_splits()}
    frame = data_set_counts.part_table(sides, parts.records["label"], work.value("cohort").classes)
    notes = [whose(RECIPE, settings), *leak_notes(settings, parts)]
    notes += [f"{WORDS[split].capitalize()}: {line}" for split, lines in parts.notes.items() for line in lines]
    return show(work, "table5", Table(data_set_counts.TITLES[5], frame, tuple(notes), "Who is where.", unit="lesions"))


def leak_notes(settings: SimilaritySettings, parts: Parts) -> list[str]:
    """What stands in several parts of each partition."""
    lines = []
    for split in settings.chosen_splits():
        kinds = count_kinds(parts.leaks[split])
        counted = ", ".join(
            f"{count:,} {'lesions' if kind == 'lesion' else f'pairs of {kind} copies'}" for kind, count in kinds.items()
        )
        too_good = "; numbers by cluster are too good for that" if split == "cluster" and kinds else ""
        lines.append(f"Divided {WORDS[split]}: {counted or 'no lesion and no copy'} stand in several parts{too_good}.")
    return lines


def result_tables(work: Work, part: str, numbers: Sequence[int]) -> list[Path]:
    """Some of Tables 6 to 11: accuracy, F1 of each class, or both, on one part, by cluster and by lesion."""
    settings, cohort, parts, results = work.settings, work.value("cohort"), parts_of(work), results_of(work)
    if not any(part in parts.names(split) for split in settings.chosen_splits()):
        work.say(f"tables {' and '.join(map(str, JUDGED[part]))} are left out: no image is in the {part}")
        return []
    best = {split: highest(results, split, "validation") for split in settings.chosen_splits()}
    found, notes = judged_part(settings, cohort, results, part, best), notes_on(settings, parts, best, part)
    written = []
    for number in numbers:
        title, words = TITLES[number]
        table = Table(
            title,
            result_table(found, number, cohort.classes),
            tuple(notes),
            words,
            models_down=True,
            unit="lesions",
            headlines=headlines(settings, part) if number == JUDGED[part][0] else (),
            part="judged" if part == "validation" else "test",
        )
        written += show(work, f"table{number}", table)
    return written


def headlines(settings: SimilaritySettings, part: str) -> tuple[Headline, ...]:
    """The accuracies of the paper's abstract, highest and baseline; of the tests also without its leaks, by lesion."""
    splits = settings.chosen_splits()
    shown = {HIGHEST: "accuracy of the combination chosen on validation", BASELINE: "the baseline's accuracy"}
    return tuple(
        Headline("Acc", name + BEHIND[split], f"{part}, divided {WORDS[split]}: {words}")
        for split in (splits[:1] if part == "validation" else splits)
        for name, words in shown.items()
    )


def highest(results: Results, split: str, part: str) -> str | None:
    """The combination of highest accuracy in one part; the first of equals. None where none was trained."""
    found = {
        which.name: accuracy(judged.of(part))
        for which, judged in results.items()
        if which.split == split and which.name != BASELINE
    }
    return max(found, key=lambda name: found[name]) if found else None


def accuracy(rows: pd.DataFrame) -> float:
    """Share of rows whose most probable class is true; as in the tables, two that are equally probable are wrong."""
    return float((decide(probabilities(rows)) == rows["target"]).mean()) if len(rows) else float("nan")


def judged_part(
    settings: SimilaritySettings, cohort: SimilarityImages, results: Results, part: str, best: Mapping[str, str | None]
) -> dict[str, MulticlassIntervals]:
    """Intervals of every network on one part, by the column's name.

    "highest" repeats the combination that the validation part chose, "highest here" the best on this very part.
    """
    found: dict[str, MulticlassIntervals] = {}
    for which, judged in results.items():
        rows = judged.of(part)
        if not len(rows):
            continue
        found[which.name + BEHIND[which.split]] = multiclass_intervals(
            rows["target"].to_numpy(),
            probabilities(rows),
            rows["group"].tolist(),
            cohort.classes,
            **resampled(settings),
        )
    for split, name in best.items():
        if name is not None and name + BEHIND[split] in found:
            found[HIGHEST + BEHIND[split]] = found[name + BEHIND[split]]
            taught = [which.name + BEHIND[split] for which in results if which.split == split and which.layers]
            found[OPTIMISTIC + BEHIND[split]] = best_of([found[one] for one in taught if one in found])
    return found


def best_of(networks: Sequence[MulticlassIntervals]) -> MulticlassIntervals:
    """Of each metric the highest value of several networks, with that network's interval; the first of equals."""

    def best(intervals: Sequence[Interval]) -> Interval:
        return max(intervals, key=lambda one: (not math.isnan(one.value), one.value))

    first = networks[0]
    return MulticlassIntervals(
        {metric: best([one.overall[metric] for one in networks]) for metric in first.overall},
        {
            name: {metric: best([one.by_class[name][metric] for one in networks]) for metric in found}
            for name, found in first.by_class.items()
        },
    )


def result_table(found: Mapping[str, MulticlassIntervals], number: int, classes: Sequence[str]) -> pd.DataFrame:
    """One of Tables 6 to 11: rows are the accuracy, or the F1 of each class."""
    published = load_published("similarity")
    if number in {pair[0] for pair in JUDGED.values()}:
        models: dict[str, dict[str, Interval]] = {
            name: {"Acc": one.overall["Acc"], "BAcc": one.overall["BAcc"]} for name, one in found.items()
        }
        names = {"Acc": "Accuracy", "BAcc": None}
        return interval_table(models, published, number, published_as=names, metrics=("Acc", "BAcc"))
    models = {name: {cls: one.by_class[cls]["F1"] for cls in classes} for name, one in found.items()}
    return interval_table(models, published, number, published_as={}, metrics=tuple(classes))


def notes_on(settings: SimilaritySettings, parts: Parts, best: Mapping[str, str | None], part: str) -> list[str]:
    """What a reader must know of the data and settings behind Tables 6 to 11."""
    notes = [whose(RECIPE, settings), *leak_notes(settings, parts)]
    for split, name in best.items():
        if name is not None:
            words = "itself chosen there, so too good" if part == "validation" else "so not chosen on this test"
            notes.append(
                f'"{HIGHEST}{BEHIND[split]}", ours: layers {name}, of the highest validation accuracy {WORDS[split]}, '
                f"{words}. The paper does not say which combination its highest is."
            )
    if any(name is not None for name in best.values()):
        count = len(settings.chosen_combinations())
        notes.append(
            f'"{OPTIMISTIC}", ours: of each number the best that the {count} combinations have on these very images, '
            "which is what the paper prints: too good, and its interval knows nothing of the choice."
        )
    seen = "sees the test images too, without labels" if settings.cluster.sees_test else "never sees the test images"
    notes.append(f"The teacher {seen} (--cluster.sees-test). Every network is judged at its last epoch.")
    if part == "validation":
        notes.append(
            "This is the validation part, HAM and BCN together; no epoch was picked on it, and it chose which "
            "combination is called the best."
        )
    if settings.network.student != SimilaritySettings().network.student:
        notes.append(
            f"In the place of the paper's ResNet stands {settings.network.student!r} at {settings.network.input_px} px."
        )
    return [*notes, *differing(RECIPE, settings)]


def retrieval_table(work: Work) -> list[Path]:
    """Recall@1, Recall@5 and mAP@R of the class among images of other lesions, of each source and of all."""
    settings, clusters = work.settings, clusters_of(work)
    records = work.value("cohort").records.iloc[clusters.places]
    models: dict[str, dict[str, Interval]] = {}
    by_chance: dict[str, float] = {}
    for name in ("all", *settings.cluster.sources):
        own = np.flatnonzero((records["source"] == name).to_numpy() if name != "all" else np.ones(len(records), bool))
        if len(own) < 2 or records["target"].iloc[own].nunique() < 2:
            continue
        by_chance[name] = chance(records["target"].to_numpy()[own], records["group"].to_numpy()[own])
        models[name] = retrieval_intervals(
            clusters.embedding[own],
            records["target"].to_numpy()[own],
            records["group"].to_numpy()[own],
            exclude_groups=True,
            **resampled(settings, "retrieval"),
        )
    if not models:
        return []
    metrics = tuple(next(iter(models.values())))
    frame = interval_table(models, load_published("similarity"), NO_CELLS, published_as={}, metrics=metrics)
    notes = (
        whose(RECIPE, settings),
        "Each image asks for the nearest among images of other lesions; a hit has its class. The embedding never saw a "
        "class.",
        f"Recall@1 of chance: {', '.join(f'{format_value(share)} ({name})' for name, share in by_chance.items())}.",
        "An image whose class no other lesion has is left out, of chance as well.",
    )
    words = "Are the images that the teacher calls alike of one class?"
    return show(work, "retrieval", Table(RETRIEVAL, frame, notes, words, models_down=True, unit="lesions"))


def chance(labels: np.ndarray, groups: np.ndarray) -> float:
    """Recall@1 of an embedding that knows nothing: the mean share of an image's class among those of other groups.

    Images whose class no other group has are left out, as `retrieve` does; NaN where there is no other image.

    Args:
        labels: class of each image, (n,).
        groups: lesion of each image, (n,), whose images are never a hit.
    """
    frame = pd.DataFrame({"label": labels, "group": groups})
    of_class = frame.groupby("label")["group"].transform("size")
    of_group = frame.groupby("group")["label"].transform("size")
    own = frame.groupby(["group", "label"])["label"].transform("size")
    hits, others = of_class - own, len(frame) - of_group
    return float((hits / others).where(hits > 0).mean())
