"""What a run is about to cost, told before its first hour: samples, steps, hours on this machine, memory, disk."""

from __future__ import annotations

import contextlib
import gc
import heapq
import importlib
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from tqdm import tqdm

from melano_tf.dermoscopy.isic_records import Findings, read_isic
from melano_tf.environment import cores
from melano_tf.errors import InputError, RunError
from melano_tf.papers.plan import Extent, Load, Recipe, Step
from melano_tf.pipelines.processes import WorkerDied, spread
from melano_tf.pipelines.slide_apart import SlideApart
from melano_tf.slides.magnifications import TileGrids
from melano_tf.slides.slide_manifest import read_manifest
from melano_tf.slides.tiling import TileGrid, grid_origins
from melano_tf.specs import load_spec

if TYPE_CHECKING:
    from melano_tf.training.pace import Pace

GIB = 2**30
FEW_PICTURES = 10_000  # fewer in all are begun unmeasured: an hour or two, of the papers' largest network on two cores
LONG_HOURS = 24.0
JPEG_BYTES = 0.36  # a pixel of a stored tile: CMU-1-Small-Region cut as spitzoid cuts it, quality 90


@dataclass
class Bill:
    """What trainings that are still to be done cost.

    Attributes:
        lines: for the person at the terminal.
        hours: until the last of them ends, as many at a time as the settings say; None: not measured.
    """

    lines: list[str] = field(default_factory=list)
    hours: float | None = None


@dataclass(frozen=True)
class Training:
    """One that is to be done, and what was measured of its network.

    Attributes:
        name: of its step in the plan.
        load: what is known of it beforehand.
        steps: of the optimiser, at most.
        pace: of its network, measured alone.
        over: devices that each batch is spread over.
    """

    name: str
    load: Load
    steps: int
    pace: Pace
    over: int

    @property
    def step_seconds(self) -> float:
        """Of one step on one device."""
        return self.pace.seconds * self.load.pictures * self.load.passes

    @property
    def seconds(self) -> float:
        """Of all of them."""
        return self.step_seconds * self.steps / self.over


def extent_of(recipe: Recipe, settings: Any) -> Extent:
    """How large the cohort is; see `Extent`."""
    module, _, function = recipe.extent.partition(":")
    found: Extent = getattr(importlib.import_module(module), function)(settings)
    return found


def steps_of(load: Load, extent: Extent) -> int:
    """Steps of the trainings of one step of a plan, at most; where they have too few for `least`, about."""
    samples = math.ceil(load.share * extent.counts[load.of])
    if load.most is not None:
        samples = min(samples, load.most)
    steps = load.epochs * math.ceil(samples / load.batch)
    return load.times * steps * max(1, math.ceil(load.least / max(1, steps)))


def bill(recipe: Recipe, settings: Any, steps: Sequence[Step], undone: Sequence[Step], measured: bool) -> Bill:
    """What is about to be done costs this.

    Args:
        recipe, settings: whose.
        steps: all that are wanted, in the plan's order: they say which training waits for which.
        undone: those of them that are to be done.
        measured: whether three steps of each network may be measured for it, where there is so much to do that it is
            worth the time, or --plan asks for nothing else.

    Raises:
        InputError: a file is wrong, or not even a few pictures of a network fit into the device's memory.
    """
    if not recipe.extent:
        return Bill()
    extent = extent_of(recipe, settings)
    loads = {step.name: step.load for step in undone if step.load is not None}
    counts = {name: steps_of(load, extent) for name, load in loads.items()}
    counted = ", ".join(f"{count:,} {name}" for name, count in extent.counts.items())
    number, steps_in_all = sum(load.times for load in loads.values()), sum(counts.values())
    found = Bill([f"cost      {counted} at most; {number} trainings to do, {steps_in_all:,} steps"])
    disk, pictures = dict(extent.disk), sum(counts[name] * load.pictures for name, load in loads.items())
    if measured and loads and (settings.plan or pictures >= FEW_PICTURES):
        began, devices = time.monotonic(), _devices(settings)
        over = {name: devices if load.spread else 1 for name, load in loads.items()}
        paces = _paces(settings, {load.network: (load, over[name]) for name, load in loads.items()}, extent.instances)
        trainings = [
            Training(name, load, counts[name], paces[load.network], over[name]) for name, load in loads.items()
        ]
        took = f" (measured in {time.monotonic() - began:.0f} s)"
        seconds = {training.name: training.seconds for training in trainings}
        found.hours = side_by_side(steps, seconds, at_a_time(settings)) / 3600
        found.lines += _networks_told(settings, trainings, extent.instances)
        found.lines += [_hours_told(settings, steps, seconds, found.hours) + took, _memory_told(settings, trainings)]
        disk["models"] = sum(training.pace.saved * training.load.models for training in trainings)
    if disk:
        sizes = ", ".join(f"{name} {size / GIB:.1f}" for name, size in disk.items())
        found.lines.append(f"cost      disk, GiB: {sizes}")
    return found


def side_by_side(steps: Sequence[Step], seconds: Mapping[str, float], places: float) -> float:
    """Seconds until the last of these trainings ends, each of which begins as `dask_jobs` hands it out: in the plan's
    order, once all that it stands on is done and a place is free.

    Args:
        steps: in the plan's order.
        seconds: of each that takes time worth counting, by name.
        places: trainings that go on at a time.
    """
    left, waiting = list(steps), {step.name for step in steps}
    going: list[tuple[float, str]] = []
    now = 0.0
    while left or going:
        for step in list(left):
            if waiting.isdisjoint(step.needs) and (step.name not in seconds or len(going) < places):
                left.remove(step)
                if step.name in seconds:
                    heapq.heappush(going, (now + seconds[step.name], step.name))
                else:
                    waiting.discard(step.name)
        if going:
            now, ended = heapq.heappop(going)
            waiting.discard(ended)
    return now


def at_a_time(settings: Any) -> int:
    """Trainings that go on side by side, each as fast as if it were alone: one on each of --gpus, or on a processor as
    many of --jobs as have cores for their threads. Processes that share one GPU are not counted, nor is a cluster whose
    machines are not known here."""
    if settings.gpus:
        return len(settings.gpus)
    if settings.scheduler or not settings.spread_out or has_gpu():
        return 1
    return max(1, min(settings.processes(), cores() // settings.threads_each()))


Networks = Mapping[str, tuple[Load, int]]  # what is known of a training, and over how many devices a batch is spread


def _paces(settings: Any, networks: Networks, instances: tuple[int, int]) -> dict[str, Pace]:
    """Of each network, by what it is called. Before others train on this machine's GPUs it is measured in a process
    that ends: this one would hold what it took of a GPU's memory until the run does.

    Raises:
        RunError: that process was killed.
    """
    if settings.plan or not settings.spread_out or not has_gpu():
        return _paces_here(settings, networks, instances)
    import cloudpickle  # with Dask, which hands the trainings out; pickle has no functions within functions

    [(_, found)] = spread(_paces_there, [cloudpickle.dumps((settings, networks, instances))], 1)
    if isinstance(found, WorkerDied):
        raise RunError(f"measuring {', '.join(networks)}: its process was killed twice; is the machine out of memory?")
    return found


def _paces_there(content: bytes) -> dict[str, Pace]:
    """In a process of its own: with the threads of a training, on the first of --gpus."""
    import cloudpickle

    from melano_tf.training.tensorflow_runtime import configure, import_quietly

    import_quietly()
    import tensorflow as tf

    settings, networks, instances = cloudpickle.loads(content)
    configure(settings.threads_each(), deterministic=settings.deterministic)
    if settings.gpus:
        tf.config.set_visible_devices(tf.config.list_physical_devices("GPU")[settings.gpus[0]], "GPU")
    return _paces_here(settings, networks, instances)


def _paces_here(settings: Any, networks: Networks, instances: tuple[int, int]) -> dict[str, Pace]:
    """Of each network, by what it is called, measured with the threads that a training has."""
    from melano_tf.training.pace import FEW, measure
    from melano_tf.training.tensorflow_runtime import computing_in

    found: dict[str, Pace] = {}
    with computing_in(settings.precision), tqdm(networks.items(), desc="measuring", unit="network", leave=False) as bar:
        for name, (load, over) in bar:
            pictures = load.bag or math.ceil(load.batch / over)
            parts = 0 if load.whole else settings.micro_batch
            # A bag of more tiles than are held at a time is embedded twice, in chunks: at least two of them.
            few = 2 * load.held if 0 < load.held < load.bag else FEW
            found[name] = measure(load.build, pictures, load.step, bool(load.bag), instances, parts, few)
            if has_gpu():
                gc.collect()  # a network holds itself, and with it the device's memory
    return found


def _networks_told(settings: Any, trainings: Sequence[Training], instances: tuple[int, int]) -> list[str]:
    """A line for each network: its trainings, one after the other; and one more where a step of it did not fit."""
    lines = []
    for network in dict.fromkeys(training.load.network for training in trainings):
        own = [training for training in trainings if training.load.network == network]
        load, over, pace = own[0].load, own[0].over, own[0].pace
        lines.append(
            f"cost      {network}: {sum(each.load.times for each in own)} trainings, "
            f"{sum(each.steps for each in own):,} steps of "
            f"{own[0].step_seconds:.3g} s (measured with {pace.pictures} of {load.bag or load.batch} "
            f"{_measured(load, instances)}): {told(sum(each.seconds for each in own) / 3600)}"
            + (f" on {over} devices" if over > 1 else "")
        )
        if not pace.fits:
            held = load.at_once(settings.micro_batch, over)
            parts = "" if load.whole or load.bag or settings.mirror else " or give --micro-batch"
            lines.append(
                f"cost      {network}: there is no memory here for a step of {held} pictures at a time: "
                f"take a smaller batch{parts}"
            )
    return lines


def told(hours: float) -> str:
    """A time for people: of less than an hour its minutes."""
    return f"{hours:,.1f} h" if hours >= 1 else f"{60 * hours:.1f} min"


def _hours_told(settings: Any, steps: Sequence[Step], seconds: Mapping[str, float], hours: float) -> str:
    """The line with the hours of all trainings."""
    alone, chain = sum(seconds.values()) / 3600, side_by_side(steps, seconds, math.inf) / 3600
    apart = f"{told(alone)} one after the other, {told(chain)} the longest chain of them"
    if settings.gpus:
        return f"cost      {told(hours)} on {len(settings.gpus)} GPUs, one training on each, in all at most ({apart})"
    devices, here = _devices(settings), "a GPU" if has_gpu() else "this processor"
    line = f"cost      {told(hours)} on {f'{devices} devices' if devices > 1 else here} in all at most"
    if settings.scheduler:
        return f"{line}, one after the other; what the cluster is and how many it does at a time is not known here"
    if (places := at_a_time(settings)) > 1:
        threads = f"{settings.threads_each()} thread{'s' * (settings.threads_each() > 1)} each"
        together = f"{places} at a time of {threads}, if they do not slow each other"
        return f"{line.removesuffix(' at most')}, {together} ({apart})"
    shared = ": its processes share the device" if settings.spread_out else ""
    return f"{line}, one after the other{shared}"


def _memory_told(settings: Any, trainings: Sequence[Training]) -> str:
    """The line with what the widest training needs."""
    widest = ("", 0)
    for training in trainings:
        load, pace = training.load, training.pace
        kept = load.at_once(settings.micro_batch, training.over)
        widest = max(widest, (load.network, pace.state + kept * pace.activations), key=lambda pair: pair[1])
    where = "the GPU's memory" if has_gpu() else "memory"
    cache = f", and up to {settings.cache_mib / 1024:.1f} for tiles held" if hasattr(settings, "cache_mib") else ""
    each = f", in each of {settings.processes()} processes" if settings.processes() > 1 else ""
    return f"cost      {where}, GiB: about {widest[1] / GIB:.1f} for a step of {widest[0]}{cache}{each}"


def _measured(load: Load, instances: tuple[int, int]) -> str:
    """What the steps of a network were measured with."""
    return f"bags of {instances[0]:,} instances" if load.of == "bags" else "pictures"


def _devices(settings: Any) -> int:
    """Over how many a training is spread: the GPUs (or processors, without any) of all hosts, as many on each."""
    from melano_tf.training.hosts import cluster

    if not settings.mirror:
        return 1
    there = cluster()
    return (len(there.addresses) if there else 1) * max(1, _gpus())


def has_gpu() -> bool:
    """Whether TensorFlow sees one here."""
    return _gpus() > 0


def _gpus() -> int:
    import tensorflow as tf

    return len(tf.config.list_physical_devices("GPU"))


def check_affordable(found: Bill, settings: Any) -> None:
    """Long runs want a GPU, or a yes.

    Raises:
        InputError: more than a day without a GPU, and nobody said yes.
    """
    if found.hours is None or found.hours <= LONG_HOURS or settings.yes or settings.scheduler or has_gpu():
        return
    raise InputError(
        f"this machine has no GPU, and the run would take it about {found.hours / 24:,.1f} days; --yes begins all the "
        "same, --plan only tells, --preset demo is sized for two cores"
    )


def slides_extent(settings: Any, spec: str, grid: TileGrid | TileGrids, drawn: Any) -> Extent:
    """Slides and the tiles that their grids have, with background: of the user's files, whose headers are read, or of
    phantoms.

    Args:
        settings: of a recipe on slides.
        spec: name of the data set's description.
        grid: how slides are cut.
        drawn: the phantoms' settings.
    """
    grids = [grid.at(name) for name in grid.names] if isinstance(grid, TileGrids) else [grid]
    sizes: list[tuple[tuple[int, int], tuple[float, float]]] = []
    if settings.slides is not None:
        for row in read_manifest(settings.slides, load_spec(spec)).to_dict("records"):
            mpp = row["mpp"] if row["mpp"] == row["mpp"] else None
            # A slide that cannot be used is left out with its reason when it is cut, and costs nothing.
            with (
                contextlib.suppress(InputError),
                SlideApart(Path(row["path"]), slide_id=row["slide_id"], mpp=mpp) as slide,
            ):
                sizes.append((slide.size, slide.mpp))
    else:
        count = drawn.patients + round(drawn.patients * drawn.second_slide_share)
        width, height = (round(4 * sum(each) / 2) for each in (drawn.width_um, drawn.height_um))  # at 0.25 µm/px
        sizes = [((width, height), (0.25, 0.25))] * count
    tiles = sum(len(grid_origins(size, mpp, own)) for size, mpp in sizes for own in grids)
    disk = {"tiles": round(tiles * settings.store.stored_px**2 * JPEG_BYTES)}
    return Extent({"slides": len(sizes), "tiles": tiles}, disk)


def images_extent(settings: Any, check: Callable[[Path, pd.DataFrame, Findings], None] | None = None) -> Extent:
    """Images: those of the user's tables, or the phantoms' lesions with their further views.

    Args:
        settings: of a recipe on images.
        check: raises InputError where the paper needs other tables than these.

    Raises:
        InputError: what is wrong with the tables, before anything is measured.
    """
    if settings.table:
        records, findings = read_isic(settings.table)
        if check is not None:
            check(Path(settings.table[0]), records, findings)
        count = len(records)
    else:
        drawn = settings.phantom
        lesions = drawn.patients * sum(drawn.lesions_per_patient) / 2
        views = 1 + drawn.second_view_share + drawn.second_view_share**2
        count = round(lesions * views * (1 + drawn.duplicate_share))
    return Extent({"images": count}, {"decoded images": count * settings.store.stored_px**2 * 3})
