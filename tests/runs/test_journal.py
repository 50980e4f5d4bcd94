"""What is not ours is neither replaced nor removed: any tree of foreign files outlives whatever a run does in it."""

import os
import random
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from melano_tf.errors import InputError
from melano_tf.runs import journal
from melano_tf.runs.atomic_files import atomic
from melano_tf.runs.run_folder import Run

# Names that our own code uses, or once removed by their pattern, and names that are anybody's.
PARTS = ("work", "phantoms", "images", "tiles", "tables", "models", "logs", "train", "a", "0123456789abcdef", "weights")
LEAVES = (
    *("notes.txt", ".x.77.partial.csv", "0123456789abcdef.npy", "0123456789abcdef.json", "S1.json", "S1.parquet"),
    *(".hidden", "events.out.tfevents.1.me", "slides.xml", "best.keras", "a.csv", ".DS_Store"),
)
TREES = st.dictionaries(
    st.tuples(st.lists(st.sampled_from(PARTS), max_size=4).map(tuple), st.sampled_from(LEAVES)),
    st.binary(min_size=1, max_size=20),
    min_size=1,
    max_size=12,
)


@dataclass(frozen=True)
class Settings:
    seed: int = 0


def plant(folder: Path, tree: dict) -> dict[Path, bytes]:
    """Write a tree where nothing stands in the way; returns what was written."""
    planted = {}
    for (parts, leaf), content in tree.items():
        path = folder.joinpath(*parts, leaf)
        if not path.exists():
            with suppress(FileExistsError, NotADirectoryError):
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
                planted[path] = content
    return planted


def intact(planted: dict[Path, bytes]) -> bool:
    return all(path.is_file() and path.read_bytes() == content for path, content in planted.items())


@contextmanager
def opened(folder: Path, seed: int) -> Iterator[Run]:
    with Run(folder, "demo", Settings(seed), 1, lambda line: None) as run:
        yield run


def session(folder: Path, seed: int, fails: bool) -> None:
    """What recipes do in a folder: phantoms by key, steps with scratch work, logs, a killed step, files cleared."""
    with opened(folder, seed) as run, suppress(RuntimeError):
        drawn = run.only_folder("phantoms", f"key{seed}")
        with atomic(drawn / "sub" / "slide.tiff") as temporary:
            temporary.write_bytes(b"drawn")

        def work(scratch: Path) -> list[Path]:
            with journal.watched(scratch / "logs"):
                (scratch / "logs").mkdir(exist_ok=True)
                (scratch / "logs" / f"events.{seed}").write_text("curve")
            for name in ("checkpoint", "weights/step_1.csv"):
                with atomic(scratch / name) as temporary:
                    temporary.write_text("half done")
            if fails:
                raise RuntimeError
            run.keep_logs(scratch, "a")
            run.keep(scratch / "weights", run.folder / "weights" / "a")
            model = run.path("models", "a.keras")
            with atomic(model) as temporary:
                temporary.write_text(f"model {seed}")
            return [model]

        run.step("train/a", {"seed": seed}, work)


@pytest.fixture(autouse=True, scope="module")
def any_machine() -> Iterator[None]:
    """What a session says of the machine takes longer than all that it does with files."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("melano_tf.runs.run_folder.environment", lambda threads: {})
        yield


@settings(max_examples=60, deadline=None)
@given(before=TREES, between=TREES, after=TREES, draw=st.randoms(use_true_random=False))
def test_any_foreign_tree_survives_any_sessions(
    tmp_path_factory: pytest.TempPathFactory, before: dict, between: dict, after: dict, draw: random.Random
) -> None:
    top = tmp_path_factory.mktemp("trees")
    try:
        out = top / "out"
        planted = plant(top, before)
        with suppress(InputError):  # where `before` has put files of its own at "out"
            session(out, 0, draw.random() < 0.5)
        planted |= plant(out, between)
        for _ in range(3):
            session(out, draw.randrange(2), draw.random() < 0.4)
        [*scratch] = (path for path in (out / "work").rglob("*") if path.is_dir())
        if scratch:
            planted |= plant(draw.choice(scratch), after)
        session(out, draw.randrange(2), False)
        assert intact(planted)
    finally:
        shutil.rmtree(top)


def test_what_a_run_made_for_another_key_goes_and_nothing_else(tmp_path: Path) -> None:
    session(tmp_path / "out", 0, True)
    session(tmp_path / "out", 1, False)
    assert [path.name for path in (tmp_path / "out" / "phantoms").iterdir()] == ["key1"]
    assert not (tmp_path / "out" / "work").exists()
    assert [path.name for path in (tmp_path / "out" / "logs" / "a").iterdir()] == ["events.1"]


def test_a_folder_of_somebody_else_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    planted = plant(tmp_path / "mine", {((), "photo.jpg"): b"me", (("a",), "photo.jpg"): b"me too"})
    with pytest.raises(InputError, match="is not empty and holds no run"), opened(tmp_path / "mine", 0):
        pass
    assert {path for path in (tmp_path / "mine").rglob("*") if path.is_file()} == set(planted)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "run.json").write_text('["not", "ours"]')
    with pytest.raises(InputError, match="holds no run"), opened(tmp_path / "other", 0):
        pass
    assert [path.name for path in (tmp_path / "other").iterdir()] == ["run.json"]


def test_a_first_session_killed_before_its_record_can_be_taken_up(tmp_path: Path, monkeypatch) -> None:
    def dies(self: Run) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Run, "_open_record", dies)
        with pytest.raises(KeyboardInterrupt), opened(tmp_path / "out", 0):
            pass
    assert not (tmp_path / "out" / "run.json").exists()
    (tmp_path / "out" / "notes.txt").write_text("put in meanwhile")
    session(tmp_path / "out", 0, False)
    assert (tmp_path / "out" / "notes.txt").read_text() == "put in meanwhile"


def test_a_run_of_a_version_without_journal_goes_on(tmp_path: Path) -> None:
    session(tmp_path / "out", 0, False)
    (tmp_path / "out" / journal.NAME).unlink()
    foreign = tmp_path / "out" / "models" / "mine.keras"
    foreign.write_text("mine")
    session(tmp_path / "out", 0, False)
    assert not journal.remove(foreign)
    assert (tmp_path / "out" / "models" / "a.keras") in journal.recorded(tmp_path / "out")


def test_a_foreign_file_under_one_of_our_names_is_not_replaced(tmp_path: Path) -> None:
    journal.open_folder(tmp_path)
    (tmp_path / "table.csv").write_text("mine")
    with pytest.raises(InputError, match=r"table\.csv: was not made by this program"), atomic(tmp_path / "table.csv"):
        pass
    for _ in range(2):  # our own is
        with atomic(tmp_path / "ours.csv") as temporary:
            temporary.write_text("ours")
    assert (tmp_path / "table.csv").read_text() == "mine"


def test_whoever_asks_for_one_file_reads_no_others_name(tmp_path: Path, monkeypatch) -> None:
    """A journal grows with every file that is written, and each of them asks."""
    journal.open_folder(tmp_path)
    journal.claim(*(tmp_path / f"{number}ä.csv" for number in range(30)), tmp_path / "a.csv")
    for name in ("7ä.csv", "a.csv", "7.csv"):
        (tmp_path / name).write_text("text")
    monkeypatch.setattr(journal.json, "loads", lambda line: pytest.fail("the whole journal is read"))
    journal.check_replaceable(tmp_path / "7ä.csv")
    assert journal.remove(tmp_path / "a.csv") and not journal.remove(tmp_path / "7.csv")
    with pytest.raises(InputError, match=r"7\.csv: was not made by this program"):
        journal.check_replaceable(tmp_path / "7.csv")


def test_half_a_line_of_the_journal_names_nothing(tmp_path: Path) -> None:
    journal.open_folder(tmp_path)
    journal.claim(tmp_path / "a")
    with (tmp_path / journal.NAME).open("a") as file:
        file.write('"b')
    assert journal.recorded(tmp_path) == [tmp_path / "a"]


def test_half_a_line_takes_no_other_with_it(tmp_path: Path) -> None:
    journal.open_folder(tmp_path)
    with (tmp_path / journal.NAME).open("a") as file:
        file.write('"b')
    journal.claim(tmp_path / "a", tmp_path / "c")
    assert journal.recorded(tmp_path) == [tmp_path / "a", tmp_path / "c"]


def test_a_claim_of_which_the_disk_takes_a_part_is_written_on(tmp_path: Path, monkeypatch) -> None:
    journal.open_folder(tmp_path)
    write = os.write
    monkeypatch.setattr(os, "write", lambda handle, content: write(handle, content[:3]))
    journal.claim(tmp_path / "models" / "a.keras")
    assert journal.recorded(tmp_path) == [tmp_path / "models" / "a.keras"]


@pytest.fixture
def flushed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """(name, content) of each file in `tmp_path` that is brought to the disk; of the folder itself the names in it."""
    found, fsync = [], os.fsync

    def flush(handle: int) -> None:
        paths, inode = sorted(tmp_path.iterdir()), os.fstat(handle).st_ino
        if inode == tmp_path.stat().st_ino:
            found.append((".", " ".join(path.name for path in paths)))
        found.extend((path.name, path.read_text()) for path in paths if path.stat().st_ino == inode)
        fsync(handle)

    monkeypatch.setattr(os, "fsync", flush)
    return found


def test_what_is_claimed_is_on_the_disk_before_it_is_made(tmp_path: Path, flushed: list[tuple[str, str]]) -> None:
    """After a loss of power a file that the journal does not name would be taken for a user's."""
    journal.open_folder(tmp_path)
    flushed.clear()
    journal.claim(*(tmp_path / name for name in "abc"))
    assert flushed == [(journal.NAME, '"a"\n"b"\n"c"\n')], "once for all of them"
    for _ in range(2):  # the second time it replaces what is claimed already
        flushed.clear()
        with atomic(tmp_path / "a") as temporary:
            temporary.write_text("text")
        assert [name for name, _ in flushed][-2:] == [temporary.name, "."]
    assert len(flushed) == 2


def test_a_tidied_journal_is_on_the_disk_before_it_takes_the_others_place(
    tmp_path: Path, flushed: list[tuple[str, str]]
) -> None:
    journal.open_folder(tmp_path)
    (tmp_path / "b").write_text("")
    journal.claim(tmp_path / "a", tmp_path / "b")
    flushed.clear()
    journal.tidy(tmp_path)
    assert flushed == [(f"{journal.NAME}.anew", '"b"\n'), (".", f"{journal.NAME} b")]


def test_a_folder_is_made_while_another_process_clears_up_beside_it(tmp_path: Path, monkeypatch) -> None:
    """A worker begins a step in work/train, which is empty since the chief ended the step before."""
    session(tmp_path / "out", 0, False)
    mkdir, left = Path.mkdir, iter(range(3))

    def make(self: Path, *args: object, **kwargs: bool) -> None:
        mkdir(self, *args, **kwargs)
        if self.name == "train" and next(left, None) is not None:
            self.rmdir()

    with opened(tmp_path / "out", 0) as run:
        monkeypatch.setattr(Path, "mkdir", make)
        folder = run.scratch("train/b", "key")
        assert folder.is_dir() and next(left, None) is None and folder in journal.recorded(run.folder)
        assert run.scratch("train/b", "key") == folder


def test_a_finished_step_clears_up_while_another_process_begins_beside_it(tmp_path: Path, monkeypatch) -> None:
    rmdir = Path.rmdir

    def remove(self: Path) -> None:
        if self.name == "train":  # empty until now
            (self / "b" / "key").mkdir(parents=True)
        rmdir(self)

    monkeypatch.setattr(Path, "rmdir", remove)
    session(tmp_path / "out", 0, False)
    assert [path.name for path in (tmp_path / "out" / "work" / "train").iterdir()] == ["b"]


def test_folders_that_are_read_are_not_written_into(tmp_path: Path) -> None:
    images = tmp_path / "data" / "images"
    images.mkdir(parents=True)
    table = tmp_path / "data" / "train.csv"
    table.write_text("")
    given_ = {"--images": (images,), "--table": (table,), "--cache": None}
    for out in (images, tmp_path / "data", tmp_path, images / ".." / "images"):
        with pytest.raises(InputError, match=r"(?s)--out .*(is the folder of|holds) --(images|table)"):
            journal.refuse_mixing(out, given_)
    for out in (images / "results", tmp_path / "results", tmp_path / "data" / "results"):
        journal.refuse_mixing(out, given_)
