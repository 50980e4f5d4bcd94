"""Who is whose, and what is in each file: kept for `audit`, which finds from it what belongs together."""

import pandas as pd

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
