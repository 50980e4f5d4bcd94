"""Pictures that a report draws, kept from one report to the next: of an unchanged run none is drawn again."""

import functools
import hashlib
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib
import pandas as pd

import melano_tf
from melano_tf import __version__
from melano_tf.runs.atomic_files import atomic
from melano_tf.runs.settings_digest import digest

NAME = ".report-pictures.zip"


class KeptPictures:
    """PNGs by what they are drawn of, in one file of a run's folder.

    A picture stands for what it was drawn of, this program's files and matplotlib's version; the archive's checksums
    are read. What the last report did not show is forgotten.

    Args:
        folder: the run's.
    """

    def __init__(self, folder: Path) -> None:
        self.path = Path(folder) / NAME
        self.before = _read(self.path)
        self.shown: dict[str, bytes] = {}

    def png(self, of: Any, draw: Callable[[], bytes]) -> bytes:
        """The picture that `draw` gives.

        Args:
            of: all that the picture depends on: tables, or what JSON can hold.
            draw: makes it, where it is not kept.
        """
        key = digest([_code(), matplotlib.__version__, _plain(of)])
        found = self.before.get(key)
        self.shown[key] = draw() if found is None else found
        return self.shown[key]

    def keep(self) -> None:
        """Write the shown ones down for the next report; nothing is written where these are the same."""
        if self.shown.keys() == self.before.keys():
            return
        with atomic(self.path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
            for key, content in sorted(self.shown.items()):
                archive.writestr(zipfile.ZipInfo(key), content)


@functools.cache
def _code() -> str:
    """What the code that draws is known by: of a checkout it changes from one report to the next."""
    package = Path(melano_tf.__file__).parent
    facts = {str(path.relative_to(package)): path.stat() for path in sorted(package.rglob("*.py"))}
    return digest([__version__, {name: (fact.st_size, fact.st_mtime_ns) for name, fact in facts.items()}])


def _plain(of: Any) -> Any:
    """For `digest`: tables by the digest of their rows."""
    if isinstance(of, pd.DataFrame):
        rows = pd.util.hash_pandas_object(of, index=False).to_numpy()
        return [list(of), [str(kind) for kind in of.dtypes], hashlib.sha256(rows.tobytes()).hexdigest()]
    if isinstance(of, dict):
        return {str(name): _plain(one) for name, one in of.items()}
    return [_plain(one) for one in of] if isinstance(of, list | tuple) else of


def _read(path: Path) -> dict[str, bytes]:
    """What is kept; a damaged archive keeps nothing, and is written anew."""
    try:
        with zipfile.ZipFile(path) as archive:
            return {name: archive.read(name) for name in archive.namelist()}
    except (OSError, zipfile.BadZipFile, EOFError, ValueError, NotImplementedError, RuntimeError):
        return {}
