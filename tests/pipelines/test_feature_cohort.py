"""A table joined to a folder of features: bags by slide and patient, and all faults at once."""

from pathlib import Path

import h5py
import numpy as np
import pytest

from melano_tf.errors import InputError
from melano_tf.pipelines.feature_cohort import read_feature_cohort
from tests.features.files import numbers, write_clam, write_stamp, write_trident

SIZES = {"s1": 4, "s2": 7, "s3": 1, "s4": 9}
ROWS = ["s1,p1,tumour,m", "s2,p2,normal,f", "s3,p1,tumour,", "s4,p3,normal,f"]


def table(folder: Path, rows: list[str], header: str = "slide_id,patient_id,label,sex") -> Path:
    path = folder / "cases.csv"
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "features_uni" / "deep"
    made.mkdir(parents=True)
    for seed, (slide, size) in enumerate({**SIZES, "extra": 3}.items()):
        write_trident(made / f"{slide}.h5", *numbers(size, seed=seed))
    return tmp_path / "features_uni"


def test_bags_by_slide(folder: Path, tmp_path: Path) -> None:
    cohort = read_feature_cohort(folder, table(tmp_path, ROWS))
    assert list(cohort.unlabelled) == ["extra"] and list(cohort.notes) == []
    assert cohort.table["sex"].tolist() == ["m", "f", "", "f"]
    bags = cohort.bags()
    assert list(bags.ids) == list(SIZES) and list(bags.patients) == ["p1", "p2", "p1", "p3"]
    assert bags.classes == ("normal", "tumour") and bags.labels.tolist() == [1, 0, 1, 0]
    assert bags.sizes.tolist() == list(SIZES.values()) and bags.width == 5
    np.testing.assert_array_equal(bags.read(1), numbers(7, seed=1)[0])
    np.testing.assert_array_equal(bags.read(3, np.array([2, 8])), numbers(9, seed=3)[0][[2, 8]])
    assert cohort.bags(classes=["tumour", "normal"]).labels.tolist() == [0, 1, 0, 1]


@pytest.mark.parametrize("ending", ["", ",", ",,"])
@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_further_columns_are_those_of_their_rows(folder: Path, tmp_path: Path, separator: str, ending: str) -> None:
    """Whatever separates them, with empty cells at the ends of lines (as spreadsheets write) and blank lines."""
    lines = [f"{row}{ending}" for row in ("s1,p1,tumour, m ,7", "s2,p2,normal,f", ",,,,", "s4,p3,normal,,9")]
    path = table(tmp_path, lines, "slide_id,patient_id,label,sex,age at entry")
    path.write_text(path.read_text().replace(",", separator))
    found = read_feature_cohort(folder, path).table
    assert found["slide_id"].tolist() == ["s1", "s2", "s4"] and found["label"].tolist() == ["tumour"] + ["normal"] * 2
    assert found["sex"].tolist() == ["m", "f", ""] and found["age at entry"].tolist() == ["7", "", "9"]
    assert list(found.columns) == ["slide_id", "patient_id", "label", "sex", "age at entry"]


def test_files_of_other_settings_are_faults_and_files_without_any_are_not(folder: Path, tmp_path: Path) -> None:
    for slide, settings in {"s1": "aa11", "s3": "aa11"}.items():
        with h5py.File(folder / "deep" / f"{slide}.h5", "r+") as file:
            file.attrs["melano_tf_settings"] = settings
    assert len(read_feature_cohort(folder, table(tmp_path, ROWS)).files) == 4
    with h5py.File(folder / "deep" / "s4.h5", "r+") as file:
        file.attrs["melano_tf_settings"] = "bb22"
    with pytest.raises(InputError) as error:
        read_feature_cohort(folder, table(tmp_path, ROWS))
    _, *lines = str(error.value).splitlines()
    assert len(lines) == 1
    assert "s4.h5: features of the settings bb22 (tiles, encoder, dtype), where 2 files have aa11" in lines[0]


def test_bags_by_patient(folder: Path, tmp_path: Path) -> None:
    bags = read_feature_cohort(folder, table(tmp_path, ROWS)).bags("patient")
    assert list(bags.ids) == ["p1", "p2", "p3"] and bags.sizes.tolist() == [5, 7, 9]
    both = np.concatenate([numbers(4, seed=0)[0], numbers(1, seed=2)[0]])
    np.testing.assert_array_equal(bags.read(0), both)
    for rows in ([1, 3], [4], [0, 4]):
        np.testing.assert_array_equal(bags.read(0, np.array(rows)), both[rows])
    parts = bags.by_slide(0, np.arange(5))
    assert {slide: values.tolist() for slide, values in parts.items()} == {"s1": [0, 1, 2, 3], "s3": [4]}


def test_a_patient_of_two_labels_is_no_bag(folder: Path, tmp_path: Path) -> None:
    cohort = read_feature_cohort(folder, table(tmp_path, ["s1,p1,a,", "s2,p1,b,", "s3,p2,a,"]))
    assert len(cohort.bags().ids) == 3
    with pytest.raises(InputError, match="patient p1: slides with the labels a, b; take bags by slide"):
        cohort.bags("patient")
    with pytest.raises(InputError, match="the only label is 'a'"):
        read_feature_cohort(folder, table(tmp_path, ["s1,p1,a,"]))


def test_all_faults_at_once_each_one_line(folder: Path, tmp_path: Path) -> None:
    deep = folder / "deep"
    features, coords = numbers(6)
    write_trident(deep / "s2.h5", features[:, :3], coords)
    with h5py.File(deep / "s3.h5", "w") as file:
        file["features"] = features
    features[1] = np.nan
    write_trident(deep / "s5.h5", features, coords)
    write_trident(deep / "s6.h5", *numbers(2), encoder="conch_v15")
    write_trident(deep / "s7.h5", *numbers(2))
    write_clam(folder / "s7.h5", *numbers(2))
    with h5py.File(deep / "s8.h5", "w") as file:
        file["features"], file["coords"] = np.zeros((0, 5), "float32"), np.zeros((0, 2))
    rows = [*ROWS, "s5,p4,normal,", "s6,p4,normal,", "s7,p5,normal,", "s8,p5,normal,", "exta,p6,normal,"]
    with pytest.raises(InputError) as error:
        read_feature_cohort(folder, table(tmp_path, rows))
    headline, *lines = str(error.value).splitlines()
    assert headline.endswith("7 faults")
    expected = [
        "s3.h5: no `coords`",
        "slide s7: 2 files of features",
        "s8.h5: features is (0, 5): 0 instances",
        "slide exta: has a label but no features",
        "s2.h5: features of width 3, where 4 files have 5",
        "s6.h5: features of the encoder conch_v15, where 4 files have uni_v1",
        "s5.h5: 1 of 6 tiles have features that are NaN or infinite",
    ]
    assert len(lines) == len(expected)
    for line, words in zip(lines, expected, strict=True):
        assert words in line
    assert "is extra meant?" in lines[3]


def test_a_slide_twice_and_a_missing_column_are_faults_of_the_table(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"row 3: slide_id 'S1' stands in row 2 already"):
        read_feature_cohort(folder, table(tmp_path, ["s1,p1,a,", "S1,p1,b,"]))
    with pytest.raises(InputError, match="column 'label' is missing; is 'labels' meant"):
        read_feature_cohort(folder, table(tmp_path, ["s1,p1,a"], "slide_id,patient_id,labels"))


def test_faults_of_labels_and_of_a_table_come_with_those_of_the_files(folder: Path, tmp_path: Path) -> None:
    features, coords = numbers(6)
    features[1, 2] = np.inf
    write_trident(folder / "deep" / "s4.h5", features, coords)
    rows = ["s1,p1,a,", "s2,p1,b,", "s4,p3,c,"]
    with pytest.raises(InputError) as error:
        read_feature_cohort(folder, table(tmp_path, rows), by="patient", classes=("a", "b", "d"))
    expected = [
        "label 'c' is none of a, b, d",
        "no slide has the label 'd'",
        "patient p1: slides with",
        "s4.h5: 1 of 6",
    ]
    lines = str(error.value).splitlines()[1:]
    assert len(lines) == len(expected) and all(words in line for words, line in zip(expected, lines, strict=True))
    with h5py.File(folder / "deep" / "s9.h5", "w") as file:
        file["features"] = features
    with pytest.raises(InputError) as error:
        read_feature_cohort(folder, table(tmp_path, ["s1,p1,a,", "s1,p2,b,"]))
    _, first, second, third = str(error.value).splitlines()
    assert "row 3: slide_id 's1' stands in row 2 already" in first
    assert f"{folder}/deep/s9.h5: no `coords`" in second and "s4.h5: 1 of 6 tiles" in third


def test_formats_may_be_mixed_and_are_noted(folder: Path, tmp_path: Path) -> None:
    write_stamp(folder / "deep" / "s2.h5", *numbers(4), extractor="uni_v1")
    cohort = read_feature_cohort(folder, table(tmp_path, ROWS))
    assert "formats differ: trident (3), stamp (1)" in cohort.notes


def test_folders_without_features(tmp_path: Path) -> None:
    path = table(tmp_path, ROWS)
    with pytest.raises(InputError, match="no such folder"):
        read_feature_cohort(tmp_path / "none", path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="holds no files of features"):
        read_feature_cohort(tmp_path / "empty", path)
