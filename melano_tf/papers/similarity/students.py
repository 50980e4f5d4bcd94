"""Attention transfer: the baseline and the students, trained and judged on one partition (figure 4, Tables 6 to 11)."""

import contextlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd

from melano_tf.errors import InputError
from melano_tf.models.attention_transfer import (
    TransferSettings,
    build_classifier,
    build_embedding,
    distillation,
    transfer,
)
from melano_tf.models.logits import logits_of
from melano_tf.papers.checks import weights_key
from melano_tf.papers.similarity.clusters import inference, preprocessing
from melano_tf.papers.similarity.cohort import Cohort
from melano_tf.papers.similarity.edges import Edges
from melano_tf.papers.similarity.partition import WORDS, Parts
from melano_tf.papers.similarity.settings import BASELINE, SimilaritySettings
from melano_tf.pipelines.image_batches import ImageBatches
from melano_tf.training.checkpoint import weights_sha256
from melano_tf.training.inference import predict
from melano_tf.training.loop import GradientStep, LoopSettings, Watch, train
from melano_tf.training.losses import prior_loss
from melano_tf.training.optimizers import make_optimizer
from melano_tf.training.progress import bar_over_epochs
from melano_tf.training.runtime import strategy
from melano_tf.workspace import Run, Sidecar, atomic, plain, seed_for

KIND = "similarity"
UNDECIDED = 0.5  # a sidecar has a threshold; the most probable of eight classes needs none
LossFn = Callable[[Mapping[str, Any], Any], dict[str, Any]]


@dataclass(frozen=True)
class Student:
    """Which network: the layers whose attention it copied (none: the baseline), and the partition.

    Attributes:
        name: "baseline", or the combination as the tables call it, "1+2".
        layers: of it.
        split: "cluster" or "lesion".
    """

    name: str
    layers: tuple[int, ...]
    split: str

    @property
    def stem(self) -> str:
        """As files call it, for example "layers-1-2-lesion"."""
        what = self.name if self.name == BASELINE else f"layers-{self.name.replace('+', '-')}"
        return f"{what}-{self.split}"


@dataclass(frozen=True)
class Judged:
    """A finished student.

    Attributes:
        key: of its step.
        model: its file.
        predictions: one row an image outside the training: image_id, source, group, part ("validation", "HAM test",
            …), target, p0, p1, … (probabilities).
    """

    key: str
    model: Path
    predictions: pd.DataFrame

    def of(self, part: str) -> pd.DataFrame:
        """The rows of one part."""
        return self.predictions[self.predictions["part"] == part].reset_index(drop=True)


def probabilities(rows: pd.DataFrame) -> np.ndarray:
    """(n, C) of rows of predictions, float64."""
    names = [str(name) for name in rows if re.fullmatch(r"p\d+", str(name))]
    return rows[names].to_numpy(np.float64)


def wanted_students(settings: SimilaritySettings) -> list[Student]:
    """Every network that the tables need: of each partition the baseline first, then the combinations."""
    combinations = {BASELINE: (), **settings.chosen_combinations()}
    return [Student(name, layers, split) for split in settings.chosen_splits() for name, layers in combinations.items()]


def check_pair(settings: SimilaritySettings, classes: int) -> None:
    """Teacher and student fit together, to be known before the teacher is trained.

    Raises:
        InputError: their layers differ in size.
    """
    network = settings.network
    if network.teacher == network.student:
        return
    student, _ = build_classifier(network.student, network.input_px, classes)
    teacher, _ = build_embedding(network.teacher, network.input_px, settings.cluster.embedding)
    for layers in settings.chosen_combinations().values():
        transfer(student, teacher, TransferSettings(layers=layers))


def train_student(
    run: Run,
    settings: SimilaritySettings,
    cohort: Cohort,
    edges: Edges,
    parts: Parts,
    which: Student,
    teacher: tuple[str, Path],
    baseline: Judged | None = None,
) -> Judged:
    """Train one network on the training part and ask it about the others; the last epoch is judged.

    Every network of a partition starts from the same weights and sees the same batches: only the teaching differs.

    Args:
        teacher: (key, file) of the frozen teacher.
        baseline: of the same partition, where its probabilities are distilled.
    """
    model_path = run.path("models", f"{which.stem}.keras")
    table, history = run.path("predictions", f"{which.stem}.parquet"), run.path("history", f"{which.stem}.csv")

    def work(scratch: Path) -> list[Path]:
        model = fit(run, settings, cohort, edges, parts, which, teacher[1], baseline, scratch)
        with atomic(table) as temporary:
            judge(settings, cohort, edges, parts, which.split, model).to_parquet(temporary)
        with atomic(model_path) as temporary:
            model.save(temporary)
        sidecar = student_sidecar(run, settings, cohort, which, weights_sha256(model)).write(model_path)
        return [model_path, sidecar, table, history]

    chosen = settings.transfer
    taught = {"teacher": teacher[0], "weight": chosen.weight} if which.layers else {}
    if which.layers and chosen.distillation and baseline is not None:
        taught |= {"baseline": baseline.key, "distillation_loss": [chosen.distillation, chosen.temperature]}
    inputs = {
        "cohort": cohort.key,
        "edges": edges.key,
        "partition": parts.key,
        "network": [settings.network.student, settings.network.input_px],
        "weights": weights_key(settings.network.student, settings.network.weights),
        "student": [which.layers, which.split, taught],
        "training": [chosen.epochs, chosen.batch, chosen.learning_rate, chosen.adam_epsilon],
        "augment": settings.augment,
        "seed": settings.seed,
    }
    key = run.step(f"train/{which.stem}", {name: plain(value) for name, value in inputs.items()}, work)
    return Judged(key, model_path, pd.read_parquet(table))


def fit(
    run: Run,
    settings: SimilaritySettings,
    cohort: Cohort,
    edges: Edges,
    parts: Parts,
    which: Student,
    teacher: Path,
    baseline: Judged | None,
    scratch: Path,
) -> keras.Model:
    """Build and train one network; a killed training goes on from its checkpoint in `scratch`."""
    network, chosen = settings.network, settings.transfer
    seed = seed_for(settings.seed, "student", which.split)
    keras.utils.set_random_seed(seed)
    devices = strategy(settings.mirror)
    with devices.scope() if devices else contextlib.nullcontext():
        student, report = build_classifier(
            network.student, network.input_px, len(cohort.classes), network.weights, seed=seed
        )
        frozen = load_frozen(teacher) if which.layers else None
        taught = transfer(student, frozen, TransferSettings(layers=which.layers, weight=chosen.weight))
        loss_fn = taught.loss_fn
        if which.layers and chosen.distillation and baseline is not None:
            told = logits_of(load_frozen(baseline.model))
            loss_fn = also_distilled(loss_fn, told, chosen.distillation, chosen.temperature)
        optimizer = make_optimizer("adam", chosen.learning_rate, epsilon=chosen.adam_epsilon)
    if report.tensors_loaded:
        run.say(f"{which.stem}: {report.tensors_loaded} tensors from {report.weights}")
    rows = parts.rows(which.split, "training")
    batches = ImageBatches(
        edges.cache,
        parts.records["image_id"].to_numpy()[rows].tolist(),
        parts.records["target"].to_numpy()[rows],
        network.input_px,
        chosen.batch,
        seed,
        augment=settings.augment,
    )
    step = GradientStep(taught.model, optimizer, loss_fn, strategy=devices)
    # A student's loss is more than its cross-entropy, so that the prior's says nothing of it.
    shown = np.bincount(parts.records["target"].to_numpy()[rows])
    watch = None if which.layers else Watch(which.stem, prior_loss(shown), run.say)
    with bar_over_epochs(which.stem, chosen.epochs, batches.steps_per_epoch) as progress:
        history = train(
            step, batches, LoopSettings(chosen.epochs, watch=watch), scratch, taught.model, optimizer, progress=progress
        )
    history.write(run.path("history", f"{which.stem}.csv"))
    run.keep_logs(scratch, which.stem)
    return student


def load_frozen(path: Path) -> keras.Model:
    """A trained network that learns no more.

    Raises:
        InputError: the file is damaged.
    """
    try:
        model = keras.saving.load_model(path)
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read as a model ({error}); remove its step to train it again") from None
    model.trainable = False
    return model


def also_distilled(loss_fn: LossFn, baseline: keras.Model, weight: float, temperature: float) -> LossFn:
    """A loss plus the distillation of a frozen classifier, given by its logits."""

    def both(batch: Mapping[str, Any], outputs: Any) -> dict[str, Any]:
        told = baseline(batch["x"], training=False)
        softened = weight * distillation(outputs["output"], told, temperature)
        return {**loss_fn(batch, outputs), "distillation_loss": softened}

    return both


def judge(
    settings: SimilaritySettings, cohort: Cohort, edges: Edges, parts: Parts, split: str, model: keras.Model
) -> pd.DataFrame:
    """Probabilities of every image outside the training part; see `Judged`."""
    part = parts.part(split)
    rows = np.flatnonzero((part != "training").to_numpy())
    records = parts.records.iloc[rows]
    found = predict(model, inference(settings, edges.cache, records["image_id"].tolist())()).astype(np.float64)
    table = records[["image_id", "source", "group", "target"]].reset_index(drop=True)
    table["part"] = part.iloc[rows].to_numpy()
    return table.assign(**{f"p{index}": found[:, index] for index in range(len(cohort.classes))})


def student_sidecar(run: Run, settings: SimilaritySettings, cohort: Cohort, which: Student, weights: str) -> Sidecar:
    """What predict needs to know of a student."""
    return Sidecar(
        kind=KIND,
        classes=cohort.classes,
        input_px=settings.network.input_px,
        preprocessing=preprocessing(settings),
        threshold=UNDECIDED,
        threshold_from="not used: the most probable class is the answer",
        run={
            "configuration": which.name if which.name == BASELINE else f"attention of layers {which.name}",
            "trained_on": f"the training part {WORDS[which.split]}, black edges removed where clusters have them",
            "weights_sha256": weights,
            "recipe": run.recipe,
            "folder": str(run.folder),
            **{name: run.settings[name] for name in ("preset", "seed", "table")},
        },
    )
