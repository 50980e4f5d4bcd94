"""The one registry of backbones: whose network a name means, what it takes, and which files of weights fit it.

A name without an owner is keras.applications' ("resnet50", "vgg16"); torchvision's begin with "torchvision_", networks
of this project's own with the paper that they stand in for ("zoome_kaur") or hold the word "standin"; "squeezenet"
is SqueezeNet 1.1, which neither has in this form.
"""

import difflib
import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import keras

from melano_tf.errors import InputError
from melano_tf.home_folders import written_path
from melano_tf.models import alexnet_and_plain_cnn, resnet_and_resnext, squeezenet, standin_networks
from melano_tf.models.keras_imagenet_files import Network, imagenet_file, imagenet_place, networks
from melano_tf.models.layers import PreprocessMode

KERAS, TORCHVISION, OWN = "keras.applications", "torchvision", "this project"
SMALL_PX = 96  # stand-ins are for demonstrations
STATE_DICTS = (".npz", ".pth", ".pt")  # files of PyTorch's


@dataclass(frozen=True)
class Backbone:
    """One network without its classes.

    Attributes:
        name: as settings call it.
        owner: whose it is.
        mode: the preprocessing that its weights expect.
        layers: preprocessed images (B, px, px, 3) -> the last map (B, h, w, C), as flat layers; of one with `blocks`
            also (x, after_block, portable), see `resnet_and_resnext.residual_features`.
        least_px, most_px: sides of the images that it takes; None: no upper limit.
        imagenet: the published file of its ImageNet weights; None: none is published, or this project fetches none.
        state_dict: starts of the names that a PyTorch state dict may hold beside its weights (the classes); None: it
            takes no state dict.
        head: dense layers between the last map and the classes that belong to the network and to a file of its weights,
            (B, h, w, C) -> (B, D); None: the mean over places.
        blocks: built of residual blocks, after each of which something can be put.
        grouped: with grouped convolutions, which are slow where TensorFlow has no kernels of its own for them.
        first_block: start of the names of its first block's layers (spitzoid, section 5.2: VGG16's is frozen); "": no
            layer counts as such.
    """

    name: str
    owner: str
    mode: PreprocessMode
    layers: Callable[..., Any]
    least_px: int = 32
    most_px: int | None = None
    imagenet: Network | None = None
    state_dict: tuple[str, ...] | None = None
    head: Callable[[Any], Any] | None = None
    blocks: bool = False
    grouped: bool = False
    first_block: str = ""

    def check_px(self, input_px: int) -> None:
        """Whether it takes images of this size.

        Raises:
            InputError: it does not.
        """
        if input_px < self.least_px or (self.most_px is not None and input_px > self.most_px):
            most = " or more" if self.most_px is None else f" to {self.most_px}"
            why = "" if self.most_px is None else "; it is for demonstrations"
            raise InputError(f"{self.name}: takes images of {self.least_px}{most} px, not {input_px}{why}")


def _keras_layers(x: Any, name: str) -> Any:
    # The input tensor makes the network's layers a part of our graph; calling it would nest it as one layer.
    return getattr(keras.applications, name)(include_top=False, weights=None, input_tensor=x).outputs[0]


def _keras(name: str, network: Network) -> Backbone:
    layers = functools.partial(_keras_layers, name=network.name)
    first = "block1_" if name in ("vgg16", "vgg19") else ""
    return Backbone(name, KERAS, network.mode, layers, network.least_px, imagenet=network, first_block=first)


def _residual(network: resnet_and_resnext.ResidualNetwork) -> Backbone:
    small = network.name.endswith("_standin")
    return Backbone(
        network.name,
        OWN if small else TORCHVISION,
        "torch",
        functools.partial(resnet_and_resnext.residual_features, network=network),
        most_px=SMALL_PX if small else None,
        state_dict=("fc.",),
        blocks=True,
        grouped=network.groups > 1,
    )


def _alexnet(network: alexnet_and_plain_cnn.AlexNet) -> Backbone:
    small = network.name.endswith("_standin")
    return Backbone(
        network.name,
        OWN if small else TORCHVISION,
        "torch",
        functools.partial(alexnet_and_plain_cnn.alexnet_features, network=network),
        least_px=32 if small else 63,  # of smaller ones its pooling leaves nothing
        most_px=SMALL_PX if small else None,
        state_dict=("classifier.6.",),
        head=functools.partial(alexnet_and_plain_cnn.alexnet_classifier, network=network),
    )


def _plain(network: alexnet_and_plain_cnn.PlainNetwork) -> Backbone:
    most = SMALL_PX if network.name.endswith("_standin") else None
    layers = functools.partial(alexnet_and_plain_cnn.plain_features, network=network)
    return Backbone(network.name, OWN, "torch", layers, most_px=most)


def _standin(name: str, layers: Callable[[Any], Any], first_block: str = "") -> Backbone:
    return Backbone(name, OWN, "tf", layers, standin_networks.MIN_PX, standin_networks.MAX_PX, first_block=first_block)


def _all() -> dict[str, Backbone]:
    entries = [
        *(_keras(name, network) for name, network in networks().items()),
        *map(_residual, resnet_and_resnext.NETWORKS.values()),
        *map(_alexnet, alexnet_and_plain_cnn.ALEXNETS.values()),
        *map(_plain, alexnet_and_plain_cnn.PLAIN_NETWORKS.values()),
        Backbone("squeezenet", OWN, "caffe", squeezenet.squeezenet, squeezenet.LEAST_PX),
        _standin("standin", standin_networks.standin, "block1_"),
        _standin("standin_residual", standin_networks.standin_residual),
    ]
    return {entry.name: entry for entry in entries}


BACKBONES: Mapping[str, Backbone] = MappingProxyType(_all())


def backbone(name: str) -> Backbone:
    """The network of this name.

    Raises:
        InputError: there is none.
    """
    if name not in BACKBONES:
        owned = [known for known in BACKBONES if known.endswith(f"_{name}")]  # "resnext50": whose it is is not said
        close = (owned or difflib.get_close_matches(name, BACKBONES, 1))[:1]
        meant = "".join(f"did you mean {one}? " for one in close)
        raise InputError(f"backbone {name!r}: unknown; {meant}there are {', '.join(BACKBONES)}")
    return BACKBONES[name]


def check_backbone(name: str, weights: str = "none", input_px: int | None = None) -> Backbone:
    """The network of this name, if it takes such images and such weights. Nothing is fetched, and no network built.

    Args:
        name: of the network.
        weights: "none", "imagenet" or a file's path.
        input_px: side of its images in pixels; None: not looked at.

    Raises:
        InputError: an unknown name, a size that it does not take, weights that it has not, or a file that is not there
            or of a kind that it does not take.
    """
    entry = backbone(name)
    if input_px is not None:
        entry.check_px(input_px)
    if weights == "imagenet" and entry.imagenet is None:
        if entry.state_dict is not None and entry.owner == TORCHVISION:
            raise InputError(f"{name}: its ImageNet weights are not fetched; give torchvision's state dict as a file")
        raise InputError(f"{name}: has no ImageNet weights; choose weights none or a file's path")
    if weights not in ("none", "imagenet"):
        file = written_path(weights)
        if file.suffix in STATE_DICTS and entry.state_dict is None:
            raise InputError(f"{file}: torchvision has no {name}; it takes .h5 or .weights.h5 files")
        if not file.is_file():
            raise InputError(f"{file}: no such weights file")
    return entry


def weights_at_hand(name: str, weights: str) -> bool:
    """Whether `weights_file` would have to fetch nothing.

    Args:
        name, weights: as for `check_backbone`.

    Raises:
        InputError: as `check_backbone`.
    """
    entry = check_backbone(name, weights)
    return weights != "imagenet" or (entry.imagenet is not None and imagenet_place(entry.imagenet).is_file())


def weights_file(name: str, weights: str) -> Path | None:
    """The file of a network's initial weights, fetched if it has to be: to know before hours of other work.

    Args:
        name, weights: as for `check_backbone`.

    Raises:
        InputError: as `check_backbone`; or the file cannot be fetched.
    """
    entry = check_backbone(name, weights)
    if weights == "none":
        return None
    if weights == "imagenet":
        assert entry.imagenet is not None  # or check_backbone has refused it
        return imagenet_file(entry.imagenet)
    return written_path(weights)
