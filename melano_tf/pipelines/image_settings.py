"""Settings of the image pipeline; read long before TensorFlow is needed, so they stand apart from it."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args

from melano_tf.dermoscopy.colour_constancy import ColourConstancy
from melano_tf.errors import InputError

Crop = Literal["whole", "centre"]


@dataclass(frozen=True)
class ImageCacheSettings:
    """How images are kept decoded on disk.

    Raises:
        InputError: a value outside its range.
    """

    stored_px: int = 280
    """Side of the stored images in pixels (our reading: 224 / 0.8, so that the smallest crop is not enlarged)."""
    max_pixels: int = 50_000_000
    """Files of more pixels than this are refused before decoding (the largest ISIC image has 24 million)."""
    crop: Crop = "whole"
    """What is stored: the whole picture, squeezed to a square, or the largest square at its centre (not in a paper)."""
    colour: ColourConstancy | None = field(default=None, metadata={"omit_none": True})
    """Colour constancy, applied to the stored pixels; none unless a recipe asks for it."""

    def __post_init__(self) -> None:
        if not 8 <= self.stored_px <= 4096:
            raise InputError(f"stored_px {self.stored_px}: 8 to 4096")
        if self.crop not in get_args(Crop):
            raise InputError(f"crop is {self.crop!r}; known: {', '.join(get_args(Crop))}")
        if isinstance(self.colour, Mapping):  # as a sidecar holds it
            object.__setattr__(self, "colour", ColourConstancy(**self.colour))

    def identity(self) -> dict[str, Any]:
        """What the stored pixels depend on. A field at the value that it had before it existed is left out, so that
        older caches stay valid."""
        since = {"crop": "whole", "colour": None}
        return {name: value for name, value in asdict(self).items() if value != since.get(name, ())}


@dataclass(frozen=True)
class ImageAugmentSettings:
    """What happens to a training image, stateless: it follows from (seed, epoch, image) alone (section IV-B).

    Raises:
        InputError: a value outside its range.
    """

    smallest_crop: float = 0.8
    """Smallest share of height and width that a crop from the centre keeps; uniform from here to 1 (section IV-B)."""
    rotation: float = 30.0
    """Turn by an angle uniform in ± this many degrees (section IV-B)."""
    flip: float = 0.5
    """Probability of a left-right flip (section IV-B)."""
    fill: Literal["constant", "nearest", "reflect"] = "constant"
    """What stands where a turned image has nothing (not given; our reading: black, as PyTorch fills)."""

    def __post_init__(self) -> None:
        faults = [
            f"{name} must lie between {low:g} and {high:g}, and is {getattr(self, name):g}"
            for name, low, high in (("smallest_crop", 0.05, 1.0), ("rotation", 0.0, 180.0), ("flip", 0.0, 1.0))
            if not low <= getattr(self, name) <= high
        ]
        if faults:
            raise InputError.of("augment:", faults)
