"""What a model does not know: the same distance from a file, from a folder and in the graph, and decisions withheld."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
from PIL import Image

from melano_tf.errors import InputError
from melano_tf.models.biopsy_classifier import split_target
from melano_tf.pipelines.image_batches import seen
from melano_tf.pipelines.image_cache import decode_image
from melano_tf.pipelines.image_settings import ImageCacheSettings
from melano_tf.runs.sidecar import Sidecar
from melano_tf.serving.answer_record import answer_record, familiar_words
from melano_tf.serving.client import ClientSettings
from melano_tf.serving.export import export_model, limits_of, make_graph
from melano_tf.serving.feature_bag_models import LocalFeatures
from melano_tf.serving.model_finding import file_card, open_model
from melano_tf.serving.model_interface import Answer, Card, Case
from melano_tf.serving.network_loading import load_telling
from melano_tf.serving.tile_graph import masked_median
from melano_tf.training.embedding import embedder
from melano_tf.training.familiarity import UNLIKE, Familiarity, fit_familiarity, read_familiarity
from tests.papers.tiny import Finished
from tests.serving import small_models
from tests.serving.conftest import Models
from tests.serving.pictures import encoded

WORDS = "examples that the training held out"


def smooth(count: int, px: int, seed: int) -> np.ndarray:
    """Pictures like each other: a ramp of skin's colours and a little noise, uint8."""
    rng = np.random.default_rng(seed)
    ramps = np.linspace(0.6, 1.0, px)[None, :, None, None] * rng.uniform(
        [200, 130, 110], [240, 170, 150], (count, 1, 1, 3)
    )
    return (ramps + rng.normal(0, 4, (count, px, px, 3))).clip(0, 255).astype(np.uint8)


def familiar(network: Any, inputs: Any, held: Any, path: Path) -> Familiarity:
    """A description of a network's inputs, written beside its file."""
    made = embedder(network)
    assert made is not None
    parts = []
    for x in (inputs, held):
        found = {name: np.asarray(value) for name, value in made(x).items()}
        parts.append((found["embedding"], found.get("look", np.zeros((len(found["embedding"]), 0)))))
    known = fit_familiarity(*parts[0], ["one"] * len(parts[0][0]), parts[1])
    assert known is not None
    facts = {**known.facts, "weights_sha256": None}
    known.with_facts(facts).write(path)
    return known


@pytest.fixture(scope="module")
def zoome(models: Models, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier of images that knows smooth pictures."""
    folder = tmp_path_factory.mktemp("known")
    path = folder / "zoome.keras"
    for suffix in (".keras", ".json"):
        shutil.copy(models.files["zoome"].with_suffix(suffix), path.with_suffix(suffix))
    store = ImageCacheSettings(**Sidecar.read(path).preprocessing["store"])

    def as_seen(count: int, seed: int) -> np.ndarray:
        shown = []
        for place, one in enumerate(smooth(count, 64, seed)):
            Image.fromarray(one).save(folder / f"{place}.png")
            shown.append(decode_image(folder / f"{place}.png", store))
        aspects = np.array([one.aspect for one in shown], np.float32)
        pixels = seen(np.stack([one.pixels for one in shown]), aspects, small_models.INPUT_PX)
        return np.asarray(pixels, np.float32)

    familiar(keras.saving.load_model(path), as_seen(40, 1), as_seen(40, 2), path)
    return path


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three smooth pictures and one of noise."""
    folder = tmp_path_factory.mktemp("images")
    for place, one in enumerate(smooth(3, 64, 5)):
        Image.fromarray(one).save(folder / f"like-{place}.png")
    noise = np.random.default_rng(7).integers(0, 256, (64, 64, 3)).astype(np.uint8)
    Image.fromarray(noise).save(folder / "noise.png")
    return folder


def test_a_file_an_exported_folder_and_its_graph_tell_the_same(zoome: Path, images: Path, tmp_path: Path) -> None:
    exported = export_model(file_card(zoome), tmp_path / "serving", "zoome")
    assert WORDS in (exported.folder / "assets.extra" / "model_card.md").read_text()
    cases = [Case(path) for path in sorted(images.iterdir())]
    here = open_model(zoome)
    there = open_model(exported.folder, None, ClientSettings())
    assert there.card.familiar == here.card.familiar and WORDS in familiar_words(there.card)
    near, far = (model.answer(cases, tmp_path) for model in (here, there))
    distances = [answer.distance for answer in near]
    np.testing.assert_allclose([answer.distance for answer in far], distances, atol=1e-4)
    assert [bool(distance > 1) for distance in distances] == [False, False, False, True]
    for one, other in zip(near, far, strict=True):
        np.testing.assert_allclose(one.probabilities, other.probabilities, atol=1e-5)
    graph = tf.saved_model.load(str(exported.folder)).signatures["image_only"]
    found = graph(image_bytes=tf.constant([case.path.read_bytes() for case in cases]))
    np.testing.assert_allclose(found["distance"], distances, atol=1e-4)
    assert (found["called"].numpy() == b"").tolist() == [False, False, False, True]
    assert set(found["decision"].numpy()) <= {b"benign", b"melanoma"}  # as it was: whoever wants it has it
    np.testing.assert_array_equal(found["called"].numpy()[:3], found["decision"].numpy()[:3])


def test_predict_withholds_the_decision_and_answers_anyway(
    zoome: Path, images: Path, tmp_path: Path, inside: Callable[..., Finished]
) -> None:
    asked = ("predict", "--model", str(zoome), "--input", str(images))
    done = inside(*asked, "--out", str(tmp_path / "one"))
    assert done.code == 0, done.errors
    assert f"1 of 4 decisions withheld: {UNLIKE}; --answer-anyway" in done.shown
    assert "1 is what 99 % of 40 examples that the training held out stay below" in done.shown
    rows = pd.read_csv(tmp_path / "one" / "predictions.csv", keep_default_na=False)
    assert rows["decision"].tolist()[3] == "" and (rows["decision"][:3] != "").all()
    assert rows["withheld"].tolist() == ["", "", "", UNLIKE] and (rows["probability"] != "").all()
    records = json.loads((tmp_path / "one" / "predictions.json").read_text())
    assert records[3]["decision"] is None and records[3]["distance"] > 1 and records[3]["probabilities"]
    done = inside(*asked, "--out", str(tmp_path / "two"), "--answer-anyway")
    anyway = pd.read_csv(tmp_path / "two" / "predictions.csv", keep_default_na=False)
    assert (anyway["decision"] != "").all() and anyway["remark"].tolist()[3] == UNLIKE
    np.testing.assert_array_equal(anyway["probability"], rows["probability"])
    assert "withheld" not in done.shown


def test_an_old_model_says_that_it_cannot_be_told(
    models: Models, images: Path, tmp_path: Path, inside: Callable[..., Finished]
) -> None:
    old = ("predict", "--model", str(models.files["zoome"]), "--input", str(images), "--out", str(tmp_path / "old"))
    done = inside(*old)
    assert done.code == 0 and done.shown.count("cannot be told") == 1
    assert (pd.read_csv(tmp_path / "old" / "predictions.csv")["distance"].isna()).all()


def test_a_description_of_another_model_or_a_damaged_one_is_refused(zoome: Path, tmp_path: Path) -> None:
    for suffix in (".keras", ".json", ".familiar.npz"):
        shutil.copy(zoome.with_suffix(suffix), (tmp_path / "zoome.keras").with_suffix(suffix))
    path = tmp_path / "zoome.keras"
    card = Sidecar.read(path)
    Sidecar(**{**vars(card), "run": {**card.run, "weights_sha256": "0" * 64}}).write(path)
    with pytest.raises(InputError, match="another model"):
        open_model(path)
    card.write(path)
    path.with_suffix(".familiar.npz").write_bytes(b"PK")
    with pytest.raises(InputError, match="cannot be read"):
        open_model(path)


def test_a_description_of_other_pictures_numbers_is_refused(zoome: Path, tmp_path: Path) -> None:
    for suffix in (".keras", ".json"):
        shutil.copy(zoome.with_suffix(suffix), (tmp_path / "zoome.keras").with_suffix(suffix))
    path = tmp_path / "zoome.keras"
    sidecar = Sidecar.read(path)
    known = read_familiarity(zoome, None)
    assert known is not None and len(load_telling(zoome, sidecar).outputs) == 2
    replace(known, look_mean=np.zeros(7), look_root=np.eye(7)).write(path)
    with pytest.raises(InputError, match=r"zoome\.familiar\.npz: .*the numbers of its pictures are not those"):
        load_telling(path, sidecar)


def test_a_biopsys_graph_gives_its_tiles_distances_and_their_median(models: Models, tmp_path: Path) -> None:
    for name in ("target.keras", "target.json", "source.keras", "source.json"):
        shutil.copy(models.files["biopsy"].with_name(name), tmp_path / name)
    path, px = tmp_path / "target.keras", small_models.TILE_PX
    embeds, _ = split_target(keras.saving.load_model(path))
    known = familiar(embeds, *(smooth(*draw).astype(np.float32) for draw in ((30, px, 1), (12, px, 2))), path)
    card = file_card(path)
    graph, _ = make_graph(card, limits_of(card), True)
    signatures = graph.endpoints()
    bag = [*smooth(4, px, 3), *small_models.tiles(3)]
    jpegs = [encoded(tile, "JPEG") for tile in bag]
    found = signatures["embed"](tf.constant(jpegs))
    decoded = np.stack([tf.io.decode_jpeg(jpeg, dct_method="INTEGER_ACCURATE").numpy() for jpeg in jpegs[:4]])
    made = embedder(embeds)
    assert made is not None
    own = {name: np.asarray(value) for name, value in made(decoded.astype(np.float32)).items()}
    np.testing.assert_allclose(found["distance"][:4], known.distance(own["embedding"], own["look"]), atol=1e-4)
    assert (found["distance"].numpy()[4:] > 1).all()
    whole = signatures["serving_default"](tf.constant([jpegs[:7], [*jpegs[4:], b"", b"", b"", b""]]))
    for row, places in enumerate((range(7), range(4, 7))):
        chosen = whole["selected"].numpy()[row][: len(places)]
        expected = np.median(found["distance"].numpy()[list(places)][chosen])
        assert whole["distance"].numpy()[row] == pytest.approx(expected, abs=1e-4)
    assert whole["called"].numpy()[1] == b"" and whole["decision"].numpy()[1] != b""


def test_the_median_of_a_part_is_numpys() -> None:
    rng = np.random.default_rng(2)
    values, there = rng.normal(size=(9, 6)).astype(np.float32), rng.random((9, 6)) < 0.6
    there[:, 2] = True
    expected = [np.median(row[own]) for row, own in zip(values, there, strict=True)]
    np.testing.assert_allclose(masked_median(tf.constant(values), tf.constant(there)), expected, rtol=1e-6)


def test_a_bags_distance_is_the_same_here_and_in_its_graph(tmp_path: Path) -> None:
    path, rng = small_models.bags_model(tmp_path), np.random.default_rng(4)

    def bags(count: int) -> dict[str, np.ndarray]:
        features = (rng.normal(size=(count, 6, 5)) + np.arange(5)).astype(np.float32)
        return {"features": features, "mask": np.ones((count, 6), bool)}

    familiar(keras.saving.load_model(path), bags(30), bags(12), path)
    card = file_card(path)
    graph, _ = make_graph(card, limits_of(card), True)
    shown = bags(3)
    found = graph.endpoints()["serving_default"](shown["features"], shown["mask"])
    local = [LocalFeatures(card).judge(one).distance for one in shown["features"]]
    np.testing.assert_allclose(found["distance"], local, atol=1e-4)


def test_of_three_classes_a_tie_is_decided_by_no_kind_of_model(models: Models) -> None:
    card: Card = file_card(models.files["seven"])
    nevi = replace(card, sidecar=replace(card.sidecar, kind="multimag", classes=("IN", "CN", "JN"), taxonomy=None))
    for p, decision in (([0.4, 0.4, 0.2], "undecided"), ([0.3, 0.3, 0.4], "JN")):
        record = answer_record(Answer(Case(Path("a.svs")), np.array(p)), nevi)
        assert record["decision"] == decision


def test_past_the_limit_alone_a_decision_is_withheld(models: Models) -> None:
    card: Card = file_card(models.files["seven"])
    p = np.array([0.4, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1])
    for distance, withheld in ((None, False), (0.3, False), (1.0, False), (1.0001, True), (float("nan"), True)):
        answer = Answer(Case(Path("a.jpg")), p, remark="dark", distance=distance)
        record = answer_record(answer, card)
        assert (record["decision"] is None, record["withheld"] == UNLIKE) == (withheld, withheld)
        anyway = answer_record(answer, card, anyway=True)
        assert anyway["decision"] == "MEL" and anyway["remark"] == ("dark; " + UNLIKE if withheld else "dark")
    lost = answer_record(Answer(Case(Path("a.jpg")), None, "torn"), card)
    assert lost["decision"] is None and lost["withheld"] == ""
