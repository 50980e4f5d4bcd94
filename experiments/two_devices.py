"""How near two devices come to one: zoome's stand-in networks, a few steps, with a batch that divides and one that not.

python -m experiments.two_devices

Beside them one device whose initial weights were changed by one part in ten million: what that does, rounding does as
well. For each step stands the relative difference of its loss from that of one device. What was measured stands in
docs/many-trainings.md.
"""

from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from melano_tf.papers.zoome.cohort import CODE
from melano_tf.papers.zoome.models import build, focal_loss
from melano_tf.papers.zoome.networks import Network
from melano_tf.papers.zoome.settings import ZoomeSettings, preset
from melano_tf.training.steps import GradientStep, Progress
from melano_tf.training.tensorflow_runtime import configure

STEPS, SIDE = 12, 32
NETWORKS = (
    Network("resnext_standin", zoom_se=True, metadata=False),
    Network("resnext_standin", zoom_se=True, metadata=True),
    Network("alexnet_standin", zoom_se=False, metadata=False),  # the one with dropout
)


def batches(size: int, metadata: bool) -> Iterator[dict[str, Any]]:
    """Smooth pictures with random labels."""
    rng = np.random.default_rng(3)
    for _ in range(STEPS):
        small = rng.integers(0, 255, (size, 6, 6, 3)).astype(np.float32)
        image = tf.clip_by_value(tf.image.resize(small, (SIDE, SIDE), "bicubic"), 0, 255)
        told = tf.constant(rng.integers(0, 2, (size, CODE.width)).astype(np.float32))
        labels = tf.constant(rng.integers(0, 2, size).astype(np.int32))
        x = {"image": tf.cast(image, tf.uint8), **({"metadata": told} if metadata else {})}
        yield {"x": x, "y": labels, "weight": tf.ones(size), "id": tf.fill([size], "")}


def trained(settings: ZoomeSettings, which: Network, size: int, devices: Any = None, nudge: float = 0.0) -> np.ndarray:
    """(loss, norm of the gradient) of each step."""
    with devices.scope() if devices else nullcontext():
        keras.utils.set_random_seed(5)
        built = build(settings, which, 7)
        rng = np.random.default_rng(1)
        for weight in built.trained.trainable_variables:
            weight.assign(weight * (1 + nudge * rng.standard_normal(weight.shape).astype(np.float32)))
        step = GradientStep(built.trained, built.optimizer, focal_loss(0.25, 2.0), strategy=devices)
    found = []
    for number, batch in enumerate(batches(size, which.metadata)):
        said = step(batch, Progress(*(tf.constant(each, tf.int64) for each in (number, 0, STEPS, 1))))
        found.append((float(said["loss"]), float(said["gradient_norm"])))
    return np.array(found)


def main() -> None:
    """Print two lines for each network, optimiser and batch."""
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    configure(1)
    two, demo = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]), preset("demo")
    demo = replace(demo, network=replace(demo.network, input_px=SIDE))
    for which in NETWORKS:
        for optimizer, rate in (("adam", 1e-3), ("sgd", 1e-2)):
            settings = replace(demo, training=replace(demo.training, optimizer=optimizer, learning_rate=rate))
            for size in (8, 15):
                one = trained(settings, which, size)
                for name, how in (("one, nudged", {"nudge": 1e-7}), ("two", {"devices": two})):
                    apart = np.abs(trained(settings, which, size, **how) / one - 1)
                    steps = " ".join(f"{value:.0e}" for value in apart[:, 0])
                    print(f"{which.name} {optimizer} batch {size} {name}: {steps}; norm {apart[0, 1]:.0e} at first, "
                          f"{apart[:, 1].max():.0e} at most", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
