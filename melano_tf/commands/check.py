"""`check`: what a dermoscopy data set holds, before hours are spent on it."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from melano_tf.dermoscopy.data_set_findings import Inspection, InspectSettings, inspect_records
from melano_tf.dermoscopy.duplicates import DuplicateSettings
from melano_tf.dermoscopy.image_files import MAX_PIXELS, ImageSettings
from melano_tf.dermoscopy.isic_records import read_isic
from melano_tf.errors import InputError
from melano_tf.runs import journal
from melano_tf.runs.atomic_files import write_csv, write_json
from melano_tf.specs import load_spec
from melano_tf.splits.folds import grouped_folds
from melano_tf.splits.leaks import image_leaks, leak_lines
from melano_tf.splits.undivided_groups import joined_groups, owner_groups, pair_places

FILES = ("records.csv", "copies.csv", "check.json")


@dataclass(frozen=True)
class CheckSettings:
    """Counts beside the official ones, missing metadata, unreadable files, EXIF, repeated lesions, copies, folds.

    Takes ISIC 2018, 2019 and 2020 by their official tables, recognised by their headers.
    """

    table: tuple[Path, ...]
    """Official CSV files: the ground truth; also metadata, lesion groupings or the list of duplicates."""
    images: tuple[Path, ...] = ()
    """Folder or folders of the images. Not given: only the tables are looked at."""
    out: Path | None = None
    """Folder for records.csv, copies.csv and check.json, which name everything that is only counted here."""
    folds: int = 10
    """Folds that every class must fill."""
    decode: bool = True
    """Decode every image, which finds damaged pixels and copies; without, files are judged by their headers."""
    max_pixels: int = MAX_PIXELS
    """Images of more pixels than this are refused before decoding."""
    near: DuplicateSettings = field(default_factory=DuplicateSettings)
    """What counts as a nearly identical image."""


def check(settings: CheckSettings, say: Callable[[str], None]) -> int:
    """Show what the data set holds; returns 0 if a run could start, else 2.

    Raises:
        InputError: the tables or folders cannot be used.
    """
    if not settings.table:
        raise InputError("--table: give the ground truth CSV of ISIC 2018, 2019 or 2020")
    if settings.out is not None:
        journal.refuse_mixing(settings.out, {"--table": settings.table, "--images": settings.images})
        journal.check_free(settings.out, *FILES)
    judged = ImageSettings(max_pixels=settings.max_pixels, threads=settings.near.threads)
    records, findings = read_isic(settings.table, settings.images or None, judged)
    inspection = inspect_records(
        records,
        findings,
        InspectSettings(settings.folds, settings.decode and bool(settings.images), settings.near, settings.max_pixels),
        _progress(int(records["path"].notna().sum()) if settings.decode and settings.images else 0),
    )
    for line in inspection.lines():
        say(line)
    faults = [f"class {label}: {count} groups for {folds} folds" for label, count, folds in inspection.small_classes]
    # What a run would divide: with --images, only what can be used of them.
    damaged = [name for name, _ in inspection.damaged]
    used = records[records["path"].notna() & ~records["image_id"].isin(damaged)] if settings.images else records
    if not len(used):
        faults.append("not one image can be used")
    if not faults:
        faults += small_classes(used, inspection.dataset, settings.folds)
    if not faults:
        for line in fold_lines(used, inspection, settings.folds):
            say(f"  {line}")
    if settings.out is not None:
        for path in write_findings(settings.out, records, inspection):
            say(f"wrote {path}")
    for fault in faults:
        say(f"  WRONG  {fault}")
    start = "a run could start"
    if len(used) < len(records):
        start += f" on {len(used):,} images; the other {len(records) - len(used):,} of the table cannot be used"
    say(start if not faults else f"{len(faults)} fault(s); mend them before a run, or ask for fewer folds")
    return 2 if faults else 0


def _progress(total: int) -> Callable[[], object]:
    if not total:
        return lambda: None
    from tqdm import tqdm

    return tqdm(total=total, desc="decoding images", unit="image", leave=False).update


def small_classes(records: pd.DataFrame, dataset: str, folds: int) -> list[str]:
    """What keeps these images from being divided into folds by patient (or lesion): a line, or none."""
    unit = str(load_spec(dataset)["groups"])
    groups = owner_groups(records[unit].tolist(), records["image_id"].tolist())
    try:
        grouped_folds(groups, records["label"].tolist(), folds)
    except InputError as error:
        return [f"of the {len(records):,} images that can be used: " + " ".join(str(error).split())]
    return []


def fold_lines(records: pd.DataFrame, inspection: Inspection, folds: int) -> list[str]:
    """The folds by patient (or lesion) that a run would make, and what would stand on two sides of them."""
    unit = str(load_spec(inspection.dataset)["groups"])
    image_ids = records["image_id"].tolist()
    pairs = inspection.duplicates
    here = pairs["image_1"].isin(image_ids) & pairs["image_2"].isin(image_ids)
    copies = pair_places(pairs[here], image_ids)
    owners = owner_groups(records[unit].tolist(), image_ids)
    known = {name: records[name].tolist() for name in ("patient", "lesion") if records[name].notna().any()}
    together = joined_groups(owners, [pair for found in copies.values() for pair in found])
    ways = {f"by {unit}": owners}
    if together != owners:
        ways[f"by {unit}, copies kept together"] = together
    lines = []
    for words, groups in ways.items():
        try:
            fold = grouped_folds(groups, records["label"].tolist(), folds)
        except InputError as error:
            lines.append(f"{folds} folds {words}: {error}")
            continue
        sizes = pd.crosstab(fold, records["label"].to_numpy())
        spread = ", ".join(f"{sizes[label].min()} to {sizes[label].max()} {label}" for label in sizes)
        total = sizes.sum(axis=1)
        lines.append(f"{folds} folds {words}: {total.min():,} to {total.max():,} images, {spread}")
        lines += [f"  {line}" for line in leak_lines(image_leaks(fold, known, copies, image_ids))]
    return lines


def write_findings(folder: Path, records: pd.DataFrame, inspection: Inspection) -> list[Path]:
    """Write records.csv, copies.csv and check.json; returns their paths."""
    journal.open_folder(folder)
    paths = [folder / name for name in FILES]
    for path, frame in zip(paths, (records, inspection.duplicates), strict=False):
        write_csv(path, frame)
    findings = inspection.findings
    content = {
        "dataset": inspection.dataset,
        "counts": inspection.counts.to_dict("records"),
        "missing": findings.missing,
        "unreadable": inspection.unreadable,
        "unlabelled": findings.unlabelled,
        "unlisted": findings.unlisted,
        "undescribed": findings.undescribed,
        "unused_rows": findings.unused_rows,
        "unused_columns": findings.ignored_columns,
        "exif_orientation": findings.oriented,
        "doubtful": findings.doubtful,
        "repeated_lesions": inspection.repeated_lesions,
        "lesions_of_several_classes": inspection.mixed_lesions,
        "lesions_of_several_patients": inspection.mixed_patients,
        "contradictory_copies": inspection.contradictions.to_dict("records"),
        "copies_across_groups": inspection.strangers.to_dict("records"),
        "classes_too_small": inspection.small_classes,
    }
    write_json(paths[2], content)
    return paths
