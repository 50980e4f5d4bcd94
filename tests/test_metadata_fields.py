"""A field of metadata is one description: with a fourth one in it, table, network, option, graph and answer have it."""

import json
from pathlib import Path

import pytest

from melano_tf.metadata_fields import AGE, SEX, SITE, NumberField
from tests import forked

# In a process of its own, because everything takes the fields when it is imported.
FOURTH = """
import sys
from pathlib import Path

for name in [name for name in sys.modules if name.partition(".")[0] == "melano_tf"]:  # TensorFlow alone stays
    del sys.modules[name]
from melano_tf import metadata_fields as described

diameter = described.NumberField("diameter_mm", "the lesion's diameter in mm", "mm", 30.0, 300.0, 7, (3, 6, 12), 1.5)
described.FIELDS = (*described.FIELDS, diameter)
described.BY_NAME = {one.name: one for one in described.FIELDS}
described.NAMES = tuple(described.BY_NAME)

from melano_tf import run
from melano_tf.dermoscopy.isic_records import read_isic2020
from melano_tf.models.metadata_layer import MetadataCode
from melano_tf.training import tensorflow_runtime
from tests.serving import small_models
from tests.serving.pictures import FILES

tensorflow_runtime.configure = lambda threads, *_, **__: threads or 1  # TensorFlow is at work already
work = Path(sys.argv[1])
records, findings = read_isic2020(ground_truth=work / "train.csv")
assert records["diameter_mm"].tolist()[:1] == [6.5] and records["diameter_mm"].isna().tolist() == [False, True]
assert not findings.ignored_columns
small_models.zoome_model(work / "older")
small_models.CODE = MetadataCode()
small_models.zoome_model(work / "models")
(work / "photo.jpg").write_bytes(FILES["photo.jpg"]())
(work / "told.csv").write_text("image,diameter_mm,age\\nphoto,9.5,40\\n")
def call(*words):
    assert run.main(words) == 0, words
call("export", "--model", str(work / "models" / "zoome.keras"), "--out", str(work / "serving"))
asked = ("--input", str(work / "photo.jpg"), "--diameter-mm", "21")
for way, model in {"file": work / "models" / "zoome.keras", "folder": work / "serving" / "zoome" / "1"}.items():
    call("predict", "--model", str(model), "--out", str(work / way), *asked)
    call("predict", "--model", str(model), "--out", str(work / (way + "-csv")), "--input", str(work / "photo.jpg"),
         "--metadata", str(work / "told.csv"))
call("predict", "--model", str(work / "older" / "zoome.keras"), "--out", str(work / "old"), *asked, "--age", "40")
assert run.main(["predict", "--model", str(work / "models" / "zoome.keras"), "--out", str(work / "no"),
                 "--input", str(work / "photo.jpg"), "--diameter-mm", "900"]) == 2
"""


def test_a_fourth_field_is_one_description(tmp_path: Path) -> None:
    header = "image_name,patient_id,sex,age_approx,anatom_site_general_challenge,diagnosis,benign_malignant,target"
    rows = ["ISIC_1,IP_1,male,45,torso,nevus,benign,0,6.5", "ISIC_2,IP_2,female,50,torso,melanoma,malignant,1,"]
    (tmp_path / "train.csv").write_text("\n".join([f"{header},diameter_mm", *rows]) + "\n")
    (tmp_path / "fourth.py").write_text(FOURTH)
    code, shown, errors = forked.script(tmp_path / "fourth.py", str(tmp_path)).wait()
    assert code == 0, errors[-3000:]
    assert "diameter_mm '900' lies outside of 0 to 300 mm" in errors
    sidecar = json.loads((tmp_path / "models" / "zoome.json").read_text())
    assert sidecar["preprocessing"]["metadata"]["diameter_mm_scale"] == 30.0
    answers = {way: json.loads((tmp_path / way / "prediction.json").read_text()) for way in ("file", "folder")}
    for found in answers.values():
        assert found["evidence"]["metadata"] == {"age": None, "sex": None, "site": None, "diameter_mm": 21.0}
        assert found["probabilities"]["melanoma"] == pytest.approx(
            answers["file"]["probabilities"]["melanoma"], abs=1e-5
        )
        blank = found["evidence"]["probability_without_metadata"]
        assert abs(blank - found["calibrated_probabilities"]["melanoma"]) > 1e-6, "the field must be heard"
    older = json.loads((tmp_path / "old" / "prediction.json").read_text())["evidence"]["metadata"]
    assert older == {"age": 40.0, "sex": None, "site": None}
    assert shown.count("this model knows nothing of diameter_mm; what was given is not used") == 1
    told = json.loads((tmp_path / "folder-csv" / "prediction.json").read_text())["evidence"]["metadata"]
    assert told == {"age": 40.0, "sex": None, "site": None, "diameter_mm": 9.5}
    assert '"diameter_mm": [7]' in (tmp_path / "serving" / "CALLS-zoome.md").read_text()
    card = (tmp_path / "serving" / "zoome" / "1" / "assets.extra" / "model_card.md").read_text()
    assert "diameter_mm in mm (-1: unknown)" in card


@pytest.mark.parametrize(
    ("cell", "words"), [("x", "is not a number"), ("inf", "is not a finite"), ("-1", "0 to 120 years")]
)
def test_numbers_that_are_none(cell: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        AGE.parse(cell)


def test_words_as_people_write_them() -> None:
    assert AGE.parse("Unknown") != AGE.parse("Unknown") and AGE.parse("55") == 55.0
    parse = SEX.parser({"m": "male", "f": "female"})
    assert [parse(" M "), parse("Female")] == ["male", "female"]
    with pytest.raises(ValueError, match=r"is none of .*; is 'torso' meant"):
        SITE.parser({})("torsso")
    assert isinstance(AGE, NumberField) and AGE.key == "age_scale" and (SEX.key, SITE.key) == ("sexes", "sites")
