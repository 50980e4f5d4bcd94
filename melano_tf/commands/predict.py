"""`predict`: a trained model on one slide, on one image, or on a folder of images."""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from melano_tf.commands.class_images import predict_several_classes
from melano_tf.commands.magnified_slide import predict_magnified
from melano_tf.commands.served import (
    TABLE,
    Opened,
    listed_images,
    named_files,
    open_model,
    predict_slides,
    shown_progress,
    threshold_words,
    with_bad_rows,
)
from melano_tf.errors import InputError
from melano_tf.runs import journal
from melano_tf.runs.files import atomic, write_json
from melano_tf.runs.sidecar import Sidecar

SLIDE_OPTIONS = ("mpp", "thumbnail_mpp")
IMAGE_OPTIONS = ("metadata", "age", "sex", "site")
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")
SLIDE_SUFFIXES = (".svs", ".tif", ".tiff", ".ndpi", ".scn", ".mrxs", ".bif", ".vms", ".svslide", ".dcm")


@dataclass(frozen=True)
class PredictSettings:
    """A trained model on what has no label: a slide, an image, or a folder of images, as the model's kind says.

    A slide brings probability, tumour tiles, maps and GeoJSON; images bring probabilities, as JSON and as CSV (of a
    model of several classes in the ISIC challenge's format).
    """

    model: Path
    """The model file, for example runs/my-cohort/models/target.keras (its .json and companions lie beside it); or an
    exported version's folder, serving/zoome/1; or, with --server, the model's name there."""
    input: Path
    """The slide; or the image, or a folder of images; or a CSV with a column path and, for images, age, sex, site, for
    slides slide_id, mpp."""
    out: Path
    """Folder for the answer."""
    mpp: float | None = None
    """Slides: resolution of level 0 in µm/px, where its own metadata is missing or wrong."""
    thumbnail_mpp: float | None = None
    """Slides: resolution of the maps' background picture, µm/px. Not given: the longer side gets 1,600 px."""
    metadata: Path | None = None
    """Images: a CSV with a column image and any of age, sex, site; what is missing there is unknown."""
    age: str | None = None
    """Images: the patient's age in years, if no CSV says otherwise."""
    sex: str | None = None
    """Images: female or male, if no CSV says otherwise."""
    site: str | None = None
    """Images: where the lesion is, for example torso or head/neck, if no CSV says otherwise."""
    threads: int = 0
    """Threads of TensorFlow; 0: one a core."""
    server: str | None = None
    """TensorFlow Serving that has the exported model: http://127.0.0.1:8501 or grpc://127.0.0.1:8500."""
    timeout: float = 60.0
    """With --server: seconds until a request counts as lost."""
    retries: int = 4
    """With --server: further tries where it is away or busy, with pauses of 0.5, 1, 2, … seconds."""
    chunk: int = 16
    """Exported models: images or tiles in one request, fewer where they are large."""


def predict(settings: PredictSettings, say: Callable[[str], None]) -> Path:
    """Answer for a slide or for images; returns the folder that holds the answer.

    Raises:
        InputError: the model, the input or the folder cannot be used, or an option does not belong to the model's kind.
    """
    if not settings.input.exists():
        raise InputError(f"{settings.input}: no such file or folder")
    read = {"--input": settings.input, "--metadata": settings.metadata}
    journal.refuse_mixing(settings.out, read | ({} if settings.server else {"--model": settings.model}))
    from melano_tf.training.runtime import configure

    # Before a graph is loaded, which starts TensorFlow.
    configure(settings.threads)
    opened = open_model(settings)
    sidecar = opened.sidecar
    answer, foreign = ANSWERS[sidecar.kind]
    for name in foreign:
        if getattr(settings, name) is not None:
            raise InputError(f"--{name.replace('_', '-')}: does not belong to a model of kind {sidecar.kind!r}")
    judges_slides = foreign is IMAGE_OPTIONS
    if judges_slides and (settings.input.is_dir() or settings.input.suffix.lower() in IMAGE_SUFFIXES):
        raise InputError(f"{settings.input}: a model of kind {sidecar.kind!r} judges one slide, not images")
    if not judges_slides and settings.input.is_file() and settings.input.suffix.lower() in SLIDE_SUFFIXES:
        raise InputError(f"{settings.input}: a model of kind {sidecar.kind!r} judges images (JPEG or PNG), not slides")
    journal.open_folder(settings.out)
    if judges_slides and settings.input.suffix.lower() == TABLE:
        return predict_slides(settings, opened, answer, say)
    return answer(settings, opened, say)


def predict_slide(settings: PredictSettings, opened: Opened, say: Callable[[str], None]) -> Path:
    """Write prediction.json, tiles.csv, tiles.geojson and both maps of one slide."""
    if not settings.input.is_file():
        raise InputError(f"{settings.input}: no such slide file")
    from melano_tf.serving.remote import ServedJudge
    from melano_tf.serving.slide import LocalJudge, SlideJudge, answer_record
    from melano_tf.serving.slide import predict_slide as judge_slide

    sidecar = opened.sidecar
    judge: SlideJudge
    if opened.client is not None and opened.card is not None:
        judge = ServedJudge(opened.client, opened.card)
    else:
        judge = LocalJudge(settings.model, sidecar)
    slide_id = settings.input.stem
    with tempfile.TemporaryDirectory(prefix=".tiles-", dir=settings.out) as scratch:
        answer = judge_slide(judge, sidecar, settings.input, slide_id, settings.mpp, Path(scratch))
    record = answer_record(answer, sidecar, settings.model, settings.input) | {"measured": opened.measured}
    with atomic(settings.out / "tiles.csv") as temporary:
        answer.tiles.to_csv(temporary, index=False)
    positive = sidecar.classes[1]
    from melano_tf.commands.slide_files import write_slide_files
    from melano_tf.pipelines.store import StoreSettings

    title = f"{slide_id}: probability of {positive} {answer.probability:.3f}"
    files = [settings.out / "prediction.json", settings.out / "tiles.csv"]
    store = StoreSettings.recorded(sidecar.preprocessing["store"])
    shown = (settings.mpp, settings.thumbnail_mpp, answer.tiles, title, settings.out, store)
    files += write_slide_files(settings.input, slide_id, *shown)
    write_json(files[0], record | named_files(files))
    evidence = record["evidence"]
    say(f"{slide_id}: {positive} {answer.probability:.3f}, decision {record['decision']} at {sidecar.threshold:g}")
    say(
        f"  from {evidence['judged_tiles']} tiles"
        + (" (none was called tumour: the most probable ones)" if answer.fallback else " called tumour")
        + f" of {evidence['tissue_tiles']} with tissue"
    )
    if answer.notes:
        say(f"  note: {answer.notes}")
    say(f"  {threshold_words(opened)}")
    say(f"  {record['caveat']}")
    for path in files:
        say(f"wrote {path}")
    return settings.out


def predict_images(settings: PredictSettings, opened: Opened, say: Callable[[str], None]) -> Path:
    """Write predictions.csv, and prediction.json of one image or predictions.json (a list) of a folder's."""
    from melano_tf.serving.image import ImageAnswer, Patient, answer_record, find_inputs, read_metadata
    from melano_tf.serving.image import predict_images as judge_images
    from melano_tf.serving.remote import ask_images

    sidecar, listed = opened.sidecar, settings.input.suffix.lower() == TABLE
    images, known, bad = listed_images(settings.input) if listed else (find_inputs(settings.input), {}, {})
    default = Patient.of(settings.age, settings.sex, settings.site)
    patients = {path.stem: default for path in images} | known
    if settings.metadata is not None:
        told, unused = read_metadata(settings.metadata, images)
        patients |= told
        for words, names in (
            ("images without a row in it", [path.stem for path in images if path.stem not in told]),
            ("rows of it without an image", unused),
        ):
            if names:
                say(f"{settings.metadata}: {len(names)} {words}: {', '.join(names[:5])}{', …' * (len(names) > 5)}")
    if sidecar.preprocessing["metadata"] is None and (settings.metadata or default != Patient()):
        say("this model takes no metadata; what was given is not used")
    with shown_progress(opened.client, len(images), "image"):
        if opened.client is not None:
            answers = ask_images(opened.client, sidecar, images, patients)
        else:
            answers = judge_images(settings.model, sidecar, images, patients)
    nothing = (None, None, Patient())
    answers = with_bad_rows(answers, {place: ImageAnswer(path, *nothing, why) for place, (path, why) in bad.items()})
    records = [answer_record(answer, sidecar, settings.model) | {"measured": opened.measured} for answer in answers]
    single = settings.input.is_file() and not listed
    json_path = settings.out / ("prediction.json" if single else "predictions.json")
    unreadable = [record for record in records if record["decision"] is None]
    if single and unreadable:
        raise InputError(f"{settings.input}: {unreadable[0]['unreadable']}")
    write_json(json_path, records[0] if single else records)
    csv_path = settings.out / "predictions.csv"
    _write_rows(csv_path, records, sidecar.classes[1])
    for record in records[:20]:
        say(f"{Path(record['input']).name}: {_words(record, sidecar)}")
    if len(records) > 20:
        say(f"… {len(records) - 20} more in {csv_path.name}")
    say(f"  {threshold_words(opened)}")
    say(f"  {records[0]['caveat']}")
    if unreadable:
        say(f"{len(unreadable)} of {len(records)} images could not be read; predictions.csv names each with its reason")
    for path in (json_path, csv_path):
        say(f"wrote {path}")
    return settings.out


def _words(record: dict[str, Any], sidecar: Sidecar) -> str:
    if record["decision"] is None:
        return f"unreadable ({record['unreadable']})"
    positive = sidecar.classes[1]
    p = (record["calibrated_probabilities"] or record["probabilities"])[positive]
    how = " (calibrated)" if record["calibrated_probabilities"] else ""
    return f"{positive} {p:.3f}{how}, decision {record['decision']} at {sidecar.threshold:.3g}" + (
        f"; {record['remark']}" * bool(record["remark"])
    )


def _write_rows(path: Path, records: list[dict[str, Any]], positive: str) -> None:
    """One row an image: what the JSON says of it, flat."""
    import pandas as pd

    rows = []
    for record in records:
        evidence = record["evidence"]
        row = {"input": record["input"], **(evidence["metadata"] or {})}
        row["probability"] = (record["probabilities"] or {}).get(positive)
        row["calibrated_probability"] = (record["calibrated_probabilities"] or {}).get(positive)
        row["probability_without_metadata"] = evidence.get("probability_without_metadata")
        row |= {"threshold": record["threshold"], "decision": record["decision"]}
        rows.append({**row, "unreadable": record.get("unreadable"), "remark": record["remark"]})
    with atomic(path) as temporary:
        pd.DataFrame(rows).to_csv(temporary, index=False)


# By the kinds that `serving.kinds` knows: who answers, and which options are of no use to it.
ANSWERS: dict[str, tuple[Callable[[PredictSettings, Opened, Callable[[str], None]], Path], tuple[str, ...]]] = {
    "spitzoid-target": (predict_slide, IMAGE_OPTIONS),
    "multimag": (predict_magnified, IMAGE_OPTIONS),
    "zoome": (predict_images, SLIDE_OPTIONS),
    "weighting": (predict_several_classes, SLIDE_OPTIONS + IMAGE_OPTIONS),
    "similarity": (predict_several_classes, SLIDE_OPTIONS + IMAGE_OPTIONS),
}
