"""Script of test_hosts.py: one of two hosts (`two_hosts.py TASK FOLDER PORT PORT INDEX`), or the reference.

TASK
    dies        both train in FOLDER/broken; the second host dies at step 7
    goes-on     once a line comes, both go on there, and train elsewhere what is compared with the reference
    reference   one process: the same trainings on one device and on two (no ports)
Prints one JSON object.
"""

import importlib.util
import json
import os
import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from melano_tf.errors import RunError
from melano_tf.runs.run_folder import Run
from melano_tf.runs.settings_digest import plain
from melano_tf.training import hosts as hosts_of_training
from melano_tf.training.fit import Network, Training, by_gradient, optimise
from melano_tf.training.hosts import Hosts, Share, losses_named, shared_out
from melano_tf.training.loop import GradientStep, LoopSettings, train
from melano_tf.training.tensorflow_runtime import configure, strategy

SPEC = importlib.util.spec_from_file_location("training_toy", Path(__file__).with_name("toy.py"))
toy = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(toy)

EPOCHS, DIES_AT = 2, 7


class Batches(toy.ToyBatches):
    """Batches of 6, 5 and 4 samples, or of sizes that two divides; each host makes its part of the images alone."""

    def __init__(self, odd: bool) -> None:
        super().__init__()
        self.odd, self.share = odd, None

    def shared(self, share: Share) -> "Batches":
        part = Batches(self.odd)
        part.share = share
        return part

    def batch(self, step: int) -> dict[str, Any]:
        batch = super().batch(step)
        if self.odd and step % 3 == 1:
            batch = tf.nest.map_structure(lambda values: values[:5], batch)
        if self.share is None:
            return batch
        size = len(batch["id"])
        own = tf.gather(batch["x"], self.share.places(size))
        return {**batch, "x": own, "x_from": tf.constant(self.share.start(size), tf.int64)}


def hardest(losses: Any, batch: Any, progress: Any) -> Any:
    """The harder half of the whole batch."""
    return tf.cast(losses >= tf.reduce_mean(losses), tf.float32)


def trained(devices: Any, folder: Path, normalised: bool, dies: bool = False, stop: bool = False) -> dict[str, Any]:
    """Weights, BatchNorm's statistics and losses of a training; with BatchNorm and dropout, or with weights that
    depend on the losses of all samples."""
    hosts = Hosts.of(devices)
    with devices.scope():
        keras.utils.set_random_seed(5 if hosts is None or hosts.chief else 6)  # the chief's weights are everybody's
        model = toy.toy_model(dropout=0.0, batch_norm=normalised)
        optimizer = keras.optimizers.SGD(0.3, momentum=0.9, clipnorm=None if normalised else 0.5)
    step = GradientStep(model, optimizer, toy.toy_loss, None if normalised else hardest, devices)
    batches = Batches(odd=not normalised)
    if hosts is not None:
        batches = shared_out(batches, hosts.share)
    losses: list[float] = []

    def show(done: int, loss: float, waiting: float) -> None:
        losses.append(loss)
        if dies and done == DIES_AT:
            os._exit(9)

    def end(epoch: int, logs: Any) -> bool:
        return stop and (hosts is None or hosts.chief)  # the others are told

    settings = LoopSettings(EPOCHS, checkpoint_seconds=0.0, log_every=1)
    history = train(step, batches, settings, folder, model, optimizer, progress=show, epoch_end=end)
    return {
        "weights": [weight.tolist() for weight in model.get_weights()],
        "losses": losses,
        "epochs": [record["loss"] for record in history],
    }


def described(folder: Path, hosts: Hosts) -> dict[str, Any]:
    """A training as recipes describe it: what this host writes into its own folder, and when it meets the others."""
    met: list[str] = []

    class Recorded:
        chief = hosts.chief

        def begin(self, stem: str) -> None:
            met.append(f"{stem} begins")

        def end(self) -> None:
            met.append("ends")

    def build() -> Network:
        model = toy.toy_model(dropout=0.0)
        return Network(model, keras.optimizers.SGD(0.3), model)

    run = Run(folder / f"host{hosts.index}", "toy", {"mirror": True}, 1, lambda line: None)
    run.company = Recorded()
    training = Training("toy", 5, 1, build, Batches(odd=True), toy.everyone(1), by_gradient(toy.toy_loss))
    network, history = optimise(run, training, run.folder / "work")
    files = sorted(str(path.relative_to(run.folder)) for path in run.folder.rglob("*") if path.is_file())
    weights = [weight.tolist() for weight in network.trained.get_weights()]
    return {"met": met, "files": [name for name in files if "logs" not in name], "weights": weights, "epochs": history}


def on_hosts(task: str, folder: Path, ports: list[str], index: int) -> dict[str, Any]:
    if task == "goes-on":
        sys.stdin.readline()
    workers = [f"127.0.0.1:{port}" for port in ports]
    os.environ["TF_CONFIG"] = json.dumps({"cluster": {"worker": workers}, "task": {"type": "worker", "index": index}})
    if task == "dies":
        hosts_of_training.HEARTBEAT_S = 10  # and not a minute, which a test would wait for the chief to know
    configure(1, mirror=True)
    devices = strategy(True)
    broken = folder / "broken"
    if task == "dies":
        return trained(devices, broken, True, dies=index == 1)
    hosts = Hosts.of(devices)
    answer: dict[str, Any] = {"said": hosts.everybody(f"host {index} ä"), "told": hosts.told(f"by {index}")}
    answer["mean"] = plain(hosts.mean(np.float32([1.1, index])).tolist())
    answer["went on"] = trained(devices, broken, True)
    answer["normalised"] = trained(devices, folder / "whole", True)
    answer["weighed"] = trained(devices, folder / "weighed", False)
    answer["described"] = described(folder, hosts)
    answer["stopped"] = trained(devices, folder / "stopped", True, stop=True)["epochs"]
    return answer


def main(task: str, folder: Path, *rest: str) -> None:
    if task == "reference":
        cpu = tf.config.list_physical_devices("CPU")[0]
        tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
        configure(1)
        kinds = (tf.distribute.get_strategy(), tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]))
        answer = {
            name: [
                trained(devices, folder / f"{name}{place}", name == "normalised") for place, devices in enumerate(kinds)
            ]
            for name in ("normalised", "weighed")
        }
    else:
        try:
            with losses_named():
                answer = on_hosts(task, folder, list(rest[:2]), int(rest[2]))
        except RunError as error:
            sys.exit(str(error))
    sys.stdout.write(json.dumps(answer) + "\n")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), *sys.argv[3:])
