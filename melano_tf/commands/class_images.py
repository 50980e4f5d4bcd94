"""`predict` with a classifier of several classes: images in, the ISIC challenge's table out."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from melano_tf.commands.served import TABLE, listed_images, shown_progress, with_bad_rows
from melano_tf.errors import InputError
from melano_tf.runs.files import write_json

if TYPE_CHECKING:
    from melano_tf.commands.predict import PredictSettings
    from melano_tf.commands.served import Opened

SHOWN = 20


def predict_several_classes(settings: "PredictSettings", opened: "Opened", say: Callable[[str], None]) -> Path:
    """Write predictions.csv (the challenge's format, readable images) and prediction.json, or predictions.json of a
    folder, which also names what could not be read."""
    from melano_tf.serving.classes import ClassAnswer, check_stems, class_record, predict_classes, write_challenge
    from melano_tf.serving.image import find_inputs

    sidecar, listed = opened.sidecar, settings.input.suffix.lower() == TABLE
    images, _, bad = listed_images(settings.input) if listed else (find_inputs(settings.input), {}, {})
    check_stems(images)
    if opened.client is not None:
        from melano_tf.serving.remote import ask_classes

        with shown_progress(opened.client, len(images), "image"):
            answers = ask_classes(opened.client, sidecar, images)
    else:
        answers = predict_classes(settings.model, sidecar, images)
    answers = with_bad_rows(answers, {place: ClassAnswer(path, None, why) for place, (path, why) in bad.items()})
    records = [class_record(answer, sidecar, settings.model) for answer in answers]
    single = settings.input.is_file() and not listed
    unreadable = [record for record in records if record["probabilities"] is None]
    if single and unreadable:
        raise InputError(f"{settings.input}: {unreadable[0]['unreadable']}")
    json_path = settings.out / ("prediction.json" if single else "predictions.json")
    write_json(json_path, records[0] if single else records)
    csv_path = write_challenge(settings.out / "predictions.csv", answers, sidecar)
    for record in records[:SHOWN]:
        say(f"{Path(record['input']).name}: {_words(record)}")
    if len(records) > SHOWN:
        say(f"… {len(records) - SHOWN} more in {csv_path.name}")
    say(f"  {records[0]['caveat']}")
    if unreadable:
        say(
            f"{len(unreadable)} of {len(records)} images could not be read and have no row in {csv_path.name}; "
            f"{json_path.name} names each with its reason"
        )
    for path in (json_path, csv_path):
        say(f"wrote {path}")
    return settings.out


def _words(record: dict[str, Any]) -> str:
    if record["probabilities"] is None:
        return f"unreadable ({record['unreadable']})"
    ordered = sorted(record["probabilities"].items(), key=lambda pair: -pair[1])
    next_ones = ", ".join(f"{name} {p:.3f}" for name, p in ordered[1:3])
    return f"{record['decision']} {ordered[0][1]:.3f} (then {next_ones})" + f"; {record['remark']}" * bool(
        record["remark"]
    )
