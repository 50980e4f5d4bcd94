# %% [markdown]
# # Digit bags: how many training bags does a bag model need, and does its attention find the instances?
#
# After the MNIST-bags of Ilse, Tomczak, Welling, ICML 2018: a bag is positive if it holds a 9; bag sizes are normal,
# mean 10, deviation 2. Here the images are scikit-learn's 1,797 digits of 8x8 (64 numbers, 0..1), so that the
# numbers are not the paper's. Half of the images (drawn by class) make the training bags, the other half 400 test bags;
# half of the bags are positive. One hidden layer of 64, attention L = 64, no dropout, Adam 1e-3, weight decay 1e-4, 50
# epochs, batches of 5 bags; settings were fixed before the first run.
#
# "AUC" is that of the test bags. "attention" is the AUC of the attention against the true instances (is it a 9?)
# within each positive test bag, mean over those bags (the mean's attention is uniform: 0.5 by definition).
#
# What was measured stands in docs/bags.md.
#
# `python experiments/bags_digits.py --out runs/digits --seeds 1`

# %%
import argparse
import os
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
from sklearn.datasets import load_digits

from melano_tf.evaluation.binary_metrics import roc_auc
from melano_tf.models.bag_settings import BagModelSettings
from melano_tf.pipelines.bag_baseline import fit_baseline
from melano_tf.pipelines.bag_fitting import BagTrainingSettings
from melano_tf.pipelines.bag_training import train_bag_model
from melano_tf.pipelines.feature_bags import ArrayBags, answers
from melano_tf.training.loop import LoopSettings
from melano_tf.training.tensorflow_runtime import configure

parser = argparse.ArgumentParser(allow_abbrev=False)
parser.add_argument("--out", type=Path, default=Path("runs/digits"))
parser.add_argument("--models", default="mean_lr,bgmp,bgap,bgas,gated,instance_max")
parser.add_argument("--bags", default="50,100,150,200,300")
parser.add_argument("--test-bags", type=int, default=400)
parser.add_argument("--seeds", type=int, default=1)
parser.add_argument("--epochs", type=int, default=50)
parser.add_argument("--threads", type=int, default=1)
given = parser.parse_known_args()[0]
configure(given.threads)
TARGET = 9


# %%
def bags_of(images: np.ndarray, digits: np.ndarray, count: int, rng: np.random.Generator) -> tuple[ArrayBags, list]:
    """Bags, every second one positive, and of each instance whether it is a 9."""
    arrays, truths, labels = [], [], np.arange(count) % 2
    others, nines = np.flatnonzero(digits != TARGET), np.flatnonzero(digits == TARGET)
    for label in labels:
        size = max(2, round(rng.normal(10, 2)))
        places = rng.choice(len(digits) if label else others, size)
        if label and not (digits[places] == TARGET).any():
            places[rng.integers(size)] = rng.choice(nines)
        arrays.append(images[places])
        truths.append(digits[places] == TARGET)
    return ArrayBags([f"bag{i}" for i in range(count)], labels, arrays), truths


def data(seed: int) -> tuple[ArrayBags, ArrayBags, list]:
    """300 training bags, test bags and their truth; no image is on both sides."""
    digits = load_digits()
    images, classes = (digits.data / 16).astype(np.float32), digits.target
    rng = np.random.default_rng(seed)
    side = np.zeros(len(classes), bool)
    for digit in range(10):
        members = rng.permutation(np.flatnonzero(classes == digit))
        side[members[: len(members) // 2]] = True
    most = max(map(int, given.bags.split(",")))
    training, _ = bags_of(images[side], classes[side], most, rng)
    return training, *bags_of(images[~side], classes[~side], given.test_bags, rng)


def attention_auc(attention: list, truths: list) -> float:
    """Mean over bags that hold both kinds of instances."""
    pairs = zip(attention, truths, strict=True)
    return float(np.mean([roc_auc(truth, weights) for weights, truth in pairs if 0 < truth.sum() < len(truth)]))


# %%
def judge(kind: str, count: int, seed: int) -> tuple[float, float]:
    """AUC of the test bags, and of the attention within the positive ones."""
    training, test, truths = data(seed)
    places = np.arange(count)
    if kind == "mean_lr":
        model = fit_baseline(training, 2, places)
    else:
        network = BagModelSettings(kind, hidden=(64,), dropout=0.0, attention_units=64)
        fit = {"batch": 5, "learning_rate": 1e-3, "weight_decay": 1e-4}
        settings = BagTrainingSettings(model=network, epochs=given.epochs, **fit)
        loop = LoopSettings(given.epochs, checkpoint_seconds=1e6, log_every=10**6)
        model, _ = train_bag_model(training, places, 2, settings, given.out / f"{kind}-{count}-{seed}", seed, loop=loop)
    found = answers(model, test)
    return roc_auc(test.labels, found.probabilities[:, 1]), attention_auc(list(found.attention), truths)


def cell(values: np.ndarray) -> str:
    """One value, or of several seeds the mean, the lowest and the highest."""
    return f"{values.mean():.3f}" + (f" ({values.min():.3f} to {values.max():.3f})" if len(values) > 1 else "")


counts = [int(count) for count in given.bags.split(",")]
print("| model | " + " | ".join(f"{count} bags: AUC | attention" for count in counts) + " |")
print("|---" * (1 + 2 * len(counts)) + "|")
for kind in given.models.split(","):
    cells = []
    for count in counts:
        pairs = np.array([judge(kind, count, seed) for seed in range(given.seeds)])
        cells += [cell(values) for values in pairs.T]
    print(f"| {kind} | " + " | ".join(cells) + " |", flush=True)
