"""The first step: records, the resize to one size, and copies (section "Pre-processing")."""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from melano_tf.dermoscopy.image_files import ImageHeader
from melano_tf.papers.image_steps import ImageRecords, PaperTables, copies_of, usable_images
from melano_tf.papers.shell import Looked, Work
from melano_tf.pipelines.image_cache import ImageCache
from melano_tf.pipelines.replaced_images import even, stored
from melano_tf.runs.settings_digest import plain
from melano_tf.specs import load_spec
from melano_tf.splits.undivided_groups import joined_groups, owner_groups, pair_places

DATASET = "isic2019"
TABLES = PaperTables(
    DATASET,
    "ISIC 2019's eight classes",
    "without lesions and sources; give ISIC_2019_Training_Metadata.csv after the ground truth",
)
extent = TABLES.extent


@dataclass(frozen=True)
class SimilarityImages:
    """What the tables say, and the images that can be used.

    Attributes:
        everything: one row a labelled image of the tables: image_id, path (None without a file), label, lesion, age,
            sex, site, source, site_written.
        records: those whose image was decoded, with target (class index) and group (lesion, joined with those that
            share a copy of an image).
        classes: names, in the order of the targets.
        headers: width and height of each file, by image.
        cache: the images, resized.
        pairs: places (in `records`) of two images that are copies, by kind ("exact", "near").
    """

    everything: pd.DataFrame
    records: pd.DataFrame
    classes: tuple[str, ...]
    headers: Mapping[str, ImageHeader]
    cache: ImageCache
    pairs: Mapping[str, list[tuple[int, int]]]

    def of(self, sources: tuple[str, ...]) -> np.ndarray:
        """Places in `records` of images of these sources, in order."""
        return np.flatnonzero(self.records["source"].isin(list(sources)).to_numpy())

    def names(self, places: np.ndarray) -> list[str]:
        """Image names at these places."""
        return list(self.records["image_id"].to_numpy()[places])


def class_names() -> tuple[str, ...]:
    """ISIC 2019's eight classes, in the order of the targets."""
    return tuple(str(name) for name in load_spec(DATASET)["labels"])


def said_images(work: Work, found: ImageRecords) -> None:
    """Say how many images there are of each source. Raises InputError as `PaperTables.check`."""
    TABLES.check(found.table, found.records, found.findings)
    counted = ", ".join(f"{name} {count:,}" for name, count in found.there["source"].value_counts().items())
    work.say(f"images    {len(found.there):,} of {len(found.records):,} rows: {counted}")


def gather(work: Work) -> Looked:
    """The images that can be used, and what belongs together: a lesion, and lesions that share a copy of an image."""
    found: ImageRecords = work.value("read")
    usable, cache = usable_images(work, work.settings.store)
    image_ids = usable["image_id"].tolist()
    pairs = pair_places(copies_of(work), image_ids)
    groups = joined_groups(owner_groups(usable["lesion"].tolist(), image_ids), itertools.chain(*pairs.values()))
    target = usable["label"].map({name: index for index, name in enumerate(class_names())}).astype("int64")
    records = usable.assign(target=target, group=groups)
    everything = found.records.reset_index(drop=True)
    cohort = SimilarityImages(everything, records, class_names(), found.findings.headers or {}, cache, pairs)
    facts = records[["image_id", "source", "target", "group"]].assign(file=records["image_id"].map(found.sums))
    return Looked(cohort, [plain(work.settings.store), facts.to_numpy().tolist()])


def of_one_colour(cache: ImageCache) -> dict[str, str]:
    """Images that show nothing, by name: all black, for example."""
    names = [name for name in cache.image_ids if name not in cache.unreadable]
    blank = []
    for rows, pixels in stored(cache, cache.rows(names)):
        blank += [cache.image_ids[row] for row, image in zip(rows, pixels, strict=True) if even(image)]
    return dict.fromkeys(blank, "of one colour (all black, for example): there is nothing to see")
