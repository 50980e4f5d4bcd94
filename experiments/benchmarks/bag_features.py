# %% [markdown]
# # Memory and time of training on bags of 20,000 instances
#
# Bags of features in HDF5 files (TRIDENT's layout, float16), read one at a time while the one before is trained on.
# Printed: peak resident memory of the whole process after the first epoch and after the last (flat if they are
# near each other), and the median seconds of a step behind the first epoch.
#
# Measured, 20,000 instances of 1,024, 4 bags, 3 epochs, TensorFlow 2.21 on two cores shared with many other jobs (the
# seconds say little); 795 MiB before the first step:
#
# | model | precision | peak, first epoch | peak, last epoch | s a step |
# |---|---|---|---|---|
# | gated | float32 | 1,547 MiB | 1,644 MiB | 1.7 |
# | gated | bfloat16 | 1,220 MiB | 1,253 MiB | 1.9 |
# | transformer | float32 | 3,037 MiB | 3,048 MiB | 14.7 |
#
# `python experiments/benchmarks/bag_features.py --model gated --precision float32`

# %%
import argparse
import os
import resource
import tempfile
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import h5py
import numpy as np

from melano_tf.features.feature_file import open_features
from melano_tf.models.bag_settings import BagModelSettings
from melano_tf.pipelines.bag_fitting import BagTrainingSettings
from melano_tf.pipelines.bag_training import train_bag_model
from melano_tf.pipelines.feature_cohort import FileBags
from melano_tf.training.loop import LoopSettings

parser = argparse.ArgumentParser(allow_abbrev=False)
parser.add_argument("--model", default="gated")
parser.add_argument("--precision", default="float32")
parser.add_argument("--bags", type=int, default=4)
parser.add_argument("--instances", type=int, default=20_000)
parser.add_argument("--width", type=int, default=1024)
parser.add_argument("--epochs", type=int, default=3)
given = parser.parse_known_args()[0]


# %%
def peak_mib() -> float:
    """Largest resident memory of this process so far, MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def write_bags(folder: Path) -> FileBags:
    """Files of random features."""
    rng, files = np.random.default_rng(0), []
    for bag in range(given.bags):
        path = folder / f"bag{bag}.h5"
        with h5py.File(path, "w") as file:
            shape = (given.instances, given.width)
            data = file.create_dataset("features", shape, "float16", chunks=(256, given.width))
            for start in range(0, given.instances, 4096):
                rows = min(4096, given.instances - start)
                data[start : start + rows] = rng.normal(bag % 2 * 0.1, 1, (rows, given.width))
            file["coords"] = np.zeros((given.instances, 2), np.int64)
        files.append([open_features(path)])
    ids = [f"bag{bag}" for bag in range(given.bags)]
    return FileBags(ids, ids, np.arange(given.bags) % 2, files, ("a", "b"))


# %%
with tempfile.TemporaryDirectory() as scratch:
    bags = write_bags(Path(scratch))
    print(f"before: {peak_mib():.0f} MiB")
    settings = BagTrainingSettings(model=BagModelSettings(given.model), epochs=given.epochs, precision=given.precision)
    seconds, peaks, last = [], [], [time.monotonic()]

    def note(done: int, loss: float, waiting: float) -> None:
        seconds.append(time.monotonic() - last[0])
        peaks.append(peak_mib())
        last[0] = time.monotonic()

    loop = LoopSettings(given.epochs, checkpoint_seconds=1e6)
    train_bag_model(bags, np.arange(given.bags), 2, settings, Path(scratch) / "t", 0, loop=loop, progress=note)
    first, later = peaks[given.bags - 1], peaks[-1]
    print(
        f"{given.model} {given.precision}: {given.instances} instances of {given.width}: peak {first:.0f} MiB after "
        f"the first epoch, {later:.0f} MiB after the last, {np.median(seconds[given.bags :]):.2f} s a step"
    )
