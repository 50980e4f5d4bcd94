"""The notebook of the bags recipe on a handful of phantom slides."""

import runpy
import sys
from pathlib import Path

import pytest

from tests.papers.tiny import CHECKOUT, inside

__all__ = ["inside"]


def test_the_whole_way_on_phantom_slides(tmp_path: Path, inside, monkeypatch, capsys: pytest.CaptureFixture) -> None:
    arguments = ["bags.py", "--out", str(tmp_path), "--patients", "8", "--epochs", "1", "--encoder", "standin"]
    monkeypatch.setattr(sys, "argv", arguments)
    runpy.run_path(str(CHECKOUT / "experiments" / "bags.py"), run_name="__main__")
    shown = capsys.readouterr().out
    assert "8 done" in shown and "folds     gated: ROC AUC" in shown
    maps = sorted((tmp_path / "run" / "maps").glob("*-attention.png"))
    assert len(maps) == 2 and all(path.stat().st_size > 20_000 for path in maps)
    runpy.run_path(str(CHECKOUT / "experiments" / "bags.py"), run_name="__main__")
    again = capsys.readouterr().out
    assert "8 kept" in again and "did 0 steps" in again
