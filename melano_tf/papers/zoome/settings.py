"""The settings of the ZooME paper: each with its unit, the paper's value as default, and its place in the paper.

"ZooME: Efficient Melanoma Detection Using Zoom-in Attention and Metadata Embedding Deep Neural Network." Sections,
equations and tables named below are the paper's. What the paper leaves open says "our reading".
"""

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from melano_tf.errors import InputError
from melano_tf.evaluation.thresholds import DecisionSettings
from melano_tf.papers.plan import Recipe
from melano_tf.papers.run_settings import Running
from melano_tf.papers.settings_values import listed, names, numbers
from melano_tf.papers.zoome.report_words import WORDS
from melano_tf.phantoms.skin.patients import PhantomDermoscopySettings
from melano_tf.pipelines.image_settings import ImageAugmentSettings, ImageCacheSettings

STEPS = ("images", "train", "model", "tables", "figures")
FIGURES = ("roc", "pr", "reliability", "metadata")


@dataclass(frozen=True)
class FoldSettings:
    """How the images are divided (section IV-A)."""

    count: int = 10
    """Folds of the cross-validation (section IV-A: ten)."""
    by: Literal["patient", "plain"] = "patient"
    """"patient": all images of a patient (2018, 2019: lesion) in one fold (our reading); "plain": stratified by class
    alone, as section IV-A may mean, which puts images of one patient on both sides and needs --allow-leaks."""
    join_copies: bool = True
    """Patients who share an identical or nearly identical image stay in one fold (our reading)."""
    near_copies: bool = True
    """Look for nearly identical images by perceptual hashes; identical ones are always looked for."""
    hold_out: float = 0.1
    """Share of a fold's training patients that choose threshold and calibration and train nothing (our reading)."""


@dataclass(frozen=True)
class NetworkSettings:
    """The networks (section III)."""

    backbone: str = "torchvision_resnext50"
    """Feature extractor of ZooME (section III-C: ResNeXt50; our reading: torchvision's 32x4d)."""
    maron: str = "torchvision_resnet50"
    """Network of Maron et al. and of Table II's upper half (section IV: ResNet50)."""
    kaur: str = "zoome_kaur"
    """Stand-in for Kaur et al., whose network the paper does not describe: a plain deep CNN."""
    alexnet: str = "torchvision_alexnet"
    """Network of Table I's third row and of Table II's lower half (section IV: AlexNet)."""
    input_px: int = 224
    """Side of the network's input in pixels (section IV-B: 224)."""
    zoom: int = 4
    """Side of Zoom-SE's adaptive max pooling (section III-A: 4)."""
    ratio: int = 16
    """r of equation 2, by which Zoom-SE's first layer narrows (not given; our reading: 16)."""
    gate: Literal["printed", "se"] = "printed"
    """"printed": equation 2 with its outer ReLU, weights in [0.5, 1); "se": the usual gate, in (0, 1)."""
    metadata_units: int = 64
    """Width of the metadata's hidden layer (not given; our reading: 64)."""
    weights: str = "none"
    """Initial weights of `backbone`: "none", or a file: ours (.weights.h5) or torchvision's state dict (not given);
    "imagenet" where its owner is Keras."""
    maron_weights: str = "none"
    """The same for `maron`."""
    alexnet_weights: str = "none"
    """The same for `alexnet`."""


@dataclass(frozen=True)
class TrainingSettings:
    """How they are trained (sections III-D and IV-B)."""

    epochs: int = 30
    """Epochs; the last one is judged (not given; our reading: 30)."""
    batch: int = 64
    """Images a batch (section IV-B: 64)."""
    optimizer: Literal["sgd", "adam"] = "adam"
    """Optimiser (section IV-B: Adam)."""
    learning_rate: float = 1e-4
    """Learning rate (section IV-B: 1e-4)."""
    adam_epsilon: float = 1e-8
    """epsilon of Adam (the paper used PyTorch, which has 1e-8; Keras has 1e-7)."""
    alpha: float = 0.25
    """alpha of equation 5, the weight of melanomas; benign images weigh 1 - alpha (section III-D: 0.25)."""
    gamma: float = 2.0
    """gamma of equation 5 (section III-D: 2)."""


@dataclass(frozen=True)
class EvaluationSettings:
    """How models are judged (section IV-C; intervals are ours)."""

    repeats: int = 2000
    """Bootstrap resamples of patients behind each interval."""
    level: float = 0.95
    """Coverage of the intervals."""
    permutations: int = 5
    """Times that the metadata are exchanged between patients to see what they add."""
    bins: int = 10
    """Bins of the reliability diagram, of equal numbers of images."""


@dataclass(frozen=True)
class ZoomeSettings(Running):
    """Melanoma in dermoscopy images with age, sex and site: zoom-in attention and metadata embedding.

    With --table and --images: ISIC 2020 (or 2018, 2019), its official CSV files and the folder or folders of its
    images. Without: phantom images that are drawn on the spot. The same command again goes on where it stopped.
    """

    table: tuple[Path, ...] = ()
    """Official CSV files: the ground truth, and if there the list of duplicates or the metadata. None: phantoms."""
    images: tuple[Path, ...] = ()
    """Folder or folders of the images."""
    out: Path = Path("runs/zoome")
    """The run's folder: its own record, tables, figures and models."""
    preset: Literal["paper", "demo"] = "paper"
    """"paper" or "demo" (small stand-in networks, few epochs). Not given: paper with --table, demo without."""
    tables: Annotated[tuple[int, ...], listed("--tables", range(1, 3))] = (1, 2)
    """Tables of the paper to make, for example 1; networks that no table asks for are not trained."""
    comparators: bool = True
    """Table I's other networks (Maron, Kaur, AlexNet) beside ZooME and its ablations."""
    figures: str = "all"
    """Figures: some of roc,pr,reliability,metadata, or all, or none. They show what the tables trained."""
    steps: str = "all"
    """Steps to do: all, or some of images,train,model,tables,figures (with what they stand on)."""
    allow_leaks: bool = False
    """Go on where a patient, a lesion or copies of an image stand on two sides of the folds; they are counted."""
    cache: Path | None = None
    """Folder of the decoded images, which several runs may share. Not given: in the run's folder."""
    store: ImageCacheSettings = field(default_factory=ImageCacheSettings)
    """How images are kept decoded."""
    folds: FoldSettings = field(default_factory=FoldSettings)
    """How the images are divided."""
    augment: ImageAugmentSettings = field(default_factory=ImageAugmentSettings)
    """Augmentation of training images."""
    network: NetworkSettings = field(default_factory=NetworkSettings)
    """The networks."""
    training: TrainingSettings = field(default_factory=TrainingSettings)
    """How they are trained."""
    decision: DecisionSettings = field(default_factory=DecisionSettings)
    """How probabilities become decisions: temperature scaling, then a threshold, both on the inner hold-out."""
    evaluation: EvaluationSettings = field(default_factory=EvaluationSettings)
    """How models are judged."""
    phantom: PhantomDermoscopySettings = field(default_factory=PhantomDermoscopySettings)
    """The phantom images that stand in where no --table is given."""

    def __post_init__(self) -> None:
        if bool(self.table) != bool(self.images):
            given, missing = ("--table", "--images") if self.table else ("--images", "--table")
            raise InputError(f"{given} without {missing}: a data set needs both its CSV files and its images' folder")
        if self.evaluation.permutations < 1:
            raise InputError(f"--evaluation.permutations {self.evaluation.permutations}: at least 1")

    def chosen_tables(self) -> tuple[int, ...]:
        """The tables asked for, in order. Raises InputError for one that the paper has not."""
        return numbers("--tables", self.tables, range(1, 3))

    def chosen_figures(self) -> tuple[str, ...]:
        """The figures asked for, in order. Raises InputError for one that is not made."""
        return names("--figures", self.figures, FIGURES, "figure")


def preset(name: str) -> ZoomeSettings:
    """The settings of `--preset paper` (the paper's own) or `--preset demo` (a named change of them).

    The demo is sized for two cores: three folds, images of 48 px, stand-in networks of the same blocks that learn from
    scratch with a larger step, and only ZooME and its ablations of Table I.
    """
    paper = ZoomeSettings()
    if name == "paper":
        return paper
    return dataclasses.replace(
        paper,
        preset="demo",
        threads=1,
        tables=(1,),
        comparators=False,
        store=dataclasses.replace(paper.store, stored_px=60),
        folds=dataclasses.replace(paper.folds, count=3, hold_out=0.2),
        network=dataclasses.replace(
            paper.network,
            backbone="resnext_standin",
            maron="resnet_standin",
            kaur="kaur_standin",
            alexnet="alexnet_standin",
            input_px=48,
        ),
        training=dataclasses.replace(paper.training, epochs=20, batch=32, learning_rate=1e-3),
        phantom=PhantomDermoscopySettings(patients=240, signal=2.5, clarity=0.5),
    )


RECIPE = Recipe(
    name="zoome",
    about="melanoma detection with zoom-in attention and metadata embedding",
    data="table",
    drawn="images",
    preset=preset,
    words=WORDS,
    method="melano_tf.papers.zoome.method:method",
    aside=("images", "comparators", "allow_leaks", "cache"),
    extent="melano_tf.papers.zoome.cohort:extent",
)
