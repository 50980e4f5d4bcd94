"""What the metadata add (section III-B): the same network asked again with metadata blanked, exchanged, or set."""

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import pandas as pd

from melano_tf.metadata_fields import UNKNOWN, MetadataField, NumberField
from melano_tf.models.zoome_network import MetadataEmbedding
from melano_tf.papers.zoome.cohort import CODE
from melano_tf.pipelines.image_batches import predict_image_batches
from melano_tf.pipelines.image_cache import ImageCache
from melano_tf.training.fed_cases import Noted, unnoted
from melano_tf.training.steps import traced

GIVEN, BLANKED, PERMUTED = "given", "blanked", "permuted"

Answers = dict[str, np.ndarray]


@dataclass(frozen=True)
class Value:
    """Everybody's metadata with one field set to one value.

    Attributes:
        field, value: name of the field, and what it is set to.
        metadata: float32 (n, M).
        held: bool (n,): who has this value in truth.
    """

    field: str
    value: str
    metadata: np.ndarray
    held: np.ndarray

    @property
    def key(self) -> str:
        """Name among the answers."""
        return f"{self.field}={self.value}"


def study(records: pd.DataFrame, permutations: int, seed: int) -> tuple[dict[str, np.ndarray], list[Value]]:
    """The metadata that a network is asked with: as given, blanked, exchanged; and each value of each field."""
    given, count = CODE.values_of(records), len(records)
    metadata = {GIVEN: CODE.encode(given), BLANKED: CODE.blank(count)}
    for number in range(1, permutations + 1):
        order = exchanged(records["group"].tolist(), [seed, number])
        metadata[f"{PERMUTED}_{number}"] = metadata[GIVEN][order]
    values = [
        Value(one.name, words, CODE.encode({**given, one.name: np.full(count, value)}), held)
        for one in CODE.fields
        for words, value, held in _asked(one, given[one.name])
    ]
    return metadata, values


def _asked(one: MetadataField, truth: np.ndarray) -> Iterator[tuple[str, Any, np.ndarray]]:
    """(words, value, who has it in truth) of each value that everybody is given in turn."""
    if isinstance(one, NumberField):
        for number in one.asked:
            yield f"{number:g}", number, np.abs(truth - number) <= one.half
        yield UNKNOWN, one.missing, np.isnan(truth)
        return
    for word in one.words:
        yield word, word, truth == word


def exchanged(groups: Sequence[str], seed: Sequence[int] | int) -> np.ndarray:
    """For each image, an image of another patient, int64 (n,): whose metadata it gets.

    Patients stand in a random circle, and each takes from the next one; nobody keeps their own where there are two or
    more patients.
    """
    rng = np.random.default_rng(seed)
    names, index = np.unique(np.asarray(groups, dtype=str), return_inverse=True)
    if not len(names):
        return np.zeros(0, np.int64)
    circle = rng.permutation(len(names))
    next_one = np.empty(len(names), np.int64)
    next_one[circle] = np.roll(circle, -1)
    images = [np.flatnonzero(index == patient) for patient in range(len(names))]
    return np.array([rng.choice(images[next_one[patient]]) for patient in index], np.int64)


class Asked:
    """A network, traced once, that is asked about images with each of several metadata.

    Args:
        model: with or without metadata embedding.
        input_px, batch: as it is shown the images.
    """

    def __init__(self, model: keras.Model, input_px: int, batch: int) -> None:
        self.input_px, self.batch = input_px, batch
        backbone = keras.Model(model.inputs[0], model.get_layer("features").output)
        self._see = traced(functools.partial(backbone, training=False))
        self._decide = traced(functools.partial(rest, model))

    def __call__(
        self,
        cache: ImageCache,
        image_ids: Sequence[str],
        metadata: Mapping[str, np.ndarray],
        noted: Noted = unnoted,
    ) -> Answers:
        """Probabilities of images with each of several metadata; the images go through the backbone once.

        Args:
            cache, image_ids: the images.
            metadata: {name: float32 (n, M)}; empty for a network without, whose answer is called GIVEN.
            noted: what the batches go through, for example `training.fed_cases.Fed.chose`.

        Returns:
            {name: float64 (n,)}.
        """
        found: dict[str, list[np.ndarray]] = {name: [] for name in metadata or [GIVEN]}
        for part in noted(predict_image_batches(cache, image_ids, self.input_px, self.batch)):
            features = self._see(part["x"])
            for name, parts in found.items():
                numbers = metadata[name][part["row"]] if metadata else None
                parts.append(self._decide(features, numbers).numpy()[:, 0].astype(np.float64))
        return {name: np.concatenate(parts) if parts else np.zeros(0) for name, parts in found.items()}


def rest(model: keras.Model, features: Any, metadata: Any) -> Any:
    """What a network makes of its last map (n, h, w, N) and metadata (n, M): probabilities (n, 1).

    A second functional model from that map on would leave the network impossible to save; its layers are a chain.
    """
    names = [layer.name for layer in model.layers]
    x = features
    for layer in model.layers[names.index("features") + 1 :]:
        if isinstance(layer, MetadataEmbedding):
            x = layer([x, metadata])
        elif not isinstance(layer, keras.layers.InputLayer):
            x = layer(x, training=False)
    return x
