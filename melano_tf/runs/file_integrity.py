"""Whether a run's files are as they were written: records that can be read, results of the recorded checksum."""

import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from melano_tf.errors import InputError, line_of
from melano_tf.runs.atomic_files import file_sha256, read_json
from melano_tf.runs.session_checksums import SessionChecksums

if TYPE_CHECKING:
    import pandas as pd


# What NumPy and its reader of archives raise of a damaged .npz, beside OSError; RuntimeError: it seems encrypted.
ARCHIVE_FAULTS = (ValueError, KeyError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error, struct.error)
RESTATING = "was being written anew when a session ended, and nothing of it is lost; give the run's command again"


def faults(folder: Path) -> list[tuple[str, str]]:
    """(file, what is wrong with it) of every file that a run's steps recorded, by checksum, and of the records.

    Args:
        folder: the run's folder.

    Raises:
        InputError: the folder holds no run.
    """
    if not (folder / "run.json").is_file():
        raise InputError(f"{folder}: no run is recorded there (run.json is missing); name the folder given by --out")
    found = [(name, "is no JSON mapping") for name in ("run.json", "made.json") if not _whole(folder / name)]
    steps = sorted((folder / "steps").rglob("*.json"))
    if steps and not (folder / "made.json").exists():
        found.append(("made.json", "is missing, so that no result counts as the run's; give its command again"))
    states = {str(path.relative_to(folder)): mapping(path) for path in steps}
    damaged = [step for step, state in states.items() if not isinstance(state.get("outputs"), dict)]
    found += [(step, "is damaged; the step will be done again") for step in damaged]
    whole = {step: state for step, state in states.items() if step not in damaged}
    with SessionChecksums().shown(folder / name for state in whole.values() for name in state["outputs"]) as sha256:
        for step, state in whole.items():
            begun = state.get("restating")
            for name, facts in state["outputs"].items():
                why = fault(folder / name, facts, sha256)
                if why and isinstance(begun, list) and name in begun and (folder / name).is_file():
                    why = RESTATING
                found += [(name, f"{why} (of {step})")] if why else []
    return found


SHAPES = {  # what the fields of run.json hold where they are there
    **dict.fromkeys(("recipe",), str),
    **dict.fromkeys(
        ("settings", "plan", "looked_at", "chosen", "failed", "left_out", "durations", "parts", "asked"), dict
    ),
    **dict.fromkeys(("split", "splits", "folds", "leaks", "copies", "undecodable", "partition"), dict),
    **dict.fromkeys(("sessions", "differs", "judged", "headlines"), list),
}


def check_record(record: Any) -> dict[str, Any]:
    """The content of run.json, its fields of the kinds that their readers take them for; those that hold null are left
    out, as if they were not there.

    Raises:
        ValueError: they are not; the message names one.
    """
    if not isinstance(record, dict):
        raise ValueError("it is no JSON mapping")
    for name, kind in SHAPES.items():
        if not isinstance(record.get(name, kind()), kind) and record[name] is not None:
            raise ValueError(f"{name!r} is no {kind.__name__}")
    for session in record.get("sessions") or []:
        kinds = {"command": list, "environment": dict, "started": str}
        if not isinstance(session, dict) or any(not isinstance(session.get(n, k()), k) for n, k in kinds.items()):
            raise ValueError("'sessions' holds something else than sessions")
        if not isinstance(session.get("environment", {}).get("packages", {}), dict):
            raise ValueError("a session's packages are no mapping")
    if any(not isinstance(one, list) or len(one) != 3 for one in record.get("differs") or []):
        raise ValueError("'differs' holds something else than (setting, here, paper)")
    if any(not isinstance(one, dict) for one in record.get("judged") or []):
        raise ValueError("'judged' holds something else than models")
    return {name: value for name, value in record.items() if value is not None or name not in SHAPES}


def mapping(path: Path) -> dict[str, Any]:
    """The content of a JSON file of ours; {} where it is missing or damaged, so that it is made anew."""
    try:
        content = read_json(path)
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) and all(isinstance(key, str) for key in content) else {}


def read_frame(path: Path) -> "pd.DataFrame":
    """A table of ours, in Parquet.

    Raises:
        InputError: it is missing or damaged.
    """
    import pandas as pd

    try:
        return pd.read_parquet(path)
    except MemoryError:
        raise
    except Exception as error:  # what a reader of damaged bytes raises is of any kind
        raise InputError(f"{path}: cannot be read ({line_of(error)}); give the run's command again") from None


def read_words(path: Path) -> "pd.DataFrame":
    """A table of ours, in CSV, each cell the text that stands there: a slide or an image may be called "NA" or "007".

    Raises:
        InputError: it is missing or damaged.
    """
    import pandas as pd

    try:
        return pd.read_csv(path, dtype=str, keep_default_na=False)
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({line_of(error)}); give the run's command again") from None


def _whole(path: Path) -> bool:
    return bool(mapping(path)) or not path.exists()


def recorded_bytes(facts: Any) -> int | None:
    """The size of a file as a step recorded it; None where that is no whole record of a file."""
    whole = isinstance(facts, dict) and type(facts.get("bytes")) is int and isinstance(facts.get("sha256"), str)
    return int(facts["bytes"]) if whole else None


def fault(file: Path, facts: Any, sha256: Callable[[Path], str] = file_sha256) -> str:
    """What is wrong with a step's file; "" where nothing is."""
    written = recorded_bytes(facts)
    if written is None:
        return "has no recorded checksum"
    if not file.is_file():
        return "is missing"
    try:
        if file.stat().st_size != written:
            return f"has {file.stat().st_size:,} bytes, and {written:,} were written"
        return "" if sha256(file) == facts["sha256"] else "is not as it was written: its checksum differs"
    except OSError as error:
        return f"cannot be read ({error.strerror or error})"
