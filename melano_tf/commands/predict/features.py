"""`predict` on files of features: one, a folder of them, or those of a table."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from melano_tf.commands.predict.settings import PredictSettings
from melano_tf.commands.predict.threshold_words import say_distance, threshold_words
from melano_tf.errors import InputError
from melano_tf.features.feature_file import open_features
from melano_tf.reports.attention_maps import attention_map, read_slides, within_bag
from melano_tf.reports.figures import save_figure
from melano_tf.runs import journal
from melano_tf.runs.atomic_files import write_csv, write_json
from melano_tf.serving.answer_record import answer_record
from melano_tf.serving.feature_bag_models import SUFFIXES
from melano_tf.serving.model_interface import Answer, Answering, Case


def predict_features(settings: PredictSettings, model: Answering, say: Callable[[str], None]) -> dict[str, Any]:
    """Write prediction.json, tiles.csv (each tile's attention) and the map of one file; returns what the JSON says.

    Raises:
        InputError: the file cannot be judged.
    """
    files = [settings.out / "prediction.json", settings.out / "tiles.csv"]
    for path in (*files, _map(settings)):  # before any work
        journal.check_replaceable(path)
    journal.remove(files[0])  # a former answer's, which must not stand where this one fails
    slides = read_slides(settings.slides)
    [answer] = model.answer([Case(settings.input)], settings.out)
    if answer.probabilities is None:
        raise InputError(answer.reason)
    assert answer.tiles is not None
    card = model.card
    record = answer_record(answer, card, settings.answer_anyway)
    write_csv(files[1], answer.tiles)
    called = record["calibrated_probabilities"] or record["probabilities"]
    most = record["decision"] or max(called, key=called.__getitem__)
    shown = f"{record['decision'] or record['withheld']}, {most} {called.get(most, 0):.3f}"
    files += _write_map(answer, settings, slides, f"{settings.input.stem}: {shown}", say)
    record |= {"files": [path.name for path in files]}
    write_json(files[0], record)
    how = " (calibrated)" if record["calibrated_probabilities"] else ""
    each = ", ".join(f"{name} {p:.3f}" for name, p in called.items())
    say(f"{settings.input.stem}: {each}{how}; decision {record['decision'] or 'withheld'}")
    say(f"  from {record['evidence']['instances']:,} tiles; the most attended one: {_first(answer)}")
    if record["remark"]:
        say(f"  {record['remark']}")
    say(f"  {threshold_words(card)}")
    say_distance(record, card, say)
    say(f"  {record['caveat']}")
    for path in files:
        say(f"wrote {path}")
    return record


def _first(answer: Answer) -> str:
    assert answer.tiles is not None
    row = answer.tiles.to_dict("records")[int(answer.tiles["attention"].to_numpy().argmax())]
    place = f" at {row['x']:.0f}, {row['y']:.0f}" if "x" in answer.tiles else ""
    return f"{row['tile']}{place}, attention {row['attention']:.3g}"


def _write_map(
    answer: Answer, settings: PredictSettings, slides: Any, title: str, say: Callable[[str], None]
) -> list[Path]:
    """The map, over the slide where --slides names it; said where there is none to be had."""
    assert answer.tiles is not None
    try:
        figure = attention_map(open_features(settings.input), within_bag(answer.tiles["attention"]), slides, title)
    except InputError as error:
        say(f"  no map: {error}")
        return []
    return [save_figure(_map(settings), figure)]


def _map(settings: PredictSettings) -> Path:
    """`<slide_id>-attention.png`; there is none of a file whose tiles have no places."""
    return settings.out / f"{settings.input.stem}-attention.png"


def listed_files(folder: Path) -> list[dict[str, str]]:
    """The files of features of a folder, at any depth, as rows of a table of inputs.

    Raises:
        InputError: there are none, or two of one name.
    """
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    if not files:
        raise InputError(f"{folder}: holds no files of features ({', '.join(SUFFIXES)})")
    rows, seen = [], dict[str, Path]()
    for number, path in enumerate(files, start=1):
        fault = f"{seen[path.stem]} has the same name" if path.stem in seen else ""
        seen.setdefault(path.stem, path)
        name = path.stem if not fault else f"{path.stem}-{number}"
        rows.append({"slide_id": name, "path": str(path), "row": str(number), "fault": fault})
    return rows
