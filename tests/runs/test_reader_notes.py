"""Readers' notes: nothing confirmed is lost, by many writers at once, by a kill, by odd words."""

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from melano_tf.errors import InputError
from melano_tf.runs.reader_notes import (
    BLIND,
    OPEN,
    Note,
    append,
    checked_reader,
    last_notes,
    notes_file,
    now,
    of_cohort,
    read_notes,
)

CHECKOUT = Path(__file__).parents[2]
WRITER = """
import sys
from pathlib import Path
from melano_tf.runs.reader_notes import Note, append, now
for number in range(int(sys.argv[3])):
    append(Path(sys.argv[1]), Note(now(), "ada", "open", f"{sys.argv[2]}-{number}", "agree", "x" * 300))
    print(number, flush=True)
"""


def writer(folder: Path, name: str, count: int) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", WRITER, str(folder), name, str(count)]
    return subprocess.Popen(command, cwd=CHECKOUT, stdout=subprocess.PIPE, text=True)


def note(**changes: str) -> Note:
    return Note(**{"time": now(), "reader": "ada", "mode": OPEN, "case": "P01-1", "verdict": "agree", **changes})


def test_two_processes_at_once_lose_none(tmp_path: Path) -> None:
    writers = [writer(tmp_path, name, 150) for name in ("a", "b")]
    for one in writers:
        assert one.wait() == 0
    found = read_notes(tmp_path)["case"].tolist()
    assert sorted(found) == sorted(f"{name}-{number}" for name in "ab" for number in range(150))
    for name in "ab":  # each writer's own in its order
        assert [case for case in found if case[0] == name] == [f"{name}-{number}" for number in range(150)]
    text = notes_file(tmp_path, "ada").read_text()
    assert text.count("time,reader") == 1


def test_what_was_confirmed_survives_a_kill(tmp_path: Path) -> None:
    one = writer(tmp_path, "k", 100_000)
    assert one.stdout is not None
    confirmed = sum(bool(one.stdout.readline()) for _ in range(25))
    one.send_signal(signal.SIGKILL)
    confirmed += len(one.stdout.read().splitlines())
    assert confirmed >= 25
    assert len(read_notes(tmp_path)) >= confirmed


def test_a_line_that_was_cut_off_spoils_no_other(tmp_path: Path) -> None:
    path = append(tmp_path, note(case="first"))
    with path.open("a") as file:
        file.write('2026-01-01,ada,open,"half')
    append(tmp_path, note(case="second"))
    assert read_notes(tmp_path)["case"].tolist()[0] == "first"
    assert path.read_text().splitlines()[-1].split(",")[3] == "second"


def test_wherever_the_power_was_lost_the_notes_before_and_after_are_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", lambda handle: None)
    words, ends = 'of "their\nown", ä', {}
    for case in ("first", "second"):
        path = append(tmp_path, note(case=case, text=words))
        ends[case] = path.stat().st_size
    content = path.read_bytes()
    for length in range(len(content) + 1):
        path.write_bytes(content[:length])
        for case in ("third", "fourth"):
            append(tmp_path, note(case=case, text=words))
        found = read_notes(tmp_path)
        whole = [case for case, end in ends.items() if end <= length] + ["third", "fourth"]
        assert [case for case in found[found["text"] == words]["case"] if case in whole] == whole, length
        assert found["case"].tolist()[-2:] == ["third", "fourth"] and len(found) <= len(whole) + 1, length


@pytest.mark.parametrize("before", [0, 1])
def test_of_a_note_for_which_the_disk_is_full_nothing_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: int
) -> None:
    for number in range(before):
        append(tmp_path, note(case=f"before-{number}"))
    path, write, left = notes_file(tmp_path, "ada"), os.write, iter(range(3))
    found = path.read_bytes() if before else b""

    def fills(handle: int, content: bytes) -> int:
        if next(left, None) is None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(handle, content[:60])  # to behind the quote of the text

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", fills)
        with pytest.raises(InputError, match=r"No space left on device.*the note was not kept"):
            append(tmp_path, note(case="full", text="nests, " * 60))
    assert path.read_bytes() == found
    append(tmp_path, note(case="after"))
    assert read_notes(tmp_path)["case"].tolist() == [*(f"before-{number}" for number in range(before)), "after"]


@pytest.mark.parametrize("words", ['nests, "large"\r\n=2+2\tä µ 猫', "nests\rlarge"])
def test_odd_words_come_back_as_they_were(tmp_path: Path, words: str) -> None:
    append(tmp_path, note(text=words))
    assert read_notes(tmp_path)["text"].tolist() == [words]


def test_the_last_note_counts_and_modes_are_apart(tmp_path: Path) -> None:
    for verdict, mode in (("agree", OPEN), ("malignant", BLIND), ("disagree", OPEN)):
        append(tmp_path, note(verdict=verdict, mode=mode))
    append(tmp_path, note(reader="Bo 2", verdict="unsure"))
    last = last_notes(read_notes(tmp_path))
    assert {(row.reader, row.mode): row.verdict for row in last.itertuples()} == {
        ("ada", OPEN): "disagree",
        ("ada", BLIND): "malignant",
        ("Bo 2", OPEN): "unsure",
    }


@pytest.mark.parametrize("name", ["", "../ada", "a/b", ".hidden", "a" * 41, "a\nb/c", "con:", "x."])
def test_a_name_that_is_no_file_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="name"):
        append(tmp_path, note(reader=name))
    assert not list(tmp_path.rglob("*.csv"))


def test_names_are_tidied() -> None:
    assert checked_reader("  Ada   L. B ") == "Ada L. B"


@pytest.mark.skipif(os.getuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(InputError, match="not kept"):
        append(tmp_path, note())


def hold(folder: Path, **contents: str) -> None:
    """The run's cohort: cases and what is in their files."""
    (folder / "audit").mkdir(exist_ok=True)
    rows = [(case, "P", None, content * 16) for case, content in contents.items()]
    pd.DataFrame(rows, columns=["case", "patient", "lesion", "content"]).to_parquet(folder / "audit" / "cases.parquet")


def test_a_note_says_of_which_cohort_it_is(tmp_path: Path) -> None:
    append(tmp_path, note(case="a", text="before any table"))
    hold(tmp_path, a="ab12", b="cd34")
    append(tmp_path, note(case="a"))
    append(tmp_path, note(case="b"))
    append(tmp_path, note(case="gone"))
    assert read_notes(tmp_path)["content"].tolist() == ["", "ab12" * 4, "cd34" * 4, ""]
    hold(tmp_path, a="ab12", b="ff99", c="00aa")  # b is another file now
    own, other = of_cohort(tmp_path, read_notes(tmp_path))
    assert own["case"].tolist() == ["a", "a", "gone"] and other["case"].tolist() == ["b"]
    hold(tmp_path, c="00aa")
    assert of_cohort(tmp_path, read_notes(tmp_path))[1]["case"].tolist() == ["a", "b"]
    (tmp_path / "audit" / "cases.parquet").write_bytes(b"damaged")
    assert len(of_cohort(tmp_path, read_notes(tmp_path))[0]) == 4, "a run that keeps none knows no other"


def test_notes_of_an_earlier_version_are_read_and_written_on(tmp_path: Path) -> None:
    path = notes_file(tmp_path, "ada")
    path.parent.mkdir()
    old = "time,reader,mode,case,verdict,text,model,called,seed\n2026-01-01T10:00:00+0000,ada,blind,a,nevus,,,,3\n"
    path.write_text(old)
    hold(tmp_path, a="ab12")
    append(tmp_path, note(case="a", text="new"))
    assert path.read_text().startswith(old)
    found = read_notes(tmp_path)
    assert found["text"].tolist() == ["", "new"] and found["seed"].tolist() == ["3", ""]
    assert found["content"].tolist() == ["", "ab12" * 4] and len(of_cohort(tmp_path, found)[0]) == 2
    path.write_text("case,mode,verdict,reader,time\nb,open,agree,ada,now\n")  # as a person put its columns
    assert read_notes(tmp_path).iloc[0][["case", "verdict", "content"]].tolist() == ["b", "agree", ""]
