"""Load a trained network from a run's model file."""

import zipfile
from pathlib import Path
from typing import Any

import keras

from melano_tf.errors import InputError


def load_network(path: Path, **options: Any) -> keras.Model:
    """`keras.saving.load_model`, with a damaged file told in one line.

    Args:
        path: a `.keras` file whose sidecar was read, so that it is there.
        options: of `keras.saving.load_model`.

    Raises:
        InputError: not a Keras file, or one that was cut short.
    """
    try:
        return keras.saving.load_model(path, **options)
    except (ValueError, TypeError, OSError, KeyError, zipfile.BadZipFile) as error:
        # Keras says "File not found" of a file that is no zip archive, and puts advice of many lines after the reason.
        line = str(error).split("\n")[0].split(". ")[0]
        raise InputError(
            f"{path}: cannot be loaded as a Keras model; it is damaged, copied in part, or of a version before 0.2: "
            f"take the run's file again, or train again (Keras: {line})"
        ) from None
