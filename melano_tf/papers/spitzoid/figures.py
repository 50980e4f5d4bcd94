"""Figures 6 to 9: class activation maps of tiles, and maps of slides."""

from collections.abc import Mapping
from pathlib import Path

import keras
import numpy as np
import pandas as pd

from melano_tf.explain.cam import class_activation_map
from melano_tf.papers.shared_figures import saved
from melano_tf.papers.shell import Work
from melano_tf.papers.spitzoid.cohort import SpitzoidSlides
from melano_tf.papers.spitzoid.settings import SpitzoidSettings
from melano_tf.papers.spitzoid.source_model import SourceModel, chosen, judged, source_of, table_2
from melano_tf.papers.spitzoid.target_model import attention_of, target_of
from melano_tf.pipelines.slide_apart import SlideApart
from melano_tf.pipelines.tile_batches import predict_batches
from melano_tf.reports.figures import CamRow, cam_sheet
from melano_tf.reports.slide_maps import tumour_maps, write_slide_maps
from melano_tf.slides.annotations import slide_outlines
from melano_tf.slides.tissue import tissue_mask

CAM_COHORT = 1  # Figures 6 and 7 show tiles of the first validation cohort


def cam_pair(settings: SpitzoidSettings) -> list[SourceModel]:
    """The models of Figures 6 and 7: the plain backbone and SeaNet's, both with GAP."""
    return table_2(settings)[:2]


def draw_maps(work: Work, figures: tuple[int, ...]) -> list[Path]:
    """Figures 8 (tumour probability) and 9 (attention) of test slides, or one of them; returns the files written."""
    settings, cohort = work.settings, work.value("split")
    aggregation, columns = settings.target.aggregation, ["slide_id", "tile"]
    biopsies = target_of(work, aggregation, None).predictions.set_index("slide_id")["probability"]
    tumour = source_of(work, chosen(settings), None).predictions
    tiles = cohort.tiles.merge(tumour[[*columns, "probability"]], on=columns)
    if 9 in figures:
        tiles = tiles.merge(attention_of(work, aggregation, None), on=columns, how="left")
    written = []
    for row in shown_slides(cohort.rows(cohort.manifest, set(cohort.split.test)), settings.maps.slides):
        title = f"{row['slide_id']}: {row['label']}; probability of malignant {biopsies[row['slide_id']]:.3f}"
        title += " (PHANTOM)" if settings.slides is None else ""
        mpp = None if pd.isna(row["mpp"]) else row["mpp"]
        with SlideApart(row["path"], slide_id=row["slide_id"], mpp=mpp) as slide:
            path = row["annotation"]
            outline = slide_outlines(slide, path, settings.annotation).geometry if path else None
            these = tiles[tiles["slide_id"] == row["slide_id"]]
            folder = work.run.folder / "maps"
            tissue = tissue_mask(slide, settings.store.mask_mpp, settings.store.mask_headroom)
            written += write_slide_maps(
                folder, slide, tumour_maps(these, title), outline, settings.maps.thumbnail_mpp, tissue
            )
    return written


def shown_slides(test: pd.DataFrame, count: int) -> list[dict]:
    """Slides that are drawn: alternately malignant and benign, in the order of the manifest, `count` at most."""
    ranked = test.assign(rank=test.groupby("malignant").cumcount())
    ranked = ranked.sort_values(["rank", "malignant"], ascending=[True, False], kind="stable")
    return ranked.head(count).to_dict("records")


def draw_cams(work: Work, number: int) -> list[Path]:
    """Figure 6 or 7: CAMs of the plain backbone against SeaNet's; tiles that both got right, or that it got wrong.

    The tiles are chosen by `chosen_tiles` from the first validation cohort; the models are the two GAP models of
    Table 2 that did not see that cohort.
    """
    settings, cohort, pair = work.settings, work.value("split"), cam_pair(work.settings)
    plain, refined = (judged(work, which, CAM_COHORT) for which in pair)
    rows = chosen_tiles(plain, refined, settings.target.tile_threshold, settings.maps.tiles, wrong=number == 7)
    if rows.empty:
        work.say(f"Figure {number} is not drawn: no tile of validation cohort {CAM_COHORT} is such a case")
        return []
    models = {which.name: keras.saving.load_model(source_of(work, which, CAM_COHORT).model) for which in pair}
    what = "that both got right" if number == 6 else f"that {pair[0].name} got wrong and {pair[1].name} right"
    note = (
        f"Validation cohort {CAM_COHORT}; the surest by mean probability of the true class, at most one a slide"
        if number == 6
        else f"Validation cohort {CAM_COHORT}; where {pair[0].name} was most surely wrong, at most one a slide"
    )
    shown = cam_rows(models, rows, cohort, settings.source.input_px)
    sheet = cam_sheet(shown, f"Figure {number}: tiles {what}", note)
    return saved(work, f"figure{number}", sheet)


def chosen_tiles(plain: pd.DataFrame, refined: pd.DataFrame, threshold: float, count: int, wrong: bool) -> pd.DataFrame:
    """Tiles of Figure 6 (both models right) or 7 (the plain one wrong, the refined one right), by a fixed rule.

    For tumour and for non-tumour tiles: the `count` surest, at most one a slide. Surest means by the mean probability
    that both give the true class or, for Figure 7, by the plain model's probability of the wrong one; ties go by slide
    and tile.

    Args:
        plain, refined: predictions of the same tiles: slide_id, tile, region (0 or 1), probability (of tumour).

    Returns:
        Chosen rows: slide_id, tile, region, plain, refined (probabilities of tumour).
    """
    keys = ["slide_id", "tile", "region"]
    both = plain[[*keys, "probability"]].merge(
        refined[[*keys, "probability"]], on=keys, suffixes=("_plain", "_refined")
    )
    both = both.rename(columns={"probability_plain": "plain", "probability_refined": "refined"})
    truth = both["region"] == 1
    right = {name: (both[name] >= threshold) == truth for name in ("plain", "refined")}
    sure = {name: np.where(truth, both[name], 1 - both[name]) for name in ("plain", "refined")}
    keep = right["refined"] & (~right["plain"] if wrong else right["plain"])
    score = 1 - sure["plain"] if wrong else (sure["plain"] + sure["refined"]) / 2
    ranked = both.assign(score=score)[keep].sort_values(["score", "slide_id", "tile"], ascending=[False, True, True])
    first = ranked.groupby(["region", "slide_id"], sort=False).head(1)
    picked = first.groupby("region", sort=False).head(count)
    return picked.sort_values("region", ascending=False, kind="stable").drop(columns="score").reset_index(drop=True)


def cam_rows(
    models: Mapping[str, keras.Model], rows: pd.DataFrame, cohort: SpitzoidSlides, input_px: int
) -> list[CamRow]:
    """Each chosen tile with each model's CAM of the true class."""
    tiles = rows[["slide_id", "tile"]].merge(cohort.tiles, on=["slide_id", "tile"])
    images = np.concatenate(
        [batch["x"] for batch in predict_batches(tiles, cohort.folder, input_px, 64, cohort.images)]
    )
    result = []
    for row, image in zip(rows.to_dict("records"), images, strict=True):
        answers = {name: class_activation_map(model, image[None], row["region"]) for name, model in models.items()}
        shown = dict(zip(models, (row["plain"], row["refined"]), strict=True))
        captions = {
            name: f"tumour {shown[name]:.3f}" + (" (nothing speaks for the class)" if answer.empty[0] else "")
            for name, answer in answers.items()
        }
        title = f"{'tumour' if row['region'] else 'no tumour'}, {row['slide_id']} tile {row['tile']}"
        result.append(CamRow(title, image, {name: answer.maps[0] for name, answer in answers.items()}, captions))
    return result
