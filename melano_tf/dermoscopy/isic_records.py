"""The ISIC 2018, 2019 and 2020 data sets, from their official files to one table of records.

A record is one image with one row:

| column | dtype | meaning |
|---|---|---|
| image_id | str | as the ground truth names it |
| path | str or None | its file; None where it is missing, unreadable, or no folder was given |
| label, target | str, int64 | class, and its index in the description's `labels` |
| lesion, patient | str or None | what must not be split between training and test |
| age | float64 | years; NaN where unknown |
| sex, site | str | one vocabulary for all years (`metadata_fields`), "unknown" included |
| source | str | where the image came from: HAM, BCN, MSK, unnamed, ISIC2020, or HAM10000's own four |
| site_written | str or None | the site as the file words it (the 2019 table tells anterior from posterior torso) |
| diagnosis | str or None | the finer word of the 2020 table |

What is missing, unreadable or unlabelled is in `Findings`, counted and named.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from melano_tf.dermoscopy.image_files import ImageHeader, ImageSettings, attach_images
from melano_tf.dermoscopy.isic_tables import Table, count_faults, read_table, recognise
from melano_tf.errors import InputError
from melano_tf.metadata_fields import FIELDS, NAMES, NumberField
from melano_tf.specs import load_spec

COLUMNS = (
    "image_id",
    "path",
    "label",
    "target",
    "lesion",
    "patient",
    *NAMES,
    "source",
    "site_written",
    "diagnosis",
)
Paths = Path | str | Sequence[Path | str]


@dataclass(frozen=True)
class Findings:
    """What a reader found besides the records; every name is there, `lines` shows the first few.

    Attributes:
        dataset: name of the description, "isic2018" and so on.
        rows: rows of the ground truth.
        images: image files in the folders, or None where no folder was given.
        missing: images of the records without a file.
        unreadable: (file, why) of images that cannot be used; their records stay, without a path.
        unlabelled: images of the ground truth that belong to no class; they have no record.
        unlisted: image files without a row in the ground truth.
        undescribed: images of the records without a row in the metadata or groupings, where those were given.
        unused_rows: images of those other tables that the ground truth does not have.
        oriented: (file, EXIF orientation) where it is not upright; it is ignored.
        headers: of each checked image, by image_id.
        listed_duplicates: pairs of the official list of duplicates, by image_id.
        ignored_columns: (file, header) that the description does not know.
        doubtful: (image, what, its class) where a number may stand for "not known", such as "age 0"; it is used.
    """

    dataset: str
    rows: int
    images: int | None = None
    missing: tuple[str, ...] = ()
    unreadable: tuple[tuple[str, str], ...] = ()
    unlabelled: tuple[str, ...] = ()
    unlisted: tuple[str, ...] = ()
    undescribed: tuple[str, ...] = ()
    unused_rows: tuple[str, ...] = ()
    oriented: tuple[tuple[str, int], ...] = ()
    headers: Mapping[str, ImageHeader] | None = None
    listed_duplicates: tuple[tuple[str, str], ...] = ()
    ignored_columns: tuple[tuple[str, str], ...] = ()
    doubtful: tuple[tuple[str, str, str], ...] = ()

    def lines(self, shown: int = 5) -> list[str]:
        """One line for each kind of thing that was found, with its count and the first `shown` names, or classes."""
        kinds: list[tuple[str, list[str]]] = [
            ("images without a file", list(self.missing)),
            ("unreadable images", [f"{path} ({why})" for path, why in self.unreadable]),
            ("rows without a class (left out)", list(self.unlabelled)),
            ("image files without a row (not used)", list(self.unlisted)),
            ("images without metadata", list(self.undescribed)),
            ("rows of other tables for images that the ground truth lacks", list(self.unused_rows)),
            ("images with an EXIF orientation (ignored)", [f"{path} ({value})" for path, value in self.oriented]),
            ("columns that are not used", [f"{header} in {path}" for path, header in self.ignored_columns]),
        ]
        classes: dict[str, Counter[str]] = {}
        for _, what, label in self.doubtful:
            classes.setdefault(what, Counter())[label] += 1
        return [
            f"{len(names):,} {words}: {', '.join(names[:shown])}{', …' if len(names) > shown else ''}"
            for words, names in kinds
            if names
        ] + [
            f"{counts.total():,} images of {what}, which may mean that it is not known (used as it is): "
            + ", ".join(f"{count:,} {label}" for label, count in counts.most_common())
            for what, counts in classes.items()
        ]


def read_isic2018(
    images: Paths | None = None,
    *,
    ground_truth: Path | str | None = None,
    groupings: Path | str | None = None,
    metadata: Path | str | None = None,
    settings: ImageSettings | None = None,
) -> tuple[pd.DataFrame, Findings]:
    """ISIC 2018 Task 3, by its ground truth with the lesion groupings, or by HAM10000's metadata, or by all three.

    Args:
        images: folder or folders of the images; None leaves `path` empty and counts nothing as missing.
        ground_truth: ISIC2018_Task3_Training_GroundTruth.csv.
        groupings: ISIC2018_Task3_Training_LesionGroupings.csv.
        metadata: HAM10000_metadata.csv; also gives age, sex, site and source.
        settings: how the files are judged.

    Returns:
        (records, findings).

    Raises:
        InputError: all faults of all tables at once; the tables disagree; images cannot be found.
    """
    if ground_truth is None and metadata is None:
        raise InputError("ISIC 2018: give the ground truth CSV or HAM10000's metadata CSV; neither was given")
    spec = load_spec("isic2018")
    paths = {"ground_truth": ground_truth, "groupings": groupings, "metadata": metadata}
    tables = _read_tables(spec, paths)
    return _assemble(spec, tables, images, settings or ImageSettings())


def read_isic2019(
    images: Paths | None = None,
    *,
    ground_truth: Path | str,
    metadata: Path | str | None = None,
    settings: ImageSettings | None = None,
) -> tuple[pd.DataFrame, Findings]:
    """ISIC 2019, by its ground truth and metadata (without which lesion, age, sex, site and source stay unknown).

    Arguments, result and errors are as in `read_isic2018`.
    """
    spec = load_spec("isic2019")
    tables = _read_tables(spec, {"ground_truth": ground_truth, "metadata": metadata})
    return _assemble(spec, tables, images, settings or ImageSettings())


def read_isic2020(
    images: Paths | None = None,
    *,
    ground_truth: Path | str,
    duplicates: Path | str | None = None,
    settings: ImageSettings | None = None,
) -> tuple[pd.DataFrame, Findings]:
    """ISIC 2020, by train.csv or the official ground truth (either version), and optionally its list of duplicates.

    Arguments, result and errors are as in `read_isic2018`.
    """
    spec = load_spec("isic2020")
    tables = _read_tables(spec, {"ground_truth": ground_truth, "duplicates": duplicates})
    return _assemble(spec, tables, images, settings or ImageSettings())


def read_isic(
    tables: Paths, images: Paths | None = None, settings: ImageSettings | None = None
) -> tuple[pd.DataFrame, Findings]:
    """Whichever of the three sets these tables are, recognised by their headers and not by their names.

    Raises:
        InputError: a table of none or of another set, two of one kind, no ground truth; else as in `read_isic2018`.
    """
    found: dict[tuple[str, str], Path] = {}
    faults = []
    for path in _as_list(tables):
        try:
            key = recognise(path)
        except InputError as error:
            faults.append(str(error))
            continue
        if key in found:
            faults.append(f"{path}: a second {key[1]} table beside {found[key]}; give one")
        found.setdefault(key, path)
    names = {name for name, _ in found}
    if len(names) > 1:
        faults += [f"{path}: the {table} table of {name}" for (name, table), path in found.items()]
    if faults:
        raise InputError.of("the tables cannot be used (all must be of one data set, one of each kind):", faults)
    if not names:
        raise InputError("no table was given; give the ground truth CSV of ISIC 2018, 2019 or 2020")
    spec = load_spec(names.pop())
    paths: dict[str, Path | str | None] = {table: path for (_, table), path in found.items()}
    if "ground_truth" not in paths and not (spec["name"] == "isic2018" and "metadata" in paths):
        given = ", ".join(str(path) for path in found.values())
        wanted = spec["tables"]["ground_truth"]["files"][0]
        raise InputError(f"{spec['name']}: the ground truth ({wanted}) is missing; given: {given}")
    return _assemble(spec, _read_tables(spec, paths), images, settings or ImageSettings())


def _as_list(paths: Paths) -> list[Path]:
    return [Path(paths)] if isinstance(paths, Path | str) else [Path(path) for path in paths]


def _read_tables(spec: Mapping[str, Any], paths: Mapping[str, Path | str | None]) -> dict[str, Table]:
    """Read every table that was given; all faults of all of them are raised at once."""
    tables = {}
    faults: list[str] = []
    for name, path in paths.items():
        if path is None:
            continue
        try:
            tables[name] = read_table(path, spec, name)
        except InputError as error:
            faults.append(str(error))
            continue
        faults += tables[name].faults
    if not faults:
        faults = _disagreements(spec, tables)
    if faults:
        headline = f"{spec['name']}: {count_faults(faults)} (rows as a spreadsheet counts them, the header is row 1)"
        raise InputError.of(headline, faults)
    return tables


def _disagreements(spec: Mapping[str, Any], tables: Mapping[str, Table]) -> list[str]:
    """Where two columns or two tables say different things of one image."""
    faults = []
    truth = tables.get("ground_truth")
    if truth is not None and {"target", "outcome"} <= set(truth.cells):
        labels = list(spec["labels"])
        said = truth.cells["target"].map(lambda flag: labels[int(flag)] if flag == flag else None)
        wrong = said.notna() & truth.cells["outcome"].notna() & (said != truth.cells["outcome"])
        faults += [
            f"{truth.path.name}, row {row}: target {truth.cells['target'][row]:.0f} but benign_malignant "
            f"{truth.cells['outcome_written'][row]!r}"
            for row in truth.cells.index[wrong]
        ]
    metadata = tables.get("metadata")
    if truth is not None and truth.one_hot is not None and metadata is not None and "diagnosis" in metadata.cells:
        classes = _classes(truth).dropna()
        other = metadata.cells.set_index("image")["diagnosis"].reindex(classes.index)
        faults += [
            f"{image}: {truth.path.name} says {classes[image]}, {metadata.path.name} says {other[image]}"
            for image in classes.index[(other != classes) & other.notna()]
        ]
    lesions = [tables[name] for name in ("groupings", "metadata") if name in tables and "lesion" in tables[name].cells]
    if len(lesions) == 2:
        first, second = (table.cells.set_index("image")["lesion"].dropna() for table in lesions)
        both = first.index.intersection(second.index)
        faults += [
            f"{image}: lesion {first[image]} in {lesions[0].path.name}, {second[image]} in {lesions[1].path.name}"
            for image in both[first[both].to_numpy() != second[both].to_numpy()]
        ]
    return faults


def _classes(table: Table) -> pd.Series:
    """Class of each image of a one-hot table, by image; None where no class is set."""
    assert table.one_hot is not None
    flags = table.one_hot.to_numpy(float)
    names = np.array(table.one_hot.columns, dtype=object)[flags.argmax(axis=1)]
    return pd.Series(np.where(flags.sum(axis=1) == 1, names, None), index=table.cells["image"], dtype=object)


def _assemble(
    spec: Mapping[str, Any], tables: Mapping[str, Table], images: Paths | None, settings: ImageSettings
) -> tuple[pd.DataFrame, Findings]:
    """Join the tables by image, in the ground truth's order, and find the files."""
    main = tables.get("ground_truth") or tables["metadata"]
    records = pd.DataFrame({"image_id": main.cells["image"].to_numpy(object)})
    by_image = {name: table.cells.set_index("image") for name, table in tables.items() if name != "duplicates"}

    def column(name: str) -> pd.Series:
        result = pd.Series(None, index=records["image_id"], dtype=object)
        for cells in by_image.values():
            if name in cells:
                result = result.where(result.notna(), cells[name].astype(object).reindex(result.index))
        return pd.Series([None if pd.isna(value) else value for value in result], dtype=object)

    if main.one_hot is not None:
        label = _classes(main).reset_index(drop=True)
        if "unknown_class" in main.cells:
            label = label.where(main.cells["unknown_class"].fillna(0).to_numpy() != 1, None)
    elif "target" in main.cells:
        names = list(spec["labels"])
        label = column("target").map(lambda flag: None if flag is None else names[int(flag)])
    else:
        label = column("diagnosis")
    # An empty `target` cell is a row without a class, as an all-zero row of a one-hot table is.
    labelled = label.notna().to_numpy()
    records["path"] = pd.Series([None] * len(records), dtype=object)
    records["label"] = label
    records["target"] = label.map(spec["labels"])
    for name in ("lesion", "patient", *NAMES, "source", "site_written", "diagnosis"):
        records[name] = column(name)
    for one in FIELDS:
        if isinstance(one, NumberField):
            records[one.name] = records[one.name].astype("float64")
        else:
            records[one.name] = records[one.name].where(records[one.name].notna(), one.missing).astype("str")
    records["source"] = _sources(records, spec["sources"])
    unlabelled = tuple(records["image_id"][~labelled])
    records = records[labelled].reset_index(drop=True)
    records["target"] = records["target"].astype("int64")
    named = set(main.cells["image"])
    others = [name for name in by_image if tables[name] is not main]
    described = [set(by_image[name].index) for name in others]
    findings: dict[str, Any] = {
        "dataset": spec["name"],
        "rows": len(main.cells),
        "unlabelled": unlabelled,
        "undescribed": tuple(image for image in records["image_id"] if any(image not in known for known in described)),
        "unused_rows": tuple(dict.fromkeys(i for name in others for i in by_image[name].index if i not in named)),
        "ignored_columns": tuple((t.path.name, header) for t in tables.values() for header in t.ignored),
        "listed_duplicates": _pairs(tables.get("duplicates")),
        "doubtful": _doubtful(spec, records),
    }
    if images is not None:
        paths, found = attach_images(records["image_id"].tolist(), named, _as_list(images), settings)
        records["path"] = pd.Series(paths, index=records.index, dtype=object)
        findings.update(found)
    records = records.astype(dict.fromkeys(("image_id", "label", "source"), "str"))
    return records[list(COLUMNS)], Findings(**findings)


def _pairs(table: Table | None) -> tuple[tuple[str, str], ...]:
    if table is None:
        return ()
    return tuple(zip(table.cells["image"], table.cells["other"], strict=True))


def _doubtful(spec: Mapping[str, Any], records: pd.DataFrame) -> tuple[tuple[str, str, str], ...]:
    """(image, what, class) of each number that the description calls doubtful."""
    columns = (column for table in spec["tables"].values() for column in table["columns"].items())
    asked = [(name, value) for name, column in columns for value in column.get("doubtful", ())]
    return tuple(
        (image, f"{name} {value:g}", label)
        for name, value in asked
        for image, label in records.loc[records[name] == value, ["image_id", "label"]].itertuples(index=False)
    )


def _sources(records: pd.DataFrame, description: Mapping[str, Any]) -> pd.Series:
    """The source as a table gives it, else by the beginning of the lesion's name, else the description's word."""
    prefixes: Mapping[str, str] = description.get("prefixes", {})
    otherwise = str(description["otherwise"])

    def of(lesion: str | None) -> str:
        return next((name for begin, name in prefixes.items() if str(lesion or "").startswith(begin)), otherwise)

    return records["source"].where(records["source"].notna(), records["lesion"].map(of))
