"""Black edges: the dark rim around a dermatoscope's round field of view, found and cut off.

The similarity paper, "Black Edge Removal": Otsu's threshold, morphology, contours. The paper applies it to the clusters
of BCN that hold such images (3,506 of them); which images it is applied to is the caller's choice. A picture is cropped
only where darkness really surrounds a field of view, and to the field's bounding box, so that nothing of the field (and
of a lesion in it) is lost; the dark corners of that box stay.
"""

from dataclasses import dataclass

import cv2
import numpy as np

from melano_tf.errors import InputError

Box = tuple[int, int, int, int]
BLACK = 24.0  # grey level up to which a whole picture counts as black


@dataclass(frozen=True)
class BorderSettings:
    """How black edges are found. The paper names the steps and no numbers: every value is our reading.

    Raises:
        InputError: a value outside its range.
    """

    work_px: int = 256
    """The picture is searched at this length of its longer side, in pixels."""
    sigma: float = 1.5
    """Of the Gaussian blur before thresholding, in pixels at `work_px`."""
    threshold_share: float = 0.7
    """Otsu's threshold is multiplied by this, so that lesions and dark skin stay on the bright side."""
    kernel_px: int = 7
    """Diameter of the opening that removes hair, ruler marks and light spots, in pixels at `work_px`."""
    max_ratio: float = 0.3
    """Largest brightness outside the field, as a share of that inside it (the reference script's 0.3)."""
    smallest_field: float = 0.25
    """Smallest share of the picture that a field's bounding box may take."""
    least_cut: float = 0.01
    """Share of height or width from which on a rim is worth cutting; less leaves the picture whole."""

    def __post_init__(self) -> None:
        limits = {
            "work_px": (32, 4096),
            "sigma": (0.1, 50.0),
            "threshold_share": (0.01, 1.0),
            "kernel_px": (1, 101),
            "max_ratio": (0.0, 1.0),
            "smallest_field": (0.0, 1.0),
            "least_cut": (0.0, 0.5),
        }
        faults = [
            f"{name} must lie between {low:g} and {high:g}, and is {getattr(self, name):g}"
            for name, (low, high) in limits.items()
            if not low <= getattr(self, name) <= high
        ]
        if faults:
            raise InputError.of("borders:", faults)


@dataclass(frozen=True)
class Border:
    """What was found in one picture.

    Attributes:
        box: (left, top, right, bottom) in pixels of the picture, right and bottom excluded; all of it if not found.
        found: whether there is a rim to cut off.
        reason: why, in a few words.
        ratio: mean brightness outside the field / inside it; NaN where there is no outside.
    """

    box: Box
    found: bool
    reason: str
    ratio: float = float("nan")


def find_border(rgb: np.ndarray, settings: BorderSettings | None = None) -> Border:
    """The box of a picture's field of view, where a dark rim surrounds it.

    Args:
        rgb: uint8 (h, w, 3).
        settings: of the search.

    Raises:
        ValueError: not an image of that shape and type.
    """
    settings = settings or BorderSettings()
    if rgb.ndim != 3 or rgb.shape[2] != 3 or rgb.dtype != np.uint8 or not rgb.size:
        raise ValueError(f"expected uint8 (h, w, 3), got {rgb.dtype} {rgb.shape}")
    height, width = rgb.shape[:2]
    whole = (0, 0, width, height)
    grey = _grey(rgb, settings)
    if float(np.percentile(grey, 99)) <= BLACK:
        return Border(whole, False, "the picture is black")
    otsu, _ = cv2.threshold(grey, 0, 255, cv2.THRESH_BINARY | cv2.THRESH_OTSU)
    field = _field(grey > max(settings.threshold_share * otsu, 1.0), settings)
    if field is None:
        return Border(whole, False, "no bright region")
    left, top, right, bottom = cv2.boundingRect(field)
    right, bottom = left + right, top + bottom
    small_height, small_width = grey.shape
    cuts = (left / small_width, top / small_height, 1 - right / small_width, 1 - bottom / small_height)
    if max(cuts) < settings.least_cut:
        return Border(whole, False, "the field of view fills the picture")
    if (right - left) * (bottom - top) < settings.smallest_field * grey.size:
        return Border(whole, False, "the bright region is too small for a field of view")
    outside = np.ones(grey.shape, bool)
    outside[top:bottom, left:right] = False
    ratio = float(grey[outside].mean() / max(float(grey[top:bottom, left:right].mean()), 1.0))
    if ratio > settings.max_ratio:
        return Border(whole, False, "what surrounds the field is not dark", ratio)
    scale_x, scale_y = width / small_width, height / small_height
    box = (
        int(np.floor(left * scale_x)),
        int(np.floor(top * scale_y)),
        min(width, int(np.ceil(right * scale_x))),
        min(height, int(np.ceil(bottom * scale_y))),
    )
    return Border(box, True, "a dark rim surrounds the field of view", ratio)


def _grey(rgb: np.ndarray, settings: BorderSettings) -> np.ndarray:
    """Blurred brightness at the search's size, uint8: the brightest channel, because dark skin is still red."""
    height, width = rgb.shape[:2]
    scale = settings.work_px / max(height, width)
    grey = rgb.max(axis=2)
    if scale < 1:
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        grey = cv2.resize(grey, size, interpolation=cv2.INTER_AREA)
    return cv2.GaussianBlur(grey, (0, 0), settings.sigma, borderType=cv2.BORDER_REPLICATE)


def _field(bright: np.ndarray, settings: BorderSettings) -> np.ndarray | None:
    """The contour of the largest bright region once opened, or None where nothing is bright."""
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (settings.kernel_px, settings.kernel_px))
    # Beyond the picture it goes on as at its edge: else the opening would eat corners of a picture without any rim.
    pad = settings.kernel_px
    padded = cv2.copyMakeBorder(bright.astype(np.uint8), pad, pad, pad, pad, cv2.BORDER_REPLICATE)
    opened = cv2.morphologyEx(padded, cv2.MORPH_OPEN, kernel)[pad:-pad, pad:-pad]
    contours, _ = cv2.findContours(opened, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    return max(contours, key=cv2.contourArea) if contours else None
