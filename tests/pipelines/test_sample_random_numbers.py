"""Random numbers of samples: SplitMix64 in Python's integers, and no sign of one seed in its neighbours."""

import numpy as np
import tensorflow as tf

from melano_tf.pipelines.augment import sample_seeds
from melano_tf.pipelines.sample_random_numbers import CHANGES, CROPS, VIEWS, uniform

MASK = 2**64 - 1


def mixed(bits: int) -> int:
    bits = (bits ^ bits >> 30) * 0xBF58476D1CE4E5B9 & MASK
    bits = (bits ^ bits >> 27) * 0x94D049BB133111EB & MASK
    return bits ^ bits >> 31


def test_against_pythons_integers() -> None:
    seeds = np.array([[0, 0], [7 * 2**32 + 3, 11], [2**62 + 5, 2**40], [1, -3]], np.int64)
    for stream in (CHANGES, CROPS):
        found = uniform(tf.constant(seeds), 5, stream).numpy()
        for (first, second), row in zip(seeds.tolist(), found, strict=True):
            state = mixed(mixed((first & MASK) + 0x9E3779B97F4A7C15 * (stream + 1) & MASK) + (second & MASK) & MASK)
            wanted = [(mixed(state + 0x9E3779B97F4A7C15 * k & MASK) >> 40) / 2**24 for k in range(1, 6)]
            assert row.tolist() == wanted


def test_known_values_of_splitmix64() -> None:
    """The first outputs from the state 1234567, as its authors' program and many others print them."""
    golden, state, outputs = 0x9E3779B97F4A7C15, 1234567, []
    for _ in range(3):
        state = state + golden & MASK
        outputs.append(mixed(state))
    assert outputs == [6457827717110365317, 3203168211198807973, 9817491932198370423]


def test_neighbours_are_independent_and_uniform() -> None:
    draws = [
        uniform(sample_seeds(seed, tf.constant(epoch, tf.int64), tf.range(400, dtype=tf.int64)), 10, stream).numpy()
        for seed in (0, 1)
        for epoch in (0, 1)
        for stream in (CHANGES, VIEWS)
    ]
    every = np.stack(draws)  # (8, 400, 10)
    assert every.min() >= 0 and every.max() < 1
    counts = np.histogram(every, bins=20, range=(0, 1))[0]
    assert ((counts - 1600) ** 2 / 1600).sum() < 50  # chi-square of 19 degrees of freedom: 50 is beyond 0.9998
    # Between seeds, epochs and streams, between samples, and between a sample's numbers.
    flat = every.reshape(8, -1)
    assert np.abs(np.corrcoef(flat) - np.eye(8)).max() < 0.07
    assert abs(np.corrcoef(every[:, :-1].ravel(), every[:, 1:].ravel())[0, 1]) < 0.03
    assert np.abs(np.corrcoef(every.reshape(-1, 10).T) - np.eye(10)).max() < 0.08
    assert len(np.unique(flat)) > 0.99 * flat.size
