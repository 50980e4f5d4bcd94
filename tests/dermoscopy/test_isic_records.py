"""The readers: from official files to records, with everything odd counted and named."""

import sys
from pathlib import Path

import numpy as np
import pytest

from melano_tf.dermoscopy.image_files import ImageSettings
from melano_tf.dermoscopy.isic_records import COLUMNS, read_isic, read_isic2018, read_isic2019, read_isic2020
from melano_tf.errors import InputError
from melano_tf.phantoms.skin.isic_data_sets import PhantomDermoscopy

sys.path.insert(0, str(Path(__file__).parent))
from isic_files import png_claiming, save, table_2020, write

GROUND_TRUTH_2019 = "image,MEL,NV,BCC,AK,BKL,DF,VASC,SCC,UNK"
GROUND_TRUTH_2018 = "image,MEL,NV,BCC,AKIEC,BKL,DF,VASC"
HAM = "lesion_id,image_id,dx,dx_type,age,sex,localization"


def test_a_2020_table_becomes_records(tmp_path: Path) -> None:
    records, findings = read_isic2020(ground_truth=table_2020(tmp_path))
    assert tuple(records.columns) == COLUMNS
    assert records["target"].tolist() == [0, 1, 0]
    assert records["label"].tolist() == ["benign", "melanoma", "benign"]
    assert records["patient"].tolist() == ["IP_1", "IP_1", "IP_2"]
    assert records["site"].tolist() == ["head/neck", "torso", "unknown"]
    assert records["sex"].tolist() == ["male", "male", "unknown"]
    assert np.isnan(records["age"][2]) and records["age"][0] == 45.0
    assert records["lesion"].tolist() == [None] * 3
    assert records["path"].tolist() == [None] * 3
    assert findings.missing == () and findings.images is None and findings.lines() == []


def test_v2_and_the_list_of_duplicates(tmp_path: Path) -> None:
    header = (
        "image_name,patient_id,lesion_id,sex,age_approx,anatom_site_general_challenge,diagnosis,benign_malignant,target"
    )
    path = table_2020(tmp_path, "A,IP_1,IL_9,male,45,torso,nevus,benign,0", header=f"{header},tfrecord")
    pairs = write(tmp_path / "d.csv", "image_name_1,image_name_2", "A,B")
    records, findings = read_isic([path, pairs])
    assert records["lesion"].tolist() == ["IL_9"]
    assert findings.listed_duplicates == (("A", "B"),)
    assert findings.ignored_columns == (("train.csv", "tfrecord"),)


def test_2019_tables_are_joined_and_rows_without_a_class_are_named(tmp_path: Path) -> None:
    truth = write(
        tmp_path / "g.csv",
        GROUND_TRUTH_2019,
        "ISIC_1,0,1.0,0,0,0,0,0,0,0",
        "ISIC_2_downsampled,0,0,0,0,0,0,0,1,0",
        "ISIC_3,0,0,0,0,0,0,0,0,1",
        "ISIC_4,0,0,0,0,0,0,0,0,0",
        "ISIC_5,1,0,0,0,0,0,0,0,0",
    )
    metadata = write(
        tmp_path / "m.csv",
        "image,age_approx,anatom_site_general,lesion_id,gender",
        "ISIC_2_downsampled,85.0,palms/soles,MSK4_0011169,female",
        "ISIC_1,,,BCN_0000001,",
        "ISIC_3,1,,,",
        "ISIC_4,1,,,",
        "ISIC_9,30,anterior torso,,male",
    )
    records, findings = read_isic2019(ground_truth=truth, metadata=metadata)
    assert records["image_id"].tolist() == ["ISIC_1", "ISIC_2_downsampled", "ISIC_5"]
    assert records["label"].tolist() == ["NV", "SCC", "MEL"]
    assert records["target"].tolist() == [1, 7, 0]
    assert records["source"].tolist() == ["BCN", "MSK", "unnamed"]
    assert records["site_written"].tolist() == [None, "palms/soles", None]
    assert findings.rows == 5
    assert findings.unlabelled == ("ISIC_3", "ISIC_4")
    assert findings.undescribed == ("ISIC_5",)
    assert findings.unused_rows == ("ISIC_9",)


def test_images_of_age_0_are_counted_by_class_and_used_as_they_are(tmp_path: Path) -> None:
    rows = [f"HAM_{i},I{i},{dx},histo,{age},male,back" for i, (dx, age) in enumerate(AGES)]
    records, findings = read_isic2018(metadata=write(tmp_path / "m.csv", HAM, *rows))
    assert records["age"].tolist()[:5] == [0.0, 0.0, 45.0, 0.0, 0.0] and np.isnan(records["age"][5])
    assert findings.doubtful == (
        ("I0", "age 0", "BKL"),
        ("I1", "age 0", "NV"),
        ("I3", "age 0", "NV"),
        ("I4", "age 0", "MEL"),
    )
    assert findings.lines() == [
        "4 images of age 0, which may mean that it is not known (used as it is): 2 NV, 1 BKL, 1 MEL"
    ]
    truth = write(tmp_path / "g.csv", GROUND_TRUTH_2019, "A,0,1,0,0,0,0,0,0,0", "B,1,0,0,0,0,0,0,0,0")
    header = "image,age_approx,anatom_site_general,lesion_id,sex"
    metadata = write(tmp_path / "m9.csv", header, "A,0,,,", "B,5.0,,,", "C,0,,,")
    _, findings = read_isic2019(ground_truth=truth, metadata=metadata)
    assert findings.doubtful == (("A", "age 0", "NV"),)


AGES = [("bkl", "0"), ("nv", "0.0"), ("bkl", "45"), ("nv", "0"), ("mel", "0"), ("bkl", "")]


def files_2018(folder: Path) -> tuple[Path, Path, Path]:
    truth = write(folder / "g.csv", GROUND_TRUTH_2018, "A,0,0,0,1,0,0,0", "B,0,1,0,0,0,0,0")
    groupings = write(folder / "l.csv", "image,lesion_id,diagnosis_confirm_type", "A,HAM_1,histopathology", "B,HAM_2,x")
    metadata = write(folder / "m.csv", HAM, "HAM_1,A,akiec,histo,70,male,scalp", "HAM_2,B,nv,histo,,unknown,unknown")
    return truth, groupings, metadata


def test_2018_may_be_read_from_any_of_its_files(tmp_path: Path) -> None:
    truth, groupings, metadata = files_2018(tmp_path)
    whole, _ = read_isic([metadata, groupings, truth])
    from_metadata, _ = read_isic2018(metadata=metadata)
    from_truth, _ = read_isic2018(ground_truth=truth, groupings=groupings)
    for records in (whole, from_metadata, from_truth):
        assert records["label"].tolist() == ["AKIEC", "NV"]
        assert records["target"].tolist() == [3, 1]
        assert records["lesion"].tolist() == ["HAM_1", "HAM_2"]
        assert records["source"].tolist() == ["HAM", "HAM"]
    assert whole["site"].tolist() == ["head/neck", "unknown"]
    assert from_truth["site"].tolist() == ["unknown", "unknown"]
    with pytest.raises(InputError, match="neither was given"):
        read_isic2018()


def test_tables_that_disagree_are_refused(tmp_path: Path) -> None:
    truth, groupings, metadata = files_2018(tmp_path)
    metadata.write_text(metadata.read_text().replace("akiec", "mel").replace("HAM_2,B", "HAM_3,B"))
    with pytest.raises(InputError) as error:
        read_isic([truth, groupings, metadata])
    assert "A: g.csv says AKIEC, m.csv says MEL" in str(error.value)
    assert "B: lesion HAM_2 in l.csv, HAM_3 in m.csv" in str(error.value)
    with pytest.raises(InputError, match="row 2: target 1 but benign_malignant 'benign'"):
        read_isic2020(ground_truth=table_2020(tmp_path, "A,IP_1,male,45,torso,,benign,1"))


def test_faults_of_all_tables_come_in_one_error(tmp_path: Path) -> None:
    truth, groupings, metadata = files_2018(tmp_path)
    truth.write_text(truth.read_text().replace("B,0,1", "B,0,2"))
    metadata.write_text(metadata.read_text().replace("scalp", "tail").replace(",70,", ",-70,"))
    groupings.write_text(groupings.read_text().replace("lesion_id", "lesions"))
    with pytest.raises(InputError) as error:
        read_isic2018(ground_truth=truth, groupings=groupings, metadata=metadata)
    lines = str(error.value).splitlines()
    assert len(lines) == 5
    assert "4 faults" in lines[0]
    assert any("column 'lesion_id' is missing" in line and "'lesions' meant" in line for line in lines)


def test_tables_of_two_years_or_none_are_refused(tmp_path: Path) -> None:
    truth, groupings, _ = files_2018(tmp_path)
    with pytest.raises(InputError, match="all must be of one data set"):
        read_isic([truth, table_2020(tmp_path)])
    with pytest.raises(InputError, match=r"ground truth .* is missing"):
        read_isic(groupings)
    with pytest.raises(InputError, match="a second ground_truth table"):
        read_isic([truth, truth])
    with pytest.raises(InputError, match="no table"):
        read_isic([])


def test_two_rows_for_one_image_and_a_missing_column(tmp_path: Path) -> None:
    row = "A,IP_1,male,45,torso,,benign,0"
    with pytest.raises(InputError, match="row 3: image_name 'A' stands in row 2 already"):
        read_isic2020(ground_truth=table_2020(tmp_path, row, row))
    header = "image_name,patient_id,sex,age_approx,anatom_site_general_challenge,diagnosis,benign_malignant"
    with pytest.raises(InputError, match="column 'target' is missing"):
        read_isic2020(ground_truth=table_2020(tmp_path, row.removesuffix(",0"), header=header))
    with pytest.raises(InputError, match="no rows below the header"):
        read_isic2020(ground_truth=write(tmp_path / "x.csv", table_2020(tmp_path).read_text().splitlines()[0]))


def test_bad_files_are_counted_and_named_and_nothing_is_lost(tmp_path: Path) -> None:
    names = ("good", "grey", "text", "bomb", "gone", "turned")
    table = table_2020(tmp_path, *(f"{name},IP_{i},male,45,torso,,benign,0" for i, name in enumerate(names)))
    folder = tmp_path / "images"
    folder.mkdir()
    save(folder / "good.jpg")
    save(folder / "grey.png", np.full((9, 9), 7, np.uint8))
    (folder / "text.jpg").write_text("not an image")
    png_claiming(folder / "bomb.png", 20_000, 20_000)
    save(
        folder / "turned.jpg",
        exif=b"Exif\x00\x00MM\x00*\x00\x00\x00\x08\x00\x01\x01\x12\x00\x03\x00\x00\x00\x01\x00\x06\x00\x00\x00\x00\x00\x00",
    )
    save(folder / "stranger.jpg")
    records, findings = read_isic2020(folder, ground_truth=table)
    assert len(records) == 6
    assert [path is None for path in records["path"]] == [False, False, True, True, True, False]
    assert findings.missing == ("gone",)
    assert {Path(path).name: why.split()[0] for path, why in findings.unreadable} == {
        "text.jpg": "neither",
        "bomb.png": "20000",
    }
    assert [Path(path).name for path in findings.unlisted] == ["stranger.jpg"]
    assert [(Path(path).name, value) for path, value in findings.oriented] == [("turned.jpg", 6)]
    assert findings.images == 6
    assert len(findings.lines()) == 4
    lenient, _ = read_isic2020(folder, ground_truth=table, settings=ImageSettings(max_pixels=89_000_000, check="none"))
    assert lenient["path"].notna().sum() == 5


def test_folders_without_one_image_of_the_table_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    with pytest.raises(InputError, match=r"no \.jpg, \.jpeg or \.png file"):
        read_isic2020(folder, ground_truth=table_2020(tmp_path))
    save(folder / "other.jpg")
    with pytest.raises(InputError, match="none of the 3 images of the table"):
        read_isic2020(folder, ground_truth=table_2020(tmp_path))


@pytest.mark.parametrize("layout", ["isic2018", "isic2019", "isic2020"])
def test_phantom_files_are_read_as_the_official_ones(phantoms: dict[str, PhantomDermoscopy], layout: str) -> None:
    import pandas as pd

    drawn = phantoms[layout]
    records, findings = drawn.read()
    again, _ = read_isic(list(drawn.tables.values()), drawn.images)
    pd.testing.assert_frame_equal(records, again)
    truth = pd.read_csv(drawn.truth).set_index("image_id").loc[records["image_id"]]
    assert records["label"].tolist() == truth["label"].tolist()
    assert records["path"].notna().all()
    assert findings.lines() == []
    known = records["site"] != "unknown"
    assert 0.6 < known.mean() < 1
    assert (records["site"].to_numpy() == truth["site"].to_numpy())[known].all()
    assert (records["age"].to_numpy() == truth["age"].to_numpy())[records["age"].notna()].all()
    assert records["age"].isna().any() and (records["sex"] == "unknown").any()
    if layout == "isic2019":
        assert records["source"].tolist() == truth["source"].tolist()
        assert records["image_id"].str.endswith("_downsampled").any()


def test_the_real_2020_table(real_data: Path) -> None:
    folder = real_data / "isic2020"
    tables = [folder / f"ISIC_2020_Training_{name}.csv" for name in ("GroundTruth", "Duplicates")]
    records, findings = read_isic(tables, folder / "images_256")
    assert len(records) == findings.rows == 33_126
    assert records["target"].sum() == 584
    assert records["patient"].nunique() == 2_056
    assert (records["sex"] == "unknown").sum() == 65
    assert records["age"].isna().sum() == 68
    assert (records["site"] == "unknown").sum() == 527
    assert records["path"].notna().sum() == findings.images == 2_669
    assert records.loc[records["path"].notna(), "target"].sum() == 38
    assert len(findings.missing) == 33_126 - 2_669
    assert len(findings.listed_duplicates) == 425
    assert not findings.unreadable and not findings.unlisted


def test_the_real_2019_tables(real_data: Path) -> None:
    folder = real_data / "isic2019"
    tables = [folder / f"ISIC_2019_Training_{name}.csv" for name in ("GroundTruth", "Metadata")]
    records, findings = read_isic(tables, [folder / "isic2017_256", real_data / "isic2018" / "train_200x150"])
    assert len(records) == 25_331
    assert records["source"].value_counts().to_dict() == {"BCN": 12_413, "HAM": 10_015, "unnamed": 2_084, "MSK": 819}
    # The 256 px copies lack the ending `_downsampled` of the table.
    assert records["path"].notna().sum() == findings.images == 2_745 + 10_015
    assert not findings.unlisted and not findings.unlabelled


def test_the_real_2018_table(real_data: Path) -> None:
    folder = real_data / "isic2018"
    records, findings = read_isic(folder / "HAM10000_metadata.csv", folder / "train_200x150")
    expected = {"NV": 6705, "MEL": 1113, "BKL": 1099, "BCC": 514, "AKIEC": 327, "VASC": 142, "DF": 115}
    assert records["label"].value_counts().to_dict() == expected
    assert records["lesion"].nunique() == 7_470
    assert records["path"].notna().all()
    assert findings.lines() == [
        "39 images of age 0, which may mean that it is not known (used as it is): 30 NV, 5 BKL, 4 VASC"
    ]
