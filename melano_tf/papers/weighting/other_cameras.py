"""How the best cell of `--preset ham10000` holds up where another camera took the pictures: judged images changed."""

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from melano_tf.evaluation.interval import Interval
from melano_tf.evaluation.multiclass_metrics import multiclass_metrics
from melano_tf.evaluation.repeated_split_intervals import (
    MEAN_AUC,
    JudgedSplit,
    split_intervals,
    split_mean_auc,
)
from melano_tf.papers.settings_values import resampled
from melano_tf.papers.shared_figures import saved
from melano_tf.papers.shared_tables import show, whose
from melano_tf.papers.shell import Work
from melano_tf.papers.weighting.best_cell_parts import best_stem
from melano_tf.papers.weighting.cell_answers import answers_frame, with_metadata
from melano_tf.papers.weighting.cohort import WeightingImages, split_name
from melano_tf.papers.weighting.settings import RECIPE, WeightingSettings
from melano_tf.papers.weighting.tables import NO_CELLS
from melano_tf.papers.weighting.trunk_transfer import transfer_of
from melano_tf.phantoms.skin.other_cameras import CHANGES, changed
from melano_tf.reports.figures import blank_figure
from melano_tf.reports.published_numbers import load_published
from melano_tf.reports.tables import Table, metric_table
from melano_tf.runs.predictions import probabilities
from melano_tf.runs.settings_digest import seed_for
from melano_tf.training.fit import write_frame
from melano_tf.training.steps import traced

AS_IS = "as photographed"
SHOWN = ("Acc", "BAcc", MEAN_AUC)
DRAWN = {"Acc": ("accuracy", "#0072b2", "o"), "BAcc": ("balanced accuracy", "#d55e00", "s")}


def cameras_name(fold: int) -> str:
    """Name of the step that judges a fold's best cell on changed images."""
    return f"train/best-fold-{fold}-cameras"


def cameras_depend_on(settings: WeightingSettings) -> dict[str, Any]:
    """All that the changed images depend on, beside the fold and its model."""
    strengths = {name: change.strengths for name, change in CHANGES.items()}
    return {"images": transfer_of(settings).camera_images, "changes": strengths, "seed": settings.seed}


def judge_cameras(work: Work, fold: int) -> list[Path]:
    """Ask a fold's saved best cell about judged images as they are, and in each change and strength; one file."""
    cohort, stem = work.value("cohort"), best_stem(fold)
    places = chosen(work.value(split_name(fold)).judge, transfer_of(work.settings).camera_images, _seed(work, fold))
    model = keras.saving.load_model(work.path("models", f"{stem}.keras"), compile=False)
    forward, batch = traced(functools.partial(model, training=False)), work.settings.training.batch
    told = cohort.told(places) if transfer_of(work.settings).metadata else None
    frames = []
    for name, strength in (("", 0.0), *((name, each) for name, one in CHANGES.items() for each in one.strengths)):
        batches = pictures(cohort, places, name, strength, _seed(work, fold), batch)
        asked = (
            with_metadata(each, told, np.arange(start, start + len(each)))
            for start, each in zip(range(0, len(places), batch), batches, strict=True)
        )
        said = np.concatenate([np.asarray(forward(each), np.float64) for each in asked])
        frames.append(answers_frame(cohort, places, said).assign(change=name, strength=strength))
    return [write_frame(_file(work, fold), pd.concat(frames, ignore_index=True))]


def chosen(judged: np.ndarray, count: int, seed: int) -> np.ndarray:
    """At most `count` of the judged images' places, drawn, ascending."""
    return np.sort(np.random.default_rng(seed).permutation(judged)[:count])


def pictures(
    cohort: WeightingImages, places: np.ndarray, name: str, strength: float, seed: int, batch: int
) -> Iterator[np.ndarray]:
    """Stored images, float32 (B, px, px, 3), changed by the camera `name` ("": as they are)."""
    rows = cohort.cache.rows(cohort.names(places))
    for start in range(0, len(rows), batch):
        own = cohort.cache.pixels(rows[start : start + batch])
        if name:
            whose_draws = zip(own, places[start : start + batch].tolist(), strict=True)
            own = np.stack([changed(picture, name, strength, (seed, place)) for picture, place in whose_draws])
        yield own.astype(np.float32)


def _seed(work: Work, fold: int) -> int:
    return seed_for(work.settings.seed, "cameras", str(fold))


def _file(work: Work, fold: int) -> Path:
    return work.path("cameras", f"{best_stem(fold)}.parquet")


def camera_folds(work: Work) -> list[int]:
    """The folds whose best cells were asked."""
    return [fold for fold in transfer_of(work.settings).folds_of_best() if work.has(cameras_name(fold))]


def by_camera(work: Work) -> dict[tuple[str, float], list[JudgedSplit]]:
    """{(change, strength): what was said of each fold's images}; ("", 0): as photographed."""
    found: dict[tuple[str, float], list[JudgedSplit]] = {}
    for fold in camera_folds(work):
        frame = pd.read_parquet(_file(work, fold))
        for name, strength in frame[["change", "strength"]].drop_duplicates().itertuples(index=False):
            own = frame[(frame["change"] == name) & (frame["strength"] == strength)]
            split = JudgedSplit(own["target"].to_numpy(), probabilities(own), own["group"].tolist())
            found.setdefault((name, strength), []).append(split)
    return found


@dataclass(frozen=True)
class Measured:
    """The best cell by (change, strength); ("", 0): as photographed.

    Attributes:
        metrics: of each fold.
        around: intervals of their means, by lesion.
    """

    metrics: Mapping[tuple[str, float], Sequence[Mapping[str, float]]]
    around: Mapping[tuple[str, float], Mapping[str, Interval]]


def measured(work: Work) -> Measured:
    """What the table and the figure show; resampled once for both."""

    def measure() -> Measured:
        classes, drawn, found = work.value("cohort").classes, resampled(work.settings), by_camera(work)
        return Measured(
            {key: [multiclass_metrics(one.y, one.scores) for one in splits] for key, splits in found.items()},
            {
                key: split_intervals(splits, classes, **drawn) | {MEAN_AUC: split_mean_auc(splits, **drawn)}
                for key, splits in found.items()
            },
        )

    return work.alone("cameras", [work.identity(cameras_name(fold)) for fold in camera_folds(work)], measure)


def named(name: str, strength: float) -> str:
    """A row of the table."""
    return CHANGES[name].named(strength) if name else AS_IS


def write_cameras(work: Work) -> list[Path]:
    """cameras: the best cell where another camera took the judged images, by change and strength."""
    found = measured(work)
    frame = metric_table(
        {named(*key): folds for key, folds in found.metrics.items()},
        load_published("weighting"),
        NO_CELLS,
        published_as={},
        metrics=SHOWN,
        intervals={named(*key): one for key, one in found.around.items()},
    )
    folds, limit = camera_folds(work), transfer_of(work.settings).camera_images
    notes = (
        whose(RECIPE, work.settings),
        f"The saved best cell of fold{'s' * (len(folds) != 1)} {', '.join(map(str, folds))}, asked about at most "
        f"{limit:,} judged images a fold, the same in each row; none of them trained it or chose its decision.",
        "The stored images are changed, one change at a time; which way the white balance goes is drawn for each.",
    )
    table = Table(
        "The best cell where another camera took the pictures",
        frame,
        notes,
        "How accuracy holds up as pictures become less like those it was trained on.",
        models_down=True,
        unit="lesions",
    )
    return show(work, "cameras", table)


def draw_cameras(work: Work) -> list[Path]:
    """Accuracy and balanced accuracy over each change's strength, below a judged image at its strongest."""
    folds = camera_folds(work)
    if not folds:
        work.say("no figure of other cameras: no best cell was asked about changed images")
        return []
    cohort, seed = work.value("cohort"), _seed(work, folds[0])
    place = chosen(work.value(split_name(folds[0])).judge, transfer_of(work.settings).camera_images, seed)[:1]
    examples = {
        name: next(pictures(cohort, place, name, one.strengths[-1], seed, 1))[0].astype(np.uint8)
        for name, one in CHANGES.items()
    }
    data = (
        "PHANTOM images" if not work.settings.table else f"fold{'s' * (len(folds) != 1)} {', '.join(map(str, folds))}"
    )
    figure = camera_figure(measured(work), examples, f"The best cell and other cameras ({data})")
    return saved(work, "cameras", figure)


def camera_figure(found: Measured, examples: Mapping[str, np.ndarray], title: str) -> Figure:
    """A column a change: a picture at its strongest, and below it the means over folds with their intervals.

    Args:
        found: of all changes.
        examples: {change: uint8 (h, w, 3)}.
        title: of the figure.
    """
    figure = blank_figure(2.3 * len(examples) + 0.8, 4.6)
    axes = figure.subplots(2, len(examples), squeeze=False)
    for column, (name, picture) in enumerate(examples.items()):
        above, below = axes[:, column]
        above.imshow(picture)
        above.set_axis_off()
        above.set_title(named(name, CHANGES[name].strengths[-1]), fontsize=8)
        keys = [("", 0.0), *((name, strength) for strength in CHANGES[name].strengths)]
        for metric, (words, colour, marker) in DRAWN.items():
            means = np.array([np.mean([fold[metric] for fold in found.metrics[key]]) for key in keys])
            ends = np.array([(found.around[key][metric].low, found.around[key][metric].high) for key in keys])
            bars = np.clip(np.stack([means - ends[:, 0], ends[:, 1] - means]), 0, None)
            below.errorbar(range(len(keys)), means, bars, color=colour, marker=marker, capsize=2, label=words)
        below.set_xticks(range(len(keys)), ["as is", *(f"{one:g}" for one in CHANGES[name].strengths)], fontsize=8)
        below.set_ylim(0, 1.02)
        below.grid(alpha=0.3)
        below.tick_params(axis="y", labelsize=8, labelleft=column == 0)
    figure.legend(*axes[1, 0].get_legend_handles_labels(), fontsize=8, loc="outside lower center", ncols=len(DRAWN))
    figure.suptitle(title, fontsize=11)
    return figure
