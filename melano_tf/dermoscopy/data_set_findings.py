"""What a dermoscopy data set holds: counts beside the official ones, what is missing, repeats or is too small."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from melano_tf.dermoscopy.duplicates import (
    DuplicateSettings,
    duplicate_groups,
    duplicate_pairs,
    fingerprints,
    listed_pairs,
    paths_of,
)
from melano_tf.dermoscopy.image_files import MAX_PIXELS
from melano_tf.dermoscopy.isic_records import Findings
from melano_tf.metadata_fields import NAMES
from melano_tf.specs import load_spec

METADATA = (*NAMES, "lesion", "patient")


@dataclass(frozen=True)
class InspectSettings:
    """What is looked at.

    Attributes:
        folds: number of folds that every class must fill.
        decode: decode every image: finds damaged pixels and duplicates; about 2 to 5 ms an image of 600 x 450.
        duplicates: what counts as a near duplicate.
        max_pixels: images of more pixels are not decoded.
    """

    folds: int = 10
    decode: bool = True
    duplicates: DuplicateSettings = field(default_factory=DuplicateSettings)
    max_pixels: int = MAX_PIXELS


@dataclass(frozen=True)
class Inspection:
    """What a data set holds.

    Attributes:
        dataset: name of its description.
        counts: columns what, found (int64) and official (Int64, missing where the description states none).
        metadata: columns field, missing (int64), share (float64), official (Int64).
        by_class: columns label, images, lesions, patients (int64; 0 where the set does not name them).
        by_source: images, one row a source, one column a class.
        resolutions: columns width, height, images; empty where no header was read.
        repeated_lesions: (lesion, images) of lesions with more than one image.
        mixed_lesions: lesions with images of more than one class.
        mixed_patients: lesions that belong to more than one patient.
        duplicates: pairs: image_1, image_2, kind (exact, near, turned, listed), distance.
        contradictions: pairs of duplicates whose labels differ.
        strangers: pairs of duplicates of different patients (or, without patients, of different lesions).
        small_classes: (label, groups, folds): fewer patients or lesions than folds.
        unreadable: (file, why) of headers, then those of `damaged`.
        damaged: (image, why) of images whose header can be read, and their pixels not; known where they were decoded.
        findings: of the reader.
    """

    dataset: str
    counts: pd.DataFrame
    metadata: pd.DataFrame
    by_class: pd.DataFrame
    by_source: pd.DataFrame
    resolutions: pd.DataFrame
    repeated_lesions: tuple[tuple[str, int], ...]
    mixed_lesions: tuple[str, ...]
    mixed_patients: tuple[str, ...]
    duplicates: pd.DataFrame
    contradictions: pd.DataFrame
    strangers: pd.DataFrame
    small_classes: tuple[tuple[str, int, int], ...]
    unreadable: tuple[tuple[str, str], ...]
    damaged: tuple[tuple[str, str], ...]
    findings: Findings

    def lines(self) -> list[str]:
        """The report, one statement a line."""
        official = load_spec(self.dataset)["title"]
        lines = [f"{self.dataset}: {official}"]
        for what, found, expected in self.counts.itertuples(index=False):
            lines.append(f"  {what}: {found:,}{_beside(found, expected)}")
        lines += [
            f"  {name} missing: {missing:,} ({share:.2%}){_beside(missing, expected)}"
            for name, missing, share, expected in self.metadata.itertuples(index=False)
        ]
        lines += [f"  {line}" for line in self.findings.lines()]
        lines += [f"  unreadable: {name}: {why}" for name, why in self.unreadable]
        if self.repeated_lesions:
            images = sum(count for _, count in self.repeated_lesions)
            lines.append(f"  {len(self.repeated_lesions):,} lesions have several images ({images:,} in all)")
        lines += [f"  lesion {lesion} has images of several classes" for lesion in self.mixed_lesions]
        lines += [f"  lesion {lesion} belongs to several patients" for lesion in self.mixed_patients]
        lines += self._duplicate_lines()
        lines += [
            f"  class {label}: {groups} group{'s' * (groups != 1)} for {folds} folds; too few"
            for label, groups, folds in self.small_classes
        ]
        return lines

    def _duplicate_lines(self, shown: int = 5) -> list[str]:
        lines = []
        for kind in ("exact", "near", "turned", "listed"):
            pairs = self.duplicates[self.duplicates["kind"] == kind]
            if len(pairs):
                lines.append(f"  {len(pairs):,} {kind} duplicate pairs: {_pair_names(pairs, shown)}")
        for words, pairs in (("differ in label", self.contradictions), ("cross patients or lesions", self.strangers)):
            if len(pairs):
                lines.append(f"  {len(pairs):,} of them {words}: {_pair_names(pairs, shown)}")
        return lines

    def groups(self) -> list[list[str]]:
        """Images that are duplicates of each other, for the splits' leak check."""
        return duplicate_groups(self.duplicates)


def inspect_records(
    records: pd.DataFrame,
    findings: Findings,
    settings: InspectSettings | None = None,
    progress: Callable[[], object] = lambda: None,
) -> Inspection:
    """Look at a data set as `isic.read_isic*` gives it.

    Args:
        records: its records.
        findings: what the reader found besides.
        settings: what is looked at.
        progress: called once an image that is decoded.
    """
    settings = settings or InspectSettings()
    spec = load_spec(findings.dataset)
    official: Mapping[str, Any] = spec.get("official", {})
    damaged: tuple[tuple[str, str], ...] = ()
    listed = listed_pairs(findings.listed_duplicates, records["image_id"])
    pairs = [listed]
    if settings.decode:
        files = paths_of(records["image_id"], records["path"])
        prints = fingerprints(files, settings.duplicates, progress, settings.max_pixels)
        damaged = prints.unreadable
        pairs.insert(0, duplicate_pairs(prints, settings.duplicates))
    duplicates = pd.concat([frame for frame in pairs if len(frame)] or [listed], ignore_index=True)
    group = str(spec["groups"])
    per_lesion = records.dropna(subset=["lesion"]).groupby("lesion", sort=False)
    sizes = per_lesion.size()
    by_class = _by_class(records, list(spec["labels"]))
    return Inspection(
        dataset=findings.dataset,
        counts=_counts(records, findings, official, list(spec["labels"]), len(damaged)),
        metadata=_metadata(records, official.get("missing", {})),
        by_class=by_class,
        by_source=pd.crosstab(records["source"], records["label"]).reindex(columns=list(spec["labels"]), fill_value=0),
        resolutions=_resolutions(findings),
        repeated_lesions=tuple((str(lesion), int(count)) for lesion, count in sizes[sizes > 1].items()),
        mixed_lesions=_several(per_lesion["label"]),
        mixed_patients=_several(per_lesion["patient"]),
        duplicates=duplicates,
        contradictions=_differing(duplicates, records, "label"),
        strangers=_differing(duplicates, records, group),
        small_classes=_small_classes(records, by_class, group, settings.folds),
        unreadable=(*findings.unreadable, *damaged),
        damaged=damaged,
        findings=findings,
    )


def _beside(found: int, expected: Any) -> str:
    if pd.isna(expected):
        return ""
    return " (as published)" if found == expected else f" (official: {expected:,})"


def _pair_names(pairs: pd.DataFrame, shown: int) -> str:
    names = [f"{a} = {b}" for a, b in zip(pairs["image_1"][:shown], pairs["image_2"][:shown], strict=True)]
    return ", ".join(names) + (", …" if len(pairs) > shown else "")


def _counts(
    records: pd.DataFrame, findings: Findings, official: Mapping[str, Any], labels: Sequence[str], damaged: int
) -> pd.DataFrame:
    classes, sources = official.get("classes", {}), official.get("sources", {})
    rows: list[tuple[str, int, int | None]] = [("rows", findings.rows, official.get("rows"))]
    if findings.images is not None:
        rows.append(("images that can be used", int(records["path"].notna().sum()) - damaged, official.get("rows")))
    for what in ("patient", "lesion"):
        if records[what].notna().any():
            rows.append((f"{what}s", int(records[what].nunique()), official.get(f"{what}s")))
    if findings.listed_duplicates:
        rows.append(("listed duplicate pairs", len(findings.listed_duplicates), official.get("listed_duplicates")))
    rows += [(f"class {label}", int((records["label"] == label).sum()), classes.get(label)) for label in labels]
    found = records["source"].value_counts()
    names = dict.fromkeys([*sources, *found.index])
    rows += [(f"source {name}", int(found.get(name, 0)), sources.get(name)) for name in names]
    return pd.DataFrame(rows, columns=["what", "found", "official"]).astype({"found": "int64", "official": "Int64"})


def _metadata(records: pd.DataFrame, official: Mapping[str, int]) -> pd.DataFrame:
    rows = []
    for name in METADATA:
        missing = int((records[name].isna() | (records[name] == "unknown")).sum())
        if missing == len(records) and (name in ("lesion", "patient") or name not in official):
            continue  # the set does not tell
        rows.append((name, missing, missing / max(len(records), 1), official.get(name)))
    frame = pd.DataFrame(rows, columns=["field", "missing", "share", "official"])
    return frame.astype({"missing": "int64", "official": "Int64"})


def _by_class(records: pd.DataFrame, labels: Sequence[str]) -> pd.DataFrame:
    grouped = records.groupby("label")
    counts = pd.DataFrame(
        {"images": grouped.size(), "lesions": grouped["lesion"].nunique(), "patients": grouped["patient"].nunique()}
    )
    return counts.reindex(list(labels), fill_value=0).rename_axis("label").reset_index()


def _resolutions(findings: Findings) -> pd.DataFrame:
    sizes = [(header.width, header.height) for header in (findings.headers or {}).values()]
    frame = pd.DataFrame(sizes, columns=["width", "height"], dtype="int64")
    return frame.value_counts().rename("images").reset_index()


def _several(grouped: Any) -> tuple[str, ...]:
    counts = grouped.nunique()
    return tuple(str(name) for name in counts.index[counts > 1])


def _differing(pairs: pd.DataFrame, records: pd.DataFrame, column: str) -> pd.DataFrame:
    """Pairs whose images have two different values; without a value, nothing is known to differ."""
    values = records.set_index("image_id")[column]
    first, second = (values.reindex(pairs[name]).to_numpy(object) for name in ("image_1", "image_2"))
    differ = [not pd.isna(a) and not pd.isna(b) and a != b for a, b in zip(first, second, strict=True)]
    return pairs[pd.Series(differ, index=pairs.index, dtype=bool)].reset_index(drop=True)


def _small_classes(
    records: pd.DataFrame, by_class: pd.DataFrame, group: str, folds: int
) -> tuple[tuple[str, int, int], ...]:
    """Classes with fewer groups than folds; an image without a group is a group of its own."""
    alone = records[records[group].isna()]["label"].value_counts()
    found = []
    for label, groups in zip(by_class["label"], by_class[f"{group}s"], strict=True):
        total = int(groups) + int(alone.get(label, 0))
        if total < folds:
            found.append((str(label), total, folds))
    return tuple(found)
