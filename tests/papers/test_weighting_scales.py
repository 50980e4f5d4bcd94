"""The small grid under SGD: an ES row moves as a CB row does, and as printed it stays where it was."""

import runpy
import sys
from pathlib import Path

import pandas as pd

from tests.papers.tiny import CHECKOUT


def test_the_grid_of_scales_on_phantoms(tmp_path: Path, inside, monkeypatch, capsys) -> None:
    arguments = ("--patients", "60", "--warm-epochs", "1", "--epochs", "4", "--rate", "1e-3", "--threads", "1")
    monkeypatch.setattr(sys, "argv", ["weighting_scales.py", "--out", str(tmp_path), *arguments])
    runpy.run_path(str(CHECKOUT / "experiments" / "weighting_scales.py"), run_name="__main__")
    moved = pd.read_csv(tmp_path / "scales.csv").set_index(["row", "scale"])["moved"]
    # 175 images train here: as printed a sample weighs more than on ISIC 2018, and still too little.
    assert moved["CEL-ES", "cui"] > 4 * moved["CEL-ES", "as_printed"], moved
    assert moved["CEL-CB", "cui"] < 6 * moved["CEL-ES", "cui"], moved
