"""A bad row of a CSV of inputs costs that row: the others are answered, and it is named with its reason."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from melano_tf.commands.predict.asked_inputs import read_list
from melano_tf.commands.predict.settings import PredictSettings
from melano_tf.commands.predict.slides import predict_slides
from melano_tf.errors import InputError
from melano_tf.runs import journal
from tests.papers.tiny import Finished
from tests.serving.conftest import Models
from tests.serving.pictures import FILES

ROWS = ("path,age", "photo.jpg,old", "none.jpg,30", "large.jpg,41", ",50", "palette.png,", "palette.png,60")


@pytest.fixture
def table(tmp_path: Path) -> Path:
    for name in ("photo.jpg", "large.jpg", "palette.png"):
        (tmp_path / name).write_bytes(FILES[name]())
    path = tmp_path / "list.csv"
    path.write_text("\n".join(ROWS) + "\n")
    return path


@pytest.mark.parametrize("name", ["zoome", "seven"])
def test_a_bad_row_costs_that_row(
    name: str, models: Models, table: Path, tmp_path: Path, inside: Callable[..., Finished]
) -> None:
    out = tmp_path / "out"
    done = inside("predict", "--model", str(models.files[name]), "--input", str(table), "--out", str(out))
    assert done.code == 0, done.errors
    records: list[dict[str, Any]] = json.loads((out / "predictions.json").read_text())
    named = ["photo.jpg", "none.jpg", "large.jpg", "row 5", "palette.png", "palette.png"]
    assert [Path(record["input"]).name for record in records] == named, "the order of the table"
    assert [record["decision"] is not None for record in records] == [False, False, True, False, True, False]
    reasons = [record.get("unreadable", "") for record in records]
    words = ("row 2: age 'old'", "row 3: ", "", "row 5: no path", "", "row 7: palette stands in row 6 already")
    assert all(
        reason.startswith(word) and bool(reason) == bool(word) for reason, word in zip(reasons, words, strict=True)
    )
    assert "none.jpg: no such file" in reasons[1]
    assert "4 of 6 images could not be read" in done.shown
    if name == "zoome":
        assert records[2]["evidence"]["metadata"]["age"] == 41.0 and records[4]["evidence"]["metadata"]["age"] is None
        rows = pd.read_csv(out / "predictions.csv")
        assert rows["probability"].isna().tolist() == [True, True, False, True, False, True]
        assert rows["unreadable"].fillna("").tolist() == reasons


def test_a_table_without_a_good_row_is_refused(models: Models, tmp_path: Path, inside: Callable[..., Finished]) -> None:
    (tmp_path / "list.csv").write_text("path\nnone.jpg\n\nneither.jpg\n")
    arguments = ("--model", str(models.files["zoome"]), "--input", str(tmp_path / "list.csv"))
    done = inside("predict", *arguments, "--out", str(tmp_path / "out"))
    assert done.code == 2 and "row 2: " in done.errors and "row 4: " in done.errors
    assert not (tmp_path / "out" / "predictions.csv").exists()


def test_a_file_that_is_missing_takes_nobodys_name(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "one.jpg").write_bytes(b"")
    (tmp_path / "list.csv").write_text("path\na/one.jpg\nb/one.jpg\n")
    rows = read_list(tmp_path / "list.csv", ())
    assert "no such file" in rows[0]["fault"] and rows[1]["fault"] == ""


def test_a_path_that_cannot_be_one_costs_its_row(tmp_path: Path) -> None:
    """ "~lesion.jpg" is a file's own name where no user is called so, and "~" alone the user's folder."""
    (tmp_path / "~lesion.jpg").write_bytes(b"")
    long = "a" * 300 + ".jpg"
    (tmp_path / "list.csv").write_text(f"path\n~lesion.jpg\n~gone.jpg\n~/none/gone.jpg\n{long}\n")
    rows = read_list(tmp_path / "list.csv", ("slide_id", "mpp"))
    assert [row["fault"] for row in rows] == [
        "",
        f"{tmp_path / '~gone.jpg'}: no such file",
        f"{Path('~/none/gone.jpg').expanduser()}: no such file",
        f"{tmp_path / long}: cannot be read (File name too long)",
    ]
    assert rows[0]["path"] == str(tmp_path / "~lesion.jpg")


def test_a_bad_row_of_a_table_of_slides(tmp_path: Path) -> None:
    (tmp_path / "a.svs").write_bytes(b"")
    (tmp_path / "slides.csv").write_text("path,slide_id,mpp\nb.svs,,\na.svs,first,0.5\n,lost,\na.svs,../up,\n,,0.2\n")
    judged: list[tuple[str, Any]] = []

    def judge(settings: PredictSettings) -> dict[str, Any]:
        judged.append((settings.out.name, settings.mpp))
        assert settings.out.is_dir()
        return {"probabilities": {"MM": 0.25}, "threshold": 0.5, "decision": "nevus", "distance": None, "withheld": ""}

    settings = PredictSettings(tmp_path / "m.keras", tmp_path / "slides.csv", tmp_path / "out")
    (tmp_path / "out").mkdir()
    predict_slides(settings, judge, lambda line: None)
    assert judged == [("first", 0.5)]
    rows = pd.read_csv(tmp_path / "out" / "predictions.csv").fillna("")
    assert rows["slide_id"].tolist() == ["b", "first", "lost", "../up", "row 6"]
    assert rows["failed"][0].startswith("row 2: ") and rows["failed"][0].endswith("b.svs: no such file")
    assert rows["failed"].tolist()[1:] == [
        "",
        "row 4: no path",
        "row 5: slide_id '../up' cannot name a folder",
        "row 6: no path",
    ]
    np.testing.assert_equal(rows["probability_MM"].tolist(), ["", 0.25, "", "", ""])
    (tmp_path / "a.svs").unlink()
    with pytest.raises(InputError, match=r"slides\.csv: cannot be used"):
        predict_slides(settings, judge, lambda line: None)


def record_of_a_slide() -> dict[str, Any]:
    return {"probabilities": {"MM": 0.25}, "threshold": 0.5, "decision": "nevus", "distance": None, "withheld": ""}


def test_a_slide_that_takes_our_own_files_place_costs_its_row(tmp_path: Path) -> None:
    """Names that the answer's own files, somebody's file or another slide have, also in other capitals."""
    (tmp_path / "a.svs").write_bytes(b"")
    out = tmp_path / "out"
    journal.open_folder(out)
    (out / "mine").write_text("somebody's")
    names = ("predictions.csv", "Predictions.CSV", "mine", "first", "First", "x" * 300, "nul\0", "tiles.csv")
    (tmp_path / "slides.csv").write_text("path,slide_id\n" + "".join(f"a.svs,{name}\n" for name in names))
    judged: list[str] = []

    def judge(settings: PredictSettings) -> dict[str, Any]:
        judged.append(settings.out.name)
        return record_of_a_slide()

    settings = PredictSettings(tmp_path / "m.keras", tmp_path / "slides.csv", out)
    for _ in range(2):  # again into the same folder
        predict_slides(settings, judge, lambda line: None)
        rows = pd.read_csv(out / "predictions.csv", keep_default_na=False)
        failed = rows["failed"].tolist()
        own = "is what the table of all slides is called; choose another slide_id"
        assert failed[:5] == [
            f"row 2: slide_id 'predictions.csv' {own}",
            f"row 3: slide_id 'Predictions.CSV' {own}",
            f"row 4: slide_id 'mine' cannot name a folder: {out / 'mine'} is a file; choose another slide_id",
            "",
            "row 6: slide_id 'First' stands in row 5 already (capitals do not count)",
        ]
        assert failed[5].endswith("cannot name a folder (File name too long)")
        assert failed[6] == "row 8: slide_id 'nul\\x00' cannot name a folder" and failed[7] == ""
    assert judged == ["first", "tiles.csv"] * 2
    assert (out / "mine").read_text() == "somebody's"


def test_a_table_that_cannot_be_written_is_refused_before_any_slide(tmp_path: Path) -> None:
    (tmp_path / "a.svs").write_bytes(b"")
    (tmp_path / "slides.csv").write_text("path\na.svs\n")
    journal.open_folder(tmp_path / "out")
    (tmp_path / "out" / "predictions.csv").mkdir()

    def judge(settings: PredictSettings) -> dict[str, Any]:
        raise AssertionError("a slide was judged")

    settings = PredictSettings(tmp_path / "m.keras", tmp_path / "slides.csv", tmp_path / "out")
    with pytest.raises(InputError, match=r"predictions\.csv: was not made by this program"):
        predict_slides(settings, judge, lambda line: None)
