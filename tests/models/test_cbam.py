"""CBAM against loops over places and channels, without and with a state."""

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from melano_tf.models.cbam import Cbam, ChannelAttention, SpatialAttention
from tests.models.layer_checks import check_layer

RNG = np.random.default_rng(0)
F = RNG.normal(size=(3, 5, 4, 8)).astype("float32")
STATE = RNG.normal(size=(3, 6)).astype("float32")
LAYERS = {
    "channel": (lambda: ChannelAttention(2), [(3, 8)]),
    "spatial": (lambda: SpatialAttention(3), [(3, 5, 4)]),
    "cbam": (lambda: Cbam(2, 3), [(3, 5, 4, 8), (3, 8), (3, 5, 4)]),
}


def sigmoid(x: Any) -> Any:
    return 1 / (1 + np.exp(-np.asarray(x, np.float64)))


def naive_channel(f: np.ndarray, w1, b1, w2, b2, v=None, state=None) -> np.ndarray:
    """One image (H, W, C), unit by unit."""
    height, width, channels = f.shape
    answer = np.zeros(channels)
    for pooled in (
        [sum(f[i, j, c] for i in range(height) for j in range(width)) / (height * width) for c in range(channels)],
        [max(f[i, j, c] for i in range(height) for j in range(width)) for c in range(channels)],
    ):
        hidden = []
        for unit in range(len(b1)):
            value = b1[unit] + sum(pooled[c] * w1[c, unit] for c in range(channels))
            if v is not None:
                value += sum(state[k] * v[k, unit] for k in range(len(state)))
            hidden.append(max(0.0, value))
        for c in range(channels):
            answer[c] += b2[c] + sum(hidden[unit] * w2[unit, c] for unit in range(len(hidden)))
    return sigmoid(answer)


def naive_spatial(f: np.ndarray, w, b, v=None, state=None) -> np.ndarray:
    """One image: planes, then the convolution with zeros around them, place by place."""
    height, width, channels = f.shape
    half = w.shape[0] // 2
    result = np.zeros((height, width))

    def planes(i: int, j: int) -> list[float]:
        found = [sum(f[i, j]) / channels, max(f[i, j])]
        if v is not None:
            asked = [sum(state[k] * v[k, c] for k in range(len(state))) for c in range(channels)]
            found.append(sum(asked[c] * f[i, j, c] for c in range(channels)) / channels)
        return found

    for i in range(height):
        for j in range(width):
            score = b[0]
            for di in range(-half, half + 1):
                for dj in range(-half, half + 1):
                    if 0 <= i + di < height and 0 <= j + dj < width:
                        score += np.dot(planes(i + di, j + dj), w[di + half, dj + half, :, 0])
            result[i, j] = sigmoid(score)
    return result


def randomised(layer: keras.layers.Layer) -> keras.layers.Layer:
    """Biases start at zero, where a test would not see them."""
    rng = np.random.default_rng(3)
    layer.set_weights([rng.normal(0, 0.4, w.shape).astype("float32") for w in layer.get_weights()])
    return layer


@pytest.mark.parametrize("dynamic", [False, True])
def test_equals_loops(dynamic: bool) -> None:
    layer, inputs = Cbam(2, 3), [F, STATE] if dynamic else F
    layer(inputs)
    randomised(layer)
    attended, channel, spatial = (np.asarray(output) for output in layer(inputs))
    channel_weights, spatial_weights = layer.channel.get_weights(), layer.spatial.get_weights()
    assert len(channel_weights) == 4 + dynamic and len(spatial_weights) == 2 + dynamic
    for image in range(3):
        state = [STATE[image]] if dynamic else []
        expected = naive_channel(F[image], *channel_weights, *state)
        np.testing.assert_allclose(channel[image], expected, rtol=1e-4)
        weighed = F[image] * expected
        where = naive_spatial(weighed, *spatial_weights, *state)
        np.testing.assert_allclose(spatial[image], where, rtol=1e-4)
        np.testing.assert_allclose(attended[image], weighed * where[..., None], rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("name", LAYERS)
def test_is_a_layer(name: str, tmp_path: Path) -> None:
    make, shapes = LAYERS[name]
    parameters = {"channel": 8 * 4 + 4 + 4 * 8 + 8, "spatial": 9 * 2 + 1}
    parameters["cbam"] = sum(parameters.values())
    check_layer(
        make,
        F,
        shapes if name == "cbam" else shapes[0],
        tmp_path,
        trainable_tensors={"channel": 4, "spatial": 2, "cbam": 6}[name],
        parameters=parameters[name],
    )


@pytest.mark.parametrize("name", LAYERS)
def test_is_a_layer_with_a_state(name: str, tmp_path: Path) -> None:
    make, shapes = LAYERS[name]
    inputs = [keras.Input(F.shape[1:]), keras.Input(STATE.shape[1:])]
    layer = make()
    model = keras.Model(inputs, layer(inputs))
    assert [tuple(o.shape) for o in tf.nest.flatten(model.outputs)] == [(None, *shape[1:]) for shape in shapes]
    model.save(tmp_path / "layer.keras")
    loaded = keras.saving.load_model(tmp_path / "layer.keras")
    outputs = tf.nest.flatten(model([F, STATE]))
    for ours, theirs, shape in zip(outputs, tf.nest.flatten(loaded([F, STATE])), shapes, strict=True):
        assert ours.shape == shape
        np.testing.assert_array_equal(ours, theirs)
    state = tf.constant(STATE)
    with tf.GradientTape() as tape:
        tape.watch(state)
        first = tf.nest.flatten(model([tf.constant(F), state]))[0]
        loss = tf.reduce_sum(first * tf.random.stateless_normal(first.shape, seed=(1, 2)))
    weights = [variable.value for variable in layer.trainable_weights]
    assert len(weights) == {"channel": 5, "spatial": 3, "cbam": 8}[name]
    for gradient in tape.gradient(loss, [state, *weights]):
        assert np.all(np.isfinite(gradient)) and np.any(np.asarray(gradient) != 0)
    half = type(layer).from_config({**layer.get_config(), "dtype": "mixed_float16"})
    for output in tf.nest.flatten(half([F, STATE])):
        assert output.dtype == tf.float16 and np.all(np.isfinite(output))


def test_the_usual_module_has_the_usual_size() -> None:
    layer = Cbam()
    layer.build((None, 9, 9, 512))
    assert layer.channel.count_params() == 512 * 32 + 32 + 32 * 512 + 512
    assert layer.spatial.count_params() == 7 * 7 * 2 + 1
    with pytest.raises(ValueError, match="ratio 0"):
        Cbam(ratio=0)
    with pytest.raises(ValueError, match="kernel 0"):
        Cbam(kernel=0)


def test_a_state_of_zeros_leaves_the_static_module_and_another_moves_both_maps() -> None:
    dynamic, static = Cbam(2, 3), Cbam(2, 3)
    dynamic([F, STATE])
    static(F)
    randomised(dynamic)
    static.channel.set_weights(dynamic.channel.get_weights()[:4])
    w, b, _ = dynamic.spatial.get_weights()
    static.spatial.set_weights([w[:, :, :2], b])
    for ours, theirs in zip(dynamic([F, 0 * STATE]), static(F), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-7)
    (_, channel, spatial), (_, other_channel, other_spatial) = dynamic([F, STATE]), dynamic([F, -2 * STATE])
    assert np.abs(channel - other_channel).max() > 0.01
    # Not the same shift everywhere: the state decides where to look.
    moved = np.log(spatial / (1 - spatial)) - np.log(other_spatial / (1 - other_spatial))
    assert np.all(np.std(moved, axis=(1, 2)) > 0.01)


@pytest.mark.parametrize("dynamic", [False, True])
def test_an_image_does_not_depend_on_its_batch(dynamic: bool) -> None:
    layer = Cbam(2, 3)
    together = layer([F, STATE] if dynamic else F)
    order = [2, 0, 1]
    permuted = layer([F[order], STATE[order]] if dynamic else F[order])
    for whole, other in zip(together, permuted, strict=True):
        np.testing.assert_allclose(other, np.asarray(whole)[order], rtol=1e-5, atol=1e-6)
    alone = layer([F[:1], STATE[:1]] if dynamic else F[:1])
    for whole, one in zip(together, alone, strict=True):
        np.testing.assert_allclose(one, whole[:1], rtol=1e-5, atol=1e-6)
