"""A trained spitzoid model at work on one slide, without label or annotation."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd

from melano_tf.errors import InputError
from melano_tf.models.mil import split_target
from melano_tf.pipelines.records import slide_files
from melano_tf.pipelines.selection import select_tumour_tiles
from melano_tf.pipelines.slide_bags import Bag, bag_chunks
from melano_tf.pipelines.store import StoreSettings, write_slide
from melano_tf.pipelines.tiles import predict_batches
from melano_tf.runs.sidecar import Sidecar
from melano_tf.serving.kinds import read_companion
from melano_tf.serving.loading import load_network
from melano_tf.serving.record import blank_record
from melano_tf.slides.tiling import TileGrid
from melano_tf.training.exact_bags import predict_bag
from melano_tf.training.inference import predict

CHUNK = 64  # tiles in memory at once; it changes memory and speed, not the answer


@dataclass(frozen=True)
class SlideAnswer:
    """What the models say of one slide.

    Attributes:
        probability: of the positive class, for the biopsy.
        tiles: one row a tile: slide_id, tile, x, y, w0, h0 (level-0 px), tissue, probability (of tumour), selected
            (bool: in the biopsy's bag), attention (sums to one over the selected; NaN elsewhere).
        fallback: no tile was called tumour, so the most probable ones were taken.
        grid_positions: positions of the tile grid before the tissue filter.
        notes: what a person should know of the slide, for example a doubtful mpp; "" where nothing.
    """

    probability: float
    tiles: pd.DataFrame
    fallback: bool
    grid_positions: int
    notes: str = ""


class SlideJudge(Protocol):
    """A source and a target model, wherever they run.

    Attributes:
        source: the source model's sidecar.
    """

    source: Sidecar

    def tumour(self, tiles: pd.DataFrame, scratch: Path) -> np.ndarray:
        """Probability of tumour of each tile of a table, (n,), by the source model."""
        ...

    def biopsy(self, selected: pd.DataFrame, scratch: Path) -> tuple[float, np.ndarray]:
        """Probability of the positive class, and the attention of each selected tile, (n,), by the target model."""
        ...


class LocalJudge:
    """Both models in this process; see `SlideJudge`.

    Args:
        model: the target model's file; its sidecar names the source model beside it.
        sidecar: the target model's sidecar.

    Raises:
        InputError: the source model is missing.
    """

    def __init__(self, model: Path, sidecar: Sidecar) -> None:
        self.model, self.sidecar = model, sidecar
        self.source_path, self.source = read_companion(model, sidecar, "source")

    def tumour(self, tiles: pd.DataFrame, scratch: Path) -> np.ndarray:
        network = load_network(self.source_path, self.source)
        return np.asarray(predict(network, predict_batches(tiles, scratch, self.source.input_px, CHUNK))[:, 1])

    def biopsy(self, selected: pd.DataFrame, scratch: Path) -> tuple[float, np.ndarray]:
        embedder, aggregator = split_target(load_network(self.model, self.sidecar))
        bag = Bag(str(selected["slide_id"].iloc[0]), "unknown", 0, selected)
        answer = predict_bag(embedder, aggregator, bag_chunks(bag, scratch, self.sidecar.input_px, CHUNK))
        return float(answer.probability), np.asarray(answer.attention)


def predict_slide(
    judge: SlideJudge, sidecar: Sidecar, slide: Path, slide_id: str, mpp: float | None, scratch: Path
) -> SlideAnswer:
    """Cut the slide as the training's slides were cut, find its tumour tiles, and judge the biopsy by them.

    Args:
        judge: the models.
        sidecar: the target model's sidecar.
        slide: the slide file.
        slide_id: name for messages and files.
        mpp: µm per pixel where the slide's own metadata is missing or wrong.
        scratch: folder for the tiles.

    Raises:
        InputError: the slide cannot be read or holds no tissue.
    """
    grid = TileGrid(**sidecar.preprocessing["grid"])
    store = StoreSettings.recorded(sidecar.preprocessing["store"])
    row = {"slide_id": slide_id, "path": str(slide), "patient_id": "unknown", "label": "unknown", "mpp": mpp}
    outcome = write_slide(row, grid, store, scratch)
    if outcome.status != "done":
        # Slide errors name the slide themselves.
        reason = outcome.reason if slide_id in outcome.reason else f"{slide}: {outcome.reason}"
        raise InputError(reason)
    tiles = pd.read_parquet(slide_files(scratch, slide_id)[1])
    tiles = tiles.assign(probability=judge.tumour(tiles, scratch))
    selected = select_tumour_tiles(tiles, judge.source.cut, sidecar.preprocessing["fallback_tiles"])
    probability, weights = judge.biopsy(selected, scratch)
    attention = pd.Series(weights, index=selected["tile"].to_numpy())
    columns = ["slide_id", "tile", "x", "y", "w0", "h0", "tissue", "probability"]
    tiles = tiles[columns].assign(
        selected=tiles["tile"].isin(selected["tile"]).to_numpy(), attention=tiles["tile"].map(attention).to_numpy()
    )
    return SlideAnswer(probability, tiles, bool(selected["fallback"].iloc[0]), outcome.grid_positions, outcome.notes)


def answer_record(answer: SlideAnswer, sidecar: Sidecar, model: Path, slide: Path) -> dict[str, Any]:
    """The answer in the schema that every model kind's predictions follow (JSON)."""
    benign, malignant = sidecar.classes
    return {
        **blank_record(slide, model, sidecar),
        "probabilities": {benign: 1.0 - answer.probability, malignant: answer.probability},
        "decision": malignant if answer.probability >= sidecar.cut else benign,
        "evidence": {
            "grid_positions": answer.grid_positions,
            "tissue_tiles": len(answer.tiles),
            "tumour_tiles": 0 if answer.fallback else int(answer.tiles["selected"].sum()),
            "judged_tiles": int(answer.tiles["selected"].sum()),
            "no_tile_called_tumour": answer.fallback,
        },
    }
