"""This project against the values of TensorFlow Addons in reference.npz (README.md beside this file)."""

import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from melano_tf.evaluation.binary_metrics import Confusion, binary_metrics, confusion, metrics_of_counts
from melano_tf.models.adaptive_pooling import adaptive_pool
from melano_tf.pipelines.image_transforms import transformed, views
from melano_tf.training.losses import binary_focal
from melano_tf.training.metric_losses import triplet_batch_hard, triplet_semi_hard

HERE = Path(__file__).parent
TRIPLETS = {"semi_hard": triplet_semi_hard, "batch_hard": triplet_batch_hard}


def load_script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("parity_make_reference", HERE / "make_reference.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


script = load_script()


@pytest.fixture(scope="module")
def stored() -> dict[str, np.ndarray]:
    with np.load(HERE / "reference.npz") as file:
        return {name: file[name] for name in file.files}


def test_versions_are_the_required_ones(stored: dict[str, np.ndarray]) -> None:
    versions = json.loads(str(stored["versions"]))
    lines = (HERE / "requirements.txt").read_text().splitlines()
    pins = dict(line.split("==") for line in lines if "==" in line)
    assert pins == {"tensorflow": "2.15.1", "tensorflow-addons": "0.23.0"}
    assert {name: versions[name] for name in pins} == pins
    assert versions["python"].startswith("3.11.") and versions["seed"] == str(script.SEED)


def test_inputs_are_those_of_the_seed(stored: dict[str, np.ndarray]) -> None:
    drawn = script.draw_inputs()
    assert {f"in/{name}" for name in drawn} == {name for name in stored if name.startswith("in/")}
    for name, value in drawn.items():
        np.testing.assert_allclose(value, stored[f"in/{name}"], rtol=1e-6, err_msg=name)


def test_every_value_is_compared(stored: dict[str, np.ndarray]) -> None:
    """A value that the script adds must not lie there unread."""
    count = len(script.FOCAL) + len(script.MARGINS) * (1 + len(script.DISTANCES) * len(TRIPLETS) * 2)
    count += 2 * len(script.POOLING) + 2 * len(script.INTERPOLATIONS) * len(script.FILLS) + 2 * len(script.AVERAGES)
    assert sum(name.startswith("out/") for name in stored) == count
    assert all(np.isfinite(value).all() for name, value in stored.items() if name != "versions")


@pytest.mark.parametrize(("alpha", "gamma"), script.FOCAL)
def test_focal(stored: dict[str, np.ndarray], alpha: float, gamma: float) -> None:
    p = stored["in/focal/p"].astype(np.float64)
    found = binary_focal(stored["in/focal/y"], np.log(p / (1.0 - p)), alpha, gamma)
    np.testing.assert_allclose(found, stored[f"out/focal/{alpha:g}-{gamma:g}"], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("margin", script.MARGINS)
@pytest.mark.parametrize("distance", script.DISTANCES)
@pytest.mark.parametrize("name", TRIPLETS)
def test_triplets(stored: dict[str, np.ndarray], name: str, distance: Any, margin: float) -> None:
    x = tf.constant(stored["in/metric/embeddings"])
    with tf.GradientTape() as tape:
        tape.watch(x)
        loss = tf.reduce_mean(TRIPLETS[name](x, stored["in/metric/labels"], margin, distance))
    expected = stored[f"out/{name}/{distance}-{margin:g}"]
    assert expected > 0.1
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    gradient = stored[f"out/{name}/{distance}-{margin:g}/gradient"]
    assert np.abs(gradient).max() > 1e-3
    np.testing.assert_allclose(tape.gradient(loss, x), gradient, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(("size", "out"), script.POOLING)
def test_adaptive_pooling(stored: dict[str, np.ndarray], size: int, out: int) -> None:
    x = stored[f"in/pooling/{size}-{out}"]
    largest, mean = (stored[f"out/pooling/{size}-{out}/{kind}"] for kind in ("max", "average"))
    np.testing.assert_array_equal(adaptive_pool(x, out, "max"), largest)
    np.testing.assert_allclose(adaptive_pool(x, out, "mean"), mean, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(keras.layers.AdaptiveAveragePooling2D(out)(x), mean, rtol=1e-5, atol=1e-6)
    if out > 1:  # Keras 3.15's layer on TensorFlow 2.21 ends the process with SIGFPE for one bin
        np.testing.assert_array_equal(keras.layers.AdaptiveMaxPooling2D(out)(x), largest)


@pytest.mark.parametrize("threshold", [None, 0.3])
def test_f1(stored: dict[str, np.ndarray], threshold: float | None) -> None:
    classes, probabilities = stored["in/f1/classes"], stored["in/f1/probabilities"]
    if threshold is None:
        called = np.eye(5)[probabilities.argmax(axis=1)]
    else:
        called = (probabilities > threshold).astype(float)
    each = [binary_metrics(classes == c, called[:, c])["F1S"] for c in range(5)]
    counts = Confusion(*np.array([confusion(classes == c, called[:, c]) for c in range(5)]).sum(axis=0))
    support = np.bincount(classes, minlength=5) / len(classes)
    expected = {average: stored[f"out/f1/{threshold or 'argmax'}/{average}"] for average in script.AVERAGES}
    assert 0.2 < expected["macro"] < 0.9 and each[4] == 0
    np.testing.assert_allclose(each, expected["none"], rtol=1e-5)
    np.testing.assert_allclose(np.mean(each), expected["macro"], rtol=1e-5)
    np.testing.assert_allclose(metrics_of_counts(counts)["F1S"], expected["micro"], rtol=1e-5)
    np.testing.assert_allclose(np.dot(each, support), expected["weighted"], rtol=1e-5)


@pytest.mark.parametrize("shape", ["images", "wide"])
@pytest.mark.parametrize("interpolation", script.INTERPOLATIONS)
@pytest.mark.parametrize("fill", script.FILLS)
def test_rotation(stored: dict[str, np.ndarray], shape: str, interpolation: str, fill: str) -> None:
    images = stored[f"in/rotation/{shape}"]
    degrees, (height, width) = stored["in/rotation/degrees"], images.shape[1:3]
    each = np.ones(len(degrees))
    transforms = views(degrees, each, each == 0, each * width / height, (height, width), (height, width))
    found = np.asarray(keras.ops.image.affine_transform(images, transforms, interpolation, fill))
    if interpolation == "bilinear":
        ours = transformed(images, transforms, images.shape[1:3], fill)
        np.testing.assert_allclose(ours, found, rtol=1e-4, atol=1e-2)
    expected = stored[f"out/rotation/{shape}-{interpolation}-{fill}"]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-2)
    np.testing.assert_allclose(found[0], images[0], atol=1e-2)  # by 0 degrees
    if shape == "images":  # by 90 degrees anticlockwise
        np.testing.assert_allclose(found[1], np.rot90(images[1]), atol=1e-2)
