"""The networks of keras.applications and the files of their ImageNet weights without top.

The files are those that Keras fetches for `weights="imagenet", include_top=False`, with the same checksums.
MobileNet and MobileNetV2 have a file for each of several input sizes: these are the ones of 224 px, at any input size.
"""

import hashlib
import http.client
import os
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from melano_tf.errors import InputError, line_of
from melano_tf.models.layers import PreprocessMode
from melano_tf.runs.atomic_files import atomic

HOST = "https://storage.googleapis.com"
TIMEOUT_S = 10.0
LONG = "_weights_tf_dim_ordering_tf_kernels_notop.h5"  # written "*" below


@dataclass(frozen=True)
class Family:
    """Networks whose weights lie in one folder.

    Attributes:
        folder: on HOST.
        mode: the preprocessing that the weights expect.
        networks: name in keras.applications -> (file name in Keras' models folder, MD5 or SHA-256; "" where none is
            published).
        least_px: side of the smallest images that they take.
    """

    folder: str
    mode: PreprocessMode
    networks: dict[str, tuple[str, str]]
    least_px: int = 32


FAMILIES = (
    Family(
        "tensorflow/keras-applications/convnext",
        "none",
        {
            "ConvNeXtBase": (
                "convnext_base_notop.h5",
                "40a20c5548a5e9202f69735ecc06c990e6b7c9d2de39f0361e27baeb24cb7c45",
            ),
            "ConvNeXtLarge": (
                "convnext_large_notop.h5",
                "96f02b6f0753d4f543261bc9d09bed650f24dd6bc02ddde3066135b63d23a1cd",
            ),
            "ConvNeXtSmall": (
                "convnext_small_notop.h5",
                "6fc8009faa2f00c1c1dfce59feea9b0745eb260a7dd11bee65c8e20843da6eab",
            ),
            "ConvNeXtTiny": (
                "convnext_tiny_notop.h5",
                "d547c096cabd03329d7be5562c5e14798aa39ed24b474157cef5e85ab9e49ef1",
            ),
            "ConvNeXtXLarge": (
                "convnext_xlarge_notop.h5",
                "de3f8a54174130e0cecdc71583354753d557fcf1f4487331558e2a16ba0cfe05",
            ),
        },
    ),
    Family(
        "tensorflow/keras-applications/densenet",
        "torch",
        {
            "DenseNet121": ("densenet121*", "30ee3e1110167f948a6b9946edeeb738"),
            "DenseNet169": ("densenet169*", "b8c4d4c20dd625c148057b9ff1c1176b"),
            "DenseNet201": ("densenet201*", "c13680b51ded0fb44dff2d8f86ac8bb1"),
        },
    ),
    Family(
        "keras-applications",
        "efficientnet",
        {
            "EfficientNetB0": ("efficientnetb0_notop.h5", "50bc09e76180e00e4465e1a485ddc09d"),
            "EfficientNetB1": ("efficientnetb1_notop.h5", "74c4e6b3e1f6a1eea24c589628592432"),
            "EfficientNetB2": ("efficientnetb2_notop.h5", "111f8e2ac8aa800a7a99e3239f7bfb39"),
            "EfficientNetB3": ("efficientnetb3_notop.h5", "af6d107764bb5b1abb91932881670226"),
            "EfficientNetB4": ("efficientnetb4_notop.h5", "ebc24e6d6c33eaebbd558eafbeedf1ba"),
            "EfficientNetB5": ("efficientnetb5_notop.h5", "38879255a25d3c92d5e44e04ae6cec6f"),
            "EfficientNetB6": ("efficientnetb6_notop.h5", "9ecce42647a20130c1f39a5d4cb75743"),
            "EfficientNetB7": ("efficientnetb7_notop.h5", "cbcfe4450ddf6f3ad90b1b398090fe4a"),
        },
    ),
    Family(
        "tensorflow/keras-applications/efficientnet_v2",
        "none",
        {
            "EfficientNetV2B0": ("efficientnetv2-b0_notop.h5", "893217f2bb855e2983157299931e43ff"),
            "EfficientNetV2B1": ("efficientnetv2-b1_notop.h5", "0e80663031ca32d657f9caa404b6ec37"),
            "EfficientNetV2B2": ("efficientnetv2-b2_notop.h5", "1dfe2e7a5d45b6632553a8961ea609eb"),
            "EfficientNetV2B3": ("efficientnetv2-b3_notop.h5", "f6abf7b5849ac99a89b50dd3fd532856"),
            "EfficientNetV2L": ("efficientnetv2-l_notop.h5", "b0b66b5c863aef5b46e8608fe1711615"),
            "EfficientNetV2M": ("efficientnetv2-m_notop.h5", "1b8dc055df72dde80d614482840fe342"),
            "EfficientNetV2S": ("efficientnetv2-s_notop.h5", "af0682fb74e8c54910f2d4393339c070"),
        },
    ),
    Family(
        "tensorflow/keras-applications/inception_resnet_v2",
        "tf",
        {
            "InceptionResNetV2": ("inception_resnet_v2*", "d19885ff4a710c122648d3b5c3b684e4"),
        },
        least_px=75,
    ),
    Family(
        "tensorflow/keras-applications/inception_v3",
        "tf",
        {
            "InceptionV3": ("inception_v3*", "bcbd6486424b2319ff4ef7d526e38f63"),
        },
        least_px=75,
    ),
    Family(
        "tensorflow/keras-applications/mobilenet",
        "tf",
        {
            "MobileNet": ("mobilenet_1_0_224_tf_no_top.h5", ""),
        },
    ),
    Family(
        "tensorflow/keras-applications/mobilenet_v2",
        "tf",
        {
            "MobileNetV2": ("mobilenet_v2_weights_tf_dim_ordering_tf_kernels_1.0_224_no_top.h5", ""),
        },
    ),
    Family(
        "tensorflow/keras-applications/mobilenet_v3",
        "none",
        {
            "MobileNetV3Large": (
                "weights_mobilenet_v3_large_224_1.0_float_no_top_v2.h5",
                "07fb09a5933dd0c8eaafa16978110389",
            ),
            "MobileNetV3Small": (
                "weights_mobilenet_v3_small_224_1.0_float_no_top_v2.h5",
                "d3e8ec802a04aa4fc771ee12a9a9b836",
            ),
        },
    ),
    Family(
        "tensorflow/keras-applications/nasnet",
        "tf",
        {
            "NASNetLarge": ("nasnet_large_no_top.h5", "d81d89dc07e6e56530c4e77faddd61b5"),
            "NASNetMobile": ("nasnet_mobile_no_top.h5", "1ed92395b5b598bdda52abe5c0dbfd63"),
        },
    ),
    Family(
        "tensorflow/keras-applications/resnet",
        "caffe",
        {
            "ResNet101": ("resnet101*", "88cf7a10940856eca736dc7b7e228a21"),
            "ResNet152": ("resnet152*", "ee4c566cf9a93f14d82f913c2dc6dd0c"),
            "ResNet50": ("resnet50*", "4d473c1dd8becc155b73f8504c6f6626"),
        },
    ),
    Family(
        "tensorflow/keras-applications/resnet",
        "tf",
        {
            "ResNet101V2": ("resnet101v2*", "c0ed64b8031c3730f411d2eb4eea35b5"),
            "ResNet152V2": ("resnet152v2*", "ed17cf2e0169df9d443503ef94b23b33"),
            "ResNet50V2": ("resnet50v2*", "fac2f116257151a9d068a22e544a4917"),
        },
    ),
    Family(
        "tensorflow/keras-applications/vgg16",
        "caffe",
        {
            "VGG16": ("vgg16*", "6d6bbae143d832006294945121d1f1fc"),
        },
    ),
    Family(
        "tensorflow/keras-applications/vgg19",
        "caffe",
        {
            "VGG19": ("vgg19*", "253f8cb515780f3b799900260a226db6"),
        },
    ),
    Family(
        "tensorflow/keras-applications/xception",
        "tf",
        {
            "Xception": ("xception*", "b0042744bf5b25fce3cb969f33bebb97"),
        },
        least_px=71,
    ),
)

# Published under another name than Keras keeps the file.
PUBLISHED_AS = {
    "nasnet_large_no_top.h5": "NASNet-large-no-top.h5",
    "nasnet_mobile_no_top.h5": "NASNet-mobile-no-top.h5",
}


@dataclass(frozen=True)
class Network:
    """One network of keras.applications: its name there, preprocessing, the file of its ImageNet weights, and the side
    of the smallest images that it takes."""

    name: str
    mode: PreprocessMode
    file: str
    url: str
    checksum: str
    least_px: int


def networks() -> dict[str, Network]:
    """All networks by the name that settings use: the one of keras.applications in lower case."""
    found = {}
    for family in FAMILIES:
        for name, (short, checksum) in family.networks.items():
            file = short.replace("*", LONG)
            url = f"{HOST}/{family.folder}/{PUBLISHED_AS.get(file, file)}"
            found[name.lower()] = Network(name, family.mode, file, url, checksum, family.least_px)
    return found


def imagenet_file(network: Network) -> Path:
    """The local file of a network's ImageNet weights, fetched into Keras' models folder if it is not there yet.

    Raises:
        InputError: the file is not there and cannot be fetched, or its checksum is wrong; the message names the URL and
            the place.
    """
    path = imagenet_place(network)
    if not path.is_file():
        _fetch(network, path)
    if network.checksum and _checksum(path, network.checksum) != network.checksum:
        raise InputError(
            f"{path}: is not the published file of {network.name}'s ImageNet weights (its checksum differs); remove it "
            f"and fetch {network.url} again, or give it by its path if it is a file of your own"
        )
    return path


def imagenet_place(network: Network) -> Path:
    """Where that file lies, or would be fetched to."""
    return keras_home() / "models" / network.file


def keras_home() -> Path:
    """Keras' folder: KERAS_HOME, or .keras in the home folder."""
    return Path(os.environ.get("KERAS_HOME") or Path.home() / ".keras")


def _fetch(network: Network, path: Path) -> None:
    try:
        with urllib.request.urlopen(network.url, timeout=TIMEOUT_S) as answer, atomic(path) as temporary:
            expected = answer.headers.get("Content-Length")
            with temporary.open("wb") as file:
                while piece := answer.read(1 << 20):
                    file.write(piece)
            if expected is not None and temporary.stat().st_size != int(expected):
                raise OSError(f"{temporary.stat().st_size} of {expected} bytes came")
    except (OSError, http.client.HTTPException) as error:
        raise InputError(
            f"imagenet weights of {network.name}: {path} is not there and cannot be fetched ({line_of(error)}); "
            f"fetch {network.url} on a machine with network and put it there, or choose weights none or a file's path"
        ) from error


def _checksum(path: Path, like: str) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "md5" if len(like) == 32 else "sha256").hexdigest()
