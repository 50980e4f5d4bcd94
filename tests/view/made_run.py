"""A run made by hand: one slide with a rectangle of tissue, two blocks of tiles and what a model said of them."""

import json
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import tifffile

from melano_tf.pipelines.tfrecords import slide_files
from melano_tf.runs.predictions import predictions, write_predictions
from melano_tf.runs.run_folder import plan_key

SIZE, MPP = (3000, 2000), 0.25  # level-0 px, µm
TISSUE = (480, 320, 2720, 1760)  # left, top, right, bottom, level-0 px
SIDE = 251  # of a tile, which no power of two and no pixel of a map divides
LEFT, TOP = 701, 433  # of the lattice of tiles
BLOCK = (LEFT, TOP, LEFT + 4 * SIDE, TOP + 2 * SIDE)  # all of it on tissue
PLAN = {"settings": "s", "data": "d"}
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
