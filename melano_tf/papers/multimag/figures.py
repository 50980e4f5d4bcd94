"""Figures 1 and 2 of the paper: sample tiles, and what the networks look at."""

from collections.abc import Sequence
from pathlib import Path

import keras
import numpy as np
import pandas as pd

from melano_tf.explain.cam import maps_of
from melano_tf.papers.multimag.cohort import MultimagSlides
from melano_tf.papers.multimag.experiments import trained_of
from melano_tf.papers.multimag.models import TaskTraining
from melano_tf.papers.multimag.tables import network
from melano_tf.papers.shared_figures import saved
from melano_tf.papers.shell import Work
from melano_tf.pipelines.slide_apart import SlideApart
from melano_tf.pipelines.tile_batches import predict_batches
from melano_tf.reports.explanation_figures import ExplainedTile, explained_sheet, sample_sheet, thumbnail_box
from melano_tf.runs import journal
from melano_tf.runs.predictions import decided, probability_columns
from melano_tf.runs.settings_digest import seed_for
from melano_tf.specs import load_spec

THUMBNAIL_MPP = 4.0
LARGEST_THUMBNAIL_PX = 1200


def draw_samples(work: Work) -> list[Path]:
    """Figure 1: sample tiles of each diagnosis at each magnification; returns the file written.

    The tiles are drawn by the run's seed, from as many slides as possible; of those the ones with most of the outline.
    """
    settings, cohort = work.settings, work.value("cohort")
    rng = np.random.default_rng(seed_for(settings.seed, "figure1"))
    spec = load_spec("multimag")
    samples: dict[str, dict[str, Sequence[np.ndarray]]] = {}
    for label in spec["labels"]:
        samples[label] = {}
        for name in settings.grid.names:
            rows = cohort.tiles[(cohort.tiles["label"] == label) & (cohort.tiles["magnification"] == name)]
            picked = sampled(rows, settings.show.samples, rng)
            samples[label][name] = list(tile_images(picked, cohort)) if len(picked) else []
    note = "Drawn by the seed, one a slide where there are enough; of a slide one of its tiles with most of the outline"
    sheet = sample_sheet(samples, "Figure 1: sample tiles at four magnifications", spec["names"], note)
    return saved(work, "figure1", sheet)


def sampled(rows: pd.DataFrame, count: int, rng: np.random.Generator) -> pd.DataFrame:
    """`count` tiles at most: of each slide, in random order, the first of its tiles with most of the outline; if there
    are too few slides, their next ones."""
    if not len(rows):
        return rows
    slides = {slide: place for place, slide in enumerate(rng.permutation(rows["slide_id"].unique()))}
    share = rows["tumour"].fillna(1.0)
    ranked = rows.assign(share=share.round(1), slide=rows["slide_id"].map(slides), luck=rng.permutation(len(rows)))
    ranked = ranked.sort_values(["share", "luck"], ascending=[False, True])
    ranked = ranked.assign(turn=ranked.groupby("slide").cumcount()).sort_values(["turn", "slide"], kind="stable")
    return ranked.head(count).drop(columns=["share", "slide", "luck", "turn"])


def tile_images(tiles: pd.DataFrame, cohort: MultimagSlides) -> np.ndarray:
    """The stored tiles of these rows at the networks' input size, uint8 (n, px, px, 3)."""
    batches = predict_batches(tiles.reset_index(drop=True), cohort.folder, cohort.images.input_px, 64, cohort.images)
    return np.concatenate([batch["x"] for batch in batches])


def explained_models(work: Work, what: str) -> list[TaskTraining]:
    """The models of Table 1 at the magnification of Figure 2; where there is none, it is said that `what` is not."""
    wanted = work.settings.show.magnification
    found = [one for one in trained_of(work, 1) if one.task.title == wanted]
    if 1 not in work.settings.trained_tables():
        work.say(f"{what}: neither Table 1 nor Figure 2 is asked for")
    elif not found:
        work.say(f"{what}: Table 1 has no model at {wanted}; see --show.magnification")
    return found


def draw_explained(work: Work) -> list[Path]:
    """Figure 2: a sheet of rightly and one of wrongly classified test tiles for each backbone; returns the files."""
    settings, cohort, written = work.settings, work.value("cohort"), []
    for one in explained_models(work, "Figure 2 is not drawn"):
        model = keras.saving.load_model(one.model)
        for right in (True, False):
            rows = chosen_tiles(one, settings.evaluation.threshold, settings.show.tiles, right)
            name = f"figure2-{'right' if right else 'wrong'}-{one.backbone}"
            if rows.empty:
                work.say(f"{name} is not drawn: no test tile is {'rightly' if right else 'wrongly'} classified")
                journal.remove(work.run.folder / "figures" / f"{name}.png")
                continue
            tiles = rows.merge(cohort.tiles.drop(columns=["patient_id", "label", "part", "magnification"]), on=SAME)
            sheet = explained_sheet(
                explained(model, one, tiles, cohort),
                f"Figure 2: {'rightly' if right else 'wrongly'} classified tiles, {network(one.backbone, settings)}"
                f" ({one.backbone}) at {one.task.title}",
                f"Test part; of each class the surest {'right' if right else 'wrong'} ones, at most one a slide. "
                "Maps are of the class that was called",
            )
            written += saved(work, name, sheet)
    return written


SAME = ["slide_id", "tile"]


def chosen_tiles(one: TaskTraining, threshold: float, count: int, right: bool) -> pd.DataFrame:
    """Test tiles of Figure 2, by a fixed rule: of each class the `count` surest, at most one a slide.

    Surest means by the probability of the class that was called; ties go by slide and tile.

    Args:
        one: a model of two classes.
        threshold: probability of the second class from which on it is called.
        count: tiles a class.
        right: rightly classified ones, or wrongly classified ones.

    Returns:
        Rows of its predictions with `called` (class index) and `sure` (its probability), the second class first.
    """
    rows = one.tested()
    called, columns = decided(rows, threshold), probability_columns(rows)
    sure = np.where(called == 1, rows[columns[1]], rows[columns[0]])
    rows = rows.assign(called=called, sure=sure)
    rows = rows[(rows["called"] == rows["target"]) == right]
    ranked = rows.sort_values(["sure", "slide_id", "tile"], ascending=[False, True, True])
    first = ranked.groupby(["target", "slide_id"], sort=False).head(1)
    picked = first.groupby("target", sort=False).head(count)
    return picked.sort_values("target", ascending=False, kind="stable").reset_index(drop=True)


def explained(
    model: keras.Model, one: TaskTraining, tiles: pd.DataFrame, cohort: MultimagSlides
) -> list[ExplainedTile]:
    """Each tile with its slide and its maps of the class that was called."""
    images = tile_images(tiles, cohort)
    slides = cohort.manifest.set_index("slide_id")
    result = []
    for row, image in zip(tiles.to_dict("records"), images, strict=True):
        where = slides.loc[row["slide_id"]]
        with SlideApart(where["path"], row["slide_id"], None if pd.isna(where["mpp"]) else where["mpp"]) as slide:
            longer = max(size * own for size, own in zip(slide.size, slide.mpp, strict=True))
            mpp = max(THUMBNAIL_MPP, longer / LARGEST_THUMBNAIL_PX)
            thumbnail, box = slide.thumbnail(mpp), thumbnail_box(slide, row, mpp)
        maps, captions = maps_of(model, image, row["called"])
        called = one.task.class_names[row["called"]]
        title = f"{row['label']}, called {called} {row['sure']:.3f}: {row['slide_id']} tile {row['tile']}"
        result.append(ExplainedTile(title, thumbnail, box, image, maps, captions))
    return result
