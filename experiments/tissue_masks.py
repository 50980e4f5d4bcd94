# %% [markdown]
# # Twelve tissue masks to look at
#
# What the tiler takes for tissue, outlined on the picture that it saw (8 µm/px): phantom slides as drawn, pale and
# dark, on dim glass, heavily pigmented, with three pens, with parts that were never scanned (transparent, or filled
# with white, in strips and between two scans), and the real slide CMU-1-Small-Region where `--data` has it.
#
# `python experiments/tissue_masks.py --data DATA --out tissue-masks.png` takes half a minute on one core; DATA holds
# `CMU-1-Small-Region.svs`. Each title gives the threshold on M = 255 - G and the share of the picture that is tissue.
#
# Seen: every outline follows the section; the lumens of fat are left out; pens are left out and cut no more than
# their own width; the darkest pigment stays; a scan that ends in tissue ends in tissue; unscanned white is never
# outlined, and dim glass beside it (M near 40) stays glass.

# %%
import argparse
import tempfile
from dataclasses import dataclass
from pathlib import Path

import cv2
import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from melano_tf.phantoms.slides.slide_drawing import PhantomSettings, draw_cohort
from melano_tf.slides.slide import Overview, Slide
from melano_tf.slides.tissue import tissue_mask

MPP = 8.0
WHITE = (255, 255, 255)
parser = argparse.ArgumentParser(allow_abbrev=False)
parser.add_argument("--data", type=Path, default=None, help="folder with CMU-1-Small-Region.svs")
parser.add_argument("--out", type=Path, default=Path("tissue-masks.png"), help="the page")
given = parser.parse_known_args()[0]


# %% [markdown]
# A picture that stands for a slide, as far as the mask asks of one.


# %%
@dataclass(frozen=True, eq=False)
class Picture:
    """A picture at `MPP` of which a part was scanned; the rest is white, whether the file says so or not."""

    rgb: np.ndarray
    scanned: np.ndarray | None = None
    told: bool = True

    def overview(self, mpp: float) -> Overview:
        known = np.ones(self.rgb.shape[:2], bool) if self.scanned is None else self.scanned
        rgb = np.where(known[..., None], self.rgb, 255).astype(np.uint8)
        blank = (rgb == 255).all(axis=2).astype(np.float32)
        return Overview(rgb, (known if self.told else np.ones_like(known)).astype(np.float32), blank, WHITE)


def stained(rgb: np.ndarray, strength: float) -> np.ndarray:
    """The same slide with more or less of its stain (Beer-Lambert, glass kept)."""
    glass = np.percentile(rgb, 99, axis=(0, 1))
    return np.clip(glass * (np.maximum(rgb, 1) / glass) ** strength, 0, 255)


def pigmented(rgb: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Melanin in the middle of the tissue, up to nearly black."""
    height, width = mask.shape
    v, u = np.mgrid[:height, :width]
    amount = 1.6 * np.exp(-(((u - 0.5 * width) / (0.2 * width)) ** 2) - ((v - 0.5 * height) / (0.25 * height)) ** 2)
    return rgb * 10 ** -(amount[..., None] * np.array([0.5, 0.7, 1.0])) * mask[..., None] + rgb * ~mask[..., None]


def penned(rgb: np.ndarray) -> np.ndarray:
    """Strokes of a blue, a green and a black pen, over glass and tissue."""
    drawn, (height, width) = rgb.astype(np.uint8).copy(), rgb.shape[:2]
    cv2.line(drawn, (5, 5), (width // 3, height - 8), (30, 70, 180), 5, cv2.LINE_AA)
    cv2.line(drawn, (width - 6, 8), (2 * width // 3, height - 6), (20, 140, 70), 5, cv2.LINE_AA)
    cv2.line(drawn, (8, height - 10), (width - 8, height - 14), (25, 24, 28), 5, cv2.LINE_AA)
    return drawn


# %%
with tempfile.TemporaryDirectory() as scratch:
    size = {"width_um": (2000.0, 2000.0), "height_um": (1500.0, 1500.0)}
    draw_cohort(Path(scratch), PhantomSettings(patients=3, second_slide_share=0, **size), seed=5, workers=1)
    phantoms = []
    for path in sorted(Path(scratch).glob("*.tiff")):
        with Slide(path) as slide:
            phantoms.append(slide.thumbnail(MPP))
first, second, third = phantoms
height, width = second.shape[:2]
rng = np.random.default_rng(0)
dim = np.clip(second * 0.88 + rng.normal(0, 2, second.shape), 0, 255)
strip = np.ones((height, width), bool)
strip[:, int(0.65 * width) :] = False
strip[: height // 8] = False
two = np.ones((height, width), bool)
two[:, int(0.45 * width) : int(0.58 * width)] = False
v, u = np.mgrid[:height, :width]
round_scan = ((u - 0.5 * width) / (0.42 * width)) ** 2 + ((v - 0.5 * height) / (0.42 * height)) ** 2 < 1
pictures: dict[str, Picture | Slide] = {
    "phantom 1": Picture(first),
    "phantom 2": Picture(second),
    "phantom 3": Picture(third),
    "pale (stain x 0.3)": Picture(stained(second, 0.3)),
    "dark (stain x 2)": Picture(stained(second, 2.0)),
    "much pigment": Picture(pigmented(third, tissue_mask(Picture(third), MPP).mask)),
    "three pens": Picture(penned(second)),
    "dim glass, white strips, not told": Picture(dim, strip, told=False),
    "two scans, transparent between": Picture(first, two),
    "round scan on dim glass, transparent": Picture(dim, round_scan),
    "pale, white strips, not told": Picture(stained(third, 0.3), strip, told=False),
}
real = None if given.data is None else given.data / "CMU-1-Small-Region.svs"
if real is not None and real.is_file():
    pictures["CMU-1-Small-Region"] = Slide(real)

# %%
figure, axes = plt.subplots(3, 4, figsize=(20, 12.5), layout="constrained")
for axis, (name, picture) in zip(axes.flat, pictures.items(), strict=False):
    found, rgb = tissue_mask(picture, MPP), picture.overview(MPP).rgb.copy()
    outlines, _ = cv2.findContours(found.mask.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    axis.imshow(rgb)
    for line in outlines:
        axis.plot(line[:, 0, 0], line[:, 0, 1], color="#0b7a00", linewidth=1.2)
    threshold = "none" if found.threshold is None else f"{found.threshold:.1f}"
    axis.set_title(f"{name}: M > {threshold}, {found.mask.mean():.0%}", fontsize=12)
    print(f"{name}: threshold {threshold}, tissue {found.mask.mean():.3f}")
for axis in axes.flat:
    axis.set_axis_off()
figure.savefig(given.out, dpi=70)
print(f"wrote {given.out}")
