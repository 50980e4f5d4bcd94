"""What a run may use of its machine."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from melano_tf import environment

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


@pytest.mark.parametrize(
    "own, files, cores",
    [
        ("0::/\n", {"cpu.max": "200000 100000\n"}, 2),  # a container that sees its own group as the root
        ("0::/\n", {"cpu.max": "150000 100000\n"}, 2),
        ("0::/\n", {"cpu.max": "20000 100000\n"}, 1),
        ("0::/\n", {"cpu.max": "max 100000\n"}, 64),
        ("0::/\n", {"cpu.max": "9900000 100000\n"}, 64),  # more than there are
        ("0::/\n", {}, 64),  # the root of a machine
        ("0::/a.slice/job\n", {"a.slice/cpu.max": "300000 100000", "a.slice/job/cpu.max": "max 100000"}, 3),
        ("0::/../other\n", {"cpu.max": "500000 100000"}, 5),
        (
            "4:cpu,cpuacct:/docker/f00\n",
            {"cpu,cpuacct/cpu.cfs_quota_us": "250000", "cpu,cpuacct/cpu.cfs_period_us": "50000"},
            5,
        ),
        ("1:cpu:/job\n0::/\n", {"cpu/job/cpu.cfs_quota_us": "700000", "cpu/job/cpu.cfs_period_us": "100000"}, 7),
        ("1:cpu:/\n", {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000"}, 64),
        ("3:cpuset:/\n", {"cpuset/cpu.cfs_quota_us": "100000", "cpuset/cpu.cfs_period_us": "100000"}, 64),
        ("0::/\n", {"cpu.max": "wrong"}, 64),
        ("nothing of the kind", {"cpu.max": "200000 100000"}, 64),
    ],
)
def test_a_containers_quota_is_heeded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own: str, files: dict[str, str], cores: int
) -> None:
    for name, content in files.items():
        file = tmp_path / "groups" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content)
    (tmp_path / "own").write_text(own)
    monkeypatch.setattr(environment, "CONTROL_GROUPS", tmp_path / "groups")
    monkeypatch.setattr(environment, "OWN_GROUPS", tmp_path / "own")
    monkeypatch.setattr("os.sched_getaffinity", lambda process: set(range(64)), raising=False)
    assert environment.cores() == cores


def test_where_there_are_no_control_groups_all_cores_are_there(tmp_path: Path) -> None:
    assert environment.cpu_quotas(tmp_path, tmp_path / "own") == []
