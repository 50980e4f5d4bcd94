"""Bags: one slide a step, drawn anew in each epoch, whole for evaluation."""

from itertools import islice
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from stores import decoded, make_store

from melano_tf.errors import InputError
from melano_tf.pipelines.augment import AugmentSettings
from melano_tf.pipelines.slide_bags import Bag, BagBatches, bag_chunks, bag_draw
from melano_tf.pipelines.tile_batches import TileImages

AUGMENT = AugmentSettings(flip=True, rotate90=True, brightness=0.1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("store")


@pytest.fixture(scope="module")
def bags(folder: Path) -> list[Bag]:
    tiles = make_store(folder, slides=4, tiles=9)
    # Bags of 9, 7, 5 and 3 tiles, chosen from all over the slide.
    return [
        Bag(f"s{i}", f"p{i}", i % 2, tiles[tiles["slide_id"] == f"s{i}"].iloc[i : 9 - i].reset_index(drop=True))
        for i in range(4)
    ]


def same(one: dict, other: dict) -> bool:
    return one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)


def test_a_step_is_a_bag(bags: list[Bag], folder: Path) -> None:
    data = BagBatches(bags, folder, 16, max_tiles=5, seed=1)
    assert data.steps_per_epoch == 4
    epoch = list(islice(data.from_step(0), 4))
    assert sorted(batch["id"][0].numpy().decode() for batch in epoch) == ["s0", "s1", "s2", "s3"]
    for batch in epoch:
        bag = bags[int(batch["id"][0].numpy().decode()[1:])]
        rows = batch["row"].numpy()
        assert len(set(rows)) == len(rows) == min(5, len(bag.tiles))
        assert batch["x"].shape == (len(rows), 16, 16, 3) and batch["x"].dtype == "uint8"
        assert batch["y"].numpy().tolist() == [bag.label] and batch["weight"].numpy().tolist() == [1.0]
        for image, row in zip(batch["x"].numpy(), rows, strict=True):
            assert np.abs(image.astype(int) - decoded(folder, bag.tiles.iloc[row])).max() <= 3


def test_bags_are_drawn_and_ordered_anew() -> None:
    draws = [tuple(bag_draw(50, 10, seed=1, epoch=epoch, bag=0)) for epoch in range(20)]
    assert len(set(draws)) == 20 and all(len(set(draw)) == 10 for draw in draws)
    assert set(np.concatenate(draws)) >= set(range(45))
    assert tuple(bag_draw(50, 10, seed=1, epoch=3, bag=0)) == draws[3]
    assert tuple(bag_draw(50, 10, seed=1, epoch=3, bag=1)) != draws[3]
    assert bag_draw(7, 10, 1, 0, 0).tolist() == list(range(7))


def test_orders_differ_between_epochs(bags: list[Bag], folder: Path) -> None:
    data = BagBatches(bags, folder, 16, seed=1)
    assert len({tuple(data.order(epoch)) for epoch in range(10)}) > 1


@pytest.mark.parametrize("start", [1, 4, 6])
def test_any_step_can_be_the_first(bags: list[Bag], folder: Path, start: int) -> None:
    whole = list(islice(BagBatches(bags, folder, 16, 4, 9, AUGMENT, cache_mib=0).from_step(0), 10))
    later = BagBatches(bags, folder, 16, 4, 9, AUGMENT, cache_mib=1).from_step(start)
    for expected, batch in zip(whole[start:], later, strict=False):
        assert same(expected, batch)


def test_chunks_are_the_whole_bag_in_order(bags: list[Bag], folder: Path) -> None:
    chunks = list(bag_chunks(bags[0], folder, 16, 4))
    assert [len(chunk) for chunk in chunks] == [4, 4, 1]
    for image, (_, tile) in zip(np.concatenate(chunks), bags[0].tiles.iterrows(), strict=True):
        assert np.abs(image.astype(int) - decoded(folder, tile)).max() <= 3


def test_bags_need_tiles(bags: list[Bag], folder: Path) -> None:
    empty = Bag("s9", "p9", 0, pd.DataFrame(columns=bags[0].tiles.columns))
    with pytest.raises(InputError, match="s9"):
        BagBatches([*bags, empty], folder, 16)
    with pytest.raises(InputError, match="no bags"):
        BagBatches([], folder, 16)


def test_the_same_tiles_in_two_bags_are_changed_differently(bags: list[Bag], folder: Path) -> None:
    again, images = Bag("s9", "p9", 1, bags[0].tiles), TileImages(bags[0].tiles, folder, 16)
    first, second = islice(BagBatches([bags[0], again], folder, 16, augment=AUGMENT, images=images).from_step(0), 2)
    np.testing.assert_array_equal(first["row"], second["row"])
    assert (first["x"].numpy() != second["x"].numpy()).any(axis=(1, 2, 3)).sum() > 4
