"""A model that answers: what it is asked, what it says of itself, and the one form of its answer.

A `.keras` file, an exported folder and a server are opened by `open_model`, and from there on asked alike.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd

from melano_tf.models.metadata_layer import MetadataCode
from melano_tf.runs.sidecar import Sidecar
from melano_tf.serving.patient_metadata import Patient


@dataclass(frozen=True)
class Card:
    """What a model says of itself, wherever it is.

    Attributes:
        model: its file, its exported folder, or its name on a server, as it was asked for.
        file: name of the `.keras` file that it came from.
        sidecar: of that file.
        companions: sidecars of the models that it needs, by their role.
        measured: see `serving.measured_metrics.measured_numbers`.
        familiar: what the distance from its training is of (`Familiarity.facts`); None of a model without a
            description of its training, which cannot tell.
    """

    model: Path
    file: str
    sidecar: Sidecar
    companions: Mapping[str, Sidecar]
    measured: Mapping[str, Any] | None
    familiar: Mapping[str, Any] | None = None

    @property
    def metadata(self) -> MetadataCode | None:
        """How it is told of the patient; None of one that is not."""
        written = self.sidecar.preprocessing.get("metadata")
        return MetadataCode.from_json(written) if written else None


@dataclass(frozen=True)
class Case:
    """One image or one slide that is to be judged.

    Attributes:
        path: the file.
        patient: what is known, for models of images that take metadata.
        mpp: of a slide, µm/px of level 0, where its own metadata is missing or wrong.
    """

    path: Path
    patient: Patient = field(default_factory=Patient)
    mpp: float | None = None


@dataclass(frozen=True)
class SeenTile:
    """A tile that speaks for an answer, and what the network saw in it.

    Attributes:
        row: of `Answer.tiles`, with `called` (index of its class) and `sure` (that class's probability).
        image: the tile as the network got it, uint8 (px, px, 3).
        maps: of the class that was called, float (px, px) by method.
        captions: what is to be said of each map.
    """

    row: Mapping[str, Any]
    image: np.ndarray
    maps: Mapping[str, np.ndarray]
    captions: Mapping[str, str]


@dataclass(frozen=True)
class Answer:
    """What a model says of one case.

    Attributes:
        case: what was asked.
        probabilities: of each class in the sidecar's order, before calibration, float64 (C,), summing to one, but for
            the mean of each one's top tiles (`slide_scores.class_scores`); None where the case cannot be judged.
        reason: why it cannot be judged, or "".
        untold: probabilities of the same network told nothing of the patient; None of one that takes no metadata.
        remark: what is odd about an image that was judged, or "".
        evidence: what the answer stands on, as JSON can hold it.
        tiles: of a slide, one row a tile: slide_id, tile, x, y, w0, h0 (level-0 px), tissue and, of a biopsy,
            probability (of tumour), selected, attention; of several magnifications, magnification, p0, p1, …, called
            (the class).
        notes: what a person should know of a slide, for example a doubtful mpp; "" where nothing.
        seen: tiles that speak for the answer, where the networks themselves are at hand.
        distance: from what the model was trained on; past 1 the case is unlike all of it. Of a slide the median of its
            tiles' distances. None where the model cannot tell.
    """

    case: Case
    probabilities: np.ndarray | None
    reason: str = ""
    untold: np.ndarray | None = None
    remark: str = ""
    evidence: Mapping[str, Any] = field(default_factory=dict)
    tiles: pd.DataFrame | None = None
    notes: str = ""
    seen: tuple[SeenTile, ...] = ()
    distance: float | None = None


def unheard(done: int) -> None:
    """The progress that nobody watches."""


class Answering(Protocol):
    """A model that answers, wherever it is.

    Attributes:
        card: what it says of itself.
    """

    @property
    def card(self) -> Card: ...

    def answer(self, cases: Sequence[Case], scratch: Path, progress: Callable[[int], object] = unheard) -> list[Answer]:
        """One answer a case, in their order.

        Args:
            cases: images, or slides, as the model's kind says.
            scratch: a folder in which slides are cut; nothing stays there.
            progress: called with the number of cases that were answered each time.

        Raises:
            InputError: the model cannot be loaded, or the server does not answer as it should. What is wrong with a
                case stands in its answer.
        """
        ...


def median_distance(distances: np.ndarray | None) -> float | None:
    """A slide's distance from those of its tiles (n,): past 1 where most of them are; None where none are told."""
    return None if distances is None or not len(distances) else float(np.median(distances))


def positive(p: float) -> np.ndarray:
    """Probabilities (2,) of which the second is `p`."""
    return np.array([1.0 - p, p])
