"""Similarity clustering: features, whitened and normalised, to k-means clusters; and batches drawn evenly over these.

The similarity paper clusters as DeepCluster does (Caron et al. 2018: PCA to 256 numbers, whitened, rows of unit length,
k-means) and takes the clusters as pseudo-labels of a metric loss, which needs batches of P clusters with K images each.
Arrays only, no TensorFlow. Everything follows from features and seed alone, bit for bit: whitening and k-means run
on one thread, because several add up their parts in an order that no seed decides.
"""

import functools
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from melano_tf.errors import InputError

CHUNK = 2048  # rows of the feature matrix in memory at once
RESEEDINGS = 10
# A principal component with less of the largest one's variance than this is rounding, which whitening would blow up.
NEGLIGIBLE = 1e-7
SMALL_STEP = 1 / 1024  # DeepCluster's perturbation of a copied centre


@dataclass(frozen=True)
class ClusterSettings:
    """How features are clustered.

    Raises:
        InputError: a value below its range.
    """

    clusters: int = 16
    """Number of clusters (the paper: 16)."""
    components: int = 256
    """Principal components that are kept, at most (DeepCluster's 256; not in the paper)."""
    iterations: int = 100
    """Most iterations of one k-means (not in the paper)."""
    restarts: int = 3
    """k-means++ starts, of which the tightest clustering is kept (not in the paper)."""

    def __post_init__(self) -> None:
        small = [name for name in ("clusters", "components", "iterations", "restarts") if getattr(self, name) < 1]
        if small:
            raise InputError(f"clustering: {', '.join(small)} must be at least 1")


@dataclass(frozen=True)
class Clustering:
    """Clusters of n images.

    Attributes:
        labels: int32 (n,), cluster of each image, 0-based.
        sizes: int64 (k,), images of each cluster; 0 only where there are fewer different images than clusters.
        components: principal components that were used; 0 where all images are alike.
        inertia: mean squared distance to the cluster's centre, of rows of unit length.
    """

    labels: NDArray[np.int32]
    sizes: NDArray[np.int64]
    components: int
    inertia: float


def cluster(features: NDArray[Any], settings: ClusterSettings, seed: int) -> Clustering:
    """Cluster images by their features: PCA-whitened, rows of unit length, k-means.

    Args:
        features: float (n, C), in memory or memory-mapped; read by parts.
        settings: of the clustering.
        seed: of k-means.

    Raises:
        InputError: more clusters than images; features that are not finite.
    """
    _check_enough(len(features), settings)
    with threadpool_limits(1):
        points = whiten(features, settings.components)
        centres, labels = kmeans(points, settings, seed)
    inertia = float(np.mean(np.sum((points - centres[labels]) ** 2, axis=1)))
    sizes = np.bincount(labels, minlength=settings.clusters)
    return Clustering(labels, sizes, points.shape[1] if points.any() else 0, inertia)


def _check_enough(images: int, settings: ClusterSettings) -> None:
    if settings.clusters > images:
        raise InputError(
            f"{settings.clusters} clusters of {images} images: there must be at least as many images as clusters"
        )


def whiten(features: NDArray[Any], components: int) -> NDArray[np.float32]:
    """Features projected on their principal components, each scaled to variance 1; then rows of unit length.

    Mean and covariance are added up over parts of the matrix, so that only (C, C) numbers and the result are held. Of n
    images at most n - 1 components are kept, and none whose variance is only rounding.

    Args:
        features: float (n, C).
        components: how many at most.

    Returns:
        float32 (n, d) with d >= 1; all zeros (n, 1) where all images are alike.

    Raises:
        InputError: a feature is not finite.
    """
    from scipy.linalg import eigh

    count, width = features.shape
    mean = sum(np.asarray(part, np.float64).sum(axis=0) for part in _parts(features)) / count
    if not np.all(np.isfinite(mean)):
        raise InputError("the features that were to be clustered hold values that are not finite (NaN or infinite)")
    covariance = np.zeros((width, width))
    for part in _parts(features):
        centred = np.asarray(part, np.float64) - mean
        covariance += centred.T @ centred
    keep = min(components, width, max(count - 1, 1))
    values, vectors = eigh(covariance / max(count - 1, 1), subset_by_index=(width - keep, width - 1))
    values, vectors = values[::-1], vectors[:, ::-1]
    keep = int((values > max(NEGLIGIBLE * values[0], np.finfo(np.float32).tiny)).sum())
    if not keep:
        return np.zeros((count, 1), np.float32)
    # A component's sign is arbitrary: its largest weight is made positive.
    vectors = vectors[:, :keep]
    vectors = vectors * np.sign(vectors[np.abs(vectors).argmax(axis=0), np.arange(keep)])
    scaled = vectors / np.sqrt(values[:keep])
    points = np.concatenate([(np.asarray(part, np.float64) - mean) @ scaled for part in _parts(features)])
    norms = np.linalg.norm(points, axis=1, keepdims=True)
    return np.divide(points, norms, out=np.zeros_like(points), where=norms > 0).astype(np.float32)


def _parts(features: NDArray[Any]) -> Iterator[NDArray[Any]]:
    for start in range(0, len(features), CHUNK):
        yield features[start : start + CHUNK]


def kmeans(
    points: NDArray[np.float32], settings: ClusterSettings, seed: int
) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """Centres (k, d) and the cluster of each point (n,); no cluster is empty as long as points differ enough.

    A cluster that k-means leaves empty is seeded anew beside the centre of the largest one, and k-means goes on from
    there, as DeepCluster does.

    Args:
        points: float32 (n, d), taken as they are.
        settings: all but `components` count here.
        seed: of the starts.

    Raises:
        InputError: more clusters than points.
    """
    _check_enough(len(points), settings)
    rng = np.random.default_rng(seed)
    with threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # fewer different points than clusters: the sizes say so
        centres, labels = _lloyd(points, "k-means++", settings, settings.restarts, seed)
        for _ in range(RESEEDINGS):
            if not (np.bincount(labels, minlength=settings.clusters) == 0).any():
                break
            if len(np.unique(points, axis=0)) < settings.clusters:
                break
            centres, labels = _lloyd(points, reseeded(points, centres, labels, rng), settings, 1, seed)
    return centres, labels


def _lloyd(
    points: NDArray[np.float32], start: Any, settings: ClusterSettings, restarts: int, seed: int
) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    from sklearn.cluster import KMeans

    model = KMeans(
        settings.clusters,
        init=start,
        n_init=restarts,
        max_iter=settings.iterations,
        random_state=seed,
        algorithm="lloyd",
    ).fit(points)
    return model.cluster_centers_.astype(np.float32), model.labels_.astype(np.int32)


def reseeded(
    points: NDArray[np.float32], centres: NDArray[np.float32], labels: NDArray[np.int32], rng: np.random.Generator
) -> NDArray[np.float32]:
    """Centres with each empty cluster's moved beside a large one's, and that one's moved the other way.

    Each empty cluster takes half of what is then the largest cluster's; the two are 1/1024 of its spread off its centre
    on either side, along the line to one of its points, so that both get members.
    """
    centres = centres.copy()
    shares = np.bincount(labels, minlength=len(centres)).astype(float)
    for empty in np.flatnonzero(shares == 0):
        largest = int(shares.argmax())
        members = points[labels == largest]
        step = SMALL_STEP * (members[rng.integers(len(members))] - centres[largest])
        if not step.any():
            step = SMALL_STEP * (members[np.argmax(((members - centres[largest]) ** 2).sum(axis=1))] - centres[largest])
        centres[empty] = centres[largest] + step
        centres[largest] = centres[largest] - step
        shares[empty] = shares[largest] = shares[largest] / 2
    return centres


def nmi(first: NDArray[Any], second: NDArray[Any]) -> float:
    """Normalised mutual information of two labelings (n,), 0 to 1, by the arithmetic mean of their entropies.

    1 where both are the same up to names, also where both put everything into one cluster.
    """
    from sklearn.metrics import normalized_mutual_info_score

    return float(normalized_mutual_info_score(first, second))


@dataclass(frozen=True)
class PKSettings:
    """Batches of P clusters with K images each.

    Raises:
        InputError: fewer than 2 of either: no anchor would have a negative, or none a positive.
    """

    clusters: int = 16
    """P, clusters a batch; all of them where fewer are filled (not in the paper)."""
    images: int = 4
    """K, images of each (not in the paper; 16 x 4 gives the paper's reading of 64 a batch)."""
    singletons: Literal["exclude", "repeat"] = "exclude"
    """A cluster of one image is left out, or stands in a batch as K copies, each augmented on its own."""

    def __post_init__(self) -> None:
        if self.clusters < 2 or self.images < 2:
            raise InputError(f"batches of {self.clusters} clusters with {self.images} images: at least 2 of each")
        if self.singletons not in ("exclude", "repeat"):
            raise InputError(f"singletons {self.singletons!r}: choose exclude or repeat")


class PKSampler:
    """Which images stand in the batch of a global step: a pure function of seed, step and the epoch's clusters.

    Uniform over clusters: over an epoch every cluster is drawn equally often, but for one draw, however large it is;
    and within a cluster every image, but for one. No batch holds a cluster twice, nor an image twice, except in a
    cluster of fewer than K images, whose images are then repeated.

    Args:
        assignments: epoch -> the cluster of each image, (n,); asked for as often as needed.
        count: n, the number of images.
        settings: P and K.
        seed: of the draws.

    Attributes:
        steps_per_epoch: the same for every epoch: n / (P K), rounded up.
        batch_size: P K; less where fewer than P clusters are filled.
    """

    def __init__(self, assignments: Callable[[int], NDArray[Any]], count: int, settings: PKSettings, seed: int) -> None:
        if count < 1:
            raise InputError("no images to train on")
        self.assignments, self.count, self.settings, self.seed = assignments, count, settings, seed
        self.batch_size = settings.clusters * settings.images
        self.steps_per_epoch = -(-count // self.batch_size)
        self._plan = functools.lru_cache(maxsize=2)(self._planned)

    def draw(self, step: int) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
        """Rows int64 (B,) of the images of a global step, cluster by cluster, and the clusters int32 (B,).

        Raises:
            InputError: fewer than 2 clusters can be drawn from.
        """
        epoch, part = divmod(int(step), self.steps_per_epoch)
        rows, labels = self._plan(epoch)
        return rows[part], labels[part]

    def _planned(self, epoch: int) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
        """Rows and clusters of all steps of an epoch, each (steps, B)."""
        labels = np.asarray(self.assignments(epoch))
        if len(labels) != self.count:
            raise ValueError(f"{len(labels)} assignments for {self.count} images")
        rng = np.random.default_rng([self.seed, epoch])
        sizes = np.bincount(labels)
        usable = np.flatnonzero(sizes >= (2 if self.settings.singletons == "exclude" else 1))
        if len(usable) < 2:
            raise InputError(
                f"only {len(usable)} of {len(sizes)} clusters can be drawn from in epoch {epoch + 1} (sizes "
                f"{', '.join(map(str, sizes))}): the images look all alike to the network; lower the learning rate, or "
                "ask for fewer clusters"
            )
        each = min(self.settings.clusters, len(usable))
        drawn = _cycles(usable, each, self.steps_per_epoch, rng)
        rows = np.empty((*drawn.shape, self.settings.images), np.int64)
        for name in usable:
            places = drawn == name
            rows[places] = _cycles(np.flatnonzero(labels == name), self.settings.images, int(places.sum()), rng)
        names = np.repeat(drawn, self.settings.images, axis=1).astype(np.int32)
        return rows.reshape(self.steps_per_epoch, -1), names


def _cycles(items: NDArray[Any], width: int, draws: int, rng: np.random.Generator) -> NDArray[Any]:
    """`draws` rows of `width` items, (draws, width), dealt from one shuffled pack after the other.

    Each item is dealt equally often, but for one. No row holds an item twice where there are `width` items or more.
    """
    dealt: list[Any] = []
    needed = draws * width
    while len(dealt) < needed:
        pack = rng.permutation(items)
        begun = dealt[len(dealt) - len(dealt) % width :]
        if begun and len(items) >= width:
            # What the row already holds comes last in the new pack.
            again = np.isin(pack, begun)
            pack = np.concatenate([pack[~again], pack[again]])
        dealt.extend(pack.tolist())
    return np.array(dealt[:needed], np.int64).reshape(draws, width)


class PKBatches:
    """Batches for the training loop from a sampler and something that loads images by their rows.

    Args:
        sampler: which images.
        load: (rows int64 (B,), global step) -> a dict with "x" and "id"; "y" int32 (B,), the pseudo-labels, and "row"
            are added. A pure function of its arguments.
    """

    def __init__(self, sampler: PKSampler, load: Callable[[NDArray[np.int64], int], dict[str, Any]]) -> None:
        self.sampler, self.load = sampler, load

    @property
    def steps_per_epoch(self) -> int:
        """Batches of one epoch."""
        return self.sampler.steps_per_epoch

    def from_step(self, step: int) -> Iterator[dict[str, Any]]:
        """Batches from a global step to the end of its epoch: the next epoch has other clusters."""
        for at in range(step, (step // self.steps_per_epoch + 1) * self.steps_per_epoch):
            rows, labels = self.sampler.draw(at)
            yield {**self.load(rows, at), "y": labels, "row": rows}
