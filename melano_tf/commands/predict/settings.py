"""What a user can say of a prediction."""

from dataclasses import dataclass
from pathlib import Path


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
