"""The ZooME paper's experiments, in the paper's order.

Read the tables and decode the images -> divide them into folds -> train each network on all folds but one and judge
that one -> tables -> figures; and one network trained on all folds, for use.
"""

from collections.abc import Callable
from pathlib import Path

from melano_tf.evaluation.metrics import format_value, mean_std
from melano_tf.papers.checks import check_folders, check_weights, given_weights
from melano_tf.papers.terminal import announce, finish
from melano_tf.papers.zoome.cohort import Cohort, prepare_cohort
from melano_tf.papers.zoome.figures import draw_figures
from melano_tf.papers.zoome.metadata import BLANKED
from melano_tf.papers.zoome.models import Network, Trained, proposed, table_1, table_2, train_network
from melano_tf.papers.zoome.settings import ZoomeSettings, changes
from melano_tf.papers.zoome.tables import again, folds_of, intervals_of, judged, make_tables, metrics_of
from melano_tf.training.runtime import configure
from melano_tf.workspace import Run

ABOUT = "zoome: melanoma detection with zoom-in attention and metadata embedding"

Results = dict[tuple[Network, int | None], Trained]


def reproduce(settings: ZoomeSettings, say: Callable[[str], None]) -> Path:
    """Do what the settings ask for, or what is missing of it; returns the run's folder.

    Raises:
        InputError: a setting or an input file is wrong.
    """
    tables, figures, steps = settings.chosen_tables(), settings.chosen_figures(), settings.chosen_steps()
    check_folders(settings)
    rows = wanted_networks(settings, tables)
    networks = [which for table in rows.values() for which in table.values()] + [proposed(settings)] * (
        "model" in steps
    )
    check_weights((one.backbone, one.weights) for one in networks if steps != ("images",))
    drawn = "images" if not settings.table else None
    announce(ABOUT, drawn, settings, changes(settings), say)
    threads = configure(settings.threads, settings.mirror)
    with Run(settings.out, "zoome", settings, threads, say) as run:
        run.note(differs=changes(settings))
        cohort = prepare_cohort(run, settings, say)
        run.stands_on(cohort.key, *given_weights(settings))
        if steps == ("images",):
            return told(run, settings, say, cohort.unit, {}, [])
        results: Results = {}
        if set(steps) & {"train", "tables", "figures"}:
            train_folds(run, settings, cohort, rows, results)
        if "model" in steps:
            train_network(run, settings, cohort, proposed(settings), None)
        written: list[Path] = []
        if "tables" in steps:
            written += make_tables(run, settings, cohort, results, tables, say)
        if "figures" in steps:
            written += draw_figures(run, settings, rows, results, figures)
        return told(run, settings, say, cohort.unit, results, written)


def wanted_networks(settings: ZoomeSettings, tables: tuple[int, ...]) -> dict[int, dict[str, Network]]:
    """The rows of each table asked for."""
    makers = {1: table_1, 2: table_2}
    return {number: makers[number](settings) for number in tables}


def train_folds(
    run: Run, settings: ZoomeSettings, cohort: Cohort, rows: dict[int, dict[str, Network]], results: Results
) -> None:
    """Every network that a table needs, each once, on every fold."""
    networks = dict.fromkeys(which for table in rows.values() for which in table.values())
    for which in networks:
        for fold in range(1, settings.folds.count + 1):
            results[which, fold] = train_network(run, settings, cohort, which, fold)


def told(
    run: Run, settings: ZoomeSettings, say: Callable[[str], None], unit: str, results: Results, written: list[Path]
) -> Path:
    """Say what came out, and where it lies."""
    lines = found(settings, results, unit) if (proposed(settings), 1) in results and written else []
    models = "the final one: zoome.keras" if (run.folder / "models" / "zoome.keras").exists() else ""
    return finish(run, say, written, lines, models)


def found(settings: ZoomeSettings, results: Results, unit: str) -> list[str]:
    """ZooME's ROC AUC with its interval, as given and with the metadata blanked, a line each."""
    folds = folds_of(results, proposed(settings), settings)
    lines = []
    for what, cohorts in (
        ("ZooME", [judged(one) for one in folds]),
        ("the same, metadata blanked", [again(one, BLANKED) for one in folds]),
    ):
        auc = intervals_of(cohorts, settings)["AUC"]
        lines.append(
            f"folds     {what}: ROC AUC {format_value(auc.value)}, {auc.level:.0%} interval {auc.ends()}, "
            f"{auc.groups} {unit}s"
        )
    spread = mean_std([metrics_of(one) for one in folds])["AUC"]
    lines[0] += f", ± {format_value(spread.std)} over {spread.cohorts} folds"
    return lines
