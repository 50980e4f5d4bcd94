"""Pictures of an unchanged run are not drawn again, and those of a changed one are."""

import re
from pathlib import Path
from typing import Any

import pytest

from melano_tf.reports import kept_pictures, run_figures
from melano_tf.reports.kept_pictures import NAME, KeptPictures
from melano_tf.reports.report_html import write_report
from tests.reports.made_run import MODEL, made_run, predictions

CASES = [f"ISIC_{number:07d}" for number in range(14)]


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by the bytes of each picture that is drawn."""
    sizes: list[int] = []
    real = run_figures.png

    def count(figure: Any) -> bytes:
        content = real(figure)
        sizes.append(len(content))
        return content

    monkeypatch.setattr(run_figures, "png", count)
    return sizes


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run whose recipe draws no curves itself, so that the report does."""
    folder = made_run(tmp_path / "run", predictions(CASES))
    for path in (folder / "figures").glob("*.png"):
        if re.match("roc|pr|reliability", path.name):
            path.unlink()
    return folder


def test_the_second_report_draws_nothing_and_is_the_same(run: Path, drawn: list[int]) -> None:
    first = write_report(run).read_bytes()
    assert len(drawn) == 4  # three of the model, one of its training
    assert write_report(run).read_bytes() == first and len(drawn) == 4


def test_only_what_changed_is_drawn_anew(run: Path, drawn: list[int]) -> None:
    write_report(run)
    history = next((run / "history").glob("*.csv"))
    history.write_text(history.read_text().replace("0.", "1.", 1))
    write_report(run)
    assert len(drawn) == 5
    path = next((run / "predictions").glob(f"{MODEL}*.parquet"))
    predictions(CASES, seed=1).to_parquet(path, index=False)
    write_report(run)
    assert len(drawn) == 8


def test_what_is_damaged_or_no_longer_shown_is_not_kept(run: Path, drawn: list[int]) -> None:
    write_report(run)
    whole = (run / NAME).read_bytes()
    (run / NAME).write_bytes(whole[:700] + bytes([whole[700] ^ 8]) + whole[701:])
    write_report(run)
    assert len(drawn) == 8 and (run / NAME).read_bytes() == whole
    (run / NAME).write_bytes(whole[: len(whole) // 2])
    write_report(run)
    assert len(drawn) == 12
    kept = KeptPictures(run)
    assert kept.png(["other"], lambda: b"other") == b"other" and len(kept.before) == 4
    kept.keep()
    assert list(KeptPictures(run).before.values()) == [b"other"]


def test_a_changed_file_of_the_code_draws_anew(
    run: Path, drawn: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = tmp_path / "code" / "__init__.py"
    code.parent.mkdir()
    code.write_text("colour = 'red'")
    monkeypatch.setattr(kept_pictures.melano_tf, "__file__", str(code))
    for text, pictures in (("colour = 'red'", 4), ("colour = 'red'", 4), ("colour = 'blue'", 8)):
        if code.read_text() != text:
            code.write_text(text)
        kept_pictures._code.cache_clear()
        write_report(run)
        assert len(drawn) == pictures
    kept_pictures._code.cache_clear()
