"""Damaged inputs: manifests, outlines and pictures are read, or refused in an InputError; in time."""

import io
import random
import time
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from melano_tf.commands.predict.asked_inputs import read_list
from melano_tf.dermoscopy.image_files import UnreadableImageError, read_image
from melano_tf.errors import InputError
from melano_tf.slides.slide import Slide
from melano_tf.slides.slide_manifest import read_manifest
from melano_tf.specs import load_spec
from tests.fuzz.mutations import torn

MANIFEST = "slide_id,path,patient_id,label,annotation,mpp\n" + "".join(
    f"S{n},s{n}.tif,P{n // 2},{'benign' if n % 3 else 'malignant'},,0.25\n" for n in range(12)
)
LONGEST = 60.0  # seconds of one call


def picture(kind: str, seed: int) -> bytes:
    """A small picture with structure."""
    noise = np.random.default_rng(seed).integers(0, 255, (48, 64, 3), dtype=np.uint8)
    whole, options = io.BytesIO(), {"progressive": True} if seed % 2 and kind == "JPEG" else {}
    Image.fromarray(noise).save(whole, kind, **options)
    return whole.getvalue()


@pytest.mark.parametrize("seed", range(25))
def test_a_damaged_manifest_is_read_or_refused(tmp_path: Path, seed: int) -> None:
    for number in range(12):
        (tmp_path / f"s{number}.tif").write_bytes(b"II*")
    path = tmp_path / "slides.csv"
    path.write_bytes(torn(MANIFEST.encode(), random.Random(seed)))
    for read in (lambda: read_manifest(path, load_spec("spitzoid")), lambda: read_list(path, ("mpp",))):
        began = time.monotonic()
        try:
            read()
        except InputError as error:
            assert str(path) in str(error)
        assert time.monotonic() - began < LONGEST


@pytest.mark.parametrize("seed", range(40))
def test_a_damaged_picture_is_read_or_refused(tmp_path: Path, seed: int) -> None:
    path = tmp_path / "picture"
    path.write_bytes(torn(picture(("JPEG", "PNG")[seed % 2], seed), random.Random(seed)))
    began = time.monotonic()
    try:
        pixels = read_image(path)
        assert pixels.dtype == np.uint8 and pixels.ndim == 3
    except UnreadableImageError as error:
        assert len(str(error).splitlines()) == 1
    assert time.monotonic() - began < LONGEST


def test_a_tile_that_no_memory_holds_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    path = tmp_path / "wide.tif"
    with tifffile.TiffWriter(path) as file:
        options = {"resolution": (40000, 40000), "resolutionunit": "CENTIMETER", "photometric": "rgb"}
        file.write(np.zeros((64, 64, 3), np.uint8), tile=(64, 64), metadata=None, **options)
    with tifffile.TiffFile(path, mode="r+") as file:
        for name in ("TileWidth", "TileLength"):
            file.pages[0].tags[name].overwrite(400_000)
    with pytest.raises(InputError, match=r"single tile of the file is 400,000 x 400,000 px"):
        Slide(path)


@pytest.mark.parametrize("seed", range(12))
def test_a_damaged_slide_is_read_or_refused(tmp_path: Path, seed: int) -> None:
    whole = tmp_path / "whole.tif"
    pixels = np.random.default_rng(seed).integers(0, 255, (128, 192, 3), dtype=np.uint8)
    options = {"resolution": (40000, 40000), "resolutionunit": "CENTIMETER", "compression": "zlib"}
    tifffile.imwrite(whole, pixels, tile=(64, 64), photometric="rgb", metadata=None, **options)
    path = tmp_path / "slide.tif"
    path.write_bytes(torn(whole.read_bytes(), random.Random(seed)))
    began = time.monotonic()
    try:
        with Slide(path) as slide:
            slide.read(0, 0, 32, max(slide.mpp))
    except InputError:
        pass
    assert time.monotonic() - began < LONGEST
