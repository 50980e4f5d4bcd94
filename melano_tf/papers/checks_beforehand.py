"""What can be known to be wrong before the first second of work, looked at in one place for all recipes."""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from melano_tf.models.backbone_registry import check_backbone, weights_file
from melano_tf.runs import journal
from melano_tf.runs.atomic_files import file_sha256
from melano_tf.runs.settings_digest import flat, plain
from melano_tf.slides.slide_manifest import read_manifest
from melano_tf.specs import load_spec

# Settings that name what is the user's.
GIVEN = ("features", "slides", "table", "images", "cache", "taxonomy", "data")


def check_folders(settings: Any) -> None:
    """The run's folder is none of the folders that are read or shared, and holds none of them.

    Raises:
        InputError: names both.
    """
    given: dict[str, Path | Sequence[Path] | None] = {f"--{name}": getattr(settings, name, None) for name in GIVEN}
    journal.refuse_mixing(settings.out, given)


def weights_key(backbone: str, weights: str, input_px: int | None = None) -> str | None:
    """SHA-256 of a network's initial weights file, for the key of what is trained from it; None without a file.

    A file is read once for all the trainings that ask for it.

    Args:
        backbone, weights, input_px: as for `models.backbone_registry.check_backbone`.

    Raises:
        InputError: there is no such network or file, the network takes no images of this size or has no such weights,
            or the file cannot be fetched.
    """
    check_backbone(backbone, weights, input_px)
    file = weights_file(backbone, weights)
    if file is None:
        return None
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
