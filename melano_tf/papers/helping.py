"""A process that helps with single steps of a run whose folder and record another one holds."""

import contextlib
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from melano_tf.errors import InputError
from melano_tf.papers.initial_weights import weights_of
from melano_tf.papers.plan import Recipe, Step
from melano_tf.papers.shell import Looked, Work, planned
from melano_tf.papers.step_states import inputs_of
from melano_tf.runs.run_folder import Run
from melano_tf.runs.settings_digest import digest, flat
from melano_tf.training.loop import ProgressBar


@dataclass(frozen=True)
class Asked:
    """What another process is told of a step.

    Attributes:
        name: of the step.
        key: under which it is finished.
        inputs: all that its result depends on, of which the key is made.
        identities: of the steps that it stands on, as `Work.identity` gives them.
        left_out, failed: as in `Work`.
    """

    name: str
    key: str
    inputs: Mapping[str, Any]
    identities: Mapping[str, str]
    left_out: Mapping[str, str]
    failed: Mapping[str, str]

    @classmethod
    def of(cls, work: Work, step: Step) -> "Asked":
        """A step as the process that holds the record knows it."""
        inputs = inputs_of(work, step)
        key = work.run.key(step.name, inputs)
        return cls(step.name, key, inputs, work.identities(), dict(work.left_out), dict(work.failed))


class HelpingRun(Run):
    """A run's folder for a process that does single steps of it: it writes their files, and nothing of the record.

    Attributes:
        notes, lines: what the process that holds the record is to note and to say.
    """

    def __init__(self, folder: Path, recipe: str, settings: Any, threads: int, show: Callable[[str], None]) -> None:
        super().__init__(folder, recipe, settings, threads, say=self._keep)
        self.notes: dict[str, Any] = {}
        self.lines: list[str] = []
        self.bars = self._bar
        self.show = show

    def note(self, **content: Any) -> None:
        """Kept for the process that holds the record."""
        self.notes |= content

    def _keep(self, line: str) -> None:
        self.lines.append(line)

    def stands_on(self, *parts: str) -> None:
        """Said by the process that holds the record."""

    def made_output(self, files: Iterable[Path], output: str, stands_on: Mapping[str, str | None]) -> None:
        """As `stands_on`."""

    @contextlib.contextmanager
    def _bar(self, name: str, epochs: int, steps_per_epoch: int) -> Iterator[ProgressBar]:
        """A training's progress, sent on once a second."""
        last = 0.0

        def show(done: int, loss: float, waiting: float) -> None:
            nonlocal last
            if time.monotonic() - last >= 1:
                last = time.monotonic()
                epoch = min(done // max(steps_per_epoch, 1) + 1, epochs)
                self.show(f"epoch {epoch}/{epochs} loss {loss:.3f} waiting {waiting:.0%}")

        yield show


class Helper:
    """A run's plan in a process that helps, and what its steps looked at.

    Args:
        recipe, settings: of the run.
        threads: of TensorFlow.

    Raises:
        InputError: as `shell.planned` and `initial_weights.weights_of`.
    """

    def __init__(self, recipe: Recipe, settings: Any, threads: int) -> None:
        self.plan, steps, _ = planned(recipe, settings)
        self.run = HelpingRun(Path(settings.out), recipe.name, settings, threads, lambda text: None)
        self.work = Work(self.run, settings, weights_of(steps))
        self.work.decides = False

    def ready(self, asked: Asked) -> Step:
        """The step that is asked for, once all that it stands on is known as the process that asks knows it.

        Raises:
            InputError: see `look` and `check_same`, or as `initial_weights.weights_of`.
        """
        self.work.left_out, self.work.failed = dict(asked.left_out), dict(asked.failed)
        for name in self.plan.below([asked.name])[:-1]:
            look(self.work, self.plan.steps[name], asked.identities[name])
        self.run.notes, self.run.lines = {}, []
        step = self.plan.steps[asked.name]
        self.work.weights = {**self.work.weights, **weights_of([step])}  # as the files are now that it begins
        check_same(self.work, step, asked)
        return step


def look(work: Work, step: Step, identity: str) -> None:
    """Know a step as the process that asks knows it; what is looked at anew must be what it saw there.

    Raises:
        InputError: it is something else.
    """
    if step.always and not (work.has(step.name) and work.identity(step.name) == identity):
        found: Looked = step.does(work, *step.args)
        if digest(found.content) != identity:
            raise InputError(
                f"{work.run.folder}: {step.name} is not what it was when the run began; were files changed?"
            )
        work.values[step.name] = found.value
    work.finish(step.name, identity)


def check_same(work: Work, step: Step, asked: Asked) -> None:
    """A step's result depends here on what it depends on in the process that asks: it is finished under its key.

    Raises:
        InputError: it does not, for example where a file of initial weights is another one; names what differs.
    """
    inputs = inputs_of(work, step)
    if work.run.key(step.name, inputs) == asked.key:
        return

    def facts(inputs: Mapping[str, Any]) -> dict[str, Any]:
        others = {name: value for name, value in inputs.items() if name != "weights"}
        networks = zip(step.weights, inputs.get("weights", ()), strict=False)
        return flat(others) | {f"the weights {given!r} of {name}": content for (name, given, _), content in networks}

    here, there = facts(inputs), facts(asked.inputs)
    differs = [name for name in {**there, **here} if here.get(name) != there.get(name)]
    raise InputError(
        f"{work.run.folder}: {step.name} stands on something else on {socket.gethostname()} than where the run was "
        f"begun ({', '.join(differs) or 'the version'}); all must have the same files and the same melano_tf"
    )
