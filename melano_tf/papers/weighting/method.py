"""The sample-weighting paper's experiments, in the paper's order. Nothing is done here: this is the plan."""

from collections.abc import Sequence
from typing import Any

from melano_tf.errors import InputError
from melano_tf.models.taxonomy import Taxonomy
from melano_tf.papers.image_steps import add_image_steps
from melano_tf.papers.plan import Plan
from melano_tf.papers.shared_tables import first_numbers
from melano_tf.papers.shell import Work
from melano_tf.papers.weighting.best_cell import best_depends_on, train_best
from melano_tf.papers.weighting.best_cell_parts import best_name, best_stem
from melano_tf.papers.weighting.best_cell_tables import write_best, write_differences
from melano_tf.papers.weighting.best_cell_training import best_load
from melano_tf.papers.weighting.cohort import (
    cache_settings,
    class_names,
    divide,
    gather,
    read_taxonomy,
    said_images,
    split_name,
    tell,
)
from melano_tf.papers.weighting.figures import DRAWN
from melano_tf.papers.weighting.loads import cell_load, gamma_load, start_load
from melano_tf.papers.weighting.models import (
    choose_gamma,
    depends_on,
    gamma_depends_on,
    gamma_name,
    start_depends_on,
    start_name,
    step_name,
    train_cell,
    warm_up,
)
from melano_tf.papers.weighting.other_cameras import (
    cameras_depend_on,
    cameras_name,
    draw_cameras,
    judge_cameras,
    write_cameras,
)
from melano_tf.papers.weighting.settings import STEPS, TRANSFER_STEPS, WeightingSettings
from melano_tf.papers.weighting.surest_errors import draw_errors
from melano_tf.papers.weighting.tables import count_images, write_results
from melano_tf.papers.weighting.teachers import teacher_name, teacher_numbers, train_teacher
from melano_tf.papers.weighting.training_grid import TABLES, Cell, cells_of, shown_cells
from melano_tf.papers.weighting.trunk_transfer import (
    FEATURES,
    check_cuts,
    check_used,
    features_depend_on,
    keep_features,
    strategy_depends_on,
    strategy_load,
    train_strategy,
)
from melano_tf.papers.weighting.trunk_transfer_settings import TransferSettings
from melano_tf.runs.judgements import JudgedModel


def method(s: WeightingSettings) -> Plan:
    """Read the tables, normalise and decode the images -> draw random splits by lesion -> train every network with
    every optimiser, loss and weighting on each of them -> tables -> figures."""
    if s.transfer is not None:
        return transfer_method(s, s.transfer)
    cells = cells_of(s, s.chosen_tables())
    picked = s.picked([cell.name for cell in cells]) if cells else set()
    taxonomy = read_taxonomy(s.taxonomy, class_names())
    check_shown(s)
    judged = [
        JudgedModel(cell.name, (f"{cell.name}.parquet",), class_names(), "images") for cell in cells_of(s, TABLES)
    ]
    plan = Plan(STEPS, found, models, judged)
    splits = add_splits(plan, s, taxonomy, s.split_numbers())  # sections 4.2 and 4.4
    network: dict[str, Any] = {
        "weights": ((s.network.backbone, s.network.weights, s.network.input_px),),
        "group": "train",
    }

    def start(cell: Cell, for_gamma: bool = False) -> list[str]:  # not in the paper
        if not s.training.warm_epochs:
            return []
        whose, facts = cell.plain_focal if for_gamma else cell.start, start_depends_on(s, taxonomy, cell, for_gamma)
        name, split = start_name(cell, for_gamma), split_name(cell.split)
        load = start_load(s, taxonomy, cell, for_gamma)
        return [
            plan.step(
                *(name, warm_up, whose, for_gamma), needs=[split], depends=facts, tolerant=True, load=load, **network
            )
        ]

    def gamma(cell: Cell) -> list[str]:  # equation 6
        if cell.loss == "cel" or s.chosen_gamma() is not None:
            return []
        whose, needs = cell.plain_focal, [split_name(cell.split), *start(cell, for_gamma=True)]
        facts, load = gamma_depends_on(s, taxonomy, whose), gamma_load(s, taxonomy, cell)
        return [
            plan.step(
                *(gamma_name(cell), choose_gamma, whose),
                needs=needs,
                depends=facts,
                tolerant=True,
                load=load,
                **network,
            )
        ]

    def train(cell: Cell) -> str:  # sections 3, 4.1 and 4.3; judged as in 4.4
        needs, facts = [split_name(cell.split), *start(cell), *gamma(cell)], depends_on(s, taxonomy, cell)
        left = cell.name not in picked
        return plan.step(
            *(step_name(cell), train_cell, cell),
            needs=needs,
            depends=facts,
            tolerant=True,
            taken=left,
            load=cell_load(s, taxonomy, cell),
            **network,
        )

    if 1 in s.chosen_tables():
        plan.output("table 1", "tables", splits, count_images)
    for number in [number for number in s.chosen_tables() if number in TABLES]:
        row_cells = cells_of(s, [number])
        for first in (start, gamma):  # of all cells first, so that the table's own network is built once for them
            for cell in row_cells:
                first(cell)
        plan.output(f"table {number}", "tables", [*splits, *map(train, row_cells)], write_results, number)
    add_figures(plan, s, splits)
    return plan


def transfer_method(s: WeightingSettings, transfer: TransferSettings) -> Plan:
    """--preset ham10000: read and decode the images -> divide them into folds by lesion -> run a frozen trunk over them
    -> train its rest with every weighting -> train most of the network, and choose its decision on lesions held out ->
    tables -> figures; and the same on all images, for use."""
    cells = cells_of(s, s.chosen_tables())
    picked = s.picked([cell.name for cell in cells]) if cells else set()
    check_used(s)
    check_cuts(s)
    judged = [JudgedModel(cell.name, (f"{cell.name}.parquet",), class_names(), "images") for cell in cells_of(s, [2])]
    if files := tuple(f"{best_stem(fold)}.parquet" for fold in transfer.folds_of_best()):
        judged.append(JudgedModel("best cell", files, class_names(), "images"))
    plan = Plan(TRANSFER_STEPS, found, models, judged)
    numbers = tuple(dict.fromkeys((*s.split_numbers(), *transfer.folds_of_best())))
    splits = add_splits(plan, s, read_taxonomy(s.taxonomy, class_names()), numbers)
    network: dict[str, Any] = {"weights": ((s.network.backbone, s.network.weights, s.network.input_px),)}

    def train(cell: Cell) -> str:  # the strategies, equations 4 to 9
        trunk = plan.step(
            FEATURES, keep_features, needs=["cohort"], depends=features_depend_on(s), group="train", **network
        )
        needs, facts = [split_name(cell.split), trunk], strategy_depends_on(s, cell)
        left = cell.name not in picked
        return plan.step(
            *(step_name(cell), train_strategy, cell),
            needs=needs,
            depends=facts,
            tolerant=True,
            taken=left,
            load=strategy_load(s, len(class_names())),
            **network,
        )

    def best(fold: int | None, needs: list[str], group: str) -> str:
        facts, load = best_depends_on(s), best_load(s, fold, len(class_names()))
        told = [plan.step("metadata", tell, needs=["cohort"], group="images", always=True)] if transfer.metadata else []
        needs = [*needs, *told]
        if fold is not None and (numbers := teacher_numbers(s)):
            part = best_load(s, fold, len(class_names()), 1 - 1 / transfer.teachers)
            needs = needs + [
                plan.step(
                    *(teacher_name(fold, number), train_teacher, fold, number),
                    needs=needs,
                    depends=facts,
                    group=group,
                    load=part,
                    **network,
                )
                for number in numbers
            ]
        return plan.step(
            *(best_name(fold), train_best, fold), needs=needs, depends=facts, group=group, load=load, **network
        )

    # The longest first: whoever takes several at a time then ends soonest.
    bests = [best(fold, [split_name(fold)], "train") for fold in transfer.folds_of_best()]
    asked = other_cameras(plan, s, transfer)
    trained = [train(cell) for cell in cells]
    if 1 in s.chosen_tables():
        plan.output("table 1", "tables", splits, count_images)
    if trained:
        plan.output("table 2", "tables", [*splits, *trained], write_results, 2)
        plan.output("differences", "tables", [*splits, *trained], write_differences)
    if bests:
        plan.output("best", "tables", bests, write_best)
        if asked:
            plan.output("cameras", "tables", asked, write_cameras)
        final = best(None, ["cohort", *bests], "model")
        plan.output("the model for use", "model", [final], None)
        if s.chosen_figures():
            if asked:
                plan.output("figure cameras", "figures", asked, draw_cameras)
            plan.output("figure errors", "figures", bests, draw_errors)
    add_figures(plan, s, splits)
    return plan


def other_cameras(plan: Plan, s: WeightingSettings, transfer: TransferSettings) -> list[str]:
    """Add the steps that judge each fold's best cell as other cameras would show its images (not in the paper)."""
    return [
        plan.step(
            *(cameras_name(fold), judge_cameras, fold),
            needs=[best_name(fold), split_name(fold)],
            depends=cameras_depend_on(s),
            group="train",
        )
        for fold in (transfer.folds_of_best() if transfer.camera_images else ())
    ]


def add_splits(plan: Plan, s: WeightingSettings, taxonomy: Taxonomy, numbers: Sequence[int]) -> list[str]:
    """Add the steps from the tables and files to these splits; returns the splits' names."""
    images = add_image_steps(plan, "images", cache_settings(s.store), said_images, near=s.splits.near_copies)
    cohort = plan.step("cohort", gather, taxonomy, needs=images, group="images", always=True)
    splits = [
        plan.step(split_name(number), divide, number, needs=[cohort], group="images", always=True) for number in numbers
    ]
    plan.output("splits", "images", splits, None)
    return splits


def add_figures(plan: Plan, s: WeightingSettings, splits: Sequence[str]) -> None:
    """Figures 1 to 4 and the pace, of what the tables trained."""
    for name in s.chosen_figures():
        shown = [step_name(cell) for cell in shown_cells(s, name)]
        plan.output(f"figure {name}", "figures", [*splits, *shown], DRAWN[name], name)


def check_shown(s: WeightingSettings) -> None:
    """The classes of Figures 3 and 4 are classes.

    Raises:
        InputError: one is none.
    """
    if unknown := [name for name in (*s.show.hard, *s.show.easy) if name not in class_names()]:
        raise InputError(f"--show: {unknown[0]!r} is no class; there are {', '.join(class_names())}")


def models(work: Work) -> str:
    """Which models are there, and what takes them."""
    there = trained_cells(work)
    if work.has(best_name(None)):
        return f"predict takes the one for use, {best_stem(None)}.keras, and any other"
    return f"predict takes any, for example {there[0].name}.keras" if there else ""


def found(work: Work) -> list[str]:
    """Of each table plain cross-entropy and the row of highest balanced accuracy; and the best cell's numbers."""
    return first_numbers(work, *(f"table{number}" for number in TABLES), "best", of="splits")


def trained_cells(work: Work) -> list[Cell]:
    """The trainings of the tables asked for that stand finished."""
    cells = cells_of(work.settings, work.settings.chosen_tables())
    return [cell for cell in cells if work.has(step_name(cell))]
