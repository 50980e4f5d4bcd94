import contextlib
import math
import time
from collections import Counter
from pathlib import Path
from types import ModuleType
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from melano_tf.errors import InputError
from melano_tf.training import loop
from melano_tf.training.loop import GradientStep, LoopSettings, TrainingError, train
from melano_tf.training.steps import Progress

NOW = Progress(*(tf.constant(number, tf.int64) for number in (0, 0, 10, 2)))


class Scripted:
    """A step that trains nothing and returns given losses; it remembers what it saw."""

    def __init__(self, losses: list[float]) -> None:
        self.losses = losses
        self.seen: list[tuple[str, int, int]] = []

    def __call__(self, batch: Any, progress: Progress) -> dict[str, Any]:
        at = int(progress.step)
        assert all(number.dtype == tf.int64 for number in progress), "or a traced step is traced twice"
        self.seen.append((batch["id"][0].numpy().decode(), at, int(progress.epoch)))
        per_sample = np.full(len(batch["id"]), self.losses[at], np.float32)
        return {"loss": tf.constant(self.losses[at]), "loss_per_sample": per_sample, "accuracy": np.float32(0.5)}


def _scripted(toy: ModuleType, folder: Path, losses: list[float], **arguments: Any) -> tuple[Scripted, Any]:
    step = Scripted(losses)
    model, batches = toy.toy_model(), toy.ToyBatches(steps_per_epoch=2)
    settings = LoopSettings(len(losses) // 2, checkpoint_seconds=arguments.pop("seconds", 0.0), log_every=1)
    history = train(step, batches, settings, folder, model, keras.optimizers.SGD(0.1), **arguments)
    return step, history


def _points(folder: Path) -> list[tuple[str, int, float]]:
    """All scalars in a folder's TensorBoard files."""
    points = []
    for path in sorted(folder.glob("logs/*")):
        for record in tf.data.TFRecordDataset(str(path)):
            event = tf.compat.v1.Event.FromString(record.numpy())
            for value in event.summary.value:
                points.append((value.tag, event.step, float(tf.make_ndarray(value.tensor))))
    return points


def test_terms_of_a_loss_are_recorded_apart(toy: ModuleType, tmp_path: Path) -> None:
    """In the history's columns and in TensorBoard; the training is that of their sum."""

    def terms(batch: Any, outputs: Any) -> dict[str, Any]:
        loss = toy.toy_loss(batch, outputs)
        return {"cross_entropy_loss": loss, "transfer_loss": 2 * loss}

    ends = []
    for name, loss_fn in (("terms", terms), ("sum", lambda batch, outputs: 3 * toy.toy_loss(batch, outputs))):
        keras.utils.set_random_seed(11)
        model, optimizer = toy.toy_model(), toy.toy_optimizer()
        step = GradientStep(model, optimizer, loss_fn)
        history = train(step, toy.ToyBatches(), LoopSettings(2, log_every=5), tmp_path / name, model, optimizer)
        ends.append(np.concatenate([weight.ravel() for weight in model.get_weights()]))
        if name == "terms":
            header = history.write(tmp_path / "history.csv").read_text().splitlines()[0].split(",")
            assert {"loss", "cross_entropy_loss", "transfer_loss"} <= set(header)
            for record in history:
                assert record["transfer_loss"] == pytest.approx(2 * record["cross_entropy_loss"], rel=1e-5)
                assert record["loss"] == pytest.approx(3 * record["cross_entropy_loss"], rel=1e-5)
    tags = {tag for tag, _, _ in _points(tmp_path / "terms")}
    assert {f"{when}/{name}" for when in ("batch", "epoch") for name in ("cross_entropy_loss", "transfer_loss")} <= tags
    np.testing.assert_allclose(ends[0], ends[1], rtol=1e-4, atol=1e-6)


def test_order_history_and_hooks(toy: ModuleType, tmp_path: Path) -> None:
    calls: list[Any] = []
    step, history = _scripted(
        toy,
        tmp_path,
        [1.0, 2.0, 3.0, 4.0],
        progress=lambda done, loss, waiting: calls.append((done, loss)),
        epoch_end=lambda epoch, logs: calls.append(("end", epoch, logs["loss"])),
        epoch_start=lambda epoch: calls.append(("start", epoch)),
    )
    assert step.seen == [("s0-0", 0, 0), ("s1-0", 1, 0), ("s2-0", 2, 1), ("s3-0", 3, 1)]
    # Means over samples: the first batch of an epoch has 6, the second 4.
    first, second = (1 * 6 + 2 * 4) / 10, (3 * 6 + 4 * 4) / 10
    assert [record["epoch"] for record in history] == [0, 1]
    np.testing.assert_allclose([record["loss"] for record in history], [first, second])
    assert history[0]["accuracy"] == 0.5 and history[0]["seconds"] >= 0
    assert [call for call in calls if call[0] not in ("start", "end")] == [(1, 1.0), (2, 2.0), (3, 3.0), (4, 4.0)]
    assert [call[:2] for call in calls if call[0] in ("start", "end")] == [
        ("start", 0),
        ("end", 0),
        ("start", 1),
        ("end", 1),
    ]
    rows = history.write(tmp_path / "history.csv").read_text().splitlines()
    assert rows[0] == "epoch,loss,accuracy,seconds,waiting" and len(rows) == 3


def test_a_finished_folder_returns_at_once(toy: ModuleType, tmp_path: Path) -> None:
    model, optimizer, history = toy.run_toy(tmp_path)
    files = sorted(tmp_path.rglob("*"))

    class Never:
        steps_per_epoch = toy.STEPS

        def from_step(self, step: int) -> Any:
            raise AssertionError("batches were asked for")

    other, other_optimizer = toy.toy_model(), toy.toy_optimizer()
    settings = LoopSettings(toy.EPOCHS)
    again = train(Scripted([]), Never(), settings, tmp_path, other, other_optimizer)
    assert again == history
    assert toy.digest(other, other_optimizer) == toy.digest(model, optimizer)
    assert sorted(tmp_path.rglob("*")) == files


def test_a_loss_that_is_not_finite_stops_with_the_ids(toy: ModuleType, tmp_path: Path) -> None:
    class OneBad(Scripted):
        def __call__(self, batch: Any, progress: Progress) -> dict[str, Any]:
            result = super().__call__(batch, progress)
            if int(progress.step) == 3:
                result["loss_per_sample"][2] = np.nan
                result["loss"] = tf.constant(np.nan)
            return result

    model, batches, settings = toy.toy_model(), toy.ToyBatches(steps_per_epoch=2), LoopSettings(2, 0.0)
    with pytest.raises(
        TrainingError, match=r"step 3 \(epoch 2\).*loss of s3-2 is not finite; .*s3-0, s3-1, s3-2, s3-3"
    ):
        train(OneBad([1.0] * 4), batches, settings, tmp_path, model, keras.optimizers.SGD(0.1))
    step = Scripted([1.0] * 4)
    train(step, batches, settings, tmp_path, model, keras.optimizers.SGD(0.1))
    assert [seen[1] for seen in step.seen] == [3], "the checkpoint before the bad step was kept"


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("loss", "step 2 .*loss = nan.*the loss of s2-1 is not finite; the batch"),
        # A ReLU hides the NaN from the loss, not from the gradient.
        ("input", "step 2 .*: gradient_norm = nan; the input of s2-1 is not finite; the batch"),
        ("gradient", "step 0 .*: gradient_norm = nan; the batch holds s0-0"),
    ],
)
def test_the_gradient_step_reports_what_is_not_finite(toy: ModuleType, tmp_path: Path, fault: str, words: str) -> None:
    class Faulty(toy.ToyBatches):
        def batch(self, step: int) -> dict[str, Any]:
            batch = super().batch(step)
            if step == 2 and fault == "input":
                x = batch["x"].numpy()
                x[1] = np.nan
                batch["x"] = tf.constant(x)
            noise = np.zeros(len(batch["id"]), np.float32)
            noise[1] = np.nan if step == 2 and fault == "loss" else 0.0
            batch["noise"] = tf.constant(noise)
            return batch

    def loss(batch: Any, outputs: Any) -> Any:
        losses = toy.toy_loss(batch, outputs) + batch["noise"]
        if fault == "gradient":  # finite, but d sqrt(z)/dz is infinite at 0
            losses += tf.sqrt(tf.maximum(outputs[:, 0] * 0.0, 0.0))
        return losses

    model, optimizer = toy.toy_model(batch_norm=False), toy.toy_optimizer()
    step = GradientStep(model, optimizer, loss)
    with pytest.raises(TrainingError, match=words):
        train(step, Faulty(), LoopSettings(1, 0.0), tmp_path, model, optimizer)


def test_no_point_twice_in_tensorboard_after_a_break(toy: ModuleType, tmp_path: Path) -> None:
    class Stop(Exception):
        pass

    def stop_at_five(done: int, loss: float, waiting: float) -> None:
        if done == 5:
            raise Stop

    losses = [float(number) for number in range(8)]
    with pytest.raises(Stop):
        _scripted(toy, tmp_path, losses, progress=stop_at_five)
    _scripted(toy, tmp_path, losses)
    points = _points(tmp_path)
    assert not [key for key, count in Counter(point[:2] for point in points).items() if count > 1]
    assert sorted(at for tag, at, _ in points if tag == "batch/loss") == list(range(1, 9))
    assert {at: value for tag, at, value in points if tag == "batch/loss"}[8] == 7.0
    assert sorted(at for tag, at, _ in points if tag == "epoch/loss") == [1, 2, 3, 4]
    assert {value for tag, _, value in points if tag == "batch/learning_rate"} == {np.float32(0.1)}

    # Nothing was saved: the points of the lost steps are not on disk, and come once.
    folder = tmp_path / "unsaved"
    with pytest.raises(Stop):
        _scripted(toy, folder, losses, progress=stop_at_five, seconds=1e9)
    assert _points(folder) == []
    _scripted(toy, folder, losses, seconds=1e9)
    assert max(Counter(point[:2] for point in _points(folder)).values()) == 1


def test_extra_variables_come_back_and_an_epoch_starts_once(toy: ModuleType, tmp_path: Path) -> None:
    class Stop(Exception):
        pass

    def stop_at_three(done: int, loss: float, waiting: float) -> None:
        if done == 3:
            raise Stop

    starts: list[int] = []
    centre = tf.Variable(0.0)

    def start(epoch: int) -> None:
        starts.append(epoch)
        centre.assign_add(epoch + 1.0)

    arguments = {"epoch_start": start, "extra_variables": [centre]}
    with pytest.raises(Stop):
        _scripted(toy, tmp_path, [1.0] * 6, progress=stop_at_three, **arguments)
    assert starts == [0, 1] and float(centre) == 3.0
    centre.assign(-1.0)
    _scripted(toy, tmp_path, [1.0] * 6, **arguments)
    assert starts == [0, 1, 2] and float(centre) == 6.0


def test_a_checkpoint_of_other_batches_is_refused(toy: ModuleType, tmp_path: Path) -> None:
    _scripted(toy, tmp_path, [1.0] * 4)
    with pytest.raises(InputError, match="does not fit"):
        _scripted(toy, tmp_path, [1.0] * 2)
    longer = toy.ToyBatches(steps_per_epoch=4)
    with pytest.raises(InputError, match="does not fit 3 epochs with 4;"):
        train(Scripted([1.0] * 12), longer, LoopSettings(3), tmp_path, toy.toy_model(), keras.optimizers.SGD(0.1))
    step, history = _scripted(toy, tmp_path, [1.0] * 6)
    assert [seen[1] for seen in step.seen] == [4, 5] and len(history) == 3, "more epochs go on from the last"


def test_batches_are_asked_for_anew_after_each_start_of_an_epoch(toy: ModuleType, tmp_path: Path) -> None:
    """Which may have changed them; without a hook they run on."""
    for start, asked in ((None, [0]), (lambda epoch: None, [0, 2, 4])):
        batches, model = toy.ToyBatches(steps_per_epoch=2), toy.toy_model()
        folder = tmp_path / str(len(asked))
        sgd = keras.optimizers.SGD(0.1)
        train(Scripted([1.0] * 6), batches, LoopSettings(3), folder, model, sgd, epoch_start=start)
        assert batches.asked == asked


def test_an_epochs_seconds_count_what_was_done_before_a_kill(
    toy: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a clock that stands still but for 3 s of waiting at the first batch, 2 s at the second, 1 s in each step."""
    clock = [0.0]
    monkeypatch.setattr(loop.time, "monotonic", lambda: clock[0])

    class Slow(toy.ToyBatches):
        def from_step(self, at: int) -> Any:
            for place, batch in enumerate(super().from_step(at), start=at):
                clock[0] += 3.0 - place
                yield batch

    def step(batch: Any, progress: Progress) -> dict[str, Any]:
        clock[0] += 1.0
        return {"loss": tf.constant(1.0)}

    def stop(done: int, loss: float, waiting: float) -> None:
        if done == 1:
            raise KeyboardInterrupt

    history: Any = None
    for progress in (stop, None):
        settings, model = LoopSettings(1, checkpoint_seconds=0.0), toy.toy_model()
        with contextlib.suppress(KeyboardInterrupt):
            batches, sgd = Slow(steps_per_epoch=2), keras.optimizers.SGD(0.1)
            history = train(step, batches, settings, tmp_path, model, sgd, progress)
    assert history[0]["seconds"] == 7.0 and history[0]["waiting"] == pytest.approx(5 / 7, abs=1e-4)


def test_batches_may_end_with_an_epoch_but_not_before(toy: ModuleType, tmp_path: Path) -> None:
    class Ending(toy.ToyBatches):
        length = 2

        def from_step(self, step: int) -> Any:
            self.asked.append(step)
            return [self.batch(at) for at in range(step, (step // self.length + 1) * self.length)]

    batches = Ending(steps_per_epoch=2)
    step = Scripted([1.0] * 4)
    train(step, batches, LoopSettings(2), tmp_path / "a", toy.toy_model(), keras.optimizers.SGD(0.1))
    assert batches.asked == [0, 2] and len(step.seen) == 4
    batches = Ending(steps_per_epoch=3)
    with pytest.raises(TrainingError, match="middle of an epoch"):
        train(Scripted([1.0] * 6), batches, LoopSettings(2), tmp_path / "b", toy.toy_model(), keras.optimizers.SGD(0.1))


def test_settings_are_checked() -> None:
    for wrong in ({"epochs": 0}, {"epochs": 1, "log_every": 0}, {"epochs": 1, "checkpoint_seconds": -1.0}):
        with pytest.raises(
            InputError, match=r"^LoopSettings\(.*\): epochs and log_every .* at least 1, checkpoint_seconds at least 0$"
        ):
            LoopSettings(**wrong)
    assert LoopSettings(1, 0.0, 1).watch is None


def test_the_update_is_the_gradient_of_the_weighted_mean() -> None:
    # One linear unit: loss_i = w_i (a x_i - y_i)^2, divided by the number of samples.
    inputs = keras.Input((1,))
    model = keras.Model(inputs, keras.layers.Dense(1, use_bias=False, kernel_initializer="ones")(inputs))
    x, y, w = [1.0, 2.0, 3.0], [0.0, 0.0, 1.0], [1.0, 0.5, 2.0]
    batch = {
        "x": tf.constant([[value] for value in x]),
        "y": tf.constant(y),
        "weight": tf.constant(w),
        "id": tf.constant(["a", "b", "c"]),
    }
    seen: list[Any] = []

    def weights(losses: Any, batch: Any, progress: Progress) -> Any:
        seen.append(progress.fraction)
        return tf.cast(losses < 2.0, tf.float32)  # leaves out the two largest: 4 (b), 4 (c)

    def loss(batch: Any, outputs: Any) -> Any:
        return (outputs[:, 0] - batch["y"]) ** 2

    result = GradientStep(model, keras.optimizers.SGD(0.1), loss)(batch, NOW)
    terms = [weight * 2 * (value - target) * value for value, target, weight in zip(x, y, w, strict=True)]
    np.testing.assert_allclose(model.get_weights()[0], [[1 - 0.1 * sum(terms) / 3]], rtol=1e-6)
    np.testing.assert_allclose(result["loss_per_sample"], [1.0, 4.0, 4.0], rtol=1e-6)
    np.testing.assert_allclose(result["loss"], (1 + 2 + 8) / 3, rtol=1e-6)
    np.testing.assert_allclose(result["gradient_norm"], abs(sum(terms)) / 3, rtol=1e-6)

    model.set_weights([np.ones((1, 1), np.float32)])
    result = GradientStep(model, keras.optimizers.SGD(0.1), loss, weights_fn=weights)(batch, NOW)
    np.testing.assert_allclose(model.get_weights()[0], [[1 - 0.1 * terms[0] / 3]], rtol=1e-6)
    np.testing.assert_allclose(result["loss"], 1 / 3, rtol=1e-6)
    assert len(seen) == 1


def test_frozen_layers_stay_and_added_losses_count(toy: ModuleType) -> None:
    batch = toy.ToyBatches().batch(0)
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(4, 3, name="first")(inputs)
    x = keras.layers.GlobalAveragePooling2D()(x)
    outputs = keras.layers.Dense(2, kernel_regularizer=keras.regularizers.L2(0.5))(x)
    model = keras.Model(inputs, outputs)
    model.get_layer("first").trainable = False
    before = model.get_weights()
    penalty = 0.5 * float((before[2] ** 2).sum())
    result = GradientStep(model, toy.toy_optimizer(), toy.toy_loss)(batch, NOW)
    after = model.get_weights()
    np.testing.assert_array_equal(before[0], after[0])
    assert not np.array_equal(before[2], after[2])
    mean = float(np.mean(batch["weight"].numpy() * result["loss_per_sample"].numpy()))
    assert math.isclose(float(result["loss"]), mean + penalty, rel_tol=1e-5)
    model.trainable = False
    with pytest.raises(InputError, match="no trainable"):
        GradientStep(model, toy.toy_optimizer(), toy.toy_loss)


def test_several_inputs_and_one_trace_for_every_batch_size(tmp_path: Path) -> None:
    image, table = keras.Input((4, 4, 1), name="image"), keras.Input((3,), name="table")
    joined = keras.layers.Concatenate()([keras.layers.Flatten()(image), table])
    model = keras.Model({"image": image, "table": table}, keras.layers.Dense(1)(joined))
    traces = []

    def loss(batch: Any, outputs: Any) -> Any:
        traces.append(1)
        return (outputs[:, 0] - batch["y"]) ** 2

    step = GradientStep(model, keras.optimizers.SGD(0.01), loss)
    for size in (5, 3, 5, 1):
        batch = {
            "x": {"image": tf.ones([size, 4, 4, 1]), "table": tf.ones([size, 3])},
            "y": tf.zeros([size]),
            "id": tf.constant(["i"] * size),
        }
        assert step(batch, NOW)["loss_per_sample"].shape == (size,)
    assert len(traces) == 1


def test_a_dropout_mask_is_new_in_each_step(toy: ModuleType) -> None:
    model = toy.toy_model(dropout=0.5, batch_norm=False)
    step = GradientStep(model, keras.optimizers.SGD(1e-12), toy.toy_loss)
    batch = toy.ToyBatches().batch(0)
    losses = [float(step(batch, NOW)["loss"]) for _ in range(4)]
    assert len(set(losses)) > 1


class _Late:
    """A scalar that notes when it is read."""

    shape = ()

    def __init__(self, value: float, note: Any) -> None:
        self.value, self.note = value, note

    def __float__(self) -> float:
        self.note()
        return self.value


def test_the_loop_does_not_wait_for_the_scalars_of_each_step(
    toy: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "READ_SECONDS", 1e9)
    monkeypatch.setattr(loop, "READ_STEPS", 4)
    events: list[tuple[str, int]] = []

    def step(batch: Any, progress: Progress) -> dict[str, Any]:
        at = int(progress.step)
        events.append(("done", at))
        return {"loss": _Late(float(at), lambda: events.append(("read", at)))}

    shown: list[tuple[int, float]] = []
    settings, batches = LoopSettings(1, checkpoint_seconds=1e9, log_every=1000), toy.ToyBatches(steps_per_epoch=6)
    model = toy.toy_model()
    train(step, batches, settings, tmp_path, model, keras.optimizers.SGD(0.1), lambda *call: shown.append(call[:2]))
    first, rest = [("done", at) for at in range(4)], [("done", 4), ("done", 5)]
    assert events == [*first, *(("read", at) for at in range(4)), *rest, ("read", 4), ("read", 5)]
    assert shown == [(at + 1, float(at)) for at in range(6)]


def test_what_is_not_finite_is_found_later_and_nothing_after_it_is_kept(
    toy: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "READ_SECONDS", 1e9)
    losses = [1.0] * 8
    losses[5] = math.nan
    step = Scripted(losses)
    model, batches = toy.toy_model(), toy.ToyBatches(steps_per_epoch=4)
    settings = LoopSettings(2, checkpoint_seconds=1e9, log_every=1000)
    with pytest.raises(TrainingError, match=r"step 5 \(epoch 2\).*loss of s5-0, s5-1.*the batch holds s5-0, s5-1"):
        train(step, batches, settings, tmp_path, model, keras.optimizers.SGD(0.1))
    assert step.seen[-1][1] == 7, "the steps after it were done before it was read"
    assert not (tmp_path / "checkpoint.npz").exists()


def test_the_share_of_waiting_is_in_the_history(toy: ModuleType, tmp_path: Path) -> None:
    class Slow(toy.ToyBatches):
        def from_step(self, at: int) -> Any:
            for batch in super().from_step(at):
                time.sleep(0.03)
                yield batch

    def step(batch: Any, progress: Progress) -> dict[str, Any]:
        time.sleep(0.01)
        return {"loss": tf.constant(1.0)}

    shares = []
    for batches in (Slow(steps_per_epoch=10), toy.ToyBatches(steps_per_epoch=10)):
        folder = tmp_path / type(batches).__name__
        settings = LoopSettings(1, checkpoint_seconds=1e9)
        shares += [train(step, batches, settings, folder, toy.toy_model(), keras.optimizers.SGD(0.1))[0]["waiting"]]
    assert 0.5 < shares[0] <= 1 and shares[1] < shares[0]
