"""The networks that the atlas asks, as they stand in the run's folder now."""

import dataclasses
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from melano_tf.runs.sidecar import Sidecar
from melano_tf.view.asked_models import Models


def test_a_decision_that_is_made_anew_is_read_anew_though_its_network_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As zoome's step "judge", of which the network is no part."""
    loaded: list[Path] = []
    monkeypatch.setattr("melano_tf.serving.network_loading.load_network", lambda path, _: loaded.append(path))
    model = tmp_path / "models" / "zoome-fold-1.keras"
    model.parent.mkdir()
    model.write_bytes(b"a network")
    card = Sidecar("zoome", ("benign", "malignant"), 48, {}, 0.5, "fixed", {}, calibration={"temperature": 2.0})
    card.write(model)
    run: Any = SimpleNamespace(folder=tmp_path, standing=SimpleNamespace(holds=Path.is_file))
    models = Models()
    for _ in range(2):
        assert models.get(run, model.stem)[1].calibration == {"temperature": 2.0}
    assert loaded == [model]
    before = Sidecar.path(model).stat().st_mtime_ns
    dataclasses.replace(card, calibration={"temperature": 0.5}).write(model)
    os.utime(Sidecar.path(model), ns=(before + 10**9, before + 10**9))  # however fast this test is
    assert models.get(run, model.stem)[1].calibration == {"temperature": 0.5}
