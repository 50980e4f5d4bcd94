"""Whether a run's files are as they were written: records that can be read, results of the recorded checksum."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from melano_tf.errors import InputError
from melano_tf.runs.files import file_sha256, read_json


def faults(folder: Path, progress: Callable[[int], object] = lambda done: None) -> list[tuple[str, str]]:
    """(file, what is wrong with it) of every file that a run's steps recorded, by checksum, and of the records.

    Args:
        folder: the run's folder.
        progress: called with the number of bytes of each file when it is read.

    Raises:
        InputError: the folder holds no run.
    """
    if not (folder / "run.json").is_file():
        raise InputError(f"{folder}: no run is recorded there (run.json is missing); name the folder given by --out")
    found = [(name, "is no JSON mapping") for name in ("run.json", "made.json") if not _whole(folder / name)]
    for path in sorted((folder / "steps").rglob("*.json")):
        step = str(path.relative_to(folder))
        outputs = mapping(path).get("outputs")
        if not isinstance(outputs, dict):
            found.append((step, "is damaged; the step will be done again"))
            continue
        for name, facts in outputs.items():
            why = fault(folder / name, facts)
            found += [(name, f"{why} (of {step})")] if why else []
            progress(int(facts.get("bytes", 0)) if isinstance(facts, dict) else 0)
    return found


def mapping(path: Path) -> dict[str, Any]:
    """The content of a JSON file of ours; {} where it is missing or damaged, so that it is made anew."""
    try:
        content = read_json(path)
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) and all(isinstance(key, str) for key in content) else {}


def _whole(path: Path) -> bool:
    return bool(mapping(path)) or not path.exists()


def fault(file: Path, facts: Any) -> str:
    """What is wrong with a step's file; "" where nothing is."""
    if not isinstance(facts, dict) or not {"bytes", "sha256"} <= set(facts):
        return "has no recorded checksum"
    if not file.is_file():
        return "is missing"
    try:
        if file.stat().st_size != facts["bytes"]:
            return f"has {file.stat().st_size:,} bytes, and {facts['bytes']:,} were written"
        return "" if file_sha256(file) == facts["sha256"] else "is not as it was written: its checksum differs"
    except OSError as error:
        return f"cannot be read ({error.strerror or error})"
