"""A trained model as TensorFlow Serving loads it: one graph from encoded images to a decision, and what goes with it.

The folder `<out>/<name>/<version>/` needs nothing of this package: its graph reads, judges and resizes images itself.
The signature `card` gives the model's own description, so that a client needs nothing but the server.
"""

import importlib
import json
import pkgutil
import re
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from melano_tf import __version__, models
from melano_tf.errors import InputError
from melano_tf.models.grouped import GroupedConv2D, make_portable
from melano_tf.runs import journal
from melano_tf.runs.plain import plain
from melano_tf.runs.sidecar import Sidecar
from melano_tf.serving import loading
from melano_tf.serving.graph import ImageNetwork, Limits
from melano_tf.serving.kinds import checked_kind, read_companion
from melano_tf.serving.magnified_slide import judged_by, tile_signatures
from melano_tf.serving.measured import measured_numbers
from melano_tf.serving.serving_files import server_files, write_model_files, write_server_files
from melano_tf.serving.tile_graph import BagNetwork, MagnifiedNetwork
from melano_tf.serving.warmup import write_warmup

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
    model: Path,
    out: Path,
    name: str | None = None,
    version: int | None = None,
    limits: Limits | None = None,
    portable: bool = True,
    say: Callable[[str], None] = lambda line: None,
) -> Exported:
    """Write `<out>/<name>/<version>/` and the server's files beside `<name>`.

    Args:
        model: a `.keras` file with its sidecar.
        out: folder of all exported models.
        name: on the server; None: the model file's name.
        version: a whole number above 0; None: one more than the highest that is there.
        limits: what a request may cost; None: the defaults, with the training's own limit of pixels.
        portable: replace grouped convolutions by split ones, which run on any processor.
        say: shows a line.

    Raises:
        InputError: no such model, one that `predict` does not take either, a bad name, a version that is there already.
    """
    sidecar = Sidecar.read(model)
    checked_kind(sidecar, model)
    name = model.stem if name is None else name
    if not NAME.fullmatch(name):
        raise InputError(f"--name {name!r}: letters, digits, '_', '-' and '.' only, at most 100")
    folder = out / name / str(_version(out / name, version))
    limits = limits or Limits(max_pixels=int(sidecar.preprocessing["store"].get("max_pixels", Limits.max_pixels)))
    for file in server_files(out, name):  # before the graph is made
        journal.check_replaceable(file)
    graph, networks, others = make_graph(model, sidecar, limits, portable)
    card = make_card(model, sidecar, others, folder, limits)
    journal.open_folder(out)
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", suffix=".partial", dir=folder.parent))
    temporary.chmod(0o755)
    try:
        endpoints = graph.endpoints() | {"card": card_endpoint(card)}
        write_archive(temporary, networks, endpoints)
        run = Path(sidecar.run["folder"]) if sidecar.run.get("folder") else model.parent.parent
        files = [write_warmup(temporary, name, endpoints, card), *write_model_files(temporary, card, run)]
        # A server that watches the folder must never see half a version.
        temporary.rename(folder)
    except OSError as error:
        if folder.exists():
            raise InputError(f"{folder}: this version exists already; choose another --version") from None
        raise error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    files = [folder / file.relative_to(temporary) for file in files]
    files += write_server_files(out, name, card)
    return Exported(folder, name, int(folder.name), tuple(endpoints), tuple(files))


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


def make_graph(
    model: Path, sidecar: Sidecar, limits: Limits, portable: bool
) -> tuple[Any, list[keras.Model], dict[str, Sidecar]]:
    """The graph of a model's kind, its networks, and the sidecars of its companions by role.

    Raises:
        InputError: a companion is missing, or a network is not what its sidecar says.
    """
    found = {role: read_companion(model, sidecar, role) for role in sidecar.companions}
    network = load_network(model, portable, sidecar)
    others = {role: (load_network(path, portable, card), card) for role, (path, card) in found.items()}
    networks, cards = (
        [network, *(one for one, _ in others.values())],
        {role: card for role, (_, card) in others.items()},
    )
    if sidecar.kind == "spitzoid-target":
        return BagNetwork(*others["source"], network, sidecar, limits), networks, cards
    if sidecar.kind == "multimag":
        return MagnifiedNetwork(network, sidecar, others, limits), networks, cards
    return ImageNetwork(network, sidecar, limits), networks, cards


def load_network(path: Path, portable: bool, sidecar: Sidecar | None = None) -> keras.Model:
    """The model in inference form; grouped convolutions split where asked for."""
    # Importing a module registers its layers; a model may hold any of them.
    for module in pkgutil.iter_modules(models.__path__):
        importlib.import_module(f"{models.__name__}.{module.name}")
    network = loading.load_network(path, sidecar, compile=False)
    if portable and any(isinstance(layer, GroupedConv2D) for layer in network._flatten_layers()):
        return make_portable(network)
    return network


def make_card(
    model: Path, sidecar: Sidecar, others: dict[str, Sidecar], folder: Path, limits: Limits
) -> dict[str, Any]:
    """All that a client or a reader needs to know of an exported model, as JSON can hold it."""

    def public(card: Sidecar) -> dict[str, Any]:
        # Where the run lies on the machine that trained is nobody else's business.
        return {**plain(card), "run": {key: value for key, value in card.run.items() if key != "folder"}}

    return {
        "schema": SCHEMA,
        "name": folder.parent.name,
        "version": int(folder.name),
        "exported": time.strftime("%Y-%m-%d"),
        "versions": {"melano_tf": __version__, "tensorflow": tf.__version__, "keras": keras.__version__},
        "file": model.name,
        "sidecar": public(sidecar),
        "companions": {role: public(other) for role, other in others.items()},
        # Of a multimag model: the signature for the tiles of each magnification.
        "magnifications": tile_signatures(judged_by(sidecar, others)) if sidecar.kind == "multimag" else None,
        "measured": measured_numbers(model, sidecar),
        "limits": plain(limits),
    }


def card_endpoint(card: dict[str, Any]) -> Any:
    """A signature that gives the card: `ask` int32 (B,), any number, -> `card_json` string (B,)."""
    text = json.dumps(card, ensure_ascii=False, default=str)

    def give(ask: Any) -> dict[str, Any]:
        return {"card_json": tf.fill([tf.size(ask)], tf.constant(text))}

    return tf.function(give, input_signature=[tf.TensorSpec([None], tf.int32, name="ask")])


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


def read_card(folder: Path) -> dict[str, Any]:
    """The card of an exported model's version folder.

    Raises:
        InputError: the folder is no exported model of this program.
    """
    path = folder / "assets.extra" / "card.json"
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError):
        raise InputError(f"{folder}: no exported model of this program (it has no {path.name})") from None


__all__ = ["Exported", "export_model", "make_card", "make_graph", "read_card"]
