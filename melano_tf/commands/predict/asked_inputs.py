"""What is asked: an image, a folder of them, or a table that lists files."""

import csv
import io
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from melano_tf.commands.predict.settings import PredictSettings
from melano_tf.csv_rows import delimiter_of
from melano_tf.dermoscopy.image_files import images_at, passed_over
from melano_tf.errors import InputError, line_of
from melano_tf.home_folders import written_path
from melano_tf.metadata_fields import NAMES, listed
from melano_tf.serving.model_interface import Card, Case
from melano_tf.serving.patient_metadata import Patient, read_metadata

TABLE = ".csv"


def is_table(path: Path) -> bool:
    """Whether this file lists others."""
    return path.suffix.lower() == TABLE


@dataclass(frozen=True)
class AskedImages:
    """Images to be judged.

    Attributes:
        cases: those that are there.
        bad: rows of a table that cannot be used: by their place among the rows, from 0, the file ("row 7" where none
            is named) and why.
    """

    cases: list[Case]
    bad: Mapping[int, tuple[Path, str]] = field(default_factory=dict)


def asked_images(settings: PredictSettings, card: Card, say: Callable[[str], None]) -> AskedImages:
    """The images that the settings name, with what is known of each: field by field what --metadata says, else what the
    list of images says, else what the options say.

    Raises:
        InputError: there are none, or a table cannot be used.
    """
    images, known, bad = (
        listed_images(settings.input) if is_table(settings.input) else (images_at(settings.input), {}, {})
    )
    own = [path for path in (settings.out, settings.metadata) if path is not None]
    if settings.input.is_dir() and (left := passed_over(settings.input, own)):
        say(f"{settings.input}: passed over {left}; its own .jpg, .jpeg and .png files are judged")
    default = Patient.of(vars(settings.patient))
    patients = {path.stem: known.get(path.stem, default).or_else(default) for path in images}
    if settings.metadata is not None:
        told, unused = read_metadata(settings.metadata, images)
        patients |= {name: patient.or_else(patients[name]) for name, patient in told.items()}
        for words, names in (
            ("images without a row in it", [path.stem for path in images if path.stem not in told]),
            ("rows of it without an image", unused),
        ):
            if names:
                say(f"{settings.metadata}: {len(names)} {words}: {', '.join(names[:5])}{', …' * (len(names) > 5)}")
    told_all = {name for patient in patients.values() for name in patient.known}
    if card.metadata is None:
        if settings.metadata or told_all:
            say("this model takes no metadata; what was given is not used")
    elif strange := [name for name in NAMES if name in told_all - {one.name for one in card.metadata.fields}]:
        say(f"this model knows nothing of {listed(strange)}; what was given is not used")
    return AskedImages([Case(path, patients[path.stem]) for path in images], bad)


def listed_images(path: Path) -> tuple[list[Path], dict[str, Patient], dict[int, tuple[Path, str]]]:
    """The images of a CSV with columns path and any of what may be known of patients.

    Returns:
        (the images, what is known of each by its name without suffix, and the rows that cannot be used: by their place
        among the rows, from 0, the file ("row 7" where none is named) and why). The others are answered all the same.

    Raises:
        InputError: see `read_list`; also where a word is not understood in each row that is left.
    """
    images: list[Path] = []
    patients: dict[str, Patient] = {}
    bad: dict[int, tuple[Path, str]] = {}
    for place, row in enumerate(read_list(path, NAMES)):
        image, fault = Path(row["path"] or f"row {row['row']}"), row["fault"]
        try:
            told = Patient.of(row)
        except (InputError, ValueError) as error:
            fault = fault or " ".join(str(error).split())
        if fault:
            bad[place] = (image, f"row {row['row']}: {fault}")
            continue
        images.append(image)
        patients[image.stem] = told
    if not images:
        raise InputError.of(f"{path}: cannot be used (the header is row 1)", [why for _, why in bad.values()])
    return images, patients, bad


def read_list(path: Path, allowed: Sequence[str]) -> list[dict[str, str]]:
    """A CSV of inputs: a column `path` (relative ones count from the CSV's folder) and any of `allowed`.

    Returns:
        The rows, with `row`, the number as a spreadsheet counts, and `fault`, why it cannot be used, or ""; cells
        stripped.

    Raises:
        InputError: columns that are missing or not known, no rows, or none that can be used (then all faults at once).
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from None
    except UnicodeDecodeError:
        raise InputError(f"{path}: not UTF-8 text; save it as 'CSV UTF-8 (comma separated)'") from None
    try:
        lines = list(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter_of(text), strict=True))
    except csv.Error as error:
        raise InputError(f"{path}: not a CSV file ({line_of(error)}); look for a quote that is not closed") from None
    header = [name.strip() for name in lines[0]] if lines else []
    if "path" not in header:
        raise InputError(f"{path}: no column path in its header ({', '.join(header) or 'empty'}); one file a row")
    unknown = [name for name in header if name not in ("path", *allowed)]
    faults = [f"column {name!r} is not known; known are path, {', '.join(allowed)}" for name in unknown]
    rows, seen = [], dict[str, int]()
    for number, cells in enumerate(lines[1:], start=2):
        row = dict(zip(header, (cell.strip() for cell in cells), strict=False))
        if not any(row.values()):
            continue
        if not row.get("path"):
            rows.append(row | {"path": "", "row": str(number), "fault": "no path"})
            continue
        file, fault = _file(path.parent, row["path"])
        name = row.get("slide_id") or file.stem
        if not fault and name in seen:
            fault = f"{name} stands in row {seen[name]} already"
        elif not fault:
            seen[name] = number
        rows.append(row | {"path": str(file), "row": str(number), "fault": fault})
    if not rows and not faults:
        faults.append("no rows below the header")
    if not faults and all(row["fault"] for row in rows):
        faults += [f"row {row['row']}: {row['fault']}" for row in rows]
    if faults:
        raise InputError.of(f"{path}: cannot be used (the header is row 1)", faults)
    return rows


def _file(folder: Path, written: str) -> tuple[Path, str]:
    """The file that a row of a table in `folder` names, and why it is none, or ""."""
    file = folder / written_path(written)  # "~lesion.jpg" may be a file's own name
    try:
        return file, "" if file.is_file() else f"{file}: no such file"
    except OSError as error:  # a name that is too long, a folder that may not be looked into
        return file, f"{file}: cannot be read ({error.strerror or error})"


def row_mpp(row: Mapping[str, str]) -> float | None:
    """The resolution that a row of a table of slides names, µm/px.

    Raises:
        InputError: it is none.
    """
    if not row.get("mpp"):
        return None
    try:
        value = float(row["mpp"])
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise InputError(f"row {row['row']}: mpp {row['mpp']!r} is no resolution in µm/px")
    return value
