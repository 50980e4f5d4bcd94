"""The layer against numpy's colour constancy, which the pipeline applies."""

from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from melano_tf.dermoscopy.colour_constancy import ColourConstancy, normalise
from melano_tf.models.colour_constancy_layer import ColourNormalisation
from tests.models.layer_checks import check_layer

RNG = np.random.default_rng(0)
SETTINGS = [
    ColourConstancy(method, p, mask, saturated=245)
    for method, p in (("shades_of_gray", 6.0), ("shades_of_gray", 2.5), ("grey_world", 6.0), ("max_rgb", 6.0))
    for mask in (False, True)
]


def images() -> np.ndarray:
    """Noise under three lights, black, grey, and glare, uint8 (6, 40, 30, 3)."""
    noise = RNG.integers(0, 256, (6, 40, 30, 3), dtype=np.uint8)
    noise[1] = noise[1] * np.array([0.9, 0.5, 0.2])
    noise[2] = noise[2] * np.array([0.1, 0.4, 0.7])
    noise[3] = 0
    noise[4] = noise[4][..., :1]
    noise[5] = (255, 200, 100)
    return noise


@pytest.mark.parametrize("settings", SETTINGS)
def test_equals_numpy(settings: ColourConstancy) -> None:
    batch = images()
    expected = np.stack([normalise(image, settings) for image in batch])
    exact = ColourNormalisation(**asdict(settings), precision="float64")(batch)
    np.testing.assert_array_equal(exact, expected)
    single = np.asarray(ColourNormalisation(**asdict(settings))(batch.astype("float32")))
    assert np.abs(single - expected).max() <= 1
    assert np.mean(single != expected) < 1e-3
    assert single.max() <= 255 and single.min() >= 0 and np.all(single == np.rint(single))


def test_an_image_does_not_depend_on_its_batch() -> None:
    batch, layer = images(), ColourNormalisation()
    for place in range(len(batch)):
        np.testing.assert_array_equal(layer(batch[place : place + 1])[0], layer(batch)[place])


@pytest.mark.parametrize("mask", [False, True])
@pytest.mark.parametrize("method", ["shades_of_gray", "grey_world", "max_rgb"])
def test_is_a_layer(method: str, mask: bool, tmp_path: Path) -> None:
    def make() -> ColourNormalisation:
        return ColourNormalisation(method, 3.0, mask, 250)

    batch = images().astype("float32")
    check_layer(make, batch, batch.shape, tmp_path, parameters=0, differentiable=False)


def test_refused() -> None:
    for arguments in ({"method": "x"}, {"precision": "float16"}, {"p": 0.0}, {"saturated": 0}):
        with pytest.raises(ValueError, match=r"see ColourNormalisation|expected p"):
            ColourNormalisation(**arguments)
