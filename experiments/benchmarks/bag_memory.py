# %% [markdown]
# # Memory and time of one training step on a bag
#
# The spitzoid target model (SeaNet-VGG16 with GMP, attention over the bag), first block frozen, SGD.
# `BagStep` embeds in chunks, so the peak must not grow with the bag (beyond the tiles themselves, uint8). It prints
# peak resident memory of the whole process, and the seconds of a step after the one that traces the graph.
#
# Command: `python experiments/benchmarks/bag_memory.py --tiles 300 --chunk 16 --input 224`
#
# Aim: under 3 GiB at 300 tiles. Measured on two shared CPU cores, chunk 16, 224 px, TensorFlow 2.21: 1,780 MiB at 300
# tiles. No seconds are quoted: the machine was busy.
# %%
import argparse
import json
import os
import resource
import sys
import time
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf

from melano_tf.models.biopsy_classifier import build_target, split_target
from melano_tf.models.seanet import build_source
from melano_tf.training.exact_bags import BagStep
from melano_tf.training.losses import binary_crossentropy
from melano_tf.training.steps import Progress


# %%
def target_parts(input_px: int) -> tuple[keras.Model, keras.Model]:
    """The paper's target model, SeaNet-VGG16 with GMP and BGAS, in its two halves."""
    source = build_source("vgg16", input_px, seanet=True, head="gmp", weights="none", freeze="first_block", seed=0)
    return split_target(build_target(source, "bgas", seed=0))


def peak_mib() -> float:
    """Largest resident memory of this process so far, MiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10


def bag_loss(batch: Any, outputs: Any) -> Any:
    """BCE of the one bag."""
    return binary_crossentropy(batch["y"], outputs["logit"][:, 0])


# %%
def measure(tiles: int, chunk: int, input_px: int, steps: int) -> dict[str, float]:
    """Peak memory (MiB) after building and after training, and seconds of each step."""
    keras.utils.set_random_seed(0)
    embedder, aggregator = target_parts(input_px)
    step = BagStep(embedder, aggregator, keras.optimizers.SGD(0.001), bag_loss, chunk=chunk)
    images = np.random.default_rng(0).integers(0, 256, (tiles, input_px, input_px, 3), np.uint8)
    batch = {"x": tf.constant(images), "y": tf.constant([1]), "weight": tf.ones([1]), "id": tf.constant(["bag"])}
    del images
    result = {"tiles": tiles, "chunk": chunk, "input_px": input_px, "built_mib": round(peak_mib())}
    for number in range(steps):
        now = Progress(*(tf.constant(value, tf.int64) for value in (number, 0, steps, 1)))
        started = time.monotonic()
        loss = float(step(batch, now)["loss"])
        result[f"step_{number}_seconds"] = round(time.monotonic() - started, 1)
        result[f"step_{number}_peak_mib"] = round(peak_mib())
        if not np.isfinite(loss):
            raise SystemExit(f"the loss is {loss}")
    return result


# %%
if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Peak memory and seconds of one training step on a bag of tiles.")
    parser.add_argument("--tiles", type=int, default=300)
    parser.add_argument("--chunk", type=int, default=16)
    parser.add_argument("--input", type=int, default=224, help="side of a tile in pixels")
    parser.add_argument("--steps", type=int, default=2, help="steps; the first also traces the graph")
    parser.add_argument("--threads", type=int, default=0, help="threads of one operation; 0: TensorFlow's choice")
    chosen = parser.parse_args()
    tf.config.threading.set_intra_op_parallelism_threads(chosen.threads)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    print(json.dumps(measure(chosen.tiles, chosen.chunk, chosen.input, chosen.steps), indent=2))
