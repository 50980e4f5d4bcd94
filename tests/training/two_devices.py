"""Script of test_devices.py: trainings on one and on two logical CPU devices; prints one JSON object."""

import contextlib
import importlib.util
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from melano_tf.errors import InputError
from melano_tf.training.batch_norm import reduce_batch_norm
from melano_tf.training.exact_bags import BagStep
from melano_tf.training.loop import GradientStep, LoopSettings, train

SPEC = importlib.util.spec_from_file_location("training_toy", Path(__file__).with_name("toy.py"))
toy = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(toy)


def two_devices() -> Any:
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    return tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])


class OddBatches(toy.ToyBatches):
    """Batches of 5, 3 and 1 samples: none divides by two."""

    def batch(self, step: int) -> dict[str, Any]:
        size = (5, 3, 1)[step % 3]
        return tf.nest.map_structure(lambda values: values[:size], super().batch(0 if size == 5 else step))


def hardest(losses: Any, batch: Any, progress: Any) -> Any:
    """Online hard example mining: keep the harder half of the batch, more of it as training goes on."""
    size = tf.shape(losses)[0]
    keep = tf.cast(tf.math.ceil(tf.cast(size, tf.float32) * (0.5 + progress.fraction / 2)), tf.int32)
    return tf.cast(tf.argsort(tf.argsort(-losses)) < keep, tf.float32)


def in_terms(batch: Any, outputs: Any) -> dict[str, Any]:
    """The toy's loss as a sum of two terms, of other shares for each sample."""
    loss = toy.toy_loss(batch, outputs)
    share = tf.cast(batch["y"], tf.float32) / 2 + 0.25
    return {"first_loss": share * loss, "second_loss": (1 - share) * loss}


def losses_of(strategy: Any, weights_fn: Any, batch_norm: bool, folder: Path, clipnorm: float | None) -> dict[str, Any]:
    """With batch normalisation: batches of 6 and 4, which divide by two, because a repeated sample counts in it."""
    with strategy.scope():
        keras.utils.set_random_seed(5)
        model = toy.toy_model(dropout=0.0, batch_norm=batch_norm)
        optimizer = keras.optimizers.SGD(0.3, momentum=0.9, clipnorm=clipnorm)
    step = GradientStep(model, optimizer, in_terms if weights_fn else toy.toy_loss, weights_fn, strategy)
    losses: list[float] = []
    history = train(
        step,
        toy.ToyBatches(steps_per_epoch=3) if batch_norm else OddBatches(steps_per_epoch=3),
        LoopSettings(3, checkpoint_seconds=0.0, log_every=1),
        folder,
        model,
        optimizer,
        progress=lambda done, loss, waiting: losses.append(loss),
    )
    norm = float(np.sqrt(sum((weight**2).sum() for weight in model.get_weights())))
    terms = [[record[name] for name in ("first_loss", "second_loss")] for record in history if "first_loss" in record]
    return {"losses": losses, "epochs": [record["loss"] for record in history], "norm": norm, "terms": terms}


def batch_norm_facts(strategy: Any, folder: Path) -> dict[str, Any]:
    """Statistics of the replicas before and after the reduction, and after a resume in the middle of an epoch."""
    with strategy.scope():
        model, optimizer = toy.toy_model(), toy.toy_optimizer()
    step = GradientStep(model, optimizer, toy.toy_loss, strategy=strategy)
    for layer in model.layers:  # replicas that have drifted apart, which synchronised ones do not
        layer.synchronized = False

    class Stop(Exception):
        pass

    def stop(done: int, loss: float, waiting: float) -> None:
        if done == 2:
            raise Stop

    settings = LoopSettings(1, checkpoint_seconds=0.0)
    with contextlib.suppress(Stop):
        train(step, toy.ToyBatches(), settings, folder, model, optimizer, progress=stop)
    statistics = next(v for v in model.non_trainable_variables if "moving_mean" in v.path)

    def copies() -> list[list[float]]:
        return [copy.numpy().tolist() for copy in statistics.value.values]

    broken = copies()
    statistics.assign(np.zeros(4))
    with strategy.scope():
        other, other_optimizer = toy.toy_model(), toy.toy_optimizer()
    again = GradientStep(other, other_optimizer, toy.toy_loss, strategy=strategy)
    statistics = next(v for v in other.non_trainable_variables if "moving_mean" in v.path)
    restored: list[list[list[float]]] = []
    epoch_done: list[list[list[float]]] = []

    class Watching(toy.ToyBatches):
        def from_step(self, step: int) -> Any:
            restored.append(copies())
            return super().from_step(step)

    def epoch_end(epoch: int, logs: Any) -> None:
        epoch_done.append(copies())

    train(again, Watching(), settings, folder, other, other_optimizer, epoch_end=epoch_end)
    statistics.value.values[1].assign(np.full(4, 4.0, np.float32))
    statistics.value.values[0].assign(np.full(4, 2.0, np.float32))
    count = reduce_batch_norm(other)
    return {"broken": broken, "restored": restored[0], "end": epoch_done[0], "reduced": copies(), "count": count}


def bag_refusal(strategy: Any) -> str:
    with strategy.scope():
        tiles, embeddings = keras.Input((4, 4, 3)), keras.Input((None, 3))
        embedder = keras.Model(tiles, keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(3, 1)(tiles)))
        aggregator = keras.Model(embeddings, keras.layers.GlobalMaxPooling1D()(embeddings))
    try:
        BagStep(embedder, aggregator, keras.optimizers.SGD(0.1), lambda batch, outputs: outputs[:, 0])
    except InputError as error:
        return str(error)
    return ""


def main() -> None:
    mirrored, default = two_devices(), tf.distribute.get_strategy()
    answer: dict[str, Any] = {"replicas": mirrored.num_replicas_in_sync}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        kinds = (("plain", None, None), ("mined", hardest, None), ("clipped", None, 0.05), ("normalised", None, None))
        for key, weights_fn, clipnorm in kinds:
            answer[key] = [
                losses_of(strategy, weights_fn, key == "normalised", folder / f"{key}{index}", clipnorm)
                for index, strategy in enumerate((default, mirrored))
            ]
        answer["batch_norm"] = batch_norm_facts(mirrored, folder / "norm")
    answer["bag"] = bag_refusal(mirrored)
    try:
        GradientStep(toy.toy_model(), toy.toy_optimizer(), toy.toy_loss, strategy=mirrored)
    except InputError as error:
        answer["outside"] = str(error)
    sys.stdout.write(json.dumps(answer) + "\n")


if __name__ == "__main__":
    main()
