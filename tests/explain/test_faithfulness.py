"""Measures of faithfulness: hand-made maps with known scores, and a network that looks at one place by construction."""

import keras
import numpy as np
import pytest

from melano_tf.explain.cam import class_activation_map, grad_cam, grad_cam_plus_plus
from melano_tf.explain.faithfulness import (
    centre_maps,
    deletion_curve,
    energy_share,
    insertion_curve,
    pointing_hits,
    random_maps,
    randomised,
    tissue_maps,
    truth_in_tile,
)

SIDE = 32


def truth() -> np.ndarray:
    mask = np.zeros((1, 4, 4), bool)
    mask[0, :2, :2] = True
    return mask


def test_energy_is_the_share_of_the_sum_inside() -> None:
    maps = np.zeros((1, 4, 4))
    maps[0, 0, 0], maps[0, 3, 3] = 3.0, 1.0
    assert energy_share(maps, truth()).tolist() == [0.75]
    assert energy_share(np.ones((1, 4, 4)), truth()).tolist() == [0.25]  # an even map gets the area's share
    assert np.isnan(energy_share(np.zeros((1, 4, 4)), truth())).all()


def test_energy_against_a_naive_loop() -> None:
    rng = np.random.default_rng(0)
    maps, masks = rng.random((5, 6, 7)), rng.random((5, 6, 7)) < 0.3
    for k, found in enumerate(energy_share(maps, masks)):
        inside = sum(maps[k, i, j] for i in range(6) for j in range(7) if masks[k, i, j])
        assert found == pytest.approx(inside / maps[k].sum())


def test_pointing_hits_where_the_highest_place_is() -> None:
    maps = np.zeros((3, 4, 4))
    maps[0, 1, 1], maps[1, 1, 2] = 1.0, 1.0
    masks = np.repeat(truth(), 3, axis=0)
    hits = pointing_hits(maps, masks)
    assert hits[:2].tolist() == [1.0, 0.0] and np.isnan(hits[2])
    assert pointing_hits(maps, masks, tolerance_px=1.0)[:2].tolist() == [1.0, 1.0]
    assert pointing_hits(np.ones((1, 4, 4)), truth()).tolist() == [0.25]  # a flat map is given no luck


def test_wrong_maps_are_refused() -> None:
    with pytest.raises(ValueError, match="must both be"):
        energy_share(np.ones((1, 4, 5)), truth())
    with pytest.raises(ValueError, match="negative"):
        pointing_hits(-np.ones((1, 4, 4)), truth())


def test_baselines() -> None:
    drawn = random_maps(3, (32, 48), (4, 6), seed=1)
    assert drawn.shape == (3, 32, 48) and 0 <= drawn.min() < drawn.max() <= 1
    np.testing.assert_array_equal(drawn, random_maps(3, (32, 48), (4, 6), seed=1))
    assert not np.array_equal(drawn, random_maps(3, (32, 48), (4, 6), seed=2))
    hill = centre_maps(1, (33, 33))[0]
    assert np.unravel_index(hill.argmax(), hill.shape) == (16, 16) and hill[16, 16] == 1
    tile = np.full((1, 8, 8, 3), 240, np.uint8)
    tile[0, :, :4] = (200, 90, 160)
    assert tissue_maps(tile)[0].tolist() == [[1.0] * 4 + [0.0] * 4] * 8


def test_truth_in_a_tile_against_a_naive_loop() -> None:
    rng = np.random.default_rng(2)
    mask = rng.random((20, 30)) < 0.5  # one pixel of 8 level-0 px
    box, size = (40.0, -16.0, 100.0, 60.0), (12, 20)
    found = truth_in_tile(mask, 8.0, box, size)
    for i in range(12):
        for j in range(20):
            y, x = -16 + (i + 0.5) * 5, 40 + (j + 0.5) * 5
            expected = mask[int(y // 8), int(x // 8)] if y >= 0 else False
            assert found[i, j] == expected


def lesion_network() -> keras.Model:
    """Class 1 wherever a tile is dark, by construction: 4x4 means of darkness, averaged, against a bias."""
    inputs = keras.Input((SIDE, SIDE, 3))
    x = keras.layers.Rescaling(-1 / 255, offset=1.0)(inputs)
    x = keras.layers.Conv2D(2, 4, strides=4, activation="relu", name="conv", bias_initializer="zeros")(x)
    x = keras.layers.Activation("linear", name="refined")(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    model = keras.Model(inputs, keras.layers.Activation("softmax")(keras.layers.Dense(2)(x)))
    dark = np.full((4, 4, 3), 1 / 48)
    kernel = np.stack([dark, 1 / 48 - dark], axis=-1)
    model.get_layer("conv").set_weights([kernel, np.array([-0.3, 0.3])])
    model.layers[-2].set_weights([np.array([[-120.0, 120.0], [1.0, -1.0]]), np.array([1.5, -1.5])])
    return model


@pytest.fixture(scope="module")
def lesions() -> tuple[keras.Model, np.ndarray, np.ndarray]:
    """The network, twelve bright tiles with a dark square each at another place, and where those are."""
    rng = np.random.default_rng(3)
    tiles = np.full((12, SIDE, SIDE, 3), 235, np.float32)
    tiles += rng.normal(0, 4, tiles.shape).astype(np.float32)
    inside = np.zeros((12, SIDE, SIDE), bool)
    for k in range(12):
        y, x = rng.integers(0, 6, 2) * 4
        tiles[k, y : y + 8, x : x + 8] = 40
        inside[k, y : y + 8, x : x + 8] = True
    model = lesion_network()
    assert (np.asarray(model(tiles))[:, 1] > 0.9).all()
    return model, tiles, inside


@pytest.mark.parametrize("method", [class_activation_map, grad_cam, grad_cam_plus_plus])
def test_maps_of_a_network_that_looks_at_the_lesion_beat_every_baseline(lesions, method) -> None:
    model, tiles, inside = lesions
    maps = method(model, tiles, 1).maps
    energy, pointing = energy_share(maps, inside).mean(), np.nanmean(pointing_hits(maps, inside))
    for other in (random_maps(12, (SIDE, SIDE), (8, 8), 0), centre_maps(12, (SIDE, SIDE))):
        assert energy > 3 * energy_share(other, inside).mean()
        assert pointing > pointing_hits(other, inside).mean() + 0.5
    assert pointing == 1.0


def test_the_score_drops_once_the_weights_are_randomised(lesions) -> None:
    model, tiles, inside = lesions
    before = model.get_weights()
    own = np.nan_to_num(energy_share(class_activation_map(model, tiles, 1).maps, inside)).mean()
    drops = []
    for seed in range(8):
        other = randomised(model, seed)
        for own_weights, shuffled in zip(before, other.get_weights(), strict=True):
            np.testing.assert_allclose(np.sort(own_weights.ravel()), np.sort(shuffled.ravel()))
        maps = class_activation_map(other, tiles, 1).maps
        drops.append(own - np.nan_to_num(energy_share(maps, inside)).mean())
    assert np.mean(drops) > 0.2
    for kept, now in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(kept, now)  # the model itself is left alone


def test_deletion_and_insertion_tell_a_right_map_from_a_wrong_one(lesions) -> None:
    model, tiles, inside = lesions

    def probability(x: np.ndarray) -> np.ndarray:
        return np.asarray(model(x))[:, 1]

    right, wrong = inside.astype(np.float32), 1 - inside.astype(np.float32)
    deletion = [deletion_curve(probability, tiles, maps, 8) for maps in (right, wrong)]
    insertion = [insertion_curve(probability, tiles, maps, 8) for maps in (right, wrong)]
    assert deletion[0].area.mean() < deletion[1].area.mean() - 0.3
    assert insertion[0].area.mean() > insertion[1].area.mean() + 0.3
    for curve, first in ((deletion[0], tiles), (insertion[1], None)):
        assert curve.fraction.tolist() == [k / 8 for k in range(9)]
        if first is not None:
            np.testing.assert_allclose(curve.probability[:, 0], probability(first), atol=1e-6)
    np.testing.assert_allclose(insertion[0].probability[:, -1], probability(tiles), atol=1e-6)
    np.testing.assert_allclose(deletion[0].probability[:, -1], insertion[0].probability[:, 0], atol=1e-6)


def test_the_area_under_a_curve_is_by_trapezia() -> None:
    curve = deletion_curve(lambda x: x[:, 0, 0, 0] / 255, np.full((1, 2, 2, 3), 255.0), np.ones((1, 2, 2)), 2)
    assert curve.area.tolist() == pytest.approx([1.0])
