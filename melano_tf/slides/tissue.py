"""Where the tissue is: Otsu on the magenta channel, once a slide, without pen ink and what was not scanned.

Magenta is M = 255 - G of RGB (the paper names the channel only). Haematoxylin, eosin and melanin all absorb green, so
that dark melanin is tissue here; it is never dropped for being dark.

Not scanned is what the file calls transparent or outside its bounds, and every square of `FLAT_UM` that has exactly the
background's colour, because some files fill up with it without saying so (a camera gives no such square of glass, but
for one clipped to white; without it the threshold is found from the rest). It takes no part in the threshold, in any
smoothing or in any neighbourhood, and is never tissue.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from melano_tf.slides.slide import Overview

Mask = NDArray[np.bool_]

SMOOTHING_UM = 10.0
HEADROOM = 60.0
"""Otsu sees M only up to this much above the palest hundredth of what was scanned. That differs from plain Otsu, which
takes pale dermis for background where a large part is pigmented."""
FLAT_UM = 200.0
# Of a pixel at the edge of the scan: least share that was scanned. Its colour is told from the rest, to 2 of 255.
SEEN_SHARE = 0.25
# Smallest difference of the two classes' mean M that counts as tissue on glass and not as noise or uneven light.
MIN_CONTRAST = 15.0
# A lower class that lacks more green than this, against red and blue, is stained: the slide shows no glass at all.
MAX_GLASS_TINT = 15.0
SMALLEST_TISSUE_UM2 = 5000.0
SMALLEST_STROKE_PX = 16

# Hue in OpenCV's half degrees. Haematoxylin lies above 118 (it always absorbs more green than red), brown below 25.
GREEN_HUE = (33, 85)
BLUE_HUE = (85, 114)
MIN_INK_SATURATION = 70
MIN_INK_M = 25
BLACK_INK_MAX = 100
# Optical density of a channel over that of red: ink, glass edges and shadow absorb all colours alike; stain and melanin
# do not (melanin: blue > green > red).
NEUTRAL_GREEN = (0.85, 1.10)
NEUTRAL_BLUE = (0.70, 1.10)
# The densest pigment has no hue left. A neutral part with this much of its rim in stained tissue is taken for pigment.
STAINED_M = 40
ENCLOSED_SHARE = 0.8


class Overviewed(Protocol):
    """What the mask asks of a slide: all of it as one picture at so many µm/px."""

    def overview(self, mpp: float) -> Overview: ...


@dataclass(frozen=True, eq=False)
class TissueMask:
    """Tissue of one slide.

    Attributes:
        mask: bool (h, w), from the slide bounds' upper left.
        mpp: (x, y) µm per pixel of the mask.
        threshold: smallest M (0 to 255, smoothed) that is tissue; None where the slide holds glass only.
    """

    mask: Mask
    mpp: tuple[float, float]
    threshold: float | None

    @property
    def empty(self) -> bool:
        """Whether there is no tissue at all."""
        return not bool(self.mask.any())

    def sampled(
        self, shape: tuple[int, int], step_um: tuple[float, float], start_um: tuple[float, float] = (0.0, 0.0)
    ) -> Mask:
        """Whether the centre of each pixel of another picture of the slide lies in tissue, bool of `shape`.

        Args:
            shape: (h, w) of the picture.
            step_um: (x, y) µm per pixel of it.
            start_um: (x, y) of its upper left corner, µm from the slide bounds'; not negative.
        """
        sides = zip(shape[::-1], step_um, start_um, self.mpp, self.mask.shape[::-1], strict=True)
        places = [
            np.minimum(((start + (np.arange(count) + 0.5) * step) / own).astype(int), most - 1)
            for count, step, start, own, most in sides
        ]
        return np.asarray(self.mask[np.ix_(places[1], places[0])])

    @cached_property
    def _integral(self) -> NDArray[np.float64]:
        """Number of tissue pixels above and left of each corner, (h + 1, w + 1)."""
        return np.asarray(cv2.integral(self.mask.astype(np.uint8), sdepth=cv2.CV_64F), dtype=np.float64)

    def share(self, x_um: float, y_um: float, w_um: float, h_um: float) -> float:
        """Share of a box that is tissue, 0 to 1; all lengths in µm. Outside the slide there is none."""
        return float(self.shares(np.array([[x_um, y_um, w_um, h_um]]))[0])

    def shares(self, boxes_um: ArrayLike) -> NDArray[np.float64]:
        """Share of each box (n, 4: x, y, w, h in µm from the upper left) that is tissue, (n,) float64.

        Exact for boxes that cut through the mask's pixels. Outside the slide there is no tissue.

        Raises:
            ValueError: a box without area.
        """
        x, y, w, h = np.asarray(boxes_um, dtype=np.float64).reshape(-1, 4).T
        if not ((w > 0) & (h > 0)).all():
            raise ValueError("a box needs a width and a height above zero")
        area = w * h / (self.mpp[0] * self.mpp[1])
        left, right = x / self.mpp[0], (x + w) / self.mpp[0]
        top, bottom = y / self.mpp[1], (y + h) / self.mpp[1]
        tissue = self._until(right, bottom) - self._until(left, bottom)
        tissue += self._until(left, top) - self._until(right, top)
        return np.asarray(np.clip(tissue / area, 0.0, 1.0))

    def _until(self, x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
        """Tissue above and left of points in mask pixels; between the corners the integral image is bilinear."""
        height, width = self.mask.shape
        x, y = np.clip(x, 0, width), np.clip(y, 0, height)
        i, j = np.minimum(x.astype(np.int64), width - 1), np.minimum(y.astype(np.int64), height - 1)
        u, v, whole = x - i, y - j, self._integral
        upper = whole[j, i] * (1 - u) + whole[j, i + 1] * u
        lower = whole[j + 1, i] * (1 - u) + whole[j + 1, i + 1] * u
        return np.asarray(upper * (1 - v) + lower * v)


def ink_mask(rgb: NDArray[np.uint8], seen: Mask | None = None) -> Mask:
    """Pen strokes on the glass: saturated blue and green by hue, and neutral black.

    Brown and near-black melanin absorbs blue > green > red and is not ink; haematoxylin's hue lies beyond blue ink's.

    Args:
        rgb: RGB uint8 (h, w, 3), best near 8 µm/px, where a stroke is many pixels wide.
        seen: what was scanned, bool (h, w); None: all.

    Returns:
        bool (h, w).
    """
    seen = np.ones(rgb.shape[:2], bool) if seen is None else seen
    smooth = _smooth_picture(rgb, seen, 1.0)
    hue, saturation, value = cv2.split(cv2.cvtColor(smooth, cv2.COLOR_RGB2HSV))
    vivid = (saturation >= MIN_INK_SATURATION) & (255 - smooth.min(axis=2) >= MIN_INK_M)
    pens = seen & vivid & (hue >= GREEN_HUE[0]) & (hue <= BLUE_HUE[1])
    neutral = seen & _neutral(smooth)
    black = _without_enclosed(neutral & (value <= BLACK_INK_MAX), _stained(smooth, neutral | pens), seen)
    return _without_small(pens | black, SMALLEST_STROKE_PX)


def _neutral(rgb: NDArray[np.uint8]) -> Mask:
    """What absorbs all colours alike, (h, w): black ink, grey glass edges, shadow. Meaningless on clear glass."""
    red, green, blue = np.moveaxis(-np.log((rgb.astype(np.float32) + 1) / 256), 2, 0)
    red = np.maximum(red, 1e-3)
    in_green = (green >= NEUTRAL_GREEN[0] * red) & (green <= NEUTRAL_GREEN[1] * red)
    return np.asarray(in_green & (blue >= NEUTRAL_BLUE[0] * red) & (blue <= NEUTRAL_BLUE[1] * red))


def _stained(rgb: NDArray[np.uint8], other: Mask) -> Mask:
    """What is dark in green and is not something else, (h, w)."""
    return np.asarray((255 - rgb[:, :, 1] >= STAINED_M) & ~other)


def _without_enclosed(mask: Mask, stained: Mask, seen: Mask) -> Mask:
    """The mask without those connected parts whose rim, two to three pixels off and seen, lies in stained tissue."""
    result = mask.copy()
    count, labels, statistics, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    for label in range(1, count):
        left, top, width, height = statistics[label, :4]
        window = (slice(max(top - 3, 0), top + height + 3), slice(max(left - 3, 0), left + width + 3))
        part = (labels[window] == label).astype(np.uint8)
        far, near = (cv2.dilate(part, np.ones((size, size), np.uint8)) for size in (7, 3))
        rim = (far > 0) & (near == 0) & seen[window]
        if rim.any() and stained[window][rim].mean() >= ENCLOSED_SHARE:
            result[window][part > 0] = False
    return result


def tissue_mask(slide: Overviewed, mpp: float = 8.0, headroom: float | None = HEADROOM) -> TissueMask:
    """The slide's tissue, with one threshold for the whole slide.

    Args:
        slide: an open slide.
        mpp: µm per pixel of the mask.
        headroom: see `HEADROOM`; None: plain Otsu.

    Returns:
        The mask; empty (threshold None) where the slide holds glass, dust and ink only, or nothing was scanned.

    Raises:
        SlideReadError: a decode error.
    """
    overview = slide.overview(mpp)
    covered = covered_share(overview, mpp)
    part = covered[..., None]
    # At the edge of the scan a pixel's colour is mixed with the background's; taken out again, it is that of the scan.
    rgb = (overview.rgb - (1 - part) * np.array(overview.background, np.float32)) / np.maximum(part, SEEN_SHARE)
    mask, threshold = tissue_of(np.clip(np.rint(rgb), 0, 255).astype(np.uint8), mpp, covered, headroom)
    return TissueMask(mask, (mpp, mpp), threshold)


def covered_share(overview: Overview, mpp: float) -> NDArray[np.float32]:
    """Share of each pixel that was scanned, float32 (h, w): by the file's word, and by what is flat background."""
    side = max(1, round(FLAT_UM / mpp))
    # Beyond the picture nothing was scanned: a strip at its edge may be of any width.
    blank = np.pad(overview.blank, side, constant_values=1.0)
    square = np.ones((side, side), np.uint8)
    flat = cv2.morphologyEx((blank == 1).astype(np.uint8), cv2.MORPH_OPEN, square)
    near = cv2.dilate(flat, np.ones((3, 3), np.uint8)) > 0
    inner = (slice(side, -side), slice(side, -side))
    return np.asarray(np.where(near[inner], np.minimum(overview.scanned, 1 - overview.blank), overview.scanned))


def tissue_of(
    rgb: NDArray[np.uint8],
    mpp: float,
    covered: NDArray[np.float32] | None = None,
    headroom: float | None = HEADROOM,
) -> tuple[Mask, float | None]:
    """The tissue of a picture of a whole slide: (mask bool (h, w), threshold on smoothed M or None).

    What was not scanned changes nothing in the rest: whatever stands there, and however much of it there is.

    Args:
        rgb: RGB uint8 (h, w, 3).
        mpp: µm per pixel.
        covered: share of each pixel that was scanned, (h, w); None: all of it.
        headroom: see `HEADROOM`; None: plain Otsu.
    """
    mask = np.zeros(rgb.shape[:2], bool)
    covered = np.ones(mask.shape, np.float32) if covered is None else covered
    seen = covered >= SEEN_SHARE
    if not seen.any():
        return mask, None
    rows, columns = (np.flatnonzero(seen.any(axis=axis)) for axis in (1, 0))
    # Without its margins, because smoothing treats the edge of a picture in its own way.
    box = (slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))
    mask[box], threshold = _tissue_of_seen(rgb[box], mpp, covered[box], headroom)
    return mask, threshold


def _tissue_of_seen(
    rgb: NDArray[np.uint8], mpp: float, covered: NDArray[np.float32], headroom: float | None
) -> tuple[Mask, float | None]:
    """`tissue_of` for a picture whose margins were scanned, at least in part."""
    seen = covered >= SEEN_SHARE
    ink = cv2.dilate(ink_mask(rgb, seen).astype(np.uint8), np.ones((3, 3), np.uint8)).astype(bool)
    clear = seen & ~ink
    whole = clear & (covered >= 1)
    counted = whole if whole.any() else clear
    if not counted.any():
        return np.zeros_like(seen), None
    magenta = _smooth(255.0 - rgb[:, :, 1], clear, SMOOTHING_UM / mpp)
    capped = magenta[counted]
    if headroom is not None:
        capped = np.minimum(capped, np.percentile(capped, 1) + headroom)
    threshold = otsu(capped)
    above = capped > threshold
    glass = np.median(rgb[counted][~above], axis=0)
    if (glass[0] + glass[2]) / 2 - glass[1] > MAX_GLASS_TINT:
        # No glass in sight: the palest that is seen is stained too. What is paler than that would be a hole.
        threshold = float(255 - glass.max())
    elif not above.any() or capped[above].mean() - capped[~above].mean() < MIN_CONTRAST:
        return np.zeros_like(seen), None
    smooth = _smooth_picture(rgb, seen, max(SMOOTHING_UM / mpp, 0.5))
    tissue = (magenta > threshold) & clear
    neutral = tissue & _neutral(smooth)
    tissue &= ~_without_enclosed(neutral, _stained(smooth, neutral | ink), seen)
    return _without_small(tissue, SMALLEST_TISSUE_UM2 / mpp**2), threshold


def otsu(values: NDArray[np.floating]) -> float:
    """Otsu's threshold of values in 0 to 255, on 256 bins of width 1; the upper class is what lies above it."""
    counts = np.bincount(np.clip(np.rint(values), 0, 255).astype(np.int64).ravel(), minlength=256)
    share = np.cumsum(counts) / counts.sum()
    mean = np.cumsum(counts * np.arange(256)) / counts.sum()
    apart = np.zeros(256)
    inner = (share > 0) & (share < 1)
    apart[inner] = (mean[-1] * share[inner] - mean[inner]) ** 2 / (share[inner] * (1 - share[inner]))
    # Between two far classes the criterion is flat: take the middle of the flat part.
    best = np.flatnonzero(apart >= apart.max() * (1 - 1e-9))
    return float(best[0] + best[-1]) / 2 + 0.5


def _smooth(channel: NDArray[Any], seen: Mask, sigma: float) -> NDArray[np.float32]:
    """Gaussian mean of the seen pixels only, so that ink does not bleed into its surroundings."""
    if sigma < 0.3:
        return channel.astype(np.float32)
    weight = cv2.GaussianBlur(seen.astype(np.float32), (0, 0), sigma)
    total = cv2.GaussianBlur(np.where(seen, channel, 0).astype(np.float32), (0, 0), sigma)
    return np.asarray(total / np.maximum(weight, 1e-6), dtype=np.float32)


def _smooth_picture(rgb: NDArray[np.uint8], seen: Mask, sigma: float) -> NDArray[np.uint8]:
    """Gaussian mean of the seen pixels only, RGB uint8; what is not seen has no meaning in it."""
    if seen.all():
        return np.asarray(cv2.GaussianBlur(rgb, (0, 0), sigma))
    channels = [_smooth(rgb[:, :, k], seen, sigma) for k in range(3)]
    return np.clip(np.rint(np.stack(channels, axis=2)), 0, 255).astype(np.uint8)


def _without_small(mask: Mask, smallest: float) -> Mask:
    """The mask without connected parts (8 neighbours) of less than `smallest` pixels."""
    _, labels, statistics, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    large = statistics[:, cv2.CC_STAT_AREA] >= smallest
    large[0] = False
    return np.asarray(large[labels])
