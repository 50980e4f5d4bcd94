"""Settings of the sample-weighting paper's images: how they are stored, divided, augmented (sections 4.2 to 4.4)."""

from dataclasses import dataclass
from typing import Literal

from melano_tf.errors import InputError
from melano_tf.pipelines.image_settings import Crop


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
    crop: Crop = "whole"
    """What is stored: the whole picture, squeezed to a square, or the largest square at its centre (not given; our
    reading: whole)."""


@dataclass(frozen=True)
class SplitSettings:
    """How the images are divided (section 4.4)."""

    count: int = 2
    """Random splits; the tables are means over them (section 4.4: two)."""
    share: float = 0.2
    """Share of the lesions that judges (section 4.4: 20 % of the images); no lesion falls on both sides."""
    hold_out: float = 0.2
    """Share of the training lesions that choose gamma with --gamma auto, or the best cell's decision (our reading)."""
    join_copies: bool = True
    """Lesions that share an identical or nearly identical image stay on one side (our reading)."""
    near_copies: bool = True
    """Look for nearly identical images by perceptual hashes; identical ones are always looked for."""


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
