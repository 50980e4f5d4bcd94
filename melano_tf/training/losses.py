"""Per-sample losses of logits: every loss returns one value a sample, so that sample weights can be applied to them.

Probabilities in float32 cannot tell 1 - 1e-8 from 1, and a loss that is kept finite by clipping them has no gradient
where a network is surely wrong: the sample is lost to the training. From logits the gradient is exact everywhere, as in
the frameworks of the papers. `melano_tf.models.classifier_head` gives a classifier's logits.

Mean and weights are the step's business (`melano_tf.training.steps`), never the loss's. A value that is not finite
passes through, because the loop has to see it. Everything is computed in float32, half precision too (float64 stays).
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from keras import backend, ops

# Stands for a class that does not count in a sum of exponentials; a minus infinity's gradient is no number.
NEVER = -1e30


def binary_crossentropy(y_true: Any, logits: Any) -> Any:
    """Binary cross-entropy of each sample, -[y log p + (1 - y) log(1 - p)] with p = sigmoid(z).

    Args:
        y_true: (B,) labels in 0..1, any numeric dtype.
        logits: z, (B,) float log-odds of the positive class.

    Returns:
        (B,) losses in nats, float32 (float64 of float64).

    Raises:
        ValueError: an argument is not one-dimensional ((B, 1) against (B,) would silently broadcast to (B, B)).
    """
    return binary_focal(y_true, logits, alpha=None, gamma=0.0)


def categorical_crossentropy(y_true: Any, logits: Any) -> Any:
    """Cross-entropy of each sample over exclusive classes, -sum_c y_c log p_c with p = softmax(z).

    Args:
        y_true: (B,) integer class indices, or (B, C) one-hot (or soft) targets.
        logits: z, (B, C) float.

    Returns:
        (B,) losses in nats, float32 (float64 of float64).

    Raises:
        ValueError: a rank or the number of classes does not fit.
    """
    z = at_least_float32(logits)
    return -ops.sum(_targets(y_true, z) * ops.log_softmax(z, axis=-1), axis=-1)


def binary_focal(y_true: Any, logits: Any, alpha: Any = 0.25, gamma: Any = 2.0) -> Any:
    """Binary focal loss of each sample, -alpha_t (1 - p_t)^gamma log p_t (Lin et al. 2017; ZooME's equation 5).

    p_t is the probability of the true class; alpha_t is alpha for positives and 1 - alpha for negatives. A soft label
    mixes the two linearly.

    Args:
        y_true: (B,) labels in 0..1, any numeric dtype.
        logits: z, (B,) float log-odds of the positive class.
        alpha: weight of the positives in 0..1; None leaves alpha_t out (all ones). A number or a tensor.
        gamma: focusing exponent >= 0; 0 is alpha-weighted cross-entropy. A number, or a tensor () or (B,), so that
            it can change without a new trace.

    Returns:
        (B,) losses in nats, float32 (float64 of float64).

    Raises:
        ValueError: an argument is not one-dimensional, gamma is a negative number, or alpha one outside 0..1.
    """
    z = at_least_float32(logits)
    _check_rank("y_true", ops.convert_to_tensor(y_true), 1)
    _check_rank("logits", z, 1)
    _check_range("gamma", gamma, 0.0, float("inf"))
    _check_range("alpha", alpha, 0.0, 1.0)
    y, gamma = ops.cast(y_true, z.dtype), ops.cast(gamma, z.dtype)
    # -log p and -log(1 - p); where the one is the loss, the other is minus the logarithm of the doubt.
    of_positive, of_negative = ops.softplus(-z), ops.softplus(z)
    positive = y * ops.exp(-gamma * of_negative) * of_positive
    negative = (1.0 - y) * ops.exp(-gamma * of_positive) * of_negative
    if alpha is None:
        return positive + negative
    alpha = ops.cast(alpha, z.dtype)
    return alpha * positive + (1.0 - alpha) * negative


def categorical_focal(y_true: Any, logits: Any, gamma: Any = 1.0) -> Any:
    """Focal loss of each sample over exclusive classes, -(1 - p_y)^gamma log p_y (sample weighting, equation 6).

    gamma 0 is cross-entropy (equation 5), to the bit. Soft targets: the sum over classes of
    -y_c (1 - p_c)^gamma log p_c.

    Args:
        y_true: (B,) integer class indices, or (B, C) one-hot (or soft) targets.
        logits: z, (B, C) float; p = softmax(z).
        gamma: focusing exponent >= 0: a number, or a tensor () or (B,), so that it can change without a new trace.

    Returns:
        (B,) losses in nats, float32 (float64 of float64).

    Raises:
        ValueError: a rank or the number of classes does not fit, or gamma is a negative number.
    """
    _check_range("gamma", gamma, 0.0, float("inf"))
    z = at_least_float32(logits)
    y = _targets(y_true, z)
    against = log_odds_against(z, np.ones((z.shape[-1], z.shape[-1]), bool))
    return -ops.sum(y * modulation(against, gamma) * ops.log_softmax(z, axis=-1), axis=-1)


def log_odds_against(logits: Any, siblings: np.ndarray) -> Any:
    """log((1 - p) / p) of each decision, p being the softmax over its siblings: exact where p rounds to 0 or 1.

    With r for it, log p = -softplus(r) and log(1 - p) = -softplus(-r).

    Args:
        logits: (B, D) float32 or float64.
        siblings: bool (D, D), which decisions exclude each other; each one is its own sibling.

    Returns:
        (B, D) in the logits' dtype; far below any logit for a decision that has no other sibling (p = 1).
    """
    others = np.asarray(siblings, bool) & ~np.eye(len(siblings), dtype=bool)
    rivals = ops.where(others[None], logits[:, None, :] - logits[:, :, None], ops.cast(NEVER, logits.dtype))
    return ops.logsumexp(rivals, axis=-1)


def modulation(against: Any, gamma: Any) -> Any:
    """(1 - p)^gamma of `log_odds_against` (B, D); gamma as in `categorical_focal`."""
    gamma = ops.cast(gamma, against.dtype)
    gamma = gamma[:, None] if len(gamma.shape) == 1 else gamma
    return ops.exp(-gamma * ops.softplus(-against))


def prior_loss(
    shares: Sequence[float] | np.ndarray,
    weights: Sequence[float] | np.ndarray | None = None,
    loss: Callable[[Any, Any], Any] = categorical_crossentropy,
) -> float:
    """The mean loss of the best constant answer, min_z sum_c N_c w_c L(c, z) / N: of a network that looks at nothing.

    Of cross-entropy that answer is the class shares under the weights, and without weights its loss is the entropy of
    the class prior. Of a focal loss it is nearer to even, of smoothed labels smoothed itself. What trains worse than
    this has learnt nothing.

    Args:
        shares: (C,) images of each class, or their shares; classes without any do not count.
        weights: (C,) weight of each class's samples in the loss, or None for ones.
        loss: (class indices (C,), logits (C, C)) -> (C,) losses, convex in the probabilities: cross-entropy or focal.

    Returns:
        In nats, with the weights.

    Raises:
        ValueError: no class has a sample.
    """
    from scipy.optimize import minimize  # heavy: who only asks a model does without

    count = np.asarray(shares, np.float64)
    present = count > 0
    if not present.any():
        raise ValueError(f"shares {count.tolist()}: no class has a sample")
    weighted = count[present] * (1.0 if weights is None else np.asarray(weights, np.float64)[present])

    def cost(logits: np.ndarray) -> float:
        answer = np.full(len(count), NEVER)
        answer[present] = logits
        losses = np.asarray(loss(np.arange(len(count)), np.tile(answer, (len(count), 1))), np.float64)
        return float(weighted @ losses[present] / count.sum())

    start = np.log(weighted / weighted.sum())
    of_shares = cost(start)
    if len(weighted) == 1:
        return of_shares
    # As a part of where it starts, for the tolerance is one of a loss near 1 and focal losses are near 0.01.
    best = minimize(lambda logits: cost(logits) / of_shares, start, method="BFGS", options={"gtol": 1e-7})
    return min(of_shares, of_shares * float(best.fun))


def at_least_float32(value: Any) -> Any:
    """The value as a tensor of float32; float64 stays."""
    x = ops.convert_to_tensor(value)
    return x if backend.standardize_dtype(x.dtype) == "float64" else ops.cast(x, "float32")


def _targets(y_true: Any, logits: Any) -> Any:
    """(B, C) targets of class indices or (B, C) targets, in the logits' dtype."""
    _check_rank("logits", logits, 2)
    y = ops.convert_to_tensor(y_true)
    if len(y.shape) == 1:
        y = ops.one_hot(ops.cast(y, "int32"), logits.shape[-1])
    _check_rank("y_true", y, 2)
    if y.shape[-1] != logits.shape[-1]:
        raise ValueError(f"y_true has {y.shape[-1]} classes, logits have {logits.shape[-1]}")
    return ops.cast(y, logits.dtype)


def _check_rank(name: str, value: Any, rank: int) -> None:
    if len(value.shape) != rank:
        raise ValueError(f"{name}: expected {rank} dimension(s), got shape {tuple(value.shape)}")


def _check_range(name: str, value: Any, low: float, high: float) -> None:
    if isinstance(value, int | float) and not low <= value <= high:
        raise ValueError(f"{name} must lie between {low:g} and {high:g}, and is {value}")
