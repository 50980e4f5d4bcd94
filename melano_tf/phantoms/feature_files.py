"""Features of slides that were never scanned: vectors whose truth is known, in files as TRIDENT writes them.

A tile's vector is the sum of what real features hold as well: its patient (stain, scanner), its slide, what it shows,
and noise. What it shows is one of a few ground tissues; in a slide of the positive class a round patch of tiles also
carries that class's own direction. Nothing else tells the classes apart, and ground tissues come in shares that differ
from slide to slide, so that a mean over all tiles sees the patch only weakly.
"""

from dataclasses import dataclass
from pathlib import Path

import h5py  # type: ignore[import-untyped]
import numpy as np
import pandas as pd

from melano_tf.runs.atomic_files import atomic

TILE_PX, LEVEL0_PX = 256, 512  # 20x tiles of a 40x scan
GROUND = 4  # kinds of tissue without a lesion
TABLE, TRUTH = "cases.csv", "truth.csv"


@dataclass(frozen=True)
class FeaturePhantomSettings:
    """A cohort of phantom feature files."""

    patients: int = 60
    """Patients; the classes take turns."""
    slides: int = 2
    """Slides of a patient at most; every third has one less."""
    tiles: int = 120
    """Tiles of a slide on average (from two thirds to four thirds of it)."""
    width: int = 48
    """Numbers of a feature vector."""
    classes: tuple[str, ...] = ("benign", "malignant")
    """Labels; of the first one nothing is planted."""
    share: float = 0.12
    """Share of a slide's tiles that show its class."""
    signal: float = 7.0
    """Length of a class's direction, in deviations of the noise in one number."""
    patient_shift: float = 0.5
    """Deviation of a patient's own shift, in those of the noise: what makes a patient on two sides a leak."""


def draw_features(folder: Path, settings: FeaturePhantomSettings, seed: int) -> Path:
    """Draw a cohort: `<slide_id>.h5` of each slide, cases.csv, and truth.csv with the tiles that show the class.

    A cohort that stands there finished is kept: the table is written last.

    Returns:
        The table's path; the features lie beside it.
    """
    if (folder / TABLE).is_file():
        return folder / TABLE
    rng = np.random.default_rng([seed, 0])
    directions = rng.normal(size=(len(settings.classes), settings.width))
    directions *= settings.signal / np.linalg.norm(directions, axis=1, keepdims=True)
    ground = rng.normal(size=(GROUND, settings.width))
    rows, truths = [], []
    for patient in range(settings.patients):
        own = np.random.default_rng([seed, 1, patient])
        shift = own.normal(0, settings.patient_shift, settings.width)
        label = patient % len(settings.classes)
        for number in range(max(1, settings.slides - (patient % 3 == 2))):
            slide = f"slide-{patient + 1:03d}-{number + 1}"
            coords = _lattice(own, settings.tiles)
            planted = _patch(own, coords, settings.share) if label else np.zeros(len(coords), bool)
            kinds = own.choice(GROUND, len(coords), p=own.dirichlet(np.full(GROUND, 2.0)))
            features = ground[kinds] + shift + own.normal(size=(len(coords), settings.width))
            features += planted[:, None] * directions[label]
            _write(folder / f"{slide}.h5", features.astype(np.float32), coords)
            rows.append((slide, f"patient-{patient + 1:03d}", settings.classes[label]))
            truths.append(pd.DataFrame({"slide_id": slide, "tile": range(len(coords)), "planted": planted.astype(int)}))
    _table(folder / TRUTH, pd.concat(truths, ignore_index=True))
    return _table(folder / TABLE, pd.DataFrame(rows, columns=["slide_id", "patient_id", "label"]))


def _lattice(rng: np.random.Generator, tiles: int) -> np.ndarray:
    """Corners of the tiles of a piece of tissue, level-0 pixels, int64 (n, 2): an ellipse on a lattice."""
    count = int(tiles * rng.uniform(2 / 3, 4 / 3))
    stretch = rng.uniform(0.6, 1.6)
    side = int(np.ceil(np.sqrt(count) * 1.6)) + 2
    x, y = np.meshgrid(np.arange(side), np.arange(side))
    centre = (side - 1) / 2
    far = ((x - centre) / stretch) ** 2 + ((y - centre) * stretch) ** 2 + rng.uniform(0, 0.5, x.shape)
    chosen = np.sort(np.argsort(far.ravel())[:count])
    return np.stack([x.ravel()[chosen], y.ravel()[chosen]], axis=1).astype(np.int64) * LEVEL0_PX + LEVEL0_PX


def _patch(rng: np.random.Generator, coords: np.ndarray, share: float) -> np.ndarray:
    """The tiles nearest to one of them, bool (n,)."""
    middle = coords[rng.integers(len(coords))]
    far = ((coords - middle) ** 2).sum(axis=1)
    planted = np.zeros(len(coords), bool)
    planted[np.argsort(far, kind="stable")[: max(1, round(share * len(coords)))]] = True
    return planted


def _write(path: Path, features: np.ndarray, coords: np.ndarray) -> None:
    """A file as TRIDENT's extraction writes it (`data_specs/features.yaml`)."""
    with atomic(path) as temporary, h5py.File(temporary, "w") as file:
        data, places = file.create_dataset("features", data=features), file.create_dataset("coords", data=coords)
        data.attrs.update({"name": path.stem, "savetodir": "", "encoder": "phantom"})
        said = {"patch_size": TILE_PX, "patch_size_level0": LEVEL0_PX, "overlap": 0, "name": path.stem, "savetodir": ""}
        places.attrs.update({**said, "level0_magnification": 40, "target_magnification": 20})


def _table(path: Path, frame: pd.DataFrame) -> Path:
    with atomic(path) as temporary:
        frame.to_csv(temporary, index=False)
    return path
