"""SqueezeNet 1.1 against the same network by sliding windows in numpy, and with its published weights."""

from pathlib import Path

import keras
import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from melano_tf.models.backbone_graphs import build_backbone
from melano_tf.models.squeezenet import FIRES, LEAST_PX, POOLED_AFTER, squeezenet

Weights = dict[str, list[np.ndarray]]


def convolved(x: np.ndarray, weights: list[np.ndarray], stride: int = 1, padded: bool = True) -> np.ndarray:
    kernel, bias = weights
    margin = (kernel.shape[0] - 1) // 2 if padded else 0
    x = np.pad(x, ((margin, margin), (margin, margin), (0, 0)))
    windows = sliding_window_view(x, kernel.shape[:2], axis=(0, 1))[::stride, ::stride]  # (h, w, C, k, k)
    return np.maximum(np.einsum("hwcij,ijcd->hwd", windows, kernel) + bias, 0)


def pooled(x: np.ndarray) -> np.ndarray:
    return sliding_window_view(x, (3, 3), axis=(0, 1))[::2, ::2].max(axis=(-1, -2))


def by_hand(x: np.ndarray, weights: Weights) -> np.ndarray:
    x = pooled(convolved(x, weights["conv1"], stride=2, padded=False))
    for fire in range(2, 10):
        x = convolved(x, weights[f"fire{fire}_squeeze1x1"])
        ways = [convolved(x, weights[f"fire{fire}_expand{size}x{size}"]) for size in (1, 3)]
        x = np.concatenate(ways, axis=-1)
        if fire in (3, 5):
            x = pooled(x)
    return x


def weights_of(model: keras.Model) -> Weights:
    return {layer.name: [w.astype("float64") for w in layer.get_weights()] for layer in model.layers if layer.weights}


def test_it_computes_what_windows_say() -> None:
    keras.utils.set_random_seed(2)
    entered = keras.Input((67, 45, 3))
    model = keras.Model(entered, squeezenet(entered))
    rng = np.random.default_rng(1)
    model.set_weights(
        [rng.normal(0, 0.1 if w.ndim == 1 else np.prod(w.shape[:3]) ** -0.5, w.shape) for w in model.get_weights()]
    )
    pictures = rng.normal(0, 50, (2, 67, 45, 3)).astype("float32")
    found = np.asarray(model(pictures))
    wanted = np.stack([by_hand(one.astype("float64"), weights_of(model)) for one in pictures])
    assert wanted.shape == (2, 3, 1, 512) and wanted.std() > 0
    np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=1e-3 * np.abs(wanted).max())


def test_its_parameters_are_those_of_the_paper_less_the_classes() -> None:
    _, features, report = build_backbone("squeezenet", 224, seed=0)
    counted, before = 3 * 3 * 3 * 64 + 64, 64
    for squeezed, expanded in FIRES.values():
        counted += before * squeezed + squeezed + 10 * squeezed * expanded + 2 * expanded
        before = 2 * expanded
    assert report.parameters == counted == 722_496
    assert tuple(features.shape) == (None, 13, 13, 512)
    assert set(POOLED_AFTER) < set(FIRES)
    _, smallest, _ = build_backbone("squeezenet", LEAST_PX, seed=0)
    assert tuple(smallest.shape) == (None, 1, 1, 512)


def test_the_published_weights_fit(real_data: Path) -> None:
    path = real_data / "weights" / "squeezenet_weights_tf_dim_ordering_tf_kernels_notop.h5"
    pictures, features, report = build_backbone("squeezenet", 64, weights=path)
    assert report.tensors_loaded == 50
    model = keras.Model(pictures, features)
    photograph = np.random.default_rng(0).integers(0, 256, (1, 64, 64, 3))
    prepared = photograph[0, ..., ::-1] - np.array([103.939, 116.779, 123.68])
    found = np.asarray(model(photograph.astype("float32")))[0]
    wanted = by_hand(prepared, weights_of(model))
    np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=1e-3 * np.abs(wanted).max())
