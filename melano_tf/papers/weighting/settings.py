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
from typing import Annotated, Literal

from melano_tf.errors import InputError
from melano_tf.papers.plan import Recipe
from melano_tf.papers.run_settings import Running
from melano_tf.papers.settings_values import listed, names, numbers
from melano_tf.papers.weighting.image_settings import CropSettings, ImageStoreSettings, SplitSettings
from melano_tf.papers.weighting.report_words import TRANSFER_WORDS, WORDS
from melano_tf.papers.weighting.trunk_transfer_settings import RegularSettings, TransferSettings
from melano_tf.phantoms.skin.patients import PhantomDermoscopySettings

STEPS = ("images", "train", "tables", "figures")
TRANSFER_STEPS = ("images", "train", "model", "tables", "figures")
TRANSFER_TABLES = (1, 2)  # with a part of a pretrained network there is no hierarchical one, and no SGD
LOSSES = ("cel", "fl")
FIGURES = ("1", "2", "3", "4", "pace")
GAMMAS = (0.5, 1.0, 2.0, 5.0)  # tried by --gamma auto
CLASS_WEIGHTS = ("cb", "es")
CURRICULA = ("spl", "ohem", "ohem_per_class")


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
    preset: Literal["paper", "demo", "ham10000"] = "paper"
    """"paper", "demo" (small stand-in networks, few epochs) or "ham10000" (what two cores can do with the real images:
    parts of a pretrained network are trained). Not given: paper with --table, demo without."""
    tables: Annotated[tuple[int, ...], listed("--tables", range(1, 6))] = (1, 2, 3, 4, 5)
    """Tables of the paper to make: 1 counts; 2 flat, 3 hierarchical, with Adam; 4 flat, 5 hierarchical, with SGD."""
    strategies: str = "none,cb,es,spl,ohem"
    """Weights to compare, each with both losses: none, cb, es, spl, ohem, ohem_per_class, or joined as cb+ohem."""
    losses: str = "cel,fl"
    """Losses to compare: cel (cross-entropy, equation 5), fl (focal loss, equation 6)."""
    gamma: float | Literal["auto"] = 1.0
    """gamma of the focal loss (6); "auto": the best of 0.5, 1, 2, 5 on an inner hold-out of training lesions."""
    cells: str = "all"
    """Trainings to do, by patterns of their names, such as "flat-*-ohem-*"; others only stand if finished before."""
    figures: str = "all"
    """Figures: some of 1,2,3,4,pace, or all, or none. They show what the tables trained; with --preset ham10000 any
    brings those of the best cell too."""
    steps: str = "all"
    """Steps to do: all, or some of images,train,tables,figures; with --preset ham10000 also model, the one for use,
    which is made where it is named (or all is)."""
    allow_leaks: bool = False
    """Go on where copies of an image stand on two sides of a split (without --splits.join-copies); they are counted."""
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
    transfer: TransferSettings | None = None
    """With --preset ham10000: which parts of a pretrained network are trained, on which folds."""
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
        if self.transfer is not None and self.gamma == "auto":
            faults.append("--gamma auto: not with --preset ham10000; give a number")
        if self.transfer is not None and self.training.warm_epochs:
            faults.append("--training.warm-epochs: not with --preset ham10000, whose network starts from its weights")
        if self.transfer is not None:
            weighting_parts(self.transfer.regular.strategy, "--transfer.regular.strategy")
        if self.transfer is None and self.network.input_px > self.store.stored_px:
            faults.append(
                f"--network.input-px {self.network.input_px} above --store.stored-px {self.store.stored_px}: images "
                "would be shrunk and enlarged again"
            )
        if faults:
            raise InputError(faults[0]) if len(faults) == 1 else InputError.of("settings:", faults)

    def chosen_tables(self) -> tuple[int, ...]:
        """The tables asked for, in order. Raises InputError for one that the paper, or the preset, has not."""
        last = 5 if self.transfer is None else max(TRANSFER_TABLES)
        return numbers("--tables", self.tables, range(1, last + 1))

    def chosen_losses(self) -> tuple[str, ...]:
        """The losses asked for, in order. Raises InputError for an unknown one."""
        return names("--losses", self.losses, LOSSES, "loss")

    def split_numbers(self) -> tuple[int, ...]:
        """The splits (from 1) that the tables are means over; of --preset ham10000 folds."""
        return tuple(range(1, self.splits.count + 1)) if self.transfer is None else self.transfer.strategy_folds

    def chosen_figures(self) -> tuple[str, ...]:
        """The figures asked for, in order. Raises InputError for one that is not made."""
        return names("--figures", self.figures, FIGURES, "figure")

    def chosen_gamma(self) -> float | None:
        """gamma of the focal loss; None: chosen on an inner hold-out. Raises InputError for what is neither."""
        if self.gamma == "auto":
            return None
        if not (math.isfinite(self.gamma) and self.gamma > 0):
            raise InputError(
                f"--gamma {self.gamma:g}: give a number above 0 (0 would be the cross-entropy, which is trained "
                "anyway), or auto"
            )
        return self.gamma

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


def weighting_parts(name: str, option: str = "--strategies") -> tuple[str, str]:
    """Class weights and curriculum of a weighting's name, "" for none: "cb+ohem" is ("cb", "ohem").

    Args:
        name: as it was given.
        option: by which it was given, for the message.

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
            f"{option} {name}: give none, or one of {', '.join(CLASS_WEIGHTS)}, or one of {', '.join(CURRICULA)}, "
            "or one of each joined by +"
        )
    return (classes or [""])[0], (curricula or [""])[0]


def preset(name: str) -> WeightingSettings:
    """The settings of `--preset paper` (the paper's own), or of `demo` or `ham10000` (a named change of them)."""
    return {"paper": WeightingSettings, "demo": _demo, "ham10000": _ham10000}[name]()


def _demo() -> WeightingSettings:
    """Sized for two cores: stand-in networks with the same CBAM and LSTM that learn from scratch with a larger step, on
    small images, and the tables of Adam alone, on one split. In the place of ImageNet weights, each network starts from
    a short training with the plain loss on the split's own training part."""
    paper = WeightingSettings()
    return dataclasses.replace(
        paper,
        preset="demo",
        threads=1,
        tables=(1, 2, 3),
        store=dataclasses.replace(paper.store, stored_px=60),
        splits=dataclasses.replace(paper.splits, count=1),
        network=dataclasses.replace(
            paper.network, backbone="standin", weights="none", input_px=48, dropout=0.1, lstm_units=64, embedding=16
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


def _ham10000() -> WeightingSettings:
    """What two cores can do with real images: MobileNet with ImageNet weights on the squares at the centre of small
    versions of HAM10000's images, in the colours of the photograph. The strategies of Table 2 train its last
    blocks on frozen features; the best cell trains most of it, half of its pictures as other cameras show them, and
    takes the imbalance out of the decision."""
    paper = WeightingSettings()
    return dataclasses.replace(
        paper,
        preset="ham10000",
        tables=(1, 2),
        losses="cel",
        strategies="none,cb,es,spl,ohem,ohem_per_class",
        figures="1,2,pace",
        steps="images,train,tables,figures",
        store=dataclasses.replace(paper.store, stored_px=150, colour="none", crop="centre"),
        splits=dataclasses.replace(paper.splits, hold_out=0.1),
        network=dataclasses.replace(paper.network, backbone="mobilenet", input_px=128, dropout=0.2),
        training=dataclasses.replace(paper.training, batch=32, flat_epochs=6, adam_rate=5e-4),
        rules=dataclasses.replace(paper.rules, scale="mean_one"),
        transfer=TransferSettings(regular=RegularSettings(cameras=0.5)),
    )


def on_phantoms(settings: WeightingSettings) -> WeightingSettings:
    """`--preset ham10000` without data: a stand-in network without weights on small phantom images, one fold's best
    cell and the model for use, in minutes."""
    if settings.transfer is None:
        return settings
    return dataclasses.replace(
        settings,
        steps="all",
        store=dataclasses.replace(settings.store, stored_px=56),
        network=dataclasses.replace(settings.network, backbone="standin", weights="none", input_px=64),
        training=dataclasses.replace(settings.training, adam_rate=1e-3),
        transfer=dataclasses.replace(
            settings.transfer,
            cut="block2_pool",
            best_cut="block1_conv",
            best_rate=1e-3,
            best_epochs=12,
            best_folds=(1,),
        ),
        phantom=PhantomDermoscopySettings(layout="isic2018", patients=150, height_px=96, hair_share=0.1, clarity=0.9),
    )


RECIPE = Recipe(
    name="weighting",
    about="sample weights in the training of dermoscopy classifiers",
    data="table",
    drawn="images",
    preset=preset,
    presets=("paper", "demo", "ham10000"),
    small=("demo", "ham10000"),
    on_phantoms=on_phantoms,
    words=WORDS,
    words_of={"ham10000": TRANSFER_WORDS},
    method="melano_tf.papers.weighting.method:method",
    aside=("images", "cells", "cache", "log_weights", "allow_leaks"),
    groups=("phantom", "show"),
    extent="melano_tf.papers.weighting.trunk_transfer:extent",
)
