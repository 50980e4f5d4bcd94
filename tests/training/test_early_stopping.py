"""Early stopping: when it ends, which weights it gives back, and that a kill changes nothing."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from melano_tf.training.early_stopping import EarlyStopping
from melano_tf.training.loop import LoopSettings, train


class Ones:
    """Batches of one sample, two a epoch."""

    steps_per_epoch = 2

    def from_step(self, step: int):
        while True:
            yield {"x": tf.ones((1, 1)), "y": tf.ones((1,)), "id": tf.constant(["a"])}


def small_model() -> keras.Model:
    inputs = keras.Input((1,))
    return keras.Model(inputs, keras.layers.Dense(1, use_bias=False, kernel_initializer="zeros")(inputs))


def run(folder, losses, patience, epochs=10, stop_after=None):
    """Train a weight that grows by one a step, judged by given losses; returns (weight, history, early)."""
    model = small_model()
    optimizer = keras.optimizers.SGD(0.1)
    calls = []

    def step(batch, progress):
        if stop_after is not None and len(calls) == stop_after:
            raise KeyboardInterrupt
        calls.append(1)
        model.weights[0].assign_add([[1.0]])
        return {"loss": 1.0}

    def validate() -> float:
        return losses[round(float(model.weights[0].numpy()[0, 0])) // 2 - 1]

    early = EarlyStopping(model, validate, epochs, patience)
    settings = LoopSettings(epochs=epochs, checkpoint_seconds=0)
    history = train(step, Ones(), settings, folder, model, optimizer, epoch_end=early, extra_variables=early.variables)
    early.finish(history)
    [best] = [record["epoch"] for record in history if record["kept"]]
    found = [record["validation_loss"] for record in history]
    return float(model.weights[0].numpy()[0, 0]), history, best, found, len(calls)


LOSSES = [5.0, 4.0, 4.5, 3.0, 3.5, 3.5, 3.2, 2.0, 1.0, 1.0]


def test_it_ends_when_patience_is_over_and_gives_the_best_weights_back(tmp_path) -> None:
    weight, history, best, found, calls = run(tmp_path, LOSSES, patience=3)
    assert (best, len(history), calls) == (3, 7, 14)
    assert found == pytest.approx(LOSSES[:7])
    assert weight == 8.0  # after the fourth epoch of two steps
    again = run(tmp_path, LOSSES, patience=3)
    assert again[0] == weight and again[4] == 0 and len(again[1]) == 7  # a finished folder trains nothing


def test_without_patience_it_goes_to_the_end(tmp_path) -> None:
    weight, history, best, *_ = run(tmp_path, LOSSES, patience=0)
    assert (best, len(history), weight) == (8, 10, 18.0)  # of equal losses the first


@pytest.mark.parametrize("stop_after", [1, 4, 7, 11])
def test_a_killed_training_ends_as_one_that_was_not(tmp_path, stop_after) -> None:
    whole = run(tmp_path / "whole", LOSSES, patience=3)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "killed", LOSSES, patience=3, stop_after=stop_after)
    resumed = run(tmp_path / "killed", LOSSES, patience=3)
    assert resumed[0] == whole[0] and resumed[2:4] == whole[2:4]
    assert len(resumed[1]) == len(whole[1])
    assert resumed[4] == 14 - stop_after


def test_a_loss_that_is_not_finite_is_no_epoch(tmp_path) -> None:
    with pytest.raises(ValueError, match="epoch 2 is nan"):
        run(tmp_path, [1.0, np.nan], patience=3)
