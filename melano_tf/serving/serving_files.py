"""What stands beside an exported graph: labels, card, and the server's configuration with the exact calls."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from string import Template
from typing import Any

from melano_tf.environment import cores
from melano_tf.errors import InputError, line_of
from melano_tf.evaluation.slide_scores import aggregation_words
from melano_tf.models.metadata_layer import MetadataCode
from melano_tf.runs.atomic_files import atomic, write_json
from melano_tf.runs.file_integrity import mapping
from melano_tf.runs.sidecar import Sidecar
from melano_tf.serving import export_templates
from melano_tf.serving.measured_metrics import measured_words
from melano_tf.serving.run_of_model import made_together

MOST_TABLES = 10


def write_model_files(folder: Path, card: dict[str, Any], run: Path) -> list[Path]:
    """`assets.extra/`: labels.txt (one class a line), card.json (for programs) and model_card.md (for people).

    Args:
        folder: of the version.
        card: see `export.card_content`.
        run: folder of the run that trained the model; it may be gone.
    """
    extra = folder / "assets.extra"
    files = [extra / name for name in ("labels.txt", "card.json", "model_card.md")]
    _write(files[0], "".join(f"{name}\n" for name in card["sidecar"]["classes"]))
    write_json(files[1], card)
    _write(files[2], model_card(card, run))
    return files


def server_files(out: Path, name: str) -> list[Path]:
    """What stands beside the models: configuration of all of them, and the calls of one."""
    return [out / file for file in ("models.config", "batching.config", "docker-compose.yml", f"CALLS-{name}.md")]


def write_server_files(out: Path, name: str, card: dict[str, Any]) -> list[Path]:
    """`models.config` of every model that lies in `out`, batching.config, docker-compose.yml and CALLS.md."""
    names = sorted(path.parent.parent.parent.name for path in out.glob("*/*/assets.extra/card.json"))
    configs = [
        f'  config {{ name: "{one}" base_path: "/models/{one}" model_platform: "tensorflow" }}\n'
        for one in dict.fromkeys(names)
    ]
    files = server_files(out, name)
    _write(files[0], "model_config_list {\n" + "".join(configs) + "}\n")
    _write(files[1], Template(export_templates.BATCHING).substitute(cores=cores()))
    _write(files[2], Template(export_templates.COMPOSE).substitute(version=export_templates.SERVING_VERSION))
    _write(files[3], calls(card))
    return files


def _write(path: Path, text: str) -> None:
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def model_card(card: dict[str, Any], folder: Path) -> str:
    """The card for people, in Markdown: every number in it was measured, or says that it was not."""
    sidecar = card["sidecar"]
    run, calibration = sidecar["run"], sidecar["calibration"]
    data = run.get("table") or run.get("slides")
    if data:
        words = ", ".join(Path(str(part)).name for part in (data if isinstance(data, list | tuple) else [data]))
        data = f"{words} ({run.get('trained_on', 'a part of it')})"
    else:
        data = f"PHANTOMS that this program drew ({run.get('trained_on', 'a part of them')}): it knows nothing of skin"
    fitted = "none was fitted; both probabilities are the same"
    if calibration is not None:
        fitted = (
            f"temperature {calibration['temperature']:.3f}, fitted on {calibration['hold_out']}; log loss there "
            f"{calibration['log_loss_before']:.4f} before and {calibration['log_loss_after']:.4f} after"
        )
    tables = _tables(folder, card["file"], run)
    measured = measured_words(card["measured"])
    if card["measured"] is None and tables:
        measured = "what was measured stands in the tables below, which may be of several models of the run"
    return Template(export_templates.CARD).substitute(
        {key: f"{value:,}" for key, value in card["limits"].items()},
        name=card["name"],
        version=card["version"],
        what=_what(sidecar, card.get("magnifications") or {}),
        kind=sidecar["kind"],
        classes=", ".join(sidecar["classes"]),
        data=data,
        configuration=run.get("configuration") or run.get("aggregation") or "not recorded",
        weights=run.get("weights_sha256", "not recorded"),
        recipe=run.get("recipe", "not recorded"),
        preset=run.get("preset", "not recorded"),
        seed=run.get("seed", "not recorded"),
        exported=card["exported"],
        **card["versions"],
        threshold=_threshold(sidecar),
        measured=measured[0].upper() + measured[1:],
        calibration=fitted,
        familiar=_familiar(card.get("familiar")),
        tables=tables,
        preprocessing=_preprocessing(sidecar),
    )


def _familiar(facts: dict[str, Any] | None) -> str:
    if facts is None:
        return "It answers for any picture, also for one that shows no lesion."
    return (
        f"The output `distance` says how far an input is from {facts['described']:,} examples of its training; 1 is "
        f"what 99 % of {facts['measured']:,} {facts['from']} stay below. Past it `called` is empty, and `decision`, "
        "which is given all the same, stands on nothing that it knows."
    )


def _threshold(sidecar: dict[str, Any]) -> str:
    if len(sidecar["classes"]) != 2:
        return "No threshold: the most probable class is called"
    which = "network's own" if sidecar["calibration"] is None else "calibrated"
    where = f'on the {which} probability of "{sidecar["classes"][1]}"'
    return f"Threshold {sidecar['threshold']:.6g} {where}: {sidecar['threshold_from']}"


def _what(sidecar: dict[str, Any], signatures: dict[str, str]) -> str:
    classes = " / ".join(sidecar["classes"])
    if sidecar["kind"] == "spitzoid-target":
        return f"Judges a biopsy by the tiles of its whole slide image: {classes}."
    if sidecar["kind"] == "multimag":
        each = ", ".join(f"{name} by `{one}`" for name, one in signatures.items())
        made = sidecar["preprocessing"]
        how = aggregation_words(made.get("aggregation", "mean"), made.get("top", 10))
        return (
            f"Judges tiles of whole slide images, each magnification by a signature of its own ({each}), and a slide "
            f"by the mean over its magnifications, each {how}: {classes}."
        )
    if sidecar["kind"] == "bags":
        made = sidecar["preprocessing"]["features"]
        return (
            f"Judges a bag of features, all tiles of one {made['bag']} ({made['width']} numbers a tile, of the encoder "
            f"{made['encoder'] or 'that the run used'}): {classes}."
        )
    if "grid" in sidecar["preprocessing"]:
        return f"Judges tiles of whole slide images: {classes}."
    return f"Judges dermoscopy images: {classes}."


def _tables(folder: Path, file: str, run: Mapping[str, Any]) -> str:
    """Tables that a run made together with a model: those that its sidecar names as measuring it, else the first of the
    paper's. Nothing where the run, or the model in it, is not at hand: it may have been trained anew since.
    """
    folder = folder.absolute()
    model = _same_model(folder / "models" / file, run.get("weights_sha256"))
    try:
        together = None if model is None else made_together(model)
    except InputError:
        together = None
    if together is None:
        return ""
    named, there = run.get("tables"), sorted(folder.glob("tables/*.md"), key=_in_order)
    own = [path for path in there if path.stem in named] if isinstance(named, list) else []
    files = together.of(own or [path for path in there if path.stem.startswith("table")])[:MOST_TABLES]
    texts = [file.read_text(encoding="utf-8").strip() for file in files]
    # Below the card's own headings.
    return "".join("\n" + re.sub(r"^#+ ", "### ", text, flags=re.MULTILINE) + "\n" for text in texts)


def _in_order(path: Path) -> list[tuple[bool, int, str]]:
    """Table 2 comes before table 10."""
    return [(part.isdigit(), int(part) if part.isdigit() else 0, part) for part in re.split(r"(\d+)", path.stem)]


def _same_model(model: Path, weights: str | None) -> Path | None:
    """The model of these weights in a run's folder: the one of that name, or another of which a copy was renamed."""
    others = [] if weights is None else sorted(model.parent.glob("*.keras"))
    return next((path for path in (model, *others) if path.is_file() and _weights(path) == weights), None)


def _weights(model: Path) -> str | None:
    """The digest of a model's weights as its sidecar says; None where it does not."""
    run = mapping(Sidecar.path(model)).get("run")
    return run.get("weights_sha256") if isinstance(run, dict) else None


def _preprocessing(sidecar: dict[str, Any]) -> str:
    made, px = sidecar["preprocessing"], sidecar["input_px"]
    if sidecar["kind"] == "bags":
        return "- Nothing: features are taken as they are. Those of another encoder mean nothing to it."
    lines = ["JPEG decoded by the accurate integer transform, PNG; greyscale repeated to RGB; nothing else is asked."]
    if "grid" in made:
        lines.append(f"Tiles (grid: {made['grid']}) resized to {px} px, by area where they shrink.")
    else:
        square = {"whole": "Squeezed", "centre": "Cut to the largest square at its centre, resized"}
        how = square[made["store"].get("crop", "whole")]
        lines.append(f"{how} to {made['store']['stored_px']} px, then resampled to {px} px.")
        if made["store"].get("colour"):
            lines.append(f"Colour constancy: {made['store']['colour']}.")
    if made.get("metadata"):
        fields = MetadataCode.from_json(made["metadata"]).fields
        lines.append(f"Metadata: {', '.join(one.words_for_card() for one in fields)}.")
    return "\n".join(f"- {line}" for line in lines)


def _told(sidecar: dict[str, Any]) -> str:
    """An example of what may be told of a patient, as JSON without its brackets."""
    fields = MetadataCode.from_json(sidecar["preprocessing"]["metadata"]).fields
    return json.dumps({one.name: [one.example] for one in fields})[1:-1]


def calls(card: dict[str, Any]) -> str:
    """The exact curl, gRPC and command lines for one model, to be given in the folder of all of them."""
    sidecar = card["sidecar"]
    if sidecar["kind"] == "bags":
        return _feature_calls(card)
    bag, told = sidecar["kind"] == "spitzoid-target", bool(sidecar["preprocessing"].get("metadata"))
    names = {
        "name": card["name"],
        "signature": "image_only" if told else "serving_default",
        "input_name": "tile_bytes" if bag else "image_bytes",
        "example": "tiles/1.jpg" if bag else "lesion.jpg",
        "value": "[contents]" if bag else "contents",
        "metadata": _told(sidecar) if told else "",
    }
    curl = (
        export_templates.CURL_BAG
        if bag
        else export_templates.CURL_IMAGE + (export_templates.CURL_METADATA if told else "")
    )
    return Template(export_templates.CALLS).substitute(
        names,
        curl=Template(curl).substitute(names),
        grpc=Template(export_templates.GRPC).substitute(names),
        program=Template(export_templates.PROGRAM).substitute(
            name=card["name"],
            input="slide.svs" if "grid" in sidecar["preprocessing"] else "lesion.jpg",
            folder=f"{card['name']}/{card['version']}",
        ),
    )


def _feature_calls(card: dict[str, Any]) -> str:
    names = {"name": card["name"]}
    return Template(export_templates.CALLS).substitute(
        names,
        curl=Template(export_templates.CURL_FEATURES).substitute(names),
        grpc=Template(export_templates.GRPC_FEATURES).substitute(names),
        program=Template(export_templates.PROGRAM).substitute(
            names, input="slide.h5", folder=f"{card['name']}/{card['version']}"
        ),
    )


def read_card(folder: Path) -> dict[str, Any]:
    """The card of an exported model's version folder.

    Raises:
        InputError: the folder is no exported model of this program.
    """
    path = folder / "assets.extra" / "card.json"
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except OSError:
        raise InputError(f"{folder}: no exported model of this program (it has no {path.name})") from None
    except (ValueError, TypeError, RecursionError) as error:
        raise InputError(f"{path}: cannot be read ({line_of(error)[:200]}); export the model again") from None
