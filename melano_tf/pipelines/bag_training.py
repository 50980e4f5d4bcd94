"""One training of a bag model, described and done: network, optimiser, batches, loss, loop."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import keras
import numpy as np

from melano_tf.errors import InputError
from melano_tf.models.bag_models import BagModelSettings, build_bag_model
from melano_tf.pipelines.feature_bags import Bags, FeatureBagBatches
from melano_tf.training.bag_losses import bag_loss, clam_loss, with_weight_decay
from melano_tf.training.fit import Network
from melano_tf.training.loop import GradientStep, History, LoopSettings, train
from melano_tf.training.optimizers import make_optimizer

Precision = Literal["float32", "mixed_bfloat16", "mixed_float16"]
OPEN_AXES = 2  # of a batch: bags, and the instances of the largest of them


@dataclass(frozen=True, kw_only=True)
class BagFitSettings:
    """How bag models are trained, whatever their kind; the defaults are CLAM's where nothing else is said.

    Raises:
        InputError: a value outside its range.
    """

    epochs: int = 20
    """Epochs at most (our choice: CLAM stops early, at 200 at most)."""
    batch: int = 1
    """Bags a step (1)."""
    max_instances: int | None = None
    """Instances drawn from a bag in each epoch at most, None for all (all)."""
    optimizer: Literal["adam", "sgd"] = "adam"
    """Optimiser (Adam)."""
    learning_rate: float = 2e-4
    """Learning rate (2e-4)."""
    momentum: float = 0.0
    """Momentum, of sgd only."""
    weight_decay: float = 1e-5
    """L2 penalty of all weights: its gradient is weight_decay times the weight (1e-5)."""
    bag_weight: float = 0.7
    """clam, clam_multi: share of the bag's own loss, the rest is instance clustering (0.7)."""
    subtyping: bool = False
    """clam, clam_multi: the classes exclude each other, as the subtypes of a tumour do."""
    precision: Precision = "float32"
    """Arithmetic of the network; mixed_bfloat16 halves the memory of features and activations."""

    def __post_init__(self) -> None:
        faults = []
        if self.epochs < 1 or self.batch < 1:
            faults.append(f"epochs = {self.epochs} and batch = {self.batch} must be at least 1")
        if self.weight_decay < 0:
            faults.append(f"weight_decay = {self.weight_decay} must be 0 or more")
        if not 0 <= self.bag_weight <= 1:
            faults.append(f"bag_weight = {self.bag_weight} must be from 0 to 1")
        if faults:
            raise InputError("bag training: " + "; ".join(faults))

    @property
    def features_dtype(self) -> str:
        """The dtype in which features are handed over."""
        return str(keras.DTypePolicy(self.precision).compute_dtype)


@dataclass(frozen=True)
class BagTrainingSettings(BagFitSettings):
    """One training: which model, and how it is trained.

    Raises:
        InputError: a value outside its range.
    """

    model: BagModelSettings = field(default_factory=BagModelSettings)
    """The network."""


def bag_network(width: int, classes: int, settings: BagTrainingSettings, seed: int) -> Network:
    """A bag model with its initial weights, its optimiser, and the loss that its kind is trained with."""
    model = build_bag_model(width, classes, settings.model, settings.precision, seed)
    optimizer = make_optimizer(settings.optimizer, settings.learning_rate, momentum=settings.momentum)
    return Network(model, optimizer, model, loss=_loss(model, settings))


def bag_batches(
    bags: Bags, places: np.ndarray, settings: BagTrainingSettings, seed: int, weights: np.ndarray | None = None
) -> FeatureBagBatches:
    """The batches of a training; weights of the bags in `places` have mean 1, None for ones."""
    dtype = settings.features_dtype
    return FeatureBagBatches(bags, places, settings.batch, settings.max_instances, seed, dtype, weights)


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
