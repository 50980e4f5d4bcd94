"""Which copies of an image are found, by how they are disguised, and how many strangers are taken for copies.

python experiments/benchmarks/copies.py --data data

Images: those of HAM10000 (`isic2018/train_200x150` and `HAM10000_metadata.csv` below --data). Of as many lesions as
--images says, drawn by the seed, one image each is disguised in twelve ways; found is a disguise whose near pairs hold
its own original. False alarms are the near pairs between untouched images of different lesions, and those between a
disguise and another lesion's image. What was measured stands in docs/trust.md.
"""

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pandas as pd

from melano_tf.dermoscopy.duplicates import DuplicateSettings, close_pairs, fingerprints
from melano_tf.evaluation.wilson_delong import wilson

Disguise = Callable[[np.ndarray], np.ndarray]


def _cropped(rgb: np.ndarray, top: float, bottom: float, left: float, right: float) -> np.ndarray:
    height, width = rgb.shape[:2]
    return rgb[round(top * height) : round((1 - bottom) * height), round(left * width) : round((1 - right) * width)]


def _turned(rgb: np.ndarray, degrees: float) -> np.ndarray:
    height, width = rgb.shape[:2]
    turn = cv2.getRotationMatrix2D((width / 2, height / 2), degrees, 1)
    return cv2.warpAffine(rgb, turn, (width, height), borderMode=cv2.BORDER_REFLECT)


def _bordered(rgb: np.ndarray) -> np.ndarray:
    wide = round(0.08 * rgb.shape[1])
    return cv2.copyMakeBorder(rgb, wide, wide, wide, wide, cv2.BORDER_CONSTANT, value=(0, 0, 0))


def _vignetted(rgb: np.ndarray) -> np.ndarray:
    height, width = rgb.shape[:2]
    y, x = np.ogrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    return (rgb * np.clip(1.35 - 0.5 * (x**2 + y**2), 0, 1)[..., None]).astype(np.uint8)


def _scaled(rgb: np.ndarray, *factors: float) -> np.ndarray:
    return np.clip(rgb * np.array(factors), 0, 255).astype(np.uint8)


DISGUISES: dict[str, Disguise] = {
    "resized to 60 %": lambda rgb: cv2.resize(rgb, None, fx=0.6, fy=0.6, interpolation=cv2.INTER_AREA),
    "recompressed (JPEG quality 30)": lambda rgb: rgb,
    "brighter by a quarter": lambda rgb: _scaled(rgb, 1.25, 1.25, 1.25),
    "tinted": lambda rgb: _scaled(rgb, 1.12, 1.0, 0.82),
    "blurred (sigma 1.5 px)": lambda rgb: cv2.GaussianBlur(rgb, (0, 0), 1.5),
    "vignetted": _vignetted,
    "bordered in black (8 %)": _bordered,
    "cropped by a tenth": lambda rgb: _cropped(rgb, 0.05, 0.05, 0.05, 0.05),
    "one side cropped away (12 %)": lambda rgb: _cropped(rgb, 0, 0, 0.12, 0),
    "turned by 3 degrees": lambda rgb: _turned(rgb, 3),
    "turned by 90 degrees": lambda rgb: np.rot90(rgb).copy(),
    "mirrored": lambda rgb: rgb[:, ::-1].copy(),
}


def disguised(files: dict[str, Path], name: str, folder: Path) -> dict[str, Path]:
    """The images in one disguise, as JPEG of quality 90 (or 30)."""
    quality = 30 if name.startswith("recompressed") else 90
    found = {}
    for image, path in files.items():
        found[image] = folder / f"{image}.jpg"
        bgr = DISGUISES[name](cv2.imread(str(path))[..., ::-1])[..., ::-1]
        cv2.imwrite(str(found[image]), bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])
    return found


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    table = pd.read_csv(asked.data / "isic2018" / "HAM10000_metadata.csv").sort_values("image_id")
    lesion = dict(zip(table["image_id"], table["lesion_id"], strict=True))
    files = {image: asked.data / "isic2018" / "train_200x150" / f"{image}.jpg" for image in lesion}
    settings = DuplicateSettings()
    known = fingerprints(files, settings)
    usable = ~known.flat
    of = np.array([lesion[image] for image in known.image_ids])
    first, second, _ = close_pairs(known.hashes, settings.max_distance, usable)
    same = int((of[first] == of[second]).sum())
    print(
        f"{len(of):,} images of {len(set(of)):,} lesions; hashes of {settings.hash_side**2} bits, near: up to", end=" "
    )
    print(f"{settings.max_distance}; without contrast: {int(known.flat.sum())}")
    print(f"near pairs of untouched images: {same} of one lesion, {len(first) - same} of two", end="; ")
    turned = [
        close_pairs(known.hashes, settings.max_distance, usable, others) for others in np.moveaxis(known.turned, 1, 0)
    ]
    print(f"turned or mirrored: {sum(len(pairs[0]) for pairs in turned)} pairs")
    drawn = table.groupby("lesion_id").sample(1, random_state=asked.seed).sample(asked.images, random_state=asked.seed)
    place = {image: number for number, image in enumerate(known.image_ids)}
    print("| disguise | found (95% interval) | strangers taken for it |\n|---|---|---|")
    for name in DISGUISES:
        with tempfile.TemporaryDirectory() as folder:
            copies = fingerprints(disguised({i: files[i] for i in drawn["image_id"]}, name, Path(folder)), settings)
        near = np.zeros((len(copies.image_ids), len(of)), bool)
        bits = np.unpackbits(copies.hashes, axis=1).astype(np.float32)
        for hashes in (known.hashes, *np.moveaxis(known.turned, 1, 0)):
            others = np.unpackbits(hashes, axis=1).astype(np.float32)
            near |= bits.sum(1)[:, None] + others.sum(1) - 2 * (bits @ others.T) <= settings.max_distance
        near &= ~copies.flat[:, None] & usable
        own = np.array([place[image] for image in copies.image_ids])
        found = near[np.arange(len(own)), own]
        strangers = int((near & (of[own][:, None] != of)).sum())
        low, high = wilson(float(found.mean()), len(found), 0.95)
        print(f"| {name} | {found.mean():.1%} ({low:.1%} to {high:.1%}) | {strangers} |", flush=True)


if __name__ == "__main__":
    main()
