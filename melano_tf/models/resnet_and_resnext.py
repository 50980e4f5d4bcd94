"""Residual networks of bottleneck blocks as torchvision builds them: ResNeXt50 32x4d, ResNet50, and small stand-ins.

Layers are named as torchvision's modules, with "_" for ".": "layer1_0_conv2" is `layer1.0.conv2`. That, PyTorch's
symmetric padding of strided convolutions (Keras' "same" pads the far side only), its batch normalisation (epsilon 1e-5,
momentum 0.9 in Keras' sense) and the stride in a block's 3x3 convolution make its weights fit as they are.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras

from melano_tf.models.grouped_convolution import GroupedConv2D

AfterBlock = Callable[[Any, str], Any]  # (a block's output, the block's name) -> what the next block takes


@dataclass(frozen=True)
class ResidualNetwork:
    """A network of bottleneck blocks; stage k has `width` and `channels` times 2^k.

    Attributes:
        name: as `models.backbone_registry` knows it.
        depths: blocks of each stage.
        width: channels of the first stage's 3x3 convolutions.
        channels: channels of the first stage's outputs.
        groups: of the 3x3 convolutions.
        stem: channels of the first convolution.
        stem_px: side of its kernel (odd); it halves the image, as does the pooling after it.
    """

    name: str
    depths: tuple[int, ...]
    width: int
    channels: int
    groups: int
    stem: int = 64
    stem_px: int = 7

    @property
    def features(self) -> int:
        """Channels of the last map."""
        return int(self.channels * 2 ** (len(self.depths) - 1))


NETWORKS = {
    network.name: network
    for network in (
        # 32 groups of 4 channels
        ResidualNetwork("torchvision_resnext50", (3, 4, 6, 3), width=128, channels=256, groups=32),
        ResidualNetwork("torchvision_resnet50", (3, 4, 6, 3), width=64, channels=256, groups=1),
        # For demonstrations at up to 96 px, of the same blocks: no networks of any paper.
        ResidualNetwork("resnext_standin", (1, 1, 1), width=32, channels=64, groups=8, stem=16, stem_px=5),
        ResidualNetwork("resnet_standin", (1, 1, 1), width=16, channels=64, groups=1, stem=16, stem_px=5),
    )
}


def residual_features(
    x: Any, network: ResidualNetwork, after_block: AfterBlock | None = None, portable: bool = False
) -> Any:
    """Stem and residual stages as flat layers: (B, H, W, 3) -> (B, H / 2^(1 + stages), W / ..., network.features).

    Args:
        x: preprocessed images.
        network: which.
        after_block: put at the end of every residual block; None: nothing.
        portable: as `GroupedConv2D`.
    """
    x = convolution(network.stem, network.stem_px, "conv1", strides=2)(padded(x, network.stem_px // 2, "conv1_pad"))
    x = keras.layers.ReLU(name="relu")(normalisation("bn1")(x))
    # The maximum of what a ReLU gives: padding with zeros is padding with minus infinity.
    x = keras.layers.MaxPooling2D(3, 2, name="maxpool")(padded(x, 1, "maxpool_pad"))
    for stage, depth in enumerate(network.depths):
        for number in range(depth):
            block = f"layer{stage + 1}_{number}"
            strides = 2 if number == 0 and stage > 0 else 1
            x = _bottleneck(x, network, 2**stage, strides, block, portable)
            if after_block is not None:
                x = after_block(x, block)
    return x


def build_classifier(name: str, input_px: int = 224, classes: int = 1000) -> keras.Model:
    """The whole network with torchvision's top: preprocessed images (B, px, px, 3) -> logits (B, classes) ("fc")."""
    images = keras.Input((input_px, input_px, 3), name="image")
    x = keras.layers.GlobalAveragePooling2D(name="avgpool")(residual_features(images, NETWORKS[name]))
    return keras.Model(images, keras.layers.Dense(classes, name="fc")(x), name=name)


def _bottleneck(x: Any, network: ResidualNetwork, scale: int, strides: int, block: str, portable: bool) -> Any:
    """relu(shortcut + bn3(conv3(relu(bn2(conv2(relu(bn1(conv1(x)))))))), the shortcut projected where shapes differ."""
    width, channels = network.width * scale, network.channels * scale
    shortcut = x
    if strides > 1 or x.shape[-1] != channels:
        shortcut = convolution(channels, 1, f"{block}_downsample_0", strides=strides)(x)
        shortcut = normalisation(f"{block}_downsample_1")(shortcut)
    x = convolution(width, 1, f"{block}_conv1")(x)
    x = keras.layers.ReLU(name=f"{block}_relu1")(normalisation(f"{block}_bn1")(x))
    if strides > 1:
        x = padded(x, 1, f"{block}_pad")
    x = GroupedConv2D(
        width,
        3,
        strides=strides,
        padding="valid" if strides > 1 else "same",
        groups=network.groups,
        use_bias=False,
        kernel_initializer=initial_kernel(),
        portable=portable,
        name=f"{block}_conv2",
    )(x)
    x = keras.layers.ReLU(name=f"{block}_relu2")(normalisation(f"{block}_bn2")(x))
    x = normalisation(f"{block}_bn3")(convolution(channels, 1, f"{block}_conv3")(x))
    return keras.layers.ReLU(name=f"{block}_relu3")(keras.layers.Add(name=f"{block}_add")([shortcut, x]))


def convolution(filters: int, size: int, name: str, strides: int = 1) -> keras.layers.Layer:
    """A convolution without bias and without padding, initialised as torchvision's."""
    return keras.layers.Conv2D(
        filters, size, strides=strides, use_bias=False, kernel_initializer=initial_kernel(), name=name
    )


def normalisation(name: str) -> keras.layers.Layer:
    """Batch normalisation with PyTorch's defaults."""
    return keras.layers.BatchNormalization(momentum=0.9, epsilon=1e-5, name=name)


def padded(x: Any, pixels: int, name: str) -> Any:
    """Zeros on all four sides."""
    return keras.layers.ZeroPadding2D(pixels, name=name)(x)


def initial_kernel() -> keras.initializers.Initializer:
    """He et al. by the outputs, as torchvision's residual networks (`kaiming_normal_`, fan_out)."""
    return keras.initializers.VarianceScaling(2.0, "fan_out", "untruncated_normal")
