"""What a run may use of its machine."""

import os
import subprocess
import sys

import pytest

CODE = """
import os, sys
os.sched_setaffinity(0, {int(sys.argv[1])})
from melano_tf.environment import cores, environment
from melano_tf.papers.run_settings import Running
print(cores(), environment(0)["cores"], Running(jobs=0).processes())
"""


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no such thing on this system")
def test_cores_are_those_of_the_job_and_not_the_machines() -> None:
    """As SLURM and taskset give a process some of a node's."""
    asked = [sys.executable, "-c", CODE, str(max(os.sched_getaffinity(0)))]
    assert subprocess.run(asked, capture_output=True, text=True, check=True).stdout.split() == ["1", "1", "1"]
