"""`requirements.lock` is the environment of the documented numbers: hashed, and within the ranges of setup.py."""

import re
import runpy
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import setuptools
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
EXTRAS = ("cluster", "view", "umap", "test")


@pytest.fixture
def wanted(monkeypatch: pytest.MonkeyPatch) -> list[Requirement]:
    """What setup.py asks for, with the extras that the lock covers."""
    told: dict[str, Any] = {}
    monkeypatch.setattr(setuptools, "setup", told.update)
    runpy.run_path(str(ROOT / "setup.py"))
    lines = [*told["install_requires"], *(line for extra in EXTRAS for line in told["extras_require"][extra])]
    return [Requirement(line) for line in lines]


def locked() -> dict[str, tuple[str, int]]:
    """{package: (version, how many hashes)} of the lock."""
    text = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    parts = re.split(r"^(?=[a-zA-Z0-9])", text, flags=re.MULTILINE)
    found = {}
    for part in parts[1:]:
        name, number = re.match(r"([\w.-]+)==([^ ;\n]+)", part).groups()  # type: ignore[union-attr]
        found[canonicalize_name(name)] = (number, len(re.findall(r"--hash=sha256:[0-9a-f]{64}", part)))
    return found


def test_the_lock_holds_all_that_is_asked_for_within_its_range(wanted: list[Requirement]) -> None:
    held = locked()
    for one in wanted:
        number, _ = held[canonicalize_name(one.name)]
        assert one.specifier.contains(number), f"{one}: the lock holds {number}"
    assert all(count > 0 for _, count in held.values())


def test_the_lock_is_of_the_tensorflow_that_is_tested() -> None:
    held = locked()
    assert [held[name][0].split(".")[:2] for name in ("tensorflow", "keras")] == [
        version(name).split(".")[:2] for name in ("tensorflow", "keras")
    ]
