"""What the trainings of the bags recipe cost, as far as it is known before the features are read."""

import functools
from dataclasses import dataclass
from pathlib import Path

from melano_tf.errors import InputError
from melano_tf.models.bag_settings import BagKind
from melano_tf.papers.bags.settings import BASELINE, BagsSettings
from melano_tf.papers.plan import Extent, Load
from melano_tf.phantoms.feature_files import FeaturePhantomSettings
from melano_tf.pipelines.bag_training import OPEN_AXES, bag_network
from melano_tf.pipelines.feature_cohort import BagBy, read_feature_cohort
from melano_tf.training.fit import Network
from melano_tf.training.steps import GradientStep


@dataclass(frozen=True)
class Sizes:
    """A cohort of bags, by the heads of its files.

    Attributes:
        bags: how many there are.
        usual, largest: instances of a bag: on average, and of the largest one.
        width: numbers of a feature vector.
        classes: how many.
    """

    bags: int
    usual: int
    largest: int
    width: int
    classes: int


def sizes_of(settings: BagsSettings) -> Sizes:
    """Of the user's files, or of the phantoms that would be drawn.

    Raises:
        InputError: as `pipelines.feature_cohort.read_feature_cohort`.
    """
    if settings.features is None or settings.table is None:
        return _drawn(settings.phantom, settings.bag)
    return _read(settings.features, settings.table, settings.bag, settings.classes)


@functools.lru_cache(maxsize=1)
def _read(features: Path, table: Path, by: BagBy, classes: tuple[str, ...]) -> Sizes:
    try:
        cohort = read_feature_cohort(features, table, False, by, classes or None)
    except InputError:  # all that is wrong is told at once, also what only the values tell
        cohort = read_feature_cohort(features, table, True, by, classes or None)
    bags = cohort.bags(by, classes or None)
    usual = max(1, round(bags.sizes.mean()))
    return Sizes(len(bags.ids), usual, max(1, int(bags.sizes.max())), bags.width, len(bags.classes))


def _drawn(drawn: FeaturePhantomSettings, by: BagBy) -> Sizes:
    slides = drawn.patients * drawn.slides - (drawn.patients // 3 if drawn.slides > 1 else 0)
    together = drawn.slides if by == "patient" else 1
    count = drawn.patients if by == "patient" else slides
    most = round(4 / 3 * drawn.tiles) * together
    return Sizes(count, round(drawn.tiles * slides / count), most, drawn.width, len(drawn.classes))


def extent(settings: BagsSettings) -> Extent:
    """Bags, and the instances of one that are looked at.

    Raises:
        InputError: as `sizes_of`.
    """
    found, most = sizes_of(settings), settings.training.max_instances
    usual, largest = (size if most is None else min(size, most) for size in (found.usual, found.largest))
    return Extent({"bags": found.bags, "instances": found.bags * found.usual}, instances=(usual, largest))


def training_load(settings: BagsSettings, kind: BagKind | str, fold: int | None) -> Load | None:
    """What a training costs; None: of the logistic regression next to nothing."""
    if kind == BASELINE:
        return None
    chosen = settings.training_of(kind)  # type: ignore[arg-type]

    def untrained() -> Network:
        sizes = sizes_of(settings)
        return bag_network(sizes.width, sizes.classes, chosen, 0)

    def step(network: Network) -> GradientStep:
        assert network.loss is not None  # `bag_network` brings one
        return GradientStep(network.trained, network.optimizer, network.loss, open_axes=OPEN_AXES)

    share = (1 - settings.folds.hold_out) * (1.0 if fold is None else 1 - 1 / settings.folds.count)
    return Load(kind, untrained, settings.training.epochs, settings.training.batch, "bags", share, step=step)
