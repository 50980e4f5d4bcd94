"""Drawing in several processes: what is said where one of them is killed."""

import contextlib
from collections.abc import Iterator
from concurrent.futures.process import BrokenProcessPool

from melano_tf.errors import InputError


@contextlib.contextmanager
def one_line_if_killed() -> Iterator[None]:
    """Around a pool of processes that draw.

    Raises:
        InputError: one of them was killed, most often for want of memory.
    """
    try:
        yield
    except BrokenProcessPool:
        raise InputError(
            "a process that was drawing phantoms was killed, as a machine without memory left does: give the command "
            "again, with fewer --workers"
        ) from None
