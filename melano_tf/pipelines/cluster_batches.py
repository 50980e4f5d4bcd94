"""Batches of P clusters with K images each, read from the image cache: a pure function of seed and global step."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from melano_tf.pipelines.augment import sample_seeds
from melano_tf.pipelines.decoding_threads import decoders
from melano_tf.pipelines.image_batches import CachedImages
from melano_tf.pipelines.image_cache import ImageCache
from melano_tf.pipelines.image_settings import ImageAugmentSettings
from melano_tf.pipelines.tile_batches import prepared, python_call
from melano_tf.training.clustering import PKSampler


class ClusterImageBatches:
    """Batches of images for metric learning on pseudo-labels.

    A batch is a dict: "x": {"image": uint8 (B, px, px, 3) RGB}; "y" int32 (B,), the clusters; "id" string (B,), the
    image's name; "row" int64 (B,). An image that stands in a batch twice is augmented anew each time.

    Args:
        cache: the decoded images.
        image_ids: names of the images that the sampler counts, (n,).
        input_px: side of the model's input in pixels.
        sampler: which images at which step.
        seed: of the augmentation, below 2**31.
        augment: None for none.

    Attributes:
        steps_per_epoch: batches in an epoch.
    """

    def __init__(
        self,
        cache: ImageCache,
        image_ids: Sequence[str],
        input_px: int,
        sampler: PKSampler,
        seed: int,
        augment: ImageAugmentSettings | None = None,
    ) -> None:
        if len(image_ids) != sampler.count:
            raise ValueError(f"{len(image_ids)} images, but the sampler counts {sampler.count}")
        self.cache, self.input_px, self.sampler, self.seed, self.augment = cache, input_px, sampler, seed, augment
        self._images = CachedImages(cache, input_px, augment)
        self._places = cache.rows(image_ids)
        self._ids = np.array(list(image_ids), dtype=object)
        self.steps_per_epoch = sampler.steps_per_epoch

    def _facts(self, step: np.ndarray) -> tuple[np.ndarray, ...]:
        """What a step holds: places, aspects, rows, clusters, ids."""
        rows, labels = self.sampler.draw(int(step))
        places = self._places[rows]
        return places, self.cache.aspects[places], rows, labels, self._ids[rows]

    def from_step(self, step: int) -> Iterator[dict[str, Any]]:
        """Batches from a global step to the end of its epoch: the next epoch's clusters are not made yet."""
        types = [tf.int64, tf.float32, tf.int64, tf.int32, tf.string]

        def load(index: tf.Tensor) -> dict[str, Any]:
            facts = python_call(self._facts, [index], types)
            places, aspects, rows, labels, ids = (tf.ensure_shape(fact, [None]) for fact in facts)
            # By the place in the batch, not by the image: copies of one image must differ.
            seeds = sample_seeds(self.seed, index, tf.range(tf.shape(rows, tf.int64)[0], dtype=tf.int64))
            image = self._images.tensor(places, aspects, seeds)
            return {"x": {"image": image}, "y": labels, "id": ids, "row": rows}

        end = (step // self.steps_per_epoch + 1) * self.steps_per_epoch
        yield from prepared(tf.data.Dataset.range(step, end).map(load, num_parallel_calls=decoders()))
