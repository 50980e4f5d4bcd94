"""Initial weights depend on the seed alone, also where other threads of the process draw random numbers."""

import random
import threading

import keras
import numpy as np

from melano_tf.seeding import seeded


def weights(seed: int) -> list[np.ndarray]:
    with seeded(seed):
        model = keras.Sequential([keras.Input((5,)), keras.layers.Dense(4), keras.layers.Dense(3)])
    return model.get_weights()


def test_other_threads_change_nothing() -> None:
    alone, stop = weights(7), threading.Event()

    def draw() -> None:
        while not stop.is_set():
            random.random()

    thread = threading.Thread(target=draw)
    thread.start()
    try:
        beside = [weights(7) for _ in range(20)]
    finally:
        stop.set()
        thread.join()
    for again in beside:
        assert all(np.array_equal(a, b) for a, b in zip(alone, again, strict=True))


def test_the_numbers_are_those_of_a_seeded_random() -> None:
    random.seed(7)
    model = keras.Sequential([keras.Input((5,)), keras.layers.Dense(4), keras.layers.Dense(3)])
    assert all(np.array_equal(a, b) for a, b in zip(weights(7), model.get_weights(), strict=True))


def test_what_is_drawn_inside_leaves_the_callers_state() -> None:
    random.seed(3)
    expected = random.random()
    random.seed(3)
    first, second = weights(7), weights(8)
    assert random.random() == expected
    assert not np.array_equal(first[0], second[0])


def test_none_draws_from_the_seed_around() -> None:
    with seeded(7), seeded(None):
        model = keras.Sequential([keras.Input((5,)), keras.layers.Dense(4), keras.layers.Dense(3)])
    assert all(np.array_equal(a, b) for a, b in zip(weights(7), model.get_weights(), strict=True))
