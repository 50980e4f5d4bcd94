"""One training from its description: on a network of its own, and on one that several share."""

import contextlib
from pathlib import Path
from types import SimpleNamespace

import keras
import numpy as np
import pytest

from melano_tf.runs.run_folder import Run
from melano_tf.training.checkpoint import weights_sha256
from melano_tf.training.fit import Network, Training, by_gradient, fit, optimise, prepare
from melano_tf.training.steps import Progress, Step, TrainingError
from tests.training.toy import ToyBatches, everyone, toy_loss, toy_model


def build() -> Network:
    model = toy_model()
    return Network(model, keras.optimizers.Adam(0.05), model)


def described(stem: str, **more: object) -> Training:
    facts = {"seed": 11, "epochs": 2, "build": build, "batches": ToyBatches(), "step": by_gradient(toy_loss)} | more
    return Training(stem=stem, sides=everyone(2), **facts)


@pytest.fixture
def run(tmp_path: Path):
    with Run(tmp_path / "run", "toy", {"preset": "demo"}, 1, print) as run:
        yield run


def broken(step: Step, network: Network) -> Step:
    def breaks(batch: object, progress: Progress) -> object:
        if int(progress.step) == 3:
            raise TrainingError("in the middle")
        return step(batch, progress)

    return breaks


def test_a_shared_network_starts_each_training_where_it_was_built(run: Run, tmp_path: Path) -> None:
    own, _ = optimise(run, described("own"), tmp_path / "own")
    shared = prepare(run, described("first"))
    ends = []
    for name in ("first", "second"):
        network, history = optimise(run, described(name), tmp_path / name, shared)
        assert network is shared.network and len(history) == 2
        ends.append(weights_sha256(network.saved))
        with pytest.raises(TrainingError, match="in the middle"):
            optimise(run, described("broken", around=broken), tmp_path / f"{name}-broken", shared)
    assert ends == [weights_sha256(own.saved)] * 2
    assert shared.step._function.experimental_get_tracing_count() == 1


def test_a_start_takes_the_place_of_the_built_weights(run: Run, tmp_path: Path) -> None:
    warm, _ = optimise(run, described("warm"), tmp_path / "warm")
    start, seen = warm.trained.get_weights(), []

    def noted(step: Step, network: Network) -> Step:
        seen.append([np.array(value) for value in network.trained.get_weights()])
        return step

    alone, _ = optimise(run, described("alone", start=start, around=noted), tmp_path / "alone")
    shared = prepare(run, described("shared"))
    optimise(run, described("before"), tmp_path / "before", shared)
    optimise(run, described("shared", start=start, around=noted), tmp_path / "shared", shared)
    for found in seen:
        assert all(np.array_equal(one, two) for one, two in zip(found, start, strict=True))
    assert weights_sha256(shared.network.saved) == weights_sha256(alone.saved) != weights_sha256(warm.saved)


def test_alike_trainings_start_where_each_would_have_been_built(run: Run, tmp_path: Path) -> None:
    """Another seed gives other weights and another dropout, in the network that was traced for the first."""
    alone = {seed: optimise(run, dropped(f"alone-{seed}", seed), tmp_path / f"alone-{seed}")[0] for seed in (3, 4)}
    shared = prepare(run, dropped("first", 3))
    for name, seed in (("first", 3), ("second", 4), ("third", 3)):
        network, _ = optimise(run, dropped(name, seed), tmp_path / name, shared)
        assert network is shared.network
        assert weights_sha256(network.saved) == weights_sha256(alone[seed].saved)
    assert weights_sha256(alone[3].saved) != weights_sha256(alone[4].saved)
    assert shared.step._function.experimental_get_tracing_count() == 1


def dropped(stem: str, seed: int) -> Training:
    """A training whose network draws: its seed generator belongs to where it starts."""

    def build() -> Network:
        inputs = keras.Input((8, 8, 3))
        hidden = keras.layers.Dense(7, activation="relu")(keras.layers.GlobalAveragePooling2D()(inputs))
        dropped = keras.layers.Dropout(0.5, seed=seed)(hidden)
        model = keras.Model(inputs, keras.layers.Dense(2)(dropped))
        return Network(model, keras.optimizers.Adam(0.05), model)

    return described(stem, seed=seed, build=build, alike=("toy", "dropped"))


def test_other_hosts_are_met_before_a_network_is_built_and_its_step_is_told_the_devices(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    devices, told, met = SimpleNamespace(scope=contextlib.nullcontext), [], []
    monkeypatch.setattr("melano_tf.training.fit.strategy", lambda mirror: devices)

    def step(network: Network, given: object) -> Step:
        told.append(given)
        raise TrainingError("far enough")

    run.company = SimpleNamespace(begin=met.append, chief=True)
    for does in (prepare, lambda *given: optimise(*given, tmp_path / "work")):
        for stem, spread in (("spread", True), ("alone", False)):
            with pytest.raises(TrainingError, match="far enough"):
                does(run, described(stem, step=step, spread=spread))
    assert met == ["spread", "spread"] and told == [devices] * 4


def test_what_is_saved_is_what_was_trained_last(run: Run, tmp_path: Path) -> None:
    shared = prepare(run, described("a"))
    files = [fit(run, described(name, epochs=epochs), tmp_path / name, shared) for name, epochs in (("a", 1), ("b", 2))]
    digests = [weights_sha256(keras.saving.load_model(saved[0])) for saved in files]
    assert digests[0] != digests[1] == weights_sha256(shared.network.saved)
    batch = ToyBatches().batch(0)["x"]
    np.testing.assert_allclose(shared.network.answer(batch), keras.saving.load_model(files[1][0])(batch), atol=1e-6)
