import importlib.util
import os
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from tests import forked
from tests.forked import Forked

HERE = Path(__file__).parent
ON_CPU = {"CUDA_VISIBLE_DEVICES": "", "TF_CPP_MIN_LOG_LEVEL": "3"}


@pytest.fixture(scope="session")
def toy() -> ModuleType:
    """The module toy.py."""
    spec = importlib.util.spec_from_file_location("training_toy", HERE / "toy.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def start_script() -> Callable[..., Forked]:
    """Start a script of this folder in a process of its own, on the CPU."""

    def start(name: str, *arguments: str) -> Forked:
        return forked.script(HERE / name, *arguments, environment={**os.environ, **ON_CPU})

    return start
