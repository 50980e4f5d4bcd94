"""`report`: a finished run's report.html, written again from its folder alone."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro


@dataclass(frozen=True)
class ReportSettings:
    """The report of a finished run, one self-contained file, written again from what its folder holds."""

    run: Annotated[Path, tyro.conf.Positional]
    """The run's folder."""
