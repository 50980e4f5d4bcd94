"""Tables: what is understood, and what is said of what is not."""

import math
import re
import sys
from pathlib import Path

import pytest

from melano_tf.dermoscopy.isic_tables import SHOWN, SPECS, parse_value, read_table, recognise
from melano_tf.errors import InputError
from melano_tf.metadata_fields import SEX, SITE
from melano_tf.specs import load_spec

sys.path.insert(0, str(Path(__file__).parent))
from isic_files import HEADER_2020, table_2020, write


@pytest.mark.parametrize("name", SPECS)
def test_the_vocabularies_of_every_year_are_the_common_one(name: str) -> None:
    spec = load_spec(name)
    assert set(spec["sites"].values()) <= set(SITE.words)
    assert set(spec["sexes"].values()) == set(SEX.words)
    assert sorted(spec["labels"].values()) == list(range(len(spec["labels"])))
    assert spec["positive"] in spec["labels"]
    assert set(spec["official"]["classes"]) == set(spec["labels"])
    assert sum(spec["official"]["classes"].values()) == spec["official"]["rows"]


def test_the_taxonomy_has_every_class_of_2018_once() -> None:
    spec = load_spec("isic2018")
    tree = spec["taxonomy"]
    leaves = tree["melanocytic"] + tree["non-melanocytic"]["benign"] + tree["non-melanocytic"]["malignant"]
    assert sorted(leaves) == sorted(spec["labels"])


HEADERS = {
    ("isic2018", "ground_truth"): "image,MEL,NV,BCC,AKIEC,BKL,DF,VASC",
    ("isic2018", "groupings"): "image,lesion_id,diagnosis_confirm_type",
    ("isic2018", "metadata"): "lesion_id,image_id,dx,dx_type,age,sex,localization",
    ("isic2019", "ground_truth"): "image,MEL,NV,BCC,AK,BKL,DF,VASC,SCC,UNK",
    ("isic2019", "metadata"): "image,age_approx,anatom_site_general,lesion_id,sex",
    ("isic2020", "ground_truth"): HEADER_2020,
    ("isic2020", "duplicates"): "image_name_1,image_name_2",
}


@pytest.mark.parametrize("key", HEADERS)
def test_a_table_is_recognised_by_its_header_alone(tmp_path: Path, key: tuple[str, str]) -> None:
    assert recognise(write(tmp_path / "x.csv", HEADERS[key])) == key


def test_gender_and_tabs_and_the_lesion_column_of_v2_are_understood(tmp_path: Path) -> None:
    assert (
        recognise(write(tmp_path / "a.csv", HEADERS["isic2019", "metadata"].replace("sex", "gender")))[0] == "isic2019"
    )
    assert recognise(write(tmp_path / "b.tab", HEADERS["isic2018", "metadata"].replace(",", "\t")))[1] == "metadata"
    v2 = HEADER_2020.replace("patient_id", "patient_id,lesion_id")
    assert recognise(write(tmp_path / "c.csv", v2)) == ("isic2020", "ground_truth")


def test_an_almost_right_table_is_told_what_it_lacks(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"nearest to the ground_truth table of isic2020.*without its column patient_id"
    ):
        recognise(write(tmp_path / "x.csv", HEADER_2020.replace("patient_id,", "")))
    with pytest.raises(InputError, match="none of the ISIC"):
        recognise(write(tmp_path / "x.csv", "a,b"))


def test_every_fault_of_a_table_is_listed_with_its_row(tmp_path: Path) -> None:
    path = table_2020(
        tmp_path,
        "ISIC_1,IP_1,male,45,head/neck,,benign,0",
        "ISIC_2,IP_1,male,-5,head/neck,,benign,0",
        "ISIC_3,IP_1,male,old,torsoo,,benign,0",
        "ISIC_4,IP_1,man,45,elbow,,benign,2",
        "ISIC_1,,male,45,torso,,benign,0",
        "../ISIC_6,IP_1,male,45,torso,,benign,0",
        "ISIC_7,IP_1,male,45,torso,,benign,0,extra",
    )
    faults = read_table(path, load_spec("isic2020"), "ground_truth").faults
    text = "\n".join(faults)
    for row, words in (
        (3, "'-5' lies outside of 0 to 120 years"),
        (4, "'old' is not a number"),
        (4, "'torsoo' is none of .*is 'torso' meant"),
        (5, "sex 'man' is none of"),
        (5, "'elbow' is none of head/neck"),
        (5, "target '2' is neither 0 nor 1"),
        (6, "'ISIC_1' stands in row 2 already"),
        (6, "patient_id is empty"),
        (7, "not the name of an image"),
        (8, "more cells than the header's 8 columns"),
    ):
        assert re.search(f"row {row}: .*{words}", text), (row, words)
    assert len(faults) == 10


def test_a_fault_in_every_row_is_not_printed_for_every_row(tmp_path: Path) -> None:
    path = table_2020(tmp_path, *(f"ISIC_{i},IP_1,male,-1,torso,,benign,0" for i in range(SHOWN + 7)))
    faults = read_table(path, load_spec("isic2020"), "ground_truth").faults
    assert len(faults) == SHOWN + 1
    assert "7 more rows" in faults[-1]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "first row is empty"),
        (b"PK\x03\x04\xff\xfe", "not UTF-8"),
        (b'a,b\n"open,1\n', "not a CSV"),
    ],
)
def test_a_file_that_is_no_table_is_refused(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "x.csv"
    path.write_bytes(content)
    with pytest.raises(InputError, match=words):
        read_table(path, load_spec("isic2020"), "ground_truth")
    with pytest.raises(InputError, match="cannot be read"):
        read_table(tmp_path / "none.csv", load_spec("isic2020"), "ground_truth")


def test_one_hot_rows_must_hold_at_most_one_class(tmp_path: Path) -> None:
    header = HEADERS["isic2018", "ground_truth"]
    path = write(tmp_path / "x.csv", header, "A,1,0,0,0,0,0,0", "B,1,1,0,0,0,0,0", "C,0.5,0,0,0,0,0,0")
    faults = read_table(path, load_spec("isic2018"), "ground_truth").faults
    assert len(faults) == 2
    assert any("row 3" in fault and "more than one class" in fault for fault in faults)
    assert any("row 4" in fault and "neither 0 nor 1" in fault for fault in faults)


def test_values_as_a_person_writes_them() -> None:
    spec = load_spec("isic2019")
    assert parse_value("site", "Anterior  Torso", spec) == "torso"
    assert parse_value("site", None, spec) == "unknown"
    assert parse_value("sex", "", spec) == "unknown"
    assert parse_value("age", 55, spec) == 55.0
    assert math.isnan(parse_value("age", None, spec))
    for column, value in (("age", "-3"), ("site", "tail"), ("sex", "x")):
        with pytest.raises(InputError, match=column):
            parse_value(column, value, spec)
