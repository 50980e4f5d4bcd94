"""Pictures of any size against loops over areas, mirrored views, shifted classes, and the saved whole."""

import itertools
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from melano_tf.errors import InputError
from melano_tf.models.tta_and_prior_shift import (
    MeanOfViews,
    Mirrored,
    Shifted,
    ToSide,
    answering,
    prior_factors,
    shifted,
)
from tests.models.layer_checks import check_layer

RNG = np.random.default_rng(0)


def area_mean(picture: np.ndarray, side: int) -> np.ndarray:
    """Mean of the exact area that each output pixel covers, by loops."""
    result = np.zeros((side, side, picture.shape[-1]))
    for row, column in itertools.product(range(side), repeat=2):
        total = weight = 0.0
        for y, x in itertools.product(*map(range, picture.shape[:2])):
            size = 1.0
            for place, pixel, length in ((row, y, picture.shape[0]), (column, x, picture.shape[1])):
                start, end = place * length / side, (place + 1) * length / side
                size *= max(0.0, min(pixel + 1, end) - max(pixel, start))
            total, weight = total + size * picture[y, x], weight + size
        result[row, column] = total / weight
    return result


@pytest.mark.parametrize(("height", "width", "side"), [(9, 9, 6), (12, 8, 4), (7, 10, 5), (5, 5, 5)])
def test_a_larger_picture_is_averaged_by_area(height: int, width: int, side: int) -> None:
    pictures = RNG.uniform(0, 255, (2, height, width, 3)).astype(np.float32)
    found = ToSide(side)(pictures)
    for picture, result in zip(pictures, found, strict=True):
        np.testing.assert_allclose(result, area_mean(picture, side), rtol=1e-5)


def test_a_smaller_picture_is_enlarged_bilinearly() -> None:
    pictures = RNG.uniform(0, 255, (2, 5, 5, 3)).astype(np.float32)
    wanted = tf.image.resize(pictures, (8, 8), method="bilinear")
    np.testing.assert_allclose(ToSide(8)(pictures), wanted, rtol=1e-4, atol=1e-3)


def test_sizes_may_be_unknown_until_it_runs() -> None:
    layer = ToSide(4)
    graph = tf.function(layer, input_signature=[tf.TensorSpec([None, None, None, 3], tf.float32)])
    for size in ((4, 4), (9, 6), (3, 2)):
        pictures = RNG.uniform(0, 255, (2, *size, 3)).astype(np.float32)
        np.testing.assert_allclose(graph(pictures), layer(pictures), rtol=1e-5)


def test_to_side_is_a_layer_like_others(tmp_path: Path) -> None:
    pictures = RNG.uniform(0, 255, (2, 9, 7, 3)).astype(np.float32)
    check_layer(lambda: ToSide(4), pictures, (2, 4, 4, 3), tmp_path)
    with pytest.raises(ValueError, match="side 0"):
        ToSide(0)


def test_mirrored_views_and_their_mean(tmp_path: Path) -> None:
    picture = np.arange(8, dtype=np.float32).reshape(2, 2, 2, 1)
    views = Mirrored(4)(picture).numpy()[..., 0]
    first = [view.tolist() for view in views[::2]]
    assert first == [[[0, 1], [2, 3]], [[1, 0], [3, 2]], [[2, 3], [0, 1]], [[3, 2], [1, 0]]]
    means = MeanOfViews(4)(views.reshape(8, 4)).numpy()
    np.testing.assert_array_equal(means, [[1.5] * 4, [5.5] * 4])
    check_layer(lambda: Mirrored(4), picture, (8, 2, 2, 1), tmp_path)
    check_layer(lambda: Mirrored(1), picture, (2, 2, 2, 1), tmp_path)
    check_layer(lambda: MeanOfViews(2), RNG.uniform(size=(6, 3)).astype(np.float32), (3, 3), tmp_path)
    with pytest.raises(ValueError, match="views 3"):
        Mirrored(3)


def test_classes_are_shifted_by_a_power_of_their_shares(tmp_path: Path) -> None:
    factors = prior_factors([90, 9, 1], 0.5)
    np.testing.assert_allclose(factors, [0.1054093, 1 / 3, 1.0], rtol=1e-6)
    np.testing.assert_array_equal(prior_factors([90, 9, 1], 0.0), [1, 1, 1])
    # At power 1 a network that only knows the shares says nothing.
    np.testing.assert_allclose(shifted(np.array([[0.9, 0.09, 0.01]]), prior_factors([90, 9, 1], 1.0)), [[1 / 3] * 3])
    p = RNG.dirichlet([1, 1, 1], 5).astype(np.float32)
    layer = check_layer(lambda: Shifted(factors.tolist()), p, (5, 3), tmp_path)
    np.testing.assert_allclose(layer(p), shifted(p, factors), rtol=1e-5)
    with pytest.raises(InputError, match=r"\[1\]"):
        prior_factors([3, 0], 1.0)
    with pytest.raises(ValueError, match="positive"):
        Shifted([1.0, 0.0])
    with pytest.raises(ValueError, match="2 factors for 3"):
        Shifted([1.0, 0.5])(p)


def test_the_saved_model_brings_any_picture_to_the_trainings_pixels(tmp_path: Path) -> None:
    keras.utils.set_random_seed(0)
    picture = keras.Input((12, 12, 3), name="image")
    x = keras.layers.Flatten()(keras.layers.Rescaling(1 / 255)(picture))
    network = keras.Model(picture, keras.layers.Dense(3, activation="softmax")(x))
    factors = [1.0, 0.5, 0.2]
    answering(network, 8, 4, factors).save(tmp_path / "model.keras")
    model = keras.saving.load_model(tmp_path / "model.keras")
    for size in ((8, 8), (20, 20), (16, 24)):
        pictures = RNG.uniform(0, 255, (3, *size, 3)).astype(np.float32)
        small = np.stack([area_mean(one, 8) for one in pictures])
        seen = tf.image.resize(small, (12, 12), method="bilinear").numpy()
        views = [seen, seen[:, :, ::-1], seen[:, ::-1], seen[:, ::-1, ::-1]]
        mean = np.mean([network(view).numpy() for view in views], axis=0)
        np.testing.assert_allclose(model({"image": pictures}), shifted(mean, np.array(factors)), rtol=1e-3, atol=1e-5)


def test_the_saved_model_of_a_network_that_is_told_something_asks_each_view_with_it(tmp_path: Path) -> None:
    keras.utils.set_random_seed(1)
    picture, told = keras.Input((8, 8, 3), name="image"), keras.Input((2,), name="metadata")
    x = keras.layers.Flatten()(keras.layers.Rescaling(1 / 255)(picture))
    x = keras.layers.Concatenate()([x, told])
    network = keras.Model([picture, told], keras.layers.Dense(3, activation="softmax")(x))
    answering(network, 8, 4, [1.0, 0.5, 0.2]).save(tmp_path / "model.keras")
    model = keras.saving.load_model(tmp_path / "model.keras")
    pictures = RNG.uniform(0, 255, (5, 8, 8, 3)).astype(np.float32)
    facts = RNG.uniform(-3, 3, (5, 2)).astype(np.float32)  # others for each picture
    views = [pictures, pictures[:, :, ::-1], pictures[:, ::-1], pictures[:, ::-1, ::-1]]
    mean = np.mean([network([view, facts]).numpy() for view in views], axis=0)
    said = model({"image": pictures, "metadata": facts})
    np.testing.assert_allclose(said, shifted(mean, np.array([1.0, 0.5, 0.2])), rtol=1e-3, atol=1e-5)
