"""`predict` on slides: one, or those of a table."""

import errno
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from melano_tf.commands.predict import biopsy_output, magnified_output
from melano_tf.commands.predict.asked_inputs import read_list, row_mpp
from melano_tf.commands.predict.settings import PredictSettings
from melano_tf.commands.predict.threshold_words import say_distance, threshold_words
from melano_tf.errors import InputError
from melano_tf.runs import journal
from melano_tf.runs.atomic_files import write_csv, write_json
from melano_tf.serving.answer_record import answer_record
from melano_tf.serving.model_interface import Answering, Case

FORMS = {"spitzoid-target": biopsy_output, "multimag": magnified_output}
PREDICTIONS = "predictions.csv"  # of all slides of a table


def predict_slide(settings: PredictSettings, model: Answering, say: Callable[[str], None]) -> dict[str, Any]:
    """Write prediction.json, tiles.csv, tiles.geojson and the maps of one slide; returns what the JSON says.

    Raises:
        InputError: there is no such slide, or it cannot be judged.
    """
    form, card = FORMS[model.card.sidecar.kind], model.card
    files = [settings.out / "prediction.json", settings.out / "tiles.csv"]
    for path in (*files, *(settings.out / name for name in form.pictures(settings.input.stem, card))):
        journal.check_replaceable(path)  # before any work
    journal.remove(files[0])  # a former answer's, which must not stand where this one fails
    if not settings.input.is_file():
        raise InputError(f"{settings.input}: no such slide file")
    [answer] = model.answer([Case(settings.input, mpp=settings.mpp)], settings.out)
    if answer.probabilities is None:
        raise InputError(answer.reason)
    assert answer.tiles is not None
    record = answer_record(answer, card, settings.answer_anyway)
    write_csv(files[1], answer.tiles)
    files += form.write_pictures(answer, card.sidecar, settings.out, settings.thumbnail_mpp)
    # The folder may hold files of a former answer.
    record |= {"files": [path.name for path in files]}
    write_json(files[0], record)
    for line in form.words(answer, record, card.sidecar):
        say(line)
    say(f"  {threshold_words(card)}")
    say_distance(record, card, say)
    say(f"  {record['caveat']}")
    for line in form.last_words(answer):
        say(line)
    for path in files:
        say(f"wrote {path}")
    return record


def own_folder(out: Path, name: str, row: str, taken: dict[str, str]) -> Path:
    """The folder of a slide's answer, made if missing.

    Args:
        out: of all answers.
        name: of the slide.
        row: where it stands, as a spreadsheet counts.
        taken: the rows of the slides before it, by their names in small letters; it is added to them.

    Raises:
        InputError: no folder can be called so, or it is another slide's; some file systems know no capitals.
    """
    which, folded = f"row {row}: slide_id {name!r}", name.casefold()
    if not _names_a_folder(name):
        raise InputError(f"{which} cannot name a folder")
    if folded == PREDICTIONS:
        raise InputError(f"{which} is what the table of all slides is called; choose another slide_id")
    if folded in taken:
        raise InputError(f"{which} stands in row {taken[folded]} already (capitals do not count)")
    try:
        (out / name).mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise InputError(f"{which} cannot name a folder: {out / name} is a file; choose another slide_id") from None
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise  # a full disk, a folder that may not be written: no slide's fault
        raise InputError(f"{which} cannot name a folder ({error.strerror})") from None
    taken[folded] = row
    return out / name


def _names_a_folder(name: str) -> bool:
    """Whether it can be that of a folder in another one."""
    return Path(name).name == name and not name.startswith(".") and "\0" not in name


def predict_slides(
    settings: PredictSettings,
    judge: Callable[[PredictSettings], dict[str, Any]],
    say: Callable[[str], None],
    rows: Sequence[dict[str, str]] | None = None,
) -> Path:
    """Each slide of a CSV (columns path, slide_id, mpp) in a folder of its own, and predictions.csv of all.

    A slide that cannot be judged is listed with its reason, and the others are judged all the same.

    Args:
        settings: of all of them.
        judge: writes the answer for one slide; `predict_slide` with the model.
        say: shows a line.
        rows: the slides, as `asked_inputs.read_list` gives them; not given: those of the CSV.

    Raises:
        InputError: the list or the folder cannot be used, or not one slide could be judged.
    """
    path = settings.out / PREDICTIONS
    journal.check_replaceable(path)
    lines: list[dict[str, Any]] = []
    taken: dict[str, str] = {}
    for row in read_list(settings.input, ("slide_id", "mpp")) if rows is None else rows:
        name = row.get("slide_id") or Path(row["path"]).stem
        line: dict[str, Any] = {"slide_id": name or f"row {row['row']}", "path": row["path"]}
        try:
            if row["fault"]:
                if name and _names_a_folder(name) and name.casefold() not in taken:
                    journal.remove(settings.out / name / "prediction.json")  # a former answer's
                raise InputError(f"row {row['row']}: {row['fault']}")
            out = own_folder(settings.out, name, row["row"], taken)
            journal.remove(out / "prediction.json")  # a former answer's, which must not stand where this one fails
            mpp = row_mpp(row) or settings.mpp
            record = judge(replace(settings, input=Path(row["path"]), out=out, mpp=mpp))
            line |= {f"probability_{key}": value for key, value in record["probabilities"].items()}
            line |= {"threshold": record["threshold"], "decision": record["decision"]}
            line |= {"distance": record["distance"], "withheld": record["withheld"], "failed": ""}
        except InputError as error:
            say(f"{line['slide_id']}: FAILED: {error}")
            line |= {"failed": str(error).splitlines()[0]}
        lines.append(line)
    write_csv(path, pd.DataFrame(lines, dtype=object))
    failed = sum(bool(line["failed"]) for line in lines)
    if failed == len(lines):
        raise InputError(f"{settings.input}: not one of its {len(lines)} slides could be judged; {path} says why")
    say(f"judged {len(lines) - failed} of {len(lines)} slides")
    say(f"wrote {path}")
    return settings.out
