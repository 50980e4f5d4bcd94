"""Networks that ZooME is compared with: AlexNet as torchvision builds it, and a plain deep CNN.

Kaur et al. is a reference whose network the ZooME paper does not describe: `plain_features` is a network of the kind,
called a stand-in wherever it is reported. Maron et al. is a plain ResNet50
(`melano_tf.models.resnet_and_resnext`). The small variants are for demonstrations at up to 96 px, of the same blocks.
"""

from dataclasses import dataclass
from typing import Any

import keras

from melano_tf.models.adaptive_pooling import AdaptiveAveragePooling
from melano_tf.models.resnet_and_resnext import normalisation, padded


@dataclass(frozen=True)
class AlexNet:
    """Five convolutions and two hidden dense layers.

    Attributes:
        name: as `models.backbone_registry` knows it.
        filters: of the five convolutions.
        first: (side of the kernel, stride, padding) of the first one.
        pooled: side of the map that the dense layers take.
        units: of each hidden dense layer.
        dropout: before each of them.
    """

    name: str
    filters: tuple[int, int, int, int, int]
    first: tuple[int, int, int]
    pooled: int
    units: int
    dropout: float = 0.5


@dataclass(frozen=True)
class PlainNetwork:
    """Blocks of 3x3 convolutions, batch normalisation and leaky ReLU, each ended by 2x2 maximum pooling.

    Attributes:
        name: as `models.backbone_registry` knows it.
        filters: of each block.
        depth: convolutions of each block.
    """

    name: str
    filters: tuple[int, ...]
    depth: int


ALEXNETS = {
    network.name: network
    for network in (
        AlexNet("torchvision_alexnet", (64, 192, 384, 256, 256), (11, 4, 2), pooled=6, units=4096),
        AlexNet("alexnet_standin", (16, 32, 48, 32, 32), (5, 2, 2), pooled=3, units=64),
    )
}
PLAIN_NETWORKS = {
    network.name: network
    for network in (
        PlainNetwork("zoome_kaur", (32, 64, 128, 256, 512), depth=2),
        PlainNetwork("kaur_standin", (16, 32, 64, 96), depth=1),
    )
}


def alexnet_features(x: Any, network: AlexNet) -> Any:
    """Convolutions of AlexNet, named as torchvision's ("features_0", ...): (B, 224, 224, 3) -> (B, 6, 6, 256).

    The stand-in at 96 px: (B, 5, 5, 32).
    """
    size, strides, pixels = network.first
    pools = {0: 2, 3: 5, 10: 12}  # torchvision's index of a convolution -> of the pooling that follows its ReLU
    kernels = ((0, size), (3, 5), (6, 3), (8, 3), (10, 3))
    for (number, kernel), filters in zip(kernels, network.filters, strict=True):
        name = f"features_{number}"
        if number == 0:
            x = padded(x, pixels, f"{name}_pad")
        x = keras.layers.Conv2D(
            filters,
            kernel,
            strides=strides if number == 0 else 1,
            padding="valid" if number == 0 else "same",
            activation="relu",
            kernel_initializer="he_normal",
            name=name,
        )(x)
        if number in pools:
            x = keras.layers.MaxPooling2D(3, 2, name=f"features_{pools[number]}")(x)
    return x


def alexnet_classifier(x: Any, network: AlexNet) -> Any:
    """AlexNet's hidden dense layers on its last map: (B, h, w, C) -> (B, units), the layer "classifier_4".

    The map is brought to 6x6 by means (at 224 px it is 6x6), and flattened channels first, as PyTorch does.
    """
    x = AdaptiveAveragePooling(network.pooled, name="avgpool")(x)
    x = keras.layers.Flatten(name="flat")(keras.layers.Permute((3, 1, 2), name="channels_first")(x))
    for number in (1, 4):
        x = keras.layers.Dropout(network.dropout, name=f"classifier_{number - 1}")(x)
        x = keras.layers.Dense(
            network.units, activation="relu", kernel_initializer="he_normal", name=f"classifier_{number}"
        )(x)
    return x


def plain_features(x: Any, network: PlainNetwork) -> Any:
    """The plain deep CNN: (B, H, W, 3) -> (B, H / 2^blocks, W / 2^blocks, C)."""
    for block, filters in enumerate(network.filters, start=1):
        for number in range(1, network.depth + 1):
            name = f"block{block}_{number}"
            x = keras.layers.Conv2D(
                filters, 3, padding="same", use_bias=False, kernel_initializer="he_normal", name=f"{name}_conv"
            )(x)
            x = keras.layers.LeakyReLU(0.1, name=f"{name}_relu")(normalisation(f"{name}_bn")(x))
        x = keras.layers.MaxPooling2D(name=f"block{block}_pool")(x)
    return x
