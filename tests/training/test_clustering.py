import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from melano_tf.errors import InputError
from melano_tf.training.clustering import (
    SMALL_STEP,
    ClusterSettings,
    PKBatches,
    PKSampler,
    PKSettings,
    cluster,
    kmeans,
    nmi,
    reseeded,
    whiten,
)


def _blobs(count: int = 300, clusters: int = 5, width: int = 12, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, clusters, count)
    centres = rng.normal(size=(clusters, width)) * 6
    return (centres[truth] + rng.normal(size=(count, width))).astype(np.float32), truth


def test_whitening_is_that_of_scikit_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    from sklearn.decomposition import PCA

    monkeypatch.setattr("melano_tf.training.clustering.CHUNK", 37)
    x, _ = _blobs()
    expected = PCA(6, whiten=True, svd_solver="full").fit_transform(x.astype(np.float64))
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    found = whiten(x, 6)
    assert found.shape == (300, 6) and found.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, rtol=1e-6)
    # A component's sign is free, so products of rows are compared.
    np.testing.assert_allclose(found @ found.T, expected @ expected.T, atol=1e-4)


def test_fewer_images_or_dimensions_than_components() -> None:
    x = np.random.default_rng(0).normal(size=(9, 40)).astype(np.float32)
    assert whiten(x, 256).shape == (9, 8), "n - 1 components: the mean is gone"
    line = np.outer(np.arange(20.0), [1, 2, 3, 4]).astype(np.float32)
    assert whiten(line, 256).shape == (20, 1), "components without variance are left out"
    assert set(np.abs(whiten(line, 256)[:, 0]).tolist()) == {1.0}
    np.testing.assert_array_equal(whiten(np.full((7, 3), 4.2, np.float32), 2), np.zeros((7, 1)))
    np.testing.assert_array_equal(whiten(np.ones((1, 3), np.float32), 2), np.zeros((1, 1)))
    with pytest.raises(InputError, match=r"^the features that .* hold values that are not finite \(NaN or infinite\)$"):
        whiten(np.array([[1, np.nan], [0, 1]]), 2)


def test_well_separated_images_are_found_and_one_seed_gives_one_clustering() -> None:
    x, truth = _blobs()
    settings = ClusterSettings(clusters=5, components=8)
    found = cluster(x, settings, seed=1)
    assert nmi(found.labels, truth) > 0.99
    assert found.sizes.tolist() == np.bincount(found.labels, minlength=5).tolist() and found.sizes.sum() == 300
    again = cluster(x, settings, seed=1)
    np.testing.assert_array_equal(found.labels, again.labels)
    assert found.inertia == again.inertia and found.labels.dtype == np.int32


def test_a_mapped_matrix_is_read_by_parts(tmp_path: Path) -> None:
    # The official number of images; the whole matrix would be 26 MB in float32.
    matrix = np.lib.format.open_memmap(tmp_path / "f.npy", mode="w+", dtype=np.float32, shape=(25_331, 256))
    rng = np.random.default_rng(0)
    for start in range(0, len(matrix), 5000):
        matrix[start : start + 5000] = rng.normal(size=matrix[start : start + 5000].shape) * np.linspace(3, 0.1, 256)
    matrix.flush()
    mapped = np.load(tmp_path / "f.npy", mmap_mode="r")
    whiten(mapped[:100], 16)  # imports
    tracemalloc.start()
    points = whiten(mapped, 16)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert points.shape == (25_331, 16) and peak < 24e6


def test_identical_points_make_one_cluster_and_two_kinds_two() -> None:
    found = cluster(np.ones((12, 4), np.float32), ClusterSettings(clusters=3), seed=0)
    assert sorted(found.sizes.tolist()) == [0, 0, 12] and found.components == 0 and found.inertia == 0
    two = np.repeat(np.eye(2, dtype=np.float32), 6, axis=0)
    found = cluster(two, ClusterSettings(clusters=3), seed=0)
    assert sorted(found.sizes.tolist()) == [0, 6, 6]


def test_more_clusters_than_images_is_refused() -> None:
    with pytest.raises(
        InputError, match=r"^16 clusters of 9 images: there must be at least as many images as clusters$"
    ):
        cluster(np.random.default_rng(0).normal(size=(9, 4)), ClusterSettings(), seed=0)
    with pytest.raises(InputError, match="16 clusters of 3 images"):
        kmeans(np.eye(3, dtype=np.float32), ClusterSettings(), seed=0)
    found = cluster(np.random.default_rng(0).normal(size=(9, 4)), ClusterSettings(clusters=9), seed=0)
    assert found.sizes.tolist() == [1] * 9
    assert cluster(np.ones((1, 4)), ClusterSettings(clusters=1), seed=0).labels.tolist() == [0]
    with pytest.raises(
        InputError, match=r"^clustering: clusters, components, iterations, restarts must be at least 1$"
    ):
        ClusterSettings(0, 0, 0, 0)
    assert ClusterSettings(1, 1, 1, 1).components == 1


def test_an_empty_cluster_is_seeded_within_the_largest() -> None:
    points = np.array([[0, 0], [1, 0], [2, 0], [9, 9]], np.float32)
    centres = np.array([[1, 0], [9, 9], [50, 50]], np.float32)
    new = reseeded(points, centres, np.array([0, 0, 0, 1], np.int32), np.random.default_rng(0))
    np.testing.assert_array_equal(new[1], centres[1])
    np.testing.assert_allclose((new[0] + new[2]) / 2, centres[0])
    # An eighth of a thousandth of the way to a member on its right or left.
    np.testing.assert_allclose(np.abs(new[2] - centres[0]), [SMALL_STEP, 0], rtol=1e-3)


def test_a_second_empty_cluster_is_seeded_within_what_is_then_the_largest() -> None:
    points = np.array([[0, 0], [0, 1], [0, 2], [0, 5], [30, 0], [30, 1], [30, 5]], np.float32)
    centres = np.array([[0, 2], [30, 2], [90, 90], [91, 91]], np.float32)
    new = reseeded(points, centres, np.repeat([0, 1], [4, 3]).astype(np.int32), np.random.default_rng(0))
    np.testing.assert_allclose((new[0] + new[2]) / 2, centres[0])  # four members, halved to two
    np.testing.assert_allclose((new[1] + new[3]) / 2, centres[1])  # and so three are the most
    assert (new[0] != new[2]).any() and (new[1] != new[3]).any()


def test_kmeans_goes_on_from_a_clustering_with_an_empty_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    from melano_tf.training import clustering

    real, starts = clustering._lloyd, []

    def first_leaves_one_empty(points: Any, start: Any, settings: Any, restarts: int, seed: int) -> Any:
        starts.append(start)
        if len(starts) > 1:
            return real(points, start, settings, restarts, seed)
        centres = np.array([[0, 0], [5, 5], [99, 99]], np.float32)
        return centres, np.repeat([0, 1], [10, 20]).astype(np.int32)

    monkeypatch.setattr(clustering, "_lloyd", first_leaves_one_empty)
    points = np.concatenate([np.random.default_rng(0).normal(at, 0.5, (10, 2)) for at in (0, 5, 9)]).astype(np.float32)
    _, labels = kmeans(points, ClusterSettings(clusters=3), seed=0)
    assert len(starts) == 2 and nmi(labels, np.repeat([0, 1, 2], 10)) == pytest.approx(1.0)


def test_nmi_by_hand() -> None:
    assert nmi(np.array([0, 0, 1, 1]), np.array([5, 5, 2, 2])) == pytest.approx(1.0)
    assert nmi(np.array([0, 0, 1, 1]), np.array([0, 1, 0, 1])) == pytest.approx(0.0, abs=1e-12)
    # H(first) = ln 2, H(second) = 1.5 ln 2 / ... ; I = ln 2: 2 I / (H1 + H2) with H2 = 0.5 ln 2 + 0.5 ln 4.
    assert nmi(np.array([0, 0, 1, 1]), np.array([0, 0, 1, 2])) == pytest.approx(2 / (1 + 1.5))


def _sampler(labels: np.ndarray, clusters: int, images: int, seed: int = 0, **arguments: Any) -> PKSampler:
    return PKSampler(lambda epoch: labels, len(labels), PKSettings(clusters, images, **arguments), seed)


def test_every_batch_holds_p_clusters_with_k_images_each() -> None:
    labels = np.repeat(np.arange(6), [100, 40, 20, 7, 3, 1])
    sampler = _sampler(labels, 4, 3)
    assert sampler.steps_per_epoch == -(-171 // 12)
    for step in range(3 * sampler.steps_per_epoch):
        rows, names = sampler.draw(step)
        np.testing.assert_array_equal(labels[rows], names)
        assert np.unique(names, return_counts=True)[1].tolist() == [3, 3, 3, 3]
        assert 5 not in names, "the cluster of one image gives no positive"
        assert len(set(rows.tolist())) == 12
        assert rows.dtype == np.int64 and names.dtype == np.int32


@pytest.mark.parametrize(("clusters", "images"), [(4, 3), (5, 2), (2, 4)])
def test_counts_are_uniform_over_clusters_and_within_each(clusters: int, images: int) -> None:
    sizes = [300, 90, 45, 20, 6]
    labels = np.repeat(np.arange(5), sizes)
    sampler = _sampler(labels, clusters, images)
    for epoch in (0, 3):
        steps = range(epoch * sampler.steps_per_epoch, (epoch + 1) * sampler.steps_per_epoch)
        rows = np.concatenate([sampler.draw(step)[0] for step in steps])
        by_cluster = np.bincount(labels[rows], minlength=5) / images
        assert by_cluster.max() - by_cluster.min() <= 1, "however large a cluster is"
        by_image = np.bincount(rows, minlength=len(labels))
        for name in range(5):
            counts = by_image[labels == name]
            assert counts.max() - counts.min() <= 1
    orders = [sampler.draw(epoch * sampler.steps_per_epoch)[0].tolist() for epoch in range(4)]
    assert len({tuple(order) for order in orders}) == 4


def test_small_clusters_are_repeated_and_single_images_as_asked() -> None:
    labels = np.repeat(np.arange(4), [20, 20, 2, 1])
    rows = np.concatenate([_sampler(labels, 3, 4).draw(step)[0] for step in range(4)])
    both = rows[labels[rows] == 2]
    assert np.bincount(both)[40:42].tolist() == [len(both) // 2] * 2
    repeated = _sampler(labels, 4, 4, singletons="repeat")
    names = [repeated.draw(step)[1] for step in range(repeated.steps_per_epoch)]
    assert all((each == 3).sum() == 4 for each in names)
    words = (
        r"^only 1 of 2 clusters can be drawn from in epoch 1 \(sizes 5, 1\): the images look all alike to the network; "
        "lower the learning rate, or ask for fewer clusters$"
    )
    with pytest.raises(InputError, match=words):
        _sampler(np.array([0, 0, 0, 0, 0, 1]), 2, 2).draw(0)
    assert len(_sampler(labels, 16, 4).draw(0)[0]) == 12, "all clusters that there are, where P are not"
    for wrong in ((1, 4), (4, 1)):
        with pytest.raises(
            InputError, match=r"^batches of {} clusters with {} images: at least 2 of each$".format(*wrong)
        ):
            PKSettings(*wrong)
    with pytest.raises(InputError, match=r"^singletons 'keep': choose exclude or repeat$"):
        PKSettings(singletons="keep")  # type: ignore[arg-type]


def test_a_step_follows_from_seed_step_and_clusters_alone() -> None:
    labels = {epoch: np.random.default_rng(epoch).integers(0, 6, 90) for epoch in range(3)}
    asked: list[int] = []

    def assignments(epoch: int) -> np.ndarray:
        asked.append(epoch)
        return labels[epoch]

    first = PKSampler(assignments, 90, PKSettings(3, 4), seed=7)
    steps = 3 * first.steps_per_epoch
    forward = [first.draw(step)[0].tolist() for step in range(steps)]
    second = PKSampler(assignments, 90, PKSettings(3, 4), seed=7)
    backward = [second.draw(step)[0].tolist() for step in reversed(range(steps))]
    assert forward == backward[::-1] and set(asked) == {0, 1, 2}
    assert forward != [PKSampler(assignments, 90, PKSettings(3, 4), seed=8).draw(s)[0].tolist() for s in range(steps)]
    with pytest.raises(ValueError, match="90 assignments for 80 images"):
        PKSampler(assignments, 80, PKSettings(3, 4), seed=7).draw(0)


def test_batches_end_with_their_epoch() -> None:
    labels = np.repeat(np.arange(4), 10)
    sampler = _sampler(labels, 2, 4)
    batches = PKBatches(sampler, lambda rows, step: {"x": rows * 10, "id": [f"{step}-{row}" for row in rows]})
    assert batches.steps_per_epoch == 5
    found = list(batches.from_step(7))
    assert [batch["id"][0].split("-")[0] for batch in found] == ["7", "8", "9"]
    for step, batch in enumerate(found, start=7):
        rows, names = sampler.draw(step)
        np.testing.assert_array_equal(batch["x"], rows * 10)
        np.testing.assert_array_equal(batch["row"], rows)
        np.testing.assert_array_equal(batch["y"], names)
