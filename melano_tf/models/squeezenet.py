"""SqueezeNet 1.1 (Iandola et al. 2016, their smaller second version) without its classes.

keras.applications has none. A published file of its ImageNet weights for Keras fits it, in the order of its layers:
"squeezenet_weights_tf_dim_ordering_tf_kernels_notop.h5" (MIT licence), which expects BGR minus ImageNet's mean.
"""

from typing import Any

import keras

# Channels of each fire module: squeezed, and of each of its two expanding convolutions. A pooling lies before these.
FIRES = {2: (16, 64), 3: (16, 64), 4: (32, 128), 5: (32, 128), 6: (48, 192), 7: (48, 192), 8: (64, 256), 9: (64, 256)}
POOLED_AFTER = (3, 5)
LEAST_PX = 31  # of smaller ones the last pooling leaves nothing


def squeezenet(x: Any) -> Any:
    """Convolution, and eight fire modules: (B, H, W, 3) -> (B, about H/16, about W/16, 512). Nothing is padded by the
    first convolution and the poolings (3x3, stride 2); there is no batch normalisation."""
    x = keras.layers.Conv2D(64, 3, strides=2, activation="relu", kernel_initializer="he_normal", name="conv1")(x)
    x = keras.layers.MaxPooling2D(3, strides=2, name="pool1")(x)
    for fire, (squeezed, expanded) in FIRES.items():
        x = _convolution(squeezed, 1, f"fire{fire}_squeeze1x1")(x)
        ways = [_convolution(expanded, size, f"fire{fire}_expand{size}x{size}")(x) for size in (1, 3)]
        x = keras.layers.Concatenate(name=f"fire{fire}_concat")(ways)
        if fire in POOLED_AFTER:
            x = keras.layers.MaxPooling2D(3, strides=2, name=f"pool{fire}")(x)
    return x


def _convolution(width: int, size: int, name: str) -> keras.layers.Layer:
    return keras.layers.Conv2D(
        width, size, padding="same", activation="relu", kernel_initializer="he_normal", name=name
    )
