"""What a phantom slide looks like apart from its diagnosis: size, stain, how much of everything.

All of it is drawn without knowing the diagnosis, so that neither colour nor amount gives it away.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from melano_tf.phantoms.slides.textures import UNIT

BODY_SHARE = 0.33
"""Share of a melanocyte that its nucleus takes, in any lesion: size alone would otherwise change the mean colour."""
# Optical density per unit of stain in red, green, blue.
HAEMATOXYLIN = (0.62, 0.70, 0.36)
EOSIN = (0.12, 0.86, 0.44)
MELANIN = (0.38, 0.58, 0.80)


@dataclass(frozen=True)
class Stain:
    """One patient's staining and scanner light, by Beer-Lambert: RGB = glass * exp(-sum of concentration * vector).

    Attributes:
        vectors: optical density (natural logarithm) of one unit of haematoxylin, eosin, melanin in red, green, blue.
        glass: RGB of clear glass.
    """

    vectors: tuple[tuple[float, float, float], ...]
    glass: tuple[int, int, int]

    def colour(self, stains: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """BGR picture of stain concentrations; uint8 (h, w, 3) each."""
        blue_green_red = np.array(self.vectors, dtype=np.float32)[:, ::-1].T
        density = cv2.transform(stains, np.ascontiguousarray(blue_green_red))
        steps = np.exp(-np.arange(256) / UNIT)[:, None] * np.array(self.glass[::-1])
        return np.asarray(cv2.LUT(density, np.round(steps).astype(np.uint8)[None]))


@dataclass(frozen=True)
class Look:
    """One slide's numbers; shares are 0..1, lengths µm.

    Attributes:
        width_um, height_um: size of the slide.
        margin: glass around the tissue as a share of the slide's width and height.
        epidermis_um: thickness between rete ridges.
        ridge_um: length of the ridges.
        keratin_um: thickness of the horny layer.
        centre: where along the tissue the lesion's middle lies.
        half_width: half the lesion's width as a share of the tissue's width.
        depth: the lesion's depth as a share of the dermis.
        nuclear_share: share of the lesion's area that its nuclei take.
        body_share: share of the lesion's area that its cells take.
        epidermal: 0..1, where in its range the epidermal part of the lesion lies (see Lesion.epidermal).
        cleft_share: pale clefts around nests and clusters, as a share of the cells' area.
        chromatin: factor on the stain of the lesion's nuclei and bodies.
        nucleus: factor on the diameter of the lesion's nuclei.
        melanin: heaps of pigment per mm² of lesion.
        basal_melanin: share of basal keratinocytes with pigment.
        lymphocytes: scattered lymphocytes per mm² of dermis.
        clusters: clusters of lymphocytes per mm² of dermis.
        vessels: vessels per mm² of dermis.
        fibroblasts: fibroblasts per mm² of dermis.
        glands: coils of sweat glands per mm² of dermis outside the lesion.
        fat: depth below the junction where fat begins, as a share of the dermis.
    """

    width_um: float
    height_um: float
    margin: float
    epidermis_um: float
    ridge_um: float
    keratin_um: float
    centre: float
    half_width: float
    depth: float
    nuclear_share: float
    body_share: float
    epidermal: float
    cleft_share: float
    chromatin: float
    nucleus: float
    melanin: float
    basal_melanin: float
    lymphocytes: float
    clusters: float
    vessels: float
    fibroblasts: float
    glands: float
    fat: float


def draw_stain(rng: np.random.Generator) -> Stain:
    """A patient's stain: vectors and strengths vary, and so does the light."""
    strengths = (rng.uniform(0.82, 1.18), rng.uniform(0.72, 1.25), 1.0)
    spread = (0.03, 0.03, 0.015)
    vectors = tuple(
        (
            float(max(0.02, strength * (vector[0] + rng.normal(0, wide)))),
            float(max(0.02, strength * (vector[1] + rng.normal(0, wide)))),
            float(max(0.02, strength * (vector[2] + rng.normal(0, wide)))),
        )
        for vector, strength, wide in zip((HAEMATOXYLIN, EOSIN, MELANIN), strengths, spread, strict=True)
    )
    light = rng.integers(238, 250)
    red, green, blue = (int(np.clip(light + rng.integers(-3, 4), 0, 252)) for _ in range(3))
    return Stain(vectors, (red, green, blue))


def draw_look(rng: np.random.Generator, width_um: tuple[float, float], height_um: tuple[float, float]) -> Look:
    """A slide's numbers, drawn without knowing its diagnosis."""
    pigmented, inflamed = rng.random() < 0.5, rng.random() < 0.4
    return Look(
        width_um=rng.uniform(*width_um),
        height_um=rng.uniform(*height_um),
        margin=rng.uniform(0.06, 0.1),
        epidermis_um=rng.uniform(46, 80),
        ridge_um=rng.uniform(35, 95),
        keratin_um=rng.uniform(14, 34),
        centre=rng.uniform(0.42, 0.58),
        half_width=rng.uniform(0.26, 0.36),
        depth=rng.uniform(0.34, 0.56),
        nuclear_share=rng.uniform(0.11, 0.17),
        body_share=rng.uniform(0.38, 0.47),
        epidermal=rng.uniform(0, 1),
        cleft_share=rng.uniform(0.07, 0.13),
        chromatin=rng.uniform(0.75, 1.25),
        nucleus=rng.uniform(0.94, 1.06),
        melanin=rng.uniform(60, 600) if pigmented else rng.uniform(0, 30),
        basal_melanin=rng.uniform(0, 0.6),
        lymphocytes=rng.uniform(120, 420) if inflamed else rng.uniform(40, 160),
        clusters=rng.uniform(6, 16) if inflamed else rng.uniform(1, 6),
        vessels=rng.uniform(9, 22),
        fibroblasts=rng.uniform(220, 460),
        glands=rng.uniform(0, 2.2),
        fat=rng.uniform(0.75, 1.15),
    )
