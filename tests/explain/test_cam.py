"""Class activation maps against the same sums written out, on models of a few weights."""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf

from melano_tf.explain import cam
from melano_tf.explain.cam import (
    METHODS,
    class_activation_map,
    grad_cam,
    grad_cam_plus_plus,
    gradient_map,
    has_cam,
)
from melano_tf.models.hierarchical_classifier import build_hierarchical
from melano_tf.models.taxonomy import Taxonomy
from melano_tf.training.tensorflow_runtime import computing_in


def classified(scores: keras.KerasTensor) -> keras.KerasTensor:
    return keras.layers.Activation("softmax", name="region")(scores)


def tiny(pooling: type[keras.layers.Layer], hidden: bool = False) -> keras.Model:
    keras.utils.set_random_seed(3)
    inputs = keras.Input((16, 24, 3))
    features = keras.layers.Conv2D(5, 3, 4, padding="same", activation="relu", name="features")(inputs)
    refined = keras.layers.Activation("linear", name="refined")(features)
    embedding = pooling(name="embedding")(refined)
    embedding = keras.layers.Dense(4, activation="relu")(embedding) if hidden else keras.layers.Dropout(0.5)(embedding)
    return keras.Model(inputs, classified(keras.layers.Dense(2, name="region_logits")(embedding)))


@pytest.fixture
def tiles() -> np.ndarray:
    return np.random.default_rng(0).random((3, 16, 24, 3)).astype(np.float32)


def test_cam_is_the_weighted_sum_of_the_last_maps(tiles: np.ndarray) -> None:
    model = tiny(keras.layers.GlobalAveragePooling2D)
    found = class_activation_map(model, tiles, 1)
    features = np.asarray(keras.Model(model.input, model.get_layer("refined").output)(tiles))
    kernel, bias = (np.asarray(weight) for weight in model.get_layer("region_logits").get_weights())
    for n in range(3):
        for i in range(4):
            for j in range(6):
                expected = sum(features[n, i, j, k] * kernel[k, 1] for k in range(5))
                assert found.raw[n, i, j] == pytest.approx(expected, abs=1e-5)
    # the mean of the map and the bias are the class's logit
    both = [class_activation_map(model, tiles, c).raw.mean(axis=(1, 2)) + bias[c] for c in (0, 1)]
    odds = np.exp(both[1] - both[0])
    np.testing.assert_allclose(odds / (1 + odds), np.asarray(model(tiles))[:, 1], rtol=1e-5)
    assert found.raw.dtype == found.maps.dtype == np.float32
    assert found.maps.shape == (3, 16, 24)
    assert found.maps.min() >= 0 and found.maps.max() <= 1


def test_grad_cam_of_average_pooling_is_the_cam(tiles: np.ndarray) -> None:
    model = tiny(keras.layers.GlobalAveragePooling2D)
    plain, by_gradient = class_activation_map(model, tiles, 0), grad_cam(model, tiles, 0)
    # the gradient of an average over 24 positions is the weight / 24
    np.testing.assert_allclose(by_gradient.raw * 24, np.maximum(plain.raw, 0), atol=1e-5)
    np.testing.assert_allclose(by_gradient.maps, plain.maps, atol=1e-4)


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_a_model_of_another_precision_is_explained_in_float32(tiles: np.ndarray, precision: str) -> None:
    whole = tiny(keras.layers.GlobalAveragePooling2D)
    with computing_in(precision):
        model = tiny(keras.layers.GlobalAveragePooling2D)
    model.set_weights(whole.get_weights())
    assert model.get_layer("features").compute_dtype == precision
    for method in (grad_cam, grad_cam_plus_plus):
        np.testing.assert_allclose(method(model, tiles, 1).raw, method(whole, tiles, 1).raw, atol=1e-6)
    assert model.get_layer("features").compute_dtype == precision  # asked for again it answers as before
    for method in (class_activation_map, functools.partial(gradient_map, layer="refined")):  # in its own precision
        np.testing.assert_allclose(method(model, tiles, 1).raw, method(whole, tiles, 1).raw, atol=2e-2)


def test_grad_cam_of_maximum_pooling_written_out(tiles: np.ndarray) -> None:
    model = tiny(keras.layers.GlobalMaxPooling2D)
    weights_before = [weight.copy() for weight in model.get_weights()]
    found = grad_cam(model, tiles, 1)
    features = np.asarray(keras.Model(model.input, model.get_layer("refined").output)(tiles))
    kernel = model.get_layer("region_logits").get_weights()[0]
    # each channel's gradient is its weight, at one of 24 positions
    expected = np.maximum((features * kernel[:, 1] / 24).sum(axis=-1), 0)
    live = (features.max(axis=(1, 2)) > 0).all(axis=-1)
    assert live.any()
    np.testing.assert_allclose(found.raw[live], expected[live], atol=1e-5)
    assert found.raw.dtype == np.float32
    # the model that was explained is as it was
    assert model.get_layer("region").activation is keras.activations.softmax
    for before, after in zip(weights_before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(before, after)


@pytest.mark.parametrize("name", METHODS)
def test_many_tiles_are_explained_a_few_at_a_time(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same maps as of all tiles at once, and no pass of the network over more than eight of them."""
    model = tiny(keras.layers.GlobalAveragePooling2D)
    many = np.random.default_rng(1).random((19, 16, 24, 3)).astype(np.float32)
    seen: list[int] = []
    layer = model.get_layer("features")
    call = layer.call
    monkeypatch.setattr(layer, "call", lambda x, *a, **k: (seen.append(x.shape[0]), call(x, *a, **k))[1])
    found = METHODS[name](model, many, 1)
    # Tracing a new graph calls the layer without a number of tiles.
    assert [count for count in seen if count is not None] == [8, 8, 3]
    monkeypatch.setattr(cam, "CHUNK", 19)
    whole = METHODS[name](model, many, 1)
    np.testing.assert_allclose(found.raw, whole.raw, atol=1e-6)
    np.testing.assert_allclose(found.maps, whole.maps, atol=1e-6)
    assert found.maps.shape == (19, 16, 24) and found.empty.shape == (19,)


def test_a_saturated_softmax_still_has_a_map(tiles: np.ndarray) -> None:
    model = tiny(keras.layers.GlobalMaxPooling2D)
    kernel, _ = model.get_layer("region_logits").get_weights()
    model.get_layer("region_logits").set_weights([np.abs(kernel), np.array([-500.0, 500.0])])
    assert np.asarray(model(tiles))[:, 1].min() == 1.0
    assert not grad_cam(model, tiles, 1).empty.any()


def test_a_map_without_evidence_is_reported(tiles: np.ndarray) -> None:
    model = tiny(keras.layers.GlobalAveragePooling2D)
    kernel, bias = model.get_layer("region_logits").get_weights()
    model.get_layer("region_logits").set_weights([-np.abs(kernel), bias])
    for found in (class_activation_map(model, tiles, 0), grad_cam(model, tiles, 0)):
        assert found.empty.all()
        assert (found.maps == 0).all()
    model.get_layer("region_logits").set_weights([np.abs(kernel), bias])
    assert not class_activation_map(model, tiles, 0).empty.any()


def test_the_peak_lies_where_the_feature_is() -> None:
    inputs = keras.Input((32, 32, 3))
    features = keras.layers.AveragePooling2D(8, name="refined")(inputs)
    pooled = keras.layers.GlobalAveragePooling2D()(features)
    model = keras.Model(inputs, classified(keras.layers.Dense(2, kernel_initializer="ones")(pooled)))
    tile = np.zeros((1, 32, 32, 3), np.float32)
    tile[0, 8:16, 16:24] = 1
    found = class_activation_map(model, tile, 1).maps[0]
    rows, columns = np.nonzero(found == found.max())
    assert (rows.mean() + 0.5, columns.mean() + 0.5) == (12, 20)


def test_only_average_pooling_has_a_cam(tiles: np.ndarray) -> None:
    class_activation_map(tiny(keras.layers.GlobalAveragePooling2D), tiles, 0)
    for model in (tiny(keras.layers.GlobalMaxPooling2D), tiny(keras.layers.GlobalAveragePooling2D, hidden=True)):
        with pytest.raises(ValueError, match="use grad_cam"):
            class_activation_map(model, tiles, 0)
    with pytest.raises(ValueError, match="nowhere"):
        grad_cam(tiny(keras.layers.GlobalMaxPooling2D), tiles, 0, layer="nowhere")
    whole_numbers = keras.Input((16, 24, 3), dtype="uint8")
    converted = tiny(keras.layers.GlobalMaxPooling2D)(keras.layers.Rescaling(1 / 255)(whole_numbers))
    with pytest.raises(ValueError, match="not uint8"):
        grad_cam(keras.Model(whole_numbers, converted), tiles, 0)
    joined = keras.layers.Dense(2, activation="softmax")  # as models were before 0.2: its map is of no logit
    pooled = keras.layers.GlobalAveragePooling2D()
    for last in ([keras.layers.Conv2D(2, 3)], [pooled, joined]):
        with pytest.raises(ValueError, match="ends in one dense layer"):
            has_cam(keras.Sequential([keras.Input((8, 8, 3)), *last]))


@pytest.mark.parametrize("pooling", [keras.layers.GlobalAveragePooling2D, keras.layers.GlobalMaxPooling2D])
@pytest.mark.parametrize("label", [0, 1])
def test_a_map_by_gradient_is_the_grad_cam_where_there_is_one(tiles: np.ndarray, pooling, label: int) -> None:
    model = tiny(pooling, hidden=True)
    np.testing.assert_allclose(
        gradient_map(model, tiles, label, "refined").raw, grad_cam(model, tiles, label).raw, atol=1e-6
    )


def test_a_map_by_gradient_of_two_inputs_and_one_probability(tiles: np.ndarray) -> None:
    image, metadata = keras.Input((16, 24, 3), name="image"), keras.Input((4,), name="metadata")
    features = keras.layers.Conv2D(5, 3, 4, padding="same", activation="relu", name="features")(image)
    pooled = keras.layers.GlobalAveragePooling2D()(features)
    gated = keras.layers.Multiply()([pooled, keras.layers.Dense(5, activation="sigmoid", name="gate")(metadata)])
    probability = keras.layers.Dense(1, activation="sigmoid", name="last")(gated)
    model = keras.Model([image, metadata], probability)
    known = np.random.default_rng(1).random((3, 4)).astype(np.float32)
    found = gradient_map(model, {"image": tiles, "metadata": known}, 1)
    gate = np.asarray(keras.Model(metadata, model.get_layer("gate").output)(known))
    weights = gate * model.get_layer("last").kernel.numpy()[:, 0]
    maps = np.asarray(keras.Model(image, features)(tiles))
    # the log-odds of a sigmoid are its logit: the gradient of the mean over 24 places is weight / 24
    expected = np.maximum(np.einsum("nhwc,nc->nhw", maps, weights) / 24, 0)
    np.testing.assert_allclose(found.raw, expected, atol=1e-5)
    against = gradient_map(model, {"image": tiles, "metadata": known}, 0).raw
    np.testing.assert_allclose(against, np.maximum(np.einsum("nhwc,nc->nhw", maps, -weights) / 24, 0), atol=1e-5)
    assert found.maps.shape == (3, 16, 24) and expected.max() > 0


@pytest.mark.parametrize("logit", [200.0, -200.0])
def test_grad_cam_plus_plus_of_a_large_logit(tiles: np.ndarray, logit: float) -> None:
    """exp(200) is infinite in float32, and exp(-200) is 0."""
    model = tiny(keras.layers.GlobalAveragePooling2D)
    plain = grad_cam_plus_plus(model, tiles, 1)
    assert not plain.empty.all()
    dense = model.get_layer("region_logits")
    dense.bias.assign([0.0, logit])
    found = grad_cam_plus_plus(model, tiles, 1)
    np.testing.assert_array_equal(found.empty, plain.empty)
    np.testing.assert_allclose(found.maps, plain.maps, rtol=1e-5)


@pytest.mark.parametrize("place", [np.nan, np.inf])
def test_what_is_not_finite_is_no_map(place: float) -> None:
    raw = np.ones((2, 2, 3), np.float32)
    raw[0, 1, 1] = place
    found = cam._finished(raw, (4, 6))
    assert found.empty.tolist() == [True, False]
    assert (found.maps[0] == 0).all() and (found.maps[1] == 1).all()


TREE = Taxonomy.from_mapping({"a": ["A", {"b": {"c": ["D", "C"], "x": "B"}}], "e": "E"}, "ABCDE")


def hierarchical(sure: int, margin: float) -> tuple[keras.Model, keras.Model]:
    """A network and that of its decisions' logits: those on the way to a class are above the others by a margin."""
    both, _ = build_hierarchical(TREE, "standin", 32, units=16, embedding=4, dropout=0.0, seed=1)
    decisions = both.training.get_layer("decisions")
    decisions.b.assign(margin * TREE.path_matrix()[sure])
    again = keras.Model.from_config(both.leaves.get_config())  # as one that was saved
    again.set_weights(both.leaves.get_weights())
    return again, keras.Model(again.input, [again.get_layer("features").output, again.get_layer("decisions").output[0]])


def log_odds_gradient(scores: np.ndarray, label: int) -> np.ndarray:
    """Of log p / (1 - p) by each logit, in float64: ([on the path] - softmax) / (1 - p) at the path's nodes, else 0."""
    found, surely = np.zeros(scores.shape), np.ones(len(scores))
    starts = np.cumsum([0, *TREE.children])
    for decision in TREE.paths[label]:
        node = int(np.searchsorted(starts, decision, side="right")) - 1
        places = slice(starts[node], starts[node + 1])
        powers = np.exp(scores[:, places].astype(np.float64))
        shares = powers / powers.sum(axis=1, keepdims=True)
        found[:, places] = (np.arange(starts[node], starts[node + 1]) == decision) - shares
        surely *= shares[:, decision - starts[node]]
    return found / (1 - surely)[:, None]


@pytest.mark.parametrize("margin", [0.0, 17.0, 25.0])
@pytest.mark.parametrize("sure", [1, 3])
def test_a_map_by_gradient_of_a_tree_of_decisions_however_sure_it_is(sure: int, margin: float) -> None:
    model, inner = hierarchical(sure, margin)
    images = np.random.default_rng(1).uniform(0, 255, (3, 32, 32, 3)).astype(np.float32)
    surest = np.asarray(model({"image": images}))[:, sure]
    assert (surest > 1 - 4e-7).all() if margin else (surest < 0.9).all()
    seen = 0
    for label in range(len(TREE.classes)):
        found = gradient_map(model, {"image": images}, label)
        with tf.GradientTape() as tape:
            features, scores = inner({"image": images})
        by_score = tf.constant(log_odds_gradient(np.asarray(scores), label), tf.float32)
        weights = np.asarray(tape.gradient(scores, features, by_score)).mean(axis=(1, 2))
        expected = np.maximum(np.einsum("nhwc,nc->nhw", np.asarray(features), weights), 0)
        np.testing.assert_allclose(found.raw, expected, rtol=1e-3, atol=1e-4 * expected.max())
        np.testing.assert_array_equal(found.empty, expected.max(axis=(1, 2)) == 0)
        seen += int((~found.empty).sum())
    assert seen >= len(images)


def test_a_map_by_gradient_of_a_tree_beyond_what_a_number_holds() -> None:
    """Margins of 300, whose powers are infinite in float32."""
    images = np.random.default_rng(1).uniform(0, 255, (3, 32, 32, 3)).astype(np.float32)
    model, _ = hierarchical(3, 300.0)
    maps = [gradient_map(model, {"image": images}, label) for label in range(len(TREE.classes))]
    assert all(np.isfinite(one.raw).all() for one in maps)
    assert sum(int((~one.empty).sum()) for one in maps) >= len(images)
