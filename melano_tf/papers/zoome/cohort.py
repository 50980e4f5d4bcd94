"""The first steps: records, decoded images, copies, and who trains and judges whom (section IV-A)."""

import itertools
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

from melano_tf.dermoscopy.duplicates import (
    PAIR_COLUMNS,
    DuplicateSettings,
    duplicate_pairs,
    fingerprints,
    listed_pairs,
    paths_of,
)
from melano_tf.dermoscopy.isic import Findings, read_isic
from melano_tf.dermoscopy.isic_images import ImageSettings
from melano_tf.dermoscopy.isic_layouts import SEXES, SITES
from melano_tf.dermoscopy.phantom import draw_dermoscopy
from melano_tf.errors import InputError
from melano_tf.models.metadata import MetadataCode
from melano_tf.papers.zoome.settings import ZoomeSettings
from melano_tf.pipelines.images import ImageCache, cache_images, prune_cache
from melano_tf.specs import load_spec
from melano_tf.splits import (
    Leak,
    LeakError,
    grouped_folds,
    image_leaks,
    joined_groups,
    leak_lines,
    owner_groups,
    pair_places,
    plain_folds,
)
from melano_tf.workspace import Run, atomic, digest, plain, seed_for

Say = Callable[[str], None]
CODE = MetadataCode(SITES, SEXES)


@dataclass(frozen=True)
class Cohort:
    """The images that can be used, decoded, and their folds.

    Attributes:
        records: one row an image: image_id, path, label, target (0 or 1), lesion, patient, age, sex, site, source,
            group (what must not be divided), fold (from 1).
        classes: names of the classes: of 0, of 1.
        cache: the decoded images.
        metadata: float32 (n, M), by `CODE`.
        leaks: what stands on two sides of the folds (only with --allow-leaks).
        unit: "patient" or "lesion": what a group is.
        key: of the images and the folds.
    """

    records: pd.DataFrame
    classes: tuple[str, str]
    cache: ImageCache
    metadata: np.ndarray
    leaks: tuple[Leak, ...]
    unit: str
    key: str

    def places(self, part: str, fold: int | None) -> np.ndarray:
        """Rows of "train" or "judge" of a fold (1, 2, …); without one everything trains, and nothing is judged."""
        judged = (self.records["fold"] == fold).to_numpy() if fold is not None else np.zeros(len(self.records), bool)
        return np.flatnonzero(judged if part == "judge" else ~judged)


def workers(settings: ZoomeSettings) -> int:
    """Threads and processes for images: as set, or one a core."""
    return settings.workers or os.cpu_count() or 1


def prepare_cohort(run: Run, settings: ZoomeSettings, say: Say) -> Cohort:
    """Read the tables, decode the images, find copies, and divide the images into folds."""
    records, findings = read_records(run, settings, say)
    sums = checksums(run, records)
    records, cache, images_key = decode_images(run, settings, records, sums, say)
    copies = find_copies(run, settings, records, findings, sums)
    return divide(run, settings, records, cache, copies, findings.dataset, images_key, say)


def read_records(run: Run, settings: ZoomeSettings, say: Say) -> tuple[pd.DataFrame, Findings]:
    """The records of the user's tables, or of phantom images drawn now; those without a file are left out and named."""
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
    spec = load_spec(findings.dataset)
    positive, unit = str(spec["positive"]), str(spec["groups"])
    records = records.assign(target=(records["label"] == positive).astype("int64"))
    usable = records[records["path"].notna()].reset_index(drop=True)
    run.note(
        excluded={
            "missing": list(findings.missing),
            "unreadable": [list(pair) for pair in findings.unreadable],
            "unlabelled": list(findings.unlabelled),
        }
    )
    say(
        f"images    {len(usable):,} of {usable[unit].nunique():,} {unit}s, {int(usable['target'].sum()):,} "
        f"{positive} ({'phantoms' if not settings.table else settings.table[0]})"
    )
    return usable, findings


def checksums(run: Run, records: pd.DataFrame) -> dict[str, str]:
    """SHA-256 of each image's file, by image."""
    files = dict(zip(records["image_id"], map(Path, records["path"]), strict=True))
    total = sum(file.stat().st_size for file in files.values())
    with tqdm(total=total, desc="checksums", unit="B", unit_scale=True, leave=False) as bar:
        sums = run.checksums(files.values(), bar.update)
    return {name: sums[str(file)] for name, file in files.items()}


def decode_images(
    run: Run, settings: ZoomeSettings, records: pd.DataFrame, sums: dict[str, str], say: Say
) -> tuple[pd.DataFrame, ImageCache, str]:
    """Decode every image into the cache; what turns out damaged is left out and named."""
    folder = settings.cache or run.folder / "images"
    table = run.path("images.csv")
    files = dict(zip(records["image_id"], records["path"], strict=True))

    def decode(show: Callable[[int], object]) -> ImageCache:
        return cache_images(files, sums, settings.store, folder, workers(settings), show)

    def work(_: Path) -> list[Path]:
        with tqdm(total=len(files), desc="decoding images", unit="image", leave=False) as bar:
            cache = decode(bar.update)
        found = pd.DataFrame({"image_id": cache.image_ids, "aspect": cache.aspects.round(4)})
        with atomic(table) as temporary:
            found.assign(unreadable=found["image_id"].map(cache.unreadable)).to_csv(temporary, index=False)
        return [table]

    key = run.step("images", {"files": digest(sums), "store": plain(settings.store)}, work)
    cache = decode(lambda images: None)  # all of it is there, unless somebody cleared the folder
    if settings.cache is None:
        prune_cache(folder, cache)
    run.note(undecodable=cache.unreadable)
    for name, why in cache.unreadable.items():
        say(f"  left out: {name}: {why}")
    if len(cache.unreadable) == len(files):
        raise InputError("not one image could be decoded; see the reasons above")
    return records[~records["image_id"].isin(list(cache.unreadable))].reset_index(drop=True), cache, key


def find_copies(
    run: Run, settings: ZoomeSettings, records: pd.DataFrame, findings: Findings, sums: dict[str, str]
) -> pd.DataFrame:
    """Pairs of images that are the same or nearly so, by content, by perceptual hash, and of the official list."""
    table = run.path("copies.csv")

    def work(_: Path) -> list[Path]:
        if settings.folds.near_copies:
            chosen = DuplicateSettings(max_pixels=settings.store.max_pixels, threads=workers(settings))
            with tqdm(total=len(records), desc="looking for copies", unit="image", leave=False) as bar:
                prints = fingerprints(paths_of(records["image_id"], records["path"]), chosen, bar.update)
            found = duplicate_pairs(prints, chosen)
        else:
            found = same_content(records["image_id"].tolist(), sums)
        listed = listed_pairs(findings.listed_duplicates, records["image_id"])
        with atomic(table) as temporary:
            pd.concat([found, listed], ignore_index=True).to_csv(temporary, index=False)
        return [table]

    inputs = {
        "files": digest({name: sums[name] for name in records["image_id"]}),
        "listed": digest(findings.listed_duplicates),
        "near": settings.folds.near_copies,
    }
    run.step("copies", inputs, work)
    return pd.read_csv(table, dtype={"image_1": str, "image_2": str, "kind": str})


def same_content(image_ids: list[str], sums: dict[str, str]) -> pd.DataFrame:
    """Pairs of images whose files are equal, as `dermoscopy.duplicates.duplicate_pairs` gives them."""
    by_content: dict[str, list[str]] = {}
    for name in image_ids:
        by_content.setdefault(sums[name], []).append(name)
    pairs = [(*pair, "exact", 0) for same in by_content.values() for pair in itertools.combinations(same, 2)]
    return pd.DataFrame(pairs, columns=list(PAIR_COLUMNS)).astype({"distance": "int64"})


def divide(
    run: Run,
    settings: ZoomeSettings,
    records: pd.DataFrame,
    cache: ImageCache,
    copies: pd.DataFrame,
    dataset: str,
    images_key: str,
    say: Say,
) -> Cohort:
    """Divide the images into folds; stop where something stands on two sides, unless that is allowed."""
    spec = load_spec(dataset)
    unit, positive = str(spec["groups"]), str(spec["positive"])
    image_ids = records["image_id"].tolist()
    pairs = pair_places(copies, image_ids)
    joins = itertools.chain(*pairs.values()) if settings.folds.join_copies else ()
    groups = joined_groups(owner_groups(records[unit].tolist(), image_ids), joins)
    classes = (next((name for name in spec["labels"] if name != positive), "other"), positive)
    if len(spec["labels"]) > 2:
        classes = (f"not {positive}", positive)
    labels = [classes[target] for target in records["target"]]
    seed = seed_for(settings.seed, "folds")
    if settings.folds.by == "patient":
        fold = grouped_folds(groups, labels, settings.folds.count, seed)
    else:
        fold = plain_folds(labels, settings.folds.count, seed)
    known = {name: records[name].tolist() for name in ("patient", "lesion") if records[name].notna().any()}
    leaks = image_leaks(fold, known, pairs, image_ids)
    if leaks and not settings.allow_leaks:
        raise LeakError.of("the folds leak; choose --folds.by patient, or give --allow-leaks:", leak_lines(leaks))
    records = records.assign(group=groups, fold=fold + 1)
    by_fold = records.groupby("fold")["target"].agg(["size", "sum"])
    melanomas = f"{by_fold['sum'].min()} to {by_fold['sum'].max()}"
    say(
        f"folds     {len(by_fold)} of {by_fold['size'].min():,} to {by_fold['size'].max():,} images, {melanomas} "
        f"{positive}, {'by ' + unit if settings.folds.by == 'patient' else 'by class alone'}"
    )
    for line in leak_lines(leaks):
        say(f"  LEAK: {line}")
    kinds = {kind: sum(leak.kind == kind for leak in leaks) for kind in dict.fromkeys(leak.kind for leak in leaks)}
    run.note(
        folds={str(number): part["image_id"].tolist() for number, part in records.groupby("fold")},
        copies=copies["kind"].value_counts().to_dict(),
        leaks=kinds,
    )
    metadata = CODE.encode(records["age"].to_numpy(), records["sex"].tolist(), records["site"].tolist())
    known_values = {"folds": fold.tolist(), "groups": groups, "target": records["target"].tolist()}
    key = digest([images_key, known_values, digest(metadata.tolist())])
    return Cohort(records, classes, cache, metadata, tuple(leaks), unit, key)
