"""Class activation maps of tiles, for flat Keras models that end in a pooling layer and one dense layer.

Figures 6 and 7 of the spitzoid paper show plain CAMs (Zhou et al. 2016), which need global average pooling right before
the dense layer; a model with maximum pooling or a hidden layer has none: Grad-CAM (Selvaraju et al. 2017) stands in.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import keras
import numpy as np
from keras import ops
from numpy.typing import NDArray

Maps = NDArray[np.float32]
CHUNK = 8  # tiles whose activations are in memory at once; it changes memory, not the maps


@dataclass(frozen=True)
class ActivationMaps:
    """Maps of n tiles.

    Attributes:
        maps: float32 (n, H, W) of the tile's size, 0..1: the positive part over its maximum, bilinearly enlarged.
        raw: float32 (n, h, w) of the feature map's size; of a CAM as weighted (may be negative), of a Grad-CAM the
            positive part.
        empty: bool (n,): nothing in the tile speaks for the class, or `raw` is not finite: its map is zero everywhere.
    """

    maps: Maps
    raw: Maps
    empty: NDArray[np.bool_]


def has_cam(model: keras.Model) -> bool:
    """Whether `class_activation_map` applies: global average pooling, then (but for dropout) the dense layer."""
    return isinstance(_operation_before(_output_layer(model).input), keras.layers.GlobalAveragePooling2D)


def class_activation_map(model: keras.Model, x: NDArray[np.generic], class_index: int) -> ActivationMaps:
    """Plain CAM: the last feature maps, weighted with the dense layer's weights of one class.

    Args:
        model: flat functional classifier: ... -> GlobalAveragePooling2D -> Dense -> its activation, a layer.
        x: tiles as the model takes them, (n, H, W, 3).
        class_index: column of the dense layer.

    Raises:
        ValueError: the model has no CAM (no average pooling before its dense layer).
    """
    dense = _output_layer(model)
    pooling = _operation_before(dense.input)
    if not isinstance(pooling, keras.layers.GlobalAveragePooling2D):
        raise ValueError(
            f"no CAM: {dense.name!r} follows {type(pooling).__name__}, not GlobalAveragePooling2D; use grad_cam"
        )
    extractor = keras.Model(model.input, pooling.input)
    weights = _numpy(dense.kernel)[:, class_index]
    return _finished(_chunked(lambda part: _numpy(extractor(part, training=False)) @ weights, x), _size(x))


def grad_cam(model: keras.Model, x: NDArray[np.generic], class_index: int, layer: str = "refined") -> ActivationMaps:
    """Grad-CAM at a convolutional layer, by tf-keras-vis, of the logit (a saturated softmax has no gradient).

    Args:
        model: flat functional classifier that ends in a linear dense layer and its activation, a layer.
        x: tiles as the model takes them, (n, H, W, 3).
        class_index: output whose evidence is shown.
        layer: name of the layer whose output (n, h, w, C) is weighted.

    Raises:
        ValueError: no such layer, the model does not end so, or its input is of an integer dtype (no gradient passes
            the conversion that Keras makes, and tf-keras-vis starts at the input).
    """
    from tf_keras_vis.gradcam import Gradcam

    return _by_gradient(Gradcam, model, x, class_index, layer)


def grad_cam_plus_plus(
    model: keras.Model, x: NDArray[np.generic], class_index: int, layer: str = "refined"
) -> ActivationMaps:
    """Grad-CAM++ (Chattopadhay et al. 2018), which weights places by how much each adds; else as `grad_cam`.

    Its `raw` is without the factor exp(logit), which overflows and which no map keeps.
    """
    from tf_keras_vis.gradcam_plus_plus import GradcamPlusPlus

    return _by_gradient(GradcamPlusPlus, model, x, class_index, layer)


def gradient_map(model: keras.Model, inputs: Any, class_index: int, layer: str = "features") -> ActivationMaps:
    """Grad-CAM of any functional classifier, whatever its inputs and its end; as `grad_cam` where that applies.

    The score is the logit where the model ends in a dense layer and its activation, else the log-odds of the class: of
    a tree of decisions (`melano_tf.models.hierarchical_classifier`) from their logits, exact where a probability
    rounds to 0 or 1.

    Args:
        model: its first output is (B, classes), or (B, 1) of the positive of two.
        inputs: as the model takes them (a dict of image and metadata, for example), B images.
        class_index: whose evidence is shown.
        layer: name of the layer whose output (B, h, w, C) is weighted.

    Raises:
        ValueError: no such layer.
    """
    import tensorflow as tf

    output, score_of = _scored(model, class_index)
    tap = keras.Model(model.input, [model.get_layer(layer).output, output])
    with tf.GradientTape() as tape:
        features, found = tap(inputs, training=False)
        score = score_of(found)
    weights = tf.reduce_mean(tape.gradient(score, features), axis=(1, 2), keepdims=True)
    raw = _numpy(tf.nn.relu(tf.reduce_sum(weights * features, axis=-1)))
    image = inputs["image"] if isinstance(inputs, Mapping) else inputs
    return _finished(raw, _size(image))


METHODS: Mapping[str, Callable[[keras.Model, NDArray[np.generic], int], ActivationMaps]] = {
    "CAM": class_activation_map,
    "Grad-CAM": grad_cam,
    "Grad-CAM++": grad_cam_plus_plus,
}
"""Every method, for models that have a CAM and a layer "refined"."""


def maps_of(model: keras.Model, image: NDArray[np.generic], class_index: int) -> tuple[dict[str, Maps], dict[str, str]]:
    """One tile's maps of a class by every method, (H, W) each, and what is to be said of each map."""
    answers = {name: method(model, image[None].astype(np.float32), class_index) for name, method in METHODS.items()}
    captions = {name: "nothing speaks for the class" if answer.empty[0] else "" for name, answer in answers.items()}
    return {name: answer.maps[0] for name, answer in answers.items()}, captions


def in_float32(model: keras.Model) -> keras.Model:
    """The model, or one of the same weights that computes in float32 throughout: tf-keras-vis knows no other numbers.

    Args:
        model: a functional one, of any precision policy.
    """
    if all(layer.compute_dtype == "float32" for layer in model.layers if layer.weights):
        return model
    copy = keras.models.clone_model(
        model, clone_function=lambda layer: type(layer).from_config({**layer.get_config(), "dtype": "float32"})
    )
    copy.set_weights(model.get_weights())
    return copy


def _by_gradient(
    method: Any, model: keras.Model, x: NDArray[np.generic], class_index: int, layer: str
) -> ActivationMaps:
    if "float" not in model.inputs[0].dtype:
        raise ValueError(f"Grad-CAM needs a model whose input is a float tensor, not {model.inputs[0].dtype}")
    model.get_layer(layer)  # an unknown name is refused here, with the names that there are
    explainer = method(_logits(in_float32(model)), model_modifier=None, clone=False)

    def score(logits: Any) -> Any:
        """0 with the gradient of the logit: tf-keras-vis multiplies Grad-CAM++ by exp of it, inf from 88.7 on."""
        own = logits[:, class_index]
        return own - ops.stop_gradient(own)

    def explained(part: NDArray[np.generic]) -> Maps:
        raw = explainer(
            score,
            np.asarray(part, dtype=np.float32),
            penultimate_layer=layer,
            seek_penultimate_conv_layer=False,
            expand_cam=False,
            normalize_cam=False,
        )
        return _numpy(raw)

    return _finished(_chunked(explained, x), _size(x))


def _chunked(raw: Callable[[NDArray[np.generic]], Maps], x: NDArray[np.generic]) -> Maps:
    """Raw maps of all tiles, a few tiles at a time: a tape over all of them would hold every layer's output of each."""
    return np.concatenate([raw(x[start : start + CHUNK]) for start in range(0, len(x), CHUNK)])


def _size(x: NDArray[np.generic]) -> tuple[int, int]:
    return int(x.shape[1]), int(x.shape[2])


def _finished(raw: Maps, size: tuple[int, int]) -> ActivationMaps:
    raw = raw.astype(np.float32)
    positive = np.maximum(raw, 0)
    most = positive.max(axis=(1, 2), keepdims=True)
    shown = np.isfinite(most) & (most > 0)
    scaled = np.divide(positive, most, out=np.zeros_like(positive), where=shown)
    maps = [cv2.resize(one, size[::-1], interpolation=cv2.INTER_LINEAR) for one in scaled]
    return ActivationMaps(np.stack(maps).astype(np.float32), raw, ~shown[:, 0, 0])


def _scored(model: keras.Model, class_index: int) -> tuple[keras.KerasTensor, Callable[[Any], Any]]:
    """The tensor from which a class's score is read in `gradient_map`, and how: its values (B, ...) -> (B,)."""
    last = model.outputs[0]._keras_history.operation
    if hasattr(last, "paths"):  # the leaves of a tree, behind the softmaxes over each node's decisions
        softmaxes = last.input._keras_history.operation
        path, children = last.paths[class_index], softmaxes.children
        return softmaxes.input, functools.partial(_log_odds_of_leaf, path=path, children=children)
    single = model.outputs[0].shape[-1] == 1

    def score(values: Any, is_logit: bool) -> Any:
        own = values[:, 0 if single else class_index]
        if not is_logit:
            own = ops.clip(own, 1e-7, 1 - 1e-7)
            own = ops.log(own) - ops.log(1 - own)
        return -own if single and class_index == 0 else own

    try:
        return _output_layer(model).output, functools.partial(score, is_logit=True)
    except ValueError:
        return model.outputs[0], functools.partial(score, is_logit=False)


def _log_odds_of_leaf(scores: Any, path: Sequence[int], children: Sequence[int]) -> Any:
    """log p / (1 - p) of a leaf (B,), p the product of the softmaxes along its path, from the decisions' logits (B, D).

    With r = log((1 - p) / p) of a single decision, which is the logsumexp of its siblings' logits less its own, two are
    both right against log((1 + e^r)(1 + e^s) - 1) = log(e^r + e^s + e^(r + s)). Nothing rounds to 0 or 1 on the way.
    """
    ends = np.cumsum(children)
    against: Any = None
    for decision in path:
        node = int(np.searchsorted(ends, decision, side="right"))
        siblings = [other for other in range(ends[node] - children[node], ends[node]) if other != decision]
        wrong = ops.logsumexp(ops.take(scores, siblings, axis=1), axis=1) - scores[:, decision]
        if against is not None:
            wrong = ops.logsumexp(ops.stack([against, wrong, against + wrong], axis=1), axis=1)
        against = wrong
    return -against


def _numpy(tensor: object) -> Maps:
    return np.asarray(keras.ops.convert_to_numpy(tensor), dtype=np.float32)


def _output_layer(model: keras.Model) -> keras.layers.Dense:
    """The linear dense layer before the last activation."""
    layer = model.outputs[0]._keras_history.operation
    if isinstance(layer, keras.layers.Activation):
        layer = layer.input._keras_history.operation
    linear = isinstance(layer, keras.layers.Dense) and layer.activation is keras.activations.linear
    if len(model.outputs) != 1 or not linear:
        raise ValueError(
            "a model that ends in one dense layer, its activation a layer of its own, is expected, not in "
            f"{type(layer).__name__} {layer.name!r}"
        )
    return layer


def _operation_before(tensor: keras.KerasTensor) -> object:
    """The layer that made a tensor, dropout (nothing at inference) passed over."""
    layer = tensor._keras_history.operation
    while isinstance(layer, keras.layers.Dropout):
        layer = layer.input._keras_history.operation
    return layer


def _logits(model: keras.Model) -> keras.Model:
    """The model without its last activation; it shares all other layers."""
    return keras.Model(model.input, _output_layer(model).output)
