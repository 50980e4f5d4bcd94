"""The settings of the similarity paper: each with its unit, the paper's value as default, and its place in the paper.

"Similarity clustering and attention transfer" on ISIC 2019: deep clustering with a metric loss gives the teacher, whose
attention a classifier copies. Sections, equations and tables named below are the paper's. What the paper leaves open
says "our reading".
"""

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from melano_tf.errors import InputError
from melano_tf.papers.plan import Recipe
from melano_tf.papers.run_settings import Running
from melano_tf.papers.settings_values import listed, names, numbers
from melano_tf.papers.similarity.report_words import WORDS
from melano_tf.phantoms.skin.patients import SOURCE_SHARES, PhantomDermoscopySettings
from melano_tf.pipelines.image_settings import ImageAugmentSettings, ImageCacheSettings

STEPS = ("resize", "cluster", "edges", "partition", "train", "tables", "figures")
COUNTED = (1, 2, 3, 5)  # tables made from the tables alone, and from the partition
JUDGED = {"validation": (6, 7), "HAM test": (8, 9), "BCN test": (10, 11)}  # accuracy, F1
TABLES = (*COUNTED, *(number for pair in JUDGED.values() for number in pair))
FIGURES = (3, 5, 6, 7)
BASELINE = "baseline"
# Layers whose attention is transferred (Tables 6 to 11: nine combinations), by their published names.
COMBINATIONS: dict[str, tuple[int, ...]] = {
    name: tuple(int(layer) for layer in name.split("+"))
    for name in ("1", "2", "3", "4", "1+2", "2+3", "3+4", "2+3+4", "1+2+3+4")
}
SPLITS = ("cluster", "lesion")


@dataclass(frozen=True)
class ClusterSettings:
    """Similarity clustering (section "Similarity clustering"): deep clustering with a metric loss."""

    clusters: int = 16
    """Clusters of pseudo-labels, and of each source in the partition (results: 16)."""
    epochs: int = 100
    """Epochs of the teacher; each begins with new pseudo-labels (results: 100)."""
    loss: Literal["multi_similarity", "triplet", "triplet_batch_hard", "contrastive"] = "multi_similarity"
    """Metric loss in the place of DeepCluster's cross-entropy (equation 3: multi-similarity)."""
    learning_rate: float = 1e-4
    """Learning rate of Adam (not given; our reading: 1e-4)."""
    adam_epsilon: float = 1e-8
    """epsilon of Adam (the paper used PyTorch, which has 1e-8; Keras has 1e-7)."""
    per_batch: int = 16
    """P: clusters in a batch (not given; our reading: 16 x 4 = 64 images)."""
    per_cluster: int = 4
    """K: images of each of them (not given; our reading: 4)."""
    whitened: int = 256
    """Dimensions that features are whitened to before k-means (not given; our reading: DeepCluster's 256)."""
    embedding: int = 128
    """Dimensions of the embedding (not given; our reading: 128)."""
    sources: tuple[str, ...] = ("HAM", "BCN", "unnamed")
    """Sources that are clustered (results: HAM, BCN and unk; MSK is left out)."""
    sees_test: bool = True
    """The teacher also sees the images that test later, without their labels, as the paper's order of steps implies.
    False: the partition is drawn in the embedding of a teacher that saw all, and the teacher is trained again without
    the test images."""
    iterations: int = 20
    """Rounds of k-means at most."""


@dataclass(frozen=True)
class EdgeSettings:
    """Black-edge removal (section "Pre-processing"): Otsu, morphology, contours."""

    sources: tuple[str, ...] = ("BCN",)
    """Sources whose clusters are looked at (section "Pre-processing": BCN)."""
    share: float = 0.5
    """A cluster has black edges where at least this share of its images has (chosen by eye in the paper; ours)."""


@dataclass(frozen=True)
class PartitionSettings:
    """Data partitioning (sections "Pre-processing" and "The results of similarity clustering")."""

    sources: tuple[str, ...] = ("HAM", "BCN")
    """Sources that train, validate and test (results: HAM and BCN); each is tested apart."""
    test_clusters: int = 8
    """Clusters of each source that test (results: 8 of 16)."""
    validation: float = 0.2
    """Share of the images outside the tests that validates (2,443 of 12,209: 0.2)."""
    splits: str = "cluster,lesion"
    """Partitions to train and judge on: by cluster as the paper, and by lesion, of the same sizes."""


@dataclass(frozen=True)
class NetworkSettings:
    """The networks (section "Similarity clustering", figure 4)."""

    teacher: str = "resnet50"
    """Teacher (not given; our reading: the student's network)."""
    student: str = "resnet50"
    """Student and baseline (experiments: ResNet; our reading: ResNet50)."""
    input_px: int = 224
    """Side of the networks' input in pixels (section "Pre-processing": 224)."""
    weights: str = "none"
    """Initial weights of teacher and student: "none", or a file (not given; our reading: none)."""


@dataclass(frozen=True)
class TransferSettings:
    """Attention transfer (section "Similarity clustering", figure 4)."""

    combinations: str = "all"
    """Layers transferred: of 1, 2, 3, 4, 1+2, 2+3, 3+4, 2+3+4, 1+2+3+4, separated by commas; or all."""
    weight: float = 1e3
    """Weight of each layer's attention loss beside the cross-entropy (not given; our reading: the 1e3 of the reference
    implementation, for maps of 7x7 and larger; on smaller ones it is multiplied by their area / 49)."""
    epochs: int = 100
    """Epochs of each student; the last one is judged (results: 100)."""
    batch: int = 64
    """Images a batch (not given; our reading: 64)."""
    learning_rate: float = 1e-4
    """Learning rate of Adam (not given; our reading: 1e-4)."""
    adam_epsilon: float = 1e-8
    """epsilon of Adam (the paper used PyTorch, which has 1e-8; Keras has 1e-7)."""
    distillation: float = 0.0
    """Weight of an additional distillation (the paper's KD equation) from the trained baseline; 0: none."""
    temperature: float = 4.0
    """Its temperature T, at least 1 (not given; our reading: 4)."""


@dataclass(frozen=True)
class EvaluationSettings:
    """How models are judged; the intervals are ours."""

    repeats: int = 2000
    """Bootstrap resamples of lesions behind each interval."""
    level: float = 0.95
    """Coverage of the intervals."""
    sheet: int = 8
    """Images of each cluster on a contact sheet."""


@dataclass(frozen=True)
class SimilaritySettings(Running):
    """Similarity clustering and attention transfer for eight skin lesions (ISIC 2019).

    With --table and --images: ISIC 2019, its official CSV files and the folder or folders of its images. Without:
    phantom images that are drawn on the spot. The same command again goes on where it stopped.
    """

    table: tuple[Path, ...] = ()
    """Official CSV files: ground truth and metadata. None: phantoms."""
    images: tuple[Path, ...] = ()
    """Folder or folders of the images."""
    out: Path = Path("runs/similarity")
    """The run's folder: its own record, tables, figures and models."""
    preset: Literal["paper", "demo"] = "paper"
    """"paper" or "demo" (small stand-in networks, few epochs). Not given: paper with --table, demo without."""
    tables: Annotated[tuple[int, ...], listed("--tables", TABLES)] = (1, 2, 3, 5, 6, 7, 8, 9, 10, 11)
    """Tables of the paper to make (4 defines TP, FP, TN, FN). 1 to 3 need no clustering; without 6 to 11, and Figures
    6 and 7, no student is trained."""
    figures: Annotated[tuple[int, ...], listed("--figures", FIGURES)] = (3, 5, 6, 7)
    """Figures of the paper to make, or none. 6 and 7 show what the tables' networks do on the test parts."""
    steps: str = "all"
    """Steps to do: all, or some of resize,cluster,edges,partition,train,tables,figures (with what they stand on)."""
    cache: Path | None = None
    """Folder of the decoded images, which several runs may share. Not given: in the run's folder."""
    store: ImageCacheSettings = field(default_factory=lambda: ImageCacheSettings(stored_px=224))
    """How images are kept decoded: the paper's first step (section "Pre-processing": 224 x 224)."""
    augment: ImageAugmentSettings = field(default_factory=lambda: ImageAugmentSettings(fill="reflect"))
    """Augmentation of training images (not given; our reading: that of the ZooME paper, but filled by reflection: black
    edges are what the third step removes)."""
    network: NetworkSettings = field(default_factory=NetworkSettings)
    """The networks."""
    cluster: ClusterSettings = field(default_factory=ClusterSettings)
    """Similarity clustering."""
    edges: EdgeSettings = field(default_factory=EdgeSettings)
    """Black-edge removal."""
    partition: PartitionSettings = field(default_factory=PartitionSettings)
    """Who trains, validates and tests."""
    transfer: TransferSettings = field(default_factory=TransferSettings)
    """Attention transfer."""
    evaluation: EvaluationSettings = field(default_factory=EvaluationSettings)
    """How models are judged."""
    phantom: PhantomDermoscopySettings = field(default_factory=lambda: PhantomDermoscopySettings(layout="isic2019"))
    """The phantom images that stand in where no --table is given."""

    def __post_init__(self) -> None:
        if bool(self.table) != bool(self.images):
            given, missing = ("--table", "--images") if self.table else ("--images", "--table")
            raise InputError(f"{given} without {missing}: a data set needs both its CSV files and its images' folder")
        faults = [
            f"--{name} {', '.join(given) or 'nothing'}: some of {', '.join(SOURCE_SHARES)}"
            for name, given in (
                ("cluster.sources", self.cluster.sources),
                ("partition.sources", self.partition.sources),
                ("edges.sources", self.edges.sources or ("BCN",)),
            )
            if not given or set(given) - set(SOURCE_SHARES)
        ]
        if not faults and not set(self.partition.sources) <= set(self.cluster.sources):
            faults.append("--partition.sources: only sources of --cluster.sources have clusters to divide by")
        if not 0 < self.partition.test_clusters < self.cluster.clusters:
            faults.append(
                f"--partition.test-clusters {self.partition.test_clusters}: at least 1, and fewer than the "
                f"{self.cluster.clusters} clusters (--cluster.clusters)"
            )
        if not 0 < self.partition.validation < 1:
            faults.append(f"--partition.validation {self.partition.validation}: between 0 and 1")
        if not 0 < self.edges.share <= 1:
            faults.append(f"--edges.share {self.edges.share}: above 0, at most 1")
        if self.transfer.weight <= 0 or self.transfer.distillation < 0 or self.transfer.temperature < 1:
            faults.append("--transfer: weight above 0, distillation at least 0, temperature at least 1")
        if self.cluster.per_batch < 2 or self.cluster.per_cluster < 2:
            faults.append("--cluster.per-batch and --cluster.per-cluster: at least 2 (a metric loss compares)")
        if faults:
            raise InputError.of("similarity:", faults)

    def chosen_tables(self) -> tuple[int, ...]:
        """The tables asked for, in order. Raises InputError for one that is not made."""
        return numbers("--tables", self.tables, TABLES)

    def chosen_figures(self) -> tuple[int, ...]:
        """The figures asked for, in order. Raises InputError for one that is not made."""
        return numbers("--figures", self.figures, FIGURES)

    def chosen_combinations(self) -> dict[str, tuple[int, ...]]:
        """Layers of each student asked for, without the baseline. Raises InputError for one that the paper lacks."""
        found = names("--transfer.combinations", self.transfer.combinations, tuple(COMBINATIONS), "combination")
        return {name: COMBINATIONS[name] for name in found}

    def chosen_splits(self) -> tuple[str, ...]:
        """The partitions asked for. Raises InputError for an unknown one, or for none."""
        found = names("--partition.splits", self.partition.splits, SPLITS, "partition")
        if not found:
            raise InputError("--partition.splits none: at least one of cluster, lesion")
        return found


def preset(name: str) -> SimilaritySettings:
    """The settings of `--preset paper` (the paper's own) or `--preset demo` (a named change of them).

    The demo is sized for two cores: phantom images of 48 px, stand-in networks of four stages that learn from scratch
    with a larger step, and three of the nine combinations.
    """
    paper = SimilaritySettings()
    if name == "paper":
        return paper
    return dataclasses.replace(
        paper,
        preset="demo",
        threads=1,
        store=dataclasses.replace(paper.store, stored_px=54),
        network=dataclasses.replace(paper.network, teacher="standin_residual", student="standin_residual", input_px=48),
        cluster=dataclasses.replace(
            paper.cluster,
            clusters=8,
            epochs=8,
            learning_rate=1e-3,
            per_batch=8,
            per_cluster=4,
            whitened=16,
            embedding=64,
        ),
        partition=dataclasses.replace(paper.partition, test_clusters=4),
        transfer=dataclasses.replace(
            paper.transfer, combinations="1,4,1+2+3+4", epochs=30, batch=16, learning_rate=1e-3
        ),
        phantom=PhantomDermoscopySettings(layout="isic2019", patients=280, clarity=0.95),
    )


RECIPE = Recipe(
    name="similarity",
    about="eight skin lesions by similarity clustering and attention transfer",
    data="table",
    drawn="images",
    preset=preset,
    words=WORDS,
    method="melano_tf.papers.similarity.method:method",
    aside=("images", "cache"),
    extent="melano_tf.papers.similarity.cohort:extent",
)
