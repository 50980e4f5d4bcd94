# %% [markdown]
# # The best cell beside AUCMEDI's pipeline, on one fold of HAM10000
#
# Paper: *How important is each dermoscopy image?* (its data). AUCMEDI 0.11 is a public framework for the classification
# of medical images; its AutoML pipeline "standard" is the peer: MobileNet with a layer of 512 units, ten epochs of that
# alone (Adam 1e-4), then of all layers (1e-5), focal loss with balanced class weights, its augmentation, a seventh of
# the training images (by image, as it does) for a learning rate that falls on plateaus and for the best weights. It
# gets the fold's training images, the same weights, the same side of the input, one thread, and as many minutes of the
# processor as the run's best cell of that fold took to train with one thread (`history/best-fold-1.csv`). Both are
# judged on the fold's other lesions, by the same scorer: each with a 95 % interval by lesion, and the difference.
#
# Run: `experiments/weighting_aucmedi.sh peer` once, then
# `python experiments/weighting_aucmedi.py --run runs/ham10000 --images train_200x150 --peer peer/bin/python`
#
# What was measured: docs/papers/weighting.md.

# %%
import argparse
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pandas as pd

from melano_tf.evaluation.interval import Interval
from melano_tf.evaluation.repeated_split_intervals import (
    JudgedSplit,
    paired_auc_difference,
    paired_differences,
    split_intervals,
    split_mean_auc,
)
from melano_tf.models.tta_and_prior_shift import shifted
from melano_tf.papers.notebook import restored
from melano_tf.papers.weighting.cohort import class_names
from melano_tf.papers.weighting.settings import preset
from melano_tf.runs.atomic_files import read_json
from melano_tf.runs.predictions import probabilities
from melano_tf.runs.sidecar import Sidecar

parser = argparse.ArgumentParser(allow_abbrev=False)
parser.add_argument("--run", type=Path, required=True, help="a finished run of weighting --preset ham10000")
parser.add_argument("--images", type=Path, required=True, help="folder of HAM10000's images")
parser.add_argument("--peer", type=Path, required=True, help="python of the environment that weighting_aucmedi.sh made")
parser.add_argument("--fold", type=int, default=1, help="whose best cell is compared")
parser.add_argument("--minutes", type=float, default=0, help="of the peer's training; 0: as many as the best cell's")
parser.add_argument("--out", type=Path, default=Path("runs/aucmedi"), help="what the peer is given, and answers")
given = parser.parse_known_args()[0]

stem = f"best-fold-{given.fold}"
settings = restored(preset("ham10000"), read_json(given.run / "run.json")["settings"])
best = pd.read_parquet(given.run / "unshifted" / f"{stem}-mirrored.parquet")
minutes = given.minutes or pd.read_csv(given.run / "history" / f"{stem}.csv")["seconds"].sum() / 60

# %% [markdown]
# What the peer is given: the fold's images by their part, and the weights by layer.

# %%
given.out.mkdir(parents=True, exist_ok=True)
truth = dict(zip(best["image_id"], best["target"], strict=True))
records = pd.read_csv(settings.table[0], dtype=str)
coded = {name.lower(): place for place, name in enumerate(class_names())}
if wrong := [
    name
    for name, place in zip(records["image_id"], records["dx"], strict=True)
    if truth.get(name, coded[place]) != coded[place]
]:
    sys.exit(f"{settings.table[0]}: {wrong[0]} has another class than in {given.run}")
fold = pd.DataFrame(
    {
        "name": records["image_id"],
        "label": [class_names()[coded[each]] for each in records["dx"]],
        "part": np.where(records["image_id"].isin(set(truth)), "judge", "train"),
    }
)
fold.to_csv(given.out / "fold.csv", index=False)
px = settings.network.input_px
trunk = keras.applications.MobileNet(include_top=False, weights=settings.network.weights, input_shape=(px, px, 3))
arrays = {f"{layer.name}/{place}": one for layer in trunk.layers for place, one in enumerate(layer.get_weights())}
np.savez(given.out / "weights.npz", **arrays)

# %% [markdown]
# The peer at work, in its own environment.

# %%
if not (given.out / "answers.csv").is_file():
    script = Path(__file__).with_name("weighting_aucmedi_peer.py")
    line = [given.peer, script, given.out, given.images, px, minutes, settings.seed]
    subprocess.run([str(part) for part in line], check=True)
answers = pd.read_csv(given.out / "answers.csv", dtype={"name": str}).set_index("name").loc[best["image_id"]]


# %%
def split(scores: np.ndarray) -> JudgedSplit:
    """What somebody says of the fold's judged images."""
    return JudgedSplit(best["target"].to_numpy(), scores, best["group"].tolist())


def between(found: Interval, sign: str = "") -> str:
    """A figure with its interval."""
    return f"{found.value:{sign}.3f} ({found.low:{sign}.3f} to {found.high:{sign}.3f})"


card = Sidecar.read(given.run / "models" / f"{stem}.keras")
points = {name: np.array(point["factors"]) for name, point in card.run["operating_points"].items()}
plain = probabilities(best)
peer = split(answers[list(class_names())].to_numpy())
named = {"AUCMEDI": peer, "best cell, as it answers": split(plain)}
named |= {f"best cell, in favour of {name}": split(shifted(plain, factors)) for name, factors in points.items()}
rows = []
for name, one in named.items():
    row = {"": name} | {key: between(split_intervals([one], class_names())[key]) for key in ("Acc", "BAcc")}
    row["AUC"] = between(split_mean_auc([one]))
    if one is not peer:
        found = paired_differences([peer], [one], class_names())
        row |= {f"{key}, minus AUCMEDI": between(found[key], "+") for key in ("Acc", "BAcc")}
        row["AUC, minus AUCMEDI"] = between(paired_auc_difference([peer], [one]), "+")
    rows.append(row)
print(f"fold {given.fold}: {len(best):,} judged images; the peer trained {minutes:.1f} minutes")
print(pd.DataFrame(rows).fillna("").to_string(index=False))
