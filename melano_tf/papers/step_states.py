"""What a step's result is known by, and whether it stands finished."""

from collections.abc import Callable, Collection, Mapping
from typing import Any, Protocol

from melano_tf.papers.plan import Backbone, Step
from melano_tf.runs.file_integrity import mapping
from melano_tf.runs.replaced_results import replaced
from melano_tf.runs.run_folder import AS_BEFORE, Run
from melano_tf.runs.settings_digest import flat, plain

TO_DO = "to do"  # how the state of a step begins that is not finished
Finished = Callable[[Run, str, str], bool]


class Known(Protocol):
    """What is known of a run's steps: `shell.Work`."""

    run: Run
    weights: Mapping[Backbone, str | None]

    def has(self, step: str) -> bool:
        """Whether a step stands finished."""
        ...

    def identity(self, step: str) -> str:
        """What a finished step's result is known by."""
        ...

    def finish(self, step: str, identity: str) -> None:
        """Remember a finished step."""
        ...


def inputs_of(work: Known, step: Step) -> dict[str, Any]:
    """All that a step's result depends on, as its key is made of it."""
    inputs: dict[str, Any] = plain(step.depends)
    if step.needs:
        inputs["needs"] = {name: work.identity(name) for name in step.needs}
    if step.weights:
        inputs["weights"] = [work.weights.get(network) for network in step.weights]
    if step.computes:
        used = {name: work.run.settings.get(name, before) for name, before in AS_BEFORE.items()}
        inputs |= {name: how for name, how in used.items() if how != AS_BEFORE[name]}
    return inputs


def recorded_key(run: Run, name: str) -> str | None:
    """The key under which a step was finished last; None: it was not, or what it was made of was replaced since."""
    known = run.folder / "steps" / f"{name}.json"
    state = mapping(known) if known.is_file() else {}
    return None if replaced(run.folder, state) else state.get("key")


def state_of(
    work: Known, step: Step, recorded: Mapping[str, str], finished: Finished, more: Collection[str] = ()
) -> str:
    """ "finished", or "to do" and why; what is finished is remembered, for those that stand on it.

    Args:
        work, step: which.
        recorded: what was found by the steps that are looked at anew.
        finished: (run, name of a step, key) -> whether it stands finished under it.
        more: steps looked at anew of which more is asked for now (`Step.asks`): what stands on one directly is to do,
            and what stands on that knows it by what was looked at, which stays as it was.
    """
    if step.always:
        if step.name in recorded and all(map(work.has, step.needs)):
            work.finish(step.name, recorded[step.name])
        return "looked at anew each time"
    if lacking := [name for name in step.needs if not work.has(name)]:
        return f"{TO_DO}, after {lacking[0]}"
    known, inputs = work.run.folder / "steps" / f"{step.name}.json", inputs_of(work, step)
    key = work.run.key(step.name, inputs)
    if finished(work.run, step.name, key):
        work.finish(step.name, key)
        grown = [name for name in step.needs if name in more]
        return f"{TO_DO}: more is {grown[0]}" if grown else "finished"
    if step.taken:
        return "left alone (not asked for)"
    if not known.is_file():
        return TO_DO
    state = mapping(known)
    if state.get("key") == key:
        others = replaced(work.run.folder, state)
        return (
            f"{TO_DO}: {f'{others[0]} came to another result since' if others else 'a file of its result is missing'}"
        )
    recorded_inputs = state.get("inputs")
    before, now = flat(recorded_inputs if isinstance(recorded_inputs, dict) else {}), flat(inputs)
    changed = [name for name in {**before, **now} if before.get(name) != now.get(name)]
    return f"{TO_DO}: {', '.join(changed[:3]) or 'the version'} changed" + (", …" if len(changed) > 3 else "")
