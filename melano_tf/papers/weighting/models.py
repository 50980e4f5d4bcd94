"""One training of the grid: its network, sample weights, learning rate, and the images that it is judged on."""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from melano_tf.evaluation.multiclass_metrics import multiclass_metrics
from melano_tf.models.classifier_head import logits_of
from melano_tf.models.hierarchical_classifier import build_flat, build_hierarchical
from melano_tf.models.taxonomy import Taxonomy
from melano_tf.papers.image_steps import image_groups
from melano_tf.papers.shell import Work
from melano_tf.papers.weighting.cell_answers import judge, sidecar_of
from melano_tf.papers.weighting.cohort import WeightingImages, split_name
from melano_tf.papers.weighting.settings import GAMMAS, WeightingSettings
from melano_tf.papers.weighting.training_grid import Cell, weight_log
from melano_tf.pipelines.augment import AugmentSettings
from melano_tf.pipelines.image_batches import ImageBatches, shown_images
from melano_tf.pipelines.image_crops import CroppedBatches
from melano_tf.runs.atomic_files import atomic, read_json, write_json
from melano_tf.runs.predictions import probabilities, read_predictions
from melano_tf.runs.settings_digest import plain, seed_for
from melano_tf.runs.sidecar import Sidecar
from melano_tf.splits.disjoint_sides import Sides
from melano_tf.splits.inner_holdout import HoldOut, inner_holdout
from melano_tf.training.fed_cases import Fed, record_choice, record_path
from melano_tf.training.fit import Network, Prepared, Training, by_gradient, fit, optimise, prepare
from melano_tf.training.hierarchy_loss import path_focal_loss
from melano_tf.training.optimizers import make_optimizer
from melano_tf.training.sample_weights import (
    Strategy,
    StrategyBatches,
    WeightLog,
    curriculum,
    focal_loss,
    strategy_prior,
)
from melano_tf.training.scheduled_learning_rate import ScheduledStep
from melano_tf.training.steps import LossFn, Step


@dataclass(frozen=True)
class GridTraining:
    """A finished training.

    Attributes:
        cell: which it is.
        model: its file.
        gamma: of its focal loss; 0 for cross-entropy.
        predictions: of the judged images (`runs.predictions`), with image_id.
    """

    cell: Cell
    model: Path
    gamma: float
    predictions: pd.DataFrame

    @property
    def probabilities(self) -> np.ndarray:
        """Of each class, float64 (n, C)."""
        return probabilities(self.predictions)


def step_name(cell: Cell) -> str:
    """Name of a training's step."""
    return f"train/{cell.name}"


def gamma_name(cell: Cell) -> str:
    """Name of the step that chooses gamma for a training's focal loss."""
    return f"gamma/{cell.pair}"


def start_name(cell: Cell, for_gamma: bool) -> str:
    """Name of the step that makes a training's warm start; another one for those that choose gamma."""
    return f"warm/{cell.pair}-gamma" if for_gamma else f"warm/{cell.network}-split-{cell.split}"


def network_of(settings: WeightingSettings, taxonomy: Taxonomy, cell: Cell) -> dict[str, Any]:
    """All that every training of a network depends on, beside images and the content of the initial weights."""
    left_out = ("weights", "lstm_units", "embedding") if cell.network == "flat" else ("weights",)
    layers = {name: value for name, value in plain(settings.network).items() if name not in left_out}
    return {
        "network": [cell.network, layers],
        "taxonomy": None if cell.network == "flat" else taxonomy.decisions,
        "epsilon": settings.training.adam_epsilon,
        "batch": settings.training.batch,
        "augment": settings.augment,
        "seed": settings.seed,
    }


def start_depends_on(settings: WeightingSettings, taxonomy: Taxonomy, cell: Cell, for_gamma: bool) -> dict[str, Any]:
    """All that a warm start depends on, beside its images and the content of the initial weights."""
    warm = [settings.training.warm_epochs, settings.training.warm_rate]
    held = {"hold_out": settings.splits.hold_out} if for_gamma else {}
    return network_of(settings, taxonomy, cell) | {"warm": warm} | held


def depends_on(settings: WeightingSettings, taxonomy: Taxonomy, cell: Cell) -> dict[str, Any]:
    """All that a training's result depends on, beside its images, warm start, chosen gamma and initial weights."""
    training, sgd = settings.training, cell.optimizer == "sgd"
    return network_of(settings, taxonomy, cell) | {
        "optimizer": [cell.optimizer, rate_of(settings, cell)],
        "momentum": training.momentum if sgd else None,
        "epsilon": None if sgd else training.adam_epsilon,
        "schedule": [epochs_of(settings, cell), list(training.decay_at), training.decay],
        "strategy": cell.strategy(settings, settings.chosen_gamma() or 1.0),
    }


def gamma_depends_on(settings: WeightingSettings, taxonomy: Taxonomy, cell: Cell) -> dict[str, Any]:
    """All that the choice of gamma depends on, beside its images, warm start and initial weights."""
    return depends_on(settings, taxonomy, cell) | {"gammas": GAMMAS, "hold_out": settings.splits.hold_out}


def epochs_of(settings: WeightingSettings, cell: Cell) -> int:
    """Epochs of a training."""
    return settings.training.flat_epochs if cell.network == "flat" else settings.training.hierarchical_epochs


def rate_of(settings: WeightingSettings, cell: Cell) -> float:
    """Initial learning rate of a training."""
    return settings.training.adam_rate if cell.optimizer == "adam" else settings.training.sgd_rate


def gamma_of(work: Work, cell: Cell) -> float:
    """gamma of a training's loss; 0 for cross-entropy."""
    fixed = work.settings.chosen_gamma()
    if cell.loss == "cel" or fixed is not None:
        return 0.0 if cell.loss == "cel" else float(fixed)
    return float(read_json(work.path("gamma", f"{cell.pair}.json"))["gamma"])


def trained(work: Work, cell: Cell) -> GridTraining:
    """A finished training and its predictions, from its files."""

    def read() -> GridTraining:
        table = read_predictions(work.path("predictions", f"{cell.name}.parquet"))
        return GridTraining(cell, work.path("models", f"{cell.name}.keras"), gamma_of(work, cell), table)

    return work.once(step_name(cell), read)


def train_cell(work: Work, cell: Cell) -> list[Path]:
    """Do one training, and judge its split at the last epoch."""
    settings, split = work.settings, work.value(split_name(cell.split))
    strategy = cell.strategy(settings, gamma_of(work, cell))
    sides = sides_of(work, split.train, judged=split.judge, after=stands_on(work, cell, False))
    training = training_of(work, cell, strategy, sides, start_of(work, cell, False))
    shared = shared_network(work, cell, training)
    return fit_cell(
        work, cell, training, shared, lambda: judge(settings, work.value("cohort"), shared.network.answer, split.judge)
    )


def fit_cell(
    work: Work, cell: Cell, training: Training, shared: Prepared, ask: Callable[[], pd.DataFrame]
) -> list[Path]:
    """Do one training of the grid with a network that others share; returns its files.

    Args:
        cell, training: what is trained.
        shared: the network.
        ask: () -> what it then says of the images that its split judges, as `answers_frame`.
    """
    settings = work.settings
    strategy = cell.strategy(settings, gamma_of(work, cell))

    def logged(step: Step, network: Network) -> Step:
        scheduled = decayed(settings, cell, step, network)
        if not settings.log_weights or not work.run.writes:
            return scheduled
        return WeightLog(scheduled, work.scratch / "weights", settings.log_weights)

    def judged(_: Network) -> tuple[dict[str, pd.DataFrame], Sidecar]:
        return {f"{cell.name}.parquet": ask()}, sidecar_of(work, cell, strategy)

    files = fit(work.run, replace(training, around=logged, judge=judged), work.scratch, shared)
    work.run.keep(work.scratch / "weights", weight_log(work.run.folder, cell.name))
    return files


def warm_up(work: Work, cell: Cell, for_gamma: bool) -> list[Path]:
    """Make the weights that every training of one network on one split starts from.

    Not in the paper: where there are no ImageNet weights, a few epochs of plain cross-entropy with Adam on the split's
    own training part stand in for them, so that what follows shows the strategies and not who finds a way out of the
    start.

    Args:
        cell: whose network and split.
        for_gamma: without the training lesions that choose its gamma.
    """
    settings, start = work.settings.training, cell.start
    split, stem = work.value(split_name(cell.split)), warm_stem(cell, for_gamma)
    places, held = choosing(work, cell)[:2] if for_gamma else (split.train, split.train[:0])
    training = replace(
        training_of(work, start, Strategy(), sides_of(work, places, held, split.judge)),
        stem=stem,
        epochs=settings.warm_epochs,
        around=lambda step, network: ScheduledStep(step, network.optimizer, settings.warm_rate, (), 1.0),
    )
    network, history = optimise(work.run, training, work.scratch, shared_network(work, start, training))
    path = work.path(f"{start_name(cell, for_gamma)}.npz")
    with atomic(path) as temporary:
        np.savez(temporary, *network.trained.get_weights())
    return [path, history.write(work.path("history", f"{stem}.csv")), record_path(work.run, stem)]


def choose_gamma(work: Work, cell: Cell) -> list[Path]:
    """Choose gamma for the focal losses of one network, optimiser and split: the best BAcc on an inner hold-out.

    The plain focal loss is trained with each of `GAMMAS` on the training lesions that are not held out; of equals the
    smallest gamma wins. The judged lesions have no say.

    Args:
        cell: the training with the plain focal loss.
    """
    settings, (fitting, held, hold_out) = work.settings, choosing(work, cell)
    start, scores, records = start_of(work, cell, True), {}, []
    judged = work.value(split_name(cell.split)).judge
    sides = sides_of(work, fitting, held, judged, stands_on(work, cell, True))
    stems = {gamma: f"{gamma_stem(cell)}-{gamma:g}" for gamma in GAMMAS}
    after = dict.fromkeys(stems.values(), "")
    choice = Fed(gamma_stem(cell), sides_of(work, fitting[:0], held, judged, after), None)
    for gamma in GAMMAS:
        training = training_of(work, cell, cell.strategy(settings, gamma), sides, start)
        training = replace(training, stem=stems[gamma])
        shared = shared_network(work, cell, training)
        optimise(work.run, training, work.scratch / f"{gamma:g}", shared)
        found = judge(settings, work.value("cohort"), shared.network.answer, held, choice.chose)
        records.append(record_path(work.run, training.stem))
        scores[f"{gamma:g}"] = multiclass_metrics(found["target"].to_numpy(), probabilities(found))["BAcc"]
    best = max(GAMMAS, key=lambda gamma: (scores[f"{gamma:g}"], -gamma))
    table = work.path("gamma", f"{cell.pair}.json")
    write_json(table, {"gamma": best, "BAcc": scores, "chosen_on": hold_out.words("lesions")})
    return [table, *records, record_choice(work.run, choice)]


def warm_stem(cell: Cell, for_gamma: bool) -> str:
    """As the files of a warm start are called."""
    return start_name(cell, for_gamma).replace("/", "-")


def gamma_stem(cell: Cell) -> str:
    """As the record of a choice of gamma is called."""
    return gamma_name(cell).replace("/", "-")


def stands_on(work: Work, cell: Cell, for_gamma: bool) -> dict[str, str]:
    """The trainings that one of a cell stands on, for `Sides.after`."""
    names = [warm_stem(cell, for_gamma)] if work.settings.training.warm_epochs else []
    chosen = not for_gamma and cell.loss != "cel" and work.settings.chosen_gamma() is None
    return dict.fromkeys([*names, *([gamma_stem(cell)] if chosen else [])], "")


def sides_of(
    work: Work,
    places: np.ndarray,
    held: Sequence[int] | np.ndarray = (),
    judged: Sequence[int] | np.ndarray = (),
    after: Mapping[str, str] | None = None,
) -> Sides:
    """Who has which part, from places in the cohort."""
    names = work.value("cohort").records["image_id"].to_numpy()
    cases = [names[np.asarray(rows, np.int64)].tolist() for rows in (places, held, judged)]
    divided = "--allow-leaks" if work.settings.allow_leaks else ""
    return Sides(image_groups(work), cases[0], cases[1], cases[2], after or {}, divided)


def choosing(work: Work, cell: Cell) -> tuple[np.ndarray, np.ndarray, HoldOut]:
    """Training images of a split that are trained on to choose gamma, those that choose it, and how they were drawn."""
    settings, places = work.settings, work.value(split_name(cell.split)).train
    records = work.value("cohort").records.iloc[places]
    groups, seed = records["group"].tolist(), seed_for(settings.seed, "gamma", cell.pair)
    hold_out = inner_holdout(groups, records["label"].tolist(), settings.splits.hold_out, seed)
    held = hold_out.mask(groups)
    return places[~held], places[held], hold_out


def training_of(
    work: Work, cell: Cell, strategy: Strategy, sides: Sides, start: Sequence[np.ndarray] | None = None
) -> Training:
    """A training of a cell's network; every strategy sees the same images in one order.

    Args:
        cell, strategy: what is trained, and with which sample weights.
        sides: who has which part; the images to train on among them.
        start: the weights of a warm start; None: the network's initial ones.
    """
    settings, cohort = work.settings, work.value("cohort")
    places = np.flatnonzero(cohort.records["image_id"].isin(list(sides.trains)))
    taxonomy, counts = cohort.taxonomy, cohort.counts(places)
    batches = training_batches(settings, cohort, cell.split, places)
    flat = cell.network == "flat"
    loss: LossFn = focal_loss if flat else path_focal_loss(taxonomy.path_matrix(), taxonomy.children)
    return Training(
        stem=cell.name,
        seed=seed_for(settings.seed, "network", cell.network),
        epochs=epochs_of(settings, cell),
        build=functools.partial(build, settings, taxonomy, cell),
        batches=StrategyBatches(batches, strategy, counts, cohort.classes),
        sides=sides,
        step=by_gradient(loss, weights_fn=curriculum),
        prior=strategy_prior(strategy, counts),
        around=functools.partial(decayed, settings, cell),
        start=start,
        shown=shown_images(cohort.cache, cohort.names(places), settings.network.input_px, settings.training.batch),
    )


def start_of(work: Work, cell: Cell, for_gamma: bool) -> list[np.ndarray] | None:
    """The weights of a warm start; None where there is none."""
    if not work.settings.training.warm_epochs:
        return None
    with np.load(work.path(f"{start_name(cell, for_gamma)}.npz")) as file:
        return [file[key] for key in file.files]


def shared_network(work: Work, cell: Cell, training: Training) -> Prepared:
    """The network of a cell with its optimiser, traced once for all their trainings; one stands in memory at a time.

    A strategy is data of the batch and the learning rate a variable, so the trace fits whatever is trained.

    Raises:
        InputError: the network cannot be built, or its initial weights cannot be had.
    """
    return work.alone("network", (cell.network, cell.optimizer), lambda: prepare(work.run, training))


def build(settings: WeightingSettings, taxonomy: Taxonomy, cell: Cell) -> Network:
    """A network with its initial weights, and its optimiser.

    What is trained gives logits: of classes (B, C), or of decisions (B, D). What is saved gives (B, C) class
    probabilities.
    """
    chosen, training = settings.network, settings.training
    layers: dict[str, Any] = {
        **{name: getattr(chosen, name) for name in ("backbone", "input_px", "dropout", "ratio", "kernel", "weights")},
        "seed": seed_for(settings.seed, "network", cell.network),
    }
    if cell.network == "flat":
        leaves, report = build_flat(classes=len(taxonomy.classes), **layers)
        trains = logits_of(leaves)
    else:
        tree, report = build_hierarchical(taxonomy, units=chosen.lstm_units, embedding=chosen.embedding, **layers)
        trains, leaves = tree.training, tree.leaves
    momentum = training.momentum if cell.optimizer == "sgd" else 0.0
    optimizer = make_optimizer(
        cell.optimizer, rate_of(settings, cell), momentum, nesterov=momentum > 0, epsilon=training.adam_epsilon
    )
    said = f"{report.tensors_loaded} tensors from {report.weights}" if report.tensors_loaded else ""
    return Network(trains, optimizer, leaves, said)


def decayed(settings: WeightingSettings, cell: Cell, step: Step, network: Network) -> ScheduledStep:
    """A step with the learning rate of section 4.3."""
    training = settings.training
    return ScheduledStep(step, network.optimizer, rate_of(settings, cell), training.decay_at, training.decay)


def training_batches(
    settings: WeightingSettings, cohort: WeightingImages, split: int, places: np.ndarray
) -> CroppedBatches:
    """Training images of a split, cropped at random, flipped, changed in colour (section 4.3)."""
    seed = seed_for(settings.seed, "batches", str(split))
    stored = settings.store.stored_px
    whole = ImageBatches(
        cohort.cache, cohort.names(places), cohort.targets(places), stored, settings.training.batch, seed
    )
    chosen = settings.augment
    changes = AugmentSettings(flip=chosen.flip, brightness=chosen.brightness, hue=chosen.hue)
    return CroppedBatches(whole, settings.network.input_px, chosen.smallest_crop, changes, seed)
