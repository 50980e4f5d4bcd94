"""What `predict` does besides: a model on a server or in an exported folder, lists of inputs, numbers of thresholds."""

import csv
import io
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from melano_tf.csv_rows import delimiter_of
from melano_tf.errors import InputError
from melano_tf.runs.files import atomic
from melano_tf.runs.sidecar import Sidecar

if TYPE_CHECKING:
    from melano_tf.commands.predict import PredictSettings
    from melano_tf.serving.client import Client
    from melano_tf.serving.image import Patient

TABLE = ".csv"
LIST_OPTIONS = ("metadata", "age", "sex", "site", "mpp")
Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Opened:
    """A model that was found, wherever it is.

    Attributes:
        sidecar: what it says of itself.
        measured: see `serving.measured.measured_numbers`.
        client: to an exported one; None for a `.keras` file.
        card: of an exported one.
    """

    sidecar: Sidecar
    measured: Mapping[str, Any] | None
    client: "Client | None" = None
    card: Mapping[str, Any] | None = None


def open_model(settings: "PredictSettings") -> Opened:
    """Find the model: a file of a run, an exported folder, or a name on a server.

    Raises:
        InputError: there is no such model, or no such server; or the model is of a kind that answers nothing.
    """
    from melano_tf.serving.kinds import checked_kind
    from melano_tf.serving.measured import measured_numbers

    if settings.server is None and not settings.model.is_dir():
        sidecar = Sidecar.read(settings.model)
        checked_kind(sidecar, settings.model)
        return Opened(sidecar, measured_numbers(settings.model, sidecar))
    from melano_tf.serving.client import Client, ClientSettings, FolderTransport, Transport, find_transport
    from melano_tf.serving.export import read_card
    from melano_tf.serving.remote import served_sidecar

    asked = ClientSettings(settings.timeout, settings.retries, settings.chunk)
    transport: Transport
    if settings.server is not None:
        if settings.model.suffix == ".keras":
            raise InputError(
                f"--model {settings.model}: with --server this is the model's name on the server, such as "
                f"{settings.model.stem} (docker's models.config names it)"
            )
        transport = find_transport(settings.server, str(settings.model))
    else:
        if not (settings.model / "saved_model.pb").is_file():
            raise InputError(
                f"{settings.model}: a folder, but no exported model; name a .keras file, or an exported version"
            )
        transport = FolderTransport(settings.model)
    client = Client(transport, asked)
    # A folder's card is a file; its graph is loaded when it is needed.
    card = client.card() if settings.server is not None else read_card(settings.model)
    return Opened(served_sidecar(card), card.get("measured"), client, card)


@contextmanager
def shown_progress(client: "Client | None", total: int, unit: str) -> Iterator[None]:
    """A bar on the terminal while a client sends `total` items."""
    if client is None or total <= client.settings.chunk:
        yield
        return
    from tqdm import tqdm

    with tqdm(total=total, unit=unit, desc="asking", leave=False) as bar:
        client.progress = bar.update
        yield


def threshold_words(opened: Opened) -> str:
    """The threshold with what was measured of it, in one line."""
    from melano_tf.serving.measured import measured_words

    if len(opened.sidecar.classes) != 2:
        return "the most probable class is called; there is no threshold"
    threshold = f"threshold {opened.sidecar.threshold:.3g}"
    if opened.measured is None and "sensitivity" in opened.sidecar.threshold_from:  # models of older runs
        return f"{threshold}: {opened.sidecar.threshold_from}"
    return f"{threshold}: {measured_words(_dict(opened.measured))}"


def named_files(files: Sequence[Path]) -> dict[str, list[str]]:
    """What an answer consists of, for its JSON: a folder may hold files of a former one."""
    return {"files": [path.name for path in files]}


def _dict(measured: Mapping[str, Any] | None) -> dict[str, Any] | None:
    return None if measured is None else dict(measured)


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
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter_of(text))
    header = [name.strip() for name in next(reader, [])]
    if "path" not in header:
        raise InputError(f"{path}: no column path in its header ({', '.join(header) or 'empty'}); one file a row")
    unknown = [name for name in header if name not in ("path", *allowed)]
    faults = [f"column {name!r} is not known; known are path, {', '.join(allowed)}" for name in unknown]
    rows, seen = [], dict[str, int]()
    for number, cells in enumerate(reader, start=2):
        row = dict(zip(header, (cell.strip() for cell in cells), strict=False))
        if not any(row.values()):
            continue
        if not row.get("path"):
            rows.append(row | {"path": "", "row": str(number), "fault": "no path"})
            continue
        file = path.parent / Path(row["path"]).expanduser()
        name = row.get("slide_id") or file.stem
        if not file.is_file():
            fault = f"{file}: no such file"
        elif name in seen:
            fault = f"{name} stands in row {seen[name]} already"
        else:
            fault, seen[name] = "", number
        rows.append(row | {"path": str(file), "row": str(number), "fault": fault})
    if not rows and not faults:
        faults.append("no rows below the header")
    if not faults and all(row["fault"] for row in rows):
        faults += [f"row {row['row']}: {row['fault']}" for row in rows]
    if faults:
        raise InputError.of(f"{path}: cannot be used (the header is row 1)", faults)
    return rows


def listed_images(path: Path) -> tuple[list[Path], dict[str, "Patient"], dict[int, tuple[Path, str]]]:
    """The images of a CSV with columns path, age, sex, site.

    Returns:
        (the images, what is known of each by its name without suffix, and the rows that cannot be used: by their place
        among the rows, from 0, the file ("row 7" where none is named) and why). The others are answered all the same.

    Raises:
        InputError: see `read_list`; also where a word is not understood in each row that is left.
    """
    from melano_tf.serving.image import Patient

    images: list[Path] = []
    patients: dict[str, Patient] = {}
    bad: dict[int, tuple[Path, str]] = {}
    for place, row in enumerate(read_list(path, ("age", "sex", "site"))):
        image, fault = Path(row["path"] or f"row {row['row']}"), row["fault"]
        try:
            told = Patient.of(row.get("age"), row.get("sex"), row.get("site"))
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


def with_bad_rows(answers: Sequence[Answer], bad: Mapping[int, Answer]) -> list[Answer]:
    """The answers in the order of the table, those of its bad rows at their places in it, from 0."""
    found = list(answers)
    for place in sorted(bad):
        found.insert(place, bad[place])
    return found


def predict_slides(
    settings: "PredictSettings", opened: Opened, judge: Callable[..., Path], say: Callable[[str], None]
) -> Path:
    """Each slide of a CSV (columns path, slide_id, mpp) in a folder of its own, and predictions.csv of all.

    A slide that cannot be judged is listed with its reason, and the others are judged all the same.

    Raises:
        InputError: the list cannot be used, or not one slide could be judged.
    """
    from melano_tf.runs.files import read_json

    lines: list[dict[str, Any]] = []
    listed = read_list(settings.input, ("slide_id", "mpp"))
    for row in listed:
        name = row.get("slide_id") or Path(row["path"]).stem
        line: dict[str, Any] = {"slide_id": name or f"row {row['row']}", "path": row["path"]}
        try:
            if row["fault"]:
                raise InputError(f"row {row['row']}: {row['fault']}")
            if Path(name).name != name or name.startswith("."):
                raise InputError(f"row {row['row']}: slide_id {name!r} cannot name a folder")
            mpp = _mpp(row) or settings.mpp
            out = settings.out / name
            out.mkdir(parents=True, exist_ok=True)
            judge(replace(settings, input=Path(row["path"]), out=out, mpp=mpp), opened, say)
            record = read_json(out / "prediction.json")
            line |= {f"probability_{key}": value for key, value in record["probabilities"].items()}
            line |= {"threshold": record["threshold"], "decision": record["decision"], "failed": ""}
        except InputError as error:
            say(f"{line['slide_id']}: FAILED: {error}")
            line |= {"failed": str(error).splitlines()[0]}
        lines.append(line)
    names = list(dict.fromkeys(key for line in lines for key in line))
    path = settings.out / "predictions.csv"
    with atomic(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        writer.writerows(lines)
    failed = sum(bool(line["failed"]) for line in lines)
    if failed == len(lines):
        raise InputError(f"{settings.input}: not one of its {len(lines)} slides could be judged; {path} says why")
    say(f"judged {len(lines) - failed} of {len(lines)} slides")
    say(f"wrote {path}")
    return settings.out


def _mpp(row: Mapping[str, str]) -> float | None:
    if not row.get("mpp"):
        return None
    try:
        value = float(row["mpp"])
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise InputError(f"row {row['row']}: mpp {row['mpp']!r} is no resolution in µm/px")
    return value
