"""The teacher's embedding of a run's images: neighbours, and a map in two dimensions."""

import functools
from dataclasses import dataclass
from tokenize import TokenError

import numpy as np
from numpy.typing import NDArray

from melano_tf.errors import InputError
from melano_tf.runs.file_integrity import read_words
from melano_tf.view.run_cases import Seen

FILES = ("clusters/embedding.npy", "clusters/clusters.csv")


def has_embedding(run: Seen) -> bool:
    """Whether the run's images were embedded and clustered under its present settings."""
    return all(run.standing.holds(run.folder / name) for name in FILES)


@dataclass(frozen=True, eq=False)
class Embedding:
    """Images as points.

    Attributes:
        cases: their names, (n,).
        vectors: float32 (n, D), of unit length.
        places: row of each image.
    """

    cases: tuple[str, ...]
    vectors: NDArray[np.float32]
    places: dict[str, int]

    @classmethod
    def read(cls, run: Seen) -> "Embedding | None":
        """The run's, or None where it made none under its present settings, or its files do not fit each other."""
        if not has_embedding(run):
            return None
        points, clusters = (run.folder / name for name in FILES)
        try:
            vectors = np.load(points, mmap_mode="r", allow_pickle=False)
            names = read_words(clusters)["image_id"].tolist()
        except (InputError, OSError, ValueError, KeyError, TokenError):
            return None
        if vectors.ndim != 2 or len(names) != len(vectors):
            return None
        return cls(tuple(names), vectors, {name: row for row, name in enumerate(names)})

    def nearest(self, case: str, count: int) -> list[tuple[str, float]]:
        """The images most like one of them, nearest first, itself left out, with 1 - cosine."""
        from melano_tf.evaluation.retrieval import nearest

        own = self.places[case]
        order, distances = nearest(np.asarray(self.vectors[own]), np.asarray(self.vectors))
        pairs = [(self.cases[row], float(d)) for row, d in zip(order, distances, strict=True) if row != own]
        return pairs[:count]


def principal_plane(vectors: NDArray[np.floating]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Points on the plane of greatest variance (PCA).

    Args:
        vectors: (n, D), n and D at least 2.

    Returns:
        (points (n, 2), share of the variance along each axis (2,)); the sign of an axis is that which makes its largest
        loading positive.
    """
    centred = np.asarray(vectors, np.float64) - np.asarray(vectors, np.float64).mean(axis=0)
    variances, axes = np.linalg.eigh(centred.T @ centred)
    order = np.argsort(variances)[::-1][:2]
    chosen = axes[:, order]
    signs = np.sign(chosen[np.abs(chosen).argmax(axis=0), np.arange(chosen.shape[1])])
    total = float(variances.sum())
    shares = variances[order] / total if total > 0 else np.zeros(len(order))
    return centred @ (chosen * signs), np.asarray(shares)


def umap_plane(vectors: NDArray[np.floating], seed: int = 0) -> NDArray[np.float64]:
    """Points by UMAP, where it is installed (`pip install melano_tf[umap]`).

    Raises:
        ImportError: it is not.
    """
    import umap

    return np.asarray(umap.UMAP(n_components=2, metric="cosine", random_state=seed).fit_transform(vectors), np.float64)


@functools.cache
def has_umap() -> bool:
    """Whether UMAP is installed."""
    import importlib.util

    return importlib.util.find_spec("umap") is not None
