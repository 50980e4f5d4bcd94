"""The settings of `--preset ham10000`: which parts of a pretrained network are trained, and on which folds."""

import math
from dataclasses import dataclass, field

from melano_tf.errors import InputError
from melano_tf.pipelines.image_settings import ImageAugmentSettings


@dataclass(frozen=True)
class RegularSettings:
    """What else the best cell's training may do; each is off at 0 (or "none").

    Raises:
        InputError: a value outside its range.
    """

    averaging: float = 0.0
    """A running mean of the weights answers, of which each step keeps this share, such as 0.999."""
    smoothing: float = 0.0
    """Label smoothing: this share of each target is spread evenly over all classes."""
    mixup: float = 0.0
    """Mixup: a picture is blended with another one of its batch, by a share drawn from Beta(a, a) with this a."""
    cameras: float = 0.0
    """This share of the pictures is changed as another camera might show it (one change each, of any strength)."""
    adjustment: float = 0.0
    """Logit adjustment in the loss: the logarithm of the class shares times this is added to the logits."""
    strategy: str = "none"
    """The paper's weighting of its samples, as --strategies names it: cb, es, ohem, cb+ohem ..."""
    strategy_from: float = 0.0
    """Share of the training from which on it weighs (deferred re-weighting); 0: from the start."""
    distil: float = 0.0
    """Distillation: this share of each target is what teachers say of the picture on average. A fold's are
    --transfer.teachers networks, each trained like the best cell on all but one part of its lesions; those of the model
    for use are the folds' best cells."""

    def __post_init__(self) -> None:
        faults = [
            f"{name} {getattr(self, name):g}: at least 0, and below 1"
            for name in ("averaging", "smoothing", "strategy_from")
            if not 0 <= getattr(self, name) < 1
        ]
        if self.mixup and "+" in self.strategy:
            faults.append(
                f"mixup {self.mixup:g} with strategy {self.strategy}: the losses of blended pictures hold the class "
                "weights already, by which the curriculum would choose; leave out one of the three"
            )
        faults += [
            f"{name} {getattr(self, name):g}: between 0 and 1"
            for name in ("cameras", "distil")
            if not 0 <= getattr(self, name) <= 1
        ]
        faults += [
            f"{name} {getattr(self, name):g}: 0 or more, and finite"
            for name in ("mixup", "adjustment")
            if not (getattr(self, name) >= 0 and math.isfinite(getattr(self, name)))
        ]
        if faults:
            raise InputError.of("transfer.regular:", faults)

    def words(self) -> list[str]:
        """What the training does, for a table's notes."""
        late = f" from {self.strategy_from:.0%} of the training on" if self.strategy_from else ""
        parts = {
            f"weighted by {self.strategy}{late}": self.strategy != "none",
            f"logits adjusted by {self.adjustment:g} log shares": self.adjustment,
            f"labels smoothed by {self.smoothing:g}": self.smoothing,
            f"mixup {self.mixup:g}": self.mixup,
            f"{self.distil:.0%} of each target from teachers": self.distil,
            f"{self.cameras:.0%} of the pictures as other cameras show them": self.cameras,
            f"running mean of the weights ({self.averaging:g})": self.averaging,
        }
        chosen = [words for words, asked in parts.items() if asked]
        return ["cross-entropy" if chosen else "plain cross-entropy", *chosen]


@dataclass(frozen=True)
class TransferSettings:
    """A pretrained network of which a part is trained (not in the paper): what two cores can do with real images.

    Raises:
        InputError: a value outside its range.
    """

    cut: str = "conv_pw_11_relu"
    """The strategies: all layers up to this one are frozen, and their features of four mirror images are kept."""
    folds: int = 5
    """Folds of the images, by lesion, stratified; each is judged by what was trained on the others."""
    strategy_folds: tuple[int, ...] = (1,)
    """Folds (from 1) that the strategies are judged on."""
    best_folds: tuple[int, ...] | None = None
    """Folds (from 1) that the best cell is judged on. Not given: all; with none neither best cell nor final model."""
    best_cut: str = "conv_pw_3_relu"
    """The best cell: all layers up to this one are frozen."""
    best_epochs: int = 8
    """Its epochs, each of newly augmented images."""
    best_rate: float = 4e-4
    """Its learning rate, of Adam; half a cosine down to 0."""
    augment: ImageAugmentSettings = field(
        default_factory=lambda: ImageAugmentSettings(smallest_crop=0.75, rotation=180.0, flip=0.5, fill="reflect")
    )
    """How its images are cropped, turned and mirrored."""
    brightness: float = 0.15
    """Multiply its images by 1 + u, u uniform in ± this share."""
    hue: float = 8.0
    """Turn its images' hue by an angle uniform in ± this many degrees."""
    teachers: int = 3
    """Networks of which a fold's best cell learns as well, where --transfer.regular.distil is above 0."""
    metadata: bool = False
    """Tell the best cell the patient's age and sex and the lesion's site, by ZooME's metadata embedding."""
    regular: RegularSettings = field(default_factory=RegularSettings)
    """What else its training may do."""
    camera_images: int = 250
    """So many judged images of a fold, at most, are judged again as other cameras would show them; 0: none."""

    def __post_init__(self) -> None:
        faults = []
        if self.folds < 2:
            faults.append(f"folds {self.folds}: at least 2")
        for name in ("strategy_folds", "best_folds"):
            chosen = getattr(self, name) or ()
            if len(set(chosen)) < len(chosen) or not set(chosen) <= set(range(1, self.folds + 1)):
                faults.append(f"{name} {chosen}: numbers from 1 to {self.folds}, each once")
        if not self.strategy_folds:
            faults.append("strategy_folds: one at least")
        if self.teachers < 2:
            faults.append(f"teachers {self.teachers}: at least 2, for each is trained without one part of as many")
        if self.camera_images < 0:
            faults.append(f"camera_images {self.camera_images}: a number of images, or 0 for none")
        if self.best_epochs < 1 or not self.best_rate > 0:
            faults.append(f"best_epochs {self.best_epochs} and best_rate {self.best_rate:g}: at least 1, and above 0")
        if faults:
            raise InputError.of("transfer:", faults)

    def folds_of_best(self) -> tuple[int, ...]:
        """The folds (from 1) that the best cell is judged on."""
        return tuple(range(1, self.folds + 1)) if self.best_folds is None else self.best_folds
