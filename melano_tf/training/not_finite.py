"""What a training says of a value that is not finite."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from melano_tf.training.steps import Batch


def not_finite_line(
    step: int, epoch: int, batch: Batch, result: Mapping[str, Any], scalars: Mapping[str, float]
) -> str:
    """One line: where, which scalars, which samples."""
    ids = [bytes(name).decode(errors="replace") for name in np.asarray(batch["id"]).ravel()]
    values = ", ".join(f"{name} = {value}" for name, value in scalars.items() if not np.isfinite(value))
    suspects = {"loss": [result["loss_per_sample"]]} if "loss_per_sample" in result else {}
    suspects["input"] = tf.nest.flatten(batch.get("x", []))
    whose = ""
    for what, arrays in suspects.items():
        faulty = [name for name, fine in zip(ids, finite_rows(arrays, len(ids)), strict=True) if not fine]
        whose += f"the {what} of {', '.join(faulty)} is not finite; " if faulty else ""
    return (
        f"training stopped at step {step} (epoch {epoch + 1}): {values}; {whose}the batch holds {', '.join(ids)}. "
        "Nothing after the last checkpoint was kept; look at these samples, or lower the learning rate"
    )


def finite_rows(arrays: Sequence[Any], count: int) -> np.ndarray:
    """Whether all numbers of each sample are finite, bool (count,). Arrays not by sample (bags) are left out."""
    fine = np.ones(count, bool)
    for array in map(np.asarray, arrays):
        if len(array) == count and np.issubdtype(array.dtype, np.number):
            fine &= np.isfinite(array).reshape(count, -1).all(axis=1)
    return fine
