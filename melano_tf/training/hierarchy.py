"""The loss of sequential decisions: equation 10 of the sample-weighting paper, with the strategy's gamma."""

from typing import Any

import numpy as np
from keras import ops

from melano_tf.training.losses import EPSILON
from melano_tf.training.steps import Batch, LossFn
from melano_tf.training.weights import STRATEGY


def path_focal(y_true: Any, conditional: Any, paths: Any, gamma: Any = 0.0) -> Any:
    """Focal loss of each sample, summed over its levels: sum_l -(1 - p_l)^gamma log p_l (equations 6 and 10).

    p_l is the probability of the right decision at level l, given the right ones before it. A class's own path says
    how many levels it has; what lies off the path adds nothing, not even to the gradient. gamma 0 is cross-entropy:
    minus the logarithm of the leaf's probability.

    Args:
        y_true: (B,) integer classes (leaves).
        conditional: (B, D) float, the probability of each decision given that its parent was reached.
        paths: (C, D), 1 where a decision lies on the path to a class, else 0.
        gamma: focusing exponent >= 0: a number, or a tensor () or (B,), so that it can change without a new trace.

    Returns:
        (B,) float losses in nats, in the dtype of `conditional`; half precision is computed in float32.

    Raises:
        ValueError: a rank or the number of decisions does not fit.
    """
    conditional, y = ops.convert_to_tensor(conditional), ops.convert_to_tensor(y_true)
    paths = ops.convert_to_tensor(paths)
    if len(y.shape) != 1 or len(conditional.shape) != 2 or conditional.shape[-1] != paths.shape[-1]:
        raise ValueError(f"classes {y.shape}, decisions {conditional.shape}, paths {paths.shape}: do not fit")
    dtype = conditional.dtype
    p = ops.cast(conditional, "float32") if dtype in ("float16", "bfloat16") else conditional
    gamma = ops.cast(ops.convert_to_tensor(gamma), p.dtype)
    gamma = gamma[:, None] if len(gamma.shape) == 1 else gamma
    # As `categorical_focal`: both kept off where the logarithm, or the power's gradient, is not finite.
    losses = -ops.power(ops.clip(1.0 - p, EPSILON, 1.0), gamma) * ops.log(ops.clip(p, EPSILON, 1.0))
    on_path = ops.take(ops.cast(paths, p.dtype), ops.cast(y, "int32"), axis=0)
    return ops.cast(ops.sum(on_path * losses, axis=-1), dtype)


def path_focal_loss(paths: Any) -> LossFn:
    """The `loss_fn` of a `GradientStep` for a hierarchical model, whose outputs are conditional probabilities (B, D).

    Args:
        paths: (C, D), `Taxonomy.path_matrix()`.
    """
    paths = np.asarray(paths, np.float32)

    def loss(batch: Batch, outputs: Any) -> Any:
        return path_focal(batch["y"], outputs, paths, batch[STRATEGY]["gamma"])

    return loss
