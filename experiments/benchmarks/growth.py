# %% [markdown]
# # Do time and memory grow in straight lines?
#
# Each work at 1, 2, 4 and 8 times its size, each size in a process of its own that does nothing else: slides cut into a
# store; one slide of so many tiles; images decoded into the cache; an epoch of augmented batches from it; an epoch of
# training on bags of features, of so many bags, and of so many instances a bag (gated attention, and the transformer);
# a trained network asked for so many tiles. What it works on is drawn by another process beforehand; graphs are traced
# and files opened for the first time before the clock starts.
#
# Of each: seconds on the clock, the exponent k of "time grows with the size to the power k" (least squares on the
# logarithms; 1 is a straight line) of these seconds and of the process's processor time, which other jobs disturb less,
# and the largest resident memory. A bag's instances stand in memory together, and of a slide up to 256 MiB of decoded
# pixels; elsewhere it should be flat.
#
# It writes the section "Growth" of `docs/benchmarks.md` and its picture; `--json` prints rows for run.py instead.
#
# Run: python experiments/benchmarks/growth.py [--only bags,predictions] [--share 0.1]
# %%
import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import cv2
import numpy as np
from cutting import GRID, MPP, STORED, texture, write_sparse
from run import PAGE, machine, write

TIMES = (1, 2, 4, 8)
MARKS = ("<!-- table of experiments/benchmarks/growth.py -->", "<!-- end of the growth -->")
PICTURE = "growth.png"
IMAGE_PX, TILE_PX, INPUT_PX, BATCH = (400, 300), 224, 64, 64
FILES = 256
"""Different pictures; more images are the same files under other names."""
WIDTH = 256
"""Numbers of a feature vector."""


# %% What a work is
@dataclass(frozen=True)
class Work:
    """One thing that grows.

    Attributes:
        title: for people.
        unit: of its size.
        base: its size at 1 time.
        draw: (folder, size): makes what it works on.
        do: (folder, size) -> how much of it was there, None: all; what lies within `clock()` is measured.
    """

    title: str
    unit: str
    base: int
    draw: Callable[[Path, int], None]
    do: Callable[[Path, int], int | None]


class Clock:
    """Seconds on the clock and of the processor, from a start to an end."""

    seconds = processor = 0.0

    @contextmanager
    def __call__(self) -> Iterator[None]:
        started, worked = time.perf_counter(), time.process_time()
        yield
        self.seconds, self.processor = time.perf_counter() - started, time.process_time() - worked


clock = Clock()


def peak_mib() -> float:
    """Largest resident memory of this program so far; `ru_maxrss` would begin with that of the process before it."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 2**10


def draw_pictures(folder: Path, size: tuple[int, int]) -> None:
    """JPEGs of blurred noise."""
    folder.mkdir(exist_ok=True)
    for number in range(FILES):
        cv2.imwrite(str(folder / f"{number:03d}.jpg"), texture(size[1], size[0], number))


# %% Slides


def draw_slides(folder: Path, count: int) -> None:
    """One file; the others are links to it."""
    write_sparse(folder / "slide.tiff", 8192)
    for number in range(count):
        (folder / f"{number}.tiff").hardlink_to(folder / "slide.tiff")


def cut_slides(folder: Path, count: int) -> None:
    """Into a store, in this process alone."""
    import pandas as pd

    from melano_tf.pipelines.tile_store import write_cohort

    names = [str(number) for number in range(count)]
    rows = {"slide_id": names, "path": [str(folder / f"{name}.tiff") for name in names], "patient_id": names}
    manifest = pd.DataFrame({**rows, "label": "benign", "annotation": None, "mpp": MPP})
    with clock():
        _, outcomes = write_cohort(manifest, GRID, STORED, folder / "store", workers=0)
    assert (outcomes["status"] == "done").all()


def draw_slide(folder: Path, tiles: int) -> None:
    """A square one with about so many tiles."""
    step = GRID.tile_px * (1 - GRID.overlap) * GRID.mpp / MPP
    write_sparse(folder / "slide.tiff", round((tiles**0.5 - 1) * step + GRID.tile_px * GRID.mpp / MPP) // 16 * 16)


def cut_slide(folder: Path, tiles: int) -> int:
    """Into a store, in one thread."""
    from melano_tf.pipelines.slide_cutting import write_slide

    row = {"slide_id": "slide", "path": str(folder / "slide.tiff"), "patient_id": "p", "label": "benign"}
    with clock():
        outcome = write_slide(row, GRID, STORED, folder)
    assert outcome.status == "done", outcome
    return outcome.tiles


# %% Images


def named(folder: Path, count: int) -> dict[str, Path]:
    """Files of so many images."""
    return {f"image-{number:05d}": folder / "pictures" / f"{number % FILES:03d}.jpg" for number in range(count)}


def draw_images(folder: Path, _: int) -> None:
    draw_pictures(folder / "pictures", IMAGE_PX)


def cached(folder: Path, count: int) -> Any:
    """The cache of so many images."""
    from melano_tf.pipelines.image_cache import cache_images
    from melano_tf.pipelines.image_settings import ImageCacheSettings

    files = named(folder, count)
    return cache_images(files, {name: name for name in files}, ImageCacheSettings(), folder / "cache")


def fill_cache(folder: Path, count: int) -> None:
    """Decode and resize, in two threads."""
    from melano_tf.pipelines.image_cache import decode_image
    from melano_tf.pipelines.image_settings import ImageCacheSettings

    decode_image(folder / "pictures" / "000.jpg", ImageCacheSettings())  # TensorFlow begins
    with clock():
        cached(folder, count)


def draw_cache(folder: Path, count: int) -> None:
    draw_images(folder, count)
    cached(folder, count)


def image_epoch(folder: Path, count: int) -> None:
    """The second epoch of augmented batches: as many lie ready before it as behind it."""
    from melano_tf.pipelines.image_batches import ImageBatches
    from melano_tf.pipelines.image_settings import ImageAugmentSettings

    cache = cached(folder, count)
    batches = ImageBatches(
        cache, list(cache.image_ids), np.zeros(count), TILE_PX, BATCH, 0, augment=ImageAugmentSettings()
    )
    found = iter(batches.from_step(0))
    for _ in range(batches.steps_per_epoch):
        next(found)
    with clock():
        for _ in range(batches.steps_per_epoch):
            next(found)


# %% Bags of features


def draw_bags(folder: Path, bags: int, instances: int) -> None:
    """Files as TRIDENT writes them, of random numbers."""
    import h5py

    for bag in range(bags):
        with h5py.File(folder / f"{bag}.h5", "w") as file:
            features = np.random.default_rng(bag).normal(bag % 2 * 0.1, 1, (instances, WIDTH))
            file["features"], file["coords"] = features.astype(np.float32), np.zeros((instances, 2), np.int64)


def bag_epoch(folder: Path, bags: int, kind: str) -> None:
    """The second epoch of a training, as the bags recipe trains; the first has traced the graph."""
    from melano_tf.features.feature_file import open_features
    from melano_tf.models.bag_settings import BagModelSettings
    from melano_tf.pipelines.bag_fitting import BagTrainingSettings
    from melano_tf.pipelines.bag_training import train_bag_model
    from melano_tf.pipelines.feature_cohort import FileBags
    from melano_tf.training.loop import LoopSettings

    names = [str(bag) for bag in range(bags)]
    files = [[open_features(folder / f"{name}.h5")] for name in names]
    found = FileBags(names, names, np.arange(bags) % 2, files, ("a", "b"))
    settings, started = BagTrainingSettings(model=BagModelSettings(kind)), []

    def start(epoch: int) -> None:
        started.append((time.perf_counter(), time.process_time()))

    def end(epoch: int, record: Any) -> None:
        clock.seconds, clock.processor = time.perf_counter() - started[-1][0], time.process_time() - started[-1][1]

    loop = LoopSettings(2, checkpoint_seconds=1e6)
    hooks = {"epoch_start": start, "epoch_end": end}
    train_bag_model(found, np.arange(bags), 2, settings, folder / "training", 0, loop=loop, **hooks)


# %% Predictions


def draw_tiles(folder: Path, _: int) -> None:
    draw_pictures(folder / "pictures", (TILE_PX, TILE_PX))


def judge_tiles(folder: Path, count: int) -> None:
    """Decode tiles of a store and ask spitzoid's source model (a small stand-in) for each."""
    import pandas as pd

    from melano_tf.models.seanet import build_source
    from melano_tf.pipelines.tfrecords import PLACE, append_image
    from melano_tf.pipelines.tile_batches import predict_batches
    from melano_tf.training.inference import predict
    from melano_tf.training.steps import traced

    rows = []
    with (folder / "slide.tfrecord").open("wb") as file:
        for number, path in enumerate(sorted((folder / "pictures").glob("*.jpg"))):
            place = append_image(file, {"slide_id": "slide"}, "jpeg", path.read_bytes())
            rows.append({"slide_id": "slide", "tile": number, **dict(zip(PLACE, place, strict=True))})
    tiles = pd.DataFrame(rows).iloc[np.arange(count) % FILES].assign(tile=np.arange(count))
    model = build_source("standin", INPUT_PX, seanet=True, head="gmp", weights="none", freeze="none", seed=0)
    forward = traced(lambda x: model(x, training=False))
    predict(forward, predict_batches(tiles[:BATCH], folder, INPUT_PX, BATCH))
    with clock():
        found = predict(forward, predict_batches(tiles, folder, INPUT_PX, BATCH))
    assert len(found) == count


# %% All of them

WORKS = {
    "slides": Work("slides cut to the store", "slides", 4, draw_slides, cut_slides),
    "tiles": Work("one slide cut to the store", "tiles", 225, draw_slide, cut_slide),
    "cache": Work("images into the cache", "images", 512, draw_images, fill_cache),
    "batches": Work("an epoch of image batches", "images", 512, draw_cache, image_epoch),
    "bags": Work(
        "an epoch of bags, gated", "bags", 64, lambda f, n: draw_bags(f, n, 500), lambda f, n: bag_epoch(f, n, "gated")
    ),
    "instances": Work(
        "8 bags, gated", "instances a bag", 1000, lambda f, n: draw_bags(f, 8, n), lambda f, _: bag_epoch(f, 8, "gated")
    ),
    "transformer": Work(
        "4 bags, transformer",
        "instances a bag",
        500,
        lambda f, n: draw_bags(f, 4, n),
        lambda f, _: bag_epoch(f, 4, "transformer"),
    ),
    "predictions": Work("tiles judged", "tiles", 1024, draw_tiles, judge_tiles),
}


@dataclass(frozen=True)
class Grown:
    """What a work took, each (4,): its sizes, seconds on the clock and of the processor, and MiB at the most."""

    work: Work
    sizes: np.ndarray
    seconds: np.ndarray
    processor: np.ndarray
    mib: np.ndarray

    def exponent(self, values: np.ndarray) -> float:
        """Slope of log values against log sizes."""
        return float(np.polyfit(np.log(self.sizes), np.log(values), 1)[0])


def grown(name: str, share: float) -> Grown:
    """Draw and measure each size, each in a process of its own."""
    found = []
    for times in TIMES:
        size = max(1, round(WORKS[name].base * share)) * times
        with tempfile.TemporaryDirectory() as folder:
            for what in ("--draw", "--do"):
                command = [sys.executable, __file__, what, name, "--size", str(size), "--folder", folder]
                done = subprocess.run(command, capture_output=True, text=True)
                if done.returncode:
                    raise SystemExit(f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr}")
        found.append([float(value) for value in done.stdout.split()[-4:]])
        print(f"{WORKS[name].title}: {found[-1]}", file=sys.stderr)
    return Grown(WORKS[name], *np.array(found).T)


# %% What is shown


def figure(rows: list[Grown]) -> Any:
    """Seconds and memory of each work over its size, both axes logarithmic, beside the straight line."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator

    from melano_tf.reports.curve_figures import CHANCE, COLOURS
    from melano_tf.reports.figures import blank_figure

    columns = 4
    lines = 2 * -(-len(rows) // columns)
    drawn = blank_figure(2.6 * columns, 2.3 * lines + 0.4)
    grid = drawn.subplots(lines, columns, squeeze=False)
    for axis in grid.flat:
        axis.set_axis_off()
    for place, row in enumerate(rows):
        block, column = divmod(place, columns)
        for part, (values, words) in enumerate(((row.seconds, "seconds"), (row.mib, "MiB"))):
            axis, colour = grid[2 * block + part, column], COLOURS[1 + part]
            axis.set_axis_on()
            axis.plot(row.sizes, values[0] * row.sizes / row.sizes[0], **CHANCE)
            axis.plot(row.sizes, values, "o-", color=colour, markersize=4, linewidth=1.5, zorder=3)
            axis.set(xscale="log", yscale="log", ylim=(min(values[0] / 1.6, values.min()), values[0] * 13))
            axis.xaxis.set_major_locator(FixedLocator(list(row.sizes)))
            axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            for side in (axis.xaxis, axis.yaxis):
                side.set_minor_locator(NullLocator())
                side.set_major_formatter(
                    FuncFormatter(lambda value, _: f"{value:,.3g}" if value < 1 else f"{value:,.0f}")
                )
            axis.tick_params(labelsize=8)
            axis.grid(alpha=0.3)
            axis.set_xlabel(row.work.unit, fontsize=8)
            axis.set_ylabel(words if column == 0 else "", fontsize=9)
            axis.set_title(row.work.title if part == 0 else "", fontsize=9.5)
    drawn.supxlabel("dashed: twice as much takes twice as much", fontsize=8)
    return drawn


def table(rows: list[Grown]) -> str:
    """As Markdown."""
    head = ["work", "unit", *(f"s at {n}x" for n in TIMES), "exponent", "of processor time"]
    lines = [[*head, *(f"MiB at {n}x" for n in TIMES)], ["---"] * (len(head) + len(TIMES))]
    for row in rows:
        sizes = f"{row.sizes[0]:,.0f} to {row.sizes[-1]:,.0f} {row.work.unit}"
        powers = [f"{row.exponent(values):.2f}" for values in (row.seconds, row.processor)]
        lines.append([row.work.title, sizes, *(f"{value:.3g}" for value in row.seconds), *powers])
        lines[-1] += [f"{value:,.0f}" for value in row.mib]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


# %%
def main() -> None:
    parser = argparse.ArgumentParser(description="Time and memory at 1, 2, 4 and 8 times as much.")
    parser.add_argument("--only", default=",".join(WORKS), help=f"some of {','.join(WORKS)}; writes no page")
    parser.add_argument("--share", type=float, default=1.0, help="of the sizes, to see that it works; writes no page")
    parser.add_argument("--out", type=Path, help="the picture alone, written here; no page")
    parser.add_argument("--json", action="store_true", help="rows for run.py, a line each; writes no page")
    for hidden, kind in (("--draw", str), ("--do", str), ("--size", int), ("--folder", Path)):
        parser.add_argument(hidden, type=kind, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.draw:
        WORKS[options.draw].draw(options.folder, options.size)
        return
    if options.do:
        there = WORKS[options.do].do(options.folder, options.size)
        print(options.size if there is None else there, clock.seconds, clock.processor, peak_mib())
        return
    rows = [grown(name, options.share) for name in options.only.split(",")]
    if options.json:
        for row in rows:
            named = {"work": f"growth: {row.work.title}", "unit": f"exponent of time over {row.work.unit}"}
            print(json.dumps({**named, "own": row.exponent(row.seconds), "peer": 1.0, "beside": "a straight line"}))
        return
    print(table(rows))
    whole = len(rows) == len(WORKS) and options.share == 1 and options.out is None
    picture = PAGE.with_name(PICTURE) if whole else options.out
    if picture:
        from melano_tf.reports.figures import save_figure

        save_figure(picture, figure(rows))
    if whole:
        words = f"![Seconds and memory over the size of each work, beside straight lines]({PICTURE})"
        write(PAGE, f"{table(rows)}\n\n{words}\n\n{machine()}.", MARKS)


if __name__ == "__main__":
    main()
