"""Load a trained network from a run's model file."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras

import melano_tf.models.registered_layers  # or a file that holds one of them could not be read  # noqa: F401
from melano_tf.errors import InputError, line_of
from melano_tf.models.metadata_layer import MetadataCode
from melano_tf.runs.sidecar import Sidecar
from melano_tf.training.checkpoint import weights_sha256
from melano_tf.training.embedding import telling
from melano_tf.training.familiarity import familiar_path, read_familiarity


def load_network(path: Path, sidecar: Sidecar | None = None, **options: Any) -> keras.Model:
    """`keras.saving.load_model`, with a damaged file, or one that is not what its sidecar says, told in one line.

    Args:
        path: a `.keras` file whose sidecar was read, so that it is there.
        sidecar: where given, the network must have its input, its classes and, if it says them, its weights.
        options: of `keras.saving.load_model`.

    Raises:
        InputError: not a Keras file, one that was cut short, or the network of another sidecar.
    """
    try:
        network = keras.saving.load_model(path, **options)
    except MemoryError:
        raise
    except Exception as error:  # what a reader of archives, JSON and HDF5 raises of damaged bytes is of any kind
        # Keras says "File not found" of a file that is no zip archive, and puts advice of many lines after the reason.
        line = (str(error) or type(error).__name__).split("\n")[0].split(". ")[0]
        raise InputError(
            f"{path}: cannot be loaded as a Keras model; it is damaged, or copied in part, or of a "
            f"version before 0.2: take the run's file again, or train again (Keras: {line[:300]})"
        ) from None
    if sidecar is not None:
        _check_fit(network, sidecar, path)
        _check_weights(network, sidecar, path)
    return network


def load_telling(path: Path, sidecar: Sidecar, **options: Any) -> keras.Model:
    """`load_network`, of which it is also asked how far its input is from its training (`training.embedding.telling`).

    Raises:
        InputError: as `load_network`; or the description of its training is damaged, or of another network.
    """
    return telling_network(load_network(path, sidecar, **options), path, sidecar)


def telling_network(network: keras.Model, path: Path, sidecar: Sidecar) -> keras.Model:
    """A loaded network that also gives its input's distance, where a description of its training lies beside it.

    Raises:
        InputError: the description is damaged, or of another network.
    """
    known = read_familiarity(path, sidecar.run.get("weights_sha256"))
    try:
        return telling(network, known)
    except ValueError as error:
        raise InputError(f"{familiar_path(path)}: {line_of(error)}; copy both files from one run") from None


def _check_fit(network: keras.Model, sidecar: Sidecar, path: Path) -> None:
    """The image's side, the numbers of a patient and, but for embeddings, the number of classes."""
    sides = {side for one in network.inputs if len(one.shape) == 4 for side in one.shape[1:3]} - {None}
    if not sides <= {sidecar.input_px}:
        raise InputError(
            f"{path}: takes images of {sorted(sides)[0]} px, and its sidecar says {sidecar.input_px}; "
            "they are of two models"
        )
    if written := sidecar.preprocessing.get("metadata"):
        width = MetadataCode.from_json(written).width
        for one in network.inputs:
            if one.name == "metadata" and one.shape[-1] != width:
                raise InputError(
                    f"{path}: takes {one.shape[-1]} numbers of a patient, and its sidecar names {width}; "
                    "they are of two models"
                )
    if sidecar.kind.endswith("-embedding"):
        return
    classes = len(sidecar.classes)
    widths = {int(one.shape[-1]) for one in network.outputs if one.shape[-1] is not None}
    if widths and not widths & ({1, 2} if classes == 2 else {classes}):
        raise InputError(
            f"{path}: has {sorted(widths)[0]} outputs, its sidecar {classes} classes; they are of two models"
        )


def _check_weights(network: keras.Model, sidecar: Sidecar, path: Path) -> None:
    """A training that was killed after it saved its network leaves it beside the sidecar of the one before."""
    written = sidecar.run.get("weights_sha256") if isinstance(sidecar.run, Mapping) else None
    if written is not None and weights_sha256(network) != written:
        raise InputError(
            f"{path}: its weights are not those that {Sidecar.path(path).name} was written for; let the run's command "
            "end, or take both files from one run"
        )
