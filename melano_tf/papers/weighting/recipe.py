"""The sample-weighting paper's experiments, in the paper's order.

Read the tables, normalise and decode the images -> draw two random splits by lesion -> train every network with every
optimiser, loss and weighting on each of them -> tables -> figures.
"""

import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

from melano_tf import journal
from melano_tf.errors import InputError, RunError
from melano_tf.evaluation.metrics import format_value
from melano_tf.papers.checks import check_folders, check_weights, given_weights
from melano_tf.papers.terminal import announce, finish
from melano_tf.papers.weighting.cohort import Cohort, cache_settings, class_names, prepare_cohort, read_taxonomy
from melano_tf.papers.weighting.figures import draw_figures
from melano_tf.papers.weighting.grid import TABLES, Cell, Trainers, cells_of
from melano_tf.papers.weighting.models import Trained, choose_gamma, finished_cell, train_cell
from melano_tf.papers.weighting.settings import WeightingSettings, changes
from melano_tf.papers.weighting.tables import OPTIMIZERS, best_row, make_tables
from melano_tf.training.runtime import configure
from melano_tf.workspace import Run, atomic

ABOUT = "weighting: sample weights in the training of dermoscopy classifiers"
Say = Callable[[str], None]
Results = dict[Cell, Trained]


def reproduce(settings: WeightingSettings, say: Say) -> Path:
    """Do what the settings ask for, or what is missing of it; returns the run's folder.

    Raises:
        InputError: a setting or an input file is wrong.
        RunError: a training failed; all others are done, and the tables are made of them.
    """
    tables, figures, steps = settings.chosen_tables(), settings.chosen_figures(), settings.chosen_steps()
    check_folders(settings)
    picked = check(settings, tables)
    network = settings.network
    check_weights([(network.backbone, network.weights)] if picked else [])
    drawn = "images" if not settings.table else None
    announce(ABOUT, drawn, settings, changes(settings), say)
    threads = configure(settings.threads, settings.mirror)
    with Run(settings.out, "weighting", settings, threads, say) as run:
        run.note(differs=changes(settings))
        cohort = prepare_cohort(run, settings, say)
        sides = [side for one in cohort.divisions for side in (one.train, one.judge)]
        run.stands_on(*map(cohort.facts, sides), *given_weights(settings))
        if steps == ("images",):
            return told(run, settings, say, cohort, {}, tables, [])
        results: Results = {}
        failed: dict[str, str] = {}
        if set(steps) & {"train", "tables", "figures"}:
            failed = train_grid(run, settings, cohort, tables, picked, results)
        written: list[Path] = []
        if "tables" in steps:
            written += make_tables(run, settings, cohort, results, tables, say)
        if "figures" in steps:
            written += draw_figures(run, settings, cohort, results, tables, figures, say)
        folder = told(run, settings, say, cohort, results, tables, written)
        if failed:
            raise RunError(
                f"{len(failed)} of {len(picked)} trainings failed ({', '.join(list(failed)[:5])}"
                f"{', …' * (len(failed) > 5)}); their cells are empty, failed/*.txt says why, and the same command "
                "tries them again"
            )
        return folder


def check(settings: WeightingSettings, tables: Sequence[int]) -> set[str]:
    """What can be known to be wrong before any work is done; returns the names of the trainings asked for.

    Raises:
        InputError: a setting, the taxonomy, or the initial weights.
    """
    gamma = settings.chosen_gamma()
    cells = cells_of(settings, tables)
    for cell in cells:
        cell.strategy(settings, 1.0 if gamma is None else gamma)
    picked = settings.picked([cell.name for cell in cells]) if cells else set()
    read_taxonomy(settings.taxonomy, class_names())
    if unknown := [name for name in (*settings.show.hard, *settings.show.easy) if name not in class_names()]:
        raise InputError(f"--show: {unknown[0]!r} is no class; there are {', '.join(class_names())}")
    cache_settings(settings.store)
    return picked


def train_grid(
    run: Run,
    settings: WeightingSettings,
    cohort: Cohort,
    tables: Sequence[int],
    picked: set[str],
    results: Results,
) -> dict[str, str]:
    """Every training that the tables need and --cells names, each once; one that fails does not stop the others.

    A training that --cells leaves out is taken into the tables where it stands finished from before.

    Returns:
        {training that failed: why}.
    """
    trainers = Trainers(settings, cohort.taxonomy)
    failed: dict[str, str] = {}
    for number, cell in enumerate(cells := cells_of(settings, tables), start=1):
        wanted = cell.name in picked
        fixed = 1.0 if cell.loss == "cel" else settings.chosen_gamma()
        if wanted and (fixed is None or not finished_cell(run, settings, cohort, cell, fixed)):
            # Not within the try: what cannot be built is bad input, and would fail them all.
            trainers.of(cell.network, cell.optimizer)
        try:
            gamma = gamma_of(run, settings, cohort, trainers, cell, wanted)
            if gamma is None or not (wanted or finished_cell(run, settings, cohort, cell, gamma)):
                continue
            results[cell] = train_cell(run, settings, cohort, trainers, cell, gamma)
        except OSError:  # a full disk would fail them all
            raise
        except Exception as error:
            failed[cell.name] = " ".join(str(error).split()) or type(error).__name__
            with atomic(run.path("failed", f"{cell.name}.txt")) as temporary:
                temporary.write_text(traceback.format_exc(), encoding="utf-8")
            run.say(f"FAILED    {cell.name} ({number} of {len(cells)}): {failed[cell.name][:300]}")
        else:
            journal.remove(run.folder / "failed" / f"{cell.name}.txt")
    run.note(failed=failed)
    return failed


def gamma_of(
    run: Run, settings: WeightingSettings, cohort: Cohort, trainers: Trainers, cell: Cell, wanted: bool
) -> float | None:
    """gamma of a training's focal loss; None where it is not chosen yet and the training is not wanted."""
    fixed = settings.chosen_gamma()
    if fixed is not None or cell.loss == "cel":
        return 1.0 if fixed is None else fixed
    chosen = run.folder / "gamma" / f"{cell.network}-{cell.optimizer}-split-{cell.split}.json"
    return choose_gamma(run, settings, cohort, trainers, cell) if wanted or chosen.exists() else None


def told(
    run: Run,
    settings: WeightingSettings,
    say: Say,
    cohort: Cohort,
    results: Results,
    tables: Sequence[int],
    written: Sequence[Path],
) -> Path:
    """Say what came out, and where it lies."""
    lines = []
    best = best_row(settings, cohort, results, tables)
    if best is not None:
        number, row, found = best
        lines.append(
            f"best      {TABLES[number][0]}, {OPTIMIZERS[TABLES[number][1]]}, {row} (Table {number}): BAcc "
            f"{format_value(found.value)}, {found.level:.0%} interval {found.ends()}, "
            f"{found.groups} lesions; the highest of "
            f"{len({(c.network, c.optimizer, c.row) for c in results})} cells, so too good for a new set"
        )
    models = f"predict takes any, for example {next(iter(results.values())).model.name}" if results else ""
    return finish(run, say, written, lines, models)
