"""The first steps: slides, tiles at four magnifications, and who trains, validates and tests (sections 2 and 3)."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from melano_tf.errors import InputError
from melano_tf.papers.multimag.settings import STEPS, MultimagSettings
from melano_tf.papers.multimag.tasks import missing_classes, tasks_of, wanted_magnifications
from melano_tf.papers.plan import chosen_groups
from melano_tf.papers.shell import Looked, Work
from melano_tf.papers.slide_steps import Cutting, cut_identity, cut_tiles
from melano_tf.pipelines.tile_batches import TileImages
from melano_tf.pipelines.wanted_tiles import OUTLINED, WHOLE, Wanted
from melano_tf.runs.settings_digest import plain, seed_for
from melano_tf.slides.slide_manifest import same_file_groups
from melano_tf.specs import load_spec
from melano_tf.splits.leaks import assert_no_leaks
from melano_tf.splits.training_validation_test import PARTS, split_parts
from melano_tf.splits.validation_cohorts import Split


@dataclass(frozen=True)
class MultimagSlides:
    """The slides that brought tiles, their tiles, and the split of their patients.

    Attributes:
        manifest: one row a slide: slide_id, path, patient_id, label, annotation, mpp, part.
        tiles: one row a tile inside those slides' outlines, see `melano_tf.slides.magnifications`, with `part`: what is
            trained on and what the tables of tiles judge.
        whole: the same of every tile of the validation and test slides, also outside their outlines: what a slide is
            judged by, as `predict` does, which knows no outlines.
        split: patients of the test, and (training, validation) as its folds.
        folder: where the tiles lie.
        images: the pixels of `tiles`, decoded once and shared by all trainings where they fit into memory.
    """

    manifest: pd.DataFrame
    tiles: pd.DataFrame
    whole: pd.DataFrame
    split: Split
    folder: Path
    images: TileImages

    def slides(self, patients: Sequence[str]) -> list[str]:
        """Slides of these patients."""
        return self.manifest["slide_id"][self.manifest["patient_id"].isin(list(patients))].tolist()


def said_slides(work: Work, manifest: pd.DataFrame) -> None:
    """Say how many slides there are, of whom, and of which diagnosis; the same checks as of a user's, also of phantoms.

    Raises:
        InputError: as `check_tables`.
    """
    counts, where = manifest["label"].value_counts(), work.settings.slides
    work.say(
        f"slides    {len(manifest)} of {manifest['patient_id'].nunique()} patients: "
        + ", ".join(f"{counts.get(label, 0)} {label}" for label in load_spec("multimag")["labels"])
        + f" ({'phantoms' if where is None else where})"
    )
    check_tables(work.settings, manifest)


def check_tables(settings: MultimagSettings, manifest: pd.DataFrame) -> None:
    """What the labels of the manifest alone tell: every table whose models are wanted has a task whose every part holds
    every class.

    Raises:
        InputError: a table has none; all are named.
    """
    numbers = settings.trained_tables()
    if not numbers or not set(chosen_groups(settings.steps, STEPS)) - {"slides", "tiles"}:
        return
    slides = manifest.assign(part=parts_of(manifest, split_slides(settings, manifest)))
    tiles = slides.merge(pd.DataFrame({"magnification": settings.grid.names}), how="cross")
    faults = []
    for number in numbers:
        lacks = []
        for task in tasks_of(number, settings, tiles):
            rows = tiles[tiles["label"].isin(task.targets())]
            lacks.append(missing_classes(task, rows.assign(target=rows["label"].map(task.targets()))))
        if all(lacks):
            faults.append(f"Table {number} cannot be made: {' and '.join(dict.fromkeys(lacks))}")
    if faults:
        raise InputError.of("these slides lack diagnoses (leave tables out by --tables):", faults)


def split_slides(settings: MultimagSettings, manifest: pd.DataFrame) -> Split:
    """The patients of slides in three parts."""
    return split_parts(
        manifest["patient_id"].tolist(),
        manifest["label"].tolist(),
        test_share=settings.split.test_share,
        validation_share=settings.split.validation_share,
        seed=seed_for(settings.seed, "split"),
    )


def members_of(split: Split) -> dict[str, tuple[str, ...]]:
    """The patients of each part, by its name."""
    return dict(zip(PARTS, (*split.folds, split.test), strict=True))


def parts_of(manifest: pd.DataFrame, split: Split) -> pd.Series:
    """The part of each slide."""
    members = members_of(split)
    return manifest["patient_id"].map({patient: name for name in members for patient in members[name]})


def divide_slides(work: Work, manifest: pd.DataFrame) -> list[Wanted]:
    """Divide the patients, and choose the tiles of each slide that what is asked for can use.

    The patients are divided first (Figure 3), so that who trains and who tests does not depend on the tables asked for.
    Training slides give the tiles inside their outlines, the others all with enough tissue.

    Raises:
        LeakError: a slide file stands on two sides.
    """
    settings = work.settings
    split = split_slides(settings, manifest)
    assert_no_leaks(split, manifest, same_file_groups(manifest))
    usable = wanted_magnifications(settings)
    return [
        dict.fromkeys(
            (name for name in settings.grid.names if name in usable[label]), OUTLINED if part == PARTS[0] else WHOLE
        )
        for label, part in zip(manifest["label"], parts_of(manifest, split), strict=True)
    ]


def gather_tiles(work: Work, cutting: Cutting) -> Looked:
    """The tiles of every part. What was cut beside them, for other tables, changes nothing that is trained."""
    settings, manifest = work.settings, work.value("slides")
    split = split_slides(settings, manifest)
    tiles, _ = cut_tiles(work)
    manifest = manifest.assign(part=parts_of(manifest, split))
    manifest = manifest[manifest["slide_id"].isin(tiles["slide_id"].unique())].reset_index(drop=True)
    tiles = tiles.assign(part=tiles["slide_id"].map(manifest.set_index("slide_id")["part"]))
    whole = tiles[tiles["part"] != PARTS[0]].reset_index(drop=True)
    tiles = tiles[tiles["outlined"]].reset_index(drop=True)
    counts, members = tiles["magnification"].value_counts(), members_of(split)
    work.say(
        f"tiles     {len(tiles)}: " + ", ".join(f"{counts.get(name, 0)} at {name}" for name in settings.grid.names)
    )
    work.say("patients  " + ", ".join(f"{len(own)} {name}" for name, own in members.items()))
    work.run.note(parts={name: list(own) for name, own in members.items()})
    folder = work.run.folder / "tiles"
    images = TileImages(tiles, folder, settings.model.input_px, settings.cache_mib)
    cohort = MultimagSlides(manifest, tiles, whole, split, folder, images)
    return Looked(cohort, [*cut_identity(work, cutting), plain(split)])
