"""How fast this machine is at what a run does most: writing, reading, decoding, training."""

import os
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np

from melano_tf.environment import cores

MIB = 2**20
WRITTEN_MIB = 128
TILES, TILE_PX = 256, 224
NETWORKS = ("resnet50", "vgg16")  # of the papers, at 224 px


def measure_rates(folder: Path, say: Callable[[str], None]) -> None:
    """Say how fast disk, decoding and training are; half a minute.

    Args:
        folder: that is written to, and left as it was.
        say: shows a line.
    """
    written, read = disk_rates(folder)
    say(f"disk at {folder}  writes {written:,.0f} MiB/s, reads {read:,.0f} MiB/s ({WRITTEN_MIB} MiB)")
    say(f"decoding                 {decode_rate():,.0f} JPEG tiles of {TILE_PX} px a second, {cores()} threads")
    for name in NETWORKS:
        say(f"training                 {step_rate(name):,.1f} images a second, {name} at {TILE_PX} px, float32")


def disk_rates(folder: Path) -> tuple[float, float]:
    """MiB/s written and read, each to and from the disk and not only its cache, as far as the system allows."""
    content = np.random.default_rng(0).bytes(MIB)
    with tempfile.TemporaryFile(dir=folder) as file:
        began = time.perf_counter()
        for _ in range(WRITTEN_MIB):
            file.write(content)
        file.flush()
        os.fsync(file.fileno())
        written = time.perf_counter() - began
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        file.seek(0)
        began = time.perf_counter()
        while file.read(MIB):
            pass
        return WRITTEN_MIB / written, WRITTEN_MIB / (time.perf_counter() - began)


def decode_rate() -> float:
    """JPEG tiles decoded a second, by one thread a core."""
    smooth = cv2.resize(np.random.default_rng(0).integers(0, 256, (28, 28, 3), np.uint8), (TILE_PX, TILE_PX))
    _, encoded = cv2.imencode(".jpg", smooth, [cv2.IMWRITE_JPEG_QUALITY, 90])
    with ThreadPoolExecutor(cores()) as pool:
        began = time.perf_counter()
        list(pool.map(lambda _: cv2.imdecode(encoded, cv2.IMREAD_COLOR), range(TILES)))
        return TILES / (time.perf_counter() - began)


def step_rate(name: str) -> float:
    """Images a second through a training step of a network with one dense layer on its last map's mean."""
    from melano_tf.models.classifier_head import logits_of
    from melano_tf.models.seanet import build_source
    from melano_tf.training.fit import Network
    from melano_tf.training.optimizers import make_optimizer
    from melano_tf.training.pace import measure

    def build() -> Network:
        model = build_source(name, TILE_PX, seanet=False, head="gap", weights="none", seed=0)
        return Network(logits_of(model), make_optimizer("adam", 1e-4), model)

    return 1 / measure(build, 64).seconds
