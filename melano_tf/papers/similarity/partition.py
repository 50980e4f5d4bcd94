"""The fourth step: who trains, validates and tests, by cluster as the paper and by lesion; and what leaks between."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from melano_tf.papers.shell import Work
from melano_tf.papers.similarity.clusters import clusters_of
from melano_tf.papers.similarity.cohort import SimilarityImages
from melano_tf.papers.similarity.settings import SPLITS, SimilaritySettings
from melano_tf.runs.atomic_files import read_json, write_json
from melano_tf.runs.settings_digest import seed_for
from melano_tf.splits.clusters import (
    PAPER_TEST_SHARES,
    Partition,
    cluster_partition,
    grouped_partition,
    partition_leaks,
)
from melano_tf.splits.leaks import Leak, leak_lines
from melano_tf.training.fit import write_frame

PARTITION = "partition"  # the step
BEHIND = {"cluster": "", "lesion": ", by lesion"}  # what stands behind a column's name
WORDS = {"cluster": "by cluster", "lesion": "by lesion"}
TEST_SHARE = 0.5  # of a source that the paper does not test on


@dataclass(frozen=True)
class Parts:
    """The images that are classified, and their part in each partition.

    Attributes:
        records: of these images: the cohort's columns, cluster, and a column a partition ("side_cluster",
            "side_lesion"): "training", "validation" or "test".
        leaks: by partition.
        notes: by partition: repairs, and the test clusters.
    """

    records: pd.DataFrame
    leaks: Mapping[str, tuple[Leak, ...]]
    notes: Mapping[str, tuple[str, ...]]

    def part(self, split: str) -> pd.Series:
        """Table 5's name for the part of each image: "training", "validation", "HAM test", …"""
        side = self.records[f"side_{split}"]
        return side.where(side != "test", self.records["source"] + " test")

    def rows(self, split: str, part: str) -> np.ndarray:
        """Places in `records` of the images of one part."""
        return np.flatnonzero((self.part(split) == part).to_numpy())

    def names(self, split: str) -> list[str]:
        """Parts that are judged: validation, then the test of each source in the paper's order."""
        tests = sorted({name for name in self.part(split) if name.endswith("test")}, reverse=True)
        return ["validation", *tests]

    def lines(self) -> list[str]:
        """Of each partition the parts' sizes, its repairs and its first leaks."""
        lines = []
        for split, leaks in self.leaks.items():
            sizes = self.part(split).value_counts()
            lines.append(
                f"partition {WORDS[split]}: " + ", ".join(f"{name} {count:,}" for name, count in sizes.items())
            )
            leaking = [f"LEAK: {line}" for line in leak_lines(leaks, shown=3)]
            lines += [f"  {line}" for line in (*self.notes[split], *leaking)]
        return lines


def classified(work: Work) -> tuple[pd.DataFrame, np.ndarray]:
    """The records of the sources that train, validate and test, with their clusters; and their places in the cohort."""
    cohort, clusters = work.value("cohort"), clusters_of(work)
    within = np.isin(clusters.places, cohort.of(work.settings.partition.sources))
    places = clusters.places[within]
    return cohort.records.iloc[places].reset_index(drop=True).assign(cluster=clusters.cluster[within]), places


def divide(work: Work) -> list[Path]:
    """Draw both partitions, whichever is trained on, so that another choice of them changes no student."""
    records, _ = classified(work)
    made = {split: draw(work.settings, records, split) for split in SPLITS}
    sides = {f"side_{split}": one.side for split, one in made.items()}
    notes = work.path("partition.json")
    write_json(notes, {split: said_of(one) for split, one in made.items()})
    found = records[["image_id", "source", "label", "group", "cluster"]].assign(**sides)
    return [write_frame(work.path("partition.csv"), found), notes]


def parts_of(work: Work) -> Parts:
    """The partitions from their files, and what leaks between their parts; said and noted once."""

    def read() -> Parts:
        records, places = classified(work)
        found = pd.read_csv(work.path("partition.csv"), dtype={"image_id": str})
        records = records.assign(**{f"side_{split}": found[f"side_{split}"].to_numpy() for split in SPLITS})
        notes = {split: tuple(lines) for split, lines in read_json(work.path("partition.json")).items()}
        cohort, splits = work.value("cohort"), work.settings.chosen_splits()
        parts = Parts(records, {split: find_leaks(cohort, places, records, split) for split in splits}, notes)
        work.run.note(partition=notes, leaks={split: count_kinds(found) for split, found in parts.leaks.items()})
        for line in parts.lines():
            work.say(line)
        return parts

    return work.once(PARTITION, read)


def draw(settings: SimilaritySettings, records: pd.DataFrame, split: str) -> Partition:
    """One partition, its tests of the paper's share of each source."""
    chosen, seed = settings.partition, seed_for(settings.seed, "partition")
    sources, labels = [str(name) for name in records["source"]], [str(name) for name in records["label"]]
    wanted = {
        source: round(sources.count(source) * PAPER_TEST_SHARES.get(source, TEST_SHARE))
        for source in dict.fromkeys(sources)
    }
    if split == "lesion":
        return grouped_partition(
            sources,
            labels,
            records["group"].tolist(),
            test_images=wanted,
            validation_share=chosen.validation,
            seed=seed,
        )
    return cluster_partition(
        sources,
        records["cluster"].to_numpy(),
        labels,
        records["image_id"].tolist(),  # drawn plainly, as the paper: lesions fall on both sides, and are counted
        test_images=wanted,
        test_clusters=chosen.test_clusters,
        validation_share=chosen.validation,
        seed=seed,
        unit="image",
    )


def said_of(partition: Partition) -> list[str]:
    """What a reader must know of a partition: its test clusters, repairs, and classes that no test holds."""
    lines = [
        f"test clusters of {source}: {', '.join(map(str, members))}"
        for source, members in partition.test_clusters.items()
    ]
    lines += [f"repaired: {line}" for line in partition.repairs]
    return lines + [f"not in the test: {', '.join(partition.untested)}"] * bool(partition.untested)


def find_leaks(cohort: SimilarityImages, places: np.ndarray, records: pd.DataFrame, split: str) -> tuple[Leak, ...]:
    """Lesions and copies that stand in several parts of a partition."""
    place = {int(old): new for new, old in enumerate(places)}
    pairs = {
        kind: [(place[a], place[b]) for a, b in found if a in place and b in place]
        for kind, found in cohort.pairs.items()
    }
    partition = Partition(side=records[f"side_{split}"].to_numpy(object), test_clusters={}, repairs=(), untested=())
    lesions = [name if isinstance(name, str) else None for name in records["lesion"]]
    return tuple(partition_leaks(partition, {"lesion": lesions}, pairs, records["image_id"].tolist()))


def count_kinds(leaks: tuple[Leak, ...]) -> dict[str, int]:
    """How many leaks there are of each kind."""
    kinds = [leak.kind for leak in leaks]
    return {kind: kinds.count(kind) for kind in dict.fromkeys(kinds)}
