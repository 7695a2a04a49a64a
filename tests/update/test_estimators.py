"""Estimators by name on numbers small enough to do by hand, and the values that steps led to."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from surefoot.config import AdvantageOptions, Config
from surefoot.update.estimators import ESTIMATORS, Rows, next_values

OPTIONS = AdvantageOptions(gamma=0.5, gae_lambda=0.5)
VALUES = np.float32([[2], [4], [6]])
TO_GO = [4.0, 6.0, 8.0]  # 4 + 0.5 * 8, 2 + 0.5 * 8, 1 + 0.5 * 6, backwards

BY_HAND = {
    # deltas 1 + 2 - 2, 2 + 3 - 4, 4 + 4 - 6
    "td": ([1.0, 1.0, 2.0], [3.0, 5.0, 8.0]),
    # backwards 2, 1 + 0.25 * 2, 1 + 0.25 * 1.5
    "gae": ([1.375, 1.5, 2.0], [3.375, 5.5, 8.0]),
    "monte_carlo": ([2.0, 2.0, 2.0], TO_GO),
    "reward_to_go": (TO_GO, TO_GO),
    "trajectory_return": ([4.0, 4.0, 4.0], TO_GO),
}


def column(*numbers: float) -> jnp.ndarray:
    return jnp.float32(numbers)[:, None]


def rows(**changes: object) -> Rows:
    no = jnp.zeros((3, 1), bool)
    return Rows(
        rewards=column(1, 2, 4),
        values=jnp.asarray(VALUES),
        next_values=column(4, 6, 8),
        terminated=no,
        truncated=no,
        weights=jnp.ones((3, 1)),
        old_log_probs=jnp.zeros((3, 1)),
        log_probs=None,
    )._replace(**changes)


def test_every_estimator_of_the_options_has_its_numbers() -> None:
    assert set(ESTIMATORS) == set(BY_HAND)
    assert Config().advantage_estimator in ESTIMATORS


@pytest.mark.parametrize("name", BY_HAND)
def test_advantages_and_targets_by_hand(name: str) -> None:
    advantages, targets = ESTIMATORS[name](rows(), OPTIONS)
    expected, aims = BY_HAND[name]
    np.testing.assert_allclose(np.asarray(advantages)[:, 0], expected, rtol=1e-6)
    np.testing.assert_allclose(np.asarray(targets)[:, 0], aims, rtol=1e-6)


@pytest.mark.parametrize("name", BY_HAND)
def test_every_estimator_is_given_the_ends_and_the_weights(name: str) -> None:
    ends = rows(terminated=jnp.array([[False], [True], [False]]))
    # an episode that ends with the second row is worth 1 + 0.5 * 2, then 2; the third is one of its own
    to_go = [2.0, 2.0, 8.0]
    expected = {
        "td": [1.0, 2 - 4, 2.0],
        "gae": [1 + 0.25 * -2, -2.0, 2.0],
        "monte_carlo": [0.0, -2.0, 2.0],
        "reward_to_go": to_go,
        "trajectory_return": to_go,
    }[name]
    advantages, _ = ESTIMATORS[name](ends, OPTIONS)
    np.testing.assert_allclose(np.asarray(advantages)[:, 0], expected, rtol=1e-6)
    cut = rows(truncated=jnp.array([[False], [True], [False]]))
    expected = {
        "td": [1.0, 1.0, 2.0],
        "gae": [1.25, 1.0, 2.0],
        "monte_carlo": [1.5, 1.0, 2.0],
        "reward_to_go": [3.5, 5.0, 8.0],
        "trajectory_return": [3.5, 3.5, 8.0],
    }[name]
    advantages, _ = ESTIMATORS[name](cut, OPTIONS)
    np.testing.assert_allclose(np.asarray(advantages)[:, 0], expected, rtol=1e-6)
    spoilt = rows(weights=column(1, 0, 1), rewards=column(1, np.nan, 4))
    advantages, _ = ESTIMATORS[name](spoilt, OPTIONS)
    assert float(advantages[1, 0]) == 0.0
    assert np.isfinite(advantages).all()


@pytest.mark.parametrize("name", BY_HAND)
def test_the_discount_is_that_of_the_options(name: str) -> None:
    advantages, _ = ESTIMATORS[name](rows(), AdvantageOptions(gamma=0.0))
    plain = np.float32([1, 2, 4])
    expected = {
        "reward_to_go": plain,
        "trajectory_return": np.float32([1, 1, 1]),
    }.get(name, plain - VALUES[:, 0])
    np.testing.assert_allclose(np.asarray(advantages)[:, 0], expected, rtol=1e-6)


def test_gae_of_an_older_policys_rows_is_v_trace() -> None:
    # the present policy does half as often what was done, half as often, twice as often
    log_probs = jnp.log(column(0.5, 0.5, 2.0))
    advantages, targets = ESTIMATORS["gae"](rows(log_probs=log_probs), OPTIONS)
    # deltas 1, 1, 2 weigh 1/2, 1/2, 1 (cut at 1); what comes later 1/2 * 0.25
    expected = [0.5 + 0.125 * 0.75, 0.5 + 0.125 * 2, 2.0]
    np.testing.assert_allclose(np.asarray(advantages)[:, 0], expected, rtol=1e-6)
    np.testing.assert_allclose(targets, advantages + VALUES, rtol=1e-6)
    same, _ = ESTIMATORS["gae"](rows(log_probs=jnp.zeros((3, 1))), OPTIONS)
    np.testing.assert_allclose(np.asarray(same)[:, 0], BY_HAND["gae"][0], rtol=1e-6)


SEEN = jnp.float32([[1, 10], [2, 20], [3, 30], [4, 40]])
ENDED = jnp.array([[False, True], [True, False], [False, True]])
FINAL = jnp.float32([[100, 200], [300, 400], [500, 600]])


def test_a_step_leads_to_the_next_observation_where_a_rollout_holds_the_last_ones() -> None:
    np.testing.assert_array_equal(next_values(SEEN, ENDED, None, exact=True), SEEN[1:])


def test_an_episodes_end_leads_to_its_last_observation_where_that_is_handed_over() -> None:
    for exact in (True, False):
        led_to = next_values(SEEN, ENDED, FINAL, exact=exact)
        np.testing.assert_array_equal(led_to, [[2, 200], [300, 30], [4, 600]])


def test_an_episodes_end_whose_last_observation_is_lost_leads_to_the_one_before() -> None:
    led_to = next_values(SEEN, ENDED, None, exact=False)
    np.testing.assert_array_equal(led_to, [[2, 10], [2, 30], [4, 30]])
