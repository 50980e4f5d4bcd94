"""The multimag paper's experiments, in the paper's order.

Tile the slides at four magnifications -> train every network on every task -> tables by tile and slide -> what the
networks look at, and how faithful those maps are.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd

from melano_tf.errors import InputError
from melano_tf.evaluation.metrics import format_value
from melano_tf.evaluation.parts import PARTS
from melano_tf.papers.checks import check_folders, check_manifest, check_weights, given_weights
from melano_tf.papers.multimag.cohort import Cohort, cut_tiles, prepare_slides, split_slides
from melano_tf.papers.multimag.figures import draw_explained, draw_samples
from melano_tf.papers.multimag.maps import measure_maps
from melano_tf.papers.multimag.models import Trained, initial_weights, train_task
from melano_tf.papers.multimag.settings import MultimagSettings, changes
from melano_tf.papers.multimag.tables import make_tables
from melano_tf.papers.multimag.tasks import Task, missing_classes, task_tiles, tasks_of
from melano_tf.papers.terminal import announce, finish
from melano_tf.training.runtime import configure
from melano_tf.workspace import Run

ABOUT = "multimag: melanoma against nevi on histology tiles at four magnifications"
Say = Callable[[str], None]


def reproduce(settings: MultimagSettings, say: Say) -> Path:
    """Do what the settings ask for, or what is missing of it; returns the run's folder.

    Raises:
        InputError: a setting or an input file is wrong.
    """
    tables, figures, steps = settings.chosen_tables(), settings.chosen_figures(), settings.chosen_steps()
    settings.check()
    check_folders(settings)
    manifest = check_manifest(settings, "multimag")
    explains = ("figures" in steps and 2 in figures) or "faithfulness" in steps
    trained = settings.trained_tables() if set(steps) & {"train", "tables", "faithfulness", "figures"} else ()
    if manifest is not None:
        check_tables(settings, manifest, trained)
    networks = [(name, initial_weights(settings.model, name)) for name in settings.model.backbones]
    check_weights(networks if trained else [])
    drawn = "slides" if settings.slides is None else None
    announce(ABOUT, drawn, settings, changes(settings), say)
    threads = configure(settings.threads, settings.mirror)
    with Run(settings.out, "multimag", settings, threads, say) as run:
        run.note(differs=changes(settings))
        manifest = prepare_slides(run, settings, say)
        check_tables(settings, manifest, trained)
        if steps == ("slides",):
            return told(run, say, [])
        cohort = cut_tiles(run, settings, manifest, say)
        run.stands_on(cohort.key, *given_weights(settings))
        tasks, left_out = {}, {}
        for number in trained:  # all of them before the first is trained
            tasks[number], left_out[number] = possible_tasks(settings, cohort, number, say)
        results = {number: train_table(run, settings, cohort, tasks[number]) for number in trained}
        written: list[Path] = []
        if "tables" in steps:
            shown = {number: trained for number, trained in results.items() if number in tables}
            written += make_tables(run, settings, cohort, shown, left_out, say)
        explained = [one for one in results.get(1, []) if one.task.title == settings.show.magnification]
        if explains and 1 in results and not explained:
            say(f"no maps: Table 1 has no model at {settings.show.magnification}; see --show.magnification")
        if "faithfulness" in steps and 1 not in results:
            say("the maps are not measured: neither Table 1 nor Figure 2 is asked for")
        if "faithfulness" in steps:
            written += measure_maps(run, settings, cohort, explained, say)
        if "figures" in steps:
            written += draw_samples(run, settings, cohort) if 1 in figures else []
            written += draw_explained(run, settings, cohort, explained) if 2 in figures else []
        return told(run, say, written)


def check_tables(settings: MultimagSettings, manifest: pd.DataFrame, numbers: Sequence[int]) -> None:
    """What the labels of the manifest alone tell: every table asked for has a task whose every part holds every class.

    Raises:
        InputError: a table has none; all are named.
    """
    if not numbers:
        return
    split = split_slides(settings, manifest)
    parts = zip(PARTS, (*split.folds, split.test), strict=True)
    part = {patient: name for name, members in parts for patient in members}
    slides = manifest.assign(part=manifest["patient_id"].map(part))
    tiles = slides.merge(pd.DataFrame({"magnification": settings.grid.names}), how="cross")
    faults = []
    for number in numbers:
        lacks = []
        for task in tasks_of(number, settings, tiles):
            rows = tiles[tiles["label"].isin(task.targets())]
            lacks.append(missing_classes(task, rows.assign(target=rows["label"].map(task.targets()))))
        if all(lacks):
            faults.append(f"Table {number} cannot be made: {' and '.join(dict.fromkeys(lacks))}")
    if faults:
        raise InputError.of("these slides lack diagnoses (leave tables out by --tables):", faults)


def train_table(run: Run, settings: MultimagSettings, cohort: Cohort, tasks: Sequence[Task]) -> list[Trained]:
    """Every backbone on every task of one table."""
    siblings = tasks if tasks[0].table == 1 else []
    return [
        train_task(run, settings, cohort, task, backbone, siblings)
        for task in tasks
        for backbone in settings.model.backbones
    ]


def possible_tasks(settings: MultimagSettings, cohort: Cohort, number: int, say: Say) -> tuple[list[Task], list[str]]:
    """The tasks of a table whose every part holds every class, and a line, said too, for each of the others.

    Raises:
        InputError: there is none.
    """
    tasks: list[Task] = []
    left_out: list[str] = []
    for task in tasks_of(number, settings, cohort.tiles):
        lacks = missing_classes(task, task_tiles(task, cohort.tiles, settings.seed))
        if lacks:
            left_out.append(f"Table {number}: {task.title or task.name} is left out: {lacks}")
        else:
            tasks.append(task)
    for line in left_out:
        say(f"  {line}")
    if not tasks:
        hint = "; --allow-upsampling enlarges slides that are too coarse" if not settings.allow_upsampling else ""
        raise InputError.of(
            f"Table {number} cannot be made from these slides (leave it out by --tables){hint}:", left_out
        )
    return tasks, left_out


def told(run: Run, say: Say, written: Sequence[Path]) -> Path:
    """Say what came out, and where it lies."""
    lines: list[str] = []
    for name, what in (("table1", "by tile"), ("table1-slides", "by slide")):
        table = run.folder / "tables" / f"{name}.csv"
        lines += found(pd.read_csv(table), what) if table in written else []
    models = sorted((run.folder / "models").glob("melanoma-*x-*.keras"))
    words = f"predict takes any of Table 1, for example {models[-1].name}" if models else ""
    return finish(run, say, written, lines, words)


def found(table: pd.DataFrame, what: str) -> list[str]:
    """The test's ROC AUC of the first network at each magnification with its interval, a line each, from Table 1."""
    rows = table[(table["row"] == "AUC") & table["ours"].notna()]
    lines = []
    for row in rows[rows["column"].str.endswith("ResNet50")].to_dict("records"):
        interval = f"{row['level']:.0%} interval {format_value(row['low'])} to {format_value(row['high'])}"
        lines.append(
            f"test      melanoma {what}, {row['column']}: ROC AUC {format_value(row['ours'])}, {interval}, "
            f"{row['patients']:.0f} patients"
        )
    return lines
