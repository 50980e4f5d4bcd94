"""Initial weights that depend on a seed alone."""

import random
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def seeded(seed: int | None) -> Iterator[None]:
    """Layers made inside draw their initial weights and dropout from `seed`; the caller's random state is put back.

    Keras takes the seed of every initialiser and seed generator that was given none from Python's `random` when the
    layer is made, also inside keras.applications, whose builders take no seed. None: as the caller's state has it.
    """
    if seed is None:
        yield
        return
    state = random.getstate()
    random.seed(seed)
    try:
        yield
    finally:
        random.setstate(state)
