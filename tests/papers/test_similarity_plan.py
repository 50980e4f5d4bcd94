"""The similarity paper as a plan: what each table, figure and word of --steps asks for, and what that stands on."""

import dataclasses
from typing import Any

import pytest

from melano_tf.errors import InputError
from melano_tf.papers.plan import Plan, chosen_groups
from melano_tf.papers.similarity.method import method
from melano_tf.papers.similarity.settings import STEPS, SimilaritySettings, preset

FIRST = ["read", "images", "copies", "cohort"]
CLUSTERED = [*FIRST, "cluster/enough", "cluster/teacher", "cluster/groups"]
DIVIDED = [*CLUSTERED, "edges", "partition"]
STUDENTS = [f"train/{name}-{split}" for split in ("cluster", "lesion") for name in ("baseline", "layers-1", "layers-4")]


def settings(**chosen: Any) -> SimilaritySettings:
    """The demo with two combinations; `network__student` sets a field of a group."""
    made = dataclasses.replace(preset("demo"), **{name: value for name, value in chosen.items() if "__" not in name})
    for name, value in {"transfer__combinations": "1,4", **chosen}.items():
        if "__" in name:
            group, _, field = name.partition("__")
            made = dataclasses.replace(made, **{group: dataclasses.replace(getattr(made, group), **{field: value})})
    return made


def wanted(**chosen: Any) -> tuple[list[str], list[str]]:
    """Names of the steps and of the outputs that these settings ask for."""
    asked = settings(**chosen)
    steps, outputs = method(asked).wanted(chosen_groups(asked.steps, STEPS))
    return [step.name for step in steps], [output.name for output in outputs]


@pytest.mark.parametrize(
    "chosen, steps",
    [
        ({"tables": (1, 2, 3), "figures": (3,)}, FIRST),  # counting needs no clustering
        ({"tables": (1, 2, 3), "figures": (3,), "steps": "tables,figures"}, FIRST),
        ({"tables": (), "figures": (5,)}, CLUSTERED),
        ({"tables": (), "figures": (), "steps": "cluster"}, CLUSTERED),
        ({"tables": (), "figures": (), "steps": "edges"}, [*CLUSTERED, "edges"]),
        ({"tables": (5,), "figures": ()}, [*CLUSTERED, "partition"]),
        ({"tables": (1, 6), "figures": ()}, [*DIVIDED, *STUDENTS]),
        ({"tables": (), "figures": (7,), "steps": "train"}, [*DIVIDED, *STUDENTS]),
        ({"tables": (1, 6), "steps": "resize"}, FIRST),
        ({"tables": (1, 2, 3, 5), "figures": (3, 5), "steps": "train"}, []),  # no table or figure asked for needs them
    ],
)
def test_what_is_asked_for_is_done_and_no_more(chosen: dict[str, Any], steps: list[str]) -> None:
    found, _ = wanted(**chosen)
    assert sorted(found) == sorted(steps)


def test_the_steps_pictures_and_the_retrieval_come_with_the_steps() -> None:
    assert wanted(tables=(1,), figures=())[1] == ["table 1", "picture of step 1"]
    pictures = ["picture of step 1", "picture of step 2"]
    assert wanted(tables=(), figures=(5,))[1] == ["figure 5", *pictures, "retrieval"]
    assert wanted(tables=(6, 7, 8), figures=())[1][:2] == ["tables 6 and 7", "table 8"]
    pictures = [f"picture of step {number}" for number in (1, 2, 3, 4)]
    assert [name for name in wanted()[1] if "picture" in name] == pictures
    assert "picture of step 2" not in wanted(steps="tables,figures")[1]


def needs(plan: Plan, name: str) -> set[str]:
    """What a student stands on beside its images."""
    return set(plan.steps[f"train/{name}"].needs) - {"cohort", "edges", "partition"}


def test_a_student_stands_on_its_teachers() -> None:
    plan = method(settings())
    assert needs(plan, "baseline-lesion") == set()
    assert needs(plan, "layers-4-lesion") == needs(plan, "layers-4-cluster") == {"cluster/teacher"}
    plan = method(settings(cluster__sees_test=False, transfer__distillation=1.0))
    assert needs(plan, "baseline-lesion") == set()
    assert needs(plan, "layers-4-lesion") == {"cluster/teacher-blind-lesion", "train/baseline-lesion"}
    assert set(plan.steps["cluster/teacher-blind-lesion"].needs) == {"cohort", "partition"}
    assert wanted(cluster__sees_test=False, steps="cluster")[0] == CLUSTERED


@pytest.mark.parametrize(
    "chosen, changed",
    [
        ({"evaluation__repeats": 7, "evaluation__sheet": 3, "seed": 0}, []),
        ({"partition__splits": "lesion", "cluster__sees_test": True}, []),
        ({"transfer__weight": 10.0}, [name for name in STUDENTS if "layers" in name]),
        ({"transfer__temperature": 9.0}, []),  # nothing is distilled
        ({"edges__share": 0.1}, ["edges"]),
        ({"partition__validation": 0.3}, ["partition"]),
        ({"transfer__epochs": 3}, STUDENTS),
        ({"cluster__learning_rate": 0.5}, ["cluster/teacher", "cluster/groups"]),
    ],
)
def test_a_setting_changes_the_steps_that_depend_on_it(chosen: dict[str, Any], changed: list[str]) -> None:
    one, other = method(settings()).steps, method(settings(**chosen)).steps
    differ = [name for name in other if one[name].depends != other[name].depends]
    assert differ == changed


def test_weights_are_of_the_networks_that_a_step_builds() -> None:
    plan = method(settings(network__weights="mine.weights.h5"))
    assert plan.steps["cluster/teacher"].weights == (("standin_residual", "mine.weights.h5", 48),)
    assert plan.steps["train/baseline-lesion"].weights == (("standin_residual", "mine.weights.h5", 48),)
    assert plan.steps["edges"].weights == plan.steps["cluster/groups"].weights == ()


def test_teacher_and_student_that_do_not_fit_are_refused_by_the_plan() -> None:
    with pytest.raises(InputError, match="differ in size"):
        method(settings(network__student="standin", network__teacher="resnet50"))
    assert method(settings(network__student="standin", network__teacher="resnet50", tables=(1, 5), figures=(5,)))
