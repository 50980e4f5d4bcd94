"""Trainings side by side: the steps of a plan are handed to Dask, which finds each a process, and another if it dies.

Only this process, which holds the run's folder, decides what is finished, and writes the run's record. A process that
is handed a step makes the plan again from the same settings, looks at the same data (whose identity must be the same),
does the step in the run's folder and says what came of it. A step whose process died goes on elsewhere from its
checkpoint. Results are those of one process, for the same threads a training, whatever the order.
"""

import contextlib
import functools
import threading
import traceback
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import distributed
from tqdm import tqdm

from melano_tf import __version__
from melano_tf.errors import InputError
from melano_tf.papers.helping import Asked, Helper
from melano_tf.papers.plan import Recipe, Step
from melano_tf.papers.shell import LeftOut, Stopped, Work, act, do
from melano_tf.papers.step_states import inputs_of
from melano_tf.runs.settings_digest import digest
from melano_tf.training.tensorflow_runtime import configure, import_quietly

SILENT = 50  # logging.CRITICAL
WAIT_S = 20.0  # for a scheduler, and for its first worker


@dataclass(frozen=True)
class Outcome:
    """What came of a step in another process.

    Attributes:
        notes: for run.json.
        left_out: why these data do not allow it; "" otherwise.
        wrong: the line of an input that is wrong; "" otherwise.
        failed: the traceback of what it failed with; "" otherwise.
        error: that failure in one line.
    """

    notes: Mapping[str, Any] = field(default_factory=dict)
    left_out: str = ""
    wrong: str = ""
    failed: str = ""
    error: str = ""


class StepFailed(Exception):
    """A step failed in another process; its cause is the traceback there."""


class FarTraceback(Exception):
    """A traceback of another process, as text."""

    def __str__(self) -> str:
        return f"\n{self.args[0]}"


class Hands(distributed.WorkerPlugin):
    """What a worker process holds between a run's steps: a `Helper`.

    Args:
        recipe, settings: of the run.
        threads: of TensorFlow.

    Attributes:
        name: of the run, among those that share the cluster.
    """

    def __init__(self, recipe: Recipe, settings: Any, threads: int) -> None:
        self.recipe, self.settings, self.threads = recipe, settings, threads
        self.name = run_name(settings.out)
        self.worker: Any = None
        self.helper: Helper | None = None
        self.lock: Any = None

    def setup(self, worker: Any) -> None:
        """Nothing is imported yet: that is left to the first step, which may take its time."""
        self.worker, self.lock = worker, threading.Lock()

    def do(self, asked: Asked) -> Outcome:
        """Do one step; one at a time, also where a worker has several threads."""
        with self.lock:
            return self._do(asked)

    def _do(self, asked: Asked) -> Outcome:
        try:
            helper = self._ready()
            step, run, work = helper.ready(asked), helper.run, helper.work
            run.show = lambda text: self.worker.log_event(self.name, {"step": asked.name, "text": text})
            run.show("begun")
            run.perform(asked.name, asked.key, inputs_of(work, step), functools.partial(act, work, step))
        except LeftOut as reason:
            return Outcome(left_out=str(reason))
        except InputError as error:
            return Outcome(wrong=str(error))
        except Exception as error:
            line = " ".join(str(error).split()) or type(error).__name__
            return Outcome(failed=traceback.format_exc(), error=line)
        return Outcome(notes=run.notes)

    def _ready(self) -> Helper:
        if self.helper is None:
            import_quietly()
            threads = configure(self.threads, deterministic=self.settings.deterministic)
            self.helper = Helper(self.recipe, self.settings, threads)
        return self.helper


def run_name(folder: Path) -> str:
    """What a run is called on a cluster, where others may do the same steps for folders of their own."""
    return f"melano_tf-{digest(str(Path(folder).resolve()))}"


def do_far(name: str, asked: Asked) -> Outcome:
    """What is handed out: one step, done by the worker's `Hands` of this name."""
    hands: Any = distributed.get_worker().plugins[name]
    outcome: Outcome = hands.do(asked)
    return outcome


def walk(recipe: Recipe, work: Work, steps: Sequence[Step]) -> None:
    """Do the steps of a plan, in this process what is cheap or takes all cores itself, elsewhere the others.

    Args:
        recipe: that they are of.
        work: as `shell.do` takes it.
        steps: in the plan's order.

    Raises:
        InputError: the scheduler does not answer, a worker has another version, or an input is wrong.
        Stopped: the processes of a step died again and again.
    """
    left = list(steps)
    while left and _nothing_to_do(work, left[0]):  # a run that is finished starts no process
        do(work, left.pop(0))
    if not left:
        return
    with opened(work) as client:
        hands = Hands(recipe, work.settings, work.settings.threads_each())
        client.register_plugin(hands)
        with _Board(client, work) as board:
            _hand_out(client, work, left, board)
        client.unregister_worker_plugin(hands.name)  # a cluster outlives its runs


def _hand_out(client: Any, work: Work, steps: Sequence[Step], board: "_Board") -> None:
    left, open_ = list(steps), dict[Any, Step]()
    while left or open_:
        waiting = {step.name for step in (*left, *open_.values())}
        for step in list(left):
            if any(need in waiting for need in step.needs):
                continue
            left.remove(step)
            if _stays_here(work, step):
                do(work, step)
                waiting.discard(step.name)
            else:
                open_[_handed(client, work, step)] = step
                board.more(step.name)
        if open_:
            distributed.wait(list(open_), return_when="FIRST_COMPLETED")
            for future in [one for one in open_ if one.done()]:
                step = open_.pop(future)
                _taken_back(work, step, future)
                board.less(step.name)


def _stays_here(work: Work, step: Step) -> bool:
    """What is looked at, taken, left out or finished, and what takes all cores itself."""
    return step.here or _nothing_to_do(work, step)


def _nothing_to_do(work: Work, step: Step) -> bool:
    """What is looked at, taken, left out or finished."""
    if step.always or step.taken or not all(map(work.has, step.needs)):
        return True
    return work.run.finished(step.name, work.run.key(step.name, inputs_of(work, step)))


def _handed(client: Any, work: Work, step: Step) -> Any:
    work.run.begin(step.name)
    asked, name = Asked.of(work, step), run_name(work.run.folder)
    return client.submit(do_far, name, asked, key=f"{step.name}-{asked.key}-{name}", pure=False)


def _taken_back(work: Work, step: Step, future: Any) -> None:
    """Record what came of a step, as if it had been done here."""

    def end(work: Work, step: Step) -> str:
        try:
            outcome: Outcome = future.result()
        except distributed.KilledWorker:
            raise Stopped(
                f"{step.name}: its process died again and again (memory?); the same command goes on from its checkpoint"
            ) from None
        if outcome.left_out:
            raise LeftOut(outcome.left_out)
        if outcome.wrong:
            raise InputError(outcome.wrong)
        if outcome.failed:
            raise StepFailed(outcome.error) from FarTraceback(outcome.failed)
        if outcome.notes:
            work.run.note(**outcome.notes)
        key = work.run.key(step.name, inputs_of(work, step))
        work.run.end(step.name, key)
        return key

    do(work, step, end)


@contextlib.contextmanager
def opened(work: Work) -> Iterator[Any]:
    """A client of the cluster that the settings name, or of one on this machine for as long as this lasts.

    Raises:
        InputError: it does not answer, has no worker, or one of another version.
    """
    settings = work.settings
    with contextlib.ExitStack() as stack:
        if settings.scheduler:
            client = stack.enter_context(_client(settings.scheduler))
        else:
            cluster = stack.enter_context(_local(settings))
            client = stack.enter_context(distributed.Client(cluster))
        _check_workers(client, settings.scheduler)
        where = settings.scheduler or f"{settings.processes()} processes on this machine"
        work.say(f"trainings side by side: {where}" + (f", watch them at {d}" if (d := client.dashboard_link) else ""))
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


def _client(address: str) -> Any:
    try:
        return distributed.Client(address, timeout=WAIT_S)
    except (OSError, TimeoutError, ValueError) as error:
        line = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"--scheduler {address}: no Dask scheduler answers there ({line})") from None


def _local(settings: Any) -> Any:
    """Processes on this machine, one step at a time each; with `gpus` each of them sees one GPU."""
    quiet = {"TQDM_DISABLE": "1", "TF_CPP_MIN_LOG_LEVEL": "3"}
    # A training that grows is the machine's affair, not a reason to kill. What Dask logs is not for the terminal.
    options = {"nthreads": 1, "memory_limit": 0, "silence_logs": SILENT}
    seen: Sequence[Mapping[str, str]] = [{"CUDA_VISIBLE_DEVICES": str(number)} for number in settings.gpus]
    workers = {
        number: {"cls": distributed.Nanny, "options": {**options, "env": {**quiet, **gpu}}}
        for number, gpu in enumerate(seen or [{}] * settings.processes())
    }
    scheduler = {"cls": distributed.Scheduler, "options": {"host": "127.0.0.1", "dashboard_address": "127.0.0.1:0"}}
    return distributed.SpecCluster(workers=workers, scheduler=scheduler, silence_logs=SILENT)


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
        from contextlib import suppress
        from importlib import import_module

        try:
            version = str(import_module("melano_tf").__version__)
        except ImportError:
            return "nowhere"
        with suppress(ImportError):  # of another version, which may lack it
            import_module("melano_tf.training.tensorflow_runtime").import_quietly()  # before anything else imports it
        return version

    for address, version in client.run(version_there).items():
        if version == "nowhere":
            raise InputError(f"worker {address}: has no melano_tf; install version {__version__} there")
        if version != __version__:
            raise InputError(f"worker {address}: has melano_tf {version}, and this is {__version__}; install the same")


class _Board:
    """One bar over all steps that are handed out, with what is going on in each process."""

    def __init__(self, client: Any, work: Work) -> None:
        self.client, self.work, self.topic = client, work, run_name(work.run.folder)
        self.going: dict[str, str] = {}
        self.handed = self.ended = 0
        self.bar = tqdm(total=0, desc="trainings", unit="step", leave=False, mininterval=1.0, disable=None)

    def __enter__(self) -> "_Board":
        self.client.subscribe_topic(self.topic, self._heard)
        return self

    def __exit__(self, *_: object) -> None:
        self.client.unsubscribe_topic(self.topic)
        self.bar.close()

    def _heard(self, event: tuple[float, Mapping[str, str]]) -> None:
        _, said = event
        if said["step"] in self.going:
            self.going[said["step"]] = said["text"]
            self._shown()

    def _shown(self) -> None:
        begun = [f"{name} {text}" for name, text in self.going.items() if text]
        self.bar.set_postfix_str(" | ".join(begun))

    def more(self, name: str) -> None:
        """A step is handed out."""
        self.going[name] = ""
        self.handed += 1
        self.bar.total = self.handed
        self.bar.refresh()

    def less(self, name: str) -> None:
        """A step came back."""
        del self.going[name]
        self.ended += 1
        self.bar.update()
        self._shown()
        if self.bar.disable:  # into a file, where no bar is drawn
            self.work.say(f"  {name}: ended, {self.ended} of {self.handed} handed out")
