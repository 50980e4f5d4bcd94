"""The plan of the multimag recipe: what is asked for and no more, and what a training depends on."""

import dataclasses
from pathlib import Path
from types import SimpleNamespace

import pytest

from melano_tf.errors import InputError
from melano_tf.papers.multimag.experiments import (
    check_experiment,
    choose_task,
    companions_of,
    left_out,
    model_step,
    take_up,
    task_step,
    tell_siblings,
    trained_of,
)
from melano_tf.papers.multimag.method import method
from melano_tf.papers.multimag.models import sidecar
from melano_tf.papers.multimag.settings import STEPS, preset
from melano_tf.papers.multimag.tasks import planned_tasks
from melano_tf.papers.plan import Plan, chosen_groups
from melano_tf.papers.shell import LeftOut, Work
from melano_tf.runs.run_folder import Run
from melano_tf.runs.settings_digest import digest, plain
from melano_tf.runs.sidecar import Sidecar
from tests.papers.test_multimag_parts import EVEN, capped

PAPER = preset("paper")
TABLE_1 = [f"melanoma-{name}-{backbone}" for name in PAPER.grid.names for backbone in PAPER.model.backbones]
MIXED = [f"melanoma-mixed-{backbone}" for backbone in PAPER.model.backbones]


def plan_of(**changed) -> Plan:
    return method(dataclasses.replace(PAPER, **changed))


def trained(**changed) -> list[str]:
    """The models that the plan of these settings trains."""
    settings = dataclasses.replace(PAPER, **changed)
    steps, _ = method(settings).wanted(chosen_groups(settings.steps, STEPS))
    return [step.name.removeprefix("train/") for step in steps if step.name.startswith("train/")]


@pytest.mark.parametrize(
    "asked, models",
    [
        ({"tables": (1,), "figures": ()}, TABLE_1),
        ({"tables": (2,), "figures": ()}, MIXED),
        ({"tables": (2,), "figures": (2,)}, TABLE_1 + MIXED),  # Figure 2 explains models of Table 1
        ({"tables": (2,), "figures": (2,), "steps": "tables"}, MIXED),
        ({"tables": (2,), "figures": (2,), "steps": "faithfulness"}, TABLE_1),
        ({"tables": (1,), "figures": (1,), "steps": "figures"}, []),  # Figure 1 shows tiles
        ({"tables": (1, 2), "steps": "tiles"}, []),
        ({"tables": (4,), "figures": (), "steps": "train"}, ["nevi-resnet50", "nevi-vgg19"]),
        ({"tables": (), "figures": ()}, []),
    ],
)
def test_what_the_tables_and_figures_need_is_trained_and_no_more(asked, models):
    assert trained(**asked) == models


def test_every_task_is_chosen_before_the_first_is_trained():
    plan = plan_of()
    kinds = [name.partition("/")[0] for name in plan.steps]
    first = kinds.index("train")
    assert {"task", "experiment"}.isdisjoint(kinds[first:]) and kinds.count("task") == 4 + 1 + 3 + 1
    assert kinds.index("wanted") < kinds.index("tiles") < kinds.index("cohort") < kinds.index("task")


def test_the_outputs_of_the_paper():
    outputs = plan_of(tables=(1, 3)).outputs
    tables = ["table 1", "table 3", "aggregation", "fusion"]
    assert list(outputs) == ["slides", "tiles", *tables, "faithfulness", "figure 1", "figure 2"]
    assert "fusion" not in plan_of(tables=(2,)).outputs and "aggregation" not in plan_of(tables=(3,)).outputs


STEP = "train/melanoma-40x-vgg19"


def facts(**changed) -> str:
    """What a training is known by, beside the tiles."""
    step = plan_of(**changed).steps[STEP]
    return digest([plain(step.depends), step.needs, step.weights])


@pytest.mark.parametrize(
    "name, value",
    [
        ("evaluation", dataclasses.replace(PAPER.evaluation, threshold=0.3, top=5, repeats=10, aggregation="top")),
        ("show", dataclasses.replace(PAPER.show, magnification="20x", tiles=1)),
        ("tables", (1,)),
        ("figures", ()),
        ("cache_mib", 1),
        ("model", dataclasses.replace(PAPER.model, backbones=("vgg19",))),
        ("caps", dataclasses.replace(PAPER.caps, nevi=10)),  # of the tasks, whose tiles are known by their content
    ],
)
def test_what_a_training_does_not_depend_on(name, value):
    assert facts(**{name: value}) == facts()


def test_what_a_training_depends_on():
    for changed in (
        {"model": dataclasses.replace(PAPER.model, patience=4)},
        {"model": dataclasses.replace(PAPER.model, weights="none")},
        {"augment": dataclasses.replace(PAPER.augment, flip=True)},
        {"seed": 1},
    ):
        assert facts(**changed) != facts()


def at_work(tiles=EVEN, settings=PAPER, whole=EVEN) -> Work:
    """After the cohort was gathered."""
    work = Work(SimpleNamespace(folder=Path("run")), settings, {})
    work.values["cohort"] = SimpleNamespace(
        tiles=with_places(tiles), whole=with_places(whole[whole["part"] != "training"])
    )
    return work


def with_places(tiles):
    return tiles.assign(x=tiles["tile"] * 10, y=0)


def chosen(work: Work, number: int) -> dict[str, str]:
    """Choose an experiment's tasks as the shell does: {task: its identity} of those that are possible."""
    for task in planned_tasks(number, work.settings):
        try:
            found = choose_task(work, number, task.name)
        except LeftOut as reason:
            work.left_out[task_step(task)] = str(reason)
        else:
            work.values[task_step(task)] = found.value
            work.finish(task_step(task), digest(found.content))
    return {
        task.name: work.identity(task_step(task))
        for task in planned_tasks(number, work.settings)
        if work.has(task_step(task))
    }


def test_a_cap_changes_its_own_task_alone_and_one_above_what_there_is_changes_nothing():
    before = chosen(at_work(settings=capped(separate=(24, 60, 90, 120))), 1)
    after = chosen(at_work(settings=capped(separate=(24, 60, 90, 110))), 1)
    assert {name for name in before if before[name] != after[name]} == {"melanoma-40x"}
    assert chosen(at_work(settings=capped(nevi=999)), 4) == chosen(at_work(settings=capped(nevi=998)), 4)


def test_tiles_cut_for_another_table_change_no_task():
    own = EVEN[EVEN["magnification"] == "40x"]
    assert chosen(at_work(tiles=own, whole=own), 3) == chosen(at_work(), 3)


def test_a_task_that_the_tiles_do_not_allow_is_left_out_and_the_others_are_siblings():
    work = at_work(tiles=EVEN[(EVEN["magnification"] != "4x") | (EVEN["part"] != "test")])
    assert list(chosen(work, 1)) == ["melanoma-10x", "melanoma-20x", "melanoma-40x"]
    assert left_out(work, 1) == ["Table 1: 4x is left out: no nevus in the test part; no MM in the test part"]
    work.values["experiment/1"] = check_experiment(work, 1).value
    task = work.value("task/melanoma-20x")
    assert companions_of(work, task, "vgg19") == {
        "melanoma-10x": "melanoma-10x-vgg19.keras",
        "melanoma-40x": "melanoma-40x-vgg19.keras",
    }
    for one in ("vgg19", "resnet50"):
        work.values[model_step(task, one)] = one
        work.finish(model_step(task, one), "key")
    assert trained_of(work, 1) == ["resnet50", "vgg19"]


def test_a_table_whose_every_task_is_left_out_cannot_be_made():
    work = at_work(tiles=EVEN[EVEN["magnification"] != "40x"])
    assert chosen(work, 3) == {}
    with pytest.raises(InputError, match=r"Table 3 cannot be made .*--allow-upsampling(.|\n)*MM vs. JN is left out"):
        check_experiment(work, 3)
    chosen(work, 2)
    assert [task.name for task in check_experiment(work, 2).value] == ["melanoma-mixed"]


def test_siblings_are_told_which_weights_the_others_have(tmp_path):
    """One alone is trained anew, the rest stands: until its turn comes the others say what they were judged with."""
    names = ["melanoma-4x", "melanoma-10x", "melanoma-20x"]

    def session(weights: dict[str, str], walked: list[str]) -> dict[str, dict[str, str]]:
        work = at_work(tiles=EVEN[(EVEN["magnification"] != "40x") | (EVEN["part"] != "test")])
        chosen(work, 1)
        work.values["experiment/1"] = check_experiment(work, 1).value
        with Run(tmp_path / "run", "multimag", PAPER, 1, print) as work.run:
            for name in walked:
                stem = f"{name}-vgg19"

                def train(_, stem=stem, weights=weights[name]):
                    path = work.path("models", f"{stem}.keras")
                    path.write_text(weights)
                    card = Sidecar("multimag", ("nevus", "MM"), 32, {}, 0.5, "", run={"weights_sha256": weights})
                    return [path, card.write(path)]

                key = work.run.step(f"train/{stem}", {"weights": weights[name]}, train)
                work.finish(f"train/{stem}", key)
                tell_siblings(work, work.value(f"task/{name}"), "vgg19")
                assert work.run.finished(f"train/{stem}", key)
        models = tmp_path / "run" / "models"
        return {name: dict(Sidecar.read(models / f"{name}-vgg19.keras").companion_weights) for name in names}

    def whole(weights: dict[str, str]) -> dict[str, dict[str, str]]:
        return {name: {one: weights[one] for one in names if one != name} for name in names}

    first = dict(zip(names, "abc", strict=True))
    assert session(first, names) == whole(first)
    assert session(first, names[:1]) == whole(first)
    second = {**first, "melanoma-10x": "B"}
    stopped = session(second, names[:2])
    assert stopped["melanoma-4x"]["melanoma-10x"] == "B" and stopped["melanoma-20x"] == whole(first)["melanoma-20x"]
    assert session(second, names) == whole(second)


def test_a_model_says_how_its_run_aggregates_tiles(tmp_path, monkeypatch):
    """Also one that was trained before: its training does not depend on that."""
    monkeypatch.setattr("melano_tf.papers.multimag.experiments.read_predictions", lambda path: None)
    asked = dataclasses.replace(PAPER.evaluation, aggregation="majority", top=4)
    settings = dataclasses.replace(PAPER, evaluation=asked)
    work = at_work(settings=settings)
    chosen(work, 1)
    work.values["experiment/1"] = check_experiment(work, 1).value
    rule = {"aggregation": "majority", "top": 4}
    task = work.value("task/melanoma-4x")
    assert rule.items() <= sidecar(settings, task, "vgg19").preprocessing.items()
    with Run(tmp_path / "run", "multimag", settings, 1, print) as work.run:

        def train(_):
            path = work.path("models", "melanoma-4x-vgg19.keras")
            path.write_text("a network")
            card = Sidecar("multimag", ("nevus", "MM"), 32, {"grid": 1, "top": 10}, 0.5, "", {"weights_sha256": "a"})
            return [path, card.write(path)]

        work.finish("train/melanoma-4x-vgg19", work.run.step("train/melanoma-4x-vgg19", {}, train))
        model = take_up(work, "task/melanoma-4x", "vgg19").value.model
    assert Sidecar.read(model).preprocessing == {"grid": 1, **rule}


def test_models_of_other_tables_have_no_siblings():
    work = at_work()
    chosen(work, 3)
    assert companions_of(work, work.value("task/melanoma-CN"), "vgg19") == {}
