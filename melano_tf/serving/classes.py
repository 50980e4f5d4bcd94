"""A trained classifier of several exclusive classes at work on images: any saved softmax whose sidecar names its
classes."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import tensorflow as tf

from melano_tf.dermoscopy.isic_images import UnreadableImageError
from melano_tf.errors import InputError
from melano_tf.evaluation.multiclass import UNDECIDED, decide
from melano_tf.models import hierarchical, squares
from melano_tf.models.taxonomy import Taxonomy
from melano_tf.pipelines.image_batches import seen
from melano_tf.pipelines.image_settings import ImageCacheSettings
from melano_tf.pipelines.images import StoredImage, decode_image
from melano_tf.runs.files import atomic
from melano_tf.runs.sidecar import Sidecar
from melano_tf.serving.loading import load_network
from melano_tf.serving.record import blank_record
from melano_tf.serving.remarks import remark_on

CHUNK = 32  # images in memory at once; it changes memory and speed, not the answer
__all__ = [
    "ClassAnswer",
    "challenge_table",
    "check_stems",
    "class_record",
    "hierarchical",  # its layers, and those of squares, must be known before a model is loaded
    "predict_classes",
    "squares",
    "write_challenge",
]


@dataclass(frozen=True)
class ClassAnswer:
    """What the model says of one image.

    Attributes:
        path: the file.
        probabilities: of each class in the sidecar's order, float64 (C,), summing to one; None where it is unreadable.
        reason: why the image cannot be used, or "".
        remark: what is odd about an image that was answered, or "".
    """

    path: Path
    probabilities: np.ndarray | None
    reason: str = ""
    remark: str = ""


def check_stems(images: Sequence[Path]) -> None:
    """Each row of the challenge's table is named by the file's name without suffix, so those must differ.

    Raises:
        InputError: names the files that share one.
    """
    by_stem: dict[str, list[str]] = {}
    for image in images:
        by_stem.setdefault(image.stem, []).append(image.name)
    faults = [f"{stem}: {', '.join(names)}" for stem, names in by_stem.items() if len(names) > 1]
    if faults:
        raise InputError.of(
            f"{images[0].parent}: rows are named by the files' names without suffix; rename or remove one of:", faults
        )


def predict_classes(model: Path, sidecar: Sidecar, images: Sequence[Path]) -> list[ClassAnswer]:
    """Judge images as the training saw its judged images: whole, upright, squeezed to a square, colour normalised.

    Args:
        model: the model's file, {"image": float32 (B, H, W, 3) in 0..255} -> (B, C).
        sidecar: its sidecar.
        images: the files.

    Returns:
        One answer an image, in their order; one that cannot be read has a reason instead of probabilities.

    Raises:
        InputError: the model's outputs are not the sidecar's classes.
    """
    settings = ImageCacheSettings(**sidecar.preprocessing["store"])
    network = load_network(model, sidecar)
    forward = tf.function(lambda x: network({"image": x}, training=False), reduce_retracing=True)
    answers: list[ClassAnswer] = []
    for start in range(0, len(images), CHUNK):
        part = images[start : start + CHUNK]
        stored = [_decoded(path, settings) for path in part]
        readable = [image for image in stored if isinstance(image, StoredImage)]
        found = iter(_ask(forward, sidecar.input_px, readable))
        for path, image in zip(part, stored, strict=True):
            if isinstance(image, StoredImage):
                answers.append(ClassAnswer(path, next(found), remark=remark_on(image.pixels)))
            else:
                answers.append(ClassAnswer(path, None, image))
    return answers


def _decoded(path: Path, settings: ImageCacheSettings) -> StoredImage | str:
    try:
        return decode_image(path, settings)
    except UnreadableImageError as error:
        return str(error)


def _ask(forward: Any, input_px: int, images: Sequence[StoredImage]) -> np.ndarray:
    """Probabilities, float64 (n, C), each row summing to one in double precision too."""
    if not images:
        return np.zeros((0, 0))
    aspects = np.array([image.aspect for image in images], np.float32)
    pixels = tf.cast(seen(np.stack([image.pixels for image in images]), aspects, input_px), tf.float32)
    found = np.asarray(forward(pixels), np.float64)
    return found / found.sum(axis=1, keepdims=True)


def challenge_table(answers: Sequence[ClassAnswer], sidecar: Sidecar) -> pd.DataFrame:
    """The readable images as the ISIC challenge's scorer takes them: image (the file's name without suffix), then the
    probability of each class under its name, in the sidecar's order."""
    readable = {answer.path.stem: answer.probabilities for answer in answers if answer.probabilities is not None}
    values = np.array(list(readable.values())).reshape(-1, len(sidecar.classes))
    table = pd.DataFrame(values, columns=list(sidecar.classes))
    table.insert(0, "image", list(readable))
    return table


def write_challenge(path: Path, answers: Sequence[ClassAnswer], sidecar: Sidecar) -> Path:
    """Write `challenge_table` as CSV, atomically, with ten digits; returns the path."""
    with atomic(path) as temporary:
        challenge_table(answers, sidecar).to_csv(temporary, index=False, float_format="%.10f", lineterminator="\n")
    return path


def class_record(answer: ClassAnswer, sidecar: Sidecar, model: Path) -> dict[str, Any]:
    """The answer in the schema that every model kind's predictions follow (JSON)."""
    record = blank_record(answer.path, model, sidecar) | {"evidence": {"metadata": None}}
    record |= {"threshold": None, "threshold_from": "the most probable class is called"}
    if answer.probabilities is None:
        return {**record, "unreadable": answer.reason}
    record["remark"] = answer.remark
    record["probabilities"] = dict(zip(sidecar.classes, answer.probabilities.tolist(), strict=True))
    called = int(decide(answer.probabilities[None])[0])
    record["decision"] = "undecided" if called == UNDECIDED else sidecar.classes[called]
    if sidecar.taxonomy is not None:
        path = Taxonomy.from_mapping(sidecar.taxonomy, sidecar.classes).greedy_of(answer.probabilities[None])
        record["evidence"]["by_greedy_path"] = sidecar.classes[int(path[0])]
    return record
