"""A small clustering that is killed and taken up again; a script, as toy.py is.

Script: `toy_clusters.py MODE FOLDER` with MODE
    train    train in FOLDER, printing "step N" after each step and "features N" before each pass over the features
    check    finish FOLDER, train the same elsewhere without a break, and print both digests
"""

import hashlib
import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from melano_tf.training.checkpoint import training_variables
from melano_tf.training.clustering import ClusterSettings, PKBatches, PKSampler, PKSettings
from melano_tf.training.deep_cluster import Assignments, Clustered, FeatureWriter, deep_cluster, metric_loss
from melano_tf.training.loop import LoopSettings
from melano_tf.training.optimizers import make_optimizer

COUNT, PX, EPOCHS, KINDS = 72, 8, 3, 4
SETTINGS = ClusterSettings(clusters=6, components=8, restarts=1)


def images() -> tuple[np.ndarray, np.ndarray]:
    """Pictures of four kinds of stripes and checks, float32 (n, 8, 8, 3), and the kinds."""
    rng = np.random.default_rng(0)
    kinds = np.arange(COUNT) % KINDS
    y, x = np.mgrid[:PX, :PX]
    patterns = np.stack([x % 2, y % 2, (x + y) % 2, (x // 2 + y // 2) % 2]).astype(float)
    pictures = patterns[kinds][..., None] * rng.uniform(0.5, 1.5, (COUNT, 1, 1, 3))
    return (pictures + rng.normal(0, 0.3, pictures.shape)).astype(np.float32), kinds


def embedding() -> keras.Model:
    """Convolution, batch normalisation and dropout: all kinds of state."""
    inputs = keras.Input((PX, PX, 3), name="image")
    x = keras.layers.Conv2D(8, 3, activation="relu")(inputs)
    x = keras.layers.BatchNormalization()(x)
    x = keras.layers.GlobalAveragePooling2D(name="pooled")(x)
    x = keras.layers.Dense(6)(keras.layers.Dropout(0.2)(x))
    return keras.Model(inputs, keras.layers.UnitNormalization()(x))


class Loud(FeatureWriter):
    """Says when it begins."""

    def __call__(self, path: Path) -> Any:
        say("features", path.parent.name)
        return super().__call__(path)


def run(folder: Path, loss: str = "multi_similarity", epochs: int = EPOCHS, seconds: float = 0.0, **hooks: Any) -> Any:
    keras.utils.set_random_seed(5)
    model, optimizer = embedding(), make_optimizer("adam", 3e-3)
    pictures, _ = images()
    pooled = keras.Model(model.inputs, model.get_layer("pooled").output)
    features = Loud(pooled, lambda: ({"x": pictures[at : at + 20]} for at in range(0, COUNT, 20)), COUNT)
    assignments = Assignments(folder / "clusters", SETTINGS, seed=1, count=COUNT)
    sampler = PKSampler(assignments.labels, COUNT, PKSettings(6, 3), seed=2)

    def load(rows: np.ndarray, step: int) -> dict[str, Any]:
        noise = np.random.default_rng([9, step]).normal(0, 0.1, (len(rows), PX, PX, 3))
        x = tf.constant(pictures[rows] + noise, tf.float32)
        return {"x": x, "id": tf.constant([f"i{row}" for row in rows])}

    found = deep_cluster(
        model,
        optimizer,
        metric_loss(loss),
        PKBatches(sampler, load),
        features,
        assignments,
        LoopSettings(epochs, checkpoint_seconds=seconds, log_every=2),
        folder,
        **hooks,
    )
    return model, optimizer, found


def digest(model: Any, optimizer: Any, found: Clustered) -> str:
    """Weights, optimizer, and the clusters of every epoch."""
    values = [np.asarray(variable).tobytes() for variable in training_variables(model, optimizer)]
    records = repr([{name: repr(value) for name, value in record.items()} for record in found.records])
    return hashlib.sha256(b"|".join([*values, found.labels.tobytes(), records.encode()])).hexdigest()


def say(*words: Any) -> None:
    sys.stdout.write(" ".join(map(str, words)) + "\n")
    sys.stdout.flush()


def main(mode: str, folder: Path) -> None:
    tf.config.experimental.enable_op_determinism()
    if mode == "train":
        run(folder, progress=lambda done, loss, waiting: say("step", done))
        return
    say("resumed", digest(*run(folder)))
    say("unbroken", digest(*run(folder.with_name("unbroken"))))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
