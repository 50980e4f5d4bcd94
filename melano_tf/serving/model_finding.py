"""Find a model, wherever it is: a file of a run, an exported folder, or a name on a server."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from melano_tf.errors import InputError, line_of
from melano_tf.runs.sidecar import Sidecar
from melano_tf.serving.biopsy_models import BiopsyModel, LocalBiopsy
from melano_tf.serving.client import Client, ClientSettings, FolderTransport, find_transport
from melano_tf.serving.exported_models import ExportedBiopsy, ExportedFeatures, ExportedImages, ExportedTiles
from melano_tf.serving.feature_bag_models import FeatureModel, LocalFeatures
from melano_tf.serving.image_models import ImageModel, LocalImages
from melano_tf.serving.magnified_models import LocalTiles, MagnifiedModel
from melano_tf.serving.measured_metrics import measured_numbers, measured_words
from melano_tf.serving.model_interface import Answering, Card
from melano_tf.serving.model_kinds import check_companion, checked_kind, read_companion
from melano_tf.serving.run_of_model import made_together
from melano_tf.serving.serving_files import read_card
from melano_tf.training.familiarity import check_facts, read_familiarity

IMAGES = (ImageModel, LocalImages, ExportedImages)
# By the kinds that `model_kinds` knows: who answers, with which networks in this process, and with which exported ones.
MODELS: Mapping[str, tuple[Callable[..., Answering], Callable[[Card], Any], Callable[[Card, Client], Any]]] = {
    "spitzoid-target": (BiopsyModel, LocalBiopsy, ExportedBiopsy),
    "multimag": (MagnifiedModel, LocalTiles, ExportedTiles),
    **dict.fromkeys(("zoome", "weighting", "similarity"), IMAGES),
    "bags": (FeatureModel, LocalFeatures, ExportedFeatures),
}


def open_model(model: Path, server: str | None = None, asked: ClientSettings | None = None) -> Answering:
    """A model that answers.

    Args:
        model: a `.keras` file, an exported version's folder, or with a server the model's name there.
        server: address of a TensorFlow Serving.
        asked: how an exported model is asked.

    Raises:
        InputError: there is no such model, or no such server; or the model is of a kind that answers nothing.
    """
    if server is None and not model.is_dir():
        card = file_card(model)
        answering, here, _ = MODELS[card.sidecar.kind]
        return answering(card, here(card))
    if server is not None:
        if model.suffix == ".keras":
            raise InputError(
                f"--model {model}: with --server this is the model's name on the server, such as "
                f"{model.stem} (docker's models.config names it)"
            )
        client, content = served_version(server, str(model), asked)
        card = exported_card(content, model)
    else:
        if not (model / "saved_model.pb").is_file():
            raise InputError(f"{model}: a folder, but no exported model; name a .keras file, or an exported version")
        client = Client(FolderTransport(model), asked)
        # A folder's card is a file; its graph is loaded when it is needed.
        card = exported_card(read_card(model), model)
    answering, _, there = MODELS[card.sidecar.kind]
    return answering(card, there(card, client))


def served_version(server: str, name: str, asked: ClientSettings | None = None) -> tuple[Client, dict[str, Any]]:
    """A client of one version of a served model, and that version's card.

    A server may put a newer version in the place of the newest one at any time, and the card's classes, threshold and
    calibration hold for the version that gave it: from there on that one is asked. A card of an older export names no
    version; then the newest one is asked each time.

    Args:
        server, name: as `client.find_transport` takes them; a version that stands in the name is kept.
        asked: how it is asked.

    Raises:
        InputError: no such model, or the version that its card names is not there or is another model.
    """
    client = Client(find_transport(server, name), asked)
    content = client.card()
    version = content.get("version")
    if version is None or "/" in name:
        return client, content
    if type(version) is not int or version < 0:
        raise InputError("the model's card cannot be read (version); export the model again")
    client = Client(find_transport(server, f"{name}/{version}"), asked)
    # As text, in which NaN equals itself.
    if json.dumps(client.card()) != json.dumps(content):
        raise InputError(
            f"{client.transport.where}: the newest {name} there calls itself version {version}, and version {version} "
            f"there is another model; --model {name}/N, with the number of its folder there, names the one that is "
            "meant"
        )
    return client, content


def file_card(model: Path) -> Card:
    """What a `.keras` file says of itself.

    Raises:
        InputError: it, its sidecar or a model that it needs is missing, damaged or of another training, of a kind that
            answers nothing, or being trained anew in its run.
    """
    sidecar = Sidecar.read(model)
    checked_kind(sidecar, model)
    together = made_together(model)
    companions = {role: read_companion(model, sidecar, role, together)[1] for role in sidecar.companions}
    known = read_familiarity(model, sidecar.run.get("weights_sha256"))
    facts = None if known is None else known.facts
    return Card(model, model.name, sidecar, companions, measured_numbers(model, sidecar, together), facts)


def exported_card(content: Mapping[str, Any], model: Path) -> Card:
    """What an exported model says of itself.

    Args:
        content: see `export.card_content`.
        model: as it was asked for.

    Raises:
        InputError: the card is of another program or version, or of a model that answers nothing.
    """
    where = "the model's card"
    sidecar = _sidecar(content.get("sidecar"), where)
    checked_kind(sidecar, where)
    companions, measured, file = (content.get(name) for name in ("companions", "measured", "file"))
    familiar = content.get("familiar")  # not in cards of versions that described no training
    for name, value in (("companions", companions), ("measured", measured)):
        if not isinstance(value or {}, Mapping):
            raise InputError(f"{where} cannot be read ({name}); export the model again")
    if familiar is not None:
        try:
            check_facts(familiar)
        except ValueError as error:
            raise InputError(f"{where} cannot be read (familiar: {error}); export the model again") from None
    if not isinstance(file, str):
        raise InputError(f"{where} cannot be read (file); export the model again")
    if len(sidecar.classes) == 2:
        try:
            measured_words(measured)
        except (KeyError, TypeError, ValueError, OverflowError):
            raise InputError(f"{where} cannot be read (measured); export the model again") from None
    others: dict[str, Sidecar] = {}
    for role, written in (companions or {}).items():
        there = f"the {role} model's card"
        others[role] = _sidecar(written, there)
        check_companion(others[role], sidecar, there, file)
    return Card(model, file, sidecar, others, measured, familiar)


def _sidecar(content: Any, where: str) -> Sidecar:
    try:
        return Sidecar(**{**content, "classes": tuple(content["classes"])})
    except (TypeError, KeyError) as error:
        raise InputError(f"{where} cannot be read ({line_of(error)}); export the model again") from None
