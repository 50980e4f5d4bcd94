"""Small stand-in networks for demonstrations: they learn in minutes on two cores what a demonstration has to show.

They are no networks of any paper. At 96 px: four 3x3 convolutions of 16, 32, 64 and 96 channels, each block halving the
image, so that the last map is (6, 6, 96); He initialisation, no batch normalisation (a tile's features depend on that
tile alone). `standin` is plain, as VGG16 is; `standin_residual` has shortcuts, as ResNet50 has.
"""

from typing import Any

import keras

WIDTHS = (16, 32, 64, 96)
MAX_PX = 96
MIN_PX = 16


def standin(x: Any) -> Any:
    """Plain blocks: convolution, ReLU, 2x2 maximum. (B, H, W, 3) -> (B, H/16, W/16, 96)."""
    for block, width in enumerate(WIDTHS, start=1):
        strides = 2 if block == 1 else 1
        x = _convolution(width, f"block{block}_conv", size=5 if block == 1 else 3, strides=strides)(x)
        if block > 1:
            x = keras.layers.MaxPooling2D(name=f"block{block}_pool")(x)
    return x


def standin_residual(x: Any) -> Any:
    """Residual blocks; their last convolution starts at zero, so that each block starts as its shortcut."""
    x = _convolution(WIDTHS[0], "block1_conv", size=5, strides=2)(x)
    for block, width in enumerate(WIDTHS[1:], start=2):
        x = keras.layers.MaxPooling2D(name=f"block{block}_pool")(x)
        shortcut = keras.layers.Conv2D(width, 1, kernel_initializer="he_normal", name=f"block{block}_shortcut")(x)
        x = _convolution(width // 2, f"block{block}_conv1")(x)
        x = keras.layers.Conv2D(width, 3, padding="same", kernel_initializer="zeros", name=f"block{block}_conv2")(x)
        x = keras.layers.Add(name=f"block{block}_add")([shortcut, x])
        x = keras.layers.ReLU(name=f"block{block}_out")(x)
    return x


def _convolution(width: int, name: str, size: int = 3, strides: int = 1) -> keras.layers.Layer:
    return keras.layers.Conv2D(
        width, size, strides=strides, padding="same", activation="relu", kernel_initializer="he_normal", name=name
    )
