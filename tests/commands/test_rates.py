"""What `doctor` measures of the machine."""

from pathlib import Path

import pytest

from melano_tf.commands import rates
from melano_tf.commands.doctor import DoctorSettings, examine


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
