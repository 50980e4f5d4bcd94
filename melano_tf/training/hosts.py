"""One training on several hosts: the cluster that TF_CONFIG names, its strategy, and what its chief tells the others.

The first host is the chief: it decides and writes. The others do the same steps on their parts of each batch; what
they need of the chief's decisions (where a checkpoint stands, whether a training ends early) they are told.
"""

import contextlib
import functools
import json
import os
import signal
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from melano_tf.errors import InputError, RunError

PATIENCE_S = 600.0  # for the other hosts, at the start
HEARTBEAT_S = 60  # of a host that sends nothing so long the others know that it is gone
LEAVING_S = 5  # how long a host that ends waits for the others to end, too
JOBS = ("chief", "worker")
EXAMPLE = '{"cluster": {"worker": ["host1:2222", "host2:2222"]}, "task": {"type": "worker", "index": 0}}'


@dataclass(frozen=True)
class Cluster:
    """The hosts that TF_CONFIG names.

    Attributes:
        addresses: "host:port" of each, the chief's first.
        index: of this host among them.
        jobs: how many hosts each of TensorFlow's jobs has, in order.
    """

    addresses: tuple[str, ...]
    index: int
    jobs: Mapping[str, int]


def cluster_of(text: str | None) -> Cluster | None:
    """The cluster that a TF_CONFIG names, as TensorFlow documents it; None: none, or one host.

    Raises:
        InputError: it is ill-formed.
    """
    if not (text or "").strip():
        return None
    try:
        content = json.loads(text or "")
        hosts, task = content["cluster"], content["task"]
        kind, place = task["type"], int(task["index"])
        named = {job: [str(address) for address in hosts[job]] for job in JOBS if job in hosts}
    except (ValueError, TypeError, KeyError, AttributeError):
        raise InputError(f"TF_CONFIG: is not of the form {EXAMPLE}, and is {text}") from None
    if other := [job for job in (*hosts, kind) if job not in JOBS]:
        raise InputError(f"TF_CONFIG: names {other[0]!r}; there are only workers here (and a chief, if you will)")
    addresses = [address for own in named.values() for address in own]
    for address in addresses:
        host, _, port = address.rpartition(":")
        if not host or not port.isdigit() or not 0 < int(port) < 2**16:
            raise InputError(f"TF_CONFIG: {address!r} is no host:port")
    if len(set(addresses)) < len(addresses) or len(named.get("chief", ())) > 1:
        raise InputError("TF_CONFIG: give each host's address once, and one chief at most")
    if not 0 <= place < len(named.get(kind, ())):
        raise InputError(f"TF_CONFIG: there is no {kind} {place} among the {len(named.get(kind, ()))} of the cluster")
    index = place + (len(named["chief"]) if kind == "worker" and "chief" in named else 0)
    found = Cluster(tuple(addresses), index, {job: len(own) for job, own in named.items()})
    return found if len(addresses) > 1 else None


def cluster() -> Cluster | None:
    """The cluster of this process's TF_CONFIG; see `cluster_of`."""
    return cluster_of(os.environ.get("TF_CONFIG"))


@functools.cache
def strategy_of_hosts() -> Any:
    """The strategy over all devices of all hosts, which meet here; once, before TensorFlow is at work in this process.

    Raises:
        InputError: a host does not come.
    """
    import tensorflow as tf

    # What bounds the wait for a host, and what notices its end, is reached here alone; the strategy takes it from here.
    from tensorflow.compiler.xla.tsl.protobuf.coordination_config_pb2 import CoordinatedJob
    from tensorflow.python.eager import context

    there = cluster()
    assert there is not None
    if there.index == 0:  # TensorFlow's chief would wait without end, and deaf
        wait_for(there.addresses[1:], PATIENCE_S)
    context.context().configure_coordination_service(
        service_type="standalone",
        service_leader=f"/job:{next(iter(there.jobs))}/replica:0/task:0",
        coordinated_jobs=[CoordinatedJob(name=job, num_tasks=count) for job, count in there.jobs.items()],
        cluster_register_timeout_in_ms=round(1000 * PATIENCE_S),
        heartbeat_timeout_in_ms=1000 * HEARTBEAT_S,
        shutdown_barrier_timeout_in_ms=1000 * LEAVING_S,
    )
    try:
        made = tf.distribute.MultiWorkerMirroredStrategy()
    except tf.errors.OpError as error:
        line = str(error.message).splitlines()[0]
        raise InputError(f"TF_CONFIG: the hosts {', '.join(there.addresses)} do not find each other ({line})") from None
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # which TensorFlow takes as a notice that nobody here listens to
    return made


def wait_for(addresses: Sequence[str], patience: float) -> None:
    """Wait until somebody listens at every address, "host:port", so many seconds at most.

    Raises:
        InputError: at one nobody does.
    """
    began = time.monotonic()
    for address in addresses:
        while not _listens(address):
            if time.monotonic() - began > patience:
                raise InputError(
                    f"TF_CONFIG: nobody answers at {address} within {patience:.0f} s; start the same command there"
                )
            time.sleep(min(1.0, patience / 10))


def _listens(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=5):
            return True
    except OSError:
        return False


@dataclass(frozen=True)
class Share:
    """Which samples of each batch one host computes: as many as each other one, in the batch's order.

    Attributes:
        host, hosts: which of how many.
        devices: of each host.
    """

    host: int
    hosts: int
    devices: int

    def start(self, size: int) -> int:
        """Where a batch's part begins: a place in the batch, or behind its end."""
        return self.host * self.devices * self._each(size)

    def places(self, size: int) -> np.ndarray:
        """Places int64 of the part in a batch of `size`; behind its end the last sample stands again, of weight 0."""
        count = self.devices * self._each(size)
        return np.minimum(self.start(size) + np.arange(count, dtype=np.int64), size - 1)

    def _each(self, size: int) -> int:
        return -(-size // (self.hosts * self.devices))


class Hosts:
    """The hosts over which a strategy spreads a training. What is called here all of them call, in the same order.

    Args:
        strategy: of several hosts.
    """

    def __init__(self, strategy: Any) -> None:
        resolver = strategy.cluster_resolver
        spec = resolver.cluster_spec().as_dict()
        self.strategy = strategy
        self.count = sum(len(spec.get(job, ())) for job in JOBS)
        first = 0 if resolver.task_type == "chief" else len(spec.get("chief", ()))
        self.index = first + int(resolver.task_id)

    @classmethod
    def of(cls, strategy: Any) -> "Hosts | None":
        """Those of a strategy; None: it is of one host."""
        resolver = getattr(strategy, "cluster_resolver", None)
        if resolver is None or sum(map(len, resolver.cluster_spec().as_dict().values())) < 2:
            return None
        return cls(strategy)

    @classmethod
    def of_model(cls, model: Any) -> "Hosts | None":
        """Those over which a model's variables lie."""
        first = next(iter(model.variables), None)
        return cls.of(getattr(getattr(first, "value", None), "distribute_strategy", None))

    @property
    def chief(self) -> bool:
        """Whether this host decides and writes."""
        return self.index == 0

    @property
    def share(self) -> Share:
        """This host's part of each batch."""
        return Share(self.index, self.count, self.strategy.num_replicas_in_sync // self.count)

    def everybody(self, text: str) -> list[str]:
        """What each host says, in their order."""
        own = np.frombuffer(json.dumps(text).encode() + b"\n", np.uint8).astype(np.float32)  # any device takes float32
        gathered = self.strategy.gather(_tensor(own), axis=0).numpy().astype(np.uint8).tobytes()
        return [json.loads(line) for line in gathered.splitlines()]

    def told(self, text: str = "") -> str:
        """What the chief says; of the others nothing is asked."""
        return self.everybody(text if self.chief else "")[0]

    def take_chiefs(self, variables: Sequence[Any]) -> None:
        """Give variables the chief's values."""
        for variable in variables:
            value = np.asarray(variable.numpy())
            wide = value.astype(_wide(value.dtype)) if self.chief else np.zeros(value.shape, _wide(value.dtype))
            found = self._total(wide).astype(value.dtype)
            if not self.chief:
                variable.assign(found)

    def mean(self, value: np.ndarray) -> np.ndarray:
        """The mean of the hosts' values; of equal ones that value."""
        return (self._total(value.astype(np.float64)) / self.count).astype(value.dtype)

    def _total(self, value: np.ndarray) -> np.ndarray:
        return np.asarray(self.strategy.reduce("SUM", _tensor(value), axis=None).numpy())


def _wide(dtype: Any) -> Any:
    """In what numbers of a kind are added up without loss: counters and seeds of 32 bits fit into float64."""
    return np.float32 if np.dtype(dtype) == np.float32 else np.float64


def _tensor(value: np.ndarray) -> Any:
    import tensorflow as tf

    return tf.constant(value)


def shared_out(batches: Any, share: Share) -> Any:
    """Batches of which only a host's part is read, where they can do that (`shared`); else whole ones."""
    return batches.shared(share) if hasattr(batches, "shared") else batches


def gone(error: BaseException) -> str:
    """One line, where an error is TensorFlow's for a host that ended or does not answer any more; else ""."""
    kinds = ("UnavailableError", "AbortedError", "CancelledError", "DeadlineExceededError")
    if type(error).__name__ not in kinds and "Collective ops is aborted" not in str(error):
        return ""
    return (
        "another host of this training ended or does not answer any more: see what it said; "
        "the same command, given again on all hosts, goes on from the last checkpoint"
    )


@contextlib.contextmanager
def losses_named() -> Iterator[None]:
    """What TensorFlow says of a host that is gone becomes one line.

    Raises:
        RunError: see `gone`.
    """
    try:
        yield
    except Exception as error:
        if not (line := gone(error)):
            raise
        raise RunError(line) from error
