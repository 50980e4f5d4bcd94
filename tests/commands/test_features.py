"""`features` as a user gives it: files that code written from TRIDENT's and CLAM's documentation reads, and `bags`."""

from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest

from melano_tf.pipelines.feature_cohort import read_feature_cohort
from tests.papers.tiny import inside
from tests.pipelines.small_slides import write_slide_file
from tests.pipelines.test_slide_features import mean_colour

__all__ = ["inside"]
GRID = ("--grid.tile-px", "64", "--grid.mpp", "1.0")


@pytest.fixture
def slides(tmp_path: Path) -> Path:
    (tmp_path / "slides").mkdir()
    for seed in (1, 2):
        write_slide_file(tmp_path / "slides" / f"s{seed}.tiff", seed)
    table = tmp_path / "slides.csv"
    table.write_text("slide_id,path,mpp\ns1,slides/s1.tiff,\ns2,slides/s2.tiff,0.5\n")
    return table


def as_trident_reads(path: Path) -> tuple[np.ndarray, np.ndarray, int]:
    """As TRIDENT's documentation has it: `features` (n, d), `coords` (n, 2) of level 0, `patch_size_level0` beside."""
    with h5py.File(path, "r") as file:
        return file["features"][:], file["coords"][:], int(file["coords"].attrs["patch_size_level0"])


def as_clam_reads(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """As CLAM's Generic_MIL_Dataset with load_from_h5."""
    with h5py.File(path, "r") as hdf5_file:
        return hdf5_file["features"][:], hdf5_file["coords"][:]


def test_files_that_others_and_bags_read(slides: Path, tmp_path: Path, inside) -> None:
    model = mean_colour(tmp_path / "colour.keras")
    call = ("features", "--slides", str(slides), "--model", model, "--out", str(tmp_path / "made"), *GRID)
    done = inside(*call)
    assert done.code == 0, done.errors
    assert "encoder   colour: 6 numbers a tile of 64 px at 1 µm/px" in done.shown and "2 done" in done.shown
    features, coords, side = as_trident_reads(tmp_path / "made" / "s1.h5")
    assert features.shape == (len(coords), 6) and side == 128 and len(coords) > 5
    for one, other in zip(as_clam_reads(tmp_path / "made" / "s1.h5"), (features, coords), strict=True):
        np.testing.assert_array_equal(one, other)
    cases = tmp_path / "cases.csv"
    cases.write_text("slide_id,patient_id,label\ns1,p1,a\ns2,p2,b\n")
    bags = read_feature_cohort(tmp_path / "made", cases).bags()
    assert bags.width == 6 and bags.files[0][0].mpp == 1.0 and bags.files[0][0].encoder == "colour"
    np.testing.assert_array_equal(bags.read(0), features)
    again = inside(*call)
    assert again.code == 0 and "2 kept" in again.shown
    assert pd.read_csv(tmp_path / "made" / "features.csv")["status"].tolist() == ["kept", "kept"]


def test_what_was_odd_of_a_slide_is_said(slides: Path, tmp_path: Path, inside) -> None:
    slides.write_text("slide_id,path,mpp\ns1,slides/s1.tiff,\ns2,slides/s2.tiff,0.8\n")
    model = mean_colour(tmp_path / "colour.keras")
    call = ("features", "--slides", str(slides), "--model", model, "--out", str(tmp_path / "made"), *GRID)
    for done in (inside(*call), inside(*call)):  # made, and kept
        assert done.code == 0, done.errors
        assert "  note: s2: the given 0.8 µm/px contradicts the file's own 0.5 µm/px" in done.shown
        assert done.shown.count("note: ") == 1


def test_a_network_by_its_name(slides: Path, tmp_path: Path, inside) -> None:
    call = ("features", "--slides", str(slides), "--encoder", "mobilenet", "--weights", "none")
    done = inside(*call, "--out", str(tmp_path / "made"), *GRID)
    assert done.code == 0, done.errors
    assert "encoder   mobilenet: 1024 numbers" in done.shown
    assert as_trident_reads(tmp_path / "made" / "s2.h5")[0].shape[1] == 1024


def test_a_slide_that_fails_is_named_and_the_others_are_done(slides: Path, tmp_path: Path, inside) -> None:
    (tmp_path / "slides" / "s2.tiff").write_bytes(b"no slide")
    model = mean_colour(tmp_path / "colour.keras")
    call = ("features", "--slides", str(slides), "--out", str(tmp_path / "made"), *GRID)
    done = inside(*call, "--model", model)
    assert done.code == 1 and "1 of 2 slides failed" in done.errors and "failed: s2: " in done.shown
    assert (tmp_path / "made" / "s1.h5").is_file() and not (tmp_path / "made" / "s2.h5").exists()
    for arguments, words in (
        (("--model", str(slides)), "is no .keras file"),
        (("--encoder", "uni"), "uni"),
        (("--model", model, "--layer", "last"), "no layer 'last'"),
        (("--model", model, "--out", str(tmp_path / "slides")), "slides"),
    ):
        refused = inside(*call, *arguments)
        assert refused.code == 2 and words in refused.errors and "Traceback" not in refused.errors
    slides.write_text("slide_id,path\ns1,slides/s1.tiff\ns1,slides/none.tiff\n")
    refused = inside(*call, "--model", model)
    assert refused.code == 2
    assert "stands in row 2 already" in refused.errors and "is no file" in refused.errors
