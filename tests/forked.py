"""A command or a script in a process of its own that need not import TensorFlow first: seconds faster each.

Each is forked from a server that has imported what a run imports and used none of it, so threads, determinism and seeds
are each process's own, as in one that was started anew.
"""

import io
import multiprocessing
import os
import re
import runpy
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from multiprocessing import forkserver
from multiprocessing.context import ForkServerProcess
from pathlib import Path

SERVER = multiprocessing.get_context("forkserver")


@dataclass(frozen=True)
class Forked:
    """A command or a script at work.

    Attributes:
        process: to wait for, or to end.
        folder: where what it says is written.
    """

    process: ForkServerProcess
    folder: tempfile.TemporaryDirectory

    def until(self, pattern: str) -> re.Match[str]:
        """Wait until it has said a line like this; what is found in it."""
        works = True
        while (found := re.search(pattern, self._said("out"), re.MULTILINE)) is None:
            assert works, f"{pattern!r} never came: {self._said('err')}"
            works = self.process.is_alive()
            time.sleep(0.02)  # beside what it waits for
        return found

    def wait(self, timeout: float | None = None) -> tuple[int, str, str]:
        """Its exit code, and what it said to stdout and to stderr.

        Args:
            timeout: seconds after which it is ended.
        """
        self.process.join(timeout)
        if self.process.exitcode is None:
            self.process.kill()
            self.process.join()
        shown, errors = self._said("out"), self._said("err")
        self.folder.cleanup()
        assert self.process.exitcode is not None
        return self.process.exitcode, shown, errors

    def _said(self, name: str) -> str:
        path = Path(self.folder.name, name)
        return path.read_text(encoding="utf-8") if path.exists() else ""


def begin() -> None:
    """Start the server, before the program's own work with slides asks for a smaller one: a process has one at most."""
    SERVER.set_forkserver_preload(["tests.forked_imports"])
    forkserver.ensure_running()


def start(*arguments: str, cwd: Path, module: str = "melano_tf.run") -> Forked:
    """Begin `python -m MODULE ARGUMENTS` in the folder `cwd`."""
    return _begun(module, arguments, cwd, os.environ)


def script(path: Path, *arguments: str, environment: Mapping[str, str] = os.environ) -> Forked:
    """Begin `python PATH ARGUMENTS`, in this folder."""
    return _begun(path, arguments, Path.cwd(), environment)


def workers() -> AbstractContextManager[object]:
    """Meanwhile Dask forks the processes of its workers from the server, too, and starts none anew."""
    import dask

    return dask.config.set({"distributed.worker.multiprocessing-method": "forkserver"})


def quick_fsync(handle: int) -> None:
    """In the place of `os.fsync` where no power is lost: it fails where that would, and waits for no disk."""
    os.fstat(handle)


def _begun(what: str | Path, arguments: tuple[str, ...], cwd: Path, environment: Mapping[str, str]) -> Forked:
    begin()
    folder = tempfile.TemporaryDirectory()
    process = SERVER.Process(target=_run, args=(what, arguments, str(cwd), folder.name, dict(environment)))
    process.start()
    return Forked(process, folder)


def _run(what: str | Path, arguments: tuple[str, ...], cwd: str, folder: str, environment: Mapping[str, str]) -> None:
    for number, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(f"{folder}/{name}", os.O_WRONLY | os.O_CREAT), number)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(cwd)
    os.fsync = quick_fsync
    assert isinstance(sys.stdout, io.TextIOWrapper)
    sys.stdout.reconfigure(line_buffering=True)  # who waits for a line gets it
    sys.argv = [str(what), *arguments]
    if isinstance(what, Path):
        runpy.run_path(str(what), run_name="__main__")
    else:
        runpy.run_module(what, run_name="__main__", alter_sys=True)
