"""Where `data_specs/` lies: inside the wheel once installed, beside the package in a checkout."""

import copy
import functools
from importlib.resources import files
from pathlib import Path
from typing import Any

from melano_tf.errors import InputError


def spec_path(name: str) -> Path:
    """The path of `data_specs/<name>`, for example `spitzoid.yaml` or `published/spitzoid.csv`.

    Raises:
        InputError: neither the installed package nor the checkout holds that file.
    """
    package = Path(str(files("melano_tf")))
    for folder in (package / "data_specs", package.parent / "data_specs"):
        if (folder / name).is_file():
            return folder / name
    raise InputError(f"data_specs/{name}: not found beside {package}; reinstall melano_tf")


def load_spec(name: str) -> dict[str, Any]:
    """The data set description `data_specs/<name>.yaml` as a dict of one's own."""
    return copy.deepcopy(_parsed(spec_path(f"{name}.yaml")))


@functools.cache
def _parsed(path: Path) -> dict[str, Any]:
    """A file of the package, read once: it takes tens of milliseconds, and a plan asks for it at every training."""
    import yaml

    with path.open(encoding="utf-8") as file:
        return dict(yaml.safe_load(file))
