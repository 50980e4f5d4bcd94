"""Models asked from a page: maps of what they look at, and answers with other metadata.

TensorFlow, and what goes with it, is loaded here alone, on the first question.
"""

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from melano_tf.errors import InputError
from melano_tf.pipelines.tfrecords import PLACE, read_jpegs, slide_files
from melano_tf.runs.sidecar import Sidecar
from melano_tf.training.familiarity import UNTOLD, distance_words, read_familiarity
from melano_tf.view.run_cases import Seen

KEPT = 3  # loaded networks
TILE_LAYER, IMAGE_LAYER = "refined", "features"


@dataclass(frozen=True, eq=False)
class Asked:
    """What a model says of one image.

    Attributes:
        probabilities: (K,), calibrated where a calibration was fitted.
        distance: from the model's training; past 1 the image is unlike all of it; None where it cannot tell.
    """

    probabilities: NDArray[np.float64]
    distance: float | None


@dataclass(frozen=True, eq=False)
class Map:
    """Where a model looked.

    Attributes:
        name: of the method.
        values: float (h, w), 0 to 1 of its maximum, over the whole picture.
        words: what is to be said of it, or "".
    """

    name: str
    values: NDArray[np.float32]
    words: str = ""


class Models:
    """The networks that were asked last; for one thread."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[str, ...], tuple[Any, Sidecar]] = OrderedDict()

    def get(self, run: Seen, stem: str) -> tuple[Any, Sidecar]:
        """A run's network and its sidecar, as both stand there now.

        Raises:
            InputError: its file is not there, or not of the run's present settings.
        """
        path = run.folder / "models" / f"{stem}.keras"
        if not all(map(run.standing.holds, (path, Sidecar.path(path)))):
            raise InputError(f"models/{stem}.keras is not there, or of other settings than the run's present ones")
        from melano_tf.training.tensorflow_runtime import import_quietly

        import_quietly()
        from melano_tf.serving.network_loading import load_network

        # A sidecar is said anew without its network where the decision alone was made anew.
        key = (str(path), *(str(one.stat().st_mtime_ns) for one in (path, Sidecar.path(path))))
        found = self._kept.pop(key, None)
        if found is None:
            sidecar = Sidecar.read(path)
            found = load_network(path, sidecar), sidecar
        self._kept[key] = found
        while len(self._kept) > KEPT:
            self._kept.popitem(last=False)
        return found


def tile_maps(
    models: Models, run: Seen, slide_id: str, tile: int, magnification: str, stem: str, wanted: int | None
) -> list[Map]:
    """What a tile model saw in a tile: its CAM where it has one, and its Grad-CAM, of one class.

    Args:
        models: the networks that are loaded.
        run: the run.
        slide_id, tile, magnification: the tile.
        stem: of the model's file.
        wanted: index of the class; None: the one that the model finds most probable in the tile.

    Raises:
        InputError: the model or the tile is not there.
    """
    network, sidecar = models.get(run, stem)
    import tensorflow as tf

    from melano_tf.explain.cam import class_activation_map, gradient_map, has_cam
    from melano_tf.pipelines.tile_batches import decode

    folder = run.folder / "tiles"
    table = pd.read_parquet(slide_files(folder, slide_id)[1])
    row = table[table["tile"] == tile]
    if "magnification" in table:
        row = row[row["magnification"] == magnification]
    if not len(row) or not int(row["length"].iloc[0]):
        raise InputError(f"tile {tile} of {slide_id} is not stored")
    if PLACE[-1] not in row:
        raise InputError(f"{folder}: tiles without checksums, of an older version; give the run's command again")
    jpegs = read_jpegs(folder, slide_id, row[list(PLACE)].to_numpy()[:1])
    picture = np.asarray(decode(tf.constant(jpegs), tf.constant(sidecar.input_px)), np.float32)
    far = far_words(how_far(run, stem, network, sidecar, picture))
    shown = int(np.argmax(np.asarray(network(picture, training=False))[0])) if wanted is None else wanted
    name, found = sidecar.classes[shown], []
    if has_cam(network):
        cam = class_activation_map(network, picture, shown)
        found.append(Map("CAM", cam.maps[0], map_words(name, bool(cam.empty[0]), far)))
    grad = gradient_map(network, picture, shown, TILE_LAYER)
    return [*found, Map("Grad-CAM", grad.maps[0], map_words(name, bool(grad.empty[0]), far))]


def map_words(name: str, empty: bool, far: str) -> str:
    """What is to be said of a map of what speaks for a class: which one, and how far the picture is from training."""
    return f"{'nothing' if empty else 'what'} speaks for {name}; {far}"


def how_far(run: Seen, stem: str, network: Any, sidecar: Sidecar, pictures: NDArray[np.float32]) -> float | None:
    """The distance of one picture (1, px, px, 3) from a model's training; None where the model cannot tell.

    Raises:
        InputError: the description of its training is damaged, or of another model.
    """
    from melano_tf.training.embedding import embedder

    known = read_familiarity(run.folder / "models" / f"{stem}.keras", sidecar.run.get("weights_sha256"))
    made = None if known is None else embedder(network)
    if known is None or made is None:
        return None
    found = made(np.asarray(pictures, np.float32), training=False)
    return float(known.distance(np.asarray(found["embedding"]), np.asarray(found["look"]))[0])


def far_words(distance: float | None) -> str:
    """A distance from a training in a line; also where it cannot be told."""
    return distance_words(distance) or UNTOLD


def _inputs(network: Any, sidecar: Sidecar, path: Path, facts: Mapping[str, Any]) -> dict[str, Any]:
    """What a network takes of one image file and what is known of its patient.

    Raises:
        InputError: the file cannot be read, or a word is none that the model knows.
    """
    from melano_tf.dermoscopy.image_files import UnreadableImageError
    from melano_tf.models.metadata_layer import MetadataCode
    from melano_tf.pipelines.image_batches import seen
    from melano_tf.pipelines.image_cache import decode_image
    from melano_tf.pipelines.image_settings import ImageCacheSettings

    try:
        stored = decode_image(path, ImageCacheSettings(**sidecar.preprocessing["store"]))
    except UnreadableImageError as error:
        raise InputError(f"{path.name}: {error}") from None
    pixels = seen(stored.pixels[None], np.array([stored.aspect], np.float32), sidecar.input_px)
    inputs: dict[str, Any] = {"image": np.asarray(pixels, np.float32)}
    if (written := sidecar.preprocessing["metadata"]) is not None:
        code = MetadataCode.from_json(written)
        inputs["metadata"] = code.encode({field.name: [facts[field.name]] for field in code.fields})
    return inputs


def ask(models: Models, run: Seen, stem: str, path: Path, facts: Mapping[str, Any]) -> Asked:
    """What a model says of one image, told these facts.

    Args:
        models: the networks that are loaded.
        run: the run.
        stem: of the model's file.
        path: the image.
        facts: age (years, NaN where unknown), sex, site.

    Raises:
        InputError: the model or the image cannot be used.
    """
    from melano_tf.evaluation.thresholds import Decision

    network, sidecar = models.get(run, stem)
    inputs = _inputs(network, sidecar, path, facts)
    answer = np.asarray(network(inputs, training=False), np.float64)[0]
    far = how_far(run, stem, network, sidecar, inputs["image"])
    if len(answer) == 1:
        decision = Decision.from_sidecar(sidecar.cut, sidecar.threshold_from, sidecar.calibration)
        positive = float(decision.probability(answer)[0])
        return Asked(np.array([1 - positive, positive]), far)
    return Asked(answer / answer.sum(), far)


def image_maps(models: Models, run: Seen, stem: str, path: Path, facts: Mapping[str, Any], called: int) -> list[Map]:
    """Where a model looked in an image: the attention that it has, and the Grad-CAM of one class.

    Raises:
        InputError: the model or the image cannot be used.
    """
    network, sidecar = models.get(run, stem)
    from melano_tf.explain.cam import gradient_map
    from melano_tf.training.embedding import bare

    inputs = _inputs(network, sidecar, path, facts)
    far = far_words(how_far(run, stem, network, sidecar, inputs["image"]))
    network, inputs["image"] = bare(network, inputs["image"])
    found = []
    if {layer.name for layer in network.layers} & {"cbam", "decisions"}:
        found.append(_cbam(network, sidecar, inputs, called))
    answer = gradient_map(network, inputs, called, IMAGE_LAYER)
    words = map_words(sidecar.classes[called], bool(answer.empty[0]), far)
    return [*found, Map("Grad-CAM", answer.maps[0], words)]


def _cbam(network: Any, sidecar: Sidecar, inputs: Mapping[str, Any], called: int) -> Map:
    """CBAM's spatial attention, of a hierarchical model at the node of the last decision for the class."""
    from melano_tf.models.hierarchical_classifier import attention_model
    from melano_tf.models.taxonomy import Taxonomy
    from melano_tf.reports.attention_figures import enlarged

    looks = attention_model(network)({"image": inputs["image"]})
    node, words = 0, "stretched to its own range"
    if sidecar.taxonomy is not None and looks["spatial"].shape[1] > 1:
        taxonomy = Taxonomy.from_mapping(sidecar.taxonomy, sidecar.classes)
        node = int(taxonomy.last_nodes(np.array([called]))[0])
        words = f"at the last decision for {sidecar.classes[called]}; {words}"
    values = np.asarray(looks["spatial"])[0, node]
    size = (sidecar.input_px, sidecar.input_px)
    return Map("CBAM, spatial attention", enlarged(values, size).astype(np.float32), words)
