"""TensorFlow as this project runs it: threads, determinism, devices."""

import contextlib
import importlib
import logging
import os
import sys
import tempfile
from collections.abc import Iterator
from typing import Any, Literal

from melano_tf.environment import cores
from melano_tf.errors import InputError, RunError, line_of

Precision = Literal["float32", "bfloat16", "float16"]


def import_quietly() -> None:
    """Import TensorFlow without its start-up chatter on the terminal.

    The level covers what its libraries log once they stand; what they log while they are loaded goes past it to file
    descriptor 2, which is turned away for that time and shown only if the import fails.
    """
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    os.environ["GRPC_VERBOSITY"] = "ERROR"
    sys.stderr.flush()
    terminal = os.dup(2)
    with tempfile.TemporaryFile() as chatter:
        os.dup2(chatter.fileno(), 2)
        try:
            importlib.import_module("tensorflow")
            importlib.import_module("keras")
            # Its advice on traced functions is for programmers.
            logging.getLogger("tensorflow").setLevel(logging.ERROR)
        except Exception:  # not Ctrl-C, of which the chatter says nothing
            chatter.seek(0)
            os.write(terminal, chatter.read())
            raise
        finally:
            os.dup2(terminal, 2)
            os.close(terminal)


def configure(threads: int, mirror: bool = False, deterministic: bool = True) -> int:
    """Set threads and determinism, before TensorFlow does any work in this process; returns the threads used.

    Op determinism makes a resumed run bit-identical to an uninterrupted one, for the same number of threads. A GPU's
    memory is taken as it is needed; where there is one, TensorFlow's threads on the CPU are left as they are.

    Args:
        threads: threads of one operation; 0 means one a core.
        mirror: trainings are to be spread over all GPUs, and over all hosts of TF_CONFIG, which are waited for.
        deterministic: equal work gives equal bits.

    Raises:
        InputError: a negative number; Keras has another backend: training and export need TensorFlow's; TensorFlow is
            at work in this process already, with another number of threads; or `mirror` where there are no several
            GPUs, or a host that does not come.
    """
    import cv2
    import keras
    import tensorflow as tf

    from melano_tf.training.hosts import cluster, strategy_of_hosts

    cv2.setNumThreads(1)  # images are changed by several of tf.data's threads already
    if threads < 0:
        raise InputError(f"--threads {threads}: give how many, or 0 for one a core")
    if keras.backend.backend() != "tensorflow":
        raise InputError(
            f"Keras runs on the backend {keras.backend.backend()!r} here, and this command needs TensorFlow's: "
            "unset KERAS_BACKEND, or set it to tensorflow"
        )
    hosts = mirror and cluster() is not None
    if mirror and not hosts:
        _check_several(len(tf.config.list_physical_devices("GPU")))
    threads = threads or cores()
    gpus = tf.config.list_physical_devices("GPU")
    try:
        for gpu in gpus:
            tf.config.experimental.set_memory_growth(gpu, True)
        if not gpus:
            tf.config.threading.set_intra_op_parallelism_threads(threads)
            # One: two independent operations side by side only take each other's threads on a small machine.
            tf.config.threading.set_inter_op_parallelism_threads(1)
    except RuntimeError as error:  # a notebook's second run, or a worker's
        before = tf.config.threading.get_intra_op_parallelism_threads()
        same = f", or give --threads {before} as before" if before else ""
        raise InputError(
            f"--threads {threads}: TensorFlow is at work in this process already ({line_of(error).rstrip('.')}); "
            f"begin a new one (in a notebook: restart the kernel){same}"
        ) from None
    if deterministic:
        tf.config.experimental.enable_op_determinism()
    if hosts:  # before anything else is at work
        strategy_of_hosts()
    return threads


def policy(precision: str) -> str:
    """Keras's dtype policy of a `Precision`: the weights stay in float32."""
    return precision if precision == "float32" else f"mixed_{precision}"


@contextlib.contextmanager
def computing_in(precision: str) -> Iterator[None]:
    """Networks that are built meanwhile compute in a `Precision`, also once they are saved and loaded again.

    Their weights, and the layers that are told so (logits, softmaxes), stay in float32.
    """
    import keras

    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy(precision))
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


@contextlib.contextmanager
def kernels_named() -> Iterator[None]:
    """TensorFlow's refusal of an operation that it has no deterministic kernel for becomes one line.

    Raises:
        RunError: names the operation.
    """
    try:
        yield
    except Exception as error:
        said = str(getattr(error, "message", "")) if type(error).__module__.startswith("tensorflow") else ""
        lines = [line.partition("[[")[0].strip() for line in said.splitlines() if "deterministic" in line.lower()]
        if not lines:
            raise
        node = said.partition("{{node ")[2].partition("}}")[0]
        where = f" (at {node})" if node else ""
        raise RunError(
            f"{lines[0].rstrip('.')}{where}; --no-deterministic lets it run, and then a training that was interrupted "
            "does not end with the same bits as one that was not"
        ) from error


def strategy(mirror: bool) -> Any:
    """Where a training runs: None (one device), or, if asked for, mirrored over all GPUs, also those of other hosts.

    Mirrored, each GPU computes its part of the batch, and batch normalisation takes its statistics over the whole
    batch (`melano_tf.training.steps.GradientStep` sees to it).

    Raises:
        InputError: there are no several GPUs to mirror over.
    """
    import tensorflow as tf

    from melano_tf.training.hosts import cluster, strategy_of_hosts

    if not mirror:
        return None
    if cluster() is not None:
        return strategy_of_hosts()
    _check_several(len(tf.config.list_logical_devices("GPU")))
    return tf.distribute.MirroredStrategy()


def _check_several(gpus: int) -> None:
    if gpus < 2:
        raise InputError(f"--mirror spreads each training over several GPUs, and there are {gpus} here; leave it out")
