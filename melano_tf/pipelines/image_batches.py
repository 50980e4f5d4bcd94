"""Batches of images from the cache: each a pure function of (seed, global step), so that any step can be first."""

import copy
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from melano_tf.errors import InputError
from melano_tf.pipelines.augment import AugmentSettings, augment, sample_seeds
from melano_tf.pipelines.decoding_threads import decoders
from melano_tf.pipelines.image_cache import ImageCache
from melano_tf.pipelines.image_settings import ImageAugmentSettings
from melano_tf.pipelines.image_transforms import transformed, views, warped
from melano_tf.pipelines.sample_random_numbers import VIEWS, uniform
from melano_tf.pipelines.tile_batches import epoch_order, part_of, prepared, python_call
from melano_tf.training.describe import Shown
from melano_tf.training.hosts import Share

DRAWS = 3
Change = Callable[[Any, Any, Any], Any]


def seen(pixels: Any, aspects: Any, output_px: int) -> Any:
    """Stored images as a network sees them: whole and upright; resampled once, if need be.

    Whatever batch an image stands in, the result is the same.

    Args:
        pixels: uint8 (n, px, px, 3), from the cache.
        aspects: width / height of the pictures, (n,).
        output_px: side of the result.

    Returns:
        uint8 (n, output_px, output_px, 3).
    """
    if tuple(pixels.shape[1:3]) == (output_px, output_px):
        return tf.convert_to_tensor(pixels)
    return _compiled(output_px)(pixels, aspects)


@functools.cache
def _compiled(output_px: int) -> Any:
    """One TensorFlow function for each size, traced once for all data sets."""
    return tf.function(functools.partial(_seen, output_px=output_px), reduce_retracing=True, autograph=False)


def _seen(pixels: Any, aspects: Any, output_px: int) -> Any:
    count = tf.shape(pixels)[0]
    source, output = (tf.shape(pixels)[1], tf.shape(pixels)[2]), (output_px, output_px)
    upright = views(tf.zeros([count]), tf.ones([count]), tf.zeros([count], tf.bool), aspects, source, output)
    result = transformed(tf.cast(pixels, tf.float32), upright, output, "nearest")
    return tf.cast(tf.clip_by_value(tf.round(result), 0, 255), tf.uint8)


def drawn_views(seeds: Any, aspects: Any, augment: ImageAugmentSettings, stored_px: int, output_px: int) -> Any:
    """A crop, turn and flip of each picture, as transforms float32 (n, 8).

    Args:
        seeds: int64 (n, 2), from `augment.sample_seeds`.
        aspects: width / height of the pictures, (n,).
        augment: what may be drawn.
        stored_px, output_px: sides of the stored pictures and of the result.
    """
    draws = uniform(seeds, DRAWS, VIEWS)
    zoom = augment.smallest_crop + (1 - augment.smallest_crop) * draws[:, 0]
    degrees = augment.rotation * (2 * draws[:, 1] - 1)
    mirrored = draws[:, 2] < augment.flip
    return views(degrees, zoom, mirrored, aspects, (stored_px, stored_px), (output_px, output_px))


class CachedImages:
    """A cache's images as a network sees them, for use in a tf.data graph.

    Args:
        cache: the decoded images.
        input_px: side of the model's input in pixels.
        augment: how each is changed; None: whole and upright.
    """

    def __init__(self, cache: ImageCache, input_px: int, augment: ImageAugmentSettings | None) -> None:
        self.cache, self.input_px, self.augment = cache, input_px, augment

    def tensor(self, places: Any, aspects: Any, seeds: Any) -> Any:
        """uint8 (n, input_px, input_px, 3).

        Args:
            places: int64 (n,), of the cache.
            aspects: width / height of the pictures, (n,).
            seeds: int64 (n, 2), from `augment.sample_seeds`.
        """
        stored, px = self.cache.stored_px, self.input_px
        if self.augment is None:
            pixels = tf.ensure_shape(python_call(self.cache.pixels, [places], tf.uint8), [None, stored, stored, 3])
            return tf.ensure_shape(seen(pixels, aspects, px), [None, px, px, 3])
        transforms = drawn_views(seeds, aspects, self.augment, stored, px)
        return tf.ensure_shape(python_call(self._warped, [places, transforms], tf.uint8), [None, px, px, 3])

    def _warped(self, places: np.ndarray, transforms: np.ndarray) -> np.ndarray:
        assert self.augment is not None
        size = (self.input_px, self.input_px)
        return warped(map(self.cache.image, places), transforms, size, self.augment.fill)


class ImageBatches:
    """Endless batches of images for the training loop.

    A batch is a dict: "x": {"image": uint8 (B, px, px, 3) RGB, "metadata": float32 (B, M) where given}; "y" int32 (B,);
    "weight" float32 (B,); "id" string (B,), the image's name; "row" int64 (B,), its place among those trained on. An
    epoch's last batch may be smaller.

    Args:
        cache: the decoded images.
        image_ids: names of the images to train on, (n,).
        labels: int (n,).
        input_px: side of the model's input in pixels.
        batch: images a batch.
        seed: the training's seed, below 2**31.
        metadata: float32 (n, M), or None.
        augment: the augmentation, None for none.
        weights: sample weights (n,), None for ones.

    Attributes:
        steps_per_epoch: batches in an epoch.
        samples_per_epoch: images in an epoch.

    Raises:
        InputError: there is nothing to train on.
    """

    def __init__(
        self,
        cache: ImageCache,
        image_ids: Sequence[str],
        labels: np.ndarray,
        input_px: int,
        batch: int,
        seed: int,
        metadata: np.ndarray | None = None,
        augment: ImageAugmentSettings | None = None,
        weights: np.ndarray | None = None,
    ) -> None:
        if not len(image_ids):
            raise InputError("no images to train on")
        count = len(image_ids)
        self.cache, self.input_px, self.batch, self.seed, self.augment = cache, input_px, batch, seed, augment
        self._images = CachedImages(cache, input_px, augment)
        self._places = cache.rows(image_ids)
        self._ids = np.array(list(image_ids), dtype=object)
        self._labels = np.asarray(labels).astype(np.int32)
        self._metadata = np.zeros((count, 0), np.float32) if metadata is None else np.asarray(metadata, np.float32)
        self._weights = np.ones(count, np.float32) if weights is None else np.asarray(weights, np.float32)
        if not count == len(self._labels) == len(self._weights) == len(self._metadata):
            raise ValueError(f"{count} images, but labels, weights or metadata of another number")
        # No method of this object here: the circle would keep it in memory until the next collection.
        self.order = functools.lru_cache(maxsize=2)(functools.partial(epoch_order, self._labels, seed))
        self.samples_per_epoch = count
        self.steps_per_epoch = -(-count // batch)
        self.share: Share | None = None

    def shared(self, share: Share) -> "ImageBatches":
        """The same batches, of which "x" holds one host's part and "x_from" says where that begins."""
        part = copy.copy(self)
        part.share = share
        return part

    def _facts(self, step: np.ndarray) -> tuple[np.ndarray, ...]:
        """What a step holds: places, aspects, metadata and rows of what is read, its start; rows, labels, weights,
        ids."""
        epoch, part = divmod(int(step), self.steps_per_epoch)
        rows = self.order(epoch)[part * self.batch : (part + 1) * self.batch]
        own, start = part_of(rows, self.share)
        places = self._places[own]
        facts = (self._metadata[own], own, start, rows, self._labels[rows], self._weights[rows], self._ids[rows])
        return (places, self.cache.aspects[places], *facts)

    def from_step(self, step: int) -> Iterator[dict[str, Any]]:
        """Batches from a global step on, without end; nothing before it is read."""
        yield from prepared(self.data(step))

    def data(self, step: int, change: Change | None = None) -> tf.data.Dataset:
        """Batches from a global step on, without end, for `prepared`.

        Args:
            step: the first one.
            change: (images uint8 (B, px, px, 3), the epoch, rows int64 (B,)) -> images; in the data set's own graph.
        """
        types = [tf.int64, tf.float32, tf.float32, tf.int64, tf.int64, tf.int64, tf.int32, tf.float32, tf.string]
        shapes = [[None], [None], [None, self._metadata.shape[1]], [None], [], [None], [None], [None], [None]]

        def load(index: tf.Tensor) -> dict[str, Any]:
            facts = python_call(self._facts, [index], types)
            places, aspects, metadata, own, start, rows, labels, weights, ids = map(tf.ensure_shape, facts, shapes)
            seeds = sample_seeds(self.seed, index // self.steps_per_epoch, own)
            image = self._images.tensor(places, aspects, seeds)
            if change is not None:
                image = change(image, index // self.steps_per_epoch, own)
            x = {"image": image}
            if metadata.shape[1]:
                x["metadata"] = metadata
            batch = {"x": x, "y": labels, "weight": weights, "id": ids, "row": rows}
            return batch if self.share is None else {**batch, "x_from": start}

        return tf.data.Dataset.range(step, np.iinfo(np.int64).max).map(load, num_parallel_calls=decoders())


class ChangedBatches:
    """Batches of images whose pixels are changed once they were cropped and turned.

    Args:
        batches: of images.
        change: (images uint8 (B, px, px, 3), seeds int64 (B, 2) of `augment.sample_seeds`) -> images; in the data set's
            own graph.
    """

    def __init__(self, batches: ImageBatches, change: Callable[[Any, Any], Any]) -> None:
        self.batches, self.change = batches, change
        self.steps_per_epoch = batches.steps_per_epoch

    def shared(self, share: Share) -> "ChangedBatches":
        """As of `ImageBatches`."""
        return ChangedBatches(self.batches.shared(share), self.change)

    def from_step(self, step: int) -> Iterator[dict[str, Any]]:
        """Batches from a global step on, without end."""

        def change(images: Any, epoch: Any, rows: Any) -> Any:
            return self.change(images, sample_seeds(self.batches.seed, epoch, rows))

        yield from prepared(self.batches.data(step, change))


def coloured(settings: AugmentSettings) -> Callable[[Any, Any], Any]:
    """A change for `ChangedBatches`: brightness, hue and stain, as `pipelines.augment` does it."""
    return functools.partial(augment, settings=settings)


def predict_image_batches(
    cache: ImageCache, image_ids: Sequence[str], input_px: int, batch: int
) -> Iterator[dict[str, Any]]:
    """Images in the order given, once, whole and upright: dicts of "x" uint8 (B, px, px, 3), "row" int64 (B,), and "id"
    (B,), the names under which the cache holds what was read."""
    reader = _Reader(cache, cache.rows(image_ids))

    def load(rows: tf.Tensor) -> dict[str, Any]:
        pixels, aspects = python_call(reader.read, [rows], [tf.uint8, tf.float32])
        pixels = tf.ensure_shape(pixels, [None, cache.stored_px, cache.stored_px, 3])
        return {"x": seen(pixels, tf.ensure_shape(aspects, [None]), input_px), "row": rows}

    if not len(reader.places):
        return
    data = tf.data.Dataset.range(len(reader.places)).batch(batch).map(load, num_parallel_calls=decoders())
    for part in prepared(data, as_numpy=True):
        yield {**part, "id": reader.names(part["row"])}


def shown_images(cache: ImageCache, image_ids: Sequence[str], input_px: int, batch: int) -> Shown:
    """Images whole and upright, for `training.describe`."""
    names = np.array(list(image_ids), dtype=object)

    def batches(places: np.ndarray) -> Iterator[dict[str, Any]]:
        for part in predict_image_batches(cache, names[places].tolist(), input_px, batch):
            yield {"x": {"image": part["x"]}, "id": part["id"]}

    return Shown(names.tolist(), batches)


class _Reader:
    """Some of a cache's images, by their position among these."""

    def __init__(self, cache: ImageCache, places: np.ndarray) -> None:
        self.cache, self.places = cache, places

    def read(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Pixels and aspects of rows."""
        return self.cache.pixels(self.places[rows]), self.cache.aspects[self.places[rows]]

    def names(self, rows: np.ndarray) -> np.ndarray:
        """Names of rows, object (n,)."""
        return np.array([self.cache.image_ids[place] for place in self.places[rows]], dtype=object)
