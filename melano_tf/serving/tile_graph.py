"""What an exported graph does to tiles: tile classifiers, those of several magnifications together, and the two halves
of a spitzoid model.

A biopsy has any number of tiles. A client sends them in chunks to `embed`, which judges and embeds each tile, chooses
those that make the bag, and sends their embeddings to `aggregate`. The default signature does both for a small bag.
Bags of several biopsies stand side by side in the batch, with a mask, so that a server that joins requests never mixes
two biopsies.
"""

from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from melano_tf.models.biopsy_classifier import split_target
from melano_tf.runs.sidecar import Sidecar
from melano_tf.serving.encoded_image_checks import refuse_count
from melano_tf.serving.image_graph import Limits, answers, decoder, resized, shared, signature
from melano_tf.serving.magnified_models import OWN, judged_by, tile_signatures
from melano_tf.training.embedding import heard, telling
from melano_tf.training.familiarity import Familiarity


class TileNetwork:
    """A classifier of tiles; see `image_graph.ImageNetwork`. The network takes float32 (B, px, px, 3), gives (B, C)."""

    def __init__(self, network: Any, sidecar: Sidecar, limits: Limits) -> None:
        self.forward, self.sidecar, self.limits = shared(network), sidecar, limits

    def endpoints(self) -> dict[str, Any]:
        """The signatures, TensorFlow functions by name."""
        contents = tf.TensorSpec([None], tf.string, name="image_bytes")
        images = tf.TensorSpec([None, None, None, 3], tf.uint8, name="image")
        return {
            "serving_default": signature(lambda image_bytes: self._bytes(image_bytes), contents),
            "tensors": signature(lambda image: self._tensors(image), images),
        }

    def _bytes(self, contents: Any) -> dict[str, Any]:
        return self._answers(decoder(self.sidecar.input_px, self.limits, shrink=False)(contents)[0])

    def _tensors(self, images: Any) -> dict[str, Any]:
        return self._answers(checked_tiles(images, self.sidecar.input_px, self.limits))

    def _answers(self, tiles: Any) -> dict[str, Any]:
        outputs, distance = heard(self.forward(floats(tiles, self.sidecar)))
        return answers(outputs, self.sidecar, distance)


class MagnifiedNetwork(TileNetwork):
    """A multimag model with those that judge a slide's other magnifications, each by a signature of its own.

    Args:
        network: as in `TileNetwork`.
        sidecar: its sidecar.
        others: {role: (network, sidecar)} of its companions.
        limits: of requests.
    """

    def __init__(
        self, network: Any, sidecar: Sidecar, others: Mapping[str, tuple[Any, Sidecar]], limits: Limits
    ) -> None:
        super().__init__(network, sidecar, limits)
        self.judges = judged_by(sidecar, {role: card for role, (_, card) in others.items()})
        self.others = {role: TileNetwork(one, card, limits) for role, (one, card) in others.items()}

    def endpoints(self) -> dict[str, Any]:
        """The signatures, TensorFlow functions by name."""
        found = super().endpoints()
        for magnification, name in tile_signatures(self.judges).items():
            if self.judges[magnification] != OWN:
                found[name] = self.others[self.judges[magnification]].endpoints()["serving_default"]
        return found


def floats(tiles: Any, sidecar: Sidecar) -> Any:
    """Tiles as the network's input, its shape known but for the number of tiles."""
    return tf.ensure_shape(tf.cast(tiles, tf.float32), [None, sidecar.input_px, sidecar.input_px, 3])


def checked_tiles(images: Any, size: int, limits: Limits) -> Any:
    """Decoded tiles uint8 (B, H, W, 3) at the network's size, refused where they are empty, too many or too large."""
    count, height, width = tf.shape(images)[0], tf.shape(images)[1], tf.shape(images)[2]
    few = refuse_count(count, limits.max_images, "tiles")
    area = tf.cast(height, tf.int64) * tf.cast(width, tf.int64)
    words = f"tiles have no pixels, or more than the limit of {limits.max_pixels:,}"
    with tf.control_dependencies([few, tf.debugging.Assert((area > 0) & (area <= limits.max_pixels), [words])]):
        return resized(tf.identity(images), size)


class BagNetwork:
    """A spitzoid target model with the source model that chooses its tiles.

    Args:
        source: tiles float32 (n, px, px, 3) -> (n, 2), the second one: tumour.
        source_sidecar: its threshold says which tiles are called tumour.
        target: from `models.biopsy_classifier.build_target`.
        sidecar: the target's; its `fallback_tiles` are taken where none is called.
        limits: of requests.
        known: what the target was trained on; None: no distance is given.
    """

    def __init__(
        self,
        source: Any,
        source_sidecar: Sidecar,
        target: Any,
        sidecar: Sidecar,
        limits: Limits,
        known: Familiarity | None = None,
    ) -> None:
        embedder, self.aggregator = split_target(target)
        self.channels = int(embedder.outputs[0].shape[-1])
        self.source, self.embedder = shared(source), shared(telling(embedder, known))
        self.source_sidecar, self.sidecar, self.limits = source_sidecar, sidecar, limits

    def endpoints(self) -> dict[str, Any]:
        """The signatures, TensorFlow functions by name."""
        contents = tf.TensorSpec([None], tf.string, name="tile_bytes")
        images = tf.TensorSpec([None, None, None, 3], tf.uint8, name="tile")
        bags = tf.TensorSpec([None, None], tf.string, name="tile_bytes")
        embeddings = tf.TensorSpec([None, None, self.channels], tf.float32, name="embeddings")
        mask = tf.TensorSpec([None, None], tf.bool, name="mask")
        return {
            "serving_default": signature(lambda tile_bytes: self._bag(tile_bytes), bags),
            "embed": signature(lambda tile_bytes: self._embed_bytes(tile_bytes), contents),
            "embed_tensors": signature(lambda tile: self._embed_tensors(tile), images),
            "aggregate": signature(lambda embeddings, mask: self._aggregate(embeddings, mask), embeddings, mask),
        }

    def _embed_bytes(self, contents: Any) -> dict[str, Any]:
        # Both networks may want their own size; each resizes the decoded tile itself, as in `predict`.
        sizes = (self.source_sidecar.input_px, self.sidecar.input_px)
        tiles = [decoder(size, self.limits, shrink=False)(contents)[0] for size in dict.fromkeys(sizes)]
        return self._embed(tiles[0], tiles[-1])

    def _embed_tensors(self, images: Any) -> dict[str, Any]:
        sizes = (self.source_sidecar.input_px, self.sidecar.input_px)
        return self._embed(*(checked_tiles(images, size, self.limits) for size in sizes))

    def _embed(self, for_source: Any, for_target: Any) -> dict[str, Any]:
        tumour = self.source(floats(for_source, self.source_sidecar))[:, 1]
        embeddings, distance = heard(self.embedder(floats(for_target, self.sidecar)))
        found = {"embeddings": embeddings, "tumour_probability": tumour}
        return found if distance is None else found | {"distance": tf.cast(distance, tf.float32)}

    def _aggregate(self, embeddings: Any, mask: Any, distance: Any = None) -> dict[str, Any]:
        filled = tf.debugging.Assert(
            tf.reduce_all(tf.reduce_any(mask, axis=1)), ["a biopsy without a tile: its mask is false everywhere"]
        )
        with tf.control_dependencies([filled]):
            embeddings = tf.identity(embeddings)
        found = self.aggregator(embeddings, mask=mask, training=False)
        return answers(found["probability"], self.sidecar, distance) | {"attention": found["attention"]}

    def _bag(self, contents: Any) -> dict[str, Any]:
        """Bags of biopsies, string (B, N); "" where one has fewer tiles than the others."""
        there = tf.not_equal(contents, "")
        embedded = self._embed_bytes(tf.boolean_mask(contents, there))
        places, shape = tf.where(there), tf.shape(contents, out_type=tf.int64)
        count = tf.concat([shape, [self.channels]], axis=0)
        embeddings = tf.ensure_shape(tf.scatter_nd(places, embedded["embeddings"], count), [None, None, self.channels])
        tumour = tf.scatter_nd(places, embedded["tumour_probability"], shape)
        chosen = select_tiles(tumour, there, self.source_sidecar.cut, self.fallback)
        distance = embedded.get("distance")
        if distance is not None:
            distance = masked_median(tf.scatter_nd(places, distance, shape), chosen)
        # Padding and tiles that were not chosen have no probability and no attention of their own.
        return self._aggregate(embeddings, chosen, distance) | {"tumour_probability": tumour, "selected": chosen}

    @property
    def fallback(self) -> int:
        """Tiles taken where none is called tumour."""
        return int(self.sidecar.preprocessing["fallback_tiles"])


def masked_median(values: Any, there: Any) -> Any:
    """Of float32 (B, N) the median of those that are there, at least one a row, (B,)."""
    ordered = tf.sort(tf.where(there, values, float("inf")), axis=1)
    count = tf.reduce_sum(tf.cast(there, tf.int32), axis=1)
    middle = tf.stack([(count - 1) // 2, count // 2], axis=1)
    return tf.reduce_mean(tf.gather(ordered, middle, batch_dims=1), axis=1)


def select_tiles(tumour: Any, there: Any, threshold: float, fallback: int) -> Any:
    """`pipelines.tumour_tile_selection.select_tumour_tiles` in the graph, of several bags.

    Args:
        tumour: probability of tumour, float32 (B, N).
        there: bool (B, N), False for padding.
        threshold: from which on a tile is called tumour.
        fallback: tiles of a bag that has none; the most probable, of equal ones the first.

    Returns:
        bool (B, N).
    """
    called = there & (tf.cast(tumour, tf.float64) >= tf.constant(threshold, tf.float64))
    order = tf.argsort(tf.where(there, tumour, -1.0), axis=1, direction="DESCENDING", stable=True)
    rank = tf.argsort(order, axis=1, stable=True)
    return tf.where(tf.reduce_any(called, axis=1, keepdims=True), called, there & (rank < fallback))
