# %% [markdown]
# # One training step of ResNeXt50-ZooME beside one of ResNet50
#
# ZooME's own network (ResNeXt50 32x4d, Zoom-SE after each block, metadata embedding) against
# `keras.applications.ResNet50` with one output, both with the project's training step, Adam 1e-4, batch 8 at 224 px.
# Steps of the two alternate in one process, so that a busy machine slows both; the ratio is of the medians, and the
# ratios of neighbouring steps are shown too.
#
# Command: `python experiments/benchmarks/resnext_step.py --threads 2`
#
# Aim: at most 1.4. Measured (2 cores of an AMD EPYC, TensorFlow 2.21, Keras 3.15): 0.83 s and 1.07 s, ratio 1.29;
# neighbouring steps 1.23 to 1.36.
# %%
import argparse
import json
import os
import time
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf

from melano_tf.models.classifier_head import logits_of
from melano_tf.models.zoome_network import build_zoome
from melano_tf.training.losses import binary_crossentropy
from melano_tf.training.steps import GradientStep, Progress


# %%
def resnet50(input_px: int) -> keras.Model:
    """`keras.applications.ResNet50` with average pooling and one logit."""
    image = keras.Input((input_px, input_px, 3), name="image")
    x = keras.applications.ResNet50(include_top=False, weights=None, input_tensor=image, pooling="avg").output
    return keras.Model([image], keras.layers.Dense(1)(x), name="resnet50")


def loss(batch: Any, outputs: Any) -> Any:
    """BCE of each image."""
    return binary_crossentropy(batch["y"], outputs[:, 0])


def batch_of(images: int, input_px: int) -> dict[str, Any]:
    """Random images and metadata; which they are does not matter to the clock."""
    rng = np.random.default_rng(0)
    x = {
        "image": tf.constant(rng.integers(0, 256, (images, input_px, input_px, 3)), tf.float32),
        "metadata": tf.constant(rng.random((images, 12)), tf.float32),
    }
    return {"x": x, "y": tf.constant(rng.integers(0, 2, images)), "id": tf.constant([str(i) for i in range(images)])}


def timed(step: GradientStep, batch: Any, number: int, steps: int) -> float:
    """Seconds of one step."""
    now = Progress(*(tf.constant(value, tf.int64) for value in (number, 0, steps, 1)))
    started = time.perf_counter()
    value = float(step(batch, now)["loss"])
    seconds = time.perf_counter() - started
    if not np.isfinite(value):
        raise SystemExit(f"the loss is {value}")
    return seconds


# %%
def measure(images: int, input_px: int, steps: int, warm_up: int) -> dict[str, Any]:
    """Seconds a step of both, and their ratio."""
    keras.utils.set_random_seed(0)
    models = {"resnet50": resnet50(input_px), "zoome": logits_of(build_zoome(input_px=input_px)[0])}
    batch = batch_of(images, input_px)
    step = {name: GradientStep(model, keras.optimizers.Adam(1e-4), loss) for name, model in models.items()}
    seconds: dict[str, list[float]] = {name: [] for name in models}
    for number in range(warm_up + steps):
        for name in models:
            took = timed(step[name], batch, number, warm_up + steps)
            if number >= warm_up:
                seconds[name].append(took)
    median = {name: float(np.median(values)) for name, values in seconds.items()}
    pairs = np.divide(seconds["zoome"], seconds["resnet50"])
    return {
        "batch": images,
        "input_px": input_px,
        "steps": steps,
        **{f"{name}_seconds": round(value, 3) for name, value in median.items()},
        "ratio": round(median["zoome"] / median["resnet50"], 3),
        "ratio_of_neighbours": [round(float(value), 3) for value in (pairs.min(), np.median(pairs), pairs.max())],
    }


# %%
if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Seconds of one training step, ResNeXt50-ZooME beside ResNet50.")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--input", type=int, default=224, help="side of an image in pixels")
    parser.add_argument("--steps", type=int, default=10, help="measured steps of each")
    parser.add_argument("--warm-up", type=int, default=3, help="steps before; the first also traces the graph")
    parser.add_argument("--threads", type=int, default=2, help="threads of one operation; 0: TensorFlow's choice")
    chosen = parser.parse_args()
    tf.config.threading.set_intra_op_parallelism_threads(chosen.threads)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    print(json.dumps({**measure(chosen.batch, chosen.input, chosen.steps, chosen.warm_up), "threads": chosen.threads}))
