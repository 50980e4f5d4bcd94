"""Statistics of batch normalisation for weights that were set: the mean over batches of the batches' own."""

import keras
import numpy as np
import pytest

from melano_tf.training.batch_norm import estimate_statistics

RNG = np.random.default_rng(4)


def network() -> keras.Model:
    keras.utils.set_random_seed(3)
    image = keras.Input((4, 6, 3), name="image")
    x = keras.layers.Conv2D(5, 3, name="first")(image)
    x = keras.layers.BatchNormalization(name="frozen")(x)
    x = keras.layers.Conv2D(2, 2, name="second")(keras.layers.ReLU()(x))
    x = keras.layers.BatchNormalization(name="own", momentum=0.9)(x)
    model = keras.Model({"image": image}, x)
    model.get_layer("frozen").trainable = False
    return model


def test_they_are_the_mean_of_the_batches_own_and_frozen_layers_keep_theirs() -> None:
    model = network()
    batches = [RNG.normal(2, 3, (size, 4, 6, 3)).astype(np.float32) for size in (8, 8, 5)]
    until = keras.Model(model.inputs[0], model.get_layer("second").output)
    seen = [np.asarray(until(each, training=False), np.float64) for each in batches]
    assert estimate_statistics(model, ({"image": each} for each in batches)) == 1
    own, frozen = model.get_layer("own"), model.get_layer("frozen")
    wanted = np.mean([each.mean(axis=(0, 1, 2)) for each in seen], axis=0)
    np.testing.assert_allclose(own.moving_mean, wanted, rtol=1e-4, atol=1e-5)
    wanted = np.mean([each.var(axis=(0, 1, 2)) for each in seen], axis=0)
    np.testing.assert_allclose(own.moving_variance, wanted, rtol=1e-4)
    np.testing.assert_array_equal(frozen.moving_mean, np.zeros(5))
    assert own.momentum == 0.9


def test_a_network_without_any_is_left_alone_and_no_batch_is_an_error() -> None:
    image = keras.Input((4, 6, 3), name="image")
    plain = keras.Model({"image": image}, keras.layers.Conv2D(5, 3)(image))
    assert estimate_statistics(plain, iter([])) == 0
    model = network()
    with pytest.raises(ValueError, match="no batch"):
        estimate_statistics(model, iter([]))
    assert model.get_layer("own").momentum == 0.9
