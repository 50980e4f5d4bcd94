"""An exported model in a fresh process that cannot import melano_tf and has no oneDNN; and the files beside it."""

import functools
import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
from tensorflow.python.saved_model import loader_impl

from melano_tf.metadata_fields import SEX, SITE
from melano_tf.models.biopsy_classifier import split_target
from melano_tf.models.grouped_convolution import GroupedConv2D
from melano_tf.pipelines.tile_batches import decode
from melano_tf.runs.predictions import predictions, write_predictions
from melano_tf.runs.sidecar import Sidecar
from melano_tf.serving.export import card_content, load_network
from melano_tf.serving.image_graph import Limits
from melano_tf.serving.measured_metrics import measured_numbers, measured_words
from melano_tf.serving.model_finding import open_model
from melano_tf.serving.model_interface import Answer, Card, Case
from melano_tf.serving.patient_metadata import Patient
from melano_tf.serving.serving_files import model_card, read_card
from melano_tf.serving.tile_graph import TileNetwork
from melano_tf.serving.warmup import FILE
from tests import forked
from tests.papers.tiny import Finished
from tests.serving.conftest import Models
from tests.serving.pictures import encoded
from tests.serving.small_models import SEVEN, tiles

STRANGER = """
import sys

class Blocked:
    def find_spec(self, name, *_):
        if name.split(".")[0] == "melano_tf":
            raise ImportError("melano_tf is out of reach")

sys.meta_path.insert(0, Blocked())
import json, pathlib, numpy as np, tensorflow as tf
work = pathlib.Path(sys.argv[1])
answers, loaded = {}, {}
for job in json.loads((work / "jobs.json").read_text()):
    if job["folder"] not in loaded:
        loaded[job["folder"]] = tf.saved_model.load(job["folder"])
    function = loaded[job["folder"]].signatures[job["signature"]]
    given = np.load(work / job["inputs"], allow_pickle=True)
    specs = {spec.name: spec for spec in function.structured_input_signature[1].values()}
    arrays = {k: v.tolist() if v.dtype == object else v for k, v in given.items()}
    inputs = {k: tf.constant(v, specs[k].dtype) for k, v in arrays.items()}
    for key, value in function(**inputs).items():
        answers[job["name"] + "/" + key] = value.numpy()
assert not [name for name in sys.modules if name.startswith("melano_tf")]
np.savez(work / "answers.npz", **answers)
"""
TOLD = (Patient({"age": 55.0, "sex": "female", "site": "torso"}), Patient(), Patient({"sex": "male"}))


@dataclass
class Job:
    """One call of a signature."""

    name: str
    folder: Path
    signature: str
    inputs: dict[str, Any]


def ask_a_stranger(work: Path, jobs: list[Job]) -> dict[str, np.ndarray]:
    """Outputs of each job, by "job/output", from another process, without oneDNN's kernels."""
    lines = []
    for job in jobs:
        np.savez(work / f"{job.name}.npz", **{key: _objects(value) for key, value in job.inputs.items()})
        lines.append(
            {"name": job.name, "folder": str(job.folder), "signature": job.signature, "inputs": f"{job.name}.npz"}
        )
    (work / "jobs.json").write_text(json.dumps(lines))
    (work / "stranger.py").write_text(STRANGER)
    done = subprocess.run(
        [sys.executable, "-I", str(work / "stranger.py"), str(work)],
        capture_output=True,
        text=True,
        cwd=work,
        env={**os.environ, "TF_ENABLE_ONEDNN_OPTS": "0"},
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    with np.load(work / "answers.npz", allow_pickle=True) as found:
        return dict(found)


def answered(model: Path, cases: list[Case]) -> list[Answer]:
    """What the file's own network answers, all of them readable."""
    answers = open_model(model).answer(cases, model.parent)
    assert all(answer.probabilities is not None for answer in answers)
    return answers


def _objects(value: Any) -> np.ndarray:
    array = np.asarray(value)
    if array.dtype.kind in "SU":
        array = np.array(value, object)
    return array


@pytest.fixture(scope="module")
def files(pictures: Path) -> list[Path]:
    """Images of mixed sizes and sorts, three of them with metadata."""
    return sorted(pictures.iterdir())


@pytest.fixture(scope="module")
def stranger(models: Models, files: list[Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, np.ndarray]:
    """What each exported model answers there."""
    contents = [file.read_bytes() for file in files]
    told = [TOLD[k % 3] for k in range(len(files))]
    columns = {
        "age": np.array([p.known.get("age", -1.0) for p in told], np.float32),
        "sex": [p.value(SEX) for p in told],
        "site": [p.value(SITE) for p in told],
    }
    jpegs = [encoded(tile, "JPEG") for tile in tiles(7)]
    folders = {name: export.folder for name, export in models.exports.items()}
    channels = keras.saving.load_model(models.files["biopsy"]).get_layer("embedding").output.shape[-1]
    embeddings = np.random.default_rng(0).random((2, 5, channels)).astype(np.float32)
    mask = np.array([[True] * 5, [True, True, False, False, False]])
    jobs = [
        Job("told", folders["zoome"], "serving_default", {"image_bytes": contents, **columns}),
        Job("alone", folders["zoome"], "image_only", {"image_bytes": contents[:1]}),
        Job("seven", folders["seven"], "serving_default", {"image_bytes": contents}),
        Job("pixels", folders["seven"], "tensors", {"image": np.stack(tiles(3))}),
        Job("embed", folders["biopsy"], "embed", {"tile_bytes": jpegs}),
        Job("aggregate", folders["biopsy"], "aggregate", {"embeddings": embeddings, "mask": mask}),
        Job("bag", folders["biopsy"], "serving_default", {"tile_bytes": [jpegs[:5], [*jpegs[5:], b"", b"", b""]]}),
    ]
    return ask_a_stranger(tmp_path_factory.mktemp("stranger"), jobs) | {"embeddings": embeddings, "mask": mask}


def test_two_classes_with_metadata_agree(models: Models, files: list[Path], stranger: dict[str, np.ndarray]) -> None:
    model = models.files["zoome"]
    local = answered(model, [Case(file, TOLD[k % 3]) for k, file in enumerate(files[:4])])
    p = stranger["told/probabilities"][:, 1]
    np.testing.assert_allclose(p[:4], [answer.probabilities[1] for answer in local], atol=1e-5)
    assert np.ptp(p) > 0.05, "the images must not all be answered alike"
    assert stranger["alone/probabilities"][0, 1] == pytest.approx(local[0].untold[1], abs=1e-5)
    assert set(stranger["told/decision"]) == {b"benign", b"melanoma"}
    calibrated = stranger["told/calibrated_probabilities"][:, 1]
    np.testing.assert_allclose(np.log(calibrated / (1 - calibrated)), np.log(p / (1 - p)) / 1.7, atol=1e-4)
    np.testing.assert_array_equal(stranger["told/decision"] == b"melanoma", calibrated >= 0.47)
    np.testing.assert_allclose(stranger["told/threshold"], np.full(len(files), 0.47, np.float32))
    assert stranger["told/classes"].tolist() == [[b"benign", b"melanoma"]] * len(files)


def test_seven_classes_with_colour_constancy_agree(
    models: Models, files: list[Path], stranger: dict[str, np.ndarray]
) -> None:
    model = models.files["seven"]
    local = np.stack([answer.probabilities for answer in answered(model, [Case(file) for file in files])])
    found = stranger["seven/probabilities"]
    np.testing.assert_allclose(found, local, atol=1e-5)
    assert found.max(axis=1).std() > 0.01
    np.testing.assert_array_equal(stranger["seven/decision"], np.array(SEVEN, "S")[local.argmax(axis=1)])
    assert "seven/threshold" not in stranger


def test_tensors_agree_with_files_of_the_same_pixels(
    models: Models, stranger: dict[str, np.ndarray], tmp_path: Path
) -> None:
    model, paths = models.files["seven"], []
    for k, tile in enumerate(tiles(3)):
        paths.append(tmp_path / f"{k}.png")
        paths[-1].write_bytes(encoded(tile, "PNG"))
    local = np.stack([answer.probabilities for answer in answered(model, [Case(path) for path in paths])])
    np.testing.assert_allclose(stranger["pixels/probabilities"], local, atol=1e-5)


def test_both_halves_of_a_spitzoid_model_agree(models: Models, stranger: dict[str, np.ndarray]) -> None:
    embedder, aggregator = split_target(keras.saving.load_model(models.files["biopsy"]))
    source = keras.saving.load_model(models.files["biopsy"].with_name("source.keras"))
    decoded = tf.cast(decode(tf.constant([encoded(tile, "JPEG") for tile in tiles(7)]), tf.constant(48)), tf.float32)
    embeddings, tumour = embedder(decoded).numpy(), source(decoded).numpy()[:, 1]
    np.testing.assert_allclose(stranger["embed/embeddings"], embeddings, atol=1e-5)
    np.testing.assert_allclose(stranger["embed/tumour_probability"], tumour, atol=1e-5)
    # Padding changes nothing: the second biopsy has two tiles.
    for row, count in enumerate((5, 2)):
        alone = aggregator(tf.constant(stranger["embeddings"][row : row + 1, :count]))
        assert stranger["aggregate/probabilities"][row, 1] == pytest.approx(float(alone["probability"][0, 0]), abs=1e-5)
        np.testing.assert_allclose(stranger["aggregate/attention"][row, :count], alone["attention"][0], atol=1e-5)
    for row, places in enumerate((range(5), range(5, 7))):
        chosen = [k for k in places if tumour[k] >= 0.5] or sorted(places, key=lambda k: -tumour[k])[:3]
        whole = aggregator(tf.constant(embeddings[sorted(chosen)][None]))["probability"]
        assert stranger["bag/probabilities"][row, 1] == pytest.approx(float(whole[0, 0]), abs=1e-5)
        assert np.flatnonzero(stranger["bag/selected"][row]).tolist() == [k - places[0] for k in sorted(chosen)]


def test_a_tile_classifier_agrees(models: Models) -> None:
    path = models.files["biopsy"].with_name("source.keras")
    sidecar, network = Sidecar.read(path), load_network(path, True)
    signatures = TileNetwork(network, sidecar, Limits()).endpoints()
    jpegs = tf.constant([encoded(tile, "JPEG") for tile in tiles(3)])
    expected = network(tf.cast(decode(jpegs, tf.constant(sidecar.input_px)), tf.float32)).numpy()
    found = signatures["serving_default"](jpegs)
    np.testing.assert_allclose(found["probabilities"], expected, atol=1e-5)
    decoded = np.stack([tf.io.decode_jpeg(jpeg, dct_method="INTEGER_ACCURATE").numpy() for jpeg in jpegs])
    np.testing.assert_allclose(signatures["tensors"](decoded)["probabilities"], expected, atol=1e-5)
    called = np.where(expected[:, 1] >= 0.5, b"tumour", b"non-tumour")
    np.testing.assert_array_equal(found["decision"].numpy().astype(bytes), called)


def biopsies(folder: Path, groups: str, target: list[int], p: list[float]) -> Path:
    """A run's predictions of test biopsies of these patients, and of one that the model was trained on."""
    frame = pd.DataFrame({"group": list(groups), "target": target, "part": "test"})
    rows = pd.concat([frame, pd.DataFrame({"group": ["Z"], "target": [0], "part": ["training"]})])
    rows = rows.assign(case=[f"S{place}" for place in range(len(rows))])
    return write_predictions(folder / "predictions" / "target.csv", predictions(rows, np.array([*p, 0.99])))


def test_measured_numbers_come_from_the_run_or_from_nowhere(models: Models, tmp_path: Path) -> None:
    model = models.files["biopsy"]
    sidecar = Sidecar.read(model)
    assert measured_numbers(model, sidecar) is None
    assert "not at hand" in measured_words(None)
    table = biopsies(tmp_path, "AABCDE", [1, 1, 0, 1, 0, 0], [0.9, 0.4, 0.2, 0.5, 0.7, 0.1])
    found = measured_numbers(tmp_path / "models" / "target.keras", sidecar)
    assert found is not None
    # By hand: two of three positives at or above 0.5, one of three negatives.
    assert found["sensitivity"]["value"] == pytest.approx(2 / 3) and found["specificity"]["value"] == pytest.approx(
        2 / 3
    )
    assert (found["samples"], found["positives"], found["groups"]) == (6, 3, 5)
    assert found["sensitivity"]["low"] < 2 / 3 < found["sensitivity"]["high"]
    assert "6 biopsies of 5 patients" in measured_words(found)
    assert biopsies(tmp_path, "ABC", [1, 1, 0], [0.9, 0.8, 0.1]) == table
    perfect = measured_numbers(tmp_path / "models" / "target.keras", sidecar)
    words = measured_words(perfect)
    assert perfect["sensitivity"]["method"] == "Wilson" and "sensitivity 1.0000 (95% interval 0." in words
    assert "1.0000 to 1.0000" not in words
    old = {**perfect, "sensitivity": {"value": 1.0, "low": 1.0, "high": 1.0, "level": 0.95}}
    assert "sensitivity 1.0000 (95% interval not estimable)" in measured_words(old)


def test_grouped_convolutions_are_portable_only_where_asked(models: Models) -> None:
    for portable in (True, False):
        network = load_network(models.files["zoome"], portable)
        grouped = [layer for layer in network.layers if isinstance(layer, GroupedConv2D) and layer.groups > 1]
        assert grouped and all(layer.portable == portable for layer in grouped)


def test_what_decodes_images_stands_in_the_graph_once(models: Models) -> None:
    """Two signatures take files, in one of these models one alone does: the reader is as often in its graph."""
    found = {}
    for name in ("seven", "zoome", "biopsy"):
        saved = loader_impl.parse_saved_model(str(models.exports[name].folder))
        functions = saved.meta_graphs[0].graph_def.library.function
        found[name] = sum(node.op == "DecodePng" for function in functions for node in function.node_def)
    assert found["seven"] > 0 and found["zoome"] == found["biopsy"] == found["seven"], found


def test_saved_model_cli_shows_and_runs_it(models: Models, pictures: Path, tmp_path: Path) -> None:
    folder = str(models.exports["seven"].folder)
    cli = functools.partial(forked.start, cwd=tmp_path, module="tensorflow.python.tools.saved_model_cli")
    asked = ("--dir", folder, "--tag_set", "serve", "--signature_def", "serving_default")
    code, shown, errors = cli("show", *asked).wait()
    assert code == 0, errors[-2000:]
    for name in ("image_bytes", "classes", "probabilities", "calibrated_probabilities", "decision"):
        assert f"['{name}']" in shown
    np.save(tmp_path / "images.npy", np.array([(pictures / "photo.jpg").read_bytes()]))
    code, shown, errors = cli("run", *asked, "--inputs", f"image_bytes={tmp_path / 'images.npy'}").wait()
    assert code == 0, errors[-2000:]
    assert "Result for output key probabilities" in shown


def test_the_files_beside_the_graph(models: Models) -> None:
    folder = models.exports["zoome"].folder
    assert (folder / "assets.extra" / "labels.txt").read_text().splitlines() == ["benign", "melanoma"]
    card = read_card(folder)
    assert card["sidecar"]["run"] == {k: v for k, v in Sidecar.read(models.files["zoome"]).run.items() if k != "folder"}
    text = (folder / "assets.extra" / "model_card.md").read_text()
    for words in (
        "not a medical device",
        "Sensitivity 0.8000 (95% interval 0.7000 to 0.9000), specificity 0.7000 (95% interval 0.6000 to 0.8000)",
        "a hold-out of 12 patients",
        "train.csv",
        "400,000 pixels",
        "Apache-2.0",
    ):
        assert words in text
    assert "/nowhere" not in text + json.dumps(card)
    other = (models.exports["biopsy"].folder / "assets.extra" / "model_card.md").read_text()
    assert "PHANTOMS" in other and "are not at hand" in other
    config = (models.serving / "models.config").read_text()
    assert all(f'name: "{name}" base_path: "/models/{name}"' in config for name in models.files)
    for name in ("docker-compose.yml", "batching.config", "CALLS-zoome.md", "CALLS-biopsy.md", "CALLS-seven.md"):
        text = (models.serving / name).read_text()
        assert text and "$name" not in text and str(models.serving.parent) not in text.replace(str(models.serving), "")


@pytest.mark.parametrize(
    ("store", "words"),
    [
        ({}, "Squeezed to 40 px, then resampled to 32 px."),  # of runs before there was a choice
        ({"crop": "whole"}, "Squeezed to 40 px, then resampled to 32 px."),
        ({"crop": "centre"}, "Cut to the largest square at its centre, resized to 40 px, then resampled to 32 px."),
    ],
)
def test_the_card_says_how_pictures_are_made_square(store: dict[str, str], words: str, tmp_path: Path) -> None:
    made = {"store": {"stored_px": 40, **store}, "metadata": None}
    sidecar = Sidecar("zoome", ("benign", "melanoma"), 32, made, 0.5, "fixed beforehand", {})
    content = card_content(Card(tmp_path / "a.keras", "a.keras", sidecar, {}, None), tmp_path / "a" / "1", Limits())
    lines = model_card(content, tmp_path).splitlines()
    assert f"- {words}" in lines and sum("then resampled" in line for line in lines) == 1


def test_the_servers_image_has_one_version(models: Models) -> None:
    text = (models.serving / "docker-compose.yml").read_text()
    assert re.search(r"image: tensorflow/serving:\$\{TF_SERVING_VERSION:-\d+\.\d+\.\d+\}\n", text)


def test_server_files_parse_with_the_official_protos(models: Models) -> None:
    pytest.importorskip("tensorflow_serving.apis", reason="needs tensorflow-serving-api")
    from google.protobuf import text_format
    from tensorflow_serving.apis import prediction_log_pb2
    from tensorflow_serving.config import model_server_config_pb2

    config = model_server_config_pb2.ModelServerConfig()
    text_format.Parse((models.serving / "models.config").read_text(), config)
    assert sorted(one.name for one in config.model_config_list.config) == sorted(models.files)
    for name, export in models.exports.items():
        seen = set()
        for record in tf.data.TFRecordDataset(str(export.folder / "assets.extra" / FILE)):
            request = prediction_log_pb2.PredictionLog.FromString(record.numpy()).predict_log.request
            assert request.model_spec.name == name
            if name == "seven" and request.model_spec.signature_name not in seen:
                inputs = {key: tf.constant(tf.make_ndarray(value)) for key, value in request.inputs.items()}
                assert tf.saved_model.load(str(export.folder)).signatures[request.model_spec.signature_name](**inputs)
            seen.add(request.model_spec.signature_name)
        assert seen == set(export.signatures)


def test_the_command_says_what_it_wrote_and_what_was_wrong(models: Models, tmp_path: Path, inside: Any) -> None:
    def refused(*arguments: str) -> str:
        done: Finished = inside("export", *arguments)
        assert done.code == 2 and "Traceback" not in done.errors
        return done.errors

    model, out = str(models.files["seven"]), str(tmp_path / "out")
    done = inside("export", "--model", model, "--out", out, "--name", "lesions", "--max-images", "8")
    assert done.code == 0, done.errors
    assert f"{out}/lesions/1" in done.shown
    assert read_card(tmp_path / "out" / "lesions" / "1")["limits"]["max_images"] == 8
    before = sorted((tmp_path / "out").rglob("*"))
    words = refused("--model", model, "--out", out, "--name", "lesions", "--version", "1")
    assert "lesions/1: this version exists already" in words and "next free one is 2" in words
    assert sorted((tmp_path / "out").rglob("*")) == before
    assert "no such model file" in refused("--model", "none.keras", "--out", out)
    assert "letters, digits" in refused("--model", model, "--out", out, "--name", "../evil")
    assert "at least 1" in refused("--model", model, "--out", out, "--max-images", "0")
    assert "above 0" in refused("--model", model, "--out", out, "--version", "0")
