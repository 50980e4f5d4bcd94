"""A few of the odd requests and odd servers that `experiments/fuzz.py` draws by the hundred."""

import random
from pathlib import Path

import pytest

from melano_tf.serving.client import FolderTransport
from tests.fuzz.kinds_of_models import Asked, judge_graph, judge_server
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


@pytest.mark.parametrize("seed", range(8))
def test_an_odd_server_costs_one_line(asked: Asked, tmp_path: Path, seed: int, monkeypatch) -> None:
    monkeypatch.setattr("melano_tf.training.tensorflow_runtime.configure", lambda threads, *_, **__: threads or 1)
    judge_server(asked, random.Random(f"server {seed}"), tmp_path)
