"""DeepCluster with a metric loss (the similarity paper's first stage): features, clusters, an epoch on them, and again.

Each epoch begins with the features of all images in inference mode, their k-means clusters, and a file that holds
these; the epoch's batches are drawn from that file. Clusters follow from weights and seed, batches from clusters, seed
and global step, and both files and checkpoints are written as a whole: a training that is killed at any moment and run
again ends with the same bits.
"""

import functools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from melano_tf.errors import InputError, line_of
from melano_tf.runs.atomic_files import atomic
from melano_tf.runs.file_integrity import ARCHIVE_FAULTS
from melano_tf.runs.settings_digest import seed_for
from melano_tf.training.clustering import Clustering, ClusterSettings, cluster, nmi
from melano_tf.training.hosts import Hosts
from melano_tf.training.loop import Batches, GradientStep, History, LoopSettings, ProgressBar, TrainingError, train
from melano_tf.training.metric_losses import METRIC_LOSSES
from melano_tf.training.steps import traced

FEATURES = "features.npy"
CONTENT = ("labels", "sizes", "components", "inertia", "nmi")  # of a file of clusters


def metric_loss(name: str, **arguments: Any) -> Callable[[Mapping[str, Any], Any], Any]:
    """A `loss_fn` of a metric loss on batch["y"], the pseudo-labels.

    Args:
        name: one of METRIC_LOSSES.
        arguments: of that loss, for example alpha and beta.

    Raises:
        InputError: the name is unknown.
    """
    if name not in METRIC_LOSSES:
        raise InputError(f"metric loss {name!r}: unknown; there are {', '.join(METRIC_LOSSES)}")

    def loss_fn(batch: Mapping[str, Any], embeddings: Any) -> Any:
        return METRIC_LOSSES[name](embeddings, batch["y"], **arguments)

    return loss_fn


class FeatureWriter:
    """Features of all images, streamed to a file batch by batch, so that neither images nor features fill the memory.

    Args:
        model: gives features (B, C); run in inference mode.
        batches: called for each pass; dicts of "x", the images in order.
        count: n, images in all.
    """

    def __init__(self, model: keras.Model, batches: Callable[[], Iterable[Mapping[str, Any]]], count: int) -> None:
        self.model, self.batches, self.count = model, batches, count
        self._forward = traced(functools.partial(model, training=False))

    def __call__(self, path: Path) -> NDArray[np.float32]:
        """Write the features, a `.npy` of float32 (n, C), and give them memory-mapped.

        Raises:
            TrainingError: the batches hold another number of images.
        """
        path = Path(path)
        width = int(self.model.output.shape[-1])
        with atomic(path) as temporary:
            matrix = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.float32, shape=(self.count, width))
            done = 0
            for batch in self.batches():
                part = np.asarray(self._forward(batch["x"]), np.float32)
                if done + len(part) <= self.count:
                    matrix[done : done + len(part)] = part
                done += len(part)
            matrix.flush()
            del matrix
            if done != self.count:
                raise TrainingError(f"{done} images came for their features, and {self.count} were expected")
        return np.load(path, mmap_mode="r")


class Assignments:
    """The clusters of each epoch, a file an epoch: those that it is trained on, and one file more after the last.

    Args:
        folder: of the files; belongs to one training and its settings.
        settings: of the clustering.
        seed: of k-means.
        count: n, images.
    """

    def __init__(self, folder: Path, settings: ClusterSettings, seed: int, count: int) -> None:
        self.folder, self.settings, self.seed, self.count = Path(folder), settings, seed, count

    def path(self, epoch: int) -> Path:
        """The file of the clusters that epoch `epoch` (from 0) is trained on."""
        return self.folder / f"epoch-{epoch:04}.npz"

    def labels(self, epoch: int) -> NDArray[np.int32]:
        """Clusters int32 (n,) of an epoch.

        Raises:
            InputError: there is no such file, or it is damaged or of other images.
        """
        return np.asarray(self._read(epoch)["labels"], np.int32)

    def ensure(self, epoch: int, features: Callable[[Path], NDArray[Any]]) -> None:
        """Make the clusters of an epoch, unless they are there.

        They are there already where a training is taken up again, with the same weights and therefore the same content.

        Args:
            features: writes the features (n, C) of the present weights to a path and gives them.

        Raises:
            TrainingError: the features are not finite, or the network gives all images the same.
        """
        if self.path(epoch).exists():
            return
        # More clusters than images is a fault of the settings, to be said before the features cost anything.
        if self.settings.clusters > self.count:
            raise InputError(f"{self.settings.clusters} clusters of {self.count} images: ask for fewer clusters")
        self.folder.mkdir(parents=True, exist_ok=True)
        matrix = self.folder / FEATURES
        try:
            found = cluster(features(matrix), self.settings, seed_for(self.seed, "k-means", str(epoch)))
        except InputError as error:
            raise TrainingError(f"clustering before epoch {epoch + 1}: {error}") from error
        finally:
            matrix.unlink(missing_ok=True)
        if (found.sizes > 0).sum() < 2:
            raise TrainingError(
                f"clustering before epoch {epoch + 1}: the network gives all {self.count} images the same features; "
                "lower the learning rate"
            )
        agreement = nmi(self.labels(epoch - 1), found.labels) if epoch else float("nan")
        self._write(epoch, found, agreement)

    def records(self) -> list[dict[str, float]]:
        """One record an epoch that has its file: epoch (from 0), nmi with the epoch before it (NaN for the first),
        components, inertia, empty (clusters without images), smallest and largest cluster, size_0, size_1, …"""
        records = []
        epoch = 0
        while self.path(epoch).exists():
            content = self._read(epoch)
            sizes = content["sizes"].tolist()
            record = {"epoch": epoch, "nmi": float(content["nmi"]), "components": int(content["components"])}
            record |= {"inertia": float(content["inertia"]), "empty": sizes.count(0)}
            record |= {"smallest": min(sizes), "largest": max(sizes)}
            records.append(record | {f"size_{name}": size for name, size in enumerate(sizes)})
            epoch += 1
        return records

    def _write(self, epoch: int, found: Clustering, agreement: float) -> None:
        with atomic(self.path(epoch)) as temporary:
            np.savez(
                temporary,
                labels=found.labels,
                sizes=found.sizes,
                components=found.components,
                inertia=found.inertia,
                nmi=agreement,
            )

    def _read(self, epoch: int) -> dict[str, NDArray[Any]]:
        path = self.path(epoch)
        try:
            with np.load(path, allow_pickle=False) as file:
                content = {name: file[name] for name in CONTENT}
            fits = len(content["labels"]) == self.count and len(content["sizes"]) == self.settings.clusters
        except FileNotFoundError:
            raise InputError(f"{path}: the clusters of epoch {epoch + 1} are missing; remove {self.folder}") from None
        except (OSError, *ARCHIVE_FAULTS) as error:
            raise InputError(f"{path}: damaged ({line_of(error)}); remove {self.folder}") from error
        if not fits:
            raise InputError(f"{path}: clusters of other images or settings; choose another folder")
        return content


@dataclass(frozen=True)
class Clustered:
    """A finished clustering.

    Attributes:
        history: of the training, one record an epoch.
        records: of the clusters, one an epoch and one after the last (see `Assignments.records`).
        labels: int32 (n,), clusters by the weights after the last epoch.
    """

    history: History
    records: list[dict[str, float]]
    labels: NDArray[np.int32]


def deep_cluster(
    model: keras.Model,
    optimizer: keras.optimizers.Optimizer,
    loss_fn: Callable[[Mapping[str, Any], Any], Any],
    batches: Batches,
    features: Callable[[Path], NDArray[Any]],
    assignments: Assignments,
    loop: LoopSettings,
    folder: Path,
    progress: ProgressBar | None = None,
    epoch_end: Callable[[int, Mapping[str, float]], bool | None] | None = None,
    strategy: Any = None,
) -> Clustered:
    """Alternate clustering and metric learning; from the folder's checkpoint where there is one.

    Args:
        model: embedding model, images -> (B, D).
        optimizer: of the model.
        loss_fn: (batch, embeddings) -> (B,); see `metric_loss`.
        batches: drawn by a `PKSampler` whose assignments are `assignments.labels`.
        features: writes the features (n, C) that are clustered, of the model's present weights; a `FeatureWriter`.
        assignments: files of the clusters; they belong to `folder`'s training, best inside it.
        loop: epochs and intervals.
        folder: of checkpoint and logs.
        progress, epoch_end: as for `train`.
        strategy: as for `GradientStep`.

    Raises:
        TrainingError: the loss or the features are not finite, or all features are the same.
        InputError: more clusters than images; files that are damaged or of another training.
    """
    step, hosts = GradientStep(model, optimizer, loss_fn, strategy=strategy), Hosts.of(strategy)

    def ensure(epoch: int) -> None:
        if hosts is None or hosts.chief:
            assignments.ensure(epoch, features)
        if hosts is not None:
            hosts.told()  # not before the chief's file is there

    history = train(
        step,
        batches,
        loop,
        folder,
        model,
        optimizer,
        progress=progress,
        epoch_start=ensure,
        epoch_end=epoch_end,
    )
    last = len(history)
    ensure(last)
    return Clustered(history, assignments.records(), assignments.labels(last))
