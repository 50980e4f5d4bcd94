"""Whatever a user keeps in and around the folders that a command is given outlives every command, byte for byte."""

import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from melano_tf.runs import journal
from tests.features.files import write_trident
from tests.fuzz.kinds import ISIC
from tests.fuzz.kinds_of_models import whole_run
from tests.papers.tiny import Finished, inside
from tests.pipelines.small_slides import write_slide_file
from tests.pipelines.test_slide_features import mean_colour
from tests.runs.test_journal import LEAVES, PARTS
from tests.serving import small_models

__all__ = ["inside"]

# Names that our own commands write, which a user may have taken first.
TAKEN = (
    *("predictions.csv", "predictions.json", "features.csv", "report.html", "compare.csv", "check.json", "records.csv"),
    *("models.config", "docker-compose.yml", "run.json", "tiles.parquet", "copies.csv", "a.h5", "notes/me.csv"),
)
SLIDES = "slide_id,path,patient_id,label,annotation,mpp\n"
GRID = ("--grid.tile-px", "64", "--grid.mpp", "1.0", "--grid.overlap", "0")
BAGS = ("--folds.count", "2", "--models", "mean", "--steps", "features", "--jobs", "1")
CUT = ("--store.stored-px", "32", "--store.mask-mpp", "4", "--workers", "2")


@dataclass(frozen=True)
class Place:
    """A user's folders: what is read, and what is written."""

    read: Path
    written: Path
    run: Path

    def commands(self) -> dict[str, tuple[str, ...]]:
        """Every command that writes or reads, by a name."""
        data, out = self.read, self.written
        model, images, slides = data / "models" / "zoome.keras", data / "images", data / "slides.csv"
        table = ("--table", data / "isic.csv", "--images", images)
        embed = ("--slides", slides, "--model", data / "colour.keras", *GRID)
        cut = ("multimag", "--slides", slides, "--steps", "tiles", "--allow-upsampling", *CUT)
        wholes: dict[str, tuple[object, ...]] = {
            "report": ("report", self.run),
            "audit": ("audit", self.run),
            "compare": ("compare", self.run, data / "other", "--out", out / "compared"),
            "check": ("check", *table, "--folds", "2", "--out", out / "checked"),
            "doctor": ("doctor", "--slides", slides, "--paper", "multimag", "--out", out),
            "doctor of a run": ("doctor", "--run", self.run, "--out", out),
            "predict": ("predict", "--model", model, "--input", images, "--out", out / "answer"),
            "predict into the images": ("predict", "--model", model, "--input", images, "--out", images),
            "export": ("export", "--model", model, "--out", out / "serving", "--name", "zoome"),
            "export into the models": ("export", "--model", model, "--out", model.parent),
            "features": ("features", *embed, "--out", out / "features"),
            "bags": ("bags", "--features", data / "bags", "--table", data / "cases.csv", *BAGS, "--out", out / "bags"),
            "tiles": (*cut, "--out", out / "cut"),
            "tiles beside the slides": (*cut, "--out", data),
            "images": ("weighting", *table, "--steps", "images", "--cache", out / "cache", "--out", out / "weighting"),
            "plan": (
                "weighting",
                *table,
                "--steps",
                "images",
                "--plan",
                "--cache",
                out / "cache",
                "--out",
                out / "planned",
            ),
            "images into the images": ("weighting", *table, "--steps", "images", "--out", images),
        }
        return {name: tuple(str(part) for part in whole) for name, whole in wholes.items()}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images with their table, slides with theirs, models, finished runs."""
    top = tmp_path_factory.mktemp("whole")
    data = top / "data"
    (data / "images").mkdir(parents=True)
    rng, rows = np.random.default_rng(3), []
    for number in range(18):
        Image.fromarray(rng.integers(0, 255, (40, 44, 3), np.uint8)).save(data / "images" / f"I{number}.png")
        rows.append(f"I{number}," + ",".join("1.0" if k == number % 8 else "0.0" for k in range(9)))
    (data / "isic.csv").write_text(ISIC + "\n".join(rows) + "\n")
    (data / "slides").mkdir()
    for number, label in enumerate(("MM", "IN", "CN", "JN")):
        write_slide_file(data / "slides" / f"{'abcd'[number]}.tiff", number)
        (data / "slides.csv").open("a").write(
            (SLIDES if not number else "") + f"{'abcd'[number]},slides/{'abcd'[number]}.tiff,P{number},{label},,\n"
        )
    (data / "bags").mkdir()
    places, table = np.array([[0, 0], [512, 0], [0, 512]]), ["slide_id,patient_id,label"]
    for number in range(24):
        write_trident(data / "bags" / f"B{number}.h5", rng.normal(size=(3, 4)).astype(np.float32), places)
        table.append(f"B{number},P{number},{('benign', 'malignant')[number % 2]}")
    (data / "cases.csv").write_text("\n".join(table) + "\n")
    small_models.zoome_model(data / "models")
    mean_colour(data / "colour.keras")
    for place in (top / "run", data / "other"):
        journal.begin(whole_run(place), (path for path in place.rglob("*") if path.is_file()))
    return top


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def plant(folders: list[Path], draw: random.Random, count: int) -> dict[Path, bytes]:
    """Foreign files at random places in folders and below them, where nothing stands in the way."""
    planted = {}
    for _ in range(count):
        folder = draw.choice(folders).joinpath(*draw.choices(PARTS, k=draw.randrange(3)))
        path = folder / draw.choice((*LEAVES, *TAKEN))
        blocked = any(parent.is_file() for parent in path.parents) or path.exists()
        if not blocked:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(draw.randbytes(draw.randint(1, 20)))
            planted[path] = path.read_bytes()
    return planted


def test_foreign_files_outlive_every_command(whole: Path, tmp_path: Path, inside: Callable[..., Finished]) -> None:
    draw, top = random.Random(5), tmp_path / "top"
    shutil.copytree(whole, top)
    place = Place(top / "data", top / "out", top / "run")
    kept = contents(place.read)
    kept |= plant([top, place.run, place.written, place.written / "answer", place.written / "features"], draw, 25)
    kept |= plant([place.read, place.read / "images", place.read / "slides", place.read / "models"], draw, 15)
    commands, codes = list(place.commands().items()), dict[str, list[int]]()
    draw.shuffle(commands)
    for name, arguments in [*commands, *draw.sample(commands, 8)]:
        done = inside(*arguments)
        codes.setdefault(name, []).append(done.code)
        changed = [path for path, content in kept.items() if not path.is_file() or path.read_bytes() != content]
        assert not changed, (name, done, changed)
        assert done.code in (0, 1, 2) and "Traceback" not in done.errors, (name, done)
        # Nothing at all is written among what is read.
        assert contents(place.read).keys() == {path for path in kept if path.is_relative_to(place.read)}, name
        kept |= plant([path for path in sorted(place.written.rglob("*")) if path.is_dir()], draw, 3)
    assert all(0 in codes[name] for name in ("check", "features", "bags", "export", "audit")), codes
    for name, found in codes.items():
        if " into " in name or " beside " in name:
            assert set(found) == {2}, (name, codes)
