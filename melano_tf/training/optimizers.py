"""Optimisers and learning-rate schedules by name; a schedule is a pure function of the global step."""

import math
from collections.abc import Sequence
from typing import Any, TypeAlias

import keras

from melano_tf.errors import InputError

LearningRate: TypeAlias = float | keras.optimizers.schedules.LearningRateSchedule


def make_optimizer(
    name: str,
    learning_rate: LearningRate,
    momentum: float = 0.0,
    nesterov: bool = False,
    clipnorm: float | None = None,
    epsilon: float = 1e-7,
    averaging: float = 0.0,
) -> keras.optimizers.Optimizer:
    """An optimiser by name.

    Under a `tf.distribute` strategy call this inside `strategy.scope()`. Where networks compute in float16 it scales
    the loss, so that small gradients do not vanish, and leaves out a step whose gradients overflow.

    Args:
        name: "sgd" or "adam" (Adam with Keras's betas 0.9 and 0.999).
        learning_rate: a positive number, or a schedule such as `cosine_schedule(...)`.
        momentum: of SGD, 0 <= momentum < 1.
        nesterov: Nesterov's momentum; of SGD.
        clipnorm: largest L2 norm of each variable's gradient, or None.
        epsilon: of Adam, above 0: Keras has 1e-7, PyTorch 1e-8. SGD has none and takes no notice.
        averaging: share of the old in a running mean of the weights (`take_average`), 0 <= averaging < 1; 0: none.

    Raises:
        InputError: the name is unknown, or a value does not belong to this optimiser.
    """
    if isinstance(learning_rate, int | float) and not (learning_rate > 0 and math.isfinite(learning_rate)):
        raise InputError(f"learning_rate: {learning_rate} is not a positive number")
    if not 0 <= momentum < 1:
        raise InputError(f"momentum: {momentum} is not in 0..1 (1 excluded)")
    if nesterov and momentum == 0:
        raise InputError("nesterov: needs a momentum above 0")
    if clipnorm is not None and clipnorm <= 0:
        raise InputError(f"clipnorm: {clipnorm} is not a positive number")
    if not (epsilon > 0 and math.isfinite(epsilon)):
        raise InputError(f"epsilon: {epsilon} is not a positive number")
    if not 0 <= averaging < 1:
        raise InputError(f"averaging: {averaging} is not in 0..1 (1 excluded)")
    options: dict[str, Any] = {"clipnorm": clipnorm}
    if averaging:
        options |= {"use_ema": True, "ema_momentum": averaging}
    if name == "sgd":
        return _scaling(keras.optimizers.SGD(learning_rate, momentum=momentum, nesterov=nesterov, **options))
    if name == "adam":
        if momentum:
            raise InputError("momentum: belongs to sgd; adam has its own (beta 0.9)")
        return _scaling(keras.optimizers.Adam(learning_rate, epsilon=epsilon, **options))
    raise InputError(f"optimizer: {name!r} is unknown; choose sgd or adam")


def _scaling(optimizer: keras.optimizers.Optimizer) -> keras.optimizers.Optimizer:
    """With loss scaling where networks compute in float16."""
    if keras.config.dtype_policy().compute_dtype != "float16":
        return optimizer
    return keras.optimizers.LossScaleOptimizer(optimizer)


def take_average(optimizer: keras.optimizers.Optimizer, variables: Sequence[Any]) -> bool:
    """Give weights that were trained their running mean, where the optimiser keeps one; again is the same.

    The statistics of batch normalisation are then those of other weights: `batch_norm.estimate_statistics`.

    Args:
        optimizer: from `make_optimizer`, built.
        variables: those that it was built on, in that order.

    Returns:
        Whether there is one.
    """
    own = optimizer.inner_optimizer if isinstance(optimizer, keras.optimizers.LossScaleOptimizer) else optimizer
    if own.use_ema:
        own.finalize_variable_values(list(variables))
    return bool(own.use_ema)


def loss_scale(optimizer: keras.optimizers.Optimizer) -> Any:
    """What `optimizer.scale_loss` multiplies a loss by and `optimizer.apply` divides gradients by; None: by nothing."""
    scales = isinstance(optimizer, keras.optimizers.LossScaleOptimizer)
    return keras.ops.convert_to_tensor(optimizer.dynamic_scale) if scales else None


def cosine_schedule(learning_rate: float, total_steps: int) -> LearningRate:
    """Half a cosine from `learning_rate` at the first step down to 0 behind the last one.

    Raises:
        InputError: total_steps is not positive.
    """
    if total_steps < 1:
        raise InputError(f"total_steps: {total_steps} is not a positive number")
    return keras.optimizers.schedules.CosineDecay(learning_rate, total_steps)
