"""A plugin of pytest for `experiments/mutation.py`: a mutant's cheapest tests come first, for a bounded time.

While mutmut records which test calls which function (its "stats"), it is recorded beside it what each test costs with
all of its fixtures; and a test counts as calling what its fixtures call, also those that an earlier test had set up.
"""

import inspect
import json
import math
import os
import threading
from collections import defaultdict
from collections.abc import Callable, Generator
from pathlib import Path
from time import perf_counter, process_time, sleep  # which no test patches
from typing import Any

import pytest
from mutmut.mutation import trampoline

COSTS = Path("costs.json")  # {test: seconds}, in mutmut's own folder, where the tests run
SECONDS = float(os.environ.get("MUTATION_SECONDS", "20"))
FAILURES = Path("failures.txt")  # of the tests of unchanged code, which mutmut does not show
BEGAN = process_time()  # what counts is work, however busy the machine is
WRAP = trampoline.wrap_in_trampoline


def with_signature(*mutants: Any, **kind: Any) -> Callable[[Any], Any]:
    """mutmut's wrapper of a function that has mutants, with the signature that Keras asks of a layer's `__init__`."""

    def wrapped(function: Any) -> Any:
        wrapper: Any = WRAP(*mutants, **kind)(function)
        wrapper.__signature__ = inspect.signature(function)
        return wrapper

    return wrapped


trampoline.wrap_in_trampoline = with_signature  # before the first mutated module is imported


def _recording() -> bool:
    return os.environ.get("MUTANT_UNDER_TEST") == "stats"


class Recorder:
    """Seconds and mutated functions of each fixture, and seconds of each test's call."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.calls: dict[str, set[str]] = defaultdict(set)
        self.tests: dict[str, float] = {}

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef: Any) -> Generator[None, Any, Any]:
        from mutmut.state import state

        before, began = set(state()._stats), process_time()
        state()._stats.clear()
        try:
            return (yield)
        finally:
            name = fixturedef.argname
            self.seconds[name] = max(self.seconds[name], process_time() - began)
            self.calls[name] |= state()._stats
            state()._stats |= before

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item: Any) -> Generator[None, Any, Any]:
        began = process_time()
        try:
            return (yield)
        finally:
            self.tests[item.nodeid] = process_time() - began + sum(self.seconds[name] for name in item.fixturenames)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_teardown(self, item: Any) -> None:
        from mutmut.state import state

        for name in item.fixturenames:
            state()._stats |= self.calls[name]

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.failed:
            with FAILURES.open("a") as file:
                file.write(f"{report.nodeid}\n{report.longreprtext}\n")

    def pytest_sessionfinish(self) -> None:
        known = json.loads(COSTS.read_text()) if COSTS.is_file() else {}
        COSTS.write_text(json.dumps(known | self.tests))


class Cheapest:
    """The tests of the module's own file first, then the cheapest; by files where they cost alike (they share
    fixtures); none is begun after SECONDS."""

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, config: Any, items: list[Any]) -> None:
        costs = json.loads(COSTS.read_text()) if COSTS.is_file() else {}
        if config.option.collectonly or not costs:
            return
        own = "test_" + os.environ.get("MUTANT_UNDER_TEST", "").rpartition(".")[0].rpartition(".")[2]

        def place(item: Any) -> tuple[bool, int, Path, float]:
            cost = costs.get(item.nodeid, 0.0)
            return item.path.stem != own, math.ceil(math.log2(max(1.0, 2 * cost))), item.path, cost

        items[:] = sorted((item for item in items if costs.get(item.nodeid, 0.0) <= SECONDS), key=place)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(self) -> bool | None:
        return True if process_time() - BEGAN > SECONDS else None


def _end_what_hangs() -> None:
    """A mutant that works or waits without end ends with the number that mutmut calls a timeout."""
    until = perf_counter() + 60 * SECONDS
    while process_time() - BEGAN < 4 * SECONDS and perf_counter() < until:
        sleep(1)
    os._exit(36)


def pytest_configure(config: pytest.Config) -> None:
    """Record, or order and bound."""
    global BEGAN
    BEGAN = process_time()
    if _recording():
        config.pluginmanager.register(Recorder())
        return
    config.pluginmanager.register(Cheapest())
    if os.environ.get("MUTANT_UNDER_TEST") not in (None, "", "fail", "list_all_tests"):
        threading.Thread(target=_end_what_hangs, daemon=True).start()
