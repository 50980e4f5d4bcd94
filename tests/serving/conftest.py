"""Three small models and their exports, made once for all tests of this folder."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from melano_tf.serving.export import Exported, export_model
from melano_tf.serving.model_finding import file_card
from tests.papers.tiny import inside
from tests.serving import small_models
from tests.serving.pictures import FILES
from tests.serving.standin import Served, rest_server

__all__ = ["inside"]


@dataclass(frozen=True)
class Models:
    """Files of models, by the name under which they are served from `serving`."""

    serving: Path
    files: dict[str, Path]
    exports: dict[str, Exported]


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    """A two-class model with metadata, a seven-class one with colour constancy, and a spitzoid pair."""
    folder = tmp_path_factory.mktemp("served")
    makers = {"zoome": small_models.zoome_model, "seven": small_models.seven_model, "biopsy": small_models.biopsy_model}
    files = {name: make(folder / "models") for name, make in makers.items()}
    exports = {name: export_model(file_card(path), folder / "serving", name) for name, path in files.items()}
    return Models(folder / "serving", files, exports)


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of image files of every sort."""
    folder = tmp_path_factory.mktemp("pictures")
    for name, make in FILES.items():
        (folder / name).write_bytes(make())
    return folder


@pytest.fixture
def served(models: Models) -> Served:
    """The exported models behind a stand-in for the server."""
    return Served(models.serving)


@pytest.fixture
def rest(served: Served) -> Iterator[str]:
    """The address of a REST stand-in."""
    with rest_server(served) as address:
        yield address
