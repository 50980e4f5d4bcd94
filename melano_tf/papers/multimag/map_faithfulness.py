"""How faithful the maps of Figure 2 are: measured on the test part, beside maps that know nothing of the network."""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd

from melano_tf.evaluation.bootstrap import group_draws
from melano_tf.evaluation.bootstrap import mean_interval as interval_of_mean
from melano_tf.evaluation.interval import Interval
from melano_tf.explain.cam import METHODS
from melano_tf.explain.faithfulness import (
    Curve,
    centre_maps,
    deletion_curve,
    energy_share,
    insertion_curve,
    pointing_hits,
    random_maps,
    randomised,
    tissue_maps,
    truth_in_tile,
)
from melano_tf.papers.multimag.cohort import MultimagSlides
from melano_tf.papers.multimag.figures import SAME, explained_models, tile_images
from melano_tf.papers.multimag.models import TaskTraining
from melano_tf.papers.multimag.settings import MultimagSettings
from melano_tf.papers.multimag.tables import network, notes_on
from melano_tf.papers.shared_tables import show
from melano_tf.papers.shell import Work
from melano_tf.phantoms.slides.truth import read_truth
from melano_tf.reports.explanation_figures import curve_figure
from melano_tf.reports.figures import save_figure
from melano_tf.reports.published_numbers import load_published
from melano_tf.reports.tables import Table, interval_table
from melano_tf.runs.predictions import decided
from melano_tf.runs.settings_digest import seed_for
from melano_tf.training.inference import predict
from melano_tf.training.steps import traced

SHARES = (0.05, 0.75)  # a tile that is nearly all or nearly no lesion cannot tell a good map from a bad one
RANDOM_WEIGHTS = "weights randomised"
WORDS = (
    "Do the maps show what the network used? Beside a random map, a centre-biased one, the tissue, and a network with "
    "random weights."
)
BASELINES = ("random map", "centre", "tissue mask")


@dataclass(frozen=True)
class Measured:
    """What is measured of one model: its tiles, the maps by name, the truth (None: not known)."""

    tiles: pd.DataFrame
    images: np.ndarray
    maps: Mapping[str, np.ndarray]
    truth: np.ndarray | None
    probability: Callable[[np.ndarray], np.ndarray]


def measure_maps(work: Work) -> list[Path]:
    """Measure the maps of Figure 2's models; returns the files written: a table a backbone, and a figure
    where any is asked for."""
    settings, cohort, folder = work.settings, work.value("cohort"), work.run.folder
    written: list[Path] = []
    for one in explained_models(work, "the maps are not measured"):
        rows, found = measured_tiles(one, settings, cohort)
        if not len(rows):
            work.say(f"the maps of {one.backbone} are not measured: no rightly classified test tile is fit for it")
            continue
        measured = explained_maps(one, rows, settings, cohort)
        frame, curves = faithfulness(measured, settings)
        title = f"How faithful the maps are: {network(one.backbone, settings)} ({one.backbone}) at {one.task.title}"
        notes = (*notes_on(0, work), *found, *reading_notes(measured, settings))
        written += show(work, f"faithfulness-{one.backbone}", Table(title, frame, notes, WORDS, part="test"))
        if not settings.chosen_figures():
            continue
        figure = curve_figure(curves, f"{title}, {len(rows)} tiles")
        written.append(save_figure(folder / "figures" / f"faithfulness-{one.backbone}.png", figure))
    return written


def measured_tiles(
    one: TaskTraining, settings: MultimagSettings, cohort: MultimagSlides
) -> tuple[pd.DataFrame, list[str]]:
    """Rightly classified test tiles whose maps are measured, by a fixed rule, and a line on what was passed over.

    Of phantoms those of which the planted cells cover 5 to 75 %; then at most `measured`, spread evenly over the tiles
    in their order.
    """
    rows = one.tested()
    rows = rows.assign(called=decided(rows, settings.evaluation.threshold))
    rows = rows[rows["called"] == rows["target"]]
    tiles = rows.merge(cohort.tiles.drop(columns=["patient_id", "label", "part", "magnification"]), on=SAME)
    notes = [f"{len(tiles)} rightly classified test tiles."]
    truths = truth_files(cohort, settings)
    if truths and len(tiles):
        share = np.zeros(len(tiles))
        for slide_id, part in tiles.groupby("slide_id"):
            boxes = part[["x", "y", "w0", "h0"]].to_numpy(float)
            share[part.index] = read_truth(truths[str(slide_id)]).shares(boxes)
        fit = (share >= SHARES[0]) & (share <= SHARES[1])
        notes = [
            f"{len(tiles)} rightly classified test tiles, of which planted cells cover {SHARES[0]:.0%} to "
            f"{SHARES[1]:.0%} of {int(fit.sum())}; the others are passed over."
        ]
        tiles = tiles[fit].reset_index(drop=True)
    most = settings.show.measured
    if len(tiles) > most:
        tiles = tiles.iloc[np.linspace(0, len(tiles) - 1, most).round().astype(int)].reset_index(drop=True)
    return tiles, [*notes, f"Measured: {len(tiles)} of them."]


def truth_files(cohort: MultimagSlides, settings: MultimagSettings) -> dict[str, Path]:
    """The exact truth of each phantom slide; none of the user's own."""
    if settings.slides is not None:
        return {}
    slides = cohort.manifest[["slide_id", "path"]].to_dict("records")
    return {row["slide_id"]: Path(row["path"]).with_suffix(".truth.npz") for row in slides}


def explained_maps(
    one: TaskTraining, tiles: pd.DataFrame, settings: MultimagSettings, cohort: MultimagSlides
) -> Measured:
    """Maps of every method, of the same methods with randomised weights, and the baselines."""
    model = keras.saving.load_model(one.model)
    images = tile_images(tiles, cohort).astype(np.float32)
    called = tiles["called"].to_numpy()
    seed = seed_for(settings.seed, "faithfulness", one.task.name, one.backbone)
    shuffled = randomised(model, seed)
    maps = {name: _maps(method, model, images, called) for name, method in METHODS.items()}
    maps |= {f"{name}, {RANDOM_WEIGHTS}": _maps(method, shuffled, images, called) for name, method in METHODS.items()}
    size = (images.shape[1], images.shape[2])
    _, height, width, _ = model.get_layer("refined").output.shape
    baselines = (random_maps(len(images), size, (height, width), seed), centre_maps(len(images), size))
    maps |= dict(zip(BASELINES, (*baselines, tissue_maps(images)), strict=True))
    truth = None
    if truths := truth_files(cohort, settings):
        truth = np.zeros((len(tiles), *size), bool)
        for slide_id, part in tiles.groupby("slide_id"):
            whole = read_truth(truths[str(slide_id)])
            for place, box in zip(part.index, part[["x", "y", "w0", "h0"]].to_numpy(float).tolist(), strict=True):
                truth[int(place)] = truth_in_tile(whole.mask, whole.mask_px, tuple(box), size)

    forward = traced(functools.partial(model, training=False))

    def probability(x: np.ndarray) -> np.ndarray:
        batches = ({"x": x[start : start + 32]} for start in range(0, len(x), 32))
        return predict(forward, batches)[np.arange(len(x)), called]

    return Measured(tiles, images, maps, truth, probability)


def _maps(method: Any, model: keras.Model, images: np.ndarray, called: np.ndarray) -> np.ndarray:
    """Maps of each tile's called class, (n, h, w)."""
    result = np.zeros(images.shape[:3], np.float32)
    for label in np.unique(called):
        rows = called == label
        result[rows] = method(model, images[rows], int(label)).maps
    return result


def faithfulness(measured: Measured, settings: MultimagSettings) -> tuple[pd.DataFrame, dict[str, dict[str, Curve]]]:
    """The table of all measures, a column a map, with intervals by patient; and the curves."""
    patients = measured.tiles["patient_id"].tolist()
    columns: dict[str, dict[str, Interval]] = {}
    curves: dict[str, dict[str, Curve]] = {"deletion": {}, "insertion": {}}
    for name, maps in measured.maps.items():
        found: dict[str, np.ndarray] = {}
        if measured.truth is not None:
            found["energy inside the cells"] = energy_share(maps, measured.truth)
            found["pointing game"] = pointing_hits(maps, measured.truth)
        if RANDOM_WEIGHTS not in name:
            for kind, curve_of in (("deletion", deletion_curve), ("insertion", insertion_curve)):
                curve = curve_of(measured.probability, measured.images, maps, settings.show.steps)
                curves[kind][name] = curve
                found[f"{kind} area"] = curve.area
        columns[name] = {row: mean_interval(values, patients, settings) for row, values in found.items()}
    rows = list(dict.fromkeys(row for found in columns.values() for row in found))
    frame = interval_table(columns, load_published("multimag"), 0, published_as={}, metrics=rows)
    return frame, curves


def mean_interval(values: np.ndarray, patients: Sequence[str], settings: MultimagSettings) -> Interval:
    """The mean over tiles where it is defined, with its interval by patient."""
    evaluation = settings.evaluation
    index, draws = group_draws(patients, evaluation.repeats, seed_for(settings.seed, "intervals"))
    return interval_of_mean(values, index, draws, evaluation.level, share=False)


def reading_notes(measured: Measured, settings: MultimagSettings) -> list[str]:
    """What the rows mean, and what cannot be measured on these slides."""
    notes = []
    if measured.truth is None:
        notes.append("Where the cells really are is known of phantoms only; here only the network itself is asked.")
    else:
        notes.append(
            "Energy: share of the map's sum on the planted cells (they cover "
            f"{measured.truth.mean():.3f} of these tiles: what an even map would get). Pointing game: share of tiles "
            "whose highest place lies on them."
        )
    empty = {name: int((maps.max(axis=(1, 2)) <= 0).sum()) for name, maps in measured.maps.items()}
    if any(empty.values()):
        words = ", ".join(f"{count} of {name}" for name, count in empty.items() if count)
        notes.append(f"Maps that are zero everywhere and left out of energy and pointing: {words}.")
    notes.append(
        "Deletion (lower is better) and insertion (higher): mean probability of the class while, in "
        f"{settings.show.steps} steps, the map's highest pixels are blurred away or given back."
    )
    return notes
