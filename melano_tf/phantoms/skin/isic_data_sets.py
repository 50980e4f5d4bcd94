"""Phantom dermoscopy data sets, written as the official files of ISIC 2018, 2019 or 2020.

The pictures are drawn here, so nothing is downloaded and nothing is anybody's patient. What tells the classes apart is
structure (`lesion`), never colour; the metadata carry a known signal (`patients`).
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd

from melano_tf.child_processes import ended_with, leave_with_parent, without_script
from melano_tf.dermoscopy.isic_records import Findings, read_isic2018, read_isic2019, read_isic2020
from melano_tf.errors import InputError
from melano_tf.metadata_fields import BY_NAME, NAMES, NumberField
from melano_tf.phantoms.skin.lesion import draw_lesion
from melano_tf.phantoms.skin.patients import PhantomDermoscopySettings, drawn_fields, plan_images
from melano_tf.phantoms.skin.photograph import STYLES, Inks, Skin, View, draw_view
from melano_tf.phantoms.workers import one_line_if_killed
from melano_tf.runs.atomic_files import atomic, read_json, write_json
from melano_tf.specs import load_spec

VERSION = 1  # of the drawing: raised whenever the same settings and seed give other pictures
QUALITY, QUALITY_ANEW = 92, 70  # of JPEG: a picture, and a copy of it saved anew
TRUTH = (
    "image_id",
    "lesion",
    "patient",
    "kind",
    "label",
    "source",
    *NAMES,
    "clarity",
    "signal",
    "copy_of",
    "copy",
    "field_x",
    "field_y",
    "field_radius",
)
# How the files word a site of the common vocabulary; one is drawn.
WORDS: dict[str, dict[str, tuple[str, ...]]] = {
    "isic2018": {
        "head/neck": ("face", "neck", "scalp"),
        "torso": ("back", "trunk", "abdomen", "chest"),
        "upper extremity": ("upper extremity", "hand"),
        "lower extremity": ("lower extremity", "foot"),
        "palms/soles": ("acral",),
        "oral/genital": ("genital",),
    },
    "isic2019": {"torso": ("anterior torso", "posterior torso", "lateral torso")},
    "isic2020": {},
}


@dataclass(frozen=True)
class PhantomDermoscopy:
    """A drawn data set: where its files are.

    Attributes:
        layout: "isic2018", "isic2019" or "isic2020".
        images: folder of the pictures.
        tables: official files, by the names of the readers' arguments.
        truth: CSV of what was drawn, columns TRUTH: one row a picture; field_* are px of a dark-rimmed field of view.
        masks: folder of the lesions' masks (`<image_id>_segmentation.png`), or None.
    """

    layout: str
    images: Path
    tables: dict[str, Path]
    truth: Path
    masks: Path | None

    def read(self) -> tuple[pd.DataFrame, Findings]:
        """Records and findings, by the reader of the layout."""
        readers: dict[str, Callable[..., tuple[pd.DataFrame, Findings]]] = {
            "isic2018": read_isic2018,
            "isic2019": read_isic2019,
            "isic2020": read_isic2020,
        }
        return readers[self.layout](self.images, **self.tables)


@dataclass(frozen=True)
class _Task:
    """All that one process needs to draw one picture."""

    image: Path
    mask: Path | None
    seed: int
    row: dict[str, Any]
    settings: PhantomDermoscopySettings


def draw_dermoscopy(
    folder: Path | str,
    settings: PhantomDermoscopySettings | None = None,
    seed: int = 0,
    workers: int = 1,
    progress: Callable[[], object] = lambda: None,
) -> PhantomDermoscopy:
    """Draw a data set, or find it drawn: the same settings and seed give the same bytes, however many workers.

    Args:
        folder: where it goes; pictures in `images`, tables beside it.
        settings: of the data set.
        seed: of all that is random.
        workers: processes that draw.
        progress: called once a picture.

    Raises:
        InputError: the folder holds phantoms of other settings; too few lesions for the classes.
    """
    folder, settings = Path(folder), settings or PhantomDermoscopySettings()
    plan = plan_images(settings, seed)
    files = _files(folder, settings)
    state = {"version": VERSION, "seed": seed, "settings": {k: _plain(v) for k, v in asdict(settings).items()}}
    record = folder / "phantom.json"
    if record.exists():
        found = read_json(record)
        if {key: found.get(key) for key in state} != state:
            raise InputError(f"{folder}: holds phantom images of other settings or another seed; choose another folder")
        images = {path.stem for path in files.images.glob("*.jpg")}
        if found.get("finished") and images == set(plan["image_id"]) and files.truth.exists():
            return files
    write_json(record, state)
    for path in (files.images, files.masks):
        if path is not None:
            path.mkdir(parents=True, exist_ok=True)
    tasks = [
        _Task(
            image=files.images / f"{row['image_id']}.jpg",
            mask=files.masks and files.masks / f"{row['image_id']}_segmentation.png",
            seed=seed,
            row={str(key): value for key, value in row.items()},
            settings=settings,
        )
        for row in plan.to_dict("records")
    ]
    fields = []
    for field in _spread(tasks, workers):
        fields.append(field or (np.nan, np.nan, np.nan))
        progress()
    plan[["field_x", "field_y", "field_radius"]] = np.array(fields, float).reshape(-1, 3)
    _write_csv(files.truth, plan[[name for name in TRUTH if name in plan]])
    for name, table in _tables(plan, settings, seed).items():
        _write_csv(files.tables[name], table)
    write_json(record, {**state, "finished": True})
    return files


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _files(folder: Path, settings: PhantomDermoscopySettings) -> PhantomDermoscopy:
    official = load_spec(settings.layout)["tables"]
    tables = {name: folder / description["files"][0] for name, description in official.items()}
    if settings.layout == "isic2020":
        tables["ground_truth"] = folder / official["ground_truth"]["files"][1]  # v2, which names the lesions
    masks = folder / "masks" if settings.masks else None
    return PhantomDermoscopy(settings.layout, folder / "images", tables, folder / "truth.csv", masks)


def _spread(tasks: list[_Task], workers: int) -> Iterator[tuple[float, float, float] | None]:
    if workers <= 1:
        yield from map(_draw_task, tasks)
        return
    spawned = get_context("spawn")
    pool = ProcessPoolExecutor(min(workers, len(tasks)), mp_context=spawned, initializer=leave_with_parent)
    with one_line_if_killed(), ended_with(pool):
        with without_script():
            drawn = pool.map(_draw_task, tasks, chunksize=16)
        yield from drawn


def draw_picture(row: dict[str, Any], settings: PhantomDermoscopySettings, seed: int) -> View:
    """The picture of one row of `plan_images`, a pure function of its arguments."""
    streams = {name: (number, int(row[f"{name}_seed"])) for number, name in enumerate(("patient", "lesion", "view"))}
    rngs = {name: np.random.default_rng([seed, 2, *key]) for name, key in streams.items()}
    skin = Skin.draw(rngs["patient"])
    inks = Inks.draw(rngs["lesion"])
    lesion = draw_lesion(str(row["kind"]), float(row["clarity"]), rngs["lesion"])
    return draw_view(
        lesion,
        skin,
        inks,
        STYLES[str(row["source"])],
        settings.height_px,
        rngs["view"],
        ruler_share=settings.ruler_share,
        hair_share=settings.hair_share,
    )


def _draw_task(task: _Task) -> tuple[float, float, float] | None:
    view = draw_picture(task.row, task.settings, task.seed)
    bgr = np.ascontiguousarray(view.rgb[..., ::-1])
    content = _jpeg(bgr, QUALITY)
    if task.row["copy"] == "near":
        content = _jpeg(np.asarray(cv2.imdecode(content, cv2.IMREAD_COLOR)), QUALITY_ANEW)
    with atomic(task.image) as temporary:
        temporary.write_bytes(content.tobytes())
    if task.mask is not None:
        with atomic(task.mask) as temporary:
            temporary.write_bytes(cv2.imencode(".png", view.mask.astype(np.uint8) * 255)[1].tobytes())
    return view.field


def _jpeg(bgr: np.ndarray, quality: int) -> np.ndarray:
    return cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]


def _write_csv(path: Path, table: pd.DataFrame) -> None:
    with atomic(path) as temporary:
        table.to_csv(temporary, index=False)


def _tables(plan: pd.DataFrame, settings: PhantomDermoscopySettings, seed: int) -> dict[str, pd.DataFrame]:
    """The official files' contents, by table."""
    rng = np.random.default_rng([seed, 3])
    words = WORDS[settings.layout]
    # One wording a lesion, as a lesion has one place.
    worded = {
        lesion: str(rng.choice(words.get(site, (site,))))
        for lesion, site in dict(zip(plan["lesion"], plan["site"], strict=True)).items()
    }
    empty = "unknown" if settings.layout == "isic2018" else None
    plan = plan.assign(written_site=plan["lesion"].map(worded))
    for name in drawn_fields(plan):
        values = plan.get(f"written_{name}", plan[name])
        blank = None if isinstance(BY_NAME[name], NumberField) else empty
        plan[f"written_{name}"] = values.where(~plan[f"{name}_blank"], blank)
    write = {"isic2018": _tables_2018, "isic2019": _tables_2019, "isic2020": _tables_2020}
    return write[settings.layout](plan)


def _further(plan: pd.DataFrame, layout: str, table: str) -> dict[str, pd.Series]:
    """Columns of the fields that the official table does not have."""
    official = load_spec(layout)["tables"][table]["columns"]
    return {name: plan[f"written_{name}"] for name in drawn_fields(plan) if name not in official}


def _one_hot(plan: pd.DataFrame, layout: str) -> pd.DataFrame:
    labels = load_spec(layout)["labels"]
    flags = {label: (plan["label"] == label).astype(float) for label in labels}
    return pd.DataFrame({"image": plan["image_id"], **flags})


def _tables_2018(plan: pd.DataFrame) -> dict[str, pd.DataFrame]:
    groupings = {"image": plan["image_id"], "lesion_id": plan["lesion"], "diagnosis_confirm_type": "phantom"}
    metadata = {
        "lesion_id": plan["lesion"],
        "image_id": plan["image_id"],
        "dx": plan["label"].str.lower(),
        "dx_type": "phantom",
        "age": plan["written_age"],
        "sex": plan["written_sex"],
        "localization": plan["written_site"],
        **_further(plan, "isic2018", "metadata"),
    }
    return {
        "ground_truth": _one_hot(plan, "isic2018"),
        "groupings": pd.DataFrame(groupings),
        "metadata": pd.DataFrame(metadata),
    }


def _tables_2019(plan: pd.DataFrame) -> dict[str, pd.DataFrame]:
    metadata = {
        "image": plan["image_id"],
        "age_approx": plan["written_age"],
        "anatom_site_general": plan["written_site"],
        "lesion_id": plan["lesion"].where(plan["source"] != "unnamed"),
        "sex": plan["written_sex"],
        **_further(plan, "isic2019", "metadata"),
    }
    return {"ground_truth": _one_hot(plan, "isic2019").assign(UNK=0.0), "metadata": pd.DataFrame(metadata)}


def _tables_2020(plan: pd.DataFrame) -> dict[str, pd.DataFrame]:
    malignant = plan["label"] == "melanoma"
    diagnosis = {"MEL": "melanoma", "NV": "nevus", "BKL": "seborrheic keratosis"}
    truth = {
        "image_name": plan["image_id"],
        "patient_id": plan["patient"],
        "lesion_id": plan["lesion"],
        "sex": plan["written_sex"],
        "age_approx": plan["written_age"],
        "anatom_site_general_challenge": plan["written_site"],
        "diagnosis": plan["kind"].map(diagnosis),
        "benign_malignant": np.where(malignant, "malignant", "benign"),
        "target": malignant.astype(int),
        **_further(plan, "isic2020", "ground_truth"),
    }
    copies = plan[plan["copy"] != ""]
    pairs = pd.DataFrame({"image_name_1": copies["copy_of"], "image_name_2": copies["image_id"]})
    return {"ground_truth": pd.DataFrame(truth), "duplicates": pairs}
