# %% [markdown]
# # Do the clusters find groups that mean colour does not separate?
#
# Three groups of phantom pictures that differ in what a dermatoscope does, not in colour: a round field of view within
# the picture, the whole picture, and its middle enlarged twice. Every picture is shifted to one mean colour, so that
# k-means on mean colours finds nothing; deep clustering (features, PCA-whitened, k-means, an epoch of multi-similarity
# loss, and again) is asked for three clusters, and the adjusted Rand index (ARI; 0 is chance, 1 is agreement) says how
# well they are the planted groups: before any training (a random network's features), after it, and in the trained
# embedding.
#
# `python experiments/similarity_planted.py` takes a minute or two on one core.
#
# Measured (seeds 0, 1, 2; ARI with the planted groups): mean colour -0.005, 0.001, 0.005; features of the untrained
# network 0.961, 0.931, 0.798; trained features 0.804, 0.990, 0.844; trained embedding 0.761, 0.970, 0.844. The groups
# are found, by structure alone; a random network's features find them about as well as trained ones, so that this shows
# what the clustering can see, and no gain by training. Groups of hair against ruler, tried first, were not found (ARI
# about 0).

# %%
import argparse
import dataclasses
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
from sklearn.metrics import adjusted_rand_score

from melano_tf.phantoms.skin.isic_data_sets import draw_picture
from melano_tf.phantoms.skin.patients import PhantomDermoscopySettings, plan_images

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
parser = argparse.ArgumentParser(allow_abbrev=False)
parser.add_argument("--seeds", type=int, default=3, help="trainings, each on pictures of its own")
parser.add_argument("--images", type=int, default=100, help="pictures of each group")
parser.add_argument("--epochs", type=int, default=4, help="epochs of each training")
parser.add_argument("--threads", type=int, default=0, help="threads of TensorFlow; 0: one a core")
given = parser.parse_known_args()[0]

PX, GROUPS, MEAN = 64, ("round field of view", "whole", "enlarged twice"), np.array([150.0, 115.0, 100.0])

# %% [markdown]
# The pictures.


# %%
def shifted(image: np.ndarray) -> np.ndarray:
    """The picture at PX, its mean colour MEAN."""
    image = cv2.resize(image, (PX, PX), interpolation=cv2.INTER_LINEAR).astype(np.float32)
    for _ in range(6):  # clipping moves the mean a little each time
        image = np.clip(image + (MEAN - image.reshape(-1, 3).mean(axis=0)), 0, 255)
    return np.rint(image).astype(np.uint8)


def planted(seed: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Pictures uint8 (3 count, PX, PX, 3) and their groups (3 count,)."""
    settings = PhantomDermoscopySettings(
        layout="isic2019", patients=4 * count, sources=("BCN",), height_px=PX, duplicate_share=0.0
    )
    found: list[list[np.ndarray]] = [[], [], []]
    for row in plan_images(settings, seed).to_dict("records"):
        view = draw_picture({str(key): value for key, value in row.items()}, settings, seed)
        group = 0 if view.field is not None else 1 + (len(found[1]) > len(found[2]))
        if len(found[group]) < count:
            height, width = view.rgb.shape[:2]
            middle = view.rgb[height // 4 : 3 * height // 4, width // 4 : 3 * width // 4]
            found[group].append(shifted(middle if group == 2 else view.rgb))
        if all(len(images) == count for images in found):
            break
    return np.concatenate([np.stack(images) for images in found]), np.repeat([0, 1, 2], [len(i) for i in found])


# %% [markdown]
# Clustering, and what it finds.

# %%
from melano_tf.training.tensorflow_runtime import configure

configure(given.threads)
import keras

from melano_tf.models.attention_transfer import build_embedding, pooled
from melano_tf.training.clustering import ClusterSettings, PKBatches, PKSampler, PKSettings, kmeans
from melano_tf.training.deep_cluster import Assignments, FeatureWriter, deep_cluster, metric_loss
from melano_tf.training.loop import LoopSettings
from melano_tf.training.optimizers import make_optimizer


def scores(seed: int) -> dict[str, float]:
    """ARI of every clustering of one seed."""
    images, groups = planted(seed, given.images)
    chosen = ClusterSettings(clusters=3, components=8)
    keras.utils.set_random_seed(seed)
    model, _ = build_embedding("standin_residual", PX, 64, seed=seed)

    def load(rows: np.ndarray, step: int) -> dict:
        rng = np.random.default_rng([seed, step])
        turned = [np.rot90(images[row], rng.integers(4)) for row in rows]
        return {"x": {"image": np.stack(turned)}, "id": rows.astype(str)}

    def parts() -> Iterator[dict]:
        for start in range(0, len(images), 50):
            yield {"x": {"image": images[start : start + 50]}}

    with tempfile.TemporaryDirectory() as scratch:
        assignments = Assignments(Path(scratch) / "assignments", chosen, seed, len(images))
        sampler = PKSampler(assignments.labels, len(images), PKSettings(clusters=3, images=10), seed)
        deep_cluster(
            model,
            make_optimizer("adam", 1e-3),
            metric_loss("multi_similarity"),
            PKBatches(sampler, load),
            FeatureWriter(pooled(model), parts, len(images)),
            assignments,
            LoopSettings(given.epochs),
            Path(scratch),
        )
        first, last = assignments.labels(0), assignments.labels(given.epochs)
    embedding = np.concatenate([np.asarray(model(part["x"])) for part in parts()])
    colours = images.reshape(len(images), -1, 3).mean(axis=1).astype(np.float32)
    found = {
        "mean colour": kmeans(colours, chosen, seed)[1],
        "features, untrained": first,
        "features, trained": last,
        "embedding, trained": kmeans(embedding, dataclasses.replace(chosen, components=64), seed)[1],
    }
    return {name: adjusted_rand_score(groups, labels) for name, labels in found.items()}


results = [scores(seed) for seed in range(given.seeds)]

# %%
print(f"{given.seeds} seeds, {3 * given.images} pictures each ({', '.join(GROUPS)}); ARI with the planted groups:")
for name in results[0]:
    print(f"  {name:<20} {', '.join(f'{one[name]:.3f}' for one in results)}")
