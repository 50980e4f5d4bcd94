"""Intervals of shares, of ROC AUCs and of means of them that stay open where a bootstrap by patient closes.

A perfect score is perfect in every resample, and few patients resampled undercover anyway. Here a patient's many alike
samples count by what they add (the design effect), and by nothing where that cannot be seen. `docs/coverage.md` says
how often the intervals hold the truth in simulations, and decided between them.

- A share (sensitivity, precision, F1, ...): Wilson's score interval with continuity correction (Newcombe 1998) on an
  effective number of patients, with Student's t for few of them (Korn & Graubard 1998; Dean & Pagano 2015).
- A ROC AUC: DeLong's variance with clusters (Obuchowski 1997) on the logit; and the score interval of Newcombe (2006,
  method 5), whose variance (Hanley & McNeil 1982) is not zero at AUC 1, times the design effect. The wider at each end.
  Where the error rests on few patients, no narrower than one sample a patient leaves it.
- A mean of such: from its parts' intervals (MOVER; Zou & Donner 2008), their correlation from the patients they share.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logit, ndtri, stdtrit

# With fewer patients whose samples are partly right, or on whom an AUC's error rests, a design effect is hearsay and
# each patient counts as one sample; `docs/coverage.md` holds what this reaches for shares and AUCs of many tiles.
LEAST_MIXED = 5
# Nearer to 0 or 1 no end is sought.
EDGE = 1e-9


@dataclass(frozen=True)
class Estimate:
    """A value with its interval, and what each group adds to the value's error.

    Attributes:
        value: NaN where undefined.
        low, high: ends of the interval, 0..1; NaN where the value is.
        influence: linearised deviation of each group, (groups,), summing to 0; its squares' sum is the variance.
    """

    value: float
    low: float
    high: float
    influence: NDArray[np.float64]


def wilson(value: float, n: float, level: float) -> tuple[float, float]:
    """Wilson's score interval with continuity correction: |value - p| - 1/(2n) <= z sqrt(p (1 - p)/n).

    Args:
        value: observed share, 0..1; it need not be a multiple of 1/n.
        n: (effective) number of trials, above 0.
        level: coverage.
    """
    z = float(ndtri((1 + level) / 2))

    def end(share: float, side: int) -> float:
        centre, spread = share + z * z / (2 * n), z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
        return (centre + side * spread) / (1 + z * z / n)

    shift = 1 / (2 * n)
    low = end(value - shift, -1) if value > shift else 0.0
    high = end(value + shift, 1) if value + shift < 1 else 1.0
    return low, high


def mean_share(hits: NDArray[np.float64], sizes: NDArray[np.float64], level: float) -> Estimate:
    """The mean over parts of the share hits/sizes, by group; one part is a plain share.

    With p_k = sum_g h_gk / M_k of K parts, group g adds e_g = mean_k (h_gk - p_k m_gk)/M_k, and the variance is
    G/(G - 1) sum_g e_g^2 (the ratio estimator's). Over that of independent samples it is the design effect. Where it
    is not estimable (nobody or everybody is right, one group), each group counts as one: 1/sum_g w_g^2 of them, with
    w_g = mean_k m_gk/M_k (Kish); no more than those, either, where fewer than `LEAST_MIXED` groups deviate.

    Args:
        hits: (K, G), 0 <= hits <= sizes.
        sizes: (K, G); parts without any size are left out of the mean.
        level: coverage.
    """
    kept = sizes.sum(axis=1) > 0
    hits, sizes = hits[kept], sizes[kept]
    if not len(hits):
        return Estimate(math.nan, math.nan, math.nan, np.zeros(hits.shape[1]))
    total, parts = sizes.sum(axis=1), len(hits)
    values = hits.sum(axis=1) / total
    value, weights = float(values.mean()), (sizes / total[:, None]).mean(axis=0)
    influence = ((hits - values[:, None] * sizes) / total[:, None]).mean(axis=0)
    groups, alone = int((weights > 0).sum()), float(1 / (weights**2).sum())
    variance, independent = float((influence**2).sum()), float((values * (1 - values) / total).sum() / parts**2)
    n = alone
    if variance > EDGE**2:  # and so there are two groups at least
        variance *= groups / (groups - 1)
        units = parts**2 / float((1 / total).sum())
        most = units / _times_judged(sizes)
        student = float(ndtri((1 + level) / 2) / stdtrit(groups - 1, (1 + level) / 2))
        n = min(units * independent / variance, most) * student**2
        if min((hits < sizes).any(axis=0).sum(), (hits > 0).any(axis=0).sum()) < LEAST_MIXED:
            n = min(n, alone)
    return Estimate(value, *wilson(value, n, level), influence)


def _times_judged(sizes: NDArray[np.float64]) -> float:
    """How many parts judge a sample's group, on average over the samples; 1 where parts share no groups.

    Parts that judge the same groups are no more samples than one of them. Sizes are (K, G), each part's sum above 0.
    """
    weights = (sizes / sizes.sum(axis=1, keepdims=True)).mean(axis=0)
    return float(weights @ (sizes > 0).sum(axis=0))


def mean_f1(tp: NDArray[np.float64], wrong: NDArray[np.float64], level: float) -> Estimate:
    """F1 = 2J/(1 + J) of the share J = TP/(TP + FP + FN), mean over parts as `mean_share`; tp and wrong (K, G)."""
    share = mean_share(tp, tp + wrong, level)

    def f1(x: float) -> float:
        return 2 * x / (1 + x)

    return Estimate(f1(share.value), f1(share.low), f1(share.high), share.influence * 2 / (1 + share.value) ** 2)


@dataclass(frozen=True)
class Area:
    """ROC AUC of one cohort with what its groups say of its variance.

    Attributes:
        value: NaN where a class is missing.
        variance: Obuchowski's (1997); NaN where a class has fewer than two groups.
        influence: what each group adds to the error, (groups,).
        held: positives and negatives of each group, (2, groups).
    """

    value: float
    variance: float
    influence: NDArray[np.float64]
    held: NDArray[np.float64]

    @property
    def samples(self) -> tuple[float, float]:
        """Positives and negatives."""
        positives, negatives = self.held.sum(axis=1).tolist()
        return positives, negatives

    @property
    def alone(self) -> tuple[float, float]:
        """Groups of each class, unequal ones counted as Kish does, 1/sum of squared shares; both classes are there."""
        positives, negatives = (self.held.sum(axis=1) ** 2 / (self.held**2).sum(axis=1)).tolist()
        return positives, negatives

    @property
    def groups(self) -> int:
        """Groups of the class that has fewer."""
        return int((self.held > 0).sum(axis=1).min())


def area(labels: NDArray[np.bool_], scores: NDArray[np.float64], index: NDArray[np.intp], groups: int) -> Area:
    """ROC AUC and its variance with clusters.

    With V10 of each positive the share of negatives below it (ties half) and V01 of each negative the share of
    positives above it, summed by group and less their means: S10 = I10/((I10 - 1) M) sum(V10_g - m_g A)^2, S01 alike,
    S11 = I/(I - 1) sum (V10_g - m_g A)(V01_g - n_g A); variance = S10/M + S01/N + 2 S11/(M N) (Obuchowski 1997).

    Args:
        labels: (n,).
        scores: (n,).
        index: group of each sample, (n,), 0-based.
        groups: number of groups.
    """
    positive, negative = scores[labels], scores[~labels]
    m, n = len(positive), len(negative)
    sizes = [np.bincount(index[side], minlength=groups).astype(np.float64) for side in (labels, ~labels)]
    if not m or not n:
        return Area(math.nan, math.nan, np.zeros(groups), np.stack(sizes))
    from scipy.stats import rankdata  # heavy, as scipy.optimize below: who only shows intervals does without

    # Ranks among all less ranks among one's own count the other class below, ties half (Sun & Xu 2014).
    ranks = rankdata(np.r_[positive, negative])
    v10 = (ranks[:m] - rankdata(positive)) / n
    v01 = 1 - (ranks[m:] - rankdata(negative)) / m
    value = float(v10.mean())
    sums = [np.bincount(index[side], v, groups) for side, v in ((labels, v10), (~labels, v01))]
    e10, e01 = ((total - held * value) / held.sum() for total, held in zip(sums, sizes, strict=True))
    counts = [int((held > 0).sum()) for held in sizes]
    both = int(((sizes[0] + sizes[1]) > 0).sum())
    variance = math.nan
    if min(counts) > 1:
        own = [count / (count - 1) * (e**2).sum() for count, e in zip(counts, (e10, e01), strict=True)]
        variance = max(0.0, float(sum(own) + 2 * both / (both - 1) * (e10 * e01).sum()))
    return Area(value, variance, e10 + e01, np.stack(sizes))


def hanley_mcneil(value: float, positives: float, negatives: float) -> float:
    """Variance of an AUC from independent samples, the classes' parts averaged as Newcombe (2006, method 5) does."""
    many = (positives + negatives) / 2 - 1
    alike = (1 - value) / (2 - value) + value / (1 + value)
    return value * (1 - value) / (positives * negatives) * (1 + many * alike)


def mean_area(areas: Sequence[Area], level: float) -> Estimate:
    """The mean ROC AUC over cohorts; one cohort is a plain AUC; undefined ones are left out.

    The score interval solves (A - a)^2 = c^2 d V(a), V of `hanley_mcneil`, d the design effect: the clusters' variance
    over V(A), at least 1. Where that is not estimable (A is 0 or 1, a class of one group), each group counts as one
    sample; no end is nearer than that leaves it, either, where the error rests on fewer than `LEAST_MIXED` groups in
    effect, (sum_g e_g^2)^2 / sum_g e_g^4 of their influences e_g. c is Student's t, of as many degrees of freedom as
    the class with fewer groups leaves.

    The variance of the sum over cohorts is sum_kl r_kl s_k s_l, r_kl the correlation of what the groups add to k and l:
    0 where these share none. Where each group is judged by t cohorts on average (of the class where it is by more), d
    is at least t, t cohorts' groups count as one's, and so do their degrees of freedom.

    Args:
        areas: at least one, all with the same numbering of groups, whether a cohort has them or not.
        level: coverage.
    """
    influence = np.zeros_like(areas[0].influence)
    areas = [one for one in areas if not math.isnan(one.value)]
    if not areas:
        return Estimate(math.nan, math.nan, math.nan, influence)
    influence = np.mean([one.influence for one in areas], axis=0)
    value = float(np.mean([one.value for one in areas]))
    spreads = np.sqrt([one.variance for one in areas])
    clustered = float(spreads @ _correlation(np.stack([one.influence for one in areas])) @ spreads)
    independent = sum(hanley_mcneil(one.value, *one.samples) for one in areas)
    times = max(_times_judged(np.stack([one.held[side] for one in areas])) for side in (0, 1))
    alone = [one.alone for one in areas]
    z = float(ndtri((1 + level) / 2)) * math.sqrt(times)
    if not clustered > EDGE**2:  # it may be NaN; where it is not, some cohort is not perfect
        return Estimate(value, *_score_ends(value, alone, z), influence)
    c = float(stdtrit(sum(one.groups - 1 for one in areas) / times, (1 + level) / 2))
    effect = max(times, clustered / independent)
    low, high = _score_ends(value, [one.samples for one in areas], c * math.sqrt(effect))
    reach = c * math.sqrt(clustered) / len(areas) / (value * (1 - value))
    low, high = min(low, float(expit(logit(value) - reach))), max(high, float(expit(logit(value) + reach)))
    if (influence**2).sum() ** 2 < LEAST_MIXED * (influence**4).sum():
        least = _score_ends(value, alone, z)
        low, high = min(low, least[0]), max(high, least[1])
    return Estimate(value, low, high, influence)


def _score_ends(value: float, samples: Sequence[tuple[float, float]], c: float) -> tuple[float, float]:
    """Where (value - a)^2 = c^2 V(a), V of the mean over cohorts of `samples` positives and negatives."""

    def outside(a: float) -> float:
        return (value - a) ** 2 - c * c * sum(hanley_mcneil(a, *one) for one in samples) / len(samples) ** 2

    from scipy.optimize import brentq

    # At 0 and 1 the variance vanishes: a value there is itself a root, and the other end is sought beside it.
    return float(brentq(outside, 0.0, min(value, 1 - EDGE))), float(brentq(outside, max(value, EDGE), 1.0))


def mover(parts: Sequence[Estimate]) -> Estimate:
    """The mean of estimates of the same groups, its interval from theirs (method of variance estimates recovery).

    low = mean - sqrt(sum_ij r_ij (x_i - low_i)(x_j - low_j))/K, high alike, with r_ij the correlation of what the
    groups add to i and j; 0 where one of them has nothing to correlate. Shares of different samples of one patient
    may then be taken for independent where one of them is perfect.

    Args:
        parts: at least one. NaN where one is.
    """
    values = np.array([one.value for one in parts])
    influences = np.stack([one.influence for one in parts])
    correlation = _correlation(influences)
    mean = float(values.mean())

    def reach(gaps: NDArray[np.float64]) -> float:
        return math.sqrt(max(0.0, float(gaps @ correlation @ gaps))) / len(parts)

    low = mean - reach(values - [one.low for one in parts])
    high = mean + reach(np.array([one.high for one in parts]) - values)
    if math.isnan(mean):
        low = high = math.nan
    return Estimate(mean, max(low, 0.0), min(high, 1.0), influences.mean(axis=0))


def _correlation(influences: NDArray[np.float64]) -> NDArray[np.float64]:
    """Correlation of what the groups add to each of K estimates, (K, K), of influences (K, groups); 0 of nothing."""
    lengths = np.sqrt((influences**2).sum(axis=1))
    scaled = influences / np.maximum(lengths, EDGE)[:, None]
    correlation = scaled @ scaled.T
    np.fill_diagonal(correlation, 1.0)
    return correlation
