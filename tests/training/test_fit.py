"""One training from its description: its own loop, a loss that comes with the network, and what does not fit."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd
import pytest

from melano_tf.runs.predictions import predictions
from melano_tf.runs.run_folder import Run
from melano_tf.runs.sidecar import Sidecar
from melano_tf.seeding import seeded
from melano_tf.splits.disjoint_sides import Sides
from melano_tf.training.fit import LoopContext, Network, Training, by_gradient, fit
from melano_tf.training.loop import GradientStep, History, train
from melano_tf.training.losses import binary_crossentropy


@dataclass(frozen=True)
class Settings:
    """Of a run without a method."""

    preset: str = "demo"
    seed: int = 3
    mirror: bool = False


class Batches:
    """Two batches an epoch of seven and five points."""

    steps_per_epoch = 2

    def from_step(self, step: int) -> Any:
        """From that step on, for ever."""
        rng = np.random.default_rng(8)
        x = rng.normal(size=(12, 3)).astype(np.float32)
        y = (x[:, 0] > 0.3).astype(np.int64)
        while True:
            rows = slice(0, 7) if step % 2 == 0 else slice(7, 12)
            yield {"x": x[rows], "y": y[rows], "id": np.array([f"p{i}".encode() for i in range(12)])[rows]}
            step += 1


def loss(batch: Any, outputs: Any) -> Any:
    """Of logits (B, 1)."""
    return binary_crossentropy(batch["y"], outputs[:, 0])


def build() -> Network:
    """A linear network that brings its loss."""
    with seeded(5):
        model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1, name="logits")])
    return Network(model, keras.optimizers.SGD(0.1), model, "from nothing", loss)


def judge(network: Network) -> tuple[dict[str, pd.DataFrame], Sidecar]:
    """One table, and a sidecar."""
    card = Sidecar("toy", ("no", "yes"), 3, {}, 0.5, "nowhere", run={"configuration": "own"})
    said = keras.ops.convert_to_numpy(keras.ops.sigmoid(network.answer(np.eye(3, dtype=np.float32))))[:, 0]
    rows = pd.DataFrame({"case": ["a", "b", "c"], "group": ["A", "B", "B"], "part": "test", "target": [0, 1, 1]})
    return {"toy.csv": predictions(rows, said)}, card


POINTS = [f"p{i}" for i in range(12)]
SIDES = Sides({name: name for name in POINTS}, POINTS)
TRAINING = Training("toy", 1, epochs=2, build=build, batches=Batches(), sides=SIDES, step=by_gradient(), judge=judge)


def done(folder: Path, training: Training) -> tuple[np.ndarray, list[str], list[str]]:
    """The trained weights, the files and what was said."""
    said: list[str] = []
    with Run(folder, "toy", Settings(), 1, said.append) as run:
        files = fit(run, training, run.scratch("toy", "k"))
        assert all(path.is_file() for path in files)
        model = keras.saving.load_model(files[0])
        card = Sidecar.read(files[0])
    assert card.run["seed"] == 3 and card.run["configuration"] == "own" and len(card.run["weights_sha256"]) == 64
    return np.concatenate([w.numpy().ravel() for w in model.weights]), [path.name for path in files], said


def test_a_training_with_its_own_loop_ends_as_one_by_steps_and_leaves_the_same_files(tmp_path: Path) -> None:
    seen: list[LoopContext] = []

    def loop(network: Network, context: LoopContext) -> History:
        seen.append(context)
        step = GradientStep(network.trained, network.optimizer, loss, strategy=context.devices)
        begun = (context.folder / "begun").write_text
        return train(
            step,
            context.batches,
            context.settings,
            context.folder,
            network.trained,
            network.optimizer,
            progress=context.progress,
            epoch_start=lambda epoch: begun(str(epoch)) and None,
        )

    by_steps = done(tmp_path / "steps", TRAINING)
    own = done(tmp_path / "own", dataclasses.replace(TRAINING, step=None, loop=loop))
    np.testing.assert_array_equal(own[0], by_steps[0])
    assert (
        own[1:]
        == by_steps[1:]
        == (
            ["toy.keras", "toy.csv", "toy.parquet", "toy.json", "toy.csv"],
            ["toy: from nothing"],
        )
    )
    [context] = seen
    assert context.settings.epochs == 2 and context.devices is None and (context.folder / "begun").read_text() == "1"


def test_the_loss_of_the_call_goes_before_that_of_the_network(tmp_path: Path) -> None:
    other = by_gradient(lambda batch, outputs: -loss(batch, outputs))
    first, _, _ = done(tmp_path / "network", TRAINING)
    second, _, _ = done(tmp_path / "call", dataclasses.replace(TRAINING, step=other))
    assert not np.allclose(first, second)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="either a step or a loop"):
        dataclasses.replace(TRAINING, step=None)
    with pytest.raises(ValueError, match="either a step or a loop"):
        dataclasses.replace(TRAINING, loop=lambda network, context: History())
    with pytest.raises(ValueError, match="without a loss"):
        by_gradient()(dataclasses.replace(build(), loss=None), None)
