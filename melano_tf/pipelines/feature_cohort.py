"""A cohort of feature files: a table of slides, patients and labels, joined to the files of a folder, and its bags."""

import difflib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import h5py  # type: ignore[import-untyped]
import numpy as np
import pandas as pd

from melano_tf.csv_rows import read_rows
from melano_tf.errors import InputError
from melano_tf.features.feature_file import SUFFIXES, FeatureFile, open_features
from melano_tf.slides.slide_manifest import read_manifest
from melano_tf.specs import load_spec

BagBy = Literal["slide", "patient"]
SETTINGS = "melano_tf_settings"  # attribute of the files that `features` writes


@dataclass(frozen=True, eq=False)
class FileBags:
    """Bags that are read from their files when they are asked for; a `pipelines.feature_bags.Bags`.

    Attributes:
        ids: name of each bag: its slide, or its patient.
        patients: patient of each bag; splits go by it.
        labels: int64 (bags,), places in `classes`.
        files: of each bag its slides' files, in the table's order.
        classes: the labels, in the order of a model's outputs.
    """

    ids: Sequence[str]
    patients: Sequence[str]
    labels: np.ndarray
    files: Sequence[Sequence[FeatureFile]]
    classes: Sequence[str]

    @cached_property
    def sizes(self) -> np.ndarray:
        """Instances of each bag, int64 (bags,)."""
        return np.array([sum(file.instances for file in files) for files in self.files], np.int64)

    @property
    def width(self) -> int:
        """Numbers of a feature vector."""
        return self.files[0][0].width

    def read(self, bag: int, rows: np.ndarray | None = None) -> np.ndarray:
        """Features of a bag, its slides one after the other, or of some of its instances (ascending places)."""
        parts = []
        for file, start in self._placed(bag):
            if rows is None:
                parts.append(file.features())
                continue
            own = rows[(rows >= start) & (rows < start + file.instances)] - start
            if len(own):
                parts.append(file.features(own))
        return np.concatenate(parts) if parts else np.zeros((0, self.width), np.float32)

    def by_slide(self, bag: int, values: np.ndarray) -> dict[str, np.ndarray]:
        """Values of a bag's instances (its attention), (n, ...), as {slide_id: those of that slide}."""
        return {file.slide_id: values[start : start + file.instances] for file, start in self._placed(bag)}

    def _placed(self, bag: int) -> Iterator[tuple[FeatureFile, int]]:
        """A bag's files, each with the place of its first instance."""
        start = 0
        for file in self.files[bag]:
            yield file, start
            start += file.instances


@dataclass(frozen=True, eq=False)
class FeatureCohort:
    """What a table and a folder of features have in common.

    Attributes:
        table: the table's rows: slide_id, patient_id, label, then its further columns as text.
        files: the file of each row.
        unlabelled: slides with features that the table does not name, sorted; they are left out.
        notes: what the reader of a report should know: formats, encoders and tile sizes that differ.
    """

    table: pd.DataFrame
    files: Sequence[FeatureFile]
    unlabelled: Sequence[str]
    notes: Sequence[str]

    def bags(self, by: BagBy = "slide", classes: Sequence[str] | None = None) -> FileBags:
        """One bag a slide, or one a patient (all slides of the patient together).

        Args:
            by: "slide" or "patient".
            classes: the labels in the order of a model's outputs, None for the alphabet.

        Raises:
            InputError: fewer than two labels, a label that is none of `classes`, or a patient's slides with different
                labels where bags are patients; all at once.
        """
        names = sorted(set(self.table["label"])) if classes is None else list(classes)
        files = pd.Series(list(self.files), self.table.index, object)
        rows = self.table.assign(bag=self.table["slide_id" if by == "slide" else "patient_id"], file=files)
        groups = rows.groupby("bag", sort=False)
        faults = label_faults(self.table, by, classes)
        if faults:
            raise InputError.of("bags:", faults)
        first = groups.first()
        return FileBags(
            ids=list(first.index),
            patients=first["patient_id"].tolist(),
            labels=np.array([names.index(label) for label in first["label"]], np.int64),
            files=[group["file"].tolist() for _, group in groups],
            classes=tuple(names),
        )


def label_faults(table: pd.DataFrame, by: BagBy = "slide", classes: Sequence[str] | None = None) -> list[str]:
    """What is wrong with the labels of a table for bags of this kind; see `FeatureCohort.bags`."""
    names = sorted(set(table["label"])) if classes is None else list(classes)
    faults = [] if len(names) > 1 else [f"the only label is {names[0]!r}; two at least are needed to tell apart"]
    strange = sorted(set(table["label"]) - set(names))
    faults += [f"label {label!r} is none of {', '.join(names)}" for label in strange]
    faults += [f"no slide has the label {name!r}" for name in names if name not in set(table["label"])]
    if by == "patient":
        for patient, group in table.groupby("patient_id", sort=False):
            if len(found := sorted(set(group["label"]))) > 1:
                faults.append(f"patient {patient}: slides with the labels {', '.join(found)}; take bags by slide")
    return faults


def read_feature_cohort(
    folder: Path | str,
    table: Path | str,
    check_values: bool = True,
    by: BagBy = "slide",
    classes: Sequence[str] | None = None,
) -> FeatureCohort:
    """Read and check a table and the files of features that it names.

    Args:
        folder: holds the files, at any depth: `.h5` (or `.hdf5`); `.pt` only where there are none of those.
        table: CSV with slide_id, patient_id, label and further columns (`data_specs/features.yaml`).
        check_values: read all features once, to find NaN and infinite ones.
        by, classes: as for `FeatureCohort.bags`, whose faults are then told with the others.

    Raises:
        InputError: all faults of labels and files at once, a line each. Where the table itself has faults, those, and
            the faults of all files of the folder: which of them it names is not known then.
    """
    folder = Path(folder)
    found = _found(folder)
    try:
        rows = _table(Path(table))
    except InputError as error:
        raise InputError.of(str(error), _faults_of_all(found, check_values)) from None
    faults, files = label_faults(rows, by, classes), []
    for slide_id in rows["slide_id"]:
        paths = found.get(slide_id, [])
        if len(paths) == 1:
            try:
                files.append(open_features(paths[0]))
            except InputError as error:
                faults.append(str(error))
        else:
            faults.append(_not_one(slide_id, paths, folder, found))
    faults += _faults_between(files, check_values)
    if faults:
        count = "one fault" if len(faults) == 1 else f"{len(faults)} faults"
        raise InputError.of(f"{folder}, for {table}: {count}", faults)
    unlabelled = sorted(set(found) - set(rows["slide_id"]))
    return FeatureCohort(rows, files, unlabelled, _notes(files))


def _table(path: Path) -> pd.DataFrame:
    """The checked table with its further columns as text."""
    rows = read_manifest(path, load_spec("features"))
    header, cells = read_rows(path)  # the same rows, in the same order
    places = {name: header.index(name) for name in rows.attrs["ignored_columns"]}
    further = {
        name: pd.Series([row[place] if place < len(row) else "" for _, row in cells], dtype="str")
        for name, place in places.items()
    }
    return rows.assign(**further)


def _found(folder: Path) -> dict[str, list[Path]]:
    """Files of features by their slide."""
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder of features")
    for suffixes in (SUFFIXES[:2], SUFFIXES[2:]):
        found: dict[str, list[Path]] = {}
        for path in sorted(path for suffix in suffixes for path in folder.rglob(f"*{suffix}")):
            found.setdefault(path.stem, []).append(path)
        if found:
            return found
    raise InputError(f"{folder}: holds no files of features ({', '.join(SUFFIXES)})")


def _faults_of_all(found: Mapping[str, Sequence[Path]], check_values: bool) -> list[str]:
    """Faults of the files of a folder, whoever they belong to."""
    faults, files = [], []
    for path in (path for paths in found.values() for path in paths):
        try:
            files.append(open_features(path))
        except InputError as error:
            faults.append(str(error))
    return faults + _faults_between(files, check_values)


def _faults_between(files: Sequence[FeatureFile], check_values: bool) -> list[str]:
    """What is odd among files that can be read, and what stands in them."""
    faults = _odd_ones(files, [file.width for file in files], "features of width {}")
    faults += _odd_ones(files, [file.encoder for file in files], "features of the encoder {}")
    faults += _odd_ones(
        files, [_settings(file) for file in files], "features of the settings {} (tiles, encoder, dtype)"
    )
    return faults + [fault for file in files if check_values for fault in file.check()]


def _not_one(slide_id: str, paths: Sequence[Path], folder: Path, found: Mapping[str, Any]) -> str:
    """The fault of a slide that has no file of features, or several."""
    if paths:
        return f"slide {slide_id}: {len(paths)} files of features ({', '.join(map(str, paths))}); leave one"
    close = difflib.get_close_matches(slide_id, found, n=1, cutoff=0.8)
    return f"slide {slide_id}: has a label but no features in {folder}" + (f"; is {close[0]} meant?" if close else "")


def _settings(file: FeatureFile) -> str | None:
    """The digest of tiles, encoder and dtype that `features` writes into its files; None where a file has none."""
    if file.format == "clam_pt":
        return None
    with h5py.File(file.path, "r") as content:
        found = content.attrs.get(SETTINGS)
    return found.decode() if isinstance(found, bytes) else found


def _odd_ones(files: Sequence[FeatureFile], values: Sequence[Any], words: str) -> list[str]:
    """A fault for each file whose value is not that of most; None is no value, and no fault."""
    counts = Counter(value for value in values if value is not None)
    if len(counts) < 2:
        return []
    (usual, count), *_ = counts.most_common()
    others = f"where {count} files have {usual}"
    return [
        f"{file.path}: {words.format(value)}, {others}"
        for file, value in zip(files, values, strict=True)
        if value not in (None, usual)
    ]


def _notes(files: Sequence[FeatureFile]) -> list[str]:
    """What differs between files without being a fault."""
    notes = []
    for what, name in (("format", "formats"), ("tile_px", "tile sizes in px"), ("mpp", "µm/px")):
        counts = Counter(getattr(file, what) for file in files)
        if len(counts) > 1:
            parts = (f"{'unknown' if value is None else value} ({count})" for value, count in counts.most_common())
            notes.append(f"{name} differ: {', '.join(parts)}")
    return notes
