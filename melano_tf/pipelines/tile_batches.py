"""Batches of single tiles from a store: each a pure function of (seed, global step), so that any step can be first."""

import copy
import functools
import re
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import tensorflow as tf

from melano_tf.errors import InputError
from melano_tf.pipelines.augment import AugmentSettings, augment, sample_seeds
from melano_tf.pipelines.decoding_threads import decoders
from melano_tf.pipelines.tfrecords import PLACE, read_jpegs
from melano_tf.training.describe import Shown
from melano_tf.training.hosts import Share

DROPOUT_STREAM, ORDER_STREAM = 1, 2  # so that the draws of one epoch do not depend on each other
AHEAD = 2  # batches that are ready before they are asked for
Dropout = float | Literal["balance", "classes"]


def epoch_order(labels: np.ndarray, seed: int, epoch: int, dropout: Dropout = 0.0) -> np.ndarray:
    """The rows of one epoch in their order; the number of rows is the same in every epoch.

    Instance dropout (spitzoid, 4.1): non-tumour tiles (label 0) are left out at random, other ones each epoch; tumour
    tiles never are.

    Args:
        labels: int (n,), 0 for non-tumour.
        seed: the run's seed.
        epoch: counted from 0.
        dropout: the share of non-tumour tiles to leave out (rounded to whole tiles), or "balance": the share that
            makes both classes equal, 0 where non-tumour tiles are not in the majority. "classes" balances any number of
            classes: of each as many tiles are drawn as the smallest one has.

    Returns:
        int64 indices into `labels`, shuffled.

    Raises:
        InputError: "balance" without any tumour tile, or a share outside 0 to 1.
    """
    if dropout == "classes":
        rows = np.sort(_balanced(labels, np.random.default_rng([seed, epoch, DROPOUT_STREAM])))
        return np.random.default_rng([seed, epoch, ORDER_STREAM]).permutation(rows).astype(np.int64)
    negative, positive = np.flatnonzero(labels == 0), np.flatnonzero(labels != 0)
    if dropout == "balance":
        if not len(positive):
            raise InputError("no tumour tile to train on: check the annotations and the setting tumour_share")
        keep = min(len(negative), len(positive))
    else:
        if not 0 <= dropout <= 1:
            raise InputError(f"instance dropout must lie between 0 and 1, and is {dropout}")
        keep = len(negative) - round(dropout * len(negative))
    kept = np.random.default_rng([seed, epoch, DROPOUT_STREAM]).permutation(negative)[:keep]
    # Sorted, so that without dropout the order depends on the labels' number alone.
    rows = np.sort(np.concatenate([kept, positive]))
    return np.random.default_rng([seed, epoch, ORDER_STREAM]).permutation(rows).astype(np.int64)


def _balanced(labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """As many rows of each class that is there as the smallest one has."""
    members = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    keep = min(map(len, members))
    return np.concatenate([rng.permutation(rows)[:keep] for rows in members])


def _rows(labels: np.ndarray, seed: int, epoch: int, dropout: Dropout | None) -> np.ndarray:
    return np.arange(len(labels)) if dropout is None else epoch_order(labels, seed, epoch, dropout)


def part_of(rows: np.ndarray, share: Share | None) -> tuple[np.ndarray, np.ndarray]:
    """The rows of a batch that a host reads, and where they begin in it; without a share all."""
    if share is None:
        return rows, np.array(0, np.int64)
    return rows[share.places(len(rows))], np.array(share.start(len(rows)), np.int64)


def tile_ids(tiles: pd.DataFrame) -> np.ndarray:
    """Names of tiles for messages and predictions: "slide/tile number", object (n,)."""
    slides = tiles["slide_id"].astype(object)
    return (slides + "/" + tiles["tile"].astype(str).astype(object)).to_numpy(dtype=object)


@tf.function(reduce_retracing=True)
def decode(jpegs: tf.Tensor, input_px: tf.Tensor) -> tf.Tensor:
    """Decode JPEGs of one size to uint8 (n, input_px, input_px, 3), resized by area (or bilinearly, to enlarge).

    The accurate integer transform gives the same pixels on every machine.
    """
    images = tf.map_fn(
        lambda jpeg: tf.io.decode_jpeg(jpeg, channels=3, dct_method="INTEGER_ACCURATE"),
        jpegs,
        fn_output_signature=tf.TensorSpec([None, None, 3], tf.uint8),
    )
    height = tf.shape(images)[1]
    size = tf.stack([input_px, input_px])
    if height != input_px:
        if height > input_px:
            resized = tf.image.resize(images, size, method="area")
        else:
            resized = tf.image.resize(images, size, method="bilinear")
        images = tf.cast(tf.clip_by_value(tf.round(resized), 0, 255), tf.uint8)
    return images


class TileImages:
    """The images of a table of tiles: read from their places in the store, or from memory where they fit.

    Several data sets over parts of one table can share one of these, so that each tile is decoded once.

    Args:
        tiles: rows with slide_id, tile and the columns of `PLACE`.
        folder: the store.
        input_px: side of the images in pixels.
        cache_mib: memory that decoded images may take, in MiB. Where all fit, they are decoded at first use and kept;
            else none is kept and every use decodes.
    """

    def __init__(self, tiles: pd.DataFrame, folder: Path, input_px: int, cache_mib: float = 0.0) -> None:
        self.folder = Path(folder)
        self.input_px = input_px
        self.count = len(tiles)
        self.cached = self.count * input_px * input_px * 3 <= cache_mib * 2**20
        self._slides = tiles["slide_id"].to_numpy(dtype=object)
        self._places = tiles[list(PLACE)].to_numpy(np.int64)
        self._keys = pd.MultiIndex.from_arrays([self._slides, tiles["tile"].to_numpy(np.int64)])
        self._memory: np.ndarray | None = None

    def rows(self, tiles: pd.DataFrame) -> np.ndarray:
        """Where a table's tiles stand in this one, int64 (n,).

        Raises:
            KeyError: a tile is not in this table.
        """
        wanted = pd.MultiIndex.from_arrays([tiles["slide_id"].to_numpy(dtype=object), tiles["tile"].to_numpy(np.int64)])
        rows = self._keys.get_indexer(wanted)
        if (rows < 0).any():
            raise KeyError(f"{int((rows < 0).sum())} tiles are not among the {self.count} of these images")
        return rows.astype(np.int64)

    def jpegs(self, rows: np.ndarray) -> np.ndarray:
        """Encoded images, object array of bytes (n,)."""
        result = np.empty(len(rows), object)
        slides = self._slides[rows]
        for slide_id in dict.fromkeys(slides):
            places = np.flatnonzero(slides == slide_id)
            result[places] = read_jpegs(self.folder, slide_id, self._places[rows[places]])
        return result

    @property
    def filled(self) -> bool:
        """Whether the images are in memory."""
        return self._memory is not None

    def remembered(self, rows: np.ndarray) -> np.ndarray:
        """Images of rows from memory, uint8 (n, input_px, input_px, 3), after `fill`."""
        assert self._memory is not None
        return self._memory[rows]

    def fill(self) -> None:
        """Decode all images into memory, if they fit; later calls do nothing."""
        if not self.cached or self._memory is not None:
            return
        memory = np.empty((self.count, self.input_px, self.input_px, 3), np.uint8)
        start = 0
        for images in _chunks(self, np.arange(self.count), 64):
            memory[start : start + len(images)] = images
            start += len(images)
        self._memory = memory

    def tensor(self, rows: tf.Tensor) -> tf.Tensor:
        """Images of rows int64 (n,), uint8 (n, input_px, input_px, 3), for use in a tf.data graph after `fill`."""
        if self._memory is not None:
            images = python_call(self.remembered, [rows], tf.uint8)
        else:
            jpegs = python_call(self.jpegs, [rows], tf.string)
            images = decode(tf.ensure_shape(jpegs, [None]), tf.constant(self.input_px))
        return tf.ensure_shape(images, [None, self.input_px, self.input_px, 3])


def python_call(method: Callable[..., Any], inputs: list[tf.Tensor], types: Any) -> Any:
    """A Python method as an operation of a tf.data graph; the caller keeps the method's object alive.

    TensorFlow never forgets a function given to it, and with it all that it refers to (the memory of every data set
    that ever was); this one refers to its object weakly.
    """
    reference = weakref.WeakMethod(method)

    def call(*arguments: Any) -> Any:
        living = reference()
        if living is None:
            raise RuntimeError("the data set was used after its end")
        return living(*arguments)

    # stateless: what the methods read does not change, so that calls may run side by side and in any order.
    return tf.numpy_function(call, inputs, types, stateful=False)


def _chunks(images: TileImages, rows: np.ndarray, chunk: int) -> Iterator[np.ndarray]:
    """Images of rows, uint8 (up to chunk, px, px, 3) at a time, from memory or decoded ahead."""
    if images.filled:
        for start in range(0, len(rows), chunk):
            yield images.remembered(rows[start : start + chunk])
    elif len(rows):
        data = tf.data.Dataset.from_tensor_slices(rows).batch(chunk).map(images.tensor, num_parallel_calls=decoders())
        yield from prepared(data, as_numpy=True)


def prepared(data: tf.data.Dataset, as_numpy: bool = False) -> Iterator[Any]:
    """A data set's elements, `AHEAD` of them ready, in order, without the tuning that takes memory and start-up time.

    Raises:
        InputError: what is stored cannot be read, or is not what was written.
    """
    options = tf.data.Options()
    options.deterministic = True
    options.autotune.enabled = False
    options.threading.private_threadpool_size = decoders()
    ahead = data.prefetch(AHEAD).with_options(options)
    try:
        yield from ahead.as_numpy_iterator() if as_numpy else ahead
    except tf.errors.OpError as error:
        if (words := _damage(error)) is None:
            raise
        raise InputError(words) from None


def _damage(error: tf.errors.OpError) -> str | None:
    """One line for what was raised of a stored file within a graph; None for any other error."""
    ours = re.search(r"\bInputError: (.*?)\s*(?:\nTraceback|$)", error.message, flags=re.DOTALL)
    return ours.group(1) if ours else None


class TileBatches:
    """Endless batches of tiles for the training loop.

    A batch is a dict: "x" uint8 (B, px, px, 3) RGB; "y" int32 (B,); "weight" float32 (B,); "id" string (B,), slide and
    tile number; "row" int64 (B,), the row in the table. An epoch's last batch may be smaller.

    Args:
        tiles: the table's rows to train on.
        folder: the store.
        input_px: side of the model's input in pixels.
        batch: tiles a batch (the paper: 64).
        seed: the run's seed, below 2**31.
        labels: int (n,), 0 non-tumour, 1 tumour.
        train: False keeps the table's order, without dropout and augmentation.
        instance_dropout: see `epoch_order`.
        augment: augmentations, None for none.
        weights: sample weights (n,), None for ones.
        images: shared images that hold these tiles; made here if None.
        cache_mib: memory for decoded images made here, in MiB.

    Attributes:
        steps_per_epoch: batches in an epoch.
        samples_per_epoch: tiles in an epoch, after instance dropout.

    Raises:
        InputError: no tiles, or see `epoch_order`.
    """

    def __init__(
        self,
        tiles: pd.DataFrame,
        folder: Path,
        input_px: int,
        batch: int,
        seed: int,
        labels: np.ndarray,
        train: bool = True,
        instance_dropout: Dropout = 0.0,
        augment: AugmentSettings | None = None,
        weights: np.ndarray | None = None,
        images: TileImages | None = None,
        cache_mib: float = 256.0,
    ) -> None:
        if not len(tiles):
            raise InputError("no tiles to train on: every slide is empty or failed (slides.csv says why)")
        self.batch, self.seed = batch, seed
        self.augment = augment if train and augment is not None and augment.active else None
        self.images = images if images is not None else TileImages(tiles, folder, input_px, cache_mib)
        self._places = self.images.rows(tiles)
        self._labels = np.asarray(labels).astype(np.int32)
        self._weights = np.ones(len(tiles), np.float32) if weights is None else np.asarray(weights, np.float32)
        if not len(tiles) == len(self._labels) == len(self._weights):
            raise ValueError(f"{len(tiles)} tiles, {len(self._labels)} labels, {len(self._weights)} weights")
        self._ids = tile_ids(tiles)
        # No method of this object here: the circle would keep the images in memory until the next collection.
        draw = functools.partial(_rows, self._labels, seed, dropout=instance_dropout if train else None)
        # The order of an epoch is asked for at each of its steps.
        self.order = functools.lru_cache(maxsize=2)(draw)
        self.samples_per_epoch = len(self.order(0))
        self.steps_per_epoch = -(-self.samples_per_epoch // batch)
        self.share: Share | None = None

    def shared(self, share: Share) -> "TileBatches":
        """The same batches, of which "x" holds one host's part and "x_from" says where that begins."""
        part = copy.copy(self)
        part.share = share
        return part

    def _facts(self, step: np.ndarray) -> tuple[np.ndarray, ...]:
        """What a step holds: places in `images` and rows of what is read, its start; rows, labels, weights, ids."""
        epoch, part = divmod(int(step), self.steps_per_epoch)
        rows = self.order(epoch)[part * self.batch : (part + 1) * self.batch]
        own, start = part_of(rows, self.share)
        return self._places[own], own, start, rows, self._labels[rows], self._weights[rows], self._ids[rows]

    def from_step(self, step: int) -> Iterator[dict[str, tf.Tensor]]:
        """Batches from a global step on, without end; nothing before it is read."""
        self.images.fill()
        types = [tf.int64, tf.int64, tf.int64, tf.int64, tf.int32, tf.float32, tf.string]
        shapes = [[None], [None], [], [None], [None], [None], [None]]

        def load(index: tf.Tensor) -> dict[str, tf.Tensor]:
            facts = python_call(self._facts, [index], types)
            places, own, start, rows, labels, weights, ids = map(tf.ensure_shape, facts, shapes)
            x = self.images.tensor(places)
            if self.augment is not None:
                x = augment(x, sample_seeds(self.seed, index // self.steps_per_epoch, own), self.augment)
            batch = {"x": x, "y": labels, "weight": weights, "id": ids, "row": rows}
            return batch if self.share is None else {**batch, "x_from": start}

        data = tf.data.Dataset.range(step, np.iinfo(np.int64).max)
        yield from prepared(data.map(load, num_parallel_calls=decoders()))


def predict_batches(
    tiles: pd.DataFrame, folder: Path, input_px: int, batch: int, images: TileImages | None = None
) -> Iterator[dict[str, Any]]:
    """Tiles in the table's order, once: dicts of "x" uint8 (B, px, px, 3), "id" object (B,) and "row" int64 (B,)."""
    images = images if images is not None else TileImages(tiles, folder, input_px)
    images.fill()
    ids, start = tile_ids(tiles), 0
    for x in _chunks(images, images.rows(tiles), batch):
        rows = np.arange(start, start + len(x))
        yield {"x": x, "id": ids[rows], "row": rows}
        start += len(x)


def shown_tiles(
    tiles: pd.DataFrame, folder: Path, input_px: int, batch: int, images: TileImages | None = None
) -> Shown:
    """Tiles as they are, for `training.describe`; each under its slide's name."""
    slides = tiles["slide_id"].to_numpy(dtype=object)

    def batches(places: np.ndarray) -> Iterator[dict[str, Any]]:
        own = tiles.iloc[places].reset_index(drop=True)
        for part in predict_batches(own, folder, input_px, batch, images):
            yield {"x": part["x"], "id": slides[places][part["row"]]}

    return Shown(slides.tolist(), batches)
