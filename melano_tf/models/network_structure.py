"""What a network computes, whatever its layers are called: a part of the keys of features that are kept."""

import json
from typing import Any

import keras

from melano_tf.runs.settings_digest import digest

NAMED = ("name", "keras_history", "input_layers", "output_layers")  # where Keras's JSON holds names of layers
INITIAL = ("_initializer", "_regularizer", "_constraint")  # nothing that is computed once the weights are given


def structure(model: keras.Model) -> str:
    """Digest of what a network computes with given weights: its layers, how they are joined, and their dtypes.

    Names do not count: Keras numbers unnamed layers by what the process built before (`conv2d_7`). Each stands as the
    place where it appears first, which keeps who is joined to whom.
    """
    places: dict[str, int] = {}

    def unnamed(node: Any, key: str = "") -> Any:
        if isinstance(node, dict):
            if str(node.get("class_name")).endswith("DTypePolicy"):  # whose name is the dtype
                return node
            return {each: unnamed(value, each) for each, value in node.items() if not each.endswith(INITIAL)}
        if isinstance(node, list):
            return [unnamed(value, key) for value in node]
        return places.setdefault(node, len(places)) if key in NAMED and isinstance(node, str) else node

    return digest(unnamed(json.loads(model.to_json())))
