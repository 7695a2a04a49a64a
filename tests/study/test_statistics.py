"""Intervals that cover, verdicts that err no more often than they say, and numbers by hand."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as some
from scipy import stats
from tests.helpers import few

from surefoot.study import statistics as st
from surefoot.study.results import verdict_of

REPETITIONS = 2_000


def seeds_share_luck(random: np.random.Generator, seeds: int, difference: float):
    """Scores of two arms whose seeds share part of their luck, and whose spread differs."""
    luck = random.normal(0.0, 200.0, seeds)
    baseline = 2000.0 + luck + random.normal(0.0, 150.0, seeds)
    arm = 2000.0 + difference + luck + random.normal(0.0, 300.0, seeds)
    return arm, baseline


@pytest.mark.parametrize("seeds", [3, 5, 10])
def test_the_paired_interval_covers_the_true_difference(seeds: int) -> None:
    random, covered = np.random.default_rng(seeds), 0
    for _ in range(REPETITIONS):
        arm, baseline = seeds_share_luck(random, seeds, difference=150.0)
        found = st.paired_difference([arm - baseline])
        covered += found.low <= 150.0 <= found.high
    assert 0.93 <= covered / REPETITIONS <= 0.97


def test_the_interval_over_tasks_covers_though_their_spreads_differ() -> None:
    random, covered = np.random.default_rng(1), 0
    for _ in range(REPETITIONS):
        differences = [
            random.normal(mean, spread, 10) for mean, spread in ((1, 1), (3, 5), (-1, 2))
        ]
        found = st.paired_difference(differences)
        covered += found.low <= 1.0 <= found.high
    assert 0.93 <= covered / REPETITIONS <= 0.97


@pytest.mark.extended
@pytest.mark.parametrize("seeds", [3, 5, 10])
@pytest.mark.parametrize("interval", [st.mean_interval, st.iqm_interval])
def test_the_bootstrap_intervals_cover(interval, seeds: int, monkeypatch) -> None:
    monkeypatch.setattr(st, "_RESAMPLES", 400)  # 2,000 repetitions of 2,000 would take minutes
    random, covered = np.random.default_rng(seeds), 0
    for _ in range(REPETITIONS):
        found = interval([random.normal(10.0, 3.0, seeds)])
        covered += found.low <= 10.0 <= found.high
    assert 0.93 <= covered / REPETITIONS <= 0.97


@pytest.mark.parametrize("seeds", [2, 3, 5, 10])
def test_equal_arms_are_told_apart_no_more_often_than_the_level(seeds: int) -> None:
    random, better, worse = np.random.default_rng(seeds), 0, 0
    for _ in range(REPETITIONS):
        arm, baseline = seeds_share_luck(random, seeds, difference=0.0)
        verdict = verdict_of(st.paired_difference([arm - baseline]))
        better += verdict == "better"
        worse += verdict == "worse"
    # 2.5% each; 1.1% is three standard errors of 2,000 repetitions
    assert better / REPETITIONS < 0.025 + 0.011
    assert worse / REPETITIONS < 0.025 + 0.011


@pytest.mark.parametrize("seeds", few(2, [2, 3, 5, 6, 10]))
def test_equal_arms_of_all_or_nothing_are_told_apart_no_more_often(seeds: int) -> None:
    random, told = np.random.default_rng(seeds), 0
    for _ in range(REPETITIONS):
        arm, baseline = random.integers(0, 2, (2, seeds)).astype(float)
        told += verdict_of(st.paired_difference([arm - baseline])) != "no difference shown"
    assert told / REPETITIONS < 0.05 + 0.015


def test_a_few_differences_that_are_all_alike_have_no_bounds() -> None:
    few, enough = st.paired_difference([np.ones(5)]), st.paired_difference([np.ones(6)])
    assert math.isnan(few.low)
    assert verdict_of(few) == "no difference shown"
    assert enough == (1.0, 1.0, 1.0)


@given(
    some.lists(some.floats(-1e4, 1e4), min_size=2, max_size=8),
    some.sampled_from([0.0, 0.1, -0.3, 1.0, 1e3]),
    some.integers(0, 2**32 - 1),
)
def test_what_differs_by_rounding_alone_is_alike(
    scores: list[float], difference: float, seed: int
) -> None:
    """Scores, and the same moved by a number, each with the last bits of float32 and float64 changed."""
    random = np.random.default_rng(seed)
    baseline = np.array(scores)
    arm = baseline + difference
    largest = max(abs(arm).max(), abs(baseline).max())
    for x in (arm, baseline):
        x *= 1 + random.uniform(-1, 1, len(x)) * np.finfo(np.float32).eps
        x += random.uniform(-1, 1, len(x)) * largest * np.finfo(np.float64).eps
    found = st.paired_difference([st.differences(arm, baseline)])
    few = len(scores) < 6
    if abs(difference) <= 1e-7 * largest:
        assert verdict_of(found) == "no difference shown"
    elif abs(difference) > 1e-5 * largest:
        shown = "better" if difference > 0 else "worse"
        assert verdict_of(found) == ("no difference shown" if few else shown)
        assert st.seeds_to_show(st.differences(arm, baseline), 0.1 * abs(difference)) == 2
    if not difference:
        equal = np.full_like(arm, arm[0]), np.full_like(arm, arm[0] * (1 + 1e-7))
        assert st.probability_of_improvement([equal[0]], [equal[1]]) == (0.5, 0.5, 0.5)


def test_a_small_difference_that_is_no_rounding_counts() -> None:
    random = np.random.default_rng(0)
    baseline = random.uniform(900.0, 1100.0, 8)
    arm = baseline + random.uniform(0.02, 0.03, 8)  # 2e-5 of it, twenty times what rounding makes
    assert verdict_of(st.paired_difference([st.differences(arm, baseline)])) == "better"
    assert st.probability_of_improvement([arm[:1]], [baseline[:1]]).estimate == 1.0


def test_an_interval_ends_where_its_numbers_do() -> None:
    found = st.Interval(450.0, 44.0, 856.0)
    assert found.within(0.0, 500.0) == (450.0, 44.0, 500.0)
    assert found.within(100.0, math.inf) == (450.0, 100.0, 856.0)
    assert found.within(-math.inf, math.inf) == found
    assert found.within(0.0, 400.0) == (450.0, 44.0, 450.0)  # the bounds are wrong, not the scores
    alone = st.Interval(450.0, math.nan, math.nan).within(0.0, 500.0)
    assert math.isnan(alone.low)
    assert math.isnan(alone.high)


def test_an_arm_is_not_better_for_the_runs_that_did_not_fail() -> None:
    found = st.Interval(2.0, 1.0, 3.0)
    assert verdict_of(found, more_failed=True) == "better, but more runs failed"
    assert verdict_of(found) == "better"


def test_a_large_difference_is_shown() -> None:
    random = np.random.default_rng(0)
    arm, baseline = seeds_share_luck(random, 10, difference=1500.0)
    assert verdict_of(st.paired_difference([arm - baseline])) == "better"
    assert verdict_of(st.paired_difference([baseline - arm])) == "worse"


def test_the_paired_interval_is_students() -> None:
    differences = np.array([1.0, 2.0, 4.0, 9.0])
    found = st.paired_difference([differences])
    expected = stats.ttest_1samp(differences, 0.0).confidence_interval(0.95)
    np.testing.assert_allclose(found, (4.0, expected.low, expected.high), rtol=1e-9)


def test_identical_scores_differ_by_exactly_nothing() -> None:
    found = st.paired_difference([np.zeros(5)])
    assert found == (0.0, 0.0, 0.0)
    assert verdict_of(found) == "no difference shown"


def test_the_mean_interval_of_one_task_is_nearly_students() -> None:
    scores = np.random.default_rng(3).normal(100.0, 20.0, 10)
    found = st.mean_interval([scores])
    expected = stats.ttest_1samp(scores, 0.0).confidence_interval(0.95)
    np.testing.assert_allclose(found, (scores.mean(), *expected), rtol=0.02)


def test_the_interquartile_mean_by_hand() -> None:
    # of eight the two least and the two largest are cut off
    assert st.iqm_interval([np.array([0.0, 0, 1, 2, 3, 4, 90, 99])]).estimate == 2.5
    pooled = st.iqm_interval([np.array([0.0, 1, 2, 90]), np.array([0.0, 3, 4, 99])])
    assert pooled.estimate == 2.5


def test_resampling_is_within_tasks() -> None:
    # each task's scores are equal: however seeds are drawn, the mean over tasks stays
    found = st.mean_interval([np.full(5, 1.0), np.full(5, 3.0)])
    np.testing.assert_allclose(found, (2.0, 2.0, 2.0), atol=1e-12)


def test_probability_of_improvement_by_enumeration() -> None:
    arm, baseline = np.array([1.0, 4.0, 4.0]), np.array([2.0, 4.0, 0.0])
    wins = [1.0 if x > y else 0.5 if x == y else 0.0 for x, y in itertools.product(arm, baseline)]
    found = st.probability_of_improvement([arm], [baseline])
    np.testing.assert_allclose(found.estimate, np.mean(wins))
    u = stats.mannwhitneyu(arm, baseline).statistic / 9  # an independent implementation
    np.testing.assert_allclose(found.estimate, u)
    assert 0.0 <= found.low <= found.estimate <= found.high <= 1.0
    certain = st.probability_of_improvement([np.arange(5) + 9.0], [np.arange(5.0)])
    assert certain == (1.0, 1.0, 1.0)


def test_the_largest_gap_is_the_papers() -> None:
    # the published means of Walker2d: AAI 242, ACLI 557 (arXiv 2005.12729, table 3)
    ppo, ppo_m, trpo, plus = (np.full(4, x) for x in (3292.0, 2735.0, 2791.0, 3050.0))
    assert st.largest_gap([(ppo, plus), (ppo_m, trpo)]).estimate == 242.0
    assert st.largest_gap([(ppo, ppo_m), (plus, trpo)]).estimate == 557.0


def test_the_profile_by_hand() -> None:
    strata = [np.array([0.5, 1.5]), np.array([2.0, 2.0])]
    np.testing.assert_allclose(
        st.performance_profile(strata, np.array([0.0, 1.0, 1.5])), [1, 0.75, 0.5]
    )


def test_normalized_scores_keep_their_order_where_returns_are_negative() -> None:
    np.testing.assert_allclose(
        st.normalized(np.array([-50.0, -100.0, -200.0]), -100.0), [1.5, 1, 0]
    )
    np.testing.assert_allclose(st.normalized(np.array([200.0, 100.0]), 100.0), [2.0, 1.0])


@pytest.mark.parametrize(("spread", "effect"), [(1.0, 1.0), (1.0, 0.5), (3.0, 1.0)])
def test_the_seeds_needed_have_the_power_asked_for(spread: float, effect: float) -> None:
    needed = st.seeds_to_show(np.array([-spread, spread]) / math.sqrt(2), effect)
    random = np.random.default_rng(needed)

    def power(seeds: int) -> float:
        drawn = random.normal(effect, spread, (20_000, seeds))
        return float(np.mean(stats.ttest_1samp(drawn, 0.0, axis=1).pvalue < 0.05))

    assert power(needed) > 0.8 - 0.01
    assert power(needed - 1) < 0.8 + 0.01


def test_seeds_needed_of_the_extremes() -> None:
    assert st.seeds_to_show(np.full(5, 3.0), 1.0) == 2
    assert st.seeds_to_show(np.array([-1e9, 1e9]), 1e-3) == st.MOST_SEEDS


def test_one_seed_has_no_interval() -> None:
    for found in (st.mean_interval([np.ones(1)]), st.paired_difference([np.ones(1)])):
        assert found.estimate == 1.0
        assert math.isnan(found.low)


def test_a_curve_is_the_mean_over_seeds_with_its_interval() -> None:
    found = st.curve_intervals(np.array([[1.0, 10.0], [3.0, 10.0]]))
    # Student's quantile for one degree of freedom is 12.706, the standard error 1
    expected = [(2.0, 2.0 - 12.7062, 2.0 + 12.7062), (10.0, 10.0, 10.0)]
    np.testing.assert_allclose(found, expected, rtol=1e-4)
