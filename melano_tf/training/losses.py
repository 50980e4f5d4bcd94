"""Per-sample losses: every loss returns one value a sample, so that sample weights can be applied to them.

Mean and weights are the step's business (`melano_tf.training.steps`), never the loss's. A value that is not finite
passes through, because the loop has to see it.
"""

from typing import Any

from keras import backend, ops

# Probabilities are kept this far from 0 and 1 before the logarithm (float32 resolves it at both ends).
EPSILON = 1e-7


def binary_crossentropy(y_true: Any, p: Any) -> Any:
    """Binary cross-entropy of each sample, -[y log p + (1 - y) log(1 - p)].

    Args:
        y_true: (B,) labels in 0..1, any numeric dtype.
        p: (B,) float probability of the positive class.

    Returns:
        (B,) float losses in nats, in p's dtype.

    Raises:
        ValueError: an argument is not one-dimensional ((B, 1) against (B,) would silently broadcast to (B, B)).
    """
    p = ops.convert_to_tensor(p)
    y = ops.cast(y_true, p.dtype)
    _check_rank("y_true", y, 1)
    _check_rank("p", p, 1)
    p = ops.clip(p, EPSILON, 1.0 - EPSILON)
    return -(y * ops.log(p) + (1.0 - y) * ops.log(1.0 - p))


def categorical_crossentropy(y_true: Any, probabilities: Any) -> Any:
    """Cross-entropy of each sample over exclusive classes, -sum_c y_c log p_c.

    Args:
        y_true: (B,) integer class indices, or (B, C) one-hot (or soft) targets.
        probabilities: (B, C) float, each row sums to one.

    Returns:
        (B,) float losses in nats, in the probabilities' dtype.

    Raises:
        ValueError: a rank or the number of classes does not fit.
    """
    p = ops.convert_to_tensor(probabilities)
    y = ops.convert_to_tensor(y_true)
    _check_rank("probabilities", p, 2)
    if len(y.shape) == 1:
        y = ops.one_hot(ops.cast(y, "int32"), p.shape[-1])
    _check_rank("y_true", y, 2)
    if y.shape[-1] != p.shape[-1]:
        raise ValueError(f"y_true has {y.shape[-1]} classes, probabilities have {p.shape[-1]}")
    logarithm = ops.log(ops.clip(p, EPSILON, 1.0))
    return -ops.sum(ops.cast(y, p.dtype) * logarithm, axis=-1)


def _check_rank(name: str, value: Any, rank: int) -> None:
    if len(value.shape) != rank:
        raise ValueError(f"{name}: expected {rank} dimension(s), got shape {tuple(value.shape)}")


def binary_focal(y_true: Any, p: Any, alpha: Any = 0.25, gamma: Any = 2.0) -> Any:
    """Binary focal loss of each sample, -alpha_t (1 - p_t)^gamma log p_t (Lin et al. 2017; ZooME's equation 5).

    p_t is the probability of the true class; alpha_t is alpha for positives and 1 - alpha for negatives. A soft label
    mixes the two linearly. In half precision the loss is computed in float32 and cast back.

    Args:
        y_true: (B,) labels in 0..1, any numeric dtype.
        p: (B,) float probability of the positive class.
        alpha: weight of the positives in 0..1; None leaves alpha_t out (all ones). A number or a tensor.
        gamma: focusing exponent >= 0; 0 is alpha-weighted cross-entropy. A number, or a tensor () or (B,), so that
            it can change without a new trace.

    Returns:
        (B,) float losses in nats, in p's dtype.

    Raises:
        ValueError: an argument is not one-dimensional, gamma is a negative number, or alpha one outside 0..1.
    """
    p = ops.convert_to_tensor(p)
    _check_rank("y_true", ops.convert_to_tensor(y_true), 1)
    _check_rank("p", p, 1)
    _check_range("gamma", gamma, 0.0, float("inf"))
    _check_range("alpha", alpha, 0.0, 1.0)
    dtype, p = p.dtype, _at_least_float32(p)
    y = ops.cast(y_true, p.dtype)
    focal = binary_crossentropy(y, p) * _modulation(y * (1.0 - p) + (1.0 - y) * p, gamma)
    if alpha is not None:
        alpha = ops.cast(alpha, p.dtype)
        focal = focal * (y * alpha + (1.0 - y) * (1.0 - alpha))
    return ops.cast(focal, dtype)


def categorical_focal(y_true: Any, probabilities: Any, gamma: Any = 1.0) -> Any:
    """Focal loss of each sample over exclusive classes, -(1 - p_y)^gamma log p_y (sample weighting, equation 6).

    gamma 0 is cross-entropy (equation 5), to the bit in float32 and float64. Soft targets: the sum over classes of
    -y_c (1 - p_c)^gamma log p_c. In half precision the loss is computed in float32 and cast back.

    Args:
        y_true: (B,) integer class indices, or (B, C) one-hot (or soft) targets.
        probabilities: (B, C) float, each row sums to one.
        gamma: focusing exponent >= 0: a number, or a tensor () or (B,), so that it can change without a new trace.

    Returns:
        (B,) float losses in nats, in the probabilities' dtype.

    Raises:
        ValueError: a rank or the number of classes does not fit, or gamma is a negative number.
    """
    _check_range("gamma", gamma, 0.0, float("inf"))
    p = ops.convert_to_tensor(probabilities)
    y = ops.convert_to_tensor(y_true)
    _check_rank("probabilities", p, 2)
    dtype, p = p.dtype, _at_least_float32(p)
    if len(y.shape) == 1:
        y = ops.one_hot(ops.cast(y, "int32"), p.shape[-1])
    if not isinstance(gamma, int | float):
        gamma = ops.convert_to_tensor(gamma)
        gamma = gamma[:, None] if len(gamma.shape) == 1 else gamma
    if len(y.shape) == 2 and y.shape[-1] == p.shape[-1]:  # else the cross-entropy says what does not fit
        y = ops.cast(y, p.dtype) * _modulation(1.0 - p, gamma)
    return ops.cast(categorical_crossentropy(y, p), dtype)


def _modulation(doubt: Any, gamma: Any) -> Any:
    """(1 - p_t)^gamma of doubt = 1 - p_t; kept off zero, where the power's gradient is not finite for gamma < 1."""
    return ops.power(ops.clip(doubt, EPSILON, 1.0), ops.cast(gamma, doubt.dtype))


def _at_least_float32(value: Any) -> Any:
    """Half precision cannot hold 1 - EPSILON."""
    return value if backend.standardize_dtype(value.dtype) == "float64" else ops.cast(value, "float32")


def _check_range(name: str, value: Any, low: float, high: float) -> None:
    if isinstance(value, int | float) and not low <= value <= high:
        raise ValueError(f"{name} must lie between {low:g} and {high:g}, and is {value}")
