import copy
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from melano_tf.errors import InputError
from melano_tf.slides.slide_manifest import label_index, read_manifest, same_file_groups
from melano_tf.specs import load_spec

SPEC = load_spec("spitzoid")
HEADER = "slide_id,path,patient_id,label,annotation,mpp"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a.svs", "b.svs", "c.svs"):
        (tmp_path / name).write_text(name * 3)
    (tmp_path / "a.geojson").write_text("{}")
    return tmp_path


def written(folder: Path, *rows: str, encoding: str = "utf-8") -> Path:
    path = folder / "slides.csv"
    path.write_bytes("\n".join(rows).encode(encoding))
    return path


def message(path: Path, spec: dict = SPEC) -> str:
    with pytest.raises(InputError) as caught:
        read_manifest(path, spec)
    return str(caught.value)


def test_valid_manifest(folder: Path) -> None:
    path = written(
        folder,
        HEADER,
        "S1,a.svs,001,benign,a.geojson,0.25",
        "",
        f"S2, {folder}/b.svs ,001,malignant,,",
        encoding="utf-8-sig",
    )
    manifest = read_manifest(path, SPEC)
    assert list(manifest.columns) == HEADER.split(",")
    assert manifest.to_dict("records")[0] == {
        "slide_id": "S1",
        "path": str(folder / "a.svs"),
        "patient_id": "001",
        "label": "benign",
        "annotation": str(folder / "a.geojson"),
        "mpp": 0.25,
    }
    second = manifest.to_dict("records")[1]
    assert second["path"] == str(folder / "b.svs")
    assert second["annotation"] is None
    assert np.isnan(second["mpp"])
    assert manifest["mpp"].dtype == np.float64
    assert manifest.index.tolist() == [0, 1]
    assert manifest.attrs["ignored_columns"] == []


def test_optional_columns_may_be_missing_and_others_are_left_out(folder: Path) -> None:
    manifest = read_manifest(
        written(folder, "remark,label,slide_id,patient_id,path", "old,benign,S1,P,a.svs", "x,benign,S2,P,b.svs"), SPEC
    )
    assert list(manifest.columns) == HEADER.split(",")
    assert manifest["annotation"].tolist() == [None, None]
    assert manifest["mpp"].isna().all()
    assert manifest.attrs["ignored_columns"] == ["remark"]


def test_all_faults_at_once_each_with_its_row(folder: Path) -> None:
    path = written(
        folder,
        HEADER,
        "S1,a.svs,P1,benign,a.geojson,0.25",
        "s1,b.svs,P2,Malignant,,30",
        "",
        'S/3,none.svs,,spitz,none.geojson,"0,25"',
        ",a.svs,P3,benign,,nan",
        "S4,.,P3,benign,a.geojson,0.25,surplus",
        "..,a.svs,P3,,,0.05",
    )
    lines = message(path).splitlines()
    assert lines[0].startswith(f"{path}: 15 faults")
    expected = [
        (3, "slide_id 's1' stands in row 2 already"),
        (3, "label 'Malignant' is none of benign, malignant; write 'malignant'"),
        (3, "mpp '30' lies outside of 0.05 to 20 µm/px"),
        (5, "slide_id 'S/3' cannot name a file: without /"),
        (5, f"path 'none.svs' is no file ({folder}/none.svs)"),
        (5, "patient_id is empty"),
        (5, "label 'spitz' is none of benign, malignant"),
        (5, "annotation 'none.geojson' is no file"),
        (5, "mpp '0,25' is not a number"),
        (6, "slide_id is empty"),
        (6, "mpp 'nan' is not a number"),
        (7, "7 cells under 6 columns"),
        (7, "path '.' is no file"),
        (8, "slide_id '..' cannot name a file"),
        (8, "label is empty"),
    ]
    for row, words in expected:
        assert sum(f"row {row}: {words}" in line for line in lines) == 1, (row, words, lines)
    assert len(lines) == 1 + len(expected)
    rows = [int(line.split("row ")[1].split(":")[0]) for line in lines[1:]]
    assert rows == sorted(rows)


def test_header_faults_stand_beside_cell_faults(folder: Path) -> None:
    text = message(written(folder, "slide_id,Path,label,anotation,mpp,mpp", "S1,a.svs,spitz,a.geojson,1,1"))
    assert "column 'path' is missing; is 'Path' meant?" in text
    assert "column 'annotation' is missing; is 'anotation' meant?" in text
    assert "column 'patient_id' is missing (found: slide_id, Path" in text
    assert "column 'mpp' stands 2 times" in text
    assert "row 2: label 'spitz'" in text


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ((HEADER,), "no slides"),
        (("",), "first row is empty"),
        ((HEADER, 'S1,"a.svs,P,benign,,'), "not a CSV file"),
    ],
)
def test_files_that_are_no_such_csv(folder: Path, rows: tuple[str, ...], words: str) -> None:
    assert words in message(written(folder, *rows))


@pytest.mark.parametrize("mark", [";", "\t", "|"])
def test_any_separator_is_found(folder: Path, mark: str) -> None:
    plain = [HEADER, "S1,a.svs,001,benign,a.geojson,0.25"]
    wanted = read_manifest(written(folder, *plain), SPEC)
    found = read_manifest(written(folder, *(line.replace(",", mark) for line in plain)), SPEC)
    pd.testing.assert_frame_equal(found, wanted)
    faulty = written(folder, plain[0].replace(",", mark), mark.join(["S1", "a.svs", "P", "benign", "", '"0,25"']))
    assert "row 2: mpp '0,25' is not a number (write 0.25, with a point)" in message(faulty)


def test_encodings_and_missing_file(folder: Path) -> None:
    row = "S1,a.svs,Müller,benign,,"
    assert read_manifest(written(folder, HEADER, row), SPEC)["patient_id"].tolist() == ["Müller"]
    assert "CSV UTF-8" in message(written(folder, HEADER, row, encoding="latin-1"))
    (folder / "slides.csv").write_bytes(b"PK\x03\x04\xff\xff")
    assert "Excel" in message(folder / "slides.csv")
    assert "cannot be read (No such file" in message(folder / "none.csv")


@pytest.mark.parametrize("name", ["a b", "S-1.2_(x)", "Ärztin", "x" * 200])
def test_usable_slide_ids(folder: Path, name: str) -> None:
    assert read_manifest(written(folder, HEADER, f"{name},a.svs,P,benign,,"), SPEC)["slide_id"].tolist() == [name]


@pytest.mark.parametrize("name", ["a/b", "a\\b", "a:b", ".a", "a.", "..", "a\tb", "a\0b", "x" * 201, "ä" * 101, "a?"])
def test_unusable_slide_ids(folder: Path, name: str) -> None:
    assert "row 2: slide_id" in message(written(folder, HEADER, f"{name},a.svs,P,benign,,"))


def test_another_data_set_is_another_description_only(folder: Path) -> None:
    spec = copy.deepcopy(SPEC) | {"name": "nevi", "labels": {"MM": 3, "IN": 0, "CN": 1, "JN": 2}, "positive": "MM"}
    spec["manifest"]["columns"]["site"] = {"dtype": "text", "allowed": ["arm", "leg"]}
    spec["manifest"]["columns"]["mpp"] = {"dtype": "number", "required": True, "minimum": 0.2}
    assert label_index(spec) == {"IN": 0, "CN": 1, "JN": 2, "MM": 3}
    path = written(
        folder, HEADER + ",site", "S1,a.svs,P,MM,,0.1,arm", "S2,b.svs,P,benign,,,head", "S3,c.svs,P,JN,,300,"
    )
    text = message(path, spec)
    assert "row 2: mpp '0.1' lies outside of 0.2 to inf" in text
    assert "row 3: label 'benign' is none of MM, IN, CN, JN" in text
    assert "row 3: mpp is empty" in text
    assert "row 3: site 'head' is none of arm, leg" in text
    assert "row 4" not in text
    good = written(folder, HEADER + ",site", "S1,a.svs,P,MM,,0.2,arm", "S3,c.svs,P,JN,,300,")
    assert read_manifest(good, spec)["site"].tolist() == ["arm", None]


def test_the_spitzoid_description() -> None:
    assert label_index(SPEC) == {"benign": 0, "malignant": 1}
    assert SPEC["positive"] == "malignant"
    table = SPEC["published"]["table_1"]
    assert sum(column["slides"] for column in table.values()) == SPEC["published"]["slides"] == 51
    assert SPEC["published"]["biopsies"] == 53
    assert [table["malignant"][row] for row in ("slides", "tumour_tiles", "other_tiles")] == [21, 4726, 8139]
    assert [table["benign"][row] for row in ("slides", "tumour_tiles", "other_tiles")] == [30, 3652, 5842]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"labels": {"a": 1, "b": 2}}, "`labels` must map"),
        ({"labels": None}, "`labels` must map"),
    ],
)
def test_bad_descriptions(change: dict, words: str) -> None:
    with pytest.raises(InputError, match=words):
        label_index(SPEC | change)


def test_description_with_an_unknown_dtype(folder: Path) -> None:
    spec = copy.deepcopy(SPEC)
    spec["manifest"]["columns"]["mpp"]["dtype"] = "floatish"
    assert "mpp: floatish" in message(written(folder, HEADER, "S1,a.svs,P,benign,,"), spec)


def test_one_file_under_several_names(folder: Path) -> None:
    (folder / "link.svs").symlink_to(folder / "a.svs")
    (folder / "copy.svs").write_text("b.svs" * 3)
    (folder / "same_size.svs").write_text("x.svs" * 3)
    names = ["copy.svs", "a.svs", "b.svs", "link.svs", "c.svs", "same_size.svs", "a.svs"]
    manifest = pd.DataFrame({"slide_id": [f"S{i}" for i in range(7)], "path": [str(folder / name) for name in names]})
    assert same_file_groups(manifest) == [["S0", "S2"], ["S1", "S3", "S6"]]
    assert same_file_groups(manifest.iloc[[0, 1, 4]]) == []
    (folder / "c.svs").unlink()
    with pytest.raises(InputError, match=r"c\.svs: cannot be read"):
        same_file_groups(manifest)
