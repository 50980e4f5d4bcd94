"""How a bag model is trained; read without Keras, for the command line."""

from dataclasses import dataclass, field
from typing import Literal

from melano_tf.errors import InputError
from melano_tf.models.bag_settings import BagModelSettings
from melano_tf.training.tensorflow_runtime import Precision


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


@dataclass(frozen=True)
class BagTrainingSettings(BagFitSettings):
    """One training: which model, and how it is trained.

    Raises:
        InputError: a value outside its range.
    """

    model: BagModelSettings = field(default_factory=BagModelSettings)
    """The network."""
    precision: Precision = "float32"
    """What it computes in; bfloat16 halves the memory of features, which are handed over in it, and activations."""
