"""A trained classifier of images at work: two classes or several, with or without metadata."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import tensorflow as tf

from melano_tf.dermoscopy.image_files import UnreadableImageError
from melano_tf.pipelines.image_batches import seen
from melano_tf.pipelines.image_cache import StoredImage, decode_image
from melano_tf.pipelines.image_settings import ImageCacheSettings
from melano_tf.serving.image_remarks import remark_on
from melano_tf.serving.model_interface import Answer, Card, Case, positive, unheard
from melano_tf.serving.model_kinds import ANSWERING
from melano_tf.serving.network_loading import load_telling
from melano_tf.training.embedding import heard
from melano_tf.training.steps import traced

CHUNK = 32  # images in memory at once; it changes memory and speed, not the answer


@dataclass(frozen=True)
class JudgedImage:
    """What a network makes of an image; see `model_interface.Answer`."""

    probabilities: np.ndarray
    untold: np.ndarray | None
    remark: str
    distance: float | None = None


class ImageJudge(Protocol):
    """A classifier of images, wherever it runs."""

    def judge(self, cases: Sequence[Case]) -> list[JudgedImage | str]:
        """One a case: what it makes of the image, or why that cannot be used."""
        ...


class ImageModel:
    """Answers for images, few of them in memory at once; see `model_interface.Answering`.

    Args:
        card: what it says of itself.
        judge: the network, here or elsewhere.
    """

    def __init__(self, card: Card, judge: ImageJudge) -> None:
        self.card, self.judge = card, judge

    def answer(self, cases: Sequence[Case], scratch: Path, progress: Callable[[int], object] = unheard) -> list[Answer]:
        """One answer an image."""
        answers: list[Answer] = []
        for start in range(0, len(cases), CHUNK):
            part = cases[start : start + CHUNK]
            for case, found in zip(part, self.judge.judge(part), strict=True):
                if isinstance(found, str):
                    answers.append(cannot_be_judged(case, self.card, found))
                else:
                    answers.append(_answer(case, self.card, found))
            progress(len(part))
        return answers


def _answer(case: Case, card: Card, found: JudgedImage) -> Answer:
    told = _evidence(case, card)
    return Answer(
        case, found.probabilities, "", found.untold, remark=found.remark, evidence=told, distance=found.distance
    )


def cannot_be_judged(case: Case, card: Card, reason: str) -> Answer:
    """The answer for an image that cannot be used."""
    return Answer(case, None, reason, evidence=_evidence(case, card))


def _evidence(case: Case, card: Card) -> dict[str, Any]:
    return {"metadata": None if card.metadata is None else case.patient.as_json(card.metadata.fields)}


class LocalImages:
    """The network in this process; it sees images as the training saw its judged ones: upright, squeezed to a square or
    cut to the one at the centre, colour normalised where the training did so. See `ImageJudge`.

    Args:
        card: of the model's file.
    """

    def __init__(self, card: Card) -> None:
        self.card = card
        self.store = ImageCacheSettings(**card.sidecar.preprocessing["store"])
        self.code = card.metadata
        self.binary = ANSWERING[card.sidecar.kind].called_by == "threshold"

    @cached_property
    def _forward(self) -> Any:
        network = load_telling(self.card.model, self.card.sidecar)
        return traced(lambda inputs: network(inputs, training=False))

    def judge(self, cases: Sequence[Case]) -> list[JudgedImage | str]:
        """One a case; raises InputError for a word of the metadata that is none of the model's."""
        forward = self._forward
        stored = [_decoded(case.path, self.store) for case in cases]
        there = [(case, image) for case, image in zip(cases, stored, strict=True) if isinstance(image, StoredImage)]
        if not there:
            return [str(reason) for reason in stored]
        images = [image for _, image in there]
        aspects = np.array([image.aspect for image in images], np.float32)
        pixels = seen(np.stack([image.pixels for image in images]), aspects, self.card.sidecar.input_px)
        inputs = {"image": tf.cast(pixels, tf.float32)}
        untold: Sequence[np.ndarray | None] = [None] * len(there)
        if self.code is not None:
            values = {one.name: [case.patient.value(one) for case, _ in there] for one in self.code.fields}
            untold, _ = self._heard(forward({**inputs, "metadata": self.code.blank(len(there))}))
            inputs["metadata"] = self.code.encode(values)
        given, distances = self._heard(forward(inputs))
        remarks = [remark_on(image.pixels) for image in images]
        found = iter(map(JudgedImage, given, untold, remarks, distances))
        return [next(found) if isinstance(image, StoredImage) else image for image in stored]

    def _heard(self, outputs: Any) -> tuple[list[np.ndarray], list[float | None]]:
        """Of each row (C,), float64, summing to one in double precision too, and its distance."""
        answer, distances = heard(outputs)
        values = np.asarray(answer, np.float64)
        rows = [positive(float(row[-1])) if self.binary else row / row.sum() for row in values]
        return rows, [None] * len(rows) if distances is None else np.asarray(distances, np.float64).tolist()


def _decoded(path: Path, settings: ImageCacheSettings) -> StoredImage | str:
    try:
        return decode_image(path, settings)
    except UnreadableImageError as error:
        return str(error)
