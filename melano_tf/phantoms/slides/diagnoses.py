"""Phantom slides of the four diagnoses of the multimag paper: melanoma and three nevi that differ in where they lie.

A junctional nevus has its nests at the junction only, an intradermal one in the dermis only, a compound one in both;
the cells of all three are alike, and no nevus knows the disorder of the melanoma.
"""

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from melano_tf.errors import InputError
from melano_tf.phantoms.slides.melanocytes import BENIGN, MALIGNANT, Lesion
from melano_tf.phantoms.slides.slide_drawing import PhantomSettings, Plan, Progress, draw_planned

NEVUS = dataclasses.replace(BENIGN, mitoses=(0, 1))
DIAGNOSES: dict[str, Lesion] = {
    "MM": MALIGNANT,
    "IN": dataclasses.replace(NEVUS, epidermal=(0.0, 0.0)),
    "CN": dataclasses.replace(NEVUS, epidermal=(0.3, 0.45)),
    "JN": dataclasses.replace(NEVUS, epidermal=(1.0, 1.0)),
}
"""Lesion of each diagnosis: melanoma, intradermal, compound and junctional nevus."""


@dataclass(frozen=True)
class DiagnosisPhantomSettings:
    """Phantom slides of four diagnoses, at 0.25 µm/px (40x)."""

    patients: int = 40
    """Patients; the four diagnoses are as frequent as each other, one a patient."""
    second_slide_share: float = 0.05
    """Share of patients with two slides; the count is rounded."""
    width_um: tuple[float, float] = (2650.0, 2800.0)
    """Range of the slides' widths, µm; a 4x tile is 1280 µm wide."""
    height_um: tuple[float, float] = (1300.0, 1450.0)
    """Range of the slides' heights, µm."""
    jpeg_quality: int = 80
    """JPEG quality of the slides, 1 to 100."""

    def plain_settings(self) -> PhantomSettings:
        """The same sizes as the drawing takes them."""
        return PhantomSettings(
            patients=self.patients,
            second_slide_share=self.second_slide_share,
            width_um=self.width_um,
            height_um=self.height_um,
            jpeg_quality=self.jpeg_quality,
        )


def plan_diagnoses(settings: DiagnosisPhantomSettings, seed: int) -> list[Plan]:
    """Who has which slides: the diagnoses dealt evenly over the patients, exact counts.

    Raises:
        InputError: settings that cannot be drawn.
    """
    settings.plain_settings().check()
    if settings.patients < len(DIAGNOSES):
        raise InputError(f"phantom slides: patients {settings.patients}: {len(DIAGNOSES)} at least, one a diagnosis")
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(1,)))
    names = list(DIAGNOSES)
    labels = [names[place % len(names)] for place in rng.permutation(settings.patients)]
    twice = set(rng.permutation(settings.patients)[: round(settings.patients * settings.second_slide_share)].tolist())
    digits = max(2, len(str(settings.patients)))
    return [
        Plan(f"P{patient + 1:0{digits}d}-{slide + 1}", f"P{patient + 1:0{digits}d}", label, patient, slide)
        for patient, label in enumerate(labels)
        for slide in range(2 if patient in twice else 1)
    ]


def draw_diagnoses(
    folder: Path, settings: DiagnosisPhantomSettings, seed: int, workers: int = 2, progress: Progress | None = None
) -> Path:
    """Draw a cohort of the four diagnoses; see `phantom.draw_cohort`, whose arguments, files and promises these are.

    Returns:
        Path of manifest.csv: slide_id, path, patient_id, label (MM, IN, CN or JN), annotation.

    Raises:
        InputError: settings that cannot be drawn, or a folder with slides of another seed or other settings.
    """
    plans = plan_diagnoses(settings, seed)
    return draw_planned(folder, plans, settings.plain_settings(), seed, DIAGNOSES, workers, progress)
