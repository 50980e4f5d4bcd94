"""The settings of the multimag paper: each with its unit, the paper's value as default, and its place in the paper.

"Interpretable classification from skin cancer histology slides using deep learning: a retrospective multicenter study"
(melanoma against nevi at four magnifications). Sections, tables and figures named below are the paper's. What the paper
leaves open says "our reading".
"""

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from melano_tf.errors import InputError
from melano_tf.papers.multimag.report_words import WORDS
from melano_tf.papers.plan import Recipe, chosen_groups
from melano_tf.papers.run_settings import Running
from melano_tf.papers.settings_values import listed, numbers
from melano_tf.phantoms.slides.diagnoses import DiagnosisPhantomSettings
from melano_tf.pipelines.augment import AugmentSettings
from melano_tf.pipelines.tile_store_settings import StoreSettings
from melano_tf.slides.annotations import AnnotationSettings
from melano_tf.slides.magnifications import TileGrids

Aggregation = Literal["mean", "majority", "top"]
STEPS = ("slides", "tiles", "train", "tables", "faithfulness", "figures")


@dataclass(frozen=True)
class PartSettings:
    """How patients are divided (section 3)."""

    test_share: float = 0.15
    """Share of patients in the test part (section 3: 15 %)."""
    validation_share: float = 0.15
    """Share of patients in the validation part (section 3: 15 %)."""


@dataclass(frozen=True)
class CapSettings:
    """How many tiles an experiment uses at most, all three parts together (section 4.2)."""

    separate: tuple[int, ...] = (49_533, 104_816, 101_070, 101_034)
    """Experiment 1: tiles at each magnification (section 4.2.1); half melanoma, and as many of each nevus as of the
    others, where there are enough (not given; our reading)."""
    mixed: tuple[int, ...] = (69_020, 40_928, 48_284, 43_430)
    """Experiment 2: tiles of MM, IN, CN and JN (section 4.2.2), from all magnifications alike."""
    melanoma: int = 30_012
    """Experiment 3: tiles of melanoma (section 4.2.3)."""
    nevus: int = 70_003
    """Experiment 3: tiles of each nevus (section 4.2.3)."""
    nevi: int = 33_336
    """Experiment 4: tiles of each nevus (section 4.2.4)."""


@dataclass(frozen=True)
class ModelSettings:
    """The tile classifiers: a backbone, global average pooling, one dense layer (sections 3 and 4.3)."""

    backbones: tuple[str, ...] = ("resnet50", "vgg19")
    """Networks of every table, the first one in the place of ResNet50, the second of Vgg19 (section 3): names of
    keras.applications in lower case."""
    weights: str = "imagenet"
    """Initial weights (section 3: transfer learning): "imagenet", "none", or the path of a weights file for the first
    of `backbones`."""
    freeze: Literal["first_block", "none"] = "none"
    """Frozen layers (not given; our reading: none)."""
    input_px: int = 256
    """Side of the network's input in pixels (section 2: tiles of 256x256)."""
    epochs: int = 30
    """Epochs at most (not given; our reading: 30)."""
    patience: int = 5
    """Epochs without a better validation loss after which a training ends; the best epoch's weights are kept (not
    given; our reading: 5)."""
    epoch_tiles: Literal["balanced", "all"] = "balanced"
    """Tiles of an epoch: "balanced", of every class as many as the smallest one has, drawn anew each epoch; or "all"
    tiles of the training part (not given; our reading: balanced)."""
    stopping_loss: Literal["balanced", "plain"] = "balanced"
    """Validation loss that ends a training: "balanced", the mean over classes of their tiles' mean cross-entropy; or
    "plain", the mean over tiles (not given; our reading: balanced)."""
    least_steps: int = 0
    """Steps of the longest training at least: where an epoch has few, epochs and patience are multiplied (demo)."""
    batch: int = 64
    """Tiles a batch (not given; our reading: 64)."""
    optimizer: Literal["sgd", "adam"] = "adam"
    """Optimiser (not given; our reading: Adam)."""
    learning_rate: float = 0.0001
    """Learning rate (not given; our reading: 1e-4)."""
    adam_epsilon: float = 1e-7
    """epsilon of Adam (the paper names no framework; our reading: Keras's 1e-7, PyTorch has 1e-8)."""
    dropout: float = 0.0
    """Dropout before the dense layer (none in the paper)."""


@dataclass(frozen=True)
class EvaluationSettings:
    """How models are judged (section 4.1; intervals are ours)."""

    aggregation: Aggregation = "mean"
    """How a slide's tiles become its probability (section 3: "aggregated"; our reading: their mean)."""
    top: int = 10
    """Tiles behind the mean of the most probable ones (not in the paper)."""
    threshold: float = 0.5
    """Probability of melanoma from which on a tile or a slide is called one (not given; our reading: 0.5)."""
    repeats: int = 2000
    """Bootstrap resamples of patients behind each interval."""
    level: float = 0.95
    """Coverage of the intervals."""


@dataclass(frozen=True)
class FigureSettings:
    """Which tiles are drawn and explained (Figures 1 and 2)."""

    magnification: str = "40x"
    """Magnification of the tiles of Figure 2, and of those whose maps are measured."""
    samples: int = 2
    """Figure 1: tiles of each diagnosis at each magnification (as the paper's)."""
    tiles: int = 2
    """Figure 2: rightly classified tiles of each class, and as many wrongly classified ones, one a slide at most."""
    measured: int = 48
    """Tiles whose maps are measured, at most: rightly classified ones of the test part."""
    steps: int = 10
    """Steps of the deletion and insertion curves."""


@dataclass(frozen=True)
class MultimagSettings(Running):
    """Melanoma against nevi on tiles of whole slides at four magnifications, with maps of what the networks look at.

    With --slides: your own cohort, a CSV with the columns slide_id, path, patient_id, label (MM, IN, CN or JN) and
    optionally annotation and mpp. Without: phantom slides that are drawn on the spot. The same command again goes on
    where it stopped.
    """

    slides: Path | None = None
    """Manifest of your slides (CSV). Not given: phantom slides."""
    out: Path = Path("runs/multimag")
    """The run's folder: its own record, tables, figures and models."""
    preset: Literal["paper", "demo"] = "paper"
    """"paper" or "demo" (small stand-in networks, few epochs). Not given: paper with --slides, demo without."""
    tables: Annotated[tuple[int, ...], listed("--tables", range(1, 5))] = (1, 2, 3, 4)
    """Tables of the paper to make, for example 1,2; models that no table asks for are not trained."""
    figures: Annotated[tuple[int, ...], listed("--figures", range(1, 3))] = (1, 2)
    """Figures of the paper to make, or "none". 2 and the measures of the maps need the models of Table 1."""
    steps: str = "all"
    """Steps to do: all, or some of slides,tiles,train,tables,faithfulness,figures (with what they stand on)."""
    allow_upsampling: bool = False
    """Use slides also at magnifications for which their pixels must be enlarged by more than 10 %."""
    cache_mib: int = 2048
    """Memory for decoded tiles, MiB; where they do not all fit, each is decoded at every use."""
    grid: TileGrids = field(default_factory=TileGrids)
    """How slides are cut into tiles (section 2, Figure 3)."""
    store: StoreSettings = field(default_factory=lambda: StoreSettings(stored_px=256))
    """How tiles are kept on disk."""
    annotation: AnnotationSettings = field(default_factory=AnnotationSettings)
    """How outlines drawn on slides are read."""
    split: PartSettings = field(default_factory=PartSettings)
    """How patients are divided."""
    caps: CapSettings = field(default_factory=CapSettings)
    """How many tiles each experiment uses at most."""
    augment: AugmentSettings = field(default_factory=AugmentSettings)
    """Augmentation of training tiles (none in the paper)."""
    model: ModelSettings = field(default_factory=ModelSettings)
    """The tile classifiers."""
    evaluation: EvaluationSettings = field(default_factory=EvaluationSettings)
    """How models are judged."""
    show: FigureSettings = field(default_factory=FigureSettings)
    """Which tiles are drawn and explained."""
    phantom: DiagnosisPhantomSettings = field(default_factory=DiagnosisPhantomSettings)
    """The phantom slides that stand in where no --slides are given."""

    def grids(self) -> TileGrids:
        """The magnifications, with enlarging allowed or not."""
        return dataclasses.replace(self.grid, most_enlargement=None) if self.allow_upsampling else self.grid

    def chosen_tables(self) -> tuple[int, ...]:
        """The tables asked for, in order. Raises InputError for one that the paper has not."""
        return numbers("--tables", self.tables, range(1, 5))

    def chosen_figures(self) -> tuple[int, ...]:
        """The figures asked for, in order. Raises InputError for one that is not made."""
        return numbers("--figures", self.figures, range(1, 3))

    def trained_tables(self) -> tuple[int, ...]:
        """The tables whose models are wanted: those asked for, and Table 1 where its models are to be explained."""
        explains = (
            bool({"figures", "faithfulness"} & set(chosen_groups(self.steps, STEPS))) and 2 in self.chosen_figures()
        )
        return tuple(sorted({*self.chosen_tables()} | ({1} if explains else set())))

    def check(self) -> None:
        """Raises InputError, all faults at once, where settings do not go together."""
        faults = []
        if len(self.caps.separate) != len(self.grid.names):
            faults.append(
                f"caps.separate has {len(self.caps.separate)} numbers for {len(self.grid.names)} magnifications"
            )
        if len(self.caps.mixed) != 4:
            faults.append(f"caps.mixed has {len(self.caps.mixed)} numbers; it needs those of MM, IN, CN and JN")
        if min(*self.caps.separate, *self.caps.mixed, self.caps.melanoma, self.caps.nevus, self.caps.nevi) < 1:
            faults.append("caps: every number must be at least 1")
        if not self.model.backbones or len(set(self.model.backbones)) != len(self.model.backbones):
            faults.append(f"model.backbones {self.model.backbones}: one at least, each once")
        if self.show.magnification not in self.grid.names:
            faults.append(f"show.magnification {self.show.magnification!r} is none of {', '.join(self.grid.names)}")
        if not 0 < self.evaluation.threshold < 1 or self.evaluation.top < 1:
            faults.append("evaluation: threshold must lie between 0 and 1, top be at least 1")
        if min(self.show.samples, self.show.tiles, self.show.measured, self.show.steps) < 1:
            faults.append("show: samples, tiles, measured and steps must be at least 1")
        if faults:
            raise InputError.of("settings:", faults)


def preset(name: str) -> MultimagSettings:
    """The settings of `--preset paper` (the paper's own) or `--preset demo` (a named change of them).

    The demo is sized for two cores: stand-in networks of a few layers at 64 px, trained from scratch for a few epochs
    on some hundred tiles a magnification.
    """
    paper = MultimagSettings()
    if name == "paper":
        return paper
    return dataclasses.replace(
        paper,
        preset="demo",
        threads=1,
        tables=(1, 2),
        store=dataclasses.replace(paper.store, stored_px=64),
        caps=CapSettings(
            separate=(300, 900, 1000, 1200), mixed=(300, 400, 400, 400), melanoma=500, nevus=500, nevi=450
        ),
        augment=AugmentSettings(flip=True, rotate90=True),
        model=dataclasses.replace(
            paper.model,
            backbones=("standin_residual", "standin"),
            weights="none",
            input_px=64,
            epochs=20,
            patience=8,
            least_steps=200,
            batch=32,
            learning_rate=0.001,
        ),
        show=dataclasses.replace(paper.show, measured=32),
        phantom=dataclasses.replace(paper.phantom, patients=30),
    )


RECIPE = Recipe(
    name="multimag",
    about="melanoma against nevi on histology tiles at four magnifications",
    data="slides",
    drawn="slides",
    preset=preset,
    words=WORDS,
    method="melano_tf.papers.multimag.method:method",
    aside=("cache_mib",),
    groups=("phantom", "show"),
    extent="melano_tf.papers.multimag.method:extent",
)
