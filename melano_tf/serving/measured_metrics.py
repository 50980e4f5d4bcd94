"""What was measured of a model, read where its run left it: nothing here is computed from thin air.

In this order: what its judged patients say, if their predictions lie beside the model in its run and were made with it;
what the hold-out said on which the threshold was chosen, if the sidecar holds it; else nothing.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from melano_tf.evaluation.binary_intervals import binary_intervals
from melano_tf.evaluation.binary_metrics import format_value
from melano_tf.evaluation.interval import ends_text
from melano_tf.runs.files_of_plan import Standing
from melano_tf.runs.predictions import TRAINING, UNKNOWN, read_predictions, scores
from melano_tf.runs.sidecar import Sidecar

NAMES = {"SN": "sensitivity", "SPC": "specificity", "AUC": "roc_auc"}


def measured_numbers(model: Path, sidecar: Sidecar, together: Standing | None = None) -> dict[str, Any] | None:
    """Sensitivity and specificity at the threshold with intervals, and on what; None if not measured.

    Args:
        model: the model's file in its run's `models/`, or a copy elsewhere.
        sidecar: its sidecar.
        together: what was made with it, where it lies in its run (`run_of_model.made_together`): other predictions are
            those of another model of its name.

    Returns:
        {"on": words, "samples", "positives", "groups", "sensitivity", "specificity", and "roc_auc" where the patients
        were left out of the training}, each {value, low, high, level, method}; undefined numbers are None.
    """
    if len(sidecar.classes) != 2:
        return None
    unit = "bags" if sidecar.kind == "bags" else ""
    stem = model.absolute().parent.parent / "predictions" / model.stem
    there = [path for path in map(stem.with_suffix, (".csv", ".parquet")) if path.is_file()]
    files = there if together is None else together.of(there)
    found = _of_predictions(files[0], sidecar.cut, unit) if files else None
    if found is not None:
        return found
    return None if sidecar.threshold_measured is None else measured_there(sidecar.threshold_measured)


def measured_there(written: Mapping[str, Any]) -> dict[str, Any]:
    """What a threshold reached where it was chosen, of a sidecar's `threshold_measured`; raises KeyError or TypeError
    where that is damaged."""
    return {
        "on": f"{written['hold_out']}, on which the threshold was chosen",
        "samples": written["samples"],
        "positives": written["positives"],
        "groups": written["sensitivity"]["groups"],
        **{name: _short(written[name]) for name in ("sensitivity", "specificity")},
    }


def _short(interval: Mapping[str, Any]) -> dict[str, Any]:
    return {name: interval.get(name) for name in ("value", "low", "high", "level", "method")}


def _of_predictions(path: Path, threshold: float, unit: str) -> dict[str, Any] | None:
    """From a run's predictions of biopsies, images or another unit that the model was not trained on, if there are."""
    table = read_predictions(path)
    if "tile" in table:
        return None
    table = table[(table["part"] != TRAINING) & (table["target"] != UNKNOWN)]
    if table.empty:
        return None
    y, groups = table["target"].to_numpy(), table["group"].to_numpy()
    unit = unit or ("images" if "image_id" in table else "biopsies")
    intervals = binary_intervals(y, scores(table), groups, tuple(NAMES), threshold=threshold)
    numbers = {
        NAMES[name]: {
            key: None if math.isnan(getattr(interval, key)) else getattr(interval, key)
            for key in ("value", "low", "high", "level")
        }
        | {"method": interval.method}
        for name, interval in intervals.items()
    }
    patients = len(np.unique(groups))
    return {
        "on": f"{len(table)} {unit} of {patients} patients (or lesions) left out of this model's training",
        "samples": len(table),
        "positives": int(y.sum()),
        "groups": patients,
        **numbers,
    }


def measured_words(measured: dict[str, Any] | None) -> str:
    """One line for a person: sensitivity and specificity at the threshold with their intervals, and on what."""
    if measured is None:
        return "sensitivity and specificity of its decisions are not at hand"
    parts = []
    for name in ("sensitivity", "specificity"):
        one = measured[name]
        if one["value"] is None:
            parts.append(f"{name} undefined")
        else:
            ends = ends_text(_number(one["low"]), _number(one["high"]))
            parts.append(f"{name} {format_value(one['value'])} ({one['level']:.0%} interval {ends})")
    return f"{', '.join(parts)}; {measured['on']}"


def _number(value: float | None) -> float:
    return math.nan if value is None else value
