"""TensorFlow as this project runs it: threads, determinism, devices."""

import os
from typing import Any

from melano_tf.errors import InputError


def configure(threads: int) -> int:
    """Set threads and determinism, before TensorFlow does any work in this process; returns the threads used.

    Op determinism makes a resumed run bit-identical to an uninterrupted one, for the same number of threads.

    Args:
        threads: threads of one operation; 0 means one a core.

    Raises:
        InputError: a negative number; or Keras has another backend: training and export need TensorFlow's.
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
    threads = threads or os.cpu_count() or 1
    tf.config.threading.set_intra_op_parallelism_threads(threads)
    # One: two independent operations side by side only take each other's threads on a small machine.
    tf.config.threading.set_inter_op_parallelism_threads(1)
    tf.config.experimental.enable_op_determinism()
    return threads


def strategy() -> Any:
    """Mirrored over all GPUs where there are several, else None (one device)."""
    import tensorflow as tf

    gpus = tf.config.list_logical_devices("GPU")
    return tf.distribute.MirroredStrategy() if len(gpus) > 1 else None
