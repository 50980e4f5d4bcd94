"""The lock of a run's folder: one run at a time, also from several machines on one network file system.

On one machine the kernel's lock decides, which ends with its process. Between machines, where that lock may reach no
further than the machine, a file says who holds the folder, and its time goes on as long as the holder lives. Times are
compared with themselves alone: no two clocks have to agree.
"""

import contextlib
import errno
import fcntl
import json
import os
import socket
import threading
import time
import uuid
from pathlib import Path
from typing import IO, Any

from melano_tf.errors import InputError

LOCK, HOLDER = ".lock", ".lock.holder"
BEAT_S = 5.0  # between two signs of life
WATCH_S = 30.0  # so long a holder on another machine is watched; one that gives no sign of life is dead
HELD = (errno.EAGAIN, errno.EACCES)


def machine() -> str:
    """What tells this machine, since its last start, from others."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return f"{uuid.getnode():x}"


class FolderLock:
    """The lock of a folder, held until `release` or the end of the process.

    Args:
        folder: which is there and can be written.

    Raises:
        InputError: another run holds it.
        OSError: the folder cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        self._holder = self.folder / HOLDER
        self.token = json.dumps({"machine": machine(), "host": socket.gethostname(), "process": os.getpid()})
        self._over = threading.Event()
        self._file: IO[str] = (self.folder / LOCK).open("a+", encoding="utf-8")
        try:
            self._lock_here()
            self._hold()
        except BaseException:
            self._file.close()
            raise
        threading.Thread(target=self._beat, name="lock", daemon=True).start()

    def release(self) -> None:
        """Give the folder free."""
        self._over.set()
        with contextlib.suppress(OSError):
            if self._holder.read_text(encoding="utf-8") == self.token:
                self._holder.unlink()
        self._file.close()

    def _lock_here(self) -> None:
        """The lock of this machine's kernel; where a file system has none, the file alone says who holds the folder."""
        self._kernel = True
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in HELD:
                raise self._refusal(holder_of(self.folder)) from None
            self._kernel = False

    def _hold(self) -> None:
        """Write down who holds the folder; a holder that is dead gives way."""
        while True:
            try:
                handle = os.open(self._holder, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
            except FileExistsError:
                self._clear_dead()
                continue
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(self.token)
                file.flush()
                os.fsync(file.fileno())
            self._settle()
            return

    def _settle(self) -> None:
        """Wait while another run has a holder's file put aside, to look at it: of one that lives it comes back.

        Raises:
            InputError: it came back.
        """
        began, own = time.monotonic(), json.loads(self.token)
        while True:
            aside = any(self.folder.glob(f"{HOLDER}.*"))  # before the holder is read: it may come back in between
            if (found := holder_of(self.folder)) not in (own, {}):
                raise self._refusal(found)
            if not aside or time.monotonic() - began > WATCH_S / 6:
                break
            time.sleep(WATCH_S / 300)
        if found != own:
            raise self._refusal(found)

    def _clear_dead(self) -> None:
        """Take away what a dead holder left.

        Raises:
            InputError: it lives.
        """
        held = holder_of(self.folder)
        decided = self._kernel and held.get("machine") == machine()
        if not decided and _goes_on(self._holder):
            raise self._refusal(held)
        if (now := holder_of(self.folder)) not in (held, {}):  # another run took the folder since, and lives
            raise self._refusal(now)
        aside = self.folder / f"{HOLDER}.{uuid.uuid4().hex}"
        with contextlib.suppress(FileNotFoundError):  # released, or taken away by another run
            self._holder.rename(aside)  # once, whoever else tries
            if (found := _told(aside)) != held:  # the same, in this very moment
                aside.rename(self._holder)
                raise self._refusal(found)
            aside.unlink()

    def _refusal(self, held: dict[str, Any]) -> InputError:
        return InputError(
            f"{self.folder}: {_named(held)} is at work in this folder; wait for it, or choose another --out"
        )

    def check(self) -> None:
        """Raises InputError where another run took the folder: this one gave no sign of life, as if it were dead."""
        if not self._stands():
            raise InputError(
                f"{self.folder}: this run stood still for so long that another one took the folder "
                f"({_named(holder_of(self.folder))}); what was finished stands"
            )

    def _stands(self) -> bool:
        """Whether the file still names this run; another one that looks at it may put it aside for a moment."""
        began = time.monotonic()
        while True:
            try:
                return self._holder.read_text(encoding="utf-8") == self.token
            except FileNotFoundError:
                if time.monotonic() - began > WATCH_S / 6:
                    return False
                time.sleep(WATCH_S / 300)
            except OSError:  # a file system that is away for a moment
                return True

    def _beat(self) -> None:
        while not self._over.wait(BEAT_S) and self._stands():
            with contextlib.suppress(OSError):
                os.utime(self._holder)


def holder_of(folder: Path) -> dict[str, Any]:
    """Who holds a folder: machine, host, process; empty where that is not known."""
    return _told(Path(folder) / HOLDER)


def _named(held: dict[str, Any]) -> str:
    """A holder, for messages."""
    where = f" on {held['host']}" if held.get("machine") not in (None, machine()) else ""
    return f"another run (process {held.get('process', 'unknown')}{where})"


def _told(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _goes_on(path: Path) -> bool:
    """Whether a holder's file changes while it is watched."""

    def seen() -> tuple[int, int] | None:
        try:
            facts = path.stat()
        except OSError:
            return None
        return facts.st_mtime_ns, facts.st_ino

    first, began = seen(), time.monotonic()
    while first is not None and time.monotonic() - began < WATCH_S:
        time.sleep(WATCH_S / 30)
        now = seen()
        if now != first:
            return now is not None
    return False
