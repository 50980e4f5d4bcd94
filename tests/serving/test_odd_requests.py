"""A few of the odd requests and odd servers that `experiments/fuzz.py` draws by the hundred."""

import json
import random
from pathlib import Path

import pytest

from melano_tf.errors import InputError
from melano_tf.serving.client import Client, FolderTransport
from melano_tf.serving.model_finding import exported_card
from tests.fuzz.kinds import READ, command
from tests.fuzz.kinds_of_models import Asked, judge_graph, judge_server, sent
from tests.serving.conftest import Models
from tests.serving.pictures import FILES
from tests.serving.standin import Served


@pytest.fixture(scope="module")
def asked(models: Models, tmp_path_factory: pytest.TempPathFactory) -> Asked:
    image = tmp_path_factory.mktemp("asked") / "lesion.png"
    image.write_bytes(FILES["rgb.png"]())
    graphs = {name: FolderTransport(models.exports[name].folder) for name in ("zoome", "seven")}
    small = [FILES[name]() for name in sorted(FILES) if name != "large.jpg"]
    return Asked(Served(models.serving), graphs, small, image)


@pytest.mark.parametrize("seed", range(8))
def test_an_odd_request_has_an_answer_or_a_reason(asked: Asked, tmp_path: Path, seed: int) -> None:
    judge_graph(asked, random.Random(f"graph {seed}"), tmp_path)


def test_a_card_whose_numbers_are_not_all_there_is_refused(asked: Asked) -> None:
    card = Client(asked.graphs["zoome"]).card()
    assert exported_card(card, Path("zoome")).sidecar.kind == "zoome"
    with pytest.raises(InputError, match=r"cannot be read \(measured\); export the model again"):
        exported_card({**card, "measured": {"on": "nothing"}}, Path("zoome"))


@pytest.mark.parametrize("seed", range(8))
def test_an_odd_server_costs_one_line(asked: Asked, tmp_path: Path, seed: int, monkeypatch) -> None:
    monkeypatch.setattr("melano_tf.training.tensorflow_runtime.configure", lambda threads, *_, **__: threads or 1)
    judge_server(asked, random.Random(f"server {seed}"), tmp_path)


def test_a_server_that_is_not_odd_is_asked_to_its_end(asked: Asked, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("melano_tf.training.tensorflow_runtime.configure", lambda threads, *_, **__: threads or 1)
    monkeypatch.setattr(
        "tests.fuzz.kinds_of_models.odd_answer", lambda content, draw: [sent(json.dumps(content).encode())]
    )
    patient = lambda *given: command(*("60" if one == "3" else one for one in given))  # noqa: E731
    monkeypatch.setattr("tests.fuzz.kinds_of_models.command", patient)  # a busy machine loads a graph for seconds
    assert [judge_server(asked, random.Random(seed), tmp_path / str(seed)) for seed in (0, 1)] == [READ, READ]
