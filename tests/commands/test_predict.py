"""What `predict` makes of what it is given: who says what of a patient, and what of a folder is judged."""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from melano_tf.commands.predict import biopsy_output, magnified_output
from melano_tf.commands.predict.asked_inputs import asked_images
from melano_tf.commands.predict.command import check_options
from melano_tf.commands.predict.images import predict_images
from melano_tf.commands.predict.settings import PatientOptions, PredictSettings
from melano_tf.commands.predict.slides import predict_slide, predict_slides
from melano_tf.errors import InputError
from melano_tf.models.metadata_layer import MetadataCode
from melano_tf.runs import journal
from melano_tf.runs.atomic_files import write_json
from melano_tf.runs.sidecar import Sidecar
from melano_tf.serving.image_models import cannot_be_judged
from melano_tf.serving.model_interface import Answer, Card, Case, unheard

CLASSES = {"zoome": ("benign", "melanoma"), "weighting": ("MEL", "NV", "BCC"), "multimag": ("nevus", "melanoma")}


def card(kind: str = "zoome", told: bool = True) -> Card:
    """A model's own words; there is no model behind them."""
    made = {"store": {"stored_px": 40}, "metadata": MetadataCode().to_json() if told else None}
    made |= {"magnifications": ["10x", "20x"], "grid": {"names": ["10x", "20x", "40x"]}}
    sidecar = Sidecar(kind, CLASSES[kind], 32, made, 0.5, "fixed beforehand", {})
    return Card(Path(f"{kind}.keras"), f"{kind}.keras", sidecar, {}, None)


def settings(folder: Path, given: str, **more: Any) -> PredictSettings:
    return PredictSettings(Path("zoome.keras"), folder / given, folder / "answer", **more)


def known(asked: PredictSettings, of: Card | None = None) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """What is known of each image, by its name, and what was said."""
    said: list[str] = []
    cases = asked_images(asked, of or card(), said.append).cases
    return {case.path.stem: dict(case.patient.known) for case in cases}, said


@pytest.fixture
def listed(tmp_path: Path) -> Path:
    """Three images and a list of them that says something of two."""
    for name in "abc":
        (tmp_path / f"{name}.jpg").touch()
    (tmp_path / "list.csv").write_text("path,age,sex\na.jpg,40,\nb.jpg,,f\nc.jpg,,unknown\n")
    (tmp_path / "told.csv").write_text("image,sex\na,male\nc,female\n")
    return tmp_path


def test_the_options_fill_what_a_list_does_not_say(listed: Path) -> None:
    found, said = known(settings(listed, "list.csv", patient=PatientOptions(age="70", site="torso")))
    assert found == {
        "a": {"age": 40.0, "site": "torso"},
        "b": {"age": 70.0, "sex": "female", "site": "torso"},
        "c": {"age": 70.0, "site": "torso"},
    }
    assert not said


def test_a_table_of_one_field_leaves_the_lists_other_fields(listed: Path) -> None:
    told = {"metadata": listed / "told.csv", "patient": PatientOptions(age="70", sex="f")}
    found, _ = known(settings(listed, "list.csv", **told))
    assert found == {
        "a": {"age": 40.0, "sex": "male"},
        "b": {"age": 70.0, "sex": "female"},
        "c": {"age": 70.0, "sex": "female"},
    }


def test_the_options_fill_what_a_table_of_a_folder_does_not_say(listed: Path) -> None:
    found, said = known(
        settings(listed, ".", metadata=listed / "told.csv", patient=PatientOptions(age="70", sex="male"))
    )
    assert found == {
        "a": {"age": 70.0, "sex": "male"},
        "b": {"age": 70.0, "sex": "male"},
        "c": {"age": 70.0, "sex": "female"},
    }
    assert [line for line in said if "without a row" in line] == [
        f"{listed / 'told.csv'}: 1 images without a row in it: b"
    ]


def test_what_a_list_says_in_vain_is_said(listed: Path) -> None:
    _, said = known(settings(listed, "list.csv"), card(told=False))
    assert said == ["this model takes no metadata; what was given is not used"]


def test_what_a_folder_holds_besides_is_counted(tmp_path: Path) -> None:
    for name in ("a.jpg", "b.PNG", "c.bmp", "d.TIF", "e.tif", ".hidden.tif", "told.csv"):
        (tmp_path / name).touch()
    for name in ("part_1", "answer", ".git"):
        (tmp_path / name).mkdir()
    (tmp_path / "told.csv").write_text("image,age\na,40\nb,50\n")
    found, said = known(settings(tmp_path, "", metadata=tmp_path / "told.csv"))
    assert sorted(found) == ["a", "b"]
    words = "passed over 3 files (.bmp, .tif) and 1 folder; its own .jpg, .jpeg and .png files are judged"
    assert said == [f"{tmp_path}: {words}"]


class Blind:
    """A model that can read nothing but what is named."""

    def __init__(self, of: Card, *readable: str) -> None:
        self.card, self.readable = of, readable

    def answer(self, cases: Sequence[Case], scratch: Path, progress: Callable[[int], object] = unheard) -> list[Answer]:
        progress(len(cases))
        sure = np.eye(len(self.card.sidecar.classes))[0]
        return [
            Answer(case, sure, evidence={"metadata": None})
            if case.path.name in self.readable
            else cannot_be_judged(case, self.card, "no image")
            for case in cases
        ]


@pytest.mark.parametrize("kind", ["zoome", "weighting"])
@pytest.mark.parametrize("given", ["images", "images/list.csv"])
def test_no_image_that_could_be_read_is_a_fault(kind: str, given: str, tmp_path: Path) -> None:
    images, said = tmp_path / "images", list[str]()
    images.mkdir()
    (tmp_path / "answer").mkdir()
    for name in ("a.jpg", "b.jpg"):
        (images / name).write_text("no image")
    (images / "list.csv").write_text("path\na.jpg\nb.jpg\nc.jpg\n" if given != "images" else "")
    asked, of = settings(tmp_path, given), card(kind, told=False)
    count, out = (2 if given == "images" else 3), tmp_path / "answer"
    with pytest.raises(InputError) as error:
        predict_images(asked, Blind(of), said.append)
    assert str(error.value) == (
        f"{tmp_path / given}: not one of its {count} images could be read; {out / 'predictions.json'} says why"
    )
    reasons = [record["unreadable"] for record in json.loads((out / "predictions.json").read_text())]
    assert reasons[:2] == ["no image"] * 2 and len(reasons) == count
    assert len(pd.read_csv(out / "predictions.csv")) == (count if kind == "zoome" else 0)
    assert "a.jpg: unreadable (no image)" in said
    assert predict_images(asked, Blind(of, "b.jpg"), said.append) == out


class Refusing:
    """A model for which every slide is too coarse."""

    card = card("multimag")

    def answer(self, cases: Sequence[Case], scratch: Path, progress: Callable[[int], object] = unheard) -> list[Answer]:
        return [Answer(case, None, "too coarse") for case in cases]


def test_where_a_slide_fails_no_former_answer_stands(tmp_path: Path) -> None:
    out, said = tmp_path / "answer", list[str]()
    (tmp_path / "list.csv").write_text("path,slide_id\nS1.svs,S1\nS2.svs,S2\ngone.svs,S3\n")
    for name in ("S1", "S2", "S3"):
        (out / name).mkdir(parents=True)
    (tmp_path / "S1.svs").touch()
    (tmp_path / "S2.svs").touch()
    journal.open_folder(out)
    for name in ("S1", "S3"):
        write_json(out / name / "prediction.json", {"decision": "melanoma"})
    (out / "S2" / "prediction.json").write_text("a reader's own")
    with pytest.raises(InputError, match="not one of its 3 slides"):
        predict_slides(
            settings(tmp_path, "list.csv"), lambda one: predict_slide(one, Refusing(), said.append), said.append
        )
    assert said[0] == "S1: FAILED: too coarse" and "S2/prediction.json: was not made by this program" in said[1]
    assert not (out / "S1" / "prediction.json").exists() and not (out / "S3" / "prediction.json").exists()
    assert (out / "S2" / "prediction.json").read_text() == "a reader's own"


def test_a_row_that_cannot_be_used_leaves_no_former_answer_and_reaches_no_other_folder(tmp_path: Path) -> None:
    """A resolution that is none; and names that no folder can have, of files that are not there."""
    outer, said = tmp_path / "outer", list[str]()
    out = outer / "answer"
    (out / "S1").mkdir(parents=True)
    for folder in (outer, out):
        journal.open_folder(folder)
        write_json(folder / "prediction.json", {"decision": "another slide's"})
    write_json(out / "S1" / "prediction.json", {"decision": "melanoma"})
    (tmp_path / "S1.svs").touch()
    (tmp_path / "list.csv").write_text("path,slide_id,mpp\nS1.svs,S1,wide\ngone.svs,..,\ngone.svs,nul\0,\n")
    asked = PredictSettings(Path("multimag.keras"), tmp_path / "list.csv", out)
    with pytest.raises(InputError, match="not one of its 3 slides"):
        predict_slides(asked, lambda one: predict_slide(one, Refusing(), said.append), said.append)
    assert said[0] == "S1: FAILED: row 2: mpp 'wide' is no resolution in µm/px"
    assert all("gone.svs: no such file" in line for line in said[1:]) and len(said) == 3
    assert not (out / "S1" / "prediction.json").exists()
    assert (outer / "prediction.json").exists() and (out / "prediction.json").exists()


@pytest.mark.parametrize(("given", "file"), [("images", "predictions.json"), ("images/a.jpg", "prediction.json")])
def test_where_images_fail_no_former_answer_stands(given: str, file: str, tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.jpg").touch()
    asked, of, said = settings(tmp_path, given), card(told=False), list[str]()
    out = journal.open_folder(tmp_path / "answer")
    (out / "notes.txt").write_text("a reader's own")

    class Away(Blind):
        def answer(self, *_: Any, **__: Any) -> list[Answer]:
            raise InputError("the server is away")

    predict_images(asked, Blind(of, "a.jpg"), said.append)
    assert (out / file).is_file() and (out / "predictions.csv").is_file()
    with pytest.raises(InputError, match="the server is away"):
        predict_images(asked, Away(of), said.append)
    assert [path.name for path in out.iterdir() if path.name[0] != "."] == ["notes.txt"]


@pytest.mark.parametrize("mpp", [-4.0, 0.0, float("nan"), float("inf")])
def test_a_resolution_that_cannot_be_is_refused_before_a_slide_is_judged(tmp_path: Path, mpp: float) -> None:
    asked = settings(tmp_path, "slide.svs", thumbnail_mpp=mpp)
    with pytest.raises(InputError, match=r"--thumbnail-mpp .*: the picture's resolution"):
        check_options(asked, card("multimag").sidecar)


@pytest.mark.parametrize(("given", "taken"), [("images", "predictions.csv"), ("images/a.jpg", "prediction.json")])
def test_somebody_elses_file_in_the_answers_place_is_said_before_any_work(
    given: str, taken: str, tmp_path: Path
) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.jpg").write_text("no image")
    journal.open_folder(tmp_path / "answer")
    (tmp_path / "answer" / taken).write_text("mine")

    class Asked(Blind):
        def answer(self, *_: Any, **__: Any) -> list[Answer]:
            raise AssertionError("the model was asked")

    with pytest.raises(InputError, match=rf"{taken}: was not made by this program"):
        predict_images(settings(tmp_path, given), Asked(card(told=False)), list[str]().append)
    assert (tmp_path / "answer" / taken).read_text() == "mine"


@pytest.mark.parametrize("taken", ["prediction.json", "tiles.csv", "S1-20x.png", "figure2.png", "tiles.geojson"])
def test_somebody_elses_file_of_any_name_that_a_slide_writes_is_said_before_any_work(
    taken: str, tmp_path: Path
) -> None:
    (tmp_path / "S1.svs").touch()
    out, asked = journal.open_folder(tmp_path / "answer"), settings(tmp_path, "S1.svs")
    for name in (taken, "S1-40x.png"):  # there is no network of 40x
        (out / name).write_text("mine")

    class Asked(Refusing):
        def answer(self, *_: Any, **__: Any) -> list[Answer]:
            raise AssertionError("the model was asked")

    with pytest.raises(InputError, match=rf"{taken}: was not made by this program"):
        predict_slide(asked, Asked(), list[str]().append)
    assert (out / taken).read_text() == "mine"
    (out / taken).unlink()
    with pytest.raises(InputError, match="too coarse"):
        predict_slide(asked, Refusing(), list[str]().append)


def test_a_slides_pictures_are_looked_for_by_the_names_that_they_get() -> None:
    elsewhere = replace(card("multimag"), model=Path("multimag"))  # on a server: nobody sees what its networks saw
    assert magnified_output.pictures("S", elsewhere) == ["S-10x.png", "S-20x.png", "tiles.geojson"]
    assert biopsy_output.pictures("S", card()) == ["S-tumour.png", "S-attention.png", "tiles.geojson"]
