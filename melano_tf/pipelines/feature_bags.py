"""Batches of bags of features: ragged bags padded and masked, each batch a pure function of (seed, global step)."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import tensorflow as tf

from melano_tf.errors import InputError
from melano_tf.pipelines.slide_bags import BAG_STREAM, bag_draw
from melano_tf.pipelines.tile_batches import prepared, python_call
from melano_tf.training.describe import Shown
from melano_tf.training.fed_cases import Noted, unnoted
from melano_tf.training.steps import traced

Forward = Callable[[dict[str, Any]], dict[str, Any]]
DTYPES = ("float32", "bfloat16", "float16")


class Bags(Protocol):
    """Bags of features that can be read one at a time.

    Attributes:
        ids: name of each bag.
        labels: int64 (bags,).
        sizes: instances of each bag, int64 (bags,), all at least 1.
        width: numbers of a feature vector.
    """

    @property
    def ids(self) -> Sequence[str]: ...
    @property
    def labels(self) -> np.ndarray: ...
    @property
    def sizes(self) -> np.ndarray: ...
    @property
    def width(self) -> int: ...

    def read(self, bag: int, rows: np.ndarray | None = None) -> np.ndarray:
        """Features of a bag, or of some of its instances (ascending places), float (n, width)."""
        ...


@dataclass(frozen=True, eq=False)
class ArrayBags:
    """Bags in memory.

    Attributes:
        ids: name of each bag.
        labels: (bags,).
        arrays: of each bag its features, (n, width).
    """

    ids: Sequence[str]
    labels: np.ndarray
    arrays: Sequence[np.ndarray]

    @cached_property
    def sizes(self) -> np.ndarray:
        return np.array([len(array) for array in self.arrays], np.int64)

    @property
    def width(self) -> int:
        return int(self.arrays[0].shape[1])

    def read(self, bag: int, rows: np.ndarray | None = None) -> np.ndarray:
        return self.arrays[bag] if rows is None else self.arrays[bag][rows]


class FeatureBagBatches:
    """Endless batches of bags for the training loop.

    A batch is a dict: "x" {"features" (B, N, C), "mask" (B, N) bool}, N the largest bag of the batch, padding zeros;
    "y" int32 (B,); "weight" float32 (B,); "id" string (B,). The order of the bags and the instances drawn from each are
    new in every epoch and follow from (seed, epoch, bag). An epoch's last batch may be smaller. Steps take it with
    `GradientStep(..., open_axes=2)`. Only the bags of one batch, and of the next one, are in memory.

    Args:
        bags: the bags.
        places: which of them to train on, int (n,); None for all.
        batch: bags a batch (Ilse et al., CLAM, TransMIL: 1).
        max_instances: instances drawn from a bag at most, None for all.
        seed: the training's seed, below 2**31.
        dtype: of the features: "float32", or "bfloat16" or "float16" for half the memory.
        weights: weight of each bag in `places`, None for ones.

    Raises:
        InputError: no bags, or a setting outside its range.
    """

    def __init__(
        self,
        bags: Bags,
        places: np.ndarray | None = None,
        batch: int = 1,
        max_instances: int | None = None,
        seed: int = 0,
        dtype: str = "float32",
        weights: np.ndarray | None = None,
    ) -> None:
        self.bags, self.batch, self.max_instances, self.seed = bags, batch, max_instances, seed
        self.places = np.arange(len(bags.ids)) if places is None else np.asarray(places, np.int64)
        if not len(self.places):
            raise InputError("no bags to train on")
        if batch < 1 or (max_instances is not None and max_instances < 1) or dtype not in DTYPES:
            raise InputError(
                f"bags: batch = {batch} and max_instances = {max_instances} must be at least 1, "
                f"and dtype = {dtype!r} one of {', '.join(DTYPES)}"
            )
        self.dtype = tf.as_dtype(dtype)
        self.weights = np.ones(len(self.places), np.float32) if weights is None else np.asarray(weights, np.float32)
        self._labels = np.asarray(bags.labels).astype(np.int32)
        self._ids = np.array(list(bags.ids), dtype=object)
        self.steps_per_epoch = -(-len(self.places) // batch)

    def order(self, epoch: int) -> np.ndarray:
        """The places of an epoch in their order, int64 (n,)."""
        return np.random.default_rng([self.seed, epoch, BAG_STREAM]).permutation(len(self.places))

    def _drawn(self, place: int, epoch: int) -> np.ndarray:
        """Features of one bag in an epoch."""
        bag = int(self.places[place])
        size = int(self.bags.sizes[bag])
        if self.max_instances is None or size <= self.max_instances:
            return self.bags.read(bag)
        return self.bags.read(bag, bag_draw(size, self.max_instances, self.seed, epoch, place))

    def _facts(self, step: np.ndarray) -> tuple[np.ndarray, ...]:
        epoch, part = divmod(int(step), self.steps_per_epoch)
        places = self.order(epoch)[part * self.batch : (part + 1) * self.batch]
        features, mask = padded([self._drawn(int(place), epoch) for place in places], self.dtype)
        rows = self.places[places]
        return features, mask, self._labels[rows], self.weights[places], self._ids[rows]

    def from_step(self, step: int) -> Iterator[dict[str, Any]]:
        """Batches from a global step on, without end; nothing before it is read."""
        types = [self.dtype, tf.bool, tf.int32, tf.float32, tf.string]
        shapes = [[None, None, self.bags.width], [None, None], [None], [None], [None]]

        def load(index: tf.Tensor) -> dict[str, Any]:
            facts = map(tf.ensure_shape, python_call(self._facts, [index], types), shapes)
            features, mask, labels, weights, ids = facts
            return {"x": {"features": features, "mask": mask}, "y": labels, "weight": weights, "id": ids}

        data = tf.data.Dataset.range(step, np.iinfo(np.int64).max)
        yield from prepared(data.map(load, num_parallel_calls=1))


def padded(arrays: Sequence[np.ndarray], dtype: tf.DType = tf.float32) -> tuple[np.ndarray, np.ndarray]:
    """Bags (n, C) as one array (B, N, C) with zeros behind the shorter ones, and its mask, bool (B, N)."""
    longest = max(len(array) for array in arrays)
    features = np.zeros((len(arrays), longest, arrays[0].shape[1]), dtype.as_numpy_dtype)
    mask = np.zeros((len(arrays), longest), bool)
    for place, array in enumerate(arrays):
        features[place, : len(array)] = array
        mask[place, : len(array)] = True
    return features, mask


def whole_bags(bags: Bags, places: np.ndarray | None = None, dtype: str = "float32") -> Iterator[dict[str, Any]]:
    """Every bag once, whole and alone, in the order given: dicts of "x" (as in training, B = 1) and "id" (1,)."""
    for place in np.arange(len(bags.ids)) if places is None else places:
        features, mask = padded([bags.read(int(place))], tf.as_dtype(dtype))
        yield {"x": {"features": features, "mask": mask}, "id": np.array([bags.ids[int(place)]], dtype=object)}


def shown_bags(bags: Bags, places: np.ndarray, dtype: str = "float32") -> Shown:
    """Whole bags, for `training.describe`."""
    return Shown([bags.ids[int(place)] for place in places], lambda rows: whole_bags(bags, places[rows], dtype))


@dataclass(frozen=True, eq=False)
class BagAnswers:
    """What a model says of some bags.

    Attributes:
        ids: name of each bag.
        logits: float32 (bags, 1) or (bags, K).
        probabilities: float32 (bags, K): two columns for two classes.
        attention: of each bag float32 (n,), in the order of its instances; sums to one.
    """

    ids: Sequence[str]
    logits: np.ndarray
    probabilities: np.ndarray
    attention: Sequence[np.ndarray]


def forward_of(model: Any) -> Forward:
    """A bag model as a graph, for several calls of `answers` while its weights change."""
    return traced(lambda x: model(x, training=False))


def answers(
    model: Any,
    bags: Bags,
    places: np.ndarray | None = None,
    dtype: str = "float32",
    forward: Forward | None = None,
    noted: Noted = unnoted,
) -> BagAnswers:
    """Judge whole bags, one at a time; memory is that of the largest bag.

    Args:
        model: the bag model.
        bags: the bags.
        places: which of them, in this order; None for all.
        dtype: of the features, the model's compute dtype.
        forward: from `forward_of`, where the same model is asked more than once.
        noted: what the batches go through, for example `training.fed_cases.Fed.chose`.
    """
    forward = forward or forward_of(model)
    ids, logits, probabilities, attention = [], [], [], []
    for batch in noted(whole_bags(bags, places, dtype)):
        outputs = forward({name: tf.convert_to_tensor(value) for name, value in batch["x"].items()})
        ids.append(str(batch["id"][0]))
        logits.append(outputs["logits"][0].numpy())
        probability = outputs["probability"][0].numpy()
        probabilities.append(np.array([1 - probability[0], probability[0]]) if len(probability) == 1 else probability)
        attention.append(outputs["attention"][0].numpy())
    return BagAnswers(ids, np.array(logits), np.array(probabilities), attention)
