"""Weights of a torchvision state dict in a network whose layers are named as torchvision's modules.

A layer "layer1_0_conv2" takes `layer1.0.conv2.weight`. Kernels are (out, in, height, width) there and (height, width,
in, out) here; a dense layer's are (out, in) there and (in, out) here.
"""

import importlib
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np

from melano_tf.errors import InputError, line_of
from melano_tf.runs.file_integrity import ARCHIVE_FAULTS

COUNTER = "num_batches_tracked"  # PyTorch counts the batches of each normalisation; nothing here uses it


def read_state_dict(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a state dict, by PyTorch's names, from `.npz` or, where PyTorch is installed, `.pth` or `.pt`.

    `numpy.savez("resnext50.npz", **{name: tensor.numpy() for name, tensor in state_dict.items()})` makes the former.

    Raises:
        InputError: no such file, not of these kinds, or `.pth` without PyTorch.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file of weights")
    if path.suffix == ".npz":
        return _read_npz(path)
    if path.suffix in (".pth", ".pt"):
        return _read_pth(path)
    raise InputError(f"{path}: a state dict is read from .npz, .pth or .pt")


def assign_state_dict(
    model: keras.Model, arrays: Mapping[str, np.ndarray], source: str, not_used: tuple[str, ...] = ()
) -> tuple[int, tuple[str, ...]]:
    """Give every weight of a model its array of a state dict; nothing is changed if any is wrong.

    Args:
        model: its layers with weights are convolutions, dense layers and batch normalisations.
        arrays: by PyTorch's names.
        source: what the arrays came from, for messages.
        not_used: starts of names that may be there without a place in the model ("fc.").

    Returns:
        How many tensors were loaded (all that the model has), and the names that were not used.

    Raises:
        InputError: missing or superfluous names, wrong shapes, values that are not finite numbers; all at once.
    """
    faults: list[str] = []
    wanted: dict[str, Any] = {}
    for layer in model.layers:
        wanted.update(_variables(layer))
    values = {name: _value(name, arrays, variable.shape, faults) for name, variable in wanted.items()}
    extra = tuple(name for name in arrays if name not in wanted and not name.endswith(COUNTER))
    faults += [f"{name}: the network has no such weight" for name in extra if not name.startswith(not_used or ("\0",))]
    if faults:
        shown = faults[:12] + ([f"and {len(faults) - 12} more"] if len(faults) > 12 else [])
        raise InputError.of(f"{source}: these are not weights of {model.name}:", shown)
    for name, variable in wanted.items():
        variable.assign(values[name])
    return len(wanted), extra


def _variables(layer: Any) -> dict[str, Any]:
    """A layer's variables by PyTorch's names.

    Raises:
        TypeError: a layer with weights of another kind.
    """
    module = layer.name.replace("_", ".")
    if isinstance(layer, keras.layers.BatchNormalization):
        parts = {
            "weight": layer.gamma,
            "bias": layer.beta,
            "running_mean": layer.moving_mean,
            "running_var": layer.moving_variance,
        }
    elif isinstance(layer, (keras.layers.Conv2D, keras.layers.Dense)):
        parts = {"weight": layer.kernel, **({"bias": layer.bias} if layer.use_bias else {})}
    elif layer.weights:
        raise TypeError(f"{layer.name}: weights of a {type(layer).__name__} have no counterpart in a state dict")
    else:
        parts = {}
    return {f"{module}.{part}": variable for part, variable in parts.items()}


def _value(name: str, arrays: Mapping[str, np.ndarray], shape: tuple[int, ...], faults: list[str]) -> Any:
    """The array in Keras' order of axes; a fault is noted where there is none that fits."""
    if name not in arrays:
        faults.append(f"{name}: is missing")
        return None
    value = np.asarray(arrays[name])
    if not np.issubdtype(value.dtype, np.floating):
        faults.append(f"{name}: is {value.dtype}, not floating point numbers")
        return None
    value = value.astype(np.float32)
    if value.ndim == 4:
        value = value.transpose(2, 3, 1, 0)
    elif value.ndim == 2:
        value = value.T
    if value.shape != tuple(shape):
        faults.append(f"{name}: {arrays[name].shape} in the file is {value.shape} here; {tuple(shape)} is needed")
    elif not np.isfinite(value).all():
        faults.append(f"{name}: holds values that are not finite")
    return value


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    if not zipfile.is_zipfile(path):
        raise InputError(f"{path}: is not an .npz file of plain arrays (no zip archive)")
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except (OSError, *ARCHIVE_FAULTS) as error:
        raise InputError(f"{path}: is not an .npz file of plain arrays ({line_of(error)})") from error


def _read_pth(path: Path) -> dict[str, np.ndarray]:
    try:
        torch = importlib.import_module("torch")
    except ImportError as error:
        raise InputError(
            f"{path}: reading it needs PyTorch, which is not installed; where it is, write the state dict as .npz: "
            "numpy.savez(file, **{name: tensor.numpy() for name, tensor in state_dict.items()})"
        ) from error
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, OSError, EOFError, ValueError, KeyError, pickle.UnpicklingError) as error:
        raise InputError(f"{path}: is not a file of PyTorch weights ({line_of(error)})") from error
    if not isinstance(state, Mapping) or not all(hasattr(tensor, "numpy") for tensor in state.values()):
        raise InputError(f"{path}: is not a state dict of tensors; save `model.state_dict()`")
    return {name: np.asarray(tensor.detach().numpy()) for name, tensor in state.items()}
