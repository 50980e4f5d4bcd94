"""Class-balanced epochs: as many tiles of each class as the smallest one has, others each epoch."""

import numpy as np

from melano_tf.pipelines.tile_batches import epoch_order

LABELS = np.repeat([0, 1, 2], [30, 7, 50])


def test_every_class_counts_alike() -> None:
    rows = epoch_order(LABELS, seed=1, epoch=0, dropout="classes")
    assert len(rows) == len(set(rows.tolist())) == 21
    assert np.bincount(LABELS[rows]).tolist() == [7, 7, 7]


def test_it_is_a_pure_function_of_seed_and_epoch() -> None:
    first = epoch_order(LABELS, 1, 0, "classes")
    np.testing.assert_array_equal(first, epoch_order(LABELS, 1, 0, "classes"))
    assert set(first.tolist()) != set(epoch_order(LABELS, 1, 1, "classes").tolist())
    assert set(first.tolist()) != set(epoch_order(LABELS, 2, 0, "classes").tolist())


def test_over_epochs_every_tile_gets_its_turn() -> None:
    seen = np.concatenate([epoch_order(LABELS, 1, epoch, "classes") for epoch in range(60)])
    assert len(np.unique(seen)) == len(LABELS)


def test_a_missing_class_does_not_empty_the_epoch() -> None:
    labels = np.array([0, 0, 2, 2, 2])
    assert np.bincount(labels[epoch_order(labels, 0, 0, "classes")]).tolist() == [2, 0, 2]
