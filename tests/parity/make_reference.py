"""Write reference.npz: what TensorFlow Addons says for inputs that are drawn from a seed.

Run in an environment of its own (README.md beside this file):

    python make_reference.py            write reference.npz
    python make_reference.py --check    compare with it instead; exit code 1 where a value differs

TensorFlow Addons is imported where it is used, so that the tests can import this file to draw the inputs again.
"""

import json
import platform
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np

SEED = 20240521
REFERENCE = Path(__file__).with_name("reference.npz")
VERSIONS = "versions"

FOCAL = [(0.25, 2.0), (0.75, 1.0), (0.25, 0.0), (0.5, 0.5)]  # alpha, gamma
MARGINS = [0.2, 1.0]
DISTANCES = {
    "euclidean": "L2",
    "squared_euclidean": "squared-L2",
    "cosine": "angular",
}  # ours: theirs; "angular" is 1 - cosine
POOLING = [(8, 4), (12, 4), (28, 4), (14, 7), (6, 1)]  # input and output size; the output divides the input
INTERPOLATIONS = ["nearest", "bilinear"]
FILLS = ["constant", "reflect"]
AVERAGES = ["none", "macro", "micro", "weighted"]


def draw_inputs(seed: int = SEED) -> dict[str, np.ndarray]:
    """The inputs. RandomState's streams are fixed for all versions of numpy, those of default_rng are not."""
    draw = np.random.RandomState(seed)
    inputs = {
        "focal/y": draw.randint(0, 2, 40).astype(np.float32),
        "focal/p": draw.uniform(0.001, 0.999, 40).astype(np.float32),
        # Every label four times, so that every anchor has positives and negatives, which Addons presumes.
        "metric/labels": draw.permutation(np.repeat(np.arange(6), 4)).astype(np.int32),
        "metric/embeddings": draw.normal(size=(24, 8)).astype(np.float32),
        "contrastive/same": draw.randint(0, 2, 30).astype(np.float32),
        "contrastive/distances": draw.uniform(0, 2, 30).astype(np.float32),
        "f1/classes": draw.randint(0, 5, 200).astype(np.int32),
        "f1/probabilities": draw.dirichlet(np.ones(5), 200).astype(np.float32),
        # No pixel comes from halfway between two others, where "nearest" is a matter of the last bit.
        "rotation/images": draw.uniform(0, 255, (6, 9, 9, 2)).astype(np.float32),
        "rotation/wide": draw.uniform(0, 255, (6, 8, 14, 2)).astype(np.float32),
        "rotation/degrees": np.array([0, 90, -90, 29, -31, 17.3], np.float32),
    }
    for size, out in POOLING:
        inputs[f"pooling/{size}-{out}"] = draw.normal(size=(2, size, size, 2)).astype(np.float32)
    # Right predictions, so that no class's F1 is near 0; the last class is never called.
    right = np.eye(5, dtype=np.float32)[inputs["f1/classes"]]
    inputs["f1/probabilities"] = (
        0.6 * inputs["f1/probabilities"] + 0.4 * right * (draw.uniform(size=(200, 1)) < 0.5)
    ).astype(np.float32)
    inputs["f1/probabilities"][:, 4] = 0
    return inputs


def _losses(given: dict[str, np.ndarray]) -> dict[str, Any]:
    import tensorflow_addons as tfa

    values: dict[str, Any] = {}
    for alpha, gamma in FOCAL:
        values[f"focal/{alpha:g}-{gamma:g}"] = tfa.losses.sigmoid_focal_crossentropy(
            given["focal/y"][:, None], given["focal/p"][:, None], alpha=alpha, gamma=gamma
        )
    for margin in MARGINS:
        values[f"contrastive/{margin:g}"] = tfa.losses.contrastive_loss(
            given["contrastive/same"], given["contrastive/distances"], margin=margin
        )
        for ours, theirs in DISTANCES.items():
            arguments = {"margin": margin, "distance_metric": theirs}
            for name, function in _triplets(tfa).items():
                value, gradient = _with_gradient(
                    function, given["metric/labels"], given["metric/embeddings"], arguments
                )
                values[f"{name}/{ours}-{margin:g}"] = value
                values[f"{name}/{ours}-{margin:g}/gradient"] = gradient
    return values


def _triplets(tfa: Any) -> dict[str, Any]:
    return {"semi_hard": tfa.losses.triplet_semihard_loss, "batch_hard": tfa.losses.triplet_hard_loss}


def _with_gradient(function: Any, labels: np.ndarray, embeddings: np.ndarray, arguments: dict[str, Any]) -> Any:
    import tensorflow as tf

    x = tf.constant(embeddings)
    with tf.GradientTape() as tape:
        tape.watch(x)
        value = function(labels, x, **arguments)
    return value, tape.gradient(value, x)


def _pooling_and_rotation(given: dict[str, np.ndarray]) -> dict[str, Any]:
    import tensorflow_addons as tfa

    values: dict[str, Any] = {}
    for size, out in POOLING:
        x = given[f"pooling/{size}-{out}"]
        values[f"pooling/{size}-{out}/max"] = tfa.layers.AdaptiveMaxPooling2D(out)(x)
        values[f"pooling/{size}-{out}/average"] = tfa.layers.AdaptiveAveragePooling2D(out)(x)
    angles = np.radians(given["rotation/degrees"]).astype(np.float32)
    for shape in ("images", "wide"):
        for interpolation in INTERPOLATIONS:
            for fill in FILLS:
                values[f"rotation/{shape}-{interpolation}-{fill}"] = tfa.image.rotate(
                    given[f"rotation/{shape}"], angles, interpolation=interpolation, fill_mode=fill
                )
    return values


def _f1(given: dict[str, np.ndarray]) -> dict[str, Any]:
    import tensorflow_addons as tfa

    one_hot = np.eye(5, dtype=np.float32)[given["f1/classes"]]
    values: dict[str, Any] = {}
    for threshold in (None, 0.3):
        for average in AVERAGES:
            metric = tfa.metrics.F1Score(5, average=None if average == "none" else average, threshold=threshold)
            metric.update_state(one_hot, given["f1/probabilities"])
            values[f"f1/{'argmax' if threshold is None else threshold}/{average}"] = metric.result()
    return values


def versions() -> dict[str, str]:
    """Of all that had a part in the values."""
    import keras
    import tensorflow as tf
    import tensorflow_addons as tfa

    return {
        "python": platform.python_version(),
        "tensorflow": tf.__version__,
        "tensorflow-addons": tfa.__version__,
        "keras": keras.__version__,
        "numpy": np.__version__,
        "seed": str(SEED),
    }


def reference() -> dict[str, np.ndarray]:
    """Inputs, values under "<name>" with the prefix "out/", and the versions as JSON."""
    warnings.filterwarnings("ignore", module="tensorflow_addons")  # that its development has ended
    import tensorflow as tf

    tf.get_logger().setLevel("ERROR")  # each setting is its own trace, rightly
    given = draw_inputs()
    values = {**_losses(given), **_pooling_and_rotation(given), **_f1(given)}
    arrays = {f"in/{name}": value for name, value in given.items()}
    arrays |= {f"out/{name}": np.asarray(value) for name, value in values.items()}
    return arrays | {VERSIONS: np.array(json.dumps(versions()))}


def check(arrays: dict[str, np.ndarray]) -> list[str]:
    """What differs from reference.npz by more than rounding, a line each."""
    with np.load(REFERENCE) as stored:
        names = sorted(set(stored.files) ^ set(arrays))
        faults = [f"{name}: is on one side only" for name in names]
        for name in sorted(set(stored.files) & set(arrays) - {VERSIONS}):
            old, new = stored[name], arrays[name]
            if old.shape != new.shape or not np.allclose(old, new, rtol=1e-5, atol=1e-6):
                faults.append(f"{name}: differs")
    return faults


def main(arguments: list[str]) -> int:
    """Write or check; returns the exit code."""
    if arguments not in ([], ["--check"]):
        sys.stderr.write(f"unknown: {' '.join(arguments)}; the only option is --check\n")
        return 2
    arrays = reference()
    if arguments:
        faults = check(arrays)
        sys.stdout.write("\n".join(faults or [f"{len(arrays)} arrays agree"]) + "\n")
        return int(bool(faults))
    savez: Any = np.savez_compressed  # its stub takes keyword arrays for its flags
    savez(REFERENCE, **arrays)
    sys.stdout.write(f"{REFERENCE}: {len(arrays)} arrays, {REFERENCE.stat().st_size} bytes\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
