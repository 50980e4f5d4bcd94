"""A recipe's plan and the shell that walks it, on a sixth paper that stands in a folder outside the package."""

import dataclasses
import importlib
import json
import sys
import textwrap
import weakref
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest

from melano_tf import run
from melano_tf.errors import InputError
from melano_tf.models.keras_imagenet_files import networks
from melano_tf.papers import PAPERS
from melano_tf.papers.initial_weights import weights_of
from melano_tf.papers.plan import Plan, Step, chosen_groups
from melano_tf.papers.run_settings import Running
from melano_tf.papers.shell import Looked, Work, do, look, planned, show
from melano_tf.runs.files_of_plan import Standing, plan_key
from melano_tf.runs.judgements import read_record
from melano_tf.runs.run_folder import Run

GROUPS = ("data", "train", "tables", "model")


def nothing(work, *args):
    return []


def toy_plan() -> Plan:
    plan = Plan(GROUPS, lambda work: [], lambda work: "")
    read = plan.step("read", nothing, group="data", always=True)
    cut = plan.step("cut", nothing, needs=[read], group="data")
    plan.output("the data", "data", [cut], None)
    for number in (1, 2, 3):
        plan.step(f"train/{number}", nothing, number, needs=[cut])
    final = plan.step("model/final", nothing, needs=["train/1"], group="model")
    plan.output("table 2", "tables", ["train/2", "train/1"], nothing)
    plan.output("the model", "model", [final], None)
    return plan


@pytest.mark.parametrize(
    "groups, steps, outputs",
    [
        (GROUPS, ["read", "cut", "train/1", "train/2", "model/final"], ["the data", "table 2", "the model"]),
        (("data",), ["read", "cut"], ["the data"]),
        (("train",), ["read", "cut", "train/1", "train/2"], []),  # and not 3, which nothing asked for stands on
        (("model",), ["read", "cut", "train/1", "model/final"], ["the model"]),
        (("tables",), ["read", "cut", "train/1", "train/2"], ["table 2"]),
    ],
)
def test_what_is_asked_for_is_wanted_and_no_more(groups, steps, outputs):
    found, made = toy_plan().wanted(groups)
    assert [step.name for step in found] == steps
    assert [output.name for output in made] == outputs


def test_a_plan_refuses_what_does_not_fit():
    plan = toy_plan()
    with pytest.raises(ValueError, match="no earlier step"):
        plan.step("train/4", nothing, needs=["train/5"])
    with pytest.raises(ValueError, match="two different steps"):
        plan.step("train/1", nothing, 7, needs=["cut"])
    with pytest.raises(ValueError, match="no group"):
        plan.step("judge/1", nothing)
    with pytest.raises(ValueError, match="two outputs"):
        plan.output("table 2", "tables", ["cut"], nothing)
    before = len(plan.steps)
    assert plan.step("train/1", nothing, 1, needs=["cut"]) == "train/1" and len(plan.steps) == before


def test_the_words_of_steps():
    assert chosen_groups("all", GROUPS) == GROUPS
    assert chosen_groups(" tables, data", GROUPS) == ("data", "tables")
    for text in ("", "tabels"):
        with pytest.raises(InputError, match="--steps"):
            chosen_groups(text, GROUPS)


@dataclass(frozen=True)
class Few:
    """Settings that name nothing."""

    seed: int = 0


def test_what_is_asked_for_is_no_part_of_what_results_stand_on(tmp_path):
    """An earlier session's tables still stand where this one asks for others or for less; not on other data."""

    def stands_on(**found: str) -> str:
        with Run(tmp_path / "run", "toy", Few(), 1, lambda line: None) as run:
            work = Work(run, Few(), {})
            for name, content in found.items():
                give = lambda work, content=content: Looked(content, content)  # noqa: E731
                look(work, Step(name, "data", give, always=True, by_choice=name == "tasks"))
            return run.record()["plan"]["data"]

    first = stands_on(read="slides", split="halves", tasks="table 1")
    assert stands_on(read="slides", split="halves", tasks="table 2") == first
    assert stands_on(read="slides") == first
    assert stands_on(read="other slides") != first
    assert stands_on(read="slides", split="thirds", tasks="table 1") != first


SETTINGS = '''
    """The settings of a toy paper."""
    import dataclasses
    from dataclasses import dataclass
    from pathlib import Path
    from typing import Literal
    from melano_tf.papers.plan import Recipe
    from melano_tf.papers.run_settings import Running

    @dataclass(frozen=True)
    class ToySettings(Running):
        """Counts letters."""
        table: Path | None = None
        """Your text."""
        out: Path = Path("runs/toy")
        """The run's folder."""
        preset: Literal["paper", "demo"] = "paper"
        """Preset."""
        steps: str = "all"
        """Steps."""
        times: int = 2
        """The method's one number."""
        fails: str = ""
        """A step that breaks."""
        only: str = "abz"
        """Letters to count; others only stand if counted before."""

    def preset(name):
        paper = ToySettings()
        return paper if name == "paper" else dataclasses.replace(paper, preset="demo", times=3)

    RECIPE = Recipe(name="toy", about="letters, counted", data="table", drawn="images", preset=preset,
                    method="toy_paper.method:method", aside=("fails", "only"))
'''
METHOD = '''
    """A toy paper's method."""
    import os
    from melano_tf.papers.plan import Plan
    from melano_tf.papers.shell import LeftOut, Looked

    def method(s):
        plan = Plan(("text", "count", "tables"), lambda work: ["found     letters"], lambda work: "")
        text = plan.step("text", read, needs=[], always=True)
        for letter in "abz":
            plan.step(f"count/{letter}", count, letter, s.fails, needs=[text], depends={"times": s.times},
                      tolerant=True, taken=letter not in s.only)
        plan.output("table 1", "tables", ["count/a", "count/b", "count/z"], table)
        return plan

    def read(work):
        work.say("text      is read")
        text = work.settings.table.read_text() if work.settings.table else "abba"
        return Looked(text, text.strip())

    def count(work, letter, fails):
        if letter == fails:
            raise RuntimeError("it broke")
        if letter.upper() == fails:
            raise OSError(28, "No space left on device")
        if fails == "dies" and letter == "a":
            begun = work.scratch / "begun"
            if not begun.exists():  # a process that is killed in its first attempt
                begun.write_text("")
                os._exit(9)
        found = work.value("text").count(letter) * work.settings.times
        if not found:
            raise LeftOut(f"no {letter} in the text")
        work.run.say(f"{letter}: is counted")
        path = work.path("counts", f"{letter}.txt")
        path.write_text(str(found))
        return [path]

    def table(work):
        there = {letter: work.path("counts", f"{letter}.txt").read_text() for letter in "abz"
                 if work.has(f"count/{letter}")}
        path = work.path("tables", "table1.txt")
        path.write_text(repr(there))
        return [path]
'''


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, inside):
    """A sixth paper: a folder of its own outside the package, and one line."""
    package = tmp_path / "elsewhere" / "toy_paper"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "settings.py").write_text(textwrap.dedent(SETTINGS))
    (package / "method.py").write_text(textwrap.dedent(METHOD))
    monkeypatch.syspath_prepend(str(package.parent))
    monkeypatch.setitem(PAPERS, "toy", ("toy_paper", "counts letters"))
    for name in [name for name in sys.modules if name.startswith("toy_paper")]:
        monkeypatch.delitem(sys.modules, name)
    return lambda *arguments: inside("toy", "--out", str(tmp_path / "run"), "--jobs", "1", *arguments)


def test_a_sixth_paper_is_a_folder_and_a_line(toy, tmp_path):
    first = toy()
    assert first.code == 0, first.errors
    lines = first.shown.splitlines()
    assert lines[0] == "toy: letters, counted. Research only." and "PHANTOMS" in lines[1]
    assert "preset demo, seed 0; 1 settings differ from the paper's:" in lines[2] and "(paper: 2)" in lines[3]
    assert "  no z in the text" in lines and "did 2 steps" in lines and "found     letters" in lines
    assert (tmp_path / "run" / "tables" / "table1.txt").read_text() == "{'a': '6', 'b': '6'}"
    assert (tmp_path / "run" / "report.html").is_file()
    again = toy()
    assert "did 0 steps, kept 2 finished ones from before" in again.shown


def test_what_changed_is_done_again_and_nothing_else(toy, tmp_path):
    assert toy().code == 0
    text = tmp_path / "text.txt"
    text.write_text("abba\n")  # the same content elsewhere
    assert "did 0 steps" in toy("--table", str(text), "--preset", "demo").shown
    text.write_text("abbab")
    assert "did 2 steps" in toy("--table", str(text), "--preset", "demo").shown
    assert "did 2 steps" in toy("--table", str(text), "--preset", "demo", "--times", "5").shown


def test_the_plan_says_what_is_finished_and_why_not_and_does_nothing(toy, tmp_path):
    before = toy("--plan")
    assert before.code == 0 and "3 steps would be done" in before.shown and not (tmp_path / "run").exists()
    assert toy().code == 0
    files = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    after, changed = toy("--plan"), toy("--plan", "--times", "9")
    assert "count/a" in after.shown and "1 steps would be done" in after.shown  # z, which was left out
    assert "to do: times changed" in changed.shown
    words = "finished below means, if what is looked at anew is as it was"
    assert words in changed.shown and words not in after.shown
    assert {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()} == files


@pytest.mark.parametrize("inputs", [None, [], "times", 3])
def test_a_steps_record_of_another_shape_is_a_step_to_do(toy, tmp_path, inputs):
    assert toy().code == 0
    state = tmp_path / "run" / "steps" / "count" / "a.json"
    state.write_text(json.dumps({**json.loads(state.read_text()), "key": "another", "inputs": inputs}))
    planned, again = toy("--plan"), toy()
    assert planned.code == 0 and "2 steps would be done" in planned.shown
    assert again.code == 0 and "did 1 steps, kept 1" in again.shown


def test_a_tolerant_step_that_fails_does_not_stop_the_others_and_is_tried_again(toy, tmp_path):
    broken = toy("--fails", "a")
    assert broken.code == 1 and "1 of 3 trainings failed (a)" in broken.errors
    assert "it broke" in (tmp_path / "run" / "failed" / "a.txt").read_text()
    assert (tmp_path / "run" / "tables" / "table1.txt").read_text() == "{'b': '6'}"
    whole = toy()
    assert whole.code == 0 and "did 1 steps, kept 1" in whole.shown
    assert not (tmp_path / "run" / "failed" / "a.txt").exists()
    assert json.loads((tmp_path / "run" / "run.json").read_text())["failed"] == {}


@dataclass(frozen=True)
class Decides(Running):
    """Settings of which a training does not depend on one."""

    threshold: float = 0.5


def test_what_a_step_does_not_depend_on_is_restated_also_where_it_is_kept(tmp_path):
    restated: list[float] = []

    def session(threshold: float) -> Run:
        plan = Plan(GROUPS, lambda work: [], lambda work: "")
        plan.step("train/1", nothing, 1, restate=lambda work, number: restated.append(work.settings.threshold))
        settings = Decides(threshold=threshold)
        with Run(tmp_path / "run", "toy", settings, 1, print) as run:
            do(Work(run, settings, {}), plan.steps["train/1"])
        return run

    assert session(0.5).repeated == ["train/1"] and session(0.25).kept == ["train/1"]
    assert restated == [0.5, 0.25]


@dataclass(frozen=True)
class Placed(Running):
    """Settings of a run in a folder."""

    out: Path = Path("runs/toy")


def test_the_plan_knows_trainings_from_imagenet_weights_that_are_there_as_finished_and_fetches_none(
    tmp_path, monkeypatch
):
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    monkeypatch.setattr("melano_tf.models.keras_imagenet_files._fetch", lambda *given: pytest.fail("is fetched"))
    network = networks()["mobilenet"]  # no checksum of it is published
    file = tmp_path / "keras" / "models" / network.file
    file.parent.mkdir(parents=True)
    file.write_bytes(b"weights")
    plan = Plan(GROUPS, lambda work: [], lambda work: "")
    plan.step("train/1", nothing, 1, weights=(("mobilenet", "imagenet", 64), ("standin", "none", 64)))
    steps, settings, recipe = list(plan.steps.values()), Placed(out=tmp_path / "run"), SimpleNamespace(name="toy")
    recipe.extent = ""
    with Run(settings.out, "toy", settings, 1, print) as run:
        do(Work(run, settings, weights_of(steps)), steps[0])

    def told() -> list[str]:
        lines: list[str] = []
        show(recipe, settings, steps, [], lines.append)
        return [" ".join(line.split()) for line in lines]

    assert told() == ["train/1 finished", "0 steps would be done; nothing was done (--plan)"]
    file.write_bytes(b"others")
    assert told()[0] == "train/1 to do: weights changed"
    file.unlink()
    assert told()[0] == "train/1 to do: weights changed"  # which they are cannot be known here


def test_a_full_disk_ends_a_run_whose_steps_are_tolerant(toy, tmp_path):
    full = toy("--fails", "A")
    assert full.code == 2 and "the disk is full" in full.errors and "FAILED" not in full.shown
    assert not (tmp_path / "run" / "counts" / "b.txt").exists()


def test_what_is_not_asked_for_is_taken_where_it_stands(toy, tmp_path):
    def made() -> set[str]:
        plan = plan_key(json.loads((tmp_path / "run" / "run.json").read_text())["plan"])
        files = json.loads((tmp_path / "run" / "made.json").read_text())
        return {name for name, facts in files.items() if facts["plan"] == plan}

    assert "did 1 steps" in toy("--only", "b").shown and made() == {"counts/b.txt", "tables/table1.txt"}
    assert (tmp_path / "run" / "tables" / "table1.txt").read_text() == "{'b': '6'}"
    both = toy("--only", "a", "--seed", "1")  # another plan of the same steps
    assert "did 1 steps, kept 1" in both.shown
    assert (tmp_path / "run" / "tables" / "table1.txt").read_text() == "{'a': '6', 'b': '6'}"
    assert made() == {"counts/a.txt", "counts/b.txt", "tables/table1.txt"}, "of this plan too, as its table shows it"


def test_a_table_carries_the_key_of_what_it_is_made_of_and_goes_with_it(toy, tmp_path, monkeypatch):
    def made() -> dict[str, dict]:
        return json.loads((tmp_path / "run" / "made.json").read_text())

    def shown() -> bool:
        run_folder = tmp_path / "run"
        return Standing(run_folder, read_record(run_folder)).holds(run_folder / "tables" / "table1.txt")

    assert toy("--only", "b").code == 0
    first = made()["tables/table1.txt"]
    assert first["output"] == "table 1" and first["of"] == ["count/a", "count/b", "count/z"] and len(first["key"]) == 16
    assert made()["counts/b.txt"]["key"] == json.loads((tmp_path / "run/steps/count/b.json").read_text())["key"]
    assert toy("--only", "b").code == 0 and made()["tables/table1.txt"] == first
    assert toy("--only", "a").code == 0 and shown()
    second = made()["tables/table1.txt"]
    assert second["of"] == first["of"] and second["key"] != first["key"]
    (tmp_path / "run" / "counts" / "a.txt").unlink()  # so that it is counted again

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("melano_tf.papers.shell.make", killed)
        assert toy("--only", "a").code == 130
    assert (tmp_path / "run" / "counts" / "a.txt").exists() and not shown(), "the table is of the count before"
    assert toy("--only", "a").code == 0 and shown()


def test_what_stands_under_taken_steps_alone_is_taken_too():
    plan = Plan(GROUPS, lambda work: [], lambda work: "")
    read = plan.step("read", nothing, group="data", always=True)
    for name in ("one", "two"):
        start = plan.step(f"start/{name}", nothing, needs=[read], group="train")
        plan.step(f"train/{name}", nothing, needs=[start], taken=name == "two")
    plan.output("table 1", "tables", ["train/one", "train/two"], nothing)
    for groups in (("train",), ("tables",), GROUPS):
        steps, _ = plan.wanted(groups)
        assert [step.name for step in steps if not step.taken] == ["read", "start/one", "train/one"]
        assert [step.name for step in steps if step.taken] == ["start/two", "train/two"]


@pytest.mark.parametrize("name", PAPERS)
def test_where_no_figure_is_asked_for_none_is_drawn(name):
    recipe = importlib.import_module(f"{PAPERS[name][0]}.settings").RECIPE
    for preset in (*recipe.presets, "demo"):
        settings = recipe.preset(preset)
        drawn = {}
        for asked in (settings.figures, () if isinstance(settings.figures, tuple) else "none"):
            _, _, outputs = planned(recipe, dataclasses.replace(settings, figures=asked))
            makers = {output.name: output.makes.__name__ for output in outputs if output.makes is not None}
            drawn[asked] = [one for one, makes in makers.items() if makes.startswith("draw_")]
        assert list(map(bool, drawn.values())) == [True, False], (preset, drawn)


def test_one_thing_of_a_kind_is_held_at_a_time(tmp_path):
    work, there = Work(Run(tmp_path, "toy", {}, 1, print), None, {}), list[weakref.ref]()

    def make(name: str) -> object:
        assert not [one for one in there if one() is not None], "the other one is forgotten first"
        thing = type(name, (), {})()
        there.append(weakref.ref(thing))
        return thing

    first = work.alone("network", ("flat", "adam"), lambda: make("first"))
    assert work.alone("network", ("flat", "adam"), lambda: make("again")) is first
    del first
    other = work.alone("network", ("flat", "sgd"), lambda: make("other"))
    assert type(other).__name__ == "other" and len(there) == 2


def test_the_command_line_lists_every_paper(capsys):
    assert run.main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert all(f"  {name}" in shown for name in PAPERS)
