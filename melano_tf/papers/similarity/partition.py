"""The fourth step: who trains, validates and tests, by cluster as the paper and by lesion; and what leaks between."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from melano_tf.cluster_splits import (
    PAPER_TEST_SHARES,
    Partition,
    cluster_partition,
    grouped_partition,
    partition_leaks,
)
from melano_tf.papers.similarity.clusters import Clusters, write_csv
from melano_tf.papers.similarity.cohort import Cohort
from melano_tf.papers.similarity.settings import SPLITS, SimilaritySettings
from melano_tf.splits import Leak, leak_lines
from melano_tf.workspace import Run, plain, seed_for

Say = Callable[[str], None]
BEHIND = {"cluster": "", "lesion": ", by lesion"}  # what stands behind a column's name
WORDS = {"cluster": "by cluster", "lesion": "by lesion"}
TEST_SHARE = 0.5  # of a source that the paper does not test on


@dataclass(frozen=True)
class Parts:
    """The images that are classified, and their part in each partition.

    Attributes:
        key: of the step.
        records: of these images: the cohort's columns, cluster, and a column a partition ("side_cluster",
            "side_lesion"): "training", "validation" or "test".
        leaks: by partition.
        notes: by partition: repairs, and the test clusters.
    """

    key: str
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


def divide(run: Run, settings: SimilaritySettings, cohort: Cohort, clusters: Clusters, say: Say) -> Parts:
    """Both partitions, their leaks and repairs."""
    path = run.path("partition.csv")
    chosen = settings.partition
    within = np.flatnonzero(cohort.records["source"].isin(list(chosen.sources)).to_numpy()[clusters.places])
    records = cohort.records.iloc[clusters.places[within]].reset_index(drop=True)
    records = records.assign(cluster=clusters.cluster[within])
    made: dict[str, Partition] = {}

    def work(_: Path) -> list[Path]:
        for split in SPLITS:  # both, whichever is trained on: another choice of them changes no student
            made[split] = draw(settings, records, split)
        run.note(partition={split: said_of(one) for split, one in made.items()})
        columns = {f"side_{split}": one.side for split, one in made.items()}
        return [write_csv(path, records[["image_id", "source", "label", "group", "cluster"]].assign(**columns))]

    asked = {name: value for name, value in plain(chosen).items() if name != "splits"}
    inputs = {"clusters": clusters.key, "partition": asked, "seed": settings.seed}
    key = run.step("partition", inputs, work)
    found = pd.read_csv(path, dtype={"image_id": str})
    records = records.assign(**{f"side_{split}": found[f"side_{split}"].to_numpy() for split in SPLITS})
    notes = {split: tuple(lines) for split, lines in run.record().get("partition", {}).items()}
    leaks = {split: find_leaks(cohort, clusters.places[within], records, split) for split in settings.chosen_splits()}
    for split in settings.chosen_splits():
        sizes = records.assign(part=Parts(key, records, {}, {}).part(split))["part"].value_counts()
        say(f"partition {WORDS[split]}: " + ", ".join(f"{name} {count:,}" for name, count in sizes.items()))
        for line in (*notes.get(split, ()), *(f"LEAK: {line}" for line in leak_lines(leaks[split], shown=3))):
            say(f"  {line}")
    run.note(leaks={split: count_kinds(found) for split, found in leaks.items()})
    return Parts(key, records, leaks, notes)


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
    )


def said_of(partition: Partition) -> list[str]:
    """What a reader must know of a partition: its test clusters, repairs, and classes that no test holds."""
    lines = [
        f"test clusters of {source}: {', '.join(map(str, members))}"
        for source, members in partition.test_clusters.items()
    ]
    lines += [f"repaired: {line}" for line in partition.repairs]
    return lines + [f"not in the test: {', '.join(partition.untested)}"] * bool(partition.untested)


def find_leaks(cohort: Cohort, places: np.ndarray, records: pd.DataFrame, split: str) -> tuple[Leak, ...]:
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
