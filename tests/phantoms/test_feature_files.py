"""Phantom features: in TRIDENT's layout, the same for the same seed, and with what is planted to be found in them."""

from pathlib import Path

import numpy as np
import pandas as pd

from melano_tf.features.feature_file import open_features
from melano_tf.phantoms.feature_files import FeaturePhantomSettings, draw_features

SMALL = FeaturePhantomSettings(patients=7, tiles=30, width=9, classes=("a", "b", "c"), signal=5.0, patient_shift=0.1)


def drawn(folder: Path, seed: int = 3) -> tuple[pd.DataFrame, pd.DataFrame]:
    table = draw_features(folder, SMALL, seed)
    return pd.read_csv(table), pd.read_csv(folder / "truth.csv")


def test_a_cohort_with_its_truth(tmp_path: Path) -> None:
    cases, truth = drawn(tmp_path)
    assert cases["label"].tolist().count("b") == 4 and cases["patient_id"].nunique() == 7
    assert cases.groupby("patient_id").size().tolist() == [2, 2, 1, 2, 2, 1, 2]
    planted = truth.groupby("slide_id")["planted"].sum()
    of = dict(zip(cases["slide_id"], cases["label"], strict=True))
    assert all((count == 0) == (of[slide] == "a") for slide, count in planted.items())
    for slide in cases["slide_id"]:
        file = open_features(tmp_path / f"{slide}.h5")
        assert (file.format, file.width, file.tile_extent) == ("trident", 9, (512.0, 512.0))
        assert file.instances == (truth["slide_id"] == slide).sum() and not file.check()
        coords = file.coordinates()
        assert len(np.unique(coords, axis=0)) == file.instances and (coords % 512 == 0).all()


def test_what_is_planted_stands_out(tmp_path: Path) -> None:
    cases, truth = drawn(tmp_path)
    of = dict(zip(cases["slide_id"], cases["label"], strict=True))
    features = np.concatenate([open_features(tmp_path / f"{slide}.h5").features() for slide in cases["slide_id"]])
    planted = truth["planted"].to_numpy(bool)
    label = truth["slide_id"].map(of).to_numpy()
    gap = {name: features[planted & (label == name)].mean(0) - features[~planted].mean(0) for name in "bc"}
    assert all(3.5 < np.linalg.norm(one) < 7 for one in gap.values())
    assert np.linalg.norm(gap["b"] - gap["c"]) > 3  # each class has a direction of its own


def test_the_same_seed_draws_the_same_and_what_stands_is_kept(tmp_path: Path) -> None:
    first = drawn(tmp_path / "a")[0]
    again, other = drawn(tmp_path / "b")[0], drawn(tmp_path / "c", seed=4)[0]
    slide = first["slide_id"][0]
    read = {name: open_features(tmp_path / name / f"{slide}.h5").features() for name in "abc"}
    np.testing.assert_array_equal(read["a"], read["b"])
    assert first.equals(again) and (read["a"].shape != read["c"].shape or not np.allclose(read["a"], read["c"]))
    before = (tmp_path / "a" / f"{slide}.h5").stat().st_mtime_ns
    drawn(tmp_path / "a")
    assert (tmp_path / "a" / f"{slide}.h5").stat().st_mtime_ns == before
    assert len(other) == len(first)
