"""Settings as plain values, their digest, and the seeds that follow from one seed and names."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def digest(content: Any) -> str:
    """A short key of anything that JSON can hold (paths as text); equal content, equal key."""
    text = json.dumps(content, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def seed_for(seed: int, *names: str) -> int:
    """A seed of 31 bits for one purpose, from the run's one seed and the purpose's name."""
    return int(digest([seed, *names]), 16) % 2**31


def plain(settings: Any) -> Any:
    """Settings dataclasses as dicts, lists and scalars that JSON can hold.

    A field whose metadata say `omit_none` is left out where it is None: what was recorded before there was such a field
    stays what it was.
    """
    if dataclasses.is_dataclass(settings) and not isinstance(settings, type):
        pairs = ((field, getattr(settings, field.name)) for field in dataclasses.fields(settings))
        return {
            field.name: plain(value)
            for field, value in pairs
            if not (value is None and field.metadata.get("omit_none"))
        }
    if isinstance(settings, Mapping):
        return {str(key): plain(value) for key, value in settings.items()}
    if isinstance(settings, list | tuple):
        return [plain(value) for value in settings]
    return str(settings) if isinstance(settings, Path) else settings


def flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings as one level of dotted names, as the command line spells them."""
    result: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping):
            result |= flat(value, f"{prefix}{key}.")
        else:
            result[prefix + key] = value
    return result
