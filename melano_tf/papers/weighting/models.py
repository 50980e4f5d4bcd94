"""One training of the grid: its sample weights, its learning rate, and the images that it is judged on."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from melano_tf.evaluation.holdout import inner_holdout
from melano_tf.evaluation.multiclass import multiclass_metrics
from melano_tf.papers.checks import weights_key
from melano_tf.papers.weighting.cohort import Cohort, cache_settings
from melano_tf.papers.weighting.grid import Cell, Trainer, Trainers, weight_log
from melano_tf.papers.weighting.settings import GAMMAS, WeightingSettings
from melano_tf.pipelines.augment import AugmentSettings
from melano_tf.pipelines.image_batches import ImageBatches, predict_image_batches
from melano_tf.pipelines.image_crops import CroppedBatches
from melano_tf.training.checkpoint import weights_sha256
from melano_tf.training.loop import History, LoopSettings, Watch, train
from melano_tf.training.progress import bar_over_epochs
from melano_tf.training.weights import Strategy, StrategyBatches, WeightLog, strategy_prior
from melano_tf.workspace import Run, Sidecar, atomic, plain, read_json, seed_for, write_json

KIND = "weighting"
PREFIX = "p_"  # of the columns of predictions that hold a class's probability


@dataclass(frozen=True)
class Trained:
    """A finished training.

    Attributes:
        cell: which it is.
        key: of its step.
        model: its file.
        gamma: of its focal loss; 0 for cross-entropy.
        predictions: one row a judged image: image_id, group, target, and p_<class> for each class in order.
    """

    cell: Cell
    key: str
    model: Path
    gamma: float
    predictions: pd.DataFrame

    @property
    def probabilities(self) -> np.ndarray:
        """Of each class, float64 (n, C)."""
        return probability_columns(self.predictions)


def files_of(run: Run, cell: Cell) -> tuple[Path, Path, Path]:
    """A training's model, predictions and history in the run's folder."""
    return (
        run.path("models", f"{cell.name}.keras"),
        run.path("predictions", f"{cell.name}.parquet"),
        run.path("history", f"{cell.name}.csv"),
    )


def step_name(cell: Cell) -> str:
    """Name of a training's step."""
    return f"train/{cell.name}"


def inputs_of(settings: WeightingSettings, cohort: Cohort, cell: Cell, gamma: float) -> dict[str, Any]:
    """All that a training's result depends on."""
    network, division = settings.network, cohort.divisions[cell.split - 1]
    chosen = {**plain(network), "weights": weights_key(network.backbone, network.weights)}
    if cell.network == "flat":
        chosen = {name: value for name, value in chosen.items() if name not in ("lstm_units", "embedding")}
    training = settings.training
    return {
        "train": cohort.facts(division.train),
        "judge": cohort.facts(division.judge),
        "network": [cell.network, chosen],
        "taxonomy": None if cell.network == "flat" else cohort.taxonomy.decisions,
        "optimizer": [cell.optimizer, training.adam_rate if cell.optimizer == "adam" else training.sgd_rate],
        "momentum": training.momentum if cell.optimizer == "sgd" else None,
        "epsilon": training.adam_epsilon if cell.optimizer == "adam" else None,
        "schedule": [epochs_of(settings, cell), training.batch, list(training.decay_at), training.decay],
        "strategy": plain(cell.strategy(settings, gamma)),
        "warm": [training.warm_epochs, training.warm_rate] if training.warm_epochs else None,
        "augment": plain(settings.augment),
        "seed": settings.seed,
    }


def epochs_of(settings: WeightingSettings, cell: Cell) -> int:
    """Epochs of a training."""
    return settings.training.flat_epochs if cell.network == "flat" else settings.training.hierarchical_epochs


def finished_cell(run: Run, settings: WeightingSettings, cohort: Cohort, cell: Cell, gamma: float) -> bool:
    """Whether this training stands finished, with these settings."""
    name = step_name(cell)
    return run.finished(name, run.key(name, plain(inputs_of(settings, cohort, cell, gamma))))


def train_cell(
    run: Run, settings: WeightingSettings, cohort: Cohort, trainers: Trainers, cell: Cell, gamma: float
) -> Trained:
    """Do one training, unless it is finished, and judge its split at the last epoch."""
    model_path, table, history_path = files_of(run, cell)

    def work(scratch: Path) -> list[Path]:
        division = cohort.divisions[cell.split - 1]
        start = warm_start(run, settings, cohort, trainers, cell, division.train)
        trainer = trainers.of(cell.network, cell.optimizer)
        chosen = cell.strategy(settings, gamma)
        history = fit(
            settings, cohort, trainer, cell, chosen, division.train, scratch, start, settings.log_weights, run.say
        )
        history.write(history_path)
        run.keep_logs(scratch, cell.name)
        run.keep(scratch / "weights", weight_log(run.folder, cell.name))
        with atomic(table) as temporary:
            judge(settings, cohort, trainer, division.judge).to_parquet(temporary)
        with atomic(model_path) as temporary:
            trainer.leaves.save(temporary)
        sidecar = sidecar_of(run, settings, cohort, cell, chosen, weights_sha256(trainer.leaves)).write(model_path)
        return [model_path, sidecar, table, history_path]

    key = run.step(step_name(cell), inputs_of(settings, cohort, cell, gamma), work)
    return Trained(cell, key, model_path, gamma if cell.loss == "fl" else 0.0, pd.read_parquet(table))


def fit(
    settings: WeightingSettings,
    cohort: Cohort,
    trainer: Trainer,
    cell: Cell,
    strategy: Strategy,
    places: np.ndarray,
    scratch: Path,
    start: Sequence[np.ndarray] | None,
    log_every: int = 0,
    say: Callable[[str], None] | None = None,
) -> History:
    """Train from the start, or from the checkpoint in `scratch`; every strategy sees the same images in one order.

    Args:
        settings, cohort, trainer, cell, strategy: what is trained, and how.
        places: the images to train on.
        scratch: of the checkpoint.
        start: weights of a warm start, or None for the network's initial ones.
        log_every: batches between two logs of sample weights; 0: none.
        say: told when the training stands still.
    """
    trainer.reset(start)
    batches = training_batches(settings, cohort, cell.split, places)
    weighted = StrategyBatches(batches, strategy, cohort.counts(places), cohort.classes)
    step = WeightLog(trainer.step, scratch / "weights", log_every) if log_every else trainer.step
    epochs = epochs_of(settings, cell)
    watch = Watch(cell.name, strategy_prior(strategy, cohort.counts(places)), say) if say else None
    with bar_over_epochs(cell.name, epochs, batches.steps_per_epoch) as progress:
        return train(
            step,
            weighted,
            LoopSettings(epochs, watch=watch),
            scratch,
            trainer.training,
            trainer.optimizer,
            progress=progress,
        )


def warm_start(
    run: Run,
    settings: WeightingSettings,
    cohort: Cohort,
    trainers: Trainers,
    cell: Cell,
    places: np.ndarray,
    suffix: str = "",
) -> list[np.ndarray] | None:
    """The weights that every training of one network on one split starts from; None: its initial ones.

    Not in the paper: where there are no ImageNet weights, a few epochs of plain cross-entropy with Adam on the split's
    own training part stand in for them, so that what follows shows the strategies and not who finds a way out of the
    start.

    Args:
        run, settings, cohort, trainers: of the recipe.
        cell: whose network and split.
        places: the images to train on.
        suffix: of the step's name.
    """
    training = settings.training
    if not training.warm_epochs:
        return None
    name = f"{cell.network}-split-{cell.split}{suffix}"
    path = run.path("warm", f"{name}.npz")
    plain_cell = Cell(cell.network, "adam", "cel", "none", cell.split)

    def work(scratch: Path) -> list[Path]:
        trainer = trainers.of(cell.network, "adam")
        trainer.reset()
        trainer.optimizer.learning_rate.assign(training.warm_rate)
        batches = training_batches(settings, cohort, cell.split, places)
        weighted = StrategyBatches(batches, Strategy(), cohort.counts(places), cohort.classes)
        epochs = training.warm_epochs
        watch = Watch(f"warm-{name}", strategy_prior(Strategy(), cohort.counts(places)), run.say)
        with bar_over_epochs(f"warm-{name}", epochs, batches.steps_per_epoch) as progress:
            history = train(
                *(
                    trainer.gradient_step,
                    weighted,
                    LoopSettings(epochs, watch=watch),
                    scratch,
                    trainer.training,
                    trainer.optimizer,
                ),
                progress=progress,
            )
        with atomic(path) as temporary:
            np.savez(temporary, *trainer.training.get_weights())
        return [path, history.write(run.path("history", f"warm-{name}.csv"))]

    inputs = inputs_of(settings, cohort, plain_cell, 1.0)
    used = {key: inputs[key] for key in ("network", "taxonomy", "augment", "seed", "warm", "epsilon")}
    run.step(f"warm/{name}", used | {"train": cohort.facts(places), "batch": training.batch}, work)
    with np.load(path) as file:
        return [file[key] for key in file.files]


def training_batches(settings: WeightingSettings, cohort: Cohort, split: int, places: np.ndarray) -> CroppedBatches:
    """Training images of a split, cropped at random, flipped, changed in colour (section 4.3)."""
    seed = seed_for(settings.seed, "batches", str(split))
    stored = settings.store.stored_px
    whole = ImageBatches(
        cohort.cache, cohort.names(places), cohort.targets(places), stored, settings.training.batch, seed
    )
    chosen = settings.augment
    changes = AugmentSettings(flip=chosen.flip, brightness=chosen.brightness, hue=chosen.hue)
    return CroppedBatches(whole, settings.network.input_px, chosen.smallest_crop, changes, seed)


def judge(settings: WeightingSettings, cohort: Cohort, trainer: Trainer, places: np.ndarray) -> pd.DataFrame:
    """Class probabilities of images; see `Trained`."""
    found = probabilities(settings, cohort, lambda x: trainer.forward({"image": x}).numpy(), places)
    rows = cohort.records[["image_id", "group", "target"]].iloc[places].reset_index(drop=True)
    return rows.assign(**{f"{PREFIX}{name}": found[:, k] for k, name in enumerate(cohort.classes)})


def probability_columns(predictions: pd.DataFrame) -> np.ndarray:
    """Probabilities of each class from a table of predictions, float64 (n, C)."""
    return predictions[[name for name in predictions if str(name).startswith(PREFIX)]].to_numpy(np.float64)


def probabilities(
    settings: WeightingSettings, cohort: Cohort, forward: Callable[[Any], np.ndarray], places: np.ndarray
) -> np.ndarray:
    """What a model says of images, whole and upright, float64 (n, C)."""
    names, px = cohort.names(places), settings.network.input_px
    batches = predict_image_batches(cohort.cache, names, px, settings.training.batch)
    parts = [np.asarray(forward(part["x"].astype(np.float32)), np.float64) for part in batches]
    return np.concatenate(parts) if parts else np.zeros((0, len(cohort.classes)))


def choose_gamma(run: Run, settings: WeightingSettings, cohort: Cohort, trainers: Trainers, cell: Cell) -> float:
    """gamma for the focal losses of one network, optimiser and split: the best BAcc on an inner hold-out.

    The plain focal loss is trained with each of `GAMMAS` on the training lesions that are not held out; of equals the
    smallest gamma wins. The judged lesions have no say.
    """
    pair = f"{cell.network}-{cell.optimizer}-split-{cell.split}"
    table = run.path("gamma", f"{pair}.json")
    places = cohort.divisions[cell.split - 1].train
    groups = cohort.records["group"].to_numpy()[places].tolist()
    labels = cohort.records["label"].to_numpy()[places].tolist()
    plain_cell = Cell(cell.network, cell.optimizer, "fl", "none", cell.split)

    def work(scratch: Path) -> list[Path]:
        hold_out = inner_holdout(groups, labels, settings.splits.hold_out, seed_for(settings.seed, "gamma", pair))
        held = hold_out.mask(groups)
        start = warm_start(run, settings, cohort, trainers, cell, places[~held], "-gamma")
        trainer = trainers.of(cell.network, cell.optimizer)
        scores = {}
        for gamma in GAMMAS:
            strategy = plain_cell.strategy(settings, gamma)
            fit(
                settings,
                cohort,
                trainer,
                plain_cell,
                strategy,
                places[~held],
                scratch / f"{gamma:g}",
                start,
                say=run.say,
            )
            found = judge(settings, cohort, trainer, places[held])
            metrics = multiclass_metrics(found["target"].to_numpy(), probability_columns(found))
            scores[f"{gamma:g}"] = metrics["BAcc"]
        best = max(GAMMAS, key=lambda gamma: (scores[f"{gamma:g}"], -gamma))
        write_json(table, {"gamma": best, "BAcc": scores, "chosen_on": hold_out.words("lesions")})
        return [table]

    inputs = inputs_of(settings, cohort, plain_cell, 1.0) | {"gammas": GAMMAS, "share": settings.splits.hold_out}
    run.step(f"gamma/{pair}", {key: value for key, value in inputs.items() if key != "judge"}, work)
    return float(read_json(table)["gamma"])


def sidecar_of(
    run: Run, settings: WeightingSettings, cohort: Cohort, cell: Cell, strategy: Strategy, weights: str
) -> Sidecar:
    """What predict needs to know of a model."""
    names = ("preset", "seed", "table")
    return Sidecar(
        kind=KIND,
        classes=cohort.classes,
        input_px=settings.network.input_px,
        preprocessing={
            "store": plain(cache_settings(settings.store)),
            "colour": "RGB, 0 to 255",
            "metadata": None,
        },
        threshold=0.0,
        threshold_from="none: the most probable class is called",
        taxonomy=tree_of(cohort) if cell.network == "hierarchical" else None,
        run={
            "configuration": cell.name,
            "strategy": plain(strategy),
            "trained_on": f"training part of split {cell.split}",
            "weights_sha256": weights,
            "recipe": run.recipe,
            "folder": str(run.folder),
            **{name: run.settings[name] for name in names},
        },
    )


def tree_of(cohort: Cohort) -> dict[str, Any]:
    """The taxonomy as nested mappings; a leaf's value is its class, as `Taxonomy.from_mapping` reads it."""
    tree: dict[str, Any] = {}
    tax = cohort.taxonomy
    for name, path in zip(tax.classes, tax.paths, strict=True):
        node = tree
        *above, last = tax.decisions[path[-1]].split("/")
        for part in above:
            node = node.setdefault(part, {})
        node[last] = name
    return tree
