"""Residual networks: published sizes and shapes, PyTorch's arithmetic, and torchvision's weights."""

import sys
import types
from pathlib import Path

import keras
import numpy as np
import pytest

from melano_tf.errors import InputError
from melano_tf.models.backbone_graphs import build_features
from melano_tf.models.resnet_and_resnext import NETWORKS, build_classifier
from melano_tf.models.torch_weights import assign_state_dict, read_state_dict
from melano_tf.models.zoome_network import build_zoome

SMALL = {"resnext_standin": (1, 1, 1), "resnet_standin": (1, 1, 1)}


def trained(model: keras.Model) -> int:
    return sum(int(np.prod(variable.shape)) for variable in model.trainable_variables)


def norm(name: str, channels: int) -> dict[str, tuple[int, ...]]:
    parts = ("weight", "bias", "running_mean", "running_var")
    return {**{f"{name}.{part}": (channels,) for part in parts}, f"{name}.num_batches_tracked": ()}


def torch_shapes(
    depths: tuple[int, ...], width: int, channels: int, groups: int, stem: int, stem_px: int, classes: int | None
) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a state dict of torchvision's `ResNet`, written from its module tree."""
    shapes: dict[str, tuple[int, ...]] = {"conv1.weight": (stem, 3, stem_px, stem_px), **norm("bn1", stem)}
    before = stem
    for stage, depth in enumerate(depths):
        inner, after = width * 2**stage, channels * 2**stage
        for block in range(depth):
            name = f"layer{stage + 1}.{block}"
            shapes |= {f"{name}.conv1.weight": (inner, before, 1, 1), **norm(f"{name}.bn1", inner)}
            shapes |= {f"{name}.conv2.weight": (inner, inner // groups, 3, 3), **norm(f"{name}.bn2", inner)}
            shapes |= {f"{name}.conv3.weight": (after, inner, 1, 1), **norm(f"{name}.bn3", after)}
            if block == 0:
                shapes |= {f"{name}.downsample.0.weight": (after, before, 1, 1), **norm(f"{name}.downsample.1", after)}
            before = after
    if classes is not None:
        shapes |= {"fc.weight": (classes, before), "fc.bias": (classes,)}
    return shapes


def made_up(shapes: dict[str, tuple[int, ...]], seed: int = 0) -> dict[str, np.ndarray]:
    """A state dict with every number drawn; variances are positive."""
    rng = np.random.default_rng(seed)
    state = {}
    for name, shape in shapes.items():
        if name.endswith("num_batches_tracked"):
            state[name] = np.array(7)
        elif name.endswith("running_var"):
            state[name] = rng.uniform(0.3, 2.0, shape).astype("float32")
        else:
            scale = 1.0 if len(shape) == 1 else np.sqrt(2 / np.prod(shape[1:]))
            state[name] = (rng.normal(size=shape) * scale).astype("float32")
    return state


def small_state(name: str, classes: int | None = 5) -> dict[str, np.ndarray]:
    groups, width = (8, 32) if name == "resnext_standin" else (1, 16)
    return made_up(torch_shapes((1, 1, 1), width, 64, groups, 16, 5, classes))


def convolve(x: np.ndarray, weight: np.ndarray, stride: int = 1, padding: int = 0, groups: int = 1) -> np.ndarray:
    """`torch.nn.functional.conv2d` by loops over groups and kernel: x (B, C, H, W), weight (O, C / groups, k, k)."""
    x = np.pad(x, [(0, 0), (0, 0), (padding, padding), (padding, padding)])
    filters, per_group, size, _ = weight.shape
    height, width = ((x.shape[axis] - size) // stride + 1 for axis in (2, 3))
    result = np.zeros((len(x), filters, height, width))
    each = filters // groups
    for group in range(groups):
        part, kernels = x[:, group * per_group :][:, :per_group], weight[group * each :][:each]
        for i in range(size):
            for j in range(size):
                seen = part[:, :, i : i + stride * height : stride, j : j + stride * width : stride]
                result[:, group * each : (group + 1) * each] += np.einsum("bchw,oc->bohw", seen, kernels[:, :, i, j])
    return result


def torch_forward(state: dict[str, np.ndarray], x: np.ndarray, groups: int, blocks: tuple[int, ...]) -> np.ndarray:
    """The network at inference, (B, 3, H, W) -> (B, C, h, w), as PyTorch computes it from the state dict."""

    def bn(x: np.ndarray, name: str) -> np.ndarray:
        weight, bias, mean, var = (
            state[f"{name}.{part}"][:, None, None] for part in ("weight", "bias", "running_mean", "running_var")
        )
        return (x - mean) / np.sqrt(var + 1e-5) * weight + bias

    def relu(x: np.ndarray) -> np.ndarray:
        return np.maximum(x, 0)

    stem = state["conv1.weight"]
    x = relu(bn(convolve(x, stem, 2, stem.shape[2] // 2), "bn1"))
    x = np.pad(x, [(0, 0), (0, 0), (1, 1), (1, 1)], constant_values=-np.inf)
    half = (x.shape[2] - 3) // 2 + 1
    x = np.max([x[:, :, i : i + 2 * half : 2, j : j + 2 * half : 2] for i in range(3) for j in range(3)], axis=0)
    for stage, depth in enumerate(blocks, start=1):
        for number in range(depth):
            name = f"layer{stage}.{number}"
            stride = 2 if stage > 1 and number == 0 else 1
            y = relu(bn(convolve(x, state[f"{name}.conv1.weight"]), f"{name}.bn1"))
            y = relu(bn(convolve(y, state[f"{name}.conv2.weight"], stride, 1, groups), f"{name}.bn2"))
            y = bn(convolve(y, state[f"{name}.conv3.weight"]), f"{name}.bn3")
            if f"{name}.downsample.0.weight" in state:
                x = bn(convolve(x, state[f"{name}.downsample.0.weight"], stride), f"{name}.downsample.1")
            x = relu(x + y)
    return x


@pytest.mark.parametrize(
    ("name", "published"), [("torchvision_resnext50", 25_028_904), ("torchvision_resnet50", 25_557_032)]
)
def test_published_parameters_and_shapes(name: str, published: int) -> None:
    model = build_classifier(name, 224, 1000)
    assert trained(model) == published
    maps = [model.get_layer(layer).output.shape[1:] for layer in ("conv1", "maxpool")]
    maps += [model.get_layer(f"layer{k}_{n}_relu3").output.shape[1:] for k, n in ((1, 2), (2, 3), (3, 5), (4, 2))]
    assert maps == [
        (112, 112, 64),
        (56, 56, 64),
        (56, 56, 256),
        (28, 28, 512),
        (14, 14, 1024),
        (7, 7, 2048),
    ]
    width, groups = (128, 32) if name == "torchvision_resnext50" else (64, 1)
    assert model.get_layer("layer1_0_conv2").kernel.shape == (3, 3, width // groups, width)
    # Every tensor of torchvision's state dict has its place, by name and shape.
    shapes = torch_shapes((3, 4, 6, 3), width, 256, groups, 64, 7, 1000)
    state = {key: np.zeros(shape, "int64" if key.endswith("tracked") else "float32") for key, shape in shapes.items()}
    tensors, not_used = assign_state_dict(model, state, "zeros")
    assert (tensors, not_used) == (267, ())
    assert all(not np.any(weight) for weight in model.get_weights())


@pytest.mark.parametrize("name", sorted(SMALL))
@pytest.mark.parametrize("px", [32, 45])
def test_state_dict_gives_torch_outputs(name: str, px: int) -> None:
    state = small_state(name)
    model = build_features(name, px)
    tensors, not_used = assign_state_dict(model, state, "made up", ("fc.",))
    assert tensors == len(model.weights) == 65
    assert set(not_used) == {"fc.weight", "fc.bias"}
    x = np.random.default_rng(1).normal(size=(2, px, px, 3)).astype("float32")
    expected = torch_forward(state, x.transpose(0, 3, 1, 2), NETWORKS[name].groups, SMALL[name])
    result = np.asarray(model(x, training=False)).transpose(0, 3, 1, 2)
    assert result.shape == expected.shape
    assert expected.std() > 0.1
    np.testing.assert_allclose(result, expected, rtol=1e-3, atol=1e-3 * expected.std())


def test_top_of_a_state_dict() -> None:
    state = small_state("resnet_standin")
    model = build_classifier("resnet_standin", 32, 5)
    tensors, not_used = assign_state_dict(model, state, "made up")
    assert (tensors, not_used) == (67, ())
    x = np.random.default_rng(1).normal(size=(2, 32, 32, 3)).astype("float32")
    features = torch_forward(state, x.transpose(0, 3, 1, 2), 1, (1, 1, 1)).mean(axis=(2, 3))
    expected = features @ state["fc.weight"].T + state["fc.bias"]
    np.testing.assert_allclose(model(x), expected, rtol=1e-3, atol=1e-3)


def test_a_wrong_state_dict_changes_nothing_and_names_all_faults() -> None:
    state = small_state("resnext_standin", classes=None)
    model = build_features("resnext_standin", 32)
    before = model.get_weights()
    del state["bn1.running_var"]
    state["layer1.0.conv2.weight"] = state["layer1.0.conv2.weight"][:, :2]
    state["layer1.1.conv1.weight"] = np.zeros((32, 64, 1, 1), "float32")
    state["layer2.0.bn1.bias"][3] = np.nan
    state["layer3.0.bn1.bias"] = state["layer3.0.bn1.bias"].astype("int32")
    with pytest.raises(InputError) as error:
        assign_state_dict(model, state, "weights.npz", ("fc.",))
    message = str(error.value)
    assert message.startswith("weights.npz: these are not weights of resnext_standin")
    for part in (
        "bn1.running_var: is missing",
        "layer1.0.conv2.weight: (32, 2, 3, 3)",
        "layer1.1.conv1.weight: the network has no such weight",
        "layer2.0.bn1.bias: holds values that are not finite",
        "layer3.0.bn1.bias: is int32",
    ):
        assert part in message
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_zoome_takes_the_state_dict_from_a_file(tmp_path: Path) -> None:
    state = small_state("resnext_standin")
    path = tmp_path / "resnext.npz"
    np.savez(path, **state)
    model, report = build_zoome("resnext_standin", 48, weights=path, seed=1)
    assert (report.kind, report.tensors_loaded, report.weights) == ("state dict", 65, str(path))
    assert set(report.not_used) == {"fc.weight", "fc.bias"}
    kernel = np.asarray(model.get_layer("layer2_0_conv2").kernel)
    np.testing.assert_array_equal(kernel, state["layer2.0.conv2.weight"].transpose(2, 3, 1, 0))
    np.testing.assert_array_equal(model.get_layer("bn1").moving_variance, state["bn1.running_var"])
    # Zoom-SE and metadata embedding are as without a file.
    fresh, _ = build_zoome("resnext_standin", 48, seed=1)
    for name in ("layer1_0_zoom_se", "metadata_embedding", "probability_logits"):
        for ours, theirs in zip(model.get_layer(name).get_weights(), fresh.get_layer(name).get_weights(), strict=True):
            np.testing.assert_array_equal(ours, theirs)


def test_zoome_takes_our_own_file(tmp_path: Path) -> None:
    plain = build_features("resnext_standin", 64)
    path = tmp_path / "resnext.weights.h5"
    plain.save_weights(path)
    model, report = build_zoome("resnext_standin", 48, weights=path)
    assert (report.kind, report.tensors_loaded, report.not_used) == ("weights.h5", 65, ())
    for layer in plain.layers:
        for ours, theirs in zip(layer.get_weights(), model.get_layer(layer.name).get_weights(), strict=True):
            np.testing.assert_array_equal(ours, theirs)
    with pytest.raises(InputError, match="resnet_standin"):
        build_zoome("resnet_standin", 48, weights=path)


def test_unreadable_files(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        read_state_dict(tmp_path / "missing.npz")
    (tmp_path / "text.npz").write_text("not an archive")
    with pytest.raises(InputError, match=r"text\.npz: is not an \.npz"):
        read_state_dict(tmp_path / "text.npz")
    np.savez(tmp_path / "objects.npz", bad=np.array([{"a": 1}], dtype=object))
    with pytest.raises(InputError, match="plain arrays"):
        read_state_dict(tmp_path / "objects.npz")
    np.save(tmp_path / "one.npy", np.zeros(3))
    (tmp_path / "one.npy").rename(tmp_path / "one.npz")
    with pytest.raises(InputError, match="plain arrays"):
        read_state_dict(tmp_path / "one.npz")
    (tmp_path / "weights.bin").write_text("x")
    with pytest.raises(InputError, match=r"read from \.npz"):
        read_state_dict(tmp_path / "weights.bin")
    path = tmp_path / "turned.npz"
    np.savez(path, weight=np.ones((2, 3), np.float32))
    whole, damaged = path.read_bytes(), 0
    for at in range(len(whole)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << at % 8]) + whole[at + 1 :])
        try:
            read_state_dict(path)
        except InputError as error:
            damaged += "turned.npz: is not an .npz" in str(error)
    assert damaged > len(whole) // 2


def test_pth_needs_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "resnext50.pth"
    path.write_bytes(b"PK")
    monkeypatch.setitem(sys.modules, "torch", None)  # as where it is not installed
    with pytest.raises(InputError, match=r"needs PyTorch.*\.npz"):
        read_state_dict(path)


def test_pth_with_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Tensor:
        def detach(self) -> "Tensor":
            return self

        def numpy(self) -> np.ndarray:
            return np.ones(2)

    seen = {}

    def load(path: Path, **options: object) -> object:
        seen.update(options)
        if path.name == "broken.pth":
            raise RuntimeError("invalid header")
        return {"w": Tensor()} if path.name == "good.pth" else {"state_dict": {}}

    monkeypatch.setitem(sys.modules, "torch", types.SimpleNamespace(load=load))
    for name in ("good", "broken", "nested"):
        (tmp_path / f"{name}.pth").write_bytes(b"PK")
    np.testing.assert_array_equal(read_state_dict(tmp_path / "good.pth")["w"], np.ones(2))
    assert seen == {"map_location": "cpu", "weights_only": True}
    with pytest.raises(InputError, match="invalid header"):
        read_state_dict(tmp_path / "broken.pth")
    with pytest.raises(InputError, match="state dict of tensors"):
        read_state_dict(tmp_path / "nested.pth")
