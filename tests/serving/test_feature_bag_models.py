"""Bag models on files of features: a file, an exported folder and a server answer alike, and what cannot be judged."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import h5py
import keras
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf

from melano_tf.errors import InputError
from melano_tf.evaluation.calibration import Calibration
from melano_tf.runs.sidecar import Sidecar
from melano_tf.serving.answer_record import answer_record
from melano_tf.serving.client import Client
from melano_tf.serving.export import Exported, export_model
from melano_tf.serving.exported_models import ExportedFeatures
from melano_tf.serving.model_finding import file_card, open_model
from melano_tf.serving.model_interface import Case
from tests.features.files import numbers, write_clam, write_stamp, write_trident
from tests.papers.tiny import Finished
from tests.pipelines.small_slides import write_slide_file
from tests.serving import small_models
from tests.serving.standin import Served, rest_server

THREE = ("benign", "atypical", "malignant")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Path], dict[str, Exported]]:
    """Two models and their exports."""
    folder = tmp_path_factory.mktemp("bags")
    files = {
        "two": small_models.bags_model(folder / "models"),
        "three": small_models.bags_model(folder / "models", THREE, "clam"),
    }
    exports = {name: export_model(file_card(path), folder / "serving", name) for name, path in files.items()}
    return folder / "serving", files, exports


@pytest.fixture
def slides(tmp_path: Path) -> list[Path]:
    """Files of features of the three tools."""
    folder = tmp_path / "features"
    folder.mkdir()
    write_trident(folder / "a.h5", *numbers(7, seed=1))
    write_clam(folder / "b.h5", *numbers(4, seed=2))
    write_stamp(folder / "c.h5", *numbers(9, seed=3), extractor="uni_v1")
    return sorted(folder.iterdir())


@pytest.mark.parametrize("name", ["two", "three"])
def test_every_way_gives_the_same(name: str, made: tuple, slides: list[Path], tmp_path: Path) -> None:
    serving, files, exports = made
    with rest_server(Served(serving)) as address:
        ways = {
            "file": open_model(files[name]),
            "folder": open_model(exports[name].folder),
            "server": open_model(Path(name), address),
        }
        found = {way: model.answer([Case(path) for path in slides], tmp_path) for way, model in ways.items()}
        records = {way: [answer_record(one, ways[way].card) for one in found[way]] for way in ways}
    network = keras.saving.load_model(files[name])
    sidecar = Sidecar.read(files[name])
    for place, path in enumerate(slides):
        with h5py.File(path) as file:
            x = np.asarray(file["feats" if path.stem == "c" else "features"][:], np.float32)
        outputs = network({"features": x[None], "mask": np.ones((1, len(x)), bool)})
        p = np.asarray(outputs["probability"][0], float)
        p = np.array([1 - p[0], p[0]]) if name == "two" else p
        for way in ways:
            one = found[way][place]
            np.testing.assert_allclose(one.probabilities, p, atol=1e-6)
            np.testing.assert_allclose(one.tiles["attention"], outputs["attention"][0], atol=1e-6)
            assert one.evidence["instances"] == len(x) and one.tiles["attention"].sum() == pytest.approx(1, abs=1e-5)
            record = records[way][place]
            fitted = Calibration.from_json(sidecar.calibration)
            expected = fitted.apply(p) if name == "three" else fitted.apply(p[1])
            given = list(record["calibrated_probabilities"].values())
            np.testing.assert_allclose(given if name == "three" else given[1], expected, atol=1e-5)
            called = sidecar.classes[int(np.argmax(p))] if name == "three" else None
            assert record["decision"] == (called or sidecar.classes[int(given[1] >= sidecar.threshold)])
            assert (record["threshold"] is None) == (name == "three")


def test_padding_and_several_bags_in_one_request(made: tuple) -> None:
    exported = made[2]["two"]
    graph = tf.saved_model.load(str(exported.folder))
    features, _ = numbers(6, seed=4)
    alone = graph.signatures["bag"](features=tf.constant(features))
    both = np.zeros((2, 9, 5), np.float32)
    both[0, :6], both[1] = features, numbers(9, seed=5)[0]
    both[0, 6:] = np.nan  # padding may be anything
    mask = np.arange(9)[None] < np.array([[6], [9]])
    joined = graph.signatures["serving_default"](features=tf.constant(both), mask=tf.constant(mask))
    np.testing.assert_allclose(joined["probabilities"][0], alone["probabilities"][0], atol=1e-6)
    np.testing.assert_allclose(joined["attention"][0, :6], alone["attention"][0], atol=1e-6)
    assert (np.asarray(joined["attention"][0, 6:]) == 0).all()
    for broken, words in ((np.full_like(features, np.inf), "NaN or infinite"), (features[:0], "without instances")):
        with pytest.raises(tf.errors.InvalidArgumentError, match=words):
            graph.signatures["bag"](features=tf.constant(broken))


def test_what_cannot_be_judged_has_its_reason(made: tuple, tmp_path: Path) -> None:
    features, coords = numbers(5)
    write_trident(tmp_path / "wide.h5", np.repeat(features, 2, axis=1), coords)
    write_trident(tmp_path / "other.h5", features, coords, encoder="conch")
    write_trident(tmp_path / "good.h5", features, coords)
    broken = features.copy()
    broken[2] = np.nan
    write_trident(tmp_path / "nan.h5", broken, coords)
    (tmp_path / "text.h5").write_text("no HDF5")
    cases = [Case(tmp_path / f"{name}.h5") for name in ("wide", "other", "good", "nan", "text")]
    done: list[int] = []
    found = open_model(made[1]["two"]).answer(cases, tmp_path, done.append)
    assert done == [1] * 5 and found[2].probabilities is not None
    reasons = [one.reason for one in found]
    words = ["features of width 10, where the model takes 5", "encoder conch, where the model was trained on uni_v1"]
    assert words[0] in reasons[0] and words[1] in reasons[1] and "1 of 5 tiles" in reasons[3]
    assert "is no HDF5 file" in reasons[4]


@pytest.mark.parametrize(
    "odd",
    [
        {"probabilities": None},
        {"attention": None},
        {"probabilities": [[np.nan, 1.0]]},
        {"probabilities": [[0.2, 0.9]]},
        {"probabilities": [0.2, 0.8]},
        {"attention": [[0.5, 0.5]]},
        {"attention": "none"},
    ],
)
def test_an_odd_answer_of_a_server_is_one_line(made: tuple, odd: dict[str, Any]) -> None:
    answer = {"probabilities": [[0.2, 0.8]], "attention": [[0.2, 0.3, 0.5]], "distance": [0.1]}
    given = {name: np.asarray(value) for name, value in (answer | odd).items() if value is not None}
    client = Client(SimpleNamespace(where="there", call=lambda *_: given))
    judge = ExportedFeatures(file_card(made[1]["two"]), client)
    with pytest.raises(InputError, match=r"^there: ") as error:
        judge.judge(np.zeros((3, 5), np.float32))
    assert "\n" not in str(error.value)


def test_predict_as_a_user(made: tuple, slides: list[Path], tmp_path: Path, inside: Callable[..., Finished]) -> None:
    model = ("predict", "--model", str(made[1]["two"]))
    one = inside(*model, "--input", str(slides[0]), "--out", str(tmp_path / "one"))
    assert one.code == 0, one.errors
    record = json.loads((tmp_path / "one" / "prediction.json").read_text())
    assert record["files"] == ["prediction.json", "tiles.csv", "a-attention.png"]
    tiles = pd.read_csv(tmp_path / "one" / "tiles.csv")
    with h5py.File(slides[0]) as file:
        np.testing.assert_array_equal(tiles[["x", "y"]], file["coords"][:])
    assert tiles["w0"].eq(512).all() and "the most attended one" in one.shown
    folder = inside(*model, "--input", str(slides[0].parent), "--out", str(tmp_path / "all"))
    assert folder.code == 0, folder.errors
    rows = pd.read_csv(tmp_path / "all" / "predictions.csv")
    assert rows["slide_id"].tolist() == ["a", "b", "c"] and rows["probability_malignant"].notna().all()
    assert (tmp_path / "all" / "b" / "b-attention.png").is_file()
    listed = tmp_path / "list.csv"
    listed.write_text(f"path,slide_id\n{slides[1]},mine\nnone.h5,gone\n")
    table = inside(*model, "--input", str(listed), "--out", str(tmp_path / "listed"))
    assert table.code == 0 and "judged 1 of 2 slides" in table.shown
    picture = tmp_path / "photo.jpg"
    picture.write_bytes(b"")
    for arguments, words in (
        (("--input", str(picture)), "judges files of features"),
        (("--input", str(slides[0]), "--mpp", "0.5"), "--mpp: does not belong to a model of kind 'bags'"),
        (("--input", str(slides[0]), "--age", "50"), "--age: does not belong"),
    ):
        refused = inside(*model, *arguments, "--out", str(tmp_path / "refused"))
        assert refused.code == 2 and words in refused.errors


def test_maps_lie_over_the_slide_that_is_named(made: tuple, tmp_path: Path, inside: Callable[..., Finished]) -> None:
    slide = write_slide_file(tmp_path / "s1.tiff", seed=1)
    features, _ = numbers(4, seed=6)
    write_trident(tmp_path / "s1.h5", features, np.array([[0, 0], [256, 0], [256, 256], [512, 256]]))
    table = tmp_path / "slides.csv"
    table.write_text(f"slide_id,path\ns1,{slide}\n")
    call = ("predict", "--model", str(made[1]["two"]), "--input", str(tmp_path / "s1.h5"), "--slides", str(table))
    done = inside(*call, "--out", str(tmp_path / "over"))
    assert done.code == 0 and "no map" not in done.shown, done.errors
    without = inside(*call[:-2], "--out", str(tmp_path / "alone"))
    assert without.code == 0
    sizes = [(tmp_path / name / "s1-attention.png").stat().st_size for name in ("over", "alone")]
    assert sizes[0] > 2 * sizes[1]  # tissue behind it
    write_trident(tmp_path / "s1.h5", features, np.array([[0, 0], [9000, 0], [256, 256], [512, 256]]))
    outside = inside(*call, "--out", str(tmp_path / "outside"))
    assert outside.code == 0 and "no map" in outside.shown and "must be another slide" in outside.shown


def test_export_as_a_user(made: tuple, slides: list[Path], tmp_path: Path, inside: Callable[..., Finished]) -> None:
    done = inside("export", "--model", str(made[1]["three"]), "--out", str(tmp_path / "serving"), "--name", "mine")
    assert done.code == 0, done.errors
    assert "signatures serving_default, bag, card" in done.shown
    folder = tmp_path / "serving" / "mine" / "1"
    card = (folder / "assets.extra" / "model_card.md").read_text()
    assert "5 numbers a tile, of the encoder uni_v1" in card and "benign, atypical, malignant" in card
    assert '"signature_name": "bag"' in (tmp_path / "serving" / "CALLS-mine.md").read_text()
    shutil.copy(slides[0], tmp_path / "a.h5")
    answer = inside("predict", "--model", str(folder), "--input", str(tmp_path / "a.h5"), "--out", str(tmp_path / "x"))
    assert answer.code == 0 and "the most probable class is called" in answer.shown


def test_a_model_of_whole_patients_says_that_it_judges_one_file_alone(
    made: tuple, slides: list[Path], tmp_path: Path
) -> None:
    model = open_model(made[1]["two"])
    [slide] = model.answer([Case(slides[1])], tmp_path)
    model.made = {**model.made, "bag": "patient"}
    [patient] = model.answer([Case(slides[1])], tmp_path)
    assert answer_record(slide, model.card)["remark"] == ""
    assert answer_record(patient, model.card)["remark"].startswith(
        "judged alone, by a model whose bags were all slides"
    )
    np.testing.assert_array_equal(slide.probabilities, patient.probabilities)
