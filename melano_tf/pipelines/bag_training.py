"""One training of a bag model, described and done: network, optimiser, batches, loss, loop."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np

from melano_tf.models.bag_models import build_bag_model
from melano_tf.pipelines.bag_fitting import BagTrainingSettings
from melano_tf.pipelines.feature_bags import Bags, FeatureBagBatches
from melano_tf.training.bag_losses import bag_loss, clam_loss, with_weight_decay
from melano_tf.training.fit import Network
from melano_tf.training.loop import GradientStep, History, LoopSettings, train
from melano_tf.training.optimizers import make_optimizer
from melano_tf.training.tensorflow_runtime import computing_in, policy

OPEN_AXES = 2  # of a batch: bags, and the instances of the largest of them


def bag_network(width: int, classes: int, settings: BagTrainingSettings, seed: int) -> Network:
    """A bag model with its initial weights, its optimiser, and the loss that its kind is trained with."""
    with computing_in(settings.precision):
        model = build_bag_model(width, classes, settings.model, policy(settings.precision), seed)
        optimizer = make_optimizer(settings.optimizer, settings.learning_rate, momentum=settings.momentum)
    return Network(model, optimizer, model, loss=_loss(model, settings))


def bag_batches(
    bags: Bags, places: np.ndarray, settings: BagTrainingSettings, seed: int, weights: np.ndarray | None = None
) -> FeatureBagBatches:
    """The batches of a training; weights of the bags in `places` have mean 1, None for ones."""
    return FeatureBagBatches(bags, places, settings.batch, settings.max_instances, seed, settings.precision, weights)


def train_bag_model(
    bags: Bags,
    places: np.ndarray,
    classes: int,
    settings: BagTrainingSettings,
    folder: Path,
    seed: int,
    weights: np.ndarray | None = None,
    loop: LoopSettings | None = None,
    **hooks: Any,
) -> tuple[keras.Model, History]:
    """Train one bag model, or take it up where its folder stands.

    Args:
        bags: all bags.
        places: those to train on.
        classes: number of classes.
        settings: the training.
        folder: of the loop's checkpoint and logs; one for each training.
        seed: of the initial weights, the order, the drawn instances and dropout.
        weights: weight of each bag in `places`, mean 1; None for ones.
        loop: how often to save and log; its epochs count. None: `settings.epochs`, saved every 30 s.
        hooks: `progress`, `epoch_end` (early stopping) and `epoch_start` of `training.loop.train`.
    """
    network = bag_network(bags.width, classes, settings, seed)
    assert network.loss is not None  # `bag_network` brings one
    batches = bag_batches(bags, places, settings, seed, weights)
    step = GradientStep(network.trained, network.optimizer, network.loss, open_axes=OPEN_AXES)
    loop = loop or LoopSettings(settings.epochs)
    return network.saved, train(step, batches, loop, folder, network.trained, network.optimizer, **hooks)


def _loss(model: keras.Model, settings: BagTrainingSettings) -> Callable[[Mapping[str, Any], Any], Any]:
    clustered = settings.model.kind in ("clam", "clam_multi")
    loss = clam_loss(settings.bag_weight, settings.subtyping) if clustered else bag_loss
    return with_weight_decay(loss, model, settings.weight_decay) if settings.weight_decay else loss
