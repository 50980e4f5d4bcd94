"""Rows of `.npy` files, read one at a time.

A file that is mapped into memory counts as this process's memory with all that was ever read of it: of a cache of
33,000 images 7 GiB after one epoch.
"""

import os
from pathlib import Path

import numpy as np

from melano_tf.errors import InputError, line_of

OPEN_FILES = 128
"""Of one cache at a time; a process may open some hundreds."""


class NpyRows:
    """A `.npy` file that is open; for several threads.

    Args:
        path: the file.
        remedy: what whoever finds it damaged should remove.

    Attributes:
        shape: of the whole array.
        dtype: of its numbers.

    Raises:
        InputError: it is missing or damaged.
    """

    def __init__(self, path: Path, remedy: str) -> None:
        self.path, self.remedy = Path(path), remedy
        try:
            array = np.load(path, mmap_mode="r")  # its head, and whether the file is as long as that says
            self.shape, self.dtype, self._start = array.shape, array.dtype, int(array.offset)
            self._file = self.path.open("rb", buffering=0)
        except (OSError, ValueError) as error:
            raise self._fault(line_of(error)) from None

    def read(self, place: int, into: np.ndarray) -> None:
        """Read the numbers from `place` times the length of `into` on: row `place`, where that is one row.

        Raises:
            InputError: the file does not reach so far any more.
        """
        try:
            count = os.preadv(self._file.fileno(), [into.data], self._start + place * into.nbytes)
        except OSError as error:
            raise self._fault(line_of(error)) from None
        if count < into.nbytes:
            raise self._fault("it was cut off")

    def _fault(self, why: str) -> InputError:
        return InputError(f"{self.path}: cannot be read ({why}); remove {self.remedy}, and give the command again")
