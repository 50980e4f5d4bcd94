"""A trained spitzoid model at work on one slide, without label or annotation."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

import keras
import numpy as np
import pandas as pd

from melano_tf.models.biopsy_classifier import split_target
from melano_tf.pipelines.slide_bags import Bag, bag_chunks
from melano_tf.pipelines.tile_batches import predict_batches
from melano_tf.pipelines.tile_store_settings import StoreSettings
from melano_tf.pipelines.tumour_tile_selection import select_tumour_tiles
from melano_tf.serving.asked_slides import CHUNK, answer_slides, cut_slide
from melano_tf.serving.model_interface import Answer, Card, Case, median_distance, positive, unheard
from melano_tf.serving.network_loading import load_network, telling_network
from melano_tf.slides.tiling import TileGrid
from melano_tf.training.embedding import DISTANCE
from melano_tf.training.exact_bags import predict_bag
from melano_tf.training.inference import predict


@dataclass(frozen=True, eq=False)
class JudgedBiopsy:
    """What a target model makes of a bag of tiles.

    Attributes:
        probability: of the positive class.
        attention: of each tile, (n,).
        distances: of each tile from the training, (n,); None where the model cannot tell.
    """

    probability: float
    attention: np.ndarray
    distances: np.ndarray | None


class BiopsyJudge(Protocol):
    """A source and a target model, wherever they run."""

    def tumour(self, tiles: pd.DataFrame, scratch: Path) -> np.ndarray:
        """Probability of tumour of each tile of a table, (n,), by the source model."""
        ...

    def biopsy(self, selected: pd.DataFrame, scratch: Path) -> JudgedBiopsy:
        """The target model's answer to the bag of the selected tiles."""
        ...


class LocalBiopsy:
    """Both models in this process; see `BiopsyJudge`.

    Args:
        card: of the target model's file; the source model lies beside it.
    """

    def __init__(self, card: Card) -> None:
        self.card, self.source = card, card.companions["source"]

    @cached_property
    def _source_network(self) -> keras.Model:
        sidecar = self.card.sidecar
        return load_network(self.card.model.parent / sidecar.companions["source"], self.source)

    @cached_property
    def _target_network(self) -> keras.Model:
        return load_network(self.card.model, self.card.sidecar)

    def tumour(self, tiles: pd.DataFrame, scratch: Path) -> np.ndarray:
        batches = predict_batches(tiles, scratch, self.source.input_px, CHUNK)
        return np.asarray(predict(self._source_network, batches)[:, 1])

    def biopsy(self, selected: pd.DataFrame, scratch: Path) -> JudgedBiopsy:
        embedder, aggregator = split_target(self._target_network)
        bag = Bag(str(selected["slide_id"].iloc[0]), "unknown", 0, selected)
        answer = predict_bag(embedder, aggregator, bag_chunks(bag, scratch, self.card.sidecar.input_px, CHUNK))
        distances = None
        if self.card.familiar is not None:
            telling = telling_network(embedder, self.card.model, self.card.sidecar)
            far = keras.Model(telling.input, telling.output[DISTANCE])
            distances = predict(far, predict_batches(selected, scratch, self.card.sidecar.input_px, CHUNK))
        return JudgedBiopsy(float(answer.probability), np.asarray(answer.attention), distances)


class BiopsyModel:
    """Answers for slides: cut as the training's slides were cut, judged by their tumour tiles; see
    `model_interface.Answering`.

    Args:
        card: of the target model.
        judge: it and the source model, here or elsewhere.
    """

    def __init__(self, card: Card, judge: BiopsyJudge) -> None:
        self.card, self.judge = card, judge

    def answer(self, cases: Sequence[Case], scratch: Path, progress: Callable[[int], object] = unheard) -> list[Answer]:
        """One answer a slide."""
        return answer_slides(cases, scratch, progress, self._answer)

    def _answer(self, case: Case, folder: Path) -> Answer:
        made = self.card.sidecar.preprocessing
        cut = cut_slide(case, TileGrid(**made["grid"]), StoreSettings.recorded(made["store"]), folder)
        if isinstance(cut, Answer):
            return cut
        outcome, tiles = cut
        tiles = tiles.assign(probability=self.judge.tumour(tiles, folder))
        threshold = self.card.companions["source"].cut
        selected = select_tumour_tiles(tiles, threshold, made["fallback_tiles"])
        found = self.judge.biopsy(selected, folder)
        attention = pd.Series(found.attention, index=selected["tile"].to_numpy())
        columns = ["slide_id", "tile", "x", "y", "w0", "h0", "tissue", "probability"]
        tiles = tiles[columns].assign(
            selected=tiles["tile"].isin(selected["tile"]).to_numpy(), attention=tiles["tile"].map(attention).to_numpy()
        )
        judged, fallback = int(tiles["selected"].sum()), bool(selected["fallback"].iloc[0])
        evidence = {
            "grid_positions": outcome.grid_positions,
            "tissue_tiles": len(tiles),
            "tumour_tiles": 0 if fallback else judged,
            "judged_tiles": judged,
            "no_tile_called_tumour": fallback,
        }
        far = median_distance(found.distances)
        given = positive(found.probability)
        return Answer(case, given, evidence=evidence, tiles=tiles, notes=outcome.notes, distance=far)
