"""Tables I and II of the paper beside the published numbers, and what the metadata add."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from melano_tf.evaluation.binary_intervals import Judged, cohort_intervals
from melano_tf.evaluation.binary_metrics import binary_metrics, roc_auc
from melano_tf.evaluation.calibration import Calibration, expected_calibration_error
from melano_tf.evaluation.interval import Interval
from melano_tf.evaluation.thresholds import DecisionSettings
from melano_tf.papers.settings_values import resampled
from melano_tf.papers.shared_tables import decided_at, differing, in_place_of, show, whose
from melano_tf.papers.shell import Work
from melano_tf.papers.zoome.cohort import ZoomeImages
from melano_tf.papers.zoome.metadata_study import BLANKED, PERMUTED
from melano_tf.papers.zoome.models import FoldTraining, trained
from melano_tf.papers.zoome.networks import Network, proposed, table_1, table_2
from melano_tf.papers.zoome.settings import RECIPE, ZoomeSettings
from melano_tf.reports.published_numbers import load_published
from melano_tf.reports.tables import Headline, Table, metric_table
from melano_tf.training.fit import write_frame

PUBLISHED_AS: Mapping[str, str | None] = {
    "ACC": "Accuracy",
    "SN": "Sensitivity",
    "SPC": "Specialty",
    "AUC": "ROC_AUC",
}
METRICS = ("ACC", "SN", "SPC", "AUC")
HALF = " at 0.5"
ERRORS = ("ECE", "ECE calibrated")
TITLES = {  # and what each shows, for a reader who was not there
    1: (
        "Table I: ZooME, networks that it is compared with, and its ablations (validation folds)",
        "ZooME, its ablations and the networks it is compared with, on folds left out of training.",
    ),
    2: (
        "Table II: Zoom-SE on ResNet50, metadata embedding on AlexNet (validation folds)",
        "The two ideas on other networks: zoom-in attention on ResNet50, metadata on AlexNet.",
    ),
}
FIRST = (  # as the paper's abstract has them, and what its two ideas add
    Headline("AUC", "ZooME", "ZooME: ROC AUC, mean over folds"),
    Headline("ACC", "ZooME", "ZooME: accuracy"),
    Headline("SN", "ZooME", "ZooME: sensitivity"),
    Headline("SPC", "ZooME", "ZooME: specificity"),
    Headline("AUC", "w/o Zoom-SE", "without zoom-in attention: ROC AUC"),
    Headline("AUC", "w/o Metadata", "trained without metadata: ROC AUC"),
)
NETWORKS = {1: table_1, 2: table_2}
METADATA = "What the metadata add (validation folds)"
NO_CELLS = 0  # number of a table that the paper does not have


def table(work: Work, number: int) -> list[Path]:
    """Table I or II of the paper, and beside it what the paper does not print."""
    settings, cohort = work.settings, work.value("folds")
    rows = {name: folds_of(work, which) for name, which in NETWORKS[number](settings).items()}
    title, words = TITLES[number]
    main = Table(
        title,
        paper_table(number, rows, settings),
        tuple(notes_on(number, settings, cohort)),
        words,
        models_down=True,
        unit=f"{cohort.unit}s",
        headlines=FIRST if number == 1 else (),
    )
    more = Table(
        f"Beside {title.partition(':')[0]}: balanced accuracy, and the same networks decided at 0.5",
        decision_table(rows, settings.decision.calibrate),
        (whose(RECIPE, settings), *notes_on_decisions(rows, settings.decision)),
        "What the paper does not print: balanced accuracy, decisions at 0.5, calibration error.",
        models_down=True,
    )
    return [*show(work, f"table{number}", main), *show(work, f"table{number}-decisions", more)]


def metadata_tables(work: Work) -> list[Path]:
    """What the metadata add, and what each of their values does."""
    settings, unit = work.settings, work.value("folds").unit
    words = f"The trained network asked again with the metadata blanked, or exchanged between {unit}s."
    first = (Headline("AUC", "metadata blanked", "ZooME, asked again with the metadata blanked: ROC AUC"),)
    notes = tuple(notes_on_metadata(settings, unit))
    added = Table(METADATA, metadata_table(work), notes, words, models_down=True, unit=f"{unit}s", headlines=first)
    values = value_table(folds_of(work, proposed(settings)))
    return [*show(work, "metadata", added), write_frame(work.path("tables", "metadata_values.csv"), values)]


def folds_of(work: Work, which: Network) -> list[FoldTraining]:
    """One network's trainings, in the order of the folds."""
    return [trained(work, which, fold) for fold in range(1, work.settings.folds.count + 1)]


def paper_table(number: int, rows: Mapping[str, Sequence[FoldTraining]], settings: ZoomeSettings) -> pd.DataFrame:
    """A table of the paper: mean ± std over folds, with the interval of the mean by patient."""
    models = {name: [metrics_of(one) for one in folds] for name, folds in rows.items()}
    around = {name: intervals_of([judged(one) for one in folds], settings) for name, folds in rows.items()}
    published = load_published("zoome")
    return metric_table(models, published, number, published_as=PUBLISHED_AS, metrics=METRICS, ddof=0, intervals=around)


def metrics_of(trained: FoldTraining) -> dict[str, float]:
    """One fold's metrics at the threshold from the inner hold-out."""
    rows = trained.predictions
    return binary_metrics(rows["target"], rows["calibrated"], trained.decision.threshold.value)


def judged(trained: FoldTraining, column: str = "calibrated") -> Judged:
    """One fold's predictions for `cohort_intervals`."""
    rows = trained.predictions
    return Judged(rows["target"], rows[column], rows["group"].tolist(), trained.decision.threshold.value)


def intervals_of(cohorts: Sequence[Judged], settings: ZoomeSettings) -> dict[str, Interval]:
    """Intervals of the means over folds."""
    return cohort_intervals(
        cohorts,
        METRICS,
        **resampled(settings),
    )


def decision_table(rows: Mapping[str, Sequence[FoldTraining]], calibrated: bool) -> pd.DataFrame:
    """What the paper does not print: balanced accuracy, calibration error, and decisions at a probability of 0.5.

    Args:
        rows: the trainings of each network.
        calibrated: whether a temperature was fitted, so that there is an error behind it too.
    """
    models: dict[str, list[dict[str, float]]] = {}
    names = ("ACC", "SN", "SPC", "BACC")
    for name, folds in rows.items():
        models[name] = []
        for one in folds:
            y, p, fitted = (one.predictions[column] for column in ("target", "probability", "calibrated"))
            half = binary_metrics(y, p, 0.5)
            found = {"BACC": metrics_of(one)["BACC"], **{f"{key}{HALF}": half[key] for key in names}}
            errors = {stage: expected_calibration_error(y, v) for stage, v in zip(ERRORS, (p, fitted), strict=True)}
            models[name].append(found | errors)
    metrics = ("BACC", *(f"{key}{HALF}" for key in names), *(ERRORS if calibrated else ERRORS[:1]))
    return metric_table(models, load_published("zoome"), NO_CELLS, published_as={}, metrics=metrics)


def notes_on(number: int, settings: ZoomeSettings, cohort: ZoomeImages) -> list[str]:
    """What a reader must know of the data and settings behind a table."""
    notes = [whose(RECIPE, settings)]
    sizes = cohort.records.groupby("fold")["target"].agg(["size", "sum"])
    how = f"by {cohort.unit}" if settings.folds.by == "patient" else "stratified by class alone"
    notes.append(
        f"{len(cohort.records):,} images of {cohort.records['group'].nunique():,} {cohort.unit}s in {len(sizes)} folds "
        f"{how}: {sizes['size'].min():,} to {sizes['size'].max():,} images, {sizes['sum'].min()} to "
        f"{sizes['sum'].max()} {cohort.classes[1]}."
    )
    if cohort.leaks:
        kinds = pd.Series([leak.kind for leak in cohort.leaks]).value_counts()
        counted = ", ".join(f"{count} {kind}" for kind, count in kinds.items())
        notes.append(f"LEAKS, allowed by --allow-leaks, that make these numbers too good: {counted} on two sides.")
    notes.append(f"ACC, SN and SPC {decided_at(settings.decision, f'{cohort.unit}s')}; the paper names none.")
    notes.append('The paper prints percent; here they are shares. It calls specificity "specialty".')
    used, paper = settings.network, ZoomeSettings().network
    places = {1: ("backbone", "maron", "kaur", "alexnet"), 2: ("maron", "alexnet")}[number]
    if number == 1 and not settings.comparators:
        places = ("backbone",)
        notes.append("Maron, Kaur and AlexNet were not run: --comparators.")
    networks = [(getattr(paper, place), getattr(used, place)) for place in places]
    notes += in_place_of((repr(meant), meant, own) for meant, own in networks)
    if number == 2 or settings.comparators:
        notes.append(
            "Maron et al. (Table I) and the plain ResNet50 (Table II) are one network: one training fills both."
        )
    if number == 1 and settings.comparators:
        notes.append("Kaur et al.: the paper does not describe their network; a plain deep CNN stands in.")
    return [*notes, *differing(RECIPE, settings)]


def notes_on_decisions(rows: Mapping[str, Sequence[FoldTraining]], decision: DecisionSettings) -> list[str]:
    """The threshold and temperature of each fold, and what the temperature did there."""
    at = "the fixed threshold" if decision.threshold.rule == "fixed" else "the hold-out's threshold"
    stages = ", before and after the hold-out's temperature" * decision.calibrate
    notes = [
        f'BACC at {at}; "at 0.5": the network\'s own probability is at least 0.5.',
        f"ECE: expected calibration error in 15 bins of equal width{stages}.",
    ]
    for name, folds in rows.items():
        thresholds = ", ".join(f"{one.decision.threshold.value:.3f}" for one in folds)
        fitted = [one.decision.calibration for one in folds if one.decision.calibration is not None]
        temperatures = f"; temperatures {', '.join(f'{one.temperature:.2f}' for one in fitted)}" if fitted else ""
        notes.append(f"{name}: thresholds {thresholds}{temperatures}{_limits(fitted)}.")
    return notes


def _limits(fitted: Sequence[Calibration]) -> str:
    count = sum(one.at_limit for one in fitted)
    return f" ({count} at the limit of what is tried: not to be trusted)" if count else ""


def metadata_table(work: Work) -> pd.DataFrame:
    """ZooME with metadata as given, blanked, and exchanged between patients (lesions); and the network trained
    without."""
    settings, unit = work.settings, work.value("folds").unit
    folds, without = folds_of(work, proposed(settings)), folds_of(work, table_1(settings)["w/o Metadata"])
    given = {
        "metadata as given": [judged(one) for one in folds],
        "metadata blanked": [again(one, BLANKED) for one in folds],
    }
    permuted = [judged_permuted(one) for one in folds]
    models = {name: [_measured(one) for one in cohorts] for name, cohorts in given.items()}
    models[f"metadata exchanged between {unit}s"] = [_averaged(several) for several in permuted]
    models["trained without metadata"] = [metrics_of(one) for one in without]
    around = {name: intervals_of(cohorts, settings) for name, cohorts in given.items()}
    around["trained without metadata"] = intervals_of([judged(one) for one in without], settings)
    return metric_table(models, load_published("zoome"), NO_CELLS, published_as={}, metrics=METRICS, intervals=around)


def again(trained: FoldTraining, column: str) -> Judged:
    """The same network's predictions with other metadata, decided as its own."""
    rows = trained.predictions
    calibrated = trained.decision.probability(rows[column])
    return Judged(rows["target"], calibrated, rows["group"].tolist(), trained.decision.threshold.value)


def judged_permuted(trained: FoldTraining) -> list[Judged]:
    """One for each exchange of the metadata."""
    names = [str(name) for name in trained.predictions if str(name).startswith(PERMUTED)]
    return [again(trained, name) for name in names]


def _measured(one: Judged) -> dict[str, float]:
    return binary_metrics(one.y, one.p, one.threshold)


def _averaged(several: Sequence[Judged]) -> dict[str, float]:
    """Mean of each metric over the exchanges of one fold."""
    found = [_measured(one) for one in several]
    return {name: float(np.mean([metrics[name] for metrics in found])) for name in found[0]}


def notes_on_metadata(settings: ZoomeSettings, unit: str) -> list[str]:
    """How the rows were made; unit: "patient" or "lesion", between which metadata are exchanged."""
    return [
        whose(RECIPE, settings),
        "Blanked and exchanged: the network trained with metadata, asked again; its threshold stays as it was.",
        f"Exchanged: each {unit} gets another {unit}'s metadata; means over {settings.evaluation.permutations} "
        "exchanges in each fold.",
        "What each value of each field does: tables/metadata_values.csv and figures/metadata.png.",
    ]


def value_table(folds: Sequence[FoldTraining]) -> pd.DataFrame:
    """What each value of each field does, over all folds.

    Returns:
        One row a value: field, value, images and melanoma (who has it in truth), probability (mean calibrated
        probability if everybody had it), log_odds (mean), against_unknown (log_odds less those of "unknown"), and
        lowest, highest (of against_unknown over folds).
    """
    parts = []
    for one in folds:
        unknown = one.effects[one.effects["value"] == "unknown"].set_index("field")["log_odds"]
        parts.append(
            one.effects.assign(
                against_unknown=one.effects["log_odds"] - one.effects["field"].map(unknown),
                weight=len(one.predictions),
            )
        )
    values = pd.concat(parts, ignore_index=True)
    rows = []
    for (field, value), part in values.groupby(["field", "value"], sort=False):
        weight = part["weight"]
        row = {"field": field, "value": value, "images": part["images"].sum(), "melanoma": part["melanoma"].sum()}
        for name in ("probability", "log_odds", "against_unknown"):
            row[name] = float(np.average(part[name], weights=weight))
        rows.append({**row, "lowest": part["against_unknown"].min(), "highest": part["against_unknown"].max()})
    return pd.DataFrame(rows)


def pooled(folds: Sequence[FoldTraining]) -> pd.DataFrame:
    """All folds' predictions, one below the other: each image judged once, by the network that did not see it."""
    return pd.concat([one.predictions for one in folds], ignore_index=True)


def mean_auc(folds: Sequence[FoldTraining]) -> float:
    """Mean ROC AUC over folds."""
    return float(np.nanmean([roc_auc(one.predictions["target"], one.predictions["calibrated"]) for one in folds]))
