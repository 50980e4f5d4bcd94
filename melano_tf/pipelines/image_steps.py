"""The steps on images that recipes share: tables read or phantoms drawn, files decoded into a cache, copies found."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pandas as pd
from tqdm import tqdm

from melano_tf.dermoscopy.duplicates import (
    DuplicateSettings,
    duplicate_pairs,
    fingerprints,
    listed_pairs,
    paths_of,
    same_content,
)
from melano_tf.dermoscopy.isic import Findings, read_isic
from melano_tf.dermoscopy.isic_images import ImageSettings
from melano_tf.dermoscopy.phantom import draw_dermoscopy
from melano_tf.dermoscopy.phantom_cohort import PhantomDermoscopySettings
from melano_tf.errors import InputError
from melano_tf.pipelines.image_settings import ImageCacheSettings
from melano_tf.pipelines.images import ImageCache, cache_images, prune_cache
from melano_tf.workspace import Run, atomic, digest, plain

Say = Callable[[str], None]


def read_images(
    run: Run,
    tables: Sequence[Path],
    folders: Sequence[Path],
    phantom: PhantomDermoscopySettings,
    seed: int,
    max_pixels: int,
    workers: int,
    say: Say,
) -> tuple[pd.DataFrame, Findings, Path]:
    """The records of the user's tables, or of phantom images drawn now; what was found is said and noted.

    Args:
        tables: the official files; none: phantoms are drawn into the run's folder.
        folders: where the images lie.
        phantom, seed: what is drawn.
        max_pixels: of the largest image that is used.
        workers: threads and processes.

    Returns:
        The records (also those without a file, `path` None), the findings, and the first table, for messages.

    Raises:
        InputError: as `dermoscopy.isic.read_isic`.
    """
    if not tables:
        folder = run.only_folder("phantoms", digest([plain(phantom), seed]))
        with tqdm(desc="drawing phantom images", unit="image", leave=False) as bar:
            drawn = draw_dermoscopy(folder, phantom, seed, workers, bar.update)
        tables, folders = tuple(drawn.tables.values()), (drawn.images,)
    records, findings = read_isic(tables, folders, ImageSettings(max_pixels=max_pixels, threads=workers))
    for line in findings.lines():
        say(f"  {line}")
    run.note(
        excluded={
            "missing": list(findings.missing),
            "unreadable": [list(pair) for pair in findings.unreadable],
            "unlabelled": list(findings.unlabelled),
        }
    )
    return records, findings, Path(tables[0])


def checksums(run: Run, records: pd.DataFrame) -> dict[str, str]:
    """SHA-256 of each image's file, by image."""
    files = dict(zip(records["image_id"], map(Path, records["path"]), strict=True))
    total = sum(file.stat().st_size for file in files.values())
    with tqdm(total=total, desc="checksums", unit="B", unit_scale=True, leave=False) as bar:
        sums = run.checksums(files.values(), bar.update)
    return {name: sums[str(file)] for name, file in files.items()}


def decode_images(
    run: Run,
    records: pd.DataFrame,
    sums: Mapping[str, str],
    store: ImageCacheSettings,
    folder: Path | None,
    workers: int,
    say: Say,
    unusable: Callable[[ImageCache], Mapping[str, str]] = lambda cache: {},
) -> tuple[pd.DataFrame, ImageCache, str]:
    """Decode every image into the cache, as the step "images"; what cannot be used is left out and named.

    Args:
        records: with image_id and path.
        sums: SHA-256 of each file, by image.
        store: how images are kept.
        folder: of a cache that several runs share; None: the run's own.
        workers: threads.
        unusable: {image: why} of decoded images that are of no use either.

    Returns:
        The records that are left, the cache, and the step's key.

    Raises:
        InputError: no image is left.
    """
    table = run.path("images.csv")
    place = folder or run.folder / "images"
    files = dict(zip(records["image_id"], records["path"], strict=True))

    def decode(show: Callable[[int], object]) -> ImageCache:
        return cache_images(files, sums, store, place, workers, show)

    def work(_: Path) -> list[Path]:
        with tqdm(total=len(files), desc="decoding images", unit="image", leave=False) as bar:
            cache = decode(bar.update)
        found = pd.DataFrame({"image_id": cache.image_ids, "aspect": cache.aspects.round(4)})
        reasons = {**cache.unreadable, **unusable(cache)}
        with atomic(table) as temporary:
            found.assign(unreadable=found["image_id"].map(reasons)).to_csv(temporary, index=False)
        return [table]

    key = run.step("images", {"files": digest(dict(sums)), "store": plain(store)}, work)
    cache = decode(lambda images: None)  # all of it is there, unless somebody cleared the folder
    if folder is None:
        prune_cache(place, cache)
    told = pd.read_csv(table, dtype={"image_id": str, "unreadable": str}).dropna(subset="unreadable")
    reasons = dict(zip(told["image_id"], told["unreadable"], strict=True))
    run.note(undecodable=reasons)
    for name, why in reasons.items():
        say(f"  left out: {name}: {why}")
    if len(reasons) == len(files):
        raise InputError("not one image can be used; see the reasons above")
    return records[~records["image_id"].isin(list(reasons))].reset_index(drop=True), cache, key


def find_copies(
    run: Run,
    records: pd.DataFrame,
    sums: Mapping[str, str],
    listed: Sequence[tuple[str, str]],
    max_pixels: int,
    workers: int,
    near: bool = True,
) -> pd.DataFrame:
    """Pairs of images that are the same or nearly so, by content, by perceptual hash and of an official list.

    Args:
        records: with image_id and path.
        sums: SHA-256 of each file, by image.
        listed: the official list.
        max_pixels: of the largest image that is read.
        workers: threads.
        near: look for near copies too, which reads every file.

    Returns:
        The columns of `dermoscopy.duplicates.duplicate_pairs`.
    """
    table = run.path("copies.csv")
    names = records["image_id"].tolist()

    def work(_: Path) -> list[Path]:
        if near:
            chosen = DuplicateSettings(max_pixels=max_pixels, threads=workers)
            with tqdm(total=len(records), desc="looking for copies", unit="image", leave=False) as bar:
                prints = fingerprints(paths_of(names, records["path"]), chosen, bar.update)
            found = duplicate_pairs(prints, chosen)
        else:
            found = same_content(names, sums)
        with atomic(table) as temporary:
            pd.concat([found, listed_pairs(listed, names)], ignore_index=True).to_csv(temporary, index=False)
        return [table]

    inputs = {"files": digest({name: sums[name] for name in names}), "listed": digest(listed), "near": near}
    run.step("copies", inputs, work)
    return pd.read_csv(table, dtype={"image_1": str, "image_2": str, "kind": str})
