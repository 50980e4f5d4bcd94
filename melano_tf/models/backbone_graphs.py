"""Feature extractors of the registry as flat graphs: no network is a layer of another.

"Flat" is what lets a class activation map, a frozen block or a target model reach every layer by its name.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import keras

from melano_tf.errors import InputError
from melano_tf.models.backbone_registry import Backbone, check_backbone, weights_file
from melano_tf.models.layers import Preprocess
from melano_tf.models.pretrained_weights import load_weights
from melano_tf.models.torch_weights import assign_state_dict, read_state_dict
from melano_tf.seeding import seeded

Freeze = Literal["none", "first_block"]
Kind = Literal["none", "weights.h5", "state dict"]


@dataclass(frozen=True)
class BackboneReport:
    """What was built.

    Attributes:
        backbone: its name.
        weights: "none", "imagenet" or the path, as asked.
        file: the file that the weights came from.
        tensors_loaded: how many tensors came from it; 0 or all that it holds for the backbone.
        parameters: number of the backbone's weights (scalars).
        frozen: names of the layers with weights that are not trained.
    """

    backbone: str
    weights: str
    file: Path | None
    tensors_loaded: int
    parameters: int
    frozen: tuple[str, ...]


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
        name: of `backbone_registry`: one of keras.applications in lower case ("vgg16", "resnet50", ...), of
            torchvision ("torchvision_resnet50"), or of this project ("standin").
        input_px: side of the tiles in pixels.
        weights: "none", "imagenet", or a file of this network's weights without top (legacy `.h5` or `.weights.h5`; of
            torchvision's, our `.weights.h5` or its state dict, `.npz` or, where PyTorch is installed, `.pth`).
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
    entry = check_backbone(name, weights, input_px)
    with seeded(seed):
        tiles = keras.Input((input_px, input_px, 3), dtype="float32", name=input_name)
        model = keras.Model(tiles, _last_map(entry, tiles, input_px), name=name)
    file = weights_file(name, weights)
    tensors = 0 if file is None else _load(entry, model, input_px, file)
    with seeded(seed):
        model = _flat(model)
    frozen = freeze_first_block(model, entry) if freeze == "first_block" else ()
    # A layer that does nothing gives the last map the same name in every network.
    features = keras.layers.Activation("linear", name="features")(model.outputs[0])
    report = BackboneReport(name, weights, file, tensors, model.count_params(), frozen)
    return model.inputs[0], features, report


def freeze_first_block(model: keras.Model, entry: Backbone) -> tuple[str, ...]:
    """Freeze the backbone's first convolutional block; returns the names of the frozen layers that have weights."""
    frozen = []
    for layer in model.layers:
        if entry.first_block and layer.name.startswith(entry.first_block):
            layer.trainable = False
            if layer.weights:
                frozen.append(layer.name)
    return tuple(frozen)


def build_features(name: str, input_px: int = 224, portable: bool = False) -> keras.Model:
    """A backbone alone, without preprocessing and classes: what a file of its weights holds.

    Its `save_weights("name.weights.h5")` makes a file that this network's `weights` take, at any size. AlexNet's
    includes its hidden dense layers.

    Args:
        name, input_px: as `build_backbone`.
        portable: as `GroupedConv2D`.

    Returns:
        Model: preprocessed images (B, px, px, 3) -> (B, h, w, N), or (B, 4096) for AlexNet.
    """
    entry = check_backbone(name, input_px=input_px)
    images = keras.Input((input_px, input_px, 3), dtype="float32", name="image")
    x = entry.layers(images, **({"portable": portable} if entry.blocks else {}))
    return keras.Model(images, x if entry.head is None else entry.head(x), name=name)


def load_file(entry: Backbone, network: keras.Model, file: Path) -> tuple[Kind, int, tuple[str, ...]]:
    """Load a file of weights into a network that is as the file knows it (`build_features`).

    Returns:
        Which kind of file it is, how many tensors were loaded (all), and the names that were not used: of the classes.

    Raises:
        InputError: not a file of this network's weights.
    """
    if entry.state_dict is not None and file.suffix != ".h5":
        tensors, not_used = assign_state_dict(network, read_state_dict(file), str(file), entry.state_dict)
        return "state dict", tensors, not_used
    return "weights.h5", load_weights(network, file), ()


def load_by_names(entry: Backbone, model: keras.Model, input_px: int, file: Path) -> tuple[Kind, int, tuple[str, ...]]:
    """Load a file of weights into those layers of a larger model that are the backbone's, by their names.

    The file is checked as a whole against the network that it is of, and goes from there into the model.

    Returns:
        As `load_file`.
    """
    with seeded(0):  # its initial weights are all overwritten; the caller's random state is not touched
        alone = build_features(entry.name, input_px)
    found = load_file(entry, alone, file)
    there = {layer.name for layer in model.layers}
    for layer in alone.layers:
        for part in layer.layers if isinstance(layer, keras.Sequential) else [layer]:
            if part.weights and part.name in there:
                values: dict[str, Any] = {}
                part.save_own_variables(values)  # not set_weights: a normalisation also derives numbers from its own
                model.get_layer(part.name).load_own_variables(values)
    return found


def _last_map(entry: Backbone, tiles: keras.KerasTensor, input_px: int) -> Any:
    try:
        return entry.layers(Preprocess(entry.mode, name="preprocess")(tiles))
    except ValueError as error:
        raise InputError(f"{entry.name} at {input_px} px: {error}") from error


def _load(entry: Backbone, model: keras.Model, input_px: int, file: Path) -> int:
    # A file with a head (AlexNet's dense layers) holds more than the last map needs.
    load = load_file(entry, model, file) if entry.head is None else load_by_names(entry, model, input_px, file)
    return load[1]


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
