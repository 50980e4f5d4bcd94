"""Attention transfer: the baseline and the students, trained and judged on one partition (figure 4, Tables 6 to 11)."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd

from melano_tf.errors import InputError, line_of
from melano_tf.models.attention_transfer import (
    TransferSettings,
    build_classifier,
    build_embedding,
    distillation,
    transfer,
)
from melano_tf.models.classifier_head import logits_of
from melano_tf.papers.alike_trainings import train
from melano_tf.papers.image_steps import image_groups
from melano_tf.papers.plan import Load
from melano_tf.papers.shell import Work
from melano_tf.papers.similarity.black_edges import edges_of
from melano_tf.papers.similarity.clusters import (
    ALL_IMAGES,
    BATCH,
    CLUSTERS,
    TEACHER,
    cluster_images,
    inference,
    loaded,
    preprocessing,
)
from melano_tf.papers.similarity.cohort import class_names
from melano_tf.papers.similarity.partition import WORDS, parts_of
from melano_tf.papers.similarity.settings import BASELINE, JUDGED, SimilaritySettings
from melano_tf.pipelines.image_batches import ImageBatches, shown_images
from melano_tf.runs.judgements import JudgedModel
from melano_tf.runs.predictions import VALIDATION, predictions, read_predictions
from melano_tf.runs.settings_digest import seed_for
from melano_tf.runs.sidecar import Sidecar
from melano_tf.splits.disjoint_sides import Sides
from melano_tf.training.fit import Network, Training, by_gradient
from melano_tf.training.inference import predict
from melano_tf.training.losses import prior_loss
from melano_tf.training.optimizers import make_optimizer

KIND = "similarity"
BLIND = "it saw no test image; those of the validation part it saw without their labels"
DIVIDED = {"cluster": "the paper divides by cluster, so that lesions stand on both sides", "lesion": ""}
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

    @property
    def step(self) -> str:
        """Name of the step that trains and judges it."""
        return f"train/{self.stem}"


@dataclass(frozen=True)
class Judged:
    """A finished student.

    Attributes:
        predictions: of the images outside the training (`runs.predictions`), with image_id and source; parts are
            "validation", "HAM test", ….
    """

    predictions: pd.DataFrame

    def of(self, part: str) -> pd.DataFrame:
        """The rows of one part."""
        return self.predictions[self.predictions["part"] == part].reset_index(drop=True)


def wanted_students(settings: SimilaritySettings) -> list[Student]:
    """Every network that the tables need: of each partition the baseline first, then the combinations."""
    combinations = {BASELINE: (), **settings.chosen_combinations()}
    return [Student(name, layers, split) for split in settings.chosen_splits() for name, layers in combinations.items()]


def judged_models(settings: SimilaritySettings) -> list[JudgedModel]:
    """Every network on each test; the validation part has chosen the combination."""
    return [
        JudgedModel(f"{which.stem}: {part}", (f"{which.stem}.parquet",), class_names(), "images", part)
        for which in wanted_students(settings)
        for part in JUDGED
        if part != VALIDATION
    ]


def check_pair(settings: SimilaritySettings) -> None:
    """Teacher and student fit together, to be known before anything is drawn or trained.

    Raises:
        InputError: their layers differ in size.
    """
    network = settings.network
    if network.teacher == network.student:
        return
    student, _ = build_classifier(network.student, network.input_px, len(class_names()))
    teacher, _ = build_embedding(network.teacher, network.input_px, settings.cluster.embedding)
    for layers in settings.chosen_combinations().values():
        transfer(student, teacher, TransferSettings(layers=layers))


def teacher_name(settings: SimilaritySettings, split: str) -> str:
    """Of the files of the teacher of a partition's students: the one that saw all images, or one that is blind."""
    return TEACHER if settings.cluster.sees_test else f"{TEACHER}-blind-{split}"


def train_blind(work: Work, split: str) -> list[Path]:
    """A teacher that never sees the test images of a partition."""
    cohort, parts = work.value("cohort"), parts_of(work)
    tested = parts.records["image_id"][parts.records[f"side_{split}"] == "test"]
    places = cohort.of(work.settings.cluster.sources)
    kept = places[~cohort.records["image_id"].iloc[places].isin(set(tested)).to_numpy()]
    return cluster_images(work, teacher_name(work.settings, split), kept, tested.tolist(), DIVIDED[split])


def is_distilled(settings: SimilaritySettings, which: Student) -> bool:
    """Whether a student also learns from its partition's baseline."""
    return bool(which.layers and settings.transfer.distillation)


def student_depends_on(settings: SimilaritySettings, which: Student) -> dict[str, Any]:
    """All that a student depends on, beside its images, its teachers and the content of the initial weights."""
    chosen = settings.transfer
    told = [chosen.distillation, chosen.temperature] if is_distilled(settings, which) else None
    return {
        "network": [settings.network.student, settings.network.input_px],
        "student": [which.layers, which.split],
        "taught": {"weight": chosen.weight, "distillation": told} if which.layers else None,
        "training": [chosen.epochs, chosen.batch, chosen.learning_rate, chosen.adam_epsilon],
        "augment": settings.augment,
        "seed": settings.seed,
    }


def train_student(work: Work, which: Student) -> list[Path]:
    """Train one network on the training part and ask it about the others; the last epoch is judged.

    Every network of a partition starts from the same weights and sees the same batches: only the teaching differs.
    """
    settings, edges, parts = work.settings, edges_of(work), parts_of(work)
    seed = seed_for(settings.seed, "student", which.split)
    records = parts.records.iloc[parts.rows(which.split, "training")]
    targets = records["target"].to_numpy()
    batches = ImageBatches(
        edges.cache,
        records["image_id"].tolist(),
        targets,
        settings.network.input_px,
        settings.transfer.batch,
        seed,
        augment=settings.augment,
    )
    training = Training(
        stem=which.stem,
        seed=seed,
        epochs=settings.transfer.epochs,
        build=lambda: build(work, which, seed),
        batches=batches,
        sides=sides_of(work, which),
        step=by_gradient(),
        judge=lambda network: ({f"{which.stem}.parquet": judge(work, which.split, network)}, sidecar(settings, which)),
        # A student's loss is more than its cross-entropy, so that the prior's says nothing of it.
        prior=None if which.layers else prior_loss(np.bincount(targets)),
        shown=shown_images(edges.cache, records["image_id"].tolist(), settings.network.input_px, BATCH),
    )
    return train(work, training)


def sides_of(work: Work, which: Student) -> Sides:
    """Who trains and who is judged: as the paper divides them, lesions stand on both sides, and are counted."""
    parts = parts_of(work)
    trains = (parts.part(which.split) == "training").to_numpy()
    names, after = parts.records["image_id"].to_numpy(), {CLUSTERS: ALL_IMAGES}  # by which edges and parts were found
    if which.layers:
        after[teacher_name(work.settings, which.split)] = ALL_IMAGES if work.settings.cluster.sees_test else BLIND
    if is_distilled(work.settings, which):
        after[Student(BASELINE, (), which.split).stem] = ""
    trained, judged = names[trains].tolist(), names[~trains].tolist()
    return Sides(image_groups(work), trained, judged=judged, after=after, divided=DIVIDED[which.split])


def build(work: Work, which: Student, seed: int) -> Network:
    """One network with its initial weights and its optimiser, and the loss with the frozen networks that teach it."""
    settings, chosen = work.settings, work.settings.transfer
    network, models = settings.network, work.run.folder / "models"
    student, report = build_classifier(
        network.student, network.input_px, len(class_names()), network.weights, seed=seed
    )
    frozen = load_frozen(models / f"{teacher_name(settings, which.split)}.keras") if which.layers else None
    taught = transfer(student, frozen, TransferSettings(layers=which.layers, weight=chosen.weight))
    loss = taught.loss_fn
    if is_distilled(settings, which):
        told = logits_of(load_frozen(models / f"{Student(BASELINE, (), which.split).stem}.keras"))
        loss = also_distilled(loss, told, chosen.distillation, chosen.temperature)
    optimizer = make_optimizer("adam", chosen.learning_rate, epsilon=chosen.adam_epsilon)
    return Network(taught.model, optimizer, student, loaded(report), loss)


def student_load(settings: SimilaritySettings, which: Student) -> Load:
    """What a student's training costs; a frozen network that teaches it is asked about every image, too."""
    chosen, network = settings.transfer, settings.network

    def untrained() -> Network:
        student, _ = build_classifier(network.student, network.input_px, len(class_names()), seed=0)
        optimizer = make_optimizer("adam", chosen.learning_rate, epsilon=chosen.adam_epsilon)
        return Network(logits_of(student), optimizer, student)

    share = (1 - settings.partition.test_clusters / settings.cluster.clusters) * (1 - settings.partition.validation)
    asked = bool(which.layers) + is_distilled(settings, which)
    return Load(
        f"student {network.student}" + (f" with {asked} frozen" if asked else ""),
        *(untrained, chosen.epochs, chosen.batch, "images", share),
        passes=1 + asked / 3,
    )


def load_frozen(path: Path) -> keras.Model:
    """A trained network that learns no more.

    Raises:
        InputError: the file is damaged.
    """
    try:
        model = keras.saving.load_model(path)
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path}: cannot be read as a model ({line_of(error)}); remove its step to train it again"
        ) from None
    model.trainable = False
    return model


def also_distilled(loss_fn: LossFn, baseline: keras.Model, weight: float, temperature: float) -> LossFn:
    """A loss plus the distillation of a frozen classifier, given by its logits."""

    def both(batch: Mapping[str, Any], outputs: Any) -> dict[str, Any]:
        told = baseline(batch["x"], training=False)
        softened = weight * distillation(outputs["output"], told, temperature)
        return {**loss_fn(batch, outputs), "distillation_loss": softened}

    return both


def judge(work: Work, split: str, network: Network) -> pd.DataFrame:
    """Probabilities of every image outside the training part; see `Judged`."""
    parts = parts_of(work)
    part = parts.part(split)
    rows = np.flatnonzero((part != "training").to_numpy())
    records = parts.records.iloc[rows]
    shown = inference(work.settings, edges_of(work).cache, records["image_id"].tolist())
    found = predict(network.answer, shown()).astype(np.float64)
    table = records[["image_id", "source", "group", "target"]].reset_index(drop=True)
    table = table.assign(case=table["image_id"], part=part.iloc[rows].to_numpy())
    return predictions(table, found, class_names())


def judged(work: Work, which: Student) -> Judged:
    """A finished student's predictions, from its file."""
    path = work.path("predictions", f"{which.stem}.parquet")
    return work.once(which.step, lambda: Judged(read_predictions(path)))


def results_of(work: Work) -> dict[Student, Judged]:
    """Every student that stands finished."""
    return {which: judged(work, which) for which in wanted_students(work.settings) if work.has(which.step)}


def sidecar(settings: SimilaritySettings, which: Student) -> Sidecar:
    """What predict needs to know of a student."""
    return Sidecar(
        kind=KIND,
        classes=class_names(),
        input_px=settings.network.input_px,
        preprocessing=preprocessing(settings),
        threshold=None,
        threshold_from="none: the most probable class is called",
        run={
            "configuration": which.name if which.name == BASELINE else f"attention of layers {which.name}",
            "trained_on": f"the training part {WORDS[which.split]}, black edges removed where clusters have them",
        },
    )
