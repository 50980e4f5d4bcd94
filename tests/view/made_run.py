"""Runs made by hand: one slide with a rectangle of tissue, two blocks of tiles and what models said of them; and a few
images, with models of two and of seven classes."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import tifffile

from melano_tf.pipelines.tfrecords import slide_files
from melano_tf.runs.files_of_plan import plan_key
from melano_tf.runs.predictions import predictions, write_predictions

SIZE, MPP = (3000, 2000), 0.25  # level-0 px, µm
TISSUE = (480, 320, 2720, 1760)  # left, top, right, bottom, level-0 px
SIDE = 251  # of a tile, which no power of two and no pixel of a map divides
LEFT, TOP = 701, 433  # of the lattice of tiles
BLOCK = (LEFT, TOP, LEFT + 4 * SIDE, TOP + 2 * SIDE)  # all of it on tissue
PLAN = {"settings": "s", "data": "d"}
NEVI = ("IN", "CN", "JN")
SEVEN = ("MEL", "NV", "BCC", "AKIEC", "BKL", "DF", "VASC")
SETTINGS = {"slides": None, "store": {"mask_mpp": 4.0, "mask_headroom": 60.0}, "out": "run", "seed": 0}


def write_pyramid(path: Path, image: np.ndarray, mpp: float, levels: int = 3) -> None:
    """An RGB picture as a tiled TIFF whose levels are halves of each other."""
    with tifffile.TiffWriter(path) as file:
        for level in range(levels):
            size = (image.shape[1] >> level, image.shape[0] >> level)
            fine = image if level == 0 else cv2.resize(image, size, interpolation=cv2.INTER_AREA)
            pixels = 1e4 / (mpp * 2**level)
            file.write(
                fine,
                tile=(256, 256),
                compression="zlib",
                photometric="rgb",
                resolution=(pixels, pixels),
                resolutionunit="centimeter",
                subfiletype=int(level > 0),
                metadata=None,
            )


def tiles_of() -> pd.DataFrame:
    """Twelve tiles: a block of four by two, and two by two that hang over the tissue's lower right corner."""
    columns, rows = np.r_[np.tile(np.arange(4), 2), 7, 8, 7, 8], np.r_[np.repeat([0, 1], 4), 4, 4, 5, 5]
    places = {"x": LEFT + SIDE * columns, "y": TOP + SIDE * rows}
    return pd.DataFrame({"tile": np.arange(12), **places, "w0": SIDE, "h0": SIDE, "tissue": 1.0})


def made_run(folder: Path) -> Path:
    """The run's folder."""
    drawn = folder / "phantoms" / "key"
    drawn.mkdir(parents=True)
    image = np.full((SIZE[1], SIZE[0], 3), 245, np.uint8)
    left, top, right, bottom = TISSUE
    image[top:bottom, left:right] = (200, 120, 170)
    write_pyramid(drawn / "S0.tiff", image, MPP)
    (drawn / "manifest.csv").write_text("slide_id,path,patient_id,label\nS0,S0.tiff,P0,benign\n")
    tiles = tiles_of()
    store = slide_files(folder / "tiles", "S0")[1]
    store.parent.mkdir(parents=True)
    tiles.to_parquet(store)
    rows = tiles[["tile"]].assign(slide_id="S0", group="P0", part="test", target=0, region="tumour")
    rows["case"] = "S0/" + tiles["tile"].astype(str)
    (folder / "predictions").mkdir()
    said = np.r_[np.ones(8), 0.9, 0.9, 0.9, 0.8642]
    write_predictions(folder / "predictions" / "source.parquet", predictions(rows, said))
    (folder / "run.json").write_text(json.dumps({"recipe": "spitzoid", "settings": SETTINGS, "plan": PLAN}))
    made = {"predictions/source.parquet": {"plan": plan_key(PLAN), "step": "source", "key": "k"}}
    (folder / "made.json").write_text(json.dumps(made))
    return folder


def write_run(folder: Path, recipe: str, settings: Mapping[str, Any], cards: Mapping[str, Mapping[str, Any]]) -> None:
    """run.json, what stands beside each model, and made.json of all predictions and models that are there."""
    (folder / "models").mkdir(exist_ok=True)
    for stem, card in cards.items():
        (folder / "models" / f"{stem}.json").write_text(json.dumps(card))
    (folder / "run.json").write_text(json.dumps({"recipe": recipe, "settings": settings, "plan": PLAN}))
    files = [path for name in ("models", "predictions") for path in (folder / name).iterdir()]
    made = {"plan": plan_key(PLAN), "step": "made", "key": "k"}
    (folder / "made.json").write_text(json.dumps({str(path.relative_to(folder)): made for path in files}))


def made_run_of_nevi(folder: Path) -> Path:
    """`made_run`, whose tiles were judged by a model of three classes as well."""
    made_run(folder)
    tiles = tiles_of()
    rows = tiles[["tile"]].assign(slide_id="S0", group="P0", part="test", target=0, region="tumour")
    rows["case"] = "S0/" + tiles["tile"].astype(str)
    said = np.tile([0.7, 0.2, 0.1], (len(tiles), 1))
    write_predictions(folder / "predictions" / "nevi.parquet", predictions(rows, said, NEVI))
    write_run(folder, "multimag", SETTINGS, {"nevi": {"classes": NEVI}})
    return folder


def made_images(folder: Path, cards: Mapping[str, Mapping[str, Any]], answers: Mapping[str, Sequence[Any]]) -> Path:
    """A run on as many images as there are answers, the first a melanoma and all others nevi.

    Args:
        folder: to be made.
        cards: what stands beside each model, by its name; classes at least.
        answers: of each model, (n,) or (n, C).
    """
    (folder / "images").mkdir(parents=True)
    (folder / "predictions").mkdir()
    count = len(next(iter(answers.values())))
    lines = ["lesion_id,image_id,dx,dx_type,age,sex,localization"]
    for number in range(count):
        cv2.imwrite(str(folder / "images" / f"I{number}.jpg"), np.full((30, 40, 3), 40 * number, np.uint8))
        lines.append(f"L{number},I{number},{'nv' if number else 'mel'},histo,50,female,back")
    (folder / "HAM10000_metadata.csv").write_text("\n".join(lines) + "\n")
    for name, said in answers.items():
        classes = list(cards[name]["classes"])
        rows = pd.DataFrame({"case": [f"I{number}" for number in range(count)], "part": "test"})
        rows["group"] = "L" + rows["case"].str[1:]
        rows["target"] = [classes.index("NV" if number else "MEL") for number in range(count)]
        threshold = cards[name].get("threshold")
        table = predictions(rows, np.array(said), classes, threshold=0.5 if threshold is None else threshold)
        write_predictions(folder / "predictions" / f"{name}.csv", table)
    settings = {"table": [str(folder / "HAM10000_metadata.csv")], "images": [str(folder / "images")]}
    write_run(folder, "weighting", settings, cards)
    return folder
