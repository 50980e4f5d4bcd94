"""The steps of the four experiments: which of their tasks the tiles allow, and the models of those."""

import functools
from dataclasses import replace

import pandas as pd

from melano_tf.errors import InputError
from melano_tf.papers.multimag.models import (
    TaskTraining,
    decision,
    depends_on,
    initial_weights,
    model_name,
    slide_rule,
    train_model,
    training_load,
)
from melano_tf.papers.multimag.settings import MultimagSettings
from melano_tf.papers.multimag.tasks import Task, judged_tiles, missing_classes, planned_tasks, task_tiles, tasks_of
from melano_tf.papers.plan import Plan
from melano_tf.papers.shell import LeftOut, Looked, Work
from melano_tf.runs.predictions import read_predictions
from melano_tf.runs.restated_models import restate
from melano_tf.runs.settings_digest import digest
from melano_tf.runs.sidecar import Sidecar


def add_experiment(plan: Plan, settings: MultimagSettings, number: int) -> list[Task]:
    """Add the step "task/<name>" of each task of an experiment, and "experiment/<number>"; returns the tasks."""
    tasks, facts = planned_tasks(number, settings), {"group": "train", "always": True, "by_choice": True}
    for task in tasks:
        plan.step(task_step(task), choose_task, number, task.name, needs=["cohort"], **facts)
    plan.step(experiment_step(number), check_experiment, number, needs=["cohort"], **facts)
    return tasks


def add_training(plan: Plan, settings: MultimagSettings, task: Task, backbone: str) -> str:
    """Add the steps that train one backbone on one task and take up its model; returns the latter's name."""
    trained = plan.step(
        f"train/{model_name(task, backbone)}",
        *(train_model, task_step(task), backbone),
        needs=["cohort", task_step(task)],
        depends=depends_on(settings, backbone),
        weights=((backbone, initial_weights(settings.model, backbone), settings.model.input_px),),
        load=training_load(settings, task, backbone),
    )
    needs = [trained, task_step(task), experiment_step(task.table)]
    facts = {"group": "train", "always": True, "by_choice": True}
    return plan.step(model_step(task, backbone), take_up, task_step(task), backbone, needs=needs, **facts)


def task_step(task: Task) -> str:
    """Name of the step that chooses a task's tiles."""
    return f"task/{task.name}"


def experiment_step(number: int) -> str:
    """Name of the step that looks over all tasks of an experiment."""
    return f"experiment/{number}"


def model_step(task: Task, backbone: str) -> str:
    """Name of the step whose value is a finished model, as `TaskTraining`."""
    return f"model/{model_name(task, backbone)}"


def choose_task(work: Work, number: int, name: str) -> Looked:
    """A task with its quotas filled from the tiles that there are.

    Raises:
        LeftOut: a class is missing from a part.
    """
    seed, cohort = work.settings.seed, work.value("cohort")
    [task] = [one for one in tasks_of(number, work.settings, cohort.tiles) if one.name == name]
    tiles = task_tiles(task, cohort.tiles, seed)
    if lacks := missing_classes(task, tiles):
        raise LeftOut(f"Table {number}: {task.title or task.name} is left out: {lacks}")
    chosen = [table_digest(rows) for rows in (tiles, judged_tiles(task, cohort.whole, tiles))]
    return Looked(task, {"classes": task.classes, "magnifications": task.magnifications, "tiles": chosen})


def table_digest(tiles: pd.DataFrame) -> str:
    """A key of which tiles stand in a table, in which order and for what; where they are stored does not matter."""
    columns = [name for name in ("slide_id", "magnification", "x", "y", "part", "target", "quota") if name in tiles]
    return digest(pd.util.hash_pandas_object(tiles[columns], index=False).astype(str).tolist())


def check_experiment(work: Work, number: int) -> Looked:
    """The tasks of an experiment that are possible.

    Raises:
        InputError: there is none.
    """
    tasks = [task for task in planned_tasks(number, work.settings) if work.has(task_step(task))]
    if not tasks:
        hint = "" if work.settings.allow_upsampling else "; --allow-upsampling enlarges slides that are too coarse"
        raise InputError.of(
            f"Table {number} cannot be made from these slides (leave it out by --tables){hint}:", left_out(work, number)
        )
    return Looked(tasks, [task.name for task in tasks])


def left_out(work: Work, number: int) -> list[str]:
    """A line for each task of an experiment that these tiles do not allow."""
    steps = [task_step(task) for task in planned_tasks(number, work.settings)]
    return [work.left_out[step] for step in steps if step in work.left_out]


def take_up(work: Work, task_name: str, backbone: str) -> Looked:
    """A finished model and its predictions; its sidecar says what its training does not depend on as it is now set."""
    settings, task = work.settings, work.value(task_name)
    stem = model_name(task, backbone)
    companions, path = companions_of(work, task, backbone), work.path("models", f"{stem}.keras")

    def settled(card: Sidecar) -> Sidecar:
        made = {**card.preprocessing, **slide_rule(settings)}
        return replace(card, **decision(settings, task), preprocessing=made, companions=companions)

    restate(work.run, f"train/{stem}", path, settled)
    tell_siblings(work, task, backbone)
    predictions = read_predictions(work.path("predictions", f"{stem}.parquet"))
    return Looked(TaskTraining(task, backbone, path, predictions), work.identity(f"train/{stem}"))


def companions_of(work: Work, task: Task, backbone: str) -> dict[str, str]:
    """Files of the models that judge a slide's other magnifications for predict: a model of Table 1 has siblings."""
    return {one.name: f"{model_name(one, backbone)}.keras" for one in siblings(work, task) if one.name != task.name}


def siblings(work: Work, task: Task) -> list[Task]:
    """The tasks whose models judge a slide together, of Table 1; [] of other tables' tasks."""
    return list(work.value(experiment_step(task.table))) if task.table == 1 else []


def tell_siblings(work: Work, task: Task, backbone: str) -> None:
    """Write into the sidecars of a task's siblings, as far as they are trained, which weights the others have.

    One that is trained anew alone is then known to be another. What a sibling that this session did not come to yet was
    said to have stays until its turn.
    """
    stems = {one.name: model_name(one, backbone) for one in siblings(work, task)}
    files = {name: work.path("models", f"{s}.keras") for name, s in stems.items() if work.has(f"train/{s}")}
    weights = {name: str(Sidecar.read(path).run["weights_sha256"]) for name, path in files.items()}

    def told(own: str, card: Sidecar) -> Sidecar:
        known = {**card.companion_weights, **weights}
        return replace(card, companion_weights={name: known[name] for name in stems if name in known and name != own})

    for name, path in files.items():
        restate(work.run, f"train/{stems[name]}", path, functools.partial(told, name))


def trained_of(work: Work, number: int) -> list[TaskTraining]:
    """The finished models of an experiment, in the paper's order."""
    backbones = work.settings.model.backbones
    steps = [model_step(task, one) for task in planned_tasks(number, work.settings) for one in backbones]
    return [work.value(step) for step in steps if work.has(step)]
