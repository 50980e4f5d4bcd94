"""How well an embedding finds alike images: Recall@k and mAP@R, with groups left out, and their intervals.

A query's gallery is every other image; where groups (lesions, patients) are given, also without its own group, because
a second picture of the same lesion is found by its background and counts for nothing.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from melano_tf.evaluation.bootstrap import group_draws, mean_interval
from melano_tf.evaluation.interval import Interval

# Cells of the largest temporary array (queries in a chunk x gallery): 64 MB of float64.
CHUNK_CELLS = 8_000_000
MAP = "mAP@R"


def retrieve(
    embeddings: ArrayLike,
    labels: Sequence[str] | NDArray[np.generic],
    groups: Sequence[str] | NDArray[np.generic] | None = None,
    *,
    recalls: Sequence[int] = (1, 5),
) -> dict[str, NDArray[np.float64]]:
    """Metrics of each image as a query among the others, by cosine similarity; ties go to the image that comes first.

    Recall@k is 1 where one of the k most similar images has the query's label, else 0. mAP@R (Musgrave et al. 2020):
    with R the number of images of that label in the gallery, AP@R = 1/R sum_{i<=R} P(i) rel(i), where P(i) is the share
    of hits among the first i, and rel(i) whether the i-th is one.

    Args:
        embeddings: (n, D) float; normalised here; a zero vector is as similar to all.
        labels: of each image, (n,).
        groups: of each image, (n,): those of the query's own group are left out. None: only the query itself is.
        recalls: the k.

    Returns:
        {"Recall@k": (n,), …, "mAP@R": (n,)}; NaN for a query whose gallery holds no image of its label.

    Raises:
        ValueError: lengths that differ, embeddings that are not finite, k below 1.
    """
    x = np.asarray(embeddings, np.float64)
    codes = np.unique(np.asarray(labels), return_inverse=True)[1]
    own = np.arange(len(codes)) if groups is None else np.unique(np.asarray(groups), return_inverse=True)[1]
    if x.ndim != 2 or not len(x) == len(codes) == len(own):
        raise ValueError(f"embeddings {x.shape}, {len(codes)} labels and {len(own)} groups: one of each an image")
    if not np.all(np.isfinite(x)):
        raise ValueError("embeddings hold values that are not finite")
    if min(recalls, default=1) < 1:
        raise ValueError(f"recalls {tuple(recalls)}: at least 1")
    norms = np.linalg.norm(x, axis=1, keepdims=True)
    x = np.divide(x, norms, out=np.zeros_like(x), where=norms > 0)
    result = {name: np.full(len(x), np.nan) for name in (*(f"Recall@{k}" for k in recalls), MAP)}
    rows = max(1, CHUNK_CELLS // max(len(x), 1))
    for start in range(0, len(x), rows):
        part = slice(start, start + rows)
        similarity = x[part] @ x.T
        similarity[own[part, None] == own[None, :]] = -np.inf
        order = np.argsort(-similarity, axis=1, kind="stable")
        left_out = np.take_along_axis(similarity, order, axis=1) == -np.inf
        hits = (codes[order] == codes[part, None]) & ~left_out
        relevant = hits.sum(axis=1)
        for k in recalls:
            result[f"Recall@{k}"][part] = np.where(relevant > 0, hits[:, :k].any(axis=1), np.nan)
        result[MAP][part] = _average_precision(hits, relevant)
    return result


def _average_precision(hits: NDArray[np.bool_], relevant: NDArray[np.int64]) -> NDArray[np.float64]:
    """AP@R of ranked hits (q, n) of at least one query, (q,); NaN where nothing is relevant."""
    deepest = int(relevant.max())
    hits = hits[:, :deepest]
    rank = np.arange(1, deepest + 1)
    precision = hits.cumsum(axis=1) / rank
    summed = (precision * hits * (rank <= relevant[:, None])).sum(axis=1)
    return np.divide(summed, relevant, out=np.full(len(hits), np.nan), where=relevant > 0)


def retrieval_intervals(
    embeddings: ArrayLike,
    labels: Sequence[str] | NDArray[np.generic],
    groups: Sequence[str] | NDArray[np.generic],
    *,
    exclude_groups: bool = True,
    recalls: Sequence[int] = (1, 5),
    repeats: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> dict[str, Interval]:
    """Means of the metrics over queries, with intervals by whole groups of queries: Recall@k in closed form.

    mAP@R has the wider, at each end, of that and of a percentile bootstrap. The gallery stays as it is: the interval
    says what other queries would change.

    Args:
        embeddings, labels, recalls: as `retrieve`.
        groups: lesion or patient of each image, (n,).
        exclude_groups: leave the query's own group out of its gallery.
        repeats: number of resamples.
        level: coverage.
        seed: of the draw.
    """
    found = retrieve(embeddings, labels, groups if exclude_groups else None, recalls=recalls)
    index, draws = group_draws(groups, repeats, seed)
    return {name: mean_interval(values, index, draws, level, share=name != MAP) for name, values in found.items()}


def nearest(
    point: NDArray[np.floating], vectors: NDArray[np.floating]
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Order of a gallery by cosine distance from a point, nearest first, and the distances in that order.

    Args:
        point: (D,), L2-normalised.
        vectors: (n, D), L2-normalised.

    Returns:
        (places int64 (n,), distances float64 (n,) = 1 - cosine, 0 to 2); equal distances keep the gallery's order.
    """
    distances = np.clip(1.0 - vectors.astype(np.float64) @ point.astype(np.float64), 0.0, 2.0)
    order = np.argsort(distances, kind="stable")
    return order, distances[order]
