# %% [markdown]
# # MUSK1: bag models in ten-fold cross-validation, five times
#
# Paper: Ilse, Tomczak, Welling, *Attention-based Deep Multiple Instance Learning*, ICML 2018. Accuracy on MUSK1 there:
# attention 0.892 ± 0.040, gated attention 0.900 ± 0.050, mi-Net 0.889 ± 0.039, MI-Net with RC 0.898 ± 0.043.
# Data: UCI MUSK1, 92 bags (47 positive), 476 instances, 166 features.
#
# Settings, fixed before the first run and never changed: the network of that paper (ReLU layers of 256, 128 and 64,
# dropout 0.5 behind each, attention with L = 64, one sigmoid neuron), one bag a step, SGD 5e-4 with momentum 0.9,
# weight decay 0.005 (the values in the code that Wang et al. publish, whose protocol Ilse et al. follow), 100 epochs,
# judged at the last one at 0.5. Where we differ: no epoch is chosen by a validation error; folds are stratified;
# features are brought to mean 0 and deviation 1 of the training bags' instances, not of all.
#
# Reported: mean accuracy over the 50 test folds, ± their standard error (deviation / sqrt(50)); the deviation of the
# five repeats' accuracies; and the AUC within a repeat, its predictions of all folds pooled, mean of five.
#
# What was measured stands in docs/bags.md.
#
# `python experiments/bags_musk1.py --data musk1.data --out runs/musk1`; finished folds are not trained again.

# %%
import argparse
import csv
import os
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np

from melano_tf.evaluation.binary_metrics import roc_auc
from melano_tf.models.bag_settings import BagModelSettings
from melano_tf.pipelines.bag_baseline import fit_baseline
from melano_tf.pipelines.bag_fitting import BagTrainingSettings
from melano_tf.pipelines.bag_training import train_bag_model
from melano_tf.pipelines.feature_bags import ArrayBags, answers
from melano_tf.runs.settings_digest import seed_for
from melano_tf.splits.folds import plain_folds
from melano_tf.training.loop import LoopSettings
from melano_tf.training.tensorflow_runtime import configure

parser = argparse.ArgumentParser(allow_abbrev=False)
parser.add_argument("--data", type=Path, required=True, help="musk1.data")
parser.add_argument("--out", type=Path, default=Path("runs/musk1"))
parser.add_argument("--models", default="mean_lr,bgas,gated,bgmp,bgap,instance_max,transformer,clam")
parser.add_argument("--repeats", type=int, default=5)
parser.add_argument("--folds", type=int, default=10)
parser.add_argument("--epochs", type=int, default=100)
parser.add_argument("--threads", type=int, default=1, help="bags are small: one thread is fastest")
given = parser.parse_known_args()[0]
configure(given.threads)


# %% [markdown]
# A row of the file is one instance: bag, instance, 166 features, class. A bag is positive where its instances are.


# %%
def read_bags(path: Path) -> ArrayBags:
    """The bags in the file's order."""
    names, labels, instances = [], {}, {}
    with path.open(newline="") as file:
        for row in csv.reader(file):
            names.append(row[0])
            instances.setdefault(row[0], []).append([float(cell) for cell in row[2:168]])
            labels[row[0]] = int(float(row[168].rstrip(".")))
    ids = list(dict.fromkeys(names))
    arrays = [np.array(instances[name], np.float32) for name in ids]
    return ArrayBags(ids, np.array([labels[name] for name in ids]), arrays)


def standardised(bags: ArrayBags, training: np.ndarray) -> ArrayBags:
    """Features by the training bags' mean and deviation."""
    seen = np.concatenate([bags.arrays[place] for place in training])
    mean, deviation = seen.mean(axis=0), seen.std(axis=0)
    deviation[deviation == 0] = 1
    return ArrayBags(bags.ids, bags.labels, [(array - mean) / deviation for array in bags.arrays])


def settings_of(kind: str) -> BagTrainingSettings:
    """The paper's training with one of our models in place of its pooling."""
    width = (256, 128, 64)
    model = BagModelSettings(kind, hidden=width, dropout=0.5, attention_units=64, landmarks=16, heads=4)
    return BagTrainingSettings(
        model=model, epochs=given.epochs, optimizer="sgd", learning_rate=5e-4, momentum=0.9, weight_decay=0.005
    )


# %%
def judge_fold(kind: str, bags: ArrayBags, repeat: int, fold: int, of: np.ndarray) -> np.ndarray:
    """Probabilities of the fold's bags, from its file or from a training."""
    path = given.out / kind / f"{repeat}-{fold}" / "probabilities.npy"
    if not path.exists():
        training, test = np.flatnonzero(of != fold), np.flatnonzero(of == fold)
        scaled = standardised(bags, training)
        if kind == "mean_lr":
            model = fit_baseline(bags, 2, training)
        else:
            seed = seed_for(0, "musk1", kind, str(repeat), str(fold))
            loop = LoopSettings(given.epochs, checkpoint_seconds=1e6, log_every=10**6)
            model, _ = train_bag_model(scaled, training, 2, settings_of(kind), path.parent, seed, loop=loop)
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, answers(model, bags if kind == "mean_lr" else scaled, test).probabilities[:, 1])
    return np.load(path)


bags = read_bags(given.data)
print(f"{len(bags.ids)} bags, {int(bags.labels.sum())} positive, {bags.sizes.sum()} instances, {bags.width} features")
print("| model | accuracy, mean ± SE of folds | deviation of repeats | AUC | min |\n|---|---|---|---|---|")
for kind in given.models.split(","):
    began, accuracies, aucs = time.monotonic(), np.zeros((given.repeats, given.folds)), []
    for repeat in range(given.repeats):
        of = plain_folds([str(label) for label in bags.labels], given.folds, seed=repeat)
        pooled = np.zeros(len(bags.ids))
        for fold in range(given.folds):
            probability = judge_fold(kind, bags, repeat, fold, of)
            accuracies[repeat, fold] = np.mean((probability >= 0.5) == (bags.labels[of == fold] == 1))
            pooled[of == fold] = probability
        aucs.append(roc_auc(bags.labels, pooled))
    error = accuracies.std(ddof=1) / np.sqrt(accuracies.size)
    repeats = accuracies.mean(axis=1).std(ddof=1) if given.repeats > 1 else 0.0
    print(
        f"| {kind} | {accuracies.mean():.3f} ± {error:.3f} | {repeats:.3f} | {np.mean(aucs):.3f} "
        f"| {(time.monotonic() - began) / 60:.1f} |",
        flush=True,
    )
