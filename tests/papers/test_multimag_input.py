"""Bad input to multimag: one clear line each, exit code 2, no traceback."""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tifffile

from tests.papers.tiny import Finished
from tests.papers.tiny_multimag import TINY


def refused(done: Finished, *words: str) -> None:
    assert done.code == 2, done.errors
    shown = done.errors + done.shown
    assert "Traceback" not in shown
    for word in words:
        assert word in shown, shown


@pytest.fixture(scope="module")
def slides(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with thirteen small slides at 0.5 µm/px, each of its own noise, and their manifest."""
    folder = tmp_path_factory.mktemp("slides")
    rows = []
    for number in range(13):
        rng = np.random.default_rng(number)
        image = np.full((640, 640, 3), 245, np.uint8)
        image[64:576, 64:576] = rng.integers(60, 200, (512, 512, 3), np.uint8)
        image[..., 1][64:576, 64:576] //= 2
        name = f"s{number:02d}"
        tifffile.imwrite(
            folder / f"{name}.tiff",
            image,
            tile=(256, 256),
            photometric="rgb",
            resolution=(20_000, 20_000),
            resolutionunit="centimeter",
            metadata=None,
        )
        label = ("MM", "IN", "CN", "JN")[number % 4]
        rows.append((name, str(folder / f"{name}.tiff"), f"p{number:02d}", label))
    pd.DataFrame(rows, columns=["slide_id", "path", "patient_id", "label"]).to_csv(folder / "all.csv", index=False)
    return folder


@pytest.fixture
def run(slides, tmp_path, inside):
    """The tiny demo on a changed manifest; later arguments win."""

    def call(change, *arguments: str) -> Finished:
        path = tmp_path / "slides.csv"
        change(pd.read_csv(slides / "all.csv")).to_csv(path, index=False)
        return inside(
            *("multimag", "--slides", str(path), "--preset", "demo", "--out", str(tmp_path / "out")),
            *TINY,
            *("--grid.mpp", "4", "1", "0.5", "0.275", "--grid.tile-px", "64", *arguments),
        )

    return call


def test_an_unknown_diagnosis_names_its_row_and_those_there_are(run):
    refused(run(lambda frame: frame.replace({"label": {"JN": "SK"}})), "row 5", "'SK' is none of MM, IN, CN, JN")
    refused(run(lambda frame: frame.replace({"label": {"MM": "mm"}})), "row 2", "write 'MM'")


def test_a_class_in_fewer_patients_than_the_three_parts_need(run):
    done = run(
        lambda frame: frame[frame["label"] != "JN"].assign(
            patient_id=lambda f: f["patient_id"].where(f["label"] != "CN", "same")
        )
    )
    refused(done, "too few patients for a training, a validation, a test part", "class 'CN': 1 patient")


def test_slides_too_coarse_for_every_magnification(run):
    done = run(lambda frame: frame.assign(mpp=12.0))
    refused(done, "left out: s00: slide s00: no magnification is possible", "--allow-upsampling", "no slide brought")


def test_a_table_that_needs_a_magnification_that_no_slide_has(run):
    done = run(lambda frame: frame, "--tables", "4")
    refused(
        done, "not at 40x: its 0.5 µm/px would be enlarged 1.82 times", "Table 4 cannot be made", "no slide has tiles"
    )


def test_doctor_knows_the_four_diagnoses_and_the_magnifications(slides, tmp_path, inside):
    manifest = pd.read_csv(slides / "all.csv")
    command = ("doctor", "--paper", "multimag", "--out", str(tmp_path), "--slides")
    good = inside(*command, str(slides / "all.csv"))
    assert "13 slides of 13 patients" in good.shown
    unnamed = inside("doctor", "--out", str(tmp_path), "--slides", str(slides / "all.csv"))
    assert "13 slides of 13 patients, as multimag wants them" in unnamed.shown, unnamed.shown
    assert good.shown.count("not at 40x: its 0.5 µm/px would be enlarged 1.82 times") == 13
    manifest.assign(mpp=[12.0] + [None] * 12).to_csv(tmp_path / "one.csv", index=False)
    done = inside(*command, str(tmp_path / "one.csv"))
    assert done.code == 2
    assert "WRONG  s00: no magnification is possible" in done.shown
    manifest.replace({"label": {"JN": "SK"}}).to_csv(tmp_path / "labels.csv", index=False)
    assert "'SK' is none of MM, IN, CN, JN" in inside(*command, str(tmp_path / "labels.csv")).shown


def test_upsampling_is_done_where_it_is_allowed(run):
    done = run(lambda frame: frame, "--allow-upsampling", "--steps", "tiles")
    assert done.code == 0, done.errors
    assert "would be enlarged" not in done.shown
    counts = next(line for line in done.shown.splitlines() if line.startswith("tiles "))
    assert int(re.search(r"(\d+) at 40x", counts)[1]) > 0


def test_one_file_under_two_names(run, slides):
    def change(frame: pd.DataFrame) -> pd.DataFrame:
        copies = [
            frame.assign(slide_id=frame["slide_id"] + f"-{n}", patient_id=frame["patient_id"] + f"-{n}") for n in "ab"
        ]
        return pd.concat(copies, ignore_index=True)

    refused(run(change), "the split leaks", "one file on")


@pytest.mark.parametrize(
    "arguments, words",
    [
        (("--tables", "5"), ("--tables 5",)),
        (("--figures", "3"), ("--figures 3",)),
        (("--steps", "dance"), ("dance",)),
        (("--grid.mpp", "1", "2"), ("as many",)),
        (("--caps.separate", "1", "2"), ("caps.separate",)),
        (("--show.magnification", "5x"), ("5x",)),
        (("--model.backbones", "vgg61"), ("vgg61",)),
    ],
)
def test_settings_that_cannot_be(run, arguments, words):
    extra = ("--tables", "1") if "--tables" not in arguments else ()
    refused(run(lambda frame: frame, *extra, *arguments), *words)
