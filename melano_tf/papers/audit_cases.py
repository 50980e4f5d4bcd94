"""Who is whose, and what is in each file: kept for `audit`, which finds from it what belongs together."""

from collections.abc import Sequence

import pandas as pd

from melano_tf.dermoscopy.duplicates import PAIR_COLUMNS
from melano_tf.papers.shell import Work
from melano_tf.training.fit import write_frame

CASES = ("case", "patient", "lesion", "content")  # columns of audit/cases.parquet


def write_cases(work: Work, cases: pd.DataFrame) -> None:
    """Keep them in audit/cases.parquet; a process that only helps leaves that to the one which decides.

    Args:
        work: the run at work.
        cases: columns `CASES`: slide or image, patient and lesion (None where not known), checksum.
    """
    if work.decides:
        work.run.made_output([write_frame(work.path("audit", "cases.parquet"), cases)], "cases", {})


def write_copies(work: Work, pairs: Sequence[tuple[str, str]], kind: str) -> None:
    """Keep pairs of cases that share equal files in copies.csv, and count them in run.json: where a case may hold
    several files, its checksum alone does not tell that.

    Args:
        work: the run at work.
        pairs: names of both cases.
        kind: of copy, as run.json counts them.
    """
    if work.decides:
        table = pd.DataFrame([(*pair, kind, 0) for pair in pairs], columns=list(PAIR_COLUMNS))
        work.run.made_output([write_frame(work.path("copies.csv"), table)], "copies", {})
        work.run.note(copies={kind: len(pairs)} if pairs else {})
