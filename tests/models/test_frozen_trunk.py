"""A network in two halves: together they are the whole, and training the rest trains the whole."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from melano_tf.errors import InputError
from melano_tf.models.classifier_head import classify, logits_of
from melano_tf.models.frozen_trunk import split_at
from melano_tf.training.losses import categorical_crossentropy
from melano_tf.training.steps import GradientStep, Progress

RNG = np.random.default_rng(0)
PICTURES = RNG.normal(size=(4, 8, 8, 3)).astype(np.float32)


def network(shortcut: bool = False) -> keras.Model:
    keras.utils.set_random_seed(1)
    picture = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(4, 3, padding="same", name="first")(picture)
    x = keras.layers.BatchNormalization(name="first_bn")(x)
    y = keras.layers.Conv2D(4, 3, padding="same", name="second")(x)
    y = keras.layers.BatchNormalization(name="second_bn")(y)
    y = keras.layers.Add(name="add")([x, y]) if shortcut else y
    y = keras.layers.GlobalAveragePooling2D()(y)
    return keras.Model(picture, classify(y, 3, "softmax", "classes"), name="net")


def test_the_halves_one_after_the_other_are_the_whole() -> None:
    model = network()
    before = model(PICTURES, training=False).numpy()
    halves = split_at(model, "first_bn")
    features = halves.trunk(PICTURES, training=False)
    assert features.shape == (4, 8, 8, 4)
    np.testing.assert_array_equal(halves.rest(features, training=False), before)
    assert halves.whole is model and not halves.trunk.trainable_variables


def test_training_the_rest_trains_the_whole_and_leaves_the_trunk_as_it_was() -> None:
    halves = split_at(network(), "first_bn")
    trunk = [w.numpy() for w in halves.trunk.weights]
    rest = [w.numpy() for w in halves.rest.weights]
    features = halves.trunk(PICTURES, training=False)
    step = GradientStep(
        logits_of(halves.rest), keras.optimizers.SGD(1.0), lambda batch, z: categorical_crossentropy(batch["y"], z)
    )
    batch = {"x": features, "y": tf.constant([0, 1, 2, 0]), "id": tf.constant(["a", "b", "c", "d"])}
    step(batch, Progress(*(tf.constant(n, tf.int64) for n in (0, 0, 1, 1))))
    for old, new in zip(trunk, halves.trunk.weights, strict=True):
        np.testing.assert_array_equal(old, new.numpy())
    assert all(np.any(old != new.numpy()) for old, new in zip(rest, halves.rest.weights, strict=True))
    np.testing.assert_array_equal(
        halves.whole(PICTURES, training=False), halves.rest(halves.trunk(PICTURES, training=False), training=False)
    )


def test_a_step_of_the_whole_leaves_the_trunks_statistics_alone() -> None:
    halves = split_at(network(), "first_bn")
    still, moving = (halves.whole.get_layer(name).moving_mean for name in ("first_bn", "second_bn"))
    before = still.numpy(), moving.numpy()
    halves.whole(PICTURES + 5, training=True)
    np.testing.assert_array_equal(still.numpy(), before[0])
    assert np.any(moving.numpy() != before[1])


@pytest.mark.parametrize(
    ("shortcut", "layer", "words"),
    [
        (False, "third", "no layer 'third'"),
        (False, "classes", "nothing lies behind classes"),
        (True, "second", "another path leads around it"),
    ],
)
def test_what_cannot_be_cut_is_refused(shortcut: bool, layer: str, words: str) -> None:
    model = network(shortcut)
    with pytest.raises(InputError, match=words):
        split_at(model, layer)
    assert all(each.trainable for each in model.layers)


def test_what_comes_in_behind_the_cut_is_an_input_of_the_rest() -> None:
    keras.utils.set_random_seed(2)
    picture, told = keras.Input((6, 8, 3), name="image"), keras.Input((4,), name="metadata")
    x = keras.layers.Conv2D(5, 3, name="first")(picture)
    x = keras.layers.GlobalAveragePooling2D(name="mean")(x)
    x = keras.layers.Dense(2, name="classes")(keras.layers.Concatenate(name="both")([x, told]))
    halves = split_at(keras.Model([picture, told], x, name="told"), "first")
    pictures, facts = keras.ops.full((3, 6, 8, 3), 2.0), keras.ops.eye(4)[:3]
    wanted = halves.whole([pictures, facts])
    np.testing.assert_allclose(halves.rest([halves.trunk(pictures), facts]), wanted, rtol=1e-5)
    assert [each.trainable for each in halves.whole.layers if each.weights] == [False, True]
    with pytest.raises(InputError, match="another path leads around it"):
        split_at(keras.Model([picture, told], x, name="told"), "both")
