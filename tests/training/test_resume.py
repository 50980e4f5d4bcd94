"""kill -9 in the middle of a training, then the same again: the same bits."""

import random
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from melano_tf.training.checkpoint import before


@pytest.mark.parametrize("seed", [0, 1])
def test_killed_and_resumed_ends_with_the_same_bits(start_script: Callable, tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    at, delay = chance.randint(2, 18), chance.uniform(0.0, 0.02)
    killed = start_script("toy.py", "train", str(tmp_path / "killed"))
    killed.until(f"^step {at}$")
    time.sleep(delay)  # in the middle of a step, or while the checkpoint is being written
    killed.process.kill()
    killed.wait()
    latest = tmp_path / "killed" / "checkpoint.npz"  # gone for a moment, while the next one takes its place
    assert latest.exists() or before(latest).exists()
    shutil.copytree(tmp_path / "killed", tmp_path / "copy")

    check = start_script("toy.py", "check", str(tmp_path / "killed"))
    code, output, errors = check.wait(timeout=300)
    assert code == 0, errors
    lines = [line.split() for line in output.splitlines()]
    resumed, unbroken = lines[0], lines[1]
    assert (resumed[0], unbroken[0]) == ("resumed", "unbroken")
    assert resumed[1:] == unbroken[1:], f"killed {delay * 1000:.1f} ms after step {at}"
    interrupted = lines[2:]
    assert len(interrupted) == 5
    assert {line[-1] for line in interrupted} == {unbroken[1]}
