"""Under SGD the ES row learns with the weights of Cui et al., and stands still with equation 8 as printed."""

import runpy
import sys
from pathlib import Path

import pandas as pd

from tests.papers.tiny import CHECKOUT


def test_es_learns_with_sgd_where_as_printed_it_does_not(tmp_path: Path, inside, monkeypatch, capsys) -> None:
    arguments = ("--patients", "60", "--warm-epochs", "3", "--epochs", "10", "--rate", "1e-3", "--threads", "1")
    monkeypatch.setattr(sys, "argv", ["weighting_scales.py", "--out", str(tmp_path), *arguments])
    runpy.run_path(str(CHECKOUT / "experiments" / "weighting_scales.py"), run_name="__main__")
    rows = pd.read_csv(tmp_path / "scales.csv").set_index(["row", "scale"])
    moved, fell = rows["moved"], rows["fell"]
    assert moved["CEL-ES", "cui"] > 4 * moved["CEL-ES", "as_printed"], rows
    assert moved["CEL-CB", "cui"] < 6 * moved["CEL-ES", "cui"], rows
    assert min(fell["CEL-CB", "cui"], fell["CEL-ES", "cui"]) > 2 * abs(fell["CEL-ES", "as_printed"]), rows
