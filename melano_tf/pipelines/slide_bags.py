"""Bags: the tiles of one slide with the slide's label. One bag is one step of the target model's training."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import tensorflow as tf

from melano_tf.errors import InputError
from melano_tf.pipelines.augment import AugmentSettings, augment, sample_seeds
from melano_tf.pipelines.tile_batches import TileImages, predict_batches, prepared, python_call

DRAW_STREAM, BAG_STREAM = 3, 4


@dataclass(frozen=True)
class Bag:
    """A slide's chosen tiles.

    Attributes:
        slide_id: the slide.
        patient_id: its patient.
        label: 0 or 1.
        tiles: the table's rows of the tiles, at least one.
    """

    slide_id: str
    patient_id: str
    label: int
    tiles: pd.DataFrame


def bag_draw(tiles: int, max_tiles: int, seed: int, epoch: int, bag: int) -> np.ndarray:
    """Which of a bag's tiles an epoch takes: all, or `max_tiles` drawn without replacement; int64, ascending."""
    if tiles <= max_tiles:
        return np.arange(tiles)
    generator = np.random.default_rng([seed, epoch, bag, DRAW_STREAM])
    return np.sort(generator.choice(tiles, max_tiles, replace=False))


class BagBatches:
    """Endless bags for the training loop, one a step.

    A batch is a dict: "x" uint8 (N, px, px, 3) RGB, N at most `max_tiles`; "y" int32 (1,); "weight" float32 (1,); "id"
    string (1,), the slide; "row" int64 (N,), rows in the bag's table. The order of the bags and the tiles drawn from
    each are new in every epoch and follow from (seed, epoch, bag).

    Args:
        bags: the bags, in an order of their own.
        folder: the store.
        input_px: side of the model's input in pixels.
        max_tiles: tiles drawn from a bag at most (the paper: 300).
        seed: the run's seed, below 2**31.
        augment: augmentations, None for none.
        images: shared images that hold all these tiles; made here if None.
        cache_mib: memory for decoded images made here, in MiB.

    Raises:
        InputError: no bags, or a bag without tiles.
    """

    def __init__(
        self,
        bags: Sequence[Bag],
        folder: Path,
        input_px: int,
        max_tiles: int = 300,
        seed: int = 0,
        augment: AugmentSettings | None = None,
        images: TileImages | None = None,
        cache_mib: float = 256.0,
    ) -> None:
        if not bags:
            raise InputError("no bags to train on: every slide is empty or failed (slides.csv says why)")
        if empty := [bag.slide_id for bag in bags if not len(bag.tiles)]:
            raise InputError.of("bags without tiles:", empty)
        self.bags = list(bags)
        self.max_tiles, self.seed = max_tiles, seed
        self.augment = augment if augment is not None and augment.active else None
        everything = pd.concat([bag.tiles for bag in self.bags], ignore_index=True) if images is None else None
        self.images = images if everything is None else TileImages(everything, folder, input_px, cache_mib)
        assert self.images is not None
        self._places = [self.images.rows(bag.tiles) for bag in self.bags]
        self.steps_per_epoch = len(self.bags)

    def order(self, epoch: int) -> np.ndarray:
        """The bags of an epoch in their order, int64 (bags,)."""
        return np.random.default_rng([self.seed, epoch, BAG_STREAM]).permutation(len(self.bags))

    def _facts(self, step: np.ndarray) -> tuple[np.ndarray, ...]:
        """What a step holds: places in `images`, rows in the bag, the bag, its label and slide."""
        epoch, part = divmod(int(step), self.steps_per_epoch)
        bag = int(self.order(epoch)[part])
        rows = bag_draw(len(self._places[bag]), self.max_tiles, self.seed, epoch, bag)
        chosen = self.bags[bag]
        label, slide = np.array([chosen.label], np.int32), np.array([chosen.slide_id], object)
        return self._places[bag][rows], rows, np.array([bag]), label, slide

    def from_step(self, step: int) -> Iterator[dict[str, tf.Tensor]]:
        """Bags from a global step on, without end; nothing before it is read."""
        assert self.images is not None
        images = self.images
        images.fill()
        types = [tf.int64, tf.int64, tf.int64, tf.int32, tf.string]

        def load(index: tf.Tensor) -> dict[str, tf.Tensor]:
            facts = python_call(self._facts, [index], types)
            places, rows = (tf.ensure_shape(fact, [None]) for fact in facts[:2])
            bag, label, slide = (tf.ensure_shape(fact, [1]) for fact in facts[2:])
            x = images.tensor(places)
            if self.augment is not None:
                # A tile's place in its bag and the bag's number name the sample; bags stay below 2**31 tiles.
                x = augment(x, sample_seeds(self.seed, index // len(self.bags), bag * 2**31 + rows), self.augment)
            return {"x": x, "y": label, "weight": tf.ones([1]), "id": slide, "row": rows}

        # One bag at a time: while one is trained on, the next is read.
        yield from prepared(tf.data.Dataset.range(step, np.iinfo(np.int64).max).map(load, num_parallel_calls=1))


def bag_chunks(
    bag: Bag, folder: Path, input_px: int, chunk: int, images: TileImages | None = None
) -> Iterator[np.ndarray]:
    """A whole bag in the table's order, uint8 (up to chunk, px, px, 3) at a time, in memory that does not grow."""
    for batch in predict_batches(bag.tiles, folder, input_px, chunk, images):
        yield batch["x"]
