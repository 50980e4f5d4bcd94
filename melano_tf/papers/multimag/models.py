"""The tile classifiers: trained on the training part, stopped on the validation part, judged on the test part."""

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import log_softmax

from melano_tf.models.classifier_head import logits_of
from melano_tf.models.seanet import build_source
from melano_tf.papers.alike_trainings import train
from melano_tf.papers.multimag.settings import ModelSettings, MultimagSettings
from melano_tf.papers.multimag.tasks import Task, judged_tiles, planned_tasks, task_tiles
from melano_tf.papers.plan import Load
from melano_tf.papers.shell import Work
from melano_tf.papers.slide_steps import slide_groups
from melano_tf.pipelines.tile_batches import TileBatches, predict_batches, shown_tiles
from melano_tf.runs.judgements import JudgedModel
from melano_tf.runs.predictions import predictions
from melano_tf.runs.settings_digest import plain, seed_for
from melano_tf.runs.sidecar import Sidecar
from melano_tf.splits.disjoint_sides import Sides
from melano_tf.splits.training_validation_test import PARTS
from melano_tf.training.early_stopping import EarlyStopping
from melano_tf.training.fed_cases import Fed
from melano_tf.training.fit import Frames, Network, Training, by_gradient
from melano_tf.training.inference import predict
from melano_tf.training.losses import categorical_crossentropy, prior_loss
from melano_tf.training.optimizers import make_optimizer

KEYS = ["slide_id", "patient_id", "label", "part", "magnification", "tile", "target", "quota"]


@dataclass(frozen=True)
class TaskTraining:
    """A finished model: its task, its file, and its predictions.

    Predictions (`runs.predictions`) have one row for every tile of the validation and the test slides, and add
    slide_id, patient_id, label, magnification, tile, and quota (bool: among the tiles that the task's quota left).
    """

    task: Task
    backbone: str
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


def judged_models(settings: MultimagSettings) -> list[JudgedModel]:
    """Every task's models, those of the first network first."""
    facts: dict[str, Any] = {"unit": "tiles", "only": "quota", "same": ("grid",)}
    return [
        JudgedModel(
            f"{task.name}, {place} network", (f"{model_name(task, backbone)}.parquet",), task.class_names, **facts
        )
        for place, backbone in zip(("first", "second"), settings.model.backbones, strict=False)
        for number in range(1, 5)
        for task in planned_tasks(number, settings)
    ]


def initial_weights(model: ModelSettings, backbone: str) -> str:
    """Initial weights of a backbone; a file given is the first one's, the others then take ImageNet's."""
    of_all = backbone == model.backbones[0] or model.weights in ("imagenet", "none")
    return model.weights if of_all else "imagenet"


def depends_on(settings: MultimagSettings, backbone: str) -> dict[str, Any]:
    """All that a model depends on, beside the tiles and the content of the initial weights.

    Only what this model uses, so that another list of backbones re-trains nothing.
    """
    used = replace(settings.model, backbones=(backbone,), weights="")
    return {"model": used, "augment": settings.augment, "seed": settings.seed}


def train_model(work: Work, task_step: str, backbone: str) -> list[Path]:
    """Train one backbone on one task, and predict all tiles of its validation and test slides.

    The training ends when the validation loss has not improved for `patience` epochs; the best epoch counts.
    """
    settings, cohort, task = work.settings, work.value("cohort"), work.value(task_step)
    used, stem = settings.model, model_name(task, backbone)
    seed, tiles = seed_for(settings.seed, stem), task_tiles(task, cohort.tiles, settings.seed)
    training, validation = (tiles[tiles["part"] == part].reset_index(drop=True) for part in PARTS[:2])
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
    shown = np.bincount(training["target"].to_numpy()[batches.order(0)], minlength=len(task.classes))
    stretch = max(1, math.ceil(used.least_steps / (used.epochs * batches.steps_per_epoch)))
    epochs = used.epochs * stretch
    fitting = pd.concat([training, validation], ignore_index=True)

    def ending(network: Network, fed: Fed) -> EarlyStopping:
        def validate() -> float:
            batches = predict_batches(validation, cohort.folder, used.input_px, used.batch, cohort.images)
            shown = fed.chose(batches)
            return STOPPING[used.stopping_loss](validation["target"].to_numpy(), predict(network.forward, shown))

        return EarlyStopping(network.saved, validate, epochs, used.patience * stretch)

    def judge(network: Network) -> tuple[Frames, Sidecar]:
        judged = judged_tiles(task, cohort.whole, tiles)
        # From the store, not from memory: a slide of 40x has many thousands of tiles.
        probability = predict(network.answer, predict_batches(judged, cohort.folder, used.input_px, used.batch))
        tile = judged["slide_id"] + "/" + judged["magnification"] + "/" + judged["tile"].astype(str)
        rows = judged[KEYS].assign(case=tile, group=judged["patient_id"])
        table = predictions(rows, probability, task.class_names, threshold=settings.evaluation.threshold)
        return {f"{stem}.parquet": table}, sidecar(settings, task, backbone)

    described = Training(
        stem=stem,
        seed=seed,
        epochs=epochs,
        build=lambda: build(used, backbone, len(task.classes), seed),
        batches=batches,
        sides=Sides(slide_groups(work), *(cohort.slides(own) for own in (*cohort.split.folds, cohort.split.test))),
        step=by_gradient(tile_loss),
        judge=judge,
        prior=prior_loss(shown),
        ending=ending,
        alike=(backbone, len(task.classes)),
        shown=shown_tiles(fitting, cohort.folder, used.input_px, used.batch, cohort.images),
    )
    return train(work, described)


def training_load(settings: MultimagSettings, task: Task, backbone: str) -> Load:
    """What a training costs, of as many tiles as the paper takes; of random weights: nothing is fetched to know it."""
    used, caps, names = replace(settings.model, weights="none"), settings.caps, settings.grid.names
    taken = {
        1: caps.separate[names.index(task.magnifications[0])] if task.table == 1 else 0,
        2: sum(caps.mixed),
        3: caps.melanoma + caps.nevus,
        4: len(task.classes) * caps.nevi,
    }[task.table]
    share = 1 - settings.split.test_share - settings.split.validation_share
    build_it = functools.partial(build, used, backbone, len(task.classes), 0)
    most, least = round(share * taken), used.least_steps
    return Load(backbone, build_it, used.epochs, used.batch, "tiles", share, most, least=least)


def build(used: ModelSettings, backbone: str, classes: int, seed: int) -> Network:
    """Backbone, global average pooling, one dense layer with softmax: a network that has a CAM (section 4.3)."""
    model = build_source(
        backbone,
        used.input_px,
        seanet=False,
        head="gap",
        weights=initial_weights(used, backbone),
        freeze=used.freeze,
        dropout=used.dropout,
        seed=seed,
        classes=classes,
    )
    optimizer = make_optimizer(used.optimizer, used.learning_rate, epsilon=used.adam_epsilon)
    return Network(logits_of(model), optimizer, model)


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


def sidecar(settings: MultimagSettings, task: Task, backbone: str) -> Sidecar:
    """What predict needs to know of a model, but for what is settled after its training (its companions)."""
    return Sidecar(
        kind="multimag",
        classes=task.class_names,
        input_px=settings.model.input_px,
        preprocessing={
            "grid": plain(settings.grids()),
            "store": plain(settings.store),
            "magnifications": list(task.magnifications),
            "colour": "RGB, 0 to 255",
            **slide_rule(settings),
        },
        **decision(settings, task),
        run={"configuration": model_name(task, backbone), "trained_on": "training part"},
    )


def slide_rule(settings: MultimagSettings) -> dict[str, Any]:
    """`aggregation` and `top` of a sidecar's preprocessing: how predict makes a slide's score of its tiles'."""
    return {"aggregation": settings.evaluation.aggregation, "top": settings.evaluation.top}


def decision(settings: MultimagSettings, task: Task) -> dict[str, Any]:
    """`threshold` and `threshold_from` of a sidecar: of two classes as set, of three none."""
    if len(task.class_names) != 2:
        return {"threshold": None, "threshold_from": "none: the most probable class is called"}
    return {"threshold": settings.evaluation.threshold, "threshold_from": "fixed beforehand (the paper gives none)"}
