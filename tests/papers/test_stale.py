"""A folder in which seeds, settings, data and steps change in any order, killed in between, shows no stale number."""

import json
import random
import re
from pathlib import Path

import pytest

from melano_tf.runs.files_of_plan import Standing
from melano_tf.runs.judgements import read_record
from melano_tf.runs.predictions import read_predictions
from melano_tf.runs.sidecar import Sidecar
from tests.papers import test_plan
from tests.papers.test_plan import toy

__all__ = ["toy"]
# The toy's table as a report shows it: it says which seed, number and text it is of, and how many letters there are.
TABLE = """
    from melano_tf.reports.published_numbers import load_published
    from melano_tf.reports.table_files import write_table
    from melano_tf.reports.tables import Table, count_table

    def table(work):
        s, there = work.settings, {}
        for letter in "abz":
            if work.has(f"count/{letter}"):
                there[letter + " " + work.path("counts", f"{letter}.txt").read_text()] = 1
        head = f"of seed {s.seed}, times {s.times}, text {work.value('text').strip()}"
        frame = count_table({"letters": there}, load_published("zoome"), 0)
        files = write_table(work.run.folder / "tables", "table1", Table(head, frame))
        if s.fails == "late":
            raise KeyboardInterrupt
        return files
"""
# A model whose threshold is a setting that its training does not depend on.
CUT = '''cut: float = 0.5
        """The model's threshold."""
        fails: str = ""'''
MODEL = """plan.step("model", learn, needs=[text], group="count", restate=settle)
        plan.output("the model", "count", ["model"], None)
        return plan"""
LEARN = """
    def learn(work):
        import numpy as np
        import pandas as pd
        from melano_tf.runs.predictions import predictions, write_predictions
        from melano_tf.runs.sidecar import Sidecar

        rows = pd.DataFrame({"case": list("123"), "group": list("123"), "part": "test", "target": [0, 1, 1]})
        model, cut = work.path("models", "m.keras"), work.settings.cut
        model.write_bytes(b"weights")
        table = predictions(rows, np.array([0.25, 0.5, 0.75]), threshold=cut)
        card = Sidecar("toy", ("no", "yes"), 8, {}, cut, "fixed", {})
        return [model, card.write(model), write_predictions(work.path("predictions", "m.parquet"), table)]

    def settle(work):
        from melano_tf.runs.restated_models import restate
        from melano_tf.runs.sidecar import Sidecar

        class Killed(Sidecar):
            def write(self, model):
                work.run.made.known = {}  # a process that is killed writes nothing more
                raise KeyboardInterrupt

        kind = Killed if work.settings.fails == "restating" else Sidecar
        model, cut = work.path("models", "m.keras"), work.settings.cut
        restate(work.run, "model", model, lambda card: kind(**{**vars(card), "threshold": cut}))
"""
KILL = 'if letter == fails.removeprefix("kill "):\n            raise KeyboardInterrupt\n        if letter == fails:'
HEAD = re.compile(r"<h3>of seed (\d+), times (\d+), text (\w+)")


@pytest.fixture
def changed_toy(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest):
    """The toy paper with that table, and with steps in which it can be killed."""
    whole, _, _ = test_plan.METHOD.partition("    def table(work):")
    whole = whole.replace("if letter == fails:", KILL, 1).replace("return plan", MODEL, 1)
    monkeypatch.setattr(test_plan, "METHOD", whole + TABLE + LEARN)
    monkeypatch.setattr(test_plan, "SETTINGS", test_plan.SETTINGS.replace('fails: str = ""', CUT, 1))
    return request.getfixturevalue("toy")


def shown(folder: Path) -> list[tuple[str, ...]]:
    """What the report's tables are headed by."""
    return HEAD.findall((folder / "report.html").read_text(encoding="utf-8"))


def decisions(folder: Path) -> tuple[list[int] | None, float | None]:
    """What is shown of the model: what it calls, and its threshold; None where none is."""
    standing, model = Standing(folder, read_record(folder)), folder / "models" / "m.keras"
    table, card = folder / "predictions" / "m.parquet", Sidecar.path(model)
    called = read_predictions(table)["called"].tolist() if standing.holds(table) else None
    return called, Sidecar.read(model).threshold if standing.holds(card) else None


def test_decisions_of_one_threshold_are_not_shown_under_another_once_a_restating_was_killed(
    changed_toy, tmp_path: Path
) -> None:
    folder, command = tmp_path / "run", ("--preset", "paper")
    assert changed_toy(*command, "--cut", "0.6").code == 0 and decisions(folder) == ([0, 0, 1], 0.6)
    assert changed_toy(*command, "--cut", "0.3", "--fails", "restating").code == 130
    assert decisions(folder) == (None, None)
    for cut in ("0.6", "0.3"):  # sessions that look at nothing of the model
        assert changed_toy(*command, "--cut", cut, "--steps", "text").code == 0 and decisions(folder) == (None, None)
    last = changed_toy(*command, "--cut", "0.6")
    assert last.code == 0 and "did 0 steps" in last.shown and decisions(folder) == ([0, 0, 1], 0.6)


@pytest.mark.parametrize("luck", range(3))
def test_no_file_is_shown_under_anothers_heading(changed_toy, inside, tmp_path: Path, luck: int) -> None:
    draw, folder, text = random.Random(luck), tmp_path / "run", tmp_path / "text.txt"
    codes, tables = [], 0
    for _ in range(14):
        text.write_text(content := draw.choice(["abba", "abab", "zab"]))
        seed, times, cut = draw.randrange(2), draw.choice([2, 3]), draw.choice([0.3, 0.6])
        fails = draw.choice(["", "", "", "kill a", "kill b", "late", "restating"])
        steps = draw.choice(["all", "all", "count", "tables"])
        command = ("--table", str(text), "--seed", str(seed), "--times", str(times), "--fails", fails)
        command += ("--cut", str(cut))
        done = changed_toy(*command, "--steps", steps, "--preset", "paper")
        codes.append(done.code)
        assert done.code in (0, 130), done.errors
        assert inside("report", str(folder)).code == 0
        heads = shown(folder)
        tables += bool(heads)
        assert set(heads) <= {(str(seed), str(times), content)}, (heads, command)
        if done.code == 0 and steps != "count":
            assert len(set(heads)) == 1
            page, letters = (folder / "report.html").read_text(encoding="utf-8"), {x: content.count(x) for x in "abz"}
            assert all(f"{x} {count * times}" in page for x, count in letters.items() if count)
        called, threshold = decisions(folder)
        assert called in (None, [0, 0, 1] if cut == 0.6 else [0, 1, 1]) and threshold in (None, cut), command
        # What does not belong to it is listed as older, and whatever is held belongs to its step's present key.
        standing = Standing(folder, read_record(folder))
        assert ("tables/table1.md" in standing.older()) == ((folder / "tables/table1.md").exists() and not heads)
        for path in (folder / "counts").glob("*.txt"):
            step = folder / "steps" / "count" / f"{path.stem}.json"
            if standing.holds(path):
                assert (
                    json.loads(step.read_text())["key"]
                    == json.loads((folder / "made.json").read_text())[f"counts/{path.name}"]["key"]
                )
    assert 0 in codes and 130 in codes and 0 < tables < len(codes)
