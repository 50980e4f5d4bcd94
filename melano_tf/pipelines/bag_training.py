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
from melano_tf.training.loop import GradientStep, History, LoopSettings, train
from melano_tf.training.optimizers import make_optimizer

Precision = Literal["float32", "mixed_bfloat16", "mixed_float16"]


@dataclass(frozen=True)
class BagTrainingSettings:
    """How a bag model is trained; the defaults are CLAM's where nothing else is said.

    Raises:
        InputError: a value outside its range.
    """

    model: BagModelSettings = field(default_factory=BagModelSettings)
    """The network."""
    epochs: int = 20
    """Epochs; the model is judged at the last one (our choice: CLAM stops early, at 200 at most)."""
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
    loop = loop or LoopSettings(settings.epochs)
    model = build_bag_model(bags.width, classes, settings.model, settings.precision, seed)
    optimizer = make_optimizer(settings.optimizer, settings.learning_rate, momentum=settings.momentum)
    batches = FeatureBagBatches(
        bags, places, settings.batch, settings.max_instances, seed, settings.features_dtype, weights
    )
    step = GradientStep(model, optimizer, _loss(model, settings), open_axes=2)
    return model, train(step, batches, loop, folder, model, optimizer, **hooks)


def _loss(model: keras.Model, settings: BagTrainingSettings) -> Callable[[Mapping[str, Any], Any], Any]:
    clustered = settings.model.kind in ("clam", "clam_multi")
    loss = clam_loss(settings.bag_weight, settings.subtyping) if clustered else bag_loss
    return with_weight_decay(loss, model, settings.weight_decay) if settings.weight_decay else loss
