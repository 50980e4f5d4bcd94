"""The grid of trainings: which there are, and one network, traced once, that does them in turn.

Tables 2 to 5 are two losses times five weightings, each of a network with an optimiser, on two splits: eighty
trainings.
"""

import contextlib
import functools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import keras
import numpy as np

from melano_tf.models.hierarchical import build_flat, build_hierarchical
from melano_tf.models.logits import logits_of
from melano_tf.models.taxonomy import Taxonomy
from melano_tf.papers.weighting.settings import WeightingSettings, weighting_parts
from melano_tf.training.checkpoint import training_variables
from melano_tf.training.hierarchy import path_focal_loss
from melano_tf.training.loop import GradientStep
from melano_tf.training.optimizers import make_optimizer
from melano_tf.training.runtime import strategy
from melano_tf.training.scheduled import ScheduledStep
from melano_tf.training.steps import LossFn, Step, traced
from melano_tf.training.weights import Strategy, curriculum, focal_loss
from melano_tf.workspace import seed_for

Kind = Literal["flat", "hierarchical"]
OptimizerName = Literal["adam", "sgd"]
# What each table is of (section 5.1).
TABLES: dict[int, tuple[Kind, OptimizerName]] = {
    2: ("flat", "adam"),
    3: ("hierarchical", "adam"),
    4: ("flat", "sgd"),
    5: ("hierarchical", "sgd"),
}
LOSSES = ("cel", "fl")


@dataclass(frozen=True)
class Cell:
    """One training.

    Attributes:
        network: "flat" or "hierarchical".
        optimizer: "adam" or "sgd".
        loss: "cel" (5) or "fl" (6).
        weights: "none", "cb", "es", "spl", "ohem", "ohem_per_class", or class weights and curriculum joined by +.
        split: number of the split, from 1.
    """

    network: Kind
    optimizer: OptimizerName
    loss: str
    weights: str
    split: int

    @property
    def name(self) -> str:
        """As files, steps and --cells call it, for example "flat-adam-fl-cb-split-1"."""
        weights = "" if self.weights == "none" else f"-{self.weights.replace('+', '-')}"
        return f"{self.network}-{self.optimizer}-{self.loss}{weights}-split-{self.split}"

    @property
    def row(self) -> str:
        """As the tables call it, for example "FL-CB"."""
        weights = self.weights.upper().replace("OHEM_PER_CLASS", "OHEM per class")
        return self.loss.upper() if self.weights == "none" else f"{self.loss.upper()}-{weights}"

    def strategy(self, settings: WeightingSettings, gamma: float) -> Strategy:
        """Loss and weights as the step takes them; gamma is used by the focal loss alone."""
        classes, curriculum_name = weighting_parts(self.weights)
        return Strategy(
            class_weights=classes or "none",  # type: ignore[arg-type]
            curriculum=curriculum_name or "none",  # type: ignore[arg-type]
            gamma=gamma if self.loss == "fl" else 0.0,
            full_from=settings.rules.full_from,
            scale=settings.rules.scale,
        )


def cells_of(settings: WeightingSettings, tables: Iterable[int]) -> list[Cell]:
    """The trainings of these tables, in the paper's order; Table 1 has none."""
    return [
        Cell(*TABLES[number], loss, weights, split)
        for number in tables
        if number in TABLES
        for loss in LOSSES
        for weights in settings.chosen_strategies()
        for split in range(1, settings.splits.count + 1)
    ]


class Trainer:
    """One network with one optimiser and its compiled step, set back to the start before each training.

    A strategy is data of the batch and the learning rate a variable, so the step is traced once, whatever it trains.

    Attributes:
        training: the model that the step trains: {"image"} -> logits of classes (B, C), or of decisions (B, D).
        leaves: {"image"} -> (B, C) class probabilities, which is saved; it shares all that is trained.
        optimizer: its optimiser.
        step: its step.
    """

    def __init__(
        self, settings: WeightingSettings, taxonomy: Taxonomy, network: Kind, optimizer: OptimizerName
    ) -> None:
        chosen, training = settings.network, settings.training
        seed = seed_for(settings.seed, "network", network)
        keras.utils.set_random_seed(seed)
        devices = strategy(settings.mirror)
        with devices.scope() if devices else contextlib.nullcontext():
            layers: dict[str, Any] = {
                "backbone": chosen.backbone,
                "input_px": chosen.input_px,
                "dropout": chosen.dropout,
                "ratio": chosen.ratio,
                "kernel": chosen.kernel,
                "weights": chosen.weights,
                "seed": seed,
            }
            if network == "flat":
                self.leaves, self.report = build_flat(classes=len(taxonomy.classes), **layers)
                self.training = logits_of(self.leaves)
                loss: LossFn = focal_loss
            else:
                tree, self.report = build_hierarchical(
                    taxonomy, units=chosen.lstm_units, embedding=chosen.embedding, **layers
                )
                self.training, self.leaves = tree.training, tree.leaves
                loss = path_focal_loss(taxonomy.path_matrix(), taxonomy.children)
            rate = training.adam_rate if optimizer == "adam" else training.sgd_rate
            momentum = training.momentum if optimizer == "sgd" else 0.0
            self.optimizer = make_optimizer(
                optimizer, rate, momentum, nesterov=momentum > 0, epsilon=training.adam_epsilon
            )
        self.gradient_step = GradientStep(self.training, self.optimizer, loss, weights_fn=curriculum, strategy=devices)
        self.step: Step = ScheduledStep(self.gradient_step, self.optimizer, rate, training.decay_at, training.decay)
        self.forward = traced(functools.partial(self.leaves, training=False))
        self._variables = training_variables(self.training, self.optimizer)
        self._start = [np.array(keras.ops.convert_to_numpy(variable)) for variable in self._variables]

    def reset(self, start: Sequence[np.ndarray] | None = None) -> None:
        """Set weights, statistics, seed generators and the optimiser's variables back to the start.

        Args:
            start: other weights to start from, as `training.get_weights` gives them; None: the initial ones.
        """
        for variable, value in zip(self._variables, self._start, strict=True):
            variable.assign(value)
        if start is not None:
            self.training.set_weights(list(start))


class Trainers:
    """The trainer in use; another network or optimiser takes its place, so that one stands in memory at a time."""

    def __init__(self, settings: WeightingSettings, taxonomy: Taxonomy) -> None:
        self.settings, self.taxonomy = settings, taxonomy
        self._held: tuple[tuple[Kind, OptimizerName], Trainer] | None = None

    def of(self, network: Kind, optimizer: OptimizerName) -> Trainer:
        """The trainer of this pair, built where another one stood.

        Raises:
            InputError: the network cannot be built, or its initial weights cannot be had.
        """
        if self._held is None or self._held[0] != (network, optimizer):
            self._held = None
            self._held = ((network, optimizer), Trainer(self.settings, self.taxonomy, network, optimizer))
        return self._held[1]


def weight_log(folder: Path, training: str) -> Path:
    """Where the logged sample weights of a training lie in a run's folder."""
    return folder / "weights" / training
