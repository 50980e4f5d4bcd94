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
from melano_tf.evaluation.multiclass_metrics import decide
from melano_tf.evaluation.slide_scores import class_scores, slide_threshold
from melano_tf.runs.atomic_files import read_json
from melano_tf.runs.files_of_plan import Standing
from melano_tf.runs.predictions import (
    TRAINING,
    UNKNOWN,
    decided,
    own_probabilities,
    probabilities,
    probability_columns,
    read_predictions,
)

POOLED = re.compile(r"-(fold|cohort)-(\d+)$")
ATTENTION = "-attention"
BESIDE = (ATTENTION, "-values")  # ends of files beside predictions


@dataclass(frozen=True)
class Judged:
    """What one model, or the models of all folds together, said of cases that they were not trained on.

    Attributes:
        name: as its files are called, without the fold.
        classes: names in the order of the outputs; of two the second is positive.
        threshold: on the positive class's probability, the folds' median where they differ; None where the most
            probable class is called.
        threshold_from: where it was chosen, also of folds that differ.
        frame: one row a case: case (slide or image), group (patient or lesion), part, target (class index), p0, p1, …
            (calibrated where a calibration was fitted), called (class index; of several classes -1 where two are the
            most probable, as the tables decide), stem (of the model's file), of two classes threshold (of the fold's
            model) and, where it is written, raw (the probability before calibration), and what else the file holds
            (fallback, tiles).
        calibrated: whether the probabilities are calibrated; None where no model's card tells, or folds differ.
    """

    name: str
    classes: tuple[str, ...]
    threshold: float | None
    threshold_from: str
    frame: pd.DataFrame
    calibrated: bool | None

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
        stem_of: {slide: stem of the file that judged it}; of folds that of the one that was not trained on it.
        magnifications: {slide: those of its tiles, ("",) where there is one only}.
        part_of: {slide: where it stood for that model}, "training" of the final model's own slides alone.
    """

    name: str
    classes: tuple[str, ...]
    threshold: float
    stem_of: Mapping[str, str]
    magnifications: Mapping[str, tuple[str, ...]]
    part_of: Mapping[str, str]

    def stood(self, slide_id: str) -> str:
        """What is to be said of a slide's place in the training, behind other words; "" where it is not known."""
        part = self.part_of.get(slide_id, "")
        return f"; the slide is of the model's {part} part" if part else ""


@dataclass(frozen=True)
class _OneFile:
    """What one file of predictions says of whole cases.

    Attributes:
        frame: as `Judged.frame`.
        card: what stands beside its model.
        threshold: of two classes, None of several.
        threshold_from: where it was chosen.
        calibrated: as `Judged.calibrated`.
    """

    frame: pd.DataFrame
    card: Mapping[str, Any]
    threshold: float | None
    threshold_from: str
    calibrated: bool | None


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
    pooled: dict[str, list[_OneFile]] = {}
    faults = []
    for stem, path in prediction_files(standing).items():
        if stem.endswith(BESIDE):
            continue
        try:
            found = _cases(read_predictions(path), stem, sidecar_of(standing, stem), settings)
        except InputError as error:
            faults.append(str(error).replace(f"{standing.folder}/", ""))
            continue
        if found is not None and len(found.frame):
            pooled.setdefault(POOLED.sub("", stem), []).append(found)
    return {name: _joined(name, files) for name, files in pooled.items()}, faults


def _joined(name: str, files: Sequence[_OneFile]) -> Judged:
    """The files of all folds as one."""
    whole = pd.concat([one.frame for one in files], ignore_index=True)
    classes = tuple(map(str, files[0].card.get("classes") or ()))
    count = sum(bool(re.fullmatch(r"p\d+", str(column))) for column in whole)
    if len(classes) != count:
        classes = tuple(f"class {place}" for place in range(count))
    cuts = [one.threshold for one in files if one.threshold is not None]
    calibrated = {one.calibrated for one in files}
    return Judged(
        *(name, classes, float(np.median(cuts)) if cuts else None, _threshold_words(files), whole),
        calibrated.pop() if len(calibrated) == 1 else None,
    )


def _threshold_words(files: Sequence[_OneFile]) -> str:
    """Where the threshold was chosen: of folds that differ no single one's words, which name its own hold-out."""
    words = [one.threshold_from for one in files]
    cuts = [one.threshold for one in files if one.threshold is not None]
    if not cuts or (len(set(words)) == 1 and len(set(cuts)) == 1):
        return words[0]
    rules = {said.partition(";")[0] for said in words}
    rule = f"{rules.pop()}; " if len(rules) == 1 and rules != {""} else ""
    if len(set(cuts)) == 1:
        return f"{rule}the same in all {len(files)} folds"
    return f"{rule}median of {len(files)} folds, {min(cuts):.3g} to {max(cuts):.3g}, each chosen on its own hold-out"


def _cases(table: pd.DataFrame, stem: str, card: Mapping[str, Any], settings: Mapping[str, Any]) -> _OneFile | None:
    """One row a case whose truth is known; None for a file that judges no whole case."""
    threshold, words = threshold_of(card), str(card.get("threshold_from", ""))
    if "tile" in table:
        if "region" in table or not len(table):
            return None  # tumour or not: an answer on tiles, not on the slide
        table, threshold, share = _aggregated(table, settings)
        words = share or words
    fold = POOLED.search(stem)
    counts = (table["target"] != UNKNOWN) & ((table["part"] != TRAINING) | (fold is None))
    table = table[counts].reset_index(drop=True)
    said, own = probabilities(table), own_probabilities(table)
    two = said.shape[1] == 2
    result = pd.DataFrame(
        {
            "case": table["case"],
            "group": table["group"],
            "target": table["target"],
            "called": table["called"] if two else decide(said),
            "stem": stem,
            "part": table["part"] if fold is None else f"{fold[1]} {fold[2]}",
        }
    )
    for place, values in enumerate(said.T):
        result[f"p{place}"] = values
    if two:
        result["threshold"] = threshold
        if own is not None:
            result["raw"] = own[:, 1]
    for extra in ("fallback", "tiles"):
        if extra in table:
            result[extra] = table[extra].to_numpy()
    # A card's calibration is of what is served; whether it is in the file, the network's own beside it tells.
    calibrated = (card.get("calibration") is not None and own is not None) if card else None
    return _OneFile(result, card, threshold if two else None, words, calibrated)


def _aggregated(table: pd.DataFrame, settings: Mapping[str, Any]) -> tuple[pd.DataFrame, float, str]:
    """Slides from their tiles, in the form of predictions, exactly as the run's tables judge them.

    Returns:
        The slides; the threshold on their score; where it is not that on tiles, what it is. Of several classes the
        scores are as aggregated: means of the top tiles do not add up to 1.
    """
    asked, names = settings.get("evaluation") or {}, probability_columns(table)
    how, at = asked.get("aggregation", "mean"), float(asked.get("threshold", 0.5))
    slides = class_scores(table, names, how, int(asked.get("top", 10)), at)
    cut = slide_threshold(how, at)
    share = (
        f"half of the tiles; the probability is the share of tiles at or above {at:.3g}" if how == "majority" else ""
    )
    return slides.assign(case=slides["slide_id"], called=decided(slides[names], cut)), cut, share


def slides_of(path: Path) -> pd.DataFrame:
    """The slides of a file on tiles, once a magnification: slide_id, magnification, part ("" where it has none); no
    rows where it is of no tiles, or damaged.

    What is damaged `read_models` says.
    """
    known = ["slide_id", "magnification", "part"]
    try:
        names = set(pq.read_schema(path).names)
        if not {"slide_id", "tile"} <= names:
            return pd.DataFrame(columns=known)
        found = pd.read_parquet(path, columns=[name for name in known if name in names]).drop_duplicates()
    except (OSError, ValueError, KeyError):
        return pd.DataFrame(columns=known)
    return found.assign(**dict.fromkeys(set(known) - names, "")).astype(str)[known]


def tile_models(standing: Standing) -> dict[str, TileModel]:
    """Every model that judged tiles, with the slides that it judged.

    Of a fold's file those rows are left out whose slides its model was trained on (they are there because the bag
    model's tiles are chosen from them): each slide is shown by the fold that left it out. The final model, which has no
    such sibling, shows its training slides too; `part_of` tells.
    """
    stem_of: dict[str, dict[str, str]] = {}
    at: dict[str, dict[str, tuple[str, ...]]] = {}
    parts: dict[str, dict[str, str]] = {}
    for stem, path in prediction_files(standing).items():
        if path.suffix != ".parquet" or stem.endswith(ATTENTION):
            continue
        rows, name = slides_of(path), POOLED.sub("", stem)
        if name != stem:
            rows = rows[rows["part"] != TRAINING]
        for slide, own in rows.groupby("slide_id", sort=False):
            stem_of.setdefault(name, {})[str(slide)] = stem
            at.setdefault(name, {})[str(slide)] = tuple(own["magnification"])
            parts.setdefault(name, {})[str(slide)] = str(own["part"].iloc[0])
    models = {}
    for name, stems in stem_of.items():
        card = sidecar_of(standing, next(iter(stems.values())))
        classes = tuple(map(str, card.get("classes") or ("negative", "positive")))
        models[name] = TileModel(name, classes, threshold_of(card), stems, at[name], parts[name])
    return models


def attention_files(standing: Standing) -> dict[str, dict[str, str]]:
    """{bag model: {slide: stem of the file with the attention of its tiles}}."""
    found: dict[str, dict[str, str]] = {}
    for stem, path in prediction_files(standing).items():
        if path.suffix == ".parquet" and stem.endswith(ATTENTION):
            name = POOLED.sub("", stem.removesuffix(ATTENTION))
            found.setdefault(name, {}).update(dict.fromkeys(slides_of(path)["slide_id"], stem))
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
