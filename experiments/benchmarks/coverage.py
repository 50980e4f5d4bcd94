# %% [markdown]
# # Do the intervals hold the truth as often as they say?
#
# Patients are drawn with 1 to 4 slides each, alike within a patient (intra-class correlation ICC), from a population
# whose share, balanced accuracy, F1 or ROC AUC is known; each trial's interval is that of `melano_tf.evaluation`, and
# coverage is the share of trials whose interval holds the truth. Nominal 95 %; at least 93 % is asked for.
#
# Command: `python experiments/benchmarks/coverage.py` (one core, minutes; seeded). It writes `docs/coverage.md`, which
# holds all numbers; `--trials` makes it shorter, `--out` writes elsewhere.
# %%
import argparse
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logit
from scipy.stats import norm

from melano_tf.evaluation.bootstrap import group_draws, resampled_auc
from melano_tf.evaluation.wilson_delong import Estimate, area, mean_area, mean_f1, mean_share, mover, wilson

LEVEL, ASKED = 0.95, 0.93
TRUE, PATIENTS, ALIKE = (0.8, 0.95, 0.99), (12, 30, 100), (0.2, 0.5, 0.9)
Floats = NDArray[np.float64]
Ends = tuple[float, float]


# %% [markdown]
# ## Populations
#
# A share: each patient has a chance of his own, Beta(p (1 - ICC)/ICC, (1 - p)(1 - ICC)/ICC), so that two of his slides
# correlate by ICC. An AUC: scores are normal, of variance ICC between and 1 - ICC within patients, melanomas'
# sqrt(2) Phi^-1(AUC) higher; a patient has slides of one class only, three in ten patients those of melanoma. Two
# sections are of tiles, many a patient.
# %%
def slides(patients: int, most: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Slides of each patient, 1 to `most` (patients,)."""
    return rng.integers(1, most + 1, patients)


def hits_of(sizes: NDArray[np.int64], p: float, alike: float, rng: np.random.Generator) -> Floats:
    """How many of each patient's slides are right, (patients,)."""
    strength = (1 - alike) / alike
    return rng.binomial(sizes, rng.beta(p * strength, (1 - p) * strength, len(sizes))).astype(np.float64)


def scores_of(
    labels: NDArray[np.bool_], index: NDArray[np.intp], auc: float, alike: float, rng: np.random.Generator
) -> Floats:
    """Scores with a known ROC AUC, (n,)."""
    between, within = rng.normal(size=index.max() + 1)[index], rng.normal(size=len(index))
    shift = math.sqrt(2) * float(norm.ppf(auc))
    return np.asarray(shift * labels + math.sqrt(alike) * between + math.sqrt(1 - alike) * within)


# %% [markdown]
# ## Ends of a trial's intervals, by method
# %%
def percentile(sample: Floats) -> Ends:
    """The percentile bootstrap's ends, undefined resamples left out."""
    low, high = np.nanquantile(sample, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def ends(found: Estimate) -> Ends:
    """Ends of an interval in closed form."""
    return found.low, found.high


def share_trials(p: float, patients: int, alike: float, trials: int, seed: int) -> Iterator[dict[str, Ends]]:
    """Accuracy (or sensitivity, precision, ...)."""
    rng = np.random.default_rng(seed)
    draws = group_draws(list(range(patients)), 1000, seed)[1]
    for _ in range(trials):
        sizes = slides(patients, 4, rng)
        hits = hits_of(sizes, p, alike, rng)
        total = float(sizes.sum())
        resampled = (draws @ hits) / (draws @ sizes)
        ours = mean_share(hits[None], sizes[None].astype(np.float64), LEVEL)
        yield {
            "bootstrap": percentile(resampled),
            "Wilson, slides": wilson(ours.value, total, LEVEL),
            "ours": ends(ours),
        }


def auc_trials(auc: float, patients: int, alike: float, trials: int, seed: int) -> Iterator[dict[str, Ends]]:
    """ROC AUC."""
    rng = np.random.default_rng(seed)
    draws = group_draws(list(range(patients)), 400, seed)[1]
    for trial in range(trials):
        index = np.repeat(np.arange(patients), slides(patients, 4, rng))
        labels = index < round(0.3 * patients)
        scores = scores_of(labels, index, auc, alike, rng)
        one = area(labels, scores, index, patients)
        made = {"logit DeLong": logit_ends(one.value, one.variance), "ours": ends(mean_area([one], LEVEL))}
        # The bootstrap of ranks is slow, and for comparison only: of every tenth trial.
        if trial % 10 == 0:
            made["bootstrap"] = percentile(resampled_auc(labels, scores, index, draws))
        yield made


def logit_ends(value: float, variance: float) -> Ends:
    """Obuchowski's variance on the logit alone."""
    if not 0 < value < 1:
        return value, value
    reach = float(norm.ppf((1 + LEVEL) / 2)) * math.sqrt(variance) / (value * (1 - value))
    return float(expit(logit(value) - reach)), float(expit(logit(value) + reach))


def balanced_trials(p: float, patients: int, alike: float, trials: int, seed: int) -> Iterator[dict[str, Ends]]:
    """Balanced accuracy, sensitivity and specificity both p, three in ten patients positive."""
    rng = np.random.default_rng(seed)
    draws = group_draws(list(range(patients)), 1000, seed)[1]
    positive = (np.arange(patients) < round(0.3 * patients)).astype(np.float64)
    for _ in range(trials):
        sizes = slides(patients, 4, rng)
        hits = hits_of(sizes, p, alike, rng)
        shares = [(draws @ (hits * side), draws @ (sizes * side)) for side in (positive, 1 - positive)]
        resampled = np.mean([np.where(m > 0, h / np.maximum(m, 1), np.nan) for h, m in shares], axis=0)
        parts = [mean_share((hits * side)[None], (sizes * side)[None], LEVEL) for side in (positive, 1 - positive)]
        low, high = percentile(resampled)
        found = mover(parts)
        yield {"bootstrap": (low, high), "ours": (min(low, found.low), max(high, found.high))}


def f1_trials(p: float, patients: int, alike: float, trials: int, seed: int) -> Iterator[dict[str, Ends]]:
    """F1, precision and sensitivity both p: as many slides called wrongly (in other patients) as missed."""
    rng = np.random.default_rng(seed)
    draws = group_draws(list(range(patients)), 1000, seed)[1]
    positive = np.arange(patients) < round(0.5 * patients)
    for _ in range(trials):
        sizes = slides(patients, 4, rng)
        right = hits_of(sizes, p, alike, rng)
        # As many patients of each class, so a specificity of p gives a precision of p.
        tp, wrong = np.where(positive, right, 0), sizes - right
        hits, size = 2 * tp, 2 * tp + wrong
        low, high = percentile((draws @ hits) / np.maximum(draws @ size, 1))
        found = ends(mean_f1(tp[None], wrong[None], LEVEL))
        yield {"bootstrap": (low, high), "ours": (min(low, found[0]), max(high, found[1]))}


def tile_trials(p: float, patients: int, alike: float, trials: int, seed: int) -> Iterator[dict[str, Ends]]:
    """A share of tiles, 20 to 200 a patient."""
    rng = np.random.default_rng(seed)
    for _ in range(trials):
        sizes = rng.integers(20, 201, patients)
        hits = hits_of(sizes, p, alike, rng)
        yield {"ours": ends(mean_share(hits[None], sizes[None].astype(np.float64), LEVEL))}


def tile_auc_trials(auc: float, patients: int, alike: float, trials: int, seed: int) -> Iterator[dict[str, Ends]]:
    """ROC AUC of tiles, 20 to 100 a patient."""
    rng = np.random.default_rng(seed)
    for _ in range(trials):
        index = np.repeat(np.arange(patients), rng.integers(20, 101, patients))
        labels = index < round(0.3 * patients)
        one = area(labels, scores_of(labels, index, auc, alike, rng), index, patients)
        yield {"logit DeLong": logit_ends(one.value, one.variance), "ours": ends(mean_area([one], LEVEL))}


# %% [markdown]
# ## The table
# %%
Trials = Callable[[float, int, float, int, int], Iterator[dict[str, Ends]]]
SUBJECTS: dict[str, Trials] = {
    "Share (accuracy, sensitivity, specificity, precision, NPV, recall)": share_trials,
    "ROC AUC": auc_trials,
    "Balanced accuracy": balanced_trials,
    "F1": f1_trials,
    "Share of tiles, 20 to 200 a patient": tile_trials,
    "ROC AUC of tiles, 20 to 100 a patient": tile_auc_trials,
}


def covered(trials: Iterator[dict[str, Ends]], truth: float) -> dict[str, tuple[float, float, int]]:
    """{method: (coverage, mean width, intervals of no width)}."""
    found: dict[str, list[Ends]] = {}
    for one in trials:
        for method, made in one.items():
            found.setdefault(method, []).append(made)
    result = {}
    for method, made in found.items():
        low, high = np.array(made).T
        held = ((low <= truth + 1e-12) & (truth - 1e-12 <= high)).mean()
        result[method] = (float(held), float((high - low).mean()), int((high - low < 1e-12).sum()))
    return result


def section(name: str, make: Trials, trials: int) -> list[str]:
    """One subject's table, a line a truth, number of patients and ICC."""
    lines, below, cells = [], [], 0
    for truth in TRUE:
        for patients in PATIENTS:
            for alike in ALIKE:
                seed = [TRUE.index(truth), PATIENTS.index(patients), ALIKE.index(alike), list(SUBJECTS).index(name)]
                number = int(np.random.SeedSequence(seed).generate_state(1)[0])
                found = covered(make(truth, patients, alike, trials, number), truth)
                if not lines:
                    header = [f"{m}: {what}" for m in found for what in ("coverage", "width")]
                    lines = ["| true | patients | ICC | " + " | ".join(header) + " |"]
                    lines.append("|---:" * (3 + len(header)) + "|")
                own, cells = found["ours"], cells + 1
                assert own[2] == 0, f"{name}: {own[2]} intervals of no width"
                if own[0] < ASKED:
                    below.append(f"{truth} with {patients} patients at ICC {alike} ({own[0]:.3f})")
                texts = [
                    f"{held:.3f}{' **below**' if method == 'ours' and held < ASKED else ''} | {width:.3f}"
                    for method, (held, width, _) in found.items()
                ]
                lines.append(f"| {truth} | {patients} | {alike} | " + " | ".join(texts) + " |")
    told = f"Ours below {ASKED:.0%} in {len(below)} of {cells} cells" + (f": {'; '.join(below)}." if below else ".")
    return [f"## {name}", "", *lines, "", told, ""]


def document(trials: int) -> str:
    """The whole page."""
    head = [
        "Made by `python experiments/benchmarks/coverage.py"
        + ("" if trials == 2000 else f" --trials {trials}")
        + "`; the numbers are the script's, not edited by hand.",
        "",
        "# How often the intervals hold the truth",
        "",
        f"The share of {trials:,} simulated trials whose {LEVEL:.0%} interval holds the truth, and the intervals' mean",
        f"width; lines where ours stays below {ASKED:.0%} are marked **below**.",
        "",
        "Bootstraps of an AUC: a tenth of the trials. Standard error of a coverage near",
        f"{LEVEL}: {math.sqrt(LEVEL * (1 - LEVEL) / trials):.3f}. Patients have 1 to 4 slides each where no tiles are",
        "named; ICC is the correlation of a patient's slides or tiles. Bootstrap: percentiles of resampled patients.",
        "Wilson, slides: Wilson's with continuity correction as if slides were independent. Logit DeLong: with",
        "clusters (Obuchowski 1997), of no width at an AUC of 1.",
        "Ours: what the tables, `predict` and the records print (`melano_tf/evaluation/wilson_delong.py` says how).",
        "",
    ]
    return "\n".join([*head, *(line for name, make in SUBJECTS.items() for line in section(name, make, trials))])


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--trials", type=int, default=2000)
    parser.add_argument("--out", type=Path, default=Path(__file__).resolve().parents[2] / "docs" / "coverage.md")
    given = parser.parse_args()
    started = time.process_time()
    text = document(given.trials)
    given.out.write_text(text.rstrip() + "\n", encoding="utf-8")
    print(f"wrote {given.out} in {time.process_time() - started:.0f} s of one core")
