"""Metric-learning losses on a batch of labelled embeddings, for the similarity paper's clustering.

Each returns (B,) values, one an anchor, whose mean over the batch is the loss as its authors define it; so they serve
as the `loss_fn` of a `GradientStep`, which takes that mean. Mask and divisor are chosen so that value and gradient are
finite for every batch: an anchor without a positive or without a negative adds 0, and so do identical points and zero
vectors. Half precision is computed in float32 and cast back.
"""

from collections.abc import Callable
from typing import Any, Literal

from keras import backend, ops

Distance = Literal["cosine", "euclidean", "squared_euclidean"]
SemiHard = Literal["nearest_farther", "band"]

# A squared norm below this is taken for a zero vector.
TINY = 1e-12
# Below every distance, similarity and exponent; finite, because infinities make gradients that are not numbers.
OUT = -1e30
# The multi-similarity reference takes pairs as similar as this for one and the same sample.
SAME_POINT = 1.0 - 1e-5


def contrastive(embeddings: Any, labels: Any, threshold: float = 0.5) -> Any:
    """Contrastive loss on cosine similarities: the mean over pairs of 1 - S (one label) or [S - lambda]_+ (two).

    The similarity paper's equation 1, in the form in which the multi-similarity paper (Wang et al. 2019) writes it,
    plus the constant 1 a positive pair, which keeps the loss from being negative. An anchor's value is the mean over
    its B - 1 pairs.

    Args:
        embeddings: (B, C) float; normalised here.
        labels: (B,) integer labels.
        threshold: lambda, the cosine similarity down to which negatives are pushed apart.

    Returns:
        (B,) float, in the embeddings' dtype.

    Raises:
        ValueError: the shapes are not (B, C) and (B,).
    """
    x, positive, negative, dtype = _prepare(embeddings, labels)
    similarity = _cosines(x)
    pairs = positive * (1.0 - similarity) + negative * ops.relu(similarity - threshold)
    others = ops.sum(positive + negative, axis=1)
    return ops.cast(ops.sum(pairs, axis=1) / ops.maximum(others, 1.0), dtype)


def triplet_semi_hard(
    embeddings: Any,
    labels: Any,
    margin: float = 0.2,
    distance: Distance = "cosine",
    definition: SemiHard = "nearest_farther",
) -> Any:
    """Triplet loss [margin + D_ap - D_an]_+ on semi-hard negatives, in either of the two meanings of the word.

    "nearest_farther" (FaceNet as tensorflow-addons reads it): each pair (a, p) takes the nearest negative with
    D_an > D_ap, without an upper bound, and the farthest negative where there is none; the mean over all positive
    pairs. "band" (pytorch-metric-learning): all triplets with 0 < D_an - D_ap <= margin; the mean over those whose
    loss is not zero. Both hold (B, B, B) tensors, 64 MB at B = 256.

    Args:
        embeddings: (B, C) float; normalised here for the cosine distance, else taken as they are.
        labels: (B,) integer labels.
        margin: in units of the distance.
        distance: "cosine" (1 - S), "euclidean", "squared_euclidean".
        definition: "nearest_farther" or "band".

    Returns:
        (B,) float, in the embeddings' dtype: an anchor's summed losses x B / divisor.

    Raises:
        ValueError: the shapes are not (B, C) and (B,), or a name is unknown.
    """
    x, positive, negative, dtype = _prepare(embeddings, labels)
    d = _distances(x, distance)
    if definition == "nearest_farther":
        summed, divisor = _nearest_farther(d, positive, negative, margin)
    elif definition == "band":
        summed, divisor = _band(d, positive, negative, margin)
    else:
        raise ValueError(f"definition {definition!r} is unknown; known: nearest_farther, band")
    size = ops.cast(ops.shape(d)[0], d.dtype)
    return ops.cast(summed * size / ops.maximum(divisor, 1.0), dtype)


def triplet_batch_hard(embeddings: Any, labels: Any, margin: float = 0.2, distance: Distance = "cosine") -> Any:
    """Triplet loss of each anchor with its farthest positive and its nearest negative (Hermans et al. 2017).

    Args:
        embeddings, labels, margin, distance: as in `triplet_semi_hard`.

    Returns:
        (B,) float, in the embeddings' dtype; 0 for an anchor without a positive or without a negative.

    Raises:
        ValueError: as in `triplet_semi_hard`.
    """
    x, positive, negative, dtype = _prepare(embeddings, labels)
    d = _distances(x, distance)
    # An empty mask's OUT puts the difference below zero.
    return ops.cast(ops.relu(margin + _largest(d, positive) - _smallest(d, negative)), dtype)


def multi_similarity(
    embeddings: Any,
    labels: Any,
    alpha: float = 2.0,
    beta: float = 50.0,
    threshold: float = 0.5,
    epsilon: float = 0.1,
) -> Any:
    """Multi-similarity loss with its mining (Wang et al. 2019; the similarity paper's equations 3 to 6).

    L_i = 1/alpha log(1 + sum_P e^{-alpha (S - lambda)}) + 1/beta log(1 + sum_N e^{beta (S - lambda)}), over the mined
    positives P (S < 1 - 1e-5 and S - epsilon < the anchor's most similar negative) and the mined negatives N (S +
    epsilon > its least similar positive). An anchor with either set empty is 0; the mean is over all anchors.

    Args:
        embeddings: (B, C) float; normalised here.
        labels: (B,) integer labels.
        alpha, beta: sharpness for positives and for negatives.
        threshold: lambda, a cosine similarity.
        epsilon: margin of the mining.

    Returns:
        (B,) float, in the embeddings' dtype.

    Raises:
        ValueError: the shapes are not (B, C) and (B,).
    """
    x, positive, negative, dtype = _prepare(embeddings, labels)
    similarity = _cosines(x)
    chosen = ops.stop_gradient(similarity)
    positive = positive * ops.cast(chosen < SAME_POINT, chosen.dtype)
    hard_positive, hard_negative = _smallest(chosen, positive)[:, None], _largest(chosen, negative)[:, None]
    positive = positive * ops.cast(chosen - epsilon < hard_negative, chosen.dtype)
    negative = negative * ops.cast(chosen + epsilon > hard_positive, chosen.dtype)
    pull = _log_one_plus_sum(-alpha * (similarity - threshold), positive) / alpha
    push = _log_one_plus_sum(beta * (similarity - threshold), negative) / beta
    return ops.cast((pull + push) * _any(positive) * _any(negative), dtype)


METRIC_LOSSES: dict[str, Callable[..., Any]] = {
    "contrastive": contrastive,
    "triplet": triplet_semi_hard,
    "triplet_batch_hard": triplet_batch_hard,
    "multi_similarity": multi_similarity,
}


def _prepare(embeddings: Any, labels: Any) -> tuple[Any, Any, Any, Any]:
    """Embeddings in at least float32, the masks (B, B) of positives (without self) and negatives, the given dtype."""
    x = ops.convert_to_tensor(embeddings)
    labels = ops.convert_to_tensor(labels)
    if len(x.shape) != 2 or len(labels.shape) != 1:
        raise ValueError(f"expected embeddings (B, C) and labels (B,), got {tuple(x.shape)} and {tuple(labels.shape)}")
    dtype = x.dtype
    if backend.standardize_dtype(dtype) != "float64":
        x = ops.cast(x, "float32")
    same = ops.cast(labels[None, :] == labels[:, None], x.dtype)
    return x, same - ops.eye(ops.shape(x)[0], dtype=x.dtype), 1.0 - same, dtype


def _cosines(x: Any) -> Any:
    """Cosine similarities (B, B); 0, and no gradient, with a zero vector."""
    squares = ops.sum(ops.square(x), axis=1, keepdims=True)
    fine = squares > TINY
    x = ops.where(fine, x * ops.rsqrt(ops.where(fine, squares, ops.ones_like(squares))), ops.zeros_like(x))
    return ops.matmul(x, ops.transpose(x))


def _distances(x: Any, distance: Distance) -> Any:
    """Distances (B, B)."""
    if distance == "cosine":
        return ops.relu(1.0 - _cosines(x))
    if distance not in ("euclidean", "squared_euclidean"):
        raise ValueError(f"distance {distance!r} is unknown; known: cosine, euclidean, squared_euclidean")
    squares = ops.sum(ops.square(x), axis=1)
    squared = ops.relu(squares[:, None] + squares[None, :] - 2.0 * ops.matmul(x, ops.transpose(x)))
    if distance == "squared_euclidean":
        return squared
    # The square root's gradient at 0 is infinite: identical points get distance 0 and gradient 0.
    apart = squared > 0
    return ops.where(apart, ops.sqrt(ops.where(apart, squared, ops.ones_like(squared))), ops.zeros_like(squared))


def _any(mask: Any) -> Any:
    """1 for the rows of a mask (B, B) that hold a one, else 0."""
    return ops.max(mask, axis=1)


def _largest(values: Any, mask: Any) -> Any:
    """The largest value of each row (last axis) within the mask; OUT where the mask is empty."""
    return ops.max(ops.where(mask > 0, values, ops.full_like(values, OUT)), axis=-1)


def _smallest(values: Any, mask: Any) -> Any:
    """The smallest value of each row (last axis) within the mask; -OUT where the mask is empty."""
    return -_largest(-values, mask)


def _nearest_farther(d: Any, positive: Any, negative: Any, margin: float) -> tuple[Any, Any]:
    """Summed losses of each anchor (B,), and the number of positive pairs."""
    farther = ops.cast(d[:, None, :] > d[:, :, None], d.dtype) * negative[:, None, :]  # (anchor, positive, negative)
    nearest = _smallest(ops.broadcast_to(d[:, None, :], ops.shape(farther)), farther)
    farthest = _largest(d, negative)[:, None]
    chosen = ops.where(ops.max(farther, axis=-1) > 0, nearest, farthest)
    hinge = ops.relu(margin + d - chosen) * positive * _any(negative)[:, None]
    return ops.sum(hinge, axis=1), ops.sum(positive)


def _band(d: Any, positive: Any, negative: Any, margin: float) -> tuple[Any, Any]:
    """Summed losses of each anchor (B,), and the number of triplets whose loss is not zero."""
    gap = d[:, None, :] - d[:, :, None]  # D_an - D_ap, (anchor, positive, negative)
    triplets = positive[:, :, None] * negative[:, None, :]
    hinge = ops.relu(margin - gap) * triplets * ops.cast(gap > 0, d.dtype)
    return ops.sum(hinge, axis=(1, 2)), ops.sum(ops.cast(hinge > 0, d.dtype))


def _log_one_plus_sum(exponents: Any, mask: Any) -> Any:
    """log(1 + sum over the mask of e^exponent) of each row, without overflow."""
    masked = ops.where(mask > 0, exponents, ops.full_like(exponents, OUT))
    return ops.logsumexp(ops.concatenate([ops.zeros_like(masked[:, :1]), masked], axis=1), axis=1)
