"""What a study's scores show: intervals over seeds, paired differences, profiles, power.

A score is one seed's; several tasks are strata, a list of arrays [S_k]. Nothing here averages over
episodes, which are not independent within a seed.

Sources: Agarwal et al. 2021, arXiv 2108.13264 (stratified bootstrap, IQM, probability of improvement,
performance profiles); Patterson et al. 2024, arXiv 2304.01315 (paired seeds); Hesterberg 2015,
arXiv 1411.5279, section 4 (why a few seeds need Student's quantile and the factor n / (n - 1)).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

LEVEL = 0.95
POWER = 0.8
MOST_SEEDS = 10_000
_RESAMPLES = 2_000
_SIGNS = 6  # equal signs that a two-sided sign test at 5% believes: 2 / 2^6
_ROUNDING = 1e-6  # of a score, which is a mean of sums of float32 rewards: eight of their last bits

Strata = Sequence[np.ndarray]


class Interval(NamedTuple):
    """An estimate with the bounds of its 95% interval."""

    estimate: float
    low: float
    high: float

    def over(self, unit: float) -> Interval:
        """In units of `unit`, which is positive."""
        return Interval(*(x / unit for x in self))

    def within(self, low: float, high: float) -> Interval:
        """The part of it that can be true of what lies in [low, high]; the estimate stays inside."""
        return Interval(
            self.estimate,
            min(max(self.low, low), self.estimate),
            max(min(self.high, high), self.estimate),
        )


def mean_interval(strata: Strata) -> Interval:
    """Mean over seeds, then over tasks, with its stratified bootstrap interval."""

    def mean(*samples: np.ndarray, axis: int) -> Any:
        return np.mean([np.mean(x, axis=axis) for x in samples], axis=0)

    return _bootstrap(strata, mean, lacks=_fewest(strata))


def iqm_interval(strata: Strata) -> Interval:
    """Interquartile mean of all runs (a quarter cut off at each end), with its bootstrap interval."""

    def iqm(*samples: np.ndarray, axis: int) -> Any:
        return stats.trim_mean(np.concatenate(samples, axis=axis), 0.25, axis=axis)

    # resampling makes up for what a cut mean lacks: the ends that are cut come in again
    cut = sum(len(x) for x in strata) >= 4
    return _bootstrap(strata, iqm, lacks=None if cut else _fewest(strata))


def _fewest(strata: Strata) -> int:
    return min(len(x) for x in strata)


def _bootstrap(strata: Strata, statistic: Callable[..., Any], *, lacks: int | None) -> Interval:
    """Estimate +- Student's quantile times the bootstrap's standard error, for the fewest seeds.

    Seeds are resampled within each task. The percentiles of the bootstrap themselves are too narrow
    for a handful of seeds: they cannot leave the range of the scores. With `lacks` = n the standard
    error gets the factor n / (n - 1) (in its square) that resampling a mean leaves out.
    """
    samples, fewest = [np.asarray(x, float) for x in strata], _fewest(strata)
    estimate = float(statistic(*samples, axis=-1))
    if fewest < 2:
        return Interval(estimate, math.nan, math.nan)
    error = float(_resample(samples, statistic).standard_error)
    if lacks:
        error *= math.sqrt(lacks / (lacks - 1))
    reach = float(stats.t.ppf((1 + LEVEL) / 2, fewest - 1)) * error
    return Interval(estimate, estimate - reach, estimate + reach)


def _resample(samples: Strata, statistic: Callable[..., Any]) -> Any:
    return stats.bootstrap(
        tuple(samples),
        statistic,
        n_resamples=_RESAMPLES,
        confidence_level=LEVEL,
        method="percentile",
        rng=np.random.default_rng(0),
        vectorized=True,
    )


def differences(arm: np.ndarray, baseline: np.ndarray) -> np.ndarray:
    """The arm's scores minus the baseline's of the same seeds [S]; what only rounding makes is none.

    So pairs that differ by rounding alone are equal, and differences that are alike but for rounding
    are the very same.
    """
    found = _subtract(arm, baseline)
    alike = np.ptp(found) <= _rounding(arm, baseline)
    return np.full_like(found, found.mean()) if alike else found


def _subtract(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The difference x - y, and 0 where rounding alone may be what is left."""
    difference = x - y
    return np.where(np.abs(difference) <= _rounding(x, y), 0.0, difference)


def _rounding(x: np.ndarray, y: np.ndarray) -> float:
    """What may come of rounding in scores that are of one kind, so the largest of them tells."""
    return _ROUNDING * float(max(np.abs(x).max(), np.abs(y).max()))


def paired_difference(differences: Strata) -> Interval:
    """Mean difference of paired seeds, then over tasks, with Student's interval.

    Args:
        differences: for each task [S_k], by `differences` above.

    Returns:
        The mean over tasks of the tasks' means; degrees of freedom by Welch and Satterthwaite. No
        bounds (NaN) where fewer than six pairs all differ by the same.
    """
    samples = [np.asarray(x, float) for x in differences]
    estimate = float(np.mean([x.mean() for x in samples]))
    if min(len(x) for x in samples) < 2:
        return Interval(estimate, math.nan, math.nan)
    # variance of each task's part of the estimate, and its degrees of freedom
    parts = np.array([_variance(x) / len(x) for x in samples]) / len(samples) ** 2
    if parts.sum() == 0.0:
        # all alike: the signs alone speak, and five of the same sign still happen by chance
        certain = estimate == 0.0 or min(len(x) for x in samples) >= _SIGNS
        bound = estimate if certain else math.nan
        return Interval(estimate, bound, bound)
    freedom = parts.sum() ** 2 / np.sum(parts**2 / [len(x) - 1 for x in samples])
    low, high = stats.t.interval(LEVEL, freedom, loc=estimate, scale=math.sqrt(parts.sum()))
    return Interval(estimate, float(low), float(high))


def _variance(sample: np.ndarray) -> float:
    """Of equal numbers it is 0, where their rounded mean would give another."""
    return float(sample.var(ddof=1)) if np.ptp(sample) else 0.0


def probability_of_improvement(arm: Strata, baseline: Strata) -> Interval:
    """Probability that a run of the arm beats one of the baseline, ties half, mean over tasks.

        P = mean_k mean_ij ([x_ki > y_kj] + [x_ki = y_kj] / 2)

    Seeds are paired, so the bootstrap draws both arms' scores together. Percentile interval.
    """
    wins = [
        (np.sign(_subtract(np.asarray(x)[:, None], np.asarray(y)[None, :])) + 1.0) / 2.0
        for x, y in zip(arm, baseline, strict=True)
    ]

    def probability(*indices: np.ndarray, axis: int) -> Any:
        del axis  # the last one
        parts = [
            won[drawn[..., :, None], drawn[..., None, :]].mean(axis=(-2, -1))
            for won, drawn in zip(wins, indices, strict=True)
        ]
        return np.mean(parts, axis=0)

    return _over_seeds([len(won) for won in wins], probability)


def largest_gap(pairs: Sequence[tuple[np.ndarray, np.ndarray]]) -> Interval:
    """The larger of several arms' distances, max_i |mean x_i - mean y_i|, seeds paired throughout.

    The AAI and ACLI of arXiv 2005.12729. Percentile interval; a maximum of absolute values is above
    zero by noise alone, so compare it with its interval, not with zero.
    """

    def gap(drawn: np.ndarray, axis: int) -> Any:
        return np.max([abs(np.mean(x[drawn] - y[drawn], axis=axis)) for x, y in pairs], axis=0)

    return _over_seeds([len(pairs[0][0])], gap)


def _over_seeds(counts: Sequence[int], statistic: Callable[..., Any]) -> Interval:
    """Percentile interval of a statistic of drawn seeds, given as indices."""
    everyone = [np.arange(count) for count in counts]
    estimate = float(statistic(*everyone, axis=-1))
    if min(counts) < 2:
        return Interval(estimate, math.nan, math.nan)
    values = _resample(everyone, statistic).bootstrap_distribution
    low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(estimate, float(low), float(high))


def performance_profile(strata: Strata, thresholds: np.ndarray) -> np.ndarray:
    """Share of runs whose (normalized) score is above each threshold, mean over tasks, [H]."""
    return np.mean([np.mean(np.asarray(x)[:, None] > thresholds, axis=0) for x in strata], axis=0)


def normalized(scores: np.ndarray, baseline_mean: float) -> np.ndarray:
    """Scores in units of the baseline's mean, 1 where equal; also where returns are negative."""
    return 1.0 + (scores - baseline_mean) / abs(baseline_mean)


def seeds_to_show(differences: np.ndarray, effect: float) -> int:
    """Paired seeds needed to tell a mean difference of `effect` from none, in 80% of studies.

    Two-sided t-test at 5%, the standard deviation of the differences taken for the true one.

    Returns:
        At least 2; `MOST_SEEDS` if that is not enough.
    """
    spread = math.sqrt(_variance(differences))
    if spread == 0.0:
        return 2
    low, high = 2, MOST_SEEDS
    while low < high:  # the power grows with the number of seeds
        middle = (low + high) // 2
        if _power(middle, effect / spread) >= POWER:
            high = middle
        else:
            low = middle + 1
    return low


def _power(seeds: int, standardized: float) -> float:
    quantile = stats.t.ppf((1 + LEVEL) / 2, seeds - 1)
    shift = standardized * math.sqrt(seeds)
    upper, lower = (
        stats.nct.sf(quantile, seeds - 1, shift),
        stats.nct.cdf(-quantile, seeds - 1, shift),
    )
    return float(upper + (0.0 if math.isnan(lower) else lower))


def curve_intervals(curves: np.ndarray) -> list[Interval]:
    """Mean over seeds at each evaluation [S, E], with Student's 95% interval (no band for one seed)."""
    mean = curves.mean(axis=0)
    reach = np.zeros_like(mean)
    if len(curves) > 1:
        reach = stats.t.ppf((1 + LEVEL) / 2, len(curves) - 1) * stats.sem(curves, axis=0)
    return [Interval(*map(float, (m, m - r, m + r))) for m, r in zip(mean, reach, strict=True)]
