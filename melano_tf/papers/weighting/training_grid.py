"""The grid of trainings: which there are, and which of them a table or figure shows.

Tables 2 to 5 are two losses times five weightings, each of a network with an optimiser, on two splits: eighty
trainings.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from melano_tf.papers.weighting.settings import WeightingSettings, weighting_parts
from melano_tf.training.sample_weights import Strategy

Kind = Literal["flat", "hierarchical"]
OptimizerName = Literal["adam", "sgd"]
# What each table is of (section 5.1).
TABLES: dict[int, tuple[Kind, OptimizerName]] = {
    2: ("flat", "adam"),
    3: ("hierarchical", "adam"),
    4: ("flat", "sgd"),
    5: ("hierarchical", "sgd"),
}


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
    def pair(self) -> str:
        """Network, optimiser and split, which share the choice of gamma, for example "flat-adam-split-1"."""
        return f"{self.network}-{self.optimizer}-split-{self.split}"

    @property
    def start(self) -> "Cell":
        """The training that gives all of its network and split a warm start: plain cross-entropy with Adam."""
        return Cell(self.network, "adam", "cel", "none", self.split)

    @property
    def plain_focal(self) -> "Cell":
        """The training with the plain focal loss of the same network, optimiser and split."""
        return replace(self, loss="fl", weights="none")

    @property
    def row(self) -> str:
        """As the tables call it, for example "FL-CB"."""
        weights = self.weights.upper().replace("OHEM_PER_CLASS", "OHEM per class")
        return self.loss.upper() if self.weights == "none" else f"{self.loss.upper()}-{weights}"

    def strategy(self, settings: WeightingSettings, gamma: float) -> Strategy:
        """Loss and weights as the step takes them; gamma is used by the focal loss alone."""
        return strategy_named(self.weights, settings, gamma if self.loss == "fl" else 0.0)


def strategy_named(weights: str, settings: WeightingSettings, gamma: float = 0.0) -> Strategy:
    """Weights as --strategies names them, with the settings' rules.

    Args:
        weights: see `Cell`.
        settings: of the run.
        gamma: of the loss; 0 is cross-entropy.
    """
    classes, curriculum_name = weighting_parts(weights)
    return Strategy(
        class_weights=classes or "none",  # type: ignore[arg-type]
        curriculum=curriculum_name or "none",  # type: ignore[arg-type]
        gamma=gamma,
        full_from=settings.rules.full_from,
        scale=settings.rules.scale,
    )


def cells_of(settings: WeightingSettings, tables: Iterable[int]) -> list[Cell]:
    """The trainings of these tables, in the paper's order; Table 1 has none."""
    return [
        Cell(*TABLES[number], loss, weights, split)
        for number in tables
        if number in TABLES
        for loss in settings.chosen_losses()
        for weights in settings.chosen_strategies()
        for split in settings.split_numbers()
    ]


def first_optimizer(settings: WeightingSettings) -> OptimizerName | None:
    """The optimiser of the first table asked for, of which the figures are; None: no table with trainings."""
    return next((TABLES[number][1] for number in settings.chosen_tables() if number in TABLES), None)


def shown_cells(settings: WeightingSettings, figure: str) -> list[Cell]:
    """The trainings that a figure shows, of those of the tables asked for."""
    tables, optimizer = settings.chosen_tables(), first_optimizer(settings)
    cells = cells_of(settings, tables)
    if figure == "pace":
        return [cell for cell in cells if {"spl", "ohem"} & set(cell.weights.split("+"))]
    cells = [cell for cell in cells if cell.optimizer == optimizer]
    if figure in ("1", "2"):
        return cells
    rows = [name.strip() for name in settings.show.rows.split(",")]
    return [cell for cell in cells if (cell.network, cell.split) == ("hierarchical", 1) and cell.row in rows]


def weight_log(folder: Path, training: str) -> Path:
    """Where the logged sample weights of a training lie in a run's folder."""
    return folder / "weights" / training
