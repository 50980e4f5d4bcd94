"""The Dask cluster that a run's settings name: found or started, and looked at before anything is handed to it."""

import contextlib
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import CancelledError
from pathlib import Path
from typing import Any

import dask
import distributed
from distributed.comm import CommClosedError

from melano_tf import __version__
from melano_tf.child_processes import interrupts_later
from melano_tf.errors import InputError
from melano_tf.papers.shell import Stopped, Work
from melano_tf.runs.folder_lock import holder_of

SILENT = 50  # logging.CRITICAL
QUIET = "from melano_tf.training.tensorflow_runtime import import_quietly\nimport_quietly()\n"
# Done by the thread of this process that starts others, which then pass Ctrl-C over: a terminal sends it to all. First
# what would end that, as it starts: Python's tracker of resources.
DEAF = """import signal
from multiprocessing import resource_tracker
resource_tracker.ensure_running()
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
"""
CHECK_S = 10.0  # between two looks whether processes are there
LOST_S = 600.0  # for a process on this machine that takes a dead one's place
WAIT_S = 20.0  # for a scheduler, and for its first worker
VISIBLE = "CUDA_VISIBLE_DEVICES"


@contextlib.contextmanager
def opened(work: Work) -> Iterator[Any]:
    """A client of the cluster that the settings name, or of one on this machine for as long as this lasts.

    Raises:
        InputError: it does not answer, has no worker, or one of another version or that does not see the run's folder.
    """
    settings = work.settings
    with contextlib.ExitStack() as stack:
        if settings.scheduler:
            client = stack.enter_context(_client(settings.scheduler))
        else:
            cluster = stack.enter_context(_local(settings))
            client = stack.enter_context(distributed.Client(cluster))
        _check_workers(client, settings.scheduler)
        _check_folder(client, work.run.folder)
        where = settings.scheduler or f"{settings.processes()} processes on this machine"
        work.say(f"side by side: {where}" + (f", watch them at {d}" if (d := client.dashboard_link) else ""))
        yield client


def check_there(settings: Any) -> None:
    """Whether the GPUs or the cluster that the settings name are there, before anything is done.

    Raises:
        InputError: the settings do not go together; a GPU is not there; the scheduler does not answer, has no worker,
            or one of another version.
    """
    settings.check_running()
    _check_gpus(settings.gpus)
    if settings.scheduler:
        with _client(settings.scheduler) as client:
            _check_workers(client, settings.scheduler)


@contextlib.contextmanager
def loss_named(scheduler: str) -> Iterator[None]:
    """What Dask says where its scheduler is gone becomes one line.

    Raises:
        Stopped: it is.
    """
    try:
        yield
    except (CancelledError, CommClosedError) as error:
        whose = f"--scheduler {scheduler}" if scheduler else "the scheduler of the processes on this machine"
        raise Stopped(f"{whose}: does not answer any more; start it again, and give the same command") from error


def wait_for_one(client: Any, futures: Sequence[Any]) -> None:
    """Wait until one of these is done; the workers of a cluster that is there already may be away for any time.

    Raises:
        Stopped: no process of this machine is left, or comes back.
    """
    without = time.monotonic()
    while True:
        try:
            distributed.wait(futures, timeout=CHECK_S, return_when="FIRST_COMPLETED")
            return
        except TimeoutError:
            if client.nthreads() or client.cluster is None:
                without = time.monotonic()
            elif time.monotonic() - without > LOST_S:
                raise Stopped("all processes are gone, and none came back; give the same command again") from None


def _client(address: str) -> Any:
    try:
        return distributed.Client(address, timeout=WAIT_S)
    except (OSError, TimeoutError, ValueError) as error:
        line = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"--scheduler {address}: no Dask scheduler answers there ({line})") from None


@contextlib.contextmanager
def _local(settings: Any) -> Iterator[Any]:
    """Processes on this machine, one step at a time each; with `gpus` each of them sees one GPU."""
    quiet = {"TQDM_DISABLE": "1", "TF_CPP_MIN_LOG_LEVEL": "3"}
    # A training that grows is the machine's affair, not a reason to kill. What Dask logs is not for the terminal, nor
    # what TensorFlow says while it is loaded: by a process that takes a dead one's place, too.
    options = {"nthreads": 1, "memory_limit": 0, "silence_logs": SILENT, "preload": [QUIET], "preload_nanny": [DEAF]}
    seen: Sequence[Mapping[str, str]] = [{VISIBLE: _called(number)} for number in settings.gpus]
    workers = {
        number: {"cls": distributed.Nanny, "options": {**options, "env": {**quiet, **gpu}}}
        for number, gpu in enumerate(seen or [{}] * settings.processes())
    }
    scheduler = {"cls": distributed.Scheduler, "options": {"host": "127.0.0.1", "dashboard_address": "127.0.0.1:0"}}
    with contextlib.ExitStack() as stack:
        # Dask gives a process up that is not back so soon, and a busy machine takes longer to load TensorFlow.
        stack.enter_context(dask.config.set({"distributed.deploy.lost-worker-timeout": LOST_S}))
        with interrupts_later():  # Dask ends no process that it is just starting
            cluster = distributed.SpecCluster(workers=workers, scheduler=scheduler, silence_logs=SILENT)
            stack.enter_context(cluster)
        yield cluster


def _called(gpu: int) -> str:
    """A GPU as CUDA calls it; its number is of those that this process sees, which a scheduler may have chosen."""
    chosen = os.environ.get(VISIBLE)
    return str(gpu) if chosen is None else chosen.split(",")[gpu].strip()


def _check_gpus(numbers: Sequence[int]) -> None:
    if not numbers:
        return
    import tensorflow as tf

    there = len(tf.config.list_physical_devices("GPU"))
    if missing := [number for number in numbers if number >= there]:
        raise InputError(f"--gpus {missing[0]}: there is no such GPU here; TensorFlow sees {there}, counted from 0")


def _check_workers(client: Any, scheduler: str) -> None:
    try:
        client.wait_for_workers(1, timeout=WAIT_S)
    except TimeoutError:
        raise InputError(f"--scheduler {scheduler}: has no worker; start some, and give the same command") from None

    def version_there() -> str:  # in here, so that it is sent as it is: a worker may have no such module
        from importlib import import_module

        try:
            return str(import_module("melano_tf").__version__)
        except ImportError:
            return "nowhere"

    for address, version in client.run(version_there).items():
        if version == "nowhere":
            raise InputError(f"worker {address}: has no melano_tf; install version {__version__} there")
        check_version(address, version, __version__)


def check_version(address: str, there: str, here: str) -> None:
    """Raises InputError where a worker has another version than the process that asks."""
    if there != here:
        raise InputError(f"worker {address}: has melano_tf {there}, and this is {here}; install the same")


def _check_folder(client: Any, folder: Path) -> None:
    """Whether the workers see the run's folder, which this process holds."""
    held = holder_of(folder)
    for address, found in client.run(holder_of, folder.absolute()).items():
        check_shared(address, folder, found, held)


def check_shared(address: str, folder: Path, found: Mapping[str, Any], held: Mapping[str, Any]) -> None:
    """Raises InputError where a worker finds another holder in a run's folder than the process that holds it."""
    if found != held:
        raise InputError(
            f"worker {address}: does not see {folder.absolute()}, which all must share under the same path"
        )
