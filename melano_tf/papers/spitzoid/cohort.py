"""The slides, and who is trained on, validated and tested (sections 3 and 5.1)."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from melano_tf.errors import InputError
from melano_tf.papers.shell import Looked, Work
from melano_tf.papers.slide_steps import cut_tiles
from melano_tf.papers.spitzoid.settings import SpitzoidSettings
from melano_tf.pipelines.tile_batches import TileImages
from melano_tf.runs.settings_digest import plain, seed_for
from melano_tf.slides.slide_manifest import label_index, same_file_groups
from melano_tf.specs import load_spec
from melano_tf.splits.leaks import assert_no_leaks
from melano_tf.splits.validation_cohorts import Split, split_patients

NO_ANNOTATION = (
    "no slide has an annotation, and the source model learns from them; name a polygon file in the manifest's column "
    "`annotation` (QuPath GeoJSON, ASAP or ImageScope XML)"
)


@dataclass(frozen=True)
class SpitzoidSlides:
    """The slides that brought tiles, their tiles, and the split of their patients.

    Attributes:
        manifest: one row a slide: slide_id, path, patient_id, label, annotation, mpp, malignant (0 or 1).
        tiles: one row a tile of those slides, see `melano_tf.slides.tiling`, with `region`: 1 tumour, 0 not,
            -1 unknown.
        split: patients of the test and of each validation cohort.
        folder: where the tiles lie.
        images: the tiles' pixels, decoded once and shared by all trainings where they fit into memory.
    """

    manifest: pd.DataFrame
    tiles: pd.DataFrame
    split: Split
    folder: Path
    images: TileImages

    def training_patients(self) -> set[str]:
        """All patients outside the test."""
        return {patient for fold in self.split.folds for patient in fold}

    def patients(self, part: str, fold: int | None) -> set[str]:
        """Patients of "train" or "judge": of a validation cohort (1, 2, …), or (None) of the test."""
        judged = set(self.split.test if fold is None else self.split.folds[fold - 1])
        return judged if part == "judge" else self.training_patients() - judged

    def rows(self, frame: pd.DataFrame, patients: set[str]) -> pd.DataFrame:
        """The rows of slides or tiles that belong to these patients."""
        return frame[frame["patient_id"].isin(patients)].reset_index(drop=True)

    def slides(self, part: str, fold: int | None) -> list[str]:
        """Slides of "train" or "judge", as `patients`."""
        return self.rows(self.manifest, self.patients(part, fold))["slide_id"].tolist()


def with_diagnosis(manifest: pd.DataFrame) -> pd.DataFrame:
    """The manifest with `malignant`: 0 or 1."""
    return manifest.assign(malignant=manifest["label"].map(label_index(load_spec("spitzoid"))).astype("int64"))


def said_slides(work: Work, manifest: pd.DataFrame) -> None:
    """Say how many slides there are, of how many patients, and how many are malignant."""
    malignant = int(with_diagnosis(manifest)["malignant"].sum())
    work.say(
        f"slides    {len(manifest)} of {manifest['patient_id'].nunique()} patients, "
        f"{malignant} slides malignant ({work.settings.slides or 'phantoms'})"
    )


def check_annotated(settings: SpitzoidSettings, manifest: pd.DataFrame) -> None:
    """The source model has something to learn from, known before any tile is cut.

    Raises:
        InputError: no slide has an annotation.
    """
    if manifest["annotation"].isna().all():
        raise InputError(f"{settings.slides}: {NO_ANNOTATION}")


def split_slides(settings: SpitzoidSettings, manifest: pd.DataFrame) -> Split:
    """The patients of these slides in the test part and the validation cohorts.

    Raises:
        InputError: too few patients of a class.
    """
    return split_patients(
        manifest["patient_id"].tolist(),
        manifest["label"].tolist(),
        test_share=settings.split.test_share,
        folds=settings.split.folds,
        seed=seed_for(settings.seed, "split"),
        positive=load_spec("spitzoid")["positive"],
    )


def check_regions(cohort: SpitzoidSlides) -> None:
    """The same of the slides that brought tiles.

    Raises:
        InputError: none of them has an annotation.
    """
    if (cohort.tiles["region"] < 0).all():
        raise InputError(f"of the slides that brought tiles {NO_ANNOTATION}")


def divide(work: Work) -> Looked:
    """Divide the patients whose slides brought tiles; no patient and no slide file stands on two sides."""
    settings, say = work.settings, work.say
    tiles, _ = cut_tiles(work)
    manifest = with_diagnosis(work.value("slides"))
    manifest = manifest[manifest["slide_id"].isin(tiles["slide_id"].unique())].reset_index(drop=True)
    split = split_slides(settings, manifest)
    assert_no_leaks(split, manifest, same_file_groups(manifest))
    share = tiles["tumour"].to_numpy(float)
    region = np.where(np.isnan(share), -1, share >= settings.grid.tumour_share).astype(int)
    tiles = tiles.assign(region=region)
    unknown = int((region < 0).sum())
    say(
        f"tiles     {len(tiles)}: {int((region == 1).sum())} tumour, {int((region == 0).sum())} not"
        + (f", {unknown} of slides without annotation (not used by the source model)" if unknown else "")
    )
    sides = [len(split.test), *(len(fold) for fold in split.folds)]
    say(
        f"patients  {sides[0]} for the test, {' + '.join(map(str, sides[1:]))} in {len(split.folds)} validation cohorts"
    )
    work.run.note(split=plain(split))
    folder = work.run.folder / "tiles"
    images = TileImages(tiles, folder, settings.source.input_px, settings.cache_mib)
    cohort = SpitzoidSlides(manifest, tiles, split, folder, images)
    return Looked(cohort, [work.identity("tiles"), manifest["slide_id"].tolist(), plain(split)])
