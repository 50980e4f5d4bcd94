"""A server changes the version that it serves while `predict` asks: rules and answers are of one version."""

import contextlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from melano_tf.errors import InputError
from melano_tf.runs.settings_digest import plain
from melano_tf.runs.sidecar import Sidecar
from melano_tf.serving.answer_record import answer_record
from melano_tf.serving.model_finding import open_model
from melano_tf.serving.model_interface import Answering, Case
from tests.serving.standin import Fault, Served, grpc_server, rest_server

OWN = object()  # the number of the folder


class Versions(Served):
    """Versions of one model without a graph: each says one probability of all images, and has its own threshold."""

    def __init__(self, **versions: tuple[float, float, Any]) -> None:
        super().__init__(Path())
        self.there = {int(number.removeprefix("v")): version for number, version in versions.items()}

    def answer(self, name: str, version: str, signature: str, inputs: Mapping[str, Any]) -> dict[str, np.ndarray]:
        number = int(version) if version else max(self.there)
        if name != "lesions" or number not in self.there:
            raise Fault(404, f"Servable not found for request: Specific({name}, {number})")
        threshold, p, called = self.there[number]
        if signature == "card":
            sidecar = Sidecar(
                "zoome",
                ("benign", "melanoma"),
                32,
                {"store": {"stored_px": 40}, "metadata": None},
                threshold,
                "fixed",
                {"loss": float("nan")},
            )
            content = {"file": "lesions.keras", "sidecar": plain(sidecar), "companions": {}, "measured": None}
            content |= {} if called is None else {"version": number if called is OWN else called}
            return {"card_json": np.array([json.dumps(content).encode()], object)}
        count = len(inputs["image_bytes"])
        return {"probabilities": np.array([[1 - p, p]] * count), "remark": np.array([b""] * count, object)}


@contextlib.contextmanager
def asked_by(way: str, served: Served) -> Iterator[str]:
    """The address of a stand-in of this kind."""
    if way == "rest":
        with rest_server(served) as address:
            yield address
        return
    pytest.importorskip("tensorflow_serving.apis", reason="needs tensorflow-serving-api")
    with grpc_server(served) as address:
        yield f"grpc://{address}"


@pytest.fixture
def image(tmp_path: Path) -> Path:
    (tmp_path / "lesion.jpg").write_bytes(b"read by nobody")
    return tmp_path / "lesion.jpg"


def said(model: Answering, image: Path) -> tuple[float, str]:
    """The probability of melanoma and the decision."""
    [answer] = model.answer([Case(image)], image.parent)
    record = answer_record(answer, model.card)
    return round(record["probabilities"]["melanoma"], 6), record["decision"]


@pytest.mark.parametrize("way", ["rest", "grpc"])
def test_answers_are_of_the_version_that_gave_the_rules(way: str, image: Path) -> None:
    served = Versions(v1=(0.3, 0.4, OWN))
    with asked_by(way, served) as address:
        model = open_model(Path("lesions"), address)
        served.there[2] = (0.9, 0.6, OWN)
        assert said(model, image) == (0.4, "melanoma")
        assert said(open_model(Path("lesions"), address), image) == (0.6, "benign")
        assert said(open_model(Path("lesions/1"), address), image) == (0.4, "melanoma")
        del served.there[1]
        words = r"no version 1 of the model 'lesions' there, or no longer; .*Specific"
        with pytest.raises(InputError, match=words) as error:
            said(model, image)
        assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize("way", ["rest", "grpc"])
def test_a_card_without_a_version_is_of_the_newest_one(way: str, image: Path) -> None:
    served = Versions(v1=(0.3, 0.4, None))
    with asked_by(way, served) as address:
        model = open_model(Path("lesions"), address)
        served.there[2] = (0.9, 0.6, None)
        assert said(model, image) == (0.6, "melanoma")


@pytest.mark.parametrize("way", ["rest", "grpc"])
def test_a_version_whose_folder_has_another_number_must_be_named(way: str, image: Path) -> None:
    served = Versions(v5=(0.3, 0.4, 1))
    with asked_by(way, served) as address:
        with pytest.raises(InputError, match=r"no version 1 of the model 'lesions' there, .*--model lesions/N"):
            open_model(Path("lesions"), address)
        served.there[1] = (0.9, 0.6, 1)
        words = r"calls itself version 1, and version 1 there is another model; --model lesions/N"
        with pytest.raises(InputError, match=words):
            open_model(Path("lesions"), address)
        assert said(open_model(Path("lesions/5"), address), image) == (0.4, "melanoma")


@pytest.mark.parametrize("odd", ["1", -1, True, 1.0, [1]])
def test_a_version_that_is_none(odd: Any) -> None:
    words = r"the model's card cannot be read \(version\)"
    with asked_by("rest", Versions(v1=(0.3, 0.4, odd))) as address, pytest.raises(InputError, match=words):
        open_model(Path("lesions"), address)
