"""Whether what a step's result was made of still stands: a training that is done anew can end with other weights.

Its key says what was asked for. Where bits are not promised (`--no-deterministic`, another number of threads, another
device) the same key stands for another result, so that a step's record also says what it came to, and what the results
came to that it was made of.
"""

import hashlib
import io
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from melano_tf.runs.file_integrity import mapping
from melano_tf.runs.settings_digest import digest

MADE, STOOD_ON = "made", "stood_on"  # in a step's record
TABLES = (".csv", ".parquet")
# Folders whose tables tell of the work, such as its time, and not of what it came to.
TOLD = ("history", "audit", "logs", "tiles")
WEIGHTS = "model.weights.h5"


def result_digest(folder: Path, outputs: Mapping[str, Mapping[str, Any]]) -> str | None:
    """What a step's files come to: the weights of its models and the content of its tables; None of others.

    Args:
        folder: the run's.
        outputs: its files as its record names them, with their checksums.
    """
    parts = {}
    for name, facts in sorted(outputs.items()):
        if name.endswith(".keras"):
            parts[name] = weights_digest(folder / name) or facts["sha256"]
        elif name.endswith(TABLES) and name.partition("/")[0] not in TOLD:
            parts[name] = facts["sha256"]
    return digest(parts) if parts else None


def weights_digest(model: Path) -> str | None:
    """Of the weights in a `.keras` file, whenever it was written and however its layers were numbered; None of a file
    that is none."""
    import h5py  # type: ignore[import-untyped]
    import numpy as np

    found = hashlib.sha256()

    def add(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset) and "seed_generator" not in name:  # no part of what the model computes
            found.update(f"{name} {item.shape} {item.dtype}".encode())
            found.update(np.ascontiguousarray(item[()]).tobytes())

    try:
        with zipfile.ZipFile(model) as archive, h5py.File(io.BytesIO(archive.read(WEIGHTS))) as weights:
            weights.visititems(add)
    except (OSError, KeyError, ValueError, zipfile.BadZipFile):
        return None
    return found.hexdigest()


def stood_on(folder: Path, inputs: Mapping[str, Any]) -> dict[str, str]:
    """{step: what it came to} of the steps that these inputs of a step need, as far as they say."""
    needs = inputs.get("needs")
    found = {name: _record(folder, name).get(MADE) for name in needs} if isinstance(needs, Mapping) else {}
    return {name: made for name, made in found.items() if isinstance(made, str)}


def replaced(folder: Path, record: Mapping[str, Any]) -> list[str]:
    """The steps that a step's result was made of and that came to something else since, by its record; what an earlier
    version recorded does not say."""
    before = record.get(STOOD_ON)
    if not isinstance(before, Mapping):
        return []
    now = {name: _record(folder, name).get(MADE) for name in before}
    return [name for name, made in before.items() if isinstance(now[name], str) and now[name] != made]


def made_of_replaced(folder: Path, step: str) -> list[str]:
    """The steps whose results were made of a step's, directly or not, where it came to something else since."""
    steps = folder / "steps"
    records = {str(path.relative_to(steps).with_suffix("")): mapping(path) for path in sorted(steps.rglob("*.json"))}
    found = [name for name, record in records.items() if step in replaced(folder, record)]
    for one in found:  # grows meanwhile
        found += [name for name, record in records.items() if name not in found and one in _names(record)]
    return found


def _names(record: Mapping[str, Any]) -> Iterable[str]:
    before = record.get(STOOD_ON)
    return before if isinstance(before, Mapping) else ()


def _record(folder: Path, step: str) -> dict[str, Any]:
    return mapping(folder / "steps" / f"{step}.json")
