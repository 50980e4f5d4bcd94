"""The one shell of all recipes: says what a plan is, checks it, walks it, says what was found, writes the report."""

import functools
import importlib
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from melano_tf.environment import cores
from melano_tf.errors import InputError, RunError
from melano_tf.papers.checks_beforehand import check_folders
from melano_tf.papers.costs import Bill, bill, check_affordable
from melano_tf.papers.initial_weights import given_weights, local_weights, weights_of
from melano_tf.papers.plan import Backbone, Output, Plan, Recipe, Step, chosen_groups
from melano_tf.papers.step_states import TO_DO, Finished, inputs_of, recorded_key, state_of
from melano_tf.pipelines.decoding_threads import decoding_with
from melano_tf.pipelines.processes import Engine
from melano_tf.reports.report_html import write_report
from melano_tf.runs import journal
from melano_tf.runs.atomic_files import atomic
from melano_tf.runs.run_folder import Run
from melano_tf.runs.settings_digest import digest
from melano_tf.training.tensorflow_runtime import configure, kernels_named

Say = Callable[[str], None]
Made = TypeVar("Made")


class LeftOut(Exception):
    """A step finds that it cannot be done with these data; it is left out with this reason, and the others go on."""


class Stopped(RunError):
    """What ends a run also in a step where others could go on."""


@dataclass(frozen=True)
class Looked:
    """What an `always` step gives.

    Attributes:
        value: for those that stand on it (`Work.value`); None of a check, which is no part of what results stand on.
        content: all of it that their results depend on, as JSON holds it; its digest is the step's identity.
        asked: what earlier sessions asked for that stands in it too, as `Step.asks` names it.
    """

    value: Any
    content: Any
    asked: Iterable[str] = ()


class Work:
    """What a step's function is given beside its own arguments: the run, its settings, and what other steps made.

    Attributes:
        run: the open run.
        settings: of the recipe.
        weights: SHA-256 of each network's initial weights, by `Step.weights`; None without a file.
        scratch: a folder for the unfinished work of the step at hand, which survives a kill.
        written: files of the outputs made so far.
        values: what the `always` steps gave, by name.
        left_out: {step that these data do not allow: why}.
        failed: {step that failed: why}.
        engine: what cuts slides and decodes images elsewhere; None: processes and threads of this machine.
        decides: whether this process says what of the run is finished; False where it only helps with single steps.
    """

    decides = True

    def __init__(self, run: Run, settings: Any, weights: Mapping[Backbone, str | None]) -> None:
        self.run, self.settings, self.weights = run, settings, weights
        self.scratch = run.folder
        self.written: list[Path] = []
        self.values: dict[str, Any] = {}
        self.left_out: dict[str, str] = {}
        self.failed: dict[str, str] = {}
        self.engine: Engine | None = None
        self._identities: dict[str, str] = {}
        self._held: dict[str, Any] = {}
        self._alone: dict[str, tuple[Any, Any]] = {}
        self._said, self._heard = set[str](), set[str]()

    def say(self, line: str) -> None:
        """Show a line to the person at the terminal, unless `hear` did."""
        if line not in self._heard:
            self._said.add(line)
            self.run.say(line)

    def hear(self, line: str) -> None:
        """Show a line of another process, once: what is said where a file is first read is said in each of them."""
        if line not in self._said:
            self.say(line)
            self._heard.add(line)

    @property
    def workers(self) -> int:
        """Threads and processes for slides and images: as set, or one a core; of a process that helps its share."""
        found = int(self.settings.workers) or cores()
        return found if self.decides else max(1, found // int(self.settings.processes()))

    def path(self, *parts: str) -> Path:
        """A path inside the run's folder, its parent made."""
        return self.run.path(*parts)

    def value(self, step: str) -> Any:
        """What an `always` step gave."""
        return self.values[step]

    def has(self, step: str) -> bool:
        """Whether a step stands finished."""
        return step in self._identities

    def identity(self, step: str) -> str:
        """What a finished step's result is known by: its key, or (`always`) the content of what it wrote."""
        return self._identities[step]

    def identities(self) -> dict[str, str]:
        """Of all finished steps, by name."""
        return dict(self._identities)

    def once(self, step: str, make: Callable[[], Made]) -> Made:
        """What is read from a finished step's files, held for as long as they stay the same."""
        key = f"{step}/{self.identity(step)}"
        if key not in self._held:
            self._held[key] = make()
        return self._held[key]

    def drop(self, step: str) -> None:
        """Forget what `once` holds of a step."""
        for key in [key for key in self._held if key.startswith(f"{step}/")]:
            del self._held[key]

    def alone(self, what: str, kind: Any, make: Callable[[], Made]) -> Made:
        """What many steps share and is too large to stand twice, such as a network that is traced: held until another
        kind takes its place.

        Args:
            what: of which one stands at a time.
            kind: what it is known by; compared with that of the one that stands.
            make: makes it, after the other one is forgotten.
        """
        if what in self._alone and self._alone[what][0] != kind:
            del self._alone[what]
        if what not in self._alone:
            self._alone[what] = (kind, make())
        made: Made = self._alone[what][1]
        return made

    def finish(self, step: str, identity: str) -> None:
        """Remember a finished step."""
        self._identities[step] = identity


def walk(recipe: Recipe, work: Work, steps: Iterable[Step]) -> None:
    """Do the steps one after the other, in this process."""
    for step in steps:
        do(work, step)


def reproduce(
    recipe: Recipe, settings: Any, say: Say, walk: Callable[[Recipe, Work, Sequence[Step]], None] = walk
) -> Path:
    """Do what the settings ask for, or what is missing of it; returns the run's folder.

    Args:
        recipe, settings: what to do.
        say: shows a line to the person at the terminal.
        walk: does the steps; `papers.dask_jobs.walk` hands them to other processes.

    Raises:
        InputError: a setting or an input file is wrong.
        RunError: a tolerant step failed; all others are done, and the outputs are made of them.
    """
    settings.check_running()
    # First: a method may build a network to look at it.
    threads = configure(settings.threads_each(), settings.mirror and not settings.plan, settings.deterministic)
    check_folders(settings)
    plan, steps, outputs = planned(recipe, settings)
    announce(recipe, settings, say)
    if settings.plan:
        return show(recipe, settings, steps, outputs, say)
    weights = weights_of(steps)
    check_affordable(told_costs(recipe, settings, steps, weights, say), settings)
    with Run(settings.out, recipe.name, settings, threads, say) as run:
        run.note(differs=recipe.changes(settings), report=recipe.told(settings.preset), judged=plan.judged)
        work = Work(run, settings, weights)
        walk(recipe, work, steps)
        run.settle()
        run.note(failed={plan.steps[name].called: why for name, why in work.failed.items()}, left_out=work.left_out)
        for output in outputs:
            make(work, output)
        folder = finish(work, plan)
    if work.failed:
        raise failure(work, steps)
    return folder


def failure(work: Work, steps: Iterable[Step]) -> RunError:
    """What is said of tolerant steps that failed, among how many of their kind."""
    kinds = {name.partition("/")[0] for name in work.failed}
    asked = [step for step in steps if step.name.partition("/")[0] in kinds and not step.taken]
    names = [step.called for step in asked if step.name in work.failed]
    return RunError(
        f"{len(names)} of {len(asked)} trainings failed ({', '.join(names[:5])}{', …' * (len(names) > 5)}); their "
        "cells are empty, failed/*.txt says why, and the same command tries them again"
    )


def planned(recipe: Recipe, settings: Any) -> tuple[Plan, list[Step], list[Output]]:
    """The plan of these settings, and what of it is asked for.

    Raises:
        InputError: a setting or an input file is wrong, as far as it can be known before anything is done.
    """
    module, _, function = recipe.method.partition(":")
    plan: Plan = getattr(importlib.import_module(module), function)(settings)
    return plan, *plan.wanted(chosen_groups(settings.steps, plan.groups))


def announce(recipe: Recipe, settings: Any, say: Say) -> None:
    """Say what this is, which preset, on what data, and every setting that differs from the paper's."""
    say(f"{recipe.name}: {recipe.about}. Research only.")
    if not getattr(settings, recipe.data):
        say(f"These are PHANTOMS: {recipe.drawn} drawn by this program. Their numbers say nothing of real skin.")
    differs, whose = recipe.changes(settings), f"the {recipe.base}'s"
    colon = ":" if differs else ""
    say(f"preset {settings.preset}, seed {settings.seed}; {len(differs)} settings differ from {whose}{colon}")
    for name, here, there in differs:
        say(f"  {name:<28} {here}  ({recipe.base}: {there})")
    if not settings.deterministic:
        say("--no-deterministic: a training that is interrupted and goes on ends with other bits than one that is not")


def keep(work: Work, step: Step) -> str:
    """Do a step unless it is finished under the same key, which is returned."""

    return work.run.step(step.name, inputs_of(work, step), functools.partial(act, work, step))


def act(work: Work, step: Step, scratch: Path) -> list[Path]:
    """Do a step, with a folder for its unfinished work; returns the files that it wrote."""
    work.scratch = scratch
    with kernels_named(), decoding_with(work.workers):
        return list(step.does(work, *step.args))


def do(work: Work, step: Step, act: Callable[[Work, Step], str] = keep) -> None:
    """Do one step unless it is finished; a need that is missing leaves it out.

    Args:
        work, step: which.
        act: does it, and returns its key.
    """
    if lacking := [name for name in step.needs if not work.has(name)]:
        why = work.left_out.get(lacking[0]) or work.failed.get(lacking[0]) or "it is not asked for"
        work.left_out[step.name] = f"{lacking[0]} is missing: {why}"
        return
    if step.taken:
        take(work, step)
        return
    try:
        if step.always:
            look(work, step)
        else:
            stand(work, step, act(work, step))
    except LeftOut as reason:
        work.left_out[step.name] = str(reason)
        work.say(f"  {reason}")
    except (InputError, Stopped, OSError, KeyboardInterrupt):  # bad input, or a full disk, would fail them all
        raise
    except Exception as error:
        if not step.tolerant:
            raise
        note_failure(work, step, error)
    else:
        journal.remove(work.run.folder / "failed" / f"{step.called}.txt")


def stand(work: Work, step: Step, key: str) -> None:
    """A step stands finished under a key: its model's sidecar is made to say what the training does not depend on."""
    if step.restate is not None:
        step.restate(work, *step.args)
        work.run.settle()
    work.finish(step.name, key)


def take(work: Work, step: Step) -> None:
    """Take a step that is not asked for where it stands finished from before."""
    if work.run.finished(step.name, work.run.key(step.name, inputs_of(work, step))):
        stand(work, step, keep(work, step))


def look(work: Work, step: Step) -> None:
    """Do an `always` step, and record what its result is known by."""
    found = step.does(work, *step.args)
    identity = digest(found.content)
    work.values[step.name] = found.value
    work.finish(step.name, identity)
    aside = step.by_choice or found.value is None
    kind = "chosen" if aside else "looked_at"
    known = {**work.run.record().get(kind, {}), step.name: identity}
    work.run.note(**{kind: known})
    if step.asks:
        asked = sorted({*step.asks, *found.asked})
        work.run.note(asked={**work.run.record().get("asked", {}), step.name: asked})
    if not aside:  # with what earlier sessions of the same settings looked at and this one does not ask for
        looked_at = [f"{name}: {known[name]}" for name in sorted(known)]
        work.run.stands_on(*looked_at, *given_weights(work.settings))


def note_failure(work: Work, step: Step, error: Exception) -> None:
    """Keep what a tolerant step failed with, and go on."""
    work.failed[step.name] = " ".join(str(error).split()) or type(error).__name__
    with atomic(work.path("failed", f"{step.called}.txt")) as temporary:
        temporary.write_text(traceback.format_exc(), encoding="utf-8")
    work.say(f"FAILED    {step.called}: {work.failed[step.name][:300]}")


def make(work: Work, output: Output) -> None:
    """Make one output of what its steps left; said where it cannot be made."""
    if output.makes is None:
        return
    if output.needs and not any(map(work.has, output.needs)):
        first = output.needs[0]
        why = work.left_out.get(first) or work.failed.get(first) or "it is not asked for"
        work.say(f"{output.name} is not made: {first}: {why}")
        return
    files = list(output.makes(work, *output.args))
    work.written += files
    known = {name: work.identity(name) if work.has(name) else None for name in output.needs}
    work.run.made_output(files, output.name, known)


def finish(work: Work, plan: Plan) -> Path:
    """Say what was done, what was kept from before, what was found, and where it lies; write the report."""
    run, say = work.run, work.say
    run.note(durations=run.durations())
    kept = len(set(run.kept) - set(run.repeated))  # what is made once and asked for again was not kept from before
    say("")
    say(f"did {len(run.repeated)} steps" + (f", kept {kept} finished ones from before" if kept else ""))
    for line in plan.found(work):
        say(line)
    for folder in dict.fromkeys(path.parent for path in work.written):
        names = [path.name for path in work.written if path.parent == folder]
        say(f"{folder.name:<8}  {folder} ({len(names)} files)")
    if models := plan.models(work):
        say(f"models    {run.folder / 'models'} ({models})")
    say(f"record    {run.folder / 'run.json'}")
    write_report(run.folder, say)
    return run.folder


def show(recipe: Recipe, settings: Any, steps: Sequence[Step], outputs: Iterable[Output], say: Say) -> Path:
    """`--plan`: every step, whether it is finished, would be done and why, what would be made, and what it would cost;
    nothing is done."""
    states, differ = states_of(recipe, settings, steps, local_weights(steps), Run.finished)
    if differ:
        say("settings differ from the last session's: finished below means, if what is looked at anew is as it was")
    for step, words in states:
        say(f"  {step.name:<44} {words}")
    for output in outputs:
        if output.makes is not None:
            say(f"  {output.name:<44} made of {len(output.needs)} steps")
    undone = [step for step, words in states if words.startswith(TO_DO) and not step.taken]
    for line in bill(recipe, settings, steps, undone, measured=True).lines:
        say(line)
    say(f"{len(undone)} steps would be done; nothing was done (--plan)")
    return Path(settings.out)


def told_costs(
    recipe: Recipe, settings: Any, steps: Sequence[Step], weights: Mapping[Backbone, str | None], say: Say
) -> Bill:
    """Say what the steps that are not finished are about to cost; of a demo only how many there are."""
    # By its key alone: whether a finished step's files are whole is looked at when its turn comes.
    states, _ = states_of(recipe, settings, steps, weights, lambda run, name, key: recorded_key(run, name) == key)
    undone = [step for step, words in states if words.startswith(TO_DO) and not step.taken]
    found = bill(recipe, settings, steps, undone, measured=settings.preset != "demo")
    for line in found.lines:
        say(line)
    return found


def states_of(
    recipe: Recipe, settings: Any, steps: Iterable[Step], weights: Mapping[Backbone, str | None], finished: Finished
) -> tuple[list[tuple[Step, str]], bool]:
    """Each step with `state_of` it, and whether the settings differ from those of the run's last session."""
    run = Run(Path(settings.out), recipe.name, settings, 0, print)
    record, work = run.record(), Work(run, settings, weights)
    recorded = {**record.get("looked_at", {}), **record.get("chosen", {})}
    # What is looked at anew may be found otherwise under other settings: that is not known before it is looked at.
    differ = bool(recorded) and record.get("plan", {}).get("settings") != run.settings_key()
    asked, steps = record.get("asked", {}), list(steps)
    # A session of an earlier version did not write down what it asked for.
    more = [step.name for step in steps if isinstance(had := asked.get(step.name), list) and set(step.asks) - {*had}]
    return [(step, state_of(work, step, recorded, finished, more)) for step in steps], differ
