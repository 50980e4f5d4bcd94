"""Batches of tiles: what they hold, and that any step can be the first."""

import shutil
import subprocess
import sys
from collections import Counter
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stores import decoded, make_store

from melano_tf.errors import InputError
from melano_tf.pipelines.augment import AugmentSettings
from melano_tf.pipelines.decoding_threads import decoding_with
from melano_tf.pipelines.tile_batches import (
    TileBatches,
    TileImages,
    epoch_order,
    predict_batches,
    shown_tiles,
    tile_ids,
)
from melano_tf.training.hosts import Share

AUGMENT = AugmentSettings(flip=True, rotate90=True, brightness=0.1, hue=10, stain=0.1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("store")


@pytest.fixture(scope="module")
def tiles(folder: Path) -> pd.DataFrame:
    return make_store(folder)


def batches(tiles: pd.DataFrame, folder: Path, **changes: Any) -> TileBatches:
    labels = tiles["tumour"].to_numpy().astype(int)
    return TileBatches(tiles, folder, **({"input_px": 16, "batch": 4, "seed": 5, "labels": labels} | changes))


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)


@settings(max_examples=60, deadline=None)
@given(
    labels=st.lists(st.integers(0, 1), min_size=1, max_size=40),
    seed=st.integers(0, 2**31 - 1),
    epoch=st.integers(0, 200),
    dropout=st.floats(0, 1),
)
def test_order_keeps_tumour_and_drops_the_share(labels: list[int], seed: int, epoch: int, dropout: float) -> None:
    order = epoch_order(np.array(labels), seed, epoch, dropout)
    negatives = labels.count(0)
    assert len(set(order)) == len(order)
    assert {i for i, label in enumerate(labels) if label} <= set(order.tolist())
    assert len(order) == len(labels) - round(dropout * negatives)


def test_order_balances_and_draws_anew() -> None:
    labels = np.array([0] * 90 + [1] * 10)
    orders = [epoch_order(labels, 3, epoch, "balance") for epoch in range(100)]
    assert all(Counter(labels[order].tolist()) == {0: 10, 1: 10} for order in orders)
    drawn = Counter(row for order in orders for row in order.tolist() if labels[row] == 0)
    # Each of the 90 is drawn 100 * 10 / 90 = 11 times on average.
    assert len(drawn) == 90 and max(drawn.values()) < 30
    assert np.array_equal(orders[7], epoch_order(labels, 3, 7, "balance"))
    assert not np.array_equal(orders[7], epoch_order(labels, 4, 7, "balance"))


def test_balance_never_drops_tumour() -> None:
    labels = np.array([0, 1, 1, 1])
    assert sorted(epoch_order(labels, 1, 0, "balance")) == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("labels", "dropout", "words"),
    [
        ([0, 0], "balance", "no tumour tile to train on: check the annotations and the setting tumour_share"),
        ([0, 1], 1.5, "instance dropout must lie between 0 and 1, and is 1.5"),
        ([0, 1], -0.5, "instance dropout must lie between 0 and 1, and is -0.5"),
    ],
)
def test_order_refuses(labels: list[int], dropout: Any, words: str) -> None:
    with pytest.raises(InputError) as refused:
        epoch_order(np.array(labels), 0, 0, dropout)
    assert str(refused.value) == words
    assert sorted(epoch_order(np.array([0, 1, 0]), 0, 0, 1.0)) == [1]


@pytest.mark.parametrize("cache_mib", [0.0, 1.0])
def test_a_batch_holds_its_tiles(tiles: pd.DataFrame, folder: Path, cache_mib: float) -> None:
    weights = np.linspace(0.5, 2, len(tiles)).astype(np.float32)
    data = batches(tiles, folder, cache_mib=cache_mib, weights=weights)
    assert data.images.cached == bool(cache_mib)
    for batch in islice(data.from_step(0), data.steps_per_epoch):
        assert batch["x"].dtype == "uint8" and batch["y"].dtype == "int32" and batch["weight"].dtype == "float32"
        for i, row in enumerate(batch["row"].numpy()):
            tile = tiles.iloc[row]
            assert np.abs(batch["x"][i].numpy().astype(int) - decoded(folder, tile)).max() <= 3
            assert int(batch["y"][i]) == tile["tumour"]
            assert batch["id"][i].numpy().decode() == f"{tile['slide_id']}/{tile['tile']}"
            assert float(batch["weight"][i]) == weights[row]


def test_an_epoch_holds_every_tile_once_with_a_smaller_last_batch(tiles: pd.DataFrame, folder: Path) -> None:
    data = batches(tiles, folder)
    epochs = [
        [batch["row"].numpy() for batch in islice(data.from_step(start), data.steps_per_epoch)]
        for start in (0, data.steps_per_epoch)
    ]
    for epoch in epochs:
        assert [len(rows) for rows in epoch] == [4, 4, 4, 4, 4, 1]
        assert sorted(np.concatenate(epoch)) == list(range(21))
    assert not np.array_equal(np.concatenate(epochs[0]), np.concatenate(epochs[1]))


@pytest.mark.parametrize("cache_mib", [0.0, 1.0])
@pytest.mark.parametrize("start", [1, 3, 4, 11])
def test_any_step_can_be_the_first(tiles: pd.DataFrame, folder: Path, cache_mib: float, start: int) -> None:
    make = {"instance_dropout": "balance", "augment": AUGMENT}
    data = batches(tiles, folder, **make, cache_mib=cache_mib)
    whole = list(islice(data.from_step(0), 16))
    # Of another object, as after a restart, and of the other kind of reading.
    later = batches(tiles, folder, **make, cache_mib=1.0 - cache_mib)
    for expected, batch in zip(whole[start:], later.from_step(start), strict=False):
        assert same(expected, batch)


def test_a_batch_does_not_depend_on_the_threads_that_make_it(tiles: pd.DataFrame, folder: Path) -> None:
    """`--workers`, and the share of each of `--jobs`."""
    found = []
    for threads in (1, 7):
        with decoding_with(threads):
            data = batches(tiles, folder, instance_dropout="balance", augment=AUGMENT, cache_mib=0.0)
            found.append(list(islice(data.from_step(2), 13)))
    assert all(same(one, other) for one, other in zip(*found, strict=True))


def test_another_seed_is_another_epoch(tiles: pd.DataFrame, folder: Path) -> None:
    one, other = (next(batches(tiles, folder, seed=seed).from_step(0)) for seed in (1, 2))
    assert not same(one, other)


def test_augmentation_is_new_in_each_epoch(tiles: pd.DataFrame, folder: Path) -> None:
    data = batches(tiles, folder, augment=AugmentSettings(brightness=0.2), batch=21)
    first, second = (next(data.from_step(epoch)) for epoch in range(2))
    images = [dict(zip(batch["row"].numpy(), batch["x"].numpy(), strict=True)) for batch in (first, second)]
    assert sum(np.array_equal(images[0][row], images[1][row]) for row in range(21)) == 0


def test_without_training_the_table_is_read_in_order(tiles: pd.DataFrame, folder: Path) -> None:
    data = batches(tiles, folder, train=False, instance_dropout="balance", augment=AUGMENT)
    rows = np.concatenate([batch["row"] for batch in islice(data.from_step(0), data.steps_per_epoch)])
    assert rows.tolist() == list(range(21))


@pytest.mark.parametrize("input_px", [8, 16, 24])
def test_prediction_reads_every_tile_in_order(tiles: pd.DataFrame, folder: Path, input_px: int) -> None:
    read = list(predict_batches(tiles, folder, input_px, 4))
    assert [len(batch["x"]) for batch in read] == [4, 4, 4, 4, 4, 1]
    assert np.concatenate([batch["id"] for batch in read]).tolist() == tile_ids(tiles).tolist()
    images = np.concatenate([batch["x"] for batch in read])
    assert images.shape == (21, input_px, input_px, 3) and images.dtype == np.uint8
    for i in (0, 9, 20):
        original = decoded(folder, tiles.iloc[i]).astype(float)
        if input_px == 8:
            original = original.reshape(8, 2, 8, 2, 3).mean((1, 3))
        if input_px != 24:
            assert np.abs(images[i] - original).max() <= 3
        assert np.abs(images[i].mean((0, 1)) - original.mean((0, 1))).max() < 2


def test_prediction_of_no_tiles_is_empty(tiles: pd.DataFrame, folder: Path) -> None:
    assert list(predict_batches(tiles.iloc[:0], folder, 16, 4)) == []


def test_parts_of_a_table_share_images(tiles: pd.DataFrame, folder: Path) -> None:
    images = TileImages(tiles, folder, 16, cache_mib=1)
    part = tiles.iloc[[20, 3, 11]].reset_index(drop=True)
    shared = next(iter(predict_batches(part, folder, 16, 4, images)))["x"]
    assert np.array_equal(shared, next(iter(predict_batches(part, folder, 16, 4)))["x"])
    with pytest.raises(KeyError, match="1 tiles are not among"):
        TileImages(part, folder, 16).rows(tiles.iloc[[20, 4]])


def test_tiles_are_shown_under_their_slides_names_from_the_images_that_are_shared(
    tiles: pd.DataFrame, folder: Path, tmp_path: Path
) -> None:
    images = TileImages(tiles, folder, 16, cache_mib=1)
    images.fill()
    part = tiles.iloc[[20, 3, 11, 4, 0]]
    shown = shown_tiles(part, tmp_path, 16, 2, images)  # whose files are not there: nothing is read again
    assert shown.ids == ["s2", "s0", "s1", "s0", "s0"]
    found = list(shown.batches(np.array([0, 2, 4])))
    assert [batch["id"].tolist() for batch in found] == [["s2", "s1"], ["s0"]]
    expected = images.remembered(np.array([20, 11, 0]))
    np.testing.assert_array_equal(np.concatenate([batch["x"] for batch in found]), expected)


def test_images_are_kept_where_they_just_fit(tiles: pd.DataFrame, folder: Path) -> None:
    whole = 21 * 16 * 16 * 3  # bytes
    kept = [TileImages(tiles, folder, 16, memory / 2**20).cached for memory in (whole - 1, whole)]
    assert kept == [False, True]


def test_a_missing_record_file_is_named(tiles: pd.DataFrame, tmp_path: Path) -> None:
    with pytest.raises(Exception, match=r"s0\.tfrecord"):
        list(predict_batches(tiles, tmp_path, 16, 4))


def test_no_tiles_is_an_input_error(tiles: pd.DataFrame, folder: Path) -> None:
    with pytest.raises(InputError, match="no tiles"):
        batches(tiles.iloc[:0], folder)


HASHES = """
import hashlib, sys
from itertools import islice
from pathlib import Path
import pandas as pd
from melano_tf.training.tensorflow_runtime import configure
configure(int(sys.argv[1]))
from melano_tf.pipelines.augment import AugmentSettings
from melano_tf.pipelines.tile_batches import TileBatches
folder = Path(sys.argv[2])
tiles = pd.read_csv(folder / "tiles.csv")
augment = AugmentSettings(flip=True, rotate90=True, brightness=0.1, hue=10, stain=0.1)
data = TileBatches(tiles, folder, 16, 4, 5, tiles["tumour"].to_numpy(), augment=augment, cache_mib=float(sys.argv[3]))
sha = hashlib.sha256()
for batch in islice(data.from_step(2), 12):
    for name in sorted(batch):
        values = batch[name].numpy()
        sha.update(b",".join(values.tolist()) if name == "id" else values.tobytes())
print(sha.hexdigest(), end="")
# The data set still runs ahead when the program ends here.
"""


def test_threads_and_determinism_change_nothing(tiles: pd.DataFrame, folder: Path) -> None:
    tiles.to_csv(folder / "tiles.csv", index=False)
    runs = [
        subprocess.Popen(
            [sys.executable, "-c", HASHES, threads, str(folder), cache], stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        for threads, cache in (("1", "0"), ("4", "1"))
    ]
    outputs = [run.communicate(timeout=100) for run in runs]
    assert all(run.returncode == 0 for run in runs), outputs
    assert len(outputs[0][0]) == 64 and outputs[0][0] == outputs[1][0]


def test_a_damaged_tile_is_one_line(tiles: pd.DataFrame, folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    first = tiles.iloc[0]
    with (tmp_path / f"{first['slide_id']}.tfrecord").open("r+b") as file:
        file.seek(int(first["offset"]))
        file.write(b"no JPEG at all")
    for cache_mib in (0.0, 64.0):
        with pytest.raises(InputError, match=r"s0\.tfrecord: the tile at byte \d+ is not what was written .*\Z"):
            next(batches(tiles, tmp_path, cache_mib=cache_mib, train=False).from_step(0))
    with pytest.raises(InputError, match="not what was written"):
        list(predict_batches(tiles, tmp_path, 32, 8))


def test_each_host_reads_its_part_of_each_batch(tiles: pd.DataFrame, folder: Path) -> None:
    """Augmented, with an epoch's last batch of one tile, which both hosts read."""
    whole = batches(tiles, folder, augment=AUGMENT)
    parts = [batches(tiles, folder, augment=AUGMENT).shared(Share(host, 2, 1)) for host in range(2)]
    steps = whole.steps_per_epoch
    assert whole.samples_per_epoch % whole.batch == 1
    for batch, first, second in zip(*(islice(one.from_step(0), steps) for one in (whole, *parts)), strict=True):
        size = len(batch["id"])
        for host, part in enumerate((first, second)):
            assert int(part["x_from"]) == host * -(-size // 2)
            assert all(np.array_equal(part[name], batch[name]) for name in ("id", "y", "weight", "row"))
        joined = np.concatenate([first["x"], second["x"]])
        np.testing.assert_array_equal(joined[:size], batch["x"])
        assert len(first["x"]) == len(second["x"]) == -(-size // 2)
