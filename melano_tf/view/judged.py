"""What a run's models said of its cases: every file of predictions that stands under the run's present plan.

All reading of predictions is behind `read_models` and `read_tiles`.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from melano_tf.evaluation.aggregation import slide_scores
from melano_tf.runs.files import read_json
from melano_tf.runs.standing import Standing

TRUTHS = ("target", "malignant", "region")
POOLED = re.compile(r"-(fold|cohort)-(\d+)$")
TEXTS = ("slide_id", "image_id", "patient_id", "group", "label", "part", "magnification", "source")


@dataclass(frozen=True)
class Judged:
    """What one model, or the models of all folds together, said of cases that they were not trained on.

    Attributes:
        name: as its files are called, without the fold.
        classes: names in the order of the outputs; of two the second is positive.
        threshold: on the positive class's probability, the median where folds differ; None where the most probable
            class is called.
        threshold_from: where it was chosen.
        frame: one row a case: case (slide or image), group (patient or lesion), part, target (class index), p0, p1, …
            (calibrated where a calibration was fitted), called (class index), stem (of the model's file), of two
            classes threshold (of the fold's model) and raw (the probability before calibration), and what else the file
            holds (fallback, tiles).
        calibrated: whether a calibration was fitted.
    """

    name: str
    classes: tuple[str, ...]
    threshold: float | None
    threshold_from: str
    frame: pd.DataFrame
    calibrated: bool

    @property
    def scores(self) -> NDArray[np.float64]:
        """Probabilities (n, K)."""
        return self.frame[[f"p{place}" for place in range(len(self.classes))]].to_numpy(float)


@dataclass(frozen=True)
class TileModel:
    """A model that judged tiles.

    Attributes:
        name: as its files are called, without the fold.
        classes: in the order of the outputs.
        threshold: on the second of two classes.
        stem_of: {slide: stem of the file that judged it}.
    """

    name: str
    classes: tuple[str, ...]
    threshold: float
    stem_of: Mapping[str, str]


def prediction_files(standing: Standing) -> dict[str, Path]:
    """Files of predictions of the present plan, by their stems."""
    folder = standing.folder / "predictions"
    files = sorted(path for path in folder.glob("*") if path.suffix in (".csv", ".parquet") and path.name[0] != ".")
    return {path.stem: path for path in standing.of(files)}


def read_file(path: Path, columns: Sequence[str] | None = None) -> pd.DataFrame:
    """One file of predictions, names as text."""
    if path.suffix == ".parquet":
        return pd.read_parquet(path, columns=None if columns is None else list(columns))
    return pd.read_csv(path, dtype=dict.fromkeys(TEXTS, str))


def sidecar_of(standing: Standing, stem: str) -> dict[str, Any]:
    """What stands beside a model, or {} where it is not of the present plan or cannot be read."""
    path = standing.folder / "models" / f"{stem}.json"
    try:
        content = read_json(path) if standing.holds(path) else {}
    except (OSError, ValueError):
        content = {}
    return dict(content) if isinstance(content, dict) else {}


def read_models(
    standing: Standing, settings: Mapping[str, Any], parts: Mapping[str, str]
) -> tuple[dict[str, Judged], list[str]]:
    """Every model's answers on whole cases (slides or images), and a line for each file that cannot be read.

    Models that judged tiles only answer for a slide as the run's settings aggregate tiles.

    Args:
        standing: of the run.
        settings: of the run.
        parts: {patient, slide or image: part} where the predictions do not tell.
    """
    pooled: dict[str, list[tuple[str, pd.DataFrame]]] = {}
    faults = []
    for stem, path in prediction_files(standing).items():
        if stem.endswith(("-attention", "-values")):
            continue
        try:
            frame = _cases(read_file(path), stem, settings, parts)
        except (OSError, ValueError, KeyError) as error:
            faults.append(f"predictions/{path.name}: cannot be read ({error})")
            continue
        if frame is not None and len(frame):
            pooled.setdefault(POOLED.sub("", stem), []).append((stem, frame))
    found = {}
    for name, files in pooled.items():
        found[name] = _joined(name, files, [sidecar_of(standing, stem) for stem, _ in files])
    return found, faults


def _joined(name: str, files: Sequence[tuple[str, pd.DataFrame]], cards: Sequence[Mapping[str, Any]]) -> Judged:
    """The files of all folds as one."""
    parts = []
    for (_, frame), card in zip(files, cards, strict=True):
        if "p2" not in frame:
            threshold = float(card.get("threshold") or 0.5)
            called = frame["called"] if "called" in frame else frame["p1"] >= threshold
            frame = frame.assign(threshold=threshold, called=np.asarray(called).astype(np.int64))
        else:
            columns = [str(column) for column in frame if re.fullmatch(r"p\d+", str(column))]
            frame = frame.assign(called=frame[columns].to_numpy(float).argmax(axis=1).astype(np.int64))
        parts.append(frame)
    whole, card = pd.concat(parts, ignore_index=True), cards[0]
    count = sum(bool(re.fullmatch(r"p\d+", str(column))) for column in whole)
    classes = tuple(map(str, card.get("classes") or ()))
    if len(classes) != count:
        classes = tuple(f"class {place}" for place in range(count))
    shown = float(whole["threshold"].median()) if count == 2 else None
    calibrated = card.get("calibration") is not None
    return Judged(name, classes, shown, str(card.get("threshold_from", "")), whole, calibrated)


def _cases(
    frame: pd.DataFrame, stem: str, settings: Mapping[str, Any], parts: Mapping[str, str]
) -> pd.DataFrame | None:
    """One row a case; None for a file that judges no whole case."""
    truth = next((name for name in TRUTHS if name in frame), None)
    if truth is None:
        return None
    if "slide_id" in frame and "tile" in frame:
        if truth == "region":
            return None  # tumour or not: an answer on tiles, not on the slide
        frame = _aggregated(frame, settings)
        truth = "target"
    case = "slide_id" if "slide_id" in frame else "image_id"
    result = pd.DataFrame({"case": frame[case].astype(str), "target": frame[truth].astype("int64"), "stem": stem})
    whose = next((name for name in ("group", "patient_id") if name in frame), case)
    result["group"] = frame[whose].astype(str)
    if "part" in frame:
        result["part"] = frame["part"].astype(str)
    else:
        owner = frame["patient_id"] if "patient_id" in frame else frame[case]
        result["part"] = owner.astype(str).map(lambda name: parts.get(name, "judged"))
    if "fold" in frame:
        result["part"] = "fold " + frame["fold"].astype(str)
    if "probability" in frame:
        shown = frame["calibrated"] if "calibrated" in frame else frame["probability"]
        result["p0"], result["p1"] = 1.0 - shown.to_numpy(float), shown.to_numpy(float)
        result["raw"] = frame["probability"].to_numpy(float)
    else:
        columns = [str(name) for name in frame if re.fullmatch(r"p(\d+|_.+)", str(name))]
        columns = sorted(columns) if "p0" in columns else columns  # the aggregated p0 stands last
        for place, column in enumerate(columns):
            result[f"p{place}"] = frame[column].to_numpy(float)
    for extra in ("called", "fallback", "tiles"):
        if extra in frame:
            result[extra] = frame[extra].to_numpy()
    return result


def _aggregated(frame: pd.DataFrame, settings: Mapping[str, Any]) -> pd.DataFrame:
    """Slides from their tiles, as the run's settings aggregate them."""
    asked = settings.get("evaluation") or {}
    classes = [str(name) for name in frame if re.fullmatch(r"p\d+", str(name))]
    used = ["p1"] if len(classes) == 2 else classes
    how = (asked.get("aggregation", "mean"), int(asked.get("top", 10)), float(asked.get("threshold", 0.5)))
    slides = slide_scores(frame, used, *how)
    if len(classes) == 2:
        return slides.assign(p0=1.0 - slides["p1"])
    total = slides[classes].sum(axis=1)
    return slides.assign(**{name: slides[name] / total.where(total > 0, 1.0) for name in classes})


def tile_models(standing: Standing) -> dict[str, TileModel]:
    """Every model that judged tiles, with the slides that it judged.

    A model that saw all slides in its training or test (the final source model) judged all of them; where one of a
    fold judged a slide as well, each stands under its own name.
    """
    found: dict[str, dict[str, str]] = {}
    for stem, path in prediction_files(standing).items():
        if path.suffix != ".parquet" or stem.endswith("-attention"):
            continue
        try:
            slides = read_file(path, ["slide_id", "tile"])["slide_id"].unique()
        except (OSError, ValueError, KeyError):
            continue
        own = found.setdefault(POOLED.sub("", stem), {})
        own |= dict.fromkeys(map(str, slides), stem)
    models = {}
    for name, stem_of in found.items():
        card = sidecar_of(standing, next(iter(stem_of.values()), name))
        classes = tuple(map(str, card.get("classes") or ("negative", "positive")))
        models[name] = TileModel(name, classes, float(card.get("threshold") or 0.5), stem_of)
    return models


def read_tiles(standing: Standing, model: TileModel, slide_id: str) -> pd.DataFrame:
    """What a model said of a slide's tiles: tile, magnification ("" where there is one only), p0, p1, …; no rows where
    it did not judge the slide."""
    stem = model.stem_of.get(slide_id)
    path = prediction_files(standing).get(stem or "")
    if path is None:
        return pd.DataFrame({"tile": np.zeros(0, np.int64), "magnification": [], "p0": [], "p1": []})
    frame = pd.read_parquet(path, filters=[("slide_id", "==", slide_id)])
    if "probability" in frame:
        frame = frame.assign(p0=1.0 - frame["probability"], p1=frame["probability"])
    if "magnification" not in frame:
        frame = frame.assign(magnification="")
    columns = [str(name) for name in frame if re.fullmatch(r"p\d+", str(name))]
    return frame[["tile", "magnification", *columns]].reset_index(drop=True)


def read_attention(standing: Standing, slide_id: str) -> dict[str, pd.DataFrame]:
    """Attention of a slide's tiles by each bag model that judged it: {model: tile, attention}."""
    found = {}
    for stem, path in prediction_files(standing).items():
        if not stem.endswith("-attention"):
            continue
        frame = pd.read_parquet(path, filters=[("slide_id", "==", slide_id)])
        if len(frame):
            found[POOLED.sub("", stem.removesuffix("-attention"))] = frame[["tile", "attention"]].reset_index(drop=True)
    return found
