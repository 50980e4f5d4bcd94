"""The first step: records, the resize to one size, and copies (section "Pre-processing")."""

import itertools
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

from melano_tf.dermoscopy.duplicates import DuplicateSettings, duplicate_pairs, fingerprints, paths_of
from melano_tf.dermoscopy.isic import Findings, read_isic
from melano_tf.dermoscopy.isic_images import ImageHeader, ImageSettings
from melano_tf.dermoscopy.phantom import draw_dermoscopy
from melano_tf.errors import InputError
from melano_tf.papers.similarity.settings import SimilaritySettings
from melano_tf.pipelines.edited import even, stored
from melano_tf.pipelines.images import ImageCache, cache_images, prune_cache
from melano_tf.specs import load_spec
from melano_tf.splits import joined_groups, owner_groups, pair_places
from melano_tf.workspace import Run, atomic, digest, plain, seed_for

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


def workers(settings: SimilaritySettings) -> int:
    """Threads and processes for images: as set, or one a core."""
    return settings.workers or os.cpu_count() or 1


def prepare_cohort(run: Run, settings: SimilaritySettings, say: Say) -> Cohort:
    """Read the tables, decode and resize the images, and find copies."""
    everything, findings = read_records(run, settings, say)
    usable = everything[everything["path"].notna()].reset_index(drop=True)
    files = dict(zip(usable["image_id"], map(Path, usable["path"]), strict=True))
    with tqdm(total=sum(f.stat().st_size for f in files.values()), desc="checksums", unit="B", leave=False) as bar:
        by_file = run.checksums(files.values(), bar.update)
    sums = {name: by_file[str(file)] for name, file in files.items()}
    usable, cache, key = resize_images(run, settings, usable, sums, say)
    copies = find_copies(run, settings, usable, {name: sums[name] for name in usable["image_id"]})
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
    tables, folders = settings.table, settings.images
    if not tables:
        seed = seed_for(settings.seed, "phantoms")
        folder = run.only_folder("phantoms", digest([plain(settings.phantom), seed]))
        with tqdm(desc="drawing phantom images", unit="image", leave=False) as bar:
            drawn = draw_dermoscopy(folder, settings.phantom, seed, workers(settings), bar.update)
        tables, folders = tuple(drawn.tables.values()), (drawn.images,)
    judged = ImageSettings(max_pixels=settings.store.max_pixels, threads=workers(settings))
    records, findings = read_isic(tables, folders, judged)
    for line in findings.lines():
        say(f"  {line}")
    if findings.dataset != DATASET:
        raise InputError(f"{tables[0]}: a table of {findings.dataset}; this paper is about ISIC 2019's eight classes")
    if records["lesion"].isna().all():
        raise InputError(
            f"{tables[0]}: without lesions and sources; give ISIC_2019_Training_Metadata.csv after the ground truth"
        )
    run.note(
        excluded={
            "missing": list(findings.missing),
            "unreadable": [list(pair) for pair in findings.unreadable],
            "unlabelled": list(findings.unlabelled),
        }
    )
    there = records["path"].notna()
    by_source = records[there]["source"].value_counts()
    counted = ", ".join(f"{name} {count:,}" for name, count in by_source.items())
    say(f"images    {int(there.sum()):,} of {len(records):,} rows: {counted}")
    return records.reset_index(drop=True), findings


def resize_images(
    run: Run, settings: SimilaritySettings, records: pd.DataFrame, sums: Mapping[str, str], say: Say
) -> tuple[pd.DataFrame, ImageCache, str]:
    """Decode every image into the cache at one size; what turns out damaged is left out and named."""
    folder = settings.cache or run.folder / "images"
    table = run.path("images.csv")
    files = dict(zip(records["image_id"], records["path"], strict=True))

    def decode(show: Callable[[int], object]) -> ImageCache:
        return cache_images(files, sums, settings.store, folder, workers(settings), show)

    def work(_: Path) -> list[Path]:
        with tqdm(total=len(files), desc="resizing images", unit="image", leave=False) as bar:
            cache = decode(bar.update)
        found = pd.DataFrame({"image_id": cache.image_ids, "aspect": cache.aspects.round(4)})
        reasons = {**cache.unreadable, **of_one_colour(cache)}
        with atomic(table) as temporary:
            found.assign(unreadable=found["image_id"].map(reasons)).to_csv(temporary, index=False)
        return [table]

    key = run.step("resize", {"files": digest(dict(sums)), "store": plain(settings.store)}, work)
    cache = decode(lambda images: None)  # all of it is there, unless somebody cleared the folder
    if settings.cache is None:
        prune_cache(folder, cache)
    table_read = pd.read_csv(table, dtype={"image_id": str, "unreadable": str}).dropna(subset="unreadable")
    unusable = dict(zip(table_read["image_id"], table_read["unreadable"], strict=True))
    run.note(undecodable=unusable)
    for name, why in unusable.items():
        say(f"  left out: {name}: {why}")
    if len(unusable) == len(files):
        raise InputError("not one image can be used; see the reasons above")
    return records[~records["image_id"].isin(list(unusable))].reset_index(drop=True), cache, key


def of_one_colour(cache: ImageCache) -> dict[str, str]:
    """Images that show nothing, by name: all black, for example."""
    names = [name for name in cache.image_ids if name not in cache.unreadable]
    blank = []
    for rows, pixels in stored(cache, cache.rows(names)):
        blank += [cache.image_ids[row] for row, image in zip(rows, pixels, strict=True) if even(image)]
    return dict.fromkeys(blank, "of one colour (all black, for example): there is nothing to see")


def find_copies(run: Run, settings: SimilaritySettings, records: pd.DataFrame, sums: Mapping[str, str]) -> pd.DataFrame:
    """Pairs of images that are the same or nearly so, by content and by perceptual hash."""
    table = run.path("copies.csv")

    def work(_: Path) -> list[Path]:
        chosen = DuplicateSettings(max_pixels=settings.store.max_pixels, threads=workers(settings))
        with tqdm(total=len(records), desc="looking for copies", unit="image", leave=False) as bar:
            prints = fingerprints(paths_of(records["image_id"], records["path"]), chosen, bar.update)
        with atomic(table) as temporary:
            duplicate_pairs(prints, chosen).to_csv(temporary, index=False)
        return [table]

    run.step("copies", {"files": digest(dict(sums))}, work)
    return pd.read_csv(table, dtype={"image_1": str, "image_2": str, "kind": str})
