"""What comes back over gRPC, over REST or out of a folder, and is none of an exported model's answers: one line."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tensorflow as tf

from melano_tf.errors import InputError
from melano_tf.runs.sidecar import Sidecar
from melano_tf.serving import exported_models, http_post
from melano_tf.serving.client import Client, FolderTransport, find_transport
from melano_tf.serving.exported_models import ExportedBiopsy, ExportedImages
from melano_tf.serving.http_post import RefusedError, UnavailableError
from melano_tf.serving.model_interface import Card, Case
from melano_tf.serving.serving_files import model_card, read_card
from melano_tf.serving.similarity_embedding import embed_images
from melano_tf.serving.transports import GRPC_AGAIN
from tests.serving.conftest import Models


def bent(change: Callable[[Any], object]) -> Any:
    """The tensor of two probabilities, with something changed in it."""
    tensor = tf.make_tensor_proto(np.float32([[0.25, 0.75]]))
    change(tensor)
    return tensor


def resized(tensor: Any, *sizes: int) -> None:
    for place, size in enumerate(sizes):
        tensor.tensor_shape.dim[place].size = size


def repeated(tensor: Any) -> None:
    """A dozen bytes that say of themselves that they are a number, some 10^12 times."""
    tensor.ClearField("tensor_content")
    tensor.float_val.append(0.5)
    resized(tensor, 2**39, 2)


TENSORS: dict[str, tuple[Callable[[], Any], str]] = {
    "three bytes": (lambda: bent(lambda one: setattr(one, "tensor_content", b"abc")), "does .buffer size"),
    "another shape": (lambda: bent(lambda one: resized(one, 3, 5)), "does .cannot reshape"),
    "no shape": (lambda: bent(lambda one: resized(one, -2, -3)), "does .+"),
    "a resource": (
        lambda: bent(lambda one: setattr(one, "dtype", tf.resource.as_datatype_enum)),
        "does .no array can be of kind 20",
    ),
    "no dtype": (lambda: bent(lambda one: setattr(one, "dtype", 0)), "does .+"),
    "no text": (lambda: tf.make_tensor_proto([b"\xff\xfe"]), "does .'utf-8' codec"),
    "endless": (lambda: bent(repeated), "larger than 67,108,864 bytes, and was not read"),
}


@pytest.mark.parametrize("name", list(TENSORS))
def test_a_tensor_over_grpc_that_is_not_what_it_says(name: str) -> None:
    pytest.importorskip("tensorflow_serving.apis", reason="needs tensorflow-serving-api")
    from tensorflow_serving.apis import predict_pb2

    make, words = TENSORS[name]
    answer = predict_pb2.PredictResponse()
    answer.outputs["classes"].CopyFrom(tf.make_tensor_proto([["benign", "melanoma"]]))
    transport: Any = find_transport("grpc://127.0.0.1:9", "zoome")
    transport._stub = SimpleNamespace(Predict=lambda request, timeout: answer)
    assert transport.call("card", {"ask": np.zeros(1, np.int32)}, 1.0)["classes"].tolist() == [["benign", "melanoma"]]
    answer.outputs["probabilities"].CopyFrom(make())
    with pytest.raises(InputError, match=f"grpc://127.0.0.1:9: .*{words}") as refused:
        Client(transport).ask("serving_default", {"image_bytes": np.array([b"a"], object)})
    assert "\n" not in str(refused.value)


def test_a_fault_of_many_lines_over_grpc_is_one_line() -> None:
    pytest.importorskip("tensorflow_serving.apis", reason="needs tensorflow-serving-api")
    import grpc

    class Fault(grpc.RpcError):
        def code(self) -> Any:
            return grpc.StatusCode.FAILED_PRECONDITION

        def details(self) -> str:
            return "the table\n\t [[node]] is not there"

    def fail(request: Any, timeout: float) -> Any:
        raise Fault

    transport: Any = find_transport("grpc://127.0.0.1:9", "zoome")
    transport._stub = SimpleNamespace(Predict=fail)
    with pytest.raises(InputError) as refused:
        transport.call("card", {"ask": np.zeros(1, np.int32)}, 1.0)
    assert str(refused.value) == "grpc://127.0.0.1:9: FAILED_PRECONDITION: the table [[node]] is not there"


# As tensorflow_serving/model_servers/http_server.cc has it, but for two that it tells as 400, as it does a bad input.
STATUSES = {
    **{"ABORTED": 409, "ALREADY_EXISTS": 409, "RESOURCE_EXHAUSTED": 429, "UNAVAILABLE": 503, "DEADLINE_EXCEEDED": 504},
    **{"UNKNOWN": 500, "INTERNAL": 500, "DATA_LOSS": 500, "INVALID_ARGUMENT": 400, "NOT_FOUND": 404},
    **{"CANCELLED": 499, "PERMISSION_DENIED": 403, "UNAUTHENTICATED": 401, "UNIMPLEMENTED": 501},
}


@pytest.mark.parametrize("name", STATUSES)
def test_what_is_asked_again_over_grpc_is_over_rest(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tensorflow_serving.apis", reason="needs tensorflow-serving-api")
    import grpc

    class Fault(grpc.RpcError):
        def code(self) -> Any:
            return grpc.StatusCode[name]

        def details(self) -> str:
            return "so it is"

    def fail(request: Any, timeout: float) -> Any:
        raise Fault

    monkeypatch.setattr(http_post, "within", lambda *_: (STATUSES[name], b'{"error": "so it is"}'))
    transports: list[Any] = [find_transport(address, "zoome") for address in ("grpc://127.0.0.1:9", "http://here")]
    transports[0]._stub = SimpleNamespace(Predict=fail)
    raised = []
    for transport in transports:
        with pytest.raises((InputError, RefusedError, UnavailableError), match="so it is") as error:
            transport.call("card", {"ask": np.zeros(1, np.int32)}, 1.0)
        raised.append(error.type)
    assert raised[0] is raised[1], name
    assert (raised[0] is UnavailableError) == (name in GRPC_AGAIN)


class Says:
    """A transport that always gives the same."""

    where = "http://here"

    def __init__(self, **outputs: Any) -> None:
        self.outputs = outputs

    def call(self, signature: str, inputs: Any, timeout: float) -> dict[str, np.ndarray]:
        return {name: np.asarray(value) for name, value in self.outputs.items()}


def images_card() -> Card:
    made = {"store": {"stored_px": 40}, "metadata": None}
    sidecar = Sidecar("zoome", ("benign", "melanoma"), 32, made, 0.5, "fixed beforehand", {})
    return Card(Path("zoome"), "zoome.keras", sidecar, {}, None)


def test_a_number_past_every_double_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"read by nobody")
    cases = [Case(tmp_path / "a.jpg")]
    [judged] = ExportedImages(images_card(), Client(Says(probabilities=[[0.25, 0.75]]))).judge(cases)
    assert not isinstance(judged, str) and judged.probabilities.tolist() == [0.25, 0.75]
    with pytest.raises(InputError, match="http://here: its answer has no probabilities"):
        ExportedImages(images_card(), Client(Says(probabilities=[[10**400, 0]]))).judge(cases)


def biopsy(monkeypatch: pytest.MonkeyPatch, *rows: dict[str, Any], **answered: Any) -> Any:
    """What an exported biopsy model makes of tiles whose answers these are."""
    monkeypatch.setattr(exported_models, "TileImages", lambda *_: None)
    monkeypatch.setattr(exported_models, "_ask_tiles", lambda *_: list(rows))
    own = images_card()
    source = replace(own.sidecar, kind="spitzoid-source")
    known = {"described": 30, "measured": 12, "from": "examples that the training held out"}
    judge = ExportedBiopsy(replace(own, companions={"source": source}, familiar=known), Client(Says(**answered)))
    tiles = pd.DataFrame({"tile": range(len(rows))})
    judge.tumour(tiles, Path())
    return judge.biopsy(tiles, Path())


def test_embeddings_of_several_widths_are_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"embeddings": np.ones(n), "tumour_probability": 0.5, "distance": 0.25 * n} for n in (3, 3, 5)]
    answered = {"probabilities": [[0.75, 0.25]], "attention": [[0.5, 0.5]]}
    found = biopsy(monkeypatch, *rows[:2], **answered)
    assert found.probability == 0.25 and found.distances.tolist() == [0.75, 0.75]
    with pytest.raises(InputError, match=r"http://here: the embeddings of its answer are none \(\(5,\)\)"):
        biopsy(monkeypatch, *rows, **answered)
    # One that is not told leaves the biopsy untold, as with multimag; it is no number.
    del rows[1]["distance"]
    assert biopsy(monkeypatch, *rows[:2], **answered).distances is None


def test_what_this_machine_cannot_run_is_one_line() -> None:
    class Split:
        structured_input_signature = ((), {})

        def __call__(self, **_: Any) -> Any:
            raise tf.errors.UnimplementedError(None, None, "no grouped convolutions\non this CPU")

    transport = FolderTransport(Path("zoome/1"))
    transport.__dict__["_model"] = SimpleNamespace(signatures={"serving_default": Split()})
    words = "zoome/1: 'serving_default' cannot be run here .no grouped convolutions on this CPU"
    with pytest.raises(InputError, match=words):
        Client(transport).ask("serving_default", {"image_bytes": np.array([b"a"], object)})


@pytest.mark.parametrize("content", ["5", "[1, 2]", "null", "[" * 100_000, '{"name": '])
def test_a_folders_damaged_card_is_one_line(content: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no exported model of this program \(it has no card\.json\)"):
        read_card(tmp_path)
    (tmp_path / "assets.extra").mkdir()
    (tmp_path / "assets.extra" / "card.json").write_text(content)
    with pytest.raises(InputError, match=r"card\.json: cannot be read \(.+\); export the model again") as refused:
        read_card(tmp_path)
    assert "\n" not in str(refused.value)


def test_a_card_for_people_of_a_run_whose_table_is_odd(models: Models, tmp_path: Path) -> None:
    card = read_card(models.exports["zoome"].folder)
    for table, words in ((["a/train.csv", 5], "train.csv, 5"), (7, "7 (")):
        card["sidecar"]["run"]["table"] = table
        assert words in model_card(card, tmp_path)


def test_an_embeddings_damaged_sidecar_is_one_line(tmp_path: Path) -> None:
    for made in ({}, {"store": 5}, {"store": {"px": 40}}):
        sidecar = replace(images_card().sidecar, kind="similarity-embedding", preprocessing=made)
        with pytest.raises(InputError, match=r"teacher\.keras: its sidecar is damaged, or of another program"):
            embed_images(Path("teacher.keras"), sidecar, [tmp_path / "a.jpg"])


def test_a_damaged_graph_is_one_line(models: Models, tmp_path: Path) -> None:
    """One bit, in the name of what a node takes."""
    shutil.copytree(models.exports["seven"].folder, tmp_path / "seven" / "1")
    graph = tmp_path / "seven" / "1" / "saved_model.pb"
    content = bytearray(graph.read_bytes())
    content[content.index(b":output:0") - 1] ^= 1
    graph.write_bytes(content)
    with pytest.raises(InputError, match="seven/1: cannot be loaded as an exported model") as refused:
        Client(FolderTransport(tmp_path / "seven" / "1")).ask("card", {"ask": np.zeros(1, np.int32)})
    assert "\n" not in str(refused.value)
