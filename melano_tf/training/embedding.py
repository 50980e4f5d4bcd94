"""What a trained network makes of a case before it answers, and how far that is from its training, as parts of it.

Of a network of pictures the embedding is the mean of the backbone's last map over its places (its layer "features"),
whatever stands behind it: metadata, attention, a tree of classes. Of a bag model it is the mean of the instances' last
hidden vectors, weighted by the attention.
"""

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
from keras import ops

from melano_tf.training.familiarity import TINY, Familiarity

SCALES = (1, 2, 4, 8)  # pixels between those whose difference is taken
FEATURES, AGGREGATION = "features", "aggregation"
ANSWER, DISTANCE = "answer", "distance"


def look(pictures: Any) -> Any:
    """Pictures (B, H, W, 3) in 0..255 as numbers (B, 30), float32: each colour's mean and deviation, and the logarithm
    of its mean absolute difference between pixels 1, 2, 4 and 8 apart, down and across."""
    x = ops.cast(pictures, "float32") / 255.0
    parts = [ops.mean(x, axis=(1, 2)), ops.std(x, axis=(1, 2))]
    for step in SCALES:
        for before, after in ((x[:, :-step], x[:, step:]), (x[:, :, :-step], x[:, :, step:])):
            parts.append(ops.log(ops.mean(ops.abs(after - before), axis=(1, 2)) + 1e-3))
    return ops.concatenate(parts, axis=-1)


def described(model: keras.Model) -> tuple[Any, Any, Any] | None:
    """A model's inputs, and the embedding (B, D) and numbers (B, L) that are described, in its own graph.

    The inputs are what the other two need: the picture alone, without what is told of the patient. A bag has no
    picture: its numbers are None. None of a network that has neither a layer "features" nor instances.
    """
    inner = _inner(model)
    if inner is not None:
        return _within(model, inner)
    names = {layer.name for layer in model.layers}
    if AGGREGATION in names and isinstance(model.output, Mapping) and isinstance(model.input, Mapping):
        return model.input, _bag_embedding(model, names), None
    if FEATURES not in names:
        return None
    picture = model.inputs[0]
    return picture, _pooled(model.get_layer(FEATURES).output), look(picture)


def _pooled(features: Any) -> Any:
    return ops.mean(ops.cast(features, "float32"), axis=(1, 2))


def _bag_embedding(model: keras.Model, names: set[str]) -> Any:
    hidden = sorted((name for name in names if name.startswith("hidden")), key=lambda name: int(name[6:]))
    instances = ops.cast(model.get_layer(hidden[-1] if hidden else "real").output, "float32")
    weights = ops.cast(model.output["attention"], "float32")
    return ops.einsum("bn,bnc->bc", weights, instances)


def _within(model: keras.Model, inner: keras.Model) -> tuple[Any, Any, Any] | None:
    """Of a network inside another that brings pictures to its side: as it sees them upright, not mirrored."""
    found = described(inner)
    if found is None:
        return None
    seen = _upright(inner)
    _, embedding, _ = found
    return model.inputs[0], keras.Model(inner.inputs[0], embedding)(seen), look(seen)


def _inner(model: keras.Model) -> keras.Model | None:
    return next((layer for layer in model.layers if isinstance(layer, keras.Model)), None)


def _upright(inner: keras.Model) -> Any:
    """What a network within another sees of a picture that is not mirrored."""
    seen = inner._inbound_nodes[-1].input_tensors[0]
    operation, node, _ = seen._keras_history
    return operation._inbound_nodes[node].input_tensors[0] if operation.name == "mirrored" else seen


def bare(model: keras.Model, pictures: Any) -> tuple[keras.Model, Any]:
    """The network itself, and pictures as it sees them upright, of a model that brings them to its side and mirrors
    them; of any other the two as they are.

    Args:
        model: as it was saved.
        pictures: (B, H, W, 3) in 0..255.
    """
    inner = _inner(model)
    if inner is None:
        return model, pictures
    network = keras.Model(list(inner.inputs), inner.outputs[0], name=inner.name)
    seen = keras.Model(model.inputs[0], _upright(inner))(ops.cast(pictures, "float32"))
    return network, np.asarray(seen, np.float32)


def embedder(model: keras.Model) -> keras.Model | None:
    """The model's inputs -> {"embedding" (B, D), "look" (B, L) of one that sees pictures}; None where it has none."""
    found = described(model)
    if found is None:
        return None
    inputs, embedding, numbers = found
    outputs = {"embedding": embedding} if numbers is None else {"embedding": embedding, "look": numbers}
    return keras.Model(inputs, outputs, name=f"{model.name}_embedder")


class Distance(keras.layers.Layer):
    """`Familiarity.distance` in a network: [embeddings (B, D), numbers (B, L)] or embeddings -> (B,) float64.

    It is put on a network that was loaded, and never saved.

    Args:
        known: what the distance is from.
    """

    def __init__(self, known: Familiarity, **kwargs: Any) -> None:
        super().__init__(dtype="float64", autocast=False, **kwargs)
        self.known = known

    def call(self, inputs: Any) -> Any:
        embeddings, *numbers = inputs if isinstance(inputs, list | tuple) else [inputs]
        known = self.known
        x = ops.cast(embeddings, "float64")
        x = x / ops.maximum(ops.sqrt(ops.sum(x * x, axis=-1, keepdims=True)), TINY)
        found = _far(x, known.mean, known.root) / known.scales[0]
        for one in numbers:
            found = found + _far(ops.cast(one, "float64"), known.look_mean, known.look_root) / known.scales[1]
        return found / 2.0

    def compute_output_spec(self, inputs: Any) -> Any:
        first = inputs[0] if isinstance(inputs, list | tuple) else inputs
        return keras.KerasTensor((first.shape[0],), "float64")


def _far(x: Any, mean: np.ndarray, root: np.ndarray) -> Any:
    """|(x - mean) root| of rows (B, L), float64 (B,)."""
    left = ops.matmul(x - mean, ops.cast(ops.convert_to_tensor(root), "float64"))
    return ops.sqrt(ops.sum(left * left, axis=-1))


def telling(model: keras.Model, known: Familiarity | None) -> keras.Model:
    """A model that also says how far its input is from its training: {"answer": what it gave, "distance": (B,)}.

    Args:
        model: as it was loaded.
        known: of its training; None: the model is given back as it is.

    Raises:
        ValueError: the network is not the one that was described.
    """
    found = described(model) if known is not None else None
    if known is None:
        return model
    if found is None or int(found[1].shape[-1]) != len(known.mean):
        raise ValueError(f"{model.name}: its embedding is not the one that was described")
    _, embedding, numbers = found
    if len(known.look_mean) != (0 if numbers is None else int(numbers.shape[-1])):
        raise ValueError(f"{model.name}: the numbers of its pictures are not those that were described")
    distance = Distance(known, name=DISTANCE)(embedding if numbers is None else [embedding, numbers])
    return keras.Model(model.input, {ANSWER: model.output, DISTANCE: distance}, name=model.name)


def heard(outputs: Any) -> tuple[Any, Any]:
    """What a model gave, and the distance (B,) where it is `telling`, else None."""
    if isinstance(outputs, Mapping) and set(outputs) == {ANSWER, DISTANCE}:
        return outputs[ANSWER], outputs[DISTANCE]
    return outputs, None
