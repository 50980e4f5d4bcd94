"""The steps on images that recipes share: tables read or phantoms drawn, files decoded into a cache, copies found."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

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
from melano_tf.dermoscopy.image_files import ImageSettings
from melano_tf.dermoscopy.isic_records import Findings, read_isic
from melano_tf.errors import InputError
from melano_tf.papers.audit_cases import CASES, write_cases
from melano_tf.papers.costs import images_extent
from melano_tf.papers.plan import Extent, Plan
from melano_tf.papers.shell import Looked, Work
from melano_tf.phantoms.skin.isic_data_sets import draw_dermoscopy
from melano_tf.pipelines.image_cache import ImageCache, cache_images, prune_cache
from melano_tf.pipelines.image_settings import ImageCacheSettings
from melano_tf.runs.atomic_files import atomic
from melano_tf.runs.file_integrity import read_words
from melano_tf.runs.input_checksums import file_checksums
from melano_tf.runs.settings_digest import digest, plain, seed_for
from melano_tf.splits.undivided_groups import alike_lines, case_groups


@dataclass(frozen=True)
class ImageRecords:
    """What the tables say, and what the files hold.

    Attributes:
        records: one row an image, as `dermoscopy.isic_records.read_isic` gives them; `path` is None without a file.
        findings: what was found wrong.
        table: the first table, for messages.
        sums: SHA-256 of each file that is there, by image.
    """

    records: pd.DataFrame
    findings: Findings
    table: Path
    sums: Mapping[str, str]

    @property
    def there(self) -> pd.DataFrame:
        """The records that have a file."""
        return self.records[self.records["path"].notna()].reset_index(drop=True)


@dataclass(frozen=True)
class PaperTables:
    """Which tables a paper is about.

    Attributes:
        dataset: the name of their description.
        about: the same in words.
        lesions: what to do about tables that name no lesions.
    """

    dataset: str
    about: str
    lesions: str

    def check(self, table: Path, records: pd.DataFrame, findings: Findings) -> None:
        """Raises InputError: these are tables of another data set, or name no lesions."""
        if findings.dataset != self.dataset:
            raise InputError(f"{table}: a table of {findings.dataset}; this paper is about {self.about}")
        if records["lesion"].isna().all():
            raise InputError(f"{table}: {self.lesions}")

    def extent(self, settings: Any) -> Extent:
        """How many images there are. Raises InputError as `check`."""
        return images_extent(settings, self.check)


Check = Callable[[Work, ImageRecords], None]
Unusable = Callable[[ImageCache], Mapping[str, str]]


def nothing_unusable(cache: ImageCache) -> Mapping[str, str]:
    """Every image that could be decoded is of use."""
    return {}


def add_image_steps(
    plan: Plan,
    group: str,
    store: ImageCacheSettings,
    check: Check,
    near: bool | None = True,
    unusable: Unusable = nothing_unusable,
) -> tuple[str, ...]:
    """Add the steps "read", "images" and "copies"; returns their names.

    Args:
        plan: where to.
        group: their word of `--steps`.
        store: how images are kept.
        check: says what was read, and raises InputError where the paper needs something else.
        near: near copies too, which reads every file; False: only identical ones; None: none are looked for.
        unusable: {image: why} of decoded images that are of no use.
    """
    read = plan.step("read", read_images, check, group=group, always=True)
    images = plan.step(
        "images", decode_images, store, unusable, needs=[read], group=group, depends={"store": plain(store)}, here=True
    )
    if near is None:
        return read, images
    copies = plan.step(
        "copies", find_copies, store, near, needs=[images], group=group, depends={"near": near}, here=True
    )
    return read, images, copies


def read_images(work: Work, check: Check) -> Looked:
    """The records of the user's tables, or of phantom images drawn now; what was found is said and noted.

    Raises:
        InputError: as `dermoscopy.isic_records.read_isic`, or by `check`.
    """
    settings, run = work.settings, work.run
    tables, folders = settings.table, settings.images
    if not tables:
        seed = seed_for(settings.seed, "phantoms")
        folder = run.only_folder("phantoms", digest([plain(settings.phantom), seed]))
        with tqdm(desc="drawing phantom images", unit="image", leave=False) as bar:
            drawn = draw_dermoscopy(folder, settings.phantom, seed, work.workers, bar.update)
        tables, folders = tuple(drawn.tables.values()), (drawn.images,)
    judged = ImageSettings(max_pixels=settings.store.max_pixels, threads=work.workers)
    records, findings = read_isic(tables, folders, judged)
    for line in findings.lines():
        work.say(f"  {line}")
    excluded = {
        "missing": list(findings.missing),
        "unreadable": [list(pair) for pair in findings.unreadable],
        "unlabelled": list(findings.unlabelled),
    }
    run.note(excluded=excluded)
    found = ImageRecords(records, findings, Path(tables[0]), {})
    check(work, found)  # what is wrong with the tables is known before all files are read
    found = replace(found, sums=checksums(work, found.there))
    write_cases(work, _cases(found))
    for line in alike_lines({"patient": found.there["patient"], "lesion": found.there["lesion"]}):
        work.say(f"  note: {line}")
    content = records.drop(columns="path").to_csv(index=False)
    return Looked(found, [content, found.sums, findings.listed_duplicates])


def _cases(found: ImageRecords) -> pd.DataFrame:
    """The images as `write_cases` wants them."""
    there = found.there
    frame = there[["image_id", "patient", "lesion"]].assign(content=there["image_id"].map(found.sums))
    return frame.rename(columns={"image_id": "case"})[list(CASES)].astype(object)


def image_groups(work: Work) -> dict[str, str]:
    """{image: what must not be divided from it}: its patient and lesion, joined with those of its copies."""

    def read() -> dict[str, str]:
        pairs = copies_of(work) if work.has("copies") else None
        joined = [] if pairs is None else list(zip(pairs["image_1"], pairs["image_2"], strict=True))
        return case_groups(_cases(work.value("read")), joined)

    return work.once("read", read)


def checksums(work: Work, records: pd.DataFrame) -> dict[str, str]:
    """SHA-256 of each image's file, by image."""
    files = dict(zip(records["image_id"], map(Path, records["path"]), strict=True))
    total = sum(file.stat().st_size for file in files.values())
    with tqdm(total=total, desc="checksums", unit="B", unit_scale=True, leave=False) as bar:
        sums = file_checksums(work.run.folder, files.values(), bar.update)
    return {name: sums[str(file)] for name, file in files.items()}


def decode_images(work: Work, store: ImageCacheSettings, unusable: Unusable) -> list[Path]:
    """Decode every image into the cache; what cannot be used is listed in images.csv, with the reason."""
    found: ImageRecords = work.value("read")
    with tqdm(total=len(found.there), desc="decoding images", unit="image", leave=False) as bar:
        cache = cached(work, store, bar.update)
    table = work.path("images.csv")
    rows = pd.DataFrame({"image_id": cache.image_ids, "aspect": cache.aspects.round(4)})
    with atomic(table) as temporary:
        rows.assign(unreadable=rows["image_id"].map({**cache.unreadable, **unusable(cache)})).to_csv(
            temporary, index=False
        )
    return [table]


def cached(work: Work, store: ImageCacheSettings, show: Callable[[int], object]) -> ImageCache:
    """The decoded images; what is not there yet, or no more, is decoded."""
    found: ImageRecords = work.value("read")
    files = dict(zip(found.there["image_id"], found.there["path"], strict=True))
    place = work.settings.cache or work.run.folder / "images"
    return cache_images(files, found.sums, store, place, work.workers, show, work.engine)


def usable_images(work: Work, store: ImageCacheSettings) -> tuple[pd.DataFrame, ImageCache]:
    """The records of the images that can be used, and the cache; what cannot is said, once.

    Raises:
        InputError: no image is left.
    """
    return work.once("images", lambda: _usable_images(work, store))


def _usable_images(work: Work, store: ImageCacheSettings) -> tuple[pd.DataFrame, ImageCache]:
    found: ImageRecords = work.value("read")
    cache = cached(work, store, lambda images: None)  # all of it is there, unless somebody cleared the folder
    if work.settings.cache is None:
        prune_cache(work.run.folder / "images", cache)
    told = read_words(work.path("images.csv")).query("unreadable != ''")
    reasons = dict(zip(told["image_id"], told["unreadable"], strict=True))
    work.run.note(undecodable=reasons)
    for name, why in reasons.items():
        work.say(f"  left out: {name}: {why}")
    if len(reasons) == len(found.there):
        raise InputError("not one image can be used; see the reasons above")
    left = ~found.there["image_id"].isin(list(reasons))
    return found.there[left].reset_index(drop=True), cache


def find_copies(work: Work, store: ImageCacheSettings, near: bool) -> list[Path]:
    """Pairs of images that are the same or nearly so, by content, by perceptual hash and of an official list.

    What cannot be hashed is said; of such an image only identical copies are found.
    """
    found: ImageRecords = work.value("read")
    records, _ = usable_images(work, store)
    table, names = work.path("copies.csv"), records["image_id"].tolist()
    pairs = same_content(names, found.sums)
    if near:
        chosen, limit = DuplicateSettings(threads=work.workers), work.settings.store.max_pixels
        with tqdm(total=len(names), desc="looking for copies", unit="image", leave=False) as bar:
            prints = fingerprints(paths_of(names, records["path"]), chosen, bar.update, limit)
        lost = [name for name, _ in prints.unreadable]
        if lost:
            shown = f"{', '.join(lost[:5])}{', …' if len(lost) > 5 else ''}"
            work.say(f"  {len(lost):,} images without a hash, of which only identical copies are found: {shown}")
        # Those of two images with a hash are among the others already.
        unhashed = pairs[pairs["image_1"].isin(lost) | pairs["image_2"].isin(lost)]
        pairs = pd.concat([duplicate_pairs(prints, chosen), unhashed], ignore_index=True)
    with atomic(table) as temporary:
        pd.concat([pairs, listed_pairs(found.findings.listed_duplicates, names)], ignore_index=True).to_csv(
            temporary, index=False
        )
    return [table]


def copies_of(work: Work) -> pd.DataFrame:
    """The pairs of copies, with the columns of `dermoscopy.duplicates.duplicate_pairs`, as text."""
    return work.once("copies", lambda: read_words(work.path("copies.csv")))
