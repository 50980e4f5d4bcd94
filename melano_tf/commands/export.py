"""`export`: a trained model for TensorFlow Serving."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from melano_tf.errors import InputError
from melano_tf.runs import journal


@dataclass(frozen=True)
class ExportSettings:
    """A trained model as TensorFlow Serving expects it: <out>/<name>/<version>/, with all that goes before and after it
    inside the graph, and beside it the server's configuration, a docker compose file and the exact calls.
    """

    model: Path
    """The model file, for example runs/isic2020/models/zoome.keras (its .json and companions lie beside it)."""
    out: Path
    """Folder of all exported models."""
    name: str | None = None
    """The model's name on the server; not given: the file's name."""
    version: int | None = None
    """Its version there; not given: one more than the highest in the folder."""
    max_pixels: int | None = None
    """Images of more pixels are refused before they are decoded; not given: as in training."""
    max_bytes: int = 32 * 2**20
    """Encoded images of more bytes are refused."""
    max_images: int | None = None
    """Images or tiles in one request; not given: 256. Of a bag model: instances of a bag; not given: 100,000."""
    portable: bool = True
    """Split grouped convolutions, so that the graph runs on any processor; off: faster where oneDNN or a GPU is."""


def export(settings: ExportSettings, say: Callable[[str], None]) -> Path:
    """Write the version's folder; returns it.

    Raises:
        InputError: no such model, one that `predict` does not take either, a version that exists.
    """
    from melano_tf.serving.export import export_model, limits_of
    from melano_tf.serving.model_finding import file_card

    card = file_card(settings.model)
    asked = {name: getattr(settings, name) for name in ("max_pixels", "max_bytes", "max_images")}
    limits = limits_of(card, **{name: value for name, value in asked.items() if value is not None})
    if settings.out.is_file():
        raise InputError(f"--out {settings.out}: is a file, not a folder")
    journal.refuse_mixing(settings.out, {"--model": settings.model})
    found = export_model(card, settings.out, settings.name, settings.version, limits, portable=settings.portable)
    say(f"{found.name}, version {found.version}: signatures {', '.join(found.signatures)}")
    say(f"model     {found.folder}")
    say(f"card      {found.folder / 'assets.extra' / 'model_card.md'}")
    say(f"server    {settings.out / 'docker-compose.yml'} (docker compose up), models.config, batching.config")
    say(f"calls     {settings.out / f'CALLS-{found.name}.md'}")
    return found.folder
