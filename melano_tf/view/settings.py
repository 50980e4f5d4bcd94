"""Settings of `view`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro


@dataclass(frozen=True)
class ViewSettings:
    """Look at runs in the browser: cases, slides with their maps, images, errors, a reader's notes.

    The address that is shown holds a token, without which nothing is answered. Nothing of the runs is changed, but for
    the notes that readers write (notes/<reader>.csv in the run's folder).
    """

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Folders of runs, finished or not."""
    host: str = "127.0.0.1"
    """Address to listen on. 127.0.0.1: this machine alone. Any other opens the runs, patients' pictures among them, to
    everybody who can reach this machine and learns the token; the traffic is not encrypted."""
    port: int = 0
    """Port to listen on. 0: any free one."""
    cache_mib: int = 48
    """Most memory for cut tiles and pictures, in MiB."""
    browser: bool = True
    """Open the page in the browser of this machine."""
