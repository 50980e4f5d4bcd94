# %% [markdown]
# # Rehearsal: each paper preset at its true size, interrupted once
#
# The true network, input, batch and bag of each recipe (`--preset paper`), on few phantom slides or images: the command
# is given as a user gives it, killed in the middle of a training, given again, and stopped once it has done enough
# steps. What is smaller than the paper's is the data alone, and how many trainings are begun. Initial weights are
# random: what they are does not matter to the clock.
#
# Printed, a line a training: the steps done, where the second session went on, seconds a step (the median of what the
# progress bar shows, without each session's first steps, which trace the graph; a smaller last batch of an epoch is one
# of them) and the largest resident memory of the process.
#
# Command: `python experiments/rehearsal.py --slide CMU-1-Small-Region.svs`
#
# Measured: docs/benchmarks.md.
# %%
import argparse
import contextlib
import itertools
import json
import os
import re
import select
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

GIB = 2**30
BAG = "spitzoid-bag"  # by `train_on_a_bag`


@dataclass(frozen=True)
class Rehearsal:
    """What of a recipe is rehearsed.

    Attributes:
        recipe: its name.
        what: the network, its input and its batch, for the table.
        stem: of the training that is watched, as its progress bar calls it.
        arguments: that leave everything about a training as the paper has it.
    """

    recipe: str
    what: str
    stem: str
    arguments: tuple[str, ...]


# Large enough for several whole batches an epoch.
SLIDES = (
    *("--phantom.patients", "24", "--phantom.malignant-share", "0.5", "--phantom.second-slide-share", "0"),
    *("--phantom.width-um", "3600", "3650", "--phantom.height-um", "2400", "2450"),
)
IMAGES = ("--phantom.height-px", "256", "--phantom.patients")
REHEARSALS = (
    Rehearsal("zoome", "ResNeXt50-ZooME, 224 px, batch 64", "zoome", ("--steps", "model", *IMAGES, "90")),
    Rehearsal(
        "similarity",
        "ResNet50 (teacher), 224 px, batch 16 x 4",
        "teacher",
        ("--steps", "cluster", *IMAGES, "90", "--phantom.sources", "HAM", "BCN"),
    ),
    Rehearsal(
        "multimag",
        "ResNet50, 256 px, batch 64",
        "",
        # All magnifications mixed: at 4x these slides have not one whole batch.
        ("--tables", "2", "--figures", "none", "--model.weights", "none", *SLIDES[:2], *SLIDES[4:]),
    ),
    Rehearsal(
        "weighting",
        "VGG16 with CBAM, 299 px, batch 20",
        "",
        (
            *("--tables", "2", "--strategies", "none", "--losses", "cel", "--network.weights", "none"),
            *("--splits.count", "1", "--figures", "none", *IMAGES, "60"),
        ),
    ),
    Rehearsal(
        "spitzoid",
        "SeaNet-VGG16 (source), 224 px, batch 64",
        "source",
        ("--tables", "5", "--figures", "none", "--source.weights", "none", *SLIDES),
    ),
    Rehearsal(BAG, "SeaNet-VGG16 with BGAS (target), 224 px, a bag of 300 tiles, chunk 16", "bag", ()),
)


# %% [markdown]
# The target model's bag cannot be had from small phantoms: its 300 tiles are cut from a real slide (`--slide`), and the
# project's loop trains on that one bag.
# %%
def train_on_a_bag(slide: Path, folder: Path, steps: int, threads: int) -> None:
    """The spitzoid paper's target model on 300 tiles of a slide, again and again, from its checkpoint if it has one."""
    import tensorflow as tf

    from melano_tf.models.biopsy_classifier import build_target, split_target
    from melano_tf.models.seanet import build_source
    from melano_tf.papers.spitzoid.settings import preset
    from melano_tf.papers.spitzoid.target_model import diagnosis_loss, optimizer_of
    from melano_tf.slides.slide import Slide
    from melano_tf.training.exact_bags import BagStep
    from melano_tf.training.loop import LoopSettings, train
    from melano_tf.training.progress import bar_over_epochs
    from melano_tf.training.tensorflow_runtime import configure

    configure(threads)
    paper = preset("paper")
    used, px = paper.target, paper.source.input_px
    with Slide(slide) as opened:
        side, mpp = paper.grid.tile_px * paper.grid.mpp, paper.grid.tile_px * paper.grid.mpp / px
        free = [size * own - side for size, own in zip(opened.size, opened.mpp, strict=True)]
        places = np.random.default_rng(0).uniform(0, 1, (used.max_tiles, 2)) * free / opened.mpp
        tiles = np.stack([opened.read(*place, px, mpp) for place in places.tolist()])

    class Bags:
        steps_per_epoch = 1

        def from_step(self, step: int) -> Iterator[dict[str, Any]]:
            while True:
                yield {"x": tf.constant(tiles), "y": tf.constant([1]), "id": tf.constant(["bag"])}

    source = build_source("vgg16", px, seanet=True, head="gmp", weights="none", freeze="first_block", seed=0)
    model, optimizer = build_target(source, used.aggregation, used.attention_units, seed=0), optimizer_of(paper)
    step = BagStep(*split_target(model), optimizer, diagnosis_loss, chunk=used.chunk)
    with bar_over_epochs("bag", steps, 1) as bar:
        train(step, Bags(), LoopSettings(steps), folder, model, optimizer, progress=bar)


# %%
@dataclass
class Seen:
    """What one session of a command showed.

    Attributes:
        points: (seconds on the clock, steps done) of the watched training.
        peak: largest resident memory of the process, bytes.
        ended: how it ended by itself; None: it was stopped.
        tail: the last of what it showed.
    """

    points: list[tuple[float, int]]
    peak: int
    ended: int | None
    tail: str


def resident_peak(pid: int) -> int:
    """VmHWM of a process in bytes; 0 once it is gone."""
    with contextlib.suppress(OSError, IndexError, ValueError):
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        return 1024 * int(next(line for line in lines if line.startswith("VmHWM")).split()[1])
    return 0


def watched(command: list[str], stem: str) -> Iterator[Seen]:
    """Run a command and yield what was seen, again and again, until it ends or nobody asks any more: it is killed."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True)
    assert process.stdout is not None
    shown = process.stdout.fileno()
    bar = re.compile(rf"\r({re.escape(stem) if stem else '[a-z0-9-]+'}): +\d+%\|[^|]*\| (\d+)/\d+ \[[^\r]*step")
    seen, text, name = Seen([], 0, None, ""), "", stem
    try:
        while True:
            seen.peak = max(seen.peak, resident_peak(process.pid))
            if select.select([shown], [], [], 0.2)[0]:
                piece = os.read(shown, 65536)
                if not piece:
                    seen.ended = process.wait()
                    yield seen
                    return
                text = (text + piece.decode(errors="replace"))[-20_000:]
            seen.tail = text[-1500:]
            for found in bar.finditer(text):
                name = name or found.group(1)
                done = int(found.group(2))
                if found.group(1) == name and (not seen.points or done > seen.points[-1][1]):
                    seen.points.append((time.monotonic(), done))
            yield seen
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()


def session(command: list[str], stem: str, until: int, checkpoint: Path | None) -> Seen:
    """One session, stopped once so many steps are done; where `checkpoint` is named, once something of them is kept."""
    for seen in watched(command, stem):
        enough = seen.points and seen.points[-1][1] >= until
        if seen.ended is not None or (enough and (checkpoint is None or any(checkpoint.rglob("checkpoint.npz")))):
            break
    if seen.ended:
        raise SystemExit(f"{' '.join(command)}\nended with {seen.ended}:\n{seen.tail}")
    return seen


def kept_step(folder: Path) -> int:
    """The step of the newest checkpoint below a folder: where the next session goes on."""
    found = []
    for file in folder.rglob("checkpoint*.npz"):
        with contextlib.suppress(OSError, ValueError, zipfile.BadZipFile), np.load(file) as arrays:
            found.append(json.loads(arrays["header"].tobytes())["state"]["step"])
    return max(found)


def pace(points: list[tuple[float, int]]) -> list[float]:
    """Seconds a step between what the bar showed, without the first two steps of a session."""
    kept = points[2:] if len(points) > 4 else points[1:]
    return [(b[0] - a[0]) / (b[1] - a[1]) for a, b in itertools.pairwise(kept)]


def rehearse(one: Rehearsal, given: argparse.Namespace, folder: Path, more: list[str]) -> dict[str, object]:
    """Two sessions of one recipe; returns a row of the table."""
    out, steps = folder / one.recipe, given.steps
    command = [sys.executable, "-m", "melano_tf.run", one.recipe, "--preset", "paper", "--out", str(out), "--yes"]
    command += ["--threads", str(given.threads), *one.arguments, *more]
    if one.recipe == BAG:
        command = [sys.executable, __file__, "--slide", str(given.slide), "--bag", str(out), "--steps", str(steps)]
        command += ["--threads", str(given.threads)]
    first = session(command, one.stem, steps // 2, out)
    kept = kept_step(out)
    second = session(command, one.stem, steps, None)
    rates = pace(first.points) + pace(second.points)
    return {
        "recipe": one.recipe,
        "what": one.what,
        "steps": second.points[-1][1] if second.points else first.points[-1][1],
        "killed after": first.points[-1][1],
        "went on at": kept,
        "seconds a step": round(statistics.median(rates), 2) if rates else None,
        "peak GiB": round(max(first.peak, second.peak) / GIB, 2),
        "load": round(os.getloadavg()[0], 1),
        "command": " ".join(command[2:]),
    }


# %% [markdown]
# What the whole of a paper would take on one GPU, as an ESTIMATE: pictures through training steps, each as dear as its
# network's multiply-adds are many beside ResNet50's at 224 px, at the published 808 images/s of ResNet50 v1.5 on one
# A100 (TF32, XLA, batch 256: NVIDIA DeepLearningExamples, TensorFlow/Classification/ConvNets/resnet50v1.5). Cutting,
# decoding, clustering, judging are not in it. The cohorts: as many images as the papers name, multimag's caps, and
# for spitzoid 53 slides of 80,000 x 60,000 px at 0.25 µm/px with all their background, so that it is the most.
# %%
PUBLISHED = 808.0  # images/s
PAPER_SLIDE = ((80_000, 60_000), (0.25, 0.25))
COHORTS: dict[str, dict[str, int]] = {
    "spitzoid": {"slides": 53},
    "multimag": {"tiles": 10**9},
    "zoome": {"images": 33_126},
    "similarity": {"images": 25_331},
    "weighting": {"images": 10_015},
}


def multiply_adds(model: Any) -> float:
    """Of one picture through a functional model's convolutions and dense layers."""
    total = 0.0
    for layer in model._flatten_layers(include_self=False):
        kernel = getattr(layer, "kernel", None)
        if len(getattr(kernel, "shape", ())) not in (2, 4):
            continue
        places = int(np.prod(layer.output.shape[1:3])) if len(kernel.shape) == 4 else 1
        total += float(np.prod(kernel.shape)) * places  # a grouped kernel's shape holds its group's inputs alone
    return total


def estimate(recipe: str) -> dict[str, object]:
    """Trainings, pictures and hours of a paper preset."""
    import importlib

    from melano_tf.models.seanet import build_source
    from melano_tf.papers.costs import steps_of
    from melano_tf.papers.plan import Extent
    from melano_tf.papers.shell import planned
    from melano_tf.slides.tiling import grid_origins

    found = importlib.import_module(f"melano_tf.papers.{recipe}.settings").RECIPE
    settings, counts = found.preset("paper"), COHORTS[recipe]
    if recipe == "spitzoid":
        counts = {**counts, "tiles": counts["slides"] * len(grid_origins(*PAPER_SLIDE, settings.grid))}
    loads = [step.load for step in planned(found, settings)[1] if step.load is not None]
    unit = multiply_adds(build_source("resnet50", 224, seanet=False, head="gap", weights="none", seed=0))
    cost = {load.network: multiply_adds(load.build().trained) / unit for load in {x.network: x for x in loads}.values()}
    pictures, hours = 0.0, 0.0
    for load in loads:
        asked = steps_of(load, Extent(counts)) * load.batch * (load.bag or 1)
        pictures += asked
        # A bag's tiles go through the network once more, forwards: a third of a step.
        hours += asked * load.passes * (4 / 3 if load.bag else 1) * cost[load.network] / PUBLISHED / 3600
    return {
        "recipe": recipe,
        "trainings": sum(load.times for load in loads),
        "pictures through steps": f"{pictures:.3g}",
        "hours on one A100, ESTIMATE": round(hours),
        "multiply-adds beside ResNet50's": {name: round(value, 2) for name, value in cost.items()},
    }


# %%
if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Each paper preset at its true size, interrupted once.")
    parser.add_argument("recipes", nargs="*", help=f"of {', '.join(each.recipe for each in REHEARSALS)}; none: all")
    parser.add_argument("--steps", type=int, default=20, help="of each training")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--slide", type=Path, default=None, help=f"that the bag of {BAG} is cut from")
    parser.add_argument("--out", type=Path, default=None, help="folder of the runs; not given: one that is removed")
    parser.add_argument("--bag", type=Path, default=None, help="train on that bag, in this folder, and nothing else")
    parser.add_argument("--estimate", action="store_true", help="only tell what a whole paper would take on a GPU")
    given, others = parser.parse_known_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the command that is watched ends as well
    if given.estimate:
        for name in given.recipes or COHORTS:
            print(json.dumps(estimate(name)), flush=True)
        sys.exit()
    if given.bag is not None:
        train_on_a_bag(given.slide, given.bag, given.steps, given.threads)
        sys.exit()
    with tempfile.TemporaryDirectory() as scratch:
        for each in REHEARSALS:
            if each.recipe in (given.recipes or [each.recipe]):
                print(json.dumps(rehearse(each, given, given.out or Path(scratch), others)), flush=True)
