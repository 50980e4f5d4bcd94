"""A file, an exported folder and a server are one thing to whoever asks: the same answers in one form."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from melano_tf.serving import image_models
from melano_tf.serving.answer_record import answer_record
from melano_tf.serving.model_finding import open_model
from melano_tf.serving.model_interface import Answer, Answering, Case
from melano_tf.serving.patient_metadata import Patient
from tests.pipelines.small_slides import write_slide_file
from tests.serving.conftest import Models
from tests.serving.pictures import FILES
from tests.serving.standin import Served, rest_server


@contextmanager
def every_way(name: str, models: Models, served: Served) -> Iterator[dict[str, Answering]]:
    """The same model from its file, its exported folder and a server."""
    with rest_server(served) as address:
        yield {
            "file": open_model(models.files[name]),
            "folder": open_model(models.exports[name].folder),
            "server": open_model(Path(name), address),
        }


@pytest.mark.parametrize("name", ["zoome", "seven"])
def test_images_by_every_way(
    name: str, models: Models, served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image_models, "CHUNK", 3)
    for file in ("photo.jpg", "palette.png", "large.jpg"):
        (tmp_path / file).write_bytes(FILES[file]())
    (tmp_path / "text.jpg").write_text("no image")
    told = Patient({"age": 61.0, "sex": "male", "site": "torso"})
    cases = [Case(tmp_path / file, told) for file in ("photo.jpg", "text.jpg", "large.jpg", "palette.png")]
    found: dict[str, list[Answer]] = {}
    with every_way(name, models, served) as ways:
        for way, model in ways.items():
            done: list[int] = []
            found[way] = model.answer(cases, tmp_path, done.append)
            assert done == [3, 1], "each image counts once, though one with metadata is asked twice"
            assert (model.card.metadata is not None) == (name == "zoome")
            assert [answer.case for answer in found[way]] == cases
            records = [answer_record(answer, model.card) for answer in found[way]]
            assert [record["decision"] is None for record in records] == [False, True, False, False]
    first = found.pop("file")
    assert first[1].probabilities is None and first[1].reason
    assert np.ptp([answer.probabilities[0] for answer in first if answer.probabilities is not None]) > 1e-3
    for answers in found.values():
        for mine, theirs in zip(first, answers, strict=True):
            assert theirs.evidence == mine.evidence and bool(theirs.reason) == bool(mine.reason)
            for a, b in ((mine.probabilities, theirs.probabilities), (mine.untold, theirs.untold)):
                assert (a is None) == (b is None)
                if a is not None and b is not None:
                    assert a.dtype == b.dtype == np.float64 and a.sum() == pytest.approx(1, abs=1e-12)
                    np.testing.assert_allclose(a, b, atol=1e-5)


def test_slides_by_every_way(models: Models, served: Served, tmp_path: Path) -> None:
    cases = [
        Case(write_slide_file(tmp_path / "s1.tif", seed=1)),
        Case(write_slide_file(tmp_path / "s2.tif", seed=2, tissue=False)),
    ]
    found: dict[str, list[Answer]] = {}
    with every_way("biopsy", models, served) as ways:
        for way, model in ways.items():
            done: list[int] = []
            found[way] = model.answer(cases, tmp_path, done.append)
            assert done == [1, 1]
    assert not list(tmp_path.glob(".tiles-*")), "nothing stays in the scratch folder"
    first, empty = found.pop("file")
    assert first.probabilities is not None and first.tiles is not None
    assert empty.probabilities is None and "tissue" in empty.reason and empty.tiles is None
    for judged, none in found.values():
        assert none.reason == empty.reason
        assert judged.evidence == first.evidence and judged.tiles is not None
        np.testing.assert_allclose(judged.probabilities, first.probabilities, atol=1e-5)
        pd.testing.assert_frame_equal(judged.tiles, first.tiles, atol=1e-5, check_dtype=False)
