"""A bag model at work on files of features: which it takes, what it answers, and how much each tile counted."""

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd
import tensorflow as tf

from melano_tf.errors import InputError
from melano_tf.features.feature_file import SUFFIXES, FeatureFile, open_features
from melano_tf.pipelines.feature_tile_positions import own_boxes
from melano_tf.serving.model_interface import Answer, Card, Case, unheard
from melano_tf.serving.network_loading import load_telling
from melano_tf.training.embedding import heard
from melano_tf.training.steps import traced

__all__ = ["SUFFIXES", "FeatureModel", "LocalFeatures"]

ALONE = (
    "judged alone, by a model whose bags were all slides of a patient: its threshold and what was measured of it are "
    "of whole patients"
)


@dataclass(frozen=True, eq=False)
class JudgedBag:
    """Probabilities (K,), before calibration, attention (n,), and the bag's distance from the training; None where the
    model cannot tell."""

    probabilities: np.ndarray
    attention: np.ndarray
    distance: float | None = None


class FeatureJudge(Protocol):
    """A bag model, wherever it runs."""

    def judge(self, features: np.ndarray) -> JudgedBag:
        """What it makes of one bag (n, C)."""
        ...


class FeatureModel:
    """Answers for files of features, one in memory at a time; see `model_interface.Answering`.

    Args:
        card: what it says of itself.
        judge: the network, here or elsewhere.
    """

    def __init__(self, card: Card, judge: FeatureJudge) -> None:
        self.card, self.judge = card, judge
        self.made = card.sidecar.preprocessing["features"]

    def answer(self, cases: Sequence[Case], scratch: Path, progress: Callable[[int], object] = unheard) -> list[Answer]:
        """One answer a file."""
        answers = []
        for case in cases:
            try:
                answers.append(self._answer(case))
            except FeatureFault as fault:
                answers.append(Answer(case, None, str(fault)))
            progress(1)
        return answers

    def _answer(self, case: Case) -> Answer:
        file = self._opened(case.path)
        found = self.judge.judge(file.features().astype(np.float32))
        return Answer(
            case,
            found.probabilities,
            remark=ALONE if self.made["bag"] == "patient" else "",
            evidence={"instances": file.instances, "encoder": file.encoder, "format": file.format},
            tiles=attended(file, found.attention),
            distance=found.distance,
        )

    def _opened(self, path: Path) -> FeatureFile:
        """The file, if this model can take it.

        Raises:
            FeatureFault: it cannot.
        """
        try:
            file = open_features(path)
            faults = file.check()
        except InputError as error:
            raise FeatureFault(str(error)) from None
        if file.width != self.made["width"]:
            faults.append(f"{path}: features of width {file.width}, where the model takes {self.made['width']}")
        known = self.made["encoder"]
        if file.encoder and known and file.encoder != known:
            faults.append(f"{path}: features of the encoder {file.encoder}, where the model was trained on {known}")
        if faults:
            raise FeatureFault("; ".join(faults))
        return file


class FeatureFault(Exception):
    """Why a file of features cannot be judged; the others are."""


def attended(file: FeatureFile, attention: np.ndarray) -> pd.DataFrame:
    """One row a tile: slide_id, tile (its place in the file), x, y, w0, h0 and attention.

    Places are those of the file, in its own unit (level-0 pixels, STAMP: µm); without coordinates they are left out.
    """
    tiles = pd.DataFrame({"slide_id": file.slide_id, "tile": np.arange(file.instances)})
    with contextlib.suppress(InputError):  # the answer needs no places
        tiles = pd.concat([tiles, own_boxes(file, moved=False)[0]], axis=1)
    return tiles.assign(attention=attention)


class LocalFeatures:
    """The network in this process; see `FeatureJudge`.

    Args:
        card: of the model's file.
    """

    def __init__(self, card: Card) -> None:
        self.card = card

    @cached_property
    def _network(self) -> tuple[Any, Any]:
        network = load_telling(self.card.model, self.card.sidecar)
        forward = traced(lambda inputs: network(inputs, training=False))
        return forward, network.input["features"].dtype

    def judge(self, features: np.ndarray) -> JudgedBag:
        """What it makes of one bag."""
        forward, dtype = self._network
        mask = tf.ones([1, len(features)], tf.bool)
        found, distances = heard(forward({"features": tf.cast(features[None], dtype), "mask": mask}))
        p = np.asarray(found["probability"][0], np.float64)
        probabilities = np.array([1 - p[0], p[0]]) if len(p) == 1 else p / p.sum()
        distance = None if distances is None else float(distances[0])
        return JudgedBag(probabilities, np.asarray(found["attention"][0], np.float32), distance)
