"""Backbones: shapes, numbers of parameters counted by hand, flat graphs, freezing, seeds."""

import random
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers

from melano_tf.errors import InputError
from melano_tf.models import backbone_graphs
from melano_tf.models.backbone_graphs import build_backbone, build_features
from melano_tf.models.backbone_registry import BACKBONES, KERAS, OWN, TORCHVISION, check_backbone, weights_file
from melano_tf.models.keras_imagenet_files import networks
from tests.models.layer_checks import nested_models

VGG16_WIDTHS = [64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512]


def model_of(name: str, px: int, **settings) -> keras.Model:
    tiles, features, _ = build_backbone(name, px, **settings)
    return keras.Model(tiles, features)


def test_vgg16_has_its_parameters() -> None:
    by_hand = sum(9 * a * b + b for a, b in zip([3, *VGG16_WIDTHS], VGG16_WIDTHS, strict=False))
    tiles, features, report = build_backbone("vgg16", 224, freeze="first_block")
    assert by_hand == 14_714_688 == report.parameters
    assert tuple(tiles.shape) == (None, 224, 224, 3)
    assert tuple(features.shape) == (None, 7, 7, 512)
    model = keras.Model(tiles, features)
    assert nested_models(model) == []
    assert report.frozen == ("block1_conv1", "block1_conv2")
    frozen = sum(int(np.prod(weight.shape)) for weight in model.non_trainable_weights)
    assert frozen == (27 * 64 + 64) + (9 * 64 * 64 + 64) == 38_720
    assert report.weights == "none" and report.tensors_loaded == 0 and report.file is None


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("standin", sum([75 * 16 + 16, 9 * 16 * 32 + 32, 9 * 32 * 64 + 64, 9 * 64 * 96 + 96])),
        (
            "standin_residual",
            75 * 16
            + 16
            + sum(
                a * b + b + 9 * a * (b // 2) + b // 2 + 9 * (b // 2) * b + b for a, b in ((16, 32), (32, 64), (64, 96))
            ),
        ),
    ],
)
def test_standins(name: str, parameters: int) -> None:
    tiles, features, report = build_backbone(name, 96, seed=0)
    assert report.parameters == parameters
    assert tuple(features.shape) == (None, 6, 6, 96)
    model = keras.Model(tiles, features)
    assert nested_models(model) == []
    assert not any(isinstance(layer, layers.BatchNormalization) for layer in model.layers)
    for px in (15, 97, 224):
        with pytest.raises(InputError, match=f"not {px}"):
            build_backbone(name, px)


def test_freezing_the_first_block() -> None:
    model = model_of("standin", 32, freeze="first_block")
    assert [layer.name for layer in model.layers if layer.weights and not layer.trainable] == ["block1_conv"]
    for name in ("standin_residual", "mobilenet"):  # as ResNet: nothing
        _, _, report = build_backbone(name, 32, freeze="first_block")
        assert report.frozen == ()
    assert len(model_of("standin", 32, freeze="none").non_trainable_weights) == 0
    with pytest.raises(InputError, match="first_block"):
        build_backbone("standin", 32, freeze="second_block")


def test_uint8_and_float_tiles_are_the_same() -> None:
    tiles = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3)).astype("uint8")
    model = model_of("standin", 32, seed=0)
    np.testing.assert_array_equal(model(tiles), model(tiles.astype("float32")))


def test_weights_follow_from_the_seed_alone() -> None:
    def weights(name: str, seed: int | None) -> np.ndarray:
        return np.concatenate([w.ravel() for w in model_of(name, 32, seed=seed).get_weights()])

    for name in ("standin", "mobilenet"):
        random.seed(5)
        before = random.getstate()
        first = weights(name, 1)
        assert random.getstate() == before
        random.seed(6)
        np.testing.assert_array_equal(weights(name, 1), first)
        assert np.any(weights(name, 2) != first)
    keras.utils.set_random_seed(3)
    unseeded = weights("standin", None)
    keras.utils.set_random_seed(3)
    np.testing.assert_array_equal(weights("standin", None), unseeded)


def test_every_network_of_keras_applications_is_known() -> None:
    there = {name.lower() for name in dir(keras.applications) if name[0].isupper()}
    assert set(networks()) == there
    assert {name for name, entry in BACKBONES.items() if entry.owner == KERAS} == there


def test_a_name_says_whose_network_it_is() -> None:
    owners = {name: entry.owner for name, entry in BACKBONES.items()}
    assert owners["resnet50"] == KERAS and owners["torchvision_resnet50"] == TORCHVISION
    assert all(name.startswith("torchvision_") == (owner == TORCHVISION) for name, owner in owners.items())
    own = {name for name, owner in owners.items() if owner == OWN}
    assert own == {"zoome_kaur", "squeezenet"} | {name for name in BACKBONES if "standin" in name}
    # The stride of a block is in its 3x3 convolution with torchvision, in the first 1x1 with Keras.
    ours, keras_own = model_of("torchvision_resnet50", 32), model_of("resnet50", 32)
    assert ours.get_layer("layer2_0_conv2").strides == (2, 2) == keras_own.get_layer("conv3_block1_1_conv").strides


@pytest.mark.parametrize("name", [name for name, entry in BACKBONES.items() if entry.owner != KERAS])
def test_what_the_registry_says_of_a_network_is_so(name: str) -> None:
    entry = BACKBONES[name]
    px = entry.least_px
    tiles, features, report = build_backbone(name, px, seed=0)
    model = keras.Model(tiles, features)
    assert model.get_layer("preprocess").mode == entry.mode
    grouped = [layer for layer in model.layers if getattr(layer, "groups", 1) > 1]
    assert bool(grouped) == entry.grouped
    assert entry.blocks == any(layer.name == "layer1_0_relu3" for layer in model.layers)
    assert (report.parameters < build_features(name, px).count_params()) == (entry.head is not None)
    with pytest.raises(InputError, match=f"not {px - 1}"):
        check_backbone(name, input_px=px - 1)
    with pytest.raises(InputError, match="ImageNet weights"):
        check_backbone(name, "imagenet", px)


@pytest.mark.parametrize("name", ["inceptionv3", "inceptionresnetv2", "xception", "vgg16", "convnexttiny"])
def test_the_smallest_images_are_those_that_keras_takes(name: str) -> None:
    entry = BACKBONES[name]
    network = getattr(keras.applications, entry.imagenet.name)
    with pytest.raises(ValueError, match=f"at least {entry.least_px}x{entry.least_px}"):
        network(include_top=False, weights=None, input_shape=(entry.least_px - 1, entry.least_px - 1, 3))


def test_weights_that_a_network_does_not_take_are_known_before_it_is_built(tmp_path: Path) -> None:
    (tmp_path / "w.npz").write_bytes(b"any")
    for arguments, match in (
        (("resnet50", str(tmp_path / "w.npz")), "torchvision has no resnet50"),
        (("torchvision_resnet50", "imagenet"), "torchvision's state dict as a file"),
        (("zoome_kaur", "imagenet"), "has no ImageNet weights"),
        (("vgg16", str(tmp_path / "gone.h5")), "no such weights file"),
        (("vgg16", "~nobody-is-called-so/gone.h5"), "~nobody-is-called-so/gone.h5: no such weights file"),
        (("alexnet", "none"), "did you mean torchvision_alexnet"),
    ):
        with pytest.raises(InputError, match=match) as error:
            weights_file(*arguments)
        assert "\n" not in str(error.value)
    assert weights_file("torchvision_resnet50", str(tmp_path / "w.npz")) == tmp_path / "w.npz"


def test_alexnets_map_comes_from_a_file_with_its_dense_layers(tmp_path: Path) -> None:
    whole = build_features("alexnet_standin", 48)
    whole.save_weights(tmp_path / "alexnet.weights.h5")
    tiles, features, report = build_backbone("alexnet_standin", 48, weights=tmp_path / "alexnet.weights.h5", seed=3)
    model = keras.Model(tiles, features)
    assert report.tensors_loaded == len(whole.weights) == 14 and len(model.weights) == 10
    for layer in (each for each in model.layers if each.weights):
        for one, other in zip(layer.get_weights(), whole.get_layer(layer.name).get_weights(), strict=True):
            np.testing.assert_array_equal(one, other)


def test_convnext_is_made_flat_without_a_change(monkeypatch: pytest.MonkeyPatch) -> None:
    nested = []
    flat = backbone_graphs._flat
    monkeypatch.setattr(backbone_graphs, "_flat", lambda model: nested.append(model) or flat(model))
    model = model_of("convnexttiny", 32, seed=0)
    assert nested_models(nested[0]) != [] and nested_models(model) == []
    tiles = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3)).astype("uint8")
    np.testing.assert_allclose(model(tiles), nested[0](tiles), rtol=1e-5, atol=1e-6)


def test_what_a_user_gets_wrong() -> None:
    with pytest.raises(InputError, match=r"vgg17.*vgg16"):
        build_backbone("vgg17", 224)
    with pytest.raises(InputError, match="inceptionv3: takes images of 75 or more px, not 32"):
        build_backbone("inceptionv3", 32)
