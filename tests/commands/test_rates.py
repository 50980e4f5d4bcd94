"""What `doctor` measures of the machine."""

from pathlib import Path

import numpy as np
import pytest

from melano_tf.commands import rates
from melano_tf.commands.doctor import DoctorSettings, _shards, examine
from melano_tf.pipelines.npy_rows import write_shard
from melano_tf.runs.atomic_files import write_json


def test_doctor_measures_the_machine_where_it_is_asked_of_nothing_else(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked: list[str] = []
    monkeypatch.setattr(rates, "step_rate", lambda name: asked.append(name) or 12.5)
    monkeypatch.setattr(rates, "WRITTEN_MIB", 4)
    monkeypatch.setattr("os.cpu_count", lambda: 12)
    monkeypatch.setattr("os.sched_getaffinity", lambda process: {4, 7, 9}, raising=False)
    said: list[str] = []
    examine(DoctorSettings(out=tmp_path / "not" / "yet"), said.append)
    shown = "\n".join(said)
    assert f"disk at {tmp_path}  writes " in shown and "(4 MiB)" in shown and "JPEG tiles of 224 px a second" in shown
    assert "12.5 images a second, vgg16 at 224 px" in shown and asked == ["resnet50", "vgg16"]
    assert ", 12 cores, of which this process may use 3" in shown and "a second, 3 threads" in shown
    assert not list(tmp_path.iterdir())
    run = tmp_path / "run"
    run.mkdir()
    (run / "run.json").write_text("{}")
    examine(DoctorSettings(out=tmp_path, run=run), said.append)
    assert len(asked) == 2


def test_doctor_compares_the_decoded_images_of_a_copy_without_its_journal_and_says_what_it_does_not_find(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    run, said = tmp_path / "copy", list[str]()
    for folder in (run / "images", run / "features", tmp_path / "cache"):
        folder.mkdir(parents=True)
        write_shard(folder / "feedfacefeedface.npy", np.arange(12, dtype=np.uint8).reshape(3, 4), {})
    write_json(run / "images" / "notes.json", "a reader's own")
    write_json(run / "run.json", {"settings": {"cache": "cache"}})
    assert _shards(run, said.append) == []
    assert said == [f"{run}: 3 files of decoded images read and compared; 0 not as written"]
    shard = run / "images" / "feedfacefeedface.npy"
    content = shard.read_bytes()
    shard.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert [line.partition(": ")[0] for line in _shards(run, said.append)] == [str(shard)]
    monkeypatch.chdir(run)
    said.clear()
    assert len(_shards(run, said.append)) == 1
    assert said == [
        f"{run}: its --cache cache is not found from here; the decoded images in it are not compared",
        f"{run}: 2 files of decoded images read and compared; 1 not as written",
    ]
