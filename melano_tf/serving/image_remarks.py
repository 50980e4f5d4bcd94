"""What a person should know of an image that is answered all the same."""

import math
from typing import Any

import numpy as np
import tensorflow as tf

from melano_tf.pipelines.replaced_images import EVEN, even

ONE_COLOUR = "of one colour (all black, for example): it shows nothing that could be judged"


def remark_on(pixels: np.ndarray) -> str:
    """The remark on an image uint8 (h, w, 3), or ""."""
    return ONE_COLOUR if even(pixels) else ""


def remarks_on(pixels: Any) -> Any:
    """`remark_on` in the graph: uint8 (B, h, w, 3) of known size -> string (B,)."""
    count = math.prod(pixels.shape[1:])
    grey_levels = tf.reshape(tf.cast(pixels, tf.int32), [-1, count])
    seen = tf.cumsum(tf.math.bincount(grey_levels, minlength=256, maxlength=256, axis=-1), axis=1)

    def percentile(share: float) -> Any:
        # As numpy interpolates: between the two values whose ranks are nearest.
        place = share * (count - 1)
        low, high = (
            tf.reduce_sum(tf.cast(seen <= rank, tf.float64) * 1.0, axis=1)
            for rank in (math.floor(place), math.ceil(place))
        )
        return low + (high - low) * (place - math.floor(place))

    flat = percentile(0.99) - percentile(0.01) <= EVEN
    return tf.where(flat, ONE_COLOUR, "")
