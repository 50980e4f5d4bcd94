"""The loss of sequential decisions: equation 10 of the sample-weighting paper, with the strategy's gamma."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from keras import ops

from melano_tf.training.losses import at_least_float32, log_odds_against, modulation
from melano_tf.training.sample_weights import STRATEGY
from melano_tf.training.steps import Batch, LossFn


def path_focal(y_true: Any, scores: Any, paths: Any, children: Sequence[int], gamma: Any = 0.0) -> Any:
    """Focal loss of each sample, summed over its levels: sum_l -(1 - p_l)^gamma log p_l (equations 6 and 10).

    p_l is the probability of the right decision at level l, given the right ones before it: the softmax of its score
    among its siblings'. A class's own path says how many levels it has; the decisions of nodes off the path add
    nothing, not even to the gradient. gamma 0 is cross-entropy: minus the logarithm of the leaf's probability.

    Args:
        y_true: (B,) integer classes (leaves).
        scores: (B, D) float, the logit of each decision among those of its node.
        paths: (C, D), 1 where a decision lies on the path to a class, else 0.
        children: decisions of each node, in the order of the scores (`Taxonomy.children`).
        gamma: focusing exponent >= 0: a number, or a tensor () or (B,), so that it can change without a new trace.

    Returns:
        (B,) losses in nats, float32 (float64 of float64).

    Raises:
        ValueError: a rank or the number of decisions does not fit.
    """
    z, y = at_least_float32(scores), ops.convert_to_tensor(y_true)
    paths = ops.convert_to_tensor(paths)
    if len(y.shape) != 1 or len(z.shape) != 2 or not z.shape[-1] == paths.shape[-1] == sum(children):
        raise ValueError(f"classes {y.shape}, decisions {z.shape}, paths {paths.shape}: do not fit")
    node = np.repeat(np.arange(len(children)), children)
    against = log_odds_against(z, node[:, None] == node[None, :])
    losses = modulation(against, gamma) * ops.softplus(against)
    on_path = ops.take(ops.cast(paths, z.dtype), ops.cast(y, "int32"), axis=0)
    return ops.sum(on_path * losses, axis=-1)


def path_focal_loss(paths: Any, children: Sequence[int]) -> LossFn:
    """The `loss_fn` of a `GradientStep` for a hierarchical model, whose outputs are the decisions' scores (B, D).

    Args:
        paths: (C, D), `Taxonomy.path_matrix()`.
        children: `Taxonomy.children`.
    """
    paths = np.asarray(paths, np.float32)

    def loss(batch: Batch, outputs: Any) -> Any:
        return path_focal(batch["y"], outputs, paths, children, batch[STRATEGY]["gamma"])

    return loss
