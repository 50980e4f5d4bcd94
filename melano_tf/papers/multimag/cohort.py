"""The first steps: slides, tiles at four magnifications, and who trains, validates and tests (sections 2 and 3)."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from melano_tf.evaluation.parts import PARTS, split_parts
from melano_tf.papers.choices import workers
from melano_tf.papers.multimag.settings import MultimagSettings
from melano_tf.papers.multimag.tasks import wanted_magnifications
from melano_tf.pipelines.slide_steps import cut_slides, draw_phantoms
from melano_tf.pipelines.tiles import TileImages
from melano_tf.pipelines.wanted import OUTLINED, WHOLE
from melano_tf.slides.cohort import read_manifest, same_file_groups
from melano_tf.slides.phantom_diagnoses import draw_diagnoses
from melano_tf.specs import load_spec
from melano_tf.splits import Split, assert_no_leaks
from melano_tf.workspace import Run, digest, plain, seed_for

Say = Callable[[str], None]


@dataclass(frozen=True)
class Cohort:
    """The slides that brought tiles, their tiles, and the split of their patients.

    Attributes:
        manifest: one row a slide: slide_id, path, patient_id, label, annotation, mpp, part.
        tiles: one row a tile inside those slides' outlines, see `melano_tf.slides.magnifications`, with `part`: what is
            trained on and what the tables of tiles judge.
        whole: the same of every tile of the validation and test slides, also outside their outlines: what a slide is
            judged by, as `predict` does, which knows no outlines.
        outcomes: one row a slide that was cut: what became of it, and why.
        split: patients of the test, and (training, validation) as its folds.
        folder: where the tiles lie.
        images: the pixels of `tiles`, decoded once and shared by all trainings where they fit into memory.
        key: key of the slides, of how they are cut, and of the split.
    """

    manifest: pd.DataFrame
    tiles: pd.DataFrame
    whole: pd.DataFrame
    outcomes: pd.DataFrame
    split: Split
    folder: Path
    images: TileImages
    key: str


def prepare_slides(run: Run, settings: MultimagSettings, say: Say) -> pd.DataFrame:
    """The validated manifest of the user's slides, or of phantom slides drawn now."""
    path = settings.slides
    if path is None:
        seed = seed_for(settings.seed, "phantoms")
        path = draw_phantoms(run, draw_diagnoses, settings.phantom, seed, workers(settings))
    manifest = read_manifest(path, load_spec("multimag"))
    counts = manifest["label"].value_counts()
    say(
        f"slides    {len(manifest)} of {manifest['patient_id'].nunique()} patients: "
        + ", ".join(f"{counts.get(label, 0)} {label}" for label in load_spec("multimag")["labels"])
        + f" ({'phantoms' if settings.slides is None else path})"
    )
    return manifest


def cut_tiles(run: Run, settings: MultimagSettings, manifest: pd.DataFrame, say: Say) -> Cohort:
    """Divide the patients, and cut their slides into the tiles that what is asked for can use.

    The patients are divided first (Figure 3), so that who trains and who tests does not depend on the tables asked for.
    Training slides give the tiles inside their outlines, the others all with enough tissue.
    """
    split = divide(settings, manifest)
    parts = dict(zip(PARTS, (*split.folds, split.test), strict=True))
    part = manifest["patient_id"].map({patient: name for name, members in parts.items() for patient in members})
    usable = wanted_magnifications(settings)
    wanted = [
        dict.fromkeys(
            (name for name in settings.grid.names if name in usable[label]), OUTLINED if own == PARTS[0] else WHOLE
        )
        for label, own in zip(manifest["label"], part, strict=True)
    ]
    grids, processes = settings.grids(), workers(settings)
    asked = manifest.assign(wanted=pd.Series(wanted, index=manifest.index, dtype=object))
    tiles, outcomes, key = cut_slides(run, asked, grids, settings.store, settings.annotation, processes, say)
    manifest = manifest.assign(part=part)
    manifest = manifest[manifest["slide_id"].isin(tiles["slide_id"].unique())].reset_index(drop=True)
    tiles = tiles.assign(part=tiles["slide_id"].map(manifest.set_index("slide_id")["part"]))
    whole = tiles[tiles["part"] != PARTS[0]].reset_index(drop=True)
    tiles = tiles[tiles["outlined"]].reset_index(drop=True)
    counts = tiles["magnification"].value_counts()
    say(f"tiles     {len(tiles)}: " + ", ".join(f"{counts.get(name, 0)} at {name}" for name in settings.grid.names))
    say("patients  " + ", ".join(f"{len(members)} {name}" for name, members in parts.items()))
    left_out = outcomes[outcomes["status"] != "done"].to_dict("records")
    run.note(parts={name: list(members) for name, members in parts.items()}, excluded=left_out)
    folder = run.folder / "tiles"
    images = TileImages(tiles, folder, settings.model.input_px, settings.cache_mib)
    return Cohort(manifest, tiles, whole, outcomes, split, folder, images, digest([key, plain(split)]))


def split_slides(settings: MultimagSettings, manifest: pd.DataFrame) -> Split:
    """The patients of slides in three parts."""
    return split_parts(
        manifest["patient_id"].tolist(),
        manifest["label"].tolist(),
        test_share=settings.split.test_share,
        validation_share=settings.split.validation_share,
        seed=seed_for(settings.seed, "split"),
    )


def divide(settings: MultimagSettings, manifest: pd.DataFrame) -> Split:
    """Divide the patients; no patient and no slide file stands on two sides."""
    split = split_slides(settings, manifest)
    assert_no_leaks(split, manifest, same_file_groups(manifest))
    return split
