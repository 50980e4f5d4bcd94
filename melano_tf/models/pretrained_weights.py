"""Loading a file of weights into a network, and making sure that they are there.

Keras skips what does not match in more than one of its ways to load. Here the file is read a second time by plain h5py
and compared with the network, tensor by tensor.
"""

import hashlib
import re
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import h5py  # type: ignore[import-untyped]
import keras
import numpy as np
from keras import ops

from melano_tf.errors import InputError, line_of


def load_weights(model: keras.Model, path: Path) -> int:
    """Load all weights of a network from a legacy `.h5` file (Keras 1 and 2) or a `.weights.h5` file (Keras 3).

    Args:
        model: the network as the file knows it: without top, and before anything is put on it.
        path: the file; which of the formats it is, its content decides.

    Returns:
        How many tensors were loaded: all that the file holds, and all that the network has.

    Raises:
        InputError: no such file, not a file of weights, or not of this network.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file of weights")
    try:
        with h5py.File(path) as file:
            legacy = _legacy_group(file)
            tensors = _legacy_tensors(legacy) if legacy is not None else _plain_tensors(file)
    except OSError as error:
        raise InputError(f"{path}: is not an HDF5 file of weights ({line_of(error)})") from error
    suffix = ".h5" if legacy is not None else ".weights.h5"
    if not path.name.endswith(suffix) or (legacy is not None and path.name.endswith(".weights.h5")):
        raise InputError(f"{path}: holds weights of the {suffix} kind; Keras needs its name to end in {suffix}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Keras warns of each tensor that does not fit; one line says it below
            model.load_weights(path)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: {_mismatch(model, tensors)} ({_first_line(error)})") from error
    if legacy is not None:
        _check_in_order(model, tensors, path)
    else:
        _check_all_there(model, tensors, path)
    return len(tensors)


Tensors = list[tuple[str, np.ndarray]]  # (the layer's name, or the tensor's path in the file; value)


def _legacy_group(file: h5py.File) -> Any:
    """The group with the layers in a legacy file (of weights, or of a whole model), or None."""
    for group in (file, file.get("model_weights")):
        if group is not None and _names(group, "layer_names"):
            return group
    return None


def _names(group: Any, attribute: str) -> list[str]:
    """A list of names from the attributes, where long ones are cut into attribute0, attribute1, ..."""
    parts = [attribute] if attribute in group.attrs else []
    while f"{attribute}{len(parts)}" in group.attrs:
        parts.append(f"{attribute}{len(parts)}")
    names = [name for part in parts for name in group.attrs[part]]
    return [name.decode() if isinstance(name, bytes) else str(name) for name in names]


def _legacy_tensors(group: Any) -> Tensors:
    return [
        (layer, np.asarray(group[layer][weight]))
        for layer in _names(group, "layer_names")
        for weight in _names(group[layer], "weight_names")
    ]


def _plain_tensors(file: h5py.File) -> Tensors:
    tensors: Tensors = []

    def visit(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset) and not name.startswith("optimizer") and "seed_generator" not in name:
            tensors.append((name, np.asarray(item)))

    file.visititems(visit)
    return tensors


def _mismatch(model: keras.Model, tensors: Tensors) -> str:
    extra = "; if it is the file with top, take the one without (notop)" if len(tensors) > _count(model) else ""
    return f"holds {len(tensors)} tensors that are not the {_count(model)} of {model.name}{extra}"


def _count(model: keras.Model) -> int:
    return len(model.weights)


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


def _check_in_order(model: keras.Model, tensors: Tensors, path: Path) -> None:
    """Legacy files are loaded in the order of the layers: each tensor must have come where it belongs."""
    own = [(layer, w) for layer in model.layers for w in (*layer.trainable_weights, *layer.non_trainable_weights)]
    names = {layer.name for layer in model.layers}
    if len(own) != len(tensors):
        raise InputError(f"{path}: {_mismatch(model, tensors)}")
    for (layer, variable), (name, value) in zip(own, tensors, strict=True):
        if name in names and name != layer.name and not _automatic(name, layer):
            raise InputError(f"{path}: the layers are in another order: {name} stands where {layer.name} is expected")
        if not np.array_equal(ops.convert_to_numpy(variable), value):
            raise InputError(f"{path}: layer {name}: the network differs from the file after loading")


def _automatic(name: str, layer: Any) -> bool:
    """Whether a name is one that Keras counts up by itself (conv2d_12), which says nothing of the place."""
    kind = re.sub(r"(?<!^)(?=[A-Z])", "_", type(layer).__name__).lower().replace("2_d", "2d")
    return re.fullmatch(rf"{kind}(_\d+)?", name) is not None


def _check_all_there(model: keras.Model, tensors: Tensors, path: Path) -> None:
    """Every tensor of the file must be in the network and the other way round."""
    in_file = Counter(_fingerprint(value) for _, value in tensors)
    in_model = Counter(_fingerprint(ops.convert_to_numpy(variable)) for variable in model.weights)
    if in_file != in_model:
        missing = sum((in_file - in_model).values())
        raise InputError(f"{path}: {_mismatch(model, tensors)}: {missing} are not in the network after loading")


def _fingerprint(value: np.ndarray) -> tuple[tuple[int, ...], str]:
    value = np.ascontiguousarray(value, dtype=np.float32)
    return value.shape, hashlib.sha256(value.tobytes()).hexdigest()
