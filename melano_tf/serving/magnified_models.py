"""Trained multimag models at work on one slide, without label or annotation: each magnification, and all together."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import keras
import numpy as np
import pandas as pd

from melano_tf.errors import InputError
from melano_tf.evaluation.slide_scores import How, aggregation_words, class_scores, slide_threshold
from melano_tf.explain.cam import maps_of
from melano_tf.pipelines.tfrecords import slide_files
from melano_tf.pipelines.tile_batches import predict_batches
from melano_tf.pipelines.tile_store_settings import StoreSettings
from melano_tf.runs.sidecar import Sidecar
from melano_tf.serving.asked_slides import CHUNK, answer_slides, cut_slide
from melano_tf.serving.model_interface import Answer, Card, Case, SeenTile, median_distance, unheard
from melano_tf.serving.network_loading import load_network, telling_network
from melano_tf.slides.magnifications import TileGrids
from melano_tf.training.embedding import heard
from melano_tf.training.inference import predict

OWN = ""  # the role of the model that was asked for, among its companions


@dataclass(frozen=True, eq=False)
class JudgedTiles:
    """What a model makes of tiles: the probability of each class, (n, C), and each tile's distance from its training,
    (n,), None where it cannot tell."""

    probabilities: np.ndarray
    distances: np.ndarray | None


class TilesJudge(Protocol):
    """The models of all magnifications, wherever they run.

    Attributes:
        files: {magnification: name of the model file that judges it}, in the order of the grid.
    """

    files: Mapping[str, str]

    def judge(self, magnification: str, tiles: pd.DataFrame, scratch: Path) -> JudgedTiles:
        """What its model makes of a table of tiles of one magnification."""
        ...

    def seen(self, shown: pd.DataFrame, scratch: Path) -> tuple[SeenTile, ...]:
        """What the networks saw in a few tiles of a slide; nothing where they are not at hand.

        Args:
            shown: rows of the answer's tiles, as `shown_tiles` gives them.
            scratch: the folder to which the slide was cut.
        """
        ...


class LocalTiles:
    """The models in this process; see `TilesJudge`.

    Args:
        card: of a multimag model's file; the models of the other magnifications lie beside it.

    Raises:
        InputError: a model that belongs to this one has other classes.
    """

    def __init__(self, card: Card) -> None:
        self.sidecar = card.sidecar
        names = dict(card.sidecar.companions) | {OWN: card.model.name}
        roles = judged_by(card.sidecar, card.companions)
        self.files: Mapping[str, str] = {magnification: names[role] for magnification, role in roles.items()}
        others = {card.sidecar.companions[role]: one for role, one in card.companions.items()}
        self.sidecars: Mapping[str, Sidecar] = {**others, card.model.name: card.sidecar}
        self._folder = card.model.parent
        self._networks: dict[str, keras.Model] = {}

    def network(self, magnification: str) -> keras.Model:
        """The model that judges a magnification."""
        file = self.files[magnification]
        if file not in self._networks:
            self._networks[file] = load_network(self._folder / file, self.sidecars[file])
        return self._networks[file]

    def judge(self, magnification: str, tiles: pd.DataFrame, scratch: Path) -> JudgedTiles:
        batches = predict_batches(tiles, scratch, self.sidecar.input_px, CHUNK)
        path = self._folder / self.files[magnification]
        card = self.sidecars[self.files[magnification]]
        found, distances = heard(predict(telling_network(self.network(magnification), path, card), batches))
        return JudgedTiles(found, distances)

    def seen(self, shown: pd.DataFrame, scratch: Path) -> tuple[SeenTile, ...]:
        """The tiles as their networks saw them, and what those saw in them."""
        stored = pd.read_parquet(slide_files(scratch, shown["slide_id"].iloc[0])[1]).set_index("tile", drop=False)
        rows = stored.loc[shown["tile"]].reset_index(drop=True)
        batches = predict_batches(rows, scratch, self.sidecar.input_px, CHUNK)
        images = [image for batch in batches for image in batch["x"]]
        found = []
        for line, image in zip(shown.to_dict("records"), images, strict=True):
            row = {str(key): value for key, value in line.items()}
            found.append(SeenTile(row, image, *maps_of(self.network(row["magnification"]), image, row["called"])))
        return tuple(found)


def judged_by(sidecar: Sidecar, others: Mapping[str, Sidecar]) -> dict[str, str]:
    """{magnification: role of the model that judges it}, OWN for the model itself, in the order of the grid.

    Args:
        sidecar: of the model.
        others: sidecars of its companions by their role.

    Raises:
        InputError: a companion has other classes or another input.
    """
    found = dict.fromkeys(sidecar.preprocessing["magnifications"], OWN)
    for role, card in others.items():
        if tuple(card.classes) != tuple(sidecar.classes) or card.input_px != sidecar.input_px:
            file = sidecar.companions.get(role, role)
            raise InputError(f"{file}: its classes or input differ from those of the model asked; it is of another run")
        for name in card.preprocessing["magnifications"]:
            found.setdefault(name, role)
    return {name: found[name] for name in sidecar.preprocessing["grid"]["names"] if name in found}


def tile_signatures(judges: Mapping[str, str]) -> dict[str, str]:
    """{magnification: the signature of an exported model that judges its tiles}, of what `judged_by` gives.

    Raises:
        InputError: two magnifications' names differ in signs alone that a signature cannot have.
    """
    names = {
        name: "serving_default" if role == OWN else "tiles_" + re.sub(r"[^A-Za-z0-9]", "_", name)
        for name, role in judges.items()
    }
    others = [name for name in names.values() if name != "serving_default"]
    if len(set(others)) < len(others):
        raise InputError(f"magnifications {', '.join(judges)}: two would get the same signature; choose other names")
    return names


class MagnifiedModel:
    """Answers for slides, each magnification by its own model and all together; see `model_interface.Answering`.

    Args:
        card: of the model that was asked for.
        judge: it and its companions, here or elsewhere.
    """

    def __init__(self, card: Card, judge: TilesJudge) -> None:
        self.card, self.judge = of_slides(card), judge
        self.sidecar = card.sidecar  # whose threshold is that of tiles

    def answer(self, cases: Sequence[Case], scratch: Path, progress: Callable[[int], object] = unheard) -> list[Answer]:
        """One answer a slide."""
        return answer_slides(cases, scratch, progress, self._answer)

    def _answer(self, case: Case, folder: Path) -> Answer:
        sidecar, files = self.sidecar, self.judge.files
        content = dict(sidecar.preprocessing["grid"])
        names_and_mpp = {"names": tuple(content["names"]), "mpp": tuple(content["mpp"])}
        # A slide with little tissue wants an answer too: its fullest tile, with a note (`left_out`).
        grids = TileGrids(**{**content, **names_and_mpp, "fullest": True})
        cut = cut_slide(case, grids, StoreSettings.recorded(sidecar.preprocessing["store"]), folder)
        if isinstance(cut, Answer):
            return cut
        outcome, tiles = cut
        tiles = tiles[tiles["magnification"].isin(files)].reset_index(drop=True)
        if tiles.empty:
            words = f"{case.path}: no tile at {', '.join(files)}, which these models judge: {outcome.notes}"
            return Answer(case, None, words)
        columns = probability_columns(len(sidecar.classes))
        tiles[columns], distances = 0.0, []
        for name in dict.fromkeys(tiles["magnification"]):
            places = np.flatnonzero(tiles["magnification"] == name)
            found = self.judge.judge(name, tiles.iloc[places].reset_index(drop=True), folder)
            tiles.loc[places, columns] = found.probabilities
            distances.append(found.distances)
        # One magnification that cannot tell leaves the slide untold.
        told = [one for one in distances if one is not None]
        far = median_distance(np.concatenate(told)) if len(told) == len(distances) else None
        tiles = tiles[["slide_id", "magnification", "tile", "x", "y", "w0", "h0", "tissue", *columns]]
        tiles = tiles.assign(called=np.array(sidecar.classes, object)[called_classes(tiles, sidecar)])
        fused, evidence = _fused(tiles, sidecar, files)
        evidence = {"grid_positions": outcome.grid_positions, **evidence, "left_out": outcome.notes}
        how, top, _ = slide_rule(sidecar)
        evidence["combined_by"] = f"mean of the magnifications' probabilities, each {aggregation_words(how, top)}"
        answer = Answer(case, fused, evidence=evidence, tiles=tiles, notes=outcome.notes, distance=far)
        return replace(answer, seen=self.judge.seen(shown_tiles(tiles, sidecar), folder))


def slide_rule(sidecar: Sidecar) -> tuple[How, int, float]:
    """How a slide's score is made of its tiles', as the run's tables make it: (the way, the tiles behind "top", from
    which probability a tile of two classes is called). Sidecars of earlier runs say no way: then it is the mean."""
    made = sidecar.preprocessing
    at = 0.5 if sidecar.threshold is None else sidecar.threshold
    return made.get("aggregation", "mean"), int(made.get("top", 10)), at


def of_slides(card: Card) -> Card:
    """A card whose threshold is on a slide's score: a share of tiles has another one than a tile's probability."""
    sidecar, (how, _, at) = card.sidecar, slide_rule(card.sidecar)
    if how != "majority" or len(sidecar.classes) != 2:
        return card
    words = f"half of the tiles, each called from a probability of {at:.3g} on ({sidecar.threshold_from})"
    return replace(card, sidecar=replace(sidecar, threshold=slide_threshold(how, at), threshold_from=words))


def _fused(tiles: pd.DataFrame, sidecar: Sidecar, files: Mapping[str, str]) -> tuple[np.ndarray, dict[str, Any]]:
    """Mean over the magnifications of what each one's tiles say, (C,), and what it stands on."""
    columns, rule = probability_columns(len(sidecar.classes)), slide_rule(sidecar)

    def said(rows: pd.DataFrame) -> np.ndarray:
        return class_scores(rows, columns, *rule)[columns].to_numpy(np.float64)[0]

    named: dict[str, Any] = {}
    for name, rows in tiles.groupby("magnification", sort=False):
        named[str(name)] = {
            "tiles": len(rows),
            "tissue": float(rows["tissue"].mean()),
            "model": files[str(name)],
            "probabilities": dict(zip(sidecar.classes, said(rows).tolist(), strict=True)),
        }
    return said(tiles), {"tissue_tiles": len(tiles), "magnifications": named}


def probability_columns(classes: int) -> list[str]:
    """The columns of a tile's probabilities."""
    return [f"p{k}" for k in range(classes)]


def decided(probability: np.ndarray, threshold: float | None) -> int:
    """The class that is called: of two by the threshold on the second, of more (None) the most probable."""
    if threshold is None or len(probability) != 2:  # older runs wrote a threshold for three classes too
        return int(np.argmax(probability))
    return int(probability[1] >= threshold)


def called_classes(tiles: pd.DataFrame, sidecar: Sidecar) -> np.ndarray:
    """The index of the class that each tile is called, (n,)."""
    values = tiles[probability_columns(len(sidecar.classes))].to_numpy(float)
    return np.array([decided(one, sidecar.threshold) for one in values], np.intp)


def shown_tiles(tiles: pd.DataFrame, sidecar: Sidecar) -> pd.DataFrame:
    """The tiles that Figure 2 shows of a slide without label: of each magnification and class the surest tile called
    it; with `called` (class index) and `sure` (its probability)."""
    values = tiles[probability_columns(len(sidecar.classes))].to_numpy(float)
    called = called_classes(tiles, sidecar)
    sure = values[np.arange(len(values)), called]
    rows = tiles.assign(row=np.arange(len(values)), called=called, sure=sure)
    best = rows.sort_values(["sure", "tile"], ascending=[False, True], kind="stable")
    best = best.groupby(["magnification", "called"], sort=False).head(1)
    return best.sort_values(["row"]).sort_values("called", ascending=False, kind="stable").reset_index(drop=True)
