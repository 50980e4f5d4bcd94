"""What a run ran on: versions, machine and source revision. Nothing of it is imported to be asked for its version."""

import contextlib
import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

from melano_tf import __version__

PACKAGES = (
    "tensorflow",
    "keras",
    "numpy",
    "pandas",
    "scikit-learn",
    "matplotlib",
    "opencv-python-headless",
    "openslide-python",
    "openslide-bin",
    "tf-keras-vis",
    "imagehash",
    "shapely",
    "tifffile",
)


CONTROL_GROUPS, OWN_GROUPS = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")


def environment(threads: int) -> dict[str, Any]:
    """Versions, machine and source revision, as a run records them. It imports none of the packages."""
    return {
        "melano_tf": __version__,
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
        "platform": platform.platform(),
        "processor": _processor(),
        "cores": cores(),
        "threads": threads,
        "source_revision": source_revision(),
    }


def cores() -> int:
    """Cores that this process may use: of a machine that is shared out among jobs (SLURM, taskset) its own alone, of a
    container with a quota of their time (docker --cpus, Kubernetes' limits) as many as that makes, rounded up."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        there = len(os.sched_getaffinity(0))
    else:
        there = os.cpu_count() or 1
    return min([there, *cpu_quotas(CONTROL_GROUPS, OWN_GROUPS)])


def cpu_quotas(mounted: Path, own: Path) -> list[int]:
    """Cores that each quota of this process's control groups makes, and of the groups above them; each at least 1.

    Args:
        mounted: where control groups are mounted.
        own: the file that names this process's. Inside a container it may name what only the host sees: then the
            container's own group is what is mounted.
    """
    try:
        lines = [line.split(":", 2) for line in own.read_text(encoding="utf-8").splitlines()]
    except OSError:
        return []  # no Linux
    quotas: list[int] = []
    for _, controllers, group in (line for line in lines if len(line) == 3):
        names = ["", "unified"] if not controllers else [controllers, "cpu"] if "cpu" in controllers.split(",") else []
        below = [part for part in group.split("/") if part]
        for mount in dict.fromkeys(mounted / name for name in names):
            folders = [mount.joinpath(*below[:depth]) for depth in range(len(below) + 1)]
            quotas += [cores for folder in folders if (cores := _quota(folder)) is not None]
    return quotas


def _quota(group: Path) -> int | None:
    """Of one control group, of version 2 or 1; None where it has none."""
    with contextlib.suppress(OSError, ValueError):
        if (group / "cpu.max").is_file():
            quota, period = (group / "cpu.max").read_text(encoding="utf-8").split()
        else:
            files = (group / "cpu.cfs_quota_us", group / "cpu.cfs_period_us")
            quota, period = (file.read_text(encoding="utf-8") for file in files)
        if int(quota) > 0:  # "max" is no number, and -1 none
            return -(-int(quota) // int(period))
    return None


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def _processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or "unknown"


def source_revision() -> str | None:
    """The git revision of the checkout that this code runs from ("…+changes" if edited), or None once installed."""
    package = Path(__file__).resolve().parent
    if not (package.parent / ".git").exists():
        return None

    def git(*arguments: str) -> str:
        done = subprocess.run(
            ["git", "-C", str(package.parent), *arguments], capture_output=True, text=True, timeout=20, check=True
        )
        return done.stdout.strip()

    try:
        return git("rev-parse", "HEAD") + ("+changes" if git("status", "--porcelain", "--", "melano_tf") else "")
    except (OSError, subprocess.SubprocessError):
        return None
