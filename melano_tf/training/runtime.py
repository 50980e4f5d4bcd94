"""TensorFlow as this project runs it: threads, determinism, devices."""

import os
from typing import Any

from melano_tf.errors import InputError


def configure(threads: int, mirror: bool = False) -> int:
    """Set threads and determinism, before TensorFlow does any work in this process; returns the threads used.

    Op determinism makes a resumed run bit-identical to an uninterrupted one, for the same number of threads.

    Args:
        threads: threads of one operation; 0 means one a core.
        mirror: trainings are to be spread over all GPUs.

    Raises:
        InputError: a negative number; Keras has another backend: training and export need TensorFlow's; or `mirror`
            where there are no several GPUs.
    """
    import keras
    import tensorflow as tf

    if threads < 0:
        raise InputError(f"--threads {threads}: give how many, or 0 for one a core")
    if keras.backend.backend() != "tensorflow":
        raise InputError(
            f"Keras runs on the backend {keras.backend.backend()!r} here, and this command needs TensorFlow's: "
            "unset KERAS_BACKEND, or set it to tensorflow"
        )
    if mirror:
        _check_several(len(tf.config.list_physical_devices("GPU")))
    threads = threads or os.cpu_count() or 1
    tf.config.threading.set_intra_op_parallelism_threads(threads)
    # One: two independent operations side by side only take each other's threads on a small machine.
    tf.config.threading.set_inter_op_parallelism_threads(1)
    tf.config.experimental.enable_op_determinism()
    return threads


def strategy(mirror: bool) -> Any:
    """Where a training runs: None (one device), or, if asked for, mirrored over all GPUs.

    Mirrored, each GPU computes its part of the batch, and batch normalisation takes its statistics over the whole
    batch (`melano_tf.training.steps.GradientStep` sees to it).

    Raises:
        InputError: there are no several GPUs to mirror over.
    """
    import tensorflow as tf

    if not mirror:
        return None
    _check_several(len(tf.config.list_logical_devices("GPU")))
    return tf.distribute.MirroredStrategy()


def _check_several(gpus: int) -> None:
    if gpus < 2:
        raise InputError(f"--mirror spreads each training over several GPUs, and there are {gpus} here; leave it out")
