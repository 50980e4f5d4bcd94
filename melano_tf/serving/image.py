"""A trained image classifier at work on images, with or without metadata."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from melano_tf.dermoscopy.isic_images import UnreadableImageError
from melano_tf.dermoscopy.isic_layouts import SUFFIXES, count_faults, parse_value, read_table
from melano_tf.errors import InputError
from melano_tf.evaluation.thresholds import Decision
from melano_tf.models import zoome
from melano_tf.models.metadata import UNKNOWN, MetadataCode
from melano_tf.pipelines.image_batches import seen
from melano_tf.pipelines.image_settings import ImageCacheSettings
from melano_tf.pipelines.images import StoredImage, decode_image
from melano_tf.runs.sidecar import Sidecar
from melano_tf.serving.loading import load_network
from melano_tf.serving.record import blank_record
from melano_tf.serving.remarks import remark_on
from melano_tf.specs import load_spec

CHUNK = 32  # images in memory at once; it changes memory and speed, not the answer
__all__ = [
    "ImageAnswer",
    "Patient",
    "answer_record",
    "find_inputs",
    "predict_images",
    "read_metadata",
    "zoome",
]


@dataclass(frozen=True)
class Patient:
    """What is known of the patient and the lesion; what is not is NaN or "unknown"."""

    age: float = float("nan")
    sex: str = UNKNOWN
    site: str = UNKNOWN

    @classmethod
    def of(cls, age: str | None, sex: str | None, site: str | None) -> "Patient":
        """From words as a person writes them; None and empty ones are unknown.

        Raises:
            InputError: not an age, or a word that is not understood; it says which are.
        """
        spec = load_spec("image_metadata")
        return cls(*(parse_value(name, value, spec) for name, value in (("age", age), ("sex", sex), ("site", site))))

    def known(self) -> dict[str, Any]:
        """As JSON can hold it; None for what is not known."""
        return {
            "age": None if self.age != self.age else self.age,
            **{name: None if value == UNKNOWN else value for name, value in (("sex", self.sex), ("site", self.site))},
        }


@dataclass(frozen=True)
class ImageAnswer:
    """What the model says of one image.

    Attributes:
        path: the file.
        probability: of the positive class; None where the image is unreadable.
        without_metadata: of the same network told nothing of the patient; None for one without metadata.
        patient: what it was told.
        reason: why the image cannot be used, or "".
        remark: what is odd about an image that was answered, or "".
    """

    path: Path
    probability: float | None
    without_metadata: float | None
    patient: Patient
    reason: str = ""
    remark: str = ""


def find_inputs(path: Path) -> list[Path]:
    """The image, or the images of a folder by name.

    Raises:
        InputError: there is no such file, or no image in the folder.
    """
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise InputError(f"{path}: no such image or folder")
    found = sorted(file for file in path.iterdir() if file.suffix.casefold() in SUFFIXES and file.name[0] != ".")
    if not found:
        raise InputError(f"{path}: no .jpg, .jpeg or .png file in it")
    return found


def read_metadata(path: Path, images: Sequence[Path]) -> tuple[dict[str, Patient], list[str]]:
    """What a CSV says of each image, by the file's name without suffix, and rows whose image was not given.

    Raises:
        InputError: all faults of the table at once, each with its row.
    """
    table = read_table(path, load_spec("image_metadata"), "metadata")
    if table.faults:
        raise InputError.of(f"{path}: {count_faults(table.faults)} (the header is row 1)", table.faults)
    rows = {
        str(row["image"]): Patient(**{name: row[name] for name in ("age", "sex", "site") if name in row})
        for row in table.cells.to_dict("records")
    }
    names = {image.stem for image in images}
    return {name: rows[name] for name in rows if name in names}, [name for name in rows if name not in names]


def predict_images(
    model: Path, sidecar: Sidecar, images: Sequence[Path], patients: Mapping[str, Patient]
) -> list[ImageAnswer]:
    """Judge images as the training saw its validation images: whole, upright, squeezed to a square.

    Args:
        model: the model's file.
        sidecar: its sidecar.
        images: the files.
        patients: what is known, by the file's name without suffix; nothing of the others.

    Returns:
        One answer an image, in their order; one that cannot be read has a reason instead of a probability.

    Raises:
        InputError: a word of the metadata is none that the model knows.
    """
    settings = ImageCacheSettings(**sidecar.preprocessing["store"])
    written = sidecar.preprocessing["metadata"]
    code = None if written is None else _code(written)
    network = load_network(model, sidecar)
    forward = tf.function(lambda inputs: network(inputs, training=False), reduce_retracing=True)
    answers: list[ImageAnswer] = []
    for start in range(0, len(images), CHUNK):
        part = images[start : start + CHUNK]
        told = [patients.get(path.stem, Patient()) for path in part]
        stored = [_decoded(path, settings) for path in part]
        found = {i: image for i, image in enumerate(stored) if isinstance(image, StoredImage)}
        given, blank = _ask(forward, sidecar.input_px, code, list(found.values()), [told[i] for i in found])
        place = {i: row for row, i in enumerate(found)}
        for i, path in enumerate(part):
            if i in place:
                alone = None if blank is None else float(blank[place[i]])
                remark = remark_on(found[i].pixels)
                answers.append(ImageAnswer(path, float(given[place[i]]), alone, told[i], remark=remark))
            else:
                answers.append(ImageAnswer(path, None, None, told[i], str(stored[i])))
    return answers


def _code(written: Mapping[str, Any]) -> MetadataCode:
    return MetadataCode(tuple(written["sites"]), tuple(written["sexes"]), float(written["age_scale"]))


def _decoded(path: Path, settings: ImageCacheSettings) -> StoredImage | str:
    try:
        return decode_image(path, settings)
    except UnreadableImageError as error:
        return str(error)


def _ask(
    forward: Any, input_px: int, code: MetadataCode | None, images: Sequence[StoredImage], told: Sequence[Patient]
) -> tuple[np.ndarray, np.ndarray | None]:
    """Probabilities (n,), and those without metadata (None for a network that takes none)."""
    if not images:
        return np.zeros(0), None if code is None else np.zeros(0)
    aspects = np.array([image.aspect for image in images], np.float32)
    pixels = tf.cast(seen(np.stack([image.pixels for image in images]), aspects, input_px), tf.float32)
    if code is None:
        return forward({"image": pixels}).numpy()[:, 0], None
    metadata = code.encode([p.age for p in told], [p.sex for p in told], [p.site for p in told])
    given, blank = (
        forward({"image": pixels, "metadata": numbers}).numpy()[:, 0] for numbers in (metadata, code.blank(len(told)))
    )
    return given, blank


def answer_record(answer: ImageAnswer, sidecar: Sidecar, model: Path) -> dict[str, Any]:
    """The answer in the schema that every model kind's predictions follow (JSON)."""
    negative, positive = sidecar.classes
    decision = Decision.from_sidecar(sidecar.cut, sidecar.threshold_from, sidecar.calibration)
    evidence: dict[str, Any] = {"metadata": answer.patient.known() if sidecar.preprocessing["metadata"] else None}
    record = {**blank_record(answer.path, model, sidecar), "evidence": evidence}
    if answer.probability is None:
        return {**record, "unreadable": answer.reason}
    record["remark"] = answer.remark
    p = answer.probability
    calibrated = float(decision.probability(p))
    record["probabilities"] = {negative: 1.0 - p, positive: p}
    if decision.calibration is not None:
        record["calibrated_probabilities"] = {negative: 1.0 - calibrated, positive: calibrated}
    record["decision"] = positive if bool(decision.apply(p)) else negative
    if answer.without_metadata is not None:
        alone = decision.probability(answer.without_metadata)
        evidence["probability_without_metadata"] = float(alone)
    return record
