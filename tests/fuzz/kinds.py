"""Kinds of damaged input: whole files made once, a damaged one drawn from a seed, and the call that must outlive it.

A call gives "read" or "refused" (an InputError, exit code 2); whatever else it raises is a fault. `experiments/fuzz.py`
runs hundreds of each kind, the tests of this folder a few.
"""

import contextlib
import functools
import io
import json
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import tifffile
from PIL import Image

from melano_tf import run
from melano_tf.commands.predict.asked_inputs import read_list
from melano_tf.dermoscopy.image_files import UnreadableImageError, read_image
from melano_tf.errors import InputError
from melano_tf.pipelines.feature_cohort import read_feature_cohort
from melano_tf.pipelines.processes import WorkerDied, spread
from melano_tf.pipelines.slide_apart import SlideApart
from melano_tf.pipelines.slide_cutting import write_slide
from melano_tf.pipelines.tile_store_settings import StoreSettings
from melano_tf.serving.patient_metadata import read_metadata
from melano_tf.slides.annotations import AnnotationSettings, slide_outlines
from melano_tf.slides.slide_manifest import read_manifest, same_file_groups
from melano_tf.slides.tiling import TileGrid
from melano_tf.specs import load_spec
from tests.features.files import write_trident
from tests.fuzz import mutations
from tests.pipelines.small_slides import MPP, write_slide_file

READ, REFUSED = "read", "refused"


@dataclass(frozen=True)
class Kind:
    """One kind of input.

    Attributes:
        count: how many damaged ones the promise names.
        prepare: makes the whole files in a folder.
        judge: (what `prepare` gave, draw, an empty folder) -> "read" or "refused".
    """

    count: int
    prepare: Callable[[Path], Any]
    judge: Callable[[Any, random.Random, Path], str]


def told(call: Callable[[], Any]) -> str:
    """Whether a call reads its input or refuses it; a refusal has words."""
    try:
        call()
    except (InputError, UnreadableImageError) as error:
        assert str(error).strip()
        return REFUSED
    return READ


def command(*arguments: str | Path) -> str:
    """Whether a command takes its input or refuses it: in one line (a headline, and a line for each fault), or, of
    `check` and `doctor`, in what they show."""
    shown, errors = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(shown), contextlib.redirect_stderr(errors):
        code = run.main([str(one) for one in arguments])
    lines = [line for line in errors.getvalue().splitlines() if "melano_tf: " in line]
    assert code in (0, 1, 2) and len(lines) <= (code == 2), (code, errors.getvalue()[-2000:])
    assert code != 2 or lines or "WRONG" in shown.getvalue(), shown.getvalue()[-2000:]
    return REFUSED if code == 2 else READ


SLIDES = "slide_id,path,patient_id,label,annotation,mpp\n"
ISIC = "image,MEL,NV,BCC,AK,BKL,DF,VASC,SCC,UNK\n"


def whole_tables(folder: Path) -> dict[str, Any]:
    """Tables of slides, images, patients and features, and the files that they name."""
    (folder / "features").mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for number in range(12):
        (folder / f"s{number}.tif").write_bytes(b"II*" + bytes([number]))
        Image.fromarray(rng.integers(0, 255, (20, 24, 3), np.uint8)).save(folder / f"I{number}.png")
        places = np.array([[0, 0], [512, 0], [0, 512]])
        write_trident(folder / "features" / f"s{number}.h5", rng.normal(size=(3, 4)).astype(np.float32), places)
    label = ["benign" if number % 3 else "malignant" for number in range(12)]
    slides = [f"S{n},{folder}/s{n}.tif,P{n // 2},{label[n]},,0.25" for n in range(12)]
    isic = [f"I{n}," + ",".join("1.0" if k == n % 8 else "0.0" for k in range(9)) for n in range(12)]
    told_of = [f"I{n},{30 + n},{('male', 'female')[n % 2]},torso" for n in range(12)]
    cases = [f"s{n},P{n // 2},{label[n]}" for n in range(12)]
    listed = [f"{folder}/s{n}.tif,S{n},0.25" for n in range(12)]
    return {
        "folder": folder,
        "slides": (SLIDES + "\n".join(slides) + "\n").encode(),
        "isic": (ISIC + "\n".join(isic) + "\n").encode(),
        "patients": ("image,age,sex,site\n" + "\n".join(told_of) + "\n").encode(),
        "cases": ("slide_id,patient_id,label\n" + "\n".join(cases) + "\n").encode(),
        "list": ("path,slide_id,mpp\n" + "\n".join(listed) + "\n").encode(),
    }


def judge_table(whole: Mapping[str, Any], draw: random.Random, folder: Path) -> str:
    """A damaged table, read as its commands read it."""
    name = draw.choice(("slides", "slides", "isic", "patients", "cases", "list"))
    path = folder / f"{name}.csv"
    path.write_bytes(mutations.odd_table(whole[name], draw))
    files = whole["folder"]
    if name == "isic":
        return command("check", "--table", path, "--images", files, "--folds", "2")
    if name == "patients":
        return told(lambda: read_metadata(path, [files / f"I{number}.png" for number in range(12)]))
    if name == "cases":
        return told(lambda: read_feature_cohort(files / "features", path).bags())
    if name == "list":
        return told(lambda: read_list(path, ("slide_id", "mpp")))
    spec = draw.choice(("spitzoid", "multimag", "slides"))
    return told(lambda: same_file_groups(read_manifest(path, load_spec(spec))))


@dataclass(frozen=True)
class DrawnOn:
    """What outlines ask of a slide."""

    size: tuple[int, int] = (4000, 3000)
    origin: tuple[int, int] = (0, 0)
    mpp: tuple[float, float] = (0.5, 0.5)


RINGS = ([(100, 100), (900, 120), (850, 800), (90, 700)], [(2000, 500), (2600, 500), (2600, 1200)])


def whole_outlines(_: Path) -> dict[str, bytes]:
    """The same outlines, from three programs."""
    rings = [[list(point) for point in [*ring, ring[0]]] for ring in RINGS]
    features = [
        {
            "type": "Feature",
            "id": str(number),
            "properties": {"objectType": "annotation", "classification": {"name": "Tumor", "color": [200, 0, 0]}},
            "geometry": {"type": "Polygon", "coordinates": [ring]},
        }
        for number, ring in enumerate(rings)
    ]
    corners = lambda ring: "".join(f'<Coordinate Order="{n}" X="{x}" Y="{y}" />' for n, (x, y) in enumerate(ring))  # noqa: E731
    vertices = lambda ring: "".join(f'<Vertex X="{x}" Y="{y}" Z="0" />' for x, y in ring)  # noqa: E731
    asap = "".join(
        f'<Annotation Type="Polygon" PartOfGroup="Tumor"><Coordinates>{corners(r)}</Coordinates></Annotation>'
        for n, r in enumerate(RINGS)
    )
    scope = "".join(
        f'<Region Id="{n}" Type="0" NegativeROA="0"><Vertices>{vertices(r)}</Vertices></Region>'
        for n, r in enumerate(RINGS)
    )
    return {
        "geojson": json.dumps({"type": "FeatureCollection", "features": features}).encode(),
        "asap": f'<?xml version="1.0"?><ASAP_Annotations><Annotations>{asap}</Annotations></ASAP_Annotations>'.encode(),
        "imagescope": f'<Annotations MicronsPerPixel="0.5"><Annotation Id="1" Name="Tumor"><Regions>{scope}</Regions>'
        "</Annotation></Annotations>".encode(),
    }


def judge_outlines(whole: Mapping[str, bytes], draw: random.Random, folder: Path) -> str:
    """A damaged file of outlines, read, told of and measured in tiles."""
    name = draw.choice(sorted(whole))
    damage = mutations.damaged_json if name == "geojson" else mutations.odd_text
    path = folder / f"outlines.{'geojson' if name == 'geojson' else 'xml'}"
    path.write_bytes(damage(whole[name], draw))
    slide = DrawnOn(origin=draw.choice(((0, 0), (300, 200))))

    def read() -> None:
        found = slide_outlines(slide, path, AnnotationSettings(mend=draw.random() < 0.5))
        assert found.words(slide.mpp) and isinstance(found.notes(slide.mpp), list) and found.geometry.area >= 0

    return told(read)


def whole_pictures(_: Path) -> list[bytes]:
    """Pictures of every sort."""
    from tests.serving.pictures import FILES

    return [FILES[name]() for name in sorted(FILES) if name != "large.jpg"]


def judge_picture(whole: list[bytes], draw: random.Random, folder: Path) -> str:
    """A damaged picture, decoded whole or smaller."""
    path = folder / "picture"
    path.write_bytes(mutations.odd_picture(draw.choice(whole), draw))
    shrink_to = draw.choice((None, 20))

    def read() -> None:
        pixels = read_image(path, shrink_to=shrink_to)
        assert pixels.dtype == np.uint8 and pixels.ndim == 3

    return told(read)


GRID, STORE = TileGrid(tile_px=64, mpp=1.0, overlap=0.0), StoreSettings(stored_px=32, mask_mpp=4.0)


def whole_slides(folder: Path) -> list[Path]:
    """A pyramid of zlib tiles and one of JPEG tiles."""
    folder.mkdir(parents=True, exist_ok=True)
    plain = write_slide_file(folder / "zlib.tiff", 1)
    levels = [tifffile.imread(plain, key=level) for level in range(2)]
    with tifffile.TiffWriter(folder / "jpeg.tiff") as file:
        for level, image in enumerate(levels):
            step = 1e4 / (MPP * 4**level)
            options = {"resolution": (step, step), "resolutionunit": "centimeter", "subfiletype": int(level > 0)}
            file.write(image, tile=(256, 256), compression="jpeg", photometric="rgb", metadata=None, **options)
    return [plain, folder / "jpeg.tiff"]


def judge_slide(whole: list[Path], draw: random.Random, folder: Path) -> str:
    """A damaged slide: cut into tiles, and looked at as `doctor` and the maps do."""
    path = folder / "slide.tiff"
    path.write_bytes(draw.choice(whole).read_bytes())
    mutations.odd_tiff(path, draw)
    row = {"slide_id": "slide", "path": str(path), "patient_id": "p", "label": "benign", "annotation": None}
    row |= {"mpp": draw.choice((None, MPP))}
    cut = functools.partial(write_slide, grid=GRID, store=STORE, folder=folder)
    [(_, outcome)] = spread(cut, [row], 1)
    assert isinstance(outcome, WorkerDied) or outcome.status in ("done", "empty") or outcome.reason
    died = isinstance(outcome, WorkerDied)

    def look() -> None:
        with SlideApart(path, "slide", row["mpp"]) as slide:
            assert slide.read(0, 0, 64, max(slide.mpp)).shape == (64, 64, 3)
            longer = max(size * own for size, own in zip(slide.size, slide.mpp, strict=True))
            assert slide.thumbnail(max(longer / 400, *slide.mpp)).ndim == 3

    seen = told(look)
    if died:
        return "its process died"
    return READ if seen == READ and outcome.status == "done" else REFUSED


FILES: dict[str, Kind] = {
    "manifests": Kind(300, whole_tables, judge_table),
    "outlines": Kind(300, whole_outlines, judge_outlines),
    "pictures": Kind(300, whole_pictures, judge_picture),
    "slides": Kind(100, whole_slides, judge_slide),
}
cv2.setNumThreads(1)
