"""The pages: their code blocks run, their commands parse, the names in them exist, their tables are the data's."""

import ast
import contextlib
import importlib.util
import io
import json
import os
import re
import shlex
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from melano_tf import run

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.rglob("*.md"))]
FENCE = re.compile(r"^(<!-- run -->\n)?```([a-z]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
CALL = re.compile(r"python -m melano_tf\.run ((?:\\\n|[^`\n#)])*)")
REFERENCE = re.compile(r"\]\[(melano_tf(?:\.\w+)+)\]")
OWN_FILE = re.compile(r"(?<![\w/.])(?:experiments|data_specs|docs|tests|melano_tf)/[\w/-]+\.(?:py|yaml|csv|md)\b")
LINK = re.compile(r"\]\((?!https?:|#)([^)#\s]+)(?:#[^)]*)?\)")


def named(path):
    return str(path.relative_to(ROOT))


def blocks(language):
    """(page, code) of the fenced blocks of a language that are marked to be run."""
    return [
        pytest.param(code, id=f"{named(page)}-{position}")
        for page in PAGES
        for position, (marked, of, code) in enumerate(FENCE.findall(page.read_text("utf-8")))
        if marked and of == language
    ]


def calls(text):
    """The arguments of each command line of a page, in its blocks and in its prose, without what is left open (…)."""
    found = []
    for line in CALL.findall(text):
        words = shlex.split(line.replace("\\\n", " "))
        found.append([word.strip("[]") for word in words if word.strip("[]…")])
    return [words for words in found if words]


@cache
def commands():
    """Every command, as the program's own help names them."""
    shown = io.StringIO()
    with contextlib.redirect_stdout(shown):
        assert run.main(["--help"]) == 0
    return frozenset(re.findall(r"^  ([a-z]+) ", shown.getvalue(), re.MULTILINE))


@cache
def options(command, *preset):
    """Every option of a command (with --preset and its name, which may have more), as its --help names them."""
    shown = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(shown):
        patch.setenv("COLUMNS", "400")
        with pytest.raises(SystemExit) as stop:
            run.main([command, *preset, "--help"])
    assert not stop.value.code
    return frozenset(re.findall(r"(?<![\w-])--[a-z][\w.-]*", shown.getvalue()))


@pytest.mark.parametrize("code", blocks("python"))
def test_python_blocks_run(code, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "block", "exec"), {"__name__": "block"})


@pytest.mark.parametrize("code", blocks("bash"))
def test_commands_that_need_no_data_run(code, tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    for line in code.strip().splitlines():
        words = shlex.split(line)
        assert words[0] == "python", f"{line}: only python is run here"
        done = subprocess.run(
            [sys.executable, *words[1:]], cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, f"{line}\n{done.stderr}"


def test_some_blocks_are_run():
    assert len(blocks("python")) >= 3
    assert blocks("bash")


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_every_command_line_is_one_that_parses(page):
    wrong = []
    for words in calls(page.read_text("utf-8")):
        given = [word.partition("=")[0] for word in words[1:] if re.match(r"--[a-z]", word)]
        if words[0].startswith("--"):
            wrong += [] if words[0] in ("--help", "--version") else [words]
        elif words[0] not in commands():
            wrong.append(f"no command {words[0]}")
        else:
            preset = words[words.index("--preset") :][:2] if "--preset" in words else []
            known = options(words[0], *preset)
            wrong += [f"{words[0]}: no option {option}" for option in given if option not in known]
    assert not wrong


def test_a_wrong_option_would_be_found():
    text = "```bash\npython -m melano_tf.run zoome --tabels 1 \\\n  --out=a  # words --here\n```"
    (words,) = calls(text)
    assert words == ["zoome", "--tabels", "1", "--out=a"]
    assert "--tabels" not in options("zoome")
    assert {"--out", "--folds.by", "--comparators"} <= options("zoome")
    assert "zoom" not in commands()


def exists(name):
    """Whether a dotted name of the package is a module, or a public name of one, read from its source."""
    parts = name.split(".")
    path = ROOT.joinpath(*parts)
    if path.is_dir() or path.with_suffix(".py").is_file():
        return True
    source = ROOT.joinpath(*parts[:-1]).with_suffix(".py")
    if not source.is_file():
        return False
    defined = (ast.FunctionDef, ast.ClassDef)
    return any(
        isinstance(node, defined) and node.name == parts[-1] for node in ast.parse(source.read_text("utf-8")).body
    )


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_what_a_page_names_is_there(page):
    text = page.read_text("utf-8")
    files = [link for link in LINK.findall(text) if not (page.parent / link).exists()]
    # The API's pages are made when the site is built, one a room.
    files = [link for link in files if not (link.startswith("api/") and exists(Path(link).stem))]
    assert not files
    assert not [name for name in REFERENCE.findall(text) if not exists(name)]
    assert not [name for name in OWN_FILE.findall(text) if not (ROOT / name).is_file()]
    assert page.parent != DOCS / "papers" or REFERENCE.findall(text)


def test_a_name_that_is_gone_would_be_found():
    assert exists("melano_tf.models.seanet.refine")
    assert exists("melano_tf.models")
    assert not exists("melano_tf.models.seanet.refined")
    assert not exists("melano_tf.models.seenet.refine")


def test_the_readme_is_read_in_five_minutes_and_measured_numbers_stand_elsewhere():
    text = (ROOT / "README.md").read_text("utf-8")
    assert len(text.splitlines()) <= 150
    assert not re.findall(r"\b[01]\.\d{3}\b", text)
    assert len(re.findall(r"^python3 -m venv .*pytest.*$", text, re.MULTILINE)) == 1  # .ci/run takes it from here


@pytest.fixture(scope="module")
def make_tables():
    spec = importlib.util.spec_from_file_location("make_tables", DOCS / "make_tables.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["make_tables"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    yield module
    del sys.modules["make_tables"]


def test_published_cells_on_the_pages_are_those_of_the_data(make_tables):
    recipes = set()
    for page in sorted((DOCS / "papers").glob("*.md")):
        text = page.read_text("utf-8")
        assert make_tables.refreshed(text, {}) == text, f"{named(page)}: run `python docs/make_tables.py`"
        blocks = [(recipe, name) for recipe, name, _ in make_tables.BLOCK.findall(text)]
        published = {row.partition(",")[0] for row in _rows(make_tables, page.stem)}
        assert {name for _, name in blocks if re.fullmatch(r"table\d+", name)} == {f"table{n}" for n in published}
        assert {recipe for recipe, _ in blocks} == {page.stem}
        recipes.add(page.stem)
    assert recipes == {path.stem for path in make_tables.PUBLISHED.glob("*.csv")}


def _rows(make_tables, recipe):
    return (make_tables.PUBLISHED / f"{recipe}.csv").read_text("utf-8").splitlines()[1:]


def test_a_runs_tables_take_the_place_of_the_published_ones_and_stay(make_tables, tmp_path):
    page = "words 3\n<!-- generated: spitzoid run -->\n<!-- end generated -->\n"
    page += "".join(f"<!-- generated: spitzoid table{n} -->\n<!-- end generated -->\n" for n in (4, 5))
    plain = make_tables.refreshed(page, {})
    assert "| ACC | 0.9231 | 0.8000 |" in plain
    (tmp_path / "tables").mkdir()
    table = "# Table 5: the test\n\n|     | SM, paper | SM, ours |\n| --- | --------: | -------: |\n"
    table += "| ACC |    0.9231 |   0.8125 |\n"
    (tmp_path / "tables" / "table5.md").write_text(table, "utf-8")
    session = {
        "started": "2026-11-22T10:00:00+0000",
        "command": ["/home/a/melano_tf/run.py", "spitzoid", "--out", "/home/a/b/runs/c"],
        "environment": {
            "melano_tf": "0.2.0",
            "python": "3.12.1",
            "packages": {"tensorflow": "2.21.0", "keras": "3.15.0"},
        },
    }
    record = {
        "recipe": "spitzoid",
        "settings": {"preset": "demo", "seed": 7},
        "sessions": [session, {**session, "command": ["run.py", "spitzoid", "--tables", "2"]}],
        "durations": {"tiles": 61.2, "train": 100.0},
    }
    (tmp_path / "run.json").write_text(json.dumps(record), "utf-8")
    filled = make_tables.refreshed(plain, {"spitzoid": make_tables.MeasuredRun.read(tmp_path)})
    assert (
        "`python -m melano_tf.run spitzoid --out runs/c`, then `python -m melano_tf.run spitzoid --tables 2`" in filled
    )
    assert "preset demo, seed 7; 2026-11-22; melano_tf 0.2.0" in filled
    assert "2 min 41 s" in filled
    assert "/home" not in filled
    assert (
        "**Table 5: the test**\n\n| | SM, paper | SM, ours |\n| --- | ---: | ---: |\n| ACC | 0.9231 | 0.8125 |"
        in filled
    )
    assert "| ACC | 0.9231 | 0.8000 |" not in filled  # the run's table in its place
    assert "BGAS" in filled  # Table 4, which the run has not
    assert make_tables.refreshed(filled, {}) == filled
    with pytest.raises(SystemExit, match="no run"):
        make_tables.MeasuredRun.read(tmp_path / "tables")
