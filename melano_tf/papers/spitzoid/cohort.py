"""The first steps: slides, tiles, and who is trained on, validated and tested (sections 3 and 5.1)."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from melano_tf.errors import InputError
from melano_tf.papers.choices import workers
from melano_tf.papers.spitzoid.settings import SpitzoidSettings
from melano_tf.pipelines.slide_steps import cut_slides, draw_phantoms
from melano_tf.pipelines.tiles import TileImages
from melano_tf.slides.cohort import label_index, read_manifest, same_file_groups
from melano_tf.slides.phantom import draw_cohort
from melano_tf.specs import load_spec
from melano_tf.splits import Split, assert_no_leaks, split_patients
from melano_tf.workspace import Run, digest, plain, seed_for

Say = Callable[[str], None]
NO_ANNOTATION = (
    "no slide has an annotation, and the source model learns from them; name a polygon file in the manifest's column "
    "`annotation` (QuPath GeoJSON, ASAP or ImageScope XML)"
)


@dataclass(frozen=True)
class Cohort:
    """The slides that brought tiles, their tiles, and the split of their patients.

    Attributes:
        manifest: one row a slide: slide_id, path, patient_id, label, annotation, mpp, malignant (0 or 1).
        tiles: one row a tile of those slides, see `melano_tf.slides.tiling`, with `region`: 1 tumour, 0 not,
            -1 unknown.
        outcomes: one row a slide of the whole manifest: what became of it, and why.
        split: patients of the test and of each validation cohort.
        folder: where the tiles lie.
        images: the tiles' pixels, decoded once and shared by all trainings where they fit into memory.
        key: key of the step that cut the tiles, and of the split.
    """

    manifest: pd.DataFrame
    tiles: pd.DataFrame
    outcomes: pd.DataFrame
    split: Split
    folder: Path
    images: TileImages
    key: str

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


def prepare_slides(run: Run, settings: SpitzoidSettings, say: Say) -> pd.DataFrame:
    """The validated manifest of the user's slides, or of phantom slides drawn now."""
    path = settings.slides
    if path is None:
        seed = seed_for(settings.seed, "phantoms")
        path = draw_phantoms(run, draw_cohort, settings.phantom, seed, workers(settings))
    manifest = read_manifest(path, load_spec("spitzoid"))
    labels = label_index(load_spec("spitzoid"))
    manifest = manifest.assign(malignant=[labels[label] for label in manifest["label"]])
    say(
        f"slides    {len(manifest)} of {manifest['patient_id'].nunique()} patients, "
        f"{int(manifest['malignant'].sum())} slides malignant ({'phantoms' if settings.slides is None else path})"
    )
    return manifest


def check_annotated(settings: SpitzoidSettings, manifest: pd.DataFrame) -> None:
    """The source model has something to learn from, known before any tile is cut.

    Raises:
        InputError: no slide has an annotation.
    """
    if manifest["annotation"].isna().all():
        raise InputError(f"{settings.slides}: {NO_ANNOTATION}")


def check_regions(cohort: Cohort) -> None:
    """The same of the slides that brought tiles.

    Raises:
        InputError: none of them has an annotation.
    """
    if (cohort.tiles["region"] < 0).all():
        raise InputError(f"of the slides that brought tiles {NO_ANNOTATION}")


def cut_tiles(run: Run, settings: SpitzoidSettings, manifest: pd.DataFrame, say: Say) -> Cohort:
    """Cut every slide into tiles (section 3) and divide the patients of those that brought any (section 5.1)."""
    tiles, outcomes, key = cut_slides(
        run, manifest, settings.grid, settings.store, settings.annotation, workers(settings), say
    )
    return divide(run, settings, manifest, tiles, outcomes, key, say)


def divide(
    run: Run,
    settings: SpitzoidSettings,
    manifest: pd.DataFrame,
    tiles: pd.DataFrame,
    outcomes: pd.DataFrame,
    tiles_key: str,
    say: Say,
) -> Cohort:
    """Divide the patients whose slides brought tiles; no patient and no slide file stands on two sides."""
    spec = load_spec("spitzoid")
    manifest = manifest[manifest["slide_id"].isin(tiles["slide_id"].unique())].reset_index(drop=True)
    split = split_patients(
        manifest["patient_id"].tolist(),
        manifest["label"].tolist(),
        test_share=settings.split.test_share,
        folds=settings.split.folds,
        seed=seed_for(settings.seed, "split"),
        positive=spec["positive"],
    )
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
    run.note(split=plain(split), excluded=outcomes[outcomes["status"] != "done"].to_dict("records"))
    folder = run.folder / "tiles"
    images = TileImages(tiles, folder, settings.source.input_px, settings.cache_mib)
    return Cohort(manifest, tiles, outcomes, split, folder, images, digest([tiles_key, plain(split)]))
