"""What a frozen trunk makes of images, kept on disk: each image is looked at once, however often it is trained on.

The cache is a folder of shards (`.npy`, float16) of some images each, with every view of them: the turns
and mirror images of a square, which are all the augmentation that features on disk can have. A shard's name is a
digest of what is in it (the trunk's layers and weights, the images, the views), so that unfinished work is taken up
where it stopped, and another trunk makes other shards. What is read is compared with its checksum (`npy_rows`).
"""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from melano_tf.errors import InputError
from melano_tf.models.network_structure import structure
from melano_tf.pipelines.decoding_threads import decoders
from melano_tf.pipelines.image_batches import seen
from melano_tf.pipelines.image_cache import ImageCache
from melano_tf.pipelines.npy_rows import open_shards, shard_facts, write_shard
from melano_tf.pipelines.tile_batches import epoch_order, prepared, python_call
from melano_tf.runs.settings_digest import digest

VERSION = 1  # raised whenever the same trunk and images give other features
SHARD = 128  # images
CHUNK = 32  # pictures in the trunk at once
LARGEST = float(np.finfo(np.float16).max)
DIHEDRAL = tuple(range(8))
FLIPS = (0, 2, 4, 6)
VIEW_STREAM = 3  # beside those of pipelines.tiles


def dihedral(images: np.ndarray, view: int) -> np.ndarray:
    """One of a square's eight symmetries: `view % 4` turns by 90 degrees, from 4 on of the picture left for right.

    0 is the picture as it is; 0, 2, 4, 6 are the mirror images (half turn, left-right, up-down).

    Args:
        images: (n, side, side, C).
        view: 0 to 7.
    """
    if not 0 <= view < 8:
        raise ValueError(f"view {view}: 0 to 7")
    return np.rot90(images[:, :, ::-1] if view >= 4 else images, view % 4, axes=(1, 2))


class FeatureCache:
    """Features on disk, image by image, in the order in which they were asked for.

    Attributes:
        image_ids: names of the images, (n,).
        views: which of the eight views there are.
        shape: of one view's features, (h, w, C).
        paths: the shards' files.
    """

    def __init__(
        self, image_ids: Sequence[str], shards: Sequence[Path], facts: Sequence[Mapping[str, Any]], views: Sequence[int]
    ) -> None:
        self.image_ids, self.views = tuple(image_ids), tuple(views)
        self._places = {name: place for place, name in enumerate(self.image_ids)}
        self.paths = tuple(shards)
        self._open = open_shards(self.paths, facts)
        self.shape: tuple[int, ...]
        [self.shape] = {tuple(one["shape"][2:]) for one in facts}

    def rows(self, image_ids: Sequence[str]) -> np.ndarray:
        """Where images stand, int64 (n,).

        Raises:
            KeyError: an image is not in the cache.
        """
        return np.array([self._places[name] for name in image_ids], np.int64)

    def features(self, rows: np.ndarray, view: np.ndarray | int) -> np.ndarray:
        """Features of rows in a view (its place in `views`; one for all, or one each), float16 (n, h, w, C).

        Raises:
            InputError: they are not as they were written.
        """
        views = np.broadcast_to(np.asarray(view), (len(rows),))
        result = np.empty((len(rows), *self.shape), np.float16)
        for place, (row, which) in enumerate(zip(rows.tolist(), views.tolist(), strict=True)):
            shard, within = divmod(row, SHARD)
            self._open(shard).read(within * len(self.views) + which, result[place])
        return result


def cache_features(
    trunk: keras.Model,
    weights: str,
    images: ImageCache,
    image_ids: Sequence[str],
    folder: Path,
    views: Sequence[int] = DIHEDRAL,
    progress: Callable[[int], object] = lambda images: None,
) -> FeatureCache:
    """Run the trunk over every view of every image that is not in the cache yet.

    Args:
        trunk: (B, px, px, 3) in 0..255 -> (B, h, w, C), in inference mode; its input's side says at which size.
        weights: digest of the trunk's weights (`training.checkpoint.weights_sha256`).
        images: the decoded images.
        image_ids: names of the images, (n,).
        folder: of the shards; made if missing.
        views: which of the eight views (`DIHEDRAL`, `FLIPS`).
        progress: called with the number of images done, a shard at a time.

    Raises:
        InputError: a feature is not finite, or too large for float16; there are no images.
    """
    if not len(image_ids):
        raise InputError("no images to make features of")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    px = int(trunk.inputs[0].shape[1])
    forward = tf.function(lambda x: trunk(x, training=False), reduce_retracing=True)
    key = [VERSION, weights, structure(trunk), px, list(views)]
    shards: list[Path] = []
    known: list[dict[str, Any]] = []
    for start in range(0, len(image_ids), SHARD):
        part = list(image_ids[start : start + SHARD])
        rows = images.rows(part)
        path = folder / f"{digest([*key, images.identity(rows)])}.npy"
        if (facts := shard_facts(path)) is None:
            facts = _write(path, forward, images, rows, px, views)
        shards.append(path)
        known.append(facts)
        progress(len(part))
    return FeatureCache(image_ids, shards, known, views)


def _write(
    path: Path, forward: Any, images: ImageCache, rows: np.ndarray, px: int, views: Sequence[int]
) -> dict[str, Any]:
    pictures = np.asarray(seen(images.pixels(rows), images.aspects[rows], px))
    by_view = []
    for view in views:
        turned = np.ascontiguousarray(dihedral(pictures, view))
        parts = [
            forward(turned[at : at + CHUNK].astype(np.float32)).numpy().astype(np.float32)
            for at in range(0, len(rows), CHUNK)
        ]
        by_view.append(np.concatenate(parts))
    features = np.stack(by_view, axis=1)
    if not np.isfinite(features).all() or np.abs(features).max() > LARGEST:
        raise InputError(
            f"{path.parent}: the trunk's features are not finite or too large for float16 (above {LARGEST:g})"
        )
    return write_shard(path, features.astype(np.float16), {}, axes=2)


class FeatureBatches:
    """Endless batches of cached features for the training loop, each a pure function of (seed, global step).

    A batch is a dict: "x" float32 (B, h, w, C); "y" int32 (B,); "weight" float32 (B,), ones; "id" string (B,), the
    image's name; "row" int64 (B,), its place among those trained on. Every image is seen in one view an epoch, drawn
    anew each epoch. An epoch's last batch may be smaller.

    Args:
        cache: the features.
        image_ids: names of the images to train on, (n,).
        labels: int (n,).
        batch: images a batch.
        seed: the training's seed, below 2**31.

    Attributes:
        steps_per_epoch: batches in an epoch.

    Raises:
        InputError: there is nothing to train on.
    """

    def __init__(
        self, cache: FeatureCache, image_ids: Sequence[str], labels: np.ndarray, batch: int, seed: int
    ) -> None:
        if not len(image_ids):
            raise InputError("no images to train on")
        if len(image_ids) != len(labels):
            raise ValueError(f"{len(image_ids)} images, but {len(labels)} labels")
        self.cache, self.batch, self.seed = cache, batch, seed
        self._places = cache.rows(image_ids)
        self._ids = np.array(list(image_ids), dtype=object)
        self._labels = np.asarray(labels).astype(np.int32)
        # No method of this object here: the circle would keep it in memory until the next collection.
        self.order = functools.lru_cache(maxsize=2)(functools.partial(epoch_order, self._labels, seed))
        self.view = functools.lru_cache(maxsize=2)(
            functools.partial(epoch_views, len(image_ids), len(cache.views), seed)
        )
        self.steps_per_epoch = -(-len(image_ids) // batch)

    def _facts(self, step: np.ndarray) -> tuple[np.ndarray, ...]:
        epoch, part = divmod(int(step), self.steps_per_epoch)
        rows = self.order(epoch)[part * self.batch : (part + 1) * self.batch]
        features = self.cache.features(self._places[rows], self.view(epoch)[rows])
        return features, self._labels[rows], np.ones(len(rows), np.float32), self._ids[rows], rows

    def from_step(self, step: int) -> Iterator[dict[str, Any]]:
        """Batches from a global step on, without end; nothing before it is read."""
        types = [tf.float16, tf.int32, tf.float32, tf.string, tf.int64]
        shapes = [[None, *self.cache.shape], [None], [None], [None], [None]]

        def load(index: tf.Tensor) -> dict[str, Any]:
            facts = python_call(self._facts, [index], types)
            batch = dict(zip(("x", "y", "weight", "id", "row"), map(tf.ensure_shape, facts, shapes), strict=True))
            return {**batch, "x": tf.cast(batch["x"], tf.float32)}

        data = tf.data.Dataset.range(step, np.iinfo(np.int64).max)
        yield from prepared(data.map(load, num_parallel_calls=decoders()))


def epoch_views(count: int, views: int, seed: int, epoch: int) -> np.ndarray:
    """The view of each of `count` images in an epoch, int64 in 0..views - 1."""
    return np.random.default_rng([seed, epoch, VIEW_STREAM]).integers(views, size=count)


def predict_features(
    cache: FeatureCache, image_ids: Sequence[str], batch: int, view: int = 0
) -> Iterator[dict[str, np.ndarray]]:
    """Images in the order given, once, in one view: dicts of "x" float32 (B, h, w, C)."""
    rows = cache.rows(image_ids)
    for start in range(0, len(rows), batch):
        yield {"x": cache.features(rows[start : start + batch], view).astype(np.float32)}
