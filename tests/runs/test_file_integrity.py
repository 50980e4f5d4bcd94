"""What is wrong with a run's files, as `doctor --run` says it."""

import json
from pathlib import Path
from typing import Any

import pytest

from melano_tf.runs import run_folder
from melano_tf.runs.file_integrity import SHAPES, check_record, faults
from melano_tf.runs.input_checksums import file_checksums
from melano_tf.runs.judgements import read_judgements, read_record
from tests.runs.test_run_folder import open_run, write


def do_a_step(folder: Path) -> None:
    """A session of one step, which is done or stands."""
    with open_run(folder) as opened:
        opened.step("a", {}, lambda scratch: write(opened, "one", "1"))


def test_a_run_with_steps_that_does_not_know_its_files_is_named(tmp_path: Path) -> None:
    with open_run(tmp_path):
        pass
    assert not (tmp_path / "made.json").exists() and faults(tmp_path) == []  # nothing was done yet
    do_a_step(tmp_path)
    assert faults(tmp_path) == []
    (tmp_path / "made.json").unlink()
    [(name, why)] = faults(tmp_path)
    assert name == "made.json" and why.startswith("is missing")
    do_a_step(tmp_path)
    assert faults(tmp_path) == []


SUM = "0" * 64


@pytest.mark.parametrize(
    "facts",
    [
        *(None, [], "x", 5, {}, {"bytes": 1}, {"sha256": SUM}, {"bytes": None, "sha256": SUM}),
        *({"bytes": "1", "sha256": SUM}, {"bytes": 1.0, "sha256": SUM}, {"bytes": True, "sha256": SUM}),
        {"bytes": 1, "sha256": None},
    ],
)
def test_a_record_of_a_file_that_is_none_costs_its_step_and_nothing_else(tmp_path: Path, facts: Any) -> None:
    do_a_step(tmp_path)
    state = tmp_path / "steps" / "a.json"
    content = json.loads(state.read_text())
    state.write_text(json.dumps({**content, "outputs": {"files/one": facts}}))
    assert faults(tmp_path) == [("files/one", "has no recorded checksum (of steps/a.json)")]
    do_a_step(tmp_path)
    assert faults(tmp_path) == [] and json.loads(state.read_text())["outputs"] == content["outputs"]


@pytest.mark.parametrize("entry", [None, [], 3, {"step": None, "of": 5}, {"of": None}, {"plan": "p"}])
def test_an_entry_of_made_json_that_is_none_does_not_stop_a_step(tmp_path: Path, entry: Any) -> None:
    do_a_step(tmp_path)
    path = tmp_path / "made.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "files/other": entry}))
    (tmp_path / "files" / "one").write_text("damaged")
    do_a_step(tmp_path)
    made = json.loads(path.read_text())
    assert made["files/one"]["step"] == "a" and made.get("files/other", entry) == entry and faults(tmp_path) == []


def test_what_is_no_whole_entry_of_inputs_json_is_looked_at_again(tmp_path: Path) -> None:
    file, known = tmp_path / "slide.tiff", tmp_path / "inputs.json"
    file.write_text("pixels")
    wanted = file_checksums(tmp_path, [file])
    whole = json.loads(known.read_text())
    [facts] = whole.values()
    unsummed = {name: value for name, value in facts.items() if name != "sha256"}
    for entry in (None, [], "x", 7, {}, unsummed, {**facts, "sha256": None}, {**facts, "bytes": None}):
        known.write_text(json.dumps({str(file): entry}))
        assert file_checksums(tmp_path, [file]) == wanted, entry
        assert json.loads(known.read_text()) == whole
    known.write_text(json.dumps({str(file): {**facts, "sha256": "remembered"}}))
    assert file_checksums(tmp_path, [file]) == {str(file): "remembered"}, "an entry that is whole is believed"


def test_a_field_of_run_json_that_holds_null_is_as_if_it_were_not_there(tmp_path: Path) -> None:
    whole = {"recipe": "demo", "settings": {}, "excluded": None}
    assert check_record({**dict.fromkeys(SHAPES), **whole}) == whole
    do_a_step(tmp_path)
    record = read_record(tmp_path)
    (tmp_path / "run.json").write_text(
        json.dumps({**dict.fromkeys(SHAPES), **{n: record[n] for n in whole if n in record}})
    )
    assert read_judgements(tmp_path, read_record(tmp_path)) == []
    do_a_step(tmp_path)  # the next session, which adds to its sessions
    assert len(read_record(tmp_path)["sessions"]) == 1


@pytest.mark.parametrize("name, stands", [("a.npy", False), ("a.parquet", False), ("a.tfrecord", True)])
def test_a_large_file_whose_reader_checks_nothing_is_compared_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, stands: bool
) -> None:
    monkeypatch.setattr(run_folder, "CHECKED_BYTES", 3)
    for content in ("four", "five"):  # in between a bit turned
        with open_run(tmp_path) as opened:
            opened.step("a", {}, lambda scratch: write(opened, name, "four"))
        assert opened.kept == (["a"] if stands and content == "five" else [])
        (tmp_path / "files" / name).write_text("five")
    (tmp_path / "files" / name).write_text("three")
    with open_run(tmp_path) as opened:
        opened.step("a", {}, lambda scratch: write(opened, name, "four"))
    assert opened.repeated == ["a"]
