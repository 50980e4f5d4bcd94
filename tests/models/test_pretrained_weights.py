"""Weights from files: legacy .h5, .weights.h5, ImageNet's; what does not fit is refused, and nothing is assumed."""

import http.server
import shutil
import threading
import time
import urllib.error
from collections.abc import Iterator, Sequence
from pathlib import Path

import h5py
import keras
import numpy as np
import pytest

from melano_tf.errors import InputError
from melano_tf.models import keras_imagenet_files
from melano_tf.models.backbone_graphs import build_backbone
from melano_tf.models.pretrained_weights import load_weights

Layers = Sequence[tuple[str, list[np.ndarray]]]


def write_legacy(path: Path, layers: Layers, inside: str | None = None) -> None:
    """A file as Keras 1 and 2 wrote them: a group per layer, names of layers and weights as attributes."""
    with h5py.File(path, "w") as file:
        root = file.create_group(inside) if inside else file
        root.attrs["layer_names"] = [name.encode() for name, _ in layers]
        for name, tensors in layers:
            group = root.create_group(name)
            names = [f"{name}_{kind}_1:0" for kind, _ in zip("Wbcd", tensors, strict=False)]
            group.attrs["weight_names"] = [text.encode() for text in names]
            for text, tensor in zip(names, tensors, strict=True):
                group.create_dataset(text, data=tensor)


def random_layers(model: keras.Model) -> Layers:
    rng = np.random.default_rng(0)
    return [
        (layer.name, [np.abs(rng.normal(0, 0.05, w.shape)).astype("float32") for w in layer.get_weights()])
        for layer in model.layers
    ]


@pytest.fixture(scope="module")
def vgg_layers() -> Layers:
    return random_layers(keras.applications.VGG16(include_top=False, weights=None, input_shape=(32, 32, 3)))


@pytest.fixture(scope="module")
def vgg_file(vgg_layers: Layers, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "vgg16_notop.h5"
    write_legacy(path, vgg_layers)
    return path


def small() -> keras.Model:
    tiles, features, _ = build_backbone("standin", 32, seed=1)
    return keras.Model(tiles, features)


def small_layers() -> Layers:
    return [(name, tensors) for name, tensors in random_layers(small()) if tensors]


def test_legacy_file(vgg_file: Path, vgg_layers: Layers) -> None:
    tiles, features, report = build_backbone("vgg16", 32, weights=vgg_file, freeze="first_block")
    model = keras.Model(tiles, features)
    assert report.tensors_loaded == 26 and report.file == vgg_file
    for name, tensors in vgg_layers:
        if tensors:
            for own, in_file in zip(model.get_layer(name).get_weights(), tensors, strict=True):
                np.testing.assert_array_equal(own, in_file)


def test_legacy_file_of_a_whole_model_and_with_layers_that_keras_names(tmp_path: Path) -> None:
    layers = [(f"conv2d_{number}", tensors) for number, (_, tensors) in enumerate(small_layers(), start=7)]
    write_legacy(tmp_path / "model.h5", layers, inside="model_weights")
    model = small()
    assert load_weights(model, tmp_path / "model.h5") == 8
    for own, in_file in zip(model.get_weights(), [t for _, ts in layers for t in ts], strict=True):
        np.testing.assert_array_equal(own, in_file)


def test_weights_h5(tmp_path: Path) -> None:
    tiles, features, _ = build_backbone("standin", 32, seed=9)
    saved = keras.Model(tiles, features)
    saved.save_weights(tmp_path / "standin.weights.h5")
    tiles, features, report = build_backbone("standin", 48, weights=tmp_path / "standin.weights.h5", seed=1)
    assert report.tensors_loaded == 8
    for own, in_file in zip(keras.Model(tiles, features).get_weights(), saved.get_weights(), strict=True):
        np.testing.assert_array_equal(own, in_file)


def test_real_pretrained_file(real_data: Path) -> None:
    path = real_data / "weights" / "mobilenet_1_0_notop_pw13_random.weights.h5"
    tiles, features, report = build_backbone("mobilenet", 96, weights=path)
    assert report.tensors_loaded == 135
    # The first layer of a trained network is no random draw: its filters' norms differ widely.
    kernel = keras.Model(tiles, features).get_layer("conv1").get_weights()[0]
    with h5py.File(path) as file:
        np.testing.assert_array_equal(kernel, file["layers/conv2d/vars/0"])


def test_a_file_with_two_layers_exchanged_is_refused(tmp_path: Path, vgg_layers: Layers) -> None:
    layers = [(name, tensors) for name, tensors in vgg_layers if tensors]
    at = [name for name, _ in layers].index("block3_conv2")
    layers[at], layers[at + 1] = layers[at + 1], layers[at]  # of the same shapes, so that Keras notices nothing
    write_legacy(tmp_path / "vgg16.h5", layers)
    with pytest.raises(InputError, match=r"vgg16\.h5.*block3_conv3 stands where block3_conv2"):
        build_backbone("vgg16", 32, weights=tmp_path / "vgg16.h5")


def test_files_that_do_not_fit(tmp_path: Path) -> None:
    layers = list(small_layers())
    dense = ("fc1", [np.zeros((4, 2), "float32"), np.zeros(2, "float32")])
    wrong = [("block1_conv", [np.zeros((3, 3, 3, 16), "float32"), np.zeros(16, "float32")]), *layers[1:]]
    for name, content in {"less.h5": layers[:-1], "top.h5": [*layers, dense], "shape.h5": wrong}.items():
        write_legacy(tmp_path / name, content)
        with pytest.raises(InputError, match=name):
            load_weights(small(), tmp_path / name)
    other, features, _ = build_backbone("standin_residual", 32)
    keras.Model(other, features).save_weights(tmp_path / "other.weights.h5")
    with pytest.raises(InputError, match=r"other\.weights\.h5: holds 20 tensors that are not the 8"):
        load_weights(small(), tmp_path / "other.weights.h5")


def test_files_that_are_no_files_of_weights(tmp_path: Path) -> None:
    (tmp_path / "text.h5").write_text("weights")
    write_legacy(tmp_path / "whole.h5", small_layers())
    cut = (tmp_path / "whole.h5").read_bytes()
    (tmp_path / "cut.h5").write_bytes(cut[: len(cut) // 2])
    shutil.copy(tmp_path / "whole.h5", tmp_path / "legacy.weights.h5")
    small().save_weights(tmp_path / "new.weights.h5")
    shutil.copy(tmp_path / "new.weights.h5", tmp_path / "new.h5")
    with h5py.File(tmp_path / "empty.weights.h5", "w"):
        pass
    names = ("text.h5", "cut.h5", "legacy.weights.h5", "new.h5", "empty.weights.h5", "missing.h5")
    for name in names:
        with pytest.raises(InputError, match=name):
            load_weights(small(), tmp_path / name)


def test_a_loader_that_skips_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_legacy(tmp_path / "a.h5", small_layers())
    small().save_weights(tmp_path / "a.weights.h5")
    monkeypatch.setattr(keras.Model, "load_weights", lambda self, path: None)
    tiles, features, _ = build_backbone("standin", 32, seed=2)
    for name in ("a.h5", "a.weights.h5"):
        with pytest.raises(InputError, match="after loading"):
            load_weights(keras.Model(tiles, features), tmp_path / name)


def test_imagenet_from_the_cache(vgg_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    file = tmp_path / "models" / "vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5"
    file.parent.mkdir()
    file.symlink_to(vgg_file)
    with pytest.raises(InputError, match="checksum"):
        build_backbone("vgg16", 32, weights="imagenet")
    monkeypatch.setattr(keras_imagenet_files, "_checksum", lambda path, like: like)
    _, _, report = build_backbone("vgg16", 32, weights="imagenet")
    assert report.tensors_loaded == 26 and report.weights == "imagenet" and report.file == file


def test_imagenet_without_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_network(url: str, timeout: float) -> None:
        assert 0 < timeout <= 30
        raise urllib.error.URLError("no route")

    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    monkeypatch.setattr(keras_imagenet_files.urllib.request, "urlopen", no_network)
    with pytest.raises(InputError) as raised:
        build_backbone("vgg16", 32, weights="imagenet")
    message = str(raised.value)
    assert "\n" not in message and "no route" in message
    name = "vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5"
    assert f"https://storage.googleapis.com/tensorflow/keras-applications/vgg16/{name}" in message
    assert str(tmp_path / "models" / name) in message
    with pytest.raises(InputError, match="standin: has no ImageNet weights"):
        build_backbone("standin", 32, weights="imagenet")


class Server(http.server.BaseHTTPRequestHandler):
    """Answers with four bytes; under /short with two of them, under /slow with none."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "4")
        self.end_headers()
        if self.path.startswith("/slow"):
            time.sleep(1.5)
        else:
            self.wfile.write(b"ab" if self.path.startswith("/short") else b"abcd")

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def host() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


@pytest.mark.parametrize("path", ["", "/short", "/slow"])
def test_imagenet_is_fetched_whole_or_not_at_all(
    path: str, host: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(keras_imagenet_files, "HOST", host + path)
    monkeypatch.setattr(keras_imagenet_files, "TIMEOUT_S", 0.5)
    network = keras_imagenet_files.networks()["mobilenet"]  # it has no published checksum
    file = tmp_path / "models" / network.file
    if path:
        with pytest.raises(InputError, match="cannot be fetched"):
            keras_imagenet_files.imagenet_file(network)
        assert list(tmp_path.rglob("*.h5*")) == []
    else:
        assert keras_imagenet_files.imagenet_file(network) == file
        assert file.read_bytes() == b"abcd"


@pytest.mark.parametrize("name", ["vgg16", "resnet50", "mobilenetv2", "mobilenet", "efficientnetb0"])
def test_the_files_are_those_of_keras(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = {}

    class Asked(Exception):
        pass

    def get_file(fname: str, origin: str, file_hash: str | None = None, **_: object) -> None:
        asked.update(file=fname, url=origin, checksum=file_hash or "")
        raise Asked

    monkeypatch.setattr("keras.src.utils.file_utils.get_file", get_file)
    network = keras_imagenet_files.networks()[name]
    with pytest.raises(Asked):
        getattr(keras.applications, network.name)(include_top=False, input_shape=(224, 224, 3))
    assert asked == {"file": network.file, "url": network.url, "checksum": network.checksum}


def test_efficientnet_sees_what_its_imagenet_weights_expect(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = keras.applications.EfficientNetB0(include_top=False, weights=None, input_shape=(32, 32, 3))
    layers = []
    for name, tensors in random_layers(plain):
        if name.startswith("normalization"):  # ImageNet's mean and variance; the count of images
            mean, deviation = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
            tensors = [np.float32(mean), np.float32(deviation), np.array(1, tensors[2].dtype)]
        layers.append((name, tensors))
    write_legacy(tmp_path / "efficientnetb0.h5", layers)
    monkeypatch.setattr("keras.src.utils.file_utils.get_file", lambda *_, **__: str(tmp_path / "efficientnetb0.h5"))
    reference = keras.applications.EfficientNetB0(include_top=False, weights="imagenet", input_shape=(32, 32, 3))
    tiles, features, _ = build_backbone("efficientnetb0", 32, weights=tmp_path / "efficientnetb0.h5")
    images = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3)).astype("float32")
    expected = np.asarray(reference(images))
    assert expected.std() > 0
    np.testing.assert_allclose(keras.Model(tiles, features)(images), expected, rtol=1e-3, atol=1e-4 * expected.std())
