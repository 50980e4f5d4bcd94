"""What can be known to be wrong before the first second of work, looked at in one place for all recipes."""

import functools
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from melano_tf.errors import InputError
from melano_tf.models.backbones import backbone_names, weights_file
from melano_tf.models.zoome import BACKBONES
from melano_tf.runs import journal
from melano_tf.runs.files import file_sha256
from melano_tf.runs.plain import flat, plain
from melano_tf.slides.cohort import read_manifest
from melano_tf.specs import load_spec

GIVEN = ("features", "slides", "table", "images", "cache", "taxonomy", "data")  # settings that name what is the user's


def check_folders(settings: Any) -> None:
    """The run's folder is none of the folders that are read or shared, and holds none of them.

    Raises:
        InputError: names both.
    """
    given: dict[str, Path | Sequence[Path] | None] = {f"--{name}": getattr(settings, name, None) for name in GIVEN}
    journal.refuse_mixing(settings.out, given)


def weights_key(network: str, weights: str) -> str | None:
    """SHA-256 of a network's initial weights file, for the key of what is trained from it; None without a file.

    A file is read once for all the trainings that ask for it.

    Args:
        network, weights: as for `models.backbones.build_backbone`.

    Raises:
        InputError: there is no such file, and it cannot be fetched.
    """
    if network in BACKBONES and network not in backbone_names():  # ZooME's own, which have no published file
        file = None if weights == "none" else Path(weights).expanduser()
    else:
        file = weights_file(network, weights)
    if file is None:
        return None
    if not file.is_file():
        raise InputError(f"{file}: no such weights file")
    facts = file.stat()
    return _content(file.resolve(), facts.st_size, facts.st_mtime_ns)


@functools.lru_cache(maxsize=64)
def _content(file: Path, size: int, modified_ns: int) -> str:
    """The checksum of a file in this state."""
    return file_sha256(file)


def given_weights(settings: Any) -> list[str]:
    """The content of every weights file that the settings name, whatever part of the run is asked for."""
    found = flat(plain(settings)).items()
    named = [value for name, value in found if name.endswith("weights") and isinstance(value, str)]
    files = [Path(value).expanduser() for value in named if value not in ("none", "imagenet")]
    return [_content(f.resolve(), f.stat().st_size, f.stat().st_mtime_ns) for f in files if f.is_file()]


def check_weights(networks: Iterable[tuple[str, str]]) -> tuple[str, ...]:
    """The keys of all initial weights that a run needs, found and read before anything else is done.

    Args:
        networks: (network, weights) of each that is to be trained.

    Raises:
        InputError: one cannot be had.
    """
    return tuple(key for one in dict.fromkeys(networks) if (key := weights_key(*one)) is not None)


def check_manifest(settings: Any, spec: str) -> pd.DataFrame | None:
    """The user's manifest of slides; None where phantoms are drawn.

    Raises:
        InputError: a fault of the manifest, or slides in the run's folder or below it.
    """
    if settings.slides is None:
        return None
    manifest = read_manifest(settings.slides, load_spec(spec))
    files = [Path(path) for path in (*manifest["path"], *manifest["annotation"].dropna())]
    journal.refuse_mixing(settings.out, {"the slides' folder": sorted({path.parent for path in files})})
    return manifest
