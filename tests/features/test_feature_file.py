"""What is read from TRIDENT's, CLAM's and STAMP's files, and the one line for each that cannot be a bag."""

import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from melano_tf.errors import InputError
from melano_tf.features.feature_file import open_features
from tests.features.files import numbers, write_clam, write_stamp, write_trident


def test_trident(tmp_path: Path) -> None:
    features, coords = numbers(7)
    file = open_features(write_trident(tmp_path / "TCGA-1.9DFA.h5", features, coords))
    assert (file.slide_id, file.format, file.instances, file.width) == ("TCGA-1.9DFA", "trident", 7, 5)
    assert (file.unit, file.tile_px, file.tile_extent, file.mpp) == ("px", 256, (512.0, 512.0), None)
    assert file.encoder == "uni_v1"
    np.testing.assert_array_equal(file.features(), features)
    np.testing.assert_array_equal(file.coordinates(), coords)
    assert open_features(write_trident(tmp_path / "b.h5", features, coords, encoder="None")).encoder is None


def test_clam(tmp_path: Path) -> None:
    features, coords = numbers(7)
    file = open_features(write_clam(tmp_path / "a.h5", features, coords))
    assert (file.format, file.unit, file.tile_px, file.tile_extent, file.encoder) == ("clam", "px", None, None, None)
    np.testing.assert_array_equal(file.coordinates(), coords)
    with h5py.File(tmp_path / "a.h5", "a") as raw:  # attributes of CLAM's own file of coordinates
        raw["coords"].attrs.update({"patch_level": 1, "patch_size": 256, "downsample": np.array([4.0, 4.001])})
    assert open_features(tmp_path / "a.h5").tile_extent == pytest.approx((1024, 1024.256))


def test_stamp(tmp_path: Path) -> None:
    features, coords = numbers(7)
    file = open_features(write_stamp(tmp_path / "a.h5", features, coords / 10))
    assert (file.format, file.unit, file.tile_px, file.tile_extent) == ("stamp", "um", 224, (256.0, 256.0))
    assert file.mpp == pytest.approx(256 / 224) and file.encoder == "ctranspath" and file.dtype == "float16"
    np.testing.assert_array_equal(file.features(), features.astype("float16"))
    before = write_stamp(tmp_path / "b.h5", features, coords, tile_size_um=None, tile_size=256.0)
    assert open_features(before).tile_extent == (256.0, 256.0)
    first = write_stamp(tmp_path / "c.h5", features, coords, tile_size_um=None, unit=None)
    assert (open_features(first).unit, open_features(first).tile_extent) == ("unknown", None)


def test_some_rows_are_those_rows(tmp_path: Path) -> None:
    features, coords = numbers(40)
    file = open_features(write_trident(tmp_path / "a.h5", features, coords))
    for rows in ([3], [0, 1, 2, 17, 39], [5, 6, 8], list(range(0, 40, 2)), []):
        np.testing.assert_array_equal(file.features(np.array(rows, np.int64)), features[rows])


def test_a_leading_axis_of_one_is_taken_off(tmp_path: Path) -> None:
    features, coords = numbers(20)
    with h5py.File(tmp_path / "a.h5", "w") as raw:
        raw["features"], raw["coords"] = features[None], coords[None]
    file = open_features(tmp_path / "a.h5")
    assert (file.instances, file.width) == (20, 5)
    np.testing.assert_array_equal(file.features(np.array([4, 9])), features[[4, 9]])
    np.testing.assert_array_equal(file.coordinates(), coords)


def test_values_are_checked_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("melano_tf.features.feature_file.CHUNK", 3)
    features, coords = numbers(8)
    assert open_features(write_clam(tmp_path / "a.h5", features, coords)).check() == []
    features[2, 1], features[7, 0] = np.nan, np.inf
    (fault,) = open_features(write_clam(tmp_path / "b.h5", features, coords)).check()
    assert "b.h5: 2 of 8 tiles" in fault


def bad_files(folder: Path) -> dict[str, Path]:
    features, coords = numbers(4)
    made = {name: folder / f"{name}.h5" for name in ("coords only", "no coords", "short", "empty", "whole", "flat")}
    with h5py.File(made["coords only"], "w") as file:
        file["coords"] = coords
    with h5py.File(made["no coords"], "w") as file:
        file["features"] = features
    write_clam(made["short"], features, coords[:3])
    with h5py.File(made["empty"], "w") as file:
        file["features"], file["coords"] = np.zeros((0, 5), "float32"), np.zeros((0, 2))
    write_stamp(made["whole"], features, coords, feat_type="slide")
    with h5py.File(made["flat"], "w") as file:
        file["features"], file["coords"] = features[0], coords
    made["text"] = folder / "text.h5"
    made["text"].write_text("not HDF5")
    made["missing"] = folder / "missing.h5"
    return made


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("coords only", "coordinates only, run the tool's feature extraction"),
        ("no coords", "no `coords` beside `features`"),
        ("short", r"coords are \(3, 2\) but features \(4, 5\)"),
        ("empty", r"\(0, 5\): 0 instances"),
        ("whole", "features of a whole slide"),
        ("flat", r"float32 \(5,\); floats"),
        ("text", "is no HDF5 file"),
        ("missing", "no such file"),
    ],
)
def test_what_is_no_bag_is_refused_in_one_line(tmp_path: Path, name: str, words: str) -> None:
    path = bad_files(tmp_path)[name]
    with pytest.raises(InputError, match=words) as error:
        open_features(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


def test_pt_without_torch_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    (tmp_path / "a.pt").write_bytes(b"anything")
    with pytest.raises(InputError, match=r"a\.pt: .*torch, which is not installed here; .*h5_files"):
        open_features(tmp_path / "a.pt")


def test_pt_with_torch(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    features, _ = numbers(6)
    torch.save(torch.from_numpy(features), tmp_path / "a.pt")
    file = open_features(tmp_path / "a.pt")
    assert (file.format, file.instances, file.width, file.unit) == ("clam_pt", 6, 5, "none")
    assert file.coordinates() is None and file.check() == []
    np.testing.assert_array_equal(file.features(np.array([1, 4])), features[[1, 4]])
    torch.save({"features": [1, 2]}, tmp_path / "b.pt")
    with pytest.raises(InputError, match="no tensor"):
        open_features(tmp_path / "b.pt")


def test_real_coordinates_of_clam(real_data: Path, tmp_path: Path) -> None:
    """CLAM's own file of coordinates, with features put beside them: its attributes are read, and nothing is lost."""
    with (
        h5py.File(real_data / "features" / "clam-coords-TCGA-2V-A95S.h5") as source,
        h5py.File(tmp_path / "TCGA-2V-A95S.h5", "w") as made,
    ):
        source.copy("coords", made)
        made["features"] = np.zeros((1481, 3), "float32")
    file = open_features(tmp_path / "TCGA-2V-A95S.h5")
    assert (file.format, file.instances, file.tile_px, file.tile_extent) == ("clam", 1481, 512, (512.0, 512.0))
    assert file.coordinates()[:2].tolist() == [[23480, 34386], [23992, 34386]]
    with pytest.raises(InputError, match="coordinates only"):
        open_features(real_data / "features" / "clam-coords-TCGA-2V-A95S.h5")
