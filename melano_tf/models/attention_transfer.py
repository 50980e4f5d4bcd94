"""Attention transfer from a frozen metric teacher to a classifying student, and the two networks.

The similarity paper follows Zagoruyko and Komodakis (2017): the attention map of a layer is the mean over channels of
the squared activation, L2-normalised over the map; a layer's loss is the mean squared difference of teacher's and
student's maps. The student's loss is its cross-entropy plus these, times 1e3 (less on maps smaller than 7x7, see
`map_weight`); the layers are the ends of ResNet's four stages. The paper's equation of knowledge distillation (Hinton
et al. 2015) is an option for a teacher with classes.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
from keras import backend, ops

from melano_tf.errors import InputError
from melano_tf.models.backbone_graphs import BackboneReport, build_backbone
from melano_tf.models.classifier_head import classify, logits_of
from melano_tf.seeding import seeded

STAGES = (1, 2, 3, 4)
SMALLEST_AREA = 49  # of a map for which the weight of 1e3 is meant: 7x7, the last of ResNet at 224 px
COMBINATIONS = ((1,), (2,), (3,), (4,), (1, 2), (2, 3), (3, 4), (2, 3, 4), (1, 2, 3, 4))  # Tables 6 to 11
# Ends of the stages: the last block of conv2 to conv5 of keras.applications' ResNets, of layer1 to layer4 of
# torchvision's; and the stand-ins'.
RESNET_BLOCK = re.compile(r"conv([2-5])_block(\d+)_out")
TORCHVISION_BLOCK = re.compile(r"layer([1-4])_(\d+)_relu3")
STANDIN_STAGES = (
    ("block1_conv", "block2_out", "block3_out", "block4_out"),
    ("block1_conv", "block2_pool", "block3_pool", "block4_pool"),
)
TINY = 1e-12  # a squared norm below this is taken for a map of zeros
PROBABILITIES = "probabilities"


@keras.saving.register_keras_serializable("melano_tf")
class AttentionMap(keras.layers.Layer):
    """Where a layer looks: the mean over channels of the square, of unit L2 norm over the map.

    Input (B, H, W, C) float; output (B, H, W) in the layer's compute dtype, zeros for a map of zeros. Computed in at
    least float32, because squares leave half precision's range.
    """

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        if len(input_shape) != 4:
            raise ValueError(f"expected (B, H, W, C), got {tuple(input_shape)}")
        self.built = True

    def call(self, inputs: Any) -> Any:
        return ops.cast(attention_map(inputs), self.compute_dtype)

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        return tuple(input_shape[:3])


def attention_map(features: Any) -> Any:
    """(B, H, W, C) -> (B, H, W) of unit L2 norm, float32 (float64 stays); zeros, and no gradient, for zeros."""
    x = _at_least_float32(features)
    energy = ops.mean(ops.square(x), axis=-1)
    squares = ops.sum(ops.square(energy), axis=(1, 2), keepdims=True)
    fine = squares > TINY
    return ops.where(fine, energy * ops.rsqrt(ops.where(fine, squares, ops.ones_like(squares))), ops.zeros_like(energy))


def attention_difference(first: Any, second: Any) -> Any:
    """Mean squared difference of two attention maps (B, H, W), one number a sample, (B,)."""
    return ops.mean(ops.square(_at_least_float32(first) - _at_least_float32(second)), axis=(1, 2))


def map_weight(weight: float, height: int, width: int) -> float:
    """Weight of a layer's `attention_difference`: weight * min(1, A / 49) for a map of A = height * width places.

    Maps have unit L2 norm, so the sum of squared differences lies in 0..2 whatever the map's size, and their mean is
    that over A: weight * mean = (weight / A) * sum. 1e3 is the reference implementation's, for maps of 7x7 (ResNet's
    last at 224 px) and larger, on which it counts the sum at most 1e3 / 49 = 20.4 times. On 4x4 the same 1e3 would
    count it 62.5 times, more than on any map that it is meant for; times 16 / 49 it counts it 20.4 times, as on 7x7.
    """
    return weight * min(1.0, height * width / SMALLEST_AREA)


def distillation(student: Any, teacher: Any, temperature: float = 4.0) -> Any:
    """T^2 KL(teacher || student) of distributions softened by a temperature (the paper's knowledge distillation).

    Args:
        student, teacher: z, (B, C) float logits; softened they are softmax(z / T). No gradient goes to the teacher.
        temperature: T >= 1; 1 leaves the distributions as they are.

    Returns:
        (B,) in nats, float32 (float64 of float64).
    """
    log_student = _softened(student, temperature)
    log_teacher = ops.stop_gradient(_softened(teacher, temperature))
    return temperature**2 * ops.sum(ops.exp(log_teacher) * (log_teacher - log_student), axis=-1)


def _softened(logits: Any, temperature: float) -> Any:
    return ops.log_softmax(_at_least_float32(logits) / temperature, axis=-1)


def _at_least_float32(values: Any) -> Any:
    x = ops.convert_to_tensor(values)
    return x if backend.standardize_dtype(x.dtype) == "float64" else ops.cast(x, "float32")


def build_classifier(
    backbone: str,
    input_px: int,
    classes: int,
    weights: str | Path = "none",
    dropout: float = 0.0,
    seed: int | None = None,
) -> tuple[keras.Model, BackboneReport]:
    """The paper's baseline and student: backbone, global average pooling, softmax.

    Args:
        backbone, input_px, weights: as `build_backbone`; the paper's is a ResNet.
        classes: C.
        dropout: rate before the last layer (the paper: none).
        seed: of the initial weights.

    Returns:
        (flat model {"image": (B, px, px, 3) RGB 0..255} -> (B, C) probabilities, report). Layers by name: the
        backbone's, "features" (B, h, w, F), "pooled" (B, F), "probabilities_logits", "probabilities".
    """
    if classes < 2:
        raise InputError(f"{classes} classes: at least 2 are needed")
    image, features, report = build_backbone(backbone, input_px, weights, seed=seed, input_name="image")
    # Another seed than the backbone's: layers of equal shape would else start alike.
    with seeded(None if seed is None else seed + 1):
        x = keras.layers.GlobalAveragePooling2D(name="pooled")(features)
        if dropout:
            x = keras.layers.Dropout(dropout, name="dropout")(x)
        x = classify(x, classes, "softmax", PROBABILITIES)
    return keras.Model({"image": image}, x, name=f"{backbone}_classifier"), report


def build_embedding(
    backbone: str, input_px: int, dimension: int = 128, weights: str | Path = "none", seed: int | None = None
) -> tuple[keras.Model, BackboneReport]:
    """The metric teacher: backbone, global average pooling, a linear layer, rows of unit length.

    Args:
        backbone, input_px, weights, seed: as `build_classifier`.
        dimension: D.

    Returns:
        (flat model {"image": (B, px, px, 3) RGB 0..255} -> (B, D) of unit L2 norm, report). Layers by name: the
        backbone's, "features", "pooled" (B, F), "projection" (B, D), "embedding".
    """
    if dimension < 2:
        raise InputError(f"embedding of {dimension} numbers: at least 2 are needed")
    image, features, report = build_backbone(backbone, input_px, weights, seed=seed, input_name="image")
    with seeded(None if seed is None else seed + 1):
        x = keras.layers.GlobalAveragePooling2D(name="pooled")(features)
        x = keras.layers.Dense(dimension, name="projection")(x)
        x = keras.layers.UnitNormalization(dtype="float32", name="embedding")(x)
    return keras.Model({"image": image}, x, name=f"{backbone}_embedding"), report


def pooled(model: keras.Model) -> keras.Model:
    """A model's last map, pooled: {"image"} -> (B, F); it shares the model's variables."""
    return keras.Model(model.inputs, model.get_layer("pooled").output, name=f"{model.name}_pooled")


def stage_layers(model: keras.Model) -> tuple[str, str, str, str]:
    """Names of the layers at the ends of a network's four stages.

    Raises:
        InputError: the network has none that are known here.
    """
    names = {layer.name for layer in model.layers}
    for block, first in ((RESNET_BLOCK, 2), (TORCHVISION_BLOCK, 1)):
        ends: dict[int, tuple[int, str]] = {}
        for found in filter(None, map(block.fullmatch, names)):
            stage = int(found[1]) - first + 1
            ends[stage] = max(ends.get(stage, (-1, "")), (int(found[2]), found[0]))
        if set(ends) == set(STAGES):
            one, two, three, four = (ends[stage][1] for stage in STAGES)
            return one, two, three, four
    for stages in STANDIN_STAGES:
        if names.issuperset(stages):
            return stages
    raise InputError(
        f"{model.name}: its four stages are not known; attention is transferred between ResNets (resnet50, resnet101, "
        "resnet152, V2 of each, torchvision_resnet50) or between stand-ins (standin, standin_residual)"
    )


def tapped(model: keras.Model, layers: tuple[int, ...] = STAGES) -> keras.Model:
    """A model that also gives the attention maps of its stages; it shares the model's variables.

    Args:
        model: a classifier or an embedding from this module, built or loaded.
        layers: stages, 1 to 4.

    Returns:
        {"image"} -> {"output": the model's own, "stage1": (B, H, W), ...}.

    Raises:
        InputError: a stage that is not 1 to 4, or a network whose stages are not known.
    """
    _check_layers(layers)
    outputs = {"output": model.outputs[0]}
    names = stage_layers(model) if layers else ()
    for stage in layers:
        maps = AttentionMap(dtype="float32", name=f"attention_{stage}")(model.get_layer(names[stage - 1]).output)
        outputs[f"stage{stage}"] = maps
    return keras.Model({"image": model.inputs[0]}, outputs, name=f"{model.name}_tapped")


@dataclass(frozen=True)
class TransferSettings:
    """What the student learns from the teacher.

    Raises:
        InputError: a stage that is not 1 to 4, or a value outside its range.
    """

    layers: tuple[int, ...] = STAGES
    """Stages whose attention is transferred (Tables 6 to 11: nine combinations); none is the baseline."""
    weight: float = 1e3
    """Of the sum of the layers' losses (not in the paper; the reference implementation's beta); less on maps smaller
    than 7x7, see `map_weight`."""
    distillation: float = 0.0
    """Weight of the distillation of a teacher's class probabilities; 0: none (the metric teacher has no classes)."""
    temperature: float = 4.0
    """T of the distillation (the equation's; no value in the paper)."""

    def __post_init__(self) -> None:
        _check_layers(self.layers)
        if self.weight < 0 or self.distillation < 0 or self.temperature < 1:
            raise InputError(
                f"transfer: weight {self.weight:g} and distillation {self.distillation:g} must be at least 0, "
                f"temperature {self.temperature:g} at least 1"
            )


@dataclass(frozen=True)
class Transfer:
    """A student in training with its teacher.

    Attributes:
        model: what is trained: its variables are the student's, and no others; outputs as `tapped`, "output" being
            the student's logits.
        loss_fn: (batch, outputs) -> the loss's terms by name, each (B,), for a GradientStep over `model`:
            "cross_entropy_loss", and what is taken from the teacher, times its weight: "transfer_loss",
            "distillation_loss".
    """

    model: keras.Model
    loss_fn: Callable[[Mapping[str, Any], Any], dict[str, Any]]


def transfer(student: keras.Model, teacher: keras.Model | None, settings: TransferSettings) -> Transfer:
    """Student and frozen teacher, as one training: L = cross-entropy + weight * sum over layers of the maps' loss.

    The teacher runs in inference mode inside the loss, on the very images that the student sees; it is no part of the
    trained model, so that neither a checkpoint nor a saved student holds it, and nothing of it changes. To save the
    student, save `student` itself: it shares the trained variables.

    Args:
        student: from `build_classifier`.
        teacher: from `build_embedding`, or a classifier; None where nothing is taken from it.
        settings: which layers, and weights; a layer's is `map_weight` of its map.

    Raises:
        InputError: a teacher is missing; its size or its maps' sizes are not the student's; it has no classes to
            distil; a network's stages are not known.
    """
    wanted = bool(settings.layers and settings.weight) or settings.distillation > 0
    if wanted and teacher is None:
        raise InputError("transfer: there is no teacher to take attention from; choose layers () for the baseline")
    model = tapped(student, settings.layers)
    taught = None
    if teacher is not None and wanted:
        taught = tapped(teacher, settings.layers)
        _check_pair(model, taught, settings)
        taught = logits_of(taught) if settings.distillation else taught
    stages = {
        f"stage{stage}": map_weight(settings.weight, *model.output[f"stage{stage}"].shape[1:])
        for stage in settings.layers
    }

    def loss_fn(batch: Mapping[str, Any], outputs: Any) -> dict[str, Any]:
        terms = {"cross_entropy_loss": _cross_entropy(batch["y"], outputs["output"])}
        if taught is None:
            return terms
        told = {name: ops.stop_gradient(value) for name, value in taught(batch["x"], training=False).items()}
        if stages:
            terms["transfer_loss"] = sum(
                weight * attention_difference(outputs[stage], told[stage]) for stage, weight in stages.items()
            )
        if settings.distillation:
            softened = distillation(outputs["output"], told["output"], settings.temperature)
            terms["distillation_loss"] = settings.distillation * softened
        return terms

    return Transfer(logits_of(model), loss_fn)


def _cross_entropy(labels: Any, logits: Any) -> Any:
    """Cross-entropy of each sample (B,), as `training.losses.categorical_crossentropy` of class indices."""
    log_p = ops.log_softmax(_at_least_float32(logits), axis=-1)
    return -ops.take_along_axis(log_p, ops.cast(labels, "int32")[:, None], axis=1)[:, 0]


def _check_layers(layers: tuple[int, ...]) -> None:
    if unknown := [stage for stage in layers if stage not in STAGES]:
        raise InputError(f"transfer: there are stages 1 to 4, not {', '.join(map(str, unknown))}")
    if len(set(layers)) != len(layers):
        raise InputError(f"transfer: a stage stands twice in {', '.join(map(str, layers))}")


def _check_pair(student: keras.Model, teacher: keras.Model, settings: TransferSettings) -> None:
    mine, theirs = (tuple(model.inputs[0].shape[1:3]) for model in (student, teacher))
    if mine != theirs:
        raise InputError(
            f"transfer: the teacher takes images of {theirs[1]}x{theirs[0]} px and the student of {mine[1]}x{mine[0]}; "
            "train both at one size"
        )
    faults = []
    for stage in settings.layers:
        mine, theirs = (tuple(model.output[f"stage{stage}"].shape[1:]) for model in (student, teacher))
        if mine != theirs:
            faults.append(f"stage {stage}: teacher {theirs[1]}x{theirs[0]}, student {mine[1]}x{mine[0]}")
    if faults:
        raise InputError.of("transfer: the maps of teacher and student differ in size; choose one backbone:", faults)
    if settings.distillation:
        classes, outputs = student.output["output"].shape[-1], teacher.output["output"].shape[-1]
        names = {layer.name for layer in teacher.layers}
        if PROBABILITIES not in names or classes != outputs:
            raise InputError(
                f"transfer: distillation needs a teacher with the student's {classes} classes, and this one "
                f"({teacher.name}) has {outputs if PROBABILITIES in names else 'none'}; set distillation to 0"
            )
