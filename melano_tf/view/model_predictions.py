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
import pyarrow.parquet as pq
from numpy.typing import NDArray

from melano_tf.errors import InputError
from melano_tf.evaluation.slide_scores import slide_scores
from melano_tf.runs.atomic_files import read_json
from melano_tf.runs.files_of_plan import Standing
from melano_tf.runs.predictions import UNKNOWN, decided, probabilities, probability_columns, read_predictions

POOLED = re.compile(r"-(fold|cohort)-(\d+)$")
ATTENTION = "-attention"
BESIDE = (ATTENTION, "-values")  # ends of files beside predictions


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
        magnifications: {slide: those of its tiles, ("",) where there is one only}.
    """

    name: str
    classes: tuple[str, ...]
    threshold: float
    stem_of: Mapping[str, str]
    magnifications: Mapping[str, tuple[str, ...]]


def prediction_files(standing: Standing) -> dict[str, Path]:
    """Files of predictions of the present plan, by their stems."""
    folder = standing.folder / "predictions"
    files = sorted(path for path in folder.glob("*") if path.suffix in (".csv", ".parquet") and path.name[0] != ".")
    return {path.stem: path for path in standing.of(files)}


def sidecar_of(standing: Standing, stem: str) -> dict[str, Any]:
    """What stands beside a model, or {} where it is not of the present plan or cannot be read."""
    path = standing.folder / "models" / f"{stem}.json"
    try:
        content = read_json(path) if standing.holds(path) else {}
    except (OSError, ValueError):
        content = {}
    return dict(content) if isinstance(content, dict) else {}


def threshold_of(card: Mapping[str, Any]) -> float:
    """On the positive of two classes, from what stands beside a model; 0.5 where none is written."""
    written = card.get("threshold")
    return 0.5 if written is None else float(written)


def read_models(standing: Standing, settings: Mapping[str, Any]) -> tuple[dict[str, Judged], list[str]]:
    """Every model's answers on whole cases (slides or images), and a line for each file that cannot be read.

    Models that judged tiles only answer for a slide as the run's settings aggregate tiles.

    Args:
        standing: of the run.
        settings: of the run.
    """
    pooled: dict[str, list[tuple[str, pd.DataFrame]]] = {}
    faults = []
    for stem, path in prediction_files(standing).items():
        if stem.endswith(BESIDE):
            continue
        try:
            frame = _cases(read_predictions(path), stem, settings)
        except InputError as error:
            faults.append(str(error).replace(f"{standing.folder}/", ""))
            continue
        if frame is not None and len(frame):
            pooled.setdefault(POOLED.sub("", stem), []).append((stem, frame))
    cards = {stem: sidecar_of(standing, stem) for files in pooled.values() for stem, _ in files}
    return {name: _joined(name, files, cards) for name, files in pooled.items()}, faults


def _joined(name: str, files: Sequence[tuple[str, pd.DataFrame]], cards: Mapping[str, Mapping[str, Any]]) -> Judged:
    """The files of all folds as one."""
    card = cards[files[0][0]]
    two = "p2" not in files[0][1]
    parts = [frame.assign(threshold=threshold_of(cards[stem])) if two else frame for stem, frame in files]
    whole = pd.concat(parts, ignore_index=True)
    classes = tuple(map(str, card.get("classes") or ()))
    count = sum(bool(re.fullmatch(r"p\d+", str(column))) for column in whole)
    if len(classes) != count:
        classes = tuple(f"class {place}" for place in range(count))
    threshold = float(whole["threshold"].median()) if two else None
    return Judged(name, classes, threshold, str(card.get("threshold_from", "")), whole, "raw" in whole)


def _cases(table: pd.DataFrame, stem: str, settings: Mapping[str, Any]) -> pd.DataFrame | None:
    """One row a case whose truth is known; None for a file that judges no whole case."""
    if "tile" in table:
        if "region" in table:
            return None  # tumour or not: an answer on tiles, not on the slide
        table = _aggregated(table, settings)
    table = table[table["target"] != UNKNOWN].reset_index(drop=True)
    fold = POOLED.search(stem)
    result = pd.DataFrame(
        {
            "case": table["case"],
            "group": table["group"],
            "target": table["target"],
            "called": table["called"],
            "stem": stem,
            "part": table["part"] if fold is None else f"{fold[1]} {fold[2]}",
        }
    )
    for place, values in enumerate(probabilities(table).T):
        result[f"p{place}"] = values
    if "calibrated" in table:
        result["raw"] = table["probability"]
    for extra in ("fallback", "tiles"):
        if extra in table:
            result[extra] = table[extra].to_numpy()
    return result


def _aggregated(table: pd.DataFrame, settings: Mapping[str, Any]) -> pd.DataFrame:
    """Slides from their tiles, as the run's settings aggregate them, in the form of predictions."""
    asked, names = settings.get("evaluation") or {}, probability_columns(table)
    used = names[1:] if len(names) == 2 else names
    threshold = float(asked.get("threshold", 0.5))
    slides = slide_scores(table, used, asked.get("aggregation", "mean"), int(asked.get("top", 10)), threshold)
    if len(names) == 2:
        slides[names[0]] = 1.0 - slides[names[1]]
    total = slides[names].sum(axis=1)
    slides[names] = slides[names].div(total.where(total > 0, 1.0), axis=0)
    return slides.assign(case=slides["slide_id"], called=decided(slides[names], threshold))


def slides_of(path: Path) -> dict[str, tuple[str, ...]]:
    """{slide: magnifications of its tiles} of a file on tiles; none where it is of no tiles, or damaged.

    What is damaged `read_models` says.
    """
    try:
        names = set(pq.read_schema(path).names)
        if not {"slide_id", "tile"} <= names:
            return {}
        columns = [name for name in ("slide_id", "magnification") if name in names]
        pairs = pd.read_parquet(path, columns=columns).drop_duplicates()
    except (OSError, ValueError, KeyError):
        return {}
    at = pairs["magnification"] if "magnification" in pairs else pd.Series("", index=pairs.index)
    found: dict[str, tuple[str, ...]] = {}
    for slide, magnification in zip(pairs["slide_id"].map(str), at.map(str), strict=True):
        found[slide] = (*found.get(slide, ()), magnification)
    return found


def tile_models(standing: Standing) -> dict[str, TileModel]:
    """Every model that judged tiles, with the slides that it judged.

    A model that saw all slides in its training or test (the final source model) judged all of them; where one of a
    fold judged a slide as well, each stands under its own name.
    """
    found: dict[str, tuple[dict[str, str], dict[str, tuple[str, ...]]]] = {}
    for stem, path in prediction_files(standing).items():
        if path.suffix != ".parquet" or stem.endswith(ATTENTION):
            continue
        if slides := slides_of(path):
            stems, at = found.setdefault(POOLED.sub("", stem), ({}, {}))
            stems |= dict.fromkeys(slides, stem)
            at |= slides
    models = {}
    for name, (stem_of, at) in found.items():
        card = sidecar_of(standing, next(iter(stem_of.values())))
        classes = tuple(map(str, card.get("classes") or ("negative", "positive")))
        models[name] = TileModel(name, classes, threshold_of(card), stem_of, at)
    return models


def attention_files(standing: Standing) -> dict[str, dict[str, str]]:
    """{bag model: {slide: stem of the file with the attention of its tiles}}."""
    found: dict[str, dict[str, str]] = {}
    for stem, path in prediction_files(standing).items():
        if path.suffix == ".parquet" and stem.endswith(ATTENTION):
            name = POOLED.sub("", stem.removesuffix(ATTENTION))
            found.setdefault(name, {}).update(dict.fromkeys(slides_of(path), stem))
    return found


def read_tiles(standing: Standing, model: TileModel, slide_id: str) -> pd.DataFrame:
    """What a model said of a slide's tiles: tile, magnification ("" where there is one only), p0, p1, …; no rows where
    it did not judge the slide, or not under the present plan."""
    table = _rows(standing, model.stem_of.get(slide_id, ""), slide_id)
    if table is None:
        return pd.DataFrame({"tile": np.zeros(0, np.int64), "magnification": [], "p0": [], "p1": []})
    frame = pd.DataFrame({f"p{place}": values for place, values in enumerate(probabilities(table).T)})
    at = table["magnification"].to_numpy() if "magnification" in table else ""
    return frame.assign(tile=table["tile"].to_numpy(), magnification=at)


def read_attention(standing: Standing, stem: str, slide_id: str) -> pd.DataFrame:
    """Attention of a slide's tiles, from a file of `attention_files`: tile, attention."""
    table = _rows(standing, stem, slide_id)
    if table is None:
        return pd.DataFrame({"tile": np.zeros(0, np.int64), "attention": np.zeros(0)})
    return table[["tile", "attention"]].reset_index(drop=True)


def _rows(standing: Standing, stem: str, slide_id: str) -> pd.DataFrame | None:
    """A slide's rows of a file on tiles; None where the file is not there, or older than the present plan."""
    path = standing.folder / "predictions" / f"{stem}.parquet"
    return pd.read_parquet(path, filters=[("slide_id", "==", slide_id)]) if stem and standing.holds(path) else None
