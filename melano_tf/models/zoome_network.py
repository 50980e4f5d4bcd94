"""ZooME: zoom-in attention after every residual block, and metadata that weigh the last feature map (section III).

The same builder makes the networks of both tables: ablations by `zoom_se` and `metadata`, comparators by `backbone`.
Importing this module registers every layer that these models are made of, so that `keras.saving.load_model` reads them.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import keras
from keras import ops

from melano_tf.errors import InputError
from melano_tf.models.adaptive_pooling import adaptive_pool
from melano_tf.models.backbone_graphs import Kind, build_backbone, load_by_names
from melano_tf.models.backbone_registry import BACKBONES, Backbone, check_backbone, weights_file
from melano_tf.models.classifier_head import classify
from melano_tf.models.layers import Preprocess
from melano_tf.seeding import seeded

Gate = Literal["printed", "se"]


@keras.saving.register_keras_serializable("melano_tf")
class ZoomSqueezeExcite(keras.layers.Layer):
    """Zoom-SE (section III-A): channels weighted by the mean of their strongest places.

    z = adaptive maximum of u in zoom x zoom bins (PyTorch's); s = mean of z (equation 1); q = relu(W2 relu(W1 s))
    (equation 2), W1 to C / r; x = sigmoid(q) u (equation 3, whose "s_c" we take for q_c). No biases, as printed.

    Equation 2's outer ReLU before the sigmoid keeps the weights in [0.5, 1).

    Input and output (B, H, W, C) float; H and W must be known.

    Args:
        ratio: r (not given in the paper; 16). The bottleneck has at least one unit.
        zoom: bins along each side (paper: 4).
        gate: "printed": equation 2 literally; "se": q = W2 relu(W1 s), the usual squeeze-and-excitation, in (0, 1).
    """

    def __init__(self, ratio: int = 16, zoom: int = 4, gate: Gate = "printed", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if ratio < 1 or zoom < 1:
            raise ValueError(f"ratio {ratio}, zoom {zoom}: expected at least 1")
        if gate not in get_args(Gate):
            raise ValueError(f"gate {gate!r}: expected one of {', '.join(get_args(Gate))}")
        self.ratio, self.zoom, self.gate = ratio, zoom, gate

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        channels = input_shape[-1]
        if channels is None or None in input_shape[1:3]:
            raise ValueError("height, width and the number of channels must be known")
        hidden = max(1, channels // self.ratio)
        self.w1 = self.add_weight(name="w1", shape=(channels, hidden), initializer="he_uniform")
        self.w2 = self.add_weight(name="w2", shape=(hidden, channels), initializer="glorot_uniform")
        self.built = True

    def call(self, inputs: Any) -> Any:
        squeezed = ops.mean(adaptive_pool(inputs, self.zoom, "max"), axis=(1, 2))
        q = ops.matmul(ops.relu(ops.matmul(squeezed, self.w1)), self.w2)
        weights = ops.sigmoid(ops.relu(q) if self.gate == "printed" else q)
        return inputs * weights[:, None, None, :]

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        return input_shape

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "ratio": self.ratio, "zoom": self.zoom, "gate": self.gate}


@keras.saving.register_keras_serializable("melano_tf")
class MetadataEmbedding(keras.layers.Layer):
    """Metadata embedding (section III-B): o = t x (equation 4), t = sigmoid(W2 relu(W1 m + b1) + b2), one a channel.

    Inputs [x (B, H, W, N), m (B, M)]; output (B, H, W, N).

    Args:
        units: of the hidden layer (not given in the paper; 64).
    """

    def __init__(self, units: int = 64, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if units < 1:
            raise ValueError(f"units {units}: expected at least 1")
        self.units = units

    def build(self, input_shape: list[tuple[int | None, ...]]) -> None:
        (*_, channels), (_, fields) = input_shape
        self.w1 = self.add_weight(name="w1", shape=(fields, self.units), initializer="he_uniform")
        self.b1 = self.add_weight(name="b1", shape=(self.units,), initializer="zeros")
        self.w2 = self.add_weight(name="w2", shape=(self.units, channels), initializer="glorot_uniform")
        self.b2 = self.add_weight(name="b2", shape=(channels,), initializer="zeros")
        self.built = True

    def weigh(self, metadata: Any) -> Any:
        """t, (B, N): what the metadata (B, M) give each channel, in (0, 1)."""
        hidden = ops.relu(ops.matmul(metadata, self.w1) + self.b1)
        return ops.sigmoid(ops.matmul(hidden, self.w2) + self.b2)

    def call(self, inputs: Any) -> Any:
        features, metadata = inputs
        return features * self.weigh(metadata)[:, None, None, :]

    def compute_output_shape(self, input_shape: list[tuple[int | None, ...]]) -> tuple[int | None, ...]:
        return tuple(input_shape[0])

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "units": self.units}


@dataclass(frozen=True)
class ZoomeReport:
    """What was built.

    Attributes:
        backbone: its name.
        weights: "none" or the path, as asked.
        kind: "none", "weights.h5" (ours) or "state dict" (torchvision's).
        tensors_loaded: how many tensors of the backbone came from the file; 0 or all.
        not_used: names in the file without a place in the model: torchvision's last layer.
        parameters: number of trained weights (scalars) of the whole model.
    """

    backbone: str
    weights: str
    kind: Kind
    tensors_loaded: int
    not_used: tuple[str, ...]
    parameters: int


def build_zoome(
    backbone: str = "torchvision_resnext50",
    input_px: int = 224,
    metadata_width: int = 12,
    zoom_se: bool = True,
    metadata: bool = True,
    ratio: int = 16,
    zoom: int = 4,
    gate: Gate = "printed",
    units: int = 64,
    weights: str | Path = "none",
    seed: int | None = None,
    portable: bool = False,
) -> tuple[keras.Model, ZoomeReport]:
    """ZooME, its ablations, and the networks that it is compared with (section III-C, Tables I and II).

    Args:
        backbone: a name of `melano_tf.models.backbone_registry`. The paper's: "torchvision_resnext50" (32x4d),
            "torchvision_resnet50", "torchvision_alexnet", "zoome_kaur" (a stand-in for a network that the paper does
            not describe); small ones of the same blocks for demonstrations: "resnext_standin", "resnet_standin",
            "alexnet_standin", "kaur_standin".
        input_px: side of the images in pixels.
        metadata_width: numbers in a patient's metadata (`MetadataCode.width`).
        zoom_se: Zoom-SE at the end of every residual block. Only residual networks have any.
        metadata: with metadata embedding.
        ratio, zoom, gate: as `ZoomSqueezeExcite`.
        units: as `MetadataEmbedding`.
        weights: as `build_backbone`; a state dict with or without its last layer.
        seed: of initial weights and dropout; None: from Python's random state.
        portable: as `GroupedConv2D`.

    Returns:
        (flat functional model -> (B, 1) probability of melanoma; report). Inputs: "image" (B, px, px, 3) RGB 0..255,
        float32, uint8 is cast, and, with metadata, "metadata" (B, metadata_width) float32; as a list in this order, or
        a dict by these names, in which "metadata" may stay for a model without it. Layers by name: "preprocess", the
        backbone's, "<block>_zoom_se", "features" (B, h, w, N), "metadata_embedding" (B, h, w, N), "embedding" (B, N;
        AlexNet: its last hidden layer, (B, 4096)), "probability_logits", "probability".

    Raises:
        InputError: unknown backbone, size or combination that it does not take, weights that do not fit.
    """
    entry = check_network(backbone, str(weights), input_px, zoom_se)
    _check(gate, min(ratio, zoom, units, metadata_width))
    after_block = _zoom_after_block(ratio, zoom, gate) if zoom_se else None
    with seeded(seed):
        image, x = _features(entry, input_px, after_block, portable)
        inputs = [image]
        if metadata:
            inputs.append(keras.Input((metadata_width,), dtype="float32", name="metadata"))
            x = MetadataEmbedding(units, name="metadata_embedding")([x, inputs[1]])
        if entry.head is not None:
            x = keras.layers.Activation("linear", name="embedding")(entry.head(x))
        else:
            x = keras.layers.GlobalAveragePooling2D(name="embedding")(x)
        probability = classify(x, 1, "sigmoid", "probability")
    name = backbone + ("_zoom_se" if zoom_se else "") + ("_metadata" if metadata else "")
    model = keras.Model(inputs, probability, name=name)
    file = weights_file(backbone, str(weights))
    kind, tensors, not_used = ("none", 0, ()) if file is None else load_by_names(entry, model, input_px, file)
    parameters = sum(int(variable.value.shape.num_elements()) for variable in model.trainable_variables)
    return model, ZoomeReport(backbone, str(weights), kind, tensors, not_used, parameters)


def check_network(backbone: str, weights: str = "none", input_px: int | None = None, zoom_se: bool = True) -> Backbone:
    """The backbone, if this paper's network can be made of it: known before anything is drawn or read.

    Args:
        backbone, weights, input_px: as `backbone_registry.check_backbone`.
        zoom_se: with Zoom-SE, which stands after residual blocks.

    Raises:
        InputError: as `backbone_registry.check_backbone`; or Zoom-SE has no blocks to stand after.
    """
    entry = check_backbone(backbone, weights, input_px)
    if zoom_se and not entry.blocks:
        blocks = ", ".join(name for name, other in BACKBONES.items() if other.blocks)
        raise InputError(
            f"{backbone}: has no residual blocks to put Zoom-SE after (zoom_se=False needs none); "
            f"those with are {blocks}"
        )
    return entry


def _features(entry: Backbone, input_px: int, after_block: Any, portable: bool) -> tuple[Any, Any]:
    """Images, and the last map of them, the layer "features"."""
    if not entry.blocks:
        return build_backbone(entry.name, input_px, input_name="image")[:2]
    image = keras.Input((input_px, input_px, 3), dtype="float32", name="image")
    x = Preprocess(entry.mode, name="preprocess")(image)
    x = entry.layers(x, after_block=after_block, portable=portable)
    return image, keras.layers.Activation("linear", name="features")(x)


def _zoom_after_block(ratio: int, zoom: int, gate: Gate) -> Any:
    def put(x: Any, block: str) -> Any:
        return ZoomSqueezeExcite(ratio, zoom, gate, name=f"{block}_zoom_se")(x)

    return put


def _check(gate: str, smallest: int) -> None:
    if gate not in get_args(Gate):
        raise InputError(f"gate {gate!r}: choose {' or '.join(get_args(Gate))}")
    if smallest < 1:
        raise InputError(f"ratio, zoom, units and metadata_width must be at least 1, not {smallest}")
