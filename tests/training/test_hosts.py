"""One training on two hosts: two processes of this machine, and one for comparison."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from melano_tf.errors import InputError
from melano_tf.training.hosts import EXAMPLE, Cluster, Hosts, Share, cluster_of, wait_for
from melano_tf.training.loop import LoopSettings, train
from tests.training.conftest import ON_CPU

HERE = Path(__file__).parent


def free_ports(count: int) -> list[str]:
    """Ports of this machine that are free now, each another."""
    held = [socket.socket() for _ in range(count)]
    for one in held:
        one.bind(("127.0.0.1", 0))
    ports = [str(one.getsockname()[1]) for one in held]
    for one in held:
        one.close()
    return ports


def started_anew(*arguments: str) -> subprocess.Popen:
    """A host that leaves as a user's does: a forked process ends before TensorFlow takes leave of the others. It begins
    once it is sent a line, with TensorFlow loaded."""
    command = [sys.executable, str(HERE / "two_hosts.py"), *arguments]
    environment = {**os.environ, **ON_CPU, "PYTHONPATH": str(HERE.parents[1])}
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    return subprocess.Popen(command, env=environment, text=True, **pipes)


def last_line(code: int, output: str, errors: str) -> Any:
    assert code == 0, errors
    return json.loads(output.splitlines()[-1])


@pytest.fixture(scope="module")
def found(start_script: Callable, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What each host said: of the training in which the second died, and of those behind it."""
    folder = tmp_path_factory.mktemp("hosts")
    reference = start_script("two_hosts.py", "reference", str(folder / "one"))

    def both(task: str) -> list[tuple[str, ...]]:
        ports = free_ports(2)
        return [("two_hosts.py", task, str(folder / "two"), *ports, str(index)) for index in range(2)]

    chief, other = [start_script(*arguments) for arguments in both("dies")]
    going = [started_anew(*arguments[1:]) for arguments in both("goes-on")]
    code, _, errors = chief.wait(300)
    died = {"codes": [code, other.wait(60)[0]], "errors": errors.strip().splitlines()}
    written = sorted(path.name for path in (folder / "two" / "broken").iterdir())
    for process in going:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    said = [process.communicate(timeout=300) for process in going]
    hosts = [last_line(process.returncode, *texts) for process, texts in zip(going, said, strict=True)]
    return {"died": died, "written": written, "hosts": hosts, "reference": last_line(*reference.wait(300))}


def test_a_host_that_dies_ends_the_other_with_one_line(found: dict[str, Any]) -> None:
    assert found["died"]["codes"] == [1, 9]
    assert found["died"]["errors"][-1].startswith("another host of this training ended or does not answer any more")
    assert not any("Traceback" in line for line in found["died"]["errors"])
    assert {"checkpoint.npz", "checkpoint.before.npz"} & set(found["written"])


def test_both_go_on_from_the_last_checkpoint_to_the_same_weights(found: dict[str, Any]) -> None:
    for host in found["hosts"]:
        assert len(host["normalised"]["losses"]) == 10
        assert 1 <= len(host["went on"]["losses"]) <= 4  # and not from the beginning
        assert host["went on"]["weights"] == host["normalised"]["weights"]  # to the bit
        assert host["went on"]["epochs"] == host["normalised"]["epochs"]


@pytest.mark.parametrize("kind", ["normalised", "weighed"])
def test_two_hosts_train_as_one_device_and_as_two(found: dict[str, Any], kind: str) -> None:
    """Losses, weights and BatchNorm's statistics; where the batch does not divide, too."""
    first, second = (host[kind] for host in found["hosts"])
    assert first == second  # to the bit, whose seeds differed
    for reference in found["reference"][kind]:
        np.testing.assert_allclose(first["losses"], reference["losses"], rtol=1e-5)
        for own, other in zip(first["weights"], reference["weights"], strict=True):
            np.testing.assert_allclose(own, other, rtol=1e-5, atol=1e-6)


def test_only_the_chief_writes_and_the_others_leave_behind_the_training(found: dict[str, Any]) -> None:
    chief, other = (host["described"] for host in found["hosts"])
    assert chief["files"] == [
        "audit/toy.parquet",
        "work/checkpoint.npz",
        "work/fed.jsonl",
    ]
    assert other["files"] == []
    assert (chief["met"], other["met"]) == (["toy begins"], ["toy begins", "ends"])
    assert chief["weights"] == other["weights"]
    assert chief["epochs"][0]["loss"] == other["epochs"][0]["loss"]


def test_hosts_hear_each_other_and_the_chief_decides(found: dict[str, Any]) -> None:
    for host in found["hosts"]:
        assert host["said"] == ["host 0 ä", "host 1 ä"] and host["told"] == "by 0"
        np.testing.assert_array_equal(np.float32(host["mean"]), np.float32([1.1, 0.5]))
        assert len(host["stopped"]) == 1  # of two epochs


def test_a_share_of_each_batch() -> None:
    shares = [Share(host, 3, 2) for host in range(3)]
    assert [share.places(12).tolist() for share in shares] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]
    assert [share.places(7).tolist() for share in shares] == [[0, 1, 2, 3], [4, 5, 6, 6], [6, 6, 6, 6]]
    assert [share.start(7) for share in shares] == [0, 4, 8]
    assert [share.places(1).tolist() for share in shares] == [[0, 0]] * 3


def test_the_cluster_of_tf_config() -> None:
    def told(cluster: dict[str, list[str]], kind: str = "worker", index: int = 0) -> Cluster | None:
        return cluster_of(json.dumps({"cluster": cluster, "task": {"type": kind, "index": index}}))

    assert cluster_of(None) is None and cluster_of(" ") is None
    assert told({"worker": ["a:1"]}) is None
    assert told({"worker": ["a:1", "b:2"]}, index=1) == Cluster(("a:1", "b:2"), 1, {"worker": 2})
    chief = {"worker": ["a:1", "b:2"], "chief": ["c:3"]}
    assert told(chief, index=1) == Cluster(("c:3", "a:1", "b:2"), 2, {"chief": 1, "worker": 2})
    assert told(chief, "chief") == Cluster(("c:3", "a:1", "b:2"), 0, {"chief": 1, "worker": 2})


GIVEN_ONCE = "give each host's address once, and one chief at most"


@pytest.mark.parametrize(
    "text, line",
    [
        ("{", f"is not of the form {EXAMPLE}, and is {{"),
        ("[]", f"is not of the form {EXAMPLE}, and is []"),
        ('{"cluster": {}}', f'is not of the form {EXAMPLE}, and is {{"cluster": {{}}}}'),
        ('{"cluster": {"worker": ["a:1", "b"]}, "task": {"type": "worker", "index": 0}}', "'b' is no host:port"),
        ('{"cluster": {"worker": ["a:1", "b:x"]}, "task": {"type": "worker", "index": 0}}', "'b:x' is no host:port"),
        ('{"cluster": {"worker": ["a:1", "a:1"]}, "task": {"type": "worker", "index": 0}}', GIVEN_ONCE),
        ('{"cluster": {"chief": ["a:1", "b:1"]}, "task": {"type": "chief", "index": 0}}', GIVEN_ONCE),
        ('{"cluster": {"worker": ["a:0", "b:1"]}, "task": {"type": "worker", "index": 0}}', "'a:0' is no host:port"),
        (
            '{"cluster": {"worker": ["b:1", ":65535"]}, "task": {"type": "worker", "index": 0}}',
            "':65535' is no host:port",
        ),
        (
            '{"cluster": {"worker": ["a:65536", "b:1"]}, "task": {"type": "worker", "index": 0}}',
            "'a:65536' is no host:port",
        ),
        (
            '{"cluster": {"worker": ["a:65535", "b:1"]}, "task": {"type": "worker", "index": -1}}',
            "there is no worker -1 among the 2 of the cluster",
        ),
        (
            '{"cluster": {"worker": ["a:1", "b:1"]}, "task": {"type": "worker", "index": 2}}',
            "there is no worker 2 among the 2 of the cluster",
        ),
        (
            '{"cluster": {"worker": ["a:1"], "ps": ["b:1"]}, "task": {"type": "worker", "index": 0}}',
            "names 'ps'; there are only workers here (and a chief, if you will)",
        ),
    ],
)
def test_an_ill_formed_tf_config_is_one_line(text: str, line: str) -> None:
    with pytest.raises(InputError) as error:
        cluster_of(text)
    assert str(error.value) == f"TF_CONFIG: {line}"


def test_a_host_that_does_not_come_is_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as there:
        came = f"127.0.0.1:{there.getsockname()[1]}"
        wait_for([came], 0.2)
        missing = f"127.0.0.1:{free_ports(1)[0]}"
        with pytest.raises(
            InputError, match=f"^TF_CONFIG: nobody answers at {missing} within 0 s; start the same command there$"
        ):
            wait_for([came, missing], 0.2)


def test_who_is_not_the_chief_reads_and_writes_nothing_and_ends_when_the_chief_does(
    toy: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder that is finished lies there, which this host must not see; the chief begins anew and ends later."""
    heard: list[Any] = []

    class Second:
        chief = False

        def told(self, text: str) -> str:
            heard.append(text)
            return {1: "null", 3: "", 4: "ends"}[len(heard)]

        def take_chiefs(self, variables: Any) -> None:
            heard.append(len(variables))

    def begin(epochs: int) -> list[int]:
        done: list[int] = []
        model, optimizer = toy.toy_model(batch_norm=False), keras.optimizers.SGD(0.1)

        def step(batch: Any, progress: Any) -> dict[str, Any]:
            done.append(int(progress.step))
            return {"loss": tf.constant(1.0)}

        batches, settings = toy.ToyBatches(steps_per_epoch=2), LoopSettings(epochs, 0.0, 1)
        train(step, batches, settings, tmp_path, model, optimizer, epoch_end=lambda epoch, logs: epoch == 0)
        return done

    assert begin(1) == [0, 1]
    files = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    monkeypatch.setattr(Hosts, "of_model", classmethod(lambda cls, model: Second()))
    assert begin(9) == [0, 1, 2, 3]
    assert heard[0] == "null" and heard[1] > 4 and heard[2:] == ["ends", ""]
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == files
