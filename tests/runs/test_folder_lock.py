"""The lock of a run's folder, also where the kernel's lock reaches no further than one machine."""

import errno
import json
import threading
import time
from pathlib import Path

import pytest

from melano_tf.errors import InputError
from melano_tf.runs import folder_lock
from melano_tf.runs.folder_lock import HOLDER, FolderLock, holder_of
from melano_tf.runs.run_folder import Run

FAR = {"machine": "another", "host": "node7", "process": 41}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder_lock, "BEAT_S", 0.02)
    monkeypatch.setattr(folder_lock, "WATCH_S", 0.3)


def test_it_is_held_once_and_given_free(tmp_path: Path) -> None:
    lock = FolderLock(tmp_path)
    assert holder_of(tmp_path) == json.loads(lock.token)
    with pytest.raises(InputError, match=rf"another run \(process {holder_of(tmp_path)['process']}\) is at work"):
        FolderLock(tmp_path)
    lock.release()
    assert not (tmp_path / HOLDER).exists()
    FolderLock(tmp_path).release()


def test_a_dead_process_of_this_machine_gives_way_at_once(tmp_path: Path) -> None:
    (tmp_path / HOLDER).write_text(json.dumps({**FAR, "machine": folder_lock.machine()}))
    began = time.monotonic()
    FolderLock(tmp_path).release()
    assert time.monotonic() - began < 0.2


def test_a_living_run_on_another_machine_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two machines whose kernels do not know of each other's locks."""
    monkeypatch.setattr("fcntl.flock", lambda *_: None)
    lock = FolderLock(tmp_path)
    there = json.dumps({**json.loads(lock.token), **FAR})
    lock.token = there
    (tmp_path / HOLDER).write_text(there)
    with pytest.raises(InputError, match=r"another run \(process 41 on node7\) is at work in this folder; wait for it"):
        FolderLock(tmp_path)
    assert holder_of(tmp_path) == json.loads(there)
    lock.release()
    FolderLock(tmp_path).release()


def test_a_dead_run_of_another_machine_gives_way_to_one_of_many(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("fcntl.flock", lambda *_: None)
    (tmp_path / HOLDER).write_text(json.dumps(FAR))
    machines, held, refused = threading.local(), [], []
    monkeypatch.setattr(folder_lock, "machine", lambda: getattr(machines, "name", "the holder's"))

    def come(name: str) -> None:
        machines.name = name
        try:
            held.append(FolderLock(tmp_path))
        except InputError as error:
            refused.append(str(error))

    runs = [threading.Thread(target=come, args=(f"machine {number}",)) for number in range(4)]
    for run in runs:
        run.start()
    for run in runs:
        run.join()
    assert len(held) == 1 and len(refused) == 3
    assert holder_of(tmp_path) == json.loads(held[0].token)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", HOLDER]
    held[0].release()


def test_a_holder_that_is_being_looked_at_is_not_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another run has put a living holder's file aside, and puts it back: who comes in that moment does not hold."""
    monkeypatch.setattr("fcntl.flock", lambda *_: None)
    monkeypatch.setattr(folder_lock, "WATCH_S", 6.0)  # it waits for a sixth of that: the test's machine may be busy
    aside = tmp_path / f"{HOLDER}.looked-at"
    aside.write_text(json.dumps(FAR))
    back = threading.Timer(0.05, aside.rename, (tmp_path / HOLDER,))
    back.start()
    with pytest.raises(InputError, match=r"another run \(process 41 on node7\) is at work"):
        FolderLock(tmp_path)
    back.join()
    assert holder_of(tmp_path) == FAR
    # Whoever put it aside has died since: it does not come back, and keeps nobody out.
    (tmp_path / HOLDER).rename(aside)
    FolderLock(tmp_path).release()


def test_a_run_that_took_a_dead_ones_folder_first_keeps_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A network file system may tell a watcher late that another one, who watched too, holds the folder now."""
    monkeypatch.setattr("fcntl.flock", lambda *_: None)
    (tmp_path / HOLDER).write_text(json.dumps({**FAR, "host": "node3"}))

    def watched_late(path: Path) -> bool:
        path.write_text(json.dumps(FAR))
        return False

    monkeypatch.setattr(folder_lock, "_goes_on", watched_late)
    with pytest.raises(InputError, match=r"another run \(process 41 on node7\) is at work"):
        FolderLock(tmp_path)
    assert holder_of(tmp_path) == FAR
    assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", HOLDER]


def test_a_file_system_without_the_kernels_lock_is_no_other_run(tmp_path: Path, monkeypatch) -> None:
    def flock(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", flock)
    lock = FolderLock(tmp_path)
    with pytest.raises(InputError, match="another run"):  # the file alone tells, also on one machine
        FolderLock(tmp_path)
    lock.release()
    (tmp_path / HOLDER).write_text(lock.token)  # as a killed run leaves it
    FolderLock(tmp_path).release()


def test_a_run_that_was_taken_for_dead_stops(tmp_path: Path) -> None:
    """Suspended for so long that a run on another machine took its folder; woken, it neither beats nor writes on."""
    with Run(tmp_path, "toy", {"a": 1}, 1, lambda line: None) as run:
        run.step("first", {}, lambda scratch: [])
        (tmp_path / HOLDER).unlink()
        (tmp_path / HOLDER).write_text(json.dumps(FAR))
        time.sleep(0.1)
        untouched = (tmp_path / HOLDER).stat().st_mtime_ns
        time.sleep(0.1)
        assert (tmp_path / HOLDER).stat().st_mtime_ns == untouched
        done = []
        with pytest.raises(InputError, match=r"another one took the folder \(another run \(process 41 on node7\)"):
            run.step("second", {}, lambda scratch: done.append(1) or [])
        assert not done
    assert (tmp_path / "steps" / "first.json").exists() and not (tmp_path / "steps" / "second.json").exists()
    assert holder_of(tmp_path) == FAR


def test_a_file_that_is_put_aside_for_a_moment_is_not_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder_lock, "WATCH_S", 3.0)
    lock = FolderLock(tmp_path)
    (tmp_path / HOLDER).rename(tmp_path / "aside")
    threading.Timer(0.1, lambda: (tmp_path / "aside").rename(tmp_path / HOLDER)).start()
    lock.check()
    (tmp_path / HOLDER).unlink()
    with pytest.raises(InputError, match="another one took the folder"):
        lock.check()
    lock.release()
