"""The tile classifiers: trained on the training part, stopped on the validation part, judged on the test part."""

import contextlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd
from scipy.special import log_softmax

from melano_tf.models.logits import logits_of
from melano_tf.models.seanet import build_source
from melano_tf.papers.checks import weights_key
from melano_tf.papers.multimag.cohort import Cohort
from melano_tf.papers.multimag.settings import ModelSettings, MultimagSettings
from melano_tf.papers.multimag.tasks import Task, judged_tiles, task_tiles
from melano_tf.pipelines.tiles import TileBatches, predict_batches
from melano_tf.training.checkpoint import weights_sha256
from melano_tf.training.early import EarlyStopping
from melano_tf.training.inference import predict
from melano_tf.training.loop import GradientStep, History, LoopSettings, Watch, train
from melano_tf.training.losses import categorical_crossentropy, prior_loss
from melano_tf.training.optimizers import make_optimizer
from melano_tf.training.progress import bar_over_epochs
from melano_tf.training.runtime import strategy
from melano_tf.workspace import Run, Sidecar, atomic, digest, plain, seed_for

KEYS = ["slide_id", "patient_id", "label", "part", "magnification", "tile", "target", "quota"]


@dataclass(frozen=True)
class Trained:
    """A finished model: its task, the key of its step, its file, and its predictions.

    Predictions have one row for every tile of the validation and the test slides: slide_id, patient_id, label, part,
    magnification, tile, target (class index), quota (bool: among the tiles that the task's quota left), and p0, p1, …
    (probability of each class).
    """

    task: Task
    backbone: str
    key: str
    model: Path
    predictions: pd.DataFrame

    def tested(self) -> pd.DataFrame:
        """Predictions of the test part's tiles, as many as the task's quota left."""
        rows = self.tested_whole()
        return rows[rows["quota"]].reset_index(drop=True)

    def tested_whole(self) -> pd.DataFrame:
        """Predictions of all tiles of the test part's slides, as `predict` judges them."""
        return self.predictions[self.predictions["part"] == "test"].reset_index(drop=True)


def model_name(task: Task, backbone: str) -> str:
    """As files and steps call the model of a task, for example "melanoma-40x-resnet50"."""
    return f"{task.name}-{backbone}"


def initial_weights(model: ModelSettings, backbone: str) -> str:
    """Initial weights of a backbone; a file given is the first one's, the others then take ImageNet's."""
    of_all = backbone == model.backbones[0] or model.weights in ("imagenet", "none")
    return model.weights if of_all else "imagenet"


def train_task(
    run: Run, settings: MultimagSettings, cohort: Cohort, task: Task, backbone: str, companions: Sequence[Task] = ()
) -> Trained:
    """Train one backbone on one task, and predict its validation and test tiles.

    Args:
        companions: tasks whose models of the same backbone judge the slide's other magnifications, for predict.
    """
    stem = model_name(task, backbone)
    model_path, table = run.path("models", f"{stem}.keras"), run.path("predictions", f"{stem}.parquet")
    tiles = task_tiles(task, cohort.tiles, settings.seed)
    judged = judged_tiles(task, cohort.whole, tiles)
    # Only what this model uses, so that another list of backbones re-trains nothing.
    weights = initial_weights(settings.model, backbone)
    used = replace(settings.model, backbones=(backbone,), weights=weights)
    others = {one.name: f"{model_name(one, backbone)}.keras" for one in companions if one != task}

    def work(scratch: Path) -> list[Path]:
        seed = seed_for(settings.seed, stem)
        model = fit(run, settings, cohort, used, task, tiles, seed, scratch, stem)
        # From the store, not from memory: a slide of 40x has many thousands of tiles.
        probability = predict(model, predict_batches(judged, cohort.folder, used.input_px, used.batch))
        found = judged[KEYS].assign(**{f"p{k}": probability[:, k] for k in range(len(task.classes))})
        with atomic(table) as temporary:
            found.to_parquet(temporary)
        with atomic(model_path) as temporary:
            model.save(temporary)
        card = sidecar(run, settings, task, backbone, others, weights_sha256(model)).write(model_path)
        return [model_path, card, table, run.folder / "history" / f"{stem}.csv"]

    inputs = {
        "cohort": cohort.key,
        "tiles": [table_digest(rows) for rows in (tiles, judged)],
        "task": {"classes": task.classes, "magnifications": task.magnifications},
        "quota": {"/".join(cell): most for cell, most in task.quota.items()},
        "model": replace(used, weights=""),
        "weights": weights_key(backbone, weights),
        "augment": settings.augment,
        "seed": settings.seed,
    }
    key = run.step(f"train/{stem}", {name: plain(value) for name, value in inputs.items()}, work)

    def settled(card: Sidecar) -> Sidecar:
        made = {**card.preprocessing, "top": settings.evaluation.top}
        return replace(card, threshold=settings.evaluation.threshold, preprocessing=made, companions=others)

    run.restate(f"train/{stem}", model_path, settled)
    return Trained(task, backbone, key, model_path, pd.read_parquet(table))


def table_digest(tiles: pd.DataFrame) -> str:
    """A key of which tiles stand in a table, in which order and for what; where they are stored does not matter."""
    columns = [name for name in ("slide_id", "magnification", "x", "y", "part", "target", "quota") if name in tiles]
    return digest(pd.util.hash_pandas_object(tiles[columns], index=False).astype(str).tolist())


def fit(
    run: Run,
    settings: MultimagSettings,
    cohort: Cohort,
    used: ModelSettings,
    task: Task,
    tiles: pd.DataFrame,
    seed: int,
    scratch: Path,
    stem: str,
) -> keras.Model:
    """Build and train one classifier; a killed training goes on from its checkpoint in `scratch`.

    The training ends when the validation loss has not improved for `patience` epochs; the best epoch counts.
    """
    [backbone] = used.backbones
    keras.utils.set_random_seed(seed)
    devices = strategy(settings.mirror)
    with devices.scope() if devices else contextlib.nullcontext():
        model = build_classifier(used, backbone, len(task.classes), seed)
        optimizer = make_optimizer(used.optimizer, used.learning_rate, epsilon=used.adam_epsilon)
    training = tiles[tiles["part"] == "training"].reset_index(drop=True)
    validation = tiles[tiles["part"] == "validation"].reset_index(drop=True)
    batches = TileBatches(
        training,
        cohort.folder,
        used.input_px,
        batch=used.batch,
        seed=seed,
        labels=training["target"].to_numpy(),
        instance_dropout="classes" if used.epoch_tiles == "balanced" else 0.0,
        augment=settings.augment,
        images=cohort.images,
    )

    scores = logits_of(model)

    def validate() -> float:
        logits = predict(scores, predict_batches(validation, cohort.folder, used.input_px, used.batch, cohort.images))
        return STOPPING[used.stopping_loss](validation["target"].to_numpy(), logits)

    stretch = max(1, math.ceil(used.least_steps / (used.epochs * batches.steps_per_epoch)))
    epochs = used.epochs * stretch
    early = EarlyStopping(model, validate, epochs, used.patience * stretch)
    step = GradientStep(scores, optimizer, tile_loss, strategy=devices)
    shown = np.bincount(training["target"].to_numpy()[batches.order(0)], minlength=len(task.classes))
    with bar_over_epochs(stem, epochs, batches.steps_per_epoch) as progress:
        history = train(
            step,
            batches,
            LoopSettings(epochs=epochs, watch=Watch(stem, prior_loss(shown), run.say)),
            scratch,
            model,
            optimizer,
            progress=progress,
            epoch_end=early,
            extra_variables=early.variables,
        )
    write_history(run.path("history", f"{stem}.csv"), history, early)
    run.keep_logs(scratch, stem)
    return model


def write_history(path: Path, history: History, early: EarlyStopping) -> None:
    """Give the model its best weights back, and write each epoch's losses with which of them was kept."""
    best, losses = early.restore()
    for record, loss in zip(history, losses, strict=True):
        record["validation_loss"] = loss
        record["kept"] = float(record["epoch"] == best)
    history.write(path)


def build_classifier(used: ModelSettings, backbone: str, classes: int, seed: int) -> keras.Model:
    """Backbone, global average pooling, one dense layer with softmax: a network that has a CAM (section 4.3)."""
    return build_source(
        backbone,
        used.input_px,
        seanet=False,
        head="gap",
        weights=used.weights,
        freeze=used.freeze,
        dropout=used.dropout,
        seed=seed,
        classes=classes,
    )


def tile_loss(batch: Mapping[str, Any], outputs: Any) -> Any:
    """Cross-entropy of each tile over the task's classes."""
    return categorical_crossentropy(batch["y"], outputs)


def balanced_loss(target: np.ndarray, logits: np.ndarray) -> float:
    """Mean over classes of their tiles' mean cross-entropy, so that a frequent class does not rule the early stop."""
    losses = -log_softmax(logits.astype(np.float64), axis=1)[np.arange(len(target)), target]
    return float(np.mean([losses[target == label].mean() for label in np.unique(target)]))


def plain_loss(target: np.ndarray, logits: np.ndarray) -> float:
    """Mean cross-entropy of all tiles, of which a frequent class has more."""
    classes = [target == label for label in np.unique(target)]
    return float(sum(rows.mean() * balanced_loss(target[rows], logits[rows]) for rows in classes))


STOPPING = {"balanced": balanced_loss, "plain": plain_loss}


def sidecar(
    run: Run, settings: MultimagSettings, task: Task, backbone: str, companions: Mapping[str, str], weights: str
) -> Sidecar:
    """What predict needs to know of a model."""
    names = ("preset", "seed", "slides")
    return Sidecar(
        kind="multimag",
        classes=task.class_names,
        input_px=settings.model.input_px,
        preprocessing={
            "grid": plain(settings.grids()),
            "store": plain(settings.store),
            "magnifications": list(task.magnifications),
            "colour": "RGB, 0 to 255",
            "top": settings.evaluation.top,
        },
        threshold=settings.evaluation.threshold,
        threshold_from="fixed beforehand (the paper gives none)",
        run={
            "configuration": model_name(task, backbone),
            "trained_on": "training part",
            "weights_sha256": weights,
            "recipe": run.recipe,
            "folder": str(run.folder),
            **{name: run.settings[name] for name in names},
        },
        companions=companions,
    )
