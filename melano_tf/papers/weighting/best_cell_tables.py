"""The tables of `--preset ham10000` that the paper does not have: the best cell by decision, what it confuses, and each
strategy against plain cross-entropy."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from melano_tf.evaluation.calibration import expected_calibration_error
from melano_tf.evaluation.interval import Interval
from melano_tf.evaluation.multiclass_metrics import confusion_matrix, multiclass_metrics
from melano_tf.evaluation.repeated_split_intervals import (
    CALIBRATION,
    MEAN_AUC,
    OVERALL,
    JudgedSplit,
    paired_differences,
    split_calibration_error,
    split_intervals,
    split_mean_auc,
    split_metrics,
)
from melano_tf.models.tta_and_prior_shift import shifted
from melano_tf.papers.settings_values import resampled
from melano_tf.papers.shared_tables import show, whose
from melano_tf.papers.shell import Work
from melano_tf.papers.weighting.best_cell import BestTraining, trained_best
from melano_tf.papers.weighting.best_cell_parts import best_name
from melano_tf.papers.weighting.settings import RECIPE
from melano_tf.papers.weighting.tables import NO_CELLS, judged, rows_of
from melano_tf.papers.weighting.trunk_transfer import transfer_of
from melano_tf.reports.published_numbers import load_published
from melano_tf.reports.tables import Headline, Table, metric_table
from melano_tf.runs.atomic_files import write_csv
from melano_tf.runs.predictions import probabilities

BASE = "CEL"
DECIDED = {"both": "Acc + BAcc", "accuracy": "Acc", "balanced": "BAcc"}
NO_COLOUR = "Colours are as photographed: no colour constancy, which the paper's section 4.2 has."


def best_folds(work: Work) -> list[BestTraining]:
    """The best cells that stand finished, by fold."""
    return [
        trained_best(work, fold) for fold in transfer_of(work.settings).folds_of_best() if work.has(best_name(fold))
    ]


def decisions(folds: Sequence[BestTraining], calibrated: bool = False) -> dict[str, list[JudgedSplit]]:
    """Rows of the table: what was said of each fold's images, by view and by what the decision is in favour of.

    Args:
        folds: the best cells.
        calibrated: what is shifted also by its temperature; it changes no decision.
    """

    def split(frame: pd.DataFrame, one: BestTraining | None = None, name: str = "") -> JudgedSplit:
        said = probabilities(frame)
        if one is not None:
            said = shifted(said, one.factors[name])
            said = one.calibrations[name].apply(said) if calibrated else said
        return JudgedSplit(frame["target"].to_numpy(), said, frame["group"].tolist())

    rows = {
        "upright images": [split(one.upright) for one in folds],
        "mean of mirror images": [split(one.mirrored) for one in folds],
    }
    for name, words in DECIDED.items():
        rows[f"shifted for {words}"] = [split(one.mirrored, one, name) for one in folds]
    return rows


def write_best(work: Work) -> list[Path]:
    """best: the best cell on each fold's judged images, by decision; best-confusion: what the saved model confuses."""
    settings, cohort, folds = work.settings, work.value("cohort"), best_folds(work)
    drawn, rows, sure = resampled(settings), decisions(folds), decisions(folds, calibrated=True)
    around = {
        row: split_intervals(splits, cohort.classes, **drawn)
        | {MEAN_AUC: split_mean_auc(splits, **drawn), CALIBRATION: split_calibration_error(sure[row], **drawn)}
        for row, splits in rows.items()
    }
    metrics = {
        row: [
            split_metrics(one, cohort.classes)
            | multiclass_metrics(one.y, one.scores)
            | {CALIBRATION: expected_calibration_error(other.y, other.scores)}
            for one, other in zip(splits, sure[row], strict=True)
        ]
        for row, splits in rows.items()
    }
    published, names = load_published("weighting"), (*OVERALL, MEAN_AUC, CALIBRATION)
    frame = metric_table(metrics, published, NO_CELLS, published_as={}, metrics=names, intervals=around)
    own = f"shifted for {DECIDED['both']}"
    table = Table(
        "The best cell: most of the network trained, by decision",
        frame,
        tuple(notes_on(work, folds)),
        "Most of a pretrained network trained, and the imbalance taken out of its decision, in favour of this or that.",
        models_down=True,
        unit="lesions",
        headlines=(
            Headline("Acc", own, "best cell, the saved model's decision: accuracy"),
            Headline("BAcc", own, "best cell, the saved model's decision: balanced accuracy"),
        ),
    )
    written = show(work, "best", table)
    return [*written, confusion(work, rows[own], cohort.classes)]


def notes_on(work: Work, folds: Sequence[BestTraining]) -> list[str]:
    """What a reader must know of the best cell's table."""
    settings, transfer = work.settings, transfer_of(work.settings)
    numbers = ", ".join(str(one.fold) for one in folds)
    powers = ", ".join(f"{one.power:g}" for one in folds)
    return [
        whose(RECIPE, settings),
        f"Mean over fold{'s' * (len(folds) != 1)} {numbers} of {transfer.folds}, by lesion; each image is judged once.",
        f"{settings.network.backbone} at {settings.network.input_px} px, frozen up to {transfer.best_cut}; "
        f"{', '.join(transfer.regular.words())}, {transfer.best_epochs} epochs"
        f"{'; it is told age, sex and site' if transfer.metadata else ''}.",
        f"Shifted: probabilities divided by the class shares to a power (Acc + BAcc: {powers}) that was chosen on "
        f"{settings.splits.hold_out:.0%} of the training lesions, which trained nothing. That decision is the saved "
        "model's; the other two stand in its sidecar.",
        "ECE: expected calibration error of the class called, 15 bins; of what is shifted after a temperature that was "
        "fitted on the same lesions held out (predict's calibrated probabilities).",
        *([NO_COLOUR] if settings.store.colour == "none" else []),
    ]


def confusion(work: Work, splits: Sequence[JudgedSplit], classes: Sequence[str]) -> Path:
    """Write best-confusion.csv, counts over folds: a row a true class, a column a called one; returns the file."""
    counts = np.sum([confusion_matrix(one.y, one.scores) for one in splits], axis=0)
    frame = pd.DataFrame(counts, columns=[*classes, "undecided"]).assign(true=list(classes)).set_index("true")
    path = work.path("tables", "best-confusion.csv")
    write_csv(path, frame, index=True)
    return path


def write_differences(work: Work) -> list[Path]:
    """differences: each strategy minus plain cross-entropy, paired, mean over folds."""
    settings, cohort = work.settings, work.value("cohort")
    there = {row: [judged(one) for one in trained] for row, trained in rows_of(work, 2).items() if trained}
    if BASE not in there or len(there) < 2:
        work.say("differences are not made: plain cross-entropy and another strategy are needed on every fold")
        return []
    around: dict[str, Mapping[str, Interval]] = {
        f"{row} - {BASE}": paired_differences(
            there[BASE],
            splits,
            cohort.classes,
            **resampled(settings),
        )
        for row, splits in there.items()
        if row != BASE
    }
    values = {row: [{metric: one.value for metric, one in found.items()}] for row, found in around.items()}
    frame = metric_table(
        values, load_published("weighting"), NO_CELLS, published_as={}, metrics=OVERALL, intervals=around
    )
    notes = (
        whose(RECIPE, settings),
        "Both are judged on the same draws of lesions (paired). The intervals say what other lesions would change, not "
        "what another training would.",
    )
    table = Table(
        f"Each strategy minus {BASE}, mean over folds",
        frame,
        notes,
        "What each weighting changes against plain cross-entropy, on the same lesions.",
        models_down=True,
        unit="lesions",
    )
    return show(work, "differences", table, aloud=False)
