"""`predict`: a trained model on one slide."""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from melano_tf.errors import InputError
from melano_tf.workspace import Sidecar, atomic, write_json


@dataclass(frozen=True)
class PredictSettings:
    """A trained model on a slide that has neither label nor annotation: probability, tumour tiles, maps, GeoJSON."""

    model: Path
    """The model file, for example runs/my-cohort/models/target.keras (its .json and companions lie beside it)."""
    input: Path
    """The slide."""
    out: Path
    """Folder for the answer."""
    mpp: float | None = None
    """Resolution of the slide's level 0 in µm/px, where its own metadata is missing or wrong."""
    thumbnail_mpp: float | None = None
    """Resolution of the maps' background picture, µm/px. Not given: the longer side gets 1,600 px."""
    threads: int = 0
    """Threads of TensorFlow; 0: one a core."""


def predict(settings: PredictSettings, say: Callable[[str], None]) -> Path:
    """Answer for one slide; returns the folder that holds prediction.json, tiles.csv, tiles.geojson and both maps.

    Raises:
        InputError: the model, the slide or the folder cannot be used.
    """
    sidecar = Sidecar.read(settings.model)
    if sidecar.kind != "spitzoid-target":
        raise InputError(
            f"{settings.model}: a model of kind {sidecar.kind!r}; a slide is judged by a spitzoid-target model "
            "(models/target.keras of a spitzoid run)"
        )
    if not settings.input.is_file():
        raise InputError(f"{settings.input}: no such slide file")
    from melano_tf.training.runtime import configure

    configure(settings.threads)
    settings.out.mkdir(parents=True, exist_ok=True)
    from melano_tf.serving.slide import answer_record, predict_slide

    slide_id = settings.input.stem
    with tempfile.TemporaryDirectory(prefix=".tiles-", dir=settings.out) as scratch:
        answer = predict_slide(settings.model, sidecar, settings.input, slide_id, settings.mpp, Path(scratch))
    record = answer_record(answer, sidecar, settings.model, settings.input)
    write_json(settings.out / "prediction.json", record)
    with atomic(settings.out / "tiles.csv") as temporary:
        answer.tiles.to_csv(temporary, index=False)
    positive = sidecar.classes[1]
    from melano_tf.commands.slide_files import write_slide_files

    title = f"{slide_id}: {positive} {answer.probability:.3f}"
    files = write_slide_files(
        settings.input, slide_id, settings.mpp, settings.thumbnail_mpp, answer.tiles, title, settings.out
    )
    evidence = record["evidence"]
    say(f"{slide_id}: {positive} {answer.probability:.3f}, decision {record['decision']} at {sidecar.threshold:g}")
    say(
        f"  from {evidence['judged_tiles']} tiles"
        + (" (none was called tumour: the most probable ones)" if answer.fallback else " called tumour")
        + f" of {evidence['tissue_tiles']} with tissue"
    )
    say(f"  {record['caveat']}")
    for path in (settings.out / "prediction.json", settings.out / "tiles.csv", *files):
        say(f"wrote {path}")
    return settings.out
