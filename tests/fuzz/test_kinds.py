"""A few of the damaged inputs that `experiments/fuzz.py` draws by the hundred: read or refused in one line, in time."""

import random
import time
from pathlib import Path
from typing import Any

import pytest

from tests.fuzz import kinds_of_models
from tests.fuzz.kinds import FILES, READ
from tests.fuzz.kinds_of_models import Records, judge_model, judge_resumed, judge_tiles, whole_records

LONGEST = 60.0  # seconds of one call


@pytest.mark.parametrize(("name", "count"), [("outlines", 30), ("manifests", 20), ("pictures", 30), ("slides", 5)])
def test_a_damaged_file_is_read_or_refused(tmp_path: Path, name: str, count: int) -> None:
    kind, said = FILES[name], list[str]()
    whole = kind.prepare(tmp_path / "whole")
    for number in range(count):
        case = tmp_path / str(number)
        case.mkdir()
        began = time.monotonic()
        said.append(kind.judge(whole, random.Random(f"{name} {number}"), case))
        assert time.monotonic() - began < LONGEST, number
    # The damage is neither nothing nor, but for the few slides, everything.
    assert said.count(READ) < count and (READ in said or name == "slides"), said


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> Records:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kinds_of_models, "in_this_process", lambda: None)
        return whole_records(tmp_path_factory.mktemp("records"))


@pytest.mark.parametrize(("judge", "count"), [(judge_resumed, 12), (judge_tiles, 10), (judge_model, 4)])
def test_a_damaged_record_is_read_or_refused(
    records: Records, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, judge: Any, count: int
) -> None:
    monkeypatch.setattr("melano_tf.training.tensorflow_runtime.configure", lambda threads, *_, **__: threads or 1)
    for number in range(count):
        case = tmp_path / str(number)
        case.mkdir()
        judge(records, random.Random(f"{judge.__name__} {number}"), case)  # what raises fails the test
