# %% [markdown]
# # The maximum over instances, naively: does it fail on digit bags by its starts, or by our arithmetic?
#
# `experiments/bags_digits.py` trains instance_max (mi-Net) from one start, and fails. Here the same data, network and
# settings (300 bags, one hidden layer of 64, Adam 1e-3, weight decay 1e-4, 50 epochs, batches of 5 bags) in plain
# NumPy, bag by bag, from several starts. What was measured stands in docs/bags.md.
#
# `python experiments/bags_naive_max.py --seeds 10`

# %%
import argparse

import numpy as np
from sklearn.datasets import load_digits
from sklearn.metrics import roc_auc_score

parser = argparse.ArgumentParser(allow_abbrev=False)
parser.add_argument("--seeds", type=int, default=10)
parser.add_argument("--epochs", type=int, default=50)
given = parser.parse_known_args()[0]
TARGET, BATCH, RATE, DECAY, HIDDEN = 9, 5, 1e-3, 1e-4, 64


# %%
def bags_of(images, digits, count, rng):
    """Bags as in bags_digits.py, every second one positive, and their labels."""
    arrays, labels = [], np.arange(count) % 2
    others, nines = np.flatnonzero(digits != TARGET), np.flatnonzero(digits == TARGET)
    for label in labels:
        size = max(2, round(rng.normal(10, 2)))
        places = rng.choice(len(digits) if label else others, size)
        if label and not (digits[places] == TARGET).any():
            places[rng.integers(size)] = rng.choice(nines)
        arrays.append(images[places])
    return arrays, labels


digits = load_digits()
images, classes = (digits.data / 16).astype(np.float32), digits.target
rng = np.random.default_rng(0)
side = np.zeros(len(classes), bool)
for digit in range(10):
    members = rng.permutation(np.flatnonzero(classes == digit))
    side[members[: len(members) // 2]] = True
training = bags_of(images[side], classes[side], 300, rng)
test = bags_of(images[~side], classes[~side], 400, rng)


# %%
def scores(bags, weights):
    """The largest of the instances' logits, of each bag."""
    kernel, bias, last, offset = weights
    return [float((np.maximum(x @ kernel + bias, 0) @ last + offset).max()) for x in bags]


def gradients(weights, bags, labels):
    """Gradients of the mean cross-entropy: each bag's goes through its best instance alone."""
    kernel, bias, last, offset = weights
    found = [DECAY * weight for weight in weights]
    for x, label in zip(bags, labels, strict=True):
        hidden = np.maximum(x @ kernel + bias, 0)
        logits = (hidden @ last + offset)[:, 0]
        best = int(logits.argmax())
        error = (1 / (1 + np.exp(-logits[best])) - label) / len(bags)
        inside = error * last[:, 0] * (hidden[best] > 0)
        for place, part in enumerate((np.outer(x[best], inside), inside, error * hidden[best][:, None], error)):
            found[place] = found[place] + part
    return found


def trained(seed):
    """Weights after all epochs of Adam, from Glorot's uniform start."""
    rng = np.random.default_rng(seed)
    start = [rng.uniform(-1, 1, shape) * np.sqrt(6 / sum(shape)) for shape in ((64, HIDDEN), (HIDDEN, 1))]
    weights = [start[0], np.zeros(HIDDEN), start[1], np.zeros(1)]
    first, second, step = [0.0] * 4, [0.0] * 4, 0
    for _ in range(given.epochs):
        order = rng.permutation(len(training[1]))
        for part in np.split(order, range(BATCH, len(order), BATCH)):
            step += 1
            found = gradients(weights, [training[0][place] for place in part], training[1][part])
            for place, gradient in enumerate(found):
                first[place] = 0.9 * first[place] + 0.1 * gradient
                second[place] = 0.999 * second[place] + 0.001 * gradient**2
                rate = RATE * np.sqrt(1 - 0.999**step) / (1 - 0.9**step)
                weights[place] = weights[place] - rate * first[place] / (np.sqrt(second[place]) + 1e-7)
    return weights


print("| start | training AUC | test AUC |\n|---|---|---|")
for seed in range(given.seeds):
    weights = trained(seed)
    areas = [roc_auc_score(labels, scores(bags, weights)) for bags, labels in (training, test)]
    print(f"| {seed} | {areas[0]:.3f} | {areas[1]:.3f} |", flush=True)
