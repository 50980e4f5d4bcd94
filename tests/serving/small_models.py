"""Small untrained models with sidecars, as runs leave them: what is served does not depend on what was learnt."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np

from melano_tf.evaluation.calibration import Calibration
from melano_tf.evaluation.interval import Interval
from melano_tf.evaluation.thresholds import Decision, Threshold
from melano_tf.metadata_fields import AGE, SEX, SITE
from melano_tf.models.bag_models import build_bag_model
from melano_tf.models.bag_settings import BagKind, BagModelSettings
from melano_tf.models.biopsy_classifier import build_target
from melano_tf.models.metadata_layer import MetadataCode
from melano_tf.models.seanet import build_source
from melano_tf.models.zoome_network import build_zoome
from melano_tf.pipelines.tile_store_settings import StoreSettings
from melano_tf.runs.settings_digest import plain
from melano_tf.runs.sidecar import Sidecar
from melano_tf.slides.magnifications import TileGrids
from melano_tf.slides.tiling import TileGrid

CODE = MetadataCode((AGE, SEX, replace(SITE, words=("head/neck", "torso", "upper extremity", "unknown"))))
STORED_PX, INPUT_PX, TILE_PX = 40, 32, 48
SEVEN = ("MEL", "NV", "BCC", "AKIEC", "BKL", "DF", "VASC")
RUN = {"configuration": "untrained", "trained_on": "nothing", "recipe": "test", "folder": "/nowhere/run", "seed": 0}


def excited(model: keras.Model, scale: float) -> keras.Model:
    """The same model with larger last weights, so that its probabilities differ from image to image."""
    last = next(layer for layer in reversed(model.layers) if layer.weights)
    last.set_weights([weight * scale for weight in last.get_weights()])
    return model


def decision() -> Decision:
    """A calibration and a threshold as a hold-out would have given them."""
    fitted = Calibration(1.7, 1, "a hold-out", 40, 12, 0.7, 0.6, 0.2, 0.1, 15, False)
    rates = [Interval(value, value - 0.1, value + 0.1, 0, 100, 12, 0.95) for value in (0.8, 0.7)]
    return Decision(fitted, Threshold(0.47, "Youden's index", "a hold-out of 12 patients", 40, 9, *rates))


def save(model: keras.Model, sidecar: Sidecar, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    model.save(path)
    sidecar.write(path)
    return path


def zoome_model(folder: Path) -> Path:
    """A small ResNeXt with Zoom-SE, grouped convolutions and metadata; two classes, calibrated."""
    model, _ = build_zoome("resnext_standin", INPUT_PX, CODE.width, seed=3)
    made = {
        "store": {"stored_px": STORED_PX, "max_pixels": 400_000},
        "colour": "RGB, 0 to 255",
        "metadata": CODE.to_json(),
    }
    fields = decision().sidecar_fields()
    card = Sidecar("zoome", ("benign", "melanoma"), INPUT_PX, made, run=RUN | {"table": ["train.csv"]}, **fields)
    return save(excited(model, 30.0), card, folder / "zoome.keras")


def seven_model(folder: Path) -> Path:
    """A plain softmax of seven classes, whose images were brought under neutral light and cropped."""
    inputs = keras.Input((INPUT_PX, INPUT_PX, 3), name="image")
    keras.utils.set_random_seed(5)
    x = keras.layers.Conv2D(8, 5, 4, activation="relu")(keras.layers.Rescaling(1 / 255)(inputs))
    outputs = keras.layers.Dense(7, activation="softmax")(keras.layers.Flatten()(x))
    colour: dict[str, Any] = {"method": "shades_of_gray", "p": 6.0, "mask_saturated": True, "saturated": 255}
    store = {"stored_px": STORED_PX, "max_pixels": 400_000, "crop": "centre", "colour": colour}
    made = {"store": store, "colour": "RGB, 0 to 255", "metadata": None}
    words = "none: the most probable class is called"
    card = Sidecar("weighting", SEVEN, INPUT_PX, made, None, words, RUN | {"table": ["train.csv"]})
    return save(excited(keras.Model({"image": inputs}, outputs), 3.0), card, folder / "seven.keras")


def biopsy_model(folder: Path) -> Path:
    """A source model and a target model with attention, for tiles at 1 µm/px."""
    source = excited(build_source("standin", TILE_PX, seanet=True, head="gmp", seed=1), 20.0)
    target = excited(build_target(source, "bgas", 8, seed=2), 8.0)
    made = {"grid": plain(TileGrid(tile_px=64)), "store": plain(StoreSettings(stored_px=56)), "colour": "RGB, 0 to 255"}
    words = "fixed beforehand (the paper gives none)"
    run = RUN | {"slides": None, "aggregation": "bgas"}
    save(
        source,
        Sidecar("spitzoid-source", ("non-tumour", "tumour"), TILE_PX, made, 0.5, words, run),
        folder / "source.keras",
    )
    card = Sidecar(
        "spitzoid-target",
        ("benign", "malignant"),
        TILE_PX,
        made | {"fallback_tiles": 3},
        0.5,
        words,
        run,
        companions={"source": "source.keras"},
    )
    return save(target, card, folder / "target.keras")


def magnified_models(folder: Path) -> dict[str, Path]:
    """Models of three magnifications that name each other, by magnification."""
    grid = TileGrids(names=("5x", "10x", "40x"), mpp=(2.0, 1.0, 0.275), tile_px=48)
    made = {"grid": plain(grid), "store": plain(StoreSettings(stored_px=40)), "colour": "RGB, 0 to 255", "top": 3}
    words = "fixed beforehand (the paper gives none)"
    paths = {name: folder / f"melanoma-{name}.keras" for name in grid.names}
    for seed, (name, path) in enumerate(paths.items()):
        model = excited(build_source("standin", INPUT_PX, seanet=False, head="gap", seed=seed), 20.0)
        others = {f"melanoma-{one}": file.name for one, file in paths.items() if one != name}
        own = made | {"magnifications": [name]}
        run = RUN | {"slides": None}
        save(model, Sidecar("multimag", ("nevus", "MM"), INPUT_PX, own, 0.5, words, run, companions=others), path)
    return paths


def tiles(count: int, seed: int = 0) -> list[np.ndarray]:
    """Pictures of a tile's size."""
    from tests.serving.pictures import picture

    return [picture(56, 56, seed + k) for k in range(count)]


def bags_model(folder: Path, classes: tuple[str, ...] = ("benign", "malignant"), kind: BagKind = "gated") -> Path:
    """A bag model on five numbers a tile; of two classes calibrated with a threshold, of three calibrated."""
    model = build_bag_model(5, len(classes), BagModelSettings(kind, hidden=(6,), attention_units=4, extremes=2), seed=2)
    made = {"features": {"width": 5, "encoder": "uni_v1", "bag": "slide"}, "dtype": "float32"}
    fields = decision().sidecar_fields()
    if len(classes) > 2:
        fitted = Calibration(1.7, len(classes), "a hold-out", 40, 12, 0.7, 0.6, 0.2, 0.1, 15, False)
        words = "none: the most probable class is called"
        fields = {"threshold": 0.0, "threshold_from": words, "calibration": fitted.to_json()}
    card = Sidecar("bags", classes, 0, made, run=RUN | {"table": "cases.csv", "model": kind}, **fields)
    return save(excited(model, 5.0), card, folder / f"bags-{kind}-{len(classes)}.keras")
