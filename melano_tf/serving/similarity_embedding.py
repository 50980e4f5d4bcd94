"""A trained similarity embedding at work: images brought to it as in training."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tensorflow as tf

from melano_tf.dermoscopy.image_files import UnreadableImageError
from melano_tf.errors import InputError, line_of
from melano_tf.pipelines.image_batches import seen
from melano_tf.pipelines.image_cache import StoredImage, decode_image
from melano_tf.pipelines.image_settings import ImageCacheSettings
from melano_tf.pipelines.replaced_images import even
from melano_tf.runs.sidecar import Sidecar
from melano_tf.serving.network_loading import load_network

KIND = "similarity-embedding"
CHUNK = 32  # images in memory at once; it changes memory and speed, not the answer


@dataclass(frozen=True)
class Embedded:
    """Images as points.

    Attributes:
        paths: of the images that could be used, (n,).
        vectors: float32 (n, D), L2-normalised.
        reasons: why the others could not.
    """

    paths: tuple[Path, ...]
    vectors: np.ndarray
    reasons: dict[Path, str]


def embed_images(
    model: Path, sidecar: Sidecar, paths: Sequence[Path], progress: Callable[[int], object] = lambda images: None
) -> Embedded:
    """Points of images: whole, upright, squeezed to a square, as the teacher saw them in inference.

    Args:
        model: the embedding's file.
        sidecar: its sidecar.
        paths: the images.
        progress: called with the number of images done at a time.

    Raises:
        InputError: the model or its sidecar is damaged.
    """
    try:
        settings = ImageCacheSettings(**sidecar.preprocessing["store"])
    except (InputError, TypeError, KeyError) as error:
        words = f"{line_of(error)[:200]}; take the run's files again"
        raise InputError(f"{model}: its sidecar is damaged, or of another program ({words})") from None
    network = load_network(model, sidecar)
    forward = tf.function(lambda image: network({"image": image}, training=False), reduce_retracing=True)
    width = int(network.outputs[0].shape[-1])
    used: list[Path] = []
    parts: list[np.ndarray] = []
    reasons: dict[Path, str] = {}
    for start in range(0, len(paths), CHUNK):
        found: dict[Path, StoredImage] = {}
        for path in paths[start : start + CHUNK]:
            try:
                image = decode_image(path, settings)
            except UnreadableImageError as error:
                reasons[path] = str(error)
                continue
            if even(image.pixels):
                reasons[path] = "of one colour (all black, for example): there is nothing to compare"
                continue
            found[path] = image
        if found:
            aspects = np.array([image.aspect for image in found.values()], np.float32)
            pixels = seen(np.stack([image.pixels for image in found.values()]), aspects, sidecar.input_px)
            parts.append(forward(tf.cast(pixels, tf.float32)).numpy())
            used += found
        progress(len(paths[start : start + CHUNK]))
    vectors = np.concatenate(parts) if parts else np.zeros((0, width), np.float32)
    return Embedded(tuple(used), vectors, reasons)
