"""Black edges: the dark rim around a dermatoscope's round field of view, found and cut off.

The similarity paper, "Black Edge Removal": Otsu's threshold, morphology, contours. The paper applies it to the clusters
of BCN that hold such images (3,506 of them); which images it is applied to is the caller's choice. A picture is cropped
only where darkness really surrounds a field of view, and to the field's bounding box, so that nothing of the field (and
of a lesion in it) is lost; the dark corners of that box stay. A lesion as dark as the rim that it touches seems a part
of it: what is left of a round field still shows its circle, and the box is the circle's there.
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
    round_share: float = 0.4
    """Share of a field's outline, bites left out, that must lie on the circle around it for it to count as round."""
    round_tolerance: float = 0.02
    """How far from that circle, as a share of its radius, an outline still lies on it."""
    bite: float = 0.05
    """How deep a bite out of a round field is at least, as a share of its radius, and how long, of its outline."""

    def __post_init__(self) -> None:
        limits = {
            "work_px": (32, 4096),
            "sigma": (0.1, 50.0),
            "threshold_share": (0.01, 1.0),
            "kernel_px": (1, 101),
            "max_ratio": (0.0, 1.0),
            "smallest_field": (0.0, 1.0),
            "least_cut": (0.0, 0.5),
            "round_share": (0.0, 1.0),
            "round_tolerance": (0.0, 0.5),
            "bite": (0.0, 1.0),
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
    small_height, small_width = grey.shape
    left, top, right, bottom = _field_box(field, small_width, small_height, settings)
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


def _field_box(field: np.ndarray, width: int, height: int, settings: BorderSettings) -> Box:
    """The box of a field's contour; of a round field that of its circle, on each side where something dark took a bite.

    Args:
        field: contour in a picture of `width` x `height` px, int32 (n, 1, 2).
    """
    left, top, across, down = cv2.boundingRect(field)
    box = (left, top, left + across, top + down)
    (x, y), radius = cv2.minEnclosingCircle(field)
    circle = (max(0.0, x - radius), max(0.0, y - radius), min(width, x + radius + 1), min(height, y + radius + 1))
    sides = tuple(
        round(of) if abs(of - side) > settings.bite * radius else side for of, side in zip(circle, box, strict=True)
    )
    outline = _outline(field, width, height)
    if sides == box or not len(outline):
        return box
    slack = max(1.0, settings.round_tolerance * radius)
    # What was bitten off is bridged by the hull; a field that ends in a straight line has no such bridge.
    bridged = np.array([cv2.pointPolygonTest(field, point, measureDist=True) < -slack for point in outline.tolist()])
    own = outline[~bridged]
    on_circle = np.abs(np.hypot(own[:, 0] - x, own[:, 1] - y) - radius) <= slack
    bitten = bridged.mean() >= settings.bite and on_circle.sum() >= settings.round_share * max(1, len(own))
    return sides if bitten else box


def _outline(field: np.ndarray, width: int, height: int) -> np.ndarray:
    """Points of a contour's convex hull, a pixel apart, float64 (n, 2) x, y; without those at the picture's edge."""
    corners = cv2.convexHull(field)[:, 0].astype(np.float64)
    steps = np.roll(corners, -1, axis=0) - corners
    counts = np.maximum(1, np.abs(steps).max(axis=1)).astype(int)
    points = np.concatenate(
        [
            corner + step * (np.arange(count) / count)[:, None]
            for corner, step, count in zip(corners, steps, counts, strict=True)
        ]
    )
    inside = ((points > 1) & (points < np.array([width, height]) - 2)).all(axis=1)
    return points[inside]
