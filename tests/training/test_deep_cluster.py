"""DeepCluster with metric losses: it clusters, and a kill at any moment costs nothing."""

import importlib.util
import random
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from melano_tf.errors import InputError
from melano_tf.training.clustering import ClusterSettings, nmi
from melano_tf.training.deep_cluster import Assignments, FeatureWriter, metric_loss
from melano_tf.training.loop import TrainingError
from melano_tf.training.metric_losses import METRIC_LOSSES


@pytest.fixture(scope="module")
def toy() -> ModuleType:
    path = Path(__file__).with_name("toy_clusters.py")
    spec = importlib.util.spec_from_file_location("toy_clusters", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Stop(Exception):
    pass


def test_clusters_are_made_anew_each_epoch_and_recorded(toy: ModuleType, tmp_path: Path) -> None:
    _, _, found = toy.run(tmp_path)
    assert len(found.history) == 3
    assert [record["epoch"] for record in found.records] == [0, 1, 2, 3]
    labels = [np.load(tmp_path / "clusters" / f"epoch-{epoch:04}.npz")["labels"] for epoch in range(4)]
    np.testing.assert_array_equal(found.labels, labels[3])
    for epoch, record in enumerate(found.records):
        sizes = np.bincount(labels[epoch], minlength=6)
        assert [record[f"size_{name}"] for name in range(6)] == sizes.tolist()
        assert (record["smallest"], record["largest"], record["empty"]) == (sizes.min(), sizes.max(), 0)
        if epoch:
            assert record["nmi"] == pytest.approx(nmi(labels[epoch - 1], labels[epoch]))
    assert np.isnan(found.records[0]["nmi"])
    assert not (tmp_path / "clusters" / "features.npy").exists()


@pytest.mark.parametrize("loss", ["contrastive", "triplet", "multi_similarity"])
def test_each_metric_loss_learns_its_clusters(toy: ModuleType, tmp_path: Path, loss: str) -> None:
    _, _, found = toy.run(tmp_path, loss=loss, epochs=6, seconds=1e9)
    assert found.history[-1]["loss"] < found.history[0]["loss"]
    assert found.records[-1]["nmi"] > 0.5, "clusters settle"
    assert nmi(found.labels, toy.images()[1]) > 0.4, "and say what kind of picture it is"


@pytest.fixture(scope="module")
def whole(toy: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Digest of a training that nothing stopped."""
    tf.config.experimental.enable_op_determinism()
    return toy.digest(*toy.run(tmp_path_factory.mktemp("whole")))


@pytest.mark.parametrize(
    ("at", "seconds"),
    [
        (0, 0.0),  # in the second pass over the features
        (4, 0.0),  # after an epoch's checkpoint, before the next clusters
        (5, 1e9),  # two files of clusters, no checkpoint
    ],
)
def test_stopped_anywhere_it_ends_the_same(
    toy: ModuleType, whole: str, tmp_path: Path, at: int, seconds: float
) -> None:
    def stop(done: int, loss: float, waiting: float) -> None:
        if done == at:
            raise Stop

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Stop):
        if at == 0:
            patch.setattr(toy.Loud, "__call__", _broken(toy.Loud.__call__))
        toy.run(tmp_path, seconds=seconds, progress=stop)
    assert len(list((tmp_path / "clusters").glob("epoch-*"))) == (2 if at == 5 else 1)
    assert (tmp_path / "checkpoint.npz").exists() == (seconds == 0.0)
    assert toy.digest(*toy.run(tmp_path, seconds=seconds)) == whole


def _broken(real: Any) -> Any:
    """The second pass over the features stops before its end."""
    passes = []

    def call(self: Any, path: Path) -> Any:
        passes.append(1)
        matrix = real(self, path)
        if len(passes) == 2:
            raise Stop
        return matrix

    return call


def test_killed_and_resumed_ends_with_the_same_bits(start_script: Callable, tmp_path: Path) -> None:
    chance = random.Random(3)
    at, delay = chance.randint(1, 11), chance.uniform(0.0, 0.05)
    killed = start_script("toy_clusters.py", "train", str(tmp_path / "killed"))
    killed.until(f"^step {at}$")
    time.sleep(delay)
    killed.process.kill()
    killed.wait()
    check = start_script("toy_clusters.py", "check", str(tmp_path / "killed"))
    code, output, errors = check.wait(timeout=300)
    assert code == 0, errors
    digests = [line.split() for line in output.splitlines() if line.split()[0] in ("resumed", "unbroken")]
    assert digests[0][1] == digests[1][1], f"killed {delay * 1000:.1f} ms after step {at}"


def test_features_are_those_of_inference_and_are_counted(toy: ModuleType, tmp_path: Path) -> None:
    model = toy.embedding()
    pictures, _ = toy.images()
    writer = FeatureWriter(model, lambda: ({"x": pictures[at : at + 7]} for at in range(0, 72, 7)), 72)
    found = writer(tmp_path / "f.npy")
    assert isinstance(found, np.memmap) and found.shape == (72, 6)
    np.testing.assert_allclose(found, model(pictures, training=False), atol=1e-6)
    # The present weights, not those at the time of tracing.
    model.set_weights([weight * 0.5 for weight in model.get_weights()])
    np.testing.assert_allclose(writer(tmp_path / "f.npy"), model(pictures, training=False), atol=1e-6)
    for count in (71, 73):
        with pytest.raises(TrainingError, match=f"^72 images came for their features, and {count} were expected$"):
            FeatureWriter(model, lambda: [{"x": pictures}], count)(tmp_path / "g.npy")
    assert not list(tmp_path.glob("*g*"))


def test_collapse_and_wrong_inputs_are_said(tmp_path: Path) -> None:
    assignments = Assignments(tmp_path / "a", ClusterSettings(clusters=3), seed=0, count=12)
    with pytest.raises(
        TrainingError,
        match=r"^clustering before epoch 1: the network gives all 12 images the same features; lower the .* rate$",
    ):
        assignments.ensure(0, lambda path: np.ones((12, 4), np.float32))
    with pytest.raises(TrainingError, match=r"before epoch 1: .* not finite"):
        assignments.ensure(0, lambda path: np.full((12, 4), np.nan, np.float32))
    with pytest.raises(
        InputError, match=f"^{assignments.path(0)}: the clusters of epoch 1 are missing; remove {tmp_path / 'a'}$"
    ):
        assignments.labels(0)
    with pytest.raises(InputError, match=r"^16 clusters of 12 images: ask for fewer clusters$"):
        Assignments(tmp_path / "b", ClusterSettings(), 0, 12).ensure(0, lambda path: pytest.fail("not to be called"))
    features = np.random.default_rng(0).normal(size=(12, 4))
    assignments.ensure(0, lambda path: features)
    assignments.ensure(0, lambda path: pytest.fail("it is there already"))
    with pytest.raises(InputError, match=r"npz: clusters of other images or settings; choose another folder$"):
        Assignments(tmp_path / "a", ClusterSettings(clusters=4), 0, 12).labels(0)
    assignments.path(0).write_bytes(b"PK half a file")
    with pytest.raises(InputError, match=rf"damaged \(.*\); remove {tmp_path / 'a'}$"):
        assignments.labels(0)
    with pytest.raises(
        InputError,
        match=r"^metric loss 'arcface': unknown; there are contrastive, triplet, triplet_batch_hard, multi_similarity$",
    ):
        metric_loss("arcface")


def test_any_bit_that_turned_in_a_file_of_clusters_is_one_line_or_changes_none(tmp_path: Path) -> None:
    assignments = Assignments(tmp_path / "a", ClusterSettings(clusters=3, iterations=2), 1, 12)
    assignments.ensure(0, lambda path: np.random.default_rng(0).normal(size=(12, 4)).astype(np.float32))
    path, labels = assignments.path(0), assignments.labels(0)
    whole, damaged = path.read_bytes(), 0
    for at in range(len(whole)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << at % 8]) + whole[at + 1 :])
        try:
            assignments.records()
            np.testing.assert_array_equal(assignments.labels(0), labels)
        except InputError as error:
            assert "damaged (" in str(error) or "of other images" in str(error)
            damaged += 1
    assert damaged > len(whole) // 2


def test_the_loss_takes_pseudo_labels_and_arguments() -> None:
    x = keras.ops.convert_to_tensor(np.random.default_rng(0).normal(size=(6, 3)).astype("float32"))
    batch = {"y": np.array([0, 0, 1, 1, 2, 2])}
    found = metric_loss("multi_similarity", beta=40.0)(batch, x)
    np.testing.assert_array_equal(found, METRIC_LOSSES["multi_similarity"](x, batch["y"], beta=40.0))
