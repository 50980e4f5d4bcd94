"""A recipe as a plan: named steps, and the tables, figures and models that they are for. Making one does nothing.

A step says what it needs (other steps), what its result depends on beside them, and the function that does it. An
output (a table, a figure) says which steps it needs. `Plan.wanted` is then what somebody's choice of outputs asks for,
and no more. Names, dependencies and functions of a module are plain data: another process can be handed them.
"""

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from melano_tf.errors import InputError
from melano_tf.papers.settings_values import differing
from melano_tf.runs.judgements import JudgedModel
from melano_tf.runs.settings_digest import plain

# Settings of every recipe that are no part of a method: what to read, where to write, how many processes.
ASIDE = (
    "out",
    "preset",
    "seed",
    "tables",
    "figures",
    "steps",
    "plan",
    "workers",
    "threads",
    "mirror",
    "jobs",
    "gpus",
    "scheduler",
    "deterministic",
    "yes",
)


Backbone = tuple[str, str, int]  # its name, its initial weights, the side of its images in pixels


@dataclass(frozen=True)
class Load:
    """What a training costs, as far as it is known before its data are.

    Attributes:
        network: what is trained, in words; trainings with the same words cost the same a sample.
        build: () -> the network with its optimiser (`training.fit.Network`); nothing is fetched for it.
        epochs: how many, at most.
        batch: samples a step.
        of: what a sample is: "tiles", "images", "slides" or "bags", as the recipe's `Extent` counts them.
        share: of all of them, in an epoch.
        most: samples of an epoch at most; None: no limit.
        bag: tiles of a slide's bag at most; 0: a sample is one picture.
        held: tiles of a bag whose activations are held at a time; 0: all.
        step: (network) -> what is done with a batch; None: a gradient step.
        passes: how many times the work of that step a sample is (a teacher that is asked as well).
        whole: its loss compares the samples of a batch, which --micro-batch leaves whole.
        least: steps at least: where all epochs together have fewer, they are multiplied.
        times: trainings of this size that the step does, one after the other.
        models: files with its weights that stay.
    """

    network: str
    build: Callable[[], Any]
    epochs: int
    batch: int
    of: str
    share: float
    most: int | None = None
    bag: int = 0
    held: int = 0
    step: Callable[[Any], Any] | None = None
    passes: float = 1.0
    whole: bool = False
    least: int = 0
    times: int = 1
    models: int = 1

    @property
    def spread(self) -> bool:
        """Whether --mirror spreads its batches over devices: not what takes a bag at a time."""
        return not self.bag and self.of != "bags"

    @property
    def pictures(self) -> int:
        """Of a step."""
        return self.batch * (self.bag or 1)

    def at_once(self, micro_batch: int, devices: int) -> int:
        """Pictures of a step whose activations one of so many devices holds at a time."""
        if self.bag:
            return min(self.held or self.bag, self.bag)
        own = math.ceil(self.batch / devices)
        return own if self.whole else min(micro_batch or own, own)


@dataclass(frozen=True)
class Extent:
    """How large a cohort is, before it is read: counts and bytes on disk, by what they are of. Counts of what is not
    known yet are the most that it can be. Of bags of features also the instances of one: on average, and at most."""

    counts: Mapping[str, int]
    disk: Mapping[str, int] = field(default_factory=dict)
    instances: tuple[int, int] = (1, 1)


@dataclass(frozen=True)
class Step:
    """One named piece of work of which a finished result is kept.

    Attributes:
        name: as `steps/<name>.json` and the progress call it; may hold slashes.
        group: the word of `--steps` that it belongs to.
        does: (work, *args) -> the files that it wrote (of an `always` step: `shell.Looked`). A function of a module.
        args: what else it is called with.
        depends: all that the result depends on beside `needs` and `weights`: settings, the seed.
        needs: names of the steps that it stands on.
        weights: (backbone, initial weights, side of its images in pixels) of the networks that it builds; looked at
            before the first step, and the weights' content is part of the key.
        always: cheap, and looked at anew each time (a table that is read, a split that is drawn). Its identity is the
            content of what it found, so that what needs it is done again only if that has changed; it is not counted.
        by_choice: of an `always` step: what it finds depends on the tables and figures asked for (which tiles are cut,
            which tasks there are), so that it is no part of what says whether an earlier session's results still stand.
        asks: of a `by_choice` step: what of it is asked for, by names; what is asked for once stays.
        taken: not to be done, but taken where it stands finished from before (`--cells`).
        tolerant: a training where others go on if it fails; what needs it is left out.
        here: done in this process, though trainings are handed to others: it shares out its slides or images itself
            (`Work.engine`), or takes all cores.
        restate: (work, *args), called whenever the step stands finished, also from before: lets its model's sidecar say
            what the training does not depend on, for example a threshold (`Run.restate`).
        load: of a training: what it costs; None: little beside the others.
    """

    name: str
    group: str
    does: Callable[..., Any]
    args: tuple[Any, ...] = ()
    depends: Mapping[str, Any] = field(default_factory=dict)
    needs: tuple[str, ...] = ()
    weights: tuple[Backbone, ...] = ()
    always: bool = False
    by_choice: bool = False
    asks: tuple[str, ...] = ()
    taken: bool = False
    tolerant: bool = False
    here: bool = False
    restate: Callable[..., None] | None = None
    load: Load | None = field(default=None, compare=False)

    @property
    def computes(self) -> bool:
        """Whether networks may have a part in it: not in what only looks, tiles or decodes."""
        return not (self.always or self.here)

    @property
    def called(self) -> str:
        """Its name within its group, as failures call it: "flat" for "train/flat" of the group "train"."""
        return self.name.removeprefix(f"{self.group}/")


@dataclass(frozen=True)
class Output:
    """What a recipe is asked for: a table, a figure, the model for use.

    Attributes:
        name: for example "table 2".
        group: the word of `--steps` that it belongs to.
        needs: names of the steps that it stands on.
        makes: (work, *args) -> the files that it wrote; None: the steps are all (a model).
        args: what else it is called with.
    """

    name: str
    group: str
    needs: tuple[str, ...]
    makes: Callable[..., Iterable[Path]] | None = None
    args: tuple[Any, ...] = ()


@dataclass
class Plan:
    """The steps of a recipe in the order of its paper, and its outputs.

    Attributes:
        groups: the words of `--steps`, in order.
        found: (work) -> the lines with the main results, said last.
        models: (work) -> which models are there and what takes them; "" where none is.
        judged: by which predictions its models are judged, in the order of the report; also those not asked for.
        steps: by name.
        outputs: those that are asked for, by name.
    """

    groups: tuple[str, ...]
    found: Callable[..., Iterable[str]]
    models: Callable[..., str]
    judged: Sequence[JudgedModel] = ()
    steps: dict[str, Step] = field(default_factory=dict)
    outputs: dict[str, Output] = field(default_factory=dict)

    def step(self, name: str, does: Callable[..., Any], *args: Any, needs: Iterable[str] = (), **facts: Any) -> str:
        """Add a step (once: the same name again changes nothing) and return its name, for what needs it.

        Args:
            name, does, args, needs, facts: of `Step`; `group` is the name up to its first slash where it is not given.

        Raises:
            ValueError: an unknown group, a need that no earlier step has, or another step of this name.
        """
        group = facts.pop("group", name.partition("/")[0])
        step = Step(name, group, does, args, needs=tuple(dict.fromkeys(needs)), **facts)
        if group not in self.groups:
            raise ValueError(f"step {name!r}: no group {group!r} among {self.groups}")
        if unknown := [need for need in step.needs if need not in self.steps]:
            raise ValueError(f"step {name!r} needs {unknown[0]!r}, which is no earlier step")
        if self.steps.setdefault(name, step) != step:
            raise ValueError(f"two different steps are called {name!r}")
        return name

    def output(
        self, name: str, group: str, needs: Iterable[str], makes: Callable[..., Iterable[Path]] | None, *args: Any
    ) -> None:
        """Add something that is asked for.

        Raises:
            ValueError: as `step`.
        """
        output = Output(name, group, tuple(dict.fromkeys(needs)), makes, args)
        if group not in self.groups:
            raise ValueError(f"output {name!r}: no group {group!r} among {self.groups}")
        if unknown := [need for need in output.needs if need not in self.steps]:
            raise ValueError(f"output {name!r} needs {unknown[0]!r}, which is no step")
        if name in self.outputs:
            raise ValueError(f"two outputs are called {name!r}")
        self.outputs[name] = output

    def below(self, names: Iterable[str], taken: bool = True) -> list[str]:
        """These steps and all that they stand on, in the plan's order; without `taken` not through steps that are."""
        found: set[str] = set()
        left = list(names)
        while left:
            name = left.pop()
            if name not in found and (taken or not self.steps[name].taken):
                found.add(name)
                left.extend(self.steps[name].needs)
        return [name for name in self.steps if name in found]

    def wanted(self, groups: Sequence[str]) -> tuple[list[Step], list[Output]]:
        """What is to be done for these words of `--steps`: steps in order, and outputs.

        A step of a group is wanted where an output of the plan stands on it: what no table or figure asked for needs is
        not done. What only steps stand on that are taken is taken too.

        Raises:
            InputError: an unknown word.
        """
        if unknown := [name for name in groups if name not in self.groups]:
            raise InputError(f"--steps: no step {unknown[0]!r}; there are {', '.join(self.groups)}, or all")
        outputs = [output for output in self.outputs.values() if output.group in groups]
        needs = [need for output in self.outputs.values() for need in output.needs]
        asked_for, done = set(self.below(needs)), set(self.below(needs, taken=False))
        roots = [step.name for step in self.steps.values() if step.group in groups and step.name in asked_for]
        roots += [need for output in outputs for need in output.needs]
        steps = [self.steps[name] for name in self.below(roots)]
        return [s if s.always or s.name in done else dataclasses.replace(s, taken=True) for s in steps], outputs


def chosen_groups(text: str, groups: Sequence[str]) -> tuple[str, ...]:
    """The words of a `--steps` option in the recipe's order; "all" for all of them.

    Raises:
        InputError: an unknown word, or none.
    """
    if text.strip().lower() == "all":
        return tuple(groups)
    asked = [name.strip() for name in text.split(",") if name.strip()]
    unknown = [name for name in asked if name not in groups]
    if unknown or not asked:
        named = repr(unknown[0]) if unknown else "is named"
        raise InputError(f"--steps {text}: no step {named}; there are {', '.join(groups)}, or all")
    return tuple(name for name in groups if name in asked)


@dataclass(frozen=True)
class ReportWords:
    """What a report says of a paper.

    Attributes:
        title: of the report: the question in a line.
        paper: its title.
        asked: the question in a sentence or two.
        method: the steps, a sentence each.
        groups: whom the intervals count as independent.
        pictures: (pattern of file names below figures/ and maps/, what they show), in the order of the report; what no
            pattern fits is shown behind.
    """

    title: str
    paper: str
    asked: str
    method: tuple[str, ...]
    groups: str = "patients or lesions"
    pictures: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Recipe:
    """One paper: its words, its settings, and the function that makes its plan.

    Attributes:
        name: of the command.
        about: what it is, in one line.
        data: the setting that names a user's own data; without it phantoms are drawn.
        drawn: what phantoms are of: "slides" or "images".
        preset: a name of `presets` -> the settings.
        method: where the plan is made, "module:function"; imported when it is needed, for it brings TensorFlow.
        aside: settings that are no part of the method beside those of every recipe (`ASIDE`) and `data`.
        groups: groups of settings that are none, for example "phantom".
        presets: names that `--preset` takes: first what settings are compared with (the paper's), then the demo.
        small: those of them whose networks leave a core idle, so that several trainings go on at a time.
        on_phantoms: settings of another preset -> what they are where no data are given.
        words: for its report.
        words_of: {preset: words in their place}, where it does something else than the paper.
        case: what is judged, where that is not what is drawn: "bags".
        extent: how large the cohort of some settings is, "module:function"; "": what a run costs is not told.
    """

    name: str
    about: str
    data: str
    drawn: str
    preset: Callable[[str], Any]
    method: str
    aside: tuple[str, ...] = ()
    groups: tuple[str, ...] = ("phantom",)
    presets: tuple[str, ...] = ("paper", "demo")
    small: tuple[str, ...] = ("demo",)
    on_phantoms: Callable[[Any], Any] = lambda settings: settings
    words: ReportWords | None = None
    words_of: Mapping[str, ReportWords] = field(default_factory=dict)
    case: str = ""
    extent: str = ""

    @property
    def base(self) -> str:
        """The preset that settings are compared with: "paper", or "default" of a recipe that stands on no paper."""
        return self.presets[0]

    def default(self, preset: str | None, data: bool) -> Any:
        """The settings that a command's options change.

        Args:
            preset: as --preset says; None: not given; one that is not known is left for the parser to refuse.
            data: whether the user names data.
        """
        chosen = preset or (self.base if data else "demo")
        settings = self.preset(chosen if chosen in self.presets else self.base)
        return settings if data or chosen in (self.base, "demo") else self.on_phantoms(settings)

    def told(self, preset: str) -> dict[str, Any]:
        """What a run records of its recipe, for the report."""
        words = self.words_of.get(preset, self.words) or ReportWords(f"{self.name}: {self.about}", "", "", ())
        return {**plain(words), "data": self.data, "case": self.case or self.drawn}

    def changes(self, settings: Any) -> list[tuple[str, object, object]]:
        """(name, value here, value in the paper) of every setting of the method that differs from the paper's."""
        return differing(settings, self.preset(self.base), (*ASIDE, self.data, *self.aside), self.groups)
