"""A run's folder as cases: what there is to look at, where its files lie, and what the models said of it."""

import threading
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from melano_tf.csv_rows import read_rows
from melano_tf.dermoscopy.image_files import ImageSettings
from melano_tf.dermoscopy.isic_records import read_isic
from melano_tf.errors import InputError
from melano_tf.runs.file_integrity import read_words
from melano_tf.runs.files_of_plan import Standing
from melano_tf.runs.judgements import read_record
from melano_tf.view.model_predictions import Judged, TileModel, attention_files, read_models, tile_models

COLUMNS = ("case", "patient", "label", "path", "annotation", "mpp")
FACTS = ("age", "sex", "site", "lesion", "source", "diagnosis")
WATCHED = ("run.json", "made.json")


@dataclass(frozen=True, eq=False)
class Seen:
    """What of a run can be looked at.

    Attributes:
        number: of the run on the command line, from 0; addresses name it so.
        name: of its folder.
        folder: it.
        record: the content of run.json.
        facts: what the recipe says of itself for a report, from run.json.
        standing: which of its files belong to its present plan.
        judges: slides or images.
        cases: one row a case, index 0 to n - 1, which addresses name: case, patient, label ("" where not known), path
            (None where not known), annotation and mpp (slides), part, and of images age, sex, site, lesion, source.
        models: answers on whole cases, by model.
        tile_models: models that judged tiles.
        attention: {bag model: {slide: stem of the file with the attention of its tiles}}.
        faults: what could not be read, a line each.
    """

    number: int
    name: str
    folder: Path
    record: Mapping[str, Any]
    facts: Mapping[str, Any]
    standing: Standing
    judges: Literal["slides", "images"]
    cases: pd.DataFrame
    models: Mapping[str, Judged]
    tile_models: Mapping[str, TileModel]
    attention: Mapping[str, Mapping[str, str]]
    faults: tuple[str, ...]

    def place(self, case: str) -> int | None:
        """The number of a case by its name, or None."""
        found = self.cases.index[self.cases["case"] == case]
        return int(found[0]) if len(found) else None

    @cached_property
    def stamp(self) -> str:
        """Of which cases the numbers are, and where their files lie: what a picture's address is good for."""
        lines = (f"{case}\t{path}\n" for case, path in zip(self.cases["case"], self.cases["path"], strict=True))
        return f"{zlib.crc32(''.join(lines).encode()):08x}"


@dataclass(frozen=True)
class NotedParts:
    """The part that each patient, and each slide or image, is in. Their names are apart: a cohort may number both.

    Attributes:
        of_patient: {patient: part}.
        of_case: {slide or image: part}.
    """

    of_patient: Mapping[str, str]
    of_case: Mapping[str, str]


class Runs:
    """The runs that were named, read anew when they have gone on.

    Args:
        folders: of the runs.

    Raises:
        InputError: none is given, one is given twice, or holds no run.
    """

    def __init__(self, folders: Sequence[Path]) -> None:
        self.folders = [Path(folder).resolve() for folder in folders]
        if not self.folders:
            raise InputError("view: name at least one run's folder: view runs/spitzoid")
        if len(set(self.folders)) < len(self.folders):
            raise InputError("view: a run is named twice")
        for folder in self.folders:
            read_record(folder)
        self._kept: dict[int, tuple[tuple[int, ...], Seen]] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self.folders)

    def names(self) -> list[str]:
        """What the runs are called: by the last part of their folders where that tells them apart."""
        short = [folder.name for folder in self.folders]
        return short if len(set(short)) == len(short) else [str(folder) for folder in self.folders]

    def last(self, number: int) -> Seen:
        """A run as a page last showed it: what a page's pictures are asked of, while the run goes on.

        Raises:
            InputError: as `get`.
        """
        kept = self._kept.get(number)
        return self.get(number) if kept is None else kept[1]

    def get(self, number: int) -> Seen:
        """A run as it stands now.

        Raises:
            InputError: no such run, or its record can no longer be read.
        """
        if not 0 <= number < len(self.folders):
            raise InputError(f"there is no run {number}; there are {len(self.folders)}")
        folder = self.folders[number]
        with self._lock:
            state = tuple(path.stat().st_mtime_ns if path.is_file() else 0 for path in (folder / n for n in WATCHED))
            kept = self._kept.get(number)
            if kept is None or kept[0] != state:
                kept = state, read_run(folder, number, self.names()[number])
                self._kept[number] = kept
            return kept[1]


def read_run(folder: Path, number: int = 0, name: str = "") -> Seen:
    """Read a run's folder; what is missing or damaged is a fault of it, and the rest is there.

    Raises:
        InputError: the folder holds no run.
    """
    record = read_record(folder)
    facts, standing = dict(record.get("report") or {}), Standing(folder, record)
    settings = record["settings"]
    of_slides = "slides" in settings
    cases, faults = (slide_cases if of_slides else image_cases)(folder, record)
    if not of_slides:
        try:
            cases = _with_clusters(cases, standing)
        except (InputError, KeyError) as error:
            faults.append(f"clusters: {error}")
    models, unread = read_models(standing, settings)
    if settings.get("bag") == "patient":  # whose answer is not that of a slide of the same name
        bags = {case for one in models.values() for case in one.frame["case"]}
        cases = cases[~cases["case"].isin(bags)].reset_index(drop=True)
    known = set(cases["case"])
    extra = {case: None for one in models.values() for case in one.frame["case"] if case not in known}
    if extra:
        cases = pd.concat([cases, pd.DataFrame({"case": list(extra)})], ignore_index=True)
    cases = _with_truth(cases, models, noted_parts(record))
    return Seen(
        *(number, name or Path(folder).name, Path(folder), record, facts, standing),
        *("slides" if of_slides else "images", cases, models),
        *((tile_models(standing), attention_files(standing)) if of_slides else ({}, {})),
        (*faults, *unread),
    )


def _with_truth(cases: pd.DataFrame, models: Mapping[str, Judged], noted: NotedParts) -> pd.DataFrame:
    """Labels from the predictions where no table has them, the noted parts, and text for what is missing."""
    cases = cases.copy()
    for name in ("case", "patient", "label", *FACTS[1:]):
        if name in cases:
            cases[name] = cases[name].astype(object).where(cases[name].notna(), "").astype(str)
    for one in models.values():
        truth = dict(zip(one.frame["case"], one.frame["target"], strict=True))
        missing = cases["label"] == ""
        names = cases["case"].map(lambda case, t=truth, c=one.classes: c[t[case]] if case in t else "")
        cases.loc[missing, "label"] = names[missing]
    frames = [one.frame for one in models.values()] if noted.of_patient else []
    groups = {case: own for frame in frames for case, own in zip(frame["case"], frame["group"], strict=True)}
    patient = cases["patient"].where(cases["patient"] != "", cases["case"].map(groups))
    of_case, of_patient = cases["case"].map(noted.of_case), patient.map(noted.of_patient)
    cases["part"] = of_case.where(of_case.notna(), of_patient).fillna("").astype(str)
    return cases


def noted_parts(record: Mapping[str, Any]) -> NotedParts:
    """Who is where, from what the run noted: a split and parts name patients (spitzoid, multimag), folds name the cases
    (images of zoome, slides of bags), which are patients where a bag is a patient."""
    patients: dict[str, str] = {}
    cases: dict[str, str] = {}
    split = record.get("split") or {}
    for number, members in enumerate(split.get("folds") or [], start=1):
        patients |= dict.fromkeys(map(str, members), f"validation cohort {number}")
    patients |= dict.fromkeys(map(str, split.get("test") or []), "test")
    for name, members in (record.get("parts") or {}).items():
        patients |= dict.fromkeys(map(str, members), str(name))
    divided = patients if record["settings"].get("bag") == "patient" else cases
    for number, members in (record.get("folds") or {}).items():
        divided |= dict.fromkeys(map(str, members), f"fold {number}")
    return NotedParts(patients, cases)


def slide_cases(folder: Path, record: Mapping[str, Any]) -> tuple[pd.DataFrame, list[str]]:
    """The slides of a run's manifest (a phantom's stands in the run's folder); files need not be there any more."""
    given = record["settings"].get("slides")
    paths = [Path(given)] if given else sorted(folder.glob("phantoms/*/manifest.csv"))
    frame, faults = pd.DataFrame(columns=COLUMNS), []
    try:
        if not paths:
            raise InputError("the manifest is not there yet")
        frame = _manifest(_found(paths[0], record, folder))
    except (InputError, KeyError) as error:
        faults.append(f"slides: {error}")
        try:
            known = read_words(folder / "tiles" / "slides.csv")
            frame = known.rename(columns={"slide_id": "case", "patient_id": "patient"})[["case", "patient", "label"]]
            frame = frame.reindex(columns=list(COLUMNS))
        except (InputError, KeyError):  # the run was not cut yet, or that table is damaged too
            pass
    return frame.reset_index(drop=True), faults


def _manifest(path: Path) -> pd.DataFrame:
    header, rows = read_rows(path)
    cells = pd.DataFrame([dict(zip(header, row, strict=False)) for _, row in rows]).reindex(
        columns=["slide_id", "patient_id", "label", "path", "annotation", "mpp"]
    )
    cells.columns = pd.Index(COLUMNS)
    for name in ("path", "annotation"):
        cells[name] = [str(path.parent / cell) if isinstance(cell, str) and cell else None for cell in cells[name]]
    return cells.assign(mpp=pd.to_numeric(cells["mpp"], errors="coerce"))


def _found(path: Path, record: Mapping[str, Any], folder: Path) -> Path:
    """A path of the settings: from the folder in which the run stands as its `out` was given, else from here.

    In this order: a file of the same name that lies where the atlas was begun may be another cohort's.
    """
    out = Path(str(record["settings"].get("out") or ""))
    if path.is_absolute() or out.is_absolute() or ".." in out.parts:
        return path.absolute()
    base = folder.absolute()
    for _ in out.parts:
        base = base.parent
    return base / path if (base / path).exists() or not path.exists() else path.absolute()


def image_cases(folder: Path, record: Mapping[str, Any]) -> tuple[pd.DataFrame, list[str]]:
    """The images of a run's tables (a phantom's stand in the run's folder), and what is known of each."""
    settings = record["settings"]
    tables = [_found(Path(path), record, folder) for path in settings.get("table") or []]
    folders = [_found(Path(path), record, folder) for path in settings.get("images") or []]
    if not tables:
        drawn = sorted(folder.glob("phantoms/*/*.csv"))
        tables = [path for path in drawn if path.name != "truth.csv"]
        folders = [path / "images" for path in sorted(folder.glob("phantoms/*"))[:1]]
    frame, faults = pd.DataFrame(columns=["case", "patient", "label", "path", *FACTS]), []
    try:
        if not tables:
            raise InputError("the tables are not there yet")
        there = [one for one in folders if one.is_dir()]
        records, _ = read_isic(tables, there or None, ImageSettings(check="none"))
        frame = records.rename(columns={"image_id": "case"})
    except InputError as error:
        faults.append(f"images: {error}")
    return frame, faults


def _with_clusters(frame: pd.DataFrame, standing: Standing) -> pd.DataFrame:
    """The cluster of each image where the run made clusters, "source: number", because each source has its own."""
    path = standing.folder / "clusters" / "clusters.csv"
    if not standing.holds(path):
        return frame
    table = read_words(path)
    cluster = dict(zip(table["image_id"], table["source"] + ": " + table["cluster"], strict=True))
    return frame.assign(cluster=frame["case"].map(cluster).fillna(""))
