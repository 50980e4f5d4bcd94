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
    """Cores that this process may use: of a machine that is shared out among jobs (SLURM, taskset) its own alone."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


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
