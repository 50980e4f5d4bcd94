"""How many threads make a training's batches: its share of the cores, where several trainings go on at a time."""

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar

from melano_tf.environment import cores

FEWEST, MOST = 2, 16  # batches that are made at once: one that waits for its disk holds up no other; each takes memory
_SHARE: ContextVar[int] = ContextVar("share", default=0)


@contextlib.contextmanager
def decoding_with(threads: int) -> Iterator[None]:
    """Feeds that are opened meanwhile take so many threads."""
    before = _SHARE.set(threads)
    try:
        yield
    finally:
        _SHARE.reset(before)


def decoders() -> int:
    """Threads of one feed: as `decoding_with` says, or one a core; `FEWEST` to `MOST`. What they make does not depend
    on their number."""
    return min(MOST, max(FEWEST, _SHARE.get() or cores()))
