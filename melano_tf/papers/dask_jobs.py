"""Work side by side: the steps of a plan are handed to Dask, which finds each a process, and another if it dies.

Only this process, which holds the run's folder, decides what is finished, and writes the run's record. A process that
is handed a step makes the plan again from the same settings, looks at the same data (whose identity must be the same),
does the step in the run's folder and says what came of it. A step whose process died goes on elsewhere from its
checkpoint. Results are those of one process, for the same threads a training, whatever the order.
"""

import contextlib
import functools
import os
import threading
import time
import traceback
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import distributed
from tqdm import tqdm

from melano_tf import __version__
from melano_tf.errors import InputError, RunError, line_of
from melano_tf.papers.dask_cluster import check_shared, check_version, loss_named, opened, wait_for_one
from melano_tf.papers.dask_items import far_engine
from melano_tf.papers.helping import Asked, Helper
from melano_tf.papers.plan import Recipe, Step
from melano_tf.papers.shell import LeftOut, Stopped, Work, act, do
from melano_tf.papers.step_states import inputs_of
from melano_tf.runs.folder_lock import holder_of
from melano_tf.runs.settings_digest import digest
from melano_tf.training.tensorflow_runtime import configure, import_quietly

SAY_S = 60.0  # between two lines of what goes on, where no bar is drawn
_ONE = threading.Lock()  # of a worker process, whichever runs its work is of


@dataclass(frozen=True)
class Outcome:
    """What came of a step in another process.

    Attributes:
        notes: for run.json.
        lines: what it said there.
        left_out: why these data do not allow it; "" otherwise.
        wrong: the line of an input that is wrong; "" otherwise.
        failed: the traceback of what it failed with; "" otherwise.
        error: that failure, as it is raised in the process that asked.
    """

    notes: Mapping[str, Any] = field(default_factory=dict)
    lines: Sequence[str] = ()
    left_out: str = ""
    wrong: str = ""
    failed: str = ""
    error: Exception | None = None


class StepFailed(Exception):
    """A step failed in another process; its cause is the traceback there."""


def sendable(error: Exception) -> Exception:
    """An error as another process can have it, whatever modules there are: of the kind that decides what it does to a
    run, and of its exit code (`shell.do`, `run.main`); of other kinds `StepFailed`, with its line."""
    if isinstance(error, RunError):
        return (Stopped if isinstance(error, Stopped) else RunError)(str(error))
    if isinstance(error, OSError) and error.errno is not None:
        return OSError(error.errno, error.strerror, error.filename, None, error.filename2)
    kind = next((kind for kind in (OSError, MemoryError) if isinstance(error, kind)), StepFailed)
    return kind(line_of(error))


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
        version: of the melano_tf that asks.
        folder: of the command: what its relative paths mean.
        shared: the run's folder.
        held: who holds that.
        configured: TensorFlow's threads; None: it is not at work for this run yet.
    """

    def __init__(self, recipe: Recipe, settings: Any, threads: int) -> None:
        self.recipe, self.settings, self.threads = recipe, settings, threads
        self.name = run_name(settings.out)
        self.version, self.folder = __version__, Path.cwd()
        self.shared = Path(settings.out).absolute()
        self.held = holder_of(self.shared)
        self.configured: int | None = None
        self.worker: Any = None
        self.helper: Helper | None = None

    def setup(self, worker: Any) -> None:
        """Nothing is imported yet: that is left to the first step, which may take its time."""
        self.worker = worker

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """The process as it works, for one piece of work at a time, also where a worker has several threads.

        Raises:
            InputError: the folder of the command is not there, or not the run's, or the version is another one (of a
                worker that came after `dask_cluster.opened` looked), or TensorFlow is at work there in another way.
        """
        with _ONE:
            try:
                os.chdir(self.folder)
            except OSError as error:
                line = f"{self.folder}: {error.strerror}; workers must see it, too"
                raise InputError(f"worker {self.worker.address}: {line}") from None
            if self.configured is None:
                check_version(self.worker.address, __version__, self.version)
                check_shared(self.worker.address, self.shared, holder_of(self.shared), self.held)
                self.configured = self._configure()
            yield

    def _configure(self) -> int:
        import_quietly()
        try:
            return configure(self.threads, deterministic=self.settings.deterministic)
        except InputError as error:  # for example of TensorFlow, which another run has begun there
            raise InputError(f"worker {self.worker.address}: {error}") from None

    def do(self, asked: Asked) -> Outcome:
        """Do one step."""
        try:
            with self.alone():
                return self._do(asked)
        except InputError as error:
            return Outcome(wrong=str(error))

    def _do(self, asked: Asked) -> Outcome:
        lines: list[str] = []
        try:
            helper = self._ready()
            step, run, work = helper.ready(asked), helper.run, helper.work
            lines = run.lines
            run.show = functools.partial(self._show, asked.name, self.worker.get_current_task())
            run.show("begun")
            run.perform(asked.name, asked.key, inputs_of(work, step), functools.partial(act, work, step))
        except LeftOut as reason:
            return Outcome(lines=lines, left_out=str(reason))
        except InputError as error:
            return Outcome(lines=lines, wrong=str(error))
        except Exception as error:
            return Outcome(lines=lines, failed=traceback.format_exc(), error=sendable(error))
        return Outcome(run.notes, lines)

    def _show(self, step: str, task: Any, text: str) -> None:
        """Send on how far a step is.

        Raises:
            Stopped: nobody waits for it any more; what goes on with it elsewhere has its files to itself.
        """
        known = self.worker.state.tasks.get(task)
        if known is None or known.state != "executing":
            raise Stopped(f"{step}: the command that asked for it has ended")
        self.worker.log_event(self.name, {"step": step, "text": text})

    def _ready(self) -> Helper:
        if self.helper is None:
            assert self.configured is not None
            self.helper = Helper(self.recipe, self.settings, self.configured)
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
        Stopped: the processes of a step died again and again, or the scheduler is gone.
    """
    left = list(steps)
    while left and _nothing_to_do(work, left[0]):  # a run that is finished starts no process
        do(work, left.pop(0))
    if not left:
        return
    with opened(work) as client, loss_named(work.settings.scheduler):
        hands = Hands(recipe, work.settings, work.settings.threads_each())
        client.register_plugin(hands)
        work.engine = far_engine(client, hands.name, _threads_of_items(client, work))
        try:
            with _Board(client, work) as board:
                _hand_out(client, work, left, board)
        finally:
            work.engine = None
        client.unregister_worker_plugin(hands.name)  # a cluster outlives its runs


def _threads_of_items(client: Any, work: Work) -> int:
    """For a slide or a block of images: the share of each process in this machine; of a cluster what Dask gave each."""
    if work.settings.scheduler:
        return int(work.settings.workers) or min(client.nthreads().values(), default=1)
    return max(1, work.workers // int(work.settings.processes()))


def _hand_out(client: Any, work: Work, steps: Sequence[Step], board: "_Board") -> None:
    left, open_ = list(steps), dict[Any, Step]()
    places = {step.name: place for place, step in enumerate(steps)}
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
                open_[_handed(client, work, step, places[step.name])] = step
                board.more(step.name)
        if open_:
            wait_for_one(client, list(open_))
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


def _handed(client: Any, work: Work, step: Step, place: int) -> Any:
    work.run.begin(step.name)
    asked, name = Asked.of(work, step), run_name(work.run.folder)
    # Dask does a task once for all who hand it out under one name: also for another run, or for this one given again.
    key = f"{step.name}-{asked.key}-{uuid.uuid4().hex}"
    # In the plan's order; of what is handed out in one moment Dask would take the names' order.
    return client.submit(do_far, name, asked, key=key, pure=False, priority=-place)


def _taken_back(work: Work, step: Step, future: Any) -> None:
    """Record what came of a step, as if it had been done here."""

    def end(work: Work, step: Step) -> str:
        try:
            with loss_named(work.settings.scheduler):
                outcome: Outcome = future.result()
        except distributed.KilledWorker:
            raise Stopped(
                f"{step.name}: its process died again and again (memory?); the same command goes on from its checkpoint"
            ) from None
        if outcome.lines:
            with tqdm.external_write_mode():  # no line stands in the bar's
                for line in outcome.lines:
                    work.hear(line)
        if outcome.left_out:
            raise LeftOut(outcome.left_out)
        if outcome.wrong:
            raise InputError(outcome.wrong)
        if outcome.error is not None:
            raise outcome.error from FarTraceback(outcome.failed)
        if outcome.notes:
            work.run.note(**outcome.notes)
        key = work.run.key(step.name, inputs_of(work, step))
        work.run.end(step.name, key)
        return key

    do(work, step, end)


class _Board:
    """One bar over all steps that are handed out, with what is going on in each process; in a file, lines."""

    def __init__(self, client: Any, work: Work) -> None:
        self.client, self.work, self.topic = client, work, run_name(work.run.folder)
        self.going: dict[str, str] = {}
        self.handed = self.ended = 0
        self.said = time.monotonic()
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
        begun = " | ".join(f"{name} {text}" for name, text in list(self.going.items()) if text)
        self.bar.set_postfix_str(begun)
        if self.bar.disable and begun and time.monotonic() - self.said >= SAY_S:  # into a file
            self.said = time.monotonic()
            self.work.say(f"  at work: {begun}")

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
        if self.bar.disable:
            self.work.say(f"  {name}: ended, {self.ended} of {self.handed} handed out")
