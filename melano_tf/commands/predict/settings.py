"""What a user can say of a prediction."""

from dataclasses import dataclass, field, make_dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from melano_tf.metadata_fields import FIELDS

# One option a field: --age, --sex, …
_OPTIONS = [
    (one.name, Annotated[str | None, tyro.conf.arg(help=f"Images: {one.about}, if no CSV says otherwise.")], None)
    for one in FIELDS
]
NO_PREFIX = tyro.conf.arg(name="", prefix_name=False)
PatientOptions: Any = make_dataclass("PatientOptions", _OPTIONS, frozen=True)


@dataclass(frozen=True)
class PredictSettings:
    """A trained model on what has no label: a slide, an image, a folder of images, or files of features, as the model's
    kind says.

    A slide brings probability, tumour tiles, maps and GeoJSON; images bring probabilities, as JSON and as CSV (of a
    model of several classes in the ISIC challenge's format); features bring probabilities, each tile's attention and a
    map.
    """

    model: Path
    """The model file, for example runs/my-cohort/models/target.keras (its .json and companions lie beside it); or an
    exported version's folder, serving/zoome/1; or, with --server, the model's name there."""
    input: Path
    """The slide; or the image, or a folder of images; or a file of features, or a folder of them; or a CSV with a
    column path and, for images, any of what may be told of a patient (--metadata), for slides slide_id, mpp, for
    features slide_id."""
    out: Path
    """Folder for the answer."""
    mpp: float | None = None
    """Slides: resolution of level 0 in µm/px, where its own metadata is missing or wrong."""
    thumbnail_mpp: float | None = None
    """Slides: resolution of the maps' background picture, µm/px. Not given: the longer side gets 1,600 px."""
    slides: Path | None = None
    """Features: a CSV with slide_id, path and optionally mpp, of the slides to lay the maps of attention over."""
    metadata: Path | None = None
    """Images: a CSV with a column image and any of what may be told of a patient (the options that say "if no CSV"),
    named as those. What a cell does not say (empty, "unknown") is as the CSV of --input says, then as the options do,
    else unknown."""
    patient: Annotated[PatientOptions, NO_PREFIX] = field(default_factory=PatientOptions)
    """Images: what is known of the patient, where no CSV says it."""
    favour: Literal["accuracy", "balanced"] | None = None
    """Images, of a model with operating points (--preset ham10000): decide in favour of accuracy, or of balanced
    accuracy, the mean recall of the classes. Not given: as the model itself decides."""
    answer_anyway: bool = False
    """Decide also where an input is unlike anything in the model's training; else the decision is withheld there."""
    threads: int = 0
    """Threads of TensorFlow; 0: one a core."""
    server: str | None = None
    """TensorFlow Serving that has the exported model: http://127.0.0.1:8501 or grpc://127.0.0.1:8500; https:// and
    grpcs:// with TLS, by the certificates of SSL_CERT_FILE where it is set."""
    timeout: float = 60.0
    """With --server: seconds for a question until it counts as lost, all its tries together. Each chunk of images or
    tiles is a question, with its own time; so is each item of a chunk that is refused."""
    retries: int = 4
    """With --server: further tries within that time where it is away or busy, with pauses of 0.5, 1, 2, … seconds."""
    chunk: int = 16
    """Exported models: images or tiles in one request, fewer where they are large."""
