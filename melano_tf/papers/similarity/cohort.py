"""The first step: records, the resize to one size, and copies (section "Pre-processing")."""

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from melano_tf.dermoscopy.isic import Findings
from melano_tf.dermoscopy.isic_images import ImageHeader
from melano_tf.errors import InputError
from melano_tf.papers.choices import workers
from melano_tf.papers.similarity.settings import SimilaritySettings
from melano_tf.pipelines.edited import even, stored
from melano_tf.pipelines.image_steps import checksums, decode_images, find_copies, read_images
from melano_tf.pipelines.images import ImageCache
from melano_tf.specs import load_spec
from melano_tf.splits import joined_groups, owner_groups, pair_places
from melano_tf.workspace import Run, digest, seed_for

Say = Callable[[str], None]
DATASET = "isic2019"


@dataclass(frozen=True)
class Cohort:
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
        key: of the images and records.
    """

    everything: pd.DataFrame
    records: pd.DataFrame
    classes: tuple[str, ...]
    headers: Mapping[str, ImageHeader]
    cache: ImageCache
    pairs: Mapping[str, list[tuple[int, int]]]
    key: str

    def of(self, sources: tuple[str, ...]) -> np.ndarray:
        """Places in `records` of images of these sources, in order."""
        return np.flatnonzero(self.records["source"].isin(list(sources)).to_numpy())

    def names(self, places: np.ndarray) -> list[str]:
        """Image names at these places."""
        return list(self.records["image_id"].to_numpy()[places])


def prepare_cohort(run: Run, settings: SimilaritySettings, say: Say) -> Cohort:
    """Read the tables, decode and resize the images, and find copies."""
    everything, findings = read_records(run, settings, say)
    usable = everything[everything["path"].notna()].reset_index(drop=True)
    sums, threads = checksums(run, usable), workers(settings)
    usable, cache, key = decode_images(
        run, usable, sums, settings.store, settings.cache, threads, say, unusable=of_one_colour
    )
    copies = find_copies(run, usable, sums, findings.listed_duplicates, settings.store.max_pixels, threads)
    image_ids = usable["image_id"].tolist()
    pairs = pair_places(copies, image_ids)
    groups = joined_groups(owner_groups(usable["lesion"].tolist(), image_ids), itertools.chain(*pairs.values()))
    classes = tuple(str(name) for name in load_spec(DATASET)["labels"])
    target = usable["label"].map({name: index for index, name in enumerate(classes)}).astype("int64")
    records = usable.assign(target=target, group=groups)
    facts = records[["image_id", "source", "target", "group"]].to_numpy().tolist()
    return Cohort(everything, records, classes, findings.headers or {}, cache, pairs, digest([key, facts]))


def read_records(run: Run, settings: SimilaritySettings, say: Say) -> tuple[pd.DataFrame, Findings]:
    """The records of the user's tables, or of phantom images drawn now.

    Raises:
        InputError: the tables are not ISIC 2019's, or name no lesions.
    """
    seed = seed_for(settings.seed, "phantoms")
    largest, threads = settings.store.max_pixels, workers(settings)
    records, findings, table = read_images(
        run, settings.table, settings.images, settings.phantom, seed, largest, threads, say
    )
    if findings.dataset != DATASET:
        raise InputError(f"{table}: a table of {findings.dataset}; this paper is about ISIC 2019's eight classes")
    if records["lesion"].isna().all():
        raise InputError(
            f"{table}: without lesions and sources; give ISIC_2019_Training_Metadata.csv after the ground truth"
        )
    there = records["path"].notna()
    by_source = records[there]["source"].value_counts()
    counted = ", ".join(f"{name} {count:,}" for name, count in by_source.items())
    say(f"images    {int(there.sum()):,} of {len(records):,} rows: {counted}")
    return records.reset_index(drop=True), findings


def of_one_colour(cache: ImageCache) -> dict[str, str]:
    """Images that show nothing, by name: all black, for example."""
    names = [name for name in cache.image_ids if name not in cache.unreadable]
    blank = []
    for rows, pixels in stored(cache, cache.rows(names)):
        blank += [cache.image_ids[row] for row, image in zip(rows, pixels, strict=True) if even(image)]
    return dict.fromkeys(blank, "of one colour (all black, for example): there is nothing to see")
