"""The first steps: records, decoded images, copies, and who trains and judges whom (section IV-A)."""

import functools
import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from melano_tf.dermoscopy.isic_records import Findings
from melano_tf.errors import InputError
from melano_tf.models.metadata_layer import MetadataCode
from melano_tf.papers.costs import images_extent
from melano_tf.papers.image_steps import ImageRecords, copies_of, usable_images
from melano_tf.papers.plan import Extent
from melano_tf.papers.shell import Looked, Work
from melano_tf.papers.zoome.settings import ZoomeSettings
from melano_tf.pipelines.image_cache import ImageCache
from melano_tf.runs.settings_digest import digest, seed_for
from melano_tf.specs import load_spec
from melano_tf.splits.folds import grouped_folds, plain_folds
from melano_tf.splits.inner_holdout import inner_holdout
from melano_tf.splits.leaks import Leak, LeakError, image_leaks, leak_lines
from melano_tf.splits.undivided_groups import joined_groups, owner_groups, pair_places

CODE = MetadataCode()


@dataclass(frozen=True)
class ZoomeImages:
    """The images that can be used, decoded, and their folds.

    Attributes:
        records: one row an image: image_id, path, label, target (0 or 1), lesion, patient, the fields of metadata,
            source, group (what must not be divided), fold (from 1).
        classes: names of the classes: of 0, of 1.
        cache: the decoded images.
        metadata: float32 (n, M), by `CODE`.
        leaks: what stands on two sides of the folds (only with --allow-leaks).
        unit: "patient" or "lesion": what a group is.
    """

    records: pd.DataFrame
    classes: tuple[str, str]
    cache: ImageCache
    metadata: np.ndarray
    leaks: tuple[Leak, ...]
    unit: str

    def places(self, part: str, fold: int | None) -> np.ndarray:
        """Rows of "train" or "judge" of a fold (1, 2, …); without one everything trains, and nothing is judged."""
        judged = (self.records["fold"] == fold).to_numpy() if fold is not None else np.zeros(len(self.records), bool)
        return np.flatnonzero(judged if part == "judge" else ~judged)


def check_tables(settings: ZoomeSettings, table: Path, records: pd.DataFrame, findings: Findings) -> None:
    """What the tables alone tell: whose the images are, what is told of them, and that they can be divided.

    Raises:
        InputError: no image names its patient (lesion), so that folds by them would be by image and nobody would see a
            leak; no image has any of the metadata that the paper studies; or a class has too few for the folds.
    """
    spec = load_spec(findings.dataset)
    unit, positive = str(spec["groups"]), str(spec["positive"])
    if records[unit].isna().all():
        more = "the lesion groupings or the metadata" if unit == "lesion" else f"tables with the {unit} of each image"
        raise InputError(f"{table}: names no {unit}s; give {more} as well, as --table FILE FILE")
    if (CODE.encode(CODE.values_of(records)) == CODE.blank(len(records))).all():
        fields = ", ".join(one.name for one in CODE.fields)
        raise InputError(f"{table}: no image has any of {fields}, which this paper is about; give the metadata as well")
    groups = owner_groups(records[unit].tolist(), records["image_id"].tolist())
    labels = classes_of(spec, records["label"] == positive)
    drawn_folds(settings, groups, labels)
    inner_holdout(groups, labels, settings.folds.hold_out, settings.seed)


def extent(settings: ZoomeSettings) -> Extent:
    """How many images there are. Raises InputError as `check_tables`."""
    return images_extent(settings, functools.partial(check_tables, settings))


def names_of(spec: Mapping[str, Any]) -> tuple[str, str]:
    """What the two classes are called: all that is no melanoma, and melanoma."""
    positive = str(spec["positive"])
    if len(spec["labels"]) > 2:
        return f"not {positive}", positive
    return next((name for name in spec["labels"] if name != positive), "other"), positive


def classes_of(spec: Mapping[str, Any], melanoma: Iterable[bool]) -> list[str]:
    """The class of each image."""
    names = names_of(spec)
    return [names[int(each)] for each in melanoma]


def drawn_folds(settings: ZoomeSettings, groups: Sequence[str], labels: Sequence[str]) -> np.ndarray:
    """The fold of each image, from 0, int64 (n,). Raises InputError: too few of a class."""
    seed = seed_for(settings.seed, "folds")
    if settings.folds.by == "patient":
        return grouped_folds(groups, labels, settings.folds.count, seed)
    return plain_folds(labels, settings.folds.count, seed)


def said_images(work: Work, found: ImageRecords) -> None:
    """Say how many images there are, of whom, and how many are melanomas. Raises InputError as `check_tables`."""
    check_tables(work.settings, found.table, found.records, found.findings)
    spec = load_spec(found.findings.dataset)
    positive, unit = str(spec["positive"]), str(spec["groups"])
    there = found.there
    count = int((there["label"] == positive).sum())
    where = work.settings.table[0] if work.settings.table else "phantoms"
    work.say(f"images    {len(there):,} of {there[unit].nunique():,} {unit}s, {count:,} {positive} ({where})")


def divide(work: Work) -> Looked:
    """Divide the images into folds; stop where something stands on two sides, unless that is allowed."""
    settings, run, say = work.settings, work.run, work.say
    records, cache = usable_images(work, settings.store)
    copies, dataset = copies_of(work), work.value("read").findings.dataset
    spec = load_spec(dataset)
    unit, positive = str(spec["groups"]), str(spec["positive"])
    image_ids = records["image_id"].tolist()
    pairs = pair_places(copies, image_ids)
    joins = itertools.chain(*pairs.values()) if settings.folds.join_copies else ()
    groups = joined_groups(owner_groups(records[unit].tolist(), image_ids), joins)
    records = records.assign(target=(records["label"] == positive).astype("int64"))
    classes, labels = names_of(spec), classes_of(spec, records["target"])
    fold = drawn_folds(settings, groups, labels)
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
    metadata = CODE.encode(CODE.values_of(records))
    cohort = ZoomeImages(records, classes, cache, metadata, tuple(leaks), unit)
    content = {"folds": fold.tolist(), "groups": groups, "target": records["target"].tolist()}
    return Looked(cohort, [work.identity("images"), content, digest(metadata.tolist())])
