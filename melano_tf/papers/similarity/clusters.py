"""The second step: deep clustering with a metric loss, and each source's clusters (section "Similarity clustering")."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd

from melano_tf.errors import InputError
from melano_tf.models.attention_transfer import build_embedding, pooled
from melano_tf.papers.checks import weights_key
from melano_tf.papers.similarity.cohort import Cohort
from melano_tf.papers.similarity.settings import SimilaritySettings
from melano_tf.pipelines.cluster_batches import ClusterImageBatches
from melano_tf.pipelines.image_batches import predict_image_batches
from melano_tf.pipelines.images import ImageCache
from melano_tf.training.checkpoint import weights_sha256
from melano_tf.training.clustering import ClusterSettings, PKSampler, PKSettings, kmeans
from melano_tf.training.deep_cluster import Assignments, FeatureWriter, deep_cluster, metric_loss
from melano_tf.training.inference import predict
from melano_tf.training.loop import LoopSettings
from melano_tf.training.optimizers import make_optimizer
from melano_tf.training.progress import bar_over_epochs
from melano_tf.training.runtime import strategy
from melano_tf.workspace import Run, Sidecar, atomic, plain, seed_for

KIND = "similarity-embedding"
BATCH = 64  # images at once in inference


@dataclass(frozen=True)
class Teacher:
    """A trained teacher.

    Attributes:
        key: of its step.
        model: its file.
        rounds: one row an epoch: epoch, nmi (against the epoch before), inertia, size_0, …
    """

    key: str
    model: Path
    rounds: pd.DataFrame


@dataclass(frozen=True)
class Clusters:
    """What the teacher says of every image of its sources.

    Attributes:
        key: of the step.
        places: of these images in the cohort's records, (n,).
        embedding: float32 (n, D), L2-normalised.
        cluster: number of each image's cluster within its source, (n,).
    """

    key: str
    places: np.ndarray
    embedding: np.ndarray
    cluster: np.ndarray


def check_enough(settings: SimilaritySettings, cohort: Cohort) -> None:
    """Every source that is divided by clusters holds more images than clusters.

    Raises:
        InputError: one does not; all are named.
    """
    faults = []
    for source in settings.partition.sources:
        found = len(cohort.of((source,)))
        if found < 2 * settings.cluster.clusters:
            faults.append(f"{source}: {found} image{'s' * (found != 1)}")
    if faults:
        raise InputError.of(
            f"too few images for {settings.cluster.clusters} clusters a source (at least two images a cluster are "
            "needed); give fewer --cluster.clusters, other --partition.sources, or more images:",
            faults,
        )


def train_teacher(
    run: Run, settings: SimilaritySettings, cohort: Cohort, places: np.ndarray, name: str = "teacher"
) -> Teacher:
    """Deep clustering of these images: features, k-means, an epoch of metric learning, and again.

    Args:
        places: of the images in the cohort's records.
        name: of the model: "teacher", or "teacher-blind" for one that does not see the test images.
    """
    chosen, seed = settings.cluster, seed_for(settings.seed, name)
    model_path = run.path("models", f"{name}.keras")
    history_path, rounds_path = run.path("history", f"{name}.csv"), run.path("history", f"{name}-rounds.csv")
    image_ids = cohort.names(places)

    def work(scratch: Path) -> list[Path]:
        model, optimizer = make_teacher(settings, seed)
        grouping = ClusterSettings(clusters=chosen.clusters, components=chosen.whitened, iterations=chosen.iterations)
        assignments = Assignments(scratch / "assignments", grouping, seed, len(image_ids))
        drawn = PKSettings(clusters=min(chosen.per_batch, chosen.clusters), images=chosen.per_cluster)
        sampler = PKSampler(assignments.labels, len(image_ids), drawn, seed)
        batches = ClusterImageBatches(
            cohort.cache, image_ids, settings.network.input_px, sampler, seed, augment=settings.augment
        )
        features = FeatureWriter(pooled(model), inference(settings, cohort.cache, image_ids), len(image_ids))
        with bar_over_epochs(name, chosen.epochs, sampler.steps_per_epoch) as progress:
            done = deep_cluster(
                model,
                optimizer,
                metric_loss(chosen.loss),
                batches,
                features,
                assignments,
                LoopSettings(epochs=chosen.epochs),
                scratch,
                progress=progress,
                strategy=strategy(settings.mirror),
            )
        done.history.write(history_path)
        run.keep_logs(scratch, name)
        write_csv(rounds_path, pd.DataFrame(done.records))
        with atomic(model_path) as temporary:
            model.save(temporary)
        sidecar = teacher_sidecar(run, settings, cohort, len(image_ids), weights_sha256(model)).write(model_path)
        return [model_path, sidecar, history_path, rounds_path]

    inputs = {
        "cohort": cohort.key,
        "images": image_ids if name != "teacher" else len(image_ids),
        "network": [settings.network.teacher, settings.network.input_px],
        "weights": weights_key(settings.network.teacher, settings.network.weights),
        "cluster": asked(settings),
        "augment": settings.augment,
        "seed": settings.seed,
    }
    key = run.step(f"cluster/{name}", {what: plain(value) for what, value in inputs.items()}, work)
    return Teacher(key, model_path, pd.read_csv(rounds_path))


def asked(settings: SimilaritySettings) -> dict[str, Any]:
    """The settings of the clustering that a teacher depends on: which images it gets is said apart."""
    return {name: value for name, value in plain(settings.cluster).items() if name != "sees_test"}


def make_teacher(settings: SimilaritySettings, seed: int) -> tuple[keras.Model, keras.optimizers.Optimizer]:
    """The embedding network and its optimiser, on all devices."""
    network, chosen = settings.network, settings.cluster
    keras.utils.set_random_seed(seed)
    devices = strategy(settings.mirror)
    with devices.scope() if devices else contextlib.nullcontext():
        model, _ = build_embedding(network.teacher, network.input_px, chosen.embedding, network.weights, seed)
        return model, make_optimizer("adam", chosen.learning_rate, epsilon=chosen.adam_epsilon)


def inference(
    settings: SimilaritySettings, cache: ImageCache, image_ids: Sequence[str]
) -> Callable[[], Iterator[dict[str, Any]]]:
    """What gives batches of these images, whole and upright, in order, each time it is called."""

    def batches() -> Iterator[dict[str, Any]]:
        for part in predict_image_batches(cache, image_ids, settings.network.input_px, BATCH):
            yield {"x": {"image": part["x"]}}

    return batches


def find_clusters(
    run: Run, settings: SimilaritySettings, cohort: Cohort, places: np.ndarray, teacher: Teacher
) -> Clusters:
    """k-means of each source apart in the teacher's embedding."""
    vectors, table = run.path("clusters", "embedding.npy"), run.path("clusters", "clusters.csv")
    sources = cohort.records["source"].to_numpy()[places]

    def work(_: Path) -> list[Path]:
        model = keras.saving.load_model(teacher.model)
        embedding = predict(model, inference(settings, cohort.cache, cohort.names(places))()).astype(np.float32)
        labels = np.zeros(len(places), np.int64)
        for source in settings.cluster.sources:
            own = np.flatnonzero(sources == source)
            if len(own):
                labels[own] = cluster_source(settings, embedding[own], source)
        with atomic(vectors) as temporary:
            np.save(temporary, embedding)
        found = cohort.records.iloc[places][["image_id", "source", "label", "group"]].assign(cluster=labels)
        return [vectors, write_csv(table, found)]

    inputs = {"teacher": teacher.key, "places": cohort.key, "cluster": asked(settings), "seed": settings.seed}
    key = run.step("cluster/groups", inputs, work)
    return Clusters(key, places, np.load(vectors), pd.read_csv(table)["cluster"].to_numpy())


def cluster_source(settings: SimilaritySettings, embedding: np.ndarray, source: str) -> np.ndarray:
    """Clusters of one source's embeddings (n, D); a source that nothing divides may have fewer of them."""
    chosen = settings.cluster
    count = chosen.clusters
    if source not in settings.partition.sources:
        count = max(1, min(count, len(embedding) // 2))
    if count < 2:
        return np.zeros(len(embedding), np.int64)
    grouping = ClusterSettings(clusters=count, iterations=chosen.iterations)
    # The embedding as it is: whitening would blow up directions that the metric loss has made short.
    _, labels = kmeans(embedding, grouping, seed_for(settings.seed, "clusters", source))
    return labels.astype(np.int64)


def teacher_sidecar(run: Run, settings: SimilaritySettings, cohort: Cohort, images: int, weights: str) -> Sidecar:
    """What `similar` needs to know of a teacher."""
    return Sidecar(
        kind=KIND,
        classes=cohort.classes,
        input_px=settings.network.input_px,
        preprocessing=preprocessing(settings),
        threshold=0.5,
        threshold_from="not used: an embedding decides nothing",
        run={
            "configuration": settings.network.teacher,
            "trained_on": f"{images} images without their labels",
            "weights_sha256": weights,
            "recipe": run.recipe,
            "folder": str(run.folder),
            **{name: run.settings[name] for name in ("preset", "seed", "table")},
        },
    )


def preprocessing(settings: SimilaritySettings) -> dict[str, Any]:
    """How an image is brought to a network of this recipe."""
    return {"store": plain(settings.store), "colour": "RGB, 0 to 255", "metadata": None}


def write_csv(path: Path, frame: pd.DataFrame) -> Path:
    """Write a table as CSV, atomically; returns the path."""
    with atomic(path) as temporary:
        frame.to_csv(temporary, index=False)
    return path
