from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from melano_tf.errors import InputError
from melano_tf.training.exact_bags import BagPredictor, BagStep, predict_bag, random_states
from melano_tf.training.loop import LoopSettings, TrainingError, train
from melano_tf.training.losses import binary_crossentropy
from melano_tf.training.steps import Progress

NOW = Progress(*(tf.constant(number, tf.int64) for number in (0, 0, 10, 2)))


@keras.saving.register_keras_serializable("training_tests")
class Attention(keras.layers.Layer):
    """Attention pooling over instances: (B, N, C) -> {"logit", "probability": (B, 1), "attention": (B, N)}."""

    def build(self, shape: Any) -> None:
        self.v = self.add_weight(shape=(shape[-1], 5), name="v")
        self.w = self.add_weight(shape=(5, 1), name="w")
        self.out = self.add_weight(shape=(shape[-1], 1), name="out")

    def call(self, h: Any) -> Any:
        scores = keras.ops.matmul(keras.ops.tanh(keras.ops.matmul(h, self.v)), self.w)[..., 0]
        attention = keras.ops.softmax(scores, axis=-1)
        bag = keras.ops.sum(attention[..., None] * h, axis=1)
        logit = keras.ops.matmul(bag, self.out)
        return {"logit": logit, "probability": keras.ops.sigmoid(logit), "attention": attention}


def _parts(dropout: float = 0.5, norm: str = "none", freeze: bool = False) -> tuple[keras.Model, keras.Model]:
    keras.utils.set_random_seed(4)
    tiles = keras.Input((8, 8, 3))
    x = keras.layers.Rescaling(1 / 255)(tiles)
    x = keras.layers.Conv2D(6, 3, activation="relu", name="first")(x)
    x = keras.layers.SpatialDropout2D(dropout)(x)
    if norm != "none":
        x = keras.layers.BatchNormalization(name="norm", trainable=norm == "training")(x)
    x = keras.layers.Conv2D(7, 3, activation="relu")(x)
    x = keras.layers.Dropout(dropout)(keras.layers.GlobalMaxPooling2D()(x))
    embedder = keras.Model(tiles, x, name="embedder")
    embedder.get_layer("first").trainable = not freeze
    h = keras.Input((None, 7))
    return embedder, keras.Model(h, Attention()(keras.layers.Dropout(dropout)(h)), name="aggregator")


def _bag(count: int, weight: float = 0.7) -> dict[str, Any]:
    draw = np.random.default_rng(count)
    return {
        "x": tf.constant(draw.integers(0, 256, (count, 8, 8, 3)), tf.uint8),
        "y": tf.constant([1]),
        "weight": tf.constant([weight]),
        "id": tf.constant(["slide"]),
    }


def _loss(batch: Any, outputs: Any) -> Any:
    return binary_crossentropy(batch["y"], outputs["logit"][:, 0])


def _step(parts: tuple[Any, Any], chunk: int) -> BagStep:
    return BagStep(*parts, keras.optimizers.SGD(0.1), _loss, chunk=chunk)


def _whole_bag_gradient(parts: tuple[Any, Any], bag: dict[str, Any], chunk: int) -> tuple[list[np.ndarray], float]:
    """All chunks under one tape, eagerly; dropout draws chunk by chunk, as it does without a tape."""
    embedder, aggregator = parts
    variables = [v.value for v in [*embedder.trainable_variables, *aggregator.trainable_variables]]
    with tf.GradientTape() as tape:
        count = len(bag["x"])
        pieces = [embedder(bag["x"][at : at + chunk], training=True) for at in range(0, count, chunk)]
        outputs = aggregator(tf.concat(pieces, axis=0)[None], training=True)
        loss = tf.reduce_sum(bag["weight"] * _loss(bag, outputs))
    return [np.asarray(g) for g in tape.gradient(loss, variables, unconnected_gradients="zero")], float(loss)


def _relative(found: list[np.ndarray], expected: list[np.ndarray]) -> float:
    difference = np.sqrt(sum(((a - b) ** 2).sum() for a, b in zip(found, expected, strict=True)))
    return float(difference / np.sqrt(sum((b**2).sum() for b in expected)))


@pytest.mark.parametrize("count", [4, 8, 13, 29])
def test_the_gradient_is_the_whole_bags_with_dropout_on(count: int) -> None:
    parts, chunk = _parts(dropout=0.5), 8
    states = random_states(*parts)
    assert len(states) == 3
    before = [state.numpy() for state in states]
    step = _step(parts, chunk)
    found = step.gradients(_bag(count))
    after = [state.numpy() for state in states]
    for state, value in zip(states, before, strict=True):
        state.assign(value)
    expected, _ = _whole_bag_gradient(parts, _bag(count), chunk)
    assert _relative(found, expected) < 1e-5
    assert all(np.abs(gradient).max() > 0 for gradient in expected)
    # The random numbers go on as if the bag had been run once.
    for state, value in zip(states, after, strict=True):
        np.testing.assert_array_equal(state.numpy(), value)
    # And the test can tell: other random numbers give another gradient.
    assert _relative(step.gradients(_bag(count)), expected) > 1e-2


def test_without_dropout_it_is_the_gradient_of_one_pass() -> None:
    parts = _parts(dropout=0.0)
    expected, loss = _whole_bag_gradient(parts, _bag(21), chunk=1000)
    for chunk in (1, 5, 20, 21, 64):
        step = _step(parts, chunk)
        assert _relative(step.gradients(_bag(21)), expected) < 1e-5
    np.testing.assert_allclose(float(step.accumulate(_bag(21))[0]), loss, rtol=1e-6)


def test_one_step_is_one_update_and_leaves_nothing_behind() -> None:
    parts = _parts(dropout=0.0)
    step = _step(parts, chunk=4)
    variables = [*parts[0].trainable_variables, *parts[1].trainable_variables]
    for count in (11, 3, 6):
        expected, _ = _whole_bag_gradient(parts, _bag(count), chunk=1000)
        before = [v.numpy() for v in variables]
        result = step(_bag(count), NOW)
        for variable, start, gradient in zip(variables, before, expected, strict=True):
            np.testing.assert_allclose(variable.numpy(), start - 0.1 * gradient, rtol=1e-4, atol=1e-6)
        norm = np.sqrt(sum((g**2).sum() for g in expected))
        np.testing.assert_allclose(float(result["gradient_norm"]), norm, rtol=1e-4)
        np.testing.assert_allclose(float(result["loss"]), 0.7 * float(result["loss_per_sample"][0]), rtol=1e-6)


def test_frozen_layers_stay() -> None:
    parts = _parts(freeze=True)
    first = [weight.copy() for weight in parts[0].get_layer("first").get_weights()]
    step = _step(parts, chunk=4)
    step(_bag(10), NOW)
    for before, after in zip(first, parts[0].get_layer("first").get_weights(), strict=True):
        np.testing.assert_array_equal(before, after)
    parts[0].trainable = False
    step = _step(parts, chunk=4)
    expected, _ = _whole_bag_gradient(parts, _bag(10), chunk=4)
    assert len(step.gradients(_bag(10))) == len(expected) == 3


def test_batch_norm_must_run_in_inference_mode() -> None:
    _step(_parts(norm="inference"), chunk=4)(_bag(10), NOW)
    for count in (10, 3):
        with pytest.raises(
            TrainingError,
            match=r"^norm/moving_mean: is updated while a bag is embedded in chunks; its .* in inference mode: ",
        ):
            _step(_parts(norm="training"), chunk=4)(_bag(count), NOW)


def test_several_bags_and_layers_with_losses_are_refused() -> None:
    parts = _parts()
    step = _step(parts, chunk=4)
    two = {**_bag(4), "y": tf.constant([1, 0]), "id": tf.constant(["a", "b"]), "weight": tf.ones([2])}
    with pytest.raises(TrainingError, match=r"^a bag step takes one bag, not 2$"):
        step(two, NOW)
    with pytest.raises(TrainingError, match=r"^the bag .* holds no tiles$"):
        step({**_bag(4), "x": tf.zeros([0, 8, 8, 3], tf.uint8)}, NOW)
    with pytest.raises(InputError, match=r"^chunk: 0 is not a positive number of tiles$"):
        _step(parts, chunk=0)
    tiles = keras.Input((8, 8, 3))
    pooled = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(7, 1, kernel_regularizer="l2")(tiles))
    with pytest.raises(InputError, match=r": its layers add losses \(regularisers\), which bags do not support$"):
        _step((keras.Model(tiles, pooled), parts[1]), chunk=4)
    parts[0].trainable = parts[1].trainable = False
    with pytest.raises(InputError, match=r"^embedder: neither embedder nor aggregator has a trainable variable$"):
        _step(parts, chunk=4)


def test_bags_learn_in_the_loop_and_resume_to_the_same_bits(tmp_path: Any) -> None:
    class Bags:
        """A bag is positive where one tile is bright."""

        steps_per_epoch = 6

        def from_step(self, step: int) -> Any:
            while True:
                draw = np.random.default_rng([1, step])
                count, label = int(draw.integers(3, 12)), step % 2
                x = draw.integers(0, 60, (count, 8, 8, 3))
                x[0] += 190 * label
                weight = tf.ones([1])
                yield {
                    "x": tf.constant(x, tf.uint8),
                    "y": tf.constant([label]),
                    "weight": weight,
                    "id": tf.constant([f"bag{step}"]),
                    "row": tf.range(count),
                }
                step += 1

    def fit(folder: Any, progress: Any = None) -> tuple[Any, Any]:
        embedder, aggregator = _parts(dropout=0.2)
        outputs = aggregator(keras.ops.expand_dims(embedder.output, 0))
        model = keras.Model(embedder.input, outputs)
        optimizer = keras.optimizers.Adam(0.01)
        step = BagStep(embedder, aggregator, optimizer, _loss, chunk=4)
        return model, train(step, Bags(), LoopSettings(12, 0.0), folder, model, optimizer, progress)

    class Stop(Exception):
        pass

    def stop(done: int, loss: float, waiting: float) -> None:
        if done == 10:
            raise Stop

    model, history = fit(tmp_path / "whole")
    assert history[-1]["loss"] < 0.8 * history[0]["loss"]
    with pytest.raises(Stop):
        fit(tmp_path / "broken", stop)
    resumed, again = fit(tmp_path / "broken")
    assert [record["loss"] for record in again] == [record["loss"] for record in history]
    for a, b in zip(model.variables, resumed.variables, strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy())


def test_predicting_in_chunks_is_predicting_at_once() -> None:
    embedder, aggregator = parts = _parts()
    tiles = _bag(23)["x"]
    expected = aggregator(embedder(tiles, training=False)[None], training=False)
    for chunk in (1, 7, 23, 100):
        answer = predict_bag(*parts, (tiles[at : at + chunk] for at in range(0, 23, chunk)))
        np.testing.assert_allclose(answer.probability, float(expected["probability"][0, 0]), rtol=1e-5)
        np.testing.assert_allclose(answer.attention, expected["attention"][0], rtol=1e-5)
        assert answer.embeddings.shape == (23, 7) and answer.attention.shape == (23,)
    predictor = BagPredictor(*parts)
    as_batches = predictor({"x": tiles[at : at + 5].numpy(), "id": None} for at in range(0, 23, 5))
    np.testing.assert_allclose(as_batches.probability, answer.probability, rtol=1e-5)
    one = predictor([tiles[:1]])
    np.testing.assert_allclose(one.attention, [1.0])
    with pytest.raises(InputError, match=r"^a bag without tiles cannot be predicted$"):
        predictor([])
