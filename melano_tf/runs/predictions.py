"""The predictions of a trained model: one form for all recipes, written and read here alone.

`predictions/<stem>.parquet` (or `.csv`, of few cases) is what the model `models/<stem>.keras` said. A row is a case,
and the columns are

| column | dtype | what it holds |
|---|---|---|
| `case` | text, each once | what was judged: an image's id, a slide's, or "slide/tile" and "slide/magnification/tile" |
| `group` | text | its patient (or lesion): what no split divides, and what intervals draw |
| `part` | text | where it stood for this model: "training", "validation", "test", or a recipe's own ("HAM test") |
| `target` | int64 | index of its true class; -1 where that is not known, so that nobody judges it |
| `probability` | float, 0 to 1 | of the second of two classes, as the network gives it; or for any number |
| `p_<class>` | float, 0 to 1 | one column a class, in the order of the classes; they add up to 1 |
| `calibrated` | float, 0 to 1 | beside `probability` alone: after calibration; where it is there, it is what counts |
| `called` | int64 | index of the class decided for: at the model's threshold, or the most probable one of several |
| `raw_<class>` | float, 0 to 1 | beside `p_<class>` that were calibrated: as the network gives it |

Then comes what a recipe adds, for example `image_id`, or what the network says without metadata.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from melano_tf.errors import InputError, RunError
from melano_tf.runs.atomic_files import atomic
from melano_tf.runs.file_integrity import read_frame

PREFIX = "p_"
RAW = "raw_"
WORDS = ("case", "group", "part")
TRAINING, VALIDATION, TEST = "training", "validation", "test"
UNKNOWN = -1
APART = 1e-3  # of the sum of a case's probabilities from 1, in float32 or as text


def predictions(
    rows: pd.DataFrame,
    answers: np.ndarray,
    classes: Sequence[str] = (),
    *,
    calibrated: np.ndarray | None = None,
    called: np.ndarray | None = None,
    threshold: float = 0.5,
) -> pd.DataFrame:
    """A table of the form, its columns in order.

    Args:
        rows: case, group, part, target, and what the recipe adds.
        answers: (n,) probabilities of the second of two classes, or (n, C) of each class.
        classes: their names, for (n, C).
        calibrated: (n,) the probabilities after calibration, if there was one.
        called: (n,) class indices decided for; not given: by `threshold` of two classes, else the most probable.
        threshold: probability of the second of two classes from which on it is called.
    """
    columns = {"probability": answers} if answers.ndim == 1 else named_columns(answers, classes)
    if calibrated is not None:
        columns["calibrated"] = calibrated
    first = ["case", "group", "part", "target"]
    table = rows[first].assign(**columns).astype(dict.fromkeys(WORDS, str) | {"target": "int64"})
    if called is None:
        called = decided(table, threshold)
    rest = rows[[name for name in rows if name not in first]]
    return pd.concat([table.assign(called=np.asarray(called).astype("int64")), rest], axis=1).reset_index(drop=True)


def named_columns(answers: np.ndarray, classes: Sequence[str]) -> dict[str, np.ndarray]:
    """The columns of probabilities (n, C) of these classes."""
    return {f"{PREFIX}{name}": answers[:, place] for place, name in enumerate(classes)}


def probability_columns(table: pd.DataFrame) -> list[str]:
    """Names of the columns with a class's probability each; [] where `probability` alone stands for two."""
    return [str(name) for name in table if str(name).startswith(PREFIX)]


def probabilities(table: pd.DataFrame) -> NDArray[np.float64]:
    """Probability of each class, (n, C), calibrated where that is there."""
    if columns := probability_columns(table):
        return table[columns].to_numpy(np.float64)
    positive = scores(table)
    return np.column_stack([1 - positive, positive])


def own_probabilities(table: pd.DataFrame) -> NDArray[np.float64] | None:
    """What the network itself gave for each class, (n, C), where that stands beside what counts; None where it does
    not."""
    if columns := probability_columns(table):
        beside = [RAW + name.removeprefix(PREFIX) for name in columns]
        return table[beside].to_numpy(np.float64) if set(beside) <= set(table) else None
    if "calibrated" not in table:
        return None
    positive = table["probability"].to_numpy(np.float64)
    return np.column_stack([1 - positive, positive])


def scores(table: pd.DataFrame) -> NDArray[np.float64]:
    """Probability of the second of two classes (n,), calibrated where that is there; of more of each, (n, C)."""
    if columns := probability_columns(table):
        values = table[columns].to_numpy(np.float64)
        return values[:, 1] if len(columns) == 2 else values
    return table["calibrated" if "calibrated" in table else "probability"].to_numpy(np.float64)


def decided(table: pd.DataFrame, threshold: float | None) -> NDArray[np.int64]:
    """Class index that is called, (n,): of two classes by the threshold on the second, else the most probable one."""
    values = scores(table)
    if values.ndim == 2:
        return np.asarray(values.argmax(axis=1), np.int64)
    if threshold is None:
        raise ValueError("two classes are called by a threshold, and there is none")
    return np.asarray(values >= threshold, np.int64)


def fault(table: pd.DataFrame) -> str:
    """The first thing in which a table is not of the form, in words; "" where it is."""
    columns = probability_columns(table)
    lacking = [name for name in (*WORDS, "target", "called") if name not in table]
    if not columns and "probability" not in table:
        lacking.append("probability")
    if lacking:
        return f"the columns {', '.join(lacking)} are missing"
    if columns and ("probability" in table or len(columns) < 2):
        return f"{', '.join(columns)} are not the probabilities of two classes or more, and nothing beside them"
    for name in WORDS:
        if len(table) and (not pd.api.types.is_string_dtype(table[name]) or (table[name] == "").any()):
            return f"{name} is not of text, or empty somewhere"
    if table["case"].duplicated().any():
        return f"case {table['case'][table['case'].duplicated()].iloc[0]!r} stands in it twice"
    for name, least in (("target", UNKNOWN), ("called", 0)):
        if len(table) and not pd.api.types.is_integer_dtype(table[name]):
            return f"{name} is not of integers"
        if not table[name].between(least, max(2, len(columns)) - 1).all():
            return f"{name} holds other numbers than those of the classes"
    return _wrong_probability(table, columns)


def _wrong_probability(table: pd.DataFrame, columns: list[str]) -> str:
    for name in columns or [name for name in ("probability", "calibrated") if name in table]:
        if not pd.api.types.is_float_dtype(table[name]) and len(table):
            return f"{name} is not of numbers"
        if not table[name].between(-APART, 1 + APART).all():
            return f"{name} holds what is no probability"
    if columns and (np.abs(table[columns].to_numpy(float).sum(axis=1) - 1) > APART * len(columns)).any():
        return f"{', '.join(columns)} do not add up to 1"
    return ""


def write_predictions(path: Path, table: pd.DataFrame) -> Path:
    """Write predictions as Parquet or CSV, by the suffix, atomically; returns the path.

    Raises:
        RunError: the table is not of the form.
    """
    if wrong := fault(table):
        raise RunError(f"{path}: the predictions are not written: {wrong}")
    with atomic(path) as temporary:
        if path.suffix == ".parquet":
            table.to_parquet(temporary)
        else:
            table.to_csv(temporary, index=False)
    return path


def read_predictions(path: Path) -> pd.DataFrame:
    """Predictions that `write_predictions` wrote.

    Raises:
        InputError: the file is missing or damaged, or not of the form, as those of an earlier version.
    """
    try:
        if path.suffix == ".parquet":
            table = read_frame(path)
        else:
            texts: dict[str, Any] = dict.fromkeys([*WORDS, "slide_id", "patient_id", "image_id"], str)
            table = pd.read_csv(path, dtype=texts, keep_default_na=False)
    except (OSError, ValueError) as error:
        why = " ".join(str(error).split())
        raise InputError(f"{path}: cannot be read ({why}); give the run's command again") from None
    if wrong := fault(table):
        raise InputError(
            f"{path}: not of the form of predictions, or of an earlier version's ({wrong}); give the run's command "
            "again with another --out"
        )
    return table
