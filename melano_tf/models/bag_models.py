"""Bag models on features that are there already: a bag of vectors and its padding in, logits and attention out.

Every model takes {"features": (B, N, C), "mask": (B, N) bool, true where an instance is real} and gives
{"logits", "probability", "attention", ...}: logits of a linear last layer, (B, 1) for two classes and (B, K) for more;
its sigmoid or softmax; and attention (B, N), which sums to one over a bag's real instances. All are float32. No model
depends on the instances' order or on what stands in the padding.
"""

from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from melano_tf.errors import InputError
from melano_tf.models.bag_aggregation import BagAggregation, BagMax
from melano_tf.models.bag_attention_layers import (
    AttendedExtremes,
    BranchLogits,
    ClassToken,
    DropPadding,
    GatedAttention,
    LandmarkAttention,
)
from melano_tf.models.bag_settings import BagModelSettings
from melano_tf.models.biopsy_classifier import make_aggregation
from melano_tf.seeding import seeded

Tensors = dict[str, Any]


def build_bag_model(
    width: int, classes: int, settings: BagModelSettings, dtype: str = "float32", seed: int | None = None
) -> keras.Model:
    """A bag model as a functional graph.

    Args:
        width: C, numbers of a feature vector.
        classes: 2 or more; two are one logit and a sigmoid.
        settings: the model.
        dtype: Keras's precision policy ("float32", "mixed_bfloat16", "mixed_float16"): weights, logits and softmaxes
            stay in float32; features are taken in the policy's compute dtype, so that they can be handed over in it.
        seed: of the initial weights; None: from Python's random state.

    Returns:
        The model of this module's docstring. CLAM's have more outputs, for `training.bag_losses.clam_loss`:
        "instance_logits" (B, K, 2k, 2) and "instance_there" (B, 2k); clam_multi also "branch_attention" (B, K, N), and
        its attention is the branches' mean, weighted by the classes' probabilities.

    Raises:
        InputError: fewer than two classes, or heads that do not divide the width.
    """
    if classes < 2:
        raise InputError(f"{classes} class(es): a bag model needs at least two labels")
    if settings.kind == "transformer" and not settings.hidden and width % settings.heads:
        raise InputError(f"bag model: {settings.heads} heads do not divide features of width {width}")
    with seeded(seed):
        features = keras.Input((None, width), dtype=keras.DTypePolicy(dtype).compute_dtype, name="features")
        mask = keras.Input((None,), dtype="bool", name="mask")
        x = DropPadding(dtype=dtype, name="real")(features, mask=mask)
        for i, units in enumerate(settings.hidden, start=1):
            x = keras.layers.Dense(units, activation="relu", dtype=dtype, name=f"hidden{i}")(x)
            x = keras.layers.Dropout(settings.dropout, dtype=dtype, name=f"dropout{i}")(x)
        outputs = _HEADS.get(settings.kind, _pooled)(x, mask, classes, settings, dtype)
    return keras.Model({"features": features, "mask": mask}, outputs, name=settings.kind)


def _pooled(x: Any, mask: Any, classes: int, s: BagModelSettings, dtype: str) -> Tensors:
    """One aggregation, one linear layer."""
    layer: BagAggregation
    if s.kind == "bgmp" or s.kind == "bgap" or s.kind == "bgas":
        layer = make_aggregation(s.kind, s.attention_units, dtype=dtype)
    else:
        layer = GatedAttention(s.attention_units, dtype=dtype, name="aggregation")
    bag, attention = layer(x, mask=mask)
    return _answer(_linear(bag, classes), attention)


def _instance_max(x: Any, mask: Any, classes: int, s: BagModelSettings, dtype: str) -> Tensors:
    """mi-Net: each instance has logits of its own, the bag the largest of each class."""
    return _answer(*BagMax(dtype="float32", name="aggregation")(_linear(x, classes), mask=mask))


def _clam(x: Any, mask: Any, classes: int, s: BagModelSettings, dtype: str) -> Tensors:
    """One branch of attention for all classes."""
    layer = GatedAttention(s.attention_units, 1, bias=True, dropout=s.dropout, dtype=dtype, name="aggregation")
    bag, attention = layer(x, mask=mask)
    answer = _answer(_linear(bag[:, 0], classes), attention[:, 0])
    return {**answer, **_clusters(x, attention, mask, classes, s)}


def _clam_multi(x: Any, mask: Any, classes: int, s: BagModelSettings, dtype: str) -> Tensors:
    """A branch of attention for each class, and a linear layer on each branch's bag."""
    layer = GatedAttention(s.attention_units, classes, bias=True, dropout=s.dropout, dtype=dtype, name="aggregation")
    bag, attention = layer(x, mask=mask)
    attention = keras.layers.Activation("linear", dtype="float32", name="branch_attention")(attention)
    answer = _answer(BranchLogits(dtype="float32", name="logits")(bag), attention[:, 0])
    probability = answer["probability"]
    shares = ops.concatenate([1.0 - probability, probability], axis=-1) if classes == 2 else probability
    answer["attention"] = ops.matmul(shares[:, None, :], attention)[:, 0]
    return {**answer, "branch_attention": attention, **_clusters(x, attention, mask, classes, s)}


def _clusters(x: Any, attention: Any, mask: Any, classes: int, s: BagModelSettings) -> Tensors:
    """CLAM's instance classifiers, one of two outputs a class, on the instances at the ends of the attention."""
    scores = keras.layers.Dense(2 * classes, dtype="float32", name="instance_scores")(x)
    scores = keras.layers.Reshape((-1, classes, 2), dtype="float32", name="instance_classes")(scores)
    chosen, there = AttendedExtremes(s.extremes, dtype="float32", name="extremes")(scores, attention, mask=mask)
    return {"instance_logits": chosen, "instance_there": there}


def _transformer(x: Any, mask: Any, classes: int, s: BagModelSettings, dtype: str) -> Tensors:
    """Blocks of self-attention through landmarks, a class token, a layer norm, one linear layer."""
    for i in range(1, s.blocks + 1):
        x = LandmarkAttention(s.landmarks, s.heads, dtype=dtype, name=f"block{i}")(x, mask=mask)
    bag, attention = ClassToken(s.heads, dtype=dtype, name="aggregation")(x, mask=mask)
    bag = keras.layers.LayerNormalization(epsilon=1e-5, dtype="float32", name="norm")(bag)
    return _answer(_linear(bag, classes), attention)


_HEADS: dict[str, Callable[..., Tensors]] = {
    "instance_max": _instance_max,
    "clam": _clam,
    "clam_multi": _clam_multi,
    "transformer": _transformer,
}


def _linear(x: Any, classes: int) -> Any:
    return keras.layers.Dense(1 if classes == 2 else classes, dtype="float32", name="logits")(x)


def _answer(logits: Any, attention: Any) -> Tensors:
    activation = "sigmoid" if logits.shape[-1] == 1 else "softmax"
    probability = keras.layers.Activation(activation, dtype="float32", name="probability")(logits)
    attention = keras.layers.Activation("linear", dtype="float32", name="attention")(attention)
    return {"logits": logits, "probability": probability, "attention": attention}
