"""The settings of the spitzoid paper: each with its unit, the paper's value as default, and its place in the paper.

"An attention-based weakly supervised framework for spitzoid melanocytic lesion diagnosis in WSIs." Sections, tables and
figures named below are the paper's. What the paper leaves open says "our reading".
"""

import dataclasses
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from melano_tf.errors import InputError
from melano_tf.papers.plan import Recipe
from melano_tf.papers.run_settings import Running
from melano_tf.papers.settings_values import listed, numbers
from melano_tf.papers.spitzoid.report_words import WORDS
from melano_tf.phantoms.slides.slide_drawing import PhantomSettings
from melano_tf.pipelines.augment import AugmentSettings
from melano_tf.pipelines.tile_store_settings import StoreSettings
from melano_tf.slides.annotations import AnnotationSettings
from melano_tf.slides.tiling import TileGrid

Head = Literal["gap", "gmp", "mlp"]
Aggregation = Literal["bgmp", "bgap", "bgas"]
AGGREGATIONS: tuple[Aggregation, ...] = ("bgmp", "bgap", "bgas")
STEPS = ("slides", "tiles", "source", "target", "test", "tables", "maps")


@dataclass(frozen=True)
class SplitSettings:
    """How patients are divided (section 5.1)."""

    test_share: float = 0.3
    """Share of patients held out for the test (section 5.1: 30 %)."""
    folds: int = 4
    """Validation cohorts of the remaining patients (section 5.1: four)."""


@dataclass(frozen=True)
class SourceSettings:
    """The source model: is a tile tumour? (sections 4.1 and 5.2)"""

    backbone: str = "vgg16"
    """Feature extractor of the chosen model (section 5.2 A: VGG16): a name of keras.applications in lower case."""
    rival: str = "resnet50"
    """The other feature extractor of Table 2 (section 5.2 A: ResNet-50)."""
    extra_backbones: tuple[str, ...] = ()
    """More feature extractors as extra rows of Table 2 (section 4.1 names inceptionv3 and mobilenetv2)."""
    head: Head = "gmp"
    """Projection head of the chosen model (section 5.2 B: GMP)."""
    weights: str = "imagenet"
    """Initial weights: "imagenet" (section 4.1), "none", or the path of a weights file for `backbone`."""
    freeze: Literal["first_block", "none"] = "first_block"
    """Frozen layers: the first convolutional block for VGG16, nothing for ResNet (section 5.2 A)."""
    input_px: int = 224
    """Side of the network's input in pixels (section 4.1: 224)."""
    epochs: int = 120
    """Epochs; the last one is judged (section 5.2 A: 120)."""
    batch: int = 64
    """Tiles a batch (section 5.2 A: 64)."""
    optimizer: Literal["sgd", "adam"] = "sgd"
    """Optimiser (section 5.2 A: SGD; our reading: without momentum)."""
    learning_rate: float = 0.001
    """Learning rate (section 5.2 A: 0.001)."""
    adam_epsilon: float = 1e-7
    """epsilon of Adam (the paper names no framework; our reading: Keras's 1e-7, PyTorch has 1e-8)."""
    momentum: float = 0.0
    """Momentum of SGD (not given; our reading: none)."""
    instance_dropout: Literal["balance"] | float = "balance"
    """Share of non-tumour tiles dropped at random each training epoch (section 5.1 gives no rate; our reading: the one
    that balances the classes)."""
    dropout: float = 0.0
    """Dropout before the classifier (none in the paper)."""


@dataclass(frozen=True)
class TargetSettings:
    """The target model: is the biopsy malignant? (sections 4.2 and 5.3)"""

    aggregation: Aggregation = "bgas"
    """Aggregation of the chosen model (section 5.3 A: BGAS)."""
    attention_units: int = 128
    """L of equation 2, the width of the attention's hidden layer (not given; our reading: 128)."""
    epochs: int = 100
    """Epochs; the last one is judged (section 5.3 A: 100)."""
    optimizer: Literal["sgd", "adam"] = "sgd"
    """Optimiser (section 5.3 A: SGD; our reading: without momentum)."""
    learning_rate: float = 0.001
    """Learning rate (section 5.3 A: 0.001)."""
    adam_epsilon: float = 1e-7
    """epsilon of Adam (the paper names no framework; our reading: Keras's 1e-7, PyTorch has 1e-8)."""
    momentum: float = 0.0
    """Momentum of SGD (not given; our reading: none)."""
    max_tiles: int = 300
    """Tiles a training bag at most, drawn anew each epoch (section 5.3 A: 300)."""
    tile_threshold: float = 0.5
    """Probability from which on a tile is tumour, and goes into the slide's bag (not given; our reading: 0.5)."""
    fallback_tiles: int = 16
    """A slide without any tile called tumour brings its most probable ones, this many (our reading)."""
    chunk: int = 16
    """Tiles in memory at once while a bag's exact gradient is computed; it changes memory and speed, not the result."""


@dataclass(frozen=True)
class EvaluationSettings:
    """How models are judged (section 5.2 A; intervals are ours)."""

    threshold: float = 0.5
    """Probability from which on a biopsy is malignant (not given; our reading: 0.5); no training depends on it."""
    repeats: int = 2000
    """Bootstrap resamples of patients behind each interval."""
    level: float = 0.95
    """Coverage of the intervals."""


@dataclass(frozen=True)
class MapSettings:
    """Which slides and tiles are drawn (Figures 6 to 9)."""

    slides: int = 6
    """Test slides drawn for Figures 8 and 9: alternately malignant and benign, in the order of the manifest."""
    tiles: int = 2
    """Tiles a row of Figures 6 and 7, the surest first, at most one a slide."""
    thumbnail_mpp: float | None = None
    """Resolution of the slide's picture, µm/px. Not given: the longer side gets 1,600 px."""


@dataclass(frozen=True)
class SpitzoidSettings(Running):
    """Spitzoid melanocytic lesions: find the tumour's tiles, then tell the biopsy's diagnosis.

    With --slides: your own cohort, a CSV with the columns slide_id, path, patient_id, label (benign or malignant) and
    optionally annotation and mpp. Without: phantom slides that are drawn on the spot. The same command again goes on
    where it stopped.
    """

    slides: Path | None = None
    """Manifest of your slides (CSV). Not given: phantom slides."""
    out: Path = Path("runs/spitzoid")
    """The run's folder: its own record, tables, figures and models."""
    preset: Literal["paper", "demo"] = "paper"
    """"paper" or "demo" (small stand-in networks, few epochs). Not given: paper with --slides, demo without."""
    tables: Annotated[tuple[int, ...], listed("--tables", range(1, 6))] = (1, 2, 3, 4, 5)
    """Tables of the paper to make, for example 1,4,5; models that no table asks for are not trained."""
    figures: Annotated[tuple[int, ...], listed("--figures", range(6, 10))] = (6, 7, 8, 9)
    """Figures of the paper to make, or "none". 6 and 7 need two models of Table 2."""
    steps: str = "all"
    """Steps to do: all, or some of slides,tiles,source,target,test,tables,maps (with what they stand on)."""
    cache_mib: int = 2048
    """Memory for decoded tiles, MiB; where they do not all fit, each is decoded at every use."""
    grid: TileGrid = field(default_factory=TileGrid)
    """How slides are cut into tiles (section 3)."""
    store: StoreSettings = field(default_factory=StoreSettings)
    """How tiles are kept on disk."""
    annotation: AnnotationSettings = field(default_factory=AnnotationSettings)
    """How outlines drawn on slides are read."""
    split: SplitSettings = field(default_factory=SplitSettings)
    """How patients are divided."""
    augment: AugmentSettings = field(default_factory=AugmentSettings)
    """Augmentation of training tiles (none in the paper)."""
    source: SourceSettings = field(default_factory=SourceSettings)
    """The source model."""
    target: TargetSettings = field(default_factory=TargetSettings)
    """The target model."""
    evaluation: EvaluationSettings = field(default_factory=EvaluationSettings)
    """How models are judged."""
    maps: MapSettings = field(default_factory=MapSettings)
    """Which slides and tiles are drawn."""
    phantom: PhantomSettings = field(default_factory=PhantomSettings)
    """The phantom slides that stand in where no --slides are given."""

    def check(self) -> None:
        """Raises InputError, all faults at once, for numbers that no run could go on with."""
        least = {
            "source.epochs": (self.source.epochs, 1),
            "source.batch": (self.source.batch, 1),
            "source.input_px": (self.source.input_px, 16),
            "target.epochs": (self.target.epochs, 1),
            "target.max_tiles": (self.target.max_tiles, 1),
            "target.fallback_tiles": (self.target.fallback_tiles, 1),
            "target.chunk": (self.target.chunk, 1),
            "split.folds": (self.split.folds, 2),
            "evaluation.repeats": (self.evaluation.repeats, 1),
            "workers": (self.workers, 0),
            "threads": (self.threads, 0),
        }
        faults = [f"{name} is {value}: at least {low}" for name, (value, low) in least.items() if value < low]
        if not 0 < self.split.test_share < 1:
            faults.append(f"split.test_share is {self.split.test_share}: between 0 and 1")
        thresholds = {
            "evaluation.threshold": self.evaluation.threshold,
            "target.tile_threshold": self.target.tile_threshold,
        }
        faults += [f"{name} is {value}: between 0 and 1" for name, value in thresholds.items() if not 0 < value < 1]
        if (mpp := self.maps.thumbnail_mpp) is not None and not 0 < mpp < math.inf:
            faults.append(f"maps.thumbnail_mpp is {mpp}: µm/px, above 0")
        if faults:
            raise InputError.of("settings that cannot be:", faults)

    def chosen_tables(self) -> tuple[int, ...]:
        """The tables asked for, in order. Raises InputError for one that the paper has not."""
        return numbers("--tables", self.tables, range(1, 6))

    def chosen_figures(self) -> tuple[int, ...]:
        """The figures asked for, in order. Raises InputError for one that is not made."""
        return numbers("--figures", self.figures, range(6, 10))


def preset(name: str) -> SpitzoidSettings:
    """The settings of `--preset paper` (the paper's own) or `--preset demo` (a named change of them).

    The demo is sized for two cores: tiles of 256 µm, a stand-in network of a few layers at 64 px, trained from scratch
    with Adam for a few epochs, small training bags, and three validation cohorts where the paper has four.
    """
    paper = SpitzoidSettings()
    if name == "paper":
        return paper
    return dataclasses.replace(
        paper,
        preset="demo",
        threads=1,
        tables=(1, 4, 5),
        figures=(8, 9),
        grid=dataclasses.replace(paper.grid, tile_px=256),
        store=dataclasses.replace(paper.store, stored_px=64),
        augment=AugmentSettings(flip=True, rotate90=True),
        source=dataclasses.replace(
            paper.source,
            backbone="standin",
            rival="standin_residual",
            weights="none",
            freeze="none",
            input_px=64,
            epochs=4,
            optimizer="adam",
        ),
        split=dataclasses.replace(paper.split, folds=3),
        target=dataclasses.replace(
            paper.target, epochs=20, optimizer="adam", learning_rate=0.0006, max_tiles=12, chunk=12
        ),
        phantom=dataclasses.replace(paper.phantom, patients=36),
    )


RECIPE = Recipe(
    name="spitzoid",
    about="an attention-based weakly supervised framework for spitzoid melanocytic lesions",
    data="slides",
    drawn="slides",
    preset=preset,
    words=WORDS,
    method="melano_tf.papers.spitzoid.method:method",
    aside=("cache_mib",),
    groups=("phantom", "maps"),
    extent="melano_tf.papers.spitzoid.method:extent",
)
