"""Does a model know what it does not know? Distances of other pictures from three trainings, or four.

    python -m melano_tf.run zoome --preset demo --out runs/zoome
    python -m melano_tf.run multimag --preset demo --out runs/multimag
    python experiments/benchmarks/unlike.py --data FOLDER --zoome runs/zoome --multimag runs/multimag --out runs/unlike

FOLDER holds isic2018/train_200x150 with its metadata, isic2019/isic2017_256, isic2020/images_256, wsi/CMU-1-Small-
Region.svs and MobileNet's weights (weights/mobilenet_1_0_notop_pw13_random.weights.h5). Nothing is trained here:

- drawn lesions: ZooME's stand-in of the demo's first fold; described are the images of the other folds (the limit: by
  patient, in five parts), judged are those of its own;
- HAM10000: MobileNet with its ImageNet weights, up to conv_pw_12, on images divided by lesion: 1,000 described, 300
  that set the limit, 300 judged. It was not trained on them, as the frozen part of the preset ham10000 is not;
- drawn slides: the demo's model of 20x; tiles of the training, the validation and the test slides;
- with `--ham10000 runs/ham`: the first fold's network of that run, with the description that lies beside it; judged is
  one image of each lesion of its own fold.

AUROC: does the distance tell others from the judged; found: others past the limit; false alarms: judged past the limit.
Measured: docs/trust.md.
"""

import argparse
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import openslide
import pandas as pd
from PIL import Image
from sklearn.metrics import roc_auc_score

import melano_tf.models.registered_layers  # that files of this project are made of  # noqa: F401
from melano_tf.models.backbone_graphs import build_backbone
from melano_tf.pipelines.image_batches import seen
from melano_tf.pipelines.image_cache import decode_image
from melano_tf.pipelines.image_settings import ImageCacheSettings
from melano_tf.pipelines.tile_batches import predict_batches
from melano_tf.runs.sidecar import Sidecar
from melano_tf.training.embedding import embedder
from melano_tf.training.familiarity import Familiarity, fit_familiarity, read_familiarity
from melano_tf.training.inference import predict

COUNT = 150  # of each kind of others
Make = Callable[[np.ndarray, np.random.Generator], np.ndarray]
Points = Mapping[str, np.ndarray]


def smaller(image: np.ndarray, times: int) -> np.ndarray:
    size = image.shape[1] // times, image.shape[0] // times
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BOX))


def as_large(image: np.ndarray, like: np.ndarray) -> np.ndarray:
    return np.asarray(Image.fromarray(image).resize(like.shape[1::-1], Image.Resampling.BILINEAR))


def middle(image: np.ndarray) -> np.ndarray:
    height, width = image.shape[0] // 3, image.shape[1] // 3
    return image[height : 2 * height, width : 2 * width]


# What is made of a model's own pictures: other domains, then near ones.
MADE: dict[str, Make] = {
    "noise": lambda image, rng: rng.integers(0, 256, image.shape).astype(np.uint8),
    "blank glass": lambda image, rng: (
        rng.normal(rng.uniform(225, 250, (1, 1, 3)), 2, image.shape).clip(0, 255).astype(np.uint8)
    ),
    "own, colours inverted": lambda image, rng: 255 - image,
    "own, a sixth of the resolution": lambda image, rng: as_large(smaller(image, 6), image),
    "own, half the resolution": lambda image, rng: as_large(smaller(image, 2), image),
    "own, the middle enlarged threefold": lambda image, rng: as_large(middle(image), image),
}


@dataclass(frozen=True)
class Asked:
    """A model with its own cases, and others.

    Attributes:
        title: of its rows.
        known: the description of its training.
        judged: points of its own cases beside them.
        others: of what is not its own, by name.
    """

    title: str
    known: Familiarity | None
    judged: Points
    others: Mapping[str, Points]

    def rows(self) -> list[str]:
        """Of the table."""
        known = self.known
        assert known is not None
        own = known.distance(self.judged["embedding"], self.judged["look"])
        rows = [f"| {self.title} | **own, judged** ({len(own)}) | – | false alarms {np.mean(own > 1):.1%} |"]
        for name, points in self.others.items():
            far = known.distance(points["embedding"], points["look"])
            auroc = roc_auc_score(np.r_[np.zeros(len(own)), np.ones(len(far))], np.r_[own, far])
            rows.append(f"| | {name} ({len(far)}) | {auroc:.3f} | found {np.mean(far > 1):.0%} |")
        return rows


def familiar(described: Points, groups: Sequence[str], held_out: Points | None = None) -> Familiarity | None:
    """The description of a training whose limit cases held out set; without any, its own, by group."""
    held = None if held_out is None else (held_out["embedding"], held_out["look"])
    return fit_familiarity(described["embedding"], described["look"], list(groups), held)


def points(network: keras.Model, pictures: Sequence[np.ndarray]) -> Points:
    """What is described of pictures (n, px, px, 3)."""
    parts = ({"x": np.asarray(pictures[at : at + 50], np.float32)} for at in range(0, len(pictures), 50))
    found: Points = predict(network, parts)
    return found


def network_of(model: keras.Model) -> keras.Model:
    found = embedder(model)
    assert found is not None
    return found


def some(paths: Iterable[Path], count: int = COUNT) -> list[Path]:
    """Some of these files, always the same."""
    found = sorted(paths)
    random.Random(0).shuffle(found)
    return found[:count]


def slide_tiles(slide: Path, side: int = 256, count: int = COUNT) -> list[np.ndarray]:
    """Squares of a slide that are not glass."""
    opened, rng = openslide.OpenSlide(str(slide)), np.random.default_rng(0)
    width, height = opened.dimensions
    found: list[np.ndarray] = []
    while len(found) < count:
        place = int(rng.integers(0, width - side)), int(rng.integers(0, height - side))
        tile = np.asarray(opened.read_region(place, 0, (side, side)).convert("RGB"))
        if tile.mean() < 225:
            found.append(tile)
    return found


def saved(images: Iterable[np.ndarray], folder: Path) -> list[Path]:
    """Pictures as files."""
    folder.mkdir(parents=True, exist_ok=True)
    for place, image in enumerate(images):
        Image.fromarray(image).save(folder / f"{place:04d}.png")
    return sorted(folder.iterdir())


def made(images: Sequence[np.ndarray]) -> dict[str, list[np.ndarray]]:
    """`MADE` of some pictures."""
    rng = np.random.default_rng(0)
    return {name: [make(image, rng) for image in images[:COUNT]] for name, make in MADE.items()}


def read(paths: Sequence[Path]) -> list[np.ndarray]:
    return [np.asarray(Image.open(path).convert("RGB")) for path in paths]


def image_others(
    network: keras.Model,
    px: int,
    store: ImageCacheSettings,
    own: Sequence[Path],
    files: Mapping[str, Sequence[Path]],
    out: Path,
) -> dict[str, Points]:
    """Points of other images, and of what is made of the own ones, each read as `predict` reads it."""
    made_files = {name: saved(found, out / name) for name, found in made(read(own[:COUNT])).items()}
    return {name: points(network, shown(paths, px, store)) for name, paths in {**files, **made_files}.items()}


def shown(paths: Sequence[Path], px: int, store: ImageCacheSettings) -> np.ndarray:
    """Images as the network sees them."""
    found = [decode_image(path, store) for path in paths]
    aspects = np.array([one.aspect for one in found], np.float32)
    return np.asarray(seen(np.stack([one.pixels for one in found]), aspects, px))


def drawn_lesions(run: Path, files: Mapping[str, Sequence[Path]], out: Path) -> tuple[Asked, list[Path]]:
    """ZooME's stand-in of the first fold, and its judged images."""
    tables = [pd.read_parquet(path) for path in sorted((run / "predictions").glob("*-zoom-metadata-fold-*.parquet"))]
    model = next((run / "models").glob("*-zoom-metadata-fold-1.keras"))
    card, network = Sidecar.read(model), network_of(keras.saving.load_model(model))
    store, px = ImageCacheSettings(**card.preprocessing["store"]), card.input_px
    folder = next((run / "phantoms").rglob("images"))
    judged, others = tables[0], pd.concat(tables[1:], ignore_index=True)
    own = [folder / f"{case}.jpg" for case in judged["case"]]
    asked = Asked(
        "drawn lesions",
        familiar(
            points(network, shown([folder / f"{case}.jpg" for case in others["case"]], px, store)),
            others["group"].tolist(),
        ),
        points(network, shown(own, px, store)),
        image_others(network, px, store, some(own), files, out / "drawn"),
    )
    return asked, own


def real_lesions(data: Path, files: Mapping[str, Sequence[Path]], out: Path, px: int = 128) -> Asked:
    """MobileNet, and HAM10000 divided by lesion."""
    weights = data / "weights" / "mobilenet_1_0_notop_pw13_random.weights.h5"
    picture, features, _ = build_backbone("mobilenet", px, weights, input_name="image")
    cut = keras.Model(picture, features).get_layer("conv_pw_12_relu").output
    whole = keras.Model({"image": picture}, keras.layers.Activation("linear", name="features")(cut))
    network, store = network_of(whole), ImageCacheSettings(stored_px=150, crop="centre")
    table = pd.read_csv(data / "isic2018" / "HAM10000_metadata.csv").sample(frac=1, random_state=0)
    table = table.drop_duplicates("lesion_id")  # one image a lesion
    paths = [data / "isic2018" / "train_200x150" / f"{name}.jpg" for name in table["image_id"][:1600]]
    parts = [points(network, shown(own, px, store)) for own in (paths[:1000], paths[1000:1300], paths[1300:])]
    others = image_others(network, px, store, paths[1300:], files, out / "real")
    return Asked("HAM10000", familiar(parts[0], ["one"] * 1000, parts[1]), parts[2], others)


def photographs(run: Path, data: Path, files: Mapping[str, Sequence[Path]], out: Path) -> Asked:
    """The first fold's network of a run of --preset ham10000, with the description that lies beside it."""
    model = run / "models" / "best-fold-1.keras"
    card, network = Sidecar.read(model), network_of(keras.saving.load_model(model))
    store, px = ImageCacheSettings(**card.preprocessing["store"]), card.input_px
    judged = pd.read_parquet(run / "predictions" / "best-fold-1.parquet").drop_duplicates("group")  # one a lesion
    own = [data / "isic2018" / "train_200x150" / f"{name}.jpg" for name in judged["image_id"]]
    others = image_others(network, px, store, some(own), files, out / "photographs")
    known = read_familiarity(model, card.run["weights_sha256"])
    return Asked("HAM10000, trained on it", known, points(network, shown(own, px, store)), others)


def drawn_slides(run: Path, slide: Path) -> Asked:
    """The model of 20x and its tiles."""
    model = next((run / "models").glob("melanoma-20x-standin_residual.keras"))
    card, network = Sidecar.read(model), network_of(keras.saving.load_model(model))
    part = pd.read_parquet(run / "predictions" / f"{model.stem}.parquet").groupby("slide_id")["part"].first()
    tiles = pd.concat([pd.read_parquet(path) for path in sorted((run / "tiles").glob("*.tiles.parquet"))])
    tiles = tiles[(tiles["magnification"] == "20x") & (tiles["length"] > 0)]
    side = tiles["slide_id"].map(part).fillna("training")

    def of(name: str, count: int) -> tuple[Any, list[str]]:
        rows = tiles[side == name]
        rows = rows.sample(min(count, len(rows)), random_state=0).reset_index(drop=True)
        batches = predict_batches(rows, run / "tiles", card.input_px, 50)
        return np.concatenate([np.asarray(one["x"]) for one in batches]), rows["slide_id"].tolist()

    (training, slides), (validation, _), (test, _) = of("training", 1000), of("validation", 400), of("test", 400)
    px = card.input_px
    others = {"real tiles (CMU-1)": slide_tiles(slide), **made(list(test))}
    sized = {
        name: points(network, np.stack([as_large(one, test[0]) if one.shape[0] != px else one for one in found]))
        for name, found in others.items()
    }
    found = [points(network, one) for one in (training, validation, test)]
    return Asked("tiles of drawn slides, 20x", familiar(found[0], slides, found[1]), found[2], sized)


def main() -> None:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    for name in ("--data", "--zoome", "--multimag"):
        parser.add_argument(name, type=Path, required=True)
    parser.add_argument("--ham10000", type=Path, help="a run of `weighting --preset ham10000`")
    parser.add_argument("--out", type=Path, default=Path("runs/unlike"))
    given = parser.parse_args()
    data, out, slide = given.data, given.out, given.data / "wsi" / "CMU-1-Small-Region.svs"
    ham = some((data / "isic2018" / "train_200x150").glob("*.jpg"))
    foreign = {
        "histology (CMU-1)": saved(slide_tiles(slide), out / "histology"),
        "ISIC 2017": some((data / "isic2019" / "isic2017_256").rglob("*.jpg")),
        "ISIC 2020": some((data / "isic2020" / "images_256").rglob("*.jpg")),
    }
    print("| model | asked | AUROC | |\n|---|---|---|---|")
    drawn, own = drawn_lesions(given.zoome, {"HAM10000": ham, **foreign}, out)
    print("\n".join(drawn.rows()), flush=True)
    print("\n".join(real_lesions(data, {"drawn lesions": some(own), **foreign}, out).rows()), flush=True)
    if given.ham10000 is not None:
        others = {"drawn lesions": some(own), **foreign}
        print("\n".join(photographs(given.ham10000, data, others, out).rows()), flush=True)
    print("\n".join(drawn_slides(given.multimag, slide).rows()), flush=True)


if __name__ == "__main__":
    main()
