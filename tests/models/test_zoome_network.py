"""Zoom-SE against numpy loops, metadata embedding by hand, and every network of the paper's tables."""

import itertools
import random
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from melano_tf.errors import InputError
from melano_tf.models.adaptive_pooling import adaptive_bins
from melano_tf.models.backbone_graphs import build_features
from melano_tf.models.backbone_registry import BACKBONES
from melano_tf.models.classifier_head import logits_of
from melano_tf.models.layers import Preprocess
from melano_tf.models.zoome_network import MetadataEmbedding, ZoomSqueezeExcite, build_zoome, check_network
from melano_tf.training.losses import binary_crossentropy
from melano_tf.training.steps import GradientStep, Progress
from tests.models.layer_checks import check_layer, nested_models

RNG = np.random.default_rng(0)
STANDINS = [name for name in BACKBONES if name.endswith("_standin")]


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def naive_zoom(u: np.ndarray, w1: np.ndarray, w2: np.ndarray, zoom: int, gate: str) -> np.ndarray:
    """Equations 1 to 3, one image and channel at a time."""
    x = np.zeros_like(u)
    for b in range(len(u)):
        s = np.zeros(u.shape[-1])
        for c in range(u.shape[-1]):
            bins = [
                u[b, top:bottom, left:right, c].max()
                for top, bottom in adaptive_bins(u.shape[1], zoom)
                for left, right in adaptive_bins(u.shape[2], zoom)
            ]
            s[c] = sum(bins) / zoom**2
        q = np.maximum(s @ w1, 0) @ w2
        if gate == "printed":
            q = np.maximum(q, 0)
        for c in range(u.shape[-1]):
            x[b, :, :, c] = u[b, :, :, c] * sigmoid(q)[c]
    return x


@pytest.mark.parametrize("gate", ["printed", "se"])
@pytest.mark.parametrize(("height", "width", "zoom"), [(8, 8, 4), (7, 7, 4), (14, 6, 4), (3, 2, 4), (5, 5, 1)])
def test_zoom_se_equals_loops(height: int, width: int, zoom: int, gate: str) -> None:
    u = RNG.normal(size=(2, height, width, 8)).astype("float32")
    layer = ZoomSqueezeExcite(ratio=2, zoom=zoom, gate=gate)
    result = layer(u)
    w1, w2 = (np.asarray(weight) for weight in (layer.w1, layer.w2))
    assert w1.shape == (8, 4) and w2.shape == (4, 8)
    np.testing.assert_allclose(result, naive_zoom(u, w1, w2, zoom, gate), rtol=1e-5, atol=1e-6)


def test_zoom_se_gates() -> None:
    """The printed gate keeps at least half of every channel; the usual one does not."""
    u = np.abs(RNG.normal(size=(4, 8, 8, 32))).astype("float32")
    for gate, least in (("printed", 0.5), ("se", 0.0)):
        share = np.asarray(ZoomSqueezeExcite(4, gate=gate)(u)) / u
        assert share.min() >= least and share.max() < 1
        assert (share.min() < 0.5) == (gate == "se")
        assert np.ptp(share, axis=(1, 2)).max() < 1e-5  # one weight a channel
        assert np.ptp(share, axis=0).max() > 0.01  # of its own for each image


@pytest.mark.parametrize("gate", ["printed", "se"])
@pytest.mark.parametrize("side", [8, 7, 3])
def test_zoom_se_is_a_layer(gate: str, side: int, tmp_path: Path) -> None:
    x = RNG.normal(size=(2, side, side, 16)).astype("float32")
    check_layer(
        lambda: ZoomSqueezeExcite(ratio=2, gate=gate),
        x,
        (2, side, side, 16),
        tmp_path,
        trainable_tensors=2,
        parameters=2 * 16 * 8,
    )


def test_zoom_se_refuses() -> None:
    for arguments in ({"ratio": 0}, {"zoom": 0}, {"gate": "relu"}):
        with pytest.raises(ValueError, match="expected"):
            ZoomSqueezeExcite(**arguments)
    with pytest.raises(ValueError, match="known"):
        ZoomSqueezeExcite()(keras.Input((None, None, 16)))
    assert ZoomSqueezeExcite(16)(np.ones((1, 4, 4, 3), "float32")).shape == (1, 4, 4, 3)  # a bottleneck of one


def embedding_by_hand() -> MetadataEmbedding:
    layer = MetadataEmbedding(units=2)
    layer.build([(None, 1, 2, 3), (None, 2)])
    layer.set_weights(
        [
            np.array([[2.0, -2.0], [0.0, 4.0]]),  # W1: age/90, unknown -> two hidden units
            np.array([0.0, -1.0]),
            np.array([[1.0, 0.0, -1.0], [0.0, 2.0, 0.0]]),
            np.array([0.0, -6.0, 1.0]),
        ]
    )
    return layer


def test_metadata_embedding_by_hand() -> None:
    """Aged 45: hidden relu(1, -2) = (1, 0); t = sigmoid(1, -6, 0). Unknown: relu(0, 3) = (0, 3); sigmoid(0, 0, 1)."""
    x = np.array([[[[1.0, 10.0, 100.0], [2.0, 20.0, 200.0]]]] * 2, dtype="float32")
    m = np.array([[0.5, 0.0], [0.0, 1.0]], dtype="float32")
    layer = embedding_by_hand()
    t = [[0.7310586, 0.0024726, 0.5], [0.5, 0.5, 0.7310586]]
    np.testing.assert_allclose(layer.weigh(m), t, rtol=1e-4)
    expected = [
        [[[0.7310586, 0.024726, 50.0], [1.4621172, 0.049452, 100.0]]],
        [[[0.5, 5.0, 73.10586], [1.0, 10.0, 146.21172]]],
    ]
    np.testing.assert_allclose(layer([x, m]), expected, rtol=1e-4)


@pytest.mark.parametrize("policy", ["float32", "mixed_float16"])
def test_metadata_embedding_is_a_layer(policy: str, tmp_path: Path) -> None:
    x, m = RNG.normal(size=(2, 3, 3, 6)).astype("float32"), RNG.random((2, 4)).astype("float32")
    inputs = [keras.Input((3, 3, 6)), keras.Input((4,))]
    layer = MetadataEmbedding(5, dtype=policy)
    model = keras.Model(inputs, layer(inputs))
    result = np.asarray(model([x, m]))
    assert result.shape == layer.compute_output_shape([x.shape, m.shape]) == (2, 3, 3, 6)
    assert layer.count_params() == 4 * 5 + 5 + 5 * 6 + 6
    model.save(tmp_path / "model.keras")
    np.testing.assert_array_equal(keras.saving.load_model(tmp_path / "model.keras")([x, m]), result)
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(tf.cast(layer([x, m]), tf.float32) ** 2)
    for gradient in tape.gradient(loss, [variable.value for variable in layer.trainable_weights]):
        assert np.any(np.asarray(gradient) != 0) and np.all(np.isfinite(gradient))
    with pytest.raises(ValueError, match="at least 1"):
        MetadataEmbedding(0)


def zoom_layers(model: keras.Model) -> list[ZoomSqueezeExcite]:
    return [layer for layer in model.layers if isinstance(layer, ZoomSqueezeExcite)]


def test_the_papers_network() -> None:
    model, report = build_zoome()
    names = [layer.name for layer in model.layers]
    assert nested_models(model) == []
    blocks = [f"layer{stage}_{n}" for stage, depth in enumerate((3, 4, 6, 3), start=1) for n in range(depth)]
    assert [layer.name for layer in zoom_layers(model)] == [f"{block}_zoom_se" for block in blocks]
    for block, following in itertools.pairwise(blocks):
        zoom = model.get_layer(f"{block}_zoom_se")
        assert zoom.input is model.get_layer(f"{block}_relu3").output
        # Both ways into the next block start from the weighted map.
        assert model.get_layer(f"{following}_conv1").input is zoom.output
        assert not any(tensor is zoom.input for tensor in model.get_layer(f"{following}_add").input)
    assert model.get_layer("features").output.shape == (None, 7, 7, 2048)
    assert model.get_layer("embedding").output.shape == (None, 2048)
    assert names[-4:] == ["metadata_embedding", "embedding", "probability_logits", "probability"]
    # 25,028,904 less the 1000-class top, plus W1 and W2 of each block, the embedding of 12 numbers and the last neuron.
    zoom_se = sum(depth * 2 * c * (c // 16) for depth, c in ((3, 256), (4, 512), (6, 1024), (3, 2048)))
    head = (12 * 64 + 64) + (64 * 2048 + 2048) + 2049
    assert report.parameters == 25_028_904 - 2_049_000 + zoom_se + head
    assert report.tensors_loaded == 0 and report.kind == "none"


def batch(px: int, count: int = 8) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    return {
        "image": rng.integers(0, 256, (count, px, px, 3)).astype("uint8"),
        "metadata": rng.random((count, 12)).astype("float32"),
    }


@pytest.mark.parametrize("backbone", STANDINS)
@pytest.mark.parametrize("metadata", [False, True])
def test_networks_train_and_travel(backbone: str, metadata: bool, tmp_path: Path) -> None:
    residual = backbone.startswith("res")
    model, report = build_zoome(backbone, 64, zoom_se=residual, metadata=metadata, seed=3)
    assert nested_models(model) == []
    assert len(zoom_layers(model)) == (3 if residual else 0)
    assert report.backbone == backbone
    x = batch(64)
    y = tf.constant([0, 1] * 4)
    step = GradientStep(
        logits_of(model), keras.optimizers.Adam(1e-3), lambda b, p: binary_crossentropy(b["y"], p[:, 0])
    )
    before = model.get_weights()
    for number in range(2):
        now = Progress(*(tf.constant(value, tf.int64) for value in (number, 0, 2, 1)))
        assert np.isfinite(step({"x": x, "y": y, "id": tf.constant(list("abcdefgh"))}, now)["loss"])
    for old, variable in zip(before, model.weights, strict=True):
        assert not np.array_equal(old, np.asarray(variable)), f"{variable.path} did not change"
    # With metadata: they matter, and the order of a list is that of the names.
    result = np.asarray(model(x, training=False))
    assert result.shape == (8, 1) and result.dtype == np.float32
    assert np.all((result > 0) & (result < 1))
    listed = [x["image"], x["metadata"]] if metadata else [x["image"]]
    np.testing.assert_array_equal(model(listed, training=False), result)
    other = np.asarray(model({**x, "metadata": x["metadata"][::-1]}, training=False))
    assert np.array_equal(other, result) != metadata
    model.save(tmp_path / "model.keras")
    np.testing.assert_array_equal(keras.saving.load_model(tmp_path / "model.keras")(x, training=False), result)


@pytest.mark.parametrize("metadata", [False, True])
def test_learns_what_only_metadata_tell(metadata: bool) -> None:
    """All images are the same, the label is the patient's sex: without metadata nothing beats a coin."""
    x = batch(32, 16)
    labels = np.arange(16) % 2
    x["image"][:] = x["image"][0]
    x["metadata"][:] = labels[:, None] * (np.arange(12) == 2)
    samples = {"x": x, "y": tf.constant(labels), "id": tf.constant(list("abcdefghijklmnop"))}
    model, _ = build_zoome("resnext_standin", 32, metadata=metadata, seed=1)
    step = GradientStep(
        logits_of(model), keras.optimizers.Adam(3e-3), lambda b, p: binary_crossentropy(b["y"], p[:, 0])
    )
    for number in range(40):
        now = Progress(*(tf.constant(value, tf.int64) for value in (number, 0, 40, 1)))
        loss = float(step(samples, now)["loss"])
    assert loss < 0.1 if metadata else loss > 0.69


def test_ablations_share_the_rest() -> None:
    """Zoom-SE and metadata add layers and take none away."""
    whole = {layer.name for layer in build_zoome("resnext_standin", 64)[0].layers}
    without_zoom = {layer.name for layer in build_zoome("resnext_standin", 64, zoom_se=False)[0].layers}
    without_metadata = {layer.name for layer in build_zoome("resnext_standin", 64, metadata=False)[0].layers}
    assert whole - without_zoom == {f"layer{stage}_0_zoom_se" for stage in (1, 2, 3)}
    assert whole - without_metadata == {"metadata", "metadata_embedding"}
    assert without_zoom < whole and without_metadata < whole


@pytest.mark.parametrize(
    ("backbone", "channels"), [("torchvision_alexnet", 256), ("zoome_kaur", 512), ("torchvision_resnet50", 2048)]
)
def test_comparators_at_full_size(backbone: str, channels: int) -> None:
    model, _ = build_zoome(backbone, 224, zoom_se=False)
    side = 6 if backbone == "torchvision_alexnet" else 7
    assert model.get_layer("metadata_embedding").output.shape == (None, side, side, channels)
    assert model.get_layer("embedding").output.shape == (None, 4096 if backbone == "torchvision_alexnet" else channels)


def test_alexnet_has_torchvisions_tensors() -> None:
    """61,100,840 parameters with 1000 classes; the shapes are those of torchvision's modules."""
    model = build_features("torchvision_alexnet", 224)
    assert model.count_params() == 61_100_840 - 4096 * 1000 - 1000
    shapes = {layer.name: tuple(layer.kernel.shape) for layer in model.layers if layer.weights}
    assert shapes == {
        "features_0": (11, 11, 3, 64),
        "features_3": (5, 5, 64, 192),
        "features_6": (3, 3, 192, 384),
        "features_8": (3, 3, 384, 256),
        "features_10": (3, 3, 256, 256),
        "classifier_1": (9216, 4096),
        "classifier_4": (4096, 4096),
    }
    sides = [
        model.get_layer(name).output.shape[1] for name in ("features_0", "features_2", "features_5", "features_12")
    ]
    assert sides == [55, 27, 13, 6]


def test_alexnet_from_a_state_dict(tmp_path: Path) -> None:
    """The first dense layer sees the map channels first, as PyTorch flattens it."""
    shapes = {"features.0": (16, 3, 5, 5), "features.3": (32, 16, 5, 5), "features.6": (48, 32, 3, 3)}
    shapes |= {"features.8": (32, 48, 3, 3), "features.10": (32, 32, 3, 3)}
    shapes |= {"classifier.1": (64, 32 * 3 * 3), "classifier.4": (64, 64), "classifier.6": (10, 64)}
    state = {f"{name}.weight": RNG.normal(size=shape).astype("float32") / 8 for name, shape in shapes.items()}
    state |= {f"{name}.bias": RNG.normal(size=shape[0]).astype("float32") for name, shape in shapes.items()}
    np.savez(tmp_path / "alexnet.npz", **state)
    model, report = build_zoome("alexnet_standin", 64, zoom_se=False, metadata=False, weights=tmp_path / "alexnet.npz")
    assert (report.tensors_loaded, set(report.not_used)) == (14, {"classifier.6.weight", "classifier.6.bias"})
    image = tf.constant(batch(64, 2)["image"], tf.float32)
    maps = np.asarray(keras.Model(model.input, model.get_layer("features").output)(image))
    assert maps.shape == (2, 3, 3, 32)
    hidden = np.maximum(
        maps.transpose(0, 3, 1, 2).reshape(2, -1) @ state["classifier.1.weight"].T + state["classifier.1.bias"], 0
    )
    hidden = np.maximum(hidden @ state["classifier.4.weight"].T + state["classifier.4.bias"], 0)
    result = keras.Model(model.input, model.get_layer("embedding").output)(image)
    np.testing.assert_allclose(result, hidden, rtol=1e-3, atol=1e-3)


def test_seed_alone_decides() -> None:
    keras.utils.set_random_seed(5)
    first, _ = build_zoome("resnext_standin", 64, seed=9)
    state = random.getstate()
    second, _ = build_zoome("resnext_standin", 64, seed=9)
    assert random.getstate() == state
    third, _ = build_zoome("resnext_standin", 64, seed=10)
    same = [np.array_equal(a, b) for a, b in zip(first.get_weights(), second.get_weights(), strict=True)]
    other = [np.array_equal(a, b) for a, b in zip(first.get_weights(), third.get_weights(), strict=True)]
    assert all(same) and not all(other)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"backbone": "resnext50"}, "unknown; did you mean torchvision_resnext50[?] there are .*, zoome_kaur,"),
        ({"backbone": "resnext_standin", "input_px": 224}, "32 to 96 px, not 224"),
        ({"input_px": 16}, "32 or more px, not 16"),
        ({"backbone": "torchvision_alexnet", "input_px": 62, "zoom_se": False}, "63 or more"),
        ({"backbone": "torchvision_alexnet"}, "no residual blocks"),
        ({"backbone": "resnet50"}, "no residual blocks .* those with are torchvision_resnext50, torchvision_resnet50"),
        ({"backbone": "zoome_kaur"}, "zoom_se=False"),
        ({"gate": "relu"}, "choose printed or se"),
        ({"ratio": 0}, "at least 1"),
        (
            {"weights": "missing.npz", "backbone": "resnet_standin", "input_px": 32},
            r"missing\.npz: no such weights file",
        ),
        ({"weights": "missing.weights.h5", "backbone": "resnet_standin", "input_px": 32}, "no such weights file"),
        ({"weights": "k.npz", "backbone": "kaur_standin", "input_px": 32, "zoom_se": False}, "torchvision has no kaur"),
    ],
)
def test_refused(arguments: dict[str, object], match: str) -> None:
    with pytest.raises(InputError, match=match):
        build_zoome(**arguments)


@pytest.mark.parametrize("backbone", ["torchvision_alexnet", "torchvision_resnext50", "zoome_kaur"])
def test_smallest_size(backbone: str) -> None:
    px = 63 if backbone == "torchvision_alexnet" else 32
    model, _ = build_zoome(backbone, px, zoom_se=backbone == "torchvision_resnext50", metadata=False)
    assert model.output.shape == (None, 1)


@pytest.mark.parametrize("backbone", STANDINS)
def test_smallest_standins(backbone: str) -> None:
    model, _ = build_zoome(backbone, 32, zoom_se=backbone.startswith("res"))
    assert np.all(np.isfinite(model(batch(32, 2), training=False)))


def test_a_network_of_keras_as_comparator(tmp_path: Path) -> None:
    """With its own preprocessing and a file of its weights, also where layers derive numbers from theirs."""
    alone = build_features("efficientnetb0", 32)
    rng = np.random.default_rng(3)
    for layer in alone.layers:  # statistics and ImageNet's mean and variance; the rest as drawn keeps maps finite
        if isinstance(layer, (keras.layers.BatchNormalization, keras.layers.Normalization)):
            for variable in (each for each in layer.variables if each.dtype == "float32"):
                variable.assign(rng.uniform(0.5, 1.5, variable.shape))
    alone.save_weights(tmp_path / "b0.weights.h5")
    settings = {"zoom_se": False, "metadata": False, "weights": tmp_path / "b0.weights.h5", "seed": 1}
    model, report = build_zoome("efficientnetb0", 32, **settings)
    assert report.tensors_loaded == len(alone.weights)
    assert model.get_layer("preprocess").mode == "efficientnet"
    inner = keras.Model(model.inputs, model.get_layer("features").output)
    image = batch(32, 2)["image"].astype("float32")
    loaded = build_features("efficientnetb0", 32)
    loaded.load_weights(tmp_path / "b0.weights.h5")
    expected = np.asarray(loaded(Preprocess("efficientnet")(image)))
    assert expected.std() > 0
    np.testing.assert_allclose(inner({"image": image}), expected, rtol=1e-3, atol=1e-3 * np.abs(expected).max())


def test_check_network_needs_no_network_built() -> None:
    assert check_network("vgg16", "imagenet", 224, zoom_se=False).name == "vgg16"
    with pytest.raises(InputError, match="no residual blocks"):
        check_network("vgg16", "imagenet", 224)
