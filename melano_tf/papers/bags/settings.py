"""The settings of the bags recipe: each with its unit, and where its default comes from.

No paper is reproduced: the defaults are those of CLAM (Lu et al. 2021) where nothing else is said, and everything
beside the models (folds by patient, hold-out, calibration, intervals) is as in this project's other recipes.
"""

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

from melano_tf.errors import InputError
from melano_tf.evaluation.thresholds import DecisionSettings
from melano_tf.models.bag_settings import BagKind, BagModelSettings, BagNetworkSettings
from melano_tf.papers.bags.report_words import WORDS
from melano_tf.papers.plan import Recipe
from melano_tf.papers.run_settings import Running
from melano_tf.papers.settings_values import names
from melano_tf.phantoms.feature_files import FeaturePhantomSettings
from melano_tf.pipelines.bag_fitting import BagFitSettings, BagTrainingSettings

STEPS = ("features", "train", "model", "tables", "figures")
BASELINE = "mean"
MODELS = (BASELINE, *get_args(BagKind))
TABLES = ("cohort", "models", "differences", "calibration", "attention")
FIGURES = ("roc", "pr", "reliability", "maps")


@dataclass(frozen=True)
class FoldSettings:
    """How the patients are divided."""

    count: int = 5
    """Folds of the cross-validation, stratified by class (CLAM: 10 random splits)."""
    by: Literal["patient", "plain"] = "patient"
    """"patient": all slides of a patient in one fold; "plain": bags stratified by class alone, which puts slides of one
    patient on both sides and needs --allow-leaks."""
    hold_out: float = 0.15
    """Share of a fold's training patients that end the training, calibrate it and choose its threshold."""


@dataclass(frozen=True, kw_only=True)
class TrainingSettings(BagFitSettings):
    """How bag models are trained; the defaults are CLAM's where nothing else is said."""

    epochs: int = 50
    """Epochs at most (CLAM: 200)."""
    patience: int = 10
    """Epochs without a lower loss on the hold-out after which the training ends (CLAM: 20, not before the 50th)."""
    balanced: bool = False
    """Weigh bags by the inverse frequency of their class."""
    strength: float = 1.0
    """mean: C of the logistic regression, the inverse of its penalty (scikit-learn: 1)."""


@dataclass(frozen=True)
class EvaluationSettings:
    """How models are judged."""

    repeats: int = 2000
    """Bootstrap resamples of patients behind each interval."""
    level: float = 0.95
    """Coverage of the intervals."""
    bins: int = 10
    """Bins of the reliability diagram, of equal numbers of bags."""
    maps: int = 4
    """Bags of which attention is mapped: the first of each class in the table, in turn."""


@dataclass(frozen=True)
class BagsSettings(Running):
    """Labels of slides or patients from features of their tiles: TRIDENT's, CLAM's and STAMP's files, several models.

    With --features and --table: a folder of feature files and a CSV with slide_id, patient_id and label. Without:
    phantom features that are drawn on the spot. The same command again goes on where it stopped.
    """

    features: Path | None = None
    """Folder of the feature files, one a slide (.h5, .hdf5; .pt where torch is installed). None: phantoms."""
    table: Path | None = None
    """CSV with slide_id (a file's name without its ending), patient_id and label; further columns are kept."""
    slides: Path | None = None
    """CSV with slide_id, path and optionally mpp (µm/px of level 0): slides to lay the maps of attention over."""
    out: Path = Path("runs/bags")
    """The run's folder: its own record, tables, figures and models."""
    preset: Literal["default", "demo"] = "default"
    """"default", or "demo" (small networks, few epochs). Not given: default with --features, demo without."""
    models: str = "mean,bgmp,bgap,bgas,gated,clam,transformer"
    """Models, or all: mean (mean of the instances, logistic regression), bgmp, bgap, bgas, gated, instance_max, clam,
    clam_multi, transformer. The first of them is what the others are compared with."""
    final: str = "gated"
    """Model that is trained on all folds for use (models/bags.keras): any of the above, or none. It is named
    beforehand: the best of several on the same folds looks better than it is."""
    bag: Literal["slide", "patient"] = "slide"
    """What a bag is: a slide, or all slides of a patient together."""
    classes: tuple[str, ...] = ()
    """Labels in the order of the outputs; of two, the second is positive. Not given: in the alphabet's order."""
    tables: str = "all"
    """Tables: some of cohort,models,differences,calibration,attention, or all, or none."""
    figures: str = "all"
    """Figures: some of roc,pr,reliability,maps, or all, or none."""
    steps: str = "all"
    """Steps to do: all, or some of features,train,model,tables,figures (with what they stand on)."""
    allow_leaks: bool = False
    """Go on where a patient or a copy of a file stands on two sides of the folds; they are counted."""
    folds: FoldSettings = field(default_factory=FoldSettings)
    """How the patients are divided."""
    network: BagNetworkSettings = field(default_factory=BagNetworkSettings)
    """What the models are made of."""
    training: TrainingSettings = field(default_factory=TrainingSettings)
    """How they are trained."""
    decision: DecisionSettings = field(default_factory=DecisionSettings)
    """How probabilities become decisions: temperature scaling, then (of two classes) a threshold, on the hold-out."""
    evaluation: EvaluationSettings = field(default_factory=EvaluationSettings)
    """How models are judged."""
    phantom: FeaturePhantomSettings = field(default_factory=FeaturePhantomSettings)
    """The phantom features that stand in where no --features is given."""

    def __post_init__(self) -> None:
        if bool(self.features) != bool(self.table):
            given, missing = ("--features", "--table") if self.features else ("--table", "--features")
            raise InputError(f"{given} without {missing}: a cohort needs both its features and the table of its labels")
        if len(set(self.classes)) != len(self.classes) or len(self.classes) == 1:
            raise InputError(f"--classes {' '.join(self.classes)}: two or more different labels are needed")
        if self.final not in (*MODELS, "none"):
            raise InputError(f"--final {self.final}: no model of this name; there are {', '.join(MODELS)}, or none")

    def chosen_models(self) -> tuple[str, ...]:
        """The models asked for, the first one named first. Raises InputError for one that is not there."""
        chosen = names("--models", self.models, MODELS, "model")
        first = self.models.partition(",")[0].strip()
        return tuple(sorted(chosen, key=lambda name: name != first))

    def chosen_tables(self) -> tuple[str, ...]:
        """The tables asked for, in order. Raises InputError for one that is not made."""
        return names("--tables", self.tables, TABLES, "table")

    def chosen_figures(self) -> tuple[str, ...]:
        """The figures asked for, in order. Raises InputError for one that is not made."""
        return names("--figures", self.figures, FIGURES, "figure")

    def training_of(self, kind: BagKind) -> BagTrainingSettings:
        """The training of one kind of model."""
        own = {item.name for item in dataclasses.fields(BagFitSettings)}
        how = {name: getattr(self.training, name) for name in own}
        made_of = {item.name: getattr(self.network, item.name) for item in dataclasses.fields(BagNetworkSettings)}
        return BagTrainingSettings(model=BagModelSettings(kind, **made_of), precision=self.precision, **how)


def preset(name: str) -> BagsSettings:
    """The settings of `--preset default` or `--preset demo` (a named change of them, for two cores)."""
    default = BagsSettings()
    if name == "default":
        return default
    return dataclasses.replace(
        default,
        preset="demo",
        threads=1,
        models="mean,bgmp,bgap,bgas,gated,clam,transformer",
        folds=dataclasses.replace(default.folds, count=3, hold_out=0.25),
        network=BagNetworkSettings(hidden=(32,), attention_units=16, landmarks=8, heads=4, blocks=1),
        training=dataclasses.replace(default.training, epochs=25, patience=8, batch=4, learning_rate=2e-3),
        evaluation=dataclasses.replace(default.evaluation, maps=2),
    )


RECIPE = Recipe(
    name="bags",
    about="labels of slides or patients from bags of their tiles' features",
    data="features",
    drawn="features",
    preset=preset,
    method="melano_tf.papers.bags.method:method",
    aside=("table", "slides", "allow_leaks", "models", "final"),
    words=WORDS,
    presets=("default", "demo"),
    case="bags",
    extent="melano_tf.papers.bags.loads:extent",
)
