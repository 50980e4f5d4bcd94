"""SeaNet, the squeeze-and-excitation attention network, and the source model (spitzoid, section 4.1)."""

from pathlib import Path
from typing import Any, Literal

import keras

from melano_tf.errors import InputError
from melano_tf.models.backbone_graphs import Freeze, build_backbone
from melano_tf.models.classifier_head import classify
from melano_tf.models.layers import SqueezeExcite
from melano_tf.seeding import seeded

Head = Literal["gap", "gmp", "mlp"]
REDUCTIONS = (64, 16, 8)
RATIO = 4
MLP_UNITS = 128


def refine(features: keras.KerasTensor) -> keras.KerasTensor:
    """Feature refinement: A = F * up(gate(F)), one attention value a position, learned per channel (section 4.1 A 2).

    1x1 convolutions to 64, 16 and 8 channels (ReLU), squeeze-and-excitation with r = 4 after each; a 1x1 convolution to
    one channel with sigmoid, "the last reduction layer"; a linear 1x1 convolution back to C channels, without bias,
    initialised to ones and trained, so that at the start each channel is weighted alike. The paper prints the
    operations, not the widths and the initialisation: those are our reading.

    Args:
        features: F, (N, h, w, C).

    Returns:
        A, (N, h, w, C), the output of the layer "refined". Flat layers: "seanet_reduce1..3", "seanet_excite1..3",
        "seanet_gate" (N, h, w, 1), "seanet_expand".
    """
    x = features
    for number, filters in enumerate(REDUCTIONS, start=1):
        x = keras.layers.Conv2D(
            filters, 1, activation="relu", kernel_initializer="he_normal", name=f"seanet_reduce{number}"
        )(x)
        x = SqueezeExcite(RATIO, name=f"seanet_excite{number}")(x)
    x = keras.layers.Conv2D(1, 1, activation="sigmoid", name="seanet_gate")(x)
    x = keras.layers.Conv2D(features.shape[-1], 1, use_bias=False, kernel_initializer="ones", name="seanet_expand")(x)
    return keras.layers.Multiply(name="refined")([features, x])


def project(refined: keras.KerasTensor, head: Head) -> keras.KerasTensor:
    """Projection head G_h: (N, h, w, C) -> the output of the layer "embedding" (section 4.1 B, Table 3).

    "gap" and "gmp": global average or maximum, (N, C). "mlp": flattened, then 128 units with ReLU, (N, 128).

    Raises:
        InputError: unknown head.
    """
    if head == "gap":
        return keras.layers.GlobalAveragePooling2D(name="embedding")(refined)
    if head == "gmp":
        return keras.layers.GlobalMaxPooling2D(name="embedding")(refined)
    if head == "mlp":
        flat = keras.layers.Flatten(name="flat")(refined)
        return keras.layers.Dense(MLP_UNITS, activation="relu", name="embedding")(flat)
    raise InputError(f"head {head!r}: choose gap, gmp or mlp")


def build_source(
    backbone: str,
    input_px: int,
    seanet: bool,
    head: Head,
    weights: str | Path = "none",
    freeze: Freeze = "none",
    dropout: float = 0.0,
    seed: int | None = None,
    classes: int = 2,
) -> keras.Model:
    """The source model: is a tile tumour? Backbone, refinement, projection head, softmax (section 4.1, Figure 3).

    Args:
        backbone, input_px, weights, freeze: as `build_backbone`.
        seanet: with the refinement; without it "refined" is "features".
        head: as `project`.
        dropout: share of the embedding dropped before the softmax (none in the paper); the target model has none.
        seed: of initial weights and dropout; None: from Python's random state.
        classes: of the softmax.

    Returns:
        Flat functional model: (N, input_px, input_px, 3) float32 or uint8, RGB 0..255 -> (N, classes) probabilities in
        the order (non-tumour, tumour). Layers by name: "tiles", "preprocess", the backbone's, "features" (N, h, w, C),
        "refined" (N, h, w, C), "embedding" (N, C) (mlp: (N, 128)), "region_logits", "region" (N, classes).

    Raises:
        InputError: as `build_backbone`; unknown head; dropout outside [0, 1).
    """
    if not 0.0 <= dropout < 1.0:
        raise InputError(f"dropout {dropout}: expected at least 0 and less than 1")
    with seeded(seed):
        tiles, features, report = build_backbone(backbone, input_px, weights, freeze)
        refined = refine(features) if seanet else _identity(features)
        x: Any = project(refined, head)
        if dropout:
            x = keras.layers.Dropout(dropout, name="dropout")(x)
        region = classify(x, classes, "softmax", "region")
    name = f"source_{'seanet_' if seanet else ''}{report.backbone}_{head}"
    return keras.Model(tiles, region, name=name)


def _identity(features: keras.KerasTensor) -> keras.KerasTensor:
    return keras.layers.Activation("linear", name="refined")(features)
