# %% [markdown]
# # How fast batches come, beside torch's DataLoader, and how long a fast step waits for them
#
# - pictures: 64 x 224 px from the image cache (280 px), cropped, turned and flipped as zoome does it;
# - tiles: 64 x 224 px JPEGs from a tile store, decoded for every batch (nothing is kept in memory), flipped;
# - torch: the same files, decoded by OpenCV, with albumentations' random crop, turn and flips, in two workers.
#
# The three alternate in one run; the ratio is that of the medians. Then a training whose step sleeps for as long as an
# H200 would take for a batch (`--step-ms`; the default supposes 3,000 images/s): its history says which share of the
# time it waited for data.
#
# Run: `experiments/benchmarks/peers.sh peers` once, then
# `python experiments/benchmarks/feed.py --peer peers/bin/python`
# %%
import argparse
import itertools
import json
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import cv2
import keras
import numpy as np
import pandas as pd
import tensorflow as tf

from melano_tf.pipelines.augment import AugmentSettings
from melano_tf.pipelines.image_batches import ImageBatches
from melano_tf.pipelines.image_cache import cache_images
from melano_tf.pipelines.image_settings import ImageAugmentSettings, ImageCacheSettings
from melano_tf.pipelines.tfrecords import PLACE, append_image
from melano_tf.pipelines.tile_batches import TileBatches
from melano_tf.training.loop import LoopSettings, train
from melano_tf.training.tensorflow_runtime import configure

BATCH, PX = 64, 224


# %%
def draw_jpegs(folder: Path, count: int, size: tuple[int, int]) -> list[Path]:
    """Blurred noise, which takes a decoder about as long as skin does."""
    folder.mkdir()
    rng, files = np.random.default_rng(0), []
    for number in range(count):
        noise = cv2.GaussianBlur(rng.normal(0, 60, (size[1], size[0], 3)).astype(np.float32), (0, 0), 2)
        files.append(folder / f"{number:04d}.jpg")
        image = np.clip(noise * 4 + (90, 110, 190), 0, 255).astype(np.uint8)
        cv2.imwrite(str(files[-1]), image, [cv2.IMWRITE_JPEG_QUALITY, 90])
    return files


def picture_batches(files: list[Path], folder: Path) -> ImageBatches:
    """From the cache."""
    named = {file.stem: file for file in files}
    cache = cache_images(named, {name: name for name in named}, ImageCacheSettings(), folder)
    return ImageBatches(cache, list(named), np.zeros(len(named)), PX, BATCH, 0, augment=ImageAugmentSettings())


def tile_batches(files: list[Path], folder: Path) -> TileBatches:
    """From a store."""
    folder.mkdir()
    rows = []
    with (folder / "slide.tfrecord").open("wb") as file:
        for number, path in enumerate(files):
            place = append_image(file, {"slide_id": "slide"}, "jpeg", path.read_bytes())
            rows.append({"slide_id": "slide", "tile": number, **dict(zip(PLACE, place, strict=True))})
    tiles, flips = pd.DataFrame(rows), AugmentSettings(flip=True)
    return TileBatches(tiles, folder, PX, BATCH, 0, np.zeros(len(rows)), augment=flips, cache_mib=0.0)


def rate(batches: Iterable[Any], count: int) -> float:
    """Images a second, once the first two batches have come."""
    started, images = 0.0, 0
    for place, batch in enumerate(itertools.islice(batches, count + 2)):
        if place == 1:
            started = time.perf_counter()
        elif place > 1:
            images += len(batch["id"])
    return images / (time.perf_counter() - started)


def torch_rates(peer: Path, folder: Path, kind: str, workers: int) -> float:
    """Images a second of torch's loader."""
    script = Path(__file__).with_name("feed_torch.py")
    command = [str(peer), str(script), str(folder), kind, *map(str, (PX, BATCH, workers, 2))]
    rates = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return statistics.median(rates)


def waiting(batches: Any, seconds: float, epochs: int) -> float:
    """Share of the time that a training waits for data whose step sleeps."""

    def sleeps(batch: Any, progress: Any) -> dict[str, Any]:
        time.sleep(seconds)
        return {"loss": tf.constant(1.0)}

    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    with tempfile.TemporaryDirectory() as folder:
        loop = LoopSettings(epochs, checkpoint_seconds=1e6)
        history = train(sleeps, batches, loop, Path(folder), model, keras.optimizers.SGD())
    return statistics.median(record["waiting"] for record in history[1:])


# %%
def main() -> None:
    parser = argparse.ArgumentParser(description="Batches of this project beside torch's DataLoader.")
    parser.add_argument("--peer", type=Path, help="python of the environment that peers.sh made; without it no peer")
    parser.add_argument("--workers", type=int, default=2, help="of torch")
    parser.add_argument("--images", type=int, default=768)
    parser.add_argument("--batches", type=int, default=60)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--step-ms", type=float, default=BATCH / 3000 * 1000)
    parser.add_argument("--json", action="store_true", help="rows for run.py, a line each")
    options = parser.parse_args()
    configure(0)
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        made = {
            "pictures": (draw_jpegs(folder / "pictures", options.images, (400, 300)), picture_batches),
            "tiles": (draw_jpegs(folder / "tiles", options.images, (PX, PX)), tile_batches),
        }
        for kind, (files, make) in made.items():
            batches = make(files, folder / f"{kind}-stored")
            own, other = [], []
            for _ in range(options.repeats):
                own.append(rate(batches.from_step(0), options.batches))
                if options.peer:
                    other.append(torch_rates(options.peer, folder / kind, kind, options.workers))
            line = f"{kind}: {statistics.median(own):.0f} images/s"
            if other:
                ratio = statistics.median(own) / statistics.median(other)
                line += f"; torch {statistics.median(other):.0f}, ratio {ratio:.2f}"
            share = waiting(batches, options.step_ms / 1000, epochs=4)
            if options.json:
                row = {"work": f"batches of {kind}, 64 x 224 px", "unit": "images/s", "own": statistics.median(own)}
                beside = f"torch DataLoader, {options.workers} workers, albumentations"
                peer = statistics.median(other) if other else None
                print(json.dumps({**row, "peer": peer, "beside": beside, "wanted": 1.5}))
                continue
            print(f"{line}; a step of {options.step_ms:.0f} ms waits {share:.1%} of the time")


if __name__ == "__main__":
    main()
