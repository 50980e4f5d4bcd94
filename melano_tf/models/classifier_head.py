"""The end of every classifier: a linear layer, and the activation as a layer of its own.

The model as it is answers with probabilities: that is saved, served and asked. What is trained is `logits_of` it, the
same layers but for the last one, because a loss of probabilities has no gradient where they round to 0 or 1.
"""

from typing import Any, Literal

import keras

from melano_tf.errors import InputError

LOGITS = "_logits"  # behind the name of the probabilities' layer: its linear layer


def classify(x: Any, units: int, activation: Literal["sigmoid", "softmax"], name: str) -> Any:
    """A linear layer "<name>_logits" and its activation "<name>", (B, C) -> (B, units), float32 under any policy."""
    scores = keras.layers.Dense(units, dtype="float32", name=name + LOGITS)(x)
    return keras.layers.Activation(activation, dtype="float32", name=name)(scores)


def logits_of(model: keras.Model) -> keras.Model:
    """A classifier without its last activation; it shares all layers, and therefore all that is trained.

    Args:
        model: a functional model, of one output or several; each that ends in `classify` is replaced by its
            logits, the others stay.

    Raises:
        InputError: no output ends so (a model that an earlier version saved).
    """
    replaced = []

    def before(output: Any) -> Any:
        operation, node, _ = output._keras_history
        if not _is_probability(operation):
            return output
        replaced.append(operation.name)
        return operation._inbound_nodes[node].input_tensors[0]

    outputs = keras.tree.map_structure(before, model.output)
    if not replaced:
        raise InputError(
            f"{model.name}: ends in no activation of its own, so that its logits cannot be had; "
            "models of versions before 0.2 are to be trained again"
        )
    return keras.Model(model.input, outputs, name=model.name + LOGITS)


def _is_probability(operation: Any) -> bool:
    ends = (keras.activations.softmax, keras.activations.sigmoid)
    return isinstance(operation, keras.layers.Activation) and operation.activation in ends
