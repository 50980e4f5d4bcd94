"""Random crops, flips and colour transformations of training images, stateless: a pure function of (seed, step)."""

import functools
from collections.abc import Iterator
from typing import Any

import tensorflow as tf

from melano_tf.pipelines.augment import AugmentSettings, augment, sample_seeds
from melano_tf.pipelines.image_batches import ImageBatches
from melano_tf.pipelines.sample_random_numbers import CROPS, uniform
from melano_tf.pipelines.tile_batches import prepared
from melano_tf.training.hosts import Share

DRAWS = 3


def random_crops(images: Any, seeds: Any, output_px: int, smallest: float) -> Any:
    """A square crop anywhere in each image, its side uniform from `smallest` to 1, resampled once (bilinearly).

    Whatever batch an image stands in, the result is the same.

    Args:
        images: uint8 (B, px, px, 3).
        seeds: int64 (B, 2), from `augment.sample_seeds`.
        output_px: side of the result.
        smallest: smallest share of the side, 0 < smallest <= 1.

    Returns:
        uint8 (B, output_px, output_px, 3).
    """
    return _compiled(output_px)(images, seeds, tf.constant(smallest, tf.float32))


@functools.cache
def _compiled(output_px: int) -> Any:
    """One TensorFlow function for each size, traced once for all data sets."""
    return tf.function(functools.partial(_random_crops, output_px=output_px), reduce_retracing=True, autograph=False)


def _random_crops(images: Any, seeds: Any, smallest: Any, output_px: int) -> Any:
    draws = uniform(seeds, DRAWS, CROPS)
    side = smallest + (1 - smallest) * draws[:, 0]
    top, left = draws[:, 1] * (1 - side), draws[:, 2] * (1 - side)
    px, first = tf.cast(tf.shape(images)[1], tf.float32), side / (2 * output_px)

    def at(place: Any) -> Any:
        """0..1 between the image's edges as crop_and_resize counts: 0..1 between its outer pixels' centres."""
        return tf.clip_by_value((place * px - 0.5) / (px - 1), 0, 1)

    # It samples from corner to corner: those are the centres of the result's outer pixels, half a pixel inside.
    boxes = tf.stack([at(top + first), at(left + first), at(top + side - first), at(left + side - first)], axis=1)
    found = tf.image.crop_and_resize(images, boxes, tf.range(tf.shape(images)[0]), [output_px] * 2)
    return tf.cast(tf.clip_by_value(tf.round(found), 0, 255), tf.uint8)


class CroppedBatches:
    """Batches of images, each cropped at random, flipped and changed in colour; see `ImageBatches`.

    Args:
        batches: whole images at the size at which they are stored, unaugmented.
        input_px: side of the model's input in pixels.
        smallest_crop: as `random_crops`.
        changes: flips and colour.
        seed: the training's seed, below 2**31.
    """

    def __init__(
        self, batches: ImageBatches, input_px: int, smallest_crop: float, changes: AugmentSettings, seed: int
    ) -> None:
        self.batches, self.input_px, self.smallest_crop = batches, input_px, smallest_crop
        self.changes, self.seed = changes, seed

    def shared(self, share: Share) -> "CroppedBatches":
        """As of `ImageBatches`."""
        part = self.batches.shared(share)
        return CroppedBatches(part, self.input_px, self.smallest_crop, self.changes, self.seed)

    @property
    def steps_per_epoch(self) -> int:
        """Batches of one epoch."""
        return self.batches.steps_per_epoch

    def from_step(self, step: int) -> Iterator[dict[str, Any]]:
        """Batches from a global step on, without end."""
        seed, output_px, smallest, changes = self.seed, self.input_px, self.smallest_crop, self.changes

        def change(images: Any, epoch: Any, rows: Any) -> Any:
            seeds = sample_seeds(seed, epoch, rows)
            return augment(random_crops(images, seeds, output_px, smallest), seeds, changes)

        yield from prepared(self.batches.data(step, change))
