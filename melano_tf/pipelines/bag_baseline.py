"""The baseline that every bag model must beat: the mean of a bag's instances, and a logistic regression on it."""

from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from melano_tf.models.bag_models import build_bag_model
from melano_tf.models.bag_settings import BagModelSettings
from melano_tf.pipelines.feature_bags import Bags
from melano_tf.training.fed_cases import Noted, unnoted

CHUNK = 4096  # instances read at a time


def bag_means(bags: Bags, places: np.ndarray | None = None, noted: Noted = unnoted) -> np.ndarray:
    """The mean feature vector of each bag, float64 (n, C), read in pieces, which go through `noted`."""
    chosen = np.arange(len(bags.ids)) if places is None else places
    means = np.zeros((len(chosen), bags.width))
    for piece in noted(_pieces(bags, chosen)):
        means[piece["row"]] += piece["x"].astype(np.float64).sum(axis=0)
    return means / np.asarray(bags.sizes)[chosen][:, None]


def _pieces(bags: Bags, places: np.ndarray) -> Iterator[dict[str, Any]]:
    """Bags in pieces, in the order given: dicts of "x" (n, C), "row" (the bag's among the places), and "id" (1,)."""
    for row, bag in enumerate(map(int, places)):
        size = int(bags.sizes[bag])
        for start in range(0, size, CHUNK):
            rows = np.arange(start, min(start + CHUNK, size))
            yield {"x": bags.read(bag, rows), "row": row, "id": np.array([bags.ids[bag]], dtype=object)}


def fit_baseline(
    bags: Bags,
    classes: int,
    places: np.ndarray | None = None,
    strength: float = 1.0,
    balanced: bool = False,
    noted: Noted = unnoted,
) -> keras.Model:
    """Fit the baseline; the answer is a bag model like all others (kind bgap without hidden layers), to save and serve.

    Means are brought to mean 0 and deviation 1 of the training bags; that is folded into the linear layer.

    Args:
        bags: the bags.
        classes: 2 or more; every one of them must be among the training bags.
        places: the training bags, None for all.
        strength: scikit-learn's C, the inverse of the L2 penalty.
        balanced: weight the classes by their inverse frequency.
        noted: what is read of the bags goes through it, for example `training.fed_cases.Fed.also`.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    means = bag_means(bags, places, noted)
    labels = np.asarray(bags.labels)[slice(None) if places is None else places]
    scaler = StandardScaler().fit(means)
    weighting = "balanced" if balanced else None
    fitted = LogisticRegression(C=strength, class_weight=weighting, max_iter=5000).fit(scaler.transform(means), labels)
    if len(fitted.classes_) != classes:
        raise ValueError(f"{len(fitted.classes_)} of {classes} classes are among the training bags")
    kernel = fitted.coef_ / scaler.scale_
    model = build_bag_model(bags.width, classes, BagModelSettings("bgap", hidden=()))
    model.get_layer("logits").set_weights([kernel.T, fitted.intercept_ - kernel @ scaler.mean_])
    return model
