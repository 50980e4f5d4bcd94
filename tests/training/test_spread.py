"""Which trainings are spread over devices."""

from types import SimpleNamespace

import pytest

from melano_tf.training import fit
from melano_tf.training.fit import Network, Training, by_gradient, optimise
from melano_tf.training.loop import History
from tests.training.toy import everyone, toy_loss, toy_model, toy_optimizer


@pytest.mark.parametrize("mirror, spread, asked", [(True, True, True), (True, False, False), (False, True, False)])
def test_a_training_is_spread_over_devices_only_where_it_can_be(monkeypatch, tmp_path, mirror, spread, asked):
    seen: list[bool] = []
    monkeypatch.setattr(fit, "strategy", lambda mirrored: seen.append(mirrored))
    monkeypatch.setattr(fit, "train", lambda *given, **more: History())
    model = toy_model()
    training = Training(
        stem="toy",
        seed=0,
        epochs=1,
        build=lambda: Network(model, toy_optimizer(), model),
        batches=SimpleNamespace(steps_per_epoch=1, from_step=lambda step: []),
        sides=everyone(1),
        step=by_gradient(toy_loss),
        spread=spread,
    )
    where = {"path": lambda *parts: tmp_path.joinpath(parts[-1])}
    run = SimpleNamespace(settings={"mirror": mirror}, bars=None, company=None, writes=True, say=print, **where)
    optimise(run, training, tmp_path)
    assert seen == [asked]
