"""The tables: the cohort, how well each model does, by how much they differ, calibration, what attention finds."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from melano_tf.evaluation.binary_intervals import Judged, cohort_intervals
from melano_tf.evaluation.binary_metrics import binary_metrics, roc_auc
from melano_tf.evaluation.bootstrap import group_draws, mean_interval
from melano_tf.evaluation.calibration import expected_calibration_error
from melano_tf.evaluation.interval import Interval
from melano_tf.evaluation.paired_differences import Answer, paired_intervals
from melano_tf.evaluation.repeated_split_intervals import OVERALL, JudgedSplit, split_intervals, split_metrics
from melano_tf.papers.bags.models import FoldTraining, trained
from melano_tf.papers.bags.settings import BASELINE, RECIPE, BagsSettings
from melano_tf.papers.settings_values import resampled
from melano_tf.papers.shared_tables import decided_at, differing, show, whose
from melano_tf.papers.shell import Work
from melano_tf.reports.published_numbers import COLUMNS
from melano_tf.reports.tables import Headline, Table, count_table, interval_table, metric_table
from melano_tf.runs.predictions import probabilities, scores
from melano_tf.runs.settings_digest import seed_for

BINARY = ("AUC", "BACC", "SN", "SPC", "ACC")
ERRORS = ("ECE", "ECE calibrated")
UNPUBLISHED = pd.DataFrame(columns=list(COLUMNS))  # no paper stands beside these tables
NO_CELLS = 0
FOUND = "attention AUC"


def folds_of(work: Work, kind: str) -> list[FoldTraining]:
    """One model's trainings, in the order of the folds."""
    return [trained(work, kind, fold) for fold in range(1, work.settings.folds.count + 1)]


def pooled(folds: Sequence[FoldTraining]) -> pd.DataFrame:
    """All folds' predictions: each bag judged once, by the model that did not see its patient."""
    return pd.concat([one.predictions for one in folds], ignore_index=True)


def cohort_table(work: Work) -> list[Path]:
    """Slides, patients and tiles of each class."""
    cohort = work.value("read").cohort
    rows = cohort.table.assign(tiles=[file.instances for file in cohort.files])
    by_class = rows.groupby("label")
    columns = {
        "slides": by_class.size(),
        "patients": by_class["patient_id"].nunique(),
        "tiles": by_class["tiles"].sum(),
    }
    classes = work.value("folds").classes
    totals = {"slides": len(rows), "patients": rows["patient_id"].nunique(), "tiles": int(rows["tiles"].sum())}
    counts = {
        name: {**{label: int(found[label]) for label in classes}, "all": totals[name]}
        for name, found in columns.items()
    }
    frame = count_table(counts, UNPUBLISHED, NO_CELLS)
    return show(work, "cohort", Table("The cohort", frame, (whose(RECIPE, work.settings),), "Who was studied."))


def models_table(work: Work) -> list[Path]:
    """Each model on the folds left out: mean ± std over folds, with the interval of the mean by patient."""
    settings, classes = work.settings, work.value("folds").classes
    folds = {kind: folds_of(work, kind) for kind in settings.chosen_models()}
    metrics = BINARY if len(classes) == 2 else OVERALL
    values = {kind: [metrics_of(one) for one in own] for kind, own in folds.items()}
    around = {kind: intervals_of(own, settings) for kind, own in folds.items()}
    frame = metric_table(values, UNPUBLISHED, NO_CELLS, published_as={}, metrics=metrics, intervals=around)
    metric, words = ("AUC", "ROC AUC") if len(classes) == 2 else ("BAcc", "balanced accuracy")
    first = tuple(Headline(metric, kind, f"{kind}: {words}, mean over folds") for kind in folds)
    shown = "Each model on folds left out of training; mean is the baseline that the others must beat."
    title = "Models on folds that no training saw"
    table = Table(title, frame, tuple(notes_on(work)), shown, models_down=True, headlines=first)
    return show(work, "models", table)


def metrics_of(one: FoldTraining) -> dict[str, float]:
    """One fold's metrics: of two classes at the threshold from the hold-out, of several by the most probable class."""
    if len(one.card.classes) == 2:
        return binary_metrics(one.truth, one.calibrated[:, 1], one.card.cut)
    return split_metrics(judged_split(one), one.card.classes)


def judged_split(one: FoldTraining) -> JudgedSplit:
    """One fold's predictions of several classes for `split_intervals`."""
    return JudgedSplit(one.truth, one.calibrated, one.predictions["group"].tolist())


def intervals_of(folds: Sequence[FoldTraining], settings: BagsSettings) -> dict[str, Interval]:
    """Intervals of the means over folds."""
    classes = folds[0].card.classes
    if len(classes) > 2:
        return split_intervals([judged_split(one) for one in folds], classes, **resampled(settings))
    judged = [Judged(one.truth, one.calibrated[:, 1], one.predictions["group"].tolist(), one.card.cut) for one in folds]
    return cohort_intervals(judged, BINARY, **resampled(settings))


def differences_table(work: Work) -> list[Path]:
    """Each model less the first one, on all folds together, with paired intervals by patient."""
    settings = work.settings
    first, *others = settings.chosen_models()
    rows = {kind: pooled(folds_of(work, kind)).sort_values("case", kind="stable") for kind in (first, *others)}
    binary = len(work.value("folds").classes) == 2
    found = paired_intervals(
        rows[first]["target"].to_numpy(np.int64),
        [answer_of(own, binary) for own in rows.values()],
        rows[first]["group"].tolist(),
        **resampled(settings, "differences"),
    )
    gaps = {
        kind: {f"{name} less {first}'s": gap for name, gap in (one.differences or {}).items()}
        for kind, one in zip(rows, found, strict=True)
        if one.differences is not None
    }
    names = list(next(iter(gaps.values())))
    frame = interval_table(gaps, UNPUBLISHED, NO_CELLS, published_as={}, metrics=names)
    notes = (
        whose(RECIPE, settings),
        "All folds together, each bag judged once; every resample of patients judges both models. Above 0: better "
        f"than {first}. An interval that holds 0 shows no difference.",
    )
    words = "By how much each model differs from the first one, on the same bags."
    return show(work, "differences", Table(f"Differences from {first}", frame, notes, words, models_down=True))


def answer_of(rows: pd.DataFrame, binary: bool) -> Answer:
    """One model's calibrated answers on all folds."""
    return Answer(scores(rows), rows["called"].to_numpy()) if binary else Answer(probabilities(rows))


def calibration_table(work: Work) -> list[Path]:
    """Expected calibration error before and after the temperature of each fold's hold-out; balanced accuracy at 0.5."""
    binary, calibrate = len(work.value("folds").classes) == 2, work.settings.decision.calibrate
    values: dict[str, list[dict[str, float]]] = {}
    for kind in work.settings.chosen_models():
        values[kind] = []
        for one in folds_of(work, kind):
            shown = [p[:, 1] if binary else p for p in (one.raw, one.calibrated)]
            row = {name: expected_calibration_error(one.truth, p) for name, p in zip(ERRORS, shown, strict=True)}
            if binary:
                row["BACC at 0.5"] = binary_metrics(one.truth, shown[0], 0.5)["BACC"]
            values[kind].append(row)
    metrics = [*(ERRORS if calibrate else ERRORS[:1]), *(["BACC at 0.5"] if binary else [])]
    frame = metric_table(values, UNPUBLISHED, NO_CELLS, published_as={}, metrics=metrics)
    notes = [
        whose(RECIPE, work.settings),
        "ECE: expected calibration error in 15 bins of equal width; with few bags a fold it is large by chance alone.",
    ]
    if binary:
        for kind in work.settings.chosen_models():
            thresholds = ", ".join(f"{one.card.threshold:.3f}" for one in folds_of(work, kind))
            notes.append(f"{kind}: thresholds of the folds {thresholds}.")
    words = "Do probabilities mean what they say?" + " Before and after the temperature from the hold-out." * calibrate
    return show(work, "calibration", Table("Calibration", frame, tuple(notes), words, models_down=True))


def attention_table(work: Work) -> list[Path]:
    """Phantoms only: does attention find the tiles that show the class? AUC within a bag, mean over the bags."""
    settings, truth = work.settings, work.value("read").truth
    found = {}
    for kind in settings.chosen_models():
        areas, groups = [], []
        for one in folds_of(work, kind):
            owner = dict(zip(one.predictions["case"], one.predictions["group"], strict=True))
            for case, own in one.attention.groupby("case", sort=False):
                planted = np.concatenate([truth[slide] for slide in dict.fromkeys(own["slide_id"])])
                if 0 < planted.sum() < len(planted):
                    areas.append(roc_auc(planted, own["attention"].to_numpy(float)))
                    groups.append(owner[case])
        index, draws = group_draws(groups, settings.evaluation.repeats, seed_for(settings.seed, "attention"))
        found[kind] = {FOUND: mean_interval(np.array(areas), index, draws, settings.evaluation.level, share=False)}
    frame = interval_table(found, UNPUBLISHED, NO_CELLS, published_as={}, metrics=(FOUND,))
    notes = (
        whose(RECIPE, settings),
        "AUC of a bag's attention against the tiles that show the class, mean over the bags that hold such tiles; 0.5 "
        "is chance, and what uniform attention has by definition.",
    )
    title, words = "Does attention find the tiles that matter?", "Phantoms only: the planted tiles."
    return show(work, "attention", Table(title, frame, notes, words, models_down=True))


def notes_on(work: Work) -> list[str]:
    """What a reader must know of the data and settings behind the table of models."""
    settings, cohort = work.settings, work.value("folds")
    sizes = np.bincount(cohort.fold)[1:]
    patients = len(set(cohort.groups))
    notes = [
        whose(RECIPE, settings),
        f"{len(cohort.fold):,} bags (one a {settings.bag}) of {patients:,} patients in {len(sizes)} folds of "
        f"{sizes.min():,} to {sizes.max():,}.",
    ]
    if len(cohort.classes) == 2:
        notes.append(
            f"Positive: {cohort.classes[1]}. BACC, SN, SPC and ACC {decided_at(settings.decision, 'patients')}."
        )
    else:
        notes.append("The most probable class is called.")
    if BASELINE in settings.chosen_models():
        notes.append(f"{BASELINE}: the mean of a bag's instances and a logistic regression; what others must beat.")
    if cohort.leaks:
        kinds = pd.Series([leak.kind for leak in cohort.leaks]).value_counts()
        counted = ", ".join(f"{count} {kind}" for kind, count in kinds.items())
        notes.append(f"LEAKS, allowed by --allow-leaks, that make these numbers too good: {counted} on two sides.")
    return [*notes, *differing(RECIPE, settings)]
