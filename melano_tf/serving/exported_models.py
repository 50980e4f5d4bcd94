"""The judges of images, biopsies, magnified tiles and bags of an exported model, in a folder or on a server."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from melano_tf.errors import InputError
from melano_tf.metadata_fields import NOT_SENT, MetadataField, NumberField
from melano_tf.pipelines.tile_batches import TileImages
from melano_tf.runs.sidecar import Sidecar
from melano_tf.serving.biopsy_models import JudgedBiopsy
from melano_tf.serving.client import Client, RefusedError, refusal_words
from melano_tf.serving.feature_bag_models import FeatureFault, JudgedBag
from melano_tf.serving.image_models import JudgedImage
from melano_tf.serving.magnified_models import OWN, JudgedTiles, judged_by, tile_signatures
from melano_tf.serving.model_interface import Card, Case, SeenTile, positive
from melano_tf.serving.model_kinds import ANSWERING
from melano_tf.serving.patient_metadata import Patient


class ExportedImages:
    """A classifier of images; see `image_models.ImageJudge`. Encoded files go to it as they are.

    Args:
        card: of the exported model.
        client: to it.
    """

    def __init__(self, card: Card, client: Client) -> None:
        self.card, self.client = card, client
        self.binary = ANSWERING[card.sidecar.kind].called_by == "threshold"

    def judge(self, cases: Sequence[Case]) -> list[JudgedImage | str]:
        """One a case."""
        contents = [_read(case.path) for case in cases]
        there = [(case, content) for case, content in zip(cases, contents, strict=True) if isinstance(content, bytes)]
        if not there:
            return [str(reason) for reason in contents]
        rows, untold = self._ask([content for _, content in there], [case for case, _ in there])
        found = iter(zip(rows, untold, strict=True))
        return [self._judged(*next(found)) if isinstance(content, bytes) else content for content in contents]

    def _judged(self, row: Mapping[str, Any] | str, untold: Mapping[str, Any] | str | None) -> JudgedImage | str:
        if isinstance(row, str):
            return row
        alone = self._probabilities(untold) if isinstance(untold, dict) else None
        return JudgedImage(
            self._probabilities(row), alone, str(row.get("remark", "")), told_distance(self.client, row, self.card)
        )

    def _probabilities(self, row: Mapping[str, Any]) -> np.ndarray:
        found = _probabilities(self.client, row, self.card.sidecar)
        return positive(float(found[1])) if self.binary else found / found.sum()

    def _ask(self, encoded: Sequence[bytes], cases: Sequence[Case]) -> tuple[list[Any], list[Any]]:
        """Answers, and those of the same network told nothing of the patient (None where there is none)."""
        nothing: list[Any] = [None] * len(encoded)
        if (code := self.card.metadata) is None:
            return self.client.ask_each("serving_default", {"image_bytes": encoded}), nothing
        columns = {one.name: [_sent(case.patient, one) for case in cases] for one in code.fields}
        given = self.client.ask_each("serving_default", {"image_bytes": encoded, **columns})
        # What was refused once need not be sent again.
        good = [i for i, row in enumerate(given) if isinstance(row, dict)]
        again = self.client.ask_each("image_only", {"image_bytes": [encoded[i] for i in good]}) if good else []
        for i, row in zip(good, again, strict=True):
            nothing[i] = row
        return given, nothing


def _sent(patient: Patient, one: MetadataField) -> Any:
    if isinstance(one, NumberField):
        return np.float32(patient.known.get(one.name, NOT_SENT))
    return patient.value(one)


class ExportedBiopsy:
    """A spitzoid model; see `biopsy_models.BiopsyJudge`. Tiles go to `embed` in chunks, embeddings of the chosen
    ones to `aggregate`.

    Args:
        card: of the exported target model.
        client: to it.

    Raises:
        InputError: its source model is none.
    """

    def __init__(self, card: Card, client: Client) -> None:
        self.client, self.card = client, card
        source = card.companions.get("source")
        if source is None or source.kind != "spitzoid-source":
            kind = None if source is None else source.kind
            raise InputError(f"{client.transport.where}: its source model is of kind {kind!r}")
        self.input_px = source.input_px
        self._embeddings: dict[int, np.ndarray] = {}
        self._distances: dict[int, float | None] = {}

    def tumour(self, tiles: pd.DataFrame, scratch: Path) -> np.ndarray:
        """Probability of tumour of each tile, (n,); their embeddings are kept for `biopsy`."""
        found = _ask_tiles(self.client, "embed", "tile_bytes", TileImages(tiles, scratch, self.input_px))
        first = _numbers(self.client, found[0], "embeddings")
        self._embeddings = {
            int(tile): _numbers(self.client, row, "embeddings", first.shape).astype(np.float32)
            for tile, row in zip(tiles["tile"], found, strict=True)
        }
        own = [told_distance(self.client, row, self.card) for row in found]
        self._distances = dict(zip(tiles["tile"].tolist(), own, strict=True))
        return np.array([_numbers(self.client, row, "tumour_probability", ()) for row in found], np.float32)

    def biopsy(self, selected: pd.DataFrame, scratch: Path) -> JudgedBiopsy:
        """Probability of the positive class; attention and distances (n,) of the selected tiles."""
        embeddings = np.stack([self._embeddings[int(tile)] for tile in selected["tile"]])[None]
        try:
            answer = self.client.ask(
                "aggregate", {"embeddings": embeddings, "mask": np.ones(embeddings.shape[:2], bool)}
            )
        except RefusedError as error:
            raise InputError(f"{self.client.transport.where}: {refusal_words(str(error))}") from None
        probability = _numbers(self.client, answer, "probabilities", (1, 2))
        attention = _numbers(self.client, answer, "attention", (1, len(selected)))
        own = [self._distances[int(tile)] for tile in selected["tile"]]
        distances = None if None in own else np.array(own, np.float64)
        return JudgedBiopsy(float(probability[0, 1]), attention[0].astype(np.float32), distances)


class ExportedTiles:
    """A multimag model and its companions as one; see `magnified_models.TilesJudge`.

    Args:
        card: of the exported model.
        client: to it.

    Raises:
        InputError: it was exported without its companions.
    """

    def __init__(self, card: Card, client: Client) -> None:
        self.client, self.card, self.sidecar = client, card, card.sidecar
        if missing := [role for role in self.sidecar.companions if role not in card.companions]:
            raise InputError(
                f"{client.transport.where}: exported without the models {', '.join(missing)}, which judge the slide's "
                "other magnifications; export the model again, or name the run's .keras file"
            )
        roles = judged_by(self.sidecar, {role: card.companions[role] for role in self.sidecar.companions})
        self._signatures = tile_signatures(roles)
        names = dict(self.sidecar.companions) | {OWN: card.file}
        self.files: Mapping[str, str] = {magnification: names[role] for magnification, role in roles.items()}

    def judge(self, magnification: str, tiles: pd.DataFrame, scratch: Path) -> JudgedTiles:
        """Probability of each class, (n, classes), and each tile's distance."""
        images = TileImages(tiles, scratch, self.sidecar.input_px)
        found = _ask_tiles(self.client, self._signatures[magnification], "image_bytes", images)
        values = np.array([_probabilities(self.client, row, self.sidecar) for row in found], np.float32)
        own = [told_distance(self.client, row, self.card) for row in found]
        return JudgedTiles(values, None if None in own else np.array(own, np.float64))

    def seen(self, shown: pd.DataFrame, scratch: Path) -> tuple[SeenTile, ...]:
        """Nothing: what networks saw needs their gradients, which no exported model gives."""
        return ()


class ExportedFeatures:
    """A bag model; see `feature_bag_models.FeatureJudge`.

    Args:
        card: of the exported model.
        client: to it.
    """

    def __init__(self, card: Card, client: Client) -> None:
        self.card, self.client = card, client

    def judge(self, features: np.ndarray) -> JudgedBag:
        """What it makes of one bag."""
        inputs = {"features": features[None], "mask": np.ones((1, len(features)), bool)}
        try:
            found = self.client.ask("serving_default", inputs)
        except RefusedError as error:
            raise FeatureFault(refusal_words(str(error))) from None
        attention = _numbers(self.client, found, "attention", (1, len(features)))[0]
        # The answer to the only bag, as to an image among others.
        row = {name: value[0] for name, value in found.items() if np.ndim(value) and len(value) == 1}
        p = _probabilities(self.client, row, self.card.sidecar)
        return JudgedBag(p / p.sum(), attention.astype(np.float32), told_distance(self.client, row, self.card))


def told_distance(client: Client, row: Mapping[str, Any], card: Card) -> float | None:
    """How far a model says that its input is from its training; None of one that was exported without that."""
    if card.familiar is None or "distance" not in row:
        return None
    return float(_numbers(client, row, "distance", ()))


def _probabilities(client: Client, row: Mapping[str, Any], sidecar: Sidecar) -> np.ndarray:
    """The probability of each class in an answer, float64 (C,).

    Raises:
        InputError: the answer is none of this model.
    """
    found = _numbers(client, row, "probabilities", (len(sidecar.classes),))
    if not (np.all((found >= 0) & (found <= 1)) and abs(found.sum() - 1) < 1e-2):
        raise InputError(f"{client.transport.where}: its answer holds no probabilities ({found.tolist()})")
    return found


def _numbers(client: Client, row: Mapping[str, Any], name: str, shape: tuple[int, ...] | None = None) -> np.ndarray:
    """A named output as finite numbers, float64, of this shape where one is given.

    Raises:
        InputError: it is missing, no numbers, or of another shape.
    """
    try:
        found = np.asarray(row[name], np.float64)
    except (KeyError, ValueError, TypeError, OverflowError):  # the last of whole numbers past every double
        raise InputError(f"{client.transport.where}: its answer has no {name}; is it this model's server?") from None
    if not np.isfinite(found).all() or (shape is not None and found.shape != shape):
        raise InputError(f"{client.transport.where}: the {name} of its answer are none ({found.shape})")
    return found


def _read(path: Path) -> bytes | str:
    """The file's bytes, or why it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        return f"cannot be read ({error.strerror or error})"


def _ask_tiles(client: Client, signature: str, name: str, images: TileImages) -> list[Mapping[str, Any]]:
    """The answers to all tiles, sent as the store's own JPEGs; few of them are in memory at once.

    Raises:
        InputError: a tile was refused.
    """
    step = 16 * client.settings.chunk
    found: list[Any] = []
    for start in range(0, images.count, step):
        jpegs = images.jpegs(np.arange(start, min(start + step, images.count)))
        found += client.ask_each(signature, {name: list(jpegs)})
    if wrong := [row for row in found if isinstance(row, str)]:
        raise InputError(f"{client.transport.where}: {len(wrong)} of {images.count} tiles refused: {wrong[0]}")
    return found
