"""Trained multimag models at work on one slide, without label or annotation: each magnification, and all together."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import keras
import numpy as np
import pandas as pd

from melano_tf.errors import InputError
from melano_tf.evaluation.aggregation import fuse, slide_score
from melano_tf.models.layers import Preprocess
from melano_tf.pipelines.records import slide_files
from melano_tf.pipelines.store import StoreSettings, write_slide
from melano_tf.pipelines.tiles import predict_batches
from melano_tf.runs.sidecar import Sidecar
from melano_tf.serving.kinds import read_companion
from melano_tf.serving.loading import load_network
from melano_tf.serving.record import blank_record
from melano_tf.slides.magnifications import TileGrids
from melano_tf.training.inference import predict

CHUNK = 64  # tiles in memory at once; it changes memory and speed, not the answer
OWN = ""  # the role of the model that was asked for, among its companions


@dataclass(frozen=True)
class MagnifiedAnswer:
    """What the models say of one slide.

    Attributes:
        classes: names in the order of the outputs.
        probabilities: {magnification: mean probability of each class over its tiles, (classes,)}.
        fused: mean of those over the magnifications, (classes,).
        tiles: one row a tile: slide_id, magnification, tile, x, y, w0, h0 (level-0 px), tissue, p0, p1, …
        files: {magnification: name of the model file that judged it}.
        left_out: why magnifications have no answer, or one from a single tile with less tissue than the training's;
            "" where all have one.
        grid_positions: positions of all grids before the tissue filter.
    """

    classes: tuple[str, ...]
    probabilities: Mapping[str, np.ndarray]
    fused: np.ndarray
    tiles: pd.DataFrame
    files: Mapping[str, str]
    left_out: str
    grid_positions: int

    @property
    def columns(self) -> list[str]:
        """The tiles' probability columns."""
        return [f"p{k}" for k in range(len(self.classes))]


class TilesJudge(Protocol):
    """The models of all magnifications, wherever they run.

    Attributes:
        files: {magnification: name of the model file that judges it}, in the order of the grid.
    """

    files: Mapping[str, str]

    def probabilities(self, magnification: str, tiles: pd.DataFrame, scratch: Path) -> np.ndarray:
        """Probability of each class, (n, classes), of a table of tiles of one magnification."""
        ...


class LocalTilesJudge:
    """The models in this process; see `TilesJudge`.

    Args:
        model: a multimag model's file; its sidecar names the models of the other magnifications beside it.
        sidecar: its sidecar.

    Raises:
        InputError: a model that belongs to this one is missing or has other classes.
    """

    def __init__(self, model: Path, sidecar: Sidecar) -> None:
        found = {role: read_companion(model, sidecar, role) for role in sidecar.companions}
        others = {role: card for role, (_, card) in found.items()}
        paths = {role: path for role, (path, _) in found.items()} | {OWN: model}
        self.sidecar = sidecar
        self._paths = {name: paths[role] for name, role in judged_by(sidecar, others).items()}
        self._networks: dict[Path, keras.Model] = {}
        self.files: Mapping[str, str] = {name: path.name for name, path in self._paths.items()}

    def network(self, magnification: str) -> keras.Model:
        """The model that judges a magnification."""
        path = self._paths[magnification]
        if path not in self._networks:
            # Naming the layer imports what registers it; the rest of the models' code is not needed here.
            self._networks[path] = load_network(path, self.sidecar, custom_objects={"Preprocess": Preprocess})
        return self._networks[path]

    def probabilities(self, magnification: str, tiles: pd.DataFrame, scratch: Path) -> np.ndarray:
        batches = predict_batches(tiles, scratch, self.sidecar.input_px, CHUNK)
        return np.asarray(predict(self.network(magnification), batches))

    def pictures(self, shown: pd.DataFrame, scratch: Path) -> list[np.ndarray]:
        """A few tiles of a slide as their networks saw them, uint8 (px, px, 3) each, from the folder they were cut to.

        Args:
            shown: slide_id and tile of tiles of one slide, as `shown_tiles` gives them.
            scratch: the folder given to `judge_magnifications`, as it left it.
        """
        stored = pd.read_parquet(slide_files(scratch, shown["slide_id"].iloc[0])[1]).set_index("tile", drop=False)
        rows = stored.loc[shown["tile"]].reset_index(drop=True)
        return [image for batch in predict_batches(rows, scratch, self.sidecar.input_px, CHUNK) for image in batch["x"]]


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


def judge_magnifications(
    judge: TilesJudge, sidecar: Sidecar, slide: Path, slide_id: str, mpp: float | None, scratch: Path
) -> MagnifiedAnswer:
    """Cut the slide as the training's slides were cut, and judge each magnification by its own model.

    Args:
        judge: the models.
        sidecar: of the model that was asked for.
        slide: the slide file.
        slide_id: name for messages and files.
        mpp: µm per pixel where the slide's own metadata is missing or wrong.
        scratch: folder for the tiles.

    Raises:
        InputError: the slide cannot be read, is too coarse for every magnification, or holds no tissue.
    """
    content = dict(sidecar.preprocessing["grid"])
    names_and_mpp = {"names": tuple(content["names"]), "mpp": tuple(content["mpp"])}
    # A slide with little tissue wants an answer too: its fullest tile, with a note (`left_out`).
    grids = TileGrids(**{**content, **names_and_mpp, "fullest": True})
    store = StoreSettings.recorded(sidecar.preprocessing["store"])
    row = {"slide_id": slide_id, "path": str(slide), "patient_id": "unknown", "label": "unknown", "mpp": mpp}
    outcome = write_slide(row, grids, store, scratch)
    if outcome.status != "done":
        raise InputError(outcome.reason if slide_id in outcome.reason else f"{slide}: {outcome.reason}")
    tiles = pd.read_parquet(slide_files(scratch, slide_id)[1])
    tiles = tiles[tiles["magnification"].isin(judge.files)].reset_index(drop=True)
    if tiles.empty:
        raise InputError(f"{slide}: no tile at {', '.join(judge.files)}, which these models judge: {outcome.notes}")
    names = list(dict.fromkeys(tiles["magnification"]))
    columns = [f"p{k}" for k in range(len(sidecar.classes))]
    tiles[columns] = 0.0
    for name in names:
        places = np.flatnonzero(tiles["magnification"] == name)
        rows = tiles.iloc[places].reset_index(drop=True)
        tiles.loc[places, columns] = judge.probabilities(name, rows, scratch)
    by_name = {
        str(name): np.array([slide_score(rows[column], "mean") for column in columns])
        for name, rows in tiles.groupby("magnification", sort=False)
    }
    fused = np.array([fuse([[by_name[name][k] for name in names]], "mean")[0] for k in range(len(columns))])
    kept = ["slide_id", "magnification", "tile", "x", "y", "w0", "h0", "tissue", *columns]
    files = {name: judge.files[name] for name in names}
    return MagnifiedAnswer(sidecar.classes, by_name, fused, tiles[kept], files, outcome.notes, outcome.grid_positions)


def magnified_record(answer: MagnifiedAnswer, sidecar: Sidecar, model: Path, slide: Path) -> dict[str, Any]:
    """The answer in the schema that every model kind's predictions follow (JSON)."""
    named = {name: dict(zip(answer.classes, map(float, p), strict=True)) for name, p in answer.probabilities.items()}
    return {
        **blank_record(slide, model, sidecar),
        "probabilities": dict(zip(answer.classes, map(float, answer.fused), strict=True)),
        "decision": answer.classes[decided(answer.fused, sidecar.threshold)],
        "evidence": {
            "grid_positions": answer.grid_positions,
            "tissue_tiles": len(answer.tiles),
            "magnifications": {
                name: {
                    "tiles": int((answer.tiles["magnification"] == name).sum()),
                    "tissue": float(answer.tiles.loc[answer.tiles["magnification"] == name, "tissue"].mean()),
                    "model": answer.files[name],
                    "probabilities": named[name],
                }
                for name in named
            },
            "left_out": answer.left_out,
            "combined_by": "mean of the magnifications' probabilities, each the mean over its tiles",
        },
    }


def decided(probability: np.ndarray, threshold: float | None) -> int:
    """The class that is called: of two by the threshold on the second, of more (None) the most probable."""
    if threshold is None or len(probability) != 2:  # older runs wrote a threshold for three classes too
        return int(np.argmax(probability))
    return int(probability[1] >= threshold)


def shown_tiles(answer: MagnifiedAnswer, threshold: float | None) -> pd.DataFrame:
    """The tiles that Figure 2 shows of a slide without label: of each magnification and class the surest tile called
    it; with `called` (class index) and `sure` (its probability)."""
    values = answer.tiles[answer.columns].to_numpy(float)
    called = np.array([decided(one, threshold) for one in values])
    sure = values[np.arange(len(values)), called]
    rows = answer.tiles.assign(row=np.arange(len(values)), called=called, sure=sure)
    best = rows.sort_values(["sure", "tile"], ascending=[False, True], kind="stable")
    best = best.groupby(["magnification", "called"], sort=False).head(1)
    return best.sort_values(["row"]).sort_values("called", ascending=False, kind="stable").reset_index(drop=True)
