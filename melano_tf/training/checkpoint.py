"""One atomic file that holds the whole state of a training.

Inside is every variable of model and optimiser (weights, BatchNorm statistics, the states of dropout's seed
generators, optimiser slots and counter), the loop's own state as JSON, and a fingerprint (names, shapes, dtypes in
order) by which the file of another model is refused.
"""

import errno
import hashlib
import json
import re
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from melano_tf.errors import InputError, line_of
from melano_tf.runs import journal
from melano_tf.runs.atomic_files import atomic
from melano_tf.runs.file_integrity import ARCHIVE_FAULTS


def training_variables(model: Any, optimizer: Any, extra: Iterable[Any] = ()) -> list[Any]:
    """All variables that a training's future depends on, each once, in a fixed order.

    Args:
        model: a built Keras model; `model.variables` includes the seed generators' states, `weights` would not.
        optimizer: a built Keras optimizer.
        extra: further variables (keras or tf) that belong to the state.
    """
    unique = {id(variable): variable for variable in [*model.variables, *optimizer.variables, *extra]}
    return list(unique.values())


def fingerprint(variables: Sequence[Any]) -> list[str]:
    """Name, shape and dtype of each variable, in order.

    Keras numbers unnamed layers by what the process built before (`conv2d_7`), which a resumed process does not
    repeat; such numbers are left out, the order of the variables stands for them.
    """
    return [f"{_name(v)} {tuple(v.shape)} {_dtype(v)}" for v in variables]


def weights_sha256(model: Any) -> str:
    """SHA-256 over the bytes of a model's weights in order, in hexadecimal: equal weights, equal digest.

    The states of seed generators are left out: they are no part of what the model computes.
    """
    digest = hashlib.sha256()
    for weight in model.weights:
        digest.update(f"{tuple(weight.shape)} {_dtype(weight)}".encode())
        digest.update(np.ascontiguousarray(_replicas(weight)[0]).tobytes())
    return digest.hexdigest()


@dataclass(frozen=True)
class Snapshot:
    """A training's state at one moment, copied: what happens to the variables afterwards does not change it.

    Attributes:
        arrays: of the file, by name, with its header.
    """

    arrays: dict[str, np.ndarray]

    @classmethod
    def of(cls, variables: Sequence[Any], state: dict[str, Any]) -> "Snapshot":
        """Copy variables and state.

        Args:
            variables: in an order that is the same next time; `training_variables` returns them.
            state: anything that JSON can hold (floats come back exactly).
        """
        arrays: dict[str, np.ndarray] = {}
        for index, variable in enumerate(variables):
            copies = _replicas(variable)
            arrays[f"v{index}"] = np.array(copies[0])
            # BatchNorm statistics differ between the replicas of a distributed variable until they are reduced.
            if any(not np.array_equal(copies[0], copy, equal_nan=_is_float(copy)) for copy in copies[1:]):
                arrays[f"replicas{index}"] = np.stack(copies)
        header = json.dumps({"fingerprint": fingerprint(variables), "state": state})
        return cls({**arrays, "header": np.frombuffer(header.encode(), np.uint8)})


def write_snapshot(path: Path, snapshot: Snapshot) -> None:
    """Write a snapshot as one file, atomically; the file that stood there stays as `before(path)`.

    Raises:
        OSError: the file cannot be written (disk full, permissions); the old file stays as it was.
    """
    journal.claim(before(path))
    with atomic(path) as temporary:
        np.savez(temporary, **snapshot.arrays)  # type: ignore[arg-type]
        if path.exists():  # a kill from here on leaves the one before, which is then taken up
            path.replace(before(path))


def before(path: Path) -> Path:
    """Where the checkpoint before the newest one stands."""
    return path.with_name(f"{path.stem}.before{path.suffix}")


def load_checkpoint(path: Path, variables: Sequence[Any]) -> dict[str, Any] | None:
    """Restore the variables from a file and return its state; None where there is no file.

    Where the file is damaged or missing the one before it is taken, if that is whole, and a warning says so. Nothing
    is assigned unless the whole file fits.

    Raises:
        InputError: the file is damaged, or of another model or optimiser.
    """
    path = Path(path)
    there = [file for file in (path, before(path)) if file.exists()]
    for file in there:
        try:
            state = _load(file, variables)
        except DamagedError as error:
            if file == there[-1]:
                raise InputError(
                    f"{path}: damaged checkpoint ({line_of(error)}); remove it to train from the start"
                ) from error
            warnings.warn(f"{file}: damaged checkpoint ({line_of(error)}); going on from the one before", stacklevel=2)
        else:
            return state
    return None


class DamagedError(Exception):
    """A file is no whole checkpoint."""


def _load(path: Path, variables: Sequence[Any]) -> dict[str, Any]:
    try:
        with np.load(path, allow_pickle=False) as file:
            header = json.loads(file["header"].tobytes())
            _check_fingerprint(path, header["fingerprint"], fingerprint(variables))
            arrays = {name: file[name] for name in file.files if name != "header"}
            whole = [arrays[f"v{index}"] for index in range(len(variables))]
            state = dict(header["state"])
    except (OSError, *ARCHIVE_FAULTS) as error:
        if isinstance(error, OSError) and error.errno != errno.EINVAL:  # a place before the file's start
            raise
        raise DamagedError(str(error)) from error
    for index, variable in enumerate(variables):
        _assign(variable, whole[index], arrays.get(f"replicas{index}"))
    return state


def _check_fingerprint(path: Path, found: list[str], expected: list[str]) -> None:
    if found == expected:
        return
    faults = [f"file: {a}; model: {b}" for a, b in zip(found, expected, strict=False) if a != b][:5]
    if len(found) != len(expected):
        faults.append(f"file: {len(found)} variables; model: {len(expected)}")
    raise InputError.of(f"{path}: is the checkpoint of another model; remove it or choose another folder", faults)


def _name(variable: Any) -> str:
    path = getattr(variable, "path", None) or variable.name
    return re.sub(r"_\d+(?=_|/|$)", "", str(path))


def _dtype(variable: Any) -> str:
    dtype = variable.dtype
    return str(getattr(dtype, "name", dtype))


def _is_float(array: np.ndarray) -> bool:
    return array.dtype.kind == "f"


def _replicas(variable: Any) -> list[np.ndarray]:
    """A variable's value on each replica (one value outside a distribution strategy)."""
    value = getattr(variable, "value", variable)
    value = variable if callable(value) else value  # tf.Variable.value is a method
    return [np.asarray(copy.numpy()) for copy in getattr(value, "values", (value,))]


def _assign(variable: Any, array: np.ndarray, copies: np.ndarray | None) -> None:
    replicas = getattr(getattr(variable, "value", None), "values", ())
    if copies is not None and len(replicas) == len(copies):
        for replica, copy in zip(replicas, copies, strict=True):
            replica.assign(copy)
        return
    if copies is not None:  # another number of devices than before: what the reduction would have given
        array = copies.mean(axis=0).astype(array.dtype)
    if array.dtype.kind == "V":  # bfloat16 and its like come back from a file as raw bytes
        array = array.view(_dtype_class(_dtype(variable)))
    variable.assign(array)


def _dtype_class(name: str) -> Any:
    import ml_dtypes

    return getattr(ml_dtypes, name)
