"""Initial weights that depend on a seed alone."""

import random
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def seeded(seed: int | None) -> Iterator[None]:
    """Layers made inside draw their initial weights and dropout from `seed`, and nothing else draws with them.

    Keras takes the seed of every initialiser and seed generator that was given none from Python's global `random` when
    the layer is made, also inside keras.applications, whose builders take no seed. Other threads of a process (Dask's,
    tornado's) draw from that too, so Keras is lent a generator of its own meanwhile: the numbers are those that
    `random.seed(seed)` would give. There is no public way to do so. None: as it stands around this.
    """
    if seed is None:
        yield
        return
    from keras.src.random import seed_generator

    before = seed_generator.python_random
    seed_generator.python_random = random.Random(seed)
    try:
        yield
    finally:
        seed_generator.python_random = before
