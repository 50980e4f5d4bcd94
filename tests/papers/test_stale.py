"""A folder in which seeds, settings, data and steps change in any order, killed in between, shows no stale number."""

import json
import random
import re
from pathlib import Path

import pytest

from melano_tf.runs.files_of_plan import Standing
from melano_tf.runs.judgements import read_record
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
KILL = 'if letter == fails.removeprefix("kill "):\n            raise KeyboardInterrupt\n        if letter == fails:'
HEAD = re.compile(r"<h3>of seed (\d+), times (\d+), text (\w+)")


@pytest.fixture
def changed_toy(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest):
    """The toy paper with that table, and with steps in which it can be killed."""
    whole, _, _ = test_plan.METHOD.partition("    def table(work):")
    monkeypatch.setattr(test_plan, "METHOD", whole.replace("if letter == fails:", KILL, 1) + TABLE)
    return request.getfixturevalue("toy")


def shown(folder: Path) -> list[tuple[str, ...]]:
    """What the report's tables are headed by."""
    return HEAD.findall((folder / "report.html").read_text(encoding="utf-8"))


@pytest.mark.parametrize("luck", range(3))
def test_no_file_is_shown_under_anothers_heading(changed_toy, inside, tmp_path: Path, luck: int) -> None:
    draw, folder, text = random.Random(luck), tmp_path / "run", tmp_path / "text.txt"
    codes, tables = [], 0
    for _ in range(14):
        text.write_text(content := draw.choice(["abba", "abab", "zab"]))
        seed, times = draw.randrange(2), draw.choice([2, 3])
        fails = draw.choice(["", "", "", "kill a", "kill b", "late"])
        steps = draw.choice(["all", "all", "count", "tables"])
        command = ("--table", str(text), "--seed", str(seed), "--times", str(times), "--fails", fails)
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
