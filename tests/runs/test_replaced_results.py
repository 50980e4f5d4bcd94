"""What was made of a result that another one replaced under the same key is done again, and is older until then."""

import io
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from melano_tf.papers.plan import Step
from melano_tf.papers.shell import Work
from melano_tf.papers.step_states import recorded_key, state_of
from melano_tf.runs.atomic_files import read_json, write_json
from melano_tf.runs.files_of_plan import Standing
from melano_tf.runs.replaced_results import weights_digest
from melano_tf.runs.run_folder import Run
from tests.runs.test_run_folder import open_run


def write_model(path: Path, values: Sequence[float], layer: str = "dense", seed: int = 1) -> Path:
    """A `.keras` file's weights, as Keras lays them out."""
    content = io.BytesIO()
    with h5py.File(content, "w") as file:
        group = file.create_group("layers/dense/vars")
        group.attrs["name"] = layer  # numbered by what the process built before
        group["0"] = np.array(values, np.float32)
        file["seed_generator/vars/0"] = np.array([seed])
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("metadata.json", f'{{"date_saved": "{layer}"}}')
        archive.writestr("model.weights.h5", content.getvalue())
    return path


def test_weights_are_known_by_their_values_alone(tmp_path: Path) -> None:
    first = weights_digest(write_model(tmp_path / "a.keras", [1.0, 2.0]))
    assert first == weights_digest(write_model(tmp_path / "b.keras", [1.0, 2.0], "dense_7", seed=5))
    assert first != weights_digest(write_model(tmp_path / "c.keras", [1.0, 2.5]))
    (tmp_path / "d.keras").write_bytes(b"weights")
    with zipfile.ZipFile(tmp_path / "e.keras", "w") as archive:
        archive.writestr("model.weights.h5", b"no weights")
    assert weights_digest(tmp_path / "d.keras") is None and weights_digest(tmp_path / "e.keras") is None


def session(folder: Path, source: float, until: str = "", gone_on: list[float] | None = None) -> list[str]:
    """source -> target -> table, and another beside; `source` is what a training comes to this time. Returns the steps
    that were done; `gone_on` is told of each time that the target goes on where it was killed."""

    def trained(name: str, values: Sequence[float]) -> list[Path]:
        path = run.path("models", f"{name}.keras")
        return [write_model(path, values)]

    def told(name: str, text: str) -> list[Path]:
        path = run.path("tables", name)
        path.write_text(text)
        return [path]

    with open_run(folder) as run:
        keys = {"source": run.step("source", {"rate": 0.1}, lambda scratch: trained("source", [source]))}
        if until == "source":
            return run.repeated
        from_source = {"needs": dict(keys)}

        def target(scratch: Path) -> list[Path]:
            checkpoint = scratch / "checkpoint"
            if checkpoint.exists():
                assert read_json(checkpoint) == {"of": source}, "it goes on from another source"
                assert gone_on is not None
                gone_on.append(source)
            write_json(checkpoint, {"of": source})
            if until == "half":
                raise KeyboardInterrupt
            return trained("target", [source, 3.0])

        keys["target"] = run.step("target", from_source, target)
        run.step("beside", {"rate": 0.1}, lambda scratch: trained("beside", [7.0]))
        run.step("table", {"needs": {"target": keys["target"]}}, lambda scratch: told("t.csv", f"{source}\n"))
        return run.repeated


def test_another_result_under_the_same_key_is_made_again_of(tmp_path: Path) -> None:
    assert session(tmp_path, 1.0) == ["source", "target", "beside", "table"]
    (tmp_path / "models" / "source.keras").unlink()
    assert session(tmp_path, 1.0) == ["source"], "the same weights once more"
    (tmp_path / "models" / "source.keras").unlink()
    assert session(tmp_path, 2.0, until="source") == ["source"]
    standing = Standing(tmp_path, read_json(tmp_path / "run.json"))
    older = ["tables/t.csv", "models/target.keras"]
    assert standing.older() == older, "made of what is gone"
    assert session(tmp_path, 2.0) == ["target", "table"]
    assert Standing(tmp_path, read_json(tmp_path / "run.json")).older() == []
    assert session(tmp_path, 2.0) == []


def test_what_was_begun_of_a_replaced_result_is_begun_anew(tmp_path: Path) -> None:
    gone_on: list[float] = []
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            session(tmp_path, 1.0, "half", gone_on)
    assert gone_on == [1.0]
    (tmp_path / "models" / "source.keras").unlink()
    assert session(tmp_path, 2.0, "", gone_on) == ["source", "target", "beside", "table"] and gone_on == [1.0]


def test_the_plan_says_why(tmp_path: Path) -> None:
    session(tmp_path, 1.0)
    (tmp_path / "models" / "source.keras").unlink()
    session(tmp_path, 2.0, until="source")
    run: Run = open_run(tmp_path)
    assert recorded_key(run, "target") is None and recorded_key(run, "source") is not None
    work: Any = Work(run, None, {})

    def stated(name: str, *needs: str, **depends: float) -> str:
        step = Step(name, "train", print, depends=depends, needs=needs, here=True)
        return state_of(work, step, {}, Run.finished)

    assert stated("source", rate=0.1) == "finished"
    assert stated("target", "source") == "to do: source came to another result since"


def test_what_an_earlier_version_recorded_stands(tmp_path: Path) -> None:
    session(tmp_path, 1.0)
    for path in (tmp_path / "steps").glob("*.json"):
        state = read_json(path)
        write_json(path, {name: value for name, value in state.items() if name not in ("made", "stood_on")})
    (tmp_path / "models" / "source.keras").unlink()
    assert session(tmp_path, 2.0) == ["source"]
