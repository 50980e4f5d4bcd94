"""Phantom slides: drawn whole-slide pictures of spitzoid lesions that stand in where there are no real ones.

They show skin with a lesion of melanocytes at 0.25 µm/px: in benign ones round, ordered nests whose cells get smaller
with depth, in malignant ones disorder, large uneven nuclei, pagetoid cells and mitoses. Size, stain and all amounts
are drawn without knowing the diagnosis. They test and demonstrate; they say nothing about real skin.

With each slide: an annotation as a pathologist would draw it (<slide_id>.geojson) and the exact truth
(<slide_id>.truth.npz, see `phantom_truth`).
"""

import io
import multiprocessing
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pandas as pd

from melano_tf.child_processes import ended_with, leave_with_parent, without_script
from melano_tf.errors import InputError
from melano_tf.phantoms.slides.cells import MPP, library
from melano_tf.phantoms.slides.melanocytes import BENIGN, MALIGNANT, Lesion
from melano_tf.phantoms.slides.pyramidal_tiff import write_pyramid
from melano_tf.phantoms.slides.scene import compose
from melano_tf.phantoms.slides.slide_appearance import draw_look, draw_stain
from melano_tf.phantoms.slides.tissue_ground import GRID_UM
from melano_tf.phantoms.slides.truth import Truth, outline, read_truth, truth_shares, write_annotation, write_truth
from melano_tf.phantoms.workers import one_line_if_killed
from melano_tf.runs.atomic_files import atomic, read_json, write_json
from melano_tf.runs.settings_digest import digest, plain

__all__ = ["PhantomSettings", "Plan", "Truth", "draw_cohort", "draw_slide", "plan_cohort", "read_truth", "truth_shares"]

LESIONS: dict[str, Lesion] = {"benign": BENIGN, "malignant": MALIGNANT}
DRAWING = 1
"""Raised when the same seed gives other pictures: slides of two drawings do not share a folder."""
SMALLEST_UM = (500.0, 400.0)
RECORD = "phantoms.json"

Progress = Callable[[int, int], object]


@dataclass(frozen=True)
class PhantomSettings:
    """Phantom slides, at 0.25 µm/px (40x)."""

    patients: int = 40
    """Patients."""
    malignant_share: float = 21 / 51
    """Share of patients with a malignant lesion (Table 1: 21 of 51); the count is rounded."""
    second_slide_share: float = 0.05
    """Share of patients with two slides; the count is rounded."""
    width_um: tuple[float, float] = (2000.0, 2400.0)
    """Range of the slides' widths, µm."""
    height_um: tuple[float, float] = (1400.0, 1800.0)
    """Range of the slides' heights, µm."""
    jpeg_quality: int = 80
    """JPEG quality of the slides, 1 to 100."""

    def check(self) -> None:
        """Raises InputError, all faults at once, where no slides can be drawn with these settings."""
        faults = []
        if self.patients < 1:
            faults.append(f"patients {self.patients}: one at least")
        for name in ("malignant_share", "second_slide_share"):
            if not 0 <= getattr(self, name) <= 1:
                faults.append(f"{name} {getattr(self, name)}: a share lies between 0 and 1")
        for name, smallest in zip(("width_um", "height_um"), SMALLEST_UM, strict=True):
            low, high = getattr(self, name)
            if not smallest <= low <= high <= 12_000:
                faults.append(f"{name} {low, high}: a range between {smallest:g} and 12000 µm, the smaller first")
        if not 1 <= self.jpeg_quality <= 100:
            faults.append(f"jpeg_quality {self.jpeg_quality}: between 1 and 100")
        if faults:
            raise InputError.of("phantom slides:", faults)


@dataclass(frozen=True)
class Plan:
    """One slide to be drawn: whose it is, what it shows, and the place of its seeds under the cohort's seed."""

    slide_id: str
    patient_id: str
    label: str
    patient: int
    slide: int

    def files(self, folder: Path) -> tuple[Path, Path, Path]:
        """Slide, annotation and truth of this slide in a folder."""
        return (
            folder / f"{self.slide_id}.tiff",
            folder / f"{self.slide_id}.geojson",
            folder / f"{self.slide_id}.truth.npz",
        )


def plan_cohort(settings: PhantomSettings, seed: int) -> list[Plan]:
    """Who has which slides: exact counts of malignant patients and of patients with two slides.

    Raises:
        InputError: settings that cannot be drawn.
    """
    settings.check()
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(1,)))
    malignant = set(rng.permutation(settings.patients)[: round(settings.patients * settings.malignant_share)].tolist())
    twice = set(rng.permutation(settings.patients)[: round(settings.patients * settings.second_slide_share)].tolist())
    digits = max(2, len(str(settings.patients)))
    return [
        Plan(f"P{patient + 1:0{digits}d}-{slide + 1}", f"P{patient + 1:0{digits}d}", label, patient, slide)
        for patient in range(settings.patients)
        for label in ["malignant" if patient in malignant else "benign"]
        for slide in range(2 if patient in twice else 1)
    ]


def draw_slide(folder: Path, plan: Plan, settings: PhantomSettings, seed: int, lesion: Lesion | None = None) -> None:
    """Draw one slide with its annotation and truth, each file atomically; the slide itself last.

    The stain belongs to the patient, all else to the slide. Neither depends on the label.

    Args:
        folder: where the files go.
        plan: the slide.
        settings: sizes and quality.
        seed: the cohort's seed.
        lesion: what it shows; by default what `LESIONS` has for its label.
    """
    cv2.setNumThreads(1)  # processes share the cores
    slide, annotation, truth_file = plan.files(Path(folder))
    stain = draw_stain(np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(2, plan.patient))))
    own = np.random.SeedSequence(seed, spawn_key=(3, plan.patient, plan.slide))
    look_seed, scene_seed, hand_seed = own.spawn(3)
    look = draw_look(np.random.default_rng(look_seed), settings.width_um, settings.height_um)
    scene = compose(look, lesion or LESIONS[plan.label], library(seed), scene_seed)
    truth = scene.truth()
    write_truth(truth_file, truth)
    write_annotation(annotation, outline(truth.mask, GRID_UM, MPP, np.random.default_rng(hand_seed)))
    height, width = scene.canvas.shape[:2]
    write_pyramid(
        slide, (width, height), lambda top, bottom: stain.colour(scene.rows(top, bottom)), MPP, settings.jpeg_quality
    )


def draw_cohort(
    folder: Path, settings: PhantomSettings, seed: int, workers: int = 2, progress: Progress | None = None
) -> Path:
    """Draw a cohort of phantom slides; slides that are complete already are kept.

    The files are the same to the byte whatever the number of processes.

    Args:
        folder: where all files go.
        settings: how many, how large.
        seed: all randomness comes from it.
        workers: processes; 1 draws in this one.
        progress: called with (slides done, slides in all), also for the slides that were there.

    Returns:
        Path of manifest.csv: slide_id, path, patient_id, label, annotation; paths relative to it.

    Raises:
        InputError: settings that cannot be drawn, or a folder with slides of another seed or other settings.
    """
    return draw_planned(folder, plan_cohort(settings, seed), settings, seed, LESIONS, workers, progress)


def draw_planned(
    folder: Path,
    plans: Sequence[Plan],
    settings: PhantomSettings,
    seed: int,
    lesions: Mapping[str, Lesion],
    workers: int = 2,
    progress: Progress | None = None,
) -> Path:
    """Draw the slides of a plan, for other diagnoses than the spitzoid paper's; else as `draw_cohort`.

    Args:
        plans: the slides.
        lesions: what a slide of each label shows.
    """
    folder = Path(folder)
    _claim(folder, settings, seed, lesions)
    waiting = [plan for plan in plans if not all(file.is_file() for file in plan.files(folder))]
    report = progress or (lambda done, total: None)
    report(len(plans) - len(waiting), len(plans))
    drawn = _draw_all(folder, waiting, settings, seed, lesions, workers)
    for done, _ in enumerate(drawn, start=len(plans) - len(waiting) + 1):
        report(done, len(plans))
    return _write_manifest(folder, plans)


def _claim(folder: Path, settings: PhantomSettings, seed: int, lesions: Mapping[str, Lesion]) -> None:
    """Write down what the folder holds, or refuse a folder that holds something else."""
    record = {"drawing": DRAWING, "seed": seed, "settings": plain(settings)}
    if lesions != LESIONS:
        record["lesions"] = plain(lesions)
    path = folder / RECORD
    if path.is_file():
        if digest(read_json(path)) != digest(record):  # tuples become lists in the file
            raise InputError(
                f"{path}: this folder holds phantom slides of another seed or other settings; choose another"
            )
        return
    folder.mkdir(parents=True, exist_ok=True)
    write_json(path, record)


def _draw_all(
    folder: Path,
    plans: Sequence[Plan],
    settings: PhantomSettings,
    seed: int,
    lesions: Mapping[str, Lesion],
    workers: int,
) -> Iterator[None]:
    """Draw slides in this process or in several, yielding after each."""
    if min(workers, len(plans)) <= 1:
        for plan in plans:
            draw_slide(folder, plan, settings, seed, lesions[plan.label])
            yield
        return
    # Spawned, not forked: whatever the parent has started (TensorFlow's threads) is not copied into the workers.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(min(workers, len(plans)), mp_context=context, initializer=leave_with_parent)
    with one_line_if_killed(), ended_with(pool):
        with without_script():
            running = [pool.submit(draw_slide, folder, plan, settings, seed, lesions[plan.label]) for plan in plans]
        for future in as_completed(running):
            future.result()
            yield


def _write_manifest(folder: Path, plans: Sequence[Plan]) -> Path:
    rows = []
    for plan in plans:
        slide, annotation, _ = plan.files(folder)
        rows.append((plan.slide_id, slide.name, plan.patient_id, plan.label, annotation.name))
    frame = pd.DataFrame(rows, columns=["slide_id", "path", "patient_id", "label", "annotation"])
    text = io.StringIO()
    frame.to_csv(text, index=False, lineterminator="\n")
    path = folder / "manifest.csv"
    with atomic(path) as temporary:
        temporary.write_bytes(text.getvalue().encode())
    return path
