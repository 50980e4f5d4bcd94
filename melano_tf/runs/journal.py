"""What this program has made in a folder, so that nothing else there is ever replaced or removed.

A folder that belongs to this program (a run's, an answer's) holds a journal: one line a path, appended before the file
is written. Whoever removes asks the journal: what does not stand in it is somebody else's and stays as it is, whatever
its name. A path belongs to the nearest journal above it; where there is none, nothing is recorded and nothing removed.
"""

import contextlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from melano_tf.errors import InputError

NAME = ".melano_tf.journal"
HALF = ".partial"  # in the name of a file that is being written
ATTEMPTS = 5  # to make a folder while other processes clear up beside it


def begin(folder: Path, ours: Iterable[Path] = (), found: Iterable[Path] = ()) -> None:
    """Make `folder` one of this program's, unless it is.

    Args:
        folder: which is there.
        ours: files that a version without journal recorded as made.
        found: files that may be that version's: they may be replaced, and are never removed.
    """
    try:
        with (Path(folder) / NAME).open("x", encoding="utf-8"):
            pass
    except FileExistsError:
        return
    claim(*ours)
    claim(*found, only_found=True)


def open_folder(folder: Path) -> Path:
    """A folder for an answer, made if missing; what a user keeps in it is neither replaced nor removed."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    begin(folder)
    return folder


def is_ours(folder: Path) -> bool:
    """Whether the folder itself has a journal."""
    return (Path(folder) / NAME).is_file()


def _place(path: Path) -> Path:
    """Where a file lies; a link is its own place, not what it points to."""
    return Path(path).parent.resolve() / Path(path).name


def _root(folder: Path) -> Path | None:
    """The nearest folder with a journal: this one or one above it."""
    folder = Path(folder).resolve()
    return next((one for one in (folder, *folder.parents) if is_ours(one)), None)


def _line(root: Path, path: Path, only_found: bool = False) -> str:
    name = str(_place(path).relative_to(root))
    return json.dumps([name] if only_found else name) + "\n"


def claim(*paths: Path, only_found: bool = False) -> None:
    """Record paths, to be called before they are made (or as found; see `begin`); then that is on the disk.

    Of files alone that are half-written it need not be: they are on the disk themselves only when they are renamed.

    Raises:
        OSError: it could not be written (a full disk).
    """
    flush = any(HALF not in Path(path).name for path in paths)
    lines: dict[Path, list[str]] = {}
    for path in paths:
        root = _root(Path(path).parent)
        if root is not None:
            lines.setdefault(root, []).append(_line(root, path, only_found))
    for root, own in lines.items():
        _append(root / NAME, own, flush)


def _append(file: Path, lines: Iterable[str], flush: bool) -> None:
    handle = os.open(file, os.O_RDWR | os.O_APPEND)
    try:
        size = os.fstat(handle).st_size
        if size and os.pread(handle, 1, size - 1) != b"\n":
            os.write(handle, b"\n")  # behind half a line, which a full disk or a loss of power left
        for line in lines:  # a short write each, at the end of the file: several processes may record at once
            content = line.encode()
            while content:
                content = content[os.write(handle, content) :]
        if flush:  # as the file is that it vouches for: one that the journal has lost would be somebody else's
            os.fsync(handle)
    finally:
        os.close(handle)


def recorded(folder: Path, only_found: bool = False) -> list[Path]:
    """What this program has made (or found) in a folder and below it, each path once, in order."""
    root = _root(folder)
    if root is None:
        return []
    names: dict[str, None] = {}
    for line in _lines(root):
        with contextlib.suppress(ValueError):  # the last line of a machine that lost its power
            name = json.loads(line)
            if isinstance(name, list) == only_found:
                names[name[0] if only_found else name] = None
    inside = str(Path(folder).resolve().relative_to(root))
    return [root / name for name in names if inside == "." or name == inside or name.startswith(inside + os.sep)]


def _lines(root: Path) -> list[str]:
    return (root / NAME).read_text(encoding="utf-8", errors="replace").splitlines()


def _stands(path: Path, *only_found: bool) -> bool:
    """Whether a journal names a path, as made (False) or as found (True)."""
    root = _root(path.parent)
    if root is None:
        return False
    lines = _lines(root)  # compared as they stand: a run of thousands of files asks for each of them
    return any(_line(root, path, kind).rstrip() in lines for kind in only_found)


def check_replaceable(path: Path) -> None:
    """Nothing stands where a file is to be written, or what this program made.

    Raises:
        InputError: in one of this program's folders stands a file of that name which it did not make.
    """
    path = _place(path)
    if os.path.lexists(path) and _root(path.parent) is not None and not _stands(path, False, True):
        raise _foreign(path)


def check_free(folder: Path, *names: str) -> None:
    """The same of files that are to be written into a folder which `open_folder` makes one of this program's later,
    to be called before the work: nothing is written.

    Raises:
        InputError: as `check_replaceable`.
    """
    for path in (_place(Path(folder) / name) for name in names):
        if os.path.lexists(path) and not (is_ours(folder) and _stands(path, False, True)):
            raise _foreign(path)


def _foreign(path: Path) -> InputError:
    return InputError(
        f"{path}: was not made by this program, and would be replaced; move it away, or choose another --out"
    )


def remove(path: Path) -> bool:
    """Remove a file, if this program made it; returns whether it did."""
    path = _place(path)
    if not os.path.lexists(path) or not _stands(path, False):
        return False
    path.unlink()
    return True


def make_folder(folder: Path) -> None:
    """Record a folder and make it, with those above it.

    Raises:
        OSError: it cannot be made.
    """
    claim(folder)
    for _ in range(ATTEMPTS - 1):
        with contextlib.suppress(FileNotFoundError):  # a folder above it was empty, and `clear` took it elsewhere
            folder.mkdir(parents=True, exist_ok=True)
            return
    folder.mkdir(parents=True, exist_ok=True)


def clear(folder: Path, top: Path | None = None) -> None:
    """Remove what this program made in a folder, and the folders that this leaves empty, with `folder` itself.

    Args:
        folder: below which.
        top: up to this one, without it, also the folders above `folder` that this leaves empty.
    """
    folder = Path(folder).resolve()
    ours, folders = recorded(folder), {folder}
    for path in ours:
        if path.is_dir() and not path.is_symlink():
            folders.add(path)
        else:
            path.unlink(missing_ok=True)
        folders |= {parent for parent in path.parents if parent.is_relative_to(folder)}
    if top is not None:
        folders |= {parent for parent in folder.parents if Path(top).resolve() in parent.parents}
    for one in sorted(folders, key=lambda path: len(path.parts), reverse=True):
        with contextlib.suppress(OSError):  # not empty (another process works there, perhaps since now), or not there
            one.rmdir()


def sweep(folder: Path) -> None:
    """Remove what a killed process of this program left half-written."""
    for path in recorded(folder):
        if HALF in path.name and path.is_file():
            path.unlink()


def tidy(folder: Path) -> None:
    """Sweep one of this program's folders, and forget what is no longer there; for whoever has it to himself."""
    from melano_tf.runs.atomic_files import sync_folder  # here: that module stands on this one

    sweep(folder)
    root = Path(folder).resolve()
    lines = [
        _line(root, path, only_found)
        for only_found in (False, True)
        for path in recorded(root, only_found)
        if os.path.lexists(path)
    ]
    anew = root / f"{NAME}.anew"
    with anew.open("w", encoding="utf-8") as file:
        file.write("".join(lines))
        file.flush()
        os.fsync(file.fileno())
    anew.replace(root / NAME)
    sync_folder(root)


@contextlib.contextmanager
def watched(folder: Path) -> Iterator[None]:
    """Record the files that appear in a folder meanwhile, for a library that names them itself."""
    before = set(folder.iterdir()) if folder.is_dir() else set()
    yield
    if folder.is_dir():
        claim(*sorted(set(folder.iterdir()) - before))


def refuse_mixing(out: Path, given: Mapping[str, Sequence[Path] | Path | None]) -> None:
    """`out` is none of the folders given, and holds none of them: what is written would stand among a user's files.

    Args:
        out: the folder to be written.
        given: files and folders to be read (or shared), by option.

    Raises:
        InputError: names both.
    """
    place = Path(out).resolve()
    for option, paths in given.items():
        for path in [paths] if isinstance(paths, Path) else (paths or ()):
            whole = Path(path).resolve()
            folder = whole if whole.is_dir() or not whole.suffix else whole.parent
            if folder.is_relative_to(place):
                where = "is the folder of" if folder == place else "holds"
                raise InputError(f"--out {out}: {where} {option} {path}; choose a folder of its own for the results")
