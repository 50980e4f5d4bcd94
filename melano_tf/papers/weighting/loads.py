"""What the trainings of the grid cost, as far as it is known before the images are read."""

import functools
from dataclasses import replace

from melano_tf.models.taxonomy import Taxonomy
from melano_tf.papers.plan import Load
from melano_tf.papers.weighting.models import build, epochs_of
from melano_tf.papers.weighting.settings import GAMMAS, WeightingSettings
from melano_tf.papers.weighting.training_grid import Cell


def without_weights(settings: WeightingSettings) -> WeightingSettings:
    """The settings with random initial weights: nothing is fetched to know what a training costs."""
    return replace(settings, network=replace(settings.network, weights="none"))


def cell_load(settings: WeightingSettings, taxonomy: Taxonomy, cell: Cell) -> Load:
    """What a training costs."""
    build_it = functools.partial(build, without_weights(settings), taxonomy, cell)
    return Load(
        f"{cell.network} {settings.network.backbone}, {cell.optimizer}",
        *(build_it, epochs_of(settings, cell), settings.training.batch, "images", 1 - settings.splits.share),
        passes=passes_in(settings),
    )


def passes_in(settings: WeightingSettings) -> float:
    """The work of a picture: in parts it is asked once more, for its weight depends on the whole batch's losses."""
    return 4 / 3 if settings.micro_batch else 1.0


def start_load(settings: WeightingSettings, taxonomy: Taxonomy, cell: Cell, for_gamma: bool) -> Load:
    """What the warm start of a training costs."""
    load, kept = cell_load(settings, taxonomy, cell.start), 1 - settings.splits.hold_out if for_gamma else 1.0
    return replace(load, epochs=settings.training.warm_epochs, share=load.share * kept)


def gamma_load(settings: WeightingSettings, taxonomy: Taxonomy, cell: Cell) -> Load:
    """What the choice of gamma costs: a training with each, of which no model is left."""
    load = cell_load(settings, taxonomy, cell.plain_focal)
    return replace(load, share=load.share * (1 - settings.splits.hold_out), times=len(GAMMAS), models=0)
