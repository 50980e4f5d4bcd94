"""The settings of `--preset ham10000`: which parts of a pretrained network are trained, and on which folds."""

from dataclasses import dataclass, field

from melano_tf.errors import InputError
from melano_tf.pipelines.image_settings import ImageAugmentSettings


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
    strategy_folds: tuple[int, ...] = (1, 2)
    """Folds (from 1) that the strategies are judged on."""
    best_folds: tuple[int, ...] = (1,)
    """Folds (from 1) that the best cell is judged on, such as 1 2 3 4 5. None: neither best cell nor final model."""
    best_cut: str = "conv_pw_3_relu"
    """The best cell: all layers up to this one are frozen."""
    best_epochs: int = 16
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
    camera_images: int = 500
    """So many judged images of a fold, at most, are judged again as other cameras would show them; 0: none."""

    def __post_init__(self) -> None:
        faults = []
        if self.folds < 2:
            faults.append(f"folds {self.folds}: at least 2")
        for name in ("strategy_folds", "best_folds"):
            chosen = getattr(self, name)
            if len(set(chosen)) < len(chosen) or not set(chosen) <= set(range(1, self.folds + 1)):
                faults.append(f"{name} {chosen}: numbers from 1 to {self.folds}, each once")
        if not self.strategy_folds:
            faults.append("strategy_folds: one at least")
        if self.camera_images < 0:
            faults.append(f"camera_images {self.camera_images}: a number of images, or 0 for none")
        if self.best_epochs < 1 or not self.best_rate > 0:
            faults.append(f"best_epochs {self.best_epochs} and best_rate {self.best_rate:g}: at least 1, and above 0")
        if faults:
            raise InputError.of("transfer:", faults)
