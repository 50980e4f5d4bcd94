"""How far a case is from those that a model was trained on: a small description of them, kept beside the model.

Two things are described, each by the Mahalanobis distance with Ledoit and Wolf's shrinkage: what the network made of
its training cases (the directions of their embeddings), and how their pictures look (numbers of colour and contrast),
for a network may have unlearnt what tells a photograph from a drawing. A case's distance is the mean of both, each in
units of its own limit, and all of it such that 1 is what 99 % of cases stay below that took no part in the description.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from melano_tf.errors import InputError, line_of
from melano_tf.runs.atomic_files import atomic

LIMIT = 0.99  # share of cases outside the description that stay below 1
FOLDS = 5
LEAST = 4  # cases that a description can be made of
TINY = 1e-12
SUFFIX = ".familiar.npz"
ARRAYS = ("mean", "root", "look_mean", "look_root", "scales")
UNLIKE = "unlike anything in training"
UNTOLD = "how like its training an input is cannot be told: this model holds no description of its training"


@dataclass(frozen=True, eq=False)
class Familiarity:
    """What a model's training cases were.

    Attributes:
        mean: of their embeddings' directions, float64 (D,).
        root: by which what is left of a direction becomes independent numbers of deviation 1, float32 (D, D).
        look_mean, look_root: the same of their pictures' numbers, (L,) and (L, L); L is 0 for a model that sees none.
        scales: by which the two distances are divided before their mean is taken, float64 (2,).
        facts: `described` (n), `measured` (cases that the limits come from), `from` (which they are) and
            `weights_sha256` of the model.
    """

    mean: np.ndarray
    root: np.ndarray
    look_mean: np.ndarray
    look_root: np.ndarray
    scales: np.ndarray
    facts: Mapping[str, Any]

    def distance(self, embeddings: np.ndarray, looks: np.ndarray) -> np.ndarray:
        """Of embeddings (m, D) and their pictures' numbers (m, L), float64 (m,); past 1 is unlike the training."""
        return np.mean(_both(self, embeddings, looks) / self.scales, axis=1)

    def with_facts(self, facts: Mapping[str, Any]) -> "Familiarity":
        """The same with other facts."""
        return replace(self, facts=facts)

    def write(self, model: Path) -> Path:
        """Write it beside a model's file; returns its path."""
        path = familiar_path(model)
        with atomic(path) as temporary, temporary.open("wb") as file:
            arrays = {name: getattr(self, name) for name in ARRAYS}
            np.savez(file, facts=np.array(json.dumps(dict(self.facts), sort_keys=True)), **arrays)
        return path


def is_unlike(distance: float | None) -> bool:
    """Whether a case is unlike all of the training; False where that cannot be told."""
    return distance is not None and not distance <= 1.0


def distance_words(distance: float | None) -> str:
    """A distance from the training for a line; "" where it cannot be told."""
    if distance is None:
        return ""
    what = UNLIKE if is_unlike(distance) else "distance from the training"
    return f"{what} ({distance:.2f}; the limit is 1)"


def familiar_path(model: Path) -> Path:
    """Where the description of a model's training lies."""
    return Path(model).with_suffix(SUFFIX)


def read_familiarity(model: Path, weights_sha256: str | None) -> Familiarity | None:
    """The description beside a model's file; None where there is none, as of models of earlier versions.

    Args:
        model: the model's file.
        weights_sha256: of the model, as its sidecar says; None: it says nothing.

    Raises:
        InputError: the file is damaged, or of another model.
    """
    path = familiar_path(model)
    if not path.is_file():
        return None
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: np.asarray(file[name]) for name in ARRAYS}
            facts = json.loads(str(file["facts"]))
        found = Familiarity(**arrays, facts=facts)
        _check(found)
    except (OSError, ValueError, KeyError, TypeError, EOFError, NotImplementedError) as error:
        raise _damaged(path, line_of(error)) from None
    except Exception as error:  # what a reader of archives raises of damaged bytes is of any kind (zlib, zipfile)
        raise _damaged(path, line_of(error)) from None
    if weights_sha256 is not None and found.facts.get("weights_sha256") != weights_sha256:
        raise InputError(f"{path}: describes another model than {model.name}; copy both from one run")
    return found


def _damaged(path: Path, why: str) -> InputError:
    return InputError(f"{path}: cannot be read ({why}); take the run's file again, or remove it")


def _check(found: Familiarity) -> None:
    pairs = (found.mean, found.root), (found.look_mean, found.look_root)
    fits = all(mean.ndim == 1 and root.shape == mean.shape * 2 for mean, root in pairs) and len(found.mean) > 0
    if not fits or found.scales.shape != (2,):
        raise ValueError("shapes that do not fit")
    check_facts(found.facts)
    if not all(np.isfinite(getattr(found, name)).all() for name in ARRAYS) or not (found.scales > 0).all():
        raise ValueError("numbers that are none")


def check_facts(facts: Any) -> None:
    """What a description says of itself can be told (`Familiarity.facts`).

    Raises:
        ValueError: numbers or words are missing, or none.
    """
    told = facts if isinstance(facts, Mapping) else {}
    counted = all(type(told.get(name)) is int and told[name] >= 0 for name in ("described", "measured"))
    if not counted or not isinstance(told.get("from"), str):
        raise ValueError("it does not say of how many examples it is, and which")


def fit_familiarity(
    embeddings: np.ndarray,
    looks: np.ndarray,
    groups: Sequence[str],
    held_out: tuple[np.ndarray, np.ndarray] | None = None,
) -> Familiarity | None:
    """Describe training cases, and find the limit on cases outside the description.

    Args:
        embeddings: of the training cases, (n, D).
        looks: their pictures' numbers, (n, L).
        groups: of each case, what must not be divided: where nobody was held out, each group is measured by the
            description of the others, in five folds.
        held_out: embeddings and looks of cases that the training held out, (m, D) and (m, L).

    Returns:
        The description; None of fewer than four cases, or of one group and nobody held out.
    """
    if len(embeddings) < LEAST:
        return None
    whole = _describe(embeddings, looks)
    if held_out is not None and len(held_out[0]):
        measured, words = _both(whole, *held_out), "examples that the training held out"
    else:
        folds = _folds(groups)
        if folds.max() == 0:
            return None
        measured = np.zeros((len(embeddings), 2))
        for fold in range(folds.max() + 1):
            own = folds == fold
            measured[own] = _both(_describe(embeddings[~own], looks[~own]), embeddings[own], looks[own])
        words = "training examples, each measured by the others (nobody was held out),"
    each = np.maximum(_quantile(measured), TINY)
    both = float(_quantile(np.mean(measured / each, axis=1)[:, None])[0])
    facts = {"described": len(embeddings), "measured": len(measured), "from": words}
    return replace(whole, scales=each * max(both, TINY), facts=facts)


def _quantile(values: np.ndarray) -> np.ndarray:
    """The limit of each column; of few cases the largest."""
    return np.quantile(values, LIMIT, axis=0, method="higher")


def _folds(groups: Sequence[str]) -> np.ndarray:
    """A fold for each case, whole groups, int (n,)."""
    names, place = np.unique(np.asarray(groups, dtype=str), return_inverse=True)
    of_group = np.random.default_rng(0).permutation(len(names)) % FOLDS
    # Without gaps: fewer groups than folds are as many folds.
    return np.asarray(of_group[place], np.int64)


def _describe(embeddings: np.ndarray, looks: np.ndarray) -> Familiarity:
    mean, root = spread(unit(embeddings), np.ones(embeddings.shape[1]))
    looks = np.asarray(looks, np.float64)
    # Numbers of a picture have different units; directions have one.
    look_mean, look_root = spread(looks, np.maximum(looks.std(axis=0), 1e-6))
    return Familiarity(mean, root.astype(np.float32), look_mean, look_root, np.ones(2), {})


def _both(known: Familiarity, embeddings: np.ndarray, looks: np.ndarray) -> np.ndarray:
    """The two distances, each in its own unit, float64 (m, 2)."""
    parts = [(unit(embeddings) - known.mean) @ known.root, (looks - known.look_mean) @ known.look_root]
    return np.stack([np.linalg.norm(part, axis=1) for part in parts], axis=1)


def unit(values: np.ndarray) -> np.ndarray:
    """Rows of length 1, float64; a row of zeros stays."""
    values = np.asarray(values, np.float64)
    return values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), TINY)


def spread(values: np.ndarray, units: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean (L,) and the root (L, L) that makes |(x - mean) root| the Mahalanobis distance of rows (n, L).

    Args:
        values: the rows.
        units: by which each column is divided before the covariance is shrunk, (L,).
    """
    mean = values.mean(axis=0)
    spreads, directions = np.linalg.eigh(shrunk_covariance((values - mean) / units))
    return mean, directions / np.sqrt(np.maximum(spreads, TINY)) / units[:, None]


def shrunk_covariance(centred: np.ndarray) -> np.ndarray:
    """The covariance (L, L) of centred rows (n, L), shrunk towards a multiple of the identity as far as Ledoit and Wolf
    (A well-conditioned estimator for large-dimensional covariance matrices, 2004) find best."""
    rows, width = centred.shape
    if not width:
        return np.zeros((0, 0))
    covariance = centred.T @ centred / rows
    middle = np.trace(covariance) / width
    squares = centred**2
    beta = ((squares.T @ squares).sum() / rows - (covariance**2).sum()) / (width * rows)
    delta = (covariance**2).sum() / width - middle**2
    share = 0.0 if beta <= 0 or delta <= 0 else min(beta, delta) / delta
    return (1.0 - share) * covariance + share * middle * np.eye(width)
