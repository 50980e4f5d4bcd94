"""What can be known to be wrong before the first second of work, looked at in one place for all recipes."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from melano_tf.runs import journal
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
