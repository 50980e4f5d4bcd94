"""Slides in a process of their own: the same pixels, and a crash costs a line."""

import os
import signal
from pathlib import Path

import numpy as np
import pandas as pd
import process_work
import pytest
from small_slides import MPP, write_slide_file
from test_tile_store import GRID, STORE, manifest

from melano_tf.commands.doctor import DoctorSettings, examine
from melano_tf.errors import InputError
from melano_tf.pipelines import slide_apart, tile_store
from melano_tf.pipelines.slide_apart import SlideApart
from melano_tf.pipelines.slide_outcome import failure
from melano_tf.serving import asked_slides
from melano_tf.serving.model_interface import Answer, Case
from melano_tf.slides import slide as slide_module
from melano_tf.slides.slide import Slide, SlideReadError


@pytest.fixture(scope="module")
def slides(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("apart")
    for seed, name in enumerate("abc"):
        write_slide_file(folder / f"{name}.tiff", seed)
    return folder


def test_it_reads_as_a_slide_does(slides: Path) -> None:
    with Slide(slides / "a.tiff", mpp=MPP) as here, SlideApart(slides / "a.tiff", mpp=MPP) as there:
        assert (there.size, there.mpp, there.slide_id) == (here.size, here.mpp, "a")
        assert [level.size for level in there.levels] == [level.size for level in here.levels]
        np.testing.assert_array_equal(there.read(100, 80, (50, 30), 1.0), here.read(100, 80, (50, 30), 1.0))
        np.testing.assert_array_equal(there.thumbnail(4.0), here.thumbnail(4.0))
        np.testing.assert_array_equal(there.overview(8.0).blank, here.overview(8.0).blank)
        with pytest.raises(ValueError, match="cannot read 0x0 px"):
            there.read(0, 0, 0, 1.0)


def test_a_crash_is_one_line_and_the_next_read_begins_anew(slides: Path) -> None:
    with SlideApart(slides / "b.tiff", mpp=MPP) as slide:
        before = slide.read(300, 300, 20, 1.0)
        os.kill(slide._process.pid, signal.SIGABRT)
        with pytest.raises(SlideReadError, match=r"slide b .*was ended \(exit code -6\).*may be damaged"):
            slide.read(300, 300, 20, 1.0)
        np.testing.assert_array_equal(slide.read(300, 300, 20, 1.0), before)
        os.kill(slide._process.pid, signal.SIGKILL)
        slide._process.join()  # nobody is there any more who could be asked
        with pytest.raises(SlideReadError, match=r"slide b .*was ended \(exit code -9\)"):
            slide.read(300, 300, 20, 1.0)
        np.testing.assert_array_equal(slide.read(300, 300, 20, 1.0), before)


def test_a_terminals_ctrl_c_is_left_to_the_command_that_asks(slides: Path) -> None:
    """A terminal sends it to all processes of a command; one that is asked nothing had a traceback to say."""
    with SlideApart(slides / "c.tiff", mpp=MPP) as slide:
        before, process = slide.read(300, 300, 20, 1.0), slide._process.pid
        os.kill(process, signal.SIGINT)
        np.testing.assert_array_equal(slide.read(300, 300, 20, 1.0), before)
        assert slide._process.pid == process


@pytest.mark.parametrize(
    ("raised", "told"),
    [
        (InputError("slide t: no tissue"), InputError("slide t: no tissue")),
        (ValueError("cannot read 0x0 px"), ValueError("cannot read 0x0 px")),
        (KeyError("two\nlines"), SlideReadError("KeyError: 'two\\nlines'")),
        (RuntimeError("two\nlines"), SlideReadError("RuntimeError: two lines")),
    ],
)
def test_what_a_decoder_raises_is_one_line(raised: Exception, told: Exception) -> None:
    def work() -> None:
        raise raised

    fine, found = slide_apart._tried(work)
    assert not fine and (type(found), str(found)) == (type(told), str(told))
    assert slide_apart._tried(lambda: 7) == (True, 7)


def sockets() -> int:
    """How many this process has open."""
    return sum(link.is_socket() for link in Path("/proc/self/fd").iterdir())


def test_what_cannot_be_opened_is_said_as_by_a_slide(slides: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = sockets()
    with pytest.raises(InputError, match=r"none\.tiff: no such file") as refused:
        SlideApart(slides / "none.tiff")
    assert sockets() == before, refused  # also while the error is kept
    monkeypatch.setattr(slide_apart, "_serve", process_work.serve_and_die)
    with pytest.raises(InputError, match=r"slide c .*was ended \(exit code -6\)"):
        SlideApart(slides / "c.tiff", mpp=MPP)


def test_one_worker_outlives_a_slide_that_crashes_its_reader(slides, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(tile_store, "_cut", process_work.cut_or_die)
    tiles, outcomes = tile_store.write_cohort(manifest(slides, "a", "b", "c"), GRID, STORE, tmp_path, workers=1)
    assert outcomes["status"].tolist() == ["done", "failed", "done"]
    assert "was killed twice" in outcomes["reason"][1] and set(tiles["slide_id"]) == {"a", "c"}


def test_predict_outlives_it_too(slides: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asked_slides, "write_slide", process_work.write_and_die)
    answer = asked_slides.cut_slide(Case(slides / "a.tiff", mpp=MPP), GRID, STORE, tmp_path)
    assert isinstance(answer, Answer) and answer.probabilities is None and "was killed twice" in answer.reason


@pytest.mark.parametrize(
    ("reason", "told"),
    [
        ("no tile with at least 20% tissue", "{path}: no tile with at least 20% tissue"),
        ("slide t (away/t.tiff): cannot read it", "slide t (away/t.tiff): cannot read it"),
        ("t: the region reads as one colour", "t: the region reads as one colour"),
    ],
)
def test_a_reason_names_the_slide_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reason: str, told: str) -> None:
    monkeypatch.setattr(asked_slides, "spread", lambda *_, **__: [(0, failure("t", reason, 1, 0.0))])
    answer = asked_slides.cut_slide(Case(tmp_path / "t.tiff"), GRID, STORE, tmp_path)
    assert isinstance(answer, Answer) and answer.reason == told.format(path=tmp_path / "t.tiff")


def test_doctor_outlives_it_too(slides: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"slide_id": n, "path": slides / f"{n}.tiff", "patient_id": f"P{n}", "label": "benign"} for n in "ab"]
    pd.DataFrame(rows).to_csv(tmp_path / "slides.csv", index=False)
    monkeypatch.setattr(slide_apart, "_serve", process_work.serve_and_die)
    said: list[str] = []
    assert examine(DoctorSettings(slides=tmp_path / "slides.csv", paper="spitzoid", out=tmp_path), said.append) == 2
    assert sum("exit code -6" in line for line in said) == 2


def test_a_slide_too_large_for_one_picture_is_refused(slides: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slide_module, "LARGEST_PICTURE", 500)
    with Slide(slides / "a.tiff", mpp=MPP) as slide:
        assert slide.thumbnail(30.0).size
        for whole in (slide.thumbnail, slide.overview):
            with pytest.raises(SlideReadError, match=r"at 8 µm/px all of it has 64 x 48 px, more than the 500 px"):
                whole(8.0)
