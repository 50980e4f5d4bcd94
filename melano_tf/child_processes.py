"""Processes of our own, begun from whatever script or notebook uses the package."""

import contextlib
import sys
import threading
import types
from collections.abc import Iterator

_ONE = threading.Lock()


@contextlib.contextmanager
def without_script() -> Iterator[None]:
    """Processes that are begun meanwhile do not run the program's script again.

    `multiprocessing` imports it into each new process, for functions that stand in it; ours stand in modules. A script
    without `if __name__ == "__main__"` would else do its work there once more, and each of its processes again.
    """
    with _ONE:
        script = sys.modules["__main__"]
        sys.modules["__main__"] = types.ModuleType("__main__")
        try:
            yield
        finally:
            sys.modules["__main__"] = script
