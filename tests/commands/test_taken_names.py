"""Somebody else's file of a name that a command writes is said before the work."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from melano_tf.commands.check import CheckSettings, check
from melano_tf.commands.compare import CompareSettings, compare
from melano_tf.commands.features import FeaturesSettings, features
from melano_tf.commands.similar import KIND, SimilarSettings, similar
from melano_tf.errors import InputError
from melano_tf.runs.sidecar import Sidecar
from melano_tf.serving import export
from tests.commands.test_predict import card
from tests.pipelines.small_slides import write_slide_file


def checked(data: Path, out: Path) -> object:
    return check(CheckSettings((data / "none.csv",), out=out), print)


def compared(data: Path, out: Path) -> object:
    return compare(CompareSettings((data / "a", data / "b"), out), print)


def similar_ones(data: Path, out: Path) -> object:
    Sidecar(KIND, ("a", "b"), 32, {}, None, "", {}).write(data / "teacher.keras")
    (data / "teacher.keras").touch()
    (data / "asked.jpg").touch()
    (data / "gallery").mkdir(exist_ok=True)  # without an image
    return similar(SimilarSettings(data / "teacher.keras", data / "asked.jpg", data / "gallery", out), print)


def featured(data: Path, out: Path) -> object:
    write_slide_file(data / "s1.tiff", 1)
    (data / "slides.csv").write_text("slide_id,path,mpp\ns1,s1.tiff,\n")
    return features(FeaturesSettings(data / "slides.csv", out, model=data / "no network"), print)


def exported(data: Path, out: Path) -> object:
    return export.export_model(card(), out, "one", limits=object())  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "asked, name",
    [
        *((checked, name) for name in ("records.csv", "copies.csv", "check.json")),
        *((compared, name) for name in ("comparison.csv", "comparison.md")),
        *((similar_ones, name) for name in ("similar.png", "similar.csv")),
        (featured, "features.csv"),
        *((exported, name) for name in ("models.config", "CALLS-one.md")),
    ],
)
def test_it_is_said_before_the_work(
    asked: Callable[[Path, Path], object], name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def begun(*_: Any) -> None:
        raise AssertionError("the work was begun")

    monkeypatch.setattr(export, "make_graph", begun)
    data, out = tmp_path / "data", tmp_path / "out"
    data.mkdir()
    out.mkdir()
    (out / name).write_text("mine")
    with pytest.raises(InputError, match=rf"{name}: was not made by this program, and would be replaced"):
        asked(data, out)
    assert {path.name: path.read_text() for path in out.iterdir()} == {name: "mine"}
    (out / name).unlink()
    with pytest.raises((InputError, AssertionError), match=r"^(?!.*was not made by this program)"):
        asked(data, out)
