"""One and two logical CPU devices, in a process of its own (devices are fixed once TensorFlow has started)."""

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest


@pytest.fixture(scope="module")
def answer(start_script: Callable) -> dict[str, Any]:
    code, output, errors = start_script("two_devices.py").wait(timeout=300)
    assert code == 0, errors
    found = json.loads(output.splitlines()[-1])
    assert found["replicas"] == 2
    return found


@pytest.mark.parametrize("kind", ["plain", "mined", "clipped", "normalised"])
def test_one_and_two_devices_give_the_same_losses(answer: dict[str, Any], kind: str) -> None:
    one, two = answer[kind]
    assert len(one["losses"]) == 9
    np.testing.assert_allclose(one["losses"], two["losses"], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(one["epochs"], two["epochs"], rtol=1e-4)
    np.testing.assert_allclose(one["norm"], two["norm"], rtol=1e-5)
    assert len(one["terms"]) == (3 if kind == "mined" else 0)
    np.testing.assert_allclose(one["terms"], two["terms"], rtol=1e-4)
    if one["terms"]:
        np.testing.assert_allclose(np.sum(two["terms"], axis=1), two["epochs"], rtol=1e-5)


def test_mining_and_clipping_change_the_training(answer: dict[str, Any]) -> None:
    assert not np.allclose(answer["plain"][0]["losses"], answer["mined"][0]["losses"], rtol=1e-2)
    assert not np.allclose(answer["plain"][0]["losses"], answer["clipped"][0]["losses"], rtol=1e-2)


def test_batch_norm_statistics_are_restored_for_each_replica_and_reduced(answer: dict[str, Any]) -> None:
    facts = answer["batch_norm"]
    assert facts["broken"][0] != facts["broken"][1]
    assert facts["restored"] == facts["broken"]
    assert facts["end"][0] == facts["end"][1], "reduced before the epoch's end is shown"
    assert facts["reduced"] == [[3.0] * 4] * 2 and facts["count"] == 1


def test_a_bag_on_several_devices_is_refused(answer: dict[str, Any]) -> None:
    assert "outside strategy.scope()" in answer["bag"]


def test_a_model_made_outside_the_scope_is_refused(answer: dict[str, Any]) -> None:
    assert "outside the scope of MirroredStrategy" in answer["outside"]
