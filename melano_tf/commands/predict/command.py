"""`predict`, from its settings to the answer's folder."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from melano_tf.commands.predict.asked_inputs import TABLE, is_table
from melano_tf.commands.predict.features import listed_files, predict_features
from melano_tf.commands.predict.images import predict_images
from melano_tf.commands.predict.settings import PredictSettings
from melano_tf.commands.predict.slides import predict_slide, predict_slides
from melano_tf.errors import InputError
from melano_tf.runs import journal
from melano_tf.runs.sidecar import Sidecar
from melano_tf.serving.client import ClientSettings
from melano_tf.serving.feature_bag_models import SUFFIXES
from melano_tf.serving.model_finding import open_model
from melano_tf.serving.model_interface import Answering
from melano_tf.serving.model_kinds import ANSWERING
from melano_tf.training import tensorflow_runtime

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")
SLIDE_SUFFIXES = (".svs", ".tif", ".tiff", ".ndpi", ".scn", ".mrxs", ".bif", ".vms", ".svslide", ".dcm")


def predict(settings: PredictSettings, say: Callable[[str], None]) -> Path:
    """Answer for slides, images or files of features; returns the folder that holds the answer.

    Raises:
        InputError: the model, the input or the folder cannot be used, or an option does not belong to the model's kind.
    """
    if not settings.input.exists():
        raise InputError(f"{settings.input}: no such file or folder")
    read = {"--input": settings.input, "--metadata": settings.metadata}
    journal.refuse_mixing(settings.out, read | ({} if settings.server else {"--model": settings.model}))
    # Before a graph is loaded, which starts TensorFlow.
    tensorflow_runtime.configure(settings.threads)
    asked = ClientSettings(settings.timeout, settings.retries, settings.chunk)
    model = open_model(settings.model, settings.server, asked)
    check_options(settings, model.card.sidecar)
    journal.open_folder(settings.out)
    if ANSWERING[model.card.sidecar.kind].judges == "image":
        return predict_images(settings, model, say)
    if ANSWERING[model.card.sidecar.kind].judges == "features":
        return predict_files(settings, model, say)
    if is_table(settings.input):
        return predict_slides(settings, lambda one: predict_slide(one, model, say), say)
    predict_slide(settings, model, say)
    return settings.out


def predict_files(settings: PredictSettings, model: Answering, say: Callable[[str], None]) -> Path:
    """Answer for one file of features, for those of a folder, or for those of a table."""
    if settings.input.is_file() and not is_table(settings.input):
        predict_features(settings, model, say)
        return settings.out
    rows = listed_files(settings.input) if settings.input.is_dir() else None
    return predict_slides(settings, lambda one: predict_features(one, model, say), say, rows)


def check_options(settings: PredictSettings, sidecar: Sidecar) -> None:
    """Refuse what does not belong to the model's kind.

    Raises:
        InputError: an option or an input of slides given to a model of images, or the other way round; a resolution
            that cannot be.
    """
    kind = ANSWERING[sidecar.kind]
    of_slides = {"mpp": settings.mpp, "thumbnail_mpp": settings.thumbnail_mpp}
    of_patients = {"metadata": settings.metadata, **vars(settings.patient)}
    foreign: dict[str, Any] = {} if kind.judges == "slide" else dict(of_slides)
    told = sidecar.preprocessing.get("metadata") is not None
    if kind.judges != "image" or not (told or kind.called_by == "threshold"):
        foreign |= of_patients
    if kind.judges != "image" or kind.called_by == "threshold":
        foreign |= {"favour": settings.favour}
    if kind.judges != "features":
        foreign |= {"slides": settings.slides}
    for name, given in foreign.items():
        if given is not None:
            raise InputError(f"--{name.replace('_', '-')}: does not belong to a model of kind {sidecar.kind!r}")
    if (mpp := settings.thumbnail_mpp) is not None and not 0 < mpp < math.inf:
        raise InputError(f"--thumbnail-mpp {mpp}: the picture's resolution in µm/px must lie above 0")
    suffix = settings.input.suffix.lower()
    if kind.judges == "slide" and (settings.input.is_dir() or suffix in IMAGE_SUFFIXES):
        raise InputError(f"{settings.input}: a model of kind {sidecar.kind!r} judges one slide, not images")
    if kind.judges == "features" and settings.input.is_file() and suffix not in (*SUFFIXES, TABLE):
        raise InputError(
            f"{settings.input}: a model of kind {sidecar.kind!r} judges files of features ({', '.join(SUFFIXES)}); "
            "`features` makes them of slides"
        )
    if kind.judges == "image" and settings.input.is_file() and suffix in SLIDE_SUFFIXES:
        raise InputError(f"{settings.input}: a model of kind {sidecar.kind!r} judges images (JPEG or PNG), not slides")
