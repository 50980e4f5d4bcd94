"""What a data set holds: counted again by hand."""

import sys
from pathlib import Path

import numpy as np
import pytest

from melano_tf.dermoscopy.data_set_findings import InspectSettings, inspect_records
from melano_tf.dermoscopy.isic_records import read_isic, read_isic2020
from melano_tf.phantoms.skin.isic_data_sets import PhantomDermoscopy

sys.path.insert(0, str(Path(__file__).parent))
from isic_files import photo, save, table_2020, write


def test_a_small_set_is_described(tmp_path: Path) -> None:
    header = "image_name,patient_id,lesion_id,sex,age_approx,anatom_site_general_challenge,benign_malignant,target"
    table = table_2020(
        tmp_path,
        "A,IP_1,IL_1,male,45,torso,benign,0",
        "B,IP_1,IL_1,male,,torso,malignant,1",
        "C,IP_2,IL_1,,,,benign,0",
        "D,IP_3,IL_2,male,45,torso,benign,0",
        header=header,
    )
    listed = write(tmp_path / "d.csv", "image_name_1,image_name_2", "A,D", "A,Z")
    folder = tmp_path / "images"
    folder.mkdir()
    save(folder / "A.png", photo(1))
    save(folder / "B.png", photo(1))
    save(folder / "C.jpg", photo(2, (120, 90)))
    content = save(folder / "D.jpg", photo(3, (300, 400))).read_bytes()
    (folder / "D.jpg").write_bytes(content[: len(content) // 2])
    records, findings = read_isic2020(folder, ground_truth=table, duplicates=listed)
    seen = inspect_records(records, findings, InspectSettings(folds=2))
    counts = seen.counts.set_index("what")["found"].to_dict()
    assert (counts["rows"], counts["images that can be used"]) == (4, 3)  # not D, whose pixels are cut off
    assert (counts["patients"], counts["lesions"]) == (3, 2)
    assert (counts["class benign"], counts["class melanoma"]) == (3, 1)
    missing = seen.metadata.set_index("field")["missing"].to_dict()
    assert missing == {"age": 2, "sex": 1, "site": 1, "lesion": 0, "patient": 0}
    assert seen.repeated_lesions == (("IL_1", 3),)
    assert seen.mixed_lesions == ("IL_1",)
    assert seen.mixed_patients == ("IL_1",)
    kinds = seen.duplicates[["image_1", "image_2", "kind"]].to_numpy().tolist()
    assert kinds == [["A", "B", "exact"], ["A", "D", "listed"]]
    assert seen.contradictions["image_2"].tolist() == ["B"]
    assert seen.strangers["image_2"].tolist() == ["D"]
    assert seen.small_classes == (("melanoma", 1, 2),)
    # Its header is in order; its pixels are cut off.
    assert [name for name, _ in seen.unreadable] == ["D"]
    sizes = {tuple(row) for row in seen.resolutions.to_numpy().tolist()}
    assert sizes == {(80, 60, 2), (90, 120, 1), (400, 300, 1)}
    assert seen.groups() == [["A", "B", "D"]]
    text = "\n".join(seen.lines())
    for words in ("rows: 4 (official: 33,126)", "unreadable: D", "class melanoma: 1 group for 2 folds", "IL_1"):
        assert words in text


def test_without_pictures_and_without_decoding(tmp_path: Path) -> None:
    records, findings = read_isic2020(ground_truth=table_2020(tmp_path))
    for decode in (True, False):
        seen = inspect_records(records, findings, InspectSettings(decode=decode))
        assert len(seen.duplicates) == 0 and len(seen.resolutions) == 0
        assert "images that can be used" not in set(seen.counts["what"])
        assert seen.lines()


@pytest.mark.parametrize("layout", ["isic2018", "isic2019", "isic2020"])
def test_phantoms_are_in_order(phantoms: dict[str, PhantomDermoscopy], layout: str) -> None:
    records, findings = phantoms[layout].read()
    seen = inspect_records(records, findings, InspectSettings(folds=2))
    assert seen.mixed_lesions == seen.mixed_patients == seen.unreadable == ()
    assert len(seen.strangers) == len(seen.contradictions) == 0
    assert len(seen.repeated_lesions) > 3
    assert seen.by_source.to_numpy().sum() == len(records)
    assert seen.by_class["images"].sum() == len(records)


def test_the_real_tables_agree_with_the_published_counts(real_data: Path) -> None:
    for names in (
        ("isic2018/HAM10000_metadata.csv",),
        ("isic2019/ISIC_2019_Training_GroundTruth.csv", "isic2019/ISIC_2019_Training_Metadata.csv"),
        ("isic2020/ISIC_2020_Training_GroundTruth.csv", "isic2020/ISIC_2020_Training_Duplicates.csv"),
    ):
        records, findings = read_isic([real_data / name for name in names])
        seen = inspect_records(records, findings)
        for frame, found in ((seen.counts, "found"), (seen.metadata, "missing")):
            stated = frame.dropna(subset=["official"])
            assert len(stated) >= 3
            assert np.array_equal(stated[found].to_numpy(), stated["official"].astype("int64").to_numpy())
        assert not seen.mixed_lesions and not seen.mixed_patients and not seen.small_classes
