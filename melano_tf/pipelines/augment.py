"""Augmentation of training images, stateless: what happens to a sample follows from (seed, epoch, sample) alone.

All of it is off by default, as in the spitzoid paper, which names none. The settings are read long before TensorFlow is
needed, so the functions import it themselves.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import astuple, dataclass
from typing import TYPE_CHECKING

from melano_tf.errors import InputError

if TYPE_CHECKING:
    import tensorflow as tf

# Optical density of haematoxylin, eosin and the residual in R, G, B (Ruifrok and Johnston 2001), rows of unit length.
STAINS = ((0.65, 0.70, 0.29), (0.07, 0.99, 0.11), (0.27, 0.57, 0.78))
# RGB to luma and two chroma axes, in which a turn changes the hue alone.
YIQ = ((0.299, 0.587, 0.114), (0.596, -0.274, -0.322), (0.211, -0.523, 0.312))
DRAWS = 10


@dataclass(frozen=True)
class AugmentSettings:
    """Which augmentations, each off by default.

    Raises:
        InputError: a value outside its range.
    """

    flip: bool = False
    """Left-right and up-down, each with probability 0.5 (not in the paper)."""
    rotate90: bool = False
    """A rotation by 0, 90, 180 or 270 degrees, equally probable (not in the paper)."""
    brightness: float = 0.0
    """Multiply the image by 1 + u, u uniform in ± this share (not in the paper)."""
    hue: float = 0.0
    """Turn the hue by an angle uniform in ± this many degrees (not in the paper)."""
    stain: float = 0.0
    """Multiply haematoxylin, eosin and the residual (optical density) each by 1 + u, u in ± this (not in the paper)."""

    def __post_init__(self) -> None:
        limits = {"brightness": 1.0, "hue": 180.0, "stain": 1.0}
        faults = [
            f"{name} must lie between 0 and {limit:g}, and is {getattr(self, name)}"
            for name, limit in limits.items()
            if not 0 <= getattr(self, name) <= limit
        ]
        if faults:
            raise InputError.of("augment:", faults)

    @property
    def active(self) -> bool:
        """Whether anything is on."""
        return any(astuple(self))


def sample_seeds(seed: int, epoch: tf.Tensor, samples: tf.Tensor) -> tf.Tensor:
    """Seeds of samples in an epoch, int64 (B, 2), of `samples` int64 (B,); no two (seed, epoch, sample) share one."""
    import tensorflow as tf

    first = tf.cast(seed, tf.int64) * 2**32 + tf.cast(epoch, tf.int64)
    return tf.stack([tf.fill(tf.shape(samples), first), tf.cast(samples, tf.int64)], axis=1)


def augment(images: tf.Tensor, seeds: tf.Tensor, settings: AugmentSettings) -> tf.Tensor:
    """Augment a batch, each image by its own seed, whatever batch it stands in.

    Args:
        images: uint8 (B, h, w, 3); square where `rotate90` is on.
        seeds: int64 (B, 2), from `sample_seeds`.
        settings: what is on.

    Returns:
        uint8 of the same shape.
    """
    if not settings.active:
        return images
    return _compiled(settings)(images, seeds)


@functools.cache
def _compiled(settings: AugmentSettings) -> Callable[[tf.Tensor, tf.Tensor], tf.Tensor]:
    """The augmentation as one TensorFlow function, traced once for all data sets."""
    import tensorflow as tf

    return tf.function(functools.partial(_augment, settings=settings), reduce_retracing=True, autograph=False)


def _augment(images: tf.Tensor, seeds: tf.Tensor, settings: AugmentSettings) -> tf.Tensor:
    import tensorflow as tf

    from melano_tf.pipelines.sample_random_numbers import uniform

    draws = uniform(seeds, DRAWS)
    if settings.flip or settings.rotate90:
        images = _moved(images, draws, settings)
    if not (settings.brightness or settings.hue or settings.stain):
        return images
    return _colour(tf.cast(images, tf.float32), 2 * draws - 1, settings)


def _moved(images: tf.Tensor, draws: tf.Tensor, settings: AugmentSettings) -> tf.Tensor:
    """Flips and quarter turns of uint8 images, by OpenCV: TensorFlow would touch the whole batch several times."""
    import tensorflow as tf

    from melano_tf.pipelines.image_transforms import turned

    off = tf.zeros_like(draws[:, 0], tf.bool)
    quarters = tf.cast(draws[:, 2] * 4, tf.int32) if settings.rotate90 else tf.zeros_like(draws[:, 2], tf.int32)
    rows, columns = (draws[:, 1] < 0.5, draws[:, 0] < 0.5) if settings.flip else (off, off)
    # stateless: another call with the same images gives the same ones.
    moved = tf.numpy_function(turned, [images, quarters, rows, columns], tf.uint8, stateful=False)
    return tf.ensure_shape(moved, images.shape)


def _colour(images: tf.Tensor, spread: tf.Tensor, settings: AugmentSettings) -> tf.Tensor:
    """Stain, hue and brightness of float32 images in 0..255, by draws in -1..1; rounded to uint8."""
    import tensorflow as tf

    if settings.stain:
        density = -tf.math.log((images + 1) / 256)
        scale = tf.linalg.diag(1 + settings.stain * spread[:, 3:6])
        change = tf.linalg.inv(tf.constant(STAINS)) @ scale @ tf.constant(STAINS)
        images = tf.exp(-_per_pixel(density, change)) * 256 - 1
    if settings.hue:
        angle = spread[:, 6] * (settings.hue * math.pi / 180)
        zero, one = tf.zeros_like(angle), tf.ones_like(angle)
        cos, sin = tf.cos(angle), tf.sin(angle)
        turn = tf.reshape(tf.stack([one, zero, zero, zero, cos, sin, zero, -sin, cos], axis=1), [-1, 3, 3])
        yiq = tf.transpose(tf.constant(YIQ))
        images = _per_pixel(images, yiq @ turn @ tf.linalg.inv(yiq))
    if settings.brightness:
        images *= (1 + settings.brightness * spread[:, 7])[:, None, None, None]
    return tf.cast(tf.clip_by_value(tf.round(images), 0, 255), tf.uint8)


def _per_pixel(images: tf.Tensor, matrices: tf.Tensor) -> tf.Tensor:
    """Row vectors of channels times each image's own 3x3 matrix."""
    import tensorflow as tf

    flat = tf.reshape(images, [tf.shape(images)[0], -1, 3])
    return tf.reshape(flat @ matrices, tf.shape(images))
