"""`predict` on images: one, a folder, or those of a table."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from melano_tf.commands.predict.asked_inputs import AskedImages, asked_images, is_table
from melano_tf.commands.predict.challenge_table import check_stems, class_words, write_challenge
from melano_tf.commands.predict.settings import PredictSettings
from melano_tf.commands.predict.threshold_words import threshold_words
from melano_tf.errors import InputError
from melano_tf.runs import journal
from melano_tf.runs.atomic_files import write_csv, write_json
from melano_tf.runs.sidecar import Sidecar
from melano_tf.serving.answer_record import answer_record, familiar_words
from melano_tf.serving.image_models import CHUNK, cannot_be_judged
from melano_tf.serving.model_interface import Answer, Answering, Card, Case, unheard
from melano_tf.serving.model_kinds import ANSWERING
from melano_tf.serving.operating_points import favour_calibration, favour_factors, favoured
from melano_tf.training.familiarity import UNLIKE, distance_words

SHOWN = 20


def write_rows(path: Path, answers: Sequence[Answer], records: Sequence[dict[str, Any]], sidecar: Sidecar) -> None:
    """One row an image: what the JSON says of it, flat."""
    positive = sidecar.classes[1]
    rows = []
    for record in records:
        evidence = record["evidence"]
        row = {"input": record["input"], **(evidence["metadata"] or {})}
        row["probability"] = (record["probabilities"] or {}).get(positive)
        row["calibrated_probability"] = (record["calibrated_probabilities"] or {}).get(positive)
        row["probability_without_metadata"] = evidence.get("probability_without_metadata")
        row |= {"threshold": record["threshold"], "decision": record["decision"]}
        row |= {"distance": record["distance"], "withheld": record["withheld"]}
        rows.append({**row, "unreadable": record.get("unreadable"), "remark": record["remark"]})
    write_csv(path, pd.DataFrame(rows))


def threshold_decision(record: dict[str, Any], sidecar: Sidecar) -> str:
    """The positive class's probability and the decision."""
    positive = sidecar.classes[1]
    p = (record["calibrated_probabilities"] or record["probabilities"])[positive]
    how = " (calibrated)" if record["calibrated_probabilities"] else ""
    return f"{positive} {p:.3f}{how}, decision {record['decision'] or 'withheld'} at {sidecar.threshold:.3g}"


@dataclass(frozen=True)
class Form:
    """How the answers of one sort of models are written and said.

    Attributes:
        write: predictions.csv.
        words: of one readable image.
        unreadable: what the files say of the others.
    """

    write: Callable[[Path, Sequence[Answer], Sequence[dict[str, Any]], Sidecar], None]
    words: Callable[[dict[str, Any], Sidecar], str]
    unreadable: str


FORMS: Mapping[str, Form] = {
    "threshold": Form(write_rows, threshold_decision, "; predictions.csv names each with its reason"),
    "most probable": Form(
        write_challenge, class_words, " and have no row in predictions.csv; predictions.json names each with its reason"
    ),
}


def predict_images(settings: PredictSettings, model: Answering, say: Callable[[str], None]) -> Path:
    """Write predictions.csv, and prediction.json of one image or predictions.json (a list) of several.

    Raises:
        InputError: nothing to judge, the only image cannot be judged, or (the files are written) not one of several.
    """
    card = model.card
    called_by = ANSWERING[card.sidecar.kind].called_by
    factors = None if settings.favour is None else favour_factors(card.sidecar, settings.favour, settings.model)
    asked = asked_images(settings, card, say)
    if called_by == "most probable":
        check_stems(asked.cases)
    single = settings.input.is_file() and not is_table(settings.input)
    files = [settings.out / ("prediction.json" if single else "predictions.json"), settings.out / "predictions.csv"]
    for path in files:  # before any work
        journal.check_replaceable(path)
    for path in files:
        journal.remove(path)  # a former answer's, which must not stand where this one fails
    with shown_progress(len(asked.cases)) as progress:
        answers = with_bad_rows(model.answer(asked.cases, settings.out, progress), asked, card)
    if settings.favour is not None and factors is not None:
        answers = [in_favour(answer, factors, str(settings.favour)) for answer in answers]
        own = replace(card.sidecar, calibration=favour_calibration(card.sidecar, settings.favour))
        card = replace(card, sidecar=own)
    records = [answer_record(answer, card, settings.answer_anyway) for answer in answers]
    unreadable = [record for record in records if record["probabilities"] is None]
    if single and unreadable:
        raise InputError(f"{settings.input}: {unreadable[0]['unreadable']}")
    form = FORMS[called_by]
    write_json(files[0], records[0] if single else records)
    form.write(files[1], answers, records, card.sidecar)
    for record in records[:SHOWN]:
        say(f"{Path(record['input']).name}: {_words(record, form, card.sidecar)}")
    if len(records) > SHOWN:
        say(f"… {len(records) - SHOWN} more in {files[1].name}")
    if len(unreadable) == len(records):
        raise InputError(f"{settings.input}: not one of its {len(records)} images could be read; {files[0]} says why")
    if called_by == "threshold":
        say(f"  {threshold_words(card)}")
    say(f"  {familiar_words(card)}")
    say(f"  {records[0]['caveat']}")
    if withheld := sum(bool(record["withheld"]) for record in records):
        say(f"{withheld} of {len(records)} decisions withheld: {UNLIKE}; --answer-anyway decides all the same")
    if unreadable:
        say(f"{len(unreadable)} of {len(records)} images could not be read{form.unreadable}")
    for path in files:
        say(f"wrote {path}")
    return settings.out


def in_favour(answer: Answer, factors: np.ndarray, favour: str) -> Answer:
    """The answer with the probabilities of another operating point; its evidence says which."""
    if answer.probabilities is None:
        return answer
    evidence = {**answer.evidence, "in_favour_of": favour}
    untold = None if answer.untold is None else favoured(answer.untold, factors)
    return replace(answer, probabilities=favoured(answer.probabilities, factors), untold=untold, evidence=evidence)


def _words(record: dict[str, Any], form: Form, sidecar: Sidecar) -> str:
    if record["probabilities"] is None:
        return f"unreadable ({record['unreadable']})"
    far = distance_words(record["distance"])
    return form.words(record, sidecar) + f"; {far}" * bool(far) + f"; {record['remark']}" * bool(record["remark"])


def with_bad_rows(answers: Sequence[Answer], asked: AskedImages, card: Card) -> list[Answer]:
    """The answers in the order of the table, those of its bad rows at their places in it."""
    found = list(answers)
    for place, (path, why) in sorted(asked.bad.items()):
        found.insert(place, cannot_be_judged(Case(path), card, why))
    return found


@contextmanager
def shown_progress(total: int) -> Iterator[Callable[[int], object]]:
    """A bar on the terminal while many images are judged."""
    if total <= CHUNK:
        yield unheard
        return
    from tqdm import tqdm

    with tqdm(total=total, unit="image", desc="asking", leave=False, disable=None) as bar:
        yield bar.update
