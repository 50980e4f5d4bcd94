"""`similar`: the images of a folder that are most like an image, by the embedding of a similarity run's teacher."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from melano_tf.errors import InputError
from melano_tf.runs import journal
from melano_tf.runs.atomic_files import write_csv
from melano_tf.runs.sidecar import Sidecar
from melano_tf.serving.answer_record import caveat
from melano_tf.serving.run_of_model import made_together

KIND = "similarity-embedding"
COLUMNS = 5
SHEET, TABLE = "similar.png", "similar.csv"


@dataclass(frozen=True)
class SimilarSettings:
    """The images of a folder that are most like an image: a sheet (PNG) and the distances of all of them (CSV)."""

    model: Path
    """The embedding, models/teacher.keras of a similarity run (its .json lies beside it)."""
    input: Path
    """The image (JPEG or PNG)."""
    gallery: Path
    """Folder of the images to look among."""
    out: Path = Path("similar")
    """Folder for the answer: similar.png and similar.csv."""
    count: int = 9
    """Images on the sheet."""
    threads: int = 0
    """Threads of TensorFlow; 0: one a core."""


def similar(settings: SimilarSettings, say: Callable[[str], None]) -> Path:
    """Look for the nearest images; returns the folder that holds the answer.

    Raises:
        InputError: the model is none of this kind or being trained anew, or the image or the gallery cannot be used.
    """
    sidecar = Sidecar.read(settings.model)
    if sidecar.kind != KIND:
        raise InputError(
            f"{settings.model}: a model of kind {sidecar.kind!r}; similar images are found by a {KIND} model "
            "(models/teacher.keras of a similarity run)"
        )
    made_together(settings.model)
    if settings.count < 1:
        raise InputError(f"--count {settings.count}: at least 1")
    if not settings.input.is_file():
        raise InputError(f"{settings.input}: no such image file")
    if not settings.gallery.is_dir():
        raise InputError(f"{settings.gallery}: no such folder of images")
    read = {"--input": settings.input, "--gallery": settings.gallery, "--model": settings.model}
    journal.refuse_mixing(settings.out, read)
    journal.check_free(settings.out, TABLE, SHEET)
    from melano_tf.dermoscopy.image_files import images_at, passed_over
    from melano_tf.training.tensorflow_runtime import configure

    found = [path for path in images_at(settings.gallery) if path.resolve() != settings.input.resolve()]
    if not found:
        raise InputError(f"{settings.gallery}: holds no other image than {settings.input.name} itself")
    if left := passed_over(settings.gallery, [settings.out]):
        say(f"{settings.gallery}: passed over {left}; its own .jpg, .jpeg and .png files are compared")
    configure(settings.threads)
    return answer(settings, sidecar, found, say)


def answer(settings: SimilarSettings, sidecar: Sidecar, found: list[Path], say: Callable[[str], None]) -> Path:
    """Compare the image with the gallery, and write sheet and distances."""
    import pandas as pd
    from tqdm import tqdm

    from melano_tf.dermoscopy.image_files import read_image
    from melano_tf.evaluation.retrieval import nearest
    from melano_tf.reports.contact_sheet import contact_sheet
    from melano_tf.serving.similarity_embedding import embed_images

    asked = embed_images(settings.model, sidecar, [settings.input])
    if not len(asked.paths):
        raise InputError(f"{settings.input}: {asked.reasons[settings.input]}")
    with tqdm(total=len(found), desc="looking through the gallery", unit="image", leave=False) as bar:
        gallery = embed_images(settings.model, sidecar, found, bar.update)
    if not len(gallery.paths):
        path, why = next(iter(gallery.reasons.items()))
        raise InputError(f"{settings.gallery}: none of its {len(found)} images can be used; {path.name}: {why}")
    order, distances = nearest(asked.vectors[0], gallery.vectors)
    paths = [gallery.paths[place] for place in order]
    rows = [
        *(
            {"rank": r, "image": str(p), "distance": d}
            for r, (p, d) in enumerate(zip(paths, distances, strict=True), 1)
        ),
        *({"image": str(path), "unreadable": why} for path, why in gallery.reasons.items()),
    ]
    journal.open_folder(settings.out)
    table = settings.out / TABLE
    frame = pd.DataFrame(rows, columns=["rank", "image", "distance", "unreadable"]).astype({"rank": "Int64"})
    write_csv(table, frame)
    shown = paths[: settings.count]
    sheet = contact_sheet(
        [read_image(path, shrink_to=256) for path in (settings.input, *shown)],
        [f"{settings.input.name}\n(asked)", *(f"{p.name}\n{d:.4f}" for p, d in zip(shown, distances, strict=False))],
        COLUMNS,
        settings.out / SHEET,
        "The image, and the most similar ones with their distance (1 - cosine)",
    )
    for path, distance in zip(shown, distances, strict=False):
        say(f"{distance:.4f}  {path}")
    if gallery.reasons:
        say(f"  {len(gallery.reasons)} of {len(found)} images could not be used; {table.name} says why")
    say(f"  {caveat(sidecar)}")
    for path in (sheet, table):
        say(f"wrote {path}")
    return settings.out
