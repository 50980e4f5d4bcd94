"""What a run is about to cost, told before its first hour: samples, steps, hours on this machine, memory, disk."""

import contextlib
import importlib
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
from tqdm import tqdm

from melano_tf.dermoscopy.isic_records import Findings, read_isic
from melano_tf.errors import InputError
from melano_tf.papers.plan import Extent, Load, Recipe, Step
from melano_tf.pipelines.slide_apart import SlideApart
from melano_tf.slides.magnifications import TileGrids
from melano_tf.slides.slide_manifest import read_manifest
from melano_tf.slides.tiling import TileGrid, grid_origins
from melano_tf.specs import load_spec

GIB = 2**30
FEW_STEPS = 2000  # fewer in all are begun without being measured: it would take longer than it tells
LONG_HOURS = 24.0
JPEG_BYTES = 0.36  # a pixel of a stored tile: CMU-1-Small-Region cut as spitzoid cuts it, quality 90


@dataclass
class Bill:
    """What trainings that are still to be done cost.

    Attributes:
        lines: for the person at the terminal.
        hours: of all of them on this machine, one after the other; None: not measured.
    """

    lines: list[str] = field(default_factory=list)
    hours: float | None = None


def extent_of(recipe: Recipe, settings: Any) -> Extent:
    """How large the cohort is; see `Extent`."""
    module, _, function = recipe.extent.partition(":")
    found: Extent = getattr(importlib.import_module(module), function)(settings)
    return found


def steps_of(load: Load, extent: Extent) -> int:
    """Steps of one training, at most."""
    samples = math.ceil(load.share * extent.counts[load.of])
    if load.most is not None:
        samples = min(samples, load.most)
    return load.epochs * math.ceil(samples / load.batch)


def bill(recipe: Recipe, settings: Any, undone: Sequence[Step], measured: bool) -> Bill:
    """What is about to be done costs this.

    Args:
        recipe, settings: whose.
        undone: the steps to be done.
        measured: whether three steps of each network may be measured for it.
    """
    if not recipe.extent:
        return Bill()
    extent, trainings = extent_of(recipe, settings), [step for step in undone if step.load is not None]
    counted = ", ".join(f"{count:,} {name}" for name, count in extent.counts.items())
    steps = {step.name: steps_of(step.load, extent) for step in trainings if step.load is not None}
    found = Bill([f"cost      {counted} at most; {len(trainings)} trainings to do, {sum(steps.values()):,} steps"])
    disk = dict(extent.disk)
    if trainings and measured and sum(steps.values()) >= FEW_STEPS:
        disk["models"] = _measure(found, settings, trainings, steps, extent.instances)
    if disk:
        told = ", ".join(f"{name} {size / GIB:.1f}" for name, size in disk.items())
        found.lines.append(f"cost      disk, GiB: {told}")
    return found


def _measure(
    found: Bill, settings: Any, trainings: Sequence[Step], steps: dict[str, int], instances: tuple[int, int]
) -> int:
    """Add hours and memory to a bill; returns the bytes of all models."""
    from melano_tf.training.pace import Pace, measure
    from melano_tf.training.tensorflow_runtime import computing_in

    gpu, paces, began = has_gpu(), dict[str, Pace](), time.monotonic()
    devices = _devices(settings)
    loads = {step.load.network: step.load for step in trainings if step.load is not None}
    with computing_in(settings.precision), tqdm(loads.items(), desc="measuring", unit="network", leave=False) as bar:
        for name, load in bar:
            paces[name] = measure(load.build, load.bag or load.batch, load.step, bool(load.bag), instances)
    seconds, saved, widest = 0.0, 0, ("", 0)
    for name, load in loads.items():
        pace, own = paces[name], [step.name for step in trainings if step.load and step.load.network == name]
        each = pace.seconds * load.batch * (load.bag or 1) * load.passes
        over = devices if load.spread else 1
        hours = each * sum(steps[step] for step in own) / 3600 / over
        kept = math.ceil((load.held or settings.micro_batch or load.batch) / over)
        memory = pace.state + kept * pace.activations
        widest = max(widest, (name, memory), key=lambda pair: pair[1])
        seconds, saved = seconds + 3600 * hours, saved + len(own) * pace.saved
        found.lines.append(
            f"cost      {name}: {len(own)} trainings, {sum(steps[step] for step in own):,} steps of {each:.3g} s "
            f"(measured with {pace.pictures} of {load.bag or load.batch} {_measured(load, instances)}): {hours:,.1f} h"
            + (f" on {over} devices" if over > 1 else "")
        )
    found.hours = seconds / 3600 / max(1, len(settings.gpus))
    where = "the GPU's memory" if gpu else "memory"
    cache = f", and up to {settings.cache_mib / 1024:.1f} for tiles held" if hasattr(settings, "cache_mib") else ""
    here = f"on {len(settings.gpus) or 'a'} GPU" if gpu else "on this processor"
    on = f"on {devices} devices" if devices > 1 else here
    found.lines += [
        f"cost      {found.hours:,.1f} h {on} in all at most (measured in {time.monotonic() - began:.0f} s)",
        f"cost      {where}, GiB: about {widest[1] / GIB:.1f} for a step of {widest[0]}{cache}",
    ]
    return saved


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
