"""Embeddings of a slide's tiles by any Keras network, written as TRIDENT writes them (`data_specs/features.yaml`)."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import h5py  # type: ignore[import-untyped]
import keras
import numpy as np
import pandas as pd
import tensorflow as tf

import melano_tf.models.registered_layers  # that files of this project are made of  # noqa: F401
from melano_tf.errors import InputError
from melano_tf.home_folders import written_path
from melano_tf.models.backbone_graphs import build_backbone
from melano_tf.models.network_structure import structure
from melano_tf.pipelines.feature_cohort import SETTINGS
from melano_tf.pipelines.slide_apart import SlideApart
from melano_tf.pipelines.slide_cutting import HELD_MIB, read_tile
from melano_tf.pipelines.tile_store_settings import StoreSettings
from melano_tf.runs import journal
from melano_tf.runs.atomic_files import atomic
from melano_tf.runs.settings_digest import digest, plain
from melano_tf.slides.slide import Slide
from melano_tf.slides.tiling import TileGrid, check_fine_enough, tile_extent, tile_table
from melano_tf.slides.tissue import tissue_mask
from melano_tf.training.checkpoint import weights_sha256

FORMAT = 1  # part of every key: change it when the files' content changes
KEY, NOTES = "melano_tf_key", "melano_tf_notes"  # attributes of a file, beside SETTINGS
CHUNK_ROWS = 256
NOMINAL = 0.02  # a power this near to a whole number is written as that number


@dataclass(frozen=True)
class SlideFeatureSettings:
    """How features are made of slides.

    Raises:
        InputError: a value outside its range.
    """

    encoder: str = "resnet50"
    """A network of keras.applications by its name, or the path of a `.keras` file that takes RGB tiles in 0..255."""
    weights: str = "imagenet"
    """Weights of a named network: imagenet, none (random: for trials), or a file."""
    layer: str | None = None
    """Layer of a `.keras` file whose output is taken; None: "embedding" where there is one, else the model's output."""
    grid: TileGrid = field(default_factory=lambda: TileGrid(tile_px=256, mpp=0.5, overlap=0.0))
    """The tiles (TRIDENT's usual: 256 px at 20x, no overlap)."""
    mask_mpp: float = 8.0
    """Resolution of the tissue mask in µm/px."""
    batch: int = 32
    """Tiles in the encoder at once."""
    dtype: Literal["float32", "float16"] = "float32"
    """Of the stored features (TRIDENT: float32; STAMP: float16)."""

    def __post_init__(self) -> None:
        if self.batch < 1 or not self.mask_mpp > 0:
            raise InputError(f"features: batch = {self.batch} must be at least 1, mask_mpp = {self.mask_mpp} above 0")


@dataclass(frozen=True, eq=False)
class Encoder:
    """A network that makes one vector of a tile.

    Attributes:
        name: in the files it makes.
        model: (n, px, px, 3) in 0..255 -> (n, C).
        input_px: px.
        digest: of its weights and of how it is put together.
    """

    name: str
    model: keras.Model
    input_px: int
    digest: str


@dataclass(frozen=True)
class FeatureOutcome:
    """What became of one slide.

    Attributes:
        slide_id: the slide.
        status: "done", "kept" (made before, under the same key), "empty" (no tile holds enough tissue), or "failed".
        reason: why it is empty or failed, else "".
        tiles: features written.
        notes: what a person should know of it: a doubtful mpp, features of other settings that were removed; else "".
    """

    slide_id: str
    status: Literal["done", "kept", "empty", "failed"]
    reason: str = ""
    tiles: int = 0
    notes: str = ""


def load_encoder(settings: SlideFeatureSettings) -> Encoder:
    """Build or load the encoder.

    Raises:
        InputError: unknown name, no such file, weights that cannot be had, or a model that takes no RGB tile or gives
            no vector or map.
    """
    if settings.encoder.endswith(".keras"):
        path = written_path(settings.encoder)
        source, output = _loaded(path, settings.layer)
        name = path.stem
    else:
        if settings.layer is not None:
            raise InputError(f"features: layer {settings.layer!r} is of a .keras file, not of {settings.encoder}")
        source, output, _ = build_backbone(settings.encoder, settings.grid.tile_px, settings.weights, seed=0)
        name = settings.encoder
    if len(output.shape) == 4:
        output = keras.layers.GlobalAveragePooling2D(name="pooled")(output)
    shape = source.shape
    if len(shape) != 4 or shape[-1] != 3 or len(output.shape) != 2 or output.shape[-1] is None:
        raise InputError(f"{settings.encoder}: takes {shape} and gives {output.shape}; RGB tiles and one vector needed")
    model = keras.Model(source, output, name="encoder")
    px = shape[1] or settings.grid.tile_px
    return Encoder(name, model, int(px), digest([weights_sha256(model), structure(model), px]))


def _loaded(path: Path, layer: str | None) -> tuple[Any, Any]:
    """Input and output tensor of a `.keras` file up to a layer."""
    if not path.is_file():
        raise InputError(f"{path}: no such model file")
    try:
        model = keras.saving.load_model(path, compile=False)
    except Exception as error:
        raise InputError(f"{path}: is no .keras file that can be read ({str(error).splitlines()[0]})") from None
    if not isinstance(model, keras.Model) or len(getattr(model, "inputs", None) or []) != 1:
        raise InputError(f"{path}: an encoder takes one input, RGB tiles")
    names = [each.name for each in model.layers]
    if layer is not None and layer not in names:
        raise InputError(f"{path}: has no layer {layer!r}; its last ones are {', '.join(names[-5:])}")
    layer = layer or ("embedding" if "embedding" in names else None)
    outputs = model.outputs if layer is None else [model.get_layer(layer).output]
    if len(outputs) != 1:
        raise InputError(f"{path}: gives {len(outputs)} outputs; name the layer whose output is the feature vector")
    return model.inputs[0], outputs[0]


def write_features(
    slides: pd.DataFrame,
    settings: SlideFeatureSettings,
    folder: Path,
    encoder: Encoder | None = None,
    progress: Callable[[int, int], object] = lambda done, total: None,
) -> pd.DataFrame:
    """Write one file of features a slide, `<folder>/<slide_id>.h5`, one slide after the other.

    A file that stands there under the same key (settings, weights, size and date of the slide) is kept. One of another
    key is replaced, or removed where the slide is empty or fails now, so that a folder does not mix features of several
    settings. Only a batch of tiles is in memory.

    Args:
        slides: rows with slide_id, path and, where wanted, mpp (µm/px of level 0).
        settings: how.
        folder: made if missing.
        encoder: from `load_encoder`; loaded here if None.
        progress: called with (slides done, slides in all).

    Returns:
        `FeatureOutcome` of each slide, in order. Columns slide_id, status, reason, tiles, notes.

    Raises:
        InputError: the encoder cannot be had, or the folder cannot be written.
    """
    encoder = encoder or load_encoder(settings)
    forward = tf.function(lambda x: encoder.model(x, training=False), reduce_retracing=True)
    outcomes = []
    for row in slides.to_dict("records"):
        named = {str(name): value for name, value in row.items()}
        outcomes.append(_one_slide(named, settings, Path(folder), encoder, forward))
        progress(len(outcomes), len(slides))
    return pd.DataFrame([plain(outcome) for outcome in outcomes])


def _one_slide(
    row: Mapping[str, Any], settings: SlideFeatureSettings, folder: Path, encoder: Encoder, forward: Any
) -> FeatureOutcome:
    slide_id, mpp = str(row["slide_id"]), row.get("mpp")
    path, made_as = folder / f"{slide_id}.h5", _settings_digest(settings, encoder)
    key, notes = None, ""
    try:
        stat = Path(row["path"]).stat()
        how = {**plain(settings), "encoder": encoder.digest}
        key = digest([FORMAT, how, slide_id, None if pd.isna(mpp) else mpp, stat.st_size, stat.st_mtime_ns])
        if (kept := _finished(path, key)) is not None:
            return FeatureOutcome(slide_id, "kept", tiles=kept[0], notes=kept[1])
        with SlideApart(row["path"], slide_id, mpp, HELD_MIB) as slide:
            notes = slide.mpp_note
            check_fine_enough(slide, settings.grid)
            table, _ = tile_table(slide, tissue_mask(slide, settings.mask_mpp), None, settings.grid, "", "")
            if len(table):
                with atomic(path) as temporary, h5py.File(temporary, "w") as file:
                    _write(file, slide, table, settings, encoder, forward)
                    file.attrs.update({KEY: key, SETTINGS: made_as, NOTES: notes})
                return FeatureOutcome(slide_id, "done", tiles=len(table), notes=notes)
        outcome = FeatureOutcome(slide_id, "empty", f"no tile with at least {settings.grid.min_tissue:.0%} tissue")
    except InputError as error:
        outcome = FeatureOutcome(slide_id, "failed", str(error))
    except FileNotFoundError:
        outcome = FeatureOutcome(slide_id, "failed", f"{row['path']}: no such file")
    removed = "its features of other settings were removed" if _remove_other(path, key, made_as) else ""
    return replace(outcome, notes="; ".join(note for note in (notes, removed) if note))


def _settings_digest(settings: SlideFeatureSettings, encoder: Encoder) -> str:
    """The digest of what features of any slide depend on: their tiles, the encoder, their dtype."""
    return digest([FORMAT, encoder.digest, plain(settings.grid), settings.mask_mpp, settings.dtype])


def _finished(path: Path, key: str) -> tuple[int, str] | None:
    """How many features a file holds that was written under this key, and its notes; None where there is none."""
    try:
        with h5py.File(path, "r") as file:
            return (len(file["features"]), file.attrs.get(NOTES, "")) if file.attrs.get(KEY) == key else None
    except (OSError, KeyError):
        return None


def _remove_other(path: Path, key: str | None, made_as: str) -> bool:
    """Remove a slide's file that this program made otherwise than it would now; returns whether it did.

    Args:
        path: of the file, which need not be there.
        key: of the slide; None where it is not there, and the digest of settings in the file decides.
        made_as: that digest.
    """
    try:
        with h5py.File(path, "r") as file:
            found, settings = file.attrs.get(KEY), file.attrs.get(SETTINGS)
        journal.check_replaceable(path)
    except (OSError, InputError):  # none, none that can be read, or put there by somebody else
        return False
    if found is None or (settings == made_as if key is None else found == key):
        return False
    path.unlink()
    return True


def _write(
    file: h5py.File, slide: Slide, table: pd.DataFrame, settings: SlideFeatureSettings, encoder: Encoder, forward: Any
) -> None:
    """Features and coordinates with TRIDENT's attributes."""
    count, width = len(table), int(encoder.model.outputs[0].shape[-1])
    rows = min(CHUNK_ROWS, count)
    data = file.create_dataset("features", (count, width), settings.dtype, chunks=(rows, width), maxshape=(None, width))
    start = 0
    for images in _batches(slide, table, settings, encoder.input_px):
        part = forward(tf.constant(images, tf.float32)).numpy().astype(np.float32)
        if not np.isfinite(part).all() or np.abs(part).max() > np.finfo(settings.dtype).max:
            raise InputError(f"slide {slide.slide_id}: features that are not finite in {settings.dtype}")
        data[start : start + len(part)] = part
        start += len(part)
    corners = table[["x", "y"]].to_numpy(np.int64) + np.array(slide.origin, np.int64)
    coords = file.create_dataset("coords", data=corners, maxshape=(None, 2), chunks=(rows, 2))
    data.attrs.update({"name": slide.slide_id, "savetodir": "", "encoder": encoder.name})
    coords.attrs.update(_coordinate_attributes(slide, settings.grid))


def _coordinate_attributes(slide: Slide, grid: TileGrid) -> dict[str, Any]:
    """What TRIDENT writes beside coordinates, and `mpp` and `level0_mpp` beyond it."""
    level0_mpp = sum(slide.mpp) / 2
    return {
        "patch_size": grid.tile_px,
        "patch_size_level0": round(sum(tile_extent(slide.mpp, grid)) / 2),
        "level0_magnification": _power(level0_mpp),
        "target_magnification": _power(grid.mpp),
        "overlap": round(grid.overlap * grid.tile_px),
        "name": slide.slide_id,
        "savetodir": "",
        "level0_width": slide.size[0],
        "level0_height": slide.size[1],
        "mpp": grid.mpp,
        "level0_mpp": level0_mpp,
    }


def _power(mpp: float) -> float | int:
    """The nominal magnification of a resolution, 10 µm/px to 1x, whole where it nearly is."""
    power = 10.0 / mpp
    return round(power) if abs(power - round(power)) <= NOMINAL * power and power >= 1 else round(power, 3)


def _batches(slide: Slide, table: pd.DataFrame, settings: SlideFeatureSettings, px: int) -> Iterator[np.ndarray]:
    """Tiles of the table as the encoder takes them, uint8 (up to batch, px, px, 3)."""
    store, tiles = StoreSettings(stored_px=px), table.to_dict("records")
    for start in range(0, len(tiles), settings.batch):
        yield np.stack([read_tile(slide, tile, settings.grid, store) for tile in tiles[start : start + settings.batch]])
