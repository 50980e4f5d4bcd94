"""Random numbers of the samples of a batch, all at once: each a function of the sample's own seed and nothing else.

SplitMix64 (Steele, Lea and Flood, OOPSLA 2014), whose output function is a bijection of 64 bits with full avalanche, is
run from the seed. TensorFlow's stateless generators take one seed a call, and so one call a sample.
"""

from typing import Any

import tensorflow as tf

GOLDEN, FIRST, SECOND = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
CHANGES, VIEWS, CROPS = range(3)  # streams: what is drawn for one purpose says nothing of another


def uniform(seeds: Any, count: int, stream: int = CHANGES) -> Any:
    """Numbers in [0, 1) for each sample, float32 (B, count).

    Args:
        seeds: int64 (B, 2), from `augment.sample_seeds`.
        count: numbers a sample.
        stream: other streams of the same seed give independent numbers.
    """
    both = tf.bitcast(tf.cast(seeds, tf.int64), tf.uint64)
    first, second = both[:, 0], both[:, 1]
    state = _mixed(_mixed(first + tf.constant(GOLDEN * (stream + 1) % 2**64, tf.uint64)) + second)
    places = tf.range(1, count + 1, dtype=tf.int64)
    bits = _mixed(state[:, None] + tf.bitcast(places, tf.uint64) * tf.constant(GOLDEN, tf.uint64))
    # The upper 24 bits are those that float32 holds.
    return tf.cast(tf.bitwise.right_shift(bits, tf.constant(40, tf.uint64)), tf.float32) * 2.0**-24


def _mixed(bits: Any) -> Any:
    """SplitMix64's output function, uint64 of any shape."""
    for shift, factor in ((30, FIRST), (27, SECOND)):
        bits = tf.bitwise.bitwise_xor(bits, tf.bitwise.right_shift(bits, tf.constant(shift, tf.uint64)))
        bits *= tf.constant(factor, tf.uint64)
    return tf.bitwise.bitwise_xor(bits, tf.bitwise.right_shift(bits, tf.constant(31, tf.uint64)))
