"""`audit`: who is judged in a finished run, against all that its models have seen."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from melano_tf.reports.audit import audit_run
from melano_tf.runs.judgements import read_record


@dataclass(frozen=True)
class AuditSettings:
    """Every judged case of a finished run against everything that its model, and what that stands on, has seen."""

    run: Annotated[Path, tyro.conf.Positional]
    """The run's folder."""
    accept_declared: bool = False
    """End well where the only overlaps are those that the paper's own method, or a setting of the run, declares."""


def audit(settings: AuditSettings, say: Callable[[str], None]) -> int:
    """Print one line a training; returns 0 without an overlap, else 1.

    Raises:
        InputError: the folder holds no run, its record is damaged, or nothing says that what lies there is of its plan.
    """
    found = audit_run(settings.run, read_record(settings.run))
    for one in found.findings:
        say(one.line())
    for note in found.notes:
        say(f"note: {note}")
    say(found.summary() if found.findings else "nothing was trained under this run's settings")
    return int(bool(found.overlaps) or (bool(found.declared) and not settings.accept_declared))
