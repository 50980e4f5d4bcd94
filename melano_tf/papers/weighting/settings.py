"""The settings of the sample-weighting paper: each with its unit, the paper's value as default, and its place.

"How Important Is Each Dermoscopy Image?" Sections, equations and tables named below are the paper's. What the paper
leaves open says "our reading".
"""

import dataclasses
import fnmatch
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from melano_tf.errors import InputError
from melano_tf.papers.choices import names, numbers
from melano_tf.papers.plan import Recipe
from melano_tf.papers.running import Running
from melano_tf.phantoms.skin.patients import PhantomDermoscopySettings

STEPS = ("images", "train", "tables", "figures")
FIGURES = ("1", "2", "3", "4", "pace")
GAMMAS = (0.5, 1.0, 2.0, 5.0)  # tried by --gamma auto
CLASS_WEIGHTS = ("cb", "es")
CURRICULA = ("spl", "ohem", "ohem_per_class")


@dataclass(frozen=True)
class ImageStoreSettings:
    """How images are brought to one size and colour (section 4.2)."""

    stored_px: int = 374
    """Side of the stored images in pixels (our reading: 299 / 0.8, so that the smallest crop is not enlarged)."""
    max_pixels: int = 50_000_000
    """Files of more pixels than this are refused before decoding."""
    colour: Literal["shades_of_gray", "grey_world", "max_rgb", "none"] = "shades_of_gray"
    """Colour normalisation, of the resized pixels and before any augmentation (section 4.2: that of reference 1, before
    or after resizing not given; our reading: Shades of Gray, after)."""
    minkowski: float = 6.0
    """p of Shades of Gray (not given; our reading: 6)."""
    mask_saturated: bool = False
    """Leave saturated pixels out of the illuminant's estimate (not given; our reading: no)."""


@dataclass(frozen=True)
class SplitSettings:
    """How the images are divided (section 4.4)."""

    count: int = 2
    """Random splits; the tables are means over them (section 4.4: two)."""
    share: float = 0.2
    """Share of the lesions that judges (section 4.4: 20 % of the images); no lesion falls on both sides."""
    hold_out: float = 0.2
    """Share of the training lesions that choose gamma with --gamma auto (our reading)."""


@dataclass(frozen=True)
class CropSettings:
    """Online augmentation (section 4.3: random crops, flips and colour transformations; all numbers our reading)."""

    smallest_crop: float = 0.8
    """Smallest share of height and width that a crop keeps, uniform from here to 1, anywhere in the image."""
    flip: bool = True
    """Left-right and up-down, each with probability 0.5."""
    brightness: float = 0.2
    """Multiply the image by 1 + u, u uniform in ± this share."""
    hue: float = 10.0
    """Turn the hue by an angle uniform in ± this many degrees."""

    def __post_init__(self) -> None:
        limits = {"smallest_crop": (0.05, 1.0), "brightness": (0.0, 1.0), "hue": (0.0, 180.0)}
        faults = [
            f"{name} must lie between {low:g} and {high:g}, and is {getattr(self, name):g}"
            for name, (low, high) in limits.items()
            if not low <= getattr(self, name) <= high
        ]
        if faults:
            raise InputError.of("augment:", faults)


@dataclass(frozen=True)
class NetworkSettings:
    """The networks (section 4.1)."""

    backbone: str = "vgg16"
    """Feature extractor of both networks (section 4.1: VGG16)."""
    weights: str = "imagenet"
    """Its initial weights (section 4.3: ImageNet): imagenet, none, or a file."""
    input_px: int = 299
    """Side of the networks' input in pixels (section 4.2: 299)."""
    dropout: float = 0.5
    """Dropout on the attended map, the pooled vector, and the LSTM's output (section 4.3: 50 % "in several layers")."""
    ratio: int = 16
    """Reduction of CBAM's channel attention (not given; our reading: CBAM's own 16)."""
    kernel: int = 7
    """Kernel of CBAM's spatial attention (not given; our reading: CBAM's own 7)."""
    lstm_units: int = 512
    """Units of the hierarchical network's LSTM (not given; our reading: 512)."""
    embedding: int = 64
    """Width of the embedded previous decision (not given; our reading: 64)."""


@dataclass(frozen=True)
class TrainingSettings:
    """How they are trained (section 4.3)."""

    batch: int = 20
    """Images a batch, M (section 4.3: 20)."""
    flat_epochs: int = 150
    """Epochs of the flat network; the last one is judged (section 4.3: 150)."""
    hierarchical_epochs: int = 250
    """Epochs of the hierarchical network; the last one is judged (section 4.3: 250)."""
    adam_rate: float = 1e-5
    """Initial learning rate of Adam (section 4.3: 1e-5)."""
    adam_epsilon: float = 1e-7
    """epsilon of Adam (the paper names no framework; our reading: Keras's 1e-7, PyTorch has 1e-8)."""
    sgd_rate: float = 1e-4
    """Initial learning rate of SGD (section 4.3: 1e-4)."""
    momentum: float = 0.9
    """Nesterov momentum of SGD (not given; our reading: 0.9)."""
    decay_at: tuple[float, ...] = (0.5, 0.75)
    """Shares of the training at which the learning rate is multiplied by `decay` (section 4.3: 50 % and 75 %)."""
    decay: float = 0.1
    """What it is multiplied by (section 4.3: 1/10)."""
    warm_epochs: int = 0
    """Epochs of plain cross-entropy (Adam) before all trainings of a network on a split (not in the paper)."""
    warm_rate: float = 1e-3
    """Learning rate of those epochs (not in the paper)."""

    def __post_init__(self) -> None:
        faults = []
        if min(self.flat_epochs, self.hierarchical_epochs, self.batch) < 1:
            faults.append("batch and epochs must be at least 1")
        if (
            not min(self.adam_rate, self.adam_epsilon, self.sgd_rate, self.decay, self.warm_rate) > 0
            or self.warm_epochs < 0
        ):
            faults.append(
                "adam_rate, adam_epsilon, sgd_rate, decay and warm_rate must be above 0, warm_epochs 0 or more"
            )
        if not 0 <= self.momentum < 1:
            faults.append(f"momentum is {self.momentum:g}, and must be at least 0 and below 1")
        if list(self.decay_at) != sorted(set(self.decay_at)) or not all(0 < share < 1 for share in self.decay_at):
            faults.append(f"decay_at: {self.decay_at} are not ascending numbers between 0 and 1")
        if faults:
            raise InputError.of("training:", faults)


@dataclass(frozen=True)
class WeightingRules:
    """What the sample weights' strategies leave open (section 3)."""

    full_from: float = 0.5
    """Share of the epochs from which on SPL and OHEM use every sample (section 3.3: the second half)."""
    scale: Literal["cui", "as_printed", "mean_one"] = "cui"
    """Scale of CB and ES weights. cui: ES sums to the number of classes as in Cui et al., whom section 3.2 follows (as
    printed, SGD hardly trains), and CB is as printed; as_printed: equations 7 and 8 as they stand; mean_one: both
    rescaled to mean 1 over the training images."""


@dataclass(frozen=True)
class EvaluationSettings:
    """How models are judged (section 4.4; intervals are ours)."""

    repeats: int = 2000
    """Bootstrap resamples of lesions behind each interval."""
    level: float = 0.95
    """Coverage of the intervals."""


@dataclass(frozen=True)
class ShowSettings:
    """What Figures 3 and 4 show."""

    rows: str = "CEL,CEL-ES,CEL-SPL,CEL-OHEM,FL"
    """Rows of the tables whose CBAM maps stand side by side."""
    hard: tuple[str, ...] = ("MEL", "DF", "BKL", "AKIEC")
    """Classes of Figure 3 (its caption: melanoma, dermatofibroma, keratosis, actinic)."""
    easy: tuple[str, ...] = ("NV", "VASC", "BCC")
    """Classes of Figure 4 (its caption: nevus, vascular and actinic; section 5.2's text: BCC in the last's place)."""


@dataclass(frozen=True)
class WeightingSettings(Running):
    """Sample weights in the training of dermoscopy classifiers, flat and hierarchical.

    With --table and --images: ISIC 2018, its official CSV files (or HAM10000's metadata) and the folder or folders of
    its images. Without: phantom images that are drawn on the spot. The same command again goes on where it stopped.
    """

    table: tuple[Path, ...] = ()
    """Official CSV files: the ground truth and the lesion groupings, or HAM10000's metadata. None: phantoms."""
    images: tuple[Path, ...] = ()
    """Folder or folders of the images."""
    taxonomy: Path | None = None
    """YAML file with the tree of classes. Not given: that of section 4.2, in data_specs/isic2018.yaml."""
    out: Path = Path("runs/weighting")
    """The run's folder: its own record, tables, figures and models."""
    preset: Literal["paper", "demo"] = "paper"
    """"paper" or "demo" (small stand-in networks, few epochs). Not given: paper with --table, demo without."""
    tables: str = "1,2,3,4,5"
    """Tables of the paper to make: 1 counts; 2 flat, 3 hierarchical, with Adam; 4 flat, 5 hierarchical, with SGD."""
    strategies: str = "none,cb,es,spl,ohem"
    """Weights to compare, each with both losses: none, cb, es, spl, ohem, ohem_per_class, or joined as cb+ohem."""
    gamma: str = "1"
    """gamma of the focal loss (6); "auto": the best of 0.5, 1, 2, 5 on an inner hold-out of training lesions."""
    cells: str = "all"
    """Trainings to do, by patterns of their names, such as "flat-*-ohem-*"; others only stand if finished before."""
    figures: str = "all"
    """Figures: some of 1,2,3,4,pace, or all, or none. They show what the tables trained."""
    steps: str = "all"
    """Steps to do: all, or some of images,train,tables,figures (with what they stand on)."""
    log_weights: int = 0
    """Write the sample weights of every so many batches to weights/<training>/; 0: none."""
    cache: Path | None = None
    """Folder of the decoded images, which several runs may share. Not given: in the run's folder."""
    store: ImageStoreSettings = field(default_factory=ImageStoreSettings)
    """How images are brought to one size and colour."""
    splits: SplitSettings = field(default_factory=SplitSettings)
    """How the images are divided."""
    augment: CropSettings = field(default_factory=CropSettings)
    """Augmentation of training images."""
    network: NetworkSettings = field(default_factory=NetworkSettings)
    """The networks."""
    training: TrainingSettings = field(default_factory=TrainingSettings)
    """How they are trained."""
    rules: WeightingRules = field(default_factory=WeightingRules)
    """What the weighting strategies leave open."""
    evaluation: EvaluationSettings = field(default_factory=EvaluationSettings)
    """How models are judged."""
    show: ShowSettings = field(default_factory=ShowSettings)
    """What Figures 3 and 4 show."""
    phantom: PhantomDermoscopySettings = field(default_factory=lambda: PhantomDermoscopySettings(layout="isic2018"))
    """The phantom images that stand in where no --table is given."""

    def __post_init__(self) -> None:
        faults = []
        if bool(self.table) != bool(self.images):
            given, missing = ("--table", "--images") if self.table else ("--images", "--table")
            faults.append(f"{given} without {missing}: a data set needs both its CSV files and its images' folder")
        if self.splits.count < 1:
            faults.append(f"--splits.count {self.splits.count}: at least 1")
        for name in ("share", "hold_out"):
            if not 0 < getattr(self.splits, name) < 1:
                faults.append(f"--splits.{name.replace('_', '-')} {getattr(self.splits, name):g}: between 0 and 1")
        if self.log_weights < 0:
            faults.append(f"--log-weights {self.log_weights}: a number of batches, or 0 for none")
        if self.network.input_px > self.store.stored_px:
            faults.append(
                f"--network.input-px {self.network.input_px} above --store.stored-px {self.store.stored_px}: images "
                "would be shrunk and enlarged again"
            )
        if faults:
            raise InputError(faults[0]) if len(faults) == 1 else InputError.of("settings:", faults)

    def chosen_tables(self) -> tuple[int, ...]:
        """The tables asked for, in order. Raises InputError for one that the paper has not."""
        return numbers("--tables", self.tables, range(1, 6))

    def chosen_figures(self) -> tuple[str, ...]:
        """The figures asked for, in order. Raises InputError for one that is not made."""
        return names("--figures", self.figures, FIGURES, "figure")

    def chosen_gamma(self) -> float | None:
        """gamma of the focal loss; None: chosen on an inner hold-out. Raises InputError for what is neither."""
        if self.gamma.strip().lower() == "auto":
            return None
        try:
            value = float(self.gamma)
        except ValueError:
            value = math.nan
        if not (math.isfinite(value) and value > 0):
            raise InputError(
                f"--gamma {self.gamma}: give a number above 0 (0 would be the cross-entropy, which is trained anyway), "
                "or auto"
            )
        return value

    def chosen_strategies(self) -> tuple[str, ...]:
        """The weightings asked for, as "none", "cb", "cb+ohem" and so on. Raises InputError for an unknown one."""
        asked = [name.strip().lower() for name in self.strategies.split(",") if name.strip()]
        if not asked:
            raise InputError("--strategies: none is named; give none,cb,es,spl,ohem or some of them")
        return tuple(
            dict.fromkeys("+".join(part for part in weighting_parts(name) if part) or "none" for name in asked)
        )

    def picked(self, cells: Sequence[str]) -> set[str]:
        """Which of these trainings --cells names. Raises InputError for a pattern that fits none."""
        if self.cells.strip().lower() == "all":
            return set(cells)
        found: set[str] = set()
        for pattern in [part.strip() for part in self.cells.split(",") if part.strip()] or [""]:
            fitting = fnmatch.filter(cells, pattern)
            if not fitting:
                raise InputError(
                    f"--cells {pattern}: fits none of the {len(cells)} trainings, such as {cells[0]}; "
                    "* stands for anything"
                )
            found.update(fitting)
        return found


def weighting_parts(name: str) -> tuple[str, str]:
    """Class weights and curriculum of a weighting's name, "" for none: "cb+ohem" is ("cb", "ohem").

    Raises:
        InputError: an unknown word, or two of one kind.
    """
    parts = [part.strip() for part in name.split("+")]
    classes = [part for part in parts if part in CLASS_WEIGHTS]
    curricula = [part for part in parts if part in CURRICULA]
    if parts == ["none"]:
        return "", ""
    if len(classes) > 1 or len(curricula) > 1 or len(classes) + len(curricula) != len(parts):
        raise InputError(
            f"--strategies {name}: give none, or one of {', '.join(CLASS_WEIGHTS)}, or one of {', '.join(CURRICULA)}, "
            "or one of each joined by +"
        )
    return (classes or [""])[0], (curricula or [""])[0]


def preset(name: str) -> WeightingSettings:
    """The settings of `--preset paper` (the paper's own) or `--preset demo` (a named change of them).

    The demo is sized for two cores: stand-in networks with the same CBAM and LSTM that learn from scratch with a larger
    step, on small images, and the tables of Adam alone, on one split. In the place of ImageNet weights, each network
    starts from a short training with the plain loss on the split's own training part.
    """
    paper = WeightingSettings()
    if name == "paper":
        return paper
    return dataclasses.replace(
        paper,
        preset="demo",
        tables="1,2,3",
        store=dataclasses.replace(paper.store, stored_px=80),
        splits=dataclasses.replace(paper.splits, count=1),
        network=dataclasses.replace(
            paper.network, backbone="standin", weights="none", input_px=64, dropout=0.1, lstm_units=64, embedding=16
        ),
        training=dataclasses.replace(
            paper.training,
            flat_epochs=8,
            hierarchical_epochs=8,
            adam_rate=1e-3,
            sgd_rate=1e-2,
            warm_epochs=24,
            warm_rate=2e-3,
        ),
        phantom=PhantomDermoscopySettings(layout="isic2018", patients=150, height_px=96, hair_share=0.1, clarity=0.9),
    )


RECIPE = Recipe(
    name="weighting",
    about="sample weights in the training of dermoscopy classifiers",
    data="table",
    drawn="images",
    preset=preset,
    method="melano_tf.papers.weighting.method:method",
    aside=("images", "cells", "cache", "log_weights"),
    groups=("phantom", "show"),
)
