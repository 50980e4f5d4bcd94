"""Preprocessing against keras.applications, squeeze-and-excitation against loops, fixed batch normalisation."""

from pathlib import Path

import keras
import numpy as np
import pytest

from melano_tf.models.keras_imagenet_files import networks
from melano_tf.models.layers import AsBag, FixedBatchNormalization, Preprocess, SqueezeExcite
from tests.models.layer_checks import check_layer

IMAGES = np.random.default_rng(0).integers(0, 256, (2, 4, 5, 3)).astype("uint8")


@pytest.mark.parametrize("mode", ["caffe", "tf", "torch", "unit", "efficientnet", "none"])
def test_preprocess_is_a_layer(mode: str, tmp_path: Path) -> None:
    check_layer(lambda: Preprocess(mode), IMAGES.astype("float32"), (2, 4, 5, 3), tmp_path)


def test_preprocess_values() -> None:
    pixel = np.array([[[[255, 0, 128]]]], dtype="uint8")
    expected = {
        "caffe": (128 - 103.939, 0 - 116.779, 255 - 123.68),
        "tf": (1.0, -1.0, 128 / 127.5 - 1),
        "torch": ((1 - 0.485) / 0.229, -0.456 / 0.224, (128 / 255 - 0.406) / 0.225),
        "unit": (1.0, 0.0, 128 / 255),
        "none": (255.0, 0.0, 128.0),
    }
    for mode, values in expected.items():
        result = np.asarray(Preprocess(mode)(pixel))
        assert result.dtype == np.float32
        np.testing.assert_allclose(result[0, 0, 0], values, rtol=1e-5, atol=1e-6)


def test_preprocess_refuses_an_unknown_mode() -> None:
    with pytest.raises(ValueError, match="imagenet"):
        Preprocess("imagenet")


def test_each_network_is_preprocessed_as_keras_does_it() -> None:
    modules = [m for m in vars(keras.applications).values() if hasattr(m, "preprocess_input")]
    for network in networks().values():
        # Keras' public module of MobileNetV3 holds the function, but not the networks.
        module = next((m for m in modules if hasattr(m, network.name)), keras.applications.mobilenet_v3)
        # EfficientNet's preprocess_input does nothing; its ImageNet graph has one layer more (test_weights.py).
        if network.mode != "efficientnet":
            expected = module.preprocess_input(IMAGES.astype("float32").copy())
            np.testing.assert_allclose(Preprocess(network.mode)(IMAGES), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("channels", "parameters"), [(64, 64 * 16 * 2), (16, 16 * 4 * 2), (8, 8 * 2 * 2), (2, 2 * 2)])
def test_squeeze_excite_is_a_layer(channels: int, parameters: int, tmp_path: Path) -> None:
    x = np.random.default_rng(1).normal(size=(3, 4, 5, channels)).astype("float32")
    keras.utils.set_random_seed(4)
    check_layer(lambda: SqueezeExcite(4), x, x.shape, tmp_path, trainable_tensors=2, parameters=parameters)


def test_squeeze_excite_equals_loops() -> None:
    x = np.random.default_rng(1).normal(size=(2, 3, 4, 8)).astype("float32")
    layer = SqueezeExcite(4)
    result = np.asarray(layer(x))
    w1, w2 = layer.get_weights()
    for image in range(2):
        s = [np.mean([x[image, i, j, c] for i in range(3) for j in range(4)]) for c in range(8)]
        hidden = [max(0.0, sum(s[c] * w1[c, h] for c in range(8))) for h in range(2)]
        for c in range(8):
            gate = 1 / (1 + np.exp(-sum(hidden[h] * w2[h, c] for h in range(2))))
            np.testing.assert_allclose(result[image, :, :, c], x[image, :, :, c] * gate, rtol=1e-4, atol=1e-6)


def test_fixed_batch_normalisation_never_uses_the_batch(tmp_path: Path) -> None:
    x = np.random.default_rng(2).normal(3, 5, size=(6, 2, 2, 4)).astype("float32")
    layer = check_layer(FixedBatchNormalization, x, x.shape, tmp_path, trainable_tensors=2, parameters=16)
    mean, variance = np.full(4, 2.0, "float32"), np.full(4, 9.0, "float32")
    layer.set_weights([np.full(4, 1.5, "float32"), np.full(4, 0.5, "float32"), mean, variance])
    expected = 1.5 * (x - 2) / np.sqrt(9 + layer.epsilon) + 0.5
    np.testing.assert_allclose(layer(x, training=True), expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(layer.moving_mean, mean)
    np.testing.assert_array_equal(layer.moving_variance, variance)
    # The plain layer would give something else: the test can fail.
    plain = keras.layers.BatchNormalization()
    plain(x)
    plain.set_weights(layer.get_weights())
    assert np.abs(np.asarray(plain(x, training=True)) - expected).max() > 0.1


def test_as_bag(tmp_path: Path) -> None:
    check_layer(AsBag, np.ones((5, 3), "float32"), (1, 5, 3), tmp_path)
