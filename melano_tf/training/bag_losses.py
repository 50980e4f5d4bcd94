"""Losses of bags, from logits: cross-entropy of the bag, CLAM's instance clustering, weight decay. One value a bag."""

from collections.abc import Mapping
from typing import Any

from keras import ops

from melano_tf.training.steps import Batch, LossFn


def bag_crossentropy(y: Any, logits: Any) -> Any:
    """Cross-entropy of each bag, computed in float32 from logits, so that it keeps its gradient however wrong they are.

    Args:
        y: (B,) class indices.
        logits: (B, 1), of class 1 against class 0, or (B, K).

    Returns:
        (B,) float32 losses in nats.

    Raises:
        ValueError: a rank does not fit.
    """
    logits, y = ops.cast(logits, "float32"), ops.convert_to_tensor(y)
    if len(logits.shape) != 2 or len(y.shape) != 1:
        raise ValueError(f"expected y (B,) and logits (B, K), got {tuple(y.shape)} and {tuple(logits.shape)}")
    if logits.shape[-1] == 1:
        z, y = logits[:, 0], ops.cast(y, "float32")
        return ops.softplus(z) - z * y
    return _categorical(ops.one_hot(ops.cast(y, "int32"), logits.shape[-1]), logits)


def bag_loss(batch: Batch, outputs: Mapping[str, Any]) -> Any:
    """The cross-entropy of a bag model's answer, (B,), for `GradientStep`."""
    return bag_crossentropy(batch["y"], outputs["logits"])


def clam_loss(bag_weight: float = 0.7, subtyping: bool = False) -> LossFn:
    """CLAM's loss: bag_weight * (cross-entropy of the bag) + (1 - bag_weight) * (instance clustering).

    The instance classifier of the bag's own class shall tell the most attended instances (1) from the least attended
    (0): the mean cross-entropy over both. CLAM's paper takes a smooth SVM loss there, its code offers both.

    Args:
        bag_weight: 0 to 1 (CLAM: 0.7).
        subtyping: classes exclude each other, so that the most attended instances are none of any other class: their
            cross-entropy against 0 is added for the other classes, and the sum is divided by the number of classes.
    """

    def loss(batch: Batch, outputs: Mapping[str, Any]) -> Any:
        logits, there = outputs["instance_logits"], ops.cast(outputs["instance_there"], "float32")[:, None, :]
        classes, ends = logits.shape[1], logits.shape[2]
        own = ops.one_hot(ops.cast(batch["y"], "int32"), classes)
        most = ops.cast(ops.arange(ends) < ends // 2, "float32")[None, None, :]
        logits = ops.cast(logits, "float32")
        is_one, is_zero = (_categorical(ops.one_hot([[[target]]], 2), logits) for target in (1, 0))
        inside = _mean(most * is_one + (1.0 - most) * is_zero, there)
        instances = ops.sum(own * inside, axis=1)
        if subtyping:
            outside = _mean(is_zero, there * most)
            instances = (instances + ops.sum((1.0 - own) * outside, axis=1)) / classes
        return bag_weight * bag_loss(batch, outputs) + (1.0 - bag_weight) * instances

    return loss


def with_weight_decay(loss_fn: LossFn, model: Any, decay: float) -> LossFn:
    """A loss with decay / 2 * (sum of squares of all trainable variables) added to each sample's.

    The gradient is decay * w, which is what "weight decay" means to SGD in most MIL papers (Keras's own decays apart
    from the gradient and its momentum). Sample weights should have a mean of 1.
    """
    variables = list(model.trainable_variables)

    def loss(batch: Batch, outputs: Any) -> Any:
        squares = [ops.sum(ops.square(ops.cast(variable, "float32"))) for variable in variables]
        return loss_fn(batch, outputs) + 0.5 * decay * sum(squares[1:], squares[0])

    return loss


def _categorical(targets: Any, logits: Any) -> Any:
    """Cross-entropy over the last axis, from logits; targets one-hot, broadcast."""
    return ops.logsumexp(logits, axis=-1) - ops.sum(ops.cast(targets, "float32") * logits, axis=-1)


def _mean(values: Any, there: Any) -> Any:
    """Mean over the last axis of those that are there; 0 where none is."""
    return ops.sum(values * there, axis=-1) / ops.maximum(ops.sum(there, axis=-1), 1.0)
