"""Settings of the experiment on HAM10000; the defaults are what was measured."""

from dataclasses import dataclass
from pathlib import Path

from melano_tf.pipelines.augment import AugmentSettings
from melano_tf.pipelines.image_settings import ImageAugmentSettings, ImageCacheSettings
from melano_tf.training.sample_weights import Strategy

CLASSES = ("MEL", "NV", "BCC", "AKIEC", "BKL", "DF", "VASC")  # the order of ISIC 2018's columns
METRICS = ("Acc", "BAcc", "mPR", "mF1", "mAUC")
STRATEGIES = {
    "CEL": Strategy(),  # equations 4 to 9 of the paper; CB and ES with mean 1, so that one learning rate suits all
    "CB": Strategy(class_weights="cb", scale="mean_one"),
    "ES": Strategy(class_weights="es", scale="mean_one"),
    "SPL": Strategy(curriculum="spl"),
    "OHEM": Strategy(curriculum="ohem"),
    "OHEM per class": Strategy(curriculum="ohem_per_class"),
}
AUGMENT = ImageAugmentSettings(smallest_crop=0.75, rotation=180.0, flip=0.5, fill="reflect")
COLOUR = AugmentSettings(brightness=0.15, hue=8.0)


@dataclass(frozen=True)
class Settings:
    """One run."""

    data: Path | None = None
    """Folder with train_200x150 and HAM10000_metadata.csv; none: phantoms."""
    weights: str = "none"
    """File of MobileNet's ImageNet weights without top."""
    backbone: str = "mobilenet"
    stored_px: int = 150
    """Side of the centre squares of the 200x150 images."""
    network_px: int = 192
    """Side that the network sees: the squares enlarged. The weights come from 224 px."""
    cut: str = "conv_pw_11_relu"
    """The six strategies: all up to this layer is frozen, and its features are kept on disk."""
    deep_cut: str = "conv_pw_3_relu"
    """The best cell: frozen up to here, with pictures newly augmented in every epoch."""
    folds: int = 5
    """Lesion-grouped, stratified; each split validates on one of them."""
    splits: tuple[int, ...] = (0, 1)
    strategies: tuple[str, ...] = tuple(STRATEGIES)
    held_out: float = 0.1
    """Share of the training lesions that only choose how far the best cell's classes are shifted."""
    batch: int = 32
    epochs: int = 6
    learning_rate: float = 5e-4
    """Of Adam; a tenth at 50 % and at 75 % of the epochs, as in the paper."""
    deep_epochs: int = 16
    deep_learning_rate: float = 4e-4
    """Of Adam; half a cosine down to 0."""
    dropout: float = 0.2
    repeats: int = 1000
    """Resamples of the bootstrap over lesions."""
    seed: int = 0

    @property
    def store(self) -> ImageCacheSettings:
        """How images are decoded: the centre square, without colour constancy, which the paper's section 4.2 has."""
        return ImageCacheSettings(stored_px=self.stored_px, crop="centre")
