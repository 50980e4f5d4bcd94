"""When a training is said to stand still, and that the loop says it once, also after a kill."""

import contextlib
import re
from pathlib import Path
from types import ModuleType

import keras
import numpy as np
import pytest
import tensorflow as tf

from melano_tf.errors import InputError
from melano_tf.papers.zoome.models import focal_prior
from melano_tf.papers.zoome.settings import preset
from melano_tf.training.loop import LoopSettings, Watch, train
from melano_tf.training.sample_weights import Strategy, strategy_prior
from melano_tf.training.stuck_training import stuck_at
from melano_tf.training.tensorflow_runtime import configure, strategy


@pytest.mark.parametrize(
    ("losses", "epoch"),
    [
        ([], None),
        ([8.0], None),
        ([8.0, 8.0], 1),
        ([9.0, 8.0, 8.0007, 8.0007], 2),  # within 1e-4 of 8
        ([8.0, 8.001], None),
        ([8.0, 7.0, 0.6, 0.6, 0.6], None),  # stands still, but knows more than the prior
        ([0.6, 0.6, 8.0, 8.0], 3),
    ],
)
def test_where_a_training_is_stuck(losses: list[float], epoch: int | None) -> None:
    assert stuck_at(losses, 0.69) == epoch


class Given:
    """A step that trains nothing and returns the loss of its epoch."""

    def __init__(self, losses: list[float]) -> None:
        self.losses = losses

    def __call__(self, batch: object, progress: object) -> dict[str, object]:
        return {"loss": tf.constant(self.losses[int(progress.epoch)])}


def test_the_loop_says_it_once_and_names_the_epoch(toy: ModuleType, tmp_path: Path) -> None:
    said: list[str] = []
    losses = [7.0, 5.4, 5.4, 5.4, 5.4]

    def run(stop_at: int) -> None:
        def progress(done: int, loss: float, waiting: float) -> None:
            if done == stop_at:
                raise KeyboardInterrupt

        settings = LoopSettings(5, checkpoint_seconds=0.0, watch=Watch("target/bgas", 0.6365, said.append))
        model, batches = toy.toy_model(), toy.ToyBatches(steps_per_epoch=2)
        train(Given(losses), batches, settings, tmp_path, model, keras.optimizers.SGD(0.1), progress=progress)

    with contextlib.suppress(KeyboardInterrupt):
        run(stop_at=7)  # within the fourth epoch
    assert len(said) == 1 and "\n" not in said[0]
    assert re.fullmatch(
        r"target/bgas: the loss of epoch 3 is 5\.4\d* and has not moved since the epoch before, and a constant answer "
        r"alone would cost 0\.6365: this training learns nothing; look at the learning rate and at what its inputs are",
        said[0],
    )
    run(stop_at=-1)
    assert len(said) == 1


def test_a_training_that_moves_is_left_alone(toy: ModuleType, tmp_path: Path) -> None:
    """Its loss is above the prior's, too."""
    said: list[str] = []
    model, optimizer = toy.toy_model(), toy.toy_optimizer()
    settings = LoopSettings(toy.EPOCHS, watch=Watch("toy", 0.1, said.append))
    train(toy.GradientStep(model, optimizer, toy.toy_loss), toy.ToyBatches(), settings, tmp_path, model, optimizer)
    assert said == []


def test_the_prior_under_a_strategys_weights() -> None:
    counts = np.array([30, 10])
    assert strategy_prior(Strategy(), counts) == pytest.approx(0.5623351, rel=1e-5)
    # N / N_c makes both classes alike: each sample weighs 2 in the mean, and the answer is 1/2.
    assert strategy_prior(Strategy(class_weights="cb"), counts) == pytest.approx(2 * np.log(2), rel=1e-5)
    answers = np.arange(1, 100_000) / 100_000
    focal = -0.75 * (1 - answers) * np.log(answers) - 0.25 * answers * np.log(1 - answers)
    assert strategy_prior(Strategy(gamma=1.0), counts) == pytest.approx(focal.min(), rel=1e-6)


def test_a_network_that_gives_one_answer_under_the_focal_loss_is_noticed() -> None:
    """Its loss settles below that of the class shares: ZooME's images, always 0.15."""
    shares, alpha, gamma = np.array([32_532, 594]) / 33_126, 0.25, 2.0
    settled = -(shares[1] * alpha * 0.85**gamma * np.log(0.15) + shares[0] * (1 - alpha) * 0.15**gamma * np.log(0.85))
    counts = np.repeat([0, 1], [32_532, 594])
    settings = preset("paper")
    assert (settings.training.alpha, settings.training.gamma) == (alpha, gamma)
    assert stuck_at([0.02, settled, settled], focal_prior(settings, counts)) == 2


def test_one_training_takes_one_device_unless_more_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """With two GPUs in sight too; and there are none to mirror over here."""
    monkeypatch.setattr(tf.config, "list_logical_devices", lambda kind: ["GPU:0", "GPU:1"])
    assert strategy(False) is None
    monkeypatch.setattr(tf.config, "list_logical_devices", lambda kind: ["GPU:0"])
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: ["GPU:0"])
    for ask in (lambda: strategy(True), lambda: configure(0, mirror=True)):
        with pytest.raises(InputError, match=r"--mirror spreads .* there are 1 here"):
            ask()
