"""`python -m melano_tf.run …` in a process of its own that need not import TensorFlow first: seconds faster each.

Each is forked from a server that has imported what a run imports and used none of it, so threads, determinism and seeds
are each process's own, as in one that was started anew.
"""

import multiprocessing
import os
import runpy
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from multiprocessing import forkserver
from multiprocessing.context import ForkServerProcess
from pathlib import Path

SERVER = multiprocessing.get_context("forkserver")


@dataclass(frozen=True)
class Forked:
    """A command at work.

    Attributes:
        process: to wait for, or to end.
        folder: where what it says is written.
    """

    process: ForkServerProcess
    folder: tempfile.TemporaryDirectory

    def wait(self) -> tuple[int, str, str]:
        """Its exit code, and what it said to stdout and to stderr."""
        self.process.join()
        shown, errors = (Path(self.folder.name, name).read_text(encoding="utf-8") for name in ("out", "err"))
        self.folder.cleanup()
        assert self.process.exitcode is not None
        return self.process.exitcode, shown, errors


def begin() -> None:
    """Start the server, before the program's own work with slides asks for a smaller one: a process has one at most."""
    SERVER.set_forkserver_preload(["tests.forked_imports"])
    forkserver.ensure_running()


def start(*arguments: str, cwd: Path) -> Forked:
    """Begin `python -m melano_tf.run ARGUMENTS` in the folder `cwd`."""
    folder = tempfile.TemporaryDirectory()
    process = SERVER.Process(target=_run, args=(arguments, str(cwd), folder.name, dict(os.environ)))
    process.start()
    return Forked(process, folder)


def _run(arguments: tuple[str, ...], cwd: str, folder: str, environment: Mapping[str, str]) -> None:
    for number, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(f"{folder}/{name}", os.O_WRONLY | os.O_CREAT), number)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(cwd)
    sys.argv = ["melano_tf.run", *arguments]
    runpy.run_module("melano_tf.run", run_name="__main__", alter_sys=True)
