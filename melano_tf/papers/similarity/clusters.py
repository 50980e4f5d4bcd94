"""The second step: deep clustering with a metric loss, and each source's clusters (section "Similarity clustering")."""

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd

from melano_tf.errors import InputError
from melano_tf.models.attention_transfer import build_embedding, pooled
from melano_tf.models.backbone_graphs import BackboneReport
from melano_tf.papers.alike_trainings import train
from melano_tf.papers.image_steps import image_groups
from melano_tf.papers.plan import Load
from melano_tf.papers.shell import Looked, Work
from melano_tf.papers.similarity.cohort import SimilarityImages
from melano_tf.papers.similarity.settings import SimilaritySettings
from melano_tf.pipelines.cluster_batches import ClusterImageBatches
from melano_tf.pipelines.image_batches import predict_image_batches
from melano_tf.pipelines.image_cache import ImageCache
from melano_tf.runs.atomic_files import atomic
from melano_tf.runs.settings_digest import plain, seed_for
from melano_tf.runs.sidecar import Sidecar
from melano_tf.splits.disjoint_sides import Sides
from melano_tf.training.clustering import ClusterSettings, PKSampler, PKSettings, kmeans
from melano_tf.training.deep_cluster import Assignments, FeatureWriter, deep_cluster, metric_loss
from melano_tf.training.fed_cases import Fed, record_choice
from melano_tf.training.fit import LoopContext, Network, Training, write_frame
from melano_tf.training.inference import predict
from melano_tf.training.loop import History
from melano_tf.training.optimizers import make_optimizer

KIND = "similarity-embedding"
BATCH = 64  # images at once in inference
TEACHER = "teacher"  # its files
GROUPS = "cluster/groups"  # the step of each source's clusters
CLUSTERS = "clusters"  # the record of whom they were made of
ALL_IMAGES = "the paper clusters all images, without their labels, before it divides them"


@dataclass(frozen=True)
class Clusters:
    """What the teacher says of every image of its sources.

    Attributes:
        places: of these images in the cohort's records, (n,).
        embedding: float32 (n, D), L2-normalised.
        cluster: number of each image's cluster within its source, (n,).
        rounds: one row an epoch of the teacher: epoch, nmi (against the epoch before), inertia, size_0, …
    """

    places: np.ndarray
    embedding: np.ndarray
    cluster: np.ndarray
    rounds: pd.DataFrame


def check_enough(work: Work) -> Looked:
    """Every source that is divided by clusters holds more images than clusters.

    Raises:
        InputError: one does not; all are named.
    """
    wanted, cohort = work.settings.cluster.clusters, work.value("cohort")
    faults = []
    for source in work.settings.partition.sources:
        found = len(cohort.of((source,)))
        if found < 2 * wanted:
            faults.append(f"{source}: {found} image{'s' * (found != 1)}")
    if faults:
        raise InputError.of(
            f"too few images for {wanted} clusters a source (at least two images a cluster are "
            "needed); give fewer --cluster.clusters, other --partition.sources, or more images:",
            faults,
        )
    return Looked(None, None)


def asked(settings: SimilaritySettings) -> dict[str, Any]:
    """The settings of the clustering that a teacher depends on: which images it gets is said apart."""
    return {name: value for name, value in plain(settings.cluster).items() if name != "sees_test"}


def teacher_depends_on(settings: SimilaritySettings) -> dict[str, Any]:
    """All that a teacher depends on, beside its images and the content of the initial weights."""
    return {
        "network": [settings.network.teacher, settings.network.input_px],
        "cluster": asked(settings),
        "augment": settings.augment,
        "seed": settings.seed,
    }


def train_teacher(work: Work) -> list[Path]:
    """The teacher of all images of the sources that are clustered."""
    return cluster_images(work, TEACHER, work.value("cohort").of(work.settings.cluster.sources))


def cluster_images(
    work: Work, name: str, places: np.ndarray, unseen: Sequence[str] = (), divided: str = ""
) -> list[Path]:
    """Deep clustering of these images: features, k-means, an epoch of metric learning, and again.

    Args:
        work: of the step.
        name: of the model, and of its seed.
        places: of the images in the cohort's records.
        unseen: images that it must not see.
        divided: why it may see others of their lesions.
    """
    settings, cohort, chosen = work.settings, work.value("cohort"), work.settings.cluster
    seed, image_ids = seed_for(settings.seed, name), cohort.names(places)
    grouping = ClusterSettings(clusters=chosen.clusters, components=chosen.whitened, iterations=chosen.iterations)
    assignments = Assignments(work.scratch / "assignments", grouping, seed, len(image_ids))
    drawn = PKSettings(clusters=min(chosen.per_batch, chosen.clusters), images=chosen.per_cluster)
    sampler = PKSampler(assignments.labels, len(image_ids), drawn, seed)
    batches = ClusterImageBatches(
        cohort.cache, image_ids, settings.network.input_px, sampler, seed, augment=settings.augment
    )

    def loop(network: Network, context: LoopContext) -> History:
        model, images = network.trained, inference(settings, cohort.cache, image_ids)

        def shown() -> Iterator[Any]:
            return context.fed.also(images())

        return deep_cluster(
            model,
            network.optimizer,
            metric_loss(chosen.loss),
            context.batches,
            FeatureWriter(pooled(model), shown, len(image_ids)),
            assignments,
            context.settings,
            context.folder,
            progress=context.progress,
            strategy=context.devices,
        ).history

    training = Training(
        stem=name,
        seed=seed,
        epochs=chosen.epochs,
        build=lambda: build_teacher(settings, seed),
        batches=batches,
        sides=Sides(image_groups(work), image_ids, judged=unseen, divided=divided),
        loop=loop,
        judge=lambda _: ({}, teacher_sidecar(settings, cohort, len(image_ids))),
    )
    files = train(work, training)
    return [*files, write_frame(work.path("history", f"{name}-rounds.csv"), pd.DataFrame(assignments.records()))]


def build_teacher(settings: SimilaritySettings, seed: int) -> Network:
    """The embedding network and its optimiser."""
    network, chosen = settings.network, settings.cluster
    model, report = build_embedding(network.teacher, network.input_px, chosen.embedding, network.weights, seed)
    optimizer = make_optimizer("adam", chosen.learning_rate, epsilon=chosen.adam_epsilon)
    return Network(model, optimizer, model, loaded(report))


def teacher_load(settings: SimilaritySettings) -> Load:
    """What a teacher's training costs: an epoch's steps, and a look at every image for its clusters."""
    chosen, blank = settings.cluster, replace(settings, network=replace(settings.network, weights="none"))
    batch, build_it = chosen.per_batch * chosen.per_cluster, functools.partial(build_teacher, blank, 0)
    name = f"teacher {settings.network.teacher}"
    return Load(name, build_it, chosen.epochs, batch, "images", 1.0, passes=4 / 3, whole=True)


def loaded(report: BackboneReport) -> str:
    """Which initial weights were loaded; "" for none."""
    return f"{report.tensors_loaded} tensors from {report.weights}" if report.tensors_loaded else ""


def inference(
    settings: SimilaritySettings, cache: ImageCache, image_ids: Sequence[str]
) -> Callable[[], Iterator[dict[str, Any]]]:
    """What gives batches of these images, whole and upright, in order, each time it is called."""

    def batches() -> Iterator[dict[str, Any]]:
        for part in predict_image_batches(cache, image_ids, settings.network.input_px, BATCH):
            yield {"x": {"image": part["x"]}, "id": part["id"]}

    return batches


def find_clusters(work: Work) -> list[Path]:
    """k-means of each source apart in the teacher's embedding."""
    settings, cohort = work.settings, work.value("cohort")
    places = cohort.of(settings.cluster.sources)
    model = keras.saving.load_model(work.path("models", f"{TEACHER}.keras"))
    choice = Fed(CLUSTERS, Sides(image_groups(work), (), cohort.names(places), after={TEACHER: ALL_IMAGES}), None)
    shown = choice.chose(inference(settings, cohort.cache, cohort.names(places))())
    embedding = predict(model, shown).astype(np.float32)
    sources = cohort.records["source"].to_numpy()[places]
    labels = np.zeros(len(places), np.int64)
    for source in settings.cluster.sources:
        own = np.flatnonzero(sources == source)
        if len(own):
            labels[own] = cluster_source(settings, embedding[own], source)
    record = record_choice(work.run, choice)
    vectors = work.path("clusters", "embedding.npy")
    with atomic(vectors) as temporary:
        np.save(temporary, embedding)
    found = cohort.records.iloc[places][["image_id", "source", "label", "group"]].assign(cluster=labels)
    return [vectors, write_frame(work.path("clusters", "clusters.csv"), found), record]


def cluster_source(settings: SimilaritySettings, embedding: np.ndarray, source: str) -> np.ndarray:
    """Clusters of one source's embeddings (n, D); a source that nothing divides (see `check_enough`) may have fewer."""
    count = max(1, min(settings.cluster.clusters, len(embedding) // 2))
    if count < 2:
        return np.zeros(len(embedding), np.int64)
    grouping = ClusterSettings(clusters=count, iterations=settings.cluster.iterations)
    # The embedding as it is: whitening would blow up directions that the metric loss has made short.
    _, labels = kmeans(embedding, grouping, seed_for(settings.seed, "clusters", source))
    return labels.astype(np.int64)


def clusters_of(work: Work) -> Clusters:
    """The clusters from their files; how they settled is said once."""

    def read() -> Clusters:
        rounds = pd.read_csv(work.path("history", f"{TEACHER}-rounds.csv"))
        last = rounds.iloc[-1]
        sizes = [int(last[name]) for name in last.index if str(name).startswith("size_")]
        work.say(
            f"clusters  {len(sizes)} of {min(sizes):,} to {max(sizes):,} images; agreement of the last two assignments "
            f"(NMI) {last['nmi']:.3f}"
        )
        numbers = pd.read_csv(work.path("clusters", "clusters.csv"))["cluster"].to_numpy()
        embedding = np.load(work.path("clusters", "embedding.npy"))
        return Clusters(work.value("cohort").of(work.settings.cluster.sources), embedding, numbers, rounds)

    return work.once(GROUPS, read)


def teacher_sidecar(settings: SimilaritySettings, cohort: SimilarityImages, images: int) -> Sidecar:
    """What `similar` needs to know of a teacher."""
    return Sidecar(
        kind=KIND,
        classes=cohort.classes,
        input_px=settings.network.input_px,
        preprocessing=preprocessing(settings),
        threshold=None,
        threshold_from="none: an embedding decides nothing",
        run={"configuration": settings.network.teacher, "trained_on": f"{images} images without their labels"},
    )


def preprocessing(settings: SimilaritySettings) -> dict[str, Any]:
    """How an image is brought to a network of this recipe."""
    return {"store": plain(settings.store), "colour": "RGB, 0 to 255", "metadata": None}
