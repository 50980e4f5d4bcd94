"""A trained model as TensorFlow Serving loads it: one graph from encoded images to a decision, and what goes with it.

The folder `<out>/<name>/<version>/` needs nothing of this package: its graph reads, judges and resizes images itself.
The signature `card` gives the model's own description, so that a client needs nothing but the server.
"""

import json
import re
import shutil
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from melano_tf import __version__
from melano_tf.errors import InputError
from melano_tf.models.grouped_convolution import GroupedConv2D, make_portable
from melano_tf.runs import journal
from melano_tf.runs.settings_digest import plain
from melano_tf.runs.sidecar import Sidecar
from melano_tf.serving import network_loading
from melano_tf.serving.feature_graph import MOST_INSTANCES, FeatureNetwork
from melano_tf.serving.image_graph import ImageNetwork, Limits, signature
from melano_tf.serving.magnified_models import judged_by, tile_signatures
from melano_tf.serving.model_interface import Card
from melano_tf.serving.network_loading import telling_network
from melano_tf.serving.run_of_model import made_together
from melano_tf.serving.serving_files import server_files, write_model_files, write_server_files
from melano_tf.serving.tile_graph import BagNetwork, MagnifiedNetwork
from melano_tf.serving.warmup import write_warmup
from melano_tf.training.familiarity import read_familiarity

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")
SCHEMA = "melano_tf export 1"


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        folder: `<out>/<name>/<version>`.
        name, version: of the model on the server.
        signatures: their names.
        files: all files beside the graph's own.
    """

    folder: Path
    name: str
    version: int
    signatures: tuple[str, ...]
    files: tuple[Path, ...] = field(default_factory=tuple)


def export_model(
    card: Card,
    out: Path,
    name: str | None = None,
    version: int | None = None,
    limits: Limits | None = None,
    portable: bool = True,
) -> Exported:
    """Write `<out>/<name>/<version>/` and the server's files beside `<name>`.

    Args:
        card: of a `.keras` file; see `model_finding.file_card`.
        out: folder of all exported models.
        name: on the server; None: the model file's name.
        version: a whole number above 0; None: one more than the highest that is there.
        limits: what a request may cost; None: the defaults, with the training's own limit of pixels.
        portable: replace grouped convolutions by split ones, which run on any processor.

    Raises:
        InputError: a network is not what its sidecar says; a bad name; a version that is there already.
    """
    name = card.model.stem if name is None else name
    if not NAME.fullmatch(name):
        raise InputError(f"--name {name!r}: letters, digits, '_', '-' and '.' only, at most 100")
    folder = out / name / str(_version(out / name, version))
    limits = limits or limits_of(card)
    journal.check_free(out, *(str(file.relative_to(out)) for file in server_files(out, name)))  # before the graph
    graph, networks = make_graph(card, limits, portable)
    content = card_content(card, folder, limits)
    journal.open_folder(out)
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", suffix=".partial", dir=folder.parent))
    temporary.chmod(0o755)
    try:
        endpoints = graph.endpoints() | {"card": card_endpoint(content)}
        write_archive(temporary, networks, endpoints)
        files = [write_warmup(temporary, name, endpoints, content)]
        files += write_model_files(temporary, content, _run_folder(card))
        # A server that watches the folder must never see half a version.
        temporary.rename(folder)
    except OSError as error:
        if folder.exists():
            raise InputError(f"{folder}: this version exists already; choose another --version") from None
        raise error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    files = [folder / file.relative_to(temporary) for file in files]
    files += write_server_files(out, name, content)
    return Exported(folder, name, int(folder.name), tuple(endpoints), tuple(files))


def _run_folder(card: Card) -> Path:
    """The folder of the run that trained a model: in which it lies, or which its sidecar names; it may be gone."""
    trained = card.sidecar.run.get("folder")
    return Path(trained) if trained and made_together(card.model) is None else card.model.absolute().parent.parent


def _version(parent: Path, version: int | None) -> int:
    there = [int(path.name) for path in parent.iterdir() if path.name.isdigit()] if parent.is_dir() else []
    if version is None:
        return max(there, default=0) + 1
    if version < 1:
        raise InputError(f"--version {version}: a whole number above 0")
    if version in there:
        raise InputError(
            f"{parent / str(version)}: this version exists already, and a server may be using it; "
            f"choose another --version (the next free one is {max(there) + 1})"
        )
    return version


def limits_of(card: Card, **given: int) -> Limits:
    """What a request may cost: as `given`, with the training's own limit of pixels where it is not.

    A bag model has many instances in one request, and no pixels.
    """
    if card.sidecar.kind == "bags":
        return Limits(**{"max_images": MOST_INSTANCES, **given})
    trained = int(card.sidecar.preprocessing["store"].get("max_pixels", Limits.max_pixels))
    return Limits(**{"max_pixels": trained, **given})


def make_graph(card: Card, limits: Limits, portable: bool) -> tuple[Any, list[keras.Model]]:
    """The graph of a model's kind, and its networks.

    Args:
        card: of the model's file.
        limits: of requests.
        portable: as in `export_model`.

    Raises:
        InputError: a network is not what its sidecar says.
    """
    sidecar, folder = card.sidecar, card.model.parent
    network = load_network(card.model, portable, sidecar)
    others = {
        role: (load_network(folder / sidecar.companions[role], portable, other), other)
        for role, other in card.companions.items()
    }
    if sidecar.kind == "spitzoid-target":  # it is cut in two before it can tell
        known = read_familiarity(card.model, sidecar.run.get("weights_sha256"))
        networks = [network, *(one for one, _ in others.values())]
        return BagNetwork(*others["source"], network, sidecar, limits, known), networks
    network = telling_network(network, card.model, sidecar)
    others = {
        role: (telling_network(one, folder / sidecar.companions[role], other), other)
        for role, (one, other) in others.items()
    }
    networks = [network, *(one for one, _ in others.values())]
    if sidecar.kind == "multimag":
        return MagnifiedNetwork(network, sidecar, others, limits), networks
    if sidecar.kind == "bags":
        return FeatureNetwork(network, sidecar, limits), networks
    return ImageNetwork(network, sidecar, limits), networks


def load_network(path: Path, portable: bool, sidecar: Sidecar | None = None) -> keras.Model:
    """The model in inference form; grouped convolutions split where asked for."""
    network = network_loading.load_network(path, sidecar, compile=False)
    if portable and any(isinstance(layer, GroupedConv2D) for layer in network._flatten_layers()):
        network = make_portable(network)
    return network


def card_content(card: Card, folder: Path, limits: Limits) -> dict[str, Any]:
    """All that a client or a reader needs to know of an exported model, as JSON can hold it."""

    def public(sidecar: Sidecar) -> dict[str, Any]:
        # Where the run lies on the machine that trained is nobody else's business.
        return {**plain(sidecar), "run": {key: value for key, value in sidecar.run.items() if key != "folder"}}

    magnified = card.sidecar.kind == "multimag"
    return {
        "schema": SCHEMA,
        "name": folder.parent.name,
        "version": int(folder.name),
        "exported": time.strftime("%Y-%m-%d"),
        "versions": {"melano_tf": __version__, "tensorflow": tf.__version__, "keras": keras.__version__},
        "file": card.file,
        "sidecar": public(card.sidecar),
        "companions": {role: public(other) for role, other in card.companions.items()},
        # Of a multimag model: the signature for the tiles of each magnification.
        "magnifications": tile_signatures(judged_by(card.sidecar, card.companions)) if magnified else None,
        "measured": card.measured,
        "familiar": None if card.familiar is None else dict(card.familiar),
        "limits": plain(limits),
    }


def card_endpoint(content: dict[str, Any]) -> Any:
    """A signature that gives the card: `ask` int32 (B,), any number, -> `card_json` string (B,)."""
    text = json.dumps(content, ensure_ascii=False, default=str)

    def give(ask: Any) -> dict[str, Any]:
        return {"card_json": tf.fill([tf.size(ask)], tf.constant(text))}

    return signature(give, tf.TensorSpec([None], tf.int32, name="ask"))


def write_archive(folder: Path, networks: list[keras.Model], endpoints: dict[str, Any]) -> None:
    """The SavedModel."""
    archive = keras.export.ExportArchive()
    for network in networks:
        archive.track(network)
    for name, function in endpoints.items():
        function.get_concrete_function()
        archive.add_endpoint(name, function)
    folder.parent.mkdir(parents=True, exist_ok=True)
    archive.write_out(str(folder), verbose=False)
