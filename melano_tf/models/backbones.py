"""Feature extractors by name, as flat graphs: no network is a layer of another.

"Flat" is what lets a class activation map, a frozen block or a target model reach every layer by its name.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import keras

from melano_tf.errors import InputError
from melano_tf.models.applications import Network, imagenet_file, networks
from melano_tf.models.layers import Preprocess
from melano_tf.models.pretrained import load_weights
from melano_tf.models.resnext import NETWORKS, residual_features
from melano_tf.models.standin import MAX_PX, MIN_PX, standin, standin_residual
from melano_tf.models.torch_weights import assign_state_dict, read_state_dict
from melano_tf.seeding import seeded

Freeze = Literal["none", "first_block"]
STANDINS: dict[str, Callable[[Any], Any]] = {"standin": standin, "standin_residual": standin_residual}
# As torchvision builds them, for its files of weights. The stride of a block is in its 3x3 convolution, where
# keras.applications' ResNets of the same name have it in the first 1x1.
TORCHVISION = {"torchvision_resnet50": NETWORKS["resnet50"]}
# Layers of the first convolutional block, by the start of their names (spitzoid, section 5.2: VGG16's first block is
# frozen, nothing of ResNet's). Of a backbone that is not listed, nothing is frozen.
FIRST_BLOCK = {"vgg16": "block1_", "vgg19": "block1_", "standin": "block1_"}


@dataclass(frozen=True)
class BackboneReport:
    """What was built.

    Attributes:
        backbone: its name.
        weights: "none", "imagenet" or the path, as asked.
        file: the file that the weights came from.
        tensors_loaded: how many tensors came from it; 0 or all of the backbone's.
        parameters: number of the backbone's weights (scalars).
        frozen: names of the layers with weights that are not trained.
    """

    backbone: str
    weights: str
    file: Path | None
    tensors_loaded: int
    parameters: int
    frozen: tuple[str, ...]


def backbone_names() -> tuple[str, ...]:
    """All names that `build_backbone` knows."""
    return (*STANDINS, *TORCHVISION, *networks())


def build_backbone(
    name: str,
    input_px: int,
    weights: str | Path = "none",
    freeze: Freeze = "none",
    seed: int | None = None,
    input_name: str = "tiles",
) -> tuple[keras.KerasTensor, keras.KerasTensor, BackboneReport]:
    """The convolutional part of a network, from tiles to the last feature map F (spitzoid, section 4.1 A).

    Args:
        name: a network of keras.applications in lower case ("vgg16", "resnet50", "inceptionv3", ...), torchvision's
            ResNet50 ("torchvision_resnet50"), or "standin" or "standin_residual" (see `melano_tf.models.standin`).
        input_px: side of the tiles in pixels.
        weights: "none", "imagenet", or a file of this network's weights without top (legacy `.h5` or `.weights.h5`; of
            torchvision's, `.weights.h5` or its state dict, `.npz` or, where PyTorch is installed, `.pth`).
        freeze: "first_block": VGG's block 1 (and the stand-in's) is not trained; other networks have nothing frozen.
        seed: of the initial weights; None: from Python's random state (keras.utils.set_random_seed).
        input_name: of the input, as a dict of inputs calls it.

    Returns:
        (input (N, input_px, input_px, 3) float32, RGB 0..255, uint8 is cast; output (N, h, w, C) of the layer
        "features"; report).

    Raises:
        InputError: unknown name, size that the network does not take, weights that cannot be had or do not fit.
    """
    weights = str(weights)
    if freeze not in ("none", "first_block"):
        raise InputError(f"freeze {freeze!r}: choose none or first_block")
    known = networks()
    with seeded(seed):
        if name in STANDINS:
            model = _build_standin(name, input_px, input_name)
        elif name in TORCHVISION:
            tiles = _tiles(input_px, input_name)
            x = residual_features(Preprocess("torch", name="preprocess")(tiles), TORCHVISION[name])
            model = keras.Model(tiles, x, name=name)
        elif name in known:
            model = _build_network(known[name], input_px, input_name)
        else:
            raise InputError(f"backbone {name!r}: unknown; there are {', '.join(backbone_names())}")
    file, tensors = _load(model, name, weights)
    with seeded(seed):
        model = _flat(model)
    frozen = freeze_first_block(model, name) if freeze == "first_block" else ()
    # A layer that does nothing gives the last map the same name in every network.
    features = keras.layers.Activation("linear", name="features")(model.outputs[0])
    report = BackboneReport(name, weights, file, tensors, model.count_params(), frozen)
    return model.inputs[0], features, report


def freeze_first_block(model: keras.Model, backbone: str) -> tuple[str, ...]:
    """Freeze the backbone's first convolutional block; returns the names of the frozen layers that have weights."""
    start = FIRST_BLOCK.get(backbone)
    frozen = []
    for layer in model.layers:
        if start is not None and layer.name.startswith(start):
            layer.trainable = False
            if layer.weights:
                frozen.append(layer.name)
    return tuple(frozen)


def _tiles(input_px: int, name: str) -> keras.KerasTensor:
    return keras.Input((input_px, input_px, 3), dtype="float32", name=name)


def _build_standin(name: str, input_px: int, input_name: str) -> keras.Model:
    if not MIN_PX <= input_px <= MAX_PX:
        raise InputError(f"{name}: takes tiles of {MIN_PX} to {MAX_PX} px, not {input_px}; it is for demonstrations")
    tiles = _tiles(input_px, input_name)
    return keras.Model(tiles, STANDINS[name](Preprocess("tf", name="preprocess")(tiles)), name=name)


def _build_network(network: Network, input_px: int, input_name: str) -> keras.Model:
    tiles = _tiles(input_px, input_name)
    x = Preprocess(network.mode, name="preprocess")(tiles)
    try:
        # The input tensor makes the network's layers a part of our graph; calling it would nest it as one layer.
        model = getattr(keras.applications, network.name)(include_top=False, weights=None, input_tensor=x)
    except ValueError as error:
        raise InputError(f"{network.name} at {input_px} px: {error}") from error
    return model


def _flat(model: keras.Model) -> keras.Model:
    """The same network with the layers of inner Sequential models (ConvNeXt's stem and downsampling) as its own."""
    if not any(isinstance(layer, keras.Sequential) for layer in model.layers):
        return model

    def call(layer: Any, *args: Any, **kwargs: Any) -> Any:
        if not isinstance(layer, keras.Sequential):
            return layer(*args, **kwargs)
        (x,) = args
        for inner in layer.layers:
            x = type(inner).from_config(inner.get_config())(x)
        return x

    flat = keras.models.clone_model(model, call_function=call)
    flat.set_weights(model.get_weights())
    return flat


def weights_file(name: str, weights: str) -> Path | None:
    """The file of a network's initial weights, fetched if it has to be: to know before hours of other work.

    Args:
        name, weights: as for `build_backbone`.

    Raises:
        InputError: there is no such file, and it cannot be fetched; or the network is unknown.
    """
    known = networks()
    if name not in backbone_names():
        raise InputError(f"backbone {name!r}: unknown; there are {', '.join(backbone_names())}")
    if weights == "none":
        return None
    if weights == "imagenet":
        if name in STANDINS:
            raise InputError(f"{name}: has no ImageNet weights; choose weights none or a file's path")
        if name in TORCHVISION:
            raise InputError(f"{name}: its ImageNet weights are not fetched; give torchvision's state dict as a file")
        return imagenet_file(known[name])
    file = Path(weights).expanduser()
    if not file.is_file():
        raise InputError(f"{file}: no such weights file")
    return file


def _load(model: keras.Model, name: str, weights: str) -> tuple[Path | None, int]:
    file = weights_file(name, weights)
    if file is None:
        return None, 0
    if name in TORCHVISION and file.suffix != ".h5":
        return file, assign_state_dict(model, read_state_dict(file), str(file), ("fc.",))[0]
    return file, load_weights(model, file)
