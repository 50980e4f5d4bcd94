"""Batches of bags: padding, order and draws as pure functions of (seed, step); whole bags judged; the baseline."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from melano_tf.errors import InputError
from melano_tf.features.feature_file import open_features
from melano_tf.models.bag_models import build_bag_model
from melano_tf.models.bag_settings import BagModelSettings
from melano_tf.pipelines import bag_baseline
from melano_tf.pipelines.bag_baseline import bag_means, fit_baseline
from melano_tf.pipelines.bag_fitting import BagTrainingSettings
from melano_tf.pipelines.bag_training import train_bag_model
from melano_tf.pipelines.feature_bags import ArrayBags, FeatureBagBatches, answers, padded, shown_bags
from melano_tf.pipelines.feature_cohort import FileBags
from melano_tf.training.loop import LoopSettings
from tests.features.files import numbers, write_trident

SIZES = (4, 9, 1, 6, 3)


def made_bags(width: int = 5, sizes: tuple[int, ...] = SIZES) -> ArrayBags:
    rng = np.random.default_rng(0)
    labels = np.arange(len(sizes)) % 2
    arrays = [rng.normal(label, 1, (size, width)).astype("float32") for size, label in zip(sizes, labels, strict=True)]
    return ArrayBags([f"b{i}" for i in range(len(sizes))], labels, arrays)


def taken(batches: FeatureBagBatches, start: int, count: int) -> list[dict]:
    iterator = iter(batches.from_step(start))
    return [next(iterator) for _ in range(count)]


def test_a_batch_is_padded_and_masked() -> None:
    bags = made_bags()
    batches = FeatureBagBatches(bags, batch=2, seed=3, weights=np.arange(5.0))
    assert batches.steps_per_epoch == 3
    seen = []
    for batch in taken(batches, 0, 3):
        names = [name.decode() for name in batch["id"].numpy()]
        places = [int(name[1:]) for name in names]
        seen += places
        features, mask = batch["x"]["features"].numpy(), batch["x"]["mask"].numpy()
        assert features.shape == (len(places), max(SIZES[place] for place in places), 5)
        for row, place in enumerate(places):
            np.testing.assert_array_equal(features[row, : SIZES[place]], bags.arrays[place])
            assert not features[row, SIZES[place] :].any() and mask[row].sum() == mask[row, : SIZES[place]].sum()
            assert mask[row].sum() == SIZES[place]
        assert batch["y"].numpy().tolist() == [place % 2 for place in places]
        assert batch["weight"].numpy().tolist() == places
    assert sorted(seen) == [0, 1, 2, 3, 4]


def test_bags_are_shown_whole_under_their_names() -> None:
    bags = made_bags()
    shown = shown_bags(bags, np.array([4, 1, 3]), "float16")
    assert shown.ids == ["b4", "b1", "b3"]
    found = list(shown.batches(np.array([0, 2])))
    assert [batch["id"].tolist() for batch in found] == [["b4"], ["b3"]]
    for batch, bag in zip(found, (4, 3), strict=True):
        assert batch["x"]["features"].dtype == np.float16 and batch["x"]["mask"].tolist() == [[True] * SIZES[bag]]
        np.testing.assert_array_equal(batch["x"]["features"][0], bags.arrays[bag].astype(np.float16))


def test_weights_belong_to_the_bags_that_are_trained_on() -> None:
    batches = FeatureBagBatches(made_bags(), np.array([3, 1, 4]), weights=np.array([30.0, 10.0, 40.0]))
    for batch in taken(batches, 0, 3):
        assert batch["weight"].numpy().tolist() == [10 * int(batch["id"].numpy()[0][1:])]


def test_any_step_can_be_first_and_epochs_differ() -> None:
    batches = FeatureBagBatches(made_bags(), np.array([0, 1, 3, 4]), max_instances=3, seed=3)
    whole = taken(batches, 0, 12)
    for start in (1, 5, 10):
        for first, second in zip(taken(batches, start, 2), whole[start:], strict=False):
            tf.nest.map_structure(np.testing.assert_array_equal, first, second)
    orders = {tuple(batch["id"].numpy()[0] for batch in whole[epoch * 4 : epoch * 4 + 4]) for epoch in range(3)}
    assert len(orders) > 1 and all(set(order) == {b"b0", b"b1", b"b3", b"b4"} for order in orders)
    draws = [batch["x"]["features"].numpy() for batch in whole if batch["id"].numpy()[0] == b"b1"]
    assert {draw.shape for draw in draws} == {(1, 3, 5)}
    assert not np.array_equal(draws[0], draws[1]) or not np.array_equal(draws[1], draws[2])
    other = FeatureBagBatches(made_bags(), np.array([0, 1, 3, 4]), max_instances=3, seed=4)
    assert any(a["id"] != b["id"] for a, b in zip(taken(other, 0, 8), whole, strict=False))


def test_half_precision_is_handed_over_in_half() -> None:
    (batch,) = taken(FeatureBagBatches(made_bags(), dtype="bfloat16"), 0, 1)
    assert batch["x"]["features"].dtype == tf.bfloat16
    place = int(batch["id"].numpy()[0][1:])
    expected = tf.cast(made_bags().arrays[place], tf.bfloat16)
    np.testing.assert_array_equal(batch["x"]["features"][0].numpy(), expected.numpy())


def test_bags_in_files_are_those_in_memory(tmp_path: Path) -> None:
    arrays = [numbers(size, seed=size)[0] for size in SIZES]
    files = []
    for place, array in enumerate(arrays):
        files.append([open_features(write_trident(tmp_path / f"b{place}.h5", array, numbers(len(array))[1]))])
    ids, labels = [f"b{i}" for i in range(5)], np.arange(5) % 2
    on_disk = FileBags(ids, ids, labels, files, ("a", "b"))
    in_memory = ArrayBags(ids, labels, arrays)
    for bags in (on_disk, in_memory):
        assert bags.sizes.tolist() == list(SIZES) and bags.width == 5
    both = (FeatureBagBatches(bags, batch=2, max_instances=4, seed=1) for bags in (on_disk, in_memory))
    first, second = (taken(batches, 0, 6) for batches in both)
    for a, b in zip(first, second, strict=True):
        tf.nest.map_structure(np.testing.assert_array_equal, a, b)


def test_answers_are_of_whole_bags() -> None:
    bags = made_bags()
    model = build_bag_model(5, 3, BagModelSettings("gated", hidden=(4,)), seed=0)
    found = answers(model, bags, np.array([3, 1]))
    assert list(found.ids) == ["b3", "b1"] and found.probabilities.shape == found.logits.shape == (2, 3)
    for row, place in enumerate((3, 1)):
        assert found.attention[row].shape == (SIZES[place],)
        assert found.attention[row].sum() == pytest.approx(1, rel=1e-5)
        alone = model({"features": bags.arrays[place][None], "mask": np.ones((1, SIZES[place]), bool)})
        np.testing.assert_allclose(found.probabilities[row], alone["probability"][0], rtol=1e-5)
    two = answers(build_bag_model(5, 2, BagModelSettings("bgap", hidden=())), bags)
    assert two.probabilities.shape == (5, 2)
    np.testing.assert_allclose(two.probabilities[:, 1], 1 / (1 + np.exp(-two.logits[:, 0])), rtol=1e-5)


@pytest.mark.parametrize("classes", [2, 3])
def test_the_baseline_is_scikit_learns(classes: int, tmp_path: Path) -> None:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    rng = np.random.default_rng(1)
    labels = np.arange(24) % classes
    arrays = [rng.normal(label, 2, (2 + i % 5, 3)).astype("float32") for i, label in enumerate(labels)]
    bags = ArrayBags([str(i) for i in range(24)], labels, arrays)
    training = np.arange(18)
    means = np.array([array.mean(axis=0) for array in arrays])
    np.testing.assert_allclose(bag_means(bags), means, rtol=1e-5)
    expected = make_pipeline(StandardScaler(), LogisticRegression(C=0.5, max_iter=5000))
    expected.fit(means[training], labels[training])
    model = fit_baseline(bags, classes, training, strength=0.5)
    np.testing.assert_allclose(answers(model, bags).probabilities, expected.predict_proba(means), atol=1e-4)
    model.save(tmp_path / "mean.keras")
    loaded = keras.saving.load_model(tmp_path / "mean.keras")
    np.testing.assert_array_equal(answers(loaded, bags).logits, answers(model, bags).logits)
    if classes == 3:
        with pytest.raises(ValueError, match="2 of 3 classes"):
            fit_baseline(bags, 3, np.flatnonzero(labels < 2))


def test_means_of_bags_that_are_read_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    bags = made_bags()
    monkeypatch.setattr(bag_baseline, "CHUNK", 4)  # the bags have 4, 9, 1, 6 and 3 instances
    wanted = [bags.arrays[place].mean(axis=0) for place in (1, 0, 3)]
    seen: list[str] = []

    def noted(batches: Iterable[Any]) -> Iterator[Any]:
        for batch in batches:
            seen.extend(batch["id"].tolist())
            yield batch

    np.testing.assert_allclose(bag_means(bags, np.array([1, 0, 3]), noted), wanted, rtol=1e-5)
    assert seen == ["b1"] * 3 + ["b0"] + ["b3"] * 2


def test_a_balanced_baseline_counts_its_classes_alike() -> None:
    """As if each bag of the rarer class stood there as often as makes both classes equal."""
    rng = np.random.default_rng(3)
    labels = np.array([0] * 12 + [1] * 4)
    arrays = [rng.normal(label, 2, (3, 2)).astype("float32") for label in labels]
    bags = ArrayBags([str(i) for i in range(16)], labels, arrays)
    means = bag_means(bags)
    scaled = (means - means.mean(axis=0)) / means.std(axis=0)
    rows = np.r_[np.arange(12), np.repeat(np.arange(12, 16), 3)]
    kernel, bias = fit_baseline(bags, 2, strength=1e3, balanced=True).get_layer("logits").get_weights()
    p = 1 / (1 + np.exp(-(means @ kernel[:, 0] + bias[0])))
    # At the optimum of a fit with next to no penalty the residuals balance, in sum and against each feature.
    residuals = (p - labels)[rows]
    assert abs(residuals.mean()) < 1e-3 and np.abs(residuals @ scaled[rows] / 24).max() < 1e-2
    assert abs((p - labels).mean()) > 0.05


def test_a_training_learns_and_goes_on_where_it_stopped(tmp_path: Path) -> None:
    bags = made_bags(sizes=(4, 9, 1, 6, 3, 5, 7, 2))
    settings = BagTrainingSettings(
        model=BagModelSettings("clam", hidden=(8,), dropout=0.2, extremes=2),
        epochs=6,
        learning_rate=0.01,
        max_instances=5,
    )
    model, history = train_bag_model(bags, np.arange(8), 2, settings, tmp_path / "a", seed=5)
    assert len(history) == 6 and history[-1]["loss"] < history[0]["loss"]
    half = LoopSettings(6, checkpoint_seconds=0.0)

    class Stop(Exception):
        pass

    def stop(done: int, loss: float, waiting: float) -> None:
        if done == 21:
            raise Stop

    with pytest.raises(Stop):
        train_bag_model(bags, np.arange(8), 2, settings, tmp_path / "b", seed=5, loop=half, progress=stop)
    again, resumed = train_bag_model(bags, np.arange(8), 2, settings, tmp_path / "b", seed=5, loop=half)
    assert [record["loss"] for record in resumed] == [record["loss"] for record in history]
    for first, second in zip(model.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_array_equal(first, second)


def test_errors_and_padding_of_nothing() -> None:
    with pytest.raises(InputError, match=r"^no bags to train on$"):
        FeatureBagBatches(made_bags(), np.array([], np.int64))
    for wrong, words in (
        ({"batch": 0}, "batch = 0 and max_instances = None must be at least 1, and dtype = 'float32' one of"),
        ({"max_instances": 0}, "batch = 1 and max_instances = 0 must be at least 1, and dtype = 'float32' one of"),
        ({"dtype": "float64"}, "batch = 1 and max_instances = None must be at least 1, and dtype = 'float64' one of"),
    ):
        with pytest.raises(InputError, match=rf"^bags: {words} float32, bfloat16, float16$"):
            FeatureBagBatches(made_bags(), **wrong)
    for wrong, words in (
        (
            {"weight_decay": -1, "bag_weight": 2},
            "weight_decay = -1 must be 0 or more; bag_weight = 2 must be from 0 to 1",
        ),
        ({"epochs": 0}, "epochs = 0 and batch = 1 must be at least 1"),
        (
            {"batch": 0, "bag_weight": -0.1},
            "epochs = 20 and batch = 0 must be at least 1; bag_weight = -0.1 must be from 0 to 1",
        ),
    ):
        with pytest.raises(InputError, match=f"^bag training: {words}$"):
            BagTrainingSettings(**wrong)
    assert BagTrainingSettings(epochs=1, weight_decay=0, bag_weight=0).bag_weight == 0
    assert BagTrainingSettings(bag_weight=1).bag_weight == 1
    features, mask = padded([np.ones((1, 2), "float32"), np.ones((3, 2), "float32")])
    assert features.sum() == 8 and mask.tolist() == [[True, False, False], [True, True, True]]
