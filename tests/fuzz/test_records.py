"""Damaged records of a run: a report with what can be read, or one line; never a traceback."""

import random
import shutil
from pathlib import Path

import pytest

from melano_tf import run
from melano_tf.runs.file_integrity import faults
from tests.fuzz.mutations import damaged_json, torn
from tests.reports.made_run import made_run, of_its_plan, predictions
from tests.reports.test_audit import OTHERS, STEM, record

RECORDS = ("run.json", "made.json", "inputs.json", "steps/images.json", f"models/{STEM}.json")
TABLES = (f"predictions/{STEM}.parquet", f"audit/{STEM}.parquet", f"history/{STEM}.csv")


def damage(folder: Path, seed: int) -> str:
    """Damage one file of a run; returns its name."""
    draw = random.Random(seed)
    name = draw.choice((*RECORDS, *RECORDS, *TABLES))
    path = folder / name
    path.write_bytes((damaged_json if name in RECORDS else torn)(path.read_bytes(), draw))
    return name


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run, made by hand."""
    folder = made_run(tmp_path_factory.mktemp("runs") / "whole", predictions([f"I{n}" for n in range(6)]))
    for name in ("figures", "maps", "logs"):
        shutil.rmtree(folder / name, ignore_errors=True)  # what is drawn costs time, and no record
    record(folder, STEM, OTHERS)
    return of_its_plan(folder)


@pytest.mark.parametrize("seed", [*range(8), 20, 26])  # the last two tear a table so that its reader's words fill lines
def test_a_damaged_record_is_told_in_one_line_or_read_as_far_as_it_goes(whole, tmp_path, capsys, seed) -> None:
    folder = Path(shutil.copytree(whole, tmp_path / "run"))
    name = damage(folder, seed)
    for command in (["audit", str(folder)], ["report", str(folder)], ["compare", str(folder), str(whole)]):
        more = ["--out", str(tmp_path / "compared")] if command[0] == "compare" else []
        code = run.main([*command, *more])  # what raises fails the test
        errors = capsys.readouterr().err
        assert code in (0, 1, 2) and len(errors.splitlines()) == (code == 2), (command[0], name, errors)


def test_doctor_names_every_file_that_is_not_as_it_was_written(tmp_path) -> None:
    from tests.runs.test_run_folder import open_run, write

    with open_run(tmp_path) as opened:
        opened.step("a", {}, lambda scratch: [*write(opened, "one", "1" * 50), *write(opened, "two", "2" * 50)])
        opened.step("b/c", {}, lambda scratch: write(opened, "three", "3" * 50))
    assert faults(tmp_path) == []
    for name in ("one", "three"):
        (tmp_path / "files" / name).write_text("X" + (tmp_path / "files" / name).read_text()[1:])
    (tmp_path / "files" / "two").unlink()
    assert [(name, why.partition(" (of")[0]) for name, why in faults(tmp_path)] == [
        ("files/one", "is not as it was written: its checksum differs"),
        ("files/two", "is missing"),
        ("files/three", "is not as it was written: its checksum differs"),
    ]
    with open_run(tmp_path) as opened:  # a file of the same size and another content costs its step, and no other
        opened.step("a", {}, lambda scratch: [*write(opened, "one", "1" * 50), *write(opened, "two", "2" * 50)])
        opened.step("b/c", {}, lambda scratch: write(opened, "three", "3" * 50))
        assert opened.repeated == ["a", "b/c"]
    (tmp_path / "files" / "one").write_text("Y" * 50)
    with open_run(tmp_path) as opened:
        opened.step("a", {}, lambda scratch: [*write(opened, "one", "1" * 50), *write(opened, "two", "2" * 50)])
        opened.step("b/c", {}, lambda scratch: write(opened, "three", "3" * 50))
        assert (opened.repeated, opened.kept) == (["a"], ["b/c"])
    (tmp_path / "steps" / "a.json").write_text("[1, 2")
    assert faults(tmp_path) == [("steps/a.json", "is damaged; the step will be done again")]


def test_what_a_spreadsheet_would_calculate_is_text() -> None:
    from melano_tf.csv_rows import harmless

    assert [harmless(cell) for cell in ("=1+1", "@x", "-3", "+4", "\tx", "S-1", "")] == [
        *("'=1+1", "'@x", "'-3", "'+4", "'\tx", "S-1", "")
    ]
    assert [harmless(cell) for cell in (-3, 0.5, None)] == [-3, 0.5, None]
