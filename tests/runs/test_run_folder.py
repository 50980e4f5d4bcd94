"""A run's folder: atomic files, finished steps and their keys, the lock, sidecars."""

import dataclasses
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from melano_tf.commands.compare import checksums
from melano_tf.errors import InputError
from melano_tf.runs.atomic_files import atomic, file_sha256
from melano_tf.runs.files_of_plan import Standing
from melano_tf.runs.input_checksums import file_checksums
from melano_tf.runs.run_folder import Run
from melano_tf.runs.settings_digest import digest, flat, plain, seed_for
from melano_tf.runs.sidecar import Sidecar

CHECKOUT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Settings:
    epochs: int = 3
    out: Path = Path("somewhere")


def open_run(folder: Path, recipe: str = "demo", **settings: int) -> Run:
    return Run(folder, recipe, Settings(**settings), threads=1, say=lambda line: None)


def write(run: Run, name: str, text: str) -> list[Path]:
    path = run.path("files", name)
    path.write_text(text)
    return [path]


def test_atomic_leaves_the_old_file_when_writing_fails(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text("old")
    with pytest.raises(RuntimeError), atomic(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_finished_step_is_not_repeated(tmp_path):
    calls = []

    def work(run):
        return lambda scratch: calls.append(1) or write(run, "a.txt", "one")

    for _ in range(2):
        with open_run(tmp_path) as run:
            key = run.step("a", {"epochs": 3}, work(run))
    assert len(calls) == 1
    assert run.kept == ["a"]
    assert run.repeated == []
    state = json.loads((tmp_path / "steps/a.json").read_text())
    assert state["key"] == key
    assert state["outputs"]["files/a.txt"]["sha256"] == file_sha256(tmp_path / "files/a.txt")


def test_a_changed_setting_repeats_what_depends_on_it_and_nothing_else(tmp_path):
    def all_steps(epochs):
        done = []
        with open_run(tmp_path) as run:
            first = run.step("first", {"size": 1}, lambda s: done.append("first") or write(run, "1", "1"))
            run.step("aside", {"of": first}, lambda s: done.append("aside") or write(run, "2", "2"))
            second = run.step("second", {"epochs": epochs}, lambda s: done.append("second") or write(run, "3", "3"))
            run.step("third", {"of": second}, lambda s: done.append("third") or write(run, "4", "4"))
        return done

    assert all_steps(3) == ["first", "aside", "second", "third"]
    assert all_steps(4) == ["second", "third"]
    assert all_steps(4) == []


@pytest.mark.parametrize("damage", ["missing", "shorter"])
def test_a_step_whose_file_is_gone_or_cut_is_repeated(tmp_path, damage):
    with open_run(tmp_path) as run:
        run.step("a", {}, lambda s: write(run, "a.txt", "whole"))
    path = tmp_path / "files/a.txt"
    path.unlink() if damage == "missing" else path.write_text("who")
    with open_run(tmp_path) as run:
        run.step("a", {}, lambda s: write(run, "a.txt", "whole"))
    assert run.repeated == ["a"]
    assert path.read_text() == "whole"


def test_scratch_survives_a_kill_but_not_a_changed_key(tmp_path):
    seen = []

    def work(scratch: Path):
        seen.append((scratch / "checkpoint").exists())
        with atomic(scratch / "checkpoint") as temporary:
            temporary.write_text("state")
        raise RuntimeError("killed")

    for inputs in ({"epochs": 1}, {"epochs": 1}, {"epochs": 2}):
        with open_run(tmp_path) as run, pytest.raises(RuntimeError):
            run.step("train", inputs, work)
    assert seen == [False, True, False]
    assert len(list((tmp_path / "work/train").iterdir())) == 1


def test_two_runs_in_one_folder_refuse_each_other(tmp_path):
    code = (
        "from melano_tf.runs.run_folder import Run\nfrom melano_tf.errors import InputError\nimport sys\n"
        f"try:\n    with Run({str(tmp_path)!r}, 'demo', {{}}, 1, print): pass\n"
        "except InputError as error:\n    print(error); sys.exit(2)\n"
    )
    with open_run(tmp_path):
        refused = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert refused.returncode == 2
    assert "another run" in refused.stdout
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_a_folder_of_another_recipe_is_refused(tmp_path):
    with open_run(tmp_path):
        pass
    with pytest.raises(InputError, match="holds a run of 'demo'"), open_run(tmp_path, recipe="other"):
        pass
    with open_run(tmp_path):  # the refusal has let go of the lock
        pass


def test_out_that_is_a_file_is_one_clear_line(tmp_path):
    path = tmp_path / "file"
    path.write_text("x")
    with pytest.raises(InputError, match="choose another --out"), open_run(path):
        pass


def test_half_written_files_are_swept(tmp_path):
    with open_run(tmp_path):
        pass
    foreign = tmp_path / "models" / ".target.77.partial.keras"
    foreign.parent.mkdir()
    foreign.write_text("of somebody else")
    killed = (
        "import os, sys, pathlib\nfrom melano_tf.runs.atomic_files import atomic\n"
        "with atomic(pathlib.Path(sys.argv[1])) as temporary:\n    temporary.write_text('half'), os._exit(9)\n"
    )
    subprocess.run([sys.executable, "-c", killed, str(foreign.parent / "target.keras")], cwd=CHECKOUT)
    [leftover] = set(foreign.parent.iterdir()) - {foreign}
    with open_run(tmp_path):
        assert not leftover.exists()
        assert foreign.read_text() == "of somebody else"


def test_the_record_says_what_was_asked_and_on_what(tmp_path):
    with open_run(tmp_path, epochs=7) as run:
        run.note(excluded=["S1"])
    record = json.loads((tmp_path / "run.json").read_text())
    assert record["settings"] == {"epochs": 7, "out": "somewhere"}
    assert record["excluded"] == ["S1"]
    environment = record["sessions"][0]["environment"]
    assert environment["threads"] == 1
    assert environment["packages"]["tensorflow"][0].isdigit()


def test_checksums_are_remembered_until_the_file_changes(tmp_path):
    file = tmp_path / "slide.tiff"
    file.write_bytes(b"pixels")
    with open_run(tmp_path / "run") as run:
        first = file_checksums(run.folder, [file])
        assert first == {str(file): file_sha256(file)}
        file.write_bytes(b"others!")
        assert file_checksums(run.folder, [file]) == {str(file): file_sha256(file)} != first


def test_the_checksums_are_those_of_the_files_that_were_asked_for_last(tmp_path):
    files = {name: tmp_path / name / "I1.jpg" for name in ("raw", "cropped")}
    for name, file in files.items():
        file.parent.mkdir()
        file.write_text(name)
    other = files["cropped"].with_name("I2.jpg")
    other.write_text("another")
    with open_run(tmp_path / "run") as run:
        file_checksums(run.folder, [files["raw"]])
        file_checksums(run.folder, [files["cropped"], other])
        assert set(json.loads((run.folder / "inputs.json").read_text())) == {str(files["cropped"]), str(other)}
        assert checksums(run.folder)["I1"] == {file_sha256(files["cropped"])}

        def stopped(size: int) -> None:
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):  # what it did not come to is not read again
            file_checksums(run.folder, [files["raw"], other], stopped)
        assert set(json.loads((run.folder / "inputs.json").read_text())) == {str(files["raw"]), str(other)}


def test_durations_are_those_of_the_present_plan(tmp_path):
    def session(epochs: int, *names: str) -> set[str]:
        with open_run(tmp_path, epochs=epochs) as run:
            for name in names:
                run.step(name, {"name": name}, lambda s, name=name: write(run, name, name))
            return set(run.durations())

    assert session(3, "first", "aside") == {"first", "aside"}
    assert session(3, "first") == {"first", "aside"}, "not asked for this time, and of the same plan"
    assert session(9, "first", "second") == {"first", "second"}


@pytest.mark.parametrize("seconds", [float("nan"), float("inf"), -1, "3", None, [3], 10**400], ids=lambda s: str(s)[:4])
def test_a_damaged_time_or_entry_of_made_json_is_no_duration(tmp_path, seconds):
    with open_run(tmp_path) as run:
        for name in ("first", "second"):
            run.step(name, {}, lambda s, name=name: write(run, name, name))
    state, made = tmp_path / "steps" / "first.json", tmp_path / "made.json"
    state.write_text(json.dumps({**json.loads(state.read_text()), "seconds": seconds}))
    [known, *_] = json.loads(made.read_text()).values()
    odd = {"files/odd": {**known, "step": ["first"]}, "files/other": {**known, "step": {}}}
    made.write_text(json.dumps({**json.loads(made.read_text()), **odd}))
    with open_run(tmp_path) as run:
        assert set(run.durations()) == {"second"}


def test_seeds_differ_by_purpose_and_hold():
    assert seed_for(0, "a") == seed_for(0, "a")
    assert len({seed_for(0, "a"), seed_for(0, "b"), seed_for(1, "a")}) == 3
    assert 0 <= seed_for(5, "x") < 2**31


def test_settings_become_plain_and_flat():
    assert plain({"a": Settings(), "b": (1, 2)}) == {"a": {"epochs": 3, "out": "somewhere"}, "b": [1, 2]}
    assert flat({"a": {"b": {"c": 1}}, "d": 2}) == {"a.b.c": 1, "d": 2}
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1}) != digest({"a": 1, "b": 3})


def sidecar() -> Sidecar:
    return Sidecar("kind", ("no", "yes"), 96, {"mpp": 1.0}, 0.5, "fixed", {"recipe": "demo"})


def test_a_sidecar_survives_the_disk(tmp_path):
    model = tmp_path / "model.keras"
    model.write_bytes(b"")
    sidecar().write(model)
    assert Sidecar.read(model) == sidecar()


def test_a_model_without_threshold_says_so(tmp_path):
    none = dataclasses.replace(sidecar(), classes=("a", "b", "c"), threshold=None)
    (tmp_path / "model.keras").write_bytes(b"")
    none.write(tmp_path / "model.keras")
    assert Sidecar.read(tmp_path / "model.keras").threshold is None and sidecar().cut == 0.5
    with pytest.raises(InputError, match="'kind' and 3 classes has no threshold"):
        none.cut  # noqa: B018


@pytest.mark.parametrize("content", [None, "{", '{"kind": "x"}', '{"classes": ["a"], "colour": 1}'])
def test_a_missing_or_damaged_sidecar_is_one_clear_line(tmp_path, content):
    model = tmp_path / "model.keras"
    model.write_bytes(b"")
    if content is not None:
        Sidecar.path(model).write_text(content)
    with pytest.raises(InputError, match=r"model\.(json|keras)"):
        Sidecar.read(model)


def test_a_missing_model_is_one_clear_line(tmp_path):
    with pytest.raises(InputError, match="no such model file"):
        Sidecar.read(tmp_path / "model.keras")


@pytest.mark.parametrize("settled", [True, False])
def test_what_was_kept_is_the_sessions_however_it_ends_once_another_step_is_begun(tmp_path, settled):
    """A setting that one of three steps depends on is another one, and the session is ended."""

    def session(epochs: int, fails: bool) -> None:
        with open_run(tmp_path, epochs=epochs) as run:
            for name in ("first", "second"):
                run.step(name, {}, lambda scratch, name=name: told(run, name))
            if fails and not settled:  # before "second" was restated, perhaps
                raise KeyboardInterrupt
            run.step("third", {"epochs": epochs}, lambda scratch: stopped() if fails else write(run, "third", "3"))

    def stopped():
        raise KeyboardInterrupt

    def told(run: Run, name: str) -> list[Path]:
        path = run.path("tables", name)
        path.write_text(name)
        return [path]

    session(3, fails=False)
    with pytest.raises(KeyboardInterrupt):
        session(4, fails=True)
    standing = Standing(tmp_path, json.loads((tmp_path / "run.json").read_text()))
    assert standing.older() == ([] if settled else ["tables/second"])
